# Fences where Redis has no memory: they take none, so that old values are removed all the same;
# also after a restart of the server, which does not know what was broken off before.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateDirect;
use SlateJournal;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url, conf => { 'slate_cache.timeout' => 60000 });
SlateNode::wait_until_trusted($node);
SlateNode::create_items($node, 99);
my ($slow, $fast, $watcher) = map { SlateSession->new($node) } 1 .. 3;
my $way = SlateDirect->new(proxy => $proxy, slow => $slow, watcher => $watcher);

sub name { return $redis->field("shop:item:$_[0]", 'name') }

$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 30});
my $ttl = $redis->cli('PTTL', ($redis->all_keys('slate_cache:epoch:*'))[0]);
is($ttl, '-1', 'no memory: the epoch lives for ever');
$redis->config(maxmemory => 1);
$fast->query(q{UPDATE item SET name = 'newer' WHERE id = 30});
is($fast->error, '', 'no memory: the commit ends well');
is(name(30), '', 'no memory: the old value is removed');
$way->push_arrives('no memory');
is(name(30), '', 'no memory: the older was fenced off');
is($redis->cli('PTTL', ($redis->all_keys('slate_cache:epoch:*'))[0]), '-1', 'no memory: the epoch still lives for ever');

# A server that starts does not know what was broken off.
$_->quit foreach $slow, $fast, $watcher;
$node->restart;
($slow, $fast, $watcher) = map { SlateSession->new($node) } 1 .. 3;
is(name(31), 'old', 'no memory, a restart: a value is there');
$fast->query(q{UPDATE item SET name = 'new' WHERE id = 31});
is(name(31), '', 'no memory, a restart: it is removed');
$redis->config(maxmemory => 0);
SlateJournal::wait_until_told($node);
SlateNode::wait_until_trusted($node);

SlateNode::unharmed($node);
done_testing();
