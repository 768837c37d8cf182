# Who looks for keys that apps have SET, when a rule drops a pattern: the commit in a small
# Redis, the worker in one that is known not to be small.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
# 20 ms are not for sure enough for that on a busy machine.
my $node = SlateNode->start('main', redis => $redis, testing => 1,
    conf => { 'slate_cache.sweep_at_once' => '10s', 'slate_cache.timeout' => 10000, 'slate_cache.connect_timeout' => 10000 });
$node->safe_psql('postgres', q{CREATE TABLE sale (customer int);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
my $session = SlateSession->new($node);

# With nothing left for it to do.
sub stop_worker
{
    SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
    SlateNode::wait_for($node, q{SELECT wait_event_type = 'Extension' AND state IS DISTINCT FROM 'active' FROM pg_stat_activity
        WHERE backend_type = 'slate_cache worker' AND datname = 'postgres'});
    SlateNode::stop_worker($node);
    return;
}

sub fill { $redis->cli('EVAL', "for i = $_[0], $_[1] do redis.call('SET', 'filler:' .. i, 'x') end", '0'); return }

# A commit, after an app has SET a key: is it there when COMMIT has returned?
sub left_by_commit
{
    $redis->cli('SET', 'shop:search:1:mine', '"app"');
    $session->query('INSERT INTO sale VALUES (1)');
    return $redis->cli('EXISTS', 'shop:search:1:mine');
}

fill(1, 1500);
stop_worker();
$session->query('SELECT slate_cache_stats_reset()');
is(left_by_commit(), '0', "1500 keys: commit $_ finds it itself") foreach 1 .. 3;
is(SlateNode::counter($node, 'sweeps'), '3', 'in a walk each');

# That it has become large is known from the next walk on.
fill(1501, 4000);
is(left_by_commit(), '0', '4000 keys: the first commit finds it itself');
is(left_by_commit(), '1', "the next leaves it to the worker, commit $_") foreach 1 .. 2;
is(SlateNode::counter($node, 'sweeps'), '4', 'and does not walk');
is($session->query('SELECT state, patterns FROM slate_cache.journal'), "patterns|{shop:search:1:*}\npatterns|{shop:search:1:*}",
    'the journal has it');
SlateNode::continue_worker();
SlateRedis::wait_until(sub { $redis->cli('EXISTS', 'shop:search:1:mine') eq '0' }, 'the key has gone');
pass('the worker drops it');
SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
is(SlateNode::counter($node, 'sweeps'), '5', 'in one walk for both');

# What must be gone at COMMIT is, however large it is.
stop_worker();
$redis->cli('SET', 'shop:search:1:mine', '"app"');
$session->query(q{SELECT slate_cache_invalidate('shop:search:*')});
is($redis->cli('EXISTS', 'shop:search:1:mine'), '0', 'slate_cache_invalidate() looks itself');
SlateNode::continue_worker();

done_testing();
