-- Bad input: each a clear error with code, detail and hint, or the documented
-- behaviour.  What a row holds never fails the transaction that changes it.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';

-- Run a command, and tell all that its error says
CREATE FUNCTION try(command text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    state text; message text; detail text; hint text;
BEGIN
    EXECUTE command;
    RETURN NEXT 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
                            detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    -- 17 gives the bounds of a setting their units, too
    RETURN NEXT state || ': ' || regexp_replace(message, '\((\d+) \w+ \.\. (\d+) \w+\)$', '(\1 .. \2)');
    RETURN NEXT 'detail: ' || coalesce(nullif(detail, ''), 'NONE');
    RETURN NEXT 'hint: ' || coalesce(nullif(hint, ''), 'NONE');
END $$;
CREATE FUNCTION try_key(template text) RETURNS SETOF text LANGUAGE sql AS
$$ SELECT try(format('SELECT slate_cache_attach(''items'', row_keys => ARRAY[%L])', template)) $$;
CREATE FUNCTION try_drop(template text) RETURNS SETOF text LANGUAGE sql AS
$$ SELECT try(format('SELECT slate_cache_attach(''items'', drop_keys => ARRAY[%L])', template)) $$;
\pset tuples_only on
\pset format unaligned

CREATE TABLE items (id int PRIMARY KEY, name text, note text);

-- a template with an unknown column
SELECT try_key('shop:item:{nummer}');
SELECT try_key('shop:item:{id} -> nummer');
SELECT try_drop('shop:search:{nummer}:*');
-- an arrow without blanks, or where no column can be held
SELECT try_key('shop:item:{id}->note');
SELECT try_key('shop:item:{id} ->');
SELECT try('SELECT slate_cache_attach(''items'', list_keys => ARRAY[''shop:items:{name} -> note''])');
SELECT try_drop('shop:search:{name} -> note');
BEGIN;
SELECT slate_cache_attach('items', drop_keys => ARRAY['shop:graph:{id}->*']);
ROLLBACK;
-- ... nor is a system column one, or a name in other letters
SELECT try_key('shop:item:{ctid}');
SELECT try_key('shop:item:{tableoid}');
SELECT try_key('shop:item:{ID}');
SELECT try_key('shop:item:{ id }');

-- braces
SELECT try_key('shop:item:{id');
SELECT try_key('shop:item:{id}:{name');
SELECT try_key('shop:item:id}');
SELECT try_key('shop:item:{}');
SELECT try_key('shop:item:{i{d}}');

-- a rule without any key column
SELECT try_key('shop:items');
SELECT try_key('shop:{{id}}');
SELECT try('SELECT slate_cache_attach(''items'', list_keys => ARRAY[''shop:items''])');
-- ... is good enough for a key to drop
BEGIN;
SELECT try_drop('shop:items');
ROLLBACK;

-- keys that could not be told apart, or be told from the extension's own
SELECT try_key('shop:item:{id}{name}');
SELECT try_key('slate_cache:guard:{id}');
SELECT try_key('');
SELECT regexp_replace(try_key('shop:' || repeat('x', 1020) || '{id}'), 'x{1000,}', 'x...');
SELECT try_key(repeat('{id}:', 17));

-- patterns
SELECT try_drop('shop:[a{id}]:*');
SELECT try_drop('shop:*\{id}');
SELECT try_drop('shop:*\');

-- columns whose text depends on the session, however deep the cause is
CREATE DOMAIN price AS money;
CREATE TYPE amount AS (id int, sum price);
CREATE TYPE moneyrange AS RANGE (subtype = money);
CREATE DOMAIN tables AS regclass[];
CREATE TYPE deep AS (id int, amounts amount[]);
CREATE TABLE texts (id int PRIMARY KEY, a money, b price, c regclass[], d money[], e amount, f amount[],
                    g moneyrange, h moneymultirange, i tables, j deep, k regrole);
SELECT attname, try(format('SELECT slate_cache_attach(''texts'', drop_keys => ARRAY[''a:{%s}''])', attname))
FROM pg_attribute WHERE attrelid = 'texts'::regclass AND attnum > 1 ORDER BY attnum;
-- ... but they may be kept, and types of the same kinds be keys
CREATE TYPE plain AS (id int, texts text[]);
CREATE DOMAIN numbers AS int[];
CREATE TABLE plains (id int PRIMARY KEY, a plain, b plain[], c numbers, d int4range, e int4multirange, f money, g oidvector);
BEGIN;
SELECT slate_cache_attach('plains', row_keys => ARRAY['a:{a}', 'b:{b}', 'c:{c}', 'd:{d}', 'e:{e}', 'g:{g}', 'f:{id} -> f']);
ROLLBACK;

-- columns by which no row can be found
CREATE DOMAIN document AS json;
CREATE TYPE place AS (id int, at point);
CREATE TABLE unequal (id int PRIMARY KEY, a json, b point, c xml, d json[], e document, f place);
SELECT attname, kind, try(format('SELECT slate_cache_attach(''unequal'', %s => ARRAY[''a:{id}:{%s}''])', kind, attname))
FROM pg_attribute, unnest('{row_keys,list_keys}'::text[]) AS kind
WHERE attrelid = 'unequal'::regclass AND attnum > 1 ORDER BY attnum, kind DESC;
-- ... are good enough for keys to drop, and to be kept
BEGIN;
SELECT slate_cache_attach('unequal', row_keys => ARRAY['a:{id} -> b'],
                          drop_keys => ARRAY['a:{a}', 'b:{b}', 'd:{d}:*'], delete_drop_keys => ARRAY['e:{e}', 'f:{f}']);
ROLLBACK;

-- one key twice: who would be right?
SELECT try('SELECT slate_cache_attach(''items'', row_keys => ARRAY[''a:{id}'', ''a:{id}''])');
SELECT try('SELECT slate_cache_attach(''items'', row_keys => ARRAY[''a:{id}'', ''a:{name}'', ''a:{id} -> note''])');
SELECT try('SELECT slate_cache_attach(''items'', list_keys => ARRAY[''a:{id}'', ''a:{id}''])');
SELECT try('SELECT slate_cache_attach(''items'', row_keys => ARRAY[''a:{id} -> note''], list_keys => ARRAY[''a:{id}''])');
-- ... but it may be dropped twice
BEGIN;
SELECT slate_cache_attach('items', row_keys => ARRAY['a:{id}', 'a:{name}'], drop_keys => ARRAY['a:{id}', 'b', 'b'],
                          delete_drop_keys => ARRAY['a:{id}', 'b']);
ROLLBACK;

-- no template at all, and a NULL for one
SELECT try('SELECT slate_cache_attach(''items'')');
SELECT try('SELECT slate_cache_attach(''items'', row_keys => ''{}'')');
SELECT try('SELECT slate_cache_attach(''items'', row_keys => ARRAY[''a:{id}'', NULL])');

-- TTLs
SELECT try(format('SELECT slate_cache_attach(''items'', ARRAY[''a:{id}''], ttl => %L)', ttl))
FROM unnest('{0,-1 second,0.0001 seconds,11 years,178000000 years,-178000000 years}'::text[]) AS ttl;
SELECT try('SELECT slate_cache_attach(''items'', ARRAY[''a:{id}''], list_ttl => ''-1 day'')');
SELECT try('SELECT slate_cache_set(''a:1'', ''1'', ''0'')');
SELECT try('SELECT slate_cache_mset(''{"a:1": 1}'', ''-1 day'')');
SELECT try('SELECT slate_cache_fetch(''a:1'', ''SELECT 1'', ''0'')');

-- what is no table of everybody's
CREATE VIEW items_view AS SELECT * FROM items;
CREATE MATERIALIZED VIEW items_matview AS SELECT * FROM items;
CREATE TEMP TABLE items_temp (id int PRIMARY KEY);
CREATE SEQUENCE items_sequence;
CREATE TYPE items_type AS (id int);
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE items_foreign (id int) SERVER nowhere;
CREATE TRIGGER by_hand AFTER INSERT ON items_foreign FOR EACH ROW
    EXECUTE FUNCTION slate_cache.capture('row', 'shop:foreign:{id}');
SELECT try(format('SELECT slate_cache_attach(%L, ARRAY[''a:{id}''])', rel))
FROM unnest('{items_view,items_matview,items_temp,items_sequence,items_type,items_foreign,items_pkey}'::text[]) AS rel;
SELECT try('SELECT slate_cache_attach(''pg_class'', ARRAY[''a:{relname}''])');
SELECT rel, try(format('SELECT slate_cache_attach(%L, drop_keys => ARRAY[''a''])', rel))
FROM (SELECT objid::regclass AS rel FROM pg_depend JOIN pg_class ON pg_class.oid = objid
      WHERE classid = 'pg_class'::regclass AND deptype = 'e' AND relkind = 'r') AS members ORDER BY rel::text COLLATE "C";
SELECT try('SELECT slate_cache_attach(NULL, ARRAY[''a:{id}''])');
SELECT try('SELECT slate_cache_detach(NULL)');
SELECT regexp_replace(try('SELECT slate_cache_attach(4294967295::oid, ARRAY[''a:{id}''])'), '\d{10}', 'N');
SELECT try('SELECT slate_cache_detach(''items_view'')');

-- somebody else's table
CREATE ROLE slate_regress_other;
GRANT USAGE ON SCHEMA public TO slate_regress_other;
GRANT EXECUTE ON FUNCTION slate_cache_attach, slate_cache_detach TO slate_regress_other;
GRANT ALL ON items TO slate_regress_other;
SET ROLE slate_regress_other;
SELECT try('SELECT slate_cache_attach(''items'', ARRAY[''a:{id}''])');
SELECT try('SELECT slate_cache_detach(''items'')');
RESET ROLE;

-- nothing of all this has attached anything
SELECT count(*) FROM slate_cache.rules;

-- keys as arguments
SELECT try('SELECT slate_cache_get('''')');
SELECT try('SELECT slate_cache_get(repeat(''x'', 1025))');
SELECT try('SELECT slate_cache_get(''slate_cache:guard:{a}'')');
SELECT try('SELECT slate_cache_mget(ARRAY[''a'', ''''])');
SELECT try('SELECT slate_cache_peek(''slate_cache:x'')');
SELECT try('SELECT slate_cache_fetch('''', ''SELECT 1'')');
SELECT try('SELECT slate_cache_set(''slate_cache:x'', ''1'')');
SELECT try('SELECT slate_cache_mset(''{"": 1}'')');
SELECT try('SELECT slate_cache_mset(''[1]'')');
SELECT try('SELECT slate_cache_mset(''1'')');
SELECT try('SELECT slate_cache_del(''a'', '''')');
SELECT try('SELECT slate_cache_invalidate('''')');
SELECT try('SELECT slate_cache_invalidate(repeat(''x'', 1024) || ''*'')');
SELECT try('SELECT slate_cache_invalidate(''slate_cache:*'')');
SELECT try('SELECT slate_cache_invalidate_project('''')');
SELECT try('SELECT slate_cache_invalidate_project(repeat(''x'', 1024))');
SELECT try('SELECT slate_cache_ttl('''')');
SELECT try('SELECT slate_cache_key('''')');
SELECT try('SELECT slate_cache_key(''project'', repeat(''x'', 1024))');

-- NULLs: no key, no value; but nothing is written that nobody named
SELECT slate_cache_get(NULL) IS NULL, slate_cache_peek(NULL) IS NULL,
       slate_cache_ttl(NULL) IS NULL, slate_cache_key(NULL) IS NULL,
       slate_cache_key('project', NULL) IS NULL,
       slate_cache_fetch(NULL, 'SELECT 1') IS NULL;
SELECT count(*) FROM slate_cache_mget(NULL);
SELECT try('SELECT slate_cache_del(NULL)');
SELECT try('SELECT slate_cache_del(VARIADIC NULL)');
SELECT try('SELECT slate_cache_set(NULL, ''1'')');
SELECT try('SELECT slate_cache_set(''a:1'', NULL)');
SELECT try('SELECT slate_cache_mset(NULL)');
SELECT try('SELECT slate_cache_invalidate(NULL)');
SELECT try('SELECT slate_cache_invalidate_project(NULL)');
SELECT try('SELECT slate_cache_fetch(''a:1'', NULL)');

-- what slate_cache_fetch() cannot run
SELECT try('SELECT slate_cache_fetch(''a:1'', ''CREATE TABLE bad ()'')');
SELECT try('SELECT slate_cache_fetch(''a:1'', ''INSERT INTO items VALUES (1)'')');
SELECT try('SELECT slate_cache_fetch(''a:1'', ''SELECT 1; SELECT 2'')');
SELECT try('SELECT slate_cache_fetch(''a:1'', ''EXPLAIN SELECT 1'')');
SELECT try('SELECT slate_cache_fetch(''a:1'', ''DELETE FROM items RETURNING id'')');
SELECT try('SELECT slate_cache_fetch(''a:1'', ''WITH gone AS (DELETE FROM items RETURNING id) SELECT id FROM gone'')');
SELECT try('SELECT slate_cache_fetch(''a:1'', ''SELECT id FROM items FOR SHARE'')');
SELECT try('SELECT slate_cache_fetch(''a:1'', ''COMMIT'')');
SELECT try('SELECT slate_cache_fetch(''a:1'', '''')');
SELECT try('SELECT slate_cache_fetch(''a:1'', ''SELECT $1'')');
SELECT try('SELECT slate_cache_fetch(''a:1'', ''SELECT generate_series(1, 2)'')');
SELECT count(*) FROM items;
\! $redis --scan | grep -v '^slate_cache:'

-- urls
SELECT left(url, 40) AS url, regexp_replace(try(format('SET slate_cache.url = %L', url)), '(.)\1{30,}', '\1...')
FROM unnest(ARRAY['', ' ', 'localhost', 'localhost:6379', 'http://localhost',
                  'redis:/localhost', 'redis://', 'redis:///0', 'redis://:6379',
                  'redis://host:', 'redis://host:0', 'redis://host:65536',
                  'redis://host:six', 'redis://host:6379:1', 'redis://host/x',
                  'redis://host/-1', 'redis://host/0/1', 'redis://host?db=1',
                  'redis://host#x', 'redis://ho st', 'redis://ho/st/0',
                  'redis://[::1', 'redis://[host]', 'redis://[::1]x',
                  'redis://::1', 'redis://u:%zz@host', 'redis://u:%2@host',
                  'redis://u:%00@host', 'redis://h%6fst',
                  'redis://u:' || repeat('p', 256) || '@host',
                  'unix://', 'unix:///', 'unix://tmp/redis.sock',
                  'unix:///tmp/x?db=', 'unix:///tmp/x?db=one',
                  'unix:///tmp/x?database=1', 'unix:///tmp/x#y',
                  'unix:///' || repeat('x', 200),
                  'rediss://', 'rediss://host:0', 'rediss://host?x',
                  E'redis://host\n',
                  'sentinel://', 'sentinel:///master', 'sentinel://host',
                  'sentinel://host/', 'sentinel://host//0',
                  'sentinel://h1,,h3/master', 'sentinel://h1,h2,/master',
                  'sentinel://h1,h2:/master', 'sentinel://h1:0,h2/master',
                  'sentinel://h1,[::1/master', 'sentinel://h1 ,h2/master',
                  'sentinel://h1,h2,h3,h4,h5,h6,h7,h8,h9/master',
                  'sentinel://host/my master', 'sentinel://host/m%61ster',
                  'sentinel://host/' || repeat('m', 128),
                  'sentinel://host/master/x', 'sentinel://host/master/0/1',
                  'sentinel://host/master?db=1', 'sentinel://host/master#x',
                  'sentinel://u:%zz@host/master',
                  'cluster://', 'cluster:///0', 'cluster://h1,,h3',
                  'cluster://h1,h2,', 'cluster://h1,h2:', 'cluster://h1:0,h2',
                  'cluster://h1,[::1', 'cluster://h1 ,h2',
                  'cluster://h1,h2,h3,h4,h5,h6,h7,h8,h9', 'cluster://h1/h2',
                  'cluster://host/1', 'cluster://host/-1', 'cluster://host/0/0',
                  'cluster://host?db=0', 'cluster://host#x',
                  'cluster://u:%zz@host',
                  'cluster://:' || repeat('p', 256) || '@host']) AS url;
-- good ones; nothing is connected to
SELECT url, try(format('SET LOCAL slate_cache.url = %L', url))
FROM unnest(ARRAY['redis://host', 'redis://host/', 'REDIS://host:6379/15',
                  'redis://user@host', 'redis://:p%40ss@host:1', 'redis://u:p@ss@host',
                  'redis://[::1]:6379/0', 'redis://10.0.0.1', 'redis://my_host-1.example',
                  'unix:///run/redis.sock', 'unix:///run/redis.sock?db=1',
                  'unix:///run/my%20redis.sock', 'sentinel://host/master',
                  'sentinel://h1,h2:26380,[::1]:26381/my-master_1.x/15',
                  'SENTINEL://u:p@ss@h1,h2,h3,h4,h5,h6,h7,h8/master/',
                  'sentinel://:p%2Css@host/' || repeat('m', 127),
                  'cluster://host', 'cluster://h1,h2:7001,[::1]:7002/',
                  'CLUSTER://u:p@ss@h1,h2,h3,h4,h5,h6,h7,h8/0',
                  'cluster://:p%2Css@10.0.0.1:7001']) AS url;

-- other settings
SELECT try('SET slate_cache.mode = async');
SELECT try('SET slate_cache.mode = strict');
SELECT try('SET slate_cache.mode = ''commit''');
SELECT try('SET slate_cache.mode = fast');
SELECT try('SET slate_cache.timeout = 0');
SELECT try('SET slate_cache.max_pending = 1');
SELECT try('SET slate_cache.unheard_of = 1');

-- the triggers' functions are for attach alone; where event triggers do not fire, others fail when they do
ALTER EVENT TRIGGER slate_cache_altered DISABLE;
CREATE TRIGGER wrong BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION slate_cache.capture('row', 'a:{id}');
SELECT try('INSERT INTO items VALUES (1)');
DROP TRIGGER wrong ON items;
CREATE TRIGGER wrong AFTER INSERT ON items EXECUTE FUNCTION slate_cache.capture_truncate();
SELECT try('INSERT INTO items VALUES (1)');
DROP TRIGGER wrong ON items;
CREATE TRIGGER wrong AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION slate_cache.capture('rows', 'a:{id}');
SELECT try('INSERT INTO items VALUES (1)');
DROP TRIGGER wrong ON items;
ALTER EVENT TRIGGER slate_cache_altered ENABLE ALWAYS;
SELECT try('SELECT slate_cache.on_ddl()');

--
-- What rows hold
--
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:item:{id}', 'shop:name:{name}', 'shop:note:{name} -> note'],
                          list_keys => ARRAY['shop:items:{name}'], drop_keys => ARRAY['shop:search:{name}:*']);
SELECT slate_cache_stats_reset();

-- a NULL key column: no key, no error
INSERT INTO items VALUES (1, NULL, 'nameless');
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
UPDATE items SET name = 'now' WHERE id = 1;
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
UPDATE items SET name = NULL WHERE id = 1;
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
DELETE FROM items WHERE name IS NULL;
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
-- an empty key column is text as any other
INSERT INTO items VALUES (2, '', 'empty');
\! $redis MGET shop:item:2 shop:name: shop:note:
DELETE FROM items;
SELECT keys_too_long FROM slate_cache.stats;

-- a key over 1 kB: no key, no error, but counted
INSERT INTO items VALUES (3, repeat('k', 1024 - 10), 'as long as can be');
\! $redis --scan --pattern 'shop:name:*' | wc -c
INSERT INTO items VALUES (4, repeat('k', 1024 - 9), 'too long');
\! $redis --scan --pattern 'shop:*' | cut -c 1-20 | LC_ALL=C sort
SELECT keys_too_long FROM slate_cache.stats;
UPDATE items SET name = 'short' WHERE id = 4;
\! $redis --scan --pattern 'shop:*' | cut -c 1-20 | LC_ALL=C sort
DELETE FROM items;

-- a value over slate_cache.max_value: dropped, not set
SET slate_cache.max_value = '1kB';
SELECT slate_cache_stats_reset();
INSERT INTO items VALUES (5, 'five', 'small');
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
UPDATE items SET note = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 40) i) WHERE id = 5;
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
SELECT values_too_large > 0 AS counted FROM slate_cache.stats;
-- a loaded value is answered, not kept
SELECT length(slate_cache_get('shop:item:5')->>'note');
SELECT length(slate_cache_get('shop:items:five')->0->>'note');
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
-- a value that compresses well counts as it is in Redis
UPDATE items SET note = repeat('x', 5000) WHERE id = 5;
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
-- ... and very well: larger in the table than what is allowed, a thousand times
UPDATE items SET note = repeat('x', 5000000) WHERE id = 5;
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort
-- the same by hand
SELECT slate_cache_set('shop:by_hand', '"small"');
\! $redis GET shop:by_hand
SELECT slate_cache_set('shop:by_hand', to_jsonb(repeat('x', 5000)));
\! $redis EXISTS shop:by_hand
SELECT length(slate_cache_fetch('shop:fetched', 'SELECT repeat(''x'', 5000)') #>> '{}');
\! $redis EXISTS shop:fetched
RESET slate_cache.max_value;
UPDATE items SET note = 'small again' WHERE id = 5;
\! $redis --scan --pattern 'shop:*' | LC_ALL=C sort

-- without a journal PREPARE TRANSACTION is refused where changes are pending,
-- and only there
SET slate_cache.journal = off;
BEGIN;
UPDATE items SET note = 'prepared' WHERE id = 5;
PREPARE TRANSACTION 'slate_regress';
\! $redis GET shop:note:five
SELECT count(*) FROM pg_prepared_xacts;
BEGIN;
SELECT slate_cache_set('shop:by_hand', '1');
PREPARE TRANSACTION 'slate_regress';
BEGIN;
CREATE TABLE elsewhere (id int);
INSERT INTO elsewhere VALUES (1);
PREPARE TRANSACTION 'slate_regress';
COMMIT PREPARED 'slate_regress';
SELECT count(*) FROM elsewhere;
RESET slate_cache.journal;

REVOKE ALL ON FUNCTION slate_cache_attach, slate_cache_detach FROM slate_regress_other;
DROP OWNED BY slate_regress_other;
DROP ROLE slate_regress_other;
