# A strict writer's mark is lost, with its key's guard, between its commit and its
# push.  Then Redis does not know what has come since, and the writer's own value
# may be old by now: it is not set.  Its other keys, whose marks stand, are.
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

# (7351, 2) is the lock of before_publish, see src/pause.h.
$slow->query("SET slate_cache.pause_at = 'before_publish'");
$gate->query('SELECT pg_advisory_lock(7351, 2)');
$slow->send("UPDATE item SET name = 'slow'");
SlateNode::wait_for($node, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", '1');
is($fast->query('SELECT string_agg(name, \' \') FROM item'), 'slow slow slow', 'a change is committed, and not pushed');
is(names(), '- - -', 'its keys are marked');

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
is($fast->query(q{SELECT string_agg(slate_cache_get('shop:item:' || i) ->> 'name', ' ' ORDER BY i) FROM generate_series(1, 3) i}),
    'fast slow slow', 'get has what the table has');
is(names(), 'fast slow slow', 'and fills it: nothing is marked any more');
SlateNode::unharmed($node);
done_testing();
