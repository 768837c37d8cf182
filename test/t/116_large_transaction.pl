# A transaction that changes 100000 rows: it falls back to dropping what it has
# touched, holds no more memory than slate_cache.max_pending allows, give or
# take, and leaves nothing stale; after it, the session holds nothing.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $limit = 1024;    # kB
my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => {
        'slate_cache.timeout' => 20000, 'slate_cache.max_pending' => "${limit}kB", 'log_statement' => 'none' });
SlateNode::create_items($node, 1000);
$node->safe_psql('postgres', q{
    CREATE TABLE other (id int PRIMARY KEY, name text);
    SELECT slate_cache_attach('other', row_keys => ARRAY['shop:other:{id}']);
    INSERT INTO other VALUES (1, 'old')});
is(scalar(() = $redis->all_keys('shop:item:*') =~ /^/mg), 1000, 'rows are cached');

# An app's own copy, which no index knows.
$redis->cli('SET', 'shop:item:500000', '"mine"');

my $memory = q{SELECT coalesce(sum(total_bytes), 0) FROM pg_backend_memory_contexts
    WHERE name LIKE 'slate\_cache pending%'};
my $session = SlateSession->new($node);
$session->query('SELECT slate_cache_stats_reset()');
is($session->query($memory), '0', 'nothing is held at first');
$session->query('BEGIN');
$session->query("INSERT INTO item SELECT i, repeat('x', 200) FROM generate_series(1001, 60000) i");
cmp_ok($session->query($memory), '<', 4 * 1024 * $limit, 'values are given up: memory is bounded');
$session->query("INSERT INTO item SELECT i, repeat('x', 200) FROM generate_series(60001, 100000) i");
$session->query("UPDATE item SET name = 'new'");
$session->query("UPDATE other SET name = 'new'");
my $held = $session->query($memory);
cmp_ok($held, '>', 0, 'something is held');
cmp_ok($held, '<', 4 * 1024 * $limit, 'keys are given up: memory is bounded');
is($session->query("SELECT slate_cache_get('shop:item:1')->>'name'"), 'new', 'get sees the change');
$session->query('COMMIT');
is($session->error, '', 'the transaction commits');

is($redis->all_keys('shop:item:*'), '', 'no row of the table is left, nor what an app has put there');
isnt($redis->field('shop:other:1', 'name'), 'old', 'nor a stale one of another');
is($session->query('SELECT fallbacks, pushes_delayed, pushes_lost FROM slate_cache.stats'), '1|0|0',
    'it counts as a fallback, and nothing is delayed or lost');
is($session->query($memory), '0', 'nothing is held after it');

$session->query("SELECT slate_cache_get('shop:item:77')");
is($redis->field('shop:item:77', 'name'), 'new', 'the cache is filled again');
$session->query("UPDATE item SET name = 'small' WHERE id = 77");
is($redis->field('shop:item:77', 'name'), 'small', 'a small transaction is written through again');

# Rolled back, it has told nobody and holds nothing.
$session->query("BEGIN; UPDATE item SET name = 'never'; ROLLBACK");
is($redis->field('shop:item:77', 'name'), 'small', 'rolled back: the cache is as it was');
is($session->query($memory), '0', 'rolled back: nothing is held');

# Many savepoints.
$session->query(q{DO $$
    BEGIN
        FOR i IN 1 .. 20000 LOOP
            BEGIN
                UPDATE item SET name = 'sub' WHERE id = i;
            EXCEPTION WHEN division_by_zero THEN NULL;
            END;
        END LOOP;
        PERFORM set_config('test.held', (SELECT sum(total_bytes) FROM pg_backend_memory_contexts
            WHERE name LIKE 'slate\_cache pending%')::text, false);
    END $$});
is($session->error, '', 'twenty thousand subtransactions commit');
cmp_ok($session->query("SHOW test.held"), '<', 4 * 1024 * $limit, 'their memory is bounded');
isnt($redis->field('shop:item:77', 'name'), 'small', 'and nothing stale is left');
SlateNode::unharmed($node);
done_testing();
