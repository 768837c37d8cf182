# The background worker when something fails: its patterns wait until they can
# be dropped, and nobody waits for the worker.
use strict;
use warnings;
use Fcntl;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(time);

# Whoever waits for a Redis that hangs waits for a minute.
my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 60000, 'slate_cache.connect_timeout' => 60000 });
$node->safe_psql('postgres', q{
    CREATE TABLE sale (customer int);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
my $session = SlateSession->new($node);
my $idle = q{wait_event_type = 'Extension' AND state IS DISTINCT FROM 'active'};
my ($pid, $stopped);

# A pass takes longer than a commit should.
$redis->cli('EVAL', "for i = 1, 400000 do redis.call('SET', 'filler:' .. i, 'x') end", '0');

END { kill 'CONT', $pid if $stopped }

# What pg_stat_activity says of the worker.
sub worker
{
    my ($what) = @_;
    return $node->safe_psql('postgres',
        "SELECT $what FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'");
}

sub wait_for_worker
{
    my ($what, $expected) = @_;
    SlateRedis::wait_until(sub { worker($what) eq $expected }, "the worker's $what is $expected");
    return;
}

sub farewells { return scalar SlateNode::messages($node, qr/ends before it has looked for all keys/) }

sub exists_key { return $redis->cli('EXISTS', @_) }

# Leaves the worker stopped with a pattern that waits.
sub leave_work
{
    my ($customer) = @_;
    wait_for_worker($idle, 't');
    $pid = worker('pid');
    $stopped = kill 'STOP', $pid;
    SlateRedis::wait_until(sub { slurp_file("/proc/$pid/stat") =~ /\) T / }, 'the worker has stopped');
    $redis->cli('MSET', "shop:search:$customer:mine", '1', 'shop:search:0:mine', '1');
    $session->query("INSERT INTO sale VALUES ($customer)");
    is(exists_key("shop:search:$customer:mine"), '1', 'a pattern waits');
    return;
}

sub continue_worker
{
    $stopped = 0;
    kill 'CONT', $pid;
    return;
}

# Tries are told apart by when they ended.
sub wait_for_try
{
    my ($before) = @_;
    SlateRedis::wait_until(
        sub { worker("state_change > '$before' AND $idle") eq 't' },
        'the worker has tried');
    return worker('state_change');
}

sub done
{
    my ($customer, $what) = @_;
    SlateRedis::wait_until(sub { exists_key("shop:search:$customer:mine") eq '0' }, 'the key has gone');
    pass("$what: the worker drops what waited");
    is(exists_key('shop:search:0:mine', 'filler:1'), '2', "$what: and nothing else");
    is($session->query('SELECT pushes_lost, sweeps_unfinished FROM slate_cache.stats'), '0|0',
        "$what: nothing counts as lost");
    return;
}

# The first pass tells the commits that Redis is large: they leave all to it.
$redis->cli('SET', 'shop:search:1:mine', '1');
$session->query('INSERT INTO sale VALUES (1)');
wait_for_worker('state', 'idle');

# It is ended while a pattern waits.
leave_work(1);
kill 'TERM', $pid;
continue_worker();
wait_for_worker('count(*)', '0');
is(exists_key('shop:search:1:mine'), '1', 'SIGTERM: the worker ends before it has begun');
is(farewells(), 1, 'and says in the log that something waits');
$redis->cli('SET', 'shop:search:2:mine', '1');
$session->query('INSERT INTO sale VALUES (2)');
is(exists_key('shop:search:2:mine'), '0', 'without a worker, a commit looks for itself');
is($session->query(q{SELECT ok FROM slate_cache.health WHERE "check" = 'worker'}), 'f', 'and health says so');
done(1, 'SIGTERM');
is($session->query(q{SELECT ok FROM slate_cache.health WHERE "check" = 'worker'}), 't', 'it is there again');

# Redis goes, and comes back with its keys.
leave_work(1);
is($redis->cli('SAVE'), 'OK', 'Redis saves its keys');
my $first = worker('coalesce(state_change, backend_start)');
$redis->stop;
continue_worker();
$first = wait_for_try($first);
my $second = wait_for_try($first);
cmp_ok($node->safe_psql('postgres', "SELECT extract(epoch FROM '$second'::timestamptz - '$first'::timestamptz)"),
    '>=', 0.4, 'without Redis the worker takes its time');
$redis->start;
is(exists_key('shop:search:1:mine'), '1', 'Redis is back');
done(1, 'Redis stopped');

# Redis refuses to drop.
leave_work(2);
$first = worker('state_change');
is($redis->cli('ACL', 'SETUSER', 'default', '-evalsha'), 'OK', 'a user loses a right');
continue_worker();
wait_for_try($first);
is(exists_key('shop:search:2:mine'), '1', 'the worker was refused');
is($redis->cli('ACL', 'SETUSER', 'default', '+@all'), 'OK', 'the user gets it back');
done(2, 'NOPERM');

# A pass under way with a Redis that hangs.
leave_work(3);
$redis->pause;
my $resumed = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
continue_worker();
wait_for_worker('state', 'active');
is(worker("query_start > '$resumed'"), 't', 'pg_stat_activity shows since when the worker sweeps');
my $started = time;
$node->safe_psql('postgres', 'CREATE DATABASE another');
$node->safe_psql('postgres', 'DROP DATABASE another');
cmp_ok(time - $started, '<', 20, 'a pass hinders neither CREATE nor DROP DATABASE');
is(worker('state'), 'active', 'and is still under way');
$session->quit;
$started = time;
$node->stop('fast');
cmp_ok(time - $started, '<', 20, 'nor a shutdown');
is(farewells(), 2, 'whose log says what it leaves behind');
$redis->resume;

# SIGTERM while it reads the settings again, from a pipe that is not ready.
$node->start;
$pid = worker('pid');
my $fifo = $node->data_dir . '/more.conf';
POSIX::mkfifo($fifo, 0600) or die "mkfifo: $!";
$node->append_conf('postgresql.conf', "include_if_exists 'more.conf'");
wait_for_worker($idle, 't');
kill 'HUP', $pid;
my $writer;
SlateRedis::wait_until(sub { sysopen $writer, $fifo, O_WRONLY | O_NONBLOCK },
    'the worker reads its settings');
kill 'TERM', $pid;
my $ended = time;
close $writer;
wait_for_worker('count(*)', '0');
cmp_ok(time - $ended, '<', 5, 'SIGTERM in a reload is not forgotten');
is(farewells(), 2, 'there is nothing to say where nothing waits');
unlink $fifo;
$node->stop('immediate');

# Without preload there is none.  A commit that has no time left says so.
SlateNode::unharmed($node);
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->start;
$session = SlateSession->new($node);
$session->query('INSERT INTO sale VALUES (3)');
is(exists_key('shop:search:3:mine'), '0', 'without preload a commit looks for itself');
is($session->query('SELECT sweeps, sweeps_unfinished, pushes_lost FROM slate_cache.stats'), '1|0|0', 'to the end');
is(worker('count(*)'), '0', 'there is no worker');

# 50 ms of it are kept for the last step; a walk takes longer than the rest.
$session->query('SET slate_cache.timeout = 80');
SlateRedis::wait_until(
    sub {
        $redis->cli('SET', 'shop:search:4:mine', '1');
        $session->query('INSERT INTO sale VALUES (4)');
        return $session->query('SELECT sweeps_unfinished > 0 FROM slate_cache.stats') eq 't';
    },
    'a walk has run out of time');
pass('a walk that runs out of time counts as unfinished');
is($session->query('SELECT pushes_lost >= sweeps_unfinished FROM slate_cache.stats'), 't', 'and its pattern as lost');
is($session->query(q{SELECT ok FROM slate_cache.health WHERE "check" = 'pushes'}), 'f', 'which health knows');

SlateNode::unharmed($node);
done_testing();
