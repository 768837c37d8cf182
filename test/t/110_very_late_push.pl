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
my $node = SlateNode->start('main', redis => $proxy->url,
    conf => { 'slate_cache.timeout' => 60000, 'slate_cache.guard_life' => 10 });
SlateNode::create_items($node, 3);
SlateNode::wait_until_trusted($node);
my $slow = SlateSession->new($node);
$slow->query("SELECT slate_cache_get('shop:item:3')");

# The slow session has committed, and waits; a newer change overtakes it.
$proxy->hold(qr/\r\n(?:EVALSHA|MULTI)\r\n.*\r\nshop:/s);
$slow->send("UPDATE item SET name = 'older' WHERE id IN (1, 2)");
$proxy->wait_until_held;
$proxy->pass;
my $fast = SlateSession->new($node);
$fast->query("UPDATE item SET name = 'newer' WHERE id IN (1, 2)");
is($redis->field('shop:item:1', 'name') . $redis->field('shop:item:2', 'name'), 'newernewer',
    'the newer values are there');
$redis->cli('DEL', 'shop:item:2');

# The worker's notes are no guards.
SlateRedis::wait_until(
    sub { $redis->all_keys('slate_cache:*') !~ /^slate_cache:(?!epoch:|wal:|rules:|tick$)/m }, 'no guard is left');
$proxy->release;
$slow->finish;
is($slow->error, '', 'the slow commit ends well');
isnt($redis->field('shop:item:1', 'name'), 'older', 'the older value does not win');
is($redis->cli('EXISTS', 'shop:item:2'), '0', 'nor is it set where there is none');
is($fast->query("SELECT slate_cache_get('shop:item:1')->>'name'"), 'newer', 'get has the newer');
SlateNode::unharmed($node);
done_testing();
