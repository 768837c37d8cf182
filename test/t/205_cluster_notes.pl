# What stands beside the keys of a Cluster's master, for all of them, is on its way to another
# one: marks of strict transactions, and floors of patterns.  "It is not here" is not "there is none".
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateCluster;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $testing = $ENV{SLATE_TESTING_INSTALLATION} ? 1 : 0;
my $cluster = SlateCluster->new(node_timeout => 30000);
my $node = SlateNode->start('main', redis => $cluster->url, testing => $testing,
    conf => { 'slate_cache.timeout' => 10000, 'slate_cache.connect_timeout' => 10000 });
SlateNode::wait_until_trusted($node);
SlateNode::create_items($node, 10);
my $session = SlateSession->new($node);
my $other = SlateSession->new($node);
my $key = 'shop:item:1';
my $master = $cluster->node_of($key);
my ($target) = grep { $_ != $master } $cluster->masters;

sub run { return $session->query($_[0]) . $session->error }

# Names of the master's own notes of a kind, and the slot that they have.
sub notes { my ($what) = @_; return grep { /^slate_cache:\{\d+\}\Q$what\E/ } split /\n/, $master->all_keys }
my $slot = $cluster->slot((notes('epoch:'))[0]);

# Some of them go ahead, or come back, and all is as it was.
sub send_ahead
{
    $cluster->begin_move($slot, $master, $target);
    $cluster->migrate_keys($slot, $master, $target, @_);
    return;
}

sub call_back
{
    is($master->cli('CLUSTER', 'SETSLOT', $slot, 'STABLE'), 'OK', 'they are called back');
    $cluster->migrate_keys($slot, $target, $master, @_);
    $target->cli('CLUSTER', 'SETSLOT', $slot, 'STABLE');
    return;
}

sub check_marks
{
    run(q{SET slate_cache.mode = 'strict'; BEGIN; UPDATE item SET name = 'new' WHERE id = 1; PREPARE TRANSACTION 'p'; RESET slate_cache.mode});
    is($session->error, '', 'a strict transaction has marked a key');
    is(run("SELECT slate_cache_get('$key')->>'name'") . $cluster->get($key), 'old', 'while the mark stands nothing is filled');
    my @marks = notes('marks:');
    is(scalar @marks, 1, 'there is a note of it');
    send_ahead(@marks);
    is(run("SELECT slate_cache_get('$key')->>'name'"), 'old', 'get, while that is on its way');
    is($cluster->get($key), '', 'nothing is filled then');
    call_back(@marks);
    is(run(q{COMMIT PREPARED 'p'}), '', 'the transaction is committed');
    isnt($cluster->field($key, 'name'), 'old', 'and Redis has nothing older');
    SlateRedis::wait_until(sub { run("SELECT slate_cache_get('$key')"); $cluster->field($key, 'name') eq 'new' }, 'the new row is filled');
    return;
}

# A push that a newer pattern has passed over.
sub check_floors
{
    $session->query(q{SET slate_cache.pause_at = 'before_publish'});
    $other->query('SELECT pg_advisory_lock(7351, 2)');
    $session->send(q{UPDATE item SET name = 'late' WHERE id = 1});
    SlateNode::wait_for($node, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}, '1');
    $node->safe_psql('postgres', q{SELECT slate_cache_invalidate('shop:item:*')});
    $cluster->del($key, "slate_cache:guard:{$key}");
    my @floors = notes('floor');
    is(scalar @floors, 2, 'a pattern has left a floor');
    send_ahead(@floors);
    $other->query('SELECT pg_advisory_unlock(7351, 2)');
    $session->finish;
    is($session->error, '', 'a late commit succeeds');
    is($cluster->get($key), '', 'but sets nothing while the floor is on its way');
    call_back(@floors);
    return;
}

check_marks();
SKIP:
{
    skip 'needs the testing build', 4 unless $testing;
    check_floors();
}
SlateNode::unharmed($node);
done_testing();
