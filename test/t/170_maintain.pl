# slate_cache_warm() and slate_cache_verify() beside writers, on large tables, on
# a standby, and when Redis does not answer.  (What they find and fill otherwise:
# test/sql/maintain.sql.)
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, testing => 1, init => [ allows_streaming => 1 ],
    conf => { 'slate_cache.timeout' => 2000, 'slate_cache.connect_timeout' => 2000 });
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby', install_path => $ENV{SLATE_TESTING_INSTALLATION});
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
SlateNode::create_items($node, 9);
$node->safe_psql('postgres', q{
    CREATE TABLE busy (id int PRIMARY KEY, kind int, note text);
    CREATE INDEX ON busy (kind);
    SELECT slate_cache_attach('busy', row_keys => ARRAY['shop:busy:{id}', 'shop:note:{id} -> note'],
        list_keys => ARRAY['shop:kind:{kind}'])});

my $session = SlateSession->new($node);
my $gate = SlateSession->new($node);
my $writer = SlateSession->new($node);
my $other = SlateSession->new($node);

# How often Redis was asked for a value: each look of verify adds to it.
sub gets
{
    my ($count) = $redis->cli('INFO', 'commandstats') =~ /cmdstat_get:calls=(\d+)/;
    return $count // 0;
}

# Only what is a finding takes so long.
$session->query("SET slate_cache.timeout = '60s'");

# Verify begins, and has looked at the one key that differs at least twice.
sub begin_verify
{
    $redis->cli('CONFIG', 'RESETSTAT');
    $session->send("SELECT key || ' ' || problem FROM slate_cache_verify('item')");

    # 9 keys and their guards, then the one and its guard
    SlateRedis::wait_until(sub { gets() >= 20 }, 'verify looks again');
    return;
}

# A session has committed, its push has not been sent.
my @committed;
sub commit_without_push
{
    my ($committer, $sql) = @_;
    $gate->query('SELECT pg_advisory_lock(7351, 2)') unless @committed;
    $committer->query("SET slate_cache.pause_at = 'before_publish'");
    $committer->send($sql);
    push @committed, $committer;
    SlateNode::wait_for($node, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted",
        scalar @committed);
    return;
}

sub let_push
{
    $gate->query('SELECT pg_advisory_unlock(7351, 2)');
    $_->finish foreach @committed;
    $_->query('RESET slate_cache.pause_at') foreach splice @committed;
    return;
}

commit_without_push($writer, "UPDATE item SET name = 'new' WHERE id = 1");
is($redis->field('shop:item:1', 'name'), 'old', 'a push is on its way');
begin_verify();
let_push();
is($session->finish, '', 'update: verify waits for the push');
commit_without_push($writer, 'DELETE FROM item WHERE id = 9');
begin_verify();
let_push();
is($session->finish, '', 'delete: likewise');
commit_without_push($writer, "UPDATE item SET name = 'newest' WHERE id = 2");
begin_verify();
commit_without_push($other, "UPDATE item SET name = 'newest of all' WHERE id = 2");
is($session->finish, '', 'a row that changes meanwhile is no finding');
let_push();
$session->query("SET slate_cache.timeout = '200ms'");
commit_without_push($writer, "UPDATE item SET name = 'newer' WHERE id = 1");
is($session->query("SELECT key || ' ' || problem FROM slate_cache_verify('item')"), 'shop:item:1 stale',
    'a push that does not come is a finding');
let_push();
$session->query("SET slate_cache.timeout = '60s'");

# The same values at each look say little if somebody has pushed in between,
# which is what another guard tells.
$writer->query("INSERT INTO item VALUES (9, 'old')");
$redis->cli('SET', 'shop:item:2', '{"id":2,"name":"wrong"}');
begin_verify();
is($redis->cli('EXISTS', 'slate_cache:guard:{shop:item:2}'), '1', 'there is a guard');
$redis->cli('APPEND', 'slate_cache:guard:{shop:item:2}', 'x');
is($session->finish, '', 'a key that was pushed meanwhile is no finding');
$session->query("SET slate_cache.timeout = '200ms'");
begin_verify();
is($session->finish, 'shop:item:2 stale', 'one that was left alone is');
$redis->cli('DEL', 'shop:item:2');

# Under load: whatever comes in between, verify finds nothing.
my @writers = map { SlateSession->new($node) } 1 .. 3;
sub load
{
    my ($rounds) = @_;
    $_->send(q{
        DO $$
        BEGIN
            FOR round IN 1 .. } . $rounds . q{ LOOP
                CASE (random() * 10)::int
                WHEN 0 THEN
                    DELETE FROM busy WHERE id = (random() * 60)::int;
                WHEN 1 THEN
                    PERFORM slate_cache_del('shop:busy:' || (random() * 60)::int, 'shop:kind:' || (random() * 4)::int);
                ELSE
                    INSERT INTO busy VALUES ((random() * 60)::int, (random() * 4)::int, random()::text)
                    ON CONFLICT (id) DO UPDATE SET kind = EXCLUDED.kind, note = EXCLUDED.note;
                END CASE;
                COMMIT;
            END LOOP;
        END $$}) foreach @writers;
    return;
}
my ($filled, $found, $looks) = (0, '', 0);
load(1500);
SlateNode::wait_for($node, 'SELECT count(*) > 10 FROM busy');
while ($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%FOR round IN%'
        AND pid <> pg_backend_pid()}) > 0)
{
    $filled += $session->query("SELECT slate_cache_warm('busy')");
    $found .= $session->query("SELECT key || ' ' || problem || E'\n' FROM slate_cache_verify('busy')");
    $looks++;
}
is(join('', map { $_->finish; $_->error } @writers), '', 'the writers have not failed');
cmp_ok($looks, '>', 1, "under load: verified $looks times");
is($found, '', 'under load: nothing is found');
cmp_ok($filled, '>', 0, "under load: $filled keys are filled");
$session->query("SELECT slate_cache_warm('busy')");
is($session->query("SELECT slate_cache_warm('busy')"), '0', 'at rest: all is filled');
is($session->query(q{SELECT count(*) FROM busy, LATERAL (VALUES (slate_cache_peek('shop:busy:' || id) = to_jsonb(busy)),
        (slate_cache_peek('shop:note:' || id) = to_jsonb(note)),
        (slate_cache_peek('shop:kind:' || kind) @> jsonb_build_array(to_jsonb(busy)))) AS seen(same) WHERE same IS NOT TRUE}),
    '0', 'at rest: it is what the table has');
is($session->query("SELECT FROM slate_cache_verify('busy')"), '', 'at rest: nothing is found');

# Many rows, some of them large; few lists that many rows share.
$node->safe_psql('postgres', q{
    CREATE TABLE large (id int PRIMARY KEY, kind int, note text);
    CREATE INDEX ON large (kind);
    INSERT INTO large SELECT i, i % 10, repeat('x', CASE WHEN i % 100 = 0 THEN 100000 ELSE 10 END)
        FROM generate_series(1, 5000) AS i;
    SELECT slate_cache_attach('large', row_keys => ARRAY['shop:large:{id}'], list_keys => ARRAY['shop:larges:{kind}'])});
is($session->query("SELECT slate_cache_warm('large')"), '5009', 'many rows: all but one too large list are filled');
is($session->query("SELECT FROM slate_cache_verify('large')"), '', 'many rows: nothing is found');
$redis->cli('EVAL', q{for i = 1, 1500 do redis.call('SET', 'shop:large:' .. i, '1') end}, '0');
$redis->cli('SET', 'shop:large:5001', '1');
is($session->query("SELECT count(DISTINCT key), string_agg(DISTINCT problem, ',') FROM slate_cache_verify('large', repair => true)"),
    '1501|orphan,stale', 'many rows: many are found');
is($session->query("SELECT FROM slate_cache_verify('large')"), '', 'many rows: all of them are repaired');
is($session->query("SELECT slate_cache_warm('large')"), '1500', 'many rows: and filled again');
$session->query('RESET slate_cache.timeout');

# A standby.
$redis->cli('SET', 'shop:item:2', '{"id":2,"name":"wrong"}');
$redis->cli('DEL', 'shop:item:3');
$node->wait_for_catchup($standby, 'replay');
my $reader = SlateSession->new($standby);
$reader->query("SET slate_cache.timeout = '200ms'");
is($reader->query("SELECT key || ' ' || problem FROM slate_cache_verify('item')"), 'shop:item:2 stale',
    'standby: verify finds');
$reader->query("\\set VERBOSITY sqlstate\nSELECT slate_cache_verify('item', repair => true)");
like($reader->error, qr/25006/, 'standby: verify does not repair');
$reader->query("SELECT slate_cache_warm('item')");
like($reader->error, qr/25006/, 'standby: warm is refused');
is($redis->cli('EXISTS', 'shop:item:2', 'shop:item:3'), '1', 'standby: Redis is as it was');

# Redis does not answer, or refuses.
$redis->config(maxmemory => 1);
$session->query("SELECT slate_cache_warm('item')");
like($session->error, qr/Redis refused a command\nDETAIL:.*OOM/, 'out of memory: warm is an error');
$redis->config(maxmemory => 0);
$redis->pause;
$session->send("SET slate_cache.timeout = '60s'; SELECT slate_cache_warm('item')");
SlateNode::wait_for($node, 'SELECT wait_event = \'Extension\' FROM pg_stat_activity WHERE pid = ' . $session->pid);
$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $session->pid . ')');
$session->finish;
like($session->error, qr/canceling statement/, 'Redis hangs: warm can be cancelled');
$redis->resume;
$session->query('RESET slate_cache.timeout');
SlateRedis::wait_until(
    sub { $session->query("SELECT slate_cache_warm('item')"); $session->error eq '' },
    'warm has a connection again');
is($redis->field('shop:item:3', 'name'), 'old', 'Redis is back: warm fills');
$redis->stop;
$session->query("SELECT slate_cache_warm('item')");
like($session->error, qr/could not reach Redis/, 'Redis is down: warm is an error');
$session->query("SELECT slate_cache_verify('item')");
like($session->error, qr/could not reach Redis/, 'Redis is down: so is verify');
my $fresh = SlateSession->new($node);
$fresh->query("UPDATE item SET name = 'away' WHERE id = 4");
my $other = SlateSession->new($node);
$other->query('SELECT slate_cache_repair()');
like($other->error, qr/Redis does not answer\nDETAIL:.*\Q@{[ $redis->socket ]}\E/,
    'Redis is down: slate_cache_repair() says so, in a session that has not used it yet');
$redis->start;
SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
SlateRedis::wait_until(
    sub { $session->query("SELECT slate_cache_warm('item')"); $session->error eq '' },
    'an empty Redis is trusted');
is($session->query("SELECT count(slate_cache_peek('shop:item:' || id)) = count(*) FROM item"), 't',
    'Redis is back and empty: warm fills');

SlateNode::unharmed($node);
done_testing();
