/* slate_cache--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION slate_cache" to load this file. \quit

-- What users call lives in the extension's schema, so that it can be called
-- without a prefix; views and everything else live in the schema slate_cache.

DO $$
BEGIN
    IF pg_catalog.getdatabaseencoding() NOT IN ('UTF8', 'SQL_ASCII') THEN
        RAISE EXCEPTION 'slate_cache needs a database whose encoding is UTF8'
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = pg_catalog.format('Keys and values in Redis are UTF-8; this database is %s.',
                                             pg_catalog.getdatabaseencoding());
    END IF;
END $$;

CREATE SCHEMA slate_cache;
COMMENT ON SCHEMA slate_cache IS 'views and internals of the extension slate_cache';
GRANT USAGE ON SCHEMA slate_cache TO PUBLIC;

--
-- The journal: see src/journal.c.  One statement each, so that the column is
-- plain before a TOAST table is thought of.
--

CREATE TABLE slate_cache.journal_a () USING heap WITH (autovacuum_enabled = false);
ALTER TABLE slate_cache.journal_a
    ADD COLUMN lsn bigint NOT NULL,
    ADD COLUMN nonce bigint NOT NULL,
    ADD COLUMN since timestamptz NOT NULL,
    ADD COLUMN timeline integer NOT NULL,
    ADD COLUMN entries bytea NOT NULL,
    ALTER COLUMN entries SET STORAGE PLAIN;
COMMENT ON TABLE slate_cache.journal_a IS
'what Redis must be told, one row a transaction; a generation of the journal.  Look at the view slate_cache.journal instead';

CREATE TABLE slate_cache.journal_b () USING heap WITH (autovacuum_enabled = false);
ALTER TABLE slate_cache.journal_b
    ADD COLUMN lsn bigint NOT NULL,
    ADD COLUMN nonce bigint NOT NULL,
    ADD COLUMN since timestamptz NOT NULL,
    ADD COLUMN timeline integer NOT NULL,
    ADD COLUMN entries bytea NOT NULL,
    ALTER COLUMN entries SET STORAGE PLAIN;
COMMENT ON TABLE slate_cache.journal_b IS
'the other generation of the journal';

CREATE TABLE slate_cache.journal_prepared () USING heap WITH (autovacuum_enabled = false);
ALTER TABLE slate_cache.journal_prepared
    ADD COLUMN lsn bigint NOT NULL,
    ADD COLUMN nonce bigint NOT NULL,
    ADD COLUMN since timestamptz NOT NULL,
    ADD COLUMN timeline integer NOT NULL,
    ADD COLUMN entries bytea NOT NULL,
    ALTER COLUMN entries SET STORAGE PLAIN;
COMMENT ON TABLE slate_cache.journal_prepared IS
'the part of the journal that belongs to prepared transactions';

CREATE TABLE slate_cache.history (
    number   bigint NOT NULL,
    epoch    bigint NOT NULL,
    identity bigint NOT NULL,
    timeline integer NOT NULL) USING heap WITH (autovacuum_enabled = false);
COMMENT ON TABLE slate_cache.history IS
'epochs: which Redis this database has trusted; the one with the highest number counts.  See src/trust.c';

--
-- Capture: the functions of triggers that slate_cache_attach() makes
--

CREATE FUNCTION slate_cache.capture() RETURNS trigger
AS 'MODULE_PATHNAME', 'slate_cache_capture' LANGUAGE C;
REVOKE ALL ON FUNCTION slate_cache.capture() FROM PUBLIC;
COMMENT ON FUNCTION slate_cache.capture() IS
'row trigger of a table with cache rules; its arguments are the rules';

CREATE FUNCTION slate_cache.capture_truncate() RETURNS trigger
AS 'MODULE_PATHNAME', 'slate_cache_capture_truncate' LANGUAGE C;
REVOKE ALL ON FUNCTION slate_cache.capture_truncate() FROM PUBLIC;
COMMENT ON FUNCTION slate_cache.capture_truncate() IS
'truncate trigger of a table with cache rules';

CREATE FUNCTION slate_cache.on_ddl() RETURNS event_trigger
AS 'MODULE_PATHNAME', 'slate_cache_on_ddl' LANGUAGE C;
REVOKE ALL ON FUNCTION slate_cache.on_ddl() FROM PUBLIC;
COMMENT ON FUNCTION slate_cache.on_ddl() IS
'event trigger: after ALTER TABLE, ALTER TYPE, CREATE TRIGGER, and what else may rename columns, checks that cache rules still fit, that no table has two sets of them, and drops what is cached; before DETACH PARTITION CONCURRENTLY drops it, too';

CREATE EVENT TRIGGER slate_cache_altered ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER TYPE', 'CREATE TRIGGER', 'CREATE SCHEMA',
                 -- these change the columns of others, whose row type a column may have
                 'CREATE VIEW', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE')
    EXECUTE FUNCTION slate_cache.on_ddl();
COMMENT ON EVENT TRIGGER slate_cache_altered IS
'refuses to rename or drop a column that a cache rule uses, a type that its key cannot have, and a second cache trigger; drops cached rows of the old shape, and what a restored table''s rules find';

ALTER EVENT TRIGGER slate_cache_altered ENABLE ALWAYS;

CREATE EVENT TRIGGER slate_cache_dropped ON sql_drop
    EXECUTE FUNCTION slate_cache.on_ddl();
ALTER EVENT TRIGGER slate_cache_dropped ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER slate_cache_dropped IS
'the same for columns that go with something else that is dropped';

-- A session that has not loaded the library would not notice a DROP.
CREATE EVENT TRIGGER slate_cache_dropping ON ddl_command_start
    WHEN TAG IN ('DROP TABLE', 'DROP TRIGGER', 'DROP SCHEMA', 'DROP OWNED',
                 'DROP EXTENSION', 'ALTER TABLE', 'CREATE TRIGGER',
                 -- these take tables along by CASCADE
                 'DROP TYPE', 'DROP DOMAIN', 'DROP FUNCTION', 'DROP ROUTINE',
                 'DROP AGGREGATE', 'DROP LANGUAGE', 'DROP OPERATOR',
                 'DROP OPERATOR CLASS', 'DROP OPERATOR FAMILY', 'DROP COLLATION',
                 'DROP ACCESS METHOD', 'DROP SERVER', 'DROP FOREIGN DATA WRAPPER',
                 'DROP FOREIGN TABLE')
    EXECUTE FUNCTION slate_cache.on_ddl();
ALTER EVENT TRIGGER slate_cache_dropping ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER slate_cache_dropping IS
'makes sure that the cache of a dropped table is dropped with it, what a partition holds that is detached concurrently, and the keys of rules that CREATE OR REPLACE TRIGGER replaces';

--
-- Rules
--

CREATE FUNCTION slate_cache_attach(
    rel regclass,
    row_keys text[] DEFAULT NULL,
    list_keys text[] DEFAULT NULL,
    drop_keys text[] DEFAULT NULL,
    delete_drop_keys text[] DEFAULT NULL,
    ttl interval DEFAULT NULL,
    list_ttl interval DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON FUNCTION slate_cache_attach(regclass, text[], text[], text[], text[], interval, interval) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_attach(regclass, text[], text[], text[], text[], interval, interval) IS
'keeps cached copies of a table''s rows right; needs ownership of the table; replaces its rules if it has some';

CREATE FUNCTION slate_cache_detach(rel regclass)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON FUNCTION slate_cache_detach(regclass) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_detach(regclass) IS
'takes a table''s rules off and drops what is cached of it; needs ownership of the table';

CREATE FUNCTION slate_cache_attach_defaults()
RETURNS integer
AS 'MODULE_PATHNAME' LANGUAGE C;
REVOKE ALL ON FUNCTION slate_cache_attach_defaults() FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_attach_defaults() IS
'attaches SLATE''s rules to the tables projects, files and assets that search_path finds, views and temporary tables left out; returns how many';

CREATE FUNCTION slate_cache.read_rules(
    OUT rel regclass,
    OUT kind text,
    OUT template text,
    OUT value_column text,
    OUT ttl interval,
    OUT ordered boolean,
    OUT enabled boolean)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'slate_cache_rules' LANGUAGE C;
GRANT EXECUTE ON FUNCTION slate_cache.read_rules() TO PUBLIC;
COMMENT ON FUNCTION slate_cache.read_rules() IS 'what the view slate_cache.rules shows';

CREATE VIEW slate_cache.rules AS SELECT * FROM slate_cache.read_rules();
GRANT SELECT ON slate_cache.rules TO PUBLIC;
COMMENT ON VIEW slate_cache.rules IS 'key templates of the attached tables';
COMMENT ON COLUMN slate_cache.rules.rel IS 'the table';
COMMENT ON COLUMN slate_cache.rules.kind IS 'row, list, drop or delete_drop';
COMMENT ON COLUMN slate_cache.rules.template IS 'the key, or the pattern, with columns in braces';
COMMENT ON COLUMN slate_cache.rules.value_column IS 'the column that the key holds; null for the whole row';
COMMENT ON COLUMN slate_cache.rules.ttl IS 'lifetime of a value; null for no end, or no value';
COMMENT ON COLUMN slate_cache.rules.ordered IS
'whether a unique index orders the writers of a key; if not, a late push drops the key instead of being ignored; null where the kind is not row, and while somebody has the table locked';
COMMENT ON COLUMN slate_cache.rules.enabled IS 'whether the table''s trigger fires, and those of all its partitions; if not, nothing of it is filled or read from the cache';

--
-- Reading
--

CREATE FUNCTION slate_cache_get(key text) RETURNS jsonb
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION slate_cache_get(text) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_get(text) IS
'the value of a key: from Redis, or loaded by its rule and cached; null if there is none';

CREATE FUNCTION slate_cache_mget(keys text[])
RETURNS TABLE (key text, value jsonb)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION slate_cache_mget(text[]) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_mget(text[]) IS
'the values of many keys, in the order asked: one exchange for the hits, one query a rule for the misses';

CREATE FUNCTION slate_cache_peek(key text) RETURNS jsonb
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION slate_cache_peek(text) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_peek(text) IS
'what Redis has for a key; never loads, never fills';

CREATE FUNCTION slate_cache_fetch(
    key text,
    query text,
    ttl interval DEFAULT NULL,
    VARIADIC args text[] DEFAULT '{}')
RETURNS jsonb
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION slate_cache_fetch(text, text, interval, text[]) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_fetch(text, text, interval, text[]) IS
'the value of a key: from Redis, or the result of the query, cached for ttl; one column gives its value, several an array of objects';

--
-- Writing, at commit
--

CREATE FUNCTION slate_cache_set(key text, value jsonb, ttl interval DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION slate_cache_set(text, jsonb, interval) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_set(text, jsonb, interval) IS
'sets a key when the transaction commits; ttl defaults to slate_cache_ttl(key), then to slate_cache.default_ttl; a value larger than slate_cache.max_value drops the key';

CREATE FUNCTION slate_cache_mset(entries jsonb, ttl interval DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION slate_cache_mset(jsonb, interval) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_mset(jsonb, interval) IS
'sets the keys of a JSON object to its values when the transaction commits';

CREATE FUNCTION slate_cache_del(VARIADIC keys text[])
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION slate_cache_del(text[]) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_del(text[]) IS
'removes keys when the transaction commits';

CREATE FUNCTION slate_cache_invalidate(pattern text)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION slate_cache_invalidate(text) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_invalidate(text) IS
'removes all keys that match a Redis glob when the transaction commits';

CREATE FUNCTION slate_cache_invalidate_project(id text)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION slate_cache_invalidate_project(text) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_invalidate_project(text) IS
'removes every key that belongs to a SLATE project when the transaction commits';

--
-- Names.  These do not talk to Redis; anybody may call them.
--

CREATE FUNCTION slate_cache_key(resource text, VARIADIC parts text[] DEFAULT '{}')
RETURNS text
AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION slate_cache_key(text, text[]) IS
'builds a SLATE key: slate_cache_key(''file'', ''7'', ''a.c'') is slate:file:7:a.c; null if a part is null';

CREATE FUNCTION slate_cache_ttl(key text) RETURNS interval
AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION slate_cache_ttl(text) IS
'the lifetime that a key''s rule gives, or SLATE''s own table of families; null if neither knows the key, or its values have no end';

--
-- Looking after a table's keys
--

CREATE FUNCTION slate_cache_warm(rel regclass)
RETURNS bigint
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE;
REVOKE ALL ON FUNCTION slate_cache_warm(regclass) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_warm(regclass) IS
'fills the keys of a table''s rows that are not in Redis; returns how many; needs SELECT on the table';

CREATE FUNCTION slate_cache_verify(
    rel regclass,
    sample integer DEFAULT NULL,
    repair boolean DEFAULT false)
RETURNS TABLE(key text, problem text, cached text, actual jsonb)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE;
REVOKE ALL ON FUNCTION slate_cache_verify(regclass, integer, boolean) FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_verify(regclass, integer, boolean) IS
'compares what Redis has of a table with the table; returns keys that are stale, orphan (their row does not exist) or unreadable, and with repair drops them; a sample of so many random rows, or all that Redis has';

--
-- Watching
--

CREATE FUNCTION slate_cache.read_stats(
    OUT scope text,
    OUT hits bigint,
    OUT near_hits bigint,
    OUT misses bigint,
    OUT fills bigint,
    OUT fills_refused bigint,
    OUT bypasses bigint,
    OUT bad_values bigint,
    OUT read_failures bigint,
    OUT pushes bigint,
    OUT pushes_direct bigint,
    OUT keys_stored bigint,
    OUT keys_dropped bigint,
    OUT keys_outdated bigint,
    OUT pushes_lost bigint,
    OUT keys_lost bigint,
    OUT sweeps bigint,
    OUT sweeps_unfinished bigint,
    OUT keys_too_long bigint,
    OUT values_too_large bigint,
    OUT fallbacks bigint,
    OUT pushes_delayed bigint,
    OUT keys_delayed bigint,
    OUT replayed bigint,
    OUT emptied bigint)
RETURNS record
AS 'MODULE_PATHNAME', 'slate_cache_stats' LANGUAGE C VOLATILE;
GRANT EXECUTE ON FUNCTION slate_cache.read_stats() TO PUBLIC;
COMMENT ON FUNCTION slate_cache.read_stats() IS 'what the view slate_cache.stats shows';

CREATE VIEW slate_cache.stats AS SELECT * FROM slate_cache.read_stats();
GRANT SELECT ON slate_cache.stats TO PUBLIC;
COMMENT ON VIEW slate_cache.stats IS
'counters since the server started, or slate_cache_stats_reset()';
COMMENT ON COLUMN slate_cache.stats.scope IS
'server: all sessions together; session: this one alone, for want of shared_preload_libraries';
COMMENT ON COLUMN slate_cache.stats.hits IS 'keys answered by the cache';
COMMENT ON COLUMN slate_cache.stats.near_hits IS 'of those, the keys that the near cache had: Redis was not asked';
COMMENT ON COLUMN slate_cache.stats.misses IS 'keys that Redis was asked for and did not have';
COMMENT ON COLUMN slate_cache.stats.fills IS 'loaded values that were cached';
COMMENT ON COLUMN slate_cache.stats.fills_refused IS 'loaded values that were not cached because the key changed meanwhile';
COMMENT ON COLUMN slate_cache.stats.bypasses IS 'keys read past the cache: own changes, an old snapshot, row-level security, a trigger that is disabled, a Redis that others do not tell';
COMMENT ON COLUMN slate_cache.stats.bad_values IS 'values in Redis that were not JSON; they were dropped';
COMMENT ON COLUMN slate_cache.stats.read_failures IS 'exchanges of readers that failed; the tables answered';
COMMENT ON COLUMN slate_cache.stats.pushes IS 'transactions that told Redis something, and had its answer';
COMMENT ON COLUMN slate_cache.stats.pushes_direct IS 'of those, the ones that needed no script, because nobody else was on the way with their keys';
COMMENT ON COLUMN slate_cache.stats.keys_stored IS 'values written through';
COMMENT ON COLUMN slate_cache.stats.keys_dropped IS 'keys dropped, whether they had a value or not';
COMMENT ON COLUMN slate_cache.stats.keys_outdated IS 'values not written because a newer one was there';
COMMENT ON COLUMN slate_cache.stats.pushes_lost IS 'transactions that could not tell Redis all that they had changed, and had no journal';
COMMENT ON COLUMN slate_cache.stats.keys_lost IS 'keys and patterns of those transactions';
COMMENT ON COLUMN slate_cache.stats.pushes_delayed IS 'transactions that could not tell Redis at once, so that the worker replays them from the journal';
COMMENT ON COLUMN slate_cache.stats.keys_delayed IS 'keys and patterns of those transactions';
COMMENT ON COLUMN slate_cache.stats.replayed IS 'rows of the journal that the worker has replayed: after failures, after a restart of the server, of prepared transactions';
COMMENT ON COLUMN slate_cache.stats.emptied IS 'how often the namespace was emptied, because the history of Redis or PostgreSQL was unknown, or on request';
COMMENT ON COLUMN slate_cache.stats.sweeps IS 'walks through all keys of Redis for a pattern';
COMMENT ON COLUMN slate_cache.stats.sweeps_unfinished IS 'walks that found no time, or were refused, and that no worker took over';
COMMENT ON COLUMN slate_cache.stats.keys_too_long IS 'rows without a key because it would exceed 1024 bytes';
COMMENT ON COLUMN slate_cache.stats.values_too_large IS 'values larger than slate_cache.max_value; dropped instead of set';
COMMENT ON COLUMN slate_cache.stats.fallbacks IS 'transactions that exceeded slate_cache.max_pending, with their rows or with their JSON, and dropped keys instead of setting them';

CREATE FUNCTION slate_cache_stats_reset() RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE;
REVOKE ALL ON FUNCTION slate_cache_stats_reset() FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_stats_reset() IS 'sets the counters of slate_cache.stats to zero';

CREATE FUNCTION slate_cache.read_health(
    OUT "check" text,
    OUT ok boolean,
    OUT detail text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'slate_cache_health' LANGUAGE C VOLATILE;
REVOKE ALL ON FUNCTION slate_cache.read_health() FROM PUBLIC;
COMMENT ON FUNCTION slate_cache.read_health() IS 'what the view slate_cache.health shows; asks Redis';

CREATE VIEW slate_cache.health AS SELECT * FROM slate_cache.read_health();
COMMENT ON VIEW slate_cache.health IS
'what an administrator should know; asks Redis.  Not for PUBLIC: it names the server';
COMMENT ON COLUMN slate_cache.health."check" IS 'preload, launcher, worker, redis, persistence, eviction, breaker, journal, history, pushes';
COMMENT ON COLUMN slate_cache.health.ok IS 'whether all is well';
COMMENT ON COLUMN slate_cache.health.detail IS 'what was found';

CREATE FUNCTION slate_cache.read_journal(
    OUT xid xid8,
    OUT state text,
    OUT since timestamptz,
    OUT keys text[],
    OUT patterns text[],
    OUT bytes bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'slate_cache_journal' LANGUAGE C VOLATILE;
REVOKE ALL ON FUNCTION slate_cache.read_journal() FROM PUBLIC;
COMMENT ON FUNCTION slate_cache.read_journal() IS 'what the view slate_cache.journal shows';

CREATE VIEW slate_cache.journal AS
    SELECT xid, state, since,
           pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) since AS age,
           keys, patterns, bytes
    FROM slate_cache.read_journal();
COMMENT ON VIEW slate_cache.journal IS
'what Redis may not have heard of, and will be told by the worker; empty when all is well.  Not for PUBLIC: it shows everybody''s keys';
COMMENT ON COLUMN slate_cache.journal.xid IS 'the transaction; a large one has several rows';
COMMENT ON COLUMN slate_cache.journal.state IS
'failed: its keys will be dropped; patterns: its keys are told, its patterns are still to be looked for; prepared: neither committed nor rolled back yet; everything: the whole namespace will be emptied';
COMMENT ON COLUMN slate_cache.journal.since IS 'when it was written down, just before the commit';
COMMENT ON COLUMN slate_cache.journal.age IS 'how long ago that is';
COMMENT ON COLUMN slate_cache.journal.keys IS 'keys that it changed';
COMMENT ON COLUMN slate_cache.journal.patterns IS 'patterns that it dropped';
COMMENT ON COLUMN slate_cache.journal.bytes IS 'size of their names in the journal';

CREATE FUNCTION slate_cache.read_progress(
    OUT datname name,
    OUT pid integer,
    OUT phase text,
    OUT since timestamptz,
    OUT blocks_done bigint,
    OUT blocks_total bigint,
    OUT rows_replayed bigint,
    OUT patterns integer,
    OUT keys_scanned bigint,
    OUT ring_bytes bigint,
    OUT ring_size bigint,
    OUT delayed_since timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'slate_cache_progress' LANGUAGE C VOLATILE;
REVOKE ALL ON FUNCTION slate_cache.read_progress() FROM PUBLIC;
COMMENT ON FUNCTION slate_cache.read_progress() IS 'what the view slate_cache.progress shows';

CREATE VIEW slate_cache.progress AS SELECT * FROM slate_cache.read_progress();
COMMENT ON VIEW slate_cache.progress IS
'what the workers of all databases are doing, and how far they have got.  Not for PUBLIC: it tells how much other databases change';
COMMENT ON COLUMN slate_cache.progress.datname IS 'the database';
COMMENT ON COLUMN slate_cache.progress.pid IS 'process of its worker; null if there is none';
COMMENT ON COLUMN slate_cache.progress.phase IS
'no worker; idle; looking at redis: is it the one that we know?; pushing: what mode async has left to it; emptying: the namespace; replaying: the journal, what Redis has not heard; sweeping: a walk over all keys of Redis for dropped patterns; waiting for redis: which is away, or refuses; standing back: a server with a later timeline of this cluster uses this Redis';
COMMENT ON COLUMN slate_cache.progress.since IS
'when the phase began, looks and pushes in the middle of it left out; null if there has been no worker yet';
COMMENT ON COLUMN slate_cache.progress.blocks_done IS
'blocks of the journal that the present pass has read and told Redis of; null if none is under way';
COMMENT ON COLUMN slate_cache.progress.blocks_total IS 'blocks that it will have read at its end; may grow';
COMMENT ON COLUMN slate_cache.progress.rows_replayed IS 'rows that it has found in doubt, and told Redis of';
COMMENT ON COLUMN slate_cache.progress.patterns IS
'patterns that the present sweep or emptying looks for; null if none is under way';
COMMENT ON COLUMN slate_cache.progress.keys_scanned IS 'keys that it has looked at so far';
COMMENT ON COLUMN slate_cache.progress.ring_bytes IS
'bytes that sessions in mode async have left and Redis has not yet taken; null if there is no ring';
COMMENT ON COLUMN slate_cache.progress.ring_size IS 'bytes that the ring has room for';
COMMENT ON COLUMN slate_cache.progress.delayed_since IS
'when the first push failed that the worker has not made good yet; null if all is well.  If pushes fail again and again it stays for ten seconds at least';

CREATE FUNCTION slate_cache.read_events(
    OUT at timestamptz,
    OUT datname name,
    OUT pid integer,
    OUT kind text,
    OUT detail text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'slate_cache_events' LANGUAGE C VOLATILE;
REVOKE ALL ON FUNCTION slate_cache.read_events() FROM PUBLIC;
COMMENT ON FUNCTION slate_cache.read_events() IS 'what the view slate_cache.events shows';

CREATE VIEW slate_cache.events AS SELECT * FROM slate_cache.read_events();
COMMENT ON VIEW slate_cache.events IS
'the last 1024 things that happened to the cache of this server, or without preload of this session, the newest first; a start of the server, also after a crash, forgets them.  Not for PUBLIC: it names servers and roles';
COMMENT ON COLUMN slate_cache.events.at IS 'when it was noted';
COMMENT ON COLUMN slate_cache.events.datname IS
'the database; null if it is not about one, or that is gone';
COMMENT ON COLUMN slate_cache.events.pid IS 'the process that noted it';
COMMENT ON COLUMN slate_cache.events.kind IS
'launcher started, launcher ended, worker started, worker ended; no worker: no room for one; breaker opened, breaker closed: Redis failed, and answers again (in five seconds one opening, with its closing, at most); failover: a sentinel names another master, or a Cluster''s slots have others; trust lost: Redis or PostgreSQL has another history than was known; standing back: a server with a later timeline of this cluster uses this Redis; flush asked: slate_cache_flush() was called; emptied: the namespace was; pushes delayed: the first that failed, the journal has it; replayed: Redis has heard all that had failed (both once in ten seconds at most); pushes lost: the first in a minute that failed and has no journal; journal full: the namespace will be emptied; refused: what Redis has answered to the worker, which could not go on, each answer once until it can';
COMMENT ON COLUMN slate_cache.events.detail IS 'server, reason, number; null if there is none';

CREATE FUNCTION slate_cache_repair() RETURNS bigint
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE;
REVOKE ALL ON FUNCTION slate_cache_repair() FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_repair() IS
'has the worker replay the journal now, and waits until it knows Redis and nothing but prepared transactions is in doubt; returns how many rows were replayed meanwhile, those of patterns that were left to the worker among them.  Needs the worker';

CREATE FUNCTION slate_cache_flush() RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE;
REVOKE ALL ON FUNCTION slate_cache_flush() FROM PUBLIC;
COMMENT ON FUNCTION slate_cache_flush() IS
'empties the namespace, all keys that rules of this database cover, or have covered since it was emptied last, and those that were set by hand in it, at once, not at commit.  Needs the worker';

--
-- The worker comes when this is committed
--

CREATE FUNCTION slate_cache.announce() RETURNS void
AS 'MODULE_PATHNAME', 'slate_cache_announce' LANGUAGE C VOLATILE;
REVOKE ALL ON FUNCTION slate_cache.announce() FROM PUBLIC;
COMMENT ON FUNCTION slate_cache.announce() IS
'has a worker come to this database, if the library is preloaded; called by CREATE EXTENSION';

SELECT slate_cache.announce();
