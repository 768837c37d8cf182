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
my $node = SlateNode->start('main', redis => $proxy->url, conf => { 'slate_cache.timeout' => 60000 });
SlateNode::wait_until_trusted($node);
SlateNode::create_items($node, 9);
$node->safe_psql('postgres', q{
    CREATE TABLE note (id int PRIMARY KEY, tag text, body text);
    SELECT slate_cache_attach('note', row_keys => ARRAY['shop:note:tag:{tag}']);
    INSERT INTO note VALUES (1, 'a', 'old')});

my $push = qr/\r\n(?:EVALSHA|MULTI)\r\n.*\r\nshop:/s;
my $slow = SlateSession->new($node);
my $fast = SlateSession->new($node);
$fast->query("SELECT slate_cache_get('shop:item:1')");

# The slow session has committed, and holds no lock any more; its push is on its
# way.  What others send is not held.
sub commit_slowly
{
    my ($sql) = @_;
    $proxy->hold($push);
    $slow->send($sql);
    $proxy->wait_until_held;
    $proxy->pass;
    return;
}

sub push_arrives
{
    $proxy->release;
    $slow->finish;
    is($slow->error, '', 'the slow commit ends well');
    return;
}

commit_slowly("UPDATE item SET name = 'older' WHERE id = 1");
$fast->query("UPDATE item SET name = 'newer' WHERE id = 1");
is($redis->field('shop:item:1', 'name'), 'newer', 'put, put: the newer is there');
push_arrives();
is($redis->field('shop:item:1', 'name'), 'newer', 'put, put: the older does not win');

commit_slowly("UPDATE item SET name = 'older' WHERE id = 2");
$fast->query('DELETE FROM item WHERE id = 2');
is($redis->cli('EXISTS', 'shop:item:2'), '0', 'put, delete: the key is gone');
push_arrives();
is($redis->cli('EXISTS', 'shop:item:2'), '0', 'put, delete: the deleted row does not come back');

commit_slowly('DELETE FROM item WHERE id = 3');
$fast->query("INSERT INTO item VALUES (3, 'again')");
is($redis->field('shop:item:3', 'name'), 'again', 'delete, put: the new row is there');
push_arrives();
isnt($redis->field('shop:item:3', 'name'), 'old', 'delete, put: the old row does not come back');
is($fast->query("SELECT slate_cache_get('shop:item:3')->>'name'"), 'again', 'delete, put: get has the new row');

# The writer has released its locks: another reads and fills what is newer.
commit_slowly("UPDATE item SET name = 'older' WHERE id = 4");
$fast->query("SELECT slate_cache_del('shop:item:4')");
is($fast->query("SELECT slate_cache_get('shop:item:4')->>'name'"), 'older', 'put, fill: get has it from the table');
$fast->query("UPDATE item SET name = 'newer' WHERE id = 4");
push_arrives();
isnt($redis->field('shop:item:4', 'name'), 'older', 'put, fill, put: the older does not win');

# Nothing makes the tag unique, so nothing orders its writers: the late push
# drops the key.
commit_slowly("UPDATE note SET body = 'older' WHERE id = 1");
$fast->query("UPDATE note SET body = 'newer' WHERE id = 1");
push_arrives();
isnt($redis->field('shop:note:tag:a', 'body'), 'older', 'no unique key: the older does not win');
is($fast->query("SELECT slate_cache_get('shop:note:tag:a')->>'body'"), 'newer', 'no unique key: get has the newer');

# A fill that is held back, until the row has changed.
$redis->cli('DEL', 'shop:item:5');
$proxy->hold(qr/"id":5/);
$slow->send("SELECT slate_cache_get('shop:item:5')->>'name'");
$proxy->wait_until_held;
$proxy->pass;
$fast->query("UPDATE item SET name = 'newer' WHERE id = 5");
is($redis->field('shop:item:5', 'name'), 'newer', 'fill, put: the newer is there');
$proxy->release;
is($slow->finish, 'old', 'fill, put: the reader has what it saw');
is($redis->field('shop:item:5', 'name'), 'newer', 'fill, put: the fill does not win');

# The slow session gives up, and the worker drops the key; and then the push
# arrives.
$slow->query("SET slate_cache.timeout = '2s'");
commit_slowly("UPDATE item SET name = 'older' WHERE id = 8");
$slow->finish;
is($slow->error, '', 'the slow commit ends well');
SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
is($redis->cli('EXISTS', 'shop:item:8'), '0', 'put, replay: the key is gone');
$fast->query("UPDATE item SET name = 'newer' WHERE id = 8");
is($redis->field('shop:item:8', 'name'), 'newer', 'put, replay, put: the newer is there');
$proxy->release;
is($redis->field('shop:item:8', 'name'), 'newer', 'put, replay, put: the older does not win');
$slow->query('RESET slate_cache.timeout');

# Rows that are dropped by pattern leave no guard of their own where they had
# none: what comes late finds that out too.
commit_slowly("UPDATE item SET name = 'older' WHERE id = 7");
$redis->cli('DEL', 'shop:item:7', split /\n/, $redis->all_keys('slate_cache:guard:*'));
$fast->query('TRUNCATE item');
push_arrives();
is($redis->cli('EXISTS', 'shop:item:7'), '0', 'put, TRUNCATE: the row does not come back');
is($fast->query("SELECT slate_cache_get('shop:item:7') IS NULL"), 't', 'put, TRUNCATE: get has nothing');

SlateNode::unharmed($node);
done_testing();
