-- Values that a session has parsed before: never another value than Redis has, and
-- never more memory than slate_cache.parsed_memory.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';

-- what a session keeps, in kB, without the table of where it is
CREATE FUNCTION kept() RETURNS bigint LANGUAGE sql AS $$
    SELECT coalesce(sum(used_bytes), 0)::bigint / 1024 - 32
    FROM pg_backend_memory_contexts WHERE name = 'slate_cache parsed values' $$;
-- a value of some 4.5 kB, twice that with its jsonb
CREATE FUNCTION large(number int) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('number', number, 'text', repeat(md5(number::text), 140)) $$;

-- the same key, other texts: each time what Redis has
\! $redis SET shop:a '{"n": 1}'
SELECT slate_cache_get('shop:a') FROM generate_series(1, 3);
\! $redis SET shop:a '{"n": 2}'
SELECT slate_cache_get('shop:a') FROM generate_series(1, 3);
\! $redis SET shop:a '{"n": 1}'
SELECT slate_cache_get('shop:a') FROM generate_series(1, 2);
-- texts that are no JSON, before and after
\! $redis SET shop:a '{"n": 1'
SELECT slate_cache_peek('shop:a') IS NULL AS is_none FROM generate_series(1, 3);
\! $redis SET shop:a '{"n": 1}'
SELECT slate_cache_peek('shop:a');

-- what comes once is not kept; what comes twice is
SELECT slate_cache_mset(jsonb_object_agg('shop:large:' || i, large(i))) FROM generate_series(1, 300) i;
SELECT count(*) FROM generate_series(1, 40) i WHERE slate_cache_get('shop:large:' || i) IS DISTINCT FROM large(i);
SELECT kept() AS kb;
SELECT count(*) FROM generate_series(1, 40) i WHERE slate_cache_get('shop:large:' || i) IS DISTINCT FROM large(i);
SELECT kept() BETWEEN 300 AND 800 AS keeps;
SELECT count(*) FROM generate_series(1, 40) i WHERE slate_cache_get('shop:large:' || i) IS DISTINCT FROM large(i);
-- a hit is the caller's own
SELECT slate_cache_get('shop:large:1') || '{"number": 0, "text": null}';
SELECT slate_cache_get('shop:large:1') = large(1) AS is_whole;

-- more than there is room for, again and again
SELECT count(*) FROM generate_series(1, 6) round, LATERAL
    (SELECT * FROM generate_series(1, 300) i WHERE slate_cache_get('shop:large:' || i) IS DISTINCT FROM large(i)) wrong;
SELECT kept() BETWEEN 300 AND 1024 AS is_bounded;
SELECT count(*) FROM slate_cache_mget((SELECT array_agg('shop:large:' || i) FROM generate_series(1, 300) i))
    WITH ORDINALITY AS m(key, value, i) WHERE value IS DISTINCT FROM large(i::int);

-- less room, and none
SET slate_cache.parsed_memory = '100kB';
SELECT slate_cache_get('shop:large:1') = large(1) AS is_right;
SELECT kept() <= 100 AS is_bounded;
SET slate_cache.parsed_memory = 0;
SELECT slate_cache_get('shop:large:1') = large(1) AS is_right FROM generate_series(1, 3);
SELECT kept() AS kb;
DO $$
BEGIN
    SET slate_cache.parsed_memory = -1;
EXCEPTION WHEN invalid_parameter_value THEN
    RAISE NOTICE 'it cannot be negative';
END $$;
RESET slate_cache.parsed_memory;
SELECT slate_cache_get('shop:large:1') = large(1) AS is_right FROM generate_series(1, 3);
SELECT kept() > 0 AS keeps;

SELECT slate_cache_invalidate('shop:*');
DROP FUNCTION kept, large;
