-- Key columns of many types: the key that a change writes is the key that a
-- reader loads, whatever the settings of their sessions.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';

CREATE TYPE mood AS ENUM ('so la la', 'happy');
CREATE DOMAIN code AS text CHECK (value <> '');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN temper AS mood;
CREATE DOMAIN humour AS temper;
CREATE TABLE types (
    "int" int, "smallint" smallint, "bigint" bigint, "oid" oid, "numeric" numeric, "float8" float8,
    "bool" bool, "uuid" uuid, "text" text, "varchar" varchar(20), "char" char(5), "name" name,
    "date" date, "time" time, "timestamp" timestamp, "timestamptz" timestamptz, "interval" interval,
    "enum" mood, "text domain" code, "int domain" positive, "bytea" bytea, "inet" inet, "array" int[],
    "enum domain" temper, "domain of a domain" humour);

-- one rule and one list a column
SELECT slate_cache_attach('types',
    row_keys => array_agg(format('type:%s:{%s}', attname, attname) ORDER BY attnum),
    list_keys => array_agg(format('list:%s:{%s}', attname, attname) ORDER BY attnum))
FROM pg_attribute WHERE attrelid = 'types'::regclass AND attnum > 0;

INSERT INTO types VALUES (
    -42, 7, 9007199254740993, 4294967295, 1.50, 0.1::float8 + 0.2,
    true, '01234567-89ab-cdef-0123-456789abcdef', 'a:b c', 'varied', 'ab', 'named',
    '2024-02-29', '12:34:56.5', '2024-02-29 12:34:56', '2024-02-29 12:34:56+02', '1 year 2 days 03:04:05',
    'so la la', 'dom', 5, '\xdeadbeef', '10.0.0.0/8', '{1,2}', 'happy', 'happy');
\! $redis --scan --pattern 'type:*' | LC_ALL=C sort | sed 's/$/|/'

-- load every key anew, with other settings, one by one and all together
SELECT count(*) FROM slate_cache.rules;
\set keys `$redis EVAL "return cjson.encode(redis.call('KEYS', 'type:*'))" 0`
SELECT array_agg(key) AS keys FROM jsonb_array_elements_text(:'keys') AS key \gset
\setenv forget 'return redis.call("DEL", unpack(redis.call("KEYS", "type:*")))'
SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'; SET intervalstyle = 'iso_8601'; SET bytea_output = 'escape'; SET extra_float_digits = -5;
\! $redis EVAL "$forget" 0
SELECT count(*), count(value), count(DISTINCT value) FROM slate_cache_mget(:'keys');
\! $redis EVAL "$forget" 0
SELECT count(slate_cache_get(key)) FROM unnest(:'keys'::text[]) AS key;
SELECT count(slate_cache_get(replace(key, 'type:', 'list:'))->0) FROM unnest(:'keys'::text[]) AS key;
\! $redis --scan --pattern 'type:*' | wc -l
\! $redis --scan --pattern 'list:*' | wc -l
-- a change in such a session finds the same keys
UPDATE types SET "int" = -43;
\! $redis --scan --pattern 'type:*' | LC_ALL=C sort | sed 's/$/|/'
\! $redis --scan --pattern 'list:*' | LC_ALL=C sort
DELETE FROM types;
\! $redis --scan --pattern 'type:*' | LC_ALL=C sort
RESET datestyle; RESET timezone; RESET intervalstyle; RESET bytea_output; RESET extra_float_digits;

-- texts that mean the same value but are not its text are no keys: nobody
-- would drop them
CREATE TABLE plain (id int, n numeric, t text, b bool, u uuid, d date, tz timestamptz, c char(5), e mood);
SELECT slate_cache_attach('plain',
    row_keys => array_agg(format('plain:%s:{%s}', attname, attname) ORDER BY attnum),
    list_keys => array_agg(format('plains:%s:{%s}', attname, attname) ORDER BY attnum))
FROM pg_attribute WHERE attrelid = 'plain'::regclass AND attnum > 0;
INSERT INTO plain VALUES (42, 1.50, 'x', true, '01234567-89ab-cdef-0123-456789abcdef', '2024-02-29', '2024-02-29 12:00+00', 'ab', 'happy');
SELECT key, value IS NULL AS none, slate_cache_get(key) IS NULL AS none_alone,
       slate_cache_get(replace(key, 'plain:', 'plains:')) IS NULL AS no_list
FROM slate_cache_mget(ARRAY[
    'plain:id:042', 'plain:id:+42', 'plain:id: 42', 'plain:id:42 ', 'plain:id:4_2', 'plain:id:', 'plain:id:x',
    'plain:id:99999999999999999999', 'plain:id:4.2e1', 'plain:id:-0',
    'plain:n:1.5', 'plain:n:1.500', 'plain:n:01.50', 'plain:n:15e-1', 'plain:n:-',
    'plain:b:true', 'plain:b:T', 'plain:b:1', 'plain:b:yes',
    'plain:u:01234567-89AB-CDEF-0123-456789ABCDEF', 'plain:u:{01234567-89ab-cdef-0123-456789abcdef}',
    'plain:u:0123456789abcdef0123456789abcdef',
    'plain:d:20240229', 'plain:d:29.02.2024', 'plain:d:2024-02-30', 'plain:d:today',
    'plain:tz:2024-02-29 12:00:00', 'plain:tz:2024-02-29 13:00:00+01', 'plain:tz:2024-02-29 12:00:00.0+00', 'plain:tz:now',
    'plain:c:ab', 'plain:c:abcdef', 'plain:e:HAPPY', 'plain:e:sad']);
\! $redis --scan --pattern 'plain*' | LC_ALL=C sort
-- equal values with different texts are different keys, with a row each
INSERT INTO plain (id, n) VALUES (1, 1.5), (2, 1.500);
SELECT key, value->>'id' AS id FROM slate_cache_mget('{plain:n:1.50,plain:n:1.5,plain:n:1.500,plains:n:1.5}');
\! for key in plain:n:1.50 plain:n:1.5 plain:n:1.500; do $redis DEL $key > /dev/null; done
SELECT key, value->>'id' AS id FROM slate_cache_mget('{plain:n:1.50,plain:n:1.5,plain:n:1.500,plain:n:1.5000}');
SELECT jsonb_array_length(slate_cache_get('plains:n:1.5')) AS one;

-- columns between which the key may be cut in several ways
CREATE TABLE pairs (a text, b text, PRIMARY KEY (a, b));
SELECT slate_cache_attach('pairs', row_keys => ARRAY['pair:{a}:{b}']);
INSERT INTO pairs VALUES ('x', 'y:z');
\! $redis DEL pair:x:y:z
SELECT slate_cache_get('pair:x:y:z');
UPDATE pairs SET a = 'x:y', b = 'z';
\! $redis GET pair:x:y:z
\! $redis DEL pair:x:y:z
SELECT slate_cache_get('pair:x:y:z');
SELECT ordered FROM slate_cache.rules WHERE rel = 'pairs'::regclass;
INSERT INTO pairs VALUES ('', ''), (':', ':'), ('a:', ':b');
\! for key in pair:: pair:::: 'pair:a:::b'; do $redis DEL $key; done
SELECT * FROM slate_cache_mget('{pair::,pair::::,pair:a:::b,pair:,pair}');

-- one column twice: both pieces must agree
CREATE TABLE twice (id int PRIMARY KEY);
SELECT slate_cache_attach('twice', row_keys => ARRAY['twice:{id}:{id}']);
INSERT INTO twice VALUES (1), (12);
\! $redis MGET twice:1:1 twice:12:12
\! $redis DEL twice:1:1 twice:12:12
SELECT * FROM slate_cache_mget('{twice:1:1,twice:1:12,twice:12:12,twice:12:1}');

-- rows of two rules under one key: the first that has a row answers
CREATE TABLE by_id (id int PRIMARY KEY, slug text UNIQUE);
SELECT slate_cache_attach('by_id', row_keys => ARRAY['any:{id}', 'any:{slug}']);
INSERT INTO by_id VALUES (1, 'one'), (2, 'two');
\! $redis DEL any:1 any:2 any:one any:two
SELECT * FROM slate_cache_mget('{any:1,any:two,any:three,any:2}');

-- a list has the order of the primary key's columns, not that of the table's
CREATE TABLE backwards (x int, b int, a int, PRIMARY KEY (a, b) INCLUDE (x));
SELECT slate_cache_attach('backwards', list_keys => ARRAY['backwards:{x}']);
INSERT INTO backwards VALUES (1, 1, 2), (1, 3, 1), (1, 2, 1), (2, 5, 2), (2, 9, 1);
SELECT slate_cache_get('backwards:1');
\! $redis DEL backwards:1
SELECT * FROM slate_cache_mget('{backwards:1,backwards:2}');
-- ... and follows it
ALTER TABLE backwards DROP CONSTRAINT backwards_pkey, ADD PRIMARY KEY (b, a) DEFERRABLE;
SELECT slate_cache_get('backwards:1');

-- text that is not plain
CREATE TABLE texts (t text PRIMARY KEY);
SELECT slate_cache_attach('texts', row_keys => ARRAY['text:{t}:end']);
INSERT INTO texts VALUES ('é漢😀'), (E'new\nline'), ('"quoted"'), ('back\slash'), ('{brace}'), ('%s %d'), ('a*b?c[d]'), (' '), (':end');
\! $redis --no-raw EVAL "local k = redis.call('KEYS', 'text:*') table.sort(k) return k" 0
\! $redis EVAL "return redis.call('DEL', unpack(redis.call('KEYS', 'text:*')))" 0
SELECT t, slate_cache_get('text:' || t || ':end')->>'t' = t AS same FROM texts ORDER BY t COLLATE "C";
SELECT count(value) FROM slate_cache_mget((SELECT array_agg('text:' || t || ':end') FROM texts));
DELETE FROM texts;
\! $redis EVAL "return redis.call('KEYS', 'text:*')" 0

-- key columns are read as they are written, whatever the session has set
CREATE TABLE arrays (tags text[] PRIMARY KEY);
SELECT slate_cache_attach('arrays', row_keys => ARRAY['arrays:{tags}']);
INSERT INTO arrays VALUES ('{a,NULL}');
\! $redis DEL 'arrays:{a,NULL}'
SET array_nulls = off;
SELECT slate_cache_get('arrays:{a,NULL}');
RESET array_nulls;
