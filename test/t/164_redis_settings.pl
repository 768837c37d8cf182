# The view health warns of settings of Redis that make it forget what it should
# know: a dump or a log, from which a restart would bring back what is old, and
# an eviction policy that evicts guards.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);
my $session = SlateSession->new($node);

sub verdict
{
    my ($check) = @_;
    return $session->query("SELECT ok || ': ' || detail FROM slate_cache.health WHERE \"check\" = '$check'");
}

like(verdict('persistence'), qr/^true: /, 'nothing is saved: all is well');
like(verdict('eviction'), qr/^true: /, 'nothing is evicted: all is well');

$redis->config(save => '3600 1');
like(verdict('persistence'), qr/^false: .*\bsnapshots/, 'snapshots');
$redis->config(save => '', appendonly => 'yes');
like(verdict('persistence'), qr/^false: .*\bappend-only/, 'an append-only file');
$redis->config(appendonly => 'no');
like(verdict('persistence'), qr/^true: /, 'neither: all is well again');

# Guards expire: what spares keys without a TTL takes them all the same.
foreach my $policy (qw(allkeys-lru allkeys-lfu allkeys-random volatile-lru volatile-lfu volatile-random volatile-ttl))
{
    $redis->config('maxmemory-policy' => $policy);
    like(verdict('eviction'), qr/^true: /, "$policy without a limit: all is well");
    $redis->config(maxmemory => '100mb');
    like(verdict('eviction'), qr/^false: .*\b$policy\b/, "$policy with a limit");
    $redis->config(maxmemory => 0);
}
$redis->config('maxmemory-policy' => 'noeviction', maxmemory => '100mb');
like(verdict('eviction'), qr/^true: /, 'noeviction with a limit: all is well');
$redis->config(maxmemory => 1);
like(verdict('eviction'), qr/^false: .*memory is full.*dropped/, 'and one that is reached');
$redis->config(maxmemory => '100mb');
like(verdict('eviction'), qr/^true: /, 'there is room: all is well again');

# Redis is away, or does not tell.
$redis->stop;
unlike(verdict('persistence') . verdict('eviction'), qr/^true|true: .*noeviction/, 'Redis away: nothing is claimed');
is($session->error, '', 'which is no error');
$redis->start;

$session->quit;
SlateNode::unharmed($node);
done_testing();
