# A backend is killed (kill -9) at each point of its way, and the server comes
# back from the crash by itself.  Keys of what it has committed, or had not yet
# committed, are right or absent, at no time wrong; and they alone are dropped:
# a thousand others stay.
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

# Waiting for Redis ends with the session, not in time.
my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url, testing => 1,
    conf => { 'slate_cache.timeout' => 60000, 'restart_after_crash' => 'on' });
SlateNode::wait_until_trusted($node);
my $others = 1000;
SlateNode::create_items($node, $others + 20);
$node->safe_psql('postgres', q{
    CREATE TABLE sale (customer int);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

# Keys whose transaction is still in the journal are in doubt after a crash:
# from here on, none is.
SlateJournal::rotate($node);

# How many of the others are there, with their value.
sub warm
{
    return $redis->cli('EVAL', q{
        local found = 0
        for id = 21, 20 + ARGV[1] do
          if redis.call('GET', 'shop:item:' .. id) == '{"id":' .. id .. ',"name":"old"}' then
            found = found + 1
          end
        end
        return found}, '0', $others);
}

sub end_backend
{
    my ($session, $what) = @_;
    my $log = SlateNode::log_size($node);
    kill 'KILL', $session->pid;
    SlateRedis::wait_until(
        sub { SlateNode::log_text($node, $log) =~ /database system is ready to accept connections/ },
        "$what: the server is up again");
    return;
}

sub wait_until_paused
{
    SlateNode::wait_for($node,
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", '1');
    return;
}

# A key may not be there; if it is, then with the name that the table has.
sub right
{
    my ($id) = @_;
    my $name = $node->safe_psql('postgres', "SELECT name FROM item WHERE id = $id");
    my $cached = $redis->field("shop:item:$id", 'name');
    return $cached eq '' || $cached eq $name;
}

sub committed
{
    my ($id, $what) = @_;
    is($node->safe_psql('postgres', "SELECT name FROM item WHERE id = $id"), $what, "$what: it is committed");
    SlateRedis::wait_until(sub { right($id) }, "$what: its key is right or absent");
    pass("$what: its key comes to be right or absent");
    SlateJournal::wait_until_told($node);
    ok(right($id), "$what: and stays so when the journal has been replayed");
    is($node->safe_psql('postgres', "SELECT slate_cache_get('shop:item:$id')->>'name'"), $what, "$what: get has it");
    is(warm(), $others, "$what: all other keys stay");
    return;
}

sub rolled_back
{
    my ($id, $what) = @_;
    is($node->safe_psql('postgres', "SELECT name FROM item WHERE id = $id"), 'old', "$what: it is not committed");
    SlateJournal::wait_until_told($node);
    is($redis->field("shop:item:$id", 'name'), 'old', "$what: its key stays");
    is(warm(), $others, "$what: and all others");
    return;
}

is(warm(), $others, 'a thousand keys are warm');
my $id = 0;

# In the middle of a transaction.
my $what = 'before the end';
my $session = SlateSession->new($node);
$session->query("BEGIN; UPDATE item SET name = '$what' WHERE id = " . ++$id);
end_backend($session, $what);
rolled_back($id, $what);

# Where src/pause.h can stop it.  At the points before the commit it must not
# have happened, at those after it, it must.
foreach my $point (
    [ before_commit => 1, \&rolled_back ],
    [ after_journal => 5, \&rolled_back ],
    [ before_publish => 2, \&committed ],
    [ before_ack => 6, \&committed ])
{
    my ($name, $lock, $check) = @$point;
    my $gate = SlateSession->new($node);
    $gate->query("SELECT pg_advisory_lock(7351, $lock)");
    $session = SlateSession->new($node);
    $session->query("SET slate_cache.pause_at = '$name'");
    $session->send("UPDATE item SET name = '$name' WHERE id = " . ++$id);
    wait_until_paused();
    is( $redis->field("shop:item:$id", 'name'), $name eq 'before_ack' ? $name : 'old',
        "$name: Redis knows what it may know");
    end_backend($session, $name);
    $check->($id, $name);
}

# Sent, and not arrived: it arrives when all is over.
$what = 'on the way';
$session = SlateSession->new($node);
$proxy->hold('shop:item:' . ++$id . "\r\n");
$session->send("UPDATE item SET name = '$what' WHERE id = $id");
$proxy->wait_until_held;
is($redis->field("shop:item:$id", 'name'), 'old', "$what: Redis does not know yet");
$proxy->pass;
end_backend($session, $what);
committed($id, $what);
$node->safe_psql('postgres', "UPDATE item SET name = 'later' WHERE id = $id");
$proxy->release;
ok(right($id), "$what: it comes too late");

# Arrived, and not answered: Redis hangs in between.  What a session asks before
# its commit is answered.
$what = 'before the reply';
my $gate = SlateSession->new($node);
$gate->query('SELECT pg_advisory_lock(7351, 2)');
$session = SlateSession->new($node);
$session->query("SET slate_cache.pause_at = 'before_publish'");
$session->send("UPDATE item SET name = '$what' WHERE id = " . ++$id);
wait_until_paused();
$redis->pause;
$proxy->hang_up("shop:item:$id\r\n", after => 5);
$gate->query('SELECT pg_advisory_unlock(7351, 2)');
SlateRedis::wait_until(sub { $proxy->matches == 1 }, 'the session has sent');
$proxy->pass;
end_backend($session, $what);
$redis->resume;
committed($id, $what);

# One transaction of many keys and a pattern, half of it rolled back.
$what = 'many keys';
$redis->cli('MSET', map { ("shop:search:$_:mine", '1') } 1 .. 3);
$gate = SlateSession->new($node);
$gate->query('SELECT pg_advisory_lock(7351, 2)');
$session = SlateSession->new($node);
$session->query("SET slate_cache.pause_at = 'before_publish'");
$session->send(qq{BEGIN;
    UPDATE item SET name = '$what' WHERE id BETWEEN 11 AND 15;
    INSERT INTO sale VALUES (1);
    SAVEPOINT a;
    UPDATE item SET name = 'rolled back' WHERE id BETWEEN 16 AND 19;
    INSERT INTO sale VALUES (2);
    ROLLBACK TO a;
    COMMIT});
wait_until_paused();
end_backend($session, $what);
SlateRedis::wait_until(sub { $redis->cli('EXISTS', 'shop:search:1:mine') eq '0' }, 'the pattern is dropped');
committed($_, $what) foreach 11 .. 15;
is(join(' ', map { $redis->field("shop:item:$_", 'name') } 16 .. 19), 'old old old old',
    "$what: what was rolled back stays");
is($redis->cli('EXISTS', 'shop:search:2:mine', 'shop:search:3:mine'), '2', "$what: so do other patterns' keys");

is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started,
    'the postmaster has lived on');
is($node->safe_psql('postgres', 'SELECT pushes_lost, emptied FROM slate_cache.stats'), '0|0',
    'nothing counts as lost, and the namespace was not emptied');
my @deaths = SlateNode::messages($node, qr/was terminated by signal|PANIC|TRAP/);
is(scalar @deaths, 8, 'nobody has died');
is(scalar(grep { !/signal 9/ } @deaths), 0, 'but by kill -9');
done_testing();
