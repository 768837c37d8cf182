# Without shared_preload_libraries each session does everything by itself, in
# the mode commit, and the view health says what is missing.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $elsewhere = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => { shared_preload_libraries => '', 'slate_cache.near_memory' => '8MB' });
SlateNode::create_items($node, 5);

my $session = SlateSession->new($node);
$session->query("UPDATE item SET name = 'first' WHERE id = 1");
is($redis->field('shop:item:1', 'name'), 'first', 'a change is delivered');
$redis->cli('DEL', 'shop:item:2');
is($session->query("SELECT slate_cache_get('shop:item:2')->>'name'"), 'old', 'get loads');
is($redis->field('shop:item:2', 'name'), 'old', 'and fills');
$redis->cli('SET', 'shop:item:2', '{"name": "from Redis"}');
is($session->query("SELECT slate_cache_get('shop:item:2')->>'name'"), 'from Redis', 'and reads');
$session->query(q{BEGIN; SELECT slate_cache_set('shop:free', '1'); ROLLBACK});
is($redis->cli('EXISTS', 'shop:free'), '0', 'set waits for the commit');
is($session->query('SHOW slate_cache.mode'), 'commit', 'the mode is commit');

is($session->query("SELECT ok FROM slate_cache.health WHERE \"check\" = 'preload'"), 'f',
    'the view health finds it missing');
like($session->query("SELECT detail FROM slate_cache.health WHERE \"check\" = 'preload'"),
    qr/not in shared_preload_libraries/, 'and says so');
is($session->query("SELECT ok FROM slate_cache.health WHERE \"check\" = 'redis'"), 't', 'Redis answers');
is($session->query('SELECT scope, pushes > 0 FROM slate_cache.stats'), 'session|t',
    "counters are the session's own");
is(SlateSession->new($node)->query('SELECT scope, pushes FROM slate_cache.stats'), 'session|0',
    'and those of another are others');

# Sessions that have not used the extension before.
is($redis->all_keys('shop:item:5'), 'shop:item:5', 'a row is cached');
$node->safe_psql('postgres', 'TRUNCATE item');
is($redis->all_keys('shop:item:*'), '', "TRUNCATE as a session's first command drops the rows");
$node->safe_psql('postgres', "INSERT INTO item VALUES (7, 'old')");
is($redis->field('shop:item:7', 'name'), 'old', 'so does INSERT');
$node->safe_psql('postgres', 'DROP TABLE item');
is($redis->all_keys('shop:item:*'), '', 'and DROP TABLE');

# Tables that go with something else.
$node->safe_psql('postgres', q{
    CREATE TYPE shape AS (id int, name text);
    CREATE TABLE typed OF shape (PRIMARY KEY (id));
    SELECT slate_cache_attach('typed', row_keys => ARRAY['shop:typed:{id}']);
    INSERT INTO typed VALUES (1, 'old');
    CREATE FUNCTION half(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 / 2';
    CREATE TABLE parts (id int, name text) PARTITION BY LIST (half(id));
    CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
    SELECT slate_cache_attach('parts', row_keys => ARRAY['shop:part:{id}']);
    INSERT INTO parts VALUES (1, 'old')});
is($redis->cli('EXISTS', 'shop:typed:1', 'shop:part:1'), '2', 'a table of a type, and one that is partitioned by a function');
$node->safe_psql('postgres', $_) foreach 'DROP TYPE shape CASCADE', 'DROP FUNCTION half CASCADE';
is($redis->cli('EXISTS', 'shop:typed:1', 'shop:part:1'), '0', 'DROP TYPE and DROP FUNCTION take them, and their keys');

my $file = PostgreSQL::Test::Utils::tempdir() . '/rows.csv';
append_to_file($file, "2,foreign\n");
foreach my $drop ('FOREIGN TABLE abroad', 'SERVER far CASCADE', 'FOREIGN DATA WRAPPER files CASCADE')
{
    $node->safe_psql('postgres', qq{
        CREATE EXTENSION file_fdw;
        CREATE FOREIGN DATA WRAPPER files HANDLER file_fdw_handler;
        CREATE SERVER far FOREIGN DATA WRAPPER files;
        CREATE TABLE mixed (id int, name text) PARTITION BY LIST (id);
        CREATE FOREIGN TABLE abroad PARTITION OF mixed FOR VALUES IN (2)
            SERVER far OPTIONS (filename '$file', format 'csv');
        SELECT slate_cache_attach('mixed', row_keys => ARRAY['shop:mixed:{id}']);
        SELECT slate_cache_get('shop:mixed:2')});
    is($redis->cli('EXISTS', 'shop:mixed:2'), '1', "$drop: a row of a foreign partition is cached");
    $node->safe_psql('postgres', "DROP $drop");
    is($redis->cli('EXISTS', 'shop:mixed:2'), '0', "DROP $drop takes it, and its key");
    $node->safe_psql('postgres', 'DROP TABLE mixed; DROP EXTENSION file_fdw CASCADE');
}

# A setting that is without effect may stay.
is($session->query('SHOW slate_cache.near_memory'), '8MB', 'near_memory is known');
is($session->error, '', 'and nobody is warned of it');
unlike(slurp_file($node->logfile), qr/invalid configuration parameter/, 'nor the log');

# A plain user may set what no library has claimed yet; it must not count.
SlateNode::create_items($node, 1);
$node->safe_psql('postgres', 'CREATE ROLE plain LOGIN; GRANT ALL ON item TO plain');
my $plain = SlateSession->new($node, user => 'plain');
$plain->query("SET slate_cache.url = '" . $elsewhere->url . "'; SET slate_cache.mode = 'nonsense'");
$plain->query("UPDATE item SET name = 'by a plain user' WHERE id = 1");
is($redis->field('shop:item:1', 'name'), 'by a plain user', "a plain user's change is delivered");
is($elsewhere->all_keys, '', 'and not where the plain user says');

# Its own breaker.
$redis->stop;
$session->query(q{INSERT INTO item VALUES (2, 'away')});
$session->query(q{INSERT INTO item VALUES (3, 'away')});
is($session->error, '', 'Redis away: commits succeed');
is($session->query('SELECT pushes_lost FROM slate_cache.stats'), '2', 'and are counted as lost');
is($session->query("SELECT ok, detail ~ 'slate_cache_stats_reset' FROM slate_cache.health WHERE \"check\" = 'pushes'"),
    'f|t', 'which health knows, and until when it says so');
is($session->query('SELECT string_agg(kind, \', \' ORDER BY at) FROM slate_cache.events'), 'breaker opened, pushes lost',
    'its events are what it has met itself');
is(SlateSession->new($node)->query('SELECT count(*) FROM slate_cache.events'), '0', 'another session has none');
is($session->query('SELECT count(*) FROM slate_cache.progress'), '0', 'progress has no worker to show');
$redis->start;
SlateRedis::wait_until(
    sub {
        $session->query("UPDATE item SET name = 'back ' || clock_timestamp() WHERE id = 2");
        return $redis->field('shop:item:2', 'name') =~ /^back/;
    },
    'a change arrives again');
pass('Redis back: the session delivers');
is($session->query('SELECT kind FROM slate_cache.events LIMIT 1'), 'breaker closed', 'which is an event, too');
SlateNode::unharmed($node);
done_testing();
