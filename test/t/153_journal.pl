# The journal: what the view shows, who may see it, that it stays small and costs
# no garbage, and that nobody else is disturbed by it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateLoad;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000,
        'slate_cache.max_pending' => '128MB', 'autovacuum' => 'off', 'slate_cache.direct' => 'off' });
SlateNode::create_items($node, 100);
$node->safe_psql('postgres', q{
    CREATE TABLE sale (customer int);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
my $session = SlateSession->new($node);
my $view = 'slate_cache.journal';
my $size = q{(SELECT sum(pg_relation_size(oid)) FROM pg_class
    WHERE relname ~ '^journal_[a-z]+$' AND relkind <> 'v' AND relnamespace = 'slate_cache'::regnamespace)};
my $rows = q{(SELECT pg_column_size(j) AS bytes FROM slate_cache.journal_a j
    UNION ALL SELECT pg_column_size(j) FROM slate_cache.journal_b j) j};

# Scripts, by which all is pushed here.
sub refuse { return $redis->cli('ACL', 'SETUSER', 'default', '-evalsha') }

sub allow { return $redis->cli('ACL', 'SETUSER', 'default', '+@all') }

# How often Redis has refused to run a script.
sub refusals
{
    return $redis->cli('INFO', 'commandstats') =~ /cmdstat_evalsha:.*rejected_calls=(\d+)/ ? $1 : 0;
}

# Nothing is left behind in the steady state.
is($session->query("SELECT count(*) FROM $view"), '0', 'nothing is in doubt while Redis is there');
SlateNode::wait_for($node, "SELECT $size = 0");
pass('and after a while the journal is empty');

# An outage.
$session->query('SELECT slate_cache_stats_reset()');
refuse();
my $before = $session->query('SELECT clock_timestamp()');
$session->query(q{UPDATE item SET name = 'away' WHERE id <= 2});
my $xid = $session->query(q{BEGIN; INSERT INTO sale VALUES (7); SELECT slate_cache_set('shop:free', '1');
    SELECT pg_current_xact_id(); COMMIT});
$xid =~ s/\s//g;
my $after = $session->query('SELECT clock_timestamp()');
is($session->query("SELECT state, (SELECT array_agg(k ORDER BY k) FROM unnest(keys) k), patterns
        FROM $view ORDER BY xid::text::bigint"),
    "failed|{shop:item:1,shop:item:2}|{}\nfailed|{shop:free}|{shop:search:7:*}",
    'an outage: each transaction is shown with its keys and patterns');
is($session->query("SELECT xid FROM $view WHERE 'shop:free' = ANY (keys)"), $xid, 'by its xid');
is($session->query("SELECT bool_and(since BETWEEN '$before' AND '$after') FROM $view"), 't', 'with its time');
is($session->query("SELECT bool_and(age >= interval '0' AND age <= clock_timestamp() - '$before') FROM $view"),
    't', 'and its age');
is($session->query("SELECT bool_and(bytes BETWEEN 20 AND 1000) FROM $view"), 't', 'and its size');
like($session->query(q{SELECT detail FROM slate_cache.health WHERE "check" = 'journal'}), qr/^rows that wait for Redis: 2\b/, 'health says so');
is($session->query('SELECT pushes_lost, pushes_delayed, keys_delayed FROM slate_cache.stats'), '0|2|4',
    'the counters tell of a delay, not of a loss');
allow();
SlateJournal::wait_until_told($node);
is($redis->all_keys('shop:item:[12]'), '', 'Redis is back: what was in doubt is dropped, and the view empty');
is($session->query('SELECT replayed > 0 AND emptied = 0 FROM slate_cache.stats'), 't', 'and counted');
is($redis->cli('EXISTS', map { "shop:item:$_" } 3 .. 100), '98', 'nothing else is dropped');
like($session->query(q{SELECT detail FROM slate_cache.health WHERE "check" = 'journal'}), qr/^rows that wait for Redis: 0\b/, 'health, too');

# What was rolled back is nowhere.
refuse();
$session->query(q{BEGIN; UPDATE item SET name = 'never' WHERE id = 3; ROLLBACK;
    BEGIN; UPDATE item SET name = 'never' WHERE id = 3; SELECT 1 / 0; COMMIT});
$session->query(q{BEGIN; SAVEPOINT a; UPDATE item SET name = 'never' WHERE id = 3; ROLLBACK TO a;
    UPDATE item SET name = 'kept' WHERE id = 4; COMMIT});
is($session->query("SELECT keys, patterns FROM $view"), '{shop:item:4}|{}', 'what was rolled back is not shown');
allow();
SlateJournal::wait_until_told($node);
is($redis->cli('EXISTS', 'shop:item:3', 'shop:item:4'), '1', 'nor dropped');

# Patterns whose keys only an index knows, told to a Redis that refuses at first,
# and more of them than one walk takes.
SlateNode::set($node, 'slate_cache.sweep' => 'off');
my $fresh = SlateSession->new($node);
$fresh->query(q{SELECT slate_cache_set('shop:search:' || i || ':x', '1') FROM generate_series(1, 2000) i});
refuse();
$fresh->query("INSERT INTO sale VALUES ($_)") foreach 1 .. 3;
$fresh->query('DO $$ BEGIN FOR i IN 1001 .. 1600 LOOP INSERT INTO sale VALUES (i); COMMIT; END LOOP; END $$');
my $refused = refusals();
SlateRedis::wait_until(sub { refusals() >= $refused + 2 }, 'the worker was refused again and again');
allow();
SlateJournal::wait_until_told($node);
is($redis->cli('EXISTS', map { "shop:search:$_:x" } 1 .. 3), '0', 'patterns are replayed where nothing is swept');
is($redis->cli('EXISTS', map { "shop:search:$_:x" } 1001 .. 1600), '0', 'many of them');
is($redis->cli('EXISTS', map { "shop:search:$_:x" } 4 .. 1000, 1601 .. 2000), '1397', 'and no other key is dropped');
is($redis->cli('EXISTS', map { "shop:item:$_" } 5 .. 100), '96', 'no row, either');
SlateNode::set($node, 'slate_cache.sweep' => 'on');

# A row is of one page.
refuse();
$session->query(q{SELECT slate_cache_mset(jsonb_object_agg('shop:many:' || i, i)) FROM generate_series(1, 100000) i});
is($session->error, '', 'a transaction of a hundred thousand keys');
is($session->query("SELECT sum(cardinality(keys)), count(DISTINCT xid) FROM $view"), '100000|1',
    'all of them are in the journal');
cmp_ok($session->query("SELECT max(bytes) FROM $rows"), '<', 8192, 'in rows of less than a page');
cmp_ok($session->query("SELECT max(bytes) FROM $view"), '<', 10_000_000, 'without waste');
allow();
SlateJournal::wait_until_told($node);
is($session->query('SELECT pushes_lost, fallbacks, emptied FROM slate_cache.stats'), '0|0|0', 'and all are replayed');
SlateNode::wait_for($node, "SELECT $size = 0");
pass('then the journal is empty');

# Its tables.
is($session->query(q{SELECT DISTINCT relpersistence, relhasindex, reltoastrelid FROM pg_class
        WHERE relname ~ '^journal_[a-z]+$' AND relnamespace = 'slate_cache'::regnamespace}),
    'p|f|0', 'the tables are logged, without an index and without TOAST');

# In the steady state nothing grows and nothing is deleted: while others write, what
# there is of it goes again and again.
$session->query('SELECT pg_stat_reset(), slate_cache_stats_reset()');
my $load = SlateLoad->new($node, scripts => [ [ 1 => q{\set id random(1, 100)
\set n random(1, 1000000000)
UPDATE item SET name = :n WHERE id = :id;} ] ]);
my ($last, $shrunk) = (0, 0);
SlateRedis::wait_until(
    sub {
        my $now = $session->query("SELECT $size");
        $shrunk++ if $now < $last;
        $last = $now;
        return $shrunk >= 4
          && $session->query(q{SELECT n_tup_upd >= 20000 FROM pg_stat_user_tables WHERE relname = 'item'}) eq 't';
    },
    'the journal is truncated, four times, while others write');
$load->stop;
is($load->errors, '', 'and they go on');
$session->query('SELECT pg_stat_force_next_flush()');
SlateNode::wait_for($node, q{SELECT n_tup_upd >= 20000 FROM pg_stat_user_tables WHERE relname = 'item'});
is($session->query(q{SELECT sum(n_tup_del), sum(n_tup_upd), sum(n_dead_tup) FROM pg_stat_user_tables
        WHERE schemaname = 'slate_cache' AND relname LIKE 'journal%'}), '0|0|0', 'no row was deleted');
is($session->query('SELECT pushes_lost, pushes_delayed FROM slate_cache.stats'), '0|0', 'all were delivered');
SlateNode::wait_for($node, "SELECT $size = 0");
pass('then the journal is empty');

# Privileges.
$node->safe_psql('postgres', q{CREATE ROLE plain LOGIN; CREATE ROLE writer LOGIN; CREATE SCHEMA own AUTHORIZATION plain;
    GRANT EXECUTE ON FUNCTION slate_cache_attach(regclass, text[], text[], text[], text[], interval, interval) TO plain});
my $plain = SlateSession->new($node, user => 'plain');
$plain->query(q{CREATE TABLE own.thing (id int PRIMARY KEY, name text);
    SELECT slate_cache_attach('own.thing', row_keys => ARRAY['own:thing:{id}']);
    INSERT INTO own.thing VALUES (1, 'old'); GRANT USAGE ON SCHEMA own TO writer; GRANT ALL ON own.thing TO writer});
is($plain->error, '', 'a plain role has a table of its own');
my $writer = SlateSession->new($node, user => 'writer');
refuse();
foreach my $user ($plain, $writer)
{
    $user->query(q{UPDATE own.thing SET name = name || '!'});
    is($user->error, '', 'it changes a row');
}
is($session->query("SELECT keys FROM $view"), "{own:thing:1}\n{own:thing:1}", 'what it changed is in the journal');
foreach my $sql ('SELECT FROM slate_cache.journal', 'SELECT FROM slate_cache.journal_a', 'TRUNCATE slate_cache.journal_a',
    "INSERT INTO slate_cache.journal_b SELECT (json_populate_record(NULL::slate_cache.journal_b, '{}')).*",
    'DELETE FROM slate_cache.journal_b', 'SELECT FROM slate_cache.history')
{
    $plain->query($sql);
    like($plain->error, qr/ERROR:  permission denied/, "it may not: $sql");
}
foreach my $sql ('SET slate_cache.journal = off', 'SET slate_cache.max_journal = 1024')
{
    $plain->query($sql);
    like($plain->error, qr/ERROR:  (permission denied|parameter .* cannot be changed)/, "it may not: $sql");
}
my @readers = split /\n/, $session->query(q{SELECT oid::regprocedure FROM pg_proc
    WHERE pronamespace = 'slate_cache'::regnamespace AND proname ~ 'journal'});
foreach my $function (@readers)
{
    is($session->query("SELECT has_function_privilege('plain', '$function', 'EXECUTE')"), 'f', "nor call $function");
}
allow();
SlateJournal::wait_until_told($node);
is($redis->cli('EXISTS', 'own:thing:1'), '0', 'its key is dropped');

# Without the journal.
$session->query('SELECT slate_cache_stats_reset()');
$session->query('SET slate_cache.journal = off');
$session->query(q{UPDATE item SET name = 'off' WHERE id = 50});
is($redis->field('shop:item:50', 'name'), 'off', 'journal off: a change is delivered');
refuse();
$session->query(q{UPDATE item SET name = 'lost' WHERE id = 50});
is($session->query("SELECT count(*) FROM $view"), '0', 'journal off: nothing is written down');
is($session->query('SELECT pushes_lost, keys_lost, pushes_delayed FROM slate_cache.stats'), '1|1|0',
    'journal off: a push that fails is lost, and counted');
$session->query(q{BEGIN; UPDATE item SET name = 'prepared' WHERE id = 51; PREPARE TRANSACTION 'off'});
like($session->error, qr/ERROR:  cannot PREPARE a transaction that has changed cached data/,
    'journal off: PREPARE TRANSACTION is refused');
$session->query('ROLLBACK; RESET slate_cache.journal');
allow();
SlateRedis::wait_until(
    sub {
        $session->query(q{UPDATE item SET name = 'on' WHERE id = 50});
        return $redis->field('shop:item:50', 'name') eq 'on';
    },
    'a change arrives');

# A dump.
refuse();
$session->query(q{UPDATE item SET name = 'dumped' WHERE id = 60; INSERT INTO sale VALUES (8)});
is($session->query("SELECT count(*) FROM $view"), '2', 'two transactions are in doubt');
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, 'postgres' ], 'pg_dump');
unlike(slurp_file($dump), qr/journal_[a-z]+|slate_cache\.history/, 'has no word of the journal');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->safe_psql('postgres', "ALTER DATABASE restored SET slate_cache.url = '" . $redis->url(db => 1) . "'");
$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', $dump ], 'restored elsewhere');
allow();
SlateJournal::wait_until_told($node);
SlateRedis::wait_until(sub { $node->safe_psql('restored', "SELECT count(*) FROM $view") eq '0' },
    'what the restore has changed has reached its Redis');
is($node->safe_psql('restored', 'SELECT name FROM item WHERE id = 60'), 'dumped', 'and the rows');
SlateRedis::wait_until(
    sub {
        $node->safe_psql('restored', q{UPDATE item SET name = 'restored' WHERE id = 60});
        return $redis->cli('-n', 1, 'GET', 'shop:item:60') =~ /restored/;
    },
    'a change arrives');
pass('and works');
SlateNode::unharmed($node);
done_testing();
