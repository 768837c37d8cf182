# Mode async: a commit waits for nothing, the worker tells Redis what it has left
# in the ring; what does not fit, or does not arrive, is dropped later.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateCheck;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(time);

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => {
    'slate_cache.mode' => 'async', 'slate_cache.timeout' => '30s', 'slate_cache.ring_size' => '64kB',
    wal_writer_delay => '10s' });
$node->safe_psql('postgres', q{
    CREATE TABLE item (id int PRIMARY KEY, owner int, name text);
    INSERT INTO item SELECT i, i % 10, 'old' FROM generate_series(1, 2000) i;
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'], list_keys => ARRAY['shop:items:{owner}']);
    CREATE TABLE hot (id int PRIMARY KEY, name text);
    INSERT INTO hot VALUES (1, 'old');
    SELECT slate_cache_attach('hot', row_keys => ARRAY['shop:hot:{id}'])});
my $session = SlateSession->new($node);

sub stat_of { return $node->safe_psql('postgres', "SELECT $_[0] FROM slate_cache.stats"); }
sub name_of { return $redis->field("shop:item:$_[0]", 'name'); }
sub wrong
{
    my %found = SlateCheck::compare($node, $redis, 'item', 'shop:item:{id}');
    return $found{wrong} ? "$found{wrong} wrong: $found{examples}" : '';
}

# The first commit, too: it makes the ring.
SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('worker', 'history')});
is($node->safe_psql('postgres', 'SELECT ring_size FROM slate_cache.progress'), '', 'there is no ring');
$redis->pause;
my $start = time;
$session->query("UPDATE item SET name = 'two' WHERE id = 2");
cmp_ok(time - $start, '<', 15, 'the first commit does not wait for a Redis that hangs');
is($node->safe_psql('postgres', 'SELECT ring_size FROM slate_cache.progress'), 64 * 1024, 'and there is one');
$redis->resume;
SlateRedis::wait_until(sub { name_of(2) eq 'two' }, 'its value arrives');

# Nobody waits for a Redis that hangs, whatever its timeout is.
$node->safe_psql('postgres', 'SELECT slate_cache_repair(), slate_cache_stats_reset()');
$redis->pause;
$start = time;
$session->query("UPDATE item SET name = 'hung $_' WHERE id = 3") foreach 1 .. 20;
cmp_ok(time - $start, '<', 15, 'twenty commits do not wait for a Redis that hangs');
$session->query("BEGIN; UPDATE item SET name = 'rolled back' WHERE id = 4; ROLLBACK");
is(stat_of('pushes_delayed'), 0, 'they wait in the ring');
$redis->resume;
SlateRedis::wait_until(sub { name_of(3) eq 'hung 20' }, 'the last value');
is(name_of(4), '', 'what was rolled back is not told');

# Of one key's pushes that meet the last one is enough.
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
my $sent = $redis->calls('evalsha');
$redis->pause;
$session->query("UPDATE hot SET name = 'hot $_'") foreach 1 .. 20;
$redis->resume;
SlateRedis::wait_until(sub { $redis->field('shop:hot:1', 'name') eq 'hot 20' }, 'the last value');
cmp_ok($redis->calls('evalsha') - $sent, '<', 20, 'pushes of one key that meet are one');

# Pushes of different keys that meet are few calls; each key is in one once, and
# the lists that ten rows share are in several.
$session->query("SELECT slate_cache_get('shop:items:' || i) FROM generate_series(0, 9) i");
is($redis->cli('EXISTS', map { "shop:items:$_" } 0 .. 9), '10', 'lists are cached');
$sent = $redis->calls('evalsha');
$redis->pause;
$session->query("UPDATE item SET name = 'joined $_' WHERE id = $_") foreach 101 .. 160;
$redis->resume;
SlateRedis::wait_until(sub { name_of(160) eq 'joined 160' }, 'the last value');
cmp_ok($redis->calls('evalsha') - $sent, '<', 30, 'pushes of sixty transactions that meet are some calls');
is(scalar(grep { name_of($_) ne "joined $_" } 101 .. 160), 0, 'all of them are there');
is($redis->cli('EXISTS', map { "shop:items:$_" } 0 .. 9), '0', 'the lists are gone');

# More than the ring holds: values give way to drops, and nothing is lost.
$redis->pause;
$session->query("UPDATE item SET name = 'many' WHERE id = $_") foreach 1 .. 400;
cmp_ok(stat_of('pushes_delayed'), '>', 0, 'what does not fit into the ring is left to the journal');
$redis->resume;
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
is(wrong(), '', 'nothing old is left');
is(stat_of('pushes_lost'), 0, 'nothing is lost');

# What is too large for the ring is pushed by its session.
$session->query("UPDATE item SET name = 'large'");
is(name_of(1999), 'large', 'a large transaction pushes by itself');

# The worker dies, with pushes in the ring; its successor has them.
$redis->pause;
$session->query("UPDATE item SET name = 'orphan' WHERE id = $_") foreach 1 .. 20;
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'});
$session->query("UPDATE item SET name = 'heir' WHERE id = $_") foreach 11 .. 30;
$redis->resume;
SlateNode::wait_for($node, q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'});
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
is(wrong(), '', 'after the death of the worker nothing old is left');

# A crash of the server, with pushes in the ring.
$redis->pause;
$session->query("UPDATE item SET name = 'crashed' WHERE id = $_") foreach 1 .. 50;
$node->stop('immediate');
$redis->resume;
$node->start;
SlateNode::wait_until_trusted($node);
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
is(wrong(), '', 'after a crash of the server nothing old is left');

# A commit that is cached survives a crash, also if its reader has filled it in.
$session = SlateSession->new($node);
$redis->cli('DEL', 'shop:item:7');
$session->query("SET synchronous_commit = off; UPDATE item SET name = 'lazy' WHERE id = 7");
$node->safe_psql('postgres', q{SELECT slate_cache_get('shop:item:7')});
SlateRedis::wait_until(sub { name_of(7) eq 'lazy' }, 'the value');
$node->stop('immediate');
$node->start;
SlateNode::wait_until_trusted($node);
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
is($node->safe_psql('postgres', 'SELECT name FROM item WHERE id = 7'), 'lazy',
    'what Redis knew with synchronous_commit = off, a crash does not take back');
$session = SlateSession->new($node);

# Patterns, where no journal remembers them: the session looks for their keys.
$node->safe_psql('postgres', q{CREATE TABLE tag (id int PRIMARY KEY); SELECT slate_cache_attach('tag', drop_keys => ARRAY['app:{id}:*'])});
$redis->cli('SET', $_, '1') foreach qw(app:1:x free:x);
$session->query(q{SET slate_cache.journal = off; BEGIN; INSERT INTO tag VALUES (1); SELECT slate_cache_invalidate('free:*'); COMMIT; RESET slate_cache.journal});
is($session->error . $redis->cli('EXISTS', 'app:1:x', 'free:x'), '0', 'patterns without a journal reach what apps have SET');
is(stat_of('sweeps_unfinished'), 0, 'in time');

# The journal forgets what the worker has told.
SlateNode::wait_for($node, q{SELECT pg_relation_size('slate_cache.journal_a') + pg_relation_size('slate_cache.journal_b') = 0});
pass('the journal is truncated');
$session->query("SELECT 1");
done_testing();
