# A strict writer's mark is lost, with its key's guard, between its commit and its
# push.  Then Redis does not know what has come since, and the writer's own value
# may be old by now: it is not set.  Its other keys, whose marks stand, are.  And
# when Redis forgets everything, marks are made again before anybody can fill.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, testing => 1,
    conf => { 'slate_cache.timeout' => 60000, 'slate_cache.connect_timeout' => 60000, 'slate_cache.mode' => 'strict' });
SlateNode::create_items($node, 3);
my $gate = SlateSession->new($node);
my $slow = SlateSession->new($node);
my $fast = SlateSession->new($node);

sub names { return join ' ', map { $redis->field("shop:item:$_", 'name') || '-' } 1 .. 3 }
sub lose { return $redis->cli('DEL', map { ("shop:item:$_", "slate_cache:guard:{shop:item:$_}") } @_) }

sub get
{
    return $fast->query(q{SELECT string_agg(slate_cache_get('shop:item:' || i) ->> 'name', ' ' ORDER BY i) FROM generate_series(1, 3) i});
}

# The worker takes away a mark of nobody's: it has looked.
sub wait_until_looked
{
    my $marks = $redis->all_keys('slate_cache:marks:*');
    $redis->cli('HSET', $marks, '0123456789abcdef', '3');
    SlateRedis::wait_until(sub { $redis->cli('HEXISTS', $marks, '0123456789abcdef') eq '0' }, 'the worker has looked');
    return;
}

# (7351, 2) is the lock of before_publish, see src/pause.h.
$slow->query("SET slate_cache.pause_at = 'before_publish'");
$gate->query('SELECT pg_advisory_lock(7351, 2)');
$slow->send("UPDATE item SET name = 'slow'");
SlateNode::wait_for($node, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", '1');
is($fast->query('SELECT string_agg(name, \' \') FROM item'), 'slow slow slow', 'a change is committed, and not pushed');
wait_until_looked() foreach 1 .. 2;
is(get() . names(), 'slow slow slow- - -', 'its keys are marked, and stay so');

# The guards of two keys are lost; one of the rows is changed, and that one's
# guard is lost again.
is(lose(1, 2), '2', 'two guards are lost');
$fast->query("UPDATE item SET name = 'fast' WHERE id = 1");
is(names(), 'fast - -', 'somebody else changes a row');
lose(1);
$gate->query('SELECT pg_advisory_unlock(7351, 2)');
$slow->finish;
is($slow->error, '', 'the push comes');
is(names(), '- - slow', 'only the key with its mark is set');
is(get(), 'fast slow slow', 'get has what the table has');
is(names(), 'fast slow slow', 'and fills it: nothing is marked any more');

# One transaction is about to commit, one is prepared; then FLUSHALL.
sub wait_until_emptied
{
    my ($times) = @_;
    SlateNode::wait_for($node, 'SELECT emptied FROM slate_cache.stats', $times);
    SlateNode::wait_until_trusted($node);
    return;
}

my $emptied = SlateNode::counter($node, 'emptied');
$gate->query('SELECT pg_advisory_lock(7351, 1)');
$slow->query("SET slate_cache.pause_at = 'before_commit'");
$slow->send("UPDATE item SET name = 'late' WHERE id = 1");
SlateNode::wait_for($node, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", '1');
$fast->query("BEGIN; UPDATE item SET name = 'prepared' WHERE id = 2; PREPARE TRANSACTION 'p'");
is($fast->error . names(), '- - slow', 'two keys are marked');
$redis->cli('FLUSHALL');
wait_until_emptied($emptied + 1);
is(get(), 'fast slow slow', 'Redis has forgotten everything: get has what is committed');
is(names(), '- - slow', 'and fills what was not marked, and nothing else');
$gate->query('SELECT pg_advisory_unlock(7351, 1)');
$slow->finish;
is($slow->error, '', 'the one commits');
is(get() . names(), 'late slow slowlate - slow', 'and its key can be filled again');

# Now Redis forgets while nobody watches.
$_->quit foreach $gate, $slow, $fast;
$node->stop;
$redis->restart;
$node->start;
$fast = SlateSession->new($node);
wait_until_emptied(1);
is(get(), 'late slow slow', 'both are restarted: get has what is committed');
is(names(), 'late - slow', 'the key of the prepared one is still marked');
$fast->query("COMMIT PREPARED 'p'");
is($fast->error, '', 'it is committed');
SlateRedis::wait_until(sub { get(); return names() eq 'late prepared slow' }, 'its key can be filled again');
is(get(), 'late prepared slow', 'with the new value');
SlateNode::unharmed($node);
done_testing();
