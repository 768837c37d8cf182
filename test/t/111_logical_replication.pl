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

# Of a partitioned table apply gets the partitions, and truncates them past triggers and hooks:
# a few of them, and more than are told of one by one.
foreach my $node ($publisher, $subscriber)
{
    $node->safe_psql('postgres', q{
        CREATE TABLE part (id int PRIMARY KEY, owner int, name text) PARTITION BY RANGE (id);
        SELECT format('CREATE TABLE part_%s PARTITION OF part FOR VALUES FROM (%s) TO (%s)', i, 10 * i, 10 * i + 10)
            FROM generate_series(0, 19) i \gexec});
}
$subscriber->safe_psql('postgres', q{SELECT slate_cache_attach('part', row_keys => ARRAY['shop:part:{id}'], list_keys => ARRAY['shop:parts:{owner}'])});
$publisher->safe_psql('postgres', q{INSERT INTO part SELECT i, 1, 'old' FROM generate_series(0, 199) i; CREATE PUBLICATION parts FOR TABLE part});
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION parts CONNECTION '$connection' PUBLICATION parts");
$subscriber->wait_for_subscription_sync($publisher, 'parts');
foreach my $truncate ('part_3', 'part')
{
    SlateRedis::wait_until(sub {
        $subscriber->safe_psql('postgres', q{SELECT jsonb_array_length(slate_cache_get('shop:parts:1'))}) == $subscriber->safe_psql('postgres', 'SELECT count(*) FROM part')
          && $redis->cli('EXISTS', 'shop:part:30', 'shop:part:40') == $subscriber->safe_psql('postgres',
            q{SELECT count(slate_cache_get('shop:part:' || id)) FROM part WHERE id IN (30, 40)}) }, 'rows and their list are in Redis');
    $publisher->safe_psql('postgres', "TRUNCATE $truncate");
    $publisher->wait_for_catchup('parts');
    SlateRedis::wait_until(sub { !$redis->cli('EXISTS', 'shop:part:30', 'shop:parts:1') }, "TRUNCATE $truncate: row and list are gone");
    is($subscriber->safe_psql('postgres', q{SELECT slate_cache_get('shop:part:30') IS NULL, jsonb_array_length(slate_cache_get('shop:parts:1'))}),
        't|' . $subscriber->safe_psql('postgres', 'SELECT count(*) FROM part'), "TRUNCATE $truncate, by apply, is noticed");
}

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
