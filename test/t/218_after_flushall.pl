# Right after a FLUSHALL, or a restart of Redis, which nobody has noticed yet: whoever reads or writes
# first has the worker see to it, and what he reads or writes is cached at once,
# rather than when the worker would have looked.  An app's tests, say, begin so.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

# He waits for the worker for 200 ms at most.  Where the machine does not let
# that run for so long nothing is cached, which is no failure, unless it is so
# again and again.
use constant TRIES => 5;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);
SlateNode::create_items($node, 20);
$node->safe_psql('postgres', 'CREATE FUNCTION counted() RETURNS bigint LANGUAGE sql AS $$SELECT count(*) FROM item$$');
my $session = SlateSession->new($node);
my $direct = SlateSession->new($node);

sub is_cached_at_once
{
    my ($what, $key, $act, $lose) = @_;
    my $found = '0';
    for (my $try = 1; $try <= TRIES && $found ne '1'; $try++)
    {
        SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('history', 'worker')});
        $lose ? $lose->() : $redis->cli($try % 2 ? 'FLUSHALL' : 'FLUSHDB');
        $act->();
        $found = $redis->cli('EXISTS', $key);
    }
    is($found, '1', "$what: cached at once");
    return;
}

my %acts = (
    get => ['shop:item:1', "SELECT slate_cache_get('shop:item:1')"],
    mget => ['shop:item:2', "SELECT * FROM slate_cache_mget(ARRAY['shop:item:1', 'shop:item:2', 'shop:none'])"],
    fetch => ['shop:count', "SELECT slate_cache_fetch('shop:count', 'SELECT counted()')"],
    set => ['shop:set', "SELECT slate_cache_set('shop:set', '1')"],
    change => ['shop:item:3', "UPDATE item SET name = name || '.' WHERE id = 3"]);
foreach my $what (sort keys %acts)
{
    my ($key, $sql) = @{ $acts{$what} };
    is_cached_at_once($what, $key, sub { $session->query($sql) });
    is_cached_at_once("$what by a new session", $key, sub { $node->safe_psql('postgres', $sql) });
}

# All of a table.
my $filled;
is_cached_at_once('warm', 'shop:item:1', sub { $filled = $session->query("SELECT slate_cache_warm('item')") });
is($filled, '20', 'warm: and all the others');

# Who pushes directly finds out when he pushes, and can only remove it then.
$direct->query("UPDATE item SET name = 'often $_' WHERE id = 4") foreach 1 .. 50;
is_cached_at_once('a second change by who pushes directly', 'shop:item:4',
    sub { $direct->query("UPDATE item SET name = name || '.' WHERE id = 4") foreach 1, 2 });

# Likewise where Redis has been restarted, and nobody has tried it meanwhile.
sub restart_unseen
{
    my $worker = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'");
    kill 'STOP', $worker;
    $redis->restart;
    kill 'CONT', $worker;
    return;
}
is_cached_at_once('a read after a restart', 'shop:item:16', sub { $session->query("SELECT slate_cache_get('shop:item:16')") }, \&restart_unseen);
is_cached_at_once('a change after a restart', 'shop:item:17', sub { $session->query("UPDATE item SET name = name || '.' WHERE id = 17") }, \&restart_unseen);

# Without a worker who could do so nobody waits for long, or fails.
my ($epoch) = split /\n/, $redis->cli('KEYS', 'slate_cache:epoch:*');
my $worker = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'");
kill 'STOP', $worker;
$redis->cli('DEL', $epoch);
is($session->query("SELECT slate_cache_get('shop:item:$_') ->> 'name'"), 'old', 'without the worker: reads are right')
  foreach 5 .. 15;
is($redis->cli('EXISTS', map { "shop:item:$_" } 5 .. 15), '0', 'without the worker: nothing is filled');
kill 'CONT', $worker;
SlateNode::wait_until_trusted($node);
SlateRedis::wait_until(sub { $session->query("SELECT slate_cache_get('shop:item:5')"); $redis->cli('EXISTS', 'shop:item:5') eq '1' },
    'it is filled again');
pass('and when it is back they are again');

done_testing();
