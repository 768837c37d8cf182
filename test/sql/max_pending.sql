-- slate_cache.max_pending: a transaction that holds more falls back to dropping
-- what it touched, first by key, then by pattern; and drops nothing else.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';
\setenv count '$redis --scan --pattern "shop:item:*" | wc -l'

CREATE TABLE items (id int PRIMARY KEY, kind int, note text);
ALTER TABLE items ALTER note SET STORAGE EXTERNAL;     -- no compression
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:item:{id}'],
                          list_keys => ARRAY['shop:items:{kind}'], drop_keys => ARRAY['shop:search:{kind}:*']);
INSERT INTO items SELECT i, 1, 'old' FROM generate_series(1, 2000) AS i;
\! eval "$count"
\! $redis MSET shop:other:1 1 shop:items:1 1 shop:items:2 1 shop:search:1:x 1 shop:search:2:x 1 > /dev/null
SELECT slate_cache_stats_reset();
SET slate_cache.max_pending = '64kB';

-- a few rows: written through
UPDATE items SET note = 'new' WHERE id <= 10;
\! eval "$count"
SELECT fallbacks FROM slate_cache.stats;
SELECT count(*) FROM items WHERE slate_cache_peek('shop:item:' || id) <> to_jsonb(items);

-- large rows: their keys are dropped, the others stay
UPDATE items SET note = repeat('large', 500) WHERE id <= 100;
\! eval "$count"
SELECT fallbacks FROM slate_cache.stats;
SELECT count(*) FROM items WHERE id > 100 AND slate_cache_peek('shop:item:' || id) = to_jsonb(items);
\! $redis MGET shop:other:1 shop:items:1 shop:items:2 shop:search:1:x shop:search:2:x

-- rows that are small in the table, compressed, and large as JSON: the same
CREATE TABLE packed (id int PRIMARY KEY, note text);
SELECT slate_cache_attach('packed', row_keys => ARRAY['shop:packed:{id}']);
INSERT INTO packed SELECT i, 'old' FROM generate_series(1, 200) AS i;
UPDATE packed SET note = repeat('packed', 2000) WHERE id <= 100;
SELECT count(*) FILTER (WHERE slate_cache_peek('shop:packed:' || id) <> to_jsonb(packed)) AS wrong,
       count(*) FILTER (WHERE slate_cache_peek('shop:packed:' || id) IS NULL) BETWEEN 1 AND 100 AS some_dropped FROM packed;
SELECT fallbacks FROM slate_cache.stats;
DROP TABLE packed;

-- too many keys: all keys of the rules are dropped
\! $redis MSET shop:items:1 1 shop:items:2 1 shop:search:1:x 1 shop:search:2:x 1 > /dev/null
UPDATE items SET note = 'newer' WHERE id <= 1500;
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
SELECT fallbacks FROM slate_cache.stats;

-- a fallback inside of a savepoint that is rolled back: what is left is dropped
UPDATE items SET note = 'small' WHERE id <= 3;
\! eval "$count"
BEGIN;
UPDATE items SET note = 'smaller' WHERE id = 1;
SAVEPOINT a;
UPDATE items SET note = repeat('large', 1000);
ROLLBACK TO a;
UPDATE items SET note = 'smaller' WHERE id = 2;
COMMIT;
SELECT count(*) FROM items WHERE slate_cache_peek('shop:item:' || id) <> to_jsonb(items);
SELECT fallbacks FROM slate_cache.stats;
-- across savepoints
BEGIN;
SAVEPOINT a;
UPDATE items SET note = repeat('large', 200) WHERE id <= 40;
RELEASE a;
SAVEPOINT b;
UPDATE items SET note = repeat('large', 200) WHERE id <= 40;
RELEASE b;
UPDATE items SET note = repeat('larger', 200) WHERE id > 40 AND id <= 80;
COMMIT;
SELECT count(*) FROM items WHERE slate_cache_peek('shop:item:' || id) <> to_jsonb(items);

-- in a transaction that has given up, get still reads the table
BEGIN;
UPDATE items SET note = 'mine';
SELECT slate_cache_get('shop:item:1')->>'note';
SELECT slate_cache_get('shop:other:1');
ROLLBACK;

-- values by hand: dropped, too
SELECT slate_cache_stats_reset();
BEGIN;
SELECT count(slate_cache_set('shop:hand:' || i, to_jsonb(repeat('x', 1000)))) FROM generate_series(1, 100) AS i;
SELECT slate_cache_set('shop:hand:more', '1');
COMMIT;
\! $redis --scan --pattern 'shop:hand:*' | wc -l
SELECT fallbacks FROM slate_cache.stats;
-- keys by hand: there is no rule whose pattern could stand for them all
\! $redis MSET shop:hand:1 1 shop:hands 1 > /dev/null
BEGIN;
SELECT count(slate_cache_del('shop:hand:' || i)) FROM generate_series(1, 2000) AS i;
ROLLBACK;
\! $redis MGET shop:hand:1 shop:hands
-- what was rolled back is no more
BEGIN;
SAVEPOINT a;
UPDATE items SET note = 'all of them';
UPDATE items SET note = 'all of them again', kind = 2;
ROLLBACK TO a;
SELECT slate_cache_set('shop:hands', '2');
COMMIT;
\! $redis GET shop:hands
-- but rows never fail for it
BEGIN;
UPDATE items SET note = 'all of them';
UPDATE items SET note = 'all of them again', kind = 2;
COMMIT;
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
SELECT slate_cache_get('shop:item:1')->>'note';

-- the next transaction starts anew
RESET slate_cache.max_pending;
UPDATE items SET note = 'next' WHERE id <= 3;
\! $redis MGET shop:item:1 shop:item:3
