-- All keys of a table: slate_cache_warm fills what is not there,
-- slate_cache_verify compares what is there with the table.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail; but what differs is looked at for so long
\set patient 'SET slate_cache.timeout = \'30s\''
\set quick 'SET slate_cache.timeout = \'1ms\''
:patient;
SET slate_cache.connect_timeout = '30s';
\setenv cached '$redis --scan --pattern "shop:*" | LC_ALL=C sort | while read -r key; do printf "%s %s\n" "$key" "$($redis GET "$key")"; done'
\setenv forget '$redis EVAL "for _, key in ipairs(redis.call([[KEYS]], [[shop:*]])) do redis.call([[DEL]], key) end" 0'

CREATE TABLE items (id int PRIMARY KEY, kind int, note text);
INSERT INTO items VALUES (1, 1, 'one'), (2, 1, 'two'), (3, 2, 'three'), (4, NULL, NULL);
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:item:{id}', 'shop:note:{id} -> note'],
                          list_keys => ARRAY['shop:items:{kind}'], drop_keys => ARRAY['shop:search:*'],
                          ttl => '1 hour', list_ttl => '10 minutes');

--
-- warm
--

-- rows, single columns, lists; a NULL column gives no key
SELECT slate_cache_warm('items');
\! eval "$cached"
-- with the TTLs of the rules
\set row `$redis PTTL shop:item:1`
\set list `$redis PTTL shop:items:1`
SELECT :row BETWEEN 3500000 AND 3600000 AS row, :list BETWEEN 500000 AND 600000 AS list;
-- what is there is left alone, whatever it is
SELECT slate_cache_warm('items');
\! $redis SET shop:item:1 '"something else"'
\! $redis DEL shop:item:2 shop:items:1
SELECT slate_cache_stats_reset();
SELECT slate_cache_warm('items');
SELECT fills, fills_refused, misses, bypasses FROM slate_cache.stats;
\! $redis MGET shop:item:1 shop:item:2
-- what is filled is kept right
UPDATE items SET note = 'changed' WHERE id <= 2;
\! $redis MGET shop:item:1 shop:item:2 shop:items:1

-- only what fits
\! eval "$forget"
SET slate_cache.max_value = '1kB';
UPDATE items SET note = repeat('x', 1100) WHERE id = 3;
\! eval "$forget"
SELECT slate_cache_warm('items');
\! $redis EXISTS shop:item:3 shop:note:3 shop:items:2
RESET slate_cache.max_value;

-- nothing to fill
CREATE TABLE nothing (id int);
SELECT slate_cache_attach('nothing', drop_keys => ARRAY['shop:nothing:{id}']);
INSERT INTO nothing VALUES (1);
SELECT slate_cache_warm('nothing');
SELECT * FROM slate_cache_verify('nothing');

--
-- verify
--

\! eval "$forget"
UPDATE items SET note = 'three' WHERE id = 3;
SELECT slate_cache_warm('items');
SELECT * FROM slate_cache_verify('items');
-- what is merely not there is no problem
\! $redis DEL shop:item:1 shop:items:1
SELECT * FROM slate_cache_verify('items');
-- blanks and the order of fields are none, either
\! $redis SET shop:item:1 '{"note": "changed", "kind": 1,   "id": 1}'
SELECT * FROM slate_cache_verify('items');

-- values that differ, rows that are not there, values that are none
\! $redis SET shop:item:1 '{"id":1,"kind":1,"note":"one"}'
\! $redis SET shop:note:2 '"two"'
\! $redis SET shop:items:2 '[]'
\! $redis SET shop:items:9 '[{"id":9,"kind":9,"note":null}]'
\! $redis SET shop:item:9 '{"id":9,"kind":9,"note":null}'
\! $redis SET shop:note:4 'null '
\! $redis SET shop:item:4 '{"id":4,"kind":'
\! $redis RPUSH shop:item:5 a b
\! $redis DEL shop:item:3
\! $redis HSET shop:item:3 id 3
\! printf '"\377\0"' | $redis -x SET shop:note:3
-- no keys of this table: other templates, no integers, not the text of one
\! $redis SET shop:item: 1
\! $redis SET shop:item:042 1
\! $redis SET shop:item:abc 1
\! $redis SET shop:item:1:comments 1
\! $redis SET shop:search:1 1
\! $redis SET shop:itemless 1
\! printf '1' | $redis -x SET "$(printf 'shop:item:\377')"
:quick;
SELECT * FROM slate_cache_verify('items') ORDER BY key COLLATE "C";

-- a sample: the keys of so many rows; so no orphans
SELECT key, problem FROM slate_cache_verify('items', 1000) ORDER BY key COLLATE "C";
SELECT count(*) BETWEEN 1 AND 3 AS few FROM slate_cache_verify('items', sample => 1);

-- repair drops them
SELECT key, problem FROM slate_cache_verify('items', repair => true) ORDER BY key COLLATE "C";
\! eval "$cached"
:patient;
SELECT * FROM slate_cache_verify('items');
SELECT slate_cache_warm('items');
SELECT * FROM slate_cache_verify('items');
-- ... so that a reader who has read before may not fill
\! $redis EXISTS slate_cache:guard:{shop:item:9}

-- a trigger that is off: nobody keeps right what would be filled
ALTER TABLE items DISABLE TRIGGER slate_cache_row;
SELECT slate_cache_warm('items');
\! $redis SET shop:item:1 '{"id":1,"kind":1,"note":"changed"}'
UPDATE items SET note = 'unseen' WHERE id = 1;
:quick;
SELECT key, problem FROM slate_cache_verify('items', repair => true) ORDER BY key COLLATE "C";
:patient;
ALTER TABLE items ENABLE ALWAYS TRIGGER slate_cache_row;

--
-- Names, types, partitions
--

CREATE SCHEMA "Odd""Schema";
CREATE TABLE "Odd""Schema"."Odd Table's" ("Key Column" text, "b""c" timestamptz, other numeric);
INSERT INTO "Odd""Schema"."Odd Table's" VALUES ('x y', '2026-01-02 03:04:05+00', 1.0), ('x''y', '2026-07-02 03:04:05+00', 1.00), ('{z}', NULL, NULL);
SELECT slate_cache_attach('"Odd""Schema"."Odd Table''s"', row_keys => ARRAY['shop:odd:{Key Column}'],
                          list_keys => ARRAY['shop:when:{b"c}', 'shop:number:{other}', 'shop:spaces:{other}:{Key Column}']);
\! eval "$forget"
SET timezone = 'Asia/Kolkata';
SET datestyle = 'German';
SELECT slate_cache_warm('"Odd""Schema"."Odd Table''s"');
\! eval "$cached"
SELECT * FROM slate_cache_verify('"Odd""Schema"."Odd Table''s"');
SELECT * FROM slate_cache_verify('"Odd""Schema"."Odd Table''s"', 10);
\! $redis SET 'shop:odd:{z}' 1
\! $redis SET 'shop:when:2026-01-02 03:04:05+00' 1
:quick;
SELECT key, problem FROM slate_cache_verify('"Odd""Schema"."Odd Table''s"', 10, repair => true) ORDER BY key COLLATE "C";
:patient;
RESET timezone;
RESET datestyle;

-- a list has no order where there is no primary key
CREATE TABLE heap (kind int, note text);
INSERT INTO heap VALUES (1, 'a'), (1, 'b'), (1, 'b'), (2, 'c');
SELECT slate_cache_attach('heap', list_keys => ARRAY['shop:heap:{kind}']);
\! $redis SET shop:heap:1 '[{"kind":1,"note":"b"},{"kind":1,"note":"a"},{"kind":1,"note":"b"}]'
SELECT * FROM slate_cache_verify('heap');
\! $redis SET shop:heap:1 '[{"kind":1,"note":"b"},{"kind":1,"note":"a"},{"kind":1,"note":"a"}]'
\! $redis SET shop:heap:2 '{"kind":2,"note":"c"}'
:quick;
SELECT key, problem FROM slate_cache_verify('heap', repair => true) ORDER BY key COLLATE "C";
:patient;
SELECT slate_cache_warm('heap');

-- nobody's search_path matters
CREATE SCHEMA shadow;
CREATE FUNCTION shadow.random() RETURNS float8 LANGUAGE sql AS 'SELECT 1 / 0.0';
SET search_path = shadow, public, pg_catalog;
SELECT key, problem FROM slate_cache_verify('items', 10);
RESET search_path;

CREATE TABLE parted (id int, part int, note text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2) PARTITION BY RANGE (id);
CREATE TABLE parted_2_a PARTITION OF parted_2 FOR VALUES FROM (0) TO (100);
INSERT INTO parted VALUES (1, 1, 'a'), (1, 2, 'b'), (2, 2, 'c');
SELECT slate_cache_attach('parted', row_keys => ARRAY['shop:parted:{part}:{id}'], list_keys => ARRAY['shop:parted:{part}']);
\! eval "$forget"
SELECT slate_cache_warm('parted');
\! $redis SET shop:parted:2 '[]'
\! $redis SET shop:parted:2:2 1
\! $redis SET shop:parted:1:2 '{"id":2,"part":1,"note":null}'
:quick;
SELECT key, problem, actual FROM slate_cache_verify('parted') ORDER BY key COLLATE "C";
:patient;
SELECT slate_cache_warm('parted_1');
SELECT * FROM slate_cache_verify('parted_2');

-- a child by inheritance is a table of its own
CREATE TABLE child () INHERITS (items);
INSERT INTO child VALUES (77, 1, 'a child''s');
SELECT slate_cache_warm('items') > 0 AS warmed;
SELECT slate_cache_peek('shop:item:77') IS NULL AS none, jsonb_array_length(slate_cache_peek('shop:items:1'));
SELECT * FROM slate_cache_verify('items');

--
-- What is refused
--

SELECT slate_cache_warm(NULL);
SELECT slate_cache_verify(NULL);
SELECT slate_cache_warm('pg_class');
SELECT slate_cache_verify('child');
SELECT slate_cache_warm(1);
SELECT slate_cache_verify('items', 0);
CREATE VIEW items_view AS SELECT * FROM items;
SELECT slate_cache_warm('items_view');
-- an old snapshot; own changes
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT slate_cache_warm('items');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT slate_cache_verify('items');
ROLLBACK;
BEGIN;
UPDATE items SET note = 'mine' WHERE id = 1;
SELECT slate_cache_warm('items');
ROLLBACK;
BEGIN;
UPDATE items SET note = 'mine' WHERE id = 1;
SELECT slate_cache_verify('items');
ROLLBACK;
-- a key that this transaction is about to change is not filled
\! $redis DEL shop:item:1 shop:item:2
BEGIN;
SELECT slate_cache_del('shop:item:1');
SELECT slate_cache_warm('items');
COMMIT;
\! $redis EXISTS shop:item:1 shop:item:2
-- Redis is away
SET slate_cache.url = 'unix:///nowhere/redis.sock';
\set VERBOSITY sqlstate
SELECT slate_cache_warm('items');
SELECT slate_cache_verify('items');
\set VERBOSITY default
RESET slate_cache.url;

-- who may: who may call it and read the table, and sees all its rows
CREATE ROLE slate_regress_reader;
SET ROLE slate_regress_reader;
SELECT slate_cache_warm('items');
SELECT slate_cache_verify('items');
RESET ROLE;
GRANT EXECUTE ON FUNCTION slate_cache_warm(regclass), slate_cache_verify(regclass, integer, boolean) TO slate_regress_reader;
SET ROLE slate_regress_reader;
SELECT slate_cache_warm('items');
SELECT slate_cache_verify('items');
RESET ROLE;
GRANT SELECT ON items TO slate_regress_reader;
\! $redis DEL shop:item:3
SET ROLE slate_regress_reader;
SELECT slate_cache_warm('items') > 0 AS filled;
SELECT * FROM slate_cache_verify('items');
RESET ROLE;
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON items USING (id = 1);
\! $redis DEL shop:item:3
SET ROLE slate_regress_reader;
SELECT slate_cache_warm('items');
SELECT slate_cache_verify('items');
RESET ROLE;
-- ... its owner does
SELECT slate_cache_warm('items');
-- another table may know the same keys, and hides its rows
CREATE TABLE others (name text PRIMARY KEY);
SELECT slate_cache_attach('others', row_keys => ARRAY['shop:{name}']);
ALTER TABLE others ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON others USING (false);
ALTER TABLE items DISABLE ROW LEVEL SECURITY;
GRANT SELECT ON others TO slate_regress_reader;
\! $redis DEL shop:item:3
\! $redis SET shop:item:2 1
SET ROLE slate_regress_reader;
SELECT slate_cache_warm('items');
SELECT * FROM slate_cache_verify('items');
RESET ROLE;
SELECT slate_cache_warm('items');

DROP TABLE items, nothing, "Odd""Schema"."Odd Table's", heap, parted, others CASCADE;
DROP SCHEMA "Odd""Schema", shadow CASCADE;
DROP OWNED BY slate_regress_reader;
DROP ROLE slate_regress_reader;
