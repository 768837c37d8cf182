-- Reading through the cache with get, mget and peek: hits, misses, fills, and
-- what neither is answered from the cache nor put into it.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';
\setenv cached '$redis --scan --pattern "shop:*" | LC_ALL=C sort | while read -r key; do printf "%s %s\n" "$key" "$($redis GET "$key")"; done'

CREATE TABLE items (id int PRIMARY KEY, kind int, note text);
INSERT INTO items VALUES (1, 1, 'one'), (2, 1, 'two'), (3, 2, 'three');
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:item:{id}', 'shop:note:{id} -> note'],
                          list_keys => ARRAY['shop:items:{kind}'], ttl => '1 hour', list_ttl => '10 minutes');
-- what has been counted since the last reset
CREATE VIEW did AS SELECT hits, misses, fills, fills_refused, bypasses, bad_values, read_failures FROM slate_cache.stats;

-- a miss loads the row and caches it; the next one hits, whatever the table says
SELECT slate_cache_stats_reset();
SELECT slate_cache_get('shop:item:1');
\! $redis GET shop:item:1
SELECT * FROM did;
SELECT slate_cache_get('shop:item:1');
SELECT * FROM did;
\! $redis SET shop:item:1 '{"from": "Redis"}'
SELECT slate_cache_get('shop:item:1');
\! $redis DEL shop:item:1

-- with the TTLs of the rules
SELECT slate_cache_get('shop:item:1')->'id', slate_cache_get('shop:note:1'), slate_cache_get('shop:items:1')->0->'id';
\set row `$redis PTTL shop:item:1`
\set column `$redis PTTL shop:note:1`
\set list `$redis PTTL shop:items:1`
SELECT :row BETWEEN 3590000 AND 3600000 AS row, :column BETWEEN 3590000 AND 3600000 AS column, :list BETWEEN 590000 AND 600000 AS list;

-- no row: NULL, and nothing is cached; a list without rows is an empty one, and is
SELECT slate_cache_get('shop:item:9'), slate_cache_get('shop:note:9'), slate_cache_get('shop:items:9');
\! $redis MGET shop:item:9 shop:note:9 shop:items:9
-- a column that is NULL is JSON's null
INSERT INTO items VALUES (4, 2, NULL);
\! $redis DEL shop:note:4 shop:items:2
SELECT slate_cache_get('shop:note:4');
\! $redis GET shop:note:4
-- lists have the order of the primary key
UPDATE items SET id = 0 WHERE id = 3;
SELECT slate_cache_get('shop:items:2');

-- no rule knows the key: what Redis has is the answer
SELECT slate_cache_get('shop:unknown');
\! $redis SET shop:unknown '[1, "two"]'
SELECT slate_cache_get('shop:unknown');
SELECT slate_cache_get('shop:item'), slate_cache_get('shop:item:'), slate_cache_get('SHOP:ITEM:1');

-- peek never loads and never fills
\! $redis DEL shop:item:1
SELECT slate_cache_peek('shop:item:1'), slate_cache_peek('shop:unknown'), slate_cache_peek('shop:nothing');
\! $redis EXISTS shop:item:1

-- mget: in the order asked, with duplicates and NULLs, of several rules
SELECT slate_cache_stats_reset();
SELECT * FROM slate_cache_mget(ARRAY['shop:note:2', 'shop:item:1', NULL, 'shop:unknown', 'shop:items:1', 'shop:item:1', 'shop:item:9', 'shop:nothing', 'shop:item:2', NULL]);
SELECT * FROM did;
SELECT count(value) FROM slate_cache_mget(ARRAY['shop:note:2', 'shop:item:1', NULL, 'shop:unknown', 'shop:items:1', 'shop:item:1', 'shop:item:2']);
SELECT * FROM did;
SELECT * FROM slate_cache_mget('{}');
SELECT * FROM slate_cache_mget('{NULL}');
SELECT * FROM slate_cache_mget('{{shop:item:1,shop:item:2},{shop:note:1,shop:nothing}}');
SELECT sum(1), count(value) FROM slate_cache_mget((SELECT array_agg('shop:item:' || i) FROM generate_series(1, 500) AS i));
-- as a function in a query
SELECT items.id, value->>'note' AS note FROM items LEFT JOIN slate_cache_mget('{shop:item:1,shop:item:2}') ON key = 'shop:item:' || id ORDER BY id;

-- REPEATABLE READ and SERIALIZABLE: the table answers, nothing is filled
\! $redis SET shop:item:1 '"from Redis"'
\! $redis DEL shop:item:2 shop:items:1
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT slate_cache_get('shop:item:1'), slate_cache_get('shop:item:2')->'id';
SELECT key, value IS NULL AS none FROM slate_cache_mget('{shop:item:1,shop:item:2,shop:items:1}');
SELECT slate_cache_fetch('shop:fetched', 'SELECT 1');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT slate_cache_get('shop:item:1'), slate_cache_get('shop:item:2')->'id';
SELECT slate_cache_fetch('shop:fetched', 'SELECT 1');
COMMIT;
\! $redis MGET shop:item:1 shop:item:2 shop:items:1 shop:fetched
-- READ COMMITTED READ ONLY is as good as any
BEGIN READ ONLY;
SELECT slate_cache_get('shop:item:1'), slate_cache_get('shop:item:2')->'id';
COMMIT;
\! $redis MGET shop:item:1 shop:item:2
-- a transaction that has written something, anything
BEGIN;
CREATE TABLE something (id int);
SELECT slate_cache_get('shop:item:1'), slate_cache_get('shop:items:1')->0->'id';
SELECT slate_cache_fetch('shop:fetched', 'SELECT 1');
ROLLBACK;
\! $redis MGET shop:item:1 shop:items:1 shop:fetched
\! $redis DEL shop:item:1
-- but a key that only looks like a row's: none could have it, so its rows do not matter
\! $redis SET shop:item:1 '"from Redis"'
\! $redis SET shop:item:1:lines '[1]'
\! $redis SET shop:item:01 '"one"'
\! $redis SET shop:item:bad:lines '{'
BEGIN;
CREATE TABLE something (id int);
SELECT slate_cache_get('shop:item:1:lines'), slate_cache_get('shop:item:2:lines'), slate_cache_get('shop:item:bad:lines');
SELECT * FROM slate_cache_mget('{shop:item:1,shop:item:01,shop:item:1:lines,shop:nothing,shop:item:9}');
SELECT slate_cache_del('shop:item:1:lines');
SELECT slate_cache_get('shop:item:1:lines');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM slate_cache_mget('{shop:item:1,shop:item:1:lines}');
COMMIT;
\! $redis MGET shop:item:1 shop:item:1:lines shop:item:01 shop:item:bad:lines
\! $redis DEL shop:item:1 shop:item:1:lines shop:item:01
-- nor if it is of another type, and they count as what they are
\! $redis RPUSH shop:item:2:lines 'a list'
\! $redis SET shop:item:3:lines '[3]'
SELECT slate_cache_stats_reset();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM slate_cache_mget('{shop:item:2:lines,shop:item:3:lines,shop:item:4:lines}');
COMMIT;
\! $redis EXISTS shop:item:2:lines
\! $redis DEL shop:item:3:lines
SELECT hits, misses, bypasses, bad_values FROM slate_cache.stats;
-- of a key that can be taken apart in more ways than are tried nobody knows
CREATE TABLE ways (name text, id int);
SELECT slate_cache_attach('ways', row_keys => ARRAY['shop:way:{name}:{id}']);
INSERT INTO ways VALUES (repeat('a:', 20), 1);
\set way 'shop:way:' `printf 'a:%.0s' $(seq 20)` ':1'
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT slate_cache_get('shop:way:a::1'), slate_cache_get(:'way');
COMMIT;
DROP TABLE ways;

-- values in Redis that are not JSON: misses, dropped and counted
\setenv bad '$redis SET shop:bad:empty ""; $redis SET shop:bad:word hello; $redis SET shop:bad:cut "{\"a\": 1"; $redis SET shop:bad:two "1 2"; $redis SET shop:bad:nan NaN; $redis SET shop:bad:comma "[1,]"'
\! eval "$bad" | sort | uniq -c | tr -d ' '
\! $redis SET shop:bad:quote "{'a': 1}"
\! printf '"a\\u0000b"' | $redis -x SET shop:bad:escaped_nul
\! printf '"a\0b"' | $redis -x SET shop:bad:nul
\! printf '"\377\376"' | $redis -x SET shop:bad:utf8
\! printf '"\355\240\200"' | $redis -x SET shop:bad:surrogate
\! printf '"\\ud800"' | $redis -x SET shop:bad:half_a_pair
\! printf '%050000d' 0 | tr 0 '[' | $redis -x SET shop:bad:deep
\! (printf '%050000d' 0 | tr 0 '['; printf '%050000d' 0 | tr 0 ']') | $redis -x SET shop:bad:deep_and_closed
\! printf '1e400000' | $redis -x SET shop:bad:exponent
\! printf '1e99999999999999999999' | $redis -x SET shop:bad:huge_exponent
\! printf '%0200000d' 0 | tr 0 9 | $redis -x SET shop:bad:digits
\! printf '[1e131072]' | $redis -x SET shop:bad:too_large_for_numeric
\! $redis RPUSH shop:bad:list 1 2
\! $redis HSET shop:bad:hash a 1
\! $redis SADD shop:bad:set a
\! $redis ZADD shop:bad:zset 1 a
\! $redis XADD shop:bad:stream 1-1 a 1
-- the same in keys with a rule: the table answers
\! $redis SET shop:item:1 '{"id": 1'
\! $redis DEL shop:item:2
\! $redis HSET shop:item:2 id 2
\set keys `$redis EVAL "local k = redis.call('KEYS', 'shop:bad:*') table.sort(k) return cjson.encode(k)" 0`
SELECT slate_cache_stats_reset();
SELECT key, slate_cache_get(key) FROM jsonb_array_elements_text(:'keys') AS key;
SELECT slate_cache_get('shop:item:1'), slate_cache_get('shop:item:2');
SELECT bad_values, hits, read_failures FROM did;
\! $redis --scan --pattern 'shop:bad:*'
\! $redis MGET shop:item:1 shop:item:2
-- ... with mget and peek
\! $redis SET shop:item:1 '{"id": 1'
\! $redis DEL shop:item:2
\! $redis HSET shop:item:2 id 2
\! $redis SET shop:bad:word hello
\! $redis RPUSH shop:bad:list 1 2
SELECT slate_cache_stats_reset();
SELECT * FROM slate_cache_mget('{shop:item:1,shop:item:2,shop:bad:word,shop:bad:list,shop:note:1}');
SELECT bad_values, hits, read_failures FROM did;
\! eval "$cached" | grep -E 'bad|item:'
\! $redis SET shop:item:1 '{"id": 1'
\! $redis DEL shop:item:2
\! $redis HSET shop:item:2 id 2
SELECT slate_cache_stats_reset();
SELECT slate_cache_peek('shop:item:1'), slate_cache_peek('shop:item:2');
SELECT bad_values, hits, read_failures FROM did;
\! $redis EXISTS shop:item:1 shop:item:2

-- unusual JSON that is fine
\! printf ' {"a" : [ 1.50 , -0 , 1e3 , true , null , "\\u00e9\\ud83d\\ude00\\n" ] , "a" : 2 } ' | $redis -x SET shop:fine:1
\! $redis SET shop:fine:2 null
\! $redis SET shop:fine:3 '""'
\! (printf '%0900d' 0 | tr 0 '['; printf '%0900d' 0 | tr 0 ']') | $redis -x SET shop:fine:4
SELECT slate_cache_get('shop:fine:1'), slate_cache_get('shop:fine:2'), slate_cache_get('shop:fine:3'), length(slate_cache_get('shop:fine:4')::text);
\! $redis --scan --pattern 'shop:fine:*' | wc -l

-- a trigger that is switched off keeps no copy right: then the key has no rule
ALTER TABLE items DISABLE TRIGGER slate_cache_row;
SELECT slate_cache_get('shop:item:1');
ALTER TABLE items ENABLE ALWAYS TRIGGER slate_cache_row;
SELECT slate_cache_get('shop:item:1')->'id';
-- ... nor does one that fires only for replication
ALTER TABLE items ENABLE REPLICA TRIGGER slate_cache_row;
SELECT slate_cache_get('shop:item:1');
ALTER TABLE items ENABLE ALWAYS TRIGGER slate_cache_row;

-- Redis away is not an error here, either: the table answers
SELECT slate_cache_stats_reset();
SET slate_cache.url = 'unix:///nowhere/redis.sock';
SELECT slate_cache_get('shop:item:1')->'id', slate_cache_get('shop:unknown') IS NULL AS unknown, slate_cache_peek('shop:item:1') IS NULL AS peek;
SELECT key, value->'id' AS id FROM slate_cache_mget('{shop:item:1,shop:item:2,shop:unknown}');
SELECT slate_cache_fetch('shop:fetched', 'SELECT 7');
SELECT hits, fills, read_failures > 0 AS failures FROM did;
RESET slate_cache.url;
SELECT slate_cache_get('shop:item:1')->'id';
-- ... and Redis back is Redis back
SELECT slate_cache_stats_reset();
UPDATE items SET note = 'back' WHERE id = 1;
\! $redis GET shop:item:1
SELECT slate_cache_get('shop:item:1')->'note';
SELECT hits FROM did;
