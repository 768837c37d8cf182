# What somebody who is called at night finds in slate_cache.events and
# slate_cache.progress: what has happened, in its order and with its reasons, and
# how far the worker has got in the middle of its work.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

use constant ROWS => 300;

# Nothing fails by itself: whoever waits for Redis waits for a minute.
my $redis = SlateRedis->new(config => { requirepass => 'open-sesame' });
my $proxy = SlateProxy->new($redis);
my $server = $proxy->url =~ s{^redis://(.*)/0$}{$1 db 0}r;
my $node = SlateNode->start('main', redis => $proxy->url =~ s{//}{//:open-sesame@}r,
    conf => { 'slate_cache.timeout' => 60000, 'slate_cache.connect_timeout' => 60000, 'restart_after_crash' => 'on',
        'slate_cache.direct' => 'off' });
my $session = SlateSession->new($node);
my $flusher = SlateSession->new($node);
my $mark = '-infinity';
my $stopped;
END { kill 'CONT', $stopped if $stopped }

# What has happened since the last call of begin(), the first first.
sub begin { $mark = $node->safe_psql('postgres', 'SELECT clock_timestamp()'); return }

sub story
{
    my ($what) = @_;
    my $rows = $node->safe_psql('postgres', 'SELECT ' . ($what // 'kind') . " FROM slate_cache.events WHERE at > '$mark'");
    return join ', ', reverse split /\n/, $rows;
}

sub wait_for_event
{
    my ($kind) = @_;
    SlateNode::wait_for($node, "SELECT count(*) > 0 FROM slate_cache.events WHERE at > '$mark' AND kind = '$kind'");
    return;
}

sub detail
{
    my ($kind, $what) = @_;
    return $node->safe_psql('postgres', 'SELECT ' . ($what // 'detail')
          . " FROM slate_cache.events WHERE at > '$mark' AND kind = '$kind' LIMIT 1");
}

# Of the worker of this database.
sub progress
{
    my ($what) = @_;
    return $node->safe_psql('postgres', "SELECT $what FROM slate_cache.progress WHERE datname = 'postgres'");
}

sub wait_for_phase
{
    my ($phase) = @_;
    SlateNode::wait_for($node, "SELECT phase FROM slate_cache.progress WHERE datname = 'postgres'", $phase);
    return;
}

my $numbers = 'blocks_done, blocks_total, rows_replayed, patterns, keys_scanned, delayed_since';

sub is_idle
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    wait_for_phase('idle');
    return is(progress($numbers), '|||||', "$what: then nothing is under way");
}

# Redis hears nothing of what a client sends with this pattern in it, nor of
# what that client sends then.  From the last such state to the next nothing
# slips through.
sub hold_next
{
    my ($what) = @_;
    $redis->pause;
    $proxy->release;
    $proxy->hold($what);
    $redis->resume;
    $proxy->wait_until_held;
    return;
}

# Any SCAN but the first.
my $second_scan = qr/SCAN\r\n\$\d+\r\n[1-9]/;

# A new database.
SlateNode::wait_until_trusted($node);
is(story(), 'launcher started, worker started, emptied', 'a server starts, a database gets the extension');
is(story(q{coalesce(datname, '-')}), '-, postgres, postgres', 'where');
is(detail('worker started'), "for $server", 'with which Redis');
is(detail('emptied'), "$server: Redis has no epoch of this database: it is new, or has lost its data", 'and why');
is(progress('pid'), detail('worker started', 'pid'), 'progress shows the same worker');
is_idle('a new database');
SlateNode::create_items($node, ROWS);
$node->safe_psql('postgres', q{
    CREATE TABLE sale (customer int);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
$redis->cli('EVAL', "for i = 1, 2000 do redis.call('SET', 'filler:' .. i, 'x') end", '0');

# Redis is there and refuses: many commits, one event.  The worker is to find
# them all at once.
is_idle('rules');
begin();
$stopped = progress('pid');
kill 'STOP', $stopped;
SlateRedis::wait_until(sub { slurp_file("/proc/$stopped/stat") =~ /\) T / }, 'the worker has stopped');
$redis->cli('ACL', 'SETUSER', 'default', '-evalsha');
$session->query('DO $$ BEGIN FOR i IN 1 .. ' . ROWS
      . q{ LOOP UPDATE item SET name = 'new' WHERE id = i; COMMIT; END LOOP; END $$});
$session->query('INSERT INTO sale VALUES (1)');
is(story(), 'pushes delayed', ROWS . ' commits fail: one event');
like(detail('pushes delayed'), qr/NOPERM/, 'with its reason');
is(detail('pushes delayed', 'pid'), $session->pid, 'and who met it first');
is(progress('delayed_since <= clock_timestamp()'), 't', 'progress shows that pushes are delayed');

# The worker replays them: held before Redis has heard of any row.
kill 'CONT', $stopped;
undef $stopped;
wait_for_phase('waiting for redis');
pass('progress: the worker waits for Redis to accept them');
like(detail('refused'), qr/NOPERM/, 'what it is answered is an event, too');
$proxy->hold(qr/shop:item:/);
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
$proxy->wait_until_held;
is(progress('phase, rows_replayed, blocks_done, patterns'), 'replaying|0|0|', 'progress: a replay has begun');
is(progress('blocks_total > 0 AND since <= clock_timestamp()'), 't', 'progress: of so many blocks');
my $began = progress('since');

# Then in the middle of the walk that ends it.
hold_next($second_scan);
is(progress('phase, rows_replayed, blocks_total - blocks_done, patterns'), 'sweeping|' . (ROWS + 1) . '|0|1',
    'progress: all rows are told, the pattern is looked for');
my $keys = progress('keys_scanned');
cmp_ok($keys, '>=', 500, 'progress: so many keys were looked at');
cmp_ok($keys, '<', $redis->cli('DBSIZE'), 'progress: and not all');
cmp_ok(progress("since > '$began'"), 'eq', 't', 'progress: the walk began later');
is(story(), 'pushes delayed, refused', 'nothing else is an event meanwhile');
$proxy->release;
wait_for_event('replayed');
is(story(), 'pushes delayed, refused, replayed', 'its end is one');
is(detail('replayed'), (ROWS + 1) . ' rows of the journal', 'and says how much it was');
is_idle('replayed');

# A worker that looks at Redis now and then is idle for as long as before.
my $since = progress('since');
my $looks = $redis->calls('get');
SlateRedis::wait_until(sub { $redis->calls('get') > $looks + 4 }, 'the worker has looked at Redis twice');
SlateNode::wait_for($node, "SELECT since FROM slate_cache.progress WHERE datname = 'postgres' AND phase = 'idle'", $since);
pass('idle: for as long as nothing was done');
$redis->pause;
wait_for_phase('looking at redis');
pass('Redis hangs: progress shows who waits for it');
$redis->resume;

# Emptied on request.
is_idle('Redis runs on');
begin();
$proxy->hold($second_scan);
$flusher->send('SELECT slate_cache_flush()');
$proxy->wait_until_held;
is(progress('phase, patterns, keys_scanned >= 500, rows_replayed'), 'emptying|2|t|', 'progress: the namespace is being emptied');
is(story(), 'flush asked', 'that it is asked for is an event');
$proxy->release;
$flusher->finish;
is(story(), 'flush asked, emptied', 'so is its end');
is(detail('flush asked', "pid, detail = 'by ' || current_user"), $flusher->pid . '|t', 'with who has asked');
is(detail('emptied'), "$server: slate_cache_flush() has asked for it", 'and why');
is_idle('emptied');

# Mode async: the ring.
is(progress('ring_bytes, ring_size'), '|', 'progress: no ring yet');
$session->query('SET slate_cache.mode = async');
SlateRedis::wait_until(
    sub {
        $session->query("UPDATE item SET name = 'async' WHERE id = 1");
        return progress('ring_bytes, ring_size') eq '0|4194304';
    },
    'there is a ring');
pass('progress: an empty ring');
is_idle('mode async');
$proxy->hold(qr/shop:item:2\b/);
$session->query("UPDATE item SET name = 'async' WHERE id = 2");
$proxy->wait_until_held;
is(progress('phase, ring_bytes > 0, ring_size'), 'pushing|t|4194304', 'progress: a push waits in it');
$proxy->release;
SlateNode::wait_for($node, "SELECT ring_bytes FROM slate_cache.progress WHERE datname = 'postgres'", '0');
$session->query('RESET slate_cache.mode');
is_idle('pushed');

# Redis restarts, and has lost what it had.
begin();
$redis->restart;
wait_for_event('emptied');
is(join(', ', grep { /trust|emptied/ } split /, /, story()), 'trust lost, emptied', 'Redis restarts');
like(detail('trust lost'), qr/^\Q$server\E: Redis has lost its data$/, 'with what was found');
like(detail('emptied'), qr/^\Q$server\E: /, 'and where');
is_idle('Redis has restarted');

# The worker ends, and another one comes.
begin();
my $worker = progress('pid');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
wait_for_event('worker started');
is(story(), 'worker ended, worker started', 'SIGTERM');
is(detail('worker ended', 'pid, detail'), "$worker|terminated", 'who, and why');
is(progress('pid'), detail('worker started', 'pid'), 'progress shows the other one');
is_idle('SIGTERM');

# Another database, which goes.
$node->safe_psql('postgres', 'CREATE DATABASE other');
begin();
$node->safe_psql('other', 'CREATE EXTENSION slate_cache');
wait_for_event('emptied');
is(story(q{kind || ' ' || datname}), 'worker started other, emptied other', 'another database has events of its own');
is($node->safe_psql('postgres', q{SELECT count(*) FROM slate_cache.progress}), '2', 'and its line in progress');
$node->safe_psql('other', 'DROP EXTENSION slate_cache');
wait_for_event('worker ended');
is(detail('worker ended'), 'the extension was dropped', 'DROP EXTENSION');
is($node->safe_psql('postgres', q{SELECT pid, phase FROM slate_cache.progress WHERE datname = 'other'}), '|no worker',
    'progress: nobody is there');
$node->safe_psql('other', 'CREATE EXTENSION slate_cache');
SlateNode::wait_for($node, q{SELECT pid IS NOT NULL FROM slate_cache.progress WHERE datname = 'other'});
begin();
$node->safe_psql('postgres', 'DROP DATABASE other');
wait_for_event('worker ended');
is(story(q{kind || ' ' || coalesce(datname, 'of nobody')}), 'worker ended of nobody', 'a dropped database has no name');
is(detail('worker ended'), 'a command wants the database for itself', 'DROP DATABASE');
is($node->safe_psql('postgres', q{SELECT string_agg(datname, ' ') FROM slate_cache.progress}), 'postgres',
    'nor a line in progress');

# Without a journal.
begin();
$redis->cli('ACL', 'SETUSER', 'default', '-evalsha');
$session->query('SET slate_cache.journal = off');
$session->query("UPDATE item SET name = 'lost' WHERE id = $_") foreach 1 .. 3;
is(story(), 'pushes lost', 'no journal: three losses are one event');
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
$session->query('RESET slate_cache.journal');

# An outage: Redis is away, and returns as it was.
begin();
$proxy->refuse;
$session->query("UPDATE item SET name = 'away' WHERE id = $_") foreach 1 .. 20;
is($session->error, '', 'an outage: commits succeed');
wait_for_phase('waiting for redis');
pass('progress: the worker waits');
$proxy->pass;
wait_for_event('replayed');

# the first to meet it, the session or the worker, may be cut off alone
like(story(), qr/^(breaker opened, pushes delayed|pushes delayed, breaker opened), breaker closed, replayed$/, 'an outage in its order');
like(detail('breaker opened'), qr/^\Q$server\E: .*(closed|could not|reset)/, 'with what was met');
like(detail('breaker closed'), qr/^\Q$server\E: failures in a row: \d+$/, 'and how often');
is(detail('breaker opened', 'datname'), '', 'the breaker is of no database');
is(detail('pushes delayed', 'datname'), 'postgres', 'pushes are');
like(detail('replayed'), qr/^20 rows/, 'how many they were');
is_idle('an outage');

# The ring turns round: the last 1024 are there, the newest first.
is($node->safe_psql('postgres', q{SELECT bool_and(at >= next) FROM (SELECT at, lead(at) OVER () AS next FROM slate_cache.events) e}),
    't', 'the newest is the first');
is($node->safe_psql('postgres', "SELECT count(*) FROM slate_cache.events WHERE detail LIKE '%open-sesame%'"), '0',
    'the password is in none');
SlateNode::unharmed($node);

# A crash takes the list with it.  The extension's state begins anew.
begin();
$worker = progress('pid');
$session->quit;
$flusher->quit;
kill 'KILL', $worker;
SlateRedis::wait_until(
    sub {
        my ($status, $out) = $node->psql('postgres', qq{SELECT count(*) FROM slate_cache.events
            WHERE kind = 'worker started' AND datname = 'postgres' AND pid <> $worker});
        return $status == 0 && $out eq '1';
    },
    'another worker is there after a crash');
is($node->safe_psql('postgres', "SELECT count(*) FROM slate_cache.events WHERE at < '$mark'"), '0',
    'kill -9: what was before is forgotten');
like(story(), qr/^launcher started, worker started/, 'kill -9: the launcher, and another worker');
isnt(progress('pid'), $worker, 'kill -9: progress shows it');
is_idle('kill -9');

done_testing();
