-- What the owner of a table has defined for it, casts to json above all, runs as
-- him, whoever has changed or reads the row, and cannot write when the
-- transaction is being committed.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';

SET client_min_messages = warning;
CREATE EXTENSION citext;
RESET client_min_messages;
CREATE ROLE slate_regress_eve;
CREATE SCHEMA eve AUTHORIZATION slate_regress_eve;
SET ROLE slate_regress_eve;
SET search_path = eve, public;
CREATE TYPE mood AS ENUM ('fine', 'bad');
CREATE TABLE ran_as (who name);
CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    IF current_user = session_user THEN
        ALTER ROLE slate_regress_eve SUPERUSER;
    END IF;
    RETURN to_json(format('%s %s', current_user, current_setting('search_path')));
END $$;
CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);
CREATE TABLE orders (id int PRIMARY KEY, mood mood DEFAULT 'fine');
CREATE TABLE moods (id int PRIMARY KEY, moods mood[]);
RESET ROLE;
SELECT slate_cache_attach('orders', row_keys => ARRAY['shop:order:{id}', 'shop:mood:{id} -> mood'],
                          list_keys => ARRAY['shop:orders:{mood}']);
SELECT slate_cache_attach('moods', row_keys => ARRAY['shop:moods:{id}']);

-- a superuser changes a row, and reads it
INSERT INTO orders VALUES (1);
INSERT INTO moods VALUES (1, '{fine,bad}');
\! $redis MGET shop:order:1 shop:mood:1 shop:moods:1
SELECT slate_cache_del('shop:order:1', 'shop:mood:1');
SELECT * FROM slate_cache_mget('{shop:order:1,shop:mood:1,shop:orders:fine}');
SELECT rolsuper FROM pg_roles WHERE rolname = 'slate_regress_eve';

-- ANALYZE runs an index's functions as the owner, and a row that they change is
-- rendered when it is a superuser again
SET ROLE slate_regress_eve;
CREATE FUNCTION change(int) RETURNS int LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF session_user <> current_user THEN
        INSERT INTO eve.orders VALUES ($1) ON CONFLICT DO NOTHING;
    END IF;
    RETURN $1;
END $$;
CREATE FUNCTION pretend(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN eve.change($1); END';
CREATE TABLE trap AS SELECT 2 AS id;
CREATE INDEX ON trap (pretend(id));
RESET ROLE;
DELETE FROM orders;
ANALYZE trap;
\! $redis GET shop:order:2
SELECT rolsuper, current_user = session_user AS myself, current_setting('search_path') AS path,
       current_setting('transaction_read_only') AS "read only"
FROM pg_roles WHERE rolname = 'slate_regress_eve';

-- nothing can be written there: constraints have been checked; the row is
-- dropped from the cache instead
SET ROLE slate_regress_eve;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE OR REPLACE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO eve.child VALUES (999);
    RETURN '"written"';
END $$;
RESET ROLE;
UPDATE orders SET mood = 'bad';
\! $redis EXISTS shop:order:2
TABLE child;
SELECT slate_cache_get('shop:order:2');

-- a cast of a superuser's runs as before, but for search_path
CREATE OR REPLACE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    RETURN to_json(format('%s %s', current_user = session_user, current_setting('search_path')));
END $$;
ALTER FUNCTION mood_json OWNER TO CURRENT_USER;
UPDATE orders SET mood = 'fine';
\! $redis GET shop:order:2

-- but what it does is undone: its rows, its settings
CREATE OR REPLACE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO eve.child VALUES (999);
    SET slate_cache.mode = 'async';
    RETURN '"written"';
END $$;
UPDATE orders SET mood = 'bad';
\! $redis GET shop:order:2
TABLE child;
SHOW slate_cache.mode;

-- and a cursor that it leaves open is closed: portals have been, by then
CREATE OR REPLACE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    c refcursor;
BEGIN
    OPEN c FOR SELECT generate_series(1, 100000);
    RETURN '"open"';
END $$;
UPDATE orders SET mood = 'fine';
\! $redis GET shop:order:2
SELECT count(*) FROM pg_cursors WHERE statement LIKE 'SELECT generate_series%';
ALTER FUNCTION mood_json OWNER TO slate_regress_eve;
UPDATE orders SET mood = 'bad';
\! $redis GET shop:order:2
SELECT count(*) FROM pg_cursors WHERE statement LIKE 'SELECT generate_series%';

-- he who has a type gains nothing by who has the table that uses it: his cast is not
-- called, unless he has declared that it lends his own rights
CREATE ROLE slate_regress_mal;
CREATE SCHEMA mal AUTHORIZATION slate_regress_mal;
GRANT USAGE ON SCHEMA mal TO slate_regress_eve;
GRANT USAGE ON SCHEMA eve TO slate_regress_mal;
SET ROLE slate_regress_mal;
CREATE TYPE mal.state AS ENUM ('on');
CREATE TYPE mal.pair AS (number int, state mal.state);
SET ROLE slate_regress_eve;
CREATE TABLE secret (secret text);
CREATE TABLE tickets (id int PRIMARY KEY, state mal.state, pair mal.pair);
GRANT INSERT ON tickets TO slate_regress_mal;
RESET ROLE;
SELECT slate_cache_attach('tickets', row_keys => ARRAY['shop:ticket:{id}']);
SET ROLE slate_regress_mal;
CREATE FUNCTION mal.state_json(mal.state) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    RETURN to_json((SELECT format('%s has seen %s secrets', current_user, count(*)) FROM eve.secret));
EXCEPTION WHEN insufficient_privilege THEN
    RETURN to_json(format('%s may not', current_user));
END $$;
CREATE CAST (mal.state AS json) WITH FUNCTION mal.state_json(mal.state);
INSERT INTO eve.tickets VALUES (1, 'on', (1, 'on'));
RESET ROLE;
\! $redis GET shop:ticket:1
SELECT slate_cache_del('shop:ticket:1');
SELECT slate_cache_get('shop:ticket:1');
SELECT slate_cache_fetch('shop:query', 'SELECT id, state FROM eve.tickets');
SELECT slate_cache_fetch('shop:query:one', 'SELECT state FROM eve.tickets');
ALTER FUNCTION mal.state_json SECURITY DEFINER;
SELECT slate_cache_del('shop:ticket:1');
SELECT slate_cache_get('shop:ticket:1');
ALTER FUNCTION mal.state_json SECURITY INVOKER;

-- of two, each runs as itself
CREATE TABLE both_of_them (id int PRIMARY KEY, mood mood, state mal.state);
SELECT slate_cache_attach('both_of_them', row_keys => ARRAY['shop:both:{id}']);
INSERT INTO both_of_them VALUES (1, 'fine', 'on');
\! $redis GET shop:both:1

-- the values of a query are its caller's choice: a cast lends him none of its
-- owner's rights, but to whom he gives them
SET ROLE slate_regress_eve;
INSERT INTO secret VALUES ('hidden');
CREATE OR REPLACE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    RETURN to_json((SELECT format('%s knows: %s', current_user, secret) FROM eve.secret));
EXCEPTION WHEN insufficient_privilege THEN
    RETURN to_json(format('%s may not', current_user));
END $$;
RESET ROLE;
GRANT EXECUTE ON FUNCTION slate_cache_fetch TO slate_regress_mal;
SET ROLE slate_regress_mal;
SELECT slate_cache_fetch('shop:lent', $$SELECT 'fine'::eve.mood AS mood, 1 AS n$$);
SELECT slate_cache_fetch('shop:lent:one', $$SELECT ARRAY['fine'::eve.mood]$$);
SELECT slate_cache_fetch('shop:lent:record', $$SELECT ROW('fine'::eve.mood, 2) AS r, 1 AS n$$);
RESET ROLE;
SELECT slate_cache_fetch('shop:own', $$SELECT 'fine'::eve.mood AS mood, 1 AS n$$);
SELECT slate_cache_fetch('shop:own:record', $$SELECT ARRAY[ROW('fine'::eve.mood, 2)] AS r, 1 AS n$$);
GRANT slate_regress_eve TO slate_regress_mal;
SET ROLE slate_regress_mal;
SELECT slate_cache_fetch('shop:member', $$SELECT 'fine'::eve.mood AS mood, 1 AS n$$);
RESET ROLE;
REVOKE slate_regress_eve FROM slate_regress_mal;

-- nor does a table's owner choose whose rights he borrows
SET ROLE slate_regress_mal;
CREATE TABLE mal.borrowed (id int PRIMARY KEY, mood eve.mood);
RESET ROLE;
SELECT slate_cache_attach('mal.borrowed', row_keys => ARRAY['shop:borrowed:{id}']);
SET ROLE slate_regress_mal;
INSERT INTO mal.borrowed VALUES (1, 'fine');
RESET ROLE;
\! $redis GET shop:borrowed:1

-- a cast that says that the statement was canceled does not have others' commits fail
SET ROLE slate_regress_eve;
CREATE OR REPLACE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'no commits today' USING ERRCODE = 'query_canceled';
END $$;
RESET ROLE;
UPDATE both_of_them SET id = 2;
SELECT id FROM both_of_them;
SET ROLE slate_regress_eve;
CREATE OR REPLACE FUNCTION mood_json(mood) RETURNS json LANGUAGE sql AS $$SELECT '"fine"'::json$$;
RESET ROLE;

-- what a key's text is made a value by runs as the table's owner: a check of a domain
-- that is in an array
SET ROLE slate_regress_mal;
CREATE DOMAIN mal.number AS int;
GRANT USAGE ON TYPE mal.number TO slate_regress_eve;
CREATE FUNCTION mal.check_number(int) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'checked by %', current_user;
    RETURN true;
END $$;
SET ROLE slate_regress_eve;
CREATE TABLE lots (numbers mal.number[] PRIMARY KEY, project_id mal.number[]);
INSERT INTO lots VALUES ('{7}', '{1}');
RESET ROLE;
SELECT slate_cache_attach('lots', row_keys => ARRAY['shop:lot:{numbers}']);
SET ROLE slate_regress_mal;
ALTER DOMAIN mal.number ADD CHECK (mal.check_number(VALUE)) NOT VALID;
RESET ROLE;
SELECT slate_cache_get('shop:lot:{7}');
SELECT slate_cache_invalidate_project('{1}');

-- rules are not a view's, and an operator of the same name is not taken
CREATE VIEW a_view AS SELECT 7 AS id;
CREATE TRIGGER slate_cache_row INSTEAD OF INSERT ON a_view FOR EACH ROW
    EXECUTE FUNCTION slate_cache.capture('row', 'shop:view:{id}');
ALTER EVENT TRIGGER slate_cache_altered DISABLE;
CREATE TRIGGER slate_cache_row INSTEAD OF INSERT ON a_view FOR EACH ROW
    EXECUTE FUNCTION slate_cache.capture('row', 'shop:view:{id}');
ALTER EVENT TRIGGER slate_cache_altered ENABLE ALWAYS;
SELECT count(*) FROM slate_cache.rules WHERE rel = 'a_view'::regclass;
SELECT slate_cache_get('shop:view:7');
DROP VIEW a_view;
CREATE DOMAIN mail AS public.citext;
CREATE TABLE mails (mail mail PRIMARY KEY, n char(3));
SELECT slate_cache_attach('mails', row_keys => ARRAY['shop:mail:{mail}']);
INSERT INTO mails VALUES ('A@b', 'abc');
CREATE FUNCTION other_equal(mail, public.citext) RETURNS bool LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE 'another operator'; RETURN true; END $$;
CREATE OPERATOR public.= (LEFTARG = mail, RIGHTARG = public.citext, FUNCTION = other_equal);
SELECT slate_cache_del('shop:mail:A@b');
SELECT slate_cache_get('shop:mail:A@b');
DROP OPERATOR public.= (mail, public.citext);

-- domains over types whose names SQL reads otherwise
CREATE DOMAIN code AS char(3);
CREATE DOMAIN flags AS bit(4);
CREATE DOMAIN short AS varchar(5);
CREATE TABLE codes (code code, flags flags, short short, PRIMARY KEY (code, flags, short));
SELECT slate_cache_attach('codes', row_keys => ARRAY['shop:code:{code}:{flags}:{short}']);
INSERT INTO codes VALUES ('abc', B'1010', 'short');
SELECT slate_cache_del('shop:code:abc:1010:short');
SELECT slate_cache_get('shop:code:abc:1010:short');

-- nor does who only reads choose what a superuser's cast calls: what he loads is there
-- for all
CREATE TYPE weather AS ENUM ('fair');
CREATE FUNCTION weather_json(weather) RETURNS json LANGUAGE sql AS 'SELECT to_json(upper($1::text))';
CREATE CAST (weather AS json) WITH FUNCTION weather_json(weather);
CREATE TABLE days (id int PRIMARY KEY, weather weather);
SELECT slate_cache_attach('days', row_keys => ARRAY['shop:day:{id}']);
INSERT INTO days VALUES (1, 'fair');
SELECT slate_cache_del('shop:day:1');
GRANT SELECT ON days TO slate_regress_mal;
GRANT EXECUTE ON FUNCTION slate_cache_get TO slate_regress_mal;
SET ROLE slate_regress_mal;
CREATE FUNCTION mal.upper(text) RETURNS text LANGUAGE sql AS $$SELECT 'poisoned'$$;
SET search_path = mal, pg_catalog;
SELECT public.slate_cache_get('shop:day:1');
RESET ROLE;
SET search_path = eve, public;
\! $redis GET shop:day:1

-- what a reader's transaction may do does not depend on what he reads (from
-- PostgreSQL 16 on a function cannot set that)
SET ROLE slate_regress_eve;
CREATE OR REPLACE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        SET LOCAL transaction_read_only = on;
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    RETURN '"read"';
END $$;
RESET ROLE;
BEGIN;
SELECT slate_cache_del('shop:order:2');
SELECT slate_cache_get('shop:order:2');
SHOW transaction_read_only;
COMMIT;

-- nor is anything left of what it does there: no cursor, no constraints that were
-- made immediate
SET ROLE slate_regress_eve;
CREATE OR REPLACE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    c refcursor;
BEGIN
    OPEN c FOR SELECT generate_series(1, 100000);
    SET CONSTRAINTS ALL IMMEDIATE;
    RETURN '"open"';
END $$;
RESET ROLE;
BEGIN;
SELECT slate_cache_del('shop:order:2');
SELECT slate_cache_get('shop:order:2');
SELECT count(*) FROM pg_cursors WHERE statement LIKE 'SELECT generate_series%';
INSERT INTO child VALUES (2);       -- deferred, still
INSERT INTO parent VALUES (2);
COMMIT;
SELECT slate_cache_fetch('shop:query:open', 'SELECT mood FROM eve.orders');

-- whoever warms a table does not lose his cursor to a check that closes all
SET ROLE slate_regress_eve;
CREATE FUNCTION close_all(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'CLOSE ALL'; RETURN true; END $$;
CREATE DOMAIN closing AS int CHECK (eve.close_all(VALUE));
CREATE TABLE closed (id int PRIMARY KEY, numbers closing[], project_id int);
INSERT INTO closed SELECT i, ARRAY[i]::closing[], 1 FROM generate_series(1, 2000) i;
RESET ROLE;
SELECT slate_cache_attach('closed', row_keys => ARRAY['shop:closed:{numbers}']);
\set VERBOSITY sqlstate
SELECT slate_cache_warm('closed');
SELECT count(*) FROM slate_cache_verify('closed', 500);
\set VERBOSITY default
SELECT slate_cache_invalidate_project('1');

-- nor is a key taken for a value by a check that says otherwise when it is asked again
SET ROLE slate_regress_eve;
CREATE FUNCTION flip(int) RETURNS bool LANGUAGE sql AS $$ SELECT random() < 0.5 $$;
CREATE DOMAIN flipping AS int CHECK (eve.flip(VALUE));
CREATE TABLE flips (id flipping[], v text);
RESET ROLE;
SELECT slate_cache_attach('flips', row_keys => ARRAY['shop:flips:{id}']);
SELECT count(slate_cache_get('shop:flips:{' || i || '}')) FROM generate_series(1, 100) i;
SELECT count(value) FROM slate_cache_mget(ARRAY(SELECT 'shop:flips:{' || i || '}' FROM generate_series(1, 100) i));

-- a type that has gone with its column when rows are rendered has no casts: the other
-- table's row is written all the same
CREATE DOMAIN passing AS int;
CREATE TABLE passes (id int PRIMARY KEY, n passing);
CREATE TABLE stays (id int PRIMARY KEY, n int);
SELECT slate_cache_attach('passes', row_keys => ARRAY['shop:passes:{id}']);
SELECT slate_cache_attach('stays', row_keys => ARRAY['shop:stays:{id}']);
INSERT INTO passes VALUES (1, 1);
INSERT INTO stays VALUES (1, 1);
BEGIN;
UPDATE passes SET n = 2;
UPDATE stays SET n = 2;
DROP DOMAIN passing CASCADE;
COMMIT;
\! $redis GET shop:passes:1
\! $redis GET shop:stays:1

-- a column may be called anything
CREATE TABLE odd (id int PRIMARY KEY, "slate_cache row" int, "slate_cache keys" text, project_id int);
SELECT slate_cache_attach('odd', row_keys => ARRAY['shop:odd:{id}'], list_keys => ARRAY['shop:odds:{slate_cache row}']);
INSERT INTO odd VALUES (1, 4711, 'k', 42), (2, 4711, 'l', 43);
SELECT slate_cache_del('shop:odd:1', 'shop:odd:2');
SELECT slate_cache_get('shop:odd:1');
SELECT slate_cache_get('shop:odds:4711');
SELECT * FROM slate_cache_mget('{shop:odd:1,shop:odd:2}');
SELECT slate_cache_invalidate_project('42');
\! $redis EXISTS shop:odd:1
\! $redis EXISTS shop:odd:2

-- a type newer than the table that uses it, both dropped in one command
RESET search_path;
CREATE SCHEMA gone CREATE TABLE orders (id int PRIMARY KEY);
CREATE TYPE gone.state AS ENUM ('new');
ALTER TABLE gone.orders ADD COLUMN state gone.state;
SET client_min_messages = warning;
DROP SCHEMA gone CASCADE;
DROP TABLE eve.odd;
DROP OWNED BY slate_regress_eve CASCADE;
DROP FUNCTION IF EXISTS eve.mood_json;
DROP TYPE IF EXISTS eve.weather CASCADE;
DROP EXTENSION citext CASCADE;
DROP TABLE IF EXISTS eve.days;
DROP OWNED BY slate_regress_mal CASCADE;
DROP ROLE slate_regress_eve, slate_regress_mal;
