# A database's worker when something fails: its patterns wait until they can be
# dropped, and nobody waits for the worker.
use strict;
use warnings;
use Fcntl;
use IO::Select;
use IO::Socket::UNIX;
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
my $pid;
my @stopped;

# A pass takes longer than a commit should.
$redis->cli('EVAL', "for i = 1, 400000 do redis.call('SET', 'filler:' .. i, 'x') end", '0');

END { kill 'CONT', @stopped }

# How often Redis has refused to run a script.
sub refusals
{
    return $redis->cli('INFO', 'commandstats') =~ /cmdstat_evalsha:.*rejected_calls=(\d+)/ ? $1 : 0;
}

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

sub exists_key { return $redis->cli('EXISTS', @_) }

sub health { return $session->query(qq{SELECT ok FROM slate_cache.health WHERE "check" = '$_[0]'}) }

sub stop_process
{
    my ($process) = @_;
    push @stopped, $process;
    kill 'STOP', $process;
    SlateRedis::wait_until(sub { slurp_file("/proc/$process/stat") =~ /\) T / }, 'it has stopped');
    return;
}

sub continue_processes
{
    kill 'CONT', @stopped;
    @stopped = ();
    return;
}

# Leaves the worker stopped with a pattern that waits.
sub leave_work
{
    my ($customer) = @_;
    SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
    wait_for_worker($idle, 't');
    $pid = worker('pid');
    stop_process($pid);
    $redis->cli('MSET', "shop:search:$customer:mine", '1', 'shop:search:0:mine', '1');
    $session->query("INSERT INTO sale VALUES ($customer)");
    is(exists_key("shop:search:$customer:mine"), '1', 'a pattern waits');
    return;
}

sub done
{
    my ($customer, $what, @others) = @_;
    SlateRedis::wait_until(sub { exists_key("shop:search:$customer:mine") eq '0' }, 'the key has gone');
    pass("$what: the worker drops what waited");
    SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
    is(exists_key('filler:1', @others), 1 + @others, "$what: and nothing else");
    is($session->query('SELECT pushes_lost, sweeps_unfinished FROM slate_cache.stats'), '0|0',
        "$what: nothing counts as lost");
    return;
}

# The first pass tells the commits that Redis is large: they leave all to it.
$redis->cli('SET', 'shop:search:1:mine', '1');
$session->query('INSERT INTO sale VALUES (1)');

# It is ended while a pattern waits, and none comes as long as the launcher does
# not send one.
leave_work(1);
my $launcher = $node->safe_psql('postgres',
    q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache launcher'});
stop_process($launcher);
kill 'TERM', $pid;
kill 'CONT', $pid;
wait_for_worker('count(*)', '0');
is(exists_key('shop:search:1:mine'), '1', 'SIGTERM: the worker ends before it has begun');
$redis->cli('SET', 'shop:search:2:mine', '1');
$session->query('INSERT INTO sale VALUES (2)');
is(exists_key('shop:search:2:mine'), '0', 'without a worker, a commit looks for itself');
is(health('worker'), 'f', 'and health says so');
continue_processes();
done(1, 'SIGTERM', 'shop:search:0:mine');
is(health('worker'), 't', 'it is there again');

# Redis goes, and comes back with its keys: what rules cover is not trusted.
leave_work(1);
is($redis->cli('SAVE'), 'OK', 'Redis saves its keys');
$redis->stop;
unlink $redis->socket;
my $listener = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => $redis->socket, Listen => 64)
  or die "socket: $!";
continue_processes();
my $tries = 0;
my $end = time + 2;
while ((my $left = $end - time) > 0)
{
    next unless IO::Select->new($listener)->can_read($left);
    close $listener->accept;
    $tries++;
}
cmp_ok($tries, '>', 1, 'without Redis the worker tries');
cmp_ok($tries, '<', 40, 'and takes its time');
close $listener;
unlink $redis->socket;
$redis->start;
like($redis->log, qr/keys loaded: \d{6}/, 'Redis is back, with its keys');
done(1, 'Redis stopped');
is(exists_key('shop:search:0:mine'), '0', 'Redis stopped: what was of an earlier life has gone');

# Redis refuses to drop.
leave_work(2);
my $refused = refusals();
is($redis->cli('ACL', 'SETUSER', 'default', '-evalsha'), 'OK', 'a user loses a right');
continue_processes();
SlateRedis::wait_until(sub { refusals() > $refused }, 'the worker was refused');
is(exists_key('shop:search:2:mine'), '1', 'the worker was refused');
is($redis->cli('ACL', 'SETUSER', 'default', '+@all'), 'OK', 'the user gets it back');
done(2, 'NOPERM', 'shop:search:0:mine');

# A pass under way with a Redis that hangs.
leave_work(3);
$redis->pause;
my $resumed = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
continue_processes();
wait_for_worker("state = 'active' AND query_start > '$resumed'", 't');
pass('pg_stat_activity shows since when the worker is busy');
my $started = time;
$node->safe_psql('postgres', 'CREATE DATABASE another');
$node->safe_psql('postgres', 'DROP DATABASE another');
cmp_ok(time - $started, '<', 20, 'a pass hinders neither CREATE nor DROP DATABASE');
is(worker('state'), 'active', 'and is still under way');
$session->quit;
$started = time;
$node->stop('fast');
cmp_ok(time - $started, '<', 20, 'nor a shutdown');
$redis->resume;

# The journal has it.
$node->start;
$session = SlateSession->new($node);
done(3, 'a shutdown', 'shop:search:0:mine');

# SIGTERM while it reads the settings again, from a pipe that is not ready.
wait_for_worker($idle, 't');
$pid = worker('pid');
my $fifo = $node->data_dir . '/more.conf';
POSIX::mkfifo($fifo, 0600) or die "mkfifo: $!";
$node->append_conf('postgresql.conf', "include_if_exists 'more.conf'");
kill 'HUP', $pid;
my $writer;
SlateRedis::wait_until(sub { sysopen $writer, $fifo, O_WRONLY | O_NONBLOCK },
    'the worker reads its settings');
kill 'TERM', $pid;
my $ended = time;
close $writer;
SlateRedis::wait_until(sub { worker('pid') ne $pid }, 'the worker has ended');
cmp_ok(time - $ended, '<', 5, 'SIGTERM in a reload is not forgotten');
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
