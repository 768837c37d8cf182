# Connections that died while they were idle: once the worker knows that Redis
# is back, the very next change is delivered, the very next get answered, in each
# of many idle sessions.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new(port => 1);
my $node = SlateNode->start('main', redis => $redis->url(tcp => 1),
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::create_items($node, 20);
SlateNode::wait_until_trusted($node);
my @sessions = map { SlateSession->new($node) } 1 .. 8;

# One of the connections is the worker's, which may be about to make a new one.
sub wait_for_connections
{
    my ($count, $what) = @_;
    SlateRedis::wait_until(
        sub { $count == scalar(() = $redis->cli('CLIENT', 'LIST') =~ /name=slate_cache /g) }, $what);
    return;
}

sub connect_all
{
    $_->query("SELECT slate_cache_get('shop:item:1')") foreach @sessions;
    wait_for_connections(@sessions + 1, 'each session, and the worker, has one connection');
    pass('each session has one connection');
    $node->safe_psql('postgres', 'SELECT slate_cache_stats_reset()');
    return;
}

# The worker is the one that finds out; sessions do nothing meanwhile.
sub worker_is_back
{
    my (%args) = @_;
    wait_for_connections(1, 'the worker has a connection again');
    SlateNode::wait_for($node, 'SELECT emptied FROM slate_cache.stats', '1') if $args{empty};
    SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health
        WHERE "check" IN ('breaker', 'history')});
    return;
}

sub all_work
{
    my ($what) = @_;
    my ($read, $delivered, $errors) = (0, 0, '');
    foreach my $i (0 .. $#sessions)
    {
        my $id = $i + 1;
        if ($i % 2)
        {
            $redis->cli('SET', "shop:free:$id", qq("$what"));
            $read++ if $sessions[$i]->query("SELECT slate_cache_get('shop:free:$id')") eq qq("$what");
        }
        else
        {
            $sessions[$i]->query("UPDATE item SET name = '$what' WHERE id = $id");
            $delivered++ if $redis->field("shop:item:$id", 'name') eq $what;
        }
        $errors .= $sessions[$i]->error;
    }
    is($delivered, @sessions / 2, "$what: the next change is delivered");
    is($read, @sessions / 2, "$what: the next get is answered");
    is($errors, '', "$what: without an error");
    is($node->safe_psql('postgres', 'SELECT pushes_lost + pushes_delayed + read_failures FROM slate_cache.stats'),
        '0', "$what: or a delay, or a loss");
    return;
}

connect_all();
$redis->restart;
worker_is_back(empty => 1);
all_work('restart');

connect_all();
$redis->kill9;
$redis->start;
worker_is_back(empty => 1);
all_work('kill');

connect_all();
$redis->cli('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
worker_is_back();
all_work('client kill');

# Redis may close what has been idle for long.
connect_all();
$redis->config(timeout => 1);
wait_for_connections(1, 'Redis has closed all connections but that of the worker, which works');
$redis->config(timeout => 0);
worker_is_back();
all_work('idle timeout');

# A session that ends leaves no connection behind.
connect_all();
$_->quit foreach @sessions;
wait_for_connections(1, 'the connections of sessions are closed');
pass('connections end with their sessions');
$node->stop;
wait_for_connections(0, 'the connection of the worker is closed');
pass('and that of the worker with the server');

SlateNode::unharmed($node);
done_testing();
