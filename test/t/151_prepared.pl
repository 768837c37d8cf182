# PREPARE TRANSACTION under cached changes: COMMIT PREPARED by another session
# drops their keys within a second, also when the server was restarted or has
# crashed in between; ROLLBACK PREPARED leads to nothing.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(time);

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, testing => 1,
    conf => { 'slate_cache.timeout' => 10000, 'slate_cache.connect_timeout' => 10000 });
SlateNode::create_items($node, 100);
$node->safe_psql('postgres', q{
    CREATE TABLE sale (customer int);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
my $session = SlateSession->new($node);
my $other = SlateSession->new($node);

sub name { return $redis->field("shop:item:$_[0]", 'name') }

sub exists_key { return $redis->cli('EXISTS', @_) }

sub wait_until_gone
{
    my (@keys) = @_;
    SlateRedis::wait_until(sub { exists_key(@keys) eq '0' }, "@keys have gone");
    return;
}

# From a session that ends with it.
sub prepare
{
    my ($gid, $sql) = @_;
    $node->safe_psql('postgres', "BEGIN; $sql; PREPARE TRANSACTION '$gid'");
    return;
}

# One transaction with everything in it.
$redis->cli('MSET', map { ("shop:search:$_:mine", '1') } 1 .. 3);
$session->query(q{SELECT slate_cache_set('shop:free:' || i, to_jsonb(i)) FROM generate_series(1, 3) i});
$session->query(q{BEGIN;
    UPDATE item SET name = 'prepared' WHERE id = 1;
    INSERT INTO sale VALUES (1);
    SELECT slate_cache_set('shop:free:1', '"prepared"'), slate_cache_del('shop:free:2');
    SAVEPOINT a;
    UPDATE item SET name = 'rolled back' WHERE id = 2;
    INSERT INTO sale VALUES (2);
    SELECT slate_cache_del('shop:free:3');
    ROLLBACK TO a;
    SAVEPOINT b;
    UPDATE item SET name = 'released' WHERE id = 3;
    RELEASE b});
$session->query(q{PREPARE TRANSACTION 'all'});
is($session->error, '', 'a transaction with cached changes is prepared');
is(name(1) . name(2) . name(3), 'oldoldold', 'Redis is told nothing yet');
is($other->query("SELECT slate_cache_get('shop:item:1')->>'name'"), 'old', 'get has the value from before');
is($other->query(q{SELECT state, (SELECT array_agg(k ORDER BY k) FROM unnest(keys) k), patterns FROM slate_cache.journal}),
    'prepared|{shop:free:1,shop:free:2,shop:item:1,shop:item:3}|{shop:search:1:*}', 'the journal shows it');
is($other->query(q{SELECT xid = (SELECT transaction::text::xid8 FROM pg_prepared_xacts) FROM slate_cache.journal}),
    't', 'by its xid');
$session->query("UPDATE item SET name = 'own' WHERE id = 4");
is(name(4), 'own', 'the session goes on');
$session->quit;
$other->query("COMMIT PREPARED 'all'");
is($other->error, '', 'another session commits it');
wait_until_gone(qw(shop:item:1 shop:item:3 shop:free:1 shop:free:2 shop:search:1:mine));
pass('and its keys and patterns are dropped');
SlateJournal::wait_until_told($node);
is(name(2) . name(4) . name(5), 'oldownold', 'what was rolled back in it stays, and others');
is(exists_key(qw(shop:free:3 shop:search:2:mine shop:search:3:mine)), '3', 'keys and patterns alike');
is($other->query("SELECT slate_cache_get('shop:item:1')->>'name'"), 'prepared', 'get has the new value');
is(name(1), 'prepared', 'and fills');

# How soon.
my @seconds;
foreach my $i (1 .. 5)
{
    $other->query("SELECT slate_cache_get('shop:item:10')");
    prepare('soon', "UPDATE item SET name = 'soon $i' WHERE id = 10");
    my $committed = time;
    $other->query("COMMIT PREPARED 'soon'");
    wait_until_gone('shop:item:10');
    push @seconds, time - $committed;
}
note("dropped after @seconds s");
cmp_ok((sort { $a <=> $b } @seconds)[2], '<', 1, 'the keys are dropped within a second, three times of five at least');

# Rolled back.
prepare('no', q{UPDATE item SET name = 'never' WHERE id <= 5; INSERT INTO sale VALUES (3);
    SELECT slate_cache_del('shop:free:3')});
is($other->query('SELECT state FROM slate_cache.journal'), 'prepared', 'another one is prepared');
$other->query("ROLLBACK PREPARED 'no'");
SlateJournal::wait_until_told($node);
is(join(' ', map { name($_) } 1, 2, 4, 5), 'prepared old own old', 'ROLLBACK PREPARED: its keys stay');
is(exists_key(qw(shop:free:3 shop:search:3:mine)), '2', 'all of them');

# A reader that has loaded before the commit, and comes to its fill after it.
$redis->cli('DEL', 'shop:item:20');
prepare('race', "UPDATE item SET name = 'after' WHERE id = 20");
my $gate = SlateSession->new($node);
$gate->query('SELECT pg_advisory_lock(7351, 4)');
my $reader = SlateSession->new($node);
$reader->query("SET slate_cache.pause_at = 'before_fill'");
$reader->send("SELECT slate_cache_get('shop:item:20') ->> 'name'");
SlateNode::wait_for($node,
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", '1');
$other->query("COMMIT PREPARED 'race'");
SlateJournal::wait_until_told($node);
$gate->query('SELECT pg_advisory_unlock(7351, 4)');
is($reader->finish, 'old', 'a reader has loaded the value from before');
is(exists_key('shop:item:20'), '0', 'its fill is refused');
$_->quit foreach $gate, $reader;

# The server is restarted in between, or crashes.
my $others = 'SELECT count(*) FILTER (WHERE slate_cache_peek(\'shop:item:\' || id) = to_jsonb(item)) FROM item WHERE id > 40';
foreach my $mode (qw(fast immediate))
{
    my $log = SlateNode::log_size($node);

    # After a restart all is in doubt that is still in the journal.
    SlateJournal::rotate($node);
    $other->query(q{SELECT slate_cache_get('shop:item:' || id) FROM item});
    prepare('kept', "UPDATE item SET name = '$mode' WHERE id IN (30, 31)");
    prepare('given up', "UPDATE item SET name = 'never' WHERE id IN (32, 33)");
    my @before = map { name($_) } 30 .. 33;
    $other->quit;
    $node->stop($mode);
    $node->start;
    $other = SlateSession->new($node);
    is($other->query("SELECT count(*) FROM slate_cache.journal WHERE state = 'prepared'"), '2',
        "$mode: both are there after a restart");
    is(join(' ', map { name($_) } 30 .. 33), "@before", "$mode: their keys too");
    $other->query("COMMIT PREPARED 'kept'; ROLLBACK PREPARED 'given up'");
    is($other->error, '', "$mode: one is committed, one rolled back");
    wait_until_gone('shop:item:30', 'shop:item:31');
    pass("$mode: the keys of the one are dropped");
    SlateJournal::wait_until_told($node);
    is(name(32) . name(33), "$before[2]$before[3]", "$mode: those of the other stay");
    is($other->query($others), '60', "$mode: and all others");
    is(scalar(SlateNode::messages($node, qr/WARNING:|ERROR:/, $log)), 0, "$mode: no word in the log");
}

# Committed while Redis refuses to drop, and then a crash.
prepare('dark', "UPDATE item SET name = 'dark' WHERE id = 35");
is($redis->cli('ACL', 'SETUSER', 'default', '-evalsha'), 'OK', 'Redis refuses');
$other->query("COMMIT PREPARED 'dark'");
is($other->error, '', 'COMMIT PREPARED does not fail');
SlateNode::wait_for($node, q{SELECT state <> 'prepared' AND keys = '{shop:item:35}' FROM slate_cache.journal});
pass('the journal shows it as one that Redis has not been told of');
$other->quit;
$node->stop('immediate');
$node->start;
is(name(35), 'old', 'a crash, and the old value is there');
is($redis->cli('ACL', 'SETUSER', 'default', '+@all'), 'OK', 'Redis does as it is told');
wait_until_gone('shop:item:35');
pass('and the key is dropped');
SlateJournal::wait_until_told($node);
$other = SlateSession->new($node);

# Many keys: the journal has them in several rows.
$other->query(q{SELECT slate_cache_mset(jsonb_object_agg('shop:many:' || i, i)) FROM generate_series(1, 3000) i});
prepare('many', q{SELECT count(slate_cache_del('shop:many:' || i)) FROM generate_series(1, 3000) i});
is($other->query(q{SELECT sum(cardinality(keys)) FROM slate_cache.journal WHERE state = 'prepared'}), '3000',
    'three thousand keys are prepared');
$other->query("COMMIT PREPARED 'many'");
SlateRedis::wait_until(sub { $redis->all_keys('shop:many:*') eq '' }, 'many keys have gone');
pass('and dropped');

# As many as there can be, and one more.
SlateJournal::wait_until_told($node);
$other->query(q{SELECT slate_cache_get('shop:item:' || id) FROM item});
prepare("p$_", "UPDATE item SET name = 'p$_' WHERE id = 50 + $_") foreach 1 .. 10;
$other->query(q{BEGIN; UPDATE item SET name = 'one too many' WHERE id = 61; PREPARE TRANSACTION 'p11'});
like($other->error, qr/ERROR:  maximum number of prepared transactions reached/, 'one too many is refused');
is($other->query('ROLLBACK; SELECT name FROM item WHERE id = 61'), 'old', 'and not committed');
is(name(61), 'old', 'its key stays');
$other->query("COMMIT PREPARED 'p$_'") foreach 1 .. 10;
wait_until_gone(map { 'shop:item:' . (50 + $_) } 1 .. 10);
pass('ten at a time are committed, and their keys dropped');
SlateJournal::wait_until_told($node);
is(name(61), 'old', 'but not that of the eleventh');

# A long one does not keep the journal of the others from being emptied: they
# write some 4 MB.
my $size = q{pg_relation_size('slate_cache.journal_a') + pg_relation_size('slate_cache.journal_b')};
$other->query(q{SELECT slate_cache_get('shop:item:70')});
prepare('long', "UPDATE item SET name = 'long' WHERE id = 70");
foreach my $round (1 .. 4)
{
    $other->query(q{DO $$ BEGIN FOR i IN 1 .. 50 LOOP
        PERFORM slate_cache_del(VARIADIC array_agg('shop:gone:' || i || ':' || k)) FROM generate_series(1, 1000) k;
        COMMIT; END LOOP; END $$});
}
SlateNode::wait_for($node, "SELECT $size < 1024 * 1024");
pass('with one that stays prepared, the journal is emptied');
is(name(70), 'old', 'the key of the long one is still there');
$other->query("COMMIT PREPARED 'long'");
wait_until_gone('shop:item:70');
pass('and dropped when it is committed at last');
SlateNode::wait_for($node, "SELECT $size + pg_relation_size('slate_cache.journal_prepared')", '0');
pass('then the journal is empty');

# What has just been committed is in doubt, whether the worker has seen it or not.
prepare('seen', q{UPDATE item SET name = 'seen' WHERE id = 4});
SlateNode::wait_for($node, q{SELECT string_agg(state, '') FROM slate_cache.journal}, 'prepared');
$other->query('SELECT slate_cache_repair()');
is($other->error, '', 'repair does not wait for what is prepared');
SlateNode::stop_worker($node);
$node->safe_psql('postgres', q{COMMIT PREPARED 'seen'});
$other->query(q{SET statement_timeout = '500ms'; SELECT slate_cache_repair()});
like($other->error, qr/statement timeout/, 'but for what is committed');
SlateNode::continue_worker();
$other->query(q{RESET statement_timeout; SELECT slate_cache_repair()});
is($other->error . exists_key('shop:item:4'), '0', 'until its keys are dropped');

# A session that prepares more than the worker takes away in time leaves that in doubt, and
# nothing that comes later.
SlateNode::stop_worker($node);
foreach my $i (1 .. 8)
{
    $other->query("BEGIN; UPDATE item SET name = 'often $i' WHERE id = 5; PREPARE TRANSACTION 'often'");
    $other->query(q{COMMIT PREPARED 'often'});
}
my $plain = SlateSession->new($node);
$plain->query("UPDATE item SET name = 'later' WHERE id = $_") foreach 6 .. 15;
my @later = map { "shop:item:$_" } 6 .. 15;
is(exists_key(@later), '10', 'what comes later is there');
SlateNode::continue_worker();
$other->query('SELECT slate_cache_repair()');
is($other->error . exists_key('shop:item:5'), '0', 'what was prepared often has gone');
is(exists_key(@later), '10', 'what came later is still there');
$plain->quit;

is($other->query('SELECT pushes_lost, emptied FROM slate_cache.stats'), '0|0',
    'nothing has counted as lost, and the namespace was not emptied');
SlateNode::unharmed($node);
$other->quit;

# More than the worker has places for.
use constant MANY => 300;
$other->quit;
$node->append_conf('postgresql.conf', 'max_prepared_transactions = ' . MANY);
$node->restart;
$other = SlateSession->new($node);
$other->query('INSERT INTO item SELECT 1000 + i, \'old\' FROM generate_series(1, ' . MANY . ') i');
$other->query(q{SELECT slate_cache_get('shop:item:' || id) FROM item WHERE id > 1000});

sub many { return map { 'shop:item:' . (1000 + $_) } @_ }
sub commit_many { return $node->safe_psql('postgres', join "\n", map { "COMMIT PREPARED 'm$_';" } @_) }

# Repair waits for nothing but those that are decided, and then the worker rests.
sub wait_until_repaired
{
    my ($what) = @_;
    $other->query(q{SET statement_timeout = '20s'; SELECT slate_cache_repair()});
    is($other->error, '', "$what: repair comes to its end");
    SlateRedis::wait_until(
        sub { $other->query(q{SELECT phase FROM slate_cache.progress WHERE datname = 'postgres'}) eq 'idle' },
        'the worker rests');
    return pass("$what: and the worker rests");
}

sub worker_pid
{
    return $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'});
}

$node->safe_psql('postgres', join "\n",
    map { "BEGIN; UPDATE item SET name = 'many' WHERE id = 1000 + $_; PREPARE TRANSACTION 'm$_';" } 1 .. MANY);
wait_until_repaired('with ' . MANY . ' prepared');
is(exists_key(many(1 .. MANY)), MANY, 'all of their keys are there');
is($other->query(q{SELECT count(*) FROM slate_cache.journal WHERE state = 'prepared'}), MANY,
    'and the journal shows all of them');

commit_many(1, MANY);
wait_until_gone(many(1, MANY));
pass('the first and the last are committed, and their keys dropped');
my $worker = worker_pid();
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
commit_many(2, MANY - 1);
SlateRedis::wait_until(sub { worker_pid() !~ /^($worker)?$/ }, 'there is another worker');
wait_until_gone(many(2, MANY - 1));
pass('so are others, before the next worker has come');
wait_until_repaired('after the death of the worker');
$other->quit;
$node->restart;
$other = SlateSession->new($node);
wait_until_repaired('after a restart');
is(exists_key(many(3 .. MANY - 2)), MANY - 4, 'the keys of the others are there');
commit_many(3 .. MANY - 2);
wait_until_gone(many(3 .. MANY - 2));
pass('the others are committed, and their keys dropped');
SlateNode::wait_for($node, "SELECT pg_relation_size('slate_cache.journal_prepared')", '0');
pass('then the journal is empty');
is($other->query('SELECT emptied FROM slate_cache.stats'), '0', 'the namespace was not emptied');
$other->quit;

# Without prepared transactions.
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 0');
$node->restart;
$other = SlateSession->new($node);
$other->query(q{SELECT slate_cache_get('shop:item:80')});
$other->query(q{BEGIN; UPDATE item SET name = 'none' WHERE id = 80; PREPARE TRANSACTION 'none'});
like($other->error, qr/ERROR:  prepared transactions are disabled/, 'max_prepared_transactions = 0 is an error');
$other->query("ROLLBACK; UPDATE item SET name = 'after' WHERE id = 81");
is(name(80) . name(81), 'oldafter', 'that leaves nothing behind');
done_testing();
