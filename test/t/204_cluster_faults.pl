# A Redis Cluster whose nodes lose their memory, hang or die, and whose slots move: commits
# neither fail nor hang, and in the end every key is right, wherever it is then.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateCluster;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSentinel;
use SlateSession;
use Test::More;

use constant ROWS => 60;

# What a busy machine may add to any wait, in s.
my $slack = 10;
my $timeout = 1000;

# In the first no node is given up so soon.
my $cluster = SlateCluster->new(node_timeout => 10000);
my $node = SlateNode->start('main', redis => $cluster->url,
    conf => { 'slate_cache.timeout' => $timeout, 'slate_cache.connect_timeout' => $timeout });
SlateNode::wait_until_trusted($node);
SlateNode::create_items($node, ROWS);
my $session = SlateSession->new($node);
my @keys = map { "shop:item:$_" } 1 .. ROWS;
my $changes = 0;

sub run { my ($sql) = @_; return $session->query($sql) . $session->error }
sub get { return run("SELECT slate_cache_get('shop:item:$_[0]')->>'name'") }
sub name { return $cluster->field("shop:item:$_[0]", 'name') }

# What the masters took for unknown commands.
sub errors { return join ' ', map { $_->cli('INFO', 'errorstats') =~ /errorstat_ERR:count=(\d+)/ ? $1 : 0 } $cluster->masters }

sub events { return $node->safe_psql('postgres', "SELECT count(*) FROM slate_cache.events WHERE kind = '$_[0]'") }

# What an app might have SET, or an old value.
sub plant { my ($id) = @_; $cluster->set("shop:item:$id" => qq({"id":$id,"name":"planted"})); return }

# Rows of that node, or of others.
sub rows_of { my ($master) = @_; return grep { $cluster->node_of("shop:item:$_") == $master } 1 .. ROWS }
sub rows_of_others { my ($master) = @_; return grep { $cluster->node_of("shop:item:$_") != $master } 1 .. ROWS }

# A commit that has a right to wait, but not to fail.
sub change
{
    my ($what, @ids) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $value = 'change ' . ++$changes;
    run("UPDATE item SET name = '$value'" . (@ids ? ' WHERE id IN (' . join(', ', @ids) . ')' : ''));
    is($session->error, '', "$what: a commit succeeds");
    cmp_ok($session->seconds, '<', $timeout / 1000 + $slack, "$what: and does not hang");
    return $value;
}

# Commits until what it has written is in Redis: it may be late, and then it is only dropped.
sub arrives
{
    my (@ids) = @_;
    my $value;
    SlateRedis::wait_until(
        sub {
            $value = 'arrived ' . ++$changes;
            run("UPDATE item SET name = '$value' WHERE id IN (" . join(', ', @ids) . ')');
            return !grep { name($_) ne $value } @ids;
        },
        'a change arrives');
    return $value;
}

# Changes are not only dropped, but set, and what is not there is filled, in a namespace that has
# no wrong key.
sub all_is_right
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $cluster->wait_until_ok;
    SlateJournal::wait_until_told($node);
    my %found = $cluster->compare($node, 'item', 'shop:item:{id}');
    is($found{wrong}, 0, "$what: no key is wrong") or diag($found{examples});
    note("$what: $found{right} right, $found{missing} missing");
    SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('redis', 'history', 'breaker', 'journal')});
    arrives(1 .. 20);
    $cluster->del(@keys[ 20 .. 39 ]);
    SlateRedis::wait_until(
        sub {
            run('SELECT count(*) FROM slate_cache_mget(ARRAY[\'' . join("','", @keys) . '\'])');
            %found = $cluster->compare($node, 'item', 'shop:item:{id}');
            return $found{missing} == 0;
        },
        'all keys are filled');
    is($found{wrong}, 0, "$what: all keys are set again, and right") or diag($found{examples});
    return;
}

#
# Memory that is lost
#

# The worker does not come first, so the session is the one that finds out.
sub check_flushall
{
    my $master = ($cluster->masters)[1];
    my ($id) = rows_of($master);
    my $emptied = events('emptied');
    SlateNode::stop_worker($node);
    is($master->cli('FLUSHALL'), 'OK', 'a node forgets all');
    my $value = change('FLUSHALL', rows_of($master));
    is(get($id), $value, 'FLUSHALL: get has what was committed');
    plant($id);
    SlateNode::continue_worker();
    SlateNode::wait_for($node, "SELECT count(*) > $emptied FROM slate_cache.events WHERE kind = 'emptied'");
    pass('FLUSHALL: the namespace is emptied');
    all_is_right('FLUSHALL');
    return;
}

sub check_restart
{
    my $master = ($cluster->masters)[2];
    my ($id) = rows_of($master);
    my $emptied = events('emptied');
    $master->kill9;
    my $value = change('restart', $id);
    is(get($id), $value, 'restart: the table answers');
    $master->start;
    $cluster->wait_until_ok;
    SlateNode::wait_for($node, "SELECT count(*) > $emptied FROM slate_cache.events WHERE kind = 'emptied'");
    pass('restart: the namespace is emptied');
    all_is_right('restart');
    return;
}

#
# A node that hangs
#
sub check_hang
{
    my $master = ($cluster->masters)[0];
    my @ids = rows_of($master);
    my @others = rows_of_others($master);
    my $before = name($ids[0]);
    my $errors = errors();

    # Of what goes to all masters only this one does not answer; then comes what is for others.
    SlateNode::stop_worker($node);
    $master->pause;
    change('hang, first of all other nodes', @others);
    SlateNode::continue_worker();
    change('hang, all nodes');
    change('hang, that node', @ids);
    my $value = change('hang, other nodes', @others);
    is(get($others[0]), $value, 'hang: get of a key at another node');
    cmp_ok($session->seconds, '<', $timeout / 1000 + $slack, 'hang: in time');
    is(get($ids[0]), run("SELECT name FROM item WHERE id = $ids[0]"), 'hang: and of one at that node');
    cmp_ok($session->seconds, '<', $timeout / 1000 + $slack, 'hang: in time');

    my $strict = SlateSession->new($node);
    $strict->query("\\set VERBOSITY verbose\nSET slate_cache.mode = 'strict'");
    $strict->query("UPDATE item SET name = 'never'");
    like($strict->error, qr/ERROR:  08006/, 'hang: a strict transaction fails');
    cmp_ok($strict->seconds, '<', $timeout / 1000 + $slack, 'hang: in time');
    is(run(q{SELECT count(*) FROM item WHERE name = 'never'}), '0', 'hang: and is not committed');

    $master->resume;
    $cluster->wait_until_ok;
    like(run('SELECT slate_cache_repair()'), qr/^\d+$/, 'hang: repair comes to an end');
    isnt(name($ids[0]), $before, 'hang: then what was there before is gone');
    all_is_right('hang');
    is(errors(), $errors, 'hang: no node was sent what is no command');
    SlateRedis::wait_until(
        sub {
            $strict->query("UPDATE item SET name = 'strict'");
            return $strict->error eq '' && name($ids[0]) . name($others[0]) eq 'strictstrict';
        },
        'a strict transaction succeeds');
    pass('hang: later strict transactions succeed');
    $strict->quit;
    return;
}

#
# Slots that move
#
sub other_master
{
    my ($master) = @_;
    my ($other) = grep { $_ != $master } $cluster->masters;
    return $other;
}

# To another master, until the worker has seen it.
sub move_and_wait
{
    my ($slot, $from) = @_;
    my $emptied = events('emptied');
    $cluster->move_slot($slot, $from, other_master($from));
    SlateNode::wait_for($node, "SELECT count(*) > $emptied FROM slate_cache.events WHERE kind = 'emptied'");
    return;
}

sub check_move
{
    my $id = 7;
    my $key = "shop:item:$id";
    my ($slot, $from) = ($cluster->slot($key), $cluster->node_of($key));
    my $to = other_master($from);
    my $idle = SlateSession->new($node);
    is($idle->query("SELECT slate_cache_get('$key') IS NOT NULL"), 't', 'move: a session has read the key');
    my $before = arrives($id);
    $cluster->move_slot($slot, $from, $to);
    is($cluster->node_of($key), $to, 'move: another node has the slot');
    like(name($id), qr/^(?:\Q$before\E)?$/, 'move: and the value, if nobody has emptied it yet');
    plant($id);
    my $value = change('move', $id);
    SlateJournal::wait_until_told($node);
    unlike($cluster->get($key), qr/planted/, 'move: what is stale is gone');
    is(get($id), $value, 'move: get has what was committed');
    is($idle->query("SELECT slate_cache_get('$key')->>'name'") . $idle->error, $value, 'move: so has a session that was idle');
    all_is_right('move');
    is($cluster->node_of($key), $to, 'move: the other node still has the slot');
    is(name($id), run("SELECT name FROM item WHERE id = $id"), 'move: and the value');

    # What a pattern drops is found without a look at all keys: by what stands beside it, which
    # does not move.
    my $search = 'shop:search:1:sql';
    run(q{CREATE TABLE sale (customer int); SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
    SlateJournal::wait_until_told($node);
    run("SELECT slate_cache_fetch('$search', 'SELECT count(*) FROM sale')");
    is($cluster->get($search), '0', 'move: a search is cached');
    my $former = $cluster->node_of($search);
    $cluster->move_slot($cluster->slot($search), $former, other_master($former));
    run('SET slate_cache.sweep = off; INSERT INTO sale VALUES (1); RESET slate_cache.sweep');
    SlateRedis::wait_until(sub { $cluster->get($search) ne '0' }, 'the search is dropped');
    is(run("SELECT slate_cache_fetch('$search', 'SELECT count(*) FROM sale')"), '1', 'move: it is dropped at the other node');
    all_is_right('move of a search');

    # Keys that no rule covers are known by indexes alone.  Their slot moves, or that of the index.
    run(q{SELECT slate_cache_set('loose:' || i, to_jsonb(i)) FROM generate_series(1, 12) i});
    is(scalar(() = $cluster->keys('loose:*')), 12, 'move: there are loose keys');
    my $home = $cluster->node_of('loose:1');
    move_and_wait($cluster->slot('loose:1'), $home);
    all_is_right('move of a loose key');
    is(join(' ', $cluster->keys('loose:*')), '', 'move: they are dropped, wherever they are');
    run(q{SELECT slate_cache_set('loose:' || i, to_jsonb(i)) FROM generate_series(1, 12) i});
    my ($index) = $cluster->keys('slate_cache:{*}index:{\\*}');
    my $owner = $cluster->node_of($index);
    move_and_wait($cluster->slot($index), $owner);
    all_is_right('move of an index');
    is(join(' ', $cluster->keys('loose:*')), '', 'move: likewise without their index');
    run(q{SELECT slate_cache_set('loose:1', '1')});
    is($cluster->get('loose:1'), '1', 'move: then they can be set again');

    # An empty slot; and back, under the eyes of a session that commits all the while.
    $cluster->del($key);
    $cluster->move_slot($slot, $to, $from);
    change('move of an empty slot', $id);
    all_is_right('move of an empty slot');
    $idle->quit;
    return;
}

sub check_ask
{
    my $id = 9;
    my $key = "shop:item:$id";
    my ($slot, $from) = ($cluster->slot($key), $cluster->node_of($key));
    my $to = other_master($from);

    # From version 8 on Redis lets no script that also reads what stands beside keys write in such
    # a slot.
    my ($version) = $from->cli('INFO', 'server') =~ /redis_version:(\d+)/;
    my $former = arrives($id);
    my $older = $version < 8 ? qr/^\b$/ : qr/\Q$former\E/;
    $cluster->begin_move($slot, $from, $to);
    my $value = change('moving, nothing has moved', $id);
    like(get($id), qr/^\Q$value\E$|$older/, 'moving: get has what was committed');

    # The guard of a key that has not been changed for long is gone, and cannot come to be.
    $cluster->del("slate_cache:guard:{$key}");
    $value = change('moving, without a guard', $id);
    like(get($id), qr/^\Q$value\E$|$older/, 'moving: get has what was committed');
    like($cluster->get($key), qr/^(?:ASK .*)?$|$older/m, 'moving: and Redis nothing older');

    # The value without what stands beside it, if it is still there.
    $cluster->migrate_keys($slot, $from, $to, $key);
    like($cluster->get($key), qr/^ASK /m, 'moving: the value is at the other node, or nowhere');
    $value = change('moving, the value has moved', $id);
    is(get($id), $value, 'moving: get has what was committed');
    $value = change('moving, other keys, too');
    is(get($id), $value, 'moving: get has what was committed');
    my ($other) = grep { $_ != $id } rows_of($from);
    is(get($other), $value, 'moving: for other keys, too');
    $cluster->migrate_keys($slot, $from, $to);
    $value = change('moving, all has moved', $id);
    is(get($id), $value, 'moving: get has what was committed');
    $cluster->end_move($slot, $from, $to);
    SlateJournal::wait_until_told($node);
    like(name($id), qr/^(?:\Q$value\E)?$/, 'moved: what is there is right');
    is(get($id), $value, 'moved: get has what was committed');
    all_is_right('moved');
    is($cluster->node_of($key), $to, 'moved: another node has the slot');
    return;
}

# A move that was given up leaves a key at a node that has not its slot.
sub check_stray
{
    my $id = 9;
    my $key = "shop:item:$id";
    my ($slot, $from) = ($cluster->slot($key), $cluster->node_of($key));
    my $to = other_master($from);
    arrives($id);
    $cluster->begin_move($slot, $from, $to);
    $cluster->migrate_keys($slot, $from, $to);
    my $invalidate = "SET slate_cache.mode = strict; SELECT slate_cache_invalidate('shop:item:*'); RESET slate_cache.mode";
    like(run($invalidate), qr/on its way to another node/, 'stray: while it is on its way clients find it, and strict cannot promise');
    run('RESET slate_cache.mode');
    $cluster->give_up_move($slot, $from, $to);
    is(run($invalidate), '', 'stray: when it is not, it can');
    cmp_ok($to->cli('CLUSTER', 'COUNTKEYSINSLOT', $slot), '>', 0, 'stray: a key is where nobody finds it');
    my $value = change('stray', $id);
    is(get($id), $value, 'stray: get has what was committed');
    is(run("SET slate_cache.timeout = '10s'; SELECT slate_cache_flush(); RESET slate_cache.timeout"), '', 'stray: flush ends');
    arrives($id);
    all_is_right('stray');
    $from->cli('FLUSHALL');
    all_is_right('stray, and a master has forgotten');
    $to->cli('FLUSHALL');
    all_is_right('stray no more');
    return;
}

#
# A replica takes over
#
sub use_cluster_with_replicas
{
    $cluster = SlateCluster->new(replicas => 1, node_timeout => 1000);
    SlateNode::set($node, 'slate_cache.url' => $cluster->url);
    SlateNode::wait_for($node, q{SELECT ok FROM slate_cache.health WHERE "check" = 'worker'});
    $session->quit;
    $session = SlateSession->new($node);
    all_is_right('another cluster');
    return;
}

# Commits, one after the other, until that is so.
sub commit_until
{
    my ($what, $condition, @ids) = @_;
    my ($errors, $longest, $count) = ('', 0, 0);
    SlateRedis::wait_until(
        sub {
            foreach my $id (@ids)
            {
                $errors .= run("UPDATE item SET name = 'during " . ++$changes . "' WHERE id = $id");
                $longest = $session->seconds if $session->seconds > $longest;
                $count++;
            }
            return $condition->();
        },
        $what);
    is($errors, '', "$what: until then $count commits succeed");
    cmp_ok($longest, '<', $timeout / 1000 + $slack, "$what: and none hangs");
    return;
}

sub check_failover
{
    my $old = $cluster->node_of('shop:item:7');
    my ($replica) = $cluster->replicas_of($old);
    my @ids = rows_of($old);
    my $emptied = events('emptied');

    # What the replica has not heard of.
    arrives(@ids);
    SlateRedis::wait_until(
        sub { $old->cli('WAIT', 1, 1000) eq '1' }, 'the replica has it');
    $replica->config(masterauth => 'wrong');
    $old->cli('CLIENT', 'KILL', 'TYPE', 'replica');
    SlateRedis::wait_until(sub { SlateSentinel::replicas_in_sync($old) == 0 }, 'the replica is cut off');
    my $value = arrives(@ids);
    $old->kill9;
    commit_until('failover', sub { $cluster->successor($old) }, (grep { $_ != 7 } @ids)[ 0, 1 ], (rows_of_others($old))[ 0, 1 ]);
    my $new = $cluster->wait_for_failover($old);
    is($new, $replica, 'failover: the replica has taken over');
    is(get(7), $value, 'failover: get has what the replica has not heard of');
    SlateNode::wait_for($node, "SELECT count(*) > $emptied FROM slate_cache.events WHERE kind = 'emptied'");
    pass('failover: the namespace is emptied');
    all_is_right('failover');
    is($cluster->node_of('shop:item:7'), $new, 'failover: the new master has the slot');
    is(name(7), run('SELECT name FROM item WHERE id = 7'), 'failover: and the value');

    $replica->config(masterauth => '');
    $old->start;
    $cluster->wait_until_ok;
    is(SlateSentinel::role($old), 'slave', 'failover: the old master comes back as a replica');
    is(scalar(() = $old->cli('CLIENT', 'LIST') =~ / name=slate_cache /g), 0, 'failover: and has no client of ours');
    all_is_right('failover, the old one is back');
    return;
}

# Replaced, it comes back with the values that it had.
sub check_hang_and_failover
{
    my $old = $cluster->node_of('shop:item:7');
    my @ids = rows_of($old);
    my $idle = SlateSession->new($node);
    SlateRedis::wait_until(
        sub { $idle->query(q{UPDATE item SET name = 'idle' WHERE id = 7}); return name(7) eq 'idle' },
        'a session has a connection to the master');
    $old->pause;
    commit_until('hang and failover', sub { $cluster->successor($old) }, @ids[ 0, 1 ]);
    my $new = $cluster->wait_for_failover($old);
    my $value = change('hang and failover');
    $old->resume;
    is($idle->query(q{SELECT slate_cache_get('shop:item:7')->>'name'}) . $idle->error, $value, 'hang and failover: get by a session that was idle');
    $idle->query(q{UPDATE item SET name = 'idle again' WHERE id = 7});
    is($idle->error, '', 'hang and failover: its commit succeeds');
    $cluster->wait_until_ok;
    is(SlateSentinel::role($old), 'slave', 'hang and failover: the old master comes back as a replica');
    SlateJournal::wait_until_told($node);
    like(name(7), qr/^(?:idle again)?$/, 'hang and failover: what is in Redis is right');
    all_is_right('hang and failover');
    $idle->quit;
    return;
}

# Some slots are served by none, so nobody serves any.
sub check_down
{
    my $master = $cluster->node_of('shop:item:7');
    my @dead = ($master, $cluster->replicas_of($master));
    $_->kill9 foreach @dead;
    $cluster->wait_until_down;
    my $value = change('down');
    is(get(7), $value, 'down: the table answers');
    is(get((rows_of_others($master))[0]), $value, 'down: for other slots, too');
    is($node->safe_psql('postgres', q{SELECT ok FROM slate_cache.health WHERE "check" = 'redis'}), 'f', 'down: health says so');
    $_->start foreach @dead;
    $cluster->wait_until_ok;
    all_is_right('down, and up again');
    return;
}

check_flushall();
check_restart();
check_hang();
check_move();
check_ask();
check_stray();
use_cluster_with_replicas();
check_failover();
check_hang_and_failover();
check_down();
is($node->safe_psql('postgres', 'SELECT pushes_lost FROM slate_cache.stats'), 0, 'nothing was lost');
SlateNode::unharmed($node);
done_testing();
