# Commits that meet tell Redis together: one session sends what others have left.
# Nobody waits for a leader that is slow, and nothing is lost when one fails.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateCheck;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(time);

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, testing => 1,
    conf => { 'slate_cache.timeout' => 60000, 'slate_cache.connect_timeout' => 60000,
        'slate_cache.pause_patience' => 60000 });
SlateNode::create_items($node, 200);
my $gate = SlateSession->new($node);
my $leader = SlateSession->new($node);
my @others = map { SlateSession->new($node) } 1 .. 8;
$_->query("SELECT slate_cache_get('shop:item:1')") foreach $leader, @others;

sub change { return "UPDATE item SET name = '$_[1]' WHERE id = $_[0]" }
sub name { return $redis->field("shop:item:$_[0]", 'name') }
sub stat_of { return $node->safe_psql('postgres', "SELECT $_[0] FROM slate_cache.stats") }

sub wrong
{
    my %found = SlateCheck::compare($node, $redis, 'item', 'shop:item:{id}');
    return $found{wrong} ? "$found{wrong} wrong: $found{examples}" : '';
}

# The leader has committed, leads, and has taken nobody yet; (7351, 7) is the
# lock of leading, see src/pause.h.
sub lead
{
    my ($sql) = @_;
    $gate->query('SELECT pg_advisory_lock(7351, 7)');
    $leader->query("SET slate_cache.pause_at = 'leading'");
    $leader->send($sql);
    SlateNode::wait_for($node, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", '1');
    return;
}

sub go_on
{
    $gate->query('SELECT pg_advisory_unlock(7351, 7)');
    $leader->finish;
    is($leader->error, '', 'the leader has committed');
    return;
}

# Others commit, and wait for the leader.
sub follow
{
    my (@sql) = @_;
    my $waiting = q{SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Extension' AND backend_type = 'client backend'};
    foreach my $i (0 .. $#sql)
    {
        $others[$i]->send($sql[$i]);
        SlateNode::wait_for($node, $waiting, $i + 1);
    }
    return;
}

# All of them in one call; of two that have changed the same row the later counts.
my $sent = $redis->calls('evalsha');
lead(change(1, 'leads'));
follow((map { change(1 + $_, 'follows') } 1 .. 6), change(20, 'earlier'), change(20, 'later'));
is(name(2), 'old', 'nobody has told Redis yet');
my $start = time;
go_on();
$_->finish foreach @others;
is(join(' ', map { name($_) } 1 .. 7, 20), 'leads' . ' follows' x 6 . ' later', 'all are told when they return');

# The second one of row 20 has a call of its own; and the worker ticks.
cmp_ok($redis->calls('evalsha') - $sent - int(time - $start), '<', 8, 'in fewer calls than they are');
is(stat_of('pushes_delayed'), 0, 'none was delayed');

# Redis refuses what they send: each of them is in doubt, and replayed.
lead(change(31, 'leads'));
follow(map { change(31 + $_, 'refused') } 1 .. 4);
$redis->cli('ACL', 'SETUSER', 'default', '-evalsha');
go_on();
$_->finish foreach @others[0 .. 3];
is(stat_of('pushes_delayed'), 5, 'what Redis refuses is in doubt for each');
is(name(33), 'old', 'the old value is there');
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
is(wrong(), '', 'and gone when it is replayed');

# The connection of the leader breaks: nobody knows what Redis has heard.
lead(change(41, 'leads'));
follow(map { change(41 + $_, 'cut') } 1 .. 4);
$redis->cli('CLIENT', 'KILL', 'TYPE', 'normal');
go_on();
$_->finish foreach @others[0 .. 3];
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
is(wrong(), '', 'a connection that breaks leaves nothing old');

# Many commits at once: each leader wakes the next one.  One that did not would
# have the others wait for a minute.
$node->safe_psql('postgres', 'SELECT slate_cache_stats_reset()');
$start = time;
foreach my $i (0 .. $#others)
{
    my $first = 101 + 10 * $i;
    $others[$i]->send(qq{DO \$\$ BEGIN FOR i IN 1 .. 300 LOOP
        UPDATE item SET name = 'many ' || i WHERE id = $first + i % 10; COMMIT; END LOOP; END \$\$});
}
$_->finish foreach @others;
cmp_ok(time - $start, '<', 55, 'nobody was forgotten');
is(stat_of('pushes_delayed'), 0, 'nor delayed');
is(wrong(), '', 'and nothing is old');
is(scalar(grep { name($_) =~ /^many (29[1-9]|300)$/ } 101 .. 180), 80, 'all of the last values are there');

# A leader that is stopped: those who have been waiting for it, and those who come
# later, push by themselves.
SlateNode::set($node, 'slate_cache.pause_patience' => 1000);
$_->query('SELECT 1') foreach $leader, @others;
lead(change(51, 'stopped'));
foreach my $id (52 .. 54)
{
    $others[$id - 52]->query(change($id, 'alone'));
    is(name($id), 'alone', "while a leader is stopped another pushes by itself: $id");
}
go_on();
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
is(wrong(), '', 'nothing old is left');
is(stat_of('pushes_delayed + pushes_lost'), 0, 'nothing was delayed, nothing is lost');
SlateNode::unharmed($node);
done_testing();
