-- The names and lifetimes of SLATE's keys; write functions by the same names.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';

SELECT slate_cache_key('project', '42'), slate_cache_key('file', '7', 'src/main.c'), slate_cache_key('editor', 'tabs', '7', '42'),
       slate_cache_key('runtime', 'status', '42'), slate_cache_key('session');
SELECT slate_cache_key('search', '42', 'a:b *?[\ "é'), slate_cache_key('project', ''), slate_cache_key('project', VARIADIC '{}');
SELECT slate_cache_key('project', NULL, 'x'), slate_cache_key(NULL, 'x'), slate_cache_key('project', VARIADIC NULL);
SELECT length(slate_cache_key('project', repeat('x', 1024 - 14)));
SELECT provolatile, proparallel FROM pg_proc WHERE proname = 'slate_cache_key';

-- every family, before any table is attached, in seconds
CREATE VIEW ttls AS
SELECT key, extract(epoch FROM slate_cache_ttl(key))::int AS seconds FROM unnest(ARRAY[
    'slate:project:42', 'slate:projects:user:7', 'slate:file:1', 'slate:file:42:src/main.c', 'slate:files:project:42',
    'slate:asset:5', 'slate:asset:5:components', 'slate:assets:project:42', 'slate:runtime:abc', 'slate:runtime:status:42',
    'slate:editor:tabs:7:42', 'slate:session:7', 'slate:build:42', 'slate:search:42:ship', 'slate:search:42:a:b', 'slate:search:42:']) AS key;
SELECT * FROM ttls;
-- no family's
SELECT key, slate_cache_ttl(key) FROM unnest(ARRAY['slate:', 'slate:project', 'slate:projects:7', 'slate:search:42', 'slate:editor:tabs:7', 'SLATE:project:42', 'x:slate:project:42', 'shop:invoice:1']) AS key;

-- the same when the tables are attached
CREATE TABLE projects (id int PRIMARY KEY, user_id int);
CREATE TABLE files (id int PRIMARY KEY, project_id int, path text);
CREATE TABLE assets (id int PRIMARY KEY, project_id int, components jsonb);
SELECT slate_cache_attach_defaults();
SELECT * FROM ttls;
-- rules of one's own go before the families
SELECT slate_cache_attach('projects', ARRAY['slate:project:{id}', 'shop:project:{id}'], ttl => '90 seconds');
SELECT slate_cache_ttl('slate:project:42'), slate_cache_ttl('shop:project:42'), slate_cache_ttl('slate:file:1');
SELECT slate_cache_attach('projects', ARRAY['slate:project:{id}'], ttl => '1 month 2 days 00:00:00.005');
SELECT slate_cache_ttl('slate:project:42'), slate_cache_ttl('shop:project:42');
-- a rule without an end
SET slate_cache.default_ttl = 0;
SELECT slate_cache_attach('projects', ARRAY['slate:project:{id}']);
SELECT slate_cache_ttl('slate:project:42'), ttl FROM slate_cache.rules WHERE rel = 'projects'::regclass;
INSERT INTO projects VALUES (1, 1);
\! $redis PTTL slate:project:1
RESET slate_cache.default_ttl;

-- set and mset: the given TTL, the key's, the default; values as given
SELECT slate_cache_set('slate:session:7', '{"theme": "dark", "a": [1.50, null]}'), slate_cache_set('shop:x', '1'), slate_cache_set('slate:build:1', '"ok"', '5 seconds');
SELECT slate_cache_mset('{"slate:runtime:abc": {"pid": 1}, "slate:search:1:x": [], "shop:y": null}'), slate_cache_mset('{"shop:z": 1}', '1 minute'), slate_cache_mset('{}');
\! $redis GET slate:session:7
\! $redis GET shop:y
\! for key in slate:session:7 shop:x slate:build:1 slate:runtime:abc slate:search:1:x shop:y shop:z; do echo "$key $(( ($($redis PTTL $key) + 4999) / 5000 * 5 ))"; done
-- a set without TTL, where none is the default
SET slate_cache.default_ttl = 0;
SELECT slate_cache_set('shop:forever', '1');
\! $redis PTTL shop:forever
RESET slate_cache.default_ttl;
-- a shorter TTL replaces a longer one
SELECT slate_cache_set('slate:session:7', '1', '1 second');
\! test $($redis PTTL slate:session:7) -le 1000 && echo shorter

-- del: many, none, duplicates, NULLs among them
SELECT slate_cache_del('shop:x', 'shop:y', NULL, 'shop:x', 'shop:nothing');
SELECT slate_cache_del(VARIADIC '{}');
SELECT slate_cache_del(VARIADIC ARRAY['shop:z']);
\! $redis EXISTS shop:x shop:y shop:z
