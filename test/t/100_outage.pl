# Redis is away: commits succeed and are in the journal, reads come from the
# tables, the log says so once in a while; Redis is back: the journal empties,
# and the same session's changes arrive again.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(time);

# Large, so that waiting for it would be seen.
my $timeout = 5000;
my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => $timeout, 'slate_cache.connect_timeout' => $timeout });
SlateNode::create_items($node, 3);
$node->safe_psql('postgres', 'SELECT slate_cache_stats_reset()');
my $session = SlateSession->new($node);
my $other = SlateSession->new($node);

$session->query("UPDATE item SET name = 'before' WHERE id = 1");
is($redis->field('shop:item:1', 'name'), 'before', 'Redis is there: written through');

$redis->stop;
my $log = SlateNode::log_size($node);
my $commits = 40;
my $started = time;
my $errors = '';
foreach my $i (1 .. $commits)
{
    my $writer = $i % 2 ? $session : $other;
    $writer->query("UPDATE item SET name = 'away $i' WHERE id = 1");
    $errors .= $writer->error;
}
my $seconds = time - $started;
is($errors, '', 'Redis is away: commits succeed, without a word to the client');
is($node->safe_psql('postgres', 'SELECT name FROM item WHERE id = 1'), "away $commits",
    'and are there');
cmp_ok($seconds, '<', $commits * $timeout / 1000 / 8, 'and do not wait for the timeout');
is(SlateNode::counter($node, 'pushes_delayed'), $commits, 'each is counted as delayed');
is(SlateNode::counter($node, 'keys_delayed'), $commits, 'with its keys');
is(SlateNode::counter($node, 'pushes_lost'), '0', 'and none as lost');
is( $node->safe_psql('postgres', "SELECT count(*), count(DISTINCT xid), min(state), min(keys), max(keys) FROM slate_cache.journal"),
    "$commits|$commits|failed|{shop:item:1}|{shop:item:1}", 'the journal has them all');

# A message at most every 30 seconds, whoever notices.
my @lines = SlateNode::messages($node, qr/could not deliver cache changes/, $log);
cmp_ok(scalar @lines, '>=', 1, 'the log says so');
cmp_ok(scalar @lines, '<=', 1 + $seconds / 30, 'once in a while, not for each commit');
like($lines[0], qr/LOG:  could not deliver cache changes to Redis yet: unix:\S+ db 0: .*could not connect/,
    'with server and reason');

# Readers.
is($session->query("SELECT slate_cache_get('shop:item:1')->>'name'"), "away $commits",
    'get loads from the table');
is($session->error, '', 'without an error');
is( $session->query(q{SELECT string_agg(coalesce(value->>'name', '-'), ',')
        FROM slate_cache_mget(ARRAY['shop:item:2', 'shop:item:99', 'shop:item:3'])}),
    'old,-,old', 'so does mget');
is($session->query("SELECT slate_cache_peek('shop:item:1') IS NULL"), 't', 'peek has nothing');
is($session->query("SELECT slate_cache_fetch('shop:count', 'SELECT count(*) FROM item')"),
    '3', 'fetch runs its query');
is($session->query("SELECT slate_cache_get('shop:free') IS NULL"), 't', 'a free key has no value');
is($session->error, '', 'none of them fails');
is($session->query("SELECT ok FROM slate_cache.health WHERE \"check\" = 'redis'"), 'f',
    'the view health says that Redis is away');
is($session->query("SELECT ok FROM slate_cache.health WHERE \"check\" = 'breaker'"), 'f',
    'and that the breaker is open');

# Writers by hand, and a change so large that it sweeps.
$session->query(q{SELECT slate_cache_set('shop:free', '1'), slate_cache_del('a'), slate_cache_invalidate('b*')});
is($session->error, '', 'set, del and invalidate do not fail either');
$session->query('TRUNCATE item');
is($session->error, '', 'nor does TRUNCATE');
$session->query(q{INSERT INTO item SELECT i, 'old' FROM generate_series(1, 3) i});

# Back again.
cmp_ok(SlateNode::counter($node, 'pushes_delayed'), '>=', $commits + 3, 'all these are delayed, too');
$redis->start;
SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
pass('Redis is back: the journal empties');
my $tries = 0;
SlateRedis::wait_until(
    sub {
        $session->query("UPDATE item SET name = 'back " . ++$tries . "' WHERE id = 2");
        return $redis->field('shop:item:2', 'name') eq "back $tries";
    },
    'a change arrives again');
pass('Redis is back: the same session delivers');
my $delayed = SlateNode::counter($node, 'pushes_delayed');
foreach my $writer ($session, $other)
{
    $writer->query("UPDATE item SET name = 'by " . $writer->pid . "' WHERE id = 3");
    is($redis->field('shop:item:3', 'name'), 'by ' . $writer->pid, 'and so does each, at once');
}
is(SlateNode::counter($node, 'pushes_delayed'), $delayed, 'without a delay');
is(SlateNode::counter($node, 'pushes_lost'), '0', 'nothing was lost');
$session->query("SELECT slate_cache_get('shop:item:1')");
is($redis->field('shop:item:1', 'name'), 'old', 'a miss is filled again');
is($session->query("SELECT bool_and(ok) FROM slate_cache.health WHERE \"check\" IN ('redis', 'breaker', 'journal', 'history')"),
    't', 'the view health sees it');

SlateNode::unharmed($node);
done_testing();
