# Redis loses a key's guard while a reader is between its lease and its fill: it
# expires, is evicted, is flushed.  A fill without a guard is refused; and so is
# one that finds the guard of a lease that was given since.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

use constant GUARD => 'slate_cache:guard:{shop:item:1}';

my $redis = SlateRedis->new(config => { 'maxmemory-policy' => 'volatile-ttl', 'maxmemory-samples' => 64 });
my $node = SlateNode->start('main', redis => $redis, testing => 1);
SlateNode::create_items($node, 2);
my $gate = SlateSession->new($node);
my $reader = SlateSession->new($node);
my $other = SlateSession->new($node);
$reader->query("SET slate_cache.pause_at = 'before_fill'");
$other->query("SET slate_cache.pause_at = 'after_lease'");

sub has_guard { return $redis->cli('EXISTS', GUARD) }

sub wait_until_paused
{
    my ($sessions) = @_;
    SlateNode::wait_for($node,
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", $sessions);
    return;
}

# The keys that live longest are others'; the guard is the one to go first.
sub evict
{
    $redis->cli('EVAL', q{for i = 1, 500 do redis.call('SET', 'others:' .. i, string.rep('x', 1000), 'EX', 10000) end}, '0');
    my ($used) = $redis->cli('INFO', 'memory') =~ /^used_memory:(\d+)/m;
    $redis->config(maxmemory => $used - 10000);
    SlateRedis::wait_until(sub { $redis->cli('SET', 'others:0', '1', 'EX', '10000'); return has_guard() eq '0' },
        'the guard is evicted');
    $redis->config(maxmemory => 0);
    return;
}

sub expire
{
    $redis->cli('PEXPIRE', GUARD, '1');
    SlateRedis::wait_until(sub { return has_guard() eq '0' }, 'the guard expires');
    return;
}

# (7351, 4) is the lock of before_fill, see src/pause.h.
my $emptied = SlateNode::counter($node, 'emptied');
my %losses = (expired => \&expire, evicted => \&evict, flushed => sub { $redis->cli('FLUSHALL') });
foreach my $loss (sort keys %losses)
{
    $redis->cli('DEL', 'shop:item:1', GUARD);
    $gate->query('SELECT pg_advisory_lock(7351, 4)');
    $reader->send("SELECT slate_cache_get('shop:item:1') ->> 'name'");
    wait_until_paused(1);
    is(has_guard(), '1', "$loss: there is a lease");
    $losses{$loss}->();
    $gate->query('SELECT pg_advisory_unlock(7351, 4)');
    is($reader->finish, 'old', "$loss: the reader has its row");
    is($redis->cli('EXISTS', 'shop:item:1'), '0', "$loss: its fill is refused");
}
is($redis->cli('INFO', 'stats') =~ /^evicted_keys:[1-9]/m, 1, 'Redis has evicted something');
is(SlateNode::counter($node, 'fills_refused'), '3', 'each is counted');

# The guard of a change is lost, too, and another reader's lease makes a new one.
# Until the worker has noticed the FLUSHALL there are no leases.
SlateNode::wait_for($node, "SELECT emptied > $emptied FROM slate_cache.stats");
$redis->cli('DEL', 'shop:item:1', GUARD);
$gate->query('SELECT pg_advisory_lock(7351, 3), pg_advisory_lock(7351, 4)');
$reader->send("SELECT slate_cache_get('shop:item:1') ->> 'name'");
wait_until_paused(1);
$node->safe_psql('postgres', "UPDATE item SET name = 'new' WHERE id = 1");
$redis->cli('DEL', 'shop:item:1', GUARD);
$other->send("SELECT slate_cache_get('shop:item:1') ->> 'name'");
wait_until_paused(2);
is(has_guard(), '1', 'another lease');
$gate->query('SELECT pg_advisory_unlock(7351, 4)');
is($reader->finish, 'old', 'the reader has its row');
is($redis->cli('EXISTS', 'shop:item:1'), '0', 'its fill is refused');
$gate->query('SELECT pg_advisory_unlock(7351, 3)');
is($other->finish, 'new', 'the other reader has the new one');
is($redis->field('shop:item:1', 'name'), 'new', 'and fills it');

SlateNode::unharmed($node);
done_testing();
