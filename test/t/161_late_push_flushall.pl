# A push that is late, and a Redis that has forgotten, in between, that a newer
# one had been there: FLUSHALL, or an older dump.  The older value must not be
# set, whether the loss has been noticed by then or not.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateHistory;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, testing => 1,
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::create_items($node, 9);
my $gate = SlateSession->new($node);
my $late = SlateSession->new($node);
my $other = SlateSession->new($node);

# The advisory locks (7351, n) of the points, see src/pause.h.
my %locks = (before_commit => 1, before_publish => 2, before_fill => 4);

# A session does something, and stays at a point.
sub hold
{
    my ($point, $sql) = @_;
    $gate->query("SELECT pg_advisory_lock(7351, $locks{$point})");
    $late->query("SET slate_cache.pause_at = '$point'");
    $late->send($sql);
    SlateNode::wait_for($node,
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", '1');
    return;
}

sub release
{
    my ($point) = @_;
    $gate->query("SELECT pg_advisory_unlock(7351, $locks{$point})");
    my $rows = $late->finish;
    is($late->error, '', 'the late session has no error');
    $late->query('RESET slate_cache.pause_at');
    return $rows;
}

sub worker
{
    return $node->safe_psql('postgres',
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'");
}

# The worker has seen to it that Redis can be trusted again.
sub trusted
{
    my ($what) = @_;
    SlateHistory::set_again($node, $redis, $what);
    return;
}

trusted('at first');

# Nobody has noticed: the worker is stopped meanwhile.
my $worker = worker();
like($worker, qr/^\d+$/, 'there is a worker');
kill 'STOP', $worker;
hold('before_publish', "UPDATE item SET name = 'older' WHERE id = 2");
$other->query("UPDATE item SET name = 'newer' WHERE id = 2");
is($redis->field('shop:item:2', 'name'), 'newer', 'unnoticed: the newer value is there');
$redis->cli('FLUSHALL');
release('before_publish');
isnt($redis->field('shop:item:2', 'name'), 'older', 'unnoticed: the older value is not set');
is($other->query("SELECT slate_cache_get('shop:item:2')->>'name'"), 'newer', 'unnoticed: get has the newer');
kill 'CONT', $worker;
SlateHistory::become_right($node, $redis, 'unnoticed');

# The worker has noticed, and Redis is trusted again.
trusted('before the second');
hold('before_publish', "UPDATE item SET name = 'older' WHERE id = 3");
$other->query("UPDATE item SET name = 'newer' WHERE id = 3");
like($redis->field('shop:item:3', 'name'), qr/^(?:newer)?$/, 'noticed: the newer value is there, or none');
$redis->cli('FLUSHALL');
trusted('noticed');
release('before_publish');
isnt($redis->field('shop:item:3', 'name'), 'older', 'noticed: the older value is not set');
SlateHistory::become_right($node, $redis, 'noticed');

# Somebody deletes all that slate_cache keeps for itself, and nothing else.
hold('before_publish', "UPDATE item SET name = 'older' WHERE id = 8");
$other->query("UPDATE item SET name = 'newer' WHERE id = 8");
like($redis->field('shop:item:8', 'name'), qr/^(?:newer)?$/, 'internals: the newer value is there, or none');
$redis->cli('DEL', split /\n/, $redis->all_keys('slate_cache:*'));
release('before_publish');
isnt($redis->field('shop:item:8', 'name'), 'older', 'internals: the older value is not set');
trusted('internals');

# So with a row that has been deleted.
hold('before_publish', "UPDATE item SET name = 'older' WHERE id = 4");
$other->query('DELETE FROM item WHERE id = 4');
$redis->cli('FLUSHALL');
trusted('deleted');
release('before_publish');
is($redis->cli('EXISTS', 'shop:item:4'), '0', 'deleted: the row does not come back');

# A restart from a dump that knows the older version at most.  The late
# session's connection is gone, too; it may make another.
trusted('before the dump');
$redis->cli('SAVE');
hold('before_publish', "UPDATE item SET name = 'older' WHERE id = 5");
$other->query("UPDATE item SET name = 'newer' WHERE id = 5");
like($redis->field('shop:item:5', 'name'), qr/^(?:newer)?$/, 'dump: the newer value is there, or none');
$redis->kill9;
$redis->start;
trusted('dump');
release('before_publish');
isnt($redis->field('shop:item:5', 'name'), 'older', 'dump: the older value is not set');
SlateHistory::become_right($node, $redis, 'dump');

# Encoded before, committed after: it is the newest, but cannot prove it.
hold('before_commit', "UPDATE item SET name = 'committed after' WHERE id = 6");
$redis->cli('FLUSHALL');
trusted('committed after');
release('before_commit');
SlateHistory::become_right($node, $redis, 'committed after');
is($other->query("SELECT slate_cache_get('shop:item:6')->>'name'"), 'committed after', 'committed after: get has it');

# A reader has loaded; what it loaded has changed, and Redis has forgotten.
# Another reader's lease makes a new guard.
$redis->cli('DEL', 'shop:item:7');
hold('before_fill', "SELECT slate_cache_get('shop:item:7')->>'name'");
$other->query("UPDATE item SET name = 'newer' WHERE id = 7");
$redis->cli('FLUSHALL');
trusted('fill');
is($other->query("SELECT slate_cache_get('shop:item:7')->>'name'"), 'newer', 'fill: another reader leases and fills');
$redis->cli('DEL', 'shop:item:7');
is(release('before_fill'), 'old', 'fill: the late reader has what it saw');
isnt($redis->field('shop:item:7', 'name'), 'old', 'fill: it does not fill');
is($other->query("SELECT slate_cache_get('shop:item:7')->>'name'"), 'newer', 'fill: get has the newer');

is(SlateHistory::wrong($node, $redis), '', 'in the end no key is wrong');
SlateNode::unharmed($node);
done_testing();
