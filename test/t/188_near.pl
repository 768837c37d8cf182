# The near cache: hits without asking Redis, as right as Redis.
#
# That a value comes from there is seen by the counter near_hits; that it is right, after
# every way in which what is kept may become old.  Where it is to be seen who takes a
# value away, one is planted that is not the table's.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url, testing => 1, conf => {
        'slate_cache.near_memory' => '8MB', 'slate_cache.timeout' => '30s', 'slate_cache.connect_timeout' => '30s' });
SlateNode::create_items($node, 200);
$node->safe_psql('postgres', q{
    CREATE TABLE sale (item int);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:item:{item}*']);
    CREATE TABLE brief (id int PRIMARY KEY, name text);
    SELECT slate_cache_attach('brief', row_keys => ARRAY['shop:brief:{id}'], ttl => '1 second');
    CREATE TABLE seat (id int PRIMARY KEY, taken bool);
    INSERT INTO seat VALUES (1, false), (2, false);
    SELECT slate_cache_attach('seat', row_keys => ARRAY['shop:seat:{id}'])});

my ($reader, $writer, $other) = map { SlateSession->new($node) } 1 .. 3;

sub near_hits { return SlateNode::counter($node, 'near_hits') }

sub name_of
{
    my ($id, $session) = @_;
    return ($session // $reader)->query("SELECT slate_cache_get('shop:item:$id')->>'name'");
}

# Is the key near?  What a reader does not find there he keeps, if he may.
sub is_near
{
    my ($id) = @_;
    my $before = near_hits();
    name_of($id);
    return near_hits() > $before;
}

sub wait_until_near
{
    my ($id) = @_;
    SlateRedis::wait_until(sub { is_near($id) }, "row $id is near");
    return;
}

# Redis and the near cache have a value that the table has not.  The pattern's beginning
# is short, so that it voids all.
sub plant
{
    my (@ids) = @_;
    $redis->cli('SET', "shop:item:$_", '{"name": "planted"}') foreach @ids;
    $writer->query(q{SELECT slate_cache_invalidate('none:*')});
    foreach my $id (@ids)
    {
        wait_until_near($id);
        is(name_of($id), 'planted', "a value is planted for row $id");
    }
    return;
}

sub hold_lock { $other->query("SELECT pg_advisory_lock(7351, $_[0])"); return }
sub let_go { $other->query('SELECT pg_advisory_unlock_all()'); return }
sub wait_until_paused
{
    SlateNode::wait_for($node, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}, '1');
    return;
}

# The writer stops at a point of a commit (with the number of its lock).
sub stop_commit
{
    my ($point, $number, $sql) = @_;
    hold_lock($number);
    $writer->query("SET slate_cache.pause_at = '$point'");
    $writer->send($sql);
    wait_until_paused();
    return;
}

#
# Hits
#
wait_until_near(1);
is(name_of(1), 'old', 'a hit has the value');
$redis->pause;
is(name_of(1), 'old', 'Redis is not asked');
is($reader->query(q{SELECT string_agg(value->>'name', ',') FROM slate_cache_mget(ARRAY['shop:item:1', 'shop:item:1'])}), 'old,old', 'nor by mget');
$redis->resume;
$reader->query('SET slate_cache.near = off');
ok(!is_near(1), 'a session may ask Redis instead');
$reader->query('RESET slate_cache.near');
ok(is_near(1), 'and find it near again');
$reader->query("SET slate_cache.url = '" . $redis->url . "'");
ok(!is_near(1) && !is_near(1), 'one with another url does not');
$reader->query('RESET slate_cache.url');
name_of(2, $other);
ok(is_near(2), 'what one session has read is near for another');

#
# Changes
#
foreach my $mode (qw(commit strict async))
{
    $writer->query("SET slate_cache.mode = $mode");
    wait_until_near(3);
    $writer->query("UPDATE item SET name = '$mode' WHERE id = 3");
    if ($mode eq 'async')
    {
        SlateRedis::wait_until(sub { name_of(3) eq $mode }, "$mode: the new value");
        pass("$mode: the new value comes");
    }
    else
    {
        is(name_of(3), $mode, "$mode: the new value");
    }
    wait_until_near(3);
    is(name_of(3), $mode, "$mode: and it is near");
    wait_until_near(3);
    $writer->query(q{BEGIN; UPDATE item SET name = 'rolled back' WHERE id = 3; ROLLBACK});
    ok(is_near(3), "$mode: a rollback changes nothing");
    is(name_of(3), $mode, "$mode: neither there");
}
$writer->query('RESET slate_cache.mode');
$writer->query('DELETE FROM item WHERE id = 4');
is(name_of(4), '', 'a row that is gone');
wait_until_near(5);
$writer->query('ALTER TABLE item ADD COLUMN kind int DEFAULT 7');
is($reader->query(q{SELECT slate_cache_get('shop:item:5')->>'kind'}), '7', 'the table has another shape');
wait_until_near(5);
is($writer->query(q{BEGIN; UPDATE item SET name = 'mine' WHERE id = 5; SELECT slate_cache_get('shop:item:5')->>'name'; ROLLBACK}),
    'mine', 'a transaction reads its own changes');
is(name_of(5), 'old', 'and nobody else does');
$writer->query(q{SELECT slate_cache_set('shop:item:5', '{"name": "by hand"}')});
is(name_of(5), 'by hand', 'slate_cache_set');
$writer->query(q{SELECT slate_cache_del('shop:item:5')});
is(name_of(5), 'old', 'slate_cache_del');

#
# A commit under way
#
wait_until_near(6);
stop_commit('before_commit', 1, q{UPDATE item SET name = 'new' WHERE id = 6});
ok(!is_near(6) && !is_near(6), 'while a commit may become visible its keys are not near');
let_go();
$writer->finish;
is(name_of(6), 'new', 'and after it the new value is');

# Told to nobody yet, but visible.
wait_until_near(6);
stop_commit('before_publish', 2, q{UPDATE item SET name = 'newer' WHERE id = 6});
ok(!is_near(6) && !is_near(6), 'nor before Redis has it');
let_go();
$writer->finish;
is(name_of(6), 'newer', 'the value of that commit');

# A commit that ends as an error.
wait_until_near(6);
stop_commit('before_commit', 1, q{UPDATE item SET name = 'never' WHERE id = 6});
$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $writer->pid . ')');
$writer->finish;
let_go();
like($writer->error, qr/canceling statement/, 'a commit is cancelled');
is(name_of(6), 'newer', 'the value is as before');
ok(is_near(6), 'and is near again');

# One that fails after its keys were entered.
$writer->query('RESET slate_cache.pause_at');
my $seat = q{slate_cache_get('shop:seat:1')->>'taken'};
SlateRedis::wait_until(sub { my $before = near_hits(); $reader->query("SELECT $seat"); near_hits() > $before }, 'a seat is near');
$_->query(q{BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM seat WHERE taken}) foreach $writer, $other;
$writer->query('UPDATE seat SET taken = true WHERE id = 1');
$other->query('UPDATE seat SET taken = true WHERE id = 2');
$other->query('COMMIT');
$writer->query('COMMIT');
like($writer->error, qr/could not serialize/, 'a transaction fails to serialize');
is($reader->query("SELECT $seat"), 'false', 'and has left nothing behind');

#
# Readers that are slow
#
$writer->query(q{SELECT slate_cache_del('shop:item:7')});
hold_lock(4);
$reader->query(q{SET slate_cache.pause_at = 'before_fill'});
$reader->send(q{SELECT slate_cache_get('shop:item:7')->>'name'});
wait_until_paused();
$writer->query(q{UPDATE item SET name = 'new' WHERE id = 7});
let_go();
is($reader->finish, 'old', 'a reader is slow, and has the old row');
$reader->query('RESET slate_cache.pause_at');
is(name_of(7), 'new', 'which nobody finds again');

#
# What Redis is told later
#
wait_until_near(8);
$writer->query('SET slate_cache.direct = off');
$proxy->answer(qr/\r\nEVALSHA\r\n.*\r\nshop:item:8\r\n/s => "-MISCONF Redis is not able to write\r\n");
$writer->query(q{UPDATE item SET name = 'new' WHERE id = 8});
is(name_of(8), 'old', 'a push was refused: Redis has the old value');
ok(is_near(8), 'which is near then');
$proxy->pass;
SlateJournal::wait_until_told($node);
is(name_of(8), 'new', 'until Redis is told');
$writer->query('RESET slate_cache.direct');

$writer->query('SET slate_cache.mode = async');
wait_until_near(9);
$proxy->hold(qr/\r\n(?:EVALSHA|MULTI)\r\n.*\r\nshop:item:9\r\n/s);
$writer->query(q{UPDATE item SET name = 'new' WHERE id = 9});
$proxy->wait_until_held;
is(name_of(9), 'old', 'in mode async, too');
ok(is_near(9), 'it is near');
$proxy->pass;
$proxy->release;
SlateNode::wait_for($node, q{SELECT ring_bytes = 0 FROM slate_cache.progress WHERE datname = 'postgres'});
is(name_of(9), 'new', 'until the worker has pushed');
$writer->query('RESET slate_cache.mode');

#
# Patterns: one that begins with twelve bytes and more concerns what begins so
#
plant(10, 11);
$writer->query(q{INSERT INTO sale VALUES (10)});
is(name_of(10), 'old', 'a pattern voids what it may match');
ok(is_near(11), 'and not what begins otherwise');
$writer->query(q{SELECT slate_cache_invalidate('shop:it*')});
is(name_of(11), 'old', 'a short one voids all');
wait_until_near($_) foreach 12, 13;
$writer->query(q{UPDATE item SET name = 'many' WHERE id BETWEEN 100 AND 115});
ok(is_near(12), 'sixteen keys are voided each by itself');
$writer->query(q{UPDATE item SET name = 'more' WHERE id BETWEEN 100 AND 116});
ok(!is_near(12), 'for more all that is near is');

#
# Who changes Redis otherwise
#
# It waits for pushes that may be on their way as long as a push may take.
plant(14);
$writer->query(q{SET slate_cache.timeout = '1s'});
$writer->query('SELECT count(*) FROM slate_cache_verify(rel => $$item$$, sample => 1000, repair => true)');
is($writer->error, '', 'slate_cache_verify');
$writer->query('RESET slate_cache.timeout');
is(name_of(14), 'old', 'slate_cache_verify has mended it');
plant(15);
$writer->query('SELECT slate_cache_flush()');
SlateNode::wait_until_trusted($node);
is(name_of(15), 'old', 'the namespace was emptied');

# For no longer than its rule's TTL.
$writer->query(q{INSERT INTO brief VALUES (1, 'old')});
SlateRedis::wait_until(sub { my $before = near_hits(); $reader->query(q{SELECT slate_cache_get('shop:brief:1')}); near_hits() > $before },
    'a brief row is near');
$redis->cli('SET', 'shop:brief:1', '{"name": "an app was here"}');
SlateRedis::wait_until(sub { $reader->query(q{SELECT slate_cache_get('shop:brief:1')->>'name'}) eq 'an app was here' }, 'its time is over');
pass('a value goes when its time is over');

#
# Prepared transactions
#
$writer->query('SET slate_cache.mode = strict');
wait_until_near($_) foreach 16, 17;
$writer->query(q{BEGIN; UPDATE item SET name = 'prepared' WHERE id = 16; PREPARE TRANSACTION 'near'});
ok(!is_near(16) && !is_near(16), 'nothing of a prepared transaction is near');
ok(!is_near(17) && !is_near(17), 'nor is anything else');
$other->query(q{COMMIT PREPARED 'near'});
is(name_of(16), 'prepared', 'its value');
wait_until_near($_) foreach 16, 17;
is(name_of(16), 'prepared', 'is near when the worker has seen that none is left');

$writer->query(q{BEGIN; UPDATE item SET name = 'restarted' WHERE id = 16; PREPARE TRANSACTION 'near'});
$_->quit foreach $reader, $writer, $other;
$node->restart;
SlateNode::wait_until_trusted($node);
($reader, $writer, $other) = map { SlateSession->new($node) } 1 .. 3;
SlateNode::wait_for($node, q{SELECT count(*) > 0 FROM slate_cache.journal});
is(name_of(16), 'prepared', 'after a restart it is prepared still') foreach 1, 2;
is(near_hits(), 0, 'and nothing is near');
$other->query(q{COMMIT PREPARED 'near'});
is(name_of(16), 'restarted', 'until it is committed');
wait_until_near(17);

#
# More than there is room for: a partition is a ring of 32 kB
#
$node->append_conf('postgresql.conf', q{slate_cache.near_memory = '1MB'});
$_->quit foreach $reader, $writer, $other;
$node->safe_psql('postgres', q{TRUNCATE item; INSERT INTO item SELECT i, repeat('x', (i * 7919) % 5000) || i FROM generate_series(1, 3000) i});
$node->restart;
SlateNode::wait_until_trusted($node);
SlateNode::wait_for($node, q{SELECT count(slate_cache_get('shop:item:1')) + near_hits > 1 FROM slate_cache.stats GROUP BY near_hits});
my $wrong = $node->safe_psql('postgres', q{
    SELECT setseed(0.5);
    SELECT count(*) FROM (SELECT id, name, round, random() AS place FROM item, generate_series(1, 4) round ORDER BY round, place) i
    WHERE slate_cache_get('shop:item:' || id)->>'name' IS DISTINCT FROM name});
$wrong =~ s/^\n//;
is($wrong, 0, 'twelve thousand reads of three thousand rows of all sizes are right');
$wrong = $node->safe_psql('postgres', q{
    SELECT count(*) FROM (SELECT 1 + i % 100 AS id, i FROM generate_series(1, 2000) i OFFSET 0) s JOIN item USING (id)
    WHERE slate_cache_get('shop:item:' || id)->>'name' IS DISTINCT FROM name});
is($wrong, 0, 'so are those of a hundred again and again');
cmp_ok(near_hits(), '>', 100, 'of which many were near');
SlateNode::unharmed($node);

is($node->psql('postgres', 'ALTER SYSTEM SET slate_cache.near_memory = 100'), 3, 'less than 1 MB is refused');

done_testing();
