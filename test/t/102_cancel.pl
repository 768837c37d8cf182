# Cancelling a read that waits for Redis works, by statement_timeout and by
# pg_cancel_backend(); and the answer that was given up is never taken for the
# answer to the next question.  A push is not cancelled: it is over in time by
# itself, and its transaction is committed.  What is asked before a commit is not
# cancelled either; then it is not too late for the transaction to be.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

# Longer than the test: nothing ends but by being cancelled.
my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 60000, 'slate_cache.connect_timeout' => 60000 });
SlateNode::create_items($node, 4);
$redis->cli('SET', "shop:free:$_", qq("free $_")) foreach 1 .. 4;

sub waits_for_redis
{
    my ($session) = @_;
    SlateNode::wait_for($node,
        'SELECT wait_event_type FROM pg_stat_activity WHERE pid = ' . $session->pid, 'Extension');
    return;
}

# The connection is open when Redis stops; then it must be made; each way.
foreach my $open (1, 0)
{
    my $how = $open ? 'an open connection' : 'a new connection';
    foreach my $way ('statement_timeout', 'pg_cancel_backend')
    {
        my $session = SlateSession->new($node);
        $session->query("SELECT slate_cache_get('shop:item:4')") if $open;
        $redis->pause;
        if ($way eq 'statement_timeout')
        {
            $session->query(q{SET statement_timeout = 200; SELECT slate_cache_get('shop:free:1')});
        }
        else
        {
            $session->send("SELECT slate_cache_get('shop:free:1')");
            waits_for_redis($session);
            $node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $session->pid . ')');
            $session->finish;
        }
        like($session->error, qr/ERROR:  canceling statement due to/, "$how, $way: the get ends");
        cmp_ok($session->seconds, '<', 30, 'long before slate_cache.timeout');
        $session->query('RESET statement_timeout');

        # Asked before Redis has answered the first question, to nobody.
        $session->send("SELECT slate_cache_get('shop:free:2')");
        waits_for_redis($session);
        $redis->resume;
        is($session->finish, '"free 2"',
            'the next get has its own answer');
        is($session->query("SELECT string_agg(value #>> '{}', ',') FROM slate_cache_mget(ARRAY['shop:free:3', 'shop:free:4'])"),
            'free 3,free 4', 'so has mget');
        $session->query("UPDATE item SET name = '$how $way' WHERE id = 1");
        is($redis->field('shop:item:1', 'name'), "$how $way", 'and a change is delivered');
        is($session->query("SELECT slate_cache_get('shop:item:2')->>'name'"), 'old',
            'and a row is found');
    }
}

# In the transaction: the error is the statement's, the rest goes on.
my $session = SlateSession->new($node);
$session->query("SELECT slate_cache_get('shop:free:1')");
$redis->pause;
$session->query(q{
    BEGIN;
    SAVEPOINT s;
    SET LOCAL statement_timeout = 200;
    SELECT slate_cache_get('shop:free:1');
    ROLLBACK TO s;
    UPDATE item SET name = 'after the savepoint' WHERE id = 3});
like($session->error, qr/canceling statement/, 'in a savepoint: the get ends');
$redis->resume;
$session->query('COMMIT');
is($redis->field('shop:item:3', 'name'), 'after the savepoint', 'the transaction delivers the rest');

# Before the commit.
$redis->pause;
$session->send("UPDATE item SET name = 'cancelled' WHERE id = 3");
waits_for_redis($session);
$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $session->pid . ')');
waits_for_redis($session);
$redis->resume;
$session->finish;
like($session->error, qr/canceling statement/, 'before the commit: the transaction ends');
is( $node->safe_psql('postgres', 'SELECT name FROM item WHERE id = 3'),
    'after the savepoint', 'the row is as it was');
is($redis->field('shop:item:3', 'name'), 'after the savepoint', 'and so is its copy');
is($session->query('SELECT count(*) FROM slate_cache.journal'), '0', 'and the journal is empty');

# A push that waits: the commit has happened, so there is nothing to cancel.
my $proxy = SlateProxy->new($redis);
$session->query("SET slate_cache.url = '" . $proxy->url . "'");
$session->query("SELECT slate_cache_get('shop:free:1')");
foreach my $way ('pg_cancel_backend', 'pg_terminate_backend')
{
    $proxy->hold(qr/\r\n(?:EVALSHA|MULTI)\r\n.*\r\nshop:/s);
    $session->send("UPDATE item SET name = '$way' WHERE id = 1");
    $proxy->wait_until_held;
    waits_for_redis($session);
    is($node->safe_psql('postgres', 'SELECT name FROM item WHERE id = 1'), $way,
        "$way during a push: the commit is visible");
    $node->safe_psql('postgres', "SELECT $way(" . $session->pid . ')');
    $proxy->release;
    SlateRedis::wait_until(sub { $redis->field('shop:item:1', 'name') eq $way }, 'the push arrives');
    if ($way eq 'pg_cancel_backend')
    {
        $session->finish;
        is($session->error, '', 'it is delivered, and COMMIT says nothing');
        is($session->query("SELECT slate_cache_get('shop:free:2')"), '"free 2"', 'the session goes on');
    }
    else
    {
        eval { $session->finish; };
        SlateNode::wait_for($node,
            'SELECT count(*) FROM pg_stat_activity WHERE pid = ' . $session->pid, '0');
        pass('it is delivered, and the session ends');
    }
}

is($node->safe_psql('postgres', 'SELECT pushes_delayed + pushes_lost FROM slate_cache.stats'),
    '0', 'each push was delivered');

SlateNode::unharmed($node);
done_testing();
