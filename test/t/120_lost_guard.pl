# Redis loses a key's guard while a reader is between its lease and its fill, by
# FLUSHALL or by eviction: a fill without a guard is refused.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, testing => 1);
SlateNode::create_items($node, 2);
my $gate = SlateSession->new($node);
my $reader = SlateSession->new($node);
$reader->query("SET slate_cache.pause_at = 'before_fill'");

# (7351, 4) is the lock of before_fill, see src/pause.h.
foreach my $loss ([ 'FLUSHALL' ], [ 'DEL', 'slate_cache:guard:{shop:item:1}' ])
{
    $redis->cli('FLUSHALL');
    $gate->query('SELECT pg_advisory_lock(7351, 4)');
    $reader->send("SELECT slate_cache_get('shop:item:1') ->> 'name'");
    SlateNode::wait_for($node,
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", '1');
    is($redis->cli('EXISTS', 'slate_cache:guard:{shop:item:1}'), '1', "$loss->[0]: there is a lease");
    $redis->cli(@$loss);
    $gate->query('SELECT pg_advisory_unlock(7351, 4)');
    is($reader->finish, 'old', 'the reader has its row');
    is($redis->cli('EXISTS', 'shop:item:1'), '0', 'its fill is refused');
}
is(SlateNode::counter($node, 'fills_refused'), '2', 'both are counted');

$reader->query("RESET slate_cache.pause_at");
is($reader->query("SELECT slate_cache_get('shop:item:1') ->> 'name'"), 'old', 'another lease');
is($redis->cli('EXISTS', 'shop:item:1'), '1', 'fills');

done_testing();
