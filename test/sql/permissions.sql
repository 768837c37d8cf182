-- Who may do what: nobody talks to Redis by these functions who was not
-- granted to, nobody reads cached rows of tables that are not his to read, and
-- everybody's changes are pushed.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';

CREATE ROLE slate_regress_app;
CREATE ROLE slate_regress_owner;
CREATE ROLE slate_regress_nobody;
GRANT CREATE, USAGE ON SCHEMA public TO slate_regress_owner;

-- what PUBLIC may execute: names, and what the views for all show
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid
WHERE e.extname = 'slate_cache' AND d.classid = 'pg_proc'::regclass
AND has_function_privilege('slate_regress_nobody', p.oid, 'EXECUTE') ORDER BY p.oid::regprocedure::text COLLATE "C";
-- no function runs with its owner's rights
SELECT count(*) FROM pg_proc WHERE proname LIKE 'slate\_cache%' AND prosecdef;
SELECT n.nspname, c.relname, has_table_privilege('slate_regress_nobody', c.oid, 'SELECT') AS "select",
       has_table_privilege('slate_regress_nobody', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') AS change
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'slate_cache' ORDER BY 2;
SELECT has_schema_privilege('slate_regress_nobody', 'slate_cache', 'USAGE') AS usage, has_schema_privilege('slate_regress_nobody', 'slate_cache', 'CREATE') AS "create";

CREATE TABLE items (id int PRIMARY KEY, owner name, note text);
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:item:{id}'], list_keys => ARRAY['shop:items:{owner}'], drop_keys => ARRAY['shop:search:*']);
INSERT INTO items VALUES (1, 'slate_regress_app', 'mine'), (2, 'slate_regress_owner', 'theirs');
SELECT slate_cache_get('shop:items:slate_regress_app') IS NOT NULL;

-- a plain role
SET ROLE slate_regress_nobody;
SELECT slate_cache_get('shop:item:1');
SELECT * FROM slate_cache_mget('{shop:item:1}');
SELECT slate_cache_peek('shop:item:1');
SELECT slate_cache_fetch('shop:x', 'SELECT 1');
SELECT slate_cache_set('shop:x', '1');
SELECT slate_cache_mset('{}');
SELECT slate_cache_del('shop:item:1');
SELECT slate_cache_invalidate('shop:*');
SELECT slate_cache_invalidate_project('1');
SELECT slate_cache_attach('items', ARRAY['shop:item:{id}']);
SELECT slate_cache_detach('items');
SELECT slate_cache_attach_defaults();
SELECT slate_cache_stats_reset();
SELECT * FROM slate_cache.health;
SELECT slate_cache.read_health();
SELECT * FROM slate_cache.events;
SELECT slate_cache.read_events();
SELECT * FROM slate_cache.progress;
SELECT slate_cache.read_progress();
CREATE TEMP TABLE own (id int);
CREATE TRIGGER own AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION slate_cache.capture('row', 'shop:item:{id}');
-- ... may read these
SELECT scope IN ('server', 'session') FROM slate_cache.stats;
SELECT rel, kind, template FROM slate_cache.rules;
SELECT slate_cache_key('project', '42'), slate_cache_ttl('shop:item:1');
RESET ROLE;

-- the url is for superusers to set and to see, the password's file too; so are
-- the limits
SET ROLE slate_regress_nobody;
DO $$
BEGIN
    RAISE NOTICE 'url: %', current_setting('slate_cache.url');
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'url: not shown';
END $$;
DO $$
BEGIN
    RAISE NOTICE 'password_file: %', current_setting('slate_cache.password_file');
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'password_file: not shown';
END $$;
SELECT name FROM pg_settings WHERE name IN ('slate_cache.url', 'slate_cache.password_file', 'slate_cache.tls_key_file', 'slate_cache.mode');
SET slate_cache.url = 'redis://elsewhere';
SET slate_cache.password_file = '/etc/passwd';
SET slate_cache.tls_ca_file = '/etc/passwd';
SET slate_cache.timeout = 60000;
SET slate_cache.max_pending = '1GB';
SET slate_cache.max_value = '64MB';
SET slate_cache.sweep = off;
SET slate_cache.guard_life = 10;
SET slate_cache.default_ttl = 0;
SET slate_cache.connect_timeout = 1;
SET slate_cache.mode = 'commit';
RESET ROLE;

-- a plain role's changes need nothing, and are pushed
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON items TO slate_regress_nobody;
REVOKE ALL ON SCHEMA slate_cache FROM PUBLIC;
SET ROLE slate_regress_nobody;
UPDATE items SET note = 'changed by nobody' WHERE id = 1;
INSERT INTO items VALUES (3, 'slate_regress_nobody', 'new');
DELETE FROM items WHERE id = 2;
RESET ROLE;
\! $redis MGET shop:item:1 shop:item:3
\! $redis EXISTS shop:item:2 shop:items:slate_regress_app
SET ROLE slate_regress_nobody;
BEGIN;
TRUNCATE items;
INSERT INTO items VALUES (1, 'slate_regress_app', 'mine'), (2, 'slate_regress_owner', 'theirs');
COMMIT;
RESET ROLE;
\! $redis --scan --pattern 'shop:item:*' | LC_ALL=C sort
GRANT USAGE ON SCHEMA slate_cache TO PUBLIC;
REVOKE ALL ON items FROM slate_regress_nobody;

-- an app that was granted the functions reads a key with a rule only if it may
-- SELECT from the table: on a hit, on a miss, by whatever function
GRANT EXECUTE ON FUNCTION slate_cache_get, slate_cache_mget, slate_cache_peek, slate_cache_fetch, slate_cache_set, slate_cache_del TO slate_regress_app;
\! $redis EXISTS shop:item:1
SET ROLE slate_regress_app;
SELECT slate_cache_get('shop:item:1');
SELECT slate_cache_get('shop:item:99');
SELECT slate_cache_get('shop:items:slate_regress_app');
SELECT * FROM slate_cache_mget('{shop:other,shop:item:1}');
SELECT slate_cache_peek('shop:item:1');
SELECT slate_cache_fetch('shop:item:1', 'SELECT 1');
-- ... keys without a rule it may
SELECT slate_cache_set('shop:other', '"free"');
SELECT slate_cache_get('shop:other'), slate_cache_peek('shop:other');
RESET ROLE;
-- SELECT on some columns is not enough
GRANT SELECT (id, note) ON items TO slate_regress_app;
SET ROLE slate_regress_app;
SELECT slate_cache_get('shop:item:1');
RESET ROLE;
GRANT SELECT ON items TO slate_regress_app;
SET ROLE slate_regress_app;
SELECT slate_cache_get('shop:item:1')->>'note', slate_cache_peek('shop:item:1')->>'note';
SELECT key, value->>'note' FROM slate_cache_mget('{shop:item:1,shop:item:2}');
RESET ROLE;

-- row-level security: who may see some rows sees them in the table, never in
-- the cache, and does not fill it with his view of things
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON items USING (owner = current_user);
SELECT slate_cache_get('shop:item:2')->>'note', slate_cache_get('shop:item:1')->>'note';
SELECT count(*) FROM slate_cache_mget('{shop:items:slate_regress_app,shop:items:slate_regress_owner}');
SET ROLE slate_regress_app;
SELECT slate_cache_get('shop:item:1')->>'note', slate_cache_get('shop:item:2')->>'note';
SELECT key, value FROM slate_cache_mget('{shop:item:2,shop:item:1,shop:items:slate_regress_owner}');
SELECT slate_cache_peek('shop:item:1'), slate_cache_peek('shop:item:2');
SELECT slate_cache_fetch('shop:item:2', 'SELECT count(*) FROM items');
RESET ROLE;

-- several tables in one call, each by its own rights, whatever comes first
CREATE TABLE open_items (id int PRIMARY KEY);
CREATE TABLE secrets (id int PRIMARY KEY);
SELECT slate_cache_attach('open_items', row_keys => ARRAY['shop:a:{id}', 'shop:z:{id}']);
SELECT slate_cache_attach('secrets', row_keys => ARRAY['shop:secret:{id}']);
INSERT INTO open_items VALUES (1);
INSERT INTO secrets VALUES (1);
GRANT SELECT ON open_items TO slate_regress_app;
SET ROLE slate_regress_app;
SELECT key, value->'id' FROM slate_cache_mget('{shop:a:1,shop:item:2,shop:z:1}');
SELECT key, value->'id' FROM slate_cache_mget('{shop:a:1,shop:secret:1,shop:z:1}');
RESET ROLE;
DROP TABLE open_items, secrets;
\! $redis DEL shop:item:1 shop:item:2 shop:items:slate_regress_app shop:items:slate_regress_owner
SET ROLE slate_regress_app;
SELECT slate_cache_get('shop:item:1')->>'note', slate_cache_get('shop:item:2'), slate_cache_get('shop:items:slate_regress_owner');
SELECT slate_cache_fetch('shop:item:2', 'SELECT count(*) FROM items');
RESET ROLE;
\! $redis EXISTS shop:item:1 shop:item:2 shop:items:slate_regress_app shop:items:slate_regress_owner
-- ... its changes are pushed as everybody's
GRANT UPDATE ON items TO slate_regress_app;
SET ROLE slate_regress_app;
UPDATE items SET note = 'mine alone';
RESET ROLE;
\! $redis MGET shop:item:1 shop:item:2
-- the owner and those who bypass it are not concerned
SELECT slate_cache_get('shop:item:2')->>'note';
ALTER TABLE items FORCE ROW LEVEL SECURITY;
ALTER TABLE items OWNER TO slate_regress_owner;
GRANT EXECUTE ON FUNCTION slate_cache_get TO slate_regress_owner;
SET ROLE slate_regress_owner;
SELECT slate_cache_get('shop:item:1'), slate_cache_get('shop:item:2')->>'note';
RESET ROLE;
ALTER TABLE items OWNER TO CURRENT_USER;

-- an owner needs EXECUTE on attach, and nothing else
GRANT EXECUTE ON FUNCTION slate_cache_attach, slate_cache_detach, slate_cache_attach_defaults TO slate_regress_owner;
SET ROLE slate_regress_owner;
CREATE TABLE goods (id int PRIMARY KEY, name text);
SELECT slate_cache_attach('goods', row_keys => ARRAY['shop:good:{id}']);
INSERT INTO goods VALUES (1, 'pen');
\! $redis GET shop:good:1
SELECT slate_cache_attach('goods', row_keys => ARRAY['shop:good:{id}', 'shop:good:{name}']);
ALTER TABLE goods RENAME COLUMN id TO number;
ALTER TABLE goods ADD COLUMN price int;
UPDATE goods SET price = 5;
TRUNCATE goods;
INSERT INTO goods VALUES (2, 'ink');
\! $redis --scan --pattern 'shop:good:*' | LC_ALL=C sort
SELECT slate_cache_detach('goods');
\! $redis --scan --pattern 'shop:good:*' | LC_ALL=C sort
CREATE TABLE projects (id int PRIMARY KEY, user_id int);
SELECT slate_cache_attach_defaults();
INSERT INTO projects VALUES (1, 1);
DROP TABLE projects;
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:good:{id}']);
RESET ROLE;
-- a member of the owner is an owner
GRANT slate_regress_owner TO slate_regress_app;
GRANT EXECUTE ON FUNCTION slate_cache_attach TO slate_regress_app;
SET ROLE slate_regress_app;
SELECT slate_cache_attach('goods', row_keys => ARRAY['shop:good:{id}']);
RESET ROLE;
REVOKE slate_regress_owner FROM slate_regress_app;
-- functions in the way of an attaching or a capturing superuser are not called
GRANT CREATE ON DATABASE regression TO slate_regress_owner;
SET ROLE slate_regress_owner;
CREATE SCHEMA slate_regress_trap;
CREATE FUNCTION slate_regress_trap.capture() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION slate_regress_trap.quote_literal(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
SET search_path = slate_regress_trap, public;
SELECT slate_cache_attach('goods', row_keys => ARRAY['shop:good:{id}']);
UPDATE goods SET name = 'ink 2';
RESET search_path;
RESET ROLE;

-- a schema that is closed to a role closes its tables, in the cache, too
CREATE SCHEMA slate_regress_closed;
CREATE TABLE slate_regress_closed.parts (id int PRIMARY KEY);
SELECT slate_cache_attach('slate_regress_closed.parts', row_keys => ARRAY['shop:part:{id}']);
INSERT INTO slate_regress_closed.parts VALUES (1);
GRANT SELECT ON slate_regress_closed.parts TO slate_regress_app;
GRANT EXECUTE ON FUNCTION slate_cache_get, slate_cache_mget, slate_cache_peek TO slate_regress_app;
SET ROLE slate_regress_app;
SELECT slate_cache_get('shop:part:1');
SELECT slate_cache_peek('shop:part:1');
SELECT * FROM slate_cache_mget(ARRAY['shop:part:1']);
RESET ROLE;
GRANT USAGE ON SCHEMA slate_regress_closed TO slate_regress_app;
SET ROLE slate_regress_app;
SELECT slate_cache_get('shop:part:1');
RESET ROLE;

-- triggers are created in the name of who owns the extension, who may have ceased to be a superuser
ALTER FUNCTION slate_cache.capture() OWNER TO slate_regress_app;
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:item:{id}']);
SELECT DISTINCT kind FROM slate_cache.rules WHERE rel = 'items'::regclass ORDER BY kind;
SELECT slate_cache_detach('slate_regress_closed.parts');
ALTER FUNCTION slate_cache.capture() OWNER TO CURRENT_USER;
SELECT count(*) FROM slate_cache.rules WHERE rel = 'slate_regress_closed.parts'::regclass;

-- nor does slate_cache_verify() show what others have under one's own keys
SET ROLE slate_regress_owner;
CREATE TABLE wages (id int PRIMARY KEY);
INSERT INTO wages VALUES (7);
RESET ROLE;
SELECT slate_cache_attach('wages', row_keys => ARRAY['shop:salary:{id}']);
CREATE TABLE salaries (id int PRIMARY KEY, eur int);
SELECT slate_cache_attach('salaries', row_keys => ARRAY['shop:salary:{id}']);
INSERT INTO salaries VALUES (7, 1000000);
\! $redis GET shop:salary:7
GRANT EXECUTE ON FUNCTION slate_cache_verify TO slate_regress_owner;
SET ROLE slate_regress_owner;
SELECT * FROM slate_cache_verify('wages');
RESET ROLE;
GRANT SELECT ON salaries TO slate_regress_owner;
-- it looks again when a push that was on its way would have arrived
SET slate_cache.timeout = '1s';
SET ROLE slate_regress_owner;
SELECT * FROM slate_cache_verify('wages');
RESET ROLE;

SET client_min_messages = warning;
DROP TABLE salaries, wages;
DROP TABLE goods;
DROP SCHEMA slate_regress_closed CASCADE;
DROP OWNED BY slate_regress_app, slate_regress_owner, slate_regress_nobody;
DROP ROLE slate_regress_app, slate_regress_owner, slate_regress_nobody;
