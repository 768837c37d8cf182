-- Partitioned tables: rules of the parent hold for rows in every partition,
-- however they get there and wherever they go.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';
\setenv cached '$redis --scan --pattern "shop:*" | LC_ALL=C sort | while read -r key; do printf "%s %s\n" "$key" "$($redis GET "$key")"; done'

CREATE TABLE logs (id int, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
-- columns in another order, and one that is gone
CREATE TABLE logs_2 (note text, gone int, day date NOT NULL, id int NOT NULL);
ALTER TABLE logs_2 DROP COLUMN gone;
ALTER TABLE logs ATTACH PARTITION logs_2 FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
-- a partition that is partitioned itself
CREATE TABLE logs_3 PARTITION OF logs FOR VALUES FROM ('2024-03-01') TO ('2024-04-01') PARTITION BY LIST (id);
CREATE TABLE logs_3_1 PARTITION OF logs_3 FOR VALUES IN (1);
CREATE TABLE logs_3_x PARTITION OF logs_3 DEFAULT;
SELECT slate_cache_attach('logs', row_keys => ARRAY['shop:log:{id}:{day}'], list_keys => ARRAY['shop:logs:{id}']);
-- one row a rule, not one a partition
SELECT rel, kind, template, ordered FROM slate_cache.rules;

INSERT INTO logs VALUES (1, '2024-01-05', 'january'), (1, '2024-02-05', 'february'), (1, '2024-03-05', 'march'), (2, '2024-03-05', 'march');
\! eval "$cached"
SELECT slate_cache_get('shop:logs:1');
-- loaded by the parent's rule, from any partition
\! $redis DEL shop:log:1:2024-01-05 shop:log:1:2024-02-05 shop:log:1:2024-03-05
SELECT slate_cache_get('shop:log:1:2024-02-05');
SELECT * FROM slate_cache_mget('{shop:log:1:2024-01-05,shop:log:1:2024-02-05,shop:log:1:2024-03-05,shop:log:3:2024-03-05}');
\! eval "$cached"

-- rows that move to another partition
UPDATE logs SET day = '2024-02-06' WHERE id = 1 AND day = '2024-01-05';
\! eval "$cached"
UPDATE logs SET id = 3, note = 'moved' WHERE id = 2;
UPDATE logs SET id = 1, day = '2024-03-06' WHERE id = 3;
\! eval "$cached"
-- ... with the key as it was
CREATE TABLE moving (id int, place int, note text) PARTITION BY LIST (place);
CREATE TABLE moving_1 PARTITION OF moving FOR VALUES IN (1);
CREATE TABLE moving_2 PARTITION OF moving FOR VALUES IN (2);
SELECT slate_cache_attach('moving', row_keys => ARRAY['shop:moving:{id}']);
INSERT INTO moving VALUES (1, 1, 'here');
UPDATE moving SET place = 2, note = 'there';
SELECT coalesce(slate_cache_peek('shop:moving:1') = to_jsonb(moving), true) AS right FROM moving;
UPDATE moving SET note = 'still there';
\! $redis GET shop:moving:1
DROP TABLE moving;
\! $redis EXISTS shop:moving:1

-- changes of a partition by its own name
UPDATE logs_2 SET note = 'by name' WHERE day = '2024-02-05';
\! $redis GET shop:log:1:2024-02-05
DELETE FROM logs_3_1 WHERE day = '2024-03-05';
\! $redis EXISTS shop:log:1:2024-03-05
INSERT INTO logs_1 VALUES (4, '2024-01-07', 'by name');
\! $redis GET shop:log:4:2024-01-07

-- TRUNCATE of one partition, of a partitioned one, of all
SELECT slate_cache_get('shop:logs:1');
TRUNCATE logs_2;
\! $redis EXISTS shop:log:1:2024-02-05 shop:log:1:2024-02-06 shop:logs:1
SELECT slate_cache_get('shop:logs:1');
UPDATE logs SET note = note || '!';
\! eval "$cached"
TRUNCATE logs_3;
\! $redis EXISTS shop:log:1:2024-03-06 shop:logs:1
INSERT INTO logs VALUES (1, '2024-03-05', 'again');
TRUNCATE logs;
\! eval "$cached"

-- a partition that comes with rows, or goes with them
CREATE TABLE logs_4 (id int NOT NULL, day date NOT NULL, note text);
INSERT INTO logs_4 VALUES (1, '2024-04-05', 'april');
SELECT slate_cache_get('shop:logs:1');
ALTER TABLE logs ATTACH PARTITION logs_4 FOR VALUES FROM ('2024-04-01') TO ('2024-05-01');
SELECT slate_cache_get('shop:logs:1'), slate_cache_get('shop:log:1:2024-04-05');
UPDATE logs SET note = 'april!';
\! eval "$cached"
SELECT slate_cache_get('shop:logs:1');
ALTER TABLE logs DETACH PARTITION logs_4;
\! eval "$cached"
UPDATE logs_4 SET note = 'alone';
\! eval "$cached"
ALTER TABLE logs ATTACH PARTITION logs_4 FOR VALUES FROM ('2024-04-01') TO ('2024-05-01');
SELECT slate_cache_get('shop:logs:1') IS NOT NULL AS filled;
UPDATE logs SET note = 'again';
DROP TABLE logs_4;
\! eval "$cached"

-- a partition's rules are its parent's
INSERT INTO logs VALUES (1, '2024-01-08', 'kept');
DO $$
BEGIN
    PERFORM slate_cache_detach('logs_1');
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'refused';
END $$;
DO $$
BEGIN
    PERFORM slate_cache_attach('logs_1', ARRAY['shop:other:{id}']);
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'refused';
END $$;
UPDATE logs SET note = 'kept well';
\! eval "$cached"

-- one partition whose trigger is off: the table's keys are neither filled nor read
CREATE TABLE part (id int, p int, PRIMARY KEY (id, p)) PARTITION BY LIST (p);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1) PARTITION BY LIST (p);
CREATE TABLE part_leaf PARTITION OF part_1 FOR VALUES IN (1);
SELECT slate_cache_attach('part', row_keys => ARRAY['shop:part:{id}']);
INSERT INTO part VALUES (1, 1);
ALTER TABLE part_leaf DISABLE TRIGGER slate_cache_row;
SELECT template, enabled FROM slate_cache.rules WHERE rel = 'part'::regclass;
DELETE FROM part;
INSERT INTO part VALUES (2, 1);
SELECT slate_cache_get('shop:part:1'), slate_cache_get('shop:part:2');
\! $redis EXISTS shop:part:2
SELECT slate_cache_warm('part');
ALTER TABLE part_leaf ENABLE ALWAYS TRIGGER slate_cache_row;
SELECT template, enabled FROM slate_cache.rules WHERE rel = 'part'::regclass;
SELECT slate_cache_warm('part');
DROP TABLE part;

-- inheritance: a rule holds for its own table's rows, not for its children's
CREATE TABLE base (id int PRIMARY KEY, note text);
CREATE TABLE child (more int) INHERITS (base);
SELECT slate_cache_attach('base', row_keys => ARRAY['shop:base:{id}'], list_keys => ARRAY['shop:bases:{note}']);
INSERT INTO base VALUES (1, 'same');
INSERT INTO child VALUES (2, 'same', 0);
\! $redis MGET shop:base:1 shop:base:2
SELECT slate_cache_get('shop:base:2'), slate_cache_get('shop:bases:same');
UPDATE base SET note = 'other';
\! $redis MGET shop:base:1 shop:base:2

-- detach takes the triggers off all partitions
SELECT slate_cache_detach('logs');
\! $redis --scan --pattern 'shop:log*'
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'slate_cache%' AND tgrelid <> 'base'::regclass;
