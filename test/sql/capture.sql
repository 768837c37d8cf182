-- What the triggers see: every way of changing a row reaches Redis, with the
-- right keys; a change that changes nothing sends nothing.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';
-- shows the keys and their values
\setenv cached '$redis --scan --pattern "shop:*" | LC_ALL=C sort | while read -r key; do printf "%s %s\n" "$key" "$($redis GET "$key")"; done'

CREATE TABLE customers (id int PRIMARY KEY);
CREATE TABLE orders (
    id int PRIMARY KEY,
    customer_id int REFERENCES customers ON DELETE CASCADE ON UPDATE CASCADE,
    code text UNIQUE DEFERRABLE INITIALLY DEFERRED,
    total numeric);
SELECT slate_cache_attach('orders',
                          row_keys => ARRAY['shop:order:{id}', 'shop:code:{code}', 'shop:total:{id} -> total'],
                          list_keys => ARRAY['shop:orders:{customer_id}'],
                          drop_keys => ARRAY['shop:sums:{customer_id}', 'shop:report:*'],
                          delete_drop_keys => ARRAY['shop:receipt:{id}']);
INSERT INTO customers VALUES (1), (2), (3);

-- INSERT
INSERT INTO orders VALUES (1, 1, 'A', 10), (2, 1, 'B', 20);
\! eval "$cached"

-- UPDATE, with a list, a key, a pattern and a key that only DELETE drops
SELECT slate_cache_get('shop:orders:1');
\! for key in shop:sums:1 shop:sums:2 shop:report:all shop:receipt:1; do $redis SET $key 0; done
UPDATE orders SET total = 11 WHERE id = 1;
\! eval "$cached"

-- DELETE
DELETE FROM orders WHERE id = 1;
\! eval "$cached"
\! $redis DEL shop:sums:2

-- an UPDATE that changes nothing sends nothing, not even to lists
CREATE TABLE counters (id int PRIMARY KEY, kind int, value numeric, body text);
ALTER TABLE counters ALTER body SET STORAGE EXTERNAL;
SELECT slate_cache_attach('counters', row_keys => ARRAY['shop:counter:{id}'], list_keys => ARRAY['shop:counters:{kind}']);
INSERT INTO counters VALUES (1, 1, 20, 'short'), (2, 1, 20, repeat('long', 10000));
SELECT slate_cache_stats_reset();
UPDATE counters SET value = 20;
UPDATE counters SET value = value, kind = kind, body = body;
SELECT pushes, keys_stored, keys_dropped FROM slate_cache.stats;
UPDATE counters SET value = 20.0;
SELECT pushes, keys_stored, keys_dropped FROM slate_cache.stats;

-- a transaction that touches no attached table says nothing, either
INSERT INTO customers VALUES (4);
SELECT pushes FROM slate_cache.stats;

-- one transaction is one push, and one key is told once
SELECT slate_cache_stats_reset();
BEGIN;
UPDATE counters SET value = 21;
UPDATE counters SET value = 22;
UPDATE counters SET value = 23;
COMMIT;
SELECT pushes, keys_stored, keys_dropped, sweeps, pushes_lost, fallbacks FROM slate_cache.stats;
SELECT slate_cache_peek('shop:counter:1');
DROP TABLE counters;

-- a change of key columns drops the old key and puts the new one
UPDATE orders SET id = 20 WHERE id = 2;
\! eval "$cached"
UPDATE orders SET code = 'C' WHERE id = 20;
\! eval "$cached"
-- ... of a list's columns, both lists
SELECT key FROM slate_cache_mget('{shop:orders:1,shop:orders:2,shop:orders:3}');
\! $redis MSET shop:sums:1 0 shop:sums:2 0 shop:sums:3 0
UPDATE orders SET customer_id = 2;
\! eval "$cached"
SELECT slate_cache_invalidate('shop:*');

-- keys that change hands: a key may be dropped that another row has taken, but
-- none holds a wrong row, and none is left that no row has
CREATE VIEW wrong_keys AS
SELECT id, code FROM orders
WHERE slate_cache_peek('shop:order:' || id) <> to_jsonb(orders)
   OR slate_cache_peek('shop:code:' || code) <> to_jsonb(orders);
DELETE FROM orders;
INSERT INTO orders VALUES (1, 1, 'A', 1), (-1, 1, 'B', -1), (2, 1, 'C', 2);
UPDATE orders SET code = CASE code WHEN 'A' THEN 'B' ELSE 'A' END WHERE code IN ('A', 'B');
SELECT * FROM wrong_keys;
ALTER TABLE orders DROP CONSTRAINT orders_pkey;
ALTER TABLE orders ADD PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED;
UPDATE orders SET total = total + 1;
UPDATE orders SET id = -id;
SELECT * FROM wrong_keys;
\! $redis EXISTS shop:order:2
UPDATE orders SET total = total + 1;
\! $redis --scan --pattern 'shop:order:*' | LC_ALL=C sort
UPDATE orders SET id = id + 1;
SELECT * FROM wrong_keys;
\! $redis EXISTS shop:order:-2 shop:order:1
UPDATE orders SET total = total + 1;
BEGIN;
UPDATE orders SET code = 'tmp' WHERE id = 2;
UPDATE orders SET code = (SELECT code FROM orders WHERE id = 2) || '2' WHERE id = 0;
UPDATE orders SET code = 'A' WHERE id = 2;
COMMIT;
\! $redis --scan --pattern 'shop:code:*' | LC_ALL=C sort
SELECT * FROM wrong_keys;
DROP VIEW wrong_keys;
ALTER TABLE orders DROP CONSTRAINT orders_pkey;
ALTER TABLE orders ADD PRIMARY KEY (id);
ALTER TABLE orders DROP CONSTRAINT orders_code_key;
ALTER TABLE orders ADD UNIQUE (code);

-- ON CONFLICT
DELETE FROM orders;
INSERT INTO orders VALUES (1, 1, 'A', 1) ON CONFLICT (id) DO UPDATE SET total = 100;
INSERT INTO orders VALUES (1, 1, 'A', 1) ON CONFLICT (id) DO UPDATE SET total = 100;
\! $redis GET shop:order:1
INSERT INTO orders VALUES (1, 1, 'Z', 1) ON CONFLICT DO NOTHING;
\! eval "$cached"

-- MERGE
MERGE INTO orders USING (VALUES (1, 'M'), (2, 'N'), (3, 'O')) AS source (id, code) ON orders.id = source.id
WHEN MATCHED THEN UPDATE SET code = source.code
WHEN NOT MATCHED AND source.id = 3 THEN DO NOTHING
WHEN NOT MATCHED THEN INSERT VALUES (source.id, 2, source.code, 2);
\! eval "$cached"
MERGE INTO orders USING (VALUES (1)) AS source (id) ON orders.id = source.id WHEN MATCHED THEN DELETE;
\! eval "$cached"

-- COPY
COPY orders FROM stdin;
5	3	E	5
6	3	F	\N
\.
\! eval "$cached"

-- data-modifying WITH
WITH gone AS (DELETE FROM orders WHERE id = 5 RETURNING *)
INSERT INTO orders SELECT 7, customer_id, 'G', total FROM gone;
\! eval "$cached"

-- FK cascades
UPDATE customers SET id = 30 WHERE id = 3;
\! $redis GET shop:order:6
DELETE FROM customers WHERE id = 30;
\! eval "$cached"

-- triggers of others: BEFORE ones have had their say, AFTER ones change the row
-- again, before our trigger has seen the first change or afterwards
CREATE FUNCTION round_up() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.total = ceil(NEW.total); RETURN NEW; END $$;
CREATE TRIGGER round_up BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION round_up();
CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN UPDATE orders SET total = total + 1 WHERE id = NEW.id AND total < 10; RETURN NULL; END $$;
CREATE TRIGGER zz_count_up AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION count_up();
UPDATE orders SET total = 7.5 WHERE id = 2;
\! $redis GET shop:order:2
DROP TRIGGER zz_count_up ON orders;
CREATE TRIGGER aa_count_up AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION count_up();
UPDATE orders SET total = 5.5 WHERE id = 2;
SELECT total, coalesce(slate_cache_peek('shop:order:2') = to_jsonb(orders), true) AS right FROM orders;
-- ... and the key
CREATE OR REPLACE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN UPDATE orders SET code = code || '!' WHERE id = NEW.id AND code !~ '!'; RETURN NULL; END $$;
UPDATE orders SET code = 'P' WHERE id = 2;
SELECT code, coalesce(slate_cache_peek('shop:order:2') = to_jsonb(orders), true) AS right FROM orders;
\! $redis EXISTS shop:code:P
DROP TRIGGER aa_count_up ON orders;
DROP TRIGGER round_up ON orders;

-- ... foreign keys within one table do, too
CREATE TABLE folders (id int PRIMARY KEY, parent int REFERENCES folders ON UPDATE CASCADE ON DELETE CASCADE);
SELECT slate_cache_attach('folders', row_keys => ARRAY['shop:folder:{id}', 'shop:child:{id}:{parent}']);
INSERT INTO folders VALUES (1, 1), (2, 1), (3, 2);
UPDATE folders SET id = id + 10 WHERE id < 3;
SELECT *, coalesce(slate_cache_peek('shop:folder:' || id) = to_jsonb(folders), true) AS right FROM folders ORDER BY id;
\! $redis EXISTS shop:folder:1 shop:folder:2 shop:child:1:1 shop:child:11:1 shop:child:2:1 shop:child:2:11 shop:child:12:1 shop:child:3:2
DELETE FROM folders WHERE id = 11;
\! $redis --scan --pattern 'shop:folder:*'
DROP TABLE folders;

-- replication's apply does not keep the triggers from firing
SET session_replication_role = replica;
UPDATE orders SET total = 9;
RESET session_replication_role;
\! $redis GET shop:order:2

-- TRUNCATE drops all keys of all rules, those of deletion too, and leaves others
\! $redis MSET shop:receipt:2 0 shop:report:x 0 shop:orders:2 0 shop:sums:2 0 shop:else:2 0
TRUNCATE orders;
\! eval "$cached"
-- rolled back
INSERT INTO orders VALUES (1, 1, 'A', 1);
BEGIN;
TRUNCATE orders;
ROLLBACK;
\! eval "$cached"
-- through a foreign key, and with rows put in afterwards
BEGIN;
TRUNCATE customers CASCADE;
INSERT INTO customers VALUES (1);
INSERT INTO orders VALUES (2, 1, 'A', 2);
COMMIT;
\! eval "$cached"
TRUNCATE customers CASCADE;
\! eval "$cached"
\! $redis DEL shop:else:2

-- values: as the row's JSON is in SQL, columns in their order, whatever the types
CREATE TABLE wide (
    id int PRIMARY KEY, gone int, t text, n numeric, f float8, b bool, d date,
    ts timestamp, tz timestamptz, i interval, by bytea, j json, jb jsonb, a int[],
    c customers, u uuid, e text, twice int GENERATED ALWAYS AS (id * 2) STORED);
ALTER TABLE wide DROP COLUMN gone;
SELECT slate_cache_attach('wide', row_keys => ARRAY['shop:wide:{id}', 'shop:wide:j:{id} -> j', 'shop:wide:t:{id} -> t', 'shop:wide:a:{id} -> a', 'shop:wide:e:{id} -> e', 'shop:wide:c:{id} -> c']);
INSERT INTO wide VALUES (
    1, E'quote " back \\ tab \t line \n slash / é 漢 😀', 1.50, 0.1::float8 + 0.2, true, '2024-02-29',
    '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789+02', '1 year 2 days 03:04:05', '\xdeadbeef',
    '{"b" : 1, "a": [1, 2 ]}', '{"b" : 1, "a": [1, 2 ]}', '{1,NULL,3}', ROW(5), '01234567-89ab-cdef-0123-456789abcdef', NULL);
\! eval "$cached"
\set from_trigger `$redis GET shop:wide:1`
-- what a reader loads is the same to the byte, whatever the session's settings
SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'; SET intervalstyle = 'iso_8601'; SET bytea_output = 'escape'; SET extra_float_digits = 0;
\! $redis DEL shop:wide:1 shop:wide:j:1 shop:wide:t:1 shop:wide:a:1 shop:wide:e:1 shop:wide:c:1
SELECT slate_cache_get('shop:wide:1') IS NOT NULL;
SELECT count(value) FROM slate_cache_mget('{shop:wide:1,shop:wide:j:1,shop:wide:t:1,shop:wide:a:1,shop:wide:e:1,shop:wide:c:1}');
\set from_reader `$redis GET shop:wide:1`
UPDATE wide SET f = f;
UPDATE wide SET f = f + 1;
UPDATE wide SET f = f - 1;
\set from_trigger_again `$redis GET shop:wide:1`
RESET datestyle; RESET timezone; RESET intervalstyle; RESET bytea_output; RESET extra_float_digits;
SELECT :'from_reader' = :'from_trigger' AS reader, :'from_trigger_again' = :'from_trigger' AS trigger;
\! eval "$cached" | grep -v '^shop:wide:1 '

-- a value that is stored out of line, and one that is compressed
CREATE TABLE big (id int PRIMARY KEY, note text, body text);
ALTER TABLE big ALTER body SET STORAGE EXTERNAL;
SELECT slate_cache_attach('big', row_keys => ARRAY['shop:big:{id}']);
INSERT INTO big VALUES (1, 'a', repeat('x', 100000)), (2, 'b', repeat('y', 3000));
UPDATE big SET note = 'changed';
\! $redis STRLEN shop:big:1; $redis STRLEN shop:big:2; $redis GET shop:big:1 | cut -c 1-40
BEGIN;
UPDATE big SET note = 'again';
DELETE FROM big WHERE id = 2;
UPDATE big SET body = 'short';
COMMIT;
\! $redis MGET shop:big:1 shop:big:2
