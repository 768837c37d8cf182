# While the server waits for a synchronous standby that is not there, commits wait, as they
# do without a cache; but the worker does not, nor does anybody wait for him.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, init => [ allows_streaming => 1 ],
    conf => { 'slate_cache.timeout' => 1000, 'slate_cache.connect_timeout' => 1000 });
SlateNode::create_items($node, 9);
my ($waits, $local, $look) = map { SlateSession->new($node) } 1 .. 3;
$local->query('SET synchronous_commit = local');
$look->query(q{SET synchronous_commit = local; SET lock_timeout = '60s'});
sub name { return $redis->field("shop:item:$_[0]", 'name') }

SlateNode::set($node, 'synchronous_standby_names' => 'nobody');
$waits->send(q{UPDATE item SET name = 'waited for' WHERE id = 1});
SlateNode::wait_for($node, q{SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = } . $waits->pid);
is(name(1), 'old', 'a commit waits, and its push');
$look->query('SELECT pg_cancel_backend(' . $waits->pid . ')');
$waits->finish;
is(name(1), 'waited for', 'it stops waiting when it is canceled');

# The journal is cut, which takes a commit of the worker.
my $tables = q{(SELECT oid FROM pg_class WHERE relnamespace = 'slate_cache'::regnamespace AND relkind = 'r' AND relname ~ '^journal')};
SlateRedis::wait_until(
    sub { my $size = $look->query("SELECT sum(pg_relation_size(oid)) FROM $tables journal"); return $look->error || $size eq '0' },
    'the journal is truncated');
is($look->error, '', 'nobody waits for a lock on it');

# What Redis does not hear is replayed.
$redis->pause;
$local->query(q{UPDATE item SET name = 'new' WHERE id = 2});
$redis->resume;
SlateRedis::wait_until(sub { name(2) ne 'old' }, 'the worker replays it');
pass('the worker replays what has failed');
$local->query(q{SET slate_cache.mode = async; UPDATE item SET name = 'async' WHERE id = 3});
SlateRedis::wait_until(sub { name(3) eq 'async' }, 'the worker pushes');
pass('the worker pushes for sessions in mode async');
like($look->query('SELECT slate_cache_repair()'), qr/^\d+$/, 'slate_cache_repair() returns');
$look->query('SELECT slate_cache_flush()');
is($redis->all_keys('shop:*'), '', 'so does slate_cache_flush()');
is($look->query(q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('worker', 'journal', 'history')}), 't', 'all is well');

SlateNode::unharmed($node);
done_testing();
