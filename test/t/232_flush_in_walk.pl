# Scripts are flushed while a walk is on its way.  Its next step drops what the one before
# has found by a script, and SCANs on without one: both can be done again.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new(port => 1);
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 20000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::set($node, 'slate_cache.url' => $proxy->url);
SlateNode::wait_until_trusted($node);
my $session = SlateSession->new($node);

sub count { return $redis->cli('EVAL', q{return #redis.call('KEYS', 'app:*')}, 0) }

sub flush_in_walk
{
    my ($name, $settings) = @_;
    $proxy->pass;
    $session->query($settings);
    $session->query(q{SELECT slate_cache_stats_reset(); SELECT slate_cache_peek('a')});
    $redis->cli('EVAL', q{for i = 1, 30000 do redis.call('SET', 'app:' .. i, '1') end}, 0);
    $proxy->delay(replies => [ 40, 40 ]);
    $session->send("SELECT slate_cache_invalidate('app:*')");
    SlateRedis::wait_until(sub { count() <= 29_600 }, 'it has begun');
    $redis->cli('SCRIPT', 'FLUSH');
    cmp_ok(count(), '>', 0, "$name: in the middle of it");
    $session->finish;
    is($session->error, '', "$name: no error");
    is(count(), 0, "$name: all are gone");
    is($session->query('SELECT pushes_lost, pushes_delayed, sweeps_unfinished FROM slate_cache.stats'),
        '0|0|0', "$name: nothing counts as a failure");
    return;
}

flush_in_walk('commit', 'SELECT 1');
flush_in_walk('strict', q{SET slate_cache.mode = 'strict'});
flush_in_walk('without the journal', q{SET slate_cache.mode = 'commit'; SET slate_cache.journal = off});
SlateNode::unharmed($node);
done_testing();
