# A backend killed in mid-push (kill -9): its transaction is committed, the
# server comes back by itself, sessions deliver, and what the dead backend had
# sent does no harm when it arrives later.
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
    conf => { 'slate_cache.timeout' => 60000, 'restart_after_crash' => 'on' });
SlateNode::wait_until_trusted($node);
SlateNode::create_items($node, 3);
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

my $session = SlateSession->new($node);
$session->query("UPDATE item SET name = 'through the proxy' WHERE id = 1");
is($redis->field('shop:item:1', 'name'), 'through the proxy', 'the session pushes');

$proxy->hold(qr/shop:item:1\r\n/);
$session->send("UPDATE item SET name = 'killed' WHERE id = 1");
$proxy->wait_until_held;
$proxy->pass;
my $log = SlateNode::log_size($node);
kill 'KILL', $session->pid;
SlateRedis::wait_until(
    sub { SlateNode::log_text($node, $log) =~ /database system is ready to accept connections/ },
    'the server is up again');
SlateNode::wait_for($node, "SELECT name = 'killed' FROM item WHERE id = 1");
pass('the transaction is committed');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started,
    'the postmaster has lived on');

my $other = SlateSession->new($node);
SlateNode::wait_until_trusted($node);
$other->query("UPDATE item SET name = 'later' WHERE id = 1");
is($redis->field('shop:item:1', 'name'), 'later', 'another session delivers');
$proxy->release;
isnt($redis->field('shop:item:1', 'name'), 'killed', 'the dead one comes too late');
is($other->query("SELECT slate_cache_get('shop:item:1')->>'name'"), 'later', 'get has the right value');
is($other->query('SELECT pushes_lost FROM slate_cache.stats'), '0', 'shared memory is new');

my @signals = SlateNode::messages($node, qr/was terminated by signal|PANIC/);
is(scalar @signals, 1, 'nothing else has died');
like($signals[0], qr/signal 9/, 'than by that signal');
done_testing();
