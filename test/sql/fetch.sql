-- slate_cache_fetch(): any query's result, through the cache.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';

CREATE TABLE items (id int PRIMARY KEY, note text, price numeric, day date);
INSERT INTO items VALUES (1, 'one', 1.50, '2024-02-29'), (2, 'two', NULL, NULL);

-- the first call runs the query, the second one does not
SELECT slate_cache_stats_reset();
SELECT slate_cache_fetch('shop:count', 'SELECT count(*) FROM items', '1 minute');
INSERT INTO items VALUES (3, 'three', 3, '2024-03-01');
SELECT slate_cache_fetch('shop:count', 'SELECT count(*) FROM items', '1 minute');
SELECT hits, misses, fills FROM slate_cache.stats;
SELECT slate_cache_del('shop:count');
SELECT slate_cache_fetch('shop:count', 'SELECT count(*) FROM items');

-- one column: its value, as JSON; no row is NULL, and is not cached
SELECT slate_cache_fetch('shop:f:' || n, query) FROM (VALUES
    (1, 'SELECT note FROM items WHERE id = 1'),
    (2, 'SELECT price FROM items WHERE id = 1'),
    (3, 'SELECT price FROM items WHERE id = 2'),
    (4, 'SELECT note FROM items WHERE id = 9'),
    (5, 'SELECT day FROM items WHERE id = 1'),
    (6, 'SELECT jsonb_agg(note ORDER BY id) FROM items'),
    (7, 'SELECT json_build_object(''b'', 1, ''a'', 2)'),
    (8, 'SELECT items FROM items WHERE id = 1'),
    (9, 'SELECT array[1, 2]'),
    (10, 'VALUES (1)'),
    (11, 'TABLE items LIMIT 0'),
    (12, 'SELECT true'),
    (13, 'SELECT ''[1]''::text')) AS q (n, query);
\! for i in 1 2 3 4 5 6 7 8 9 10 11 12 13; do echo $i $($redis GET shop:f:$i); done
-- several columns: an array of objects
SELECT slate_cache_fetch('shop:g:1', 'SELECT id, note FROM items ORDER BY id');
SELECT slate_cache_fetch('shop:g:2', 'SELECT id, note FROM items WHERE id = 9');
SELECT slate_cache_fetch('shop:g:3', 'SELECT 1 AS a, 2 AS a, 3');
\! $redis MGET shop:g:1 shop:g:2 shop:g:3

-- parameters take the types that the query gives them
SELECT slate_cache_fetch('shop:p:1', 'SELECT note FROM items WHERE id = $1', NULL, '1');
SELECT slate_cache_fetch('shop:p:2', 'SELECT id FROM items WHERE note = $1 OR price > $2 AND day = $3', NULL, 'x', '2.5', '2024-03-01');
SELECT slate_cache_fetch('shop:p:3', 'SELECT id FROM items WHERE id = ANY ($1) AND note LIKE $2', NULL, '{1,2,3}', 't%o');
SELECT slate_cache_fetch('shop:p:4', 'SELECT $1', NULL, 'untyped');
SELECT slate_cache_fetch('shop:p:5', 'SELECT $1::int + $1', NULL, '20');
SELECT slate_cache_fetch('shop:p:6', 'SELECT coalesce($1::text, ''was null''), $2::int IS NULL', NULL, NULL, NULL);
SELECT slate_cache_fetch('shop:p:7', 'SELECT $2::text', NULL, 'first', 'it''s; -- "quoted" $1');
SELECT slate_cache_fetch('shop:p:8', 'SELECT id, $1::jsonb->''a'' FROM items WHERE id = $2', '1 hour', VARIADIC ARRAY['{"a": [1]}', '1']);
SELECT slate_cache_fetch('shop:p:9', 'SELECT 1', NULL, 'too', 'many');
SELECT slate_cache_fetch('shop:p:10', 'SELECT ' || repeat('length(''' || repeat('x', 1000) || ''') + ', 300) || '$1 + $2::int + length($3)', NULL, '1', '2', 'abc');
-- one that is no value of its type is the query's error
SELECT slate_cache_fetch('shop:p:11', 'SELECT note FROM items WHERE id = $1', NULL, 'one');

-- TTL: given, by the key's family, by default
SELECT slate_cache_fetch('shop:t:1', 'SELECT 1', '90 seconds'), slate_cache_fetch('slate:search:7:x', 'SELECT 1'), slate_cache_fetch('shop:t:2', 'SELECT 1');
\set given `$redis PTTL shop:t:1`
\set family `$redis PTTL slate:search:7:x`
\set otherwise `$redis PTTL shop:t:2`
SELECT :given BETWEEN 80000 AND 90000 AS given, :family BETWEEN 290000 AND 300000 AS family, :otherwise BETWEEN 3590000 AND 3600000 AS otherwise;
SET slate_cache.default_ttl = 0;
SELECT slate_cache_fetch('shop:t:3', 'SELECT 1');
RESET slate_cache.default_ttl;
\! $redis PTTL shop:t:3

-- errors in the query are the query's own, and leave nothing
SELECT slate_cache_fetch('shop:e:1', 'SELECT 1 / 0');
SELECT slate_cache_fetch('shop:e:1', 'SELECT nothing FROM items');
SELECT slate_cache_fetch('shop:e:1', 'SELEC 1');
\! $redis EXISTS shop:e:1

-- a query that writes through a function: answered, not cached
CREATE FUNCTION touch() RETURNS int LANGUAGE plpgsql VOLATILE AS
$$ BEGIN INSERT INTO items VALUES (100); RETURN 100; END $$;
SELECT slate_cache_fetch('shop:touched', 'SELECT touch()');
SELECT count(*) FROM items WHERE id = 100;
\! $redis EXISTS shop:touched

-- a SELECT's rights are the caller's, on a miss
CREATE ROLE slate_regress_reader;
GRANT EXECUTE ON FUNCTION slate_cache_fetch TO slate_regress_reader;
SET ROLE slate_regress_reader;
SELECT slate_cache_fetch('shop:r:1', 'SELECT count(*) FROM items');
RESET ROLE;

-- a key that a rule covers is kept right by it
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:item:{id}']);
SELECT slate_cache_fetch('shop:item:1', 'SELECT items FROM items WHERE id = 1')->'note';
UPDATE items SET note = 'uno' WHERE id = 1;
SELECT slate_cache_fetch('shop:item:1', 'SELECT items FROM items WHERE id = 1')->'note';
SET ROLE slate_regress_reader;
SELECT slate_cache_fetch('shop:item:1', 'SELECT 1');
RESET ROLE;

-- the settings of the session do not show
SET datestyle = 'German';
SELECT slate_cache_fetch('shop:d:1', 'SELECT id, day FROM items WHERE id = 1');
RESET datestyle;

-- what is in Redis already, whoever put it there, is the answer; but not if it is no JSON
\! $redis SET shop:app '{"from": "the app"}'
SELECT slate_cache_fetch('shop:app', 'SELECT 1');
\! $redis SET shop:app hello
SELECT slate_cache_fetch('shop:app', 'SELECT 1');
\! $redis GET shop:app
\! $redis DEL shop:app
\! $redis RPUSH shop:app 1
SELECT slate_cache_fetch('shop:app', 'SELECT 2');
\! $redis GET shop:app

-- within a function, a loop, and itself
SELECT sum(slate_cache_fetch('shop:loop:' || i % 3, 'SELECT $1::int', NULL, (i % 3)::text)::int) FROM generate_series(1, 30) AS i;
SELECT slate_cache_fetch('shop:outer', $$SELECT slate_cache_fetch('shop:inner', 'SELECT 1')::int + 1$$);
\! $redis MGET shop:outer shop:inner

-- what bypasses the cache is counted, once
SELECT slate_cache_stats_reset();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT slate_cache_fetch('shop:bypassing', 'SELECT 1'), slate_cache_fetch('shop:item:1', 'SELECT 2');
COMMIT;
SELECT bypasses FROM slate_cache.stats;

DROP OWNED BY slate_regress_reader;
DROP ROLE slate_regress_reader;
