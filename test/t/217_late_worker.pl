# Who waits for a worker's first look at Redis waits for the worker, not for Redis: what he then
# has to tell Redis, or to ask it, has its own time, and nobody takes Redis for one that hangs.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

# Less than the second that sessions wait for the worker.
my $timeout = 900;
my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url, conf => { 'slate_cache.timeout' => $timeout, 'slate_cache.connect_timeout' => $timeout });
my $launcher = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache launcher'});
END { kill 'CONT', $launcher if $launcher }
kill 'STOP', $launcher;

# Longer than a millisecond, which is all that would be left.
$proxy->delay(replies => [ 50, 50 ]);

sub opened { return $node->safe_psql('postgres', q{SELECT count(*) FROM slate_cache.events WHERE kind = 'breaker opened'}) }

my %first = (
    writer => q{BEGIN; CREATE TABLE item (id int PRIMARY KEY, name text);
        SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}']); INSERT INTO item VALUES (1, 'new'); COMMIT},
    reader => q{SELECT slate_cache_get('shop:nothing')});
foreach my $who (sort keys %first)
{
    $node->safe_psql('postgres', "CREATE DATABASE $who");
    $node->safe_psql($who, 'CREATE EXTENSION slate_cache');
    my $session = SlateSession->new($node, database => $who);
    $session->query($first{$who});
    is($session->error, '', "$who: no error");
    cmp_ok($session->seconds, '>=', 1, "$who: waits for the worker");
    is(opened(), 0, "$who: and does not take Redis for one that hangs");
    is($session->query('SELECT misses, read_failures FROM slate_cache.stats'), '0|1', "$who: what Redis was not asked for is no miss");
}
done_testing();
