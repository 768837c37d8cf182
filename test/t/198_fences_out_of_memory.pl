# Fences where Redis has no memory: they take none, so that old values are removed all the same;
# also after a restart of the server, which does not know what was broken off before.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url, conf => { 'slate_cache.timeout' => 60000 });
SlateNode::wait_for($node, q{SELECT ok FROM slate_cache.health WHERE "check" = 'history'});
SlateNode::create_items($node, 99);
$node->safe_psql('postgres', q{CREATE TABLE filler (t text)});

my $direct = qr/\r\nMULTI\r\n.*\r\nshop:/s;
my ($slow, $fast, $watcher) = map { SlateSession->new($node) } 1 .. 3;

sub counter { return $watcher->query("SELECT $_[0] FROM slate_cache.stats") }
sub name { return $redis->field("shop:item:$_[0]", 'name') }

# Does the session push this directly?
sub is_direct
{
    my ($session, $sql) = @_;
    my $before = counter('pushes_direct');
    $session->query($sql);
    return counter('pushes_direct') == $before + 1;
}

# Far in the WAL, so that a place where somebody was fenced off is free again.
sub fill { $watcher->query(q{INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 400)}); return }

sub warm_up
{
    my ($session, $id) = @_;
    fill();
    SlateRedis::wait_until(sub { is_direct($session, "UPDATE item SET name = name || '.' WHERE id = $id") },
        'a session pushes directly');
    return;
}

# What the slow session sends directly is held, the commit waits; others pass.
sub commit_slowly
{
    my ($sql) = @_;
    warm_up($slow, 99);
    $proxy->hold($direct);
    $slow->send($sql);
    $proxy->wait_until_held;
    $proxy->pass;
    return;
}

sub push_arrives
{
    my ($what) = @_;
    $proxy->release;
    $slow->finish;
    is($slow->error, '', "$what: the slow commit ends well");
    return;
}

commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 30});
my $ttl = $redis->cli('PTTL', ($redis->all_keys('slate_cache:epoch:*'))[0]);
is($ttl, '-1', 'no memory: the epoch lives for ever');
$redis->config(maxmemory => 1);
$fast->query(q{UPDATE item SET name = 'newer' WHERE id = 30});
is($fast->error, '', 'no memory: the commit ends well');
is(name(30), '', 'no memory: the old value is removed');
push_arrives('no memory');
is(name(30), '', 'no memory: the older was fenced off');
is($redis->cli('PTTL', ($redis->all_keys('slate_cache:epoch:*'))[0]), '-1', 'no memory: the epoch still lives for ever');

# A server that starts does not know what was broken off.
$_->quit foreach $slow, $fast, $watcher;
$node->restart;
($slow, $fast, $watcher) = map { SlateSession->new($node) } 1 .. 3;
is(name(31), 'old', 'no memory, a restart: a value is there');
SlateRedis::wait_until(sub { $fast->query(q{UPDATE item SET name = 'new' WHERE id = 31}); name(31) eq '' },
    'no memory, a restart: it is removed');
$redis->config(maxmemory => 0);
SlateJournal::wait_until_told($node);
SlateNode::wait_for($node, q{SELECT ok FROM slate_cache.health WHERE "check" = 'history'});

SlateNode::unharmed($node);
done_testing();
