# What is written through, and what is loaded, is what row_to_json() gives, to the byte: for
# types that row.c renders, for all others, and for rows of both.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);
SlateNode::wait_until_trusted($node);
my $session = SlateSession->new($node);

# Of each row the text in Redis, and what it should be.
my $normal = q{SET DateStyle = 'ISO, MDY'; SET IntervalStyle = postgres; SET TimeZone = 'UTC';
    SET extra_float_digits = 1; SET bytea_output = hex};
sub check
{
    my ($table, $what) = @_;
    my @rows = split /\n/, $node->safe_psql('postgres', "$normal; SELECT id || E'\\t' || row_to_json($table) FROM $table ORDER BY id");
    cmp_ok(scalar @rows, '>', 0, "$what: there are rows");
    foreach my $row (@rows)
    {
        my ($id, $json) = split /\t/, $row, 2;
        is($redis->cli('GET', "shop:$table:$id"), $json, "$what: row $id");
        $redis->cli('DEL', "shop:$table:$id");
        $session->query("SELECT slate_cache_get('shop:$table:$id')");
        is($redis->cli('GET', "shop:$table:$id"), $json, "$what: row $id, loaded");
    }
    return;
}

sub attach { $session->query("SELECT slate_cache_attach('$_[0]', row_keys => ARRAY['shop:$_[0]:{id}'])"); return }

# Types, with values that are odd.
my @types = (
    [ 'smallint', '0', '-1', '32767', '-32768' ],
    [ 'integer', '0', '-1', '2147483647', '-2147483648' ],
    [ 'bigint', '0', '-1', '9223372036854775807', '-9223372036854775808' ],
    [ 'boolean', 'true', 'false' ],
    [ 'text', q{''}, q{'plain'}, q{E'a "quoted" \\\\ back/slash'}, q{E'\b\f\n\r\t\x01\x1f\x7f'}, q{'äöü€𝄞'}, q{repeat('long ', 300)},
        q{E'"'}, q{E'\\\\'}, q{E'\n'}, q{'</script>'} ],
    [ 'varchar(20)', q{''}, q{'twenty "characters"'} ],
    [ 'char(10)', q{''}, q{'ten'}, q{E'"\t'} ],
    [ 'name', q{'a "name"'}, q{repeat('n', 63)} ],
    [ '"char"', q{'x'}, q{'"'} ],
    [ 'numeric', '0', '-0.00', '1e50', '1e-50', '123456789012345678901234567890.123', q{'NaN'}, q{'Infinity'}, q{'-Infinity'} ],
    [ 'numeric(10,3)', '1', '-1.5' ],
    [ 'real', '0', '-0', '1e30', '1e-30', '0.1', q{'NaN'}, q{'Infinity'}, q{'-Infinity'} ],
    [ 'double precision', '0', q{'-0'}, '1e300', '1e-300', '0.1', '1e20', q{'NaN'}, q{'Infinity'}, q{'-Infinity'} ],
    [ 'date', q{'2026-11-28'}, q{'0044-03-15 BC'}, q{'infinity'}, q{'-infinity'}, q{'5874897-12-31'} ],
    [ 'timestamp', q{'2026-11-28 06:04:51.123456'}, q{'2026-11-28'}, q{'0044-03-15 12:00 BC'}, q{'infinity'}, q{'-infinity'}, q{'294276-12-31 23:59:59.999999'} ],
    [ 'timestamptz', q{'2026-11-28 06:04:51.1+02'}, q{'0044-03-15 12:00+00 BC'}, q{'infinity'}, q{'-infinity'}, q{'294276-12-31 23:59:59.999999+00'} ],
    [ 'uuid', q{'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'} ],
    [ 'json', q{' { "a" :  [1, 2 ] } '}, q{'"x"'}, q{'null'} ],
    [ 'jsonb', q{'{"b": [1, 2, {"c": null}], "a": "x\\"y"}'}, q{'"x"'}, q{'null'}, q{'{}'} ],
    [ 'time', q{'12:34:56.789'} ],
    [ 'interval', q{'1 year 2 days 03:04:05.6'} ],
    [ 'bytea', q{'\x00ff22'} ],
    [ 'integer[]', q{'{1,NULL,3}'}, q{'{}'} ],
    [ 'text[]', q{'{a,"b \"c\"",NULL}'} ],
    [ 'inet', q{'10.0.0.0/8'} ],
    [ 'point', q{'(1,2)'} ],
    [ 'int4range', q{'[1,5)'} ],
    [ 'mood', q{'so so'} ],
    [ 'positive', '7' ],
    [ 'pair', q{ROW(1, 'x"')}, 'ROW(NULL, NULL)' ],
    [ 'int2vector', q{'1 2 3'} ], [ 'oidvector', q{''} ], [ 'regclass', q{'pg_class'} ], [ 'xid', q{'7'} ], [ 'bit(3)', q{B'101'} ],
    [ 'money', q{'1.50'} ], [ 'tsvector', q{'a "b" c'} ], [ 'jsonb[]', q{ARRAY['{"a": 1}', '"x"']::jsonb[]} ], [ 'date[]', q{'{2026-11-30,infinity}'} ],
    [ 'integer[]', q{'{{1,2},{3,NULL}}'}, q{'[5:6]={7,8}'}, q{'{{{1},{2}},{{3},{4}}}'} ],
    [ 'bytea[]', q{ARRAY['\x00ff'::bytea]} ], [ 'interval[]', q{ARRAY['1 day'::interval]} ], [ 'text', q{repeat(md5('x'), 200)} ],
    [ 'mood[]', q{'{well,NULL,so so}'}, q{'{}'}, q{'{{well},{"so so"}}'} ],
    [ 'positives', q{'{1,2.5}'}, q{'{}'} ], [ 'positive[]', q{'{1,NULL}'} ],
    [ 'pair[]', q{ARRAY[ROW(1, 'x'), NULL, ROW(2, E'"\t')]::pair[]} ],
    [ 'nested', q{ROW('well', ROW(1, 'x'), ARRAY[ROW(2, 'y')]::pair[], '{1}', '[1.5,2)', NULL)},
        q{ROW(NULL, NULL, NULL, NULL, NULL, ARRAY['x'])} ],
    [ 'good_pair', q{ROW(3, 'domain over a composite')} ], [ 'spans', q{'[1.5,2)'} ], [ 'spans_multirange', q{'{[1.5,2),[3,4)}'} ],
    [ 'moods', q{'[so so,well]'} ], [ 'hstore', q{'a=>1, b=>NULL'} ], [ 'hstore[]', q{ARRAY['a=>"x y"'::hstore]} ], [ 'citext', q{'Ci"text'} ],
    [ 'narrow', 'ROW()' ]);
$session->query(q{CREATE TYPE mood AS ENUM ('so so', 'well'); CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
    CREATE TYPE pair AS (a int, b text); CREATE DOMAIN positives AS numeric[]; CREATE TYPE spans AS RANGE (subtype = float8);
    CREATE TYPE moods AS RANGE (subtype = mood); CREATE TYPE nested AS (m mood, p pair, ps pair[], d positives, s spans, t text[]);
    CREATE DOMAIN good_pair AS pair CHECK ((VALUE).a > 0); CREATE TYPE narrow AS ();
    CREATE EXTENSION hstore; CREATE EXTENSION citext});
is($session->error, '', 'types are there');
my $n = 0;
foreach my $type (@types)
{
    my ($name, @values) = @$type;
    my $table = 't' . ++$n;
    $session->query("CREATE TABLE $table (id int PRIMARY KEY, value $name)");
    attach($table);
    my $id = 0;
    $session->query("INSERT INTO $table VALUES (" . ++$id . ", $_)") foreach @values, 'NULL';
    is($session->error, '', "$name: rows are inserted");
    check($table, $name);
}

# Settings of the session do not matter.  (An UPDATE that changes nothing pushes nothing.)
foreach my $table ('t12', 't13', 't14', 't15', 't16', 't21', 't22')
{
    $session->query(q{SET DateStyle = 'German'; SET TimeZone = 'Asia/Kolkata'; SET extra_float_digits = 0;
        SET IntervalStyle = iso_8601; SET bytea_output = escape});
    $redis->cli('DEL', map { "shop:$table:$_" } 1 .. 20);
    $session->query("CREATE TEMP TABLE kept AS SELECT * FROM $table");
    $session->query("BEGIN; DELETE FROM $table; INSERT INTO $table SELECT * FROM kept; DROP TABLE kept; COMMIT");
    is($session->error, '', "$table with other settings: no error");
    $session->query('RESET ALL');
    check($table, "$table with other settings");
}

# Columns: dropped, added, with odd names, none besides the key; tables that look odd.
$session->query(q{CREATE TABLE odd (gone int, id int PRIMARY KEY, "a ""b\ c" text, "tab	bed" bool, "ü" int DEFAULT 3)});
attach('odd');
$session->query(q{INSERT INTO odd (gone, id, "a ""b\ c", "tab	bed") VALUES (1, 1, 'x', true)});
check('odd', 'odd names');
$session->query($_) foreach 'ALTER TABLE odd DROP gone', q{ALTER TABLE odd ADD later text DEFAULT 'default'},
  q{UPDATE odd SET "ü" = 4}, q{INSERT INTO odd (id) VALUES (2)};
check('odd', 'a column dropped, another added');
$session->query('CREATE TABLE lone (id int PRIMARY KEY)');
attach('lone');
$session->query('INSERT INTO lone VALUES (1), (2)');
check('lone', 'nothing but the key');

# What is escaped, and what is next to it, wherever it is.
$session->query('CREATE TABLE places (id int PRIMARY KEY, value text)');
attach('places');
$session->query(q{INSERT INTO places SELECT 100 * place + nth, repeat('x', place) || chr(code) || repeat('ä', place % 11) || chr(code) || 'y'
    FROM generate_series(0, 17) place, unnest(ARRAY[1, 8, 10, 31, 32, 33, 34, 35, 91, 92, 93, 127, 128, 162, 220, 8252]) WITH ORDINALITY c(code, nth)});
check('places', 'odd characters anywhere');

# Values that are compressed, or elsewhere.
$session->query($_) foreach 'CREATE TABLE big (id int PRIMARY KEY, value text, other text)',
  q{ALTER TABLE big ALTER other SET STORAGE EXTERNAL};
attach('big');
$session->query($_) foreach q{INSERT INTO big VALUES (1, repeat('compressible ', 1000), 'short')},
  q{INSERT INTO big VALUES (2, 'short', repeat('external "', 1000))},
  q{INSERT INTO big VALUES (3, 'short', 'short'), (4, repeat('x', 100000), repeat('y', 100000))},
  q{UPDATE big SET other = other || '.' WHERE id IN (1, 2)};
check('big', 'large values');

# What cannot become a value is not fetched only to find that out.
sub toast_blocks
{
    my ($updates) = @_;
    $session->query('SELECT pg_stat_force_next_flush()');
    SlateNode::wait_for($node, "SELECT n_tup_upd = $updates FROM pg_stat_user_tables WHERE relname = 'huge'");
    return $node->safe_psql('postgres', q{SELECT toast_blks_read + toast_blks_hit FROM pg_statio_user_tables WHERE relname = 'huge'});
}
$session->query($_) foreach 'CREATE TABLE huge (id int PRIMARY KEY, n int, value text)', q{ALTER TABLE huge ALTER value SET STORAGE EXTERNAL};
attach('huge');
$session->query(q{INSERT INTO huge VALUES (1, 0, repeat('x', 4000000))});
my $before = toast_blocks(0);
$session->query('UPDATE huge SET n = 1');
cmp_ok(toast_blocks(1) - $before, '<', 100, 'a row that is too large is not fetched');
is($redis->cli('EXISTS', 'shop:huge:1'), '0', 'nor is it there');

$session->query(q{BEGIN; UPDATE big SET value = 'now short' WHERE id = 1; UPDATE big SET other = other || '!'; COMMIT});
check('big', 'large and small in one transaction');
is($redis->cli('EXISTS', map { "shop:big:$_" } 1 .. 4), '4', 'all of them are there');
SlateNode::unharmed($node);
done_testing();
