# A database's worker in a large Redis: what a commit leaves to it, what it drops
# and what it spares, and whose Redis it looks at.
use strict;
use warnings;
use List::Util qw(min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(time);

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 10000, 'slate_cache.connect_timeout' => 10000 });
my $tables = q{
    CREATE TABLE sale (customer int);
    CREATE TABLE saved (customer int, id int, name text, PRIMARY KEY (customer, id));
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*']);
    SELECT slate_cache_attach('saved', row_keys => ARRAY['shop:search:{customer}:row:{id}'])};
$node->safe_psql('postgres', $tables);
my $session = SlateSession->new($node);
my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity
    WHERE backend_type = 'slate_cache worker' AND datname = 'postgres'});
my $stopped;

# A pass takes longer than a commit should.
$redis->cli('EVAL', "for i = 1, 400000 do redis.call('SET', 'filler:' .. i, 'x') end", '0');

END { kill 'CONT', $pid if $stopped }

# Nothing waits for it, and it waits for something.
sub wait_until_idle
{
    SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
    SlateNode::wait_for($node, q{SELECT wait_event_type = 'Extension' AND state IS DISTINCT FROM 'active'
        FROM pg_stat_activity WHERE pid = } . $pid);
    return;
}

# From here on nothing is done in the background.
sub stop_worker
{
    wait_until_idle();
    stop_worker_at_once();
    return;
}

sub stop_worker_at_once
{
    $stopped = kill 'STOP', $pid;
    SlateRedis::wait_until(sub { slurp_file("/proc/$pid/stat") =~ /\) T / }, 'the worker has stopped');
    return;
}

sub continue_worker
{
    $stopped = 0;
    kill 'CONT', $pid;
    return;
}

# Which of the keys that this test uses are there; KEYS would take long.
my @names = sort map { my $customer = $_; map { "$customer:$_" }
    qw(early guarded indexed late mine own row:1 row:2 row:3), 1 .. 20 } 1 .. 6, 1001, 4001;

sub existing
{
    my (@of) = @_;
    return split /\n/, $redis->cli('EVAL', q{
        local found = {}
        for _, name in ipairs(ARGV) do
          if redis.call('EXISTS', 'shop:search:' .. name) == 1 then found[#found + 1] = name end
        end
        return found}, '0', @of);
}

sub keys_are
{
    my ($expected, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is(join(' ', existing(@names)), $expected, $name);
}

sub wait_until_gone
{
    my (@gone) = @_;
    SlateRedis::wait_until(sub { !existing(@gone) }, "the keys @gone have gone");
    return;
}

sub app_sets
{
    $redis->cli('MSET', map { ("shop:search:$_", '"app"') } @_);
    return;
}

sub nonce
{
    my ($key) = @_;
    return $redis->cli('GETRANGE', "slate_cache:guard:{shop:search:$key}", 38, 53);
}

# Until a walk that began after this call is over; keys of customer 0 serve.
sub wait_for_pass
{
    app_sets('0:probe');
    $session->query('INSERT INTO sale VALUES (0)');
    wait_until_gone('0:probe');
    wait_until_idle();
    return;
}

# The first commit does not know yet how large Redis is.
ok($pid, 'pg_stat_activity shows the worker, in its database');
is($session->query(q{SELECT ok FROM slate_cache.health WHERE "check" = 'worker'}), 't', 'so does health');
app_sets((map { "1:$_" } 1 .. 20), '2:mine');
$session->query('SELECT slate_cache_stats_reset(); INSERT INTO sale VALUES (1)');
wait_until_gone(map { "1:$_" } 1 .. 20);
keys_are('2:mine', "keys that an app has SET go without another commit, others' stay");
wait_until_idle();
is($session->query('SELECT sweeps, sweeps_unfinished, pushes_lost, keys_lost FROM slate_cache.stats'), '2|0|0|0',
    'the commit has begun a walk, the worker has made it');

# From now on it is known: all that a commit leaves to the worker waits.
app_sets('1:mine');
$session->query(q{
    SELECT slate_cache_set('shop:search:1:indexed', '1');
    SELECT slate_cache_del('shop:search:1:guarded', 'shop:search:2:guarded');
    INSERT INTO saved VALUES (1, 1, 'before')});
keys_are('1:indexed 1:mine 1:row:1 2:mine', 'keys of every kind');
my %nonces = map { $_ => nonce("$_:guarded") } 1, 2;
like("$nonces{1} $nonces{2}", qr/^[0-9a-f]{16} [0-9a-f]{16}$/, 'and guards without a value');

stop_worker();
$session->query(q{BEGIN;
    SELECT slate_cache_set('shop:search:1:early', '1');
    INSERT INTO sale VALUES (1);
    SELECT slate_cache_set('shop:search:1:late', '1');
    COMMIT});
$session->query("INSERT INTO saved VALUES (1, 2, 'after')");
keys_are('1:late 1:mine 1:row:1 1:row:2 2:mine', 'COMMIT drops at once what an index knows');
is($session->query('SELECT state, patterns FROM slate_cache.journal'), 'patterns|{shop:search:1:*}',
    'the journal shows what waits');
is(nonce('1:guarded'), $nonces{1}, 'and does not look for more');
is(SlateNode::counter($node, 'sweeps'), '2', 'it has not begun a walk');
continue_worker();
wait_until_gone('1:mine');
wait_until_idle();
keys_are('1:late 1:row:2 2:mine',
    'the worker drops the rest; what the same transaction has set later, or a later one written, stays');
is($redis->field('shop:search:1:row:2', 'name'), 'after', 'as it was written');
isnt(nonce('1:guarded'), $nonces{1}, 'a guard without a value has a new nonce');
is(nonce('2:guarded'), $nonces{2}, "others' guards do not");
is(SlateNode::counter($node, 'sweeps'), '3', 'in one pass');

# Patterns whose keys must be gone when COMMIT returns do not wait for the worker.
stop_worker();
app_sets(map { "3:$_" } 1 .. 50);
$session->query(q{BEGIN; SELECT slate_cache_invalidate('shop:search:3:*');
    SELECT slate_cache_set('shop:search:3:own', '1'); COMMIT});
my $walk = $session->seconds;
note("a walk takes $walk seconds");
keys_are('1:late 1:row:2 2:mine 3:own', 'invalidate is done when COMMIT returns, but for what was set after it');
$session->query('TRUNCATE sale');
keys_are('', 'so is TRUNCATE');

# What a handed-over pattern costs; several of them take one pass.
app_sets(map { "$_:mine" } 1 .. 6);
$session->query("BEGIN; INSERT INTO sale VALUES (2); INSERT INTO saved VALUES (2, 1, 'own'); COMMIT");
my @seconds = map { $session->query("INSERT INTO sale VALUES ($_)"); $session->seconds } 1 .. 5;
cmp_ok(min(@seconds), '<', $walk / 2, 'a commit does not take as long as a walk');
is(SlateNode::counter($node, 'sweeps'), '5', 'five commits have begun none');

# Patterns that wait already take no more room; the last of them counts.
$session->query("INSERT INTO saved VALUES (1, 3, 'between')");
$session->query('DO $$ BEGIN FOR i IN 1 .. 1000 LOOP INSERT INTO sale VALUES (1); COMMIT; END LOOP; END $$');
is(SlateNode::counter($node, 'sweeps'), '5', 'nor have a thousand others');
continue_worker();
wait_until_gone(map { "$_:mine" } 1 .. 5);
wait_until_idle();
keys_are('6:mine', 'the worker drops what all of them have left, and what was written between them');
is(SlateNode::counter($node, 'sweeps'), '6', 'in one pass');

# What comes while a pass is under way waits for the next one.
stop_worker();
$session->query('INSERT INTO sale VALUES (1)');
$redis->pause;
continue_worker();
SlateNode::wait_for($node, "SELECT state FROM pg_stat_activity WHERE pid = $pid", 'active');
stop_worker_at_once();
$redis->resume;
$session->query('INSERT INTO sale VALUES (1)');
continue_worker();
SlateNode::wait_for($node, 'SELECT sweeps FROM slate_cache.stats', '8');
pass('a pattern that is dropped again during a pass takes another one');

# Very many, of several transactions.
stop_worker();
app_sets('1001:mine', '4001:mine');
$session->query("INSERT INTO sale SELECT generate_series($_, $_ + 250)") foreach 1000, 2000, 3000, 4000;
keys_are('1001:mine 4001:mine 6:mine', 'a thousand patterns wait');
is($session->query('SELECT pushes_lost, sweeps, sweeps_unfinished FROM slate_cache.stats'), '0|8|0',
    'no commit has walked, none is lost');
continue_worker();
wait_until_gone('1001:mine', '4001:mine');
wait_until_idle();
keys_are('6:mine', 'the worker drops what they match');

# Too many for one transaction: whole rules.
$session->query('INSERT INTO sale SELECT generate_series(1000, 1300)');
wait_until_gone('6:mine');
pass("a transaction of very many patterns drops all keys of their rule");
wait_until_idle();

# Without the sweep.
app_sets('1:mine');
$session->query(q{SELECT slate_cache_set('shop:search:1:indexed', '1')});
$session->query(q{SET slate_cache.sweep = off; INSERT INTO sale VALUES (1); RESET slate_cache.sweep});
is($redis->cli('EXISTS', 'shop:search:1:indexed'), '0', 'sweep off: what an index knows goes');
wait_for_pass();
is($redis->cli('EXISTS', 'shop:search:1:mine'), '1', 'sweep off: what an app has SET stays');

# Another database has a worker of its own, which looks at its own Redis.
$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
$node->safe_psql('postgres', "ALTER DATABASE elsewhere SET slate_cache.url = '" . $redis->url(db => 1) . "'");
$node->safe_psql('elsewhere', "CREATE EXTENSION slate_cache; $tables");
my $elsewhere = SlateSession->new($node, database => 'elsewhere');
SlateRedis::wait_until(
    sub { $elsewhere->query(q{SELECT ok FROM slate_cache.health WHERE "check" = 'history'}) eq 't' },
    'the other database trusts its Redis');
$redis->cli('-n', 1, 'SET', 'shop:search:1:mine', '1');
$elsewhere->query('INSERT INTO sale VALUES (1)');
SlateRedis::wait_until(sub { $redis->cli('-n', 1, 'EXISTS', 'shop:search:1:mine') eq '0' }, 'it has gone');
pass('another database: a pattern is dropped in its Redis');
wait_for_pass();
is($redis->cli('EXISTS', 'shop:search:1:mine'), '1', 'another database: keys of this one stay');

# What is set for a database is what sessions begin with, and workers.
sub worker_elsewhere { return $elsewhere->query(q{SELECT pid FROM slate_cache.progress WHERE datname = 'elsewhere'}) }
my $former = worker_elsewhere();
$node->safe_psql('postgres', "ALTER DATABASE elsewhere SET slate_cache.url = '" . $redis->url(db => 5) . "'");
$elsewhere = SlateSession->new($node, database => 'elsewhere');
is($elsewhere->query(q{SELECT ok FROM slate_cache.health WHERE "check" = 'worker'}), 'f', 'another url for a database: the worker has the former one');
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
SlateRedis::wait_until(
    sub { $elsewhere->query(q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('worker', 'history')}) eq 't' },
    'another one has begun');
isnt(worker_elsewhere(), $former, 'after a reload another worker has it');
like($elsewhere->query(q{SELECT string_agg(detail, ';') FROM slate_cache.events WHERE kind = 'worker ended'}), qr/its settings were changed/,
    'events tell why');

# An extension that is new in a transaction gets its worker afterwards: it does not wait for it.
my @waits = map {
    $node->safe_psql('postgres', "CREATE DATABASE new$_");
    $node->safe_psql('postgres', "ALTER DATABASE new$_ SET slate_cache.url = '" . $redis->url(db => 6) . "'");
    my $new = SlateSession->new($node, database => "new$_");
    $new->query("BEGIN; CREATE EXTENSION slate_cache; $tables; INSERT INTO sale VALUES (1)");
    $new->query('COMMIT');
    $new->seconds;
} 1 .. 3;
cmp_ok((sort { $a <=> $b } @waits)[0], '<', 0.9, 'an extension that is new: its first commit does not wait for a worker');

# A session that goes elsewhere looks there for itself.
my $left = SlateSession->new($node);
$redis->cli('-n', 3, 'SET', 'shop:search:1:mine', '1');
$left->query("SET slate_cache.url = '" . $redis->url(db => 3) . "'; INSERT INTO sale VALUES (1)");
is($redis->cli('-n', 3, 'EXISTS', 'shop:search:1:mine'), '0', 'another url than the worker: the commit looks for itself');
wait_for_pass();
is($redis->cli('EXISTS', 'shop:search:1:mine'), '0', 'another url than the worker: the worker looks in its own Redis');
is($session->query('SELECT pushes_lost, sweeps_unfinished FROM slate_cache.stats'), '0|0', 'nothing is lost');
my $check = q{SELECT ok, detail FROM slate_cache.health WHERE "check" = 'worker'};
like($left->query($check), qr/^f\|process \d+ has another slate_cache\.url than this session/, 'health says so there');
like($session->query($check), qr/^t\|running, process \d+$/, 'and not elsewhere');

$left->query(q{BEGIN; INSERT INTO sale VALUES (1); PREPARE TRANSACTION 'left'});
like($left->error, qr/cannot PREPARE .*HINT:.*slate_cache\.url of the database's worker/s, 'PREPARE is refused there');
$left->query('ROLLBACK');
$left->query(q{SET slate_cache.mode = 'strict'; INSERT INTO sale VALUES (1)});
like($left->error, qr/needs slate_cache's journal and worker/, 'and so is mode strict');

# The worker follows a reload.  Everything moves to the database 2; what waits
# is told there.
stop_worker();
app_sets('5:mine');
$session->query('INSERT INTO sale VALUES (5)');
is($redis->cli('SWAPDB', 0, 2), 'OK', 'Redis moves');
SlateNode::set($node, 'slate_cache.url' => $redis->url(db => 2));
is($redis->cli('-n', 2, 'EXISTS', 'shop:search:5:mine'), '1', 'a pattern waits');
continue_worker();
SlateRedis::wait_until(sub { $redis->cli('-n', 2, 'EXISTS', 'shop:search:5:mine') eq '0' }, 'it has gone');
pass('after a reload with another url it is dropped there');
SlateNode::wait_until_trusted($node);
wait_until_idle();
is($redis->cli('-n', 2, 'SET', 'shop:search:1:mine', '1'), 'OK', 'a key of the new Redis');
is($redis->cli('SET', 'shop:search:1:mine', '1'), 'OK', 'and one of the old');
stop_worker();
$session->query('INSERT INTO sale VALUES (1)');
is($redis->cli('-n', 2, 'EXISTS', 'shop:search:1:mine'), '1', 'commits hand their patterns over again');
continue_worker();
SlateRedis::wait_until(sub { $redis->cli('-n', 2, 'EXISTS', 'shop:search:1:mine') eq '0' }, 'it has gone');
pass('and the worker drops keys there');
is($redis->cli('EXISTS', 'shop:search:1:mine'), '1', 'and not where it was');
is($session->query('SELECT pushes_lost, sweeps_unfinished FROM slate_cache.stats'), '0|0', 'nothing is lost');

SlateNode::unharmed($node);
done_testing();
