# A push that has timed out: the commit is over, the worker has told Redis what
# to forget, others have changed and filled the same keys since; and only then
# the push arrives.  Nothing of it may win over what has come since.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url, conf => { 'slate_cache.timeout' => 30000 });
SlateNode::wait_until_trusted($node);
$node->safe_psql('postgres', q{
    CREATE TABLE item (id int PRIMARY KEY, kind int, name text);
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'], list_keys => ARRAY['shop:items:{kind}'],
        drop_keys => ARRAY['shop:search:{kind}:*']);
    INSERT INTO item SELECT i, 1, 'old' FROM generate_series(1, 6) i;
    CREATE TABLE sale (id int PRIMARY KEY, name text);
    SELECT slate_cache_attach('sale', row_keys => ARRAY['shop:sale:{id}'])});

my $slow = SlateSession->new($node);
my $fast = SlateSession->new($node);
$_->query(q{SELECT slate_cache_get('shop:items:1')}) foreach $slow, $fast;
my @keys = ((map { "shop:item:$_" } 1 .. 6), 'shop:items:1', 'shop:items:2', 'shop:free:set', 'shop:free:glob', 'shop:sale:1');

# Rows of which Redis does not have what the table has, nor nothing.
sub wrong
{
    return $fast->query(q{
        SELECT key FROM (
            SELECT 'shop:item:' || i AS key, (SELECT to_jsonb(item) FROM item WHERE id = i) AS row FROM generate_series(1, 6) i
            UNION ALL SELECT 'shop:sale:1', (SELECT to_jsonb(sale) FROM sale WHERE id = 1)
            UNION ALL SELECT 'shop:items:' || k, (SELECT coalesce(jsonb_agg(to_jsonb(item) ORDER BY id), '[]') FROM item WHERE kind = k)
                FROM generate_series(1, 2) k) x
        WHERE slate_cache_peek(key) IS NOT NULL AND slate_cache_peek(key) IS DISTINCT FROM row ORDER BY key});
}

# One transaction; it gives up after a second, and its bytes are still on their
# way.
$slow->query(q{SELECT slate_cache_get('shop:item:' || i) FROM generate_series(1, 6) i});
$slow->query('SET slate_cache.timeout = 1000');
$proxy->hold(qr/\r\n(?:EVALSHA|MULTI)\r\n.*\r\nshop:/s);
$slow->send(q{BEGIN; UPDATE item SET name = 'older', kind = CASE WHEN id < 6 THEN 1 ELSE 2 END;
    INSERT INTO sale VALUES (1, 'older');
    SELECT slate_cache_set('shop:free:set', '"older"'), slate_cache_set('shop:free:glob', '"older"'); COMMIT});
$proxy->wait_until_held;
$proxy->pass;
$slow->finish;
is($slow->error, '', 'the commit does not fail');
SlateJournal::wait_until_told($node);
is($redis->cli('EXISTS', @keys), '0', 'the worker has had all of it forgotten');

# Others have come since, in every way there is.
$fast->query($_) foreach
  q{UPDATE item SET name = 'newer' WHERE id = 1},
  q{DELETE FROM item WHERE id = 2},
  q{DELETE FROM item WHERE id = 3}, q{INSERT INTO item VALUES (3, 1, 'again')},
  q{UPDATE item SET name = 'newer' WHERE id = 4}, q{SELECT slate_cache_del('shop:item:4')}, q{SELECT slate_cache_get('shop:item:4')},
  q{UPDATE item SET id = 7 WHERE id = 5},
  q{SELECT slate_cache_get('shop:items:1'), slate_cache_get('shop:items:2')},
  q{TRUNCATE sale},
  q{SELECT slate_cache_del('shop:free:set')},
  q{SELECT slate_cache_invalidate('shop:free:g*')};
is(wrong(), '', 'what is there is right');
is($redis->field('shop:item:1', 'name') . $redis->field('shop:item:4', 'name'), 'newernewer', 'and some of it is there');

$proxy->release;
is(wrong(), '', 'the push arrives, and all is right still');
is($redis->cli('EXISTS', 'shop:free:set', 'shop:free:glob'), '0', 'keys without a rule do not come back, either');
is($redis->field('shop:item:1', 'name'), 'newer', 'what is known to be newer stays');
is($fast->query(q{SELECT string_agg(slate_cache_get('shop:item:' || i) ->> 'name', ' ' ORDER BY i) FROM generate_series(1, 7) i}),
    'newer again newer older older', 'get has what the table has');
is(wrong(), '', 'and fills it');

# Once more, and nothing has come since: then it may be set, being the last.
$slow->query(q{SELECT slate_cache_get('shop:item:1')});
$proxy->hold(qr/\r\n(?:EVALSHA|MULTI)\r\n.*\r\nshop:/s);
$slow->send(q{UPDATE item SET name = 'last' WHERE id = 1});
$proxy->wait_until_held;
$proxy->pass;
$slow->finish;
SlateJournal::wait_until_told($node);
$fast->query(q{SELECT slate_cache_get('shop:items:1')});
$proxy->release;
is(wrong(), '', 'a late push after which nothing has come is right, too');
SlateNode::unharmed($node);
done_testing();
