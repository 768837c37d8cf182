-- Dropping by pattern: what a rule's glob, slate_cache_invalidate() and
-- slate_cache_invalidate_project() take, and what they leave alone.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';
-- all keys, nothing hidden
\setenv all 'local k = redis.call("KEYS", "*") local r = {} for _, n in ipairs(k) do if string.sub(n, 1, 12) ~= "slate_cache:" then r[#r + 1] = n end end table.sort(r) return r'

CREATE TABLE projects (id text PRIMARY KEY, user_id text, name text);
CREATE TABLE files (id int PRIMARY KEY, project_id text, path text, UNIQUE (project_id, path));
CREATE TABLE assets (id int PRIMARY KEY, project_id text, components jsonb);
SELECT slate_cache_attach_defaults();
CREATE FUNCTION reset() RETURNS void LANGUAGE sql AS $$ SELECT slate_cache_invalidate('*') $$;

-- a family that nobody but the index knows: keys that fetch and set have put.
-- Without the sweep it alone must find them
SET slate_cache.sweep = off;
SELECT slate_cache_fetch('slate:search:p1:ship', 'SELECT 1'), slate_cache_fetch('slate:search:p1:', 'SELECT 2'),
       slate_cache_fetch('slate:search:p10:ship', 'SELECT 3'), slate_cache_fetch('slate:search:p2:p1:ship', 'SELECT 4');
SELECT slate_cache_set('slate:search:p1:by hand', '5'), slate_cache_mset('{"slate:search:p1:m": 6, "slate:search:p2:m": 7}');
-- keys of apps, which no index knows
\! $redis MSET slate:search:p1:app 1 slate:search:p2:app 1 > /dev/null
INSERT INTO files VALUES (1, 'p1', 'a.c');
\! $redis --no-raw EVAL "$all" 0
-- the sweep finds those, too
RESET slate_cache.sweep;
UPDATE files SET path = 'b.c';
\! $redis --no-raw EVAL "$all" 0
SELECT sweeps > 0 AS swept, sweeps_unfinished FROM slate_cache.stats;

SELECT reset();

-- a change drops the family of its own project, of the old one and the new one
\! $redis MSET slate:search:p1:x 1 slate:search:p2:x 1 slate:search:p3:x 1 > /dev/null
UPDATE files SET project_id = 'p2';
\! $redis --no-raw EVAL "$all" 0
SELECT reset();

-- project ids and paths that are special in globs, in keys, or anywhere: each
-- takes its own searches and files, and no other's
CREATE TABLE odd (n int PRIMARY KEY, id text);
INSERT INTO odd VALUES (1, '*'), (2, '?'), (3, '[a-z]'), (4, '[^x]'), (5, '\'), (6, '\*'), (7, 'a b'), (8, '"'), (9, ''''), (10, 'a:b'),
    (11, E'a\nb'), (12, '{x}'), (13, '}{'), (14, '^'), (15, '-'), (16, ']'), (17, '['), (18, 'é'), (19, '漢字😀'), (20, 'a'), (21, 'b'), (22, 'x'),
    (23, 'a*'), (24, '%s'), (25, '**'), (26, 'x\'), (27, '[\]]'), (28, ' '), (29, E'\t'), (30, 'A'), (31, '$1'), (32, '\\'), (33, 'aa');
INSERT INTO projects SELECT id, 'u', 'n' FROM odd;
INSERT INTO files SELECT 100 + n, id, id FROM odd;
-- touch one project after the other, and see which others lose their searches;
-- by the index alone
SET slate_cache.sweep = off;
CREATE FUNCTION searches(text) RETURNS SETOF text LANGUAGE sql AS
$$ SELECT 'slate:search:' || $1 || ':' || q FROM unnest(ARRAY['*', 'plain', 'with:colon', '[a]', E'new\nline', '\', '']) AS q $$;
CREATE TABLE lost (n int, lost_by text, whose text);
DO $$
DECLARE
    o odd;
BEGIN
    FOR o IN SELECT * FROM odd ORDER BY n LOOP
        PERFORM slate_cache_set(key, '1') FROM odd, searches(id) AS key;
        COMMIT;
        UPDATE files SET path = 'touched ' || id WHERE project_id = o.id;
        COMMIT;
        -- own ones that are left; others that are gone
        INSERT INTO lost SELECT o.n, 'kept', key FROM searches(o.id) AS key WHERE slate_cache_peek(key) IS NOT NULL;
        INSERT INTO lost SELECT o.n, 'lost', key FROM odd, searches(id) AS key WHERE n <> o.n AND slate_cache_peek(key) IS NULL;
    END LOOP;
END $$;
-- a project called "a" and a search "b:..." of it are one key with "a:b"; other
-- than these, nothing
SELECT n, lost_by, count(*), min(whose COLLATE "C"), max(whose COLLATE "C") FROM lost GROUP BY n, lost_by ORDER BY n;
SELECT reset();

-- the same with keys that no index knows, by the sweep alone: no table is attached
RESET slate_cache.sweep;
SELECT slate_cache_detach(t) FROM unnest('{projects,files,assets}'::regclass[]) AS t;
TRUNCATE lost;
CREATE TEMP TABLE app_keys AS SELECT n, key FROM odd, searches(id) AS key;
DO $$
DECLARE
    o odd;
BEGIN
    FOR o IN SELECT * FROM odd ORDER BY n LOOP
        PERFORM slate_cache_set(key, '1') FROM app_keys;
        COMMIT;
        PERFORM slate_cache_invalidate_project(o.id);
        COMMIT;
        INSERT INTO lost SELECT o.n, 'kept', key FROM app_keys WHERE n = o.n AND slate_cache_peek(key) IS NOT NULL;
        INSERT INTO lost SELECT o.n, 'lost', key FROM app_keys WHERE n <> o.n AND slate_cache_peek(key) IS NULL;
    END LOOP;
END $$;
SELECT n, lost_by, count(*), min(whose COLLATE "C"), max(whose COLLATE "C") FROM lost GROUP BY n, lost_by ORDER BY n;
TRUNCATE files, projects;
SELECT reset();
SELECT slate_cache_attach_defaults();

-- rows of odd ids: their own keys come and go
INSERT INTO projects SELECT id, id, 'n' FROM odd;
SELECT count(*), count(slate_cache_peek('slate:project:' || id)) AS cached FROM odd;
DELETE FROM projects WHERE id = '*';
SELECT count(*), count(slate_cache_peek('slate:project:' || id)) AS cached FROM odd;
DELETE FROM projects WHERE id IN ('[a-z]', '\', 'a:b');
SELECT count(*), count(slate_cache_peek('slate:project:' || id)) AS cached FROM odd;
TRUNCATE projects;
\! $redis --no-raw EVAL "$all" 0

-- slate_cache_invalidate(): globs as Redis has them
CREATE FUNCTION fill() RETURNS void LANGUAGE sql AS
$$ SELECT slate_cache_set('glob:' || k, '1') FROM unnest(ARRAY['a', 'b', 'ab', 'abc', 'a*', 'a?', '[a]', 'a\b', 'é', '', '-', '^']) AS k $$;
CREATE FUNCTION left_of(glob text) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(coalesce(nullif(k, ''), '(empty)'), ' ' ORDER BY k COLLATE "C")
   FROM unnest(ARRAY['a', 'b', 'ab', 'abc', 'a*', 'a?', '[a]', 'a\b', 'é', '', '-', '^']) AS k WHERE slate_cache_peek('glob:' || k) IS NULL $$;
CREATE TABLE globs (n serial, glob text, takes text);
CREATE PROCEDURE take(globs text[]) LANGUAGE plpgsql AS $$
DECLARE
    glob text;
BEGIN
    FOREACH glob IN ARRAY globs LOOP
        PERFORM fill();
        COMMIT;
        PERFORM slate_cache_invalidate('glob:' || glob);
        COMMIT;
        INSERT INTO globs (glob, takes) VALUES (glob, left_of(glob));
        COMMIT;
    END LOOP;
END $$;
CALL take(ARRAY['a', '*', 'a*', 'a\*', 'a?', 'a\?', '?', '??', '[ab]', '[a-b]', '[^a]', '\[a\]', 'a\\b', 'a\b', '[a', '[]', '\a', 'é', '', '[-]', '[\^]', 'a**b', '*b*', '[b-a]']);
SELECT glob, takes FROM globs ORDER BY n;
SELECT slate_cache_invalidate('glob:*');

-- every key of a project, with and without its rows; ids that are numbers in
-- the tables are texts all the same
SELECT slate_cache_detach(t) FROM unnest('{projects,files,assets}'::regclass[]) AS t;
DROP TABLE projects, files, assets;
CREATE TABLE projects (id int PRIMARY KEY, user_id int, name text);
CREATE TABLE files (id int PRIMARY KEY, project_id int, path text);
CREATE TABLE assets (id int PRIMARY KEY, project_id int, components jsonb);
SELECT slate_cache_attach_defaults();
INSERT INTO projects SELECT i, 7, 'p' || i FROM generate_series(1, 2) AS i;
INSERT INTO files SELECT i * 10 + j, i, 'f' || j FROM generate_series(1, 2) AS i, generate_series(1, 2) AS j;
INSERT INTO assets SELECT i * 10, i, '[]' FROM generate_series(1, 2) AS i;
SELECT count(*) FROM slate_cache_mget('{slate:projects:user:7,slate:files:project:1,slate:files:project:2,slate:assets:project:1,slate:assets:project:2}');
\! for i in 1 2 12; do $redis MSET slate:runtime:status:$i 1 slate:build:$i 1 slate:editor:tabs:7:$i 1 slate:editor:tabs:$i:9 1 slate:search:$i:q 1 slate:file:$i:unsaved 1; done
\! $redis MSET slate:runtime:abc 1 slate:session:7 1 other:1 1
SELECT slate_cache_invalidate_project('1');
\! $redis EVAL "$all" 0
-- no such project, or no such number: the families alone
SELECT slate_cache_invalidate_project('12');
SELECT slate_cache_invalidate_project('no number');
\! $redis EVAL "$all" 0
BEGIN;
SELECT slate_cache_invalidate_project('2');
ROLLBACK;
\! $redis EXISTS slate:project:2 slate:search:2:q
-- TRUNCATE of one table drops what is under each project
TRUNCATE files;
\! $redis EVAL "$all" 0
TRUNCATE projects;
\! $redis EVAL "$all" 0
