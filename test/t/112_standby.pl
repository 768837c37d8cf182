# A hot standby: get answers hits, and loads misses without filling; nothing is
# written to Redis by it, nor kept near; the write functions are refused.  Promoted,
# it does all that.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $primary = SlateNode->start('primary', redis => $redis, init => [ allows_streaming => 1 ],
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000, 'slate_cache.near_memory' => '1MB' });
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
SlateNode::create_items($primary, 5);
$primary->wait_for_catchup($standby, 'replay');

# Hits, misses, and things that a primary would mend.
$redis->cli('DEL', 'shop:item:3');
$redis->cli('SET', 'shop:item:1', '{"id":1,"name":"from Redis"}');
$redis->cli('SET', 'shop:item:4', 'not JSON');
$redis->cli('DEL', 'shop:item:5');
$redis->cli('RPUSH', 'shop:item:5', 'a list');
$redis->cli('SET', 'shop:free', '"free"');

# What is there, but for its age, and for what the primary notes of itself.
sub contents
{
    my @found;
    foreach my $key (grep { !/^slate_cache:(wal:|tick$)/ } split /\n/, $redis->all_keys)
    {
        my $encoded = unpack 'H*', $redis->cli('TYPE', $key) eq 'string' ? $redis->cli('GET', $key) : 'other';
        push @found, "$key $encoded";
    }
    return join "\n", @found;
}

my $before = contents();
my $session = SlateSession->new($standby);
is($session->query("SELECT slate_cache_get('shop:item:1')->>'name'"), 'from Redis', 'a hit is answered');
is($session->query("SELECT slate_cache_get('shop:item:3')->>'name'"), 'old', 'a miss is loaded');
is($session->query("SELECT slate_cache_get('shop:item:4')->>'name'"), 'old', 'so is a bad value');
is($session->query("SELECT slate_cache_get('shop:item:5')->>'name'"), 'old', 'and one of the wrong type');
is($session->query("SELECT slate_cache_get('shop:item:99') IS NULL"), 't', 'no row, no value');
is($session->query("SELECT slate_cache_get('shop:free')"), '"free"', 'a key without a rule is answered');
is($session->query("SELECT slate_cache_peek('shop:item:4') IS NULL"), 't', 'peek has nothing');
is( $session->query(q{SELECT string_agg(coalesce(value->>'name', '-'), ',')
        FROM slate_cache_mget(ARRAY['shop:item:1', 'shop:item:3', 'shop:item:4', 'shop:item:99'])}),
    'from Redis,old,old,-', 'mget does all of it');
is($session->query("SELECT slate_cache_fetch('shop:count', 'SELECT count(*) FROM item')"), '5',
    'fetch runs its query');
is($session->error, '', 'nothing fails');
is($session->query("SELECT string_agg(\"check\" || ': ' || detail, E'\\n') FROM slate_cache.health WHERE NOT ok"), '',
    'the view health finds all well');
is($session->query("SELECT hits > 0 AND fills = 0 FROM slate_cache.stats"), 't', 'the view stats works');

# Nobody truncates the journal meanwhile.
SlateNode::stop_worker($primary);
$primary->safe_psql('postgres', q{UPDATE item SET name = 'newer' WHERE id = 2});
$primary->wait_for_catchup($standby, 'replay');
is( $session->query(q{SELECT pg_relation_size('slate_cache.journal_a') + pg_relation_size('slate_cache.journal_b') > 0,
        (SELECT count(*) FROM slate_cache.journal)}),
    't|0', 'what was told the primary, and still stands in its journal, is not in doubt');
SlateNode::continue_worker($primary);

# The primary's worker notes its rules within a second.
SlateRedis::wait_until(sub { contents() =~ /^slate_cache:rules:\S+ \S/m }, 'the rules are noted');
$before = contents();

foreach my $call (
    "slate_cache_set('shop:free', '1')",
    "slate_cache_mset('{\"shop:free\": 1}')",
    "slate_cache_del('shop:item:1')",
    "slate_cache_invalidate('shop:*')",
    "slate_cache_invalidate_project('1')",
    "slate_cache_attach('item')",
    "slate_cache_attach_defaults()",
    "slate_cache_detach('item')")
{
    $session->query("SELECT $call");
    like($session->error, qr/ERROR: .*cannot .*during recovery/, "$call is refused");
}
is(contents(), $before, 'the standby has not changed anything in Redis');
$session->query("SELECT slate_cache_get('shop:item:1')") foreach 1, 2;
is(SlateNode::counter($standby, 'near_hits'), 0, 'nor has it kept anything near');

# Redis away is no error here either.
$redis->pause;
$session->query(q{SET slate_cache.timeout = 200; SELECT slate_cache_get('shop:item:3')->>'name'});
is($session->error, '', 'Redis hangs: no error');
$redis->resume;
$session->query('RESET slate_cache.timeout');

# The same session goes on as a primary's.
$primary->stop;
$standby->promote;
SlateRedis::wait_until(
    sub {
        $session->query("UPDATE item SET name = 'promoted ' || clock_timestamp() WHERE id = 1");
        return $redis->field('shop:item:1', 'name') =~ /^promoted/;
    },
    'a change of the promoted server arrives');
pass('promoted: changes are delivered');

# While the namespace is being emptied for the new timeline, fills are refused.
SlateRedis::wait_until(
    sub {
        $session->query("SELECT slate_cache_get('shop:item:3')");
        return ($redis->field('shop:item:3', 'name') // '') eq 'old';
    },
    'a miss is filled');
pass('promoted: misses are filled');
SlateNode::wait_for($standby,
    q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" <> 'pushes'});
pass('promoted: the view health finds all well');
SlateRedis::wait_until(
    sub { $session->query("SELECT slate_cache_get('shop:item:3')"); SlateNode::counter($standby, 'near_hits') > 0 },
    'a value is near');
pass('promoted: values are kept near');

SlateNode::unharmed($standby);
done_testing();
