# Values that are too large for one reply, together or alone: whoever asks for them
# gets his answer, and nobody else notices.
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
    conf => { 'slate_cache.timeout' => 10000, 'slate_cache.connect_timeout' => 10000 });
$node->safe_psql('postgres', q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    SELECT slate_cache_attach('t', row_keys => ARRAY['shop:t:{id}']);
    INSERT INTO t SELECT i, repeat(chr(97 + i % 26), 900000) FROM generate_series(1, 100) i;
    SELECT slate_cache_warm('t')});
my $session = SlateSession->new($node);

# How often the breaker has opened, and what was read.
sub breaker { return $session->query(q{SELECT count(*) FROM slate_cache.events WHERE kind = 'breaker opened'}) }
sub counted { return $session->query('SELECT hits, bad_values, read_failures FROM slate_cache.stats') }

# A hundred that are each as large as they may be.
is($redis->cli('STRLEN', 'shop:t:100'), '900017', 'they are in Redis');
$session->query('SELECT slate_cache_stats_reset()');
my $mget = q{SELECT count(*), count(value), count(*) FILTER (WHERE (value ->> 'v') = repeat(chr(97 + id % 26), 900000)) FROM
    (SELECT value, split_part(key, ':', 3)::int AS id FROM slate_cache_mget((SELECT array_agg('shop:t:' || i) FROM generate_series(1, 100) i))) q};
is($session->query($mget), '100|100|100', 'one mget has all of them');
is(counted(), '100|0|0', 'from Redis');
is(breaker(), '0', 'and nothing speaks against Redis');
is($session->query($mget . q{ UNION ALL SELECT count(*), 0, 0 FROM slate_cache_mget('{shop:none:1,shop:t:1}')}),
    "100|100|100\n2|0|0", 'in one query with others');

# One that an app has made too large by itself.
my $huge = q{redis.call('SET', KEYS[1], string.rep('x', 70000000)) return redis.call('STRLEN', KEYS[1])};
foreach my $case ([ 'slate_cache_get' => q{SELECT length(slate_cache_get('shop:t:1') ->> 'v')} ],
    [ 'slate_cache_mget' => q{SELECT sum(length(value ->> 'v')) FROM slate_cache_mget('{shop:t:1,shop:t:2,shop:t:3}')} ])
{
    my ($name, $query) = @$case;
    is($redis->cli('EVAL', $huge, 1, 'shop:t:1'), '70000000', "$name: Redis has 70 MB under a row's key");
    $session->query('SELECT slate_cache_stats_reset()');
    is($session->query($query), $name eq 'slate_cache_get' ? 900000 : 2700000, 'the row is read from the table');
    is(counted(), ($name eq 'slate_cache_get' ? 0 : 2) . '|1|0', 'what is too large is no value');
    is($redis->cli('STRLEN', 'shop:t:1'), '900015', 'and has been replaced');
    is($redis->cli('EVAL', $huge, 1, 'shop:t:1'), '70000000', 'once more');
    is($session->query(q{SELECT slate_cache_peek('shop:t:1')}), '', 'slate_cache_peek does not have it');
    is($redis->cli('EXISTS', 'shop:t:1'), '0', 'it has gone');
}
is($redis->cli('EVAL', $huge, 1, 'shop:none:1'), '70000000', 'likewise under a key without a rule');
is($session->query(q{SELECT slate_cache_get('shop:none:1')}), '', 'there is no value');
is($session->query(q{SELECT slate_cache_fetch('shop:none:1', 'SELECT 1')}), '1', 'but a query has one');
is(breaker(), '0', 'nothing speaks against Redis');

# Commits beside it do not notice.
my $beside = SlateSession->new($node);
my $stale = 0;
foreach my $i (1 .. 5)
{
    $redis->cli('EVAL', $huge, 1, 'shop:t:1');
    $session->send(q{SELECT FROM slate_cache_get('shop:t:1')});
    $beside->query("UPDATE t SET v = '$i' WHERE id = 50");
    $stale++ if $redis->cli('GET', 'shop:t:50') ne qq({"id":50,"v":"$i"});
    $session->finish;
}
is($stale, 0, 'no commit that has returned is missing in Redis');
is($session->query('SELECT pushes_lost, pushes_delayed FROM slate_cache.stats'), '0|0', 'none was delayed');

SlateNode::unharmed($node);
done_testing();
