# Connections that died while they were idle: the very next change is
# delivered, the very next get answered, in each of many idle sessions.
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
my @sessions = map { SlateSession->new($node) } 1 .. 8;

sub connect_all
{
    $_->query("SELECT slate_cache_get('shop:item:1')") foreach @sessions;
    is(scalar(() = $redis->cli('CLIENT', 'LIST') =~ /name=slate_cache/g), scalar @sessions,
        'each session has one connection');
    $node->safe_psql('postgres', 'SELECT slate_cache_stats_reset()');
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
    is($node->safe_psql('postgres', 'SELECT pushes_lost + read_failures FROM slate_cache.stats'),
        '0', "$what: or a loss");
    return;
}

connect_all();
$redis->restart;
all_work('restart');

connect_all();
$redis->kill9;
$redis->start;
all_work('kill');

connect_all();
$redis->cli('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
all_work('client kill');

# Redis may close what has been idle for long.
connect_all();
$redis->config(timeout => 1);
SlateRedis::wait_until(
    sub { $redis->cli('CLIENT', 'LIST') !~ /name=slate_cache/ }, 'Redis has closed all connections');
$redis->config(timeout => 0);
all_work('idle timeout');

# A session that ends leaves no connection behind.
connect_all();
$_->quit foreach @sessions;
SlateRedis::wait_until(
    sub { $redis->cli('CLIENT', 'LIST') !~ /name=slate_cache/ }, 'all connections are closed');
pass('connections end with their sessions');

SlateNode::unharmed($node);
done_testing();
