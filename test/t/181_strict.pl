# slate_cache.mode = strict, with Redis there: from before the commit until its
# push a changed key has no value and gets none; when COMMIT returns, it has the
# new one; after an abort, wherever it comes, it can be filled at once.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateCheck;
use SlateClient;
use SlateMarks;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep time);

# Nothing ends because it takes long.
my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url, testing => 1,
    conf => { 'slate_cache.timeout' => 60000, 'slate_cache.connect_timeout' => 60000 });
SlateNode::wait_until_trusted($node);
$node->safe_psql('postgres', q{
    CREATE TABLE item (id int PRIMARY KEY, shelf int, name text);
    CREATE TABLE sale (customer int);
    CREATE TABLE loose (id int);
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'], list_keys => ARRAY['shop:shelf:{shelf}']);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*']);
    INSERT INTO item SELECT i, i % 10, 'old' FROM generate_series(1, 100) i});
my $client = SlateClient->new($redis);
my $reader = SlateSession->new($node);
my $gate = SlateSession->new($node);

sub strict_session
{
    my ($point) = @_;
    my $session = SlateSession->new($node);
    $session->query("\\set VERBOSITY verbose\nSET slate_cache.mode = 'strict'");
    $session->query("SET slate_cache.pause_at = '$point'") if $point;
    return $session;
}

sub name { my ($text) = ($client->ask('GET', "shop:item:$_[0]") // '') =~ /"name": ?"([^"]*)"/; return $text // '-' }
sub names { return join ' ', map { name($_) } @_ }
sub there { return $client->ask('EXISTS', @_) }
sub get { return $reader->query("SELECT coalesce(slate_cache_get('shop:item:$_[0]')->>'name', 'null')") }

sub marks { return SlateMarks::count($client) }

my %locks = (before_commit => 1, before_publish => 2, before_fill => 4);
sub close_gate { $gate->query("SELECT pg_advisory_lock(7351, $locks{$_[0]})"); return }
sub open_gate { $gate->query("SELECT pg_advisory_unlock(7351, $locks{$_[0]})"); return }

sub wait_until_paused
{
    SlateNode::wait_for($node,
        q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}, $_[0] // 1);
    return;
}

# With its last statement the session comes to the gate.
sub begin_commit
{
    my ($session, $sql, $point) = @_;
    close_gate($point // 'before_commit');
    $session->send($sql);
    wait_until_paused();
    return;
}

sub end_commit
{
    my ($session, $point) = @_;
    open_gate($point // 'before_commit');
    return $session->finish;
}

# Fills those keys and says which it could.
sub fill { $reader->query("SELECT count(*) FROM slate_cache_mget(ARRAY['" . join("','", @_) . "'])"); return there(@_) }

sub wait_until_unmarked
{
    my ($what) = @_;
    my $start = time;
    sleep 0.05 until marks() == 0 || time > $start + 15;
    is(marks(), 0, "$what: within seconds no mark is left");
    note(sprintf '%s: unmarked after %.1f s', $what, time - $start);
    return;
}

# Before the commit, between it and the push, after it.
my $writer = strict_session('before_commit');
my @keys = qw(shop:item:1 shop:item:101 shop:item:11 shop:shelf:1);
fill('shop:shelf:1');
is(there(@keys), 3, 'rows and their list are cached');
begin_commit($writer, q{BEGIN;
    UPDATE item SET name = 'new' WHERE id = 1;
    INSERT INTO item VALUES (101, 1, 'new');
    DELETE FROM item WHERE id = 11;
    COMMIT});
is(there(@keys), 0, 'before the commit: GET finds nothing');
is(marks(), 1, 'the keys share one mark');
is(get(1) . get(101) . get(11), 'oldnullold', 'get has what is in the table');
is($reader->query(q{SELECT string_agg(coalesce(value->>'name', 'null'), ' ')
    FROM slate_cache_mget(ARRAY['shop:item:1', 'shop:item:101', 'shop:item:11'])}), 'old null old', 'so has mget');
is($reader->query(q{SELECT jsonb_array_length(slate_cache_get('shop:shelf:1'))}), 10, 'and for a list');
is(there(@keys), 0, 'and none of them fills');
is(marks(), 1, 'the mark still stands');
is(fill('shop:item:2'), 1, 'other keys are read and filled');
end_commit($writer);
is($writer->error, '', 'the commit succeeds');
is(names(1, 101, 11), 'new new -', 'when COMMIT returns, GET finds what was committed');
is(marks(), 0, 'and no mark is left');
is(fill('shop:shelf:1'), 1, 'the list fills');
is($reader->query(q{SELECT jsonb_array_length(slate_cache_get('shop:shelf:1'))}), 10, 'and is right');
is(get(11), 'null', 'what was deleted is gone');

$writer->query("SET slate_cache.pause_at = 'before_publish'");
begin_commit($writer, "UPDATE item SET name = 'newer' WHERE id = 1", 'before_publish');
is($reader->query('SELECT name FROM item WHERE id = 1'), 'newer', 'committed and not pushed: the new row is visible');
is(there('shop:item:1'), 0, 'GET finds nothing');
is(get(1), 'newer', 'get has the new row');
SlateMarks::wait_for_looks($client);
is(get(1) . there('shop:item:1') . marks(), 'newer01', 'and does not fill, however long it takes to push');
end_commit($writer, 'before_publish');
is(names(1), 'newer', 'when COMMIT returns, GET finds it');
is(marks(), 0, 'and no mark is left');

# A reader that was there before the mark.
$client->ask('DEL', 'shop:item:2');
my $late = SlateSession->new($node);
$late->query("SET slate_cache.pause_at = 'before_fill'");
close_gate('before_fill');
$late->send("SELECT slate_cache_get('shop:item:2')->>'name'");
wait_until_paused();
$writer->query("SET slate_cache.pause_at = 'before_commit'");
close_gate('before_commit');
$writer->send("UPDATE item SET name = 'new' WHERE id = 2");
wait_until_paused(2);
open_gate('before_fill');
is($late->finish, 'old', 'a reader that has loaded before the mark has the old row');
is(there('shop:item:2'), 0, 'and cannot fill after it');
end_commit($writer);
is(names(2), 'new', 'the commit puts the new one');

# A writer in mode commit, of the same key, while it is marked; and one that has
# committed before, and pushes now.
my $other = SlateSession->new($node);
$other->query("SET slate_cache.pause_at = 'before_publish'");
begin_commit($other, "UPDATE item SET name = 'commit' WHERE id = 3", 'before_publish');
close_gate('before_commit');
$writer->send("UPDATE item SET name = 'strict' WHERE id = 3");
wait_until_paused(2);
end_commit($other, 'before_publish');
is($other->error, '', 'a session in mode commit pushes a marked key: it succeeds');
is(names(3), '-', 'but its PUT is a DROP');
end_commit($writer);
is(names(3), 'strict', 'the strict one puts its own');

$reader->query(q{SELECT slate_cache_set('shop:free:1', '"old"')});
begin_commit($writer, q{SELECT slate_cache_set('shop:free:1', '"strict"')});
$reader->query(q{SELECT slate_cache_set('shop:free:1', '"commit"')});
is($reader->error, '', 'a set in mode commit of a marked key succeeds');
is(there('shop:free:1'), 0, 'but does not set');
end_commit($writer);
is(marks(), 0, 'the strict session has released it');

# By hand; no row, and until then no transaction id.
is($reader->query(q{SELECT slate_cache_set('shop:free:1', '"old"'), slate_cache_set('shop:free:2', '"old"')}) && there(qw(shop:free:1 shop:free:2)), 2, 'two keys are set by hand');
begin_commit($writer, q{BEGIN; SELECT slate_cache_set('shop:free:1', '"new"', '1 hour'), slate_cache_del('shop:free:2'); COMMIT});
is(there('shop:free:1', 'shop:free:2'), 0, 'set and del: before the commit GET finds nothing');
is($reader->query(q{SELECT slate_cache_get('shop:free:1') IS NULL}), 't', 'nor does get');
$reader->query(q{SELECT slate_cache_fetch('shop:free:2', 'SELECT 1')});
is(there('shop:free:2'), 0, 'fetch does not fill');
end_commit($writer);
is($client->ask('GET', 'shop:free:1'), '"new"', 'set: the value is there when COMMIT returns');
is(there('shop:free:2'), 0, 'del: the key is not');
$reader->query(q{SELECT slate_cache_fetch('shop:free:2', 'SELECT 1')});
is(there('shop:free:2'), 1, 'and fills again');
is(marks(), 0, 'no mark is left');

# Rolled back by whoever began it: Redis does not even hear of it.
$writer->query("SET slate_cache.pause_at = 'nowhere'; BEGIN; UPDATE item SET name = 'never' WHERE id = 4; ROLLBACK");
is(names(4), 'old', 'ROLLBACK: the value stays');
is(marks(), 0, 'and no mark is left');

# Errors after the mark.
sub aborted
{
    my ($what, $id, $error) = @_;
    like($error, qr/^(psql:<stdin>:\d+: )?(ERROR|FATAL):  \d/, "$what: it fails");
    is($reader->query("SELECT name FROM item WHERE id = $id"), 'old', "$what: nothing is committed");
    is(marks(), 0, "$what: no mark is left");
    is(fill("shop:item:$id"), 1, "$what: its key can be filled at once");
    is(names($id), 'old', "$what: with the old value");
    return;
}

$writer->query("SET slate_cache.pause_at = 'before_commit'");
$writer->query('BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT FROM item WHERE id = 6');
$other->query("SET slate_cache.mode = 'strict'; SET slate_cache.pause_at = 'nowhere'");
$other->query('BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT FROM item WHERE id = 5');
$writer->query("UPDATE item SET name = 'never' WHERE id = 5");
$other->query("UPDATE item SET name = 'skewed' WHERE id = 6");
begin_commit($writer, 'COMMIT');
is(there('shop:item:5'), 0, 'write skew: one is marked');
$other->query('COMMIT');
is($other->error, '', 'write skew: the other commits');
end_commit($writer);
like($writer->error, qr/ERROR:  40001/, 'write skew: the first has a serialization failure');
aborted('write skew', 5, $writer->error);
is(names(6), 'skewed', 'write skew: the other has its value');

begin_commit($writer, "UPDATE item SET name = 'never' WHERE id = 7");
is(there('shop:item:7') . marks(), '01', 'cancel: marked');
$reader->query('SELECT pg_cancel_backend(' . $writer->pid . ')');
$writer->finish;
aborted('cancel', 7, $writer->error);
open_gate('before_commit');

# It does not count for a commit that follows a statement, but for one in it.
sub commits_inside { return "DO \$\$ BEGIN UPDATE item SET name = 'never' WHERE id = $_[0]; COMMIT; END \$\$" }
close_gate('before_commit');
$writer->query('SET statement_timeout = 300; ' . commits_inside(8));
aborted('statement_timeout', 8, $writer->error);
$writer->query('SET statement_timeout = 0');
open_gate('before_commit');

begin_commit($writer, "UPDATE item SET name = 'never' WHERE id = 9");
is(there('shop:item:9') . marks(), '01', 'terminate: marked');
$reader->query('SELECT pg_terminate_backend(' . $writer->pid . ', 60000)');
eval { $writer->finish };
aborted('terminate', 9, 'FATAL:  57P01');
open_gate('before_commit');

# While it waits for Redis: what it has said may arrive when it has given up.
my %ends = (
    'cancelled while it waits' => sub { $reader->query('SELECT pg_cancel_backend(' . $_[0]->pid . ')') },
    'statement_timeout while it waits' => sub { },
    'terminated while it waits' => sub { $reader->query('SELECT pg_terminate_backend(' . $_[0]->pid . ', 60000)') });
my $id = 20;
foreach my $what (sort keys %ends)
{
    my $session = strict_session();
    ++$id;
    $session->query("UPDATE item SET name = name || '.' WHERE id = 30");
    $session->query('SET statement_timeout = 1000') if $what =~ /statement_timeout/;
    $proxy->hold("shop:item:$id\r\n");
    $session->send($what =~ /statement_timeout/ ? commits_inside($id) : "UPDATE item SET name = 'never' WHERE id = $id");
    $proxy->wait_until_held;
    $ends{$what}->($session);
    eval { $session->finish; 1 } || $what =~ /terminated/ or die $@;
    like($session->error, qr/ERROR:  57014/, "$what: it fails") unless $what =~ /terminated/;
    is($reader->query("SELECT name FROM item WHERE id = $id"), 'old', "$what: nothing is committed");
    is(names($id) . marks(), 'old0', "$what: Redis does not know of it");
    $proxy->release;
    is(names($id), '-', "$what: the mark comes late, and removes the value");
    wait_until_unmarked($what);
    is(fill("shop:item:$id"), 1, "$what: then its key can be filled");
    next if $what =~ /terminated/;
    $session->query("SET statement_timeout = 0; UPDATE item SET name = 'again' WHERE id = $id");
    is($session->error . names($id), 'again', "$what: the session goes on");
}

# Savepoints and EXCEPTION blocks.
$writer = strict_session('before_commit');
fill(map { "shop:item:$_" } 31 .. 36);
begin_commit($writer, q{BEGIN;
    UPDATE item SET name = 'outer' WHERE id = 31;
    SAVEPOINT a;
    UPDATE item SET name = 'rolled back' WHERE id = 32;
    ROLLBACK TO a;
    SAVEPOINT b;
    UPDATE item SET name = 'released' WHERE id = 33;
    RELEASE b;
    DO $$ BEGIN
        UPDATE item SET name = 'block' WHERE id = 34;
        BEGIN
            UPDATE item SET name = 'caught' WHERE id = 35;
            RAISE EXCEPTION 'caught';
        EXCEPTION WHEN raise_exception THEN
            UPDATE item SET name = 'handler' WHERE id = 36;
        END;
    END $$;
    COMMIT});
is(names(31 .. 36), '- old - - old -', 'savepoints: what will be committed is marked, and nothing else');
end_commit($writer);
is(names(31 .. 36), 'outer old released block old handler', 'savepoints: and then set');
is(marks(), 0, 'savepoints: no mark is left');

# In one transaction alone.
$other = SlateSession->new($node);
$other->query("SET slate_cache.pause_at = 'before_commit'");
begin_commit($other, "BEGIN; SET LOCAL slate_cache.mode = 'strict'; UPDATE item SET name = 'local' WHERE id = 37; COMMIT");
is(names(37), '-', 'SET LOCAL slate_cache.mode: it is marked');
end_commit($other);
begin_commit($other, "UPDATE item SET name = 'commit' WHERE id = 37");
is(names(37), 'local', 'the next one is not');
end_commit($other);

# Patterns over keys that indexes know, and others.
sub fetch { return $reader->query("SELECT slate_cache_fetch('$_[0]', 'SELECT count(*) FROM sale')") }
fetch($_) foreach qw(shop:search:1:a shop:search:2:a);
is(there(qw(shop:search:1:a shop:search:2:a)), 2, 'patterns: keys are filled');
begin_commit($writer, 'INSERT INTO sale VALUES (1)');
is(there('shop:search:1:a'), 0, 'patterns: before the commit it is gone');
is(fetch('shop:search:1:a') . fetch('shop:search:1:b'), '00', 'patterns: fetch has the result of the query');
is(there(qw(shop:search:1:a shop:search:1:b)), 0, 'patterns: and fills neither it nor a new one');
is(there('shop:search:2:a'), 1, 'patterns: others stay');
fetch('shop:search:2:b');
is(there('shop:search:2:b'), 1, 'patterns: and are filled');
is(marks(), 2, 'patterns: a mark and a beginning');
end_commit($writer);
is($writer->error . marks(), '0', 'patterns: after the commit nothing is marked');
is(fetch('shop:search:1:a') . there('shop:search:1:a'), '11', 'patterns: fetch fills with what is true now');

begin_commit($writer, 'BEGIN; INSERT INTO sale VALUES (2); COMMIT');
$reader->query('SELECT pg_cancel_backend(' . $writer->pid . ')');
$writer->finish;
like($writer->error, qr/ERROR:  57014/, 'patterns: cancelled');
open_gate('before_commit');
is(marks(), 0, 'patterns: no mark, no beginning is left');
is(fetch('shop:search:2:a') . there('shop:search:2:a'), '11', 'patterns: and keys fill again');

$client->ask('SET', 'shop:loose:1', '"by an app"');
fetch('shop:loose:2');
begin_commit($writer, q{SELECT slate_cache_invalidate('shop:loose:*')});
is(there(qw(shop:loose:1 shop:loose:2)), 0, 'invalidate: before the commit all is gone, in indexes or not');
fetch('shop:loose:3');
is(there('shop:loose:3'), 0, 'invalidate: and nothing is filled');
end_commit($writer);
fetch('shop:loose:3');
is(there('shop:loose:3') . marks(), '10', 'invalidate: after it all can be');

# A pattern, and then a value by hand for one of its keys, which the pattern's drop has found.
fetch('shop:search:1:a');
$writer->query(q{BEGIN; INSERT INTO sale VALUES (1); SELECT slate_cache_set('shop:search:1:a', '"by hand"'); COMMIT});
is($writer->error . ($client->ask('GET', 'shop:search:1:a') // 'none') . marks(), '"by hand"0', 'set: what a pattern has dropped before is there');
$writer->query(q{BEGIN; SELECT slate_cache_set('shop:search:1:a', '"too early"'); INSERT INTO sale VALUES (1); COMMIT});
is(there('shop:search:1:a') . marks(), '00', 'set: what it drops afterwards is not');

# Readers of the table wait for a TRUNCATE; those of Redis do not.
begin_commit($writer, q{BEGIN; TRUNCATE item; INSERT INTO item VALUES (1, 1, 'after'); COMMIT});
is($client->ask('EVAL', q{return #redis.call('KEYS', 'shop:item:*') + #redis.call('KEYS', 'shop:shelf:*')}, 0), 0,
    'TRUNCATE: before the commit no row is there');
end_commit($writer);
is($writer->error . names(1, 2), 'after -', 'TRUNCATE: then what was inserted is');
is(get(2), 'null', 'TRUNCATE: and nothing else');
is(marks(), 0, 'TRUNCATE: no mark is left');

# A large transaction: many calls, several exchanges.
use constant ROWS => 20000;
$reader->query(q{SET session_replication_role = replica;
    INSERT INTO item SELECT i, -i, 'old' FROM generate_series(1001, 1000 + } . ROWS . q{) i;
    RESET session_replication_role});
SlateCheck::store($node, $redis, 'item', 'shop:item:{id}');
my @many = map { "shop:item:$_" } 1001 .. 1000 + ROWS;
is(SlateCheck::present($redis, @many), ROWS, 'many keys: all are cached');
begin_commit($writer, "UPDATE item SET name = 'new' WHERE id > 1000");
is(SlateCheck::present($redis, @many), 0, 'many keys: before the commit none is');
is(marks(), 1, 'many keys: under one mark');
$reader->query(q{SELECT count(*) FROM slate_cache_mget(ARRAY(SELECT 'shop:item:' || id FROM item WHERE id % 100 = 0))});
is(SlateCheck::present($redis, @many), 0, 'many keys: and none is filled');
end_commit($writer);
is($writer->error, '', 'many keys: the commit succeeds');
is(SlateCheck::present($redis, @many), ROWS, 'many keys: then all are there');
SlateCheck::all_right($node, $redis, 'item', 'shop:item:{id}', name => 'many keys: and right');
is(marks(), 0, 'many keys: no mark is left');
begin_commit($writer, "UPDATE item SET name = 'never' WHERE id BETWEEN 1001 AND 4000");
$reader->query('SELECT pg_cancel_backend(' . $writer->pid . ')');
$writer->finish;
open_gate('before_commit');
is(marks(), 0, 'many keys, cancelled: no mark is left');
is(fill(@many[ 0 .. 99 ]), 100, 'many keys, cancelled: all can be filled');

is($node->safe_psql('postgres', 'SELECT pushes_delayed, pushes_lost, emptied FROM slate_cache.stats'), '0|0|1',
    'no push was delayed or lost');
SlateNode::unharmed($node);
done_testing();
