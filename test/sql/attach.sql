-- Putting rules on a table and taking them off: what attach makes, what the
-- view shows, and that detach, DROP TABLE, DROP TRIGGER, DROP SCHEMA and
-- DROP EXTENSION leave nothing behind, in the catalog or in Redis.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';

-- What depends on the extension without being part of it
CREATE TEMP VIEW left_behind AS
SELECT (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'slate_cache%') AS triggers,
       (SELECT count(*) FROM pg_depend WHERE deptype = 'x') AS dependencies;

-- the rules are arguments of triggers that fire always
CREATE TABLE invoices (id int PRIMARY KEY, customer_id int, note text);
SELECT slate_cache_attach('invoices',
                          row_keys => ARRAY['shop:invoice:{id}', 'shop:note:{id} -> note'],
                          list_keys => ARRAY['shop:invoices:customer:{customer_id}'],
                          drop_keys => ARRAY['shop:search:{customer_id}:*', 'shop:total'],
                          delete_drop_keys => ARRAY['shop:pdf:{id}'],
                          ttl => '2 hours', list_ttl => '10 minutes');
\d invoices
SELECT * FROM slate_cache.rules;
SELECT * FROM left_behind;

-- without a list_ttl lists live as long as rows; without any TTL the setting
-- slate_cache.default_ttl tells
SELECT slate_cache_attach('invoices', row_keys => ARRAY['shop:invoice:{id}'],
                          list_keys => ARRAY['shop:invoices:customer:{customer_id}'],
                          ttl => '1 day');
SELECT kind, template, ttl FROM slate_cache.rules;
SELECT slate_cache_attach('invoices', row_keys => ARRAY['shop:invoice:{id}'],
                          list_keys => ARRAY['shop:invoices:customer:{customer_id}']);
SELECT kind, template, ttl FROM slate_cache.rules;
SELECT slate_cache_attach('invoices', row_keys => ARRAY['shop:invoice:{id}'],
                          list_keys => ARRAY['shop:invoices:customer:{customer_id}'],
                          list_ttl => '1 minute');
SELECT kind, template, ttl FROM slate_cache.rules;
-- the setting counts at each change: rules that are in use already know it
INSERT INTO invoices VALUES (2, 7, 'default');
SET slate_cache.default_ttl = '20s';
UPDATE invoices SET note = 'shorter' WHERE id = 2;
\! $redis TTL shop:invoice:2 | sed 's/^1[89]$/20/'
SELECT slate_cache_ttl('shop:invoice:2'), slate_cache_ttl('shop:invoices:customer:7');
SELECT slate_cache_del('shop:invoice:2');
SELECT FROM slate_cache_get('shop:invoice:2');
\! $redis TTL shop:invoice:2 | sed 's/^1[89]$/20/'
RESET slate_cache.default_ttl;
DELETE FROM invoices WHERE id = 2;

-- attaching again replaces the rules, and drops what the old ones had cached
INSERT INTO invoices VALUES (1, 7, 'first');
\! $redis GET shop:invoice:1
SELECT slate_cache_attach('invoices', row_keys => ARRAY['store:invoice:{id}']);
SELECT template FROM slate_cache.rules;
\! $redis EXISTS shop:invoice:1
UPDATE invoices SET note = 'second';
\! $redis MGET shop:invoice:1 store:invoice:1
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'invoices'::regclass ORDER BY tgname;

-- a trigger that somebody has switched off is seen in the view
ALTER TABLE invoices DISABLE TRIGGER slate_cache_row;
SELECT template, enabled FROM slate_cache.rules;
ALTER TABLE invoices ENABLE ALWAYS TRIGGER slate_cache_row;
SELECT template, enabled FROM slate_cache.rules;

-- a trigger can be renamed, and is detached all the same
ALTER TRIGGER slate_cache_row ON invoices RENAME TO zz_cache;
SELECT template FROM slate_cache.rules;
SELECT slate_cache_detach('invoices');
SELECT count(*) AS rules FROM slate_cache.rules;
SELECT count(*) AS triggers FROM pg_trigger WHERE tgrelid = 'invoices'::regclass;

-- attaching drops what was cached before: nobody knows how old it is
\! $redis SET shop:invoice:1 '"stale"'
SELECT slate_cache_attach('invoices', row_keys => ARRAY['shop:invoice:{id}'],
                          list_keys => ARRAY['shop:invoices:customer:{customer_id}']);
\! $redis EXISTS shop:invoice:1

-- detach takes off the triggers, and drops what is cached
UPDATE invoices SET note = 'third';
SELECT slate_cache_get('shop:invoices:customer:7');
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
SELECT slate_cache_detach('invoices');
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
SELECT count(*) AS rules FROM slate_cache.rules;
SELECT * FROM left_behind;
UPDATE invoices SET note = 'fourth';
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
SELECT slate_cache_detach('invoices');

-- detach that is rolled back changes nothing
SELECT slate_cache_attach('invoices', row_keys => ARRAY['shop:invoice:{id}']);
UPDATE invoices SET note = 'fifth';
BEGIN;
SELECT slate_cache_detach('invoices');
ROLLBACK;
SELECT template FROM slate_cache.rules;
\! $redis GET shop:invoice:1

-- one transaction may attach a table and change it
BEGIN;
CREATE TABLE fresh (id int PRIMARY KEY, name text);
SELECT slate_cache_attach('fresh', row_keys => ARRAY['shop:fresh:{id}']);
INSERT INTO fresh VALUES (1, 'one');
COMMIT;
\! $redis GET shop:fresh:1

-- DROP TABLE
DROP TABLE fresh;
\! $redis EXISTS shop:fresh:1
SELECT template FROM slate_cache.rules;

-- DROP TABLE that is rolled back
BEGIN;
DROP TABLE invoices;
ROLLBACK;
\! $redis GET shop:invoice:1

-- DROP TRIGGER
DROP TRIGGER slate_cache_row ON invoices;
\! $redis EXISTS shop:invoice:1
SELECT count(*) AS rules FROM slate_cache.rules;
SELECT slate_cache_detach('invoices');
SELECT * FROM left_behind;

-- DROP SCHEMA
CREATE SCHEMA app;
CREATE TABLE app.users (id int PRIMARY KEY);
SELECT slate_cache_attach('app.users', row_keys => ARRAY['app:user:{id}']);
INSERT INTO app.users VALUES (1);
\! $redis GET app:user:1
SET client_min_messages = warning;
DROP SCHEMA app CASCADE;
RESET client_min_messages;
\! $redis EXISTS app:user:1
SELECT * FROM left_behind;

-- names that need quotes
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Odd ""Table" ("Odd ""Column" int PRIMARY KEY, "a:b" text);
SELECT slate_cache_attach('"Odd Schema"."Odd ""Table"',
                          row_keys => ARRAY['it''s:{Odd "Column}', 'b:{Odd "Column} -> a:b']);
INSERT INTO "Odd Schema"."Odd ""Table" VALUES (1, 'x');
\! $redis MGET "it's:1" b:1
\! $redis DEL "it's:1" b:1
SELECT slate_cache_get('it''s:1'), slate_cache_get('b:1');
SELECT * FROM slate_cache_mget('{it''s:1,it''s:2}');
SELECT rel, template, value_column FROM slate_cache.rules;
DROP TABLE "Odd Schema"."Odd ""Table";
\! $redis EXISTS "it's:1" b:1

-- doubled braces are literal ones, in the key and in what detach drops
CREATE TABLE braces (id int PRIMARY KEY);
SELECT slate_cache_attach('braces', row_keys => ARRAY['{{tag}}:{id}']);
INSERT INTO braces VALUES (1);
\! $redis GET '{tag}:1'
SELECT slate_cache_get('{tag}:1');
SELECT slate_cache_detach('braces');
\! $redis EXISTS '{tag}:1'
-- any key could be its own; one that is to be dropped is meant so
BEGIN;
SELECT slate_cache_attach('braces', row_keys => ARRAY['{id}', 'a{id}'], drop_keys => ARRAY['*:{id}']);
ROLLBACK;
DROP TABLE braces;

-- a second trigger by hand does not do harm for ever
CREATE TRIGGER by_hand AFTER INSERT OR UPDATE OR DELETE ON invoices FOR EACH ROW EXECUTE FUNCTION slate_cache.capture('row', 'shop:hand:{id}');
SELECT slate_cache_attach('invoices', row_keys => ARRAY['shop:invoice:{id}']);
SELECT tgname FROM pg_trigger WHERE tgrelid = 'invoices'::regclass ORDER BY tgname;
SELECT slate_cache_get('shop:invoice:1')->'id', slate_cache_get('shop:hand:1');
SELECT slate_cache_detach('invoices');

-- DROP EXTENSION needs no CASCADE, though a table is attached
SELECT slate_cache_attach('invoices', row_keys => ARRAY['shop:invoice:{id}']);
UPDATE invoices SET note = 'sixth';
\! $redis EXISTS shop:invoice:1
DROP EXTENSION slate_cache;
\! $redis EXISTS shop:invoice:1
SELECT * FROM left_behind;
SELECT count(*) AS schemas FROM pg_namespace WHERE nspname = 'slate_cache';
SELECT count(*) AS event_triggers FROM pg_event_trigger;
UPDATE invoices SET note = 'seventh';
ALTER TABLE invoices ADD COLUMN more int;
\! $redis EXISTS shop:invoice:1

-- in another schema; the same session goes on
CREATE EXTENSION slate_cache SCHEMA "Odd Schema";
SELECT "Odd Schema".slate_cache_attach('invoices', row_keys => ARRAY['shop:invoice:{id}']);
UPDATE invoices SET note = 'eighth';
SELECT "Odd Schema".slate_cache_get('shop:invoice:1');
SELECT template FROM slate_cache.rules;

-- with CASCADE
SET client_min_messages = warning;
DROP EXTENSION slate_cache CASCADE;
RESET client_min_messages;
\! $redis EXISTS shop:invoice:1
SELECT * FROM left_behind;
UPDATE invoices SET note = 'ninth';
