# A push that arrives when the guard of its key has come to the end of its life,
# and nothing in Redis knows of a newer change any more: it does not set.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 200, 'slate_cache.guard_life' => 10 });
SlateNode::create_items($node, 3);
my $slow = SlateSession->new($node);
$slow->query("SET slate_cache.url = '" . $proxy->url . "'");
$slow->query("SELECT slate_cache_get('shop:item:3')");

# The slow session gives up and rests, and with it all others; a little later a
# newer change goes to Redis directly.
$proxy->hold(qr/\r\nEVALSHA\r\n/);
$slow->query("UPDATE item SET name = 'older' WHERE id IN (1, 2)");
$proxy->wait_until_held;
my $fast = SlateSession->new($node);
SlateRedis::wait_until(
    sub {
        $fast->query("UPDATE item SET name = 'newer ' || clock_timestamp() WHERE id IN (1, 2)");
        return $redis->field('shop:item:1', 'name') =~ /^newer/;
    },
    'the newer change has arrived');
like($redis->field('shop:item:2', 'name'), qr/^newer/, 'the newer values are there');
$redis->cli('DEL', 'shop:item:2');

SlateRedis::wait_until(sub { $redis->all_keys('slate_cache:*') eq '' }, 'no guard is left');
$proxy->release;
isnt($redis->field('shop:item:1', 'name'), 'older', 'the older value does not win');
is($redis->cli('EXISTS', 'shop:item:2'), '0', 'nor is it set where there is none');
like($fast->query("SELECT slate_cache_get('shop:item:1')->>'name'"), qr/^newer/, 'get has the newer');
SlateNode::unharmed($node);
done_testing();
