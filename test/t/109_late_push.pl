# A push that is held back on its way, by a proxy, until a later change of the
# row has been pushed: the older value does not win.
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
my $node = SlateNode->start('main', redis => $redis, conf => { 'slate_cache.timeout' => 200 });
SlateNode::create_items($node, 9);
$node->safe_psql('postgres', q{
    CREATE TABLE note (id int PRIMARY KEY, tag text, body text);
    SELECT slate_cache_attach('note', row_keys => ARRAY['shop:note:tag:{tag}']);
    INSERT INTO note VALUES (1, 'a', 'old')});

my $push = qr/\r\nEVALSHA\r\n/;
my $slow = SlateSession->new($node);
$slow->query("SET slate_cache.url = '" . $proxy->url . "'");
my $fast = SlateSession->new($node);
$fast->query("SELECT slate_cache_get('shop:item:1')");

# The slow session commits; its push is on its way, and it has given up.
sub commit_slowly
{
    my ($sql) = @_;
    $proxy->pass;
    SlateRedis::wait_until(
        sub {
            $slow->query("UPDATE item SET name = 'here ' || clock_timestamp() WHERE id = 9");
            return $redis->field('shop:item:9', 'name') eq
              $node->safe_psql('postgres', 'SELECT name FROM item WHERE id = 9');
        },
        'the slow session has a connection');
    $fast->query("SELECT slate_cache_get('shop:free')");
    $proxy->hold($push);
    $slow->query($sql);
    is($slow->error, '', 'the slow commit succeeds');
    $proxy->wait_until_held;

    # The breaker is one for all, whatever the way: a new address closes it.
    $fast->query("SET slate_cache.url = '" . $redis->url(db => 1) . "'");
    $fast->query("SELECT slate_cache_peek('x')");
    $fast->query('RESET slate_cache.url');
    return;
}

commit_slowly("UPDATE item SET name = 'older' WHERE id = 1");
$fast->query("UPDATE item SET name = 'newer' WHERE id = 1");
is($redis->field('shop:item:1', 'name'), 'newer', 'put, put: the newer is there');
$proxy->release;
is($redis->field('shop:item:1', 'name'), 'newer', 'put, put: the older does not win');

commit_slowly("UPDATE item SET name = 'older' WHERE id = 2");
$fast->query('DELETE FROM item WHERE id = 2');
is($redis->cli('EXISTS', 'shop:item:2'), '0', 'put, delete: the key is gone');
$proxy->release;
is($redis->cli('EXISTS', 'shop:item:2'), '0', 'put, delete: the deleted row does not come back');

commit_slowly('DELETE FROM item WHERE id = 3');
$fast->query("INSERT INTO item VALUES (3, 'again')");
is($redis->field('shop:item:3', 'name'), 'again', 'delete, put: the new row is there');
$proxy->release;
isnt($redis->field('shop:item:3', 'name'), 'old', 'delete, put: the old row does not come back');
is($fast->query("SELECT slate_cache_get('shop:item:3')->>'name'"), 'again', 'delete, put: get has the new row');

# The writer has released its locks: another reads and fills what is newer.
commit_slowly("UPDATE item SET name = 'older' WHERE id = 4");
$fast->query("SELECT slate_cache_del('shop:item:4')");
is($fast->query("SELECT slate_cache_get('shop:item:4')->>'name'"), 'older', 'put, fill: get has it from the table');
$fast->query("UPDATE item SET name = 'newer' WHERE id = 4");
$proxy->release;
isnt($redis->field('shop:item:4', 'name'), 'older', 'put, fill, put: the older does not win');

# Nothing makes the tag unique, so nothing orders its writers: the late push
# drops the key.
commit_slowly("UPDATE note SET body = 'older' WHERE id = 1");
$fast->query("UPDATE note SET body = 'newer' WHERE id = 1");
$proxy->release;
isnt($redis->field('shop:note:tag:a', 'body'), 'older', 'no unique key: the older does not win');
is($fast->query("SELECT slate_cache_get('shop:note:tag:a')->>'body'"), 'newer', 'no unique key: get has the newer');

# A fill that is held back, until the row has changed.
$proxy->pass;
$redis->cli('DEL', 'shop:item:5');
$slow->query("SET slate_cache.timeout = '60s'");
SlateRedis::wait_until(
    sub { $slow->query("SELECT slate_cache_get('shop:item:6')"); $redis->cli('EXISTS', 'shop:item:6') },
    'the slow session reads through the cache');
$proxy->hold(qr/"id":5/);
$slow->send("SELECT slate_cache_get('shop:item:5')->>'name'");
$proxy->wait_until_held;
$fast->query("UPDATE item SET name = 'newer' WHERE id = 5");
is($redis->field('shop:item:5', 'name'), 'newer', 'fill, put: the newer is there');
$proxy->release;
is($slow->finish, 'old', 'fill, put: the reader has what it saw');
is($redis->field('shop:item:5', 'name'), 'newer', 'fill, put: the fill does not win');

$slow->query('RESET slate_cache.timeout');

# Rows that are dropped by pattern leave no guard of their own where they had
# none: what comes late finds that out too.
commit_slowly("UPDATE item SET name = 'older' WHERE id = 7");
$redis->cli('DEL', 'shop:item:7', split /\n/, $redis->all_keys('slate_cache:guard:*'));
$fast->query('TRUNCATE item');
$proxy->release;
is($redis->cli('EXISTS', 'shop:item:7'), '0', 'put, TRUNCATE: the row does not come back');
is($fast->query("SELECT slate_cache_get('shop:item:7') IS NULL"), 't', 'put, TRUNCATE: get has nothing');

SlateNode::unharmed($node);
done_testing();
