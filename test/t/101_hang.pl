# Redis hangs (SIGSTOP): a commit waits for slate_cache.timeout and no longer,
# whatever signals it gets; those that follow do not wait one by one; and none
# of them fails, not even with a shorter statement_timeout.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $timeout = 400;
my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => $timeout, 'slate_cache.connect_timeout' => $timeout });
SlateNode::create_items($node, 3);
my $session = SlateSession->new($node);
my $other = SlateSession->new($node);

# Both are connected: an update that changes nothing would not do.
$_->query("UPDATE item SET name = name || '.' WHERE id = 1") foreach $other, $session;

# What a busy machine may add to any wait.
my $slack = 5;

$redis->pause;
$node->safe_psql('postgres', 'SELECT slate_cache_stats_reset()');
$session->query("UPDATE item SET name = 'hang' WHERE id = 1");
is($session->error, '', 'Redis hangs: a commit succeeds');
cmp_ok($session->seconds, '>=', $timeout / 1000 * 0.9, 'after waiting for the timeout');
cmp_ok($session->seconds, '<', $timeout / 1000 + $slack, 'and no longer');

my $commits = 40;
my $started = time;
my $errors = '';
foreach my $i (1 .. $commits)
{
    my $writer = $i % 2 ? $session : $other;
    $writer->query("UPDATE item SET name = 'hang $i' WHERE id = 1");
    $errors .= $writer->error;
}
is($errors, '', 'so do those that follow');
cmp_ok(time - $started, '<', $commits * $timeout / 1000 / 4, 'without waiting one by one');
is(SlateNode::counter($node, 'pushes_lost'), $commits + 1, 'all are counted as lost');
is($session->query("SELECT slate_cache_get('shop:item:1')->>'name'"), "hang $commits",
    'get loads from the table');

# The turn to probe is one session's, and costs one timeout.
$redis->resume;
SlateRedis::wait_until(
    sub {
        $session->query("UPDATE item SET name = name || '.' WHERE id = 1");
        return $redis->field('shop:item:1', 'name') =~ /\.$/;
    },
    'a change arrives again');
is( $redis->field('shop:item:1', 'name'),
    $node->safe_psql('postgres', 'SELECT name FROM item WHERE id = 1'),
    'Redis runs on: changes arrive, the latest wins');

# An open connection, and signals during the push.  The first deadline counts.
$redis->pause;
$session->send("UPDATE item SET name = 'signals' WHERE id = 1");
my $pelter = fork() // die "fork: $!";
if ($pelter == 0)
{
    my $end = time + 30;
    while (time < $end) { kill 'USR1', $session->pid; sleep 0.02; }
    POSIX::_exit(0);
}
$session->finish;
is($session->error, '', 'signals all the time: a commit succeeds');
cmp_ok($session->seconds, '<', $timeout / 1000 + $slack, 'after the timeout');
kill 'KILL', $pelter;
waitpid $pelter, 0;

# Another database is another server to the breaker, and needs a connection: so
# this one waits before the commit.
$session->query("SET slate_cache.url = '" . $redis->url(db => 1) . "'");
$session->query("SET statement_timeout = " . $timeout / 4);
$session->query("UPDATE item SET name = 'statement_timeout' WHERE id = 1");
is($session->error, '', 'a statement_timeout below slate_cache.timeout: a commit succeeds');
is($node->safe_psql('postgres', 'SELECT name FROM item WHERE id = 1'), 'statement_timeout',
    'and is there');
$redis->resume;

SlateNode::unharmed($node);
done_testing();
