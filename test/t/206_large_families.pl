# Families with very many members are dropped step by step: Redis is not held up, what others
# commit is not stale, and what a commit leaves the worker finishes, with a walk and without; so
# with the keys that are in no family.  In mode strict all of it has gone before the commit, or it
# fails.  And a name that is longer than any key of ours stops nobody.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $many = 60_000;
my $most = 1200;    # members in one call: a thousand, and what ZSCAN returns with them

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);
$node->safe_psql('postgres', q{
    CREATE TABLE fam (id int PRIMARY KEY, n int);
    CREATE TABLE item (id int PRIMARY KEY, name text);
    SELECT slate_cache_attach('fam', drop_keys => ARRAY['h2:fam:{id}:*']);
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}']);
    INSERT INTO fam SELECT i, 0 FROM generate_series(1, 9) i;
    INSERT INTO item VALUES (1, 'old')});
my $session = SlateSession->new($node);
SlateJournal::wait_until_told($node);

sub update { return $session->query("UPDATE fam SET n = n + 1 WHERE id = $_[0]") }
sub is_there { return $redis->cli('EXISTS', @_) }

sub count_keys
{
    return $redis->cli('EVAL', q{local n, cursor = 0, '0'
        repeat
          local step = redis.call('SCAN', cursor, 'MATCH', ARGV[1], 'COUNT', 1000)
          cursor, n = step[1], n + #step[2]
        until cursor == '0'
        return n}, '0', $_[0]);
}

# Patiently, and in parts that do not hold up Redis either.
sub put
{
    my ($prefix, $n) = @_;
    $session->query("SET slate_cache.timeout = '30s'");
    for (my $at = 1; $at <= $n; $at += 20_000)
    {
        my $end = $at + 19_999 < $n ? $at + 19_999 : $n;
        $session->query("SELECT slate_cache_mset((SELECT jsonb_object_agg('$prefix' || i, i) FROM generate_series($at, $end) i))");
        BAIL_OUT($session->error) if $session->error;
    }
    $session->query('RESET slate_cache.timeout');
    SlateJournal::wait_until_told($node);
    return;
}

# But for what had no answer in time, on a machine that is so busy; and since the counters began.
my $counted_since;
sub nothing_is_delayed
{
    my $delayed = SlateNode::counter($node, 'keys_delayed');
    my $why = $session->query(qq{SELECT string_agg(detail, '; ') FROM slate_cache.events WHERE kind = 'pushes delayed' AND at >= '$counted_since'});
    ok($delayed eq '0' || $why =~ /^[^;]*timed out[^;]*\z/, 'nothing is delayed, unless Redis takes too long') or diag("$delayed: $why");
    return;
}

# How often scripts were called by what is done.
sub calls_of
{
    my ($do) = @_;
    my $before = $redis->calls('evalsha');
    $do->();
    return $redis->calls('evalsha') - $before;
}

sub is_well
{
    my ($when) = @_;
    SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('history', 'journal', 'redis')});
    pass("$when: health is well");
    return;
}

# Names of 300 kB: the commit finds them in a small Redis, and so does the worker.
sub set_long
{
    $redis->cli('EVAL', "redis.call('SET', 'h2:fam:$_[0]:' .. string.rep('x', $_[1]), 'app')
        redis.call('SET', 'other:' .. string.rep('x', $_[1]), 'app')", '0');
    return;
}
set_long(9, 300_000);
$redis->cli('SET', 'h2:fam:9:short', 'app');
SlateNode::stop_worker($node);
$session->query("SET slate_cache.timeout = '10s'; SELECT slate_cache_invalidate('h2:fam:9:*')");
is(count_keys('h2:fam:9:*'), '0', 'a commit drops a key with a name of 300 kB');
$session->query('RESET slate_cache.timeout');
SlateNode::continue_worker();
is($redis->cli('EVAL', "return redis.call('EXISTS', 'other:' .. string.rep('x', 300000))", '0'), '1', 'but not one that no pattern matches');
set_long(8, 20_000_000);
$redis->cli('SET', 'h2:fam:8:short', 'app');
$session->query('SELECT slate_cache_flush()');
is($session->error, '', 'slate_cache_flush() gets past a name of 20 MB');
is(count_keys('h2:fam:8:*'), '0', 'and drops it');
$redis->cli('EVAL', "return redis.call('DEL', 'other:' .. string.rep('x', 300000), 'other:' .. string.rep('x', 20000000))", '0');

# In a Redis that is too large to be walked in time what was set under no rule is dropped from its index.
$session->query(q{SELECT slate_cache_set('h2:loose:' || i, '"old"'), slate_cache_fetch('h2:loose:f' || i, 'SELECT 1') FROM generate_series(1, 200) i});
$redis->cli('EVAL', q{for i = 1, 1000000 do redis.call('SET', 'filler:' .. i, 1) end}, '0');
SlateNode::stop_worker($node);
$session->query("SET slate_cache.timeout = '500ms'");
$session->query(q{SELECT slate_cache_invalidate('h2:loose:*')});
is($session->query(q{SELECT count(value) FROM slate_cache_mget(ARRAY(SELECT 'h2:loose:' || f || i FROM generate_series(1, 200) i, unnest('{"",f}'::text[]) f))}), '0', 'where all of Redis takes too long, loose keys go at once');
is($session->query(q{SELECT patterns FROM slate_cache.journal}), '{h2:loose:*}', 'and it did take too long');
$session->query('RESET slate_cache.timeout');
$redis->cli('EVAL', q{for i = 1, 1000000 do redis.call('UNLINK', 'filler:' .. i) end; redis.call('UNLINK', ARGV[1])}, '0', $redis->loose_index);
SlateNode::continue_worker();
SlateJournal::wait_until_told($node);

# A family of five thousand: the commit goes on until it is done.  What it has set itself stays.
put('h2:fam:2:', 5000);
SlateNode::stop_worker($node);
$session->query("SET slate_cache.timeout = '30s'");
my $calls = calls_of(sub {
    $session->query(q{BEGIN; UPDATE fam SET n = 1 WHERE id = 2;
        SELECT slate_cache_set('h2:fam:2:' || i, '"new"') FROM generate_series(1, 50) i; COMMIT}) });
is($session->error, '', 'a family of 5000 is dropped');
cmp_ok($calls, '>=', 5000 / $most, 'in several calls');
cmp_ok($calls, '<', 30, 'not many');
is(count_keys('h2:fam:2:*'), '50', 'what the transaction has set since is there when it has committed, and nothing else');
is($redis->cli('GET', 'h2:fam:2:7'), '"new"', 'that is, what it has set');
$session->query('RESET slate_cache.timeout');
SlateNode::continue_worker();

# Many more, and the default timeout.
put('h2:fam:1:', $many);
is($redis->cli('ZCARD', 'slate_cache:index:{h2:fam:1:}'), $many, "a family has $many members");
$counted_since = $session->query('SELECT clock_timestamp() FROM slate_cache_stats_reset()');
update(1);
is($session->error, '', 'a commit drops it');
$session->query(q{UPDATE item SET name = 'new' WHERE id = 1});
is($redis->field('shop:item:1', 'name'), 'new', 'another, right behind it, is not stale');
SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
is(count_keys('h2:fam:1:*'), '0', 'all of the family has gone when the journal is empty');
nothing_is_delayed();
is_well('the family has gone');

# Without the walk, by the index: as far as the commit has not come, in mode async, too.
SlateNode::set($node, 'slate_cache.sweep' => 'off');
foreach my $mode ('commit', 'async')
{
    $session->query("SET slate_cache.mode = '$mode'");
    put('h2:fam:1:', 2000);
    my $called = calls_of(sub {
        update(1);
        SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
        SlateRedis::wait_until(sub { count_keys('h2:fam:1:*') eq '0' }, 'the family has gone') });
    cmp_ok($called, '>=', $many / $most, "$mode, without a walk: the worker goes through the index, in steps");
    nothing_is_delayed();
}
SlateNode::set($node, 'slate_cache.sweep' => 'on');

# What the journal has in doubt as a whole.
put('h2:fam:1:', 2000);
$redis->cli('ACL', 'SETUSER', 'default', '-evalsha');
$session->query("SET slate_cache.mode = 'commit'");
update(1);
is(count_keys('h2:fam:1:*'), '2000', 'Redis does not take a push');
$redis->cli('ACL', 'SETUSER', 'default', '+evalsha');
$calls = calls_of(sub { SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0') });
is(count_keys('h2:fam:1:*'), '0', 'the worker replays it');
cmp_ok($calls, '>=', $many / $most, 'in steps');

# Mode strict: all or nothing.
put('h2:fam:1:', 2000);
$session->query("SET slate_cache.mode = 'strict'; SET slate_cache.timeout = '100ms'");
update(1);
like($session->error, qr/could not drop all keys of a family.*HINT.*Raise slate_cache\.timeout/s, 'strict: there is not enough time');
is($session->query('SELECT n FROM fam WHERE id = 1'), '4', 'so nothing is committed');
$session->query("SET slate_cache.timeout = '60s'");
SlateNode::stop_worker($node);
update(1);
is($session->error, '', 'with enough of it');
is(count_keys('h2:fam:1:*'), '0', 'it is committed, and all has gone');
SlateNode::continue_worker();
$session->query('RESET slate_cache.timeout; RESET slate_cache.mode');
SlateJournal::wait_until_told($node);
is_well('after strict');

# Keys of no family.
put('slate:session:', $many);
is($redis->cli('ZCARD', $redis->loose_index), $many, "$many keys are set that no rule knows");
$calls = calls_of(sub { $session->query('SELECT slate_cache_flush()') });
is($session->error, '', 'slate_cache_flush() removes them');
is(count_keys('slate:session:*'), '0', 'all');
cmp_ok($calls, '>=', $many / $most, 'in steps');
is_well('at the end');

SlateNode::unharmed($node);
done_testing();
