# A walk over the keyspace takes longer than a guard lives.  What was loaded before the change is
# filled behind the walk's back, and its guard expires before the walk comes to it: it has gone
# nevertheless when the journal is empty.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url,
    conf => { 'slate_cache.timeout' => 1000, 'slate_cache.connect_timeout' => 1000, 'slate_cache.guard_life' => '10s' });
$node->safe_psql('postgres', q{CREATE TABLE item (name text); INSERT INTO item VALUES ('old')});
SlateNode::wait_until_trusted($node);
$redis->cli('EVAL', "for i = 1, 60000 do redis.call('SET', 'filler:' .. i, 'x') end", '0');

# A key whose name comes early in a SCAN, and its guard's late.
my $candidates = "for i = 1, 3000 do redis.call('%s', 'free:' .. i, 'x') redis.call('%s', 'slate_cache:guard:{free:' .. i .. '}', 'x') end";
$redis->cli('EVAL', sprintf($candidates, 'SET', 'SET'), '0');
my (%at, $key);
my ($cursor, $count) = (0, 0);
do
{
    ($cursor, my @names) = split /\n/, $redis->cli('SCAN', $cursor, 'COUNT', 500);
    $at{$_} = $count++ foreach @names;
} while ($cursor ne '0');
($key) = grep { $at{$_} < 0.05 * $count && $at{"slate_cache:guard:{$_}"} > 0.85 * $count } map { "free:$_" } 1 .. 3000;
ok($key, 'there is such a key');
$redis->cli('EVAL', sprintf($candidates, 'DEL', 'DEL'), '0');

my ($reader, $writer) = (SlateSession->new($node), SlateSession->new($node));
$writer->query(q{SELECT slate_cache_set('other', '1'); SELECT pg_advisory_lock(1)});
$proxy->delay(requests => [ 200, 200 ]);
$reader->send("SELECT slate_cache_fetch('$key', 'SELECT item.name FROM item, pg_advisory_xact_lock_shared(1)', '1 hour')");
SlateNode::wait_for($node, q{SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted});
# With so many patterns the walk alone looks for keys of no rule, and not the commit in their index.
$writer->query(q{BEGIN; UPDATE item SET name = 'new'; SELECT slate_cache_invalidate('free:*');
    SELECT slate_cache_invalidate('none' || i || ':*') FROM generate_series(1, 16) i; COMMIT});
is($writer->error, '', 'the change is committed');
SlateNode::wait_for($node, q{SELECT keys_scanned > 3500 FROM slate_cache.progress});
$writer->query('SELECT pg_advisory_unlock(1)');
like($reader->finish, qr/old/, 'the reader has loaded what was before');
is($redis->cli('GET', $key), '"old"', 'and has filled it');
SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
is($redis->cli('EXISTS', $key), '0', 'the walk has removed it');
SlateNode::unharmed($node);
done_testing();
