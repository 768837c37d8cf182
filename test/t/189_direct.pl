# Direct pushes: without a script, by who is alone on the way with his keys.  That they
# are made is seen by the counter pushes_direct; that nothing of them wins over what is
# newer, by holding their bytes back until all sorts of things have happened.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateDirect;
use SlateJournal;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
# The testing build aborts if memory is asked for where it must be there.
my $node = SlateNode->start('main', redis => $proxy->url, testing => 1,
    conf => { 'slate_cache.timeout' => 60000, 'max_prepared_transactions' => 4, 'wal_level' => 'replica', 'max_wal_senders' => 2 });
SlateNode::create_items($node, 99);
$node->safe_psql('postgres', q{
    CREATE TABLE note (id int PRIMARY KEY, tag text, body text);
    SELECT slate_cache_attach('note', row_keys => ARRAY['shop:note:{id}', 'shop:note:tag:{tag}']);
    INSERT INTO note SELECT i, 'tag ' || i, 'old' FROM generate_series(1, 9) i;
    CREATE TABLE crowd (id int PRIMARY KEY, name text);
    SELECT slate_cache_attach('crowd', row_keys => ARRAY['shop:crowd:{id}']);
    INSERT INTO crowd SELECT i, 'old' FROM generate_series(1, 2000) i});

my ($slow, $fast, $watcher) = map { SlateSession->new($node) } 1 .. 3;
my $way = SlateDirect->new(proxy => $proxy, slow => $slow, watcher => $watcher);

sub name { return $redis->field("shop:item:$_[0]", 'name') }

#
# What it does
#
is($fast->query('SELECT pushes_direct FROM slate_cache.stats'), '0', 'none at first');
ok(!$way->is_direct($fast, q{UPDATE item SET name = 'script' WHERE id = 1}), 'a session that has hardly pushed uses the script');
my $guard_by_script = $redis->cli('GET', 'slate_cache:guard:{shop:item:1}');
$way->warm_up($fast);
ok($way->is_direct($fast, q{UPDATE item SET name = 'direct' WHERE id = 1}), 'one that pushes often does not');
is(name(1), 'direct', 'the value is there');
cmp_ok($redis->cli('PTTL', 'shop:item:1'), '>', 3_500_000, 'with its TTL');
my $guard = $redis->cli('GET', 'slate_cache:guard:{shop:item:1}');
is(length $guard, length $guard_by_script, 'and its guard');
cmp_ok(substr($guard, 0, 30), 'gt', substr($guard_by_script, 0, 30), 'which has a newer version');
isnt(substr($guard, 38, 16), substr($guard_by_script, 38, 16), 'and another nonce');
my $life = $redis->cli('PTTL', 'slate_cache:guard:{shop:item:1}');
cmp_ok($life, '>', 50_000, 'and lives');
cmp_ok($life, '<=', 61_000, 'no longer than others');
ok($way->is_direct($fast, q{DELETE FROM item WHERE id = 1}), 'a DELETE');
is($redis->cli('EXISTS', 'shop:item:1', 'slate_cache:guard:{shop:item:1}'), '1', 'drops the value, and leaves a guard');
ok($way->is_direct($fast, q{UPDATE note SET tag = 'tag {7}' WHERE id = 1}), 'several keys, one with braces');
is($redis->cli('EXISTS', 'shop:note:1', 'shop:note:tag:tag 1', 'shop:note:tag:tag {7}', 'slate_cache:tagged:shop:note:tag:tag {7}'),
    '3', 'the old key has gone, the others are there');
ok($way->is_direct($fast, qq{UPDATE crowd SET name = 'many' WHERE id BETWEEN 128 * $_ + 1 AND 128 * $_ + 128}),
    'many keys, of which some share a cell') foreach 0 .. 14;
is($redis->field("shop:crowd:$_", 'name'), 'many', "key $_ of them is there") foreach 1, 128, 1920;
ok(!$way->is_direct($fast, q{UPDATE crowd SET name = 'script' WHERE id <= 129}), 'more are pushed by script');
ok(!$way->is_direct($fast, q{UPDATE crowd SET name = repeat('large', 1000) WHERE id <= 60}), 'so are large values');
ok(!$way->is_direct($fast, q{SELECT slate_cache_set('shop:free', '1')}), 'so are keys that an index must know');
ok(!$way->is_direct($fast, q{SELECT slate_cache_invalidate('shop:nothing:*')}), 'and patterns');
$fast->query('SET slate_cache.direct = off');
ok(!$way->is_direct($fast, q{UPDATE item SET name = 'off' WHERE id = 2}), 'it can be switched off');
$fast->query('RESET slate_cache.direct');
ok($way->is_direct($fast, q{UPDATE item SET name = 'on' WHERE id = 2}), 'and on');

# Who WATCHes need not ask before a commit whether Redis is the one that it was.  The worker
# asks once a second, so it is stopped.
SlateNode::stop_worker($node);
my $gets = $redis->calls('get');
foreach (1 .. 5)
{
    select undef, undef, undef, 0.02;    # nobody has heard of Redis for some time
    $fast->query(q{UPDATE item SET name = name || '.' WHERE id = 3});
}
is($redis->calls('get') - $gets, 5, 'a commit after a pause is one exchange, which ends with a GET');
SlateNode::continue_worker();

#
# The older comes late
#
$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 10});
ok(!$way->is_direct($fast, q{UPDATE item SET name = 'newer' WHERE id = 10}), 'put, put: the newer fences, and uses the script');
is(name(10), 'newer', 'put, put: it is there');
is($way->push_arrives('put, put'), 0, 'put, put: the older was fenced off');
is(name(10), 'newer', 'put, put: and does not win');
ok(!$way->is_direct($fast, q{UPDATE item SET name = 'crowd' WHERE id = 10}), 'for a while the key is pushed by script');
ok($way->is_direct($fast, q{UPDATE item SET name = 'alone' WHERE id = 11}), 'but not others');
$way->fill;
ok($way->is_direct($fast, q{UPDATE item SET name = 'alone' WHERE id = 10}), 'then it is not any more');

#
# The older ends soon: who has found it waits, and nobody is fenced off
#
my $holder = SlateSession->new($node);
$fast->query(q{SET slate_cache.pause_at = 'has_met'});
sub meet
{
    my ($older, $newer) = @_;
    $way->commit_slowly($older);
    $holder->query('SELECT pg_advisory_lock(7351, 8)');
    $fast->send($newer);
    SlateRedis::wait_until(
        sub { $watcher->query(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 8 AND NOT granted}) eq '1' },
        'it has met the older one');
    return $redis->calls('persist');
}
sub go_on { $holder->query('SELECT pg_advisory_unlock(7351, 8)'); $fast->finish; return; }

my $fences = meet(q{UPDATE item SET name = 'older' WHERE id = 7}, q{UPDATE item SET name = 'newer' WHERE id = 7});
is($way->push_arrives('put, put, in time'), 1, 'put, put, in time: the older is done');
is(name(7), 'older', 'put, put, in time: and is there');
go_on();
is(name(7), 'newer', 'put, put, in time: then the newer');
is($redis->calls('persist'), $fences, 'put, put, in time: without a fence');

$fences = meet(q{UPDATE note SET body = 'older' WHERE id = 5}, q{SELECT slate_cache_invalidate('shop:note:tag:*')});
is($way->push_arrives('put, pattern, in time'), 1, 'put, pattern, in time: the put is done');
go_on();
is($redis->all_keys('shop:note:tag:*'), '', 'put, pattern, in time: then the pattern');
is($redis->calls('persist'), $fences, 'put, pattern, in time: without a fence');

$slow->query('SET slate_cache.timeout = 1000');
$fences = meet(q{UPDATE item SET name = 'older' WHERE id = 8}, q{UPDATE item SET name = 'newer' WHERE id = 8});
$slow->finish;
go_on();
cmp_ok($redis->calls('persist'), '>', $fences, 'put, put, broken off: who has waited fences');
is(name(8), 'newer', 'put, put, broken off: the newer is there');
$proxy->release;
SlateJournal::wait_until_told($node);
like(name(8), qr/^(newer|)$/, 'put, put, broken off: what comes then is not done');
$slow->query('RESET slate_cache.timeout');
$fast->query('RESET slate_cache.pause_at');
$way->fill;

$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 12});
ok($way->is_direct($fast, q{UPDATE item SET name = 'other' WHERE id = 13}), 'another key: nobody is in the way');
is($way->push_arrives('another key'), 1, 'another key: not of each other');
is(name(12) . name(13), 'olderother', 'another key: both are there');

$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 14});
$fast->query('DELETE FROM item WHERE id = 14');
is($way->push_arrives('put, delete'), 0, 'put, delete: fenced off');
is($redis->cli('EXISTS', 'shop:item:14'), '0', 'put, delete: the row does not come back');

$way->commit_slowly(q{DELETE FROM item WHERE id = 15});
$fast->query(q{INSERT INTO item (id, name) VALUES (15, 'again')});
$way->push_arrives('delete, put');
like(name(15), qr/^(again|)$/, 'delete, put: a late DROP removes, which is never wrong');

$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 16});
$fast->query(q{SELECT slate_cache_invalidate('shop:item:*')});
$way->push_arrives('put, pattern');
is($redis->all_keys('shop:item:*'), '', 'put, pattern: nothing comes back');

$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 17});
$fast->query(q{SELECT slate_cache_invalidate('s*')});
$way->push_arrives('put, short pattern');
is($redis->all_keys('shop:*'), '', 'put, short pattern: nothing comes back');

$way->commit_slowly(q{UPDATE crowd SET name = 'older' WHERE id = 1});
$fast->query(q{TRUNCATE crowd});
$way->push_arrives('put, truncate');
is($redis->cli('EXISTS', 'shop:crowd:1'), '0', 'put, truncate: the row does not come back');
$fast->query(q{INSERT INTO crowd SELECT i, 'old' FROM generate_series(1, 2000) i});

$way->commit_slowly(q{UPDATE crowd SET name = 'older' WHERE id = 1});
$fast->query(q{UPDATE crowd SET name = 'newer'});
$way->push_arrives('put, two thousand puts');
is($redis->field('shop:crowd:1', 'name'), 'newer', 'put, two thousand puts: the older does not win');

# Who first wants a ring does without.
$fast->query(q{SET slate_cache.mode = async; UPDATE item SET name = 'ring' WHERE id = 18; RESET slate_cache.mode});
SlateNode::wait_for($node, q{SELECT ring_size > 0 FROM slate_cache.progress WHERE datname = 'postgres'});
# As many keys, and bytes, as go directly: by script there must be room for them, too.
$way->commit_slowly(q{UPDATE crowd SET name = repeat('older ', 330) WHERE id <= 128});
$fast->query(q{UPDATE crowd SET name = 'newer' WHERE id <= 3});
is($way->push_arrives('many keys'), 0, 'many keys: fenced off');
is($redis->field('shop:crowd:3', 'name'), 'newer', 'many keys: the older ones do not win');
is(length $redis->field('shop:crowd:128', 'name'), 1980, 'many keys: the others are there');

$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 18});
$fast->query(q{SET slate_cache.mode = async; UPDATE item SET name = 'newer' WHERE id = 18; RESET slate_cache.mode});
SlateRedis::wait_until(sub { name(18) eq 'newer' }, 'the worker pushes');
$way->push_arrives('put, async put');
is(name(18), 'newer', 'put, async put: the older does not win');

$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 19});
$fast->query(q{SET slate_cache.mode = strict; UPDATE item SET name = 'newer' WHERE id = 19; RESET slate_cache.mode});
is(name(19), 'newer', 'put, strict put: the newer is there');
$way->push_arrives('put, strict put');
is(name(19), 'newer', 'put, strict put: the older does not win');

# What a reader has loaded before does not win either.
$redis->cli('DEL', 'shop:item:20');
my $reader = SlateSession->new($node);
$reader->query(q{SELECT slate_cache_get('shop:item:21')});
$proxy->hold(qr/\r\nEVALSHA\r\n.*\r\nshop:item:20\r\n.*"old"/s);
$reader->send(q{SELECT slate_cache_get('shop:item:20')->>'name'});
$proxy->wait_until_held;
$proxy->pass;
ok($way->is_direct($fast, q{UPDATE item SET name = 'newer' WHERE id = 20}), 'a put while a reader fills');
$proxy->release;
is($reader->finish, 'old', 'the reader has the old row');
is(name(20), 'newer', 'and does not leave it there');

#
# The older comes when nobody waits for it any more
#
$slow->query('SET slate_cache.timeout = 1000');
$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 30});
$slow->finish;
is($slow->error, '', 'timed out: the commit does not fail');
SlateJournal::wait_until_told($node);
is($redis->cli('EXISTS', 'shop:item:30'), '0', 'timed out: the worker has had it forgotten');
$proxy->release;
is($redis->cli('EXISTS', 'shop:item:30'), '0', 'timed out: what comes then is not done');
$way->warm_up($slow);
ok($way->is_direct($slow, q{UPDATE item SET name = 'again' WHERE id = 30}), 'timed out: then all is as before');

$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 31});
$slow->finish;
SlateJournal::wait_until_told($node);
$way->warm_up($fast);
ok($way->is_direct($fast, q{UPDATE item SET name = 'newer' WHERE id = 31}), 'timed out: others push directly');
$proxy->release;
is(name(31), 'newer', 'timed out: what comes then does not win');
# So does the session's first look at what it is going to WATCH.
my $patient = SlateSession->new($node);
$patient->query('SET slate_cache.timeout = 1000');
$patient->query("UPDATE item SET name = name || '.' WHERE id = 33") foreach 1 .. 32;
$proxy->hold(qr/\r\nMULTI\r\n\*1\r\n\$4\r\nEXEC\r\n/);
$patient->query(q{UPDATE item SET name = 'watched' WHERE id = 33});
is($patient->error, '', 'WATCH is not answered: the commit does not fail');
cmp_ok($proxy->matches, '>', 0, 'WATCH is not answered: it was sent');
cmp_ok($patient->seconds, '<', 1.9, 'WATCH is not answered: no commit waits longer for it than for a push');
$proxy->pass;
$proxy->release;
SlateJournal::wait_until_told($node);
isnt(name(33), 'old' . '.' x 32, 'WATCH is not answered: the old value is gone');
# What a commit has waited for is not there for its push: here 1.7 s of its four
# for the epoch, which it asks for when that has not been heard of for 2 ms, and
# with the worker stopped nobody else asks.
SlateNode::stop_worker($node);
$patient->query(q{SET slate_cache.timeout = 4000; SET slate_cache.direct = off; UPDATE item SET name = 'patient' WHERE id = 35});
is(name(35), 'patient', 'slow answers: there is a connection');
my $in_doubt = $way->counter('pushes_delayed');
$proxy->hold(qr/EVALSHA/);
$redis->pause;
$watcher->query('SELECT pg_sleep(0.01)');
$patient->send(q{UPDATE item SET name = 'hurried' WHERE id = 35});
my $of_patient = 'FROM pg_stat_activity WHERE pid = ' . $patient->pid;
SlateRedis::wait_until(
    sub { $watcher->query("SELECT state = 'active' AND clock_timestamp() > query_start + '1.7 s'::interval $of_patient") eq 't' },
    'it waits for the epoch');
$redis->resume;
SlateRedis::wait_until(sub { $proxy->order('held') || $watcher->query("SELECT state $of_patient") eq 'idle' }, 'it pushes');
$watcher->query('SELECT pg_sleep(3)');
$proxy->release;
$patient->finish;
is($way->counter('pushes_delayed'), $in_doubt + 1, 'slow answers: an answer after 4.7 s is too late');
$proxy->pass;
SlateNode::continue_worker();
SlateJournal::wait_until_told($node);
isnt(name(35), 'patient', 'slow answers: the old value is gone');
$slow->query('RESET slate_cache.timeout');

#
# It takes too long from its version to its push
#
SlateNode::set($node, 'slate_cache.guard_life' => 10, 'synchronous_commit' => 'local', 'synchronous_standby_names' => 'nobody');
$way->warm_up($slow);
$slow->query('SET synchronous_commit = on');
$slow->send(q{UPDATE item SET name = 'late' WHERE id = 34});
SlateRedis::wait_until(
    sub {
        return $watcher->query('SELECT clock_timestamp() > query_start + $$5.5 s$$::interval AND wait_event = $$SyncRep$$'
              . ' FROM pg_stat_activity WHERE pid = ' . $slow->pid) eq 't';
    },
    'half of the life of a guard is over');
$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $slow->pid . ')');
$slow->finish;
is($redis->cli('EXISTS', 'shop:item:34'), '0', 'late: it is a DROP');
SlateNode::set($node, 'slate_cache.guard_life' => 60, 'synchronous_commit' => 'on', 'synchronous_standby_names' => '');
$slow->query('RESET synchronous_commit');

#
# Redis has lost its memory meanwhile
#
$way->commit_slowly(q{UPDATE item SET name = 'lost' WHERE id = 40});
$redis->cli('FLUSHALL');
is($way->push_arrives('FLUSHALL'), 0, 'FLUSHALL: it is not done');
SlateNode::wait_until_trusted($node);
SlateJournal::wait_until_told($node);
like(name(40), qr/^(lost|)$/, 'FLUSHALL: and nothing wrong is there');
$way->warm_up($slow);

#
# A prepared transaction
#
$fast->query(q{SET slate_cache.mode = strict; BEGIN; UPDATE item SET name = 'prepared' WHERE id = 41; PREPARE TRANSACTION 'p'; RESET slate_cache.mode});
ok(!$way->is_direct($slow, q{UPDATE item SET name = 'meanwhile' WHERE id = 42}), 'prepared: nobody pushes directly');
$fast->query(q{COMMIT PREPARED 'p'});
$way->warm_up($slow);
is($redis->cli('EXISTS', 'shop:item:41'), '0', 'until the worker has dropped its keys');

#
# Mode async: the worker pushes directly, too
#
$slow->query(q{SET slate_cache.mode = async});
my $tries = 0;
SlateRedis::wait_until(
    sub {
        my $before = $way->counter('pushes_direct');
        $slow->query("UPDATE item SET name = 'async " . ++$tries . "' WHERE id = 50");
        SlateRedis::wait_until(sub { name(50) eq "async $tries" }, 'the worker pushes');
        return $way->counter('pushes_direct') > $before;
    },
    'the worker pushes directly');
$proxy->hold($SlateDirect::PUSH);
$slow->query($_) foreach q{UPDATE item SET name = 'older' WHERE id = 51},
  q{BEGIN; DELETE FROM item WHERE id = 52; UPDATE note SET body = 'async' WHERE id = 2; COMMIT};
$proxy->wait_until_held;
$proxy->pass;
$fast->query(q{UPDATE item SET name = 'newer' WHERE id = 51});
is(name(51), 'newer', 'a session fences the worker off');
$proxy->release;
SlateNode::wait_for($node, q{SELECT ring_bytes = 0 FROM slate_cache.progress WHERE datname = 'postgres'});
is(name(51), 'newer', 'which does not win');
is($redis->cli('EXISTS', 'shop:item:52'), '0', 'and has its other keys told');
is($redis->field('shop:note:2', 'body'), 'async', 'too');
$slow->query(q{RESET slate_cache.mode});

#
# Redis refuses
#
# Who cannot fence does not push.
$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 63});
$redis->cli('ACL', 'SETUSER', 'default', '-pexpire');
my $refused = q{Redis has not let us fence off what others have sent};
$fast->query(q{SET slate_cache.mode = strict; UPDATE item SET name = 'strict' WHERE id = 63; RESET slate_cache.mode});
like($fast->error, qr/could not mark.*DETAIL:\s+\Q$refused\E/s, 'no fence: a strict transaction fails');
$fast->query(q{RESET slate_cache.mode});
my $log = SlateNode::log_size($node);
my $delayed = $way->counter('pushes_delayed');
$fast->query(q{UPDATE item SET name = 'newer' WHERE id = 63});
is($fast->error, '', 'no fence: another succeeds');
is($way->counter('pushes_delayed'), $delayed + 1, 'no fence: Redis is told later');
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
$way->push_arrives('no fence');
SlateJournal::wait_until_told($node);
like(name(63), qr/^(newer|)$/, 'no fence: and then all is right');
like(SlateNode::log_text($node), qr/\Q$refused\E/, 'no fence: the log says why');

$way->warm_up($slow);
my $sets = "UPDATE item SET name = name || '!' WHERE id = 60";
is($redis->cli('ACL', 'SETUSER', 'default', '-multi'), 'OK', 'a user loses a right');
ok(!$way->is_direct($slow, $sets), 'no MULTI: the script is used') foreach 1 .. 2;
is(name(60), 'old!!', 'no MULTI: all is there');
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
is($redis->cli('ACL', 'SETUSER', 'default', '-watch'), 'OK', 'another');
my $fresh = SlateSession->new($node);
ok(!$way->is_direct($fresh, $sets), 'no WATCH: the script is used') foreach 1 .. 40;
is(name(60), 'old' . '!' x 42, 'no WATCH: all is there');
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
is($way->counter('pushes_delayed') + $way->counter('pushes_lost'), $way->counter('pushes_delayed'), 'nothing was lost');

$fresh = SlateSession->new($node);
$way->warm_up($fresh);
$redis->config(maxmemory => 1);
$fresh->query(q{UPDATE item SET name = 'new' WHERE id = 61});
is($fresh->error, '', 'no memory: the commit succeeds');
is($redis->cli('EXISTS', 'shop:item:61'), '0', 'no memory: the old value is gone');
$redis->config(maxmemory => 0);
SlateJournal::wait_until_told($node);

$way->warm_up($fresh);
$redis->cli('REPLICAOF', '127.0.0.1', '1');
$fresh->query(q{UPDATE item SET name = 'new' WHERE id = 62});
is($fresh->error, '', 'read-only: the commit succeeds');
$redis->cli('REPLICAOF', 'NO', 'ONE');
SlateJournal::wait_until_told($node);
isnt(name(62), 'old', 'read-only: the old value is gone');

#
# Redis answers what it never should
#
my $all = "+OK\r\n" . "+QUEUED\r\n" x 2;
my %answers = (
    'an error for each' => "-MOVED 1 h:1\r\n" x 6,
    'EXEC refused' => $all . "-EXECABORT Transaction discarded because of previous errors.\r\n+OK\r\n\$-1\r\n",
    'EXEC not done' => $all . "*-1\r\n+OK\r\n\$-1\r\n",
    'an error within' => $all . "*2\r\n+OK\r\n-OOM no\r\n+OK\r\n\$-1\r\n",
    'fewer answers within' => $all . "*1\r\n+OK\r\n+OK\r\n\$-1\r\n",
    'numbers' => ":1\r\n" x 6);
foreach my $what (sort keys %answers)
{
    my $session = SlateSession->new($node);
    $way->warm_up($session);
    $proxy->answer($SlateDirect::PUSH => $answers{$what});
    $session->query("UPDATE item SET name = '$what' WHERE id = 70");
    is($session->error, '', "$what: the commit succeeds");
    $proxy->pass;
    is(name(70), $what, "$what: by script it is told");
    $session->quit;
}
foreach my $what ('+OK' . "\r\n" x 1, $all . "*2\r\n+OK\r\n+OK\r\n+OK\r\n\$3\r\nabc\r\n+OK\r\n", "HTTP/1.1 400\r\n\r\n")
{
    my $session = SlateSession->new($node);
    $way->warm_up($session);
    $session->query('SET slate_cache.timeout = 500');
    $proxy->answer($SlateDirect::PUSH => $what);
    $session->query("UPDATE item SET name = 'odd' WHERE id = 71");
    is($session->error, '', 'odd answers: the commit succeeds');
    $proxy->pass;
    SlateJournal::wait_until_told($node);
    is($redis->cli('EXISTS', 'shop:item:71'), '0', 'odd answers: the worker has it forgotten');
    $session->quit;
}

SlateNode::unharmed($node);
done_testing();
