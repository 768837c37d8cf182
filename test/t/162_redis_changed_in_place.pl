# A Redis that forgets, or goes back in time, without a restart: FLUSHALL and
# SCRIPT FLUSH under load, DEBUG RELOAD, a dump loaded in place, a server that
# was made a replica of another for a while.  Its identity is the same before
# and after.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateHistory;
use SlateLoad;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new(config => { 'enable-debug-command' => 'yes' });
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::create_items($node, 200);
my $session = SlateSession->new($node);
SlateHistory::set_again($node, $redis, 'at first');

#
# Under load: writers and readers of the same few rows.
#

sub start_load
{
    return SlateLoad->new($node, scripts => [
            [ 2 => "\\set id random(2, 40)\nUPDATE item SET name = 'load ' || clock_timestamp() WHERE id = :id;" ],
            [ 1 => "\\set id random(2, 45)\nSELECT slate_cache_get('shop:item:' || :id);" ]]);
}

sub wait_for_pushes
{
    my ($more) = @_;
    my $start = SlateNode::counter($node, 'pushes');
    SlateNode::wait_for($node, "SELECT pushes >= $start + $more FROM slate_cache.stats");
    return;
}

my $load = start_load();
wait_for_pushes(100);
foreach my $i (1 .. 5)
{
    is($redis->cli('FLUSHALL'), 'OK', "FLUSHALL $i");
    wait_for_pushes(100);
}
$load->stop;
is($load->errors, '', 'FLUSHALL: no transaction fails');
SlateHistory::become_right($node, $redis, 'FLUSHALL');
SlateHistory::set_again($node, $redis, 'FLUSHALL');
is(SlateHistory::wrong_gets($session), '', 'FLUSHALL: gets are right');
is(SlateHistory::wrong($node, $redis), '', 'FLUSHALL: and so is what they have filled');

my $lost = SlateNode::counter($node, 'pushes_lost');
$load = start_load();
wait_for_pushes(100);
foreach my $i (1 .. 10)
{
    is($redis->cli('SCRIPT', 'FLUSH'), 'OK', "SCRIPT FLUSH $i");
    wait_for_pushes(50);
}
$load->stop;
is($load->errors, '', 'SCRIPT FLUSH: no transaction fails');
SlateHistory::become_right($node, $redis, 'SCRIPT FLUSH');
is(SlateNode::counter($node, 'pushes_lost'), $lost, 'SCRIPT FLUSH: no push is lost');
is(SlateHistory::wrong_gets($session), '', 'SCRIPT FLUSH: gets are right');

#
# The data are loaded anew: what was there at that moment is kept.
#

is(SlateHistory::wrong_gets($session), '', 'all rows are read');
my $before = $redis->all_keys('shop:*');
cmp_ok(scalar(split /\n/, $before), '>=', 200, 'and cached');
is($redis->cli('DEBUG', 'RELOAD'), 'OK', 'DEBUG RELOAD');
SlateHistory::set_again($node, $redis, 'DEBUG RELOAD');
is(SlateHistory::wrong($node, $redis), '', 'DEBUG RELOAD: no key is wrong');
is($redis->all_keys('shop:*'), $before, 'DEBUG RELOAD: what was cached is cached');

# An older dump is loaded by the server that runs: neither the server's identity
# nor the epoch tells.
my $count = 0;

sub noted
{
    return join ' ', map { $redis->cli('GET', $_) } split /\n/, $redis->all_keys('slate_cache:wal:*');
}

sub age
{
    my ($how) = @_;
    $count++;
    SlateRedis::wait_until(
        sub {
            $node->safe_psql('postgres', "UPDATE item SET name = 'before $count at ' || clock_timestamp()");
            return $redis->field('shop:item:2', 'name') =~ /^before $count at/;
        },
        'all is written through');
    $how->();
    $node->safe_psql('postgres', "UPDATE item SET name = 'after $count' WHERE id % 3 > 0;
        DELETE FROM item WHERE id = " . 3 * $count);

    # Once a second the worker notes in Redis how far we are.
    my $noted = noted();
    SlateRedis::wait_until(sub { noted() ne $noted }, 'the worker has noted its position');
    return;
}

age(sub { is($redis->cli('SAVE'), 'OK', 'a dump is made') });
is($redis->cli('DEBUG', 'RELOAD', 'NOSAVE'), 'OK', 'the dump is loaded in place');
SlateHistory::become_right($node, $redis, 'a dump loaded in place');
SlateHistory::set_again($node, $redis, 'a dump loaded in place');
is(SlateHistory::wrong_gets($session), '', 'a dump loaded in place: gets are right');

# Another database takes the place of ours, and ours comes back.
age(sub { is($redis->cli('SWAPDB', 0, 1), 'OK', 'databases are swapped'); SlateHistory::set_again($node, $redis, 'swapped') });
is($redis->cli('SWAPDB', 0, 1), 'OK', 'and swapped again');
SlateHistory::become_right($node, $redis, 'databases swapped');
SlateHistory::set_again($node, $redis, 'databases swapped');
is(SlateHistory::wrong_gets($session), '', 'databases swapped: gets are right');

# Somebody writes nonsense over what the worker keeps there.
foreach my $key (map { split /\n/, $redis->all_keys("slate_cache:$_:*") } qw(epoch wal))
{
    $redis->cli('DEL', $key);
    $redis->cli('RPUSH', $key, 'nonsense');
}
$session->query("UPDATE item SET name = 'after the nonsense' WHERE id = 2");
SlateHistory::become_right($node, $redis, 'nonsense');
SlateHistory::set_again($node, $redis, 'nonsense');
is(SlateHistory::wrong_gets($session), '', 'nonsense: gets are right');

# A replica that has lagged becomes the master of the server, which then goes on
# by itself.
my $replica = SlateRedis->new(port => 1);
$redis->config(port => SlateRedis::free_port());
my ($port) = $redis->cli('CONFIG', 'GET', 'port') =~ /(\d+)/;
$_->config('repl-diskless-sync-delay' => 0) foreach $redis, $replica;

sub follow
{
    my ($follower, @master) = @_;
    $follower->cli('REPLICAOF', @master);
    SlateRedis::wait_until(sub { $follower->cli('INFO', 'replication') =~ /master_link_status:up/ },
        'the replica has synchronized');
    return;
}

age(
    sub {
        follow($replica, '127.0.0.1', $port);
        SlateRedis::wait_until(sub { $replica->field('shop:item:2', 'name') =~ /^before $count at/ },
            'the replica has what is to be old');
        $replica->cli('REPLICAOF', 'NO', 'ONE');
    });
like($replica->field('shop:item:2', 'name'), qr/^before $count at/, 'a replica has stayed behind');
unlike($redis->field('shop:item:2', 'name'), qr/^before $count at/, 'its master has gone on');
follow($redis, '127.0.0.1', $replica->port);
$redis->cli('REPLICAOF', 'NO', 'ONE');
SlateHistory::become_right($node, $redis, 'data taken from a replica');
SlateHistory::set_again($node, $redis, 'data taken from a replica');
is(SlateHistory::wrong_gets($session), '', 'data taken from a replica: gets are right');
SlateHistory::become_right($node, $redis, 'in the end');

# Likewise, so quickly that no connection meets it as a replica, and with all but
# what was told last: the worker asks each second what the server is.  A new one
# does not connect anew for some seconds.
sub connections { return $redis->cli('CLIENT', 'LIST') =~ /^id=(\d+) .* name=slate_cache /mg }

my %others = map { $_ => 1 } connections();
$node->safe_psql('postgres',
    q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'});
SlateNode::wait_for_a_round($node);
my @own = grep { !$others{$_} } connections();
is(scalar @own, 1, 'a new worker has a connection');

SlateHistory::set_again($node, $redis, 'a new worker');
SlateNode::stop_worker($node);
follow($replica, '127.0.0.1', $port);
$replica->cli('REPLICAOF', 'NO', 'ONE');
$session->query("UPDATE item SET name = 'unknown to the replica' WHERE id = 2");
is($redis->field('shop:item:2', 'name'), 'unknown to the replica', 'the server has heard of a change');
follow($redis, '127.0.0.1', $replica->port);
$redis->cli('REPLICAOF', 'NO', 'ONE');
isnt($redis->field('shop:item:2', 'name'), 'unknown to the replica', 'and has lost it');
my $emptied = SlateNode::counter($node, 'emptied');
SlateNode::continue_worker();
SlateNode::wait_for($node, "SELECT emptied > $emptied FROM slate_cache.stats");
ok((grep { $_ == $own[0] } connections()), 'the worker has asked on the connection that it had');
SlateHistory::become_right($node, $redis, 'promoted again at once');
SlateHistory::set_again($node, $redis, 'promoted again at once');

SlateNode::unharmed($node);
done_testing();
