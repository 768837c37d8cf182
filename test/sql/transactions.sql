-- What reaches Redis of a transaction: what is true when it commits, and
-- nothing of what was rolled back.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';
\setenv cached '$redis --scan --pattern "shop:*" | LC_ALL=C sort | while read -r key; do printf "%s %s\n" "$key" "$($redis GET "$key")"; done'

CREATE TABLE items (id int PRIMARY KEY, kind int, note text);
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:item:{id}'],
                          list_keys => ARRAY['shop:items:{kind}'], drop_keys => ARRAY['shop:search:{kind}:*']);
INSERT INTO items VALUES (1, 1, 'one'), (2, 1, 'two');
SELECT jsonb_array_length(slate_cache_get('shop:items:1'));

-- nothing is told before the commit
BEGIN;
UPDATE items SET note = 'changed' WHERE id = 1;
INSERT INTO items VALUES (3, 1, 'three');
DELETE FROM items WHERE id = 2;
\! eval "$cached"
COMMIT;
\! eval "$cached"

-- a rollback leaves everything as it was; so does an error
SELECT slate_cache_stats_reset();
BEGIN;
UPDATE items SET note = 'rolled back';
TRUNCATE items;
SELECT slate_cache_set('shop:set', '1'), slate_cache_del('shop:item:1'), slate_cache_invalidate('shop:*');
ROLLBACK;
BEGIN;
UPDATE items SET note = 'rolled back';
SELECT 1 / 0;
COMMIT;
\! eval "$cached"
SELECT pushes, pushes_lost FROM slate_cache.stats;

-- a savepoint that is rolled back
BEGIN;
UPDATE items SET note = 'outer' WHERE id = 1;
SAVEPOINT a;
UPDATE items SET note = 'inner' WHERE id = 1;
INSERT INTO items VALUES (4, 2, 'inner');
SELECT slate_cache_set('shop:set', '"inner"');
ROLLBACK TO a;
COMMIT;
\! eval "$cached"

-- one that is released, and one below it that is rolled back
BEGIN;
SAVEPOINT a;
UPDATE items SET note = 'a' WHERE id = 1;
SAVEPOINT b;
UPDATE items SET note = 'b' WHERE id = 3;
SAVEPOINT c;
UPDATE items SET note = 'c';
ROLLBACK TO c;
RELEASE b;
UPDATE items SET note = note || '!' WHERE id = 1;
RELEASE a;
COMMIT;
\! eval "$cached"

-- released, then the outer one is rolled back
BEGIN;
UPDATE items SET note = 'top' WHERE id = 1;
SAVEPOINT a;
SAVEPOINT b;
UPDATE items SET note = 'gone' WHERE id = 3;
DELETE FROM items WHERE id = 1;
RELEASE b;
SAVEPOINT d;
UPDATE items SET note = 'gone, too' WHERE id = 3;
RELEASE d;
ROLLBACK TO a;
UPDATE items SET kind = 2 WHERE id = 3;
COMMIT;
\! eval "$cached"

-- two released with nothing between, a change, and one that is rolled back
BEGIN;
SAVEPOINT a;
UPDATE items SET note = 'outer' WHERE id = 1;
SAVEPOINT b;
UPDATE items SET note = 'inner' WHERE id = 3;
RELEASE b;
RELEASE a;
INSERT INTO items VALUES (4, 2, 'after');
SAVEPOINT c;
UPDATE items SET note = 'rolled back' WHERE id = 4;
ROLLBACK TO c;
COMMIT;
\! eval "$cached"
DELETE FROM items WHERE id = 4;

-- the same savepoint rolled back to again and again
BEGIN;
SAVEPOINT a;
UPDATE items SET note = 'first';
ROLLBACK TO a;
UPDATE items SET note = 'second';
ROLLBACK TO a;
UPDATE items SET note = 'third' WHERE id = 1;
COMMIT;
\! eval "$cached"

-- a drop that is rolled back does not take the put before it along
BEGIN;
UPDATE items SET note = 'kept' WHERE id = 1;
SAVEPOINT a;
SELECT slate_cache_invalidate('shop:item:*'), slate_cache_del('shop:item:1');
DELETE FROM items WHERE id = 1;
ROLLBACK TO a;
COMMIT;
\! $redis GET shop:item:1

-- subtransactions of PL/pgSQL, in a loop; enough to need an index over the keys
DELETE FROM items;
DO $$
BEGIN
    FOR i IN 1..40 LOOP
        BEGIN
            INSERT INTO items VALUES (i, 1, 'loop');
            UPDATE items SET note = 'loop ' || i WHERE id = i;
            IF i % 2 = 0 THEN
                RAISE division_by_zero;
            END IF;
        EXCEPTION WHEN division_by_zero THEN
            IF i % 4 = 0 THEN
                INSERT INTO items VALUES (i, 1, 'handler');
            END IF;
        END;
    END LOOP;
END $$;
SELECT count(*) AS rows, count(*) FILTER (WHERE slate_cache_peek('shop:item:' || id) = to_jsonb(items)) AS right FROM items;
\! $redis --scan --pattern 'shop:item:*' | wc -l
-- ... nested
DO $$
BEGIN
    FOR i IN 1..20 LOOP
        BEGIN
            UPDATE items SET note = 'outer' WHERE id = i;
            BEGIN
                UPDATE items SET note = 'inner' WHERE id = i;
                IF i % 3 = 0 THEN RAISE no_data_found; END IF;
            EXCEPTION WHEN no_data_found THEN NULL;
            END;
            IF i % 5 = 0 THEN RAISE no_data_found; END IF;
        EXCEPTION WHEN no_data_found THEN NULL;
        END;
    END LOOP;
END $$;
SELECT count(*) AS rows, count(*) FILTER (WHERE slate_cache_peek('shop:item:' || id) = to_jsonb(items)) AS right FROM items;
SELECT note, count(*) FROM items WHERE note IN ('inner', 'outer', 'handler') GROUP BY note ORDER BY note;

-- a procedure that commits half way
CREATE PROCEDURE halves() LANGUAGE plpgsql AS $$
BEGIN
    UPDATE items SET note = 'first half' WHERE id = 1;
    COMMIT;
    UPDATE items SET note = 'second half' WHERE id = 3;
    ROLLBACK;
    UPDATE items SET note = 'third half' WHERE id = 5;
END $$;
CALL halves();
SELECT id, slate_cache_peek('shop:item:' || id)->>'note' AS note FROM items WHERE id IN (1, 3, 5) ORDER BY id;

-- the last operation on a key wins
TRUNCATE items;
BEGIN;
SELECT slate_cache_set('shop:a', '1'), slate_cache_set('shop:b', '1'), slate_cache_del('shop:c');
SELECT slate_cache_del('shop:a'), slate_cache_set('shop:b', '2'), slate_cache_set('shop:c', '1');
SELECT slate_cache_set('shop:a', '3');
COMMIT;
\! eval "$cached"
BEGIN;
SELECT slate_cache_set('shop:a', '4'), slate_cache_del('shop:a', 'shop:b');
SAVEPOINT s;
SELECT slate_cache_set('shop:b', '5');
RELEASE s;
COMMIT;
\! eval "$cached"
BEGIN;
INSERT INTO items VALUES (1, 1, 'row');
SELECT slate_cache_set('shop:item:1', '"by hand"');
COMMIT;
\! $redis GET shop:item:1
BEGIN;
SELECT slate_cache_set('shop:item:1', '"by hand"');
UPDATE items SET note = 'row again';
COMMIT;
\! $redis GET shop:item:1
BEGIN;
UPDATE items SET note = 'a third time';
DELETE FROM items;
INSERT INTO items VALUES (1, 1, 'back');
COMMIT;
\! $redis GET shop:item:1
BEGIN;
INSERT INTO items VALUES (2, 1, 'not for long');
DELETE FROM items WHERE id = 2;
COMMIT;
\! $redis EXISTS shop:item:2

-- a pattern, then a set: it stays; a set, then a pattern: it goes
\! $redis MSET shop:set:old 1 shop:set:1 1 > /dev/null
BEGIN;
SELECT slate_cache_invalidate('shop:set:*');
SELECT slate_cache_set('shop:set:1', '"after"');
COMMIT;
\! $redis MGET shop:set:1 shop:set:old
BEGIN;
SELECT slate_cache_set('shop:set:1', '"before"');
SELECT slate_cache_set('shop:set:2', '"before"');
SELECT slate_cache_invalidate('shop:set:*');
COMMIT;
\! $redis MGET shop:set:1 shop:set:2
BEGIN;
SELECT slate_cache_set('shop:set:1', '"between"');
SELECT slate_cache_invalidate('shop:set:*');
SELECT slate_cache_set('shop:set:2', '"between"');
SELECT slate_cache_invalidate('shop:set:1');
SELECT slate_cache_invalidate('shop:set:*');
SELECT slate_cache_set('shop:set:1', '"last"');
COMMIT;
\! $redis MGET shop:set:1 shop:set:2
-- ... of a rule, and with rows
\! $redis SET shop:search:1:x 1
BEGIN;
UPDATE items SET note = 'searched';
SELECT slate_cache_set('shop:search:1:x', '"after the row"');
COMMIT;
\! $redis GET shop:search:1:x
BEGIN;
SELECT slate_cache_set('shop:search:1:x', '"before the row"');
UPDATE items SET note = 'searched again';
COMMIT;
\! $redis EXISTS shop:search:1:x
BEGIN;
UPDATE items SET note = 'dropped';
SELECT slate_cache_invalidate('shop:*');
COMMIT;
\! eval "$cached"
BEGIN;
SELECT slate_cache_invalidate('shop:*');
UPDATE items SET note = 'put';
COMMIT;
\! $redis GET shop:item:1
BEGIN;
SELECT slate_cache_invalidate('shop:*');
SAVEPOINT s;
UPDATE items SET note = 'put and kept';
RELEASE s;
SAVEPOINT t;
SELECT slate_cache_invalidate('shop:*');
ROLLBACK TO t;
COMMIT;
\! $redis GET shop:item:1

-- reading in a transaction: get sees what set has queued ...
BEGIN;
SELECT slate_cache_set('shop:queued', '"queued"');
SELECT slate_cache_get('shop:queued'), slate_cache_peek('shop:queued') IS NULL AS not_yet_in_redis;
SELECT key, value FROM slate_cache_mget('{shop:queued,shop:other}');
SELECT slate_cache_mset('{"shop:queued": {"m": 1}, "shop:other": [2]}');
SELECT slate_cache_get('shop:queued'), slate_cache_get('shop:other');
SELECT slate_cache_fetch('shop:queued', 'SELECT 1');
SELECT slate_cache_del('shop:queued');
SELECT slate_cache_get('shop:queued') IS NULL;
SELECT slate_cache_set('shop:queued', '1');
SELECT slate_cache_invalidate('shop:q*');
SELECT slate_cache_get('shop:queued') IS NULL, slate_cache_get('shop:other');
SAVEPOINT s;
SELECT slate_cache_set('shop:queued', '2');
SELECT slate_cache_get('shop:queued');
ROLLBACK TO s;
SELECT slate_cache_get('shop:queued') IS NULL;
ROLLBACK;
SELECT slate_cache_get('shop:queued') IS NULL;
-- ... also of a key that is in Redis, and is going to be dropped
\! $redis SET shop:there '"there"'
BEGIN;
SELECT slate_cache_get('shop:there');
SELECT slate_cache_invalidate('shop:the*');
SELECT slate_cache_get('shop:there') IS NULL;
ROLLBACK;
SELECT slate_cache_get('shop:there');
-- ... and of keys with a rule, the table
BEGIN;
UPDATE items SET note = 'my own change';
SELECT slate_cache_get('shop:item:1')->>'note', slate_cache_get('shop:items:1')->0->>'note';
SELECT key, value IS NULL AS none FROM slate_cache_mget('{shop:item:1,shop:items:1,shop:item:7}');
DELETE FROM items;
SELECT slate_cache_get('shop:item:1') IS NULL, slate_cache_get('shop:items:1');
ROLLBACK;
SELECT slate_cache_get('shop:item:1')->>'note';
\! eval "$cached"
