-- Rules that attach would not have made, commands that reach tables by odd ways,
-- keys that no row can have: readers go on, and nothing gets old.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';

-- ALTER VIEW, and its like, rename columns of tables, too
CREATE TABLE items (id int PRIMARY KEY, v int);
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:item:{id}']);
INSERT INTO items VALUES (1, 1);
ALTER VIEW items RENAME COLUMN v TO w;
SELECT slate_cache_get('shop:item:1');
ALTER VIEW items RENAME COLUMN id TO ident;
ALTER MATERIALIZED VIEW items RENAME COLUMN id TO ident;
ALTER FOREIGN TABLE items RENAME COLUMN id TO ident;
INSERT INTO items VALUES (2, 2);
CREATE VIEW seen AS SELECT 1 AS a;
CREATE TABLE holder (id int PRIMARY KEY, s seen);
SELECT slate_cache_attach('holder', row_keys => ARRAY['shop:holder:{id}']);
INSERT INTO holder VALUES (1, ROW(1));
SELECT slate_cache_get('shop:holder:1');
ALTER VIEW seen RENAME COLUMN a TO b;
SELECT slate_cache_get('shop:holder:1');
DROP TABLE holder;
DROP VIEW seen;

-- one table, one set of rules
CREATE TRIGGER second AFTER INSERT OR UPDATE OR DELETE ON items FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('row', 'shop:second:{id}');
CREATE TABLE parts (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
SELECT slate_cache_attach('parts', row_keys => ARRAY['shop:part:{id}']);
CREATE TABLE part0 (id int PRIMARY KEY, v int);
SELECT slate_cache_attach('part0', row_keys => ARRAY['shop:part0:{id}']);
INSERT INTO part0 VALUES (1, 1);
ALTER TRIGGER slate_cache_row ON part0 RENAME TO other_row;
ALTER TRIGGER slate_cache_truncate ON part0 RENAME TO other_truncate;
ALTER TABLE parts ATTACH PARTITION part0 FOR VALUES FROM (0) TO (100);
SELECT slate_cache_detach('part0');
ALTER TABLE parts ATTACH PARTITION part0 FOR VALUES FROM (0) TO (100);
SELECT slate_cache_get('shop:part:1');
UPDATE parts SET v = 2;
SELECT slate_cache_get('shop:part:1');
DROP TABLE parts;

-- a temporary table has no rules, and no key of others'
BEGIN;
CREATE TEMP TABLE mine (id int) ON COMMIT DROP;
SAVEPOINT made;
CREATE TRIGGER slate_cache_row AFTER INSERT OR UPDATE OR DELETE ON mine FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('row', 'shop:item:{id}');
ROLLBACK TO made;
ALTER EVENT TRIGGER slate_cache_altered DISABLE;
CREATE TRIGGER slate_cache_row AFTER INSERT OR UPDATE OR DELETE ON mine FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('row', 'shop:item:{id}');
ALTER EVENT TRIGGER slate_cache_altered ENABLE ALWAYS;
COMMIT;

-- whoever looks for a key does not fall over a table that has just gone, and whose
-- trigger he has still seen
CREATE TABLE gone (id int PRIMARY KEY);
SELECT slate_cache_attach('gone', row_keys => ARRAY['shop:gone:{id}']);
BEGIN;
SET LOCAL allow_system_table_mods = on;
DELETE FROM pg_class WHERE oid = 'gone'::regclass;
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:item:{id}']);
SELECT slate_cache_get('shop:item:1'), slate_cache_get('shop:gone:1');
ROLLBACK;
DROP TABLE gone;

-- arguments that make no sense are refused; where event triggers do not fire, they keep
-- the writers of that table from writing, and nobody from reading
CREATE TABLE hand (id int PRIMARY KEY);
CREATE TRIGGER hand AFTER INSERT OR UPDATE OR DELETE ON hand FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('row', 'shop:item:{id}', 'bogus', '1');
CREATE TRIGGER hand AFTER INSERT OR UPDATE OR DELETE ON hand FOR EACH ROW EXECUTE FUNCTION slate_cache.capture();
CREATE TRIGGER hand AFTER INSERT OR UPDATE OR DELETE ON hand FOR EACH ROW EXECUTE FUNCTION slate_cache.capture('row');
CREATE TRIGGER hand AFTER INSERT OR UPDATE OR DELETE ON hand FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('row', 'shop:item:{id}', 'list');
CREATE TRIGGER hand AFTER INSERT OR UPDATE OR DELETE ON hand FOR EACH ROW EXECUTE FUNCTION slate_cache.capture('ttl_ms', '5');
ALTER EVENT TRIGGER slate_cache_altered DISABLE;
CREATE TRIGGER hand AFTER INSERT OR UPDATE OR DELETE ON hand FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('row', 'shop:item:{id}', 'bogus', '1');
ALTER EVENT TRIGGER slate_cache_altered ENABLE ALWAYS;
INSERT INTO hand VALUES (1);
SELECT slate_cache_get('shop:item:1'), slate_cache_get('shop:item:77');
DROP TABLE hand;

-- a trigger that would not see all changes is refused, by whatever it is kept from
-- seeing them; that of a partitioned table sees those of its partitions
CREATE TABLE part (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE part_0 PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE TRIGGER part AFTER INSERT ON part FOR EACH ROW EXECUTE FUNCTION slate_cache.capture('row', 'shop:part:{id}');
CREATE TRIGGER part AFTER UPDATE OR INSERT ON part FOR EACH ROW EXECUTE FUNCTION slate_cache.capture('row', 'shop:part:{id}');
CREATE TRIGGER part AFTER INSERT OR UPDATE OF v OR DELETE ON part FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('row', 'shop:part:{id}');
CREATE TRIGGER part AFTER UPDATE ON part FOR EACH ROW WHEN (OLD.v IS DISTINCT FROM NEW.v)
EXECUTE FUNCTION slate_cache.capture('row', 'shop:part:{id}');
CREATE TRIGGER part AFTER INSERT OR UPDATE OR DELETE ON part FOR EACH ROW WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION slate_cache.capture('row', 'shop:part:{id}');
CREATE TRIGGER part BEFORE INSERT OR UPDATE OR DELETE ON part_0 FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('row', 'shop:part:{id}');
CREATE TRIGGER part AFTER INSERT OR UPDATE OR DELETE ON part EXECUTE FUNCTION slate_cache.capture('row', 'shop:part:{id}');
CREATE TRIGGER part AFTER TRUNCATE ON part EXECUTE FUNCTION slate_cache.capture('row', 'shop:part:{id}');
CREATE TRIGGER part BEFORE TRUNCATE ON part EXECUTE FUNCTION slate_cache.capture_truncate();
CREATE TRIGGER part AFTER TRUNCATE OR DELETE ON part EXECUTE FUNCTION slate_cache.capture_truncate();
CREATE TRIGGER part AFTER TRUNCATE ON part WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION slate_cache.capture_truncate();
CREATE TRIGGER part AFTER DELETE OR UPDATE OR INSERT ON part FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('row', 'shop:part:{id}');
CREATE OR REPLACE TRIGGER part AFTER DELETE OR UPDATE ON part FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('row', 'shop:part:{id}');
CREATE TRIGGER emptied AFTER TRUNCATE ON part EXECUTE FUNCTION slate_cache.capture_truncate();
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (100) TO (200);
CREATE TABLE part_2 (id int PRIMARY KEY, v int);
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (200) TO (300);
INSERT INTO part VALUES (1, 1), (101, 1), (201, 1);
UPDATE part SET v = 2;
SELECT slate_cache_peek('shop:part:1'), slate_cache_peek('shop:part:101'), slate_cache_peek('shop:part:201');
DROP TABLE part;

-- rules that no row could have a key by are refused there, too
CREATE TABLE hand (id int PRIMARY KEY, p point);
CREATE TRIGGER hand AFTER INSERT OR UPDATE OR DELETE ON hand FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('row', 'shop:hand:{nocolumn}');
CREATE TRIGGER hand AFTER INSERT OR UPDATE OR DELETE ON hand FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('row', 'shop:hand:{p}');
DROP TABLE hand;

-- a TTL that Redis would not take is as if there were none
CREATE TABLE hand (id int PRIMARY KEY);
CREATE TRIGGER hand AFTER INSERT OR UPDATE OR DELETE ON hand FOR EACH ROW
EXECUTE FUNCTION slate_cache.capture('ttl_ms', '-5', 'row', 'shop:minus:{id}');
INSERT INTO hand VALUES (1);
\! $redis GET shop:minus:1
SELECT slate_cache_ttl('shop:minus:1');
DROP TABLE hand;

-- a key that no row can have has no value: domains in arrays and rows, types
-- with a syntax of their own
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TYPE pair AS (a positive, b int);
CREATE TABLE odd (id positive[] PRIMARY KEY, p pair UNIQUE, q tsquery UNIQUE);
SELECT slate_cache_attach('odd', row_keys => ARRAY['shop:odd:{id}', 'shop:pair:{p}', 'shop:query:{q}']);
INSERT INTO odd VALUES ('{1}', '(1,2)', 'a & b');
SELECT slate_cache_get('shop:odd:{-1}');
SELECT * FROM slate_cache_mget(ARRAY['shop:odd:{1}', 'shop:odd:{-1}', 'shop:pair:(1,2)', 'shop:pair:(-1,2)',
                                     'shop:query:a &', $$shop:query:'a' & 'b'$$, 'shop:item:1']);
\! $redis SET 'shop:odd:{-1}' 1
SELECT key, problem FROM slate_cache_verify('odd');
DROP TABLE odd;

-- all keys of a project, whatever the session's settings are
CREATE TABLE visits (project_id int, at timestamptz, day date, PRIMARY KEY (project_id, at));
SELECT slate_cache_attach('visits', row_keys => ARRAY['shop:visit:{project_id}:{at}', 'shop:day:{project_id}:{day}']);
INSERT INTO visits VALUES (42, '2024-05-01 12:00:00+00', '2024-05-01');
SET timezone = 'Europe/Berlin';
SET datestyle = 'German';
\! $redis --scan --pattern 'shop:visit:*'
SELECT slate_cache_invalidate_project('42');
\! $redis --scan --pattern 'shop:[vd]*'
RESET timezone;
RESET datestyle;
DROP TABLE visits;
-- and a column of that name that cannot be an id is none
CREATE TABLE jsons (id int PRIMARY KEY, project_id json);
SELECT slate_cache_attach('jsons', row_keys => ARRAY['shop:jsons:{id}']);
SELECT slate_cache_invalidate_project('42');
DROP TABLE jsons;

-- a list's key that can be taken apart in several ways has the rows of all of them
CREATE TABLE split (id int PRIMARY KEY, a text, b text);
CREATE TABLE whole (id int PRIMARY KEY, name text);
SELECT slate_cache_attach('split', list_keys => ARRAY['shop:s:{a}:{b}'], list_ttl => '1 hour');
SELECT slate_cache_attach('whole', list_keys => ARRAY['shop:s:row:{name}'], list_ttl => '2 hours');
INSERT INTO whole VALUES (1, 'p:q');
INSERT INTO split VALUES (1, 'x:y', 'z');
SELECT slate_cache_get('shop:s:x:y:z');
INSERT INTO split VALUES (2, 'x', 'y:z'), (3, 'x:y', 'z');
SELECT slate_cache_get('shop:s:x:y:z');
-- one that another table's rule has rows for is that rule's
SELECT * FROM slate_cache_mget(ARRAY['shop:s:x:y:z', 'shop:s:row:p:q', 'shop:s:x:none:z', 'shop:s:x:y:z']);
\! $redis PTTL shop:s:row:p:q | sed 's/^71[0-9]*$/two hours/'
\! $redis PTTL shop:s:x:none:z | sed 's/^3[56][0-9]*$/one hour/'
SELECT slate_cache_del('shop:s:x:y:z', 'shop:s:row:p:q');
SELECT slate_cache_warm('split'), slate_cache_warm('whole');
\! $redis MGET shop:s:x:y:z shop:s:row:p:q
DROP TABLE split, whole;
-- each once, though equality finds it in two ways
CREATE TABLE numbers (id int PRIMARY KEY, a numeric, b numeric);
SELECT slate_cache_attach('numbers', list_keys => ARRAY['shop:n:{a}.{b}']);
INSERT INTO numbers VALUES (1, 1, 0.0), (2, 1.0, 0), (3, 1, 0);
SELECT slate_cache_get('shop:n:1.0.0');
SELECT slate_cache_get('shop:n:1.0');
DROP TABLE numbers;

-- a trigger that sees a part of the changes, made where nobody could refuse that, goes on
CREATE TABLE hand_made (id int PRIMARY KEY);
ALTER EVENT TRIGGER slate_cache_altered DISABLE;
CREATE TRIGGER inserts AFTER INSERT ON hand_made FOR EACH ROW EXECUTE FUNCTION slate_cache.capture('row', 'shop:hand_made:{id}');
ALTER EVENT TRIGGER slate_cache_altered ENABLE ALWAYS;
COMMENT ON TRIGGER inserts ON hand_made IS 'as it is';
ALTER TRIGGER inserts ON hand_made RENAME TO inserted;
INSERT INTO hand_made VALUES (1);
\! $redis GET shop:hand_made:1
CREATE OR REPLACE TRIGGER inserted AFTER INSERT ON hand_made FOR EACH ROW EXECUTE FUNCTION slate_cache.capture('row', 'shop:hand_made:{id}');
DROP TABLE hand_made;

-- what was never committed is not filled
BEGIN;
SELECT slate_cache_set('shop:leak:a', '"never committed"');
SELECT slate_cache_fetch('shop:leak:b', $$SELECT slate_cache_get('shop:leak:a')$$);
ROLLBACK;
CREATE FUNCTION set_and_get() RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM slate_cache_set('shop:leak:c', '"never committed"');
    RETURN slate_cache_get('shop:leak:c');
END $$;
BEGIN;
SELECT slate_cache_fetch('shop:leak:d', 'SELECT set_and_get()');
ROLLBACK;
\! $redis MGET shop:leak:a shop:leak:b shop:leak:c shop:leak:d
DROP FUNCTION set_and_get;
DROP TABLE items;
