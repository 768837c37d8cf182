# What patterns drop is found by the indexes of their families, without a walk: keys that a row
# rule seems to know, too, and what more than 256 patterns stand for; and an index forgets no key
# before its value's time is over.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => { 'slate_cache.sweep' => 'off' });
$node->safe_psql('postgres', q{
    CREATE TABLE invoice (id int PRIMARY KEY, total int);
    CREATE TABLE line (invoice_id int, n int);
    CREATE TABLE sale (customer int, n int);
    SELECT slate_cache_attach('invoice', row_keys => ARRAY['shop:invoice:{id}']);
    SELECT slate_cache_attach('line', drop_keys => ARRAY['shop:invoice:{invoice_id}:*']);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:sales:{customer}:*']);
    INSERT INTO invoice VALUES (42, 1);
    INSERT INTO line VALUES (42, 1);
    INSERT INTO sale SELECT i, 0 FROM generate_series(1, 300) i});
my $session = SlateSession->new($node);
SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('history', 'journal')});
SlateNode::stop_worker($node);

sub is_there { return $redis->cli('EXISTS', @_) }

# By its text "shop:invoice:{id}" has "shop:invoice:42:lines".
my $lines = q{slate_cache_fetch('shop:invoice:42:lines', 'SELECT sum(n) FROM line WHERE invoice_id = 42')};
is($session->query("SELECT $lines"), '1', 'a key that a row rule seems to know is fetched');
is(is_there('shop:invoice:42:lines'), '1', 'and cached');
$session->query('UPDATE line SET n = 2');
is(is_there('shop:invoice:42:lines'), '0', 'the pattern drops it');
is($session->query("SELECT $lines"), '2', 'and what is fetched is new');
$session->query(q{SELECT slate_cache_set('shop:invoice:42:head', '"by hand"')});
is(is_there('shop:invoice:42:head'), '1', 'one that is set by hand');
$session->query('UPDATE line SET n = 3');
is(is_there('shop:invoice:42:head', 'shop:invoice:42:lines'), '0', 'is dropped likewise');

# More than 256 patterns.
sub fetch { return $session->query("SELECT slate_cache_fetch('shop:sales:$_:x', 'SELECT sum(n) FROM sale WHERE customer = $_')") }
fetch() foreach 10, 300;
is(is_there('shop:sales:10:x', 'shop:sales:300:x'), '2', 'two are fetched');
$session->query('UPDATE sale SET n = 10');
is(is_there('shop:sales:10:x', 'shop:sales:300:x'), '0', '300 patterns drop both');

# A query that takes time.
$session->query(q{SELECT slate_cache_fetch('shop:sales:7:x', 'SELECT n FROM sale, pg_sleep(2) WHERE customer = 7', '100 s')});
my $life = 60000;
my ($member, $value) = ($redis->cli('ZSCORE', 'slate_cache:index:{shop:sales:7:}', 'shop:sales:7:x'),
    $redis->cli('PEXPIRETIME', 'shop:sales:7:x'));
cmp_ok($member - $value, '>', $life - 1000, "the index remembers it a guard's life longer than the value is there");

# Nothing is kept that no index may know.
$redis->cli('ACL', 'SETUSER', 'default', '-zadd');
$session->query(q{SELECT slate_cache_fetch('shop:sales:8:x', 'SELECT n FROM sale WHERE customer = 8')});
is(is_there('shop:sales:8:x'), '0', 'what the index refuses is not kept');
$redis->cli('ACL', 'SETUSER', 'default', '+zadd');

# A pattern that becomes its rule's wildcard, since the transaction holds too much else.  It is
# left to the worker, which asks each pattern by itself whether it is to be looked for.
fetch() foreach 20;
is(is_there('shop:sales:20:x'), '1', 'one more is fetched');
$redis->cli('ACL', 'SETUSER', 'default', '-evalsha');
$session->query(q{SET slate_cache.max_pending = '64kB';
    BEGIN;
    UPDATE sale SET n = 11 WHERE customer = 20;
    INSERT INTO invoice SELECT i, 1 FROM generate_series(1000, 9000) i;
    COMMIT});
is($session->error, '', 'a transaction exceeds max_pending afterwards');
is(is_there('shop:sales:20:x'), '1', 'Redis does not take its push');
$redis->cli('ACL', 'SETUSER', 'default', '+evalsha');
SlateNode::continue_worker();
SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
is(is_there('shop:sales:20:x'), '0', 'the worker drops what its pattern matches');

SlateNode::unharmed($node);
done_testing();
