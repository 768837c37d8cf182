# Redis hangs (SIGSTOP): a commit waits for slate_cache.timeout and no longer,
# whatever signals it gets; those that follow do not wait one by one; and none
# of them fails, not even with a shorter statement_timeout.  When it runs on, the
# old copy goes.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

# Longer than what a busy machine may keep a session from committing before the
# worker has found it out.
my $timeout = 2000;
my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => $timeout, 'slate_cache.connect_timeout' => $timeout });
SlateNode::create_items($node, 3);
my $session = SlateSession->new($node);
my $other = SlateSession->new($node);

# Both are connected: an update that changes nothing would not do.
$_->query("UPDATE item SET name = name || '.' WHERE id = 1") foreach $other, $session;

# What a busy machine may add to any wait.
my $slack = 5;

# Before the commit Redis is asked whether it is still the one that it was, for a
# quarter of the time; who gets no answer does not ask again.
$node->safe_psql('postgres', 'SELECT slate_cache_stats_reset()');
is($redis->field('shop:item:1', 'name'), 'old..', 'there is a copy');
$redis->pause;
$session->query("UPDATE item SET name = 'hang' WHERE id = 1");
is($session->error, '', 'Redis hangs: a commit succeeds');
cmp_ok($session->seconds, '>=', $timeout / 1000 * 0.2, 'after waiting for an answer');
cmp_ok($session->seconds, '<', $timeout / 1000 + $slack, 'and no longer');

my $commits = 40;
my $started = time;
my $errors = '';
foreach my $i (1 .. $commits)
{
    my $writer = $i % 2 ? $session : $other;
    $writer->query("UPDATE item SET name = 'hang $i' WHERE id = 1");
    $errors .= $writer->error;
}
is($errors, '', 'so do those that follow');
cmp_ok(time - $started, '<', $commits * $timeout / 1000 / 4, 'without waiting one by one');
is($node->safe_psql('postgres', 'SELECT pushes_delayed, pushes_lost FROM slate_cache.stats'),
    ($commits + 1) . '|0', 'all are counted as delayed');
is($session->query("SELECT slate_cache_get('shop:item:1')->>'name'"), "hang $commits",
    'get loads from the table');

# The worker probes, and replays.
$redis->resume;
SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
is($redis->cli('EXISTS', 'shop:item:1'), '0', 'Redis runs on: the journal empties, and the old copy goes');
$session->query("UPDATE item SET name = 'runs on' WHERE id = 1");
is($redis->field('shop:item:1', 'name'), 'runs on', 'changes arrive again');

# An open connection that hangs in the push itself, and signals meanwhile.  The
# first deadline counts.
my $proxy = SlateProxy->new($redis);
$session->query("SET slate_cache.url = '" . $proxy->url . "'");
$session->query("UPDATE item SET name = 'by the proxy' WHERE id = 1");
is($redis->field('shop:item:1', 'name'), 'by the proxy', 'another way to Redis');
$proxy->hold(qr/\r\n(?:EVALSHA|MULTI)\r\n.*\r\nshop:/s);
$session->send("UPDATE item SET name = 'signals' WHERE id = 1");
my $pelter = fork() // die "fork: $!";
if ($pelter == 0)
{
    my $end = time + 30;
    while (time < $end) { kill 'USR1', $session->pid; sleep 0.02; }
    POSIX::_exit(0);
}
$session->finish;
is($session->error, '', 'signals all the time: a commit succeeds');
is($proxy->matches, '1', 'after its push was sent');
cmp_ok($session->seconds, '>=', $timeout / 1000 * 0.9, 'after waiting for the timeout');
cmp_ok($session->seconds, '<', $timeout / 1000 + $slack, 'and no longer');
kill 'KILL', $pelter;
waitpid $pelter, 0;

# Another database is another server to the breaker, and needs a connection: so
# this one waits before the commit.
$redis->pause;
$session->query("SET slate_cache.url = '" . $redis->url(db => 1) . "'");
$session->query("SET statement_timeout = " . $timeout / 4);
$session->query("UPDATE item SET name = 'statement_timeout' WHERE id = 1");
is($session->error, '', 'a statement_timeout below slate_cache.timeout: a commit succeeds');
is($node->safe_psql('postgres', 'SELECT name FROM item WHERE id = 1'), 'statement_timeout',
    'and is there');
$redis->resume;

# The worker's Redis is another one: nobody could replay these two.
is($node->safe_psql('postgres', 'SELECT pushes_delayed, pushes_lost FROM slate_cache.stats'),
    ($commits + 1) . '|2', 'pushes of a session with a url of its own are lost, and counted');

SlateNode::unharmed($node);
done_testing();
