# A great many keys in one slate_cache_mget(): in portions, so that nobody else waits for Redis
# for long, and each has its value.  Likewise what is set by hand in one transaction: it is
# registered by many keys a call, in as many families as there are.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 10000, 'slate_cache.connect_timeout' => 10000 });
$node->safe_psql('postgres', q{
    CREATE TABLE item (id int PRIMARY KEY, name text);
    INSERT INTO item SELECT i, 'name ' || i FROM generate_series(1, 3500) i;
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'])});
SlateNode::wait_until_trusted($node);
SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
my $session = SlateSession->new($node);
my $wrong = q{SELECT count(*) FILTER (WHERE value->>'name' IS DISTINCT FROM CASE WHEN i <= 3500 THEN 'name ' || i END), count(*), count(value)
    FROM slate_cache_mget(ARRAY(SELECT 'shop:item:' || i FROM generate_series(1, 4200) i)) WITH ORDINALITY m(key, value, i)};
$session->query('SELECT slate_cache_stats_reset()');
is($session->query($wrong), '0|4200|3500', 'misses: each key has its value, in its place');
is($session->query('SELECT hits, misses, fills FROM slate_cache.stats'), '0|4200|3500', 'what there is is filled');
my $calls = $redis->calls('mget');
is($session->query($wrong), '0|4200|3500', 'hits: likewise');
is($session->query('SELECT hits, misses FROM slate_cache.stats'), '3500|4900', 'from Redis');
cmp_ok($redis->calls('mget') - $calls, '>=', 5, 'in portions');
$redis->cli('CONFIG', 'SET', 'slowlog-log-slower-than', '0', 'slowlog-max-len', '20000');
$redis->cli('SLOWLOG', 'RESET');
$redis->cli('DEL', map { "shop:item:$_" } 1 .. 3500);
$session->query($wrong);
my $words = $redis->cli('EVAL', q{local most = 0
    for _, entry in ipairs(redis.call('SLOWLOG', 'GET', '-1')) do
      local name = string.upper(entry[4][1])
      local more = name == 'EVALSHA' or name == 'MGET'
      local last = entry[4][#entry[4]]
      local rest = more and string.match(last, '(%d+) more arguments') or 0
      if more then most = math.max(most, #entry[4] + rest) end
    end
    return most}, '0');
cmp_ok($words, '>', 900, 'so large');
cmp_ok($words, '<', 1100, 'and not larger');

# By hand: under no rule, in one family and no rule's either, and each in a family of its own.
$node->safe_psql('postgres', q{
    CREATE TABLE search (id int PRIMARY KEY);
    SELECT slate_cache_attach('search', drop_keys => ARRAY['many:own:{id}:*', 'many:all:*'])});
SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
my %most = ('loose:' => 2 * 5000 / 128, 'many:all:' => 2 * 5000 / 128, 'many:own:' => 5000 + 5000 / 128);
foreach my $prefix (sort keys %most)
{
    my $name = "'$prefix' || i || ':x'";
    my $calls = $redis->calls('evalsha');
    $session->query('SELECT slate_cache_stats_reset()');
    $session->query("SELECT count(slate_cache_set($name, to_jsonb(i))) FROM generate_series(1, 5000) i");
    is($session->query('SELECT pushes_delayed, pushes_lost FROM slate_cache.stats'), '0|0', "$prefix 5000 keys set by hand are pushed");
    cmp_ok($redis->calls('evalsha') - $calls, '<', $most{$prefix} + 30, "$prefix in so many calls");
    is($session->query("SELECT count(*) FROM slate_cache_mget(ARRAY(SELECT $name FROM generate_series(1, 5000) i)) WITH ORDINALITY m(key, value, i) WHERE value = to_jsonb(i)"),
        5000, "$prefix and each is there");
}
is($redis->cli('ZCARD', $redis->loose_index), 5000, 'and registered');
is($redis->cli('ZCARD', 'slate_cache:index:{many:all:}'), 5000, 'in its family');
is($redis->cli('ZCARD', 'slate_cache:index:{many:own:17:}'), 1, 'or families');
$session->query("SELECT slate_cache_invalidate('loose:*1:x')");
is($session->query(q{SELECT count(*) FILTER (WHERE value IS NULL AND i % 10 = 1), count(value)
        FROM slate_cache_mget(ARRAY(SELECT 'loose:' || i || ':x' FROM generate_series(1, 5000) i)) WITH ORDINALITY m(key, value, i)}),
    '500|4500', 'and dropped');

done_testing();
