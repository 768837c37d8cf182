-- What an administrator sees of events and of progress: columns, and what a
-- flush leaves there.  (What happens in outages: test/t/172_events.pl.)

-- every column of every view is explained
SELECT attrelid::regclass, attname, atttypid::regtype FROM pg_attribute
WHERE attrelid IN ('slate_cache.events'::regclass, 'slate_cache.progress'::regclass) AND attnum > 0
ORDER BY attrelid::regclass::text, attnum;
SELECT c.relname, attname FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
WHERE relnamespace = 'slate_cache'::regnamespace AND relkind = 'v' AND attnum > 0
AND col_description(attrelid, attnum) IS NULL;

-- a database that has just got the extension
SELECT slate_cache_repair();
SELECT kind FROM slate_cache.events WHERE datname = current_database();

-- the newest comes first; who asked, and why
SELECT slate_cache_flush();
SELECT kind, pid = pg_backend_pid() AS mine, detail = 'by ' || current_user AS role,
       split_part(detail, ': ', 2) AS reason
FROM slate_cache.events WHERE datname = current_database() LIMIT 2;
SELECT count(*) FROM slate_cache.events WHERE at NOT BETWEEN pg_postmaster_start_time() AND clock_timestamp();

-- nothing is under way
SELECT datname, e.pid = p.pid AS is_the_worker, blocks_done, blocks_total, rows_replayed, patterns, keys_scanned,
       ring_bytes, ring_size, delayed_since
FROM slate_cache.progress p JOIN slate_cache.events e USING (datname)
WHERE datname = current_database() AND kind = 'worker started';
