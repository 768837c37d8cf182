# A Redis that no worker has looked at is not believed: not while the launcher is about to come, nor
# where there is no room for a worker.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => { max_logical_replication_workers => 0 });
SlateNode::create_items($node, 20);
SlateNode::wait_until_trusted($node);

sub end_processes
{
    my ($type) = @_;
    $node->safe_psql('postgres', "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'slate_cache $type'");
    return;
}

# Without Redis the worker cannot look.  Then it has gone, and so has the launcher, which the postmaster
# starts again after five seconds.
$node->stop;
$redis->stop;
$node->start;
my $session = SlateSession->new($node);
SlateNode::wait_for($node, q{SELECT phase = 'waiting for redis' FROM slate_cache.progress});
end_processes('launcher');
end_processes('worker');
$redis->start;
$redis->cli('SET', 'shop:item:1', '{"name":"lie"}');
is($session->query(q{SELECT slate_cache_get('shop:item:1')->>'name'}), 'old', 'a launcher that is about to come: the table is read');
$session->query(q{UPDATE item SET name = 'new' WHERE id = 2});
is($redis->cli('EXISTS', 'shop:item:2'), 0, 'and what is pushed is no value');
SlateNode::wait_until_trusted($node);
is($redis->cli('EXISTS', 'shop:item:1'), 0, 'then Redis is emptied');
$session->query('SELECT slate_cache_repair()');
$session->query(q{SELECT slate_cache_get('shop:item:' || id) FROM item});
is($redis->field('shop:item:3', 'name'), 'old', 'and used');
$session->quit;

# A push has failed, and nobody is there to replay it.
$redis->cli('ACL', 'SETUSER', 'default', '-evalsha');
$node->safe_psql('postgres', q{UPDATE item SET name = 'failed' WHERE id = 3});
$node->stop;
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
$node->append_conf('postgresql.conf', 'max_worker_processes = 1');
$node->start;
SlateNode::wait_for($node, q{SELECT count(*) > 0 FROM slate_cache.health WHERE "check" = 'worker' AND detail ~ 'no room'});
$session = SlateSession->new($node);
is($redis->field('shop:item:3', 'name'), 'old', 'no room for a worker: an old value');
is($session->query(q{SELECT slate_cache_get('shop:item:3')->>'name'}), 'failed', 'no room for a worker: the table is read');
is($session->query(q{SELECT value->>'name' FROM slate_cache_mget('{shop:item:3}')}), 'failed', 'no room for a worker: likewise for many');
$session->query(q{UPDATE item SET name = 'written' WHERE id = 4});
is($redis->field('shop:item:4', 'name'), 'written', 'no room for a worker: values are written through, as without preload');
$session->query(q{BEGIN; UPDATE item SET name = 'prepared' WHERE id = 5});
$session->query(q{PREPARE TRANSACTION 'nobody'});
like($session->error, qr/cannot PREPARE a transaction that has changed cached data without a journal and a worker/, 'no room for a worker: nor is anything prepared');
$session->query(q{SELECT slate_cache_warm('item')});
like($session->error, qr/the history of Redis is unknown/, 'no room for a worker: nor filled');
$session->quit;

# With one all is well again.
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->restart;
SlateNode::wait_until_trusted($node);
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
isnt($redis->field('shop:item:3', 'name'), 'old', 'with a worker: the old value has gone');
SlateNode::unharmed($node);

done_testing();
