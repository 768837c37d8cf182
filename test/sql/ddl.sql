-- Changing the definition of an attached table: rules keep working, or the
-- command is refused; what is cached in an old shape goes.
\getenv socket SLATE_REDIS_SOCKET
\set redis 'redis-cli -s ' :socket
\setenv redis :redis
-- a busy machine is no reason to fail
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';
\setenv cached '$redis --scan --pattern "shop:*" | LC_ALL=C sort | while read -r key; do printf "%s %s\n" "$key" "$($redis GET "$key")"; done'

CREATE TABLE items (id int PRIMARY KEY, kind int, note text, plain int);
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:item:{id}', 'shop:note:{id} -> note'],
                          list_keys => ARRAY['shop:items:{kind}']);
INSERT INTO items VALUES (1, 1, 'one', 1);
SELECT slate_cache_get('shop:items:1');

-- renaming or dropping a column that a rule uses is refused: in a key, ...
ALTER TABLE items RENAME COLUMN id TO number;
ALTER TABLE items RENAME COLUMN kind TO sort;
ALTER TABLE items DROP COLUMN kind;
-- ... and as the one that is kept
ALTER TABLE items RENAME COLUMN note TO remark;
ALTER TABLE items DROP COLUMN note;
-- nothing has changed
\! eval "$cached"
UPDATE items SET note = 'uno';
\! eval "$cached"

-- after a rename all the same, in one transaction with a detach
BEGIN;
SELECT slate_cache_detach('items');
ALTER TABLE items RENAME COLUMN kind TO sort;
SELECT slate_cache_attach('items', row_keys => ARRAY['shop:item:{id}', 'shop:note:{id} -> note'],
                          list_keys => ARRAY['shop:items:{sort}']);
UPDATE items SET note = 'one';
COMMIT;
\! eval "$cached"
SELECT slate_cache_get('shop:items:1');

-- renaming a column that no rule uses: the old shape goes
ALTER TABLE items RENAME COLUMN plain TO fancy;
\! eval "$cached"
SELECT slate_cache_get('shop:item:1');

-- adding one
ALTER TABLE items ADD COLUMN more int DEFAULT 5;
\! eval "$cached"
SELECT slate_cache_get('shop:item:1');
UPDATE items SET fancy = 2;
\! $redis GET shop:item:1

-- dropping one
ALTER TABLE items DROP COLUMN more;
\! eval "$cached"
UPDATE items SET fancy = 3;
SELECT slate_cache_get('shop:item:1'), slate_cache_get('shop:items:1');

-- another type, of a value and of a key
ALTER TABLE items ALTER COLUMN fancy TYPE text USING 'is ' || fancy;
\! eval "$cached"
SELECT slate_cache_get('shop:item:1');
ALTER TABLE items ALTER COLUMN id TYPE text;
\! eval "$cached"
SELECT slate_cache_get('shop:item:1');
INSERT INTO items VALUES ('x y', 2, 'two');
\! $redis GET 'shop:item:x y'
SELECT slate_cache_get('shop:item:x y') = slate_cache_peek('shop:item:x y');

-- but not a type that no key can have: its text depends on the session, ...
ALTER TABLE items ALTER COLUMN id TYPE regclass USING (CASE id WHEN '1' THEN 'pg_class' ELSE 'pg_type' END)::regclass;
ALTER TABLE items ALTER COLUMN sort TYPE money[] USING ARRAY[sort::money];
-- ... or no row can be found by it
ALTER TABLE items ALTER COLUMN sort TYPE json USING to_json(sort);
ALTER TABLE items DROP COLUMN sort, ADD COLUMN sort xml;
-- ... while one that is kept can have it
BEGIN;
ALTER TABLE items ALTER COLUMN note TYPE json USING to_json(note);
ROLLBACK;
SELECT slate_cache_get('shop:item:1');

-- the same for a part of the key's type, at any depth
CREATE TYPE part AS (a int);
CREATE TYPE whole AS (id int, parts part[]);
CREATE TABLE wholes (id int PRIMARY KEY, part part, key whole);
SELECT slate_cache_attach('wholes', row_keys => ARRAY['shop:whole:{key}'], list_keys => ARRAY['shop:wholes:{part}']);
INSERT INTO wholes VALUES (1, '(1)', ROW(1, ARRAY['(1)'::part]));
SELECT slate_cache_get(key) FROM unnest(ARRAY['shop:whole:(1,"{(1)}")', 'shop:wholes:(1)']) AS key;
ALTER TYPE part ADD ATTRIBUTE m money;
ALTER TYPE part ADD ATTRIBUTE m regclass[];
ALTER TYPE part ADD ATTRIBUTE p point;
ALTER TYPE whole ADD ATTRIBUTE m money;
-- ... what is cached under the old shape of the type goes
\! $redis --scan --pattern 'shop:whole*' | LC_ALL=C sort
ALTER TYPE whole RENAME ATTRIBUTE id TO number;
\! $redis --scan --pattern 'shop:whole*' | LC_ALL=C sort
SELECT slate_cache_get('shop:whole:(1,"{(1)}")');
ALTER TYPE part RENAME ATTRIBUTE a TO b;
\! $redis --scan --pattern 'shop:whole*' | LC_ALL=C sort
SELECT slate_cache_get('shop:whole:(1,"{(1)}")');
DROP TABLE wholes;
-- ... also where this session knows the outer type as one that can be compared
CREATE TYPE whole_part AS (part part);
CREATE TABLE deep (key whole_part, note text);
SELECT slate_cache_attach('deep', row_keys => ARRAY['shop:deep:{key}']);
ALTER TYPE part ADD ATTRIBUTE p point;
DROP TABLE deep;
-- ... while a row type may have an operator of its own, whatever is in it
CREATE TYPE spot AS (p point);
CREATE FUNCTION spot_eq(spot, spot) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT ($1).p ~= ($2).p';
CREATE FUNCTION spot_cmp(spot, spot) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT bttextcmp($1::text, $2::text)';
CREATE OPERATOR = (LEFTARG = spot, RIGHTARG = spot, FUNCTION = spot_eq);
CREATE OPERATOR CLASS spot_ops DEFAULT FOR TYPE spot USING btree AS OPERATOR 3 =, FUNCTION 1 spot_cmp(spot, spot);
CREATE TABLE spots (spot spot, note text);
SELECT slate_cache_attach('spots', row_keys => ARRAY['shop:spot:{spot}']);
INSERT INTO spots VALUES (ROW('(1,2)'), 'here');
SELECT slate_cache_del('shop:spot:("(1,2)")');
SELECT slate_cache_get('shop:spot:("(1,2)")');
DROP TABLE spots;

-- rolled back
BEGIN;
ALTER TABLE items ADD COLUMN more int;
UPDATE items SET more = 1;
SELECT slate_cache_get('shop:item:1');
ROLLBACK;
SELECT slate_cache_get('shop:item:1');

-- a row captured before the table is altered in the same transaction
BEGIN;
UPDATE items SET note = 'before' WHERE id = '1';
ALTER TABLE items ADD COLUMN late int DEFAULT 7;
COMMIT;
SELECT slate_cache_get('shop:item:1');
BEGIN;
UPDATE items SET note = 'after' WHERE id = '1';
ALTER TABLE items RENAME TO things;
COMMIT;
SELECT slate_cache_get('shop:item:1');
ALTER TABLE things RENAME TO items;

-- the table under another name; the session has its queries prepared
SELECT count(value) FROM slate_cache_mget('{shop:item:1,shop:item:x y,shop:items:1}');
ALTER TABLE items RENAME TO goods;
SELECT rel, template FROM slate_cache.rules;
SELECT count(value) FROM slate_cache_mget('{shop:item:1,shop:item:x y,shop:items:1}');
UPDATE goods SET note = 'renamed' WHERE id = '1';
\! eval "$cached"

-- in another schema
CREATE SCHEMA store;
ALTER TABLE goods SET SCHEMA store;
SELECT rel, template FROM slate_cache.rules;
\! eval "$cached"
SELECT count(value) FROM slate_cache_mget('{shop:item:1,shop:item:x y,shop:items:1}');
UPDATE store.goods SET note = 'moved' WHERE id = '1';
SELECT slate_cache_get('shop:item:1'), slate_cache_get('shop:items:1');

-- in a schema that is renamed
ALTER SCHEMA store RENAME TO shop;
\! $redis DEL shop:item:1 shop:items:1 > /dev/null
SELECT slate_cache_get('shop:item:1'), slate_cache_get('shop:items:1');
\! $redis DEL shop:item:1 shop:items:1 > /dev/null
SELECT count(value) FROM slate_cache_mget('{shop:item:1,shop:item:x y,shop:items:1}');
-- ... and another table takes its place
CREATE SCHEMA store;
CREATE TABLE store.goods (id text, sort int, note text);
INSERT INTO store.goods VALUES ('1', 1, 'an impostor');
\! $redis DEL shop:item:1 shop:items:1 > /dev/null
SELECT slate_cache_get('shop:item:1')->>'note', slate_cache_get('shop:items:1')->0->>'note';

-- another search_path, in which the names of operators and tables mean others
CREATE SCHEMA evil;
CREATE FUNCTION evil.same(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
SET search_path = evil, pg_catalog;
\! $redis DEL shop:item:1
SELECT public.slate_cache_get('shop:item:1')->>'note', public.slate_cache_get('shop:item:2');
RESET search_path;

-- without its primary key, writers of a key are not ordered any more, and a
-- unique index orders them again
ALTER TABLE shop.goods DROP CONSTRAINT items_pkey;
SELECT template, ordered FROM slate_cache.rules;
CREATE UNIQUE INDEX partial ON shop.goods (id) WHERE sort > 0;
CREATE UNIQUE INDEX expression ON shop.goods (lower(id));
CREATE UNIQUE INDEX too_many ON shop.goods (id, sort);
SELECT template, ordered FROM slate_cache.rules WHERE kind = 'row';
CREATE UNIQUE INDEX exact ON shop.goods (id);
SELECT template, ordered FROM slate_cache.rules WHERE kind = 'row';
DROP INDEX shop.exact;
SELECT template, ordered FROM slate_cache.rules WHERE kind = 'row';

-- storage, statistics and the like leave rules alone
ALTER TABLE shop.goods ALTER COLUMN note SET STORAGE EXTERNAL;
VACUUM FULL shop.goods;
UPDATE shop.goods SET note = 'vacuumed' WHERE id = '1';
SELECT slate_cache_peek('shop:item:1');

-- a replica's role does not silence the event triggers
SET session_replication_role = replica;
ALTER TABLE shop.goods RENAME COLUMN id TO number;
RESET session_replication_role;
-- where they are disabled, the next change tells; a key is never wrong
ALTER EVENT TRIGGER slate_cache_altered DISABLE;
ALTER TABLE shop.goods RENAME COLUMN id TO number;
ALTER EVENT TRIGGER slate_cache_altered ENABLE ALWAYS;
UPDATE shop.goods SET note = 'too late' WHERE number = '1';
-- ... and other tables have nothing to do with it
CREATE TABLE others (id int PRIMARY KEY);
SELECT slate_cache_attach('others', row_keys => ARRAY['shop:other:{id}'], drop_keys => ARRAY['shop:found:{id}:*']);
INSERT INTO others VALUES (1), (2);
SELECT slate_cache_get('shop:other:1'), slate_cache_set('shop:found:1:x', '1'), slate_cache_invalidate('shop:found:*');
DELETE FROM others WHERE id = 2;
\! $redis --scan --pattern 'shop:other:*'
ALTER TABLE shop.goods RENAME COLUMN number TO id;
UPDATE shop.goods SET note = 'in time' WHERE id = '1';
\! $redis GET shop:item:1
-- ... nor for the view, whatever has become of a table
ALTER EVENT TRIGGER slate_cache_altered DISABLE;
CREATE TABLE odd (id int PRIMARY KEY, k text, plain int);
SELECT slate_cache_attach('odd', row_keys => ARRAY['shop:odd:{id}', 'shop:odd:k:{k}']);
ALTER TABLE odd ALTER COLUMN k TYPE regclass USING 'pg_class'::regclass;
CREATE TABLE by_hand (id int PRIMARY KEY);
CREATE TRIGGER by_hand AFTER INSERT ON by_hand FOR EACH ROW EXECUTE FUNCTION slate_cache.capture(
    'row', 'shop:hand:{id}', 'row', 'shop:hand', 'row', 'slate_cache:{id}', 'list', 'shop:hand:{', 'what', 'shop:hand:{id}');
ALTER EVENT TRIGGER slate_cache_altered ENABLE ALWAYS;
SELECT rel, kind, template, ordered FROM slate_cache.rules;
INSERT INTO odd VALUES (1, 'pg_class');
INSERT INTO by_hand VALUES (1);
ALTER TABLE odd ADD COLUMN more int;
SELECT slate_cache_get('shop:other:1');
-- ... until its column is as it was
ALTER TABLE odd ALTER COLUMN k TYPE text;
INSERT INTO odd VALUES (1, 'pg_class');
SELECT ordered FROM slate_cache.rules WHERE rel = 'odd'::regclass;
DROP TABLE odd, by_hand;
BEGIN;
ALTER EVENT TRIGGER slate_cache_altered DISABLE;
UPDATE shop.goods SET note = 'old shape' WHERE id = '1';
ALTER TABLE shop.goods ADD COLUMN latest int DEFAULT 8;
ALTER EVENT TRIGGER slate_cache_altered ENABLE ALWAYS;
COMMIT;
SELECT slate_cache_get('shop:item:1');

-- the schema keeps its name: a session that comes then finds no function of the extension
ALTER SCHEMA slate_cache RENAME TO slate_regress_elsewhere;
\c -
SET slate_cache.timeout = '30s';
SET slate_cache.connect_timeout = '30s';
UPDATE shop.goods SET note = 'unseen' WHERE id = '1';
ALTER SCHEMA slate_regress_elsewhere RENAME TO slate_cache;
UPDATE shop.goods SET note = 'seen' WHERE id = '1';
\! $redis GET shop:item:1

-- a view that gets another column, whose row type a column has
CREATE VIEW shop.seen AS SELECT 1 AS a;
CREATE TABLE shop.visits (id int PRIMARY KEY, seen shop.seen);
SELECT slate_cache_attach('shop.visits', row_keys => ARRAY['shop:visit:{id}']);
INSERT INTO shop.visits VALUES (1, ROW(5));
\! $redis GET shop:visit:1
CREATE OR REPLACE VIEW shop.seen AS SELECT 1 AS a, 2 AS b;
\! $redis GET shop:visit:1
SELECT slate_cache_get('shop:visit:1');
DROP TABLE shop.visits;

-- a session keeps the rules of few tables that are no more
DO $$
BEGIN
    FOR i IN 1 .. 60 LOOP
        CREATE TABLE stage (id int PRIMARY KEY);
        PERFORM slate_cache_attach('stage', row_keys => ARRAY['shop:stage:{id}']);
        INSERT INTO stage VALUES (i);
        COMMIT;
        PERFORM slate_cache_get('shop:stage:' || i);
        DROP TABLE stage;
        COMMIT;
    END LOOP;
END $$;
SELECT count(*) < 30 FROM pg_backend_memory_contexts WHERE name = 'slate_cache relation';
