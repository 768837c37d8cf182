-- slate_cache_attach_defaults(): SLATE's rules for the tables that are there,
-- with the columns that they have.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';

-- no table yet
SELECT slate_cache_attach_defaults();

CREATE TABLE projects (id bigint PRIMARY KEY, user_id bigint, name text);
CREATE TABLE files (id bigint PRIMARY KEY,
                    project_id bigint REFERENCES projects ON DELETE CASCADE,
                    path text, content text, UNIQUE (project_id, path));
CREATE TABLE assets (id bigint PRIMARY KEY,
                     project_id bigint REFERENCES projects ON DELETE CASCADE,
                     name text, components jsonb);
SELECT slate_cache_attach_defaults();
SELECT * FROM slate_cache.rules ORDER BY rel::text COLLATE "C", kind, template COLLATE "C";

-- a second time replaces them
SELECT slate_cache_attach_defaults();
SELECT count(*) FROM slate_cache.rules;

-- SLATE's keys
INSERT INTO projects VALUES (42, 7, 'Apollo');
INSERT INTO files VALUES (1, 42, 'src/main.c', 'int main;');
INSERT INTO assets VALUES (5, 42, 'ship', '["hull", "engine"]');
\! for key in $($redis --scan --pattern 'slate:*' | LC_ALL=C sort); do echo "$key $($redis GET $key)"; done
SELECT key, value FROM slate_cache_mget('{slate:projects:user:7,slate:files:project:42,slate:assets:project:42}');

-- each with its TTL; up to ten seconds may have passed
\! for key in $($redis --scan --pattern 'slate:*' | LC_ALL=C sort); do echo "$key $(( ($($redis PTTL $key) + 9999) / 10000 * 10 ))"; done

-- a project that is deleted takes everything under it along
\! for key in slate:search:42:ship slate:runtime:status:42 slate:build:42 slate:editor:tabs:7:42 slate:file:42:unsaved slate:search:43:ship slate:build:421 slate:editor:tabs:42:7; do $redis SET $key '1'; done
DELETE FROM projects WHERE id = 42;
\! $redis --scan --pattern 'slate:*' | LC_ALL=C sort
SELECT slate_cache_invalidate('slate:*');

-- tables without some of the columns: the rules that do not fit are skipped;
-- components that are no column are dropped, since an app makes them
DROP TABLE assets, files, projects;
CREATE TABLE projects (id int PRIMARY KEY, name text);
CREATE TABLE assets (id int PRIMARY KEY, name text);
SELECT slate_cache_attach_defaults();
SELECT rel, kind, template FROM slate_cache.rules ORDER BY rel::text COLLATE "C", kind, template COLLATE "C";
\! $redis SET slate:asset:5:components '[]'
INSERT INTO assets VALUES (5, 'ship');
\! $redis --scan --pattern 'slate:*' | LC_ALL=C sort
DROP TABLE projects, assets;

-- a table that has no fitting column at all
CREATE TABLE files (name text);
SELECT slate_cache_attach_defaults();
DROP TABLE files;

-- search_path decides which table is meant; a table that is not in it is not
CREATE SCHEMA app;
CREATE SCHEMA other;
CREATE TABLE app.projects (id int PRIMARY KEY, user_id int);
CREATE TABLE other.files (id int PRIMARY KEY, project_id int, path text);
SET search_path = app, public;
SELECT slate_cache_attach_defaults();
RESET search_path;
SELECT DISTINCT rel::text FROM slate_cache.rules;

-- a view is not a table
CREATE VIEW projects AS SELECT * FROM app.projects;
SELECT slate_cache_attach_defaults();

-- nor is a temporary one for all
CREATE TEMP TABLE files (id int PRIMARY KEY, project_id int, path text);
SELECT slate_cache_attach_defaults();
DROP TABLE pg_temp.files;
