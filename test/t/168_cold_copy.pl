# A copy of the data directory is put back: the same cluster, the same timeline,
# and commits that Redis knows are gone.  A mere restart, on the other hand, is
# no reason to empty anything.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateCheck;
use SlateHistory;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

use constant ROWS => 100;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.guard_life' => 10, 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::create_items($node, ROWS);
SlateHistory::set_again($node, $redis, 'at first');
$redis->cli('SET', 'other:app', 'theirs');
my @keys = map { "shop:item:$_" } 1 .. ROWS;
my $session = SlateSession->new($node);
my $count = 0;

sub worker
{
    return $node->safe_psql('postgres',
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache worker' AND datname = 'postgres'");
}

# Restarts keep what is cached, but for what has been changed a moment ago: that
# is still in the journal.
SlateHistory::forget_journal($node);
foreach my $mode (qw(fast immediate))
{
    is(SlateHistory::wrong_gets($session), '', "$mode: all rows are read");
    is(SlateCheck::present($redis, @keys), ROWS, "$mode: and cached");
    $session->quit;
    $node->stop($mode);
    $node->start;
    $session = SlateSession->new($node);
    SlateHistory::set_again($node, $redis, "restart ($mode)");
    is(SlateCheck::present($redis, @keys), ROWS, "restart ($mode): what was cached is cached");
    is(SlateHistory::wrong($node, $redis), '', "restart ($mode): no key is wrong");
}

# What happens after the copy, and is pushed, and then lost, so many segments of
# WAL later.  Each life has rows of its own: versions of a former one stand until
# the end of a guard's life.
sub lose
{
    my ($wal) = @_;
    $count++;
    $session = SlateSession->new($node);
    SlateHistory::set_again($node, $redis, "life $count", row => 80 + $count);
    $session->query('SELECT txid_current(); SELECT pg_switch_wal()') foreach 1 .. $wal;
    kill 'STOP', my $worker = worker();
    my ($from, $to) = (10 * $count, 10 * $count + 9);
    $session->query("UPDATE item SET name = 'lost' WHERE id BETWEEN $from AND $to");
    $session->query("UPDATE item SET name = 'lost' WHERE id = 1") if $wal;
    $session->query('DELETE FROM item WHERE id = ' . (60 + $count));
    $session->query('INSERT INTO item VALUES (' . (ROWS + $count) . ", 'lost')");
    is($redis->field("shop:item:$from", 'name'), 'lost', "life $count: Redis has what will be lost");
    is($redis->field('shop:item:' . (ROWS + $count), 'name'), 'lost', "life $count: a row, too");
    $node->kill9;
    kill 'KILL', $worker;
    $session->quit;
    return;
}

sub check
{
    my ($what, $row) = @_;
    $session = SlateSession->new($node);
    is($session->query("SELECT count(*) FROM item WHERE name = 'lost'"), '0', "$what: the copy is there");
    is(SlateHistory::wrong_gets($session), '', "$what: gets are right at once");
    SlateHistory::become_right($node, $redis, $what);
    SlateHistory::set_again($node, $redis, $what, row => $row // 90 + $count);
    is(SlateHistory::wrong_gets($session), '', "$what: gets are right");
    is(SlateHistory::wrong($node, $redis), '', "$what: what they have filled is right");
    is($redis->cli('GET', 'other:app'), 'theirs', "$what: keys of others are left alone");
    $session->quit;
    return;
}

# Of a server that was stopped.  All is lost within the second, before anybody
# has noted how far it went.
$session->query("UPDATE item SET name = 'kept'");
$session->quit;
$node->stop;
$node->backup_fs_cold('stopped');
$node->start;
lose(0);
SlateHistory::put_back($node, 'stopped');
$node->start;
check('stopped');

# The same copy once more: it begins where the last one began.  What was lost is
# far ahead this time; that must not keep a row that is changed again and again
# from being written through.
lose(3);
SlateHistory::put_back($node, 'stopped');
$node->start;
check('stopped, again', 1);

# Of a server that had crashed.
$node->stop('immediate');
$node->backup_fs_cold('crashed');
$node->start;
lose(0);
SlateHistory::put_back($node, 'crashed');
$node->start;
check('crashed');

# Redis is away when the copy is put back; and then the server works, and is
# restarted, until it is farther than it ever was.
lose(0);
SlateHistory::put_back($node, 'stopped');
rename $redis->socket, $redis->socket . '.away' or die "rename: $!";
$node->start;
$node->safe_psql('postgres', 'CREATE TABLE filler AS SELECT repeat(i::text, 100) FROM generate_series(1, 20000) i');
$node->restart;
$node->restart;
rename $redis->socket . '.away', $redis->socket or die "rename: $!";
check('Redis was away');

# Of a server that ran, as a snapshot of its disk would be.
$session = SlateSession->new($node);
SlateHistory::set_again($node, $redis, 'before the snapshot', row => 99);
my @processes = grep { (readlink("/proc/$_/cwd") // '') eq $node->data_dir } map { /(\d+)/ } glob '/proc/[0-9]*';
cmp_ok(scalar @processes, '>', 5, 'the processes of the server are known');
kill 'STOP', @processes;
$node->backup_fs_cold('running');
kill 'CONT', @processes;
$session->quit;

# This time the worker notes how far it went.
$session = SlateSession->new($node);
$session->query("UPDATE item SET name = 'lost' WHERE id BETWEEN 2 AND 60");
my $position = $session->query(q{SELECT lpad((pg_current_wal_insert_lsn() - '0/0')::text, 20, '0')});
SlateRedis::wait_until(
    sub { substr($redis->cli('GET', $redis->all_keys('slate_cache:wal:*')), 10) ge $position },
    'the worker has noted how far it went');
is($redis->field('shop:item:2', 'name'), 'lost', 'running: Redis has what will be lost');
$session->quit;
$node->stop('immediate');
SlateHistory::put_back($node, 'running');
$node->start;
check('running');

SlateNode::unharmed($node, 'no process has died but those that were killed');
done_testing();
