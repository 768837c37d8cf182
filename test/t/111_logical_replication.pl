# Logical replication's apply fires the triggers of the subscriber: initial
# copy, rows, and TRUNCATE reach the subscriber's Redis.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use Test::More;

# Two servers, two caches.
my $redis = SlateRedis->new;
my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->start;
my $subscriber = SlateNode->start('subscriber', redis => $redis,
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::create_items($subscriber, 0);
$subscriber->safe_psql('postgres', q{
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'],
        drop_keys => ARRAY['shop:search:{name}:*'])});
$publisher->safe_psql('postgres', q{
    CREATE TABLE item (id int PRIMARY KEY, name text);
    INSERT INTO item SELECT i, 'old' FROM generate_series(1, 3) i;
    CREATE PUBLICATION items FOR TABLE item});
my $connection = $publisher->connstr . ' dbname=postgres';
$subscriber->safe_psql('postgres',
    "CREATE SUBSCRIPTION items CONNECTION '$connection' PUBLICATION items");
$subscriber->wait_for_subscription_sync($publisher, 'items');

sub apply
{
    my ($sql) = @_;
    $publisher->safe_psql('postgres', $sql);
    $publisher->wait_for_catchup('items');
    return;
}

# Catching up is told when the commit is, and the push follows the commit.
sub arrives
{
    my ($id, $name, $what) = @_;
    SlateRedis::wait_until(sub { $redis->field("shop:item:$id", 'name') eq $name }, $what);
    pass($what);
    return;
}

arrives(3, 'old', 'the initial copy arrives');
apply("INSERT INTO item VALUES (4, 'inserted')");
arrives(4, 'inserted', 'an insert arrives');
$redis->cli('SET', 'shop:search:old:x', '1');
apply("UPDATE item SET name = 'updated' WHERE id = 1");
arrives(1, 'updated', 'an update arrives');
is($redis->cli('EXISTS', 'shop:search:old:x'), '0', 'and drops its searches');
apply('UPDATE item SET id = 12 WHERE id = 2');
arrives(12, 'old', 'a change of the key arrives');
SlateRedis::wait_until(sub { !$redis->cli('EXISTS', 'shop:item:2') }, 'the old key is gone');
apply('DELETE FROM item WHERE id = 1');
SlateRedis::wait_until(sub { !$redis->cli('EXISTS', 'shop:item:1') }, 'a delete arrives');
apply("BEGIN; UPDATE item SET name = 'rolled back' WHERE id = 3; ROLLBACK;
    BEGIN; UPDATE item SET name = 'a' WHERE id = 3; UPDATE item SET name = 'b' WHERE id = 3; COMMIT");
arrives(3, 'b', 'of one transaction the last change arrives');
apply('TRUNCATE item');
SlateRedis::wait_until(sub { $redis->all_keys('shop:item:*') eq '' }, 'no row is left');
pass('TRUNCATE arrives');

# With Redis away the apply worker goes on, and does not start over.  When Redis
# is back, empty, the worker of slate_cache is the first to know.
my $emptied = SlateNode::counter($subscriber, 'emptied');
my $worker = $subscriber->safe_psql('postgres', 'SELECT pid FROM pg_stat_subscription');
$redis->stop;
apply("INSERT INTO item VALUES (5, 'away')");
is($subscriber->safe_psql('postgres', 'SELECT name FROM item'), 'away', 'Redis is away: rows arrive');
is($subscriber->safe_psql('postgres', 'SELECT pid FROM pg_stat_subscription'), $worker,
    'by the same worker');
SlateNode::wait_for($subscriber, 'SELECT pushes_delayed, pushes_lost FROM slate_cache.stats', '1|0');
pass('and the delay is counted');
is($subscriber->safe_psql('postgres', 'SELECT keys FROM slate_cache.journal'), '{shop:item:5}',
    'the journal has it');
$redis->start;
SlateNode::wait_for($subscriber, 'SELECT count(*) FROM slate_cache.journal', '0');
pass('Redis is back: the journal empties');
SlateNode::wait_for($subscriber, "SELECT emptied > $emptied FROM slate_cache.stats");
apply("INSERT INTO item VALUES (6, 'back')");
arrives(6, 'back', 'and rows arrive in Redis again');

SlateNode::unharmed($subscriber);
done_testing();
