# Redis has forgotten the scripts (SCRIPT FLUSH) under open connections: each
# thing that is said by script is said again, and nothing is lost.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::create_items($node, 3);
my $session = SlateSession->new($node);
$session->query("SELECT slate_cache_get('shop:item:1')");
$session->query('SELECT slate_cache_stats_reset()');

sub forget
{
    is($redis->cli('SCRIPT', 'FLUSH'), 'OK', 'Redis forgets its scripts');
    return;
}

forget();
$session->query("UPDATE item SET name = 'pushed' WHERE id = 1");
is($redis->field('shop:item:1', 'name'), 'pushed', 'a change is delivered');

$redis->cli('DEL', 'shop:item:2');
forget();
is($session->query("SELECT slate_cache_get('shop:item:2')->>'name'"), 'old', 'a miss is leased');
is($redis->field('shop:item:2', 'name'), 'old', 'and filled');

# Forgotten between lease and fill: by the query that loads the value.
my $socket = $redis->socket;
my $flush = qq{COPY (SELECT 1) TO PROGRAM 'redis-cli -s $socket SCRIPT FLUSH > /dev/null'};
$session->query(qq{CREATE FUNCTION forgetful() RETURNS int LANGUAGE plpgsql AS \$\$
    BEGIN EXECUTE \$c\$$flush\$c\$; RETURN 7; END \$\$});
is($session->query("SELECT slate_cache_fetch('shop:seven', 'SELECT forgetful()')"), '7',
    'Redis forgets them between lease and fill');
is($session->error, '', 'without an error');
is($redis->cli('GET', 'shop:seven'), '7', 'the value is filled');

# The family's index, and the sweep for what no index knows.
$redis->cli('SET', "app:$_", '1') foreach 1 .. 30;
$session->query("SELECT slate_cache_set('app:mine', '1')");
forget();
$session->query("SELECT slate_cache_invalidate('app:*')");
is($redis->all_keys('app:*'), '', 'a pattern is dropped');

$redis->cli('SET', 'shop:item:1', '{not JSON');
forget();
is($session->query("SELECT slate_cache_get('shop:item:1')->>'name'"), 'pushed',
    'a bad value is dropped and filled');
is($redis->field('shop:item:1', 'name'), 'pushed', 'and is right');

is( $session->query('SELECT pushes_lost, keys_lost, read_failures, fills_refused, sweeps_unfinished FROM slate_cache.stats'),
    '0|0|0|0|0', 'nothing counts as a failure');
SlateNode::unharmed($node);
done_testing();
