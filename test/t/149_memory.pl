# Nothing grows: a session that commits, reads and fails again and again takes no more
# memory after a while than before, nor do the worker and Redis.  21000 times each; with
# SLATE_LONG a million commits in modes commit and async, and 102000 times the others
# (set SLATE_TAP_TIME_LIMIT=3600 for that).
#
# A third of each kind of work comes before the first measurement, so that caches and
# buffers are full.  Then processes grow by nothing or a few pages, Redis by some kB
# more or less (in mode async by the rows that a replay has dropped before the first).
# The limit is above that, and below what the smallest leak makes, 32 bytes 14000 times.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

plan skip_all => 'needs /proc/PID/smaps_rollup' unless -r '/proc/self/smaps_rollup';

use constant {
    COMMITS => $ENV{SLATE_LONG} ? 1_002_000 : 21_000,
    TIMES => $ENV{SLATE_LONG} ? 102_000 : 21_000,
    AT_ONCE => 1000,
    LIMIT => 256,    # kB
};

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => {
        'slate_cache.timeout' => '30s', 'slate_cache.connect_timeout' => '30s', log_statement => 'none',
        'slate_cache.ring_size' => '1MB', max_wal_size => '1GB', autovacuum_naptime => '5s' });
$node->safe_psql('postgres', q{
    CREATE TABLE kept (id int PRIMARY KEY, owner int, name text) WITH (fillfactor = 50);
    SELECT slate_cache_attach('kept', row_keys => ARRAY['shop:kept:{id}'], list_keys => ARRAY['shop:list:{owner}']);
    INSERT INTO kept SELECT i, i % 50, 'old' FROM generate_series(1, 500) i;
    CREATE TABLE searched (id int PRIMARY KEY, name text) WITH (fillfactor = 50);
    SELECT slate_cache_attach('searched', drop_keys => ARRAY['shop:search:{id}:*']);
    INSERT INTO searched SELECT i, 'old' FROM generate_series(1, 50) i;
});

# Kinds of work: what is done for each i.
my %work = (
    change => q{
        UPDATE kept SET name = 'new ' || i WHERE id = 1 + i % 500;
        COMMIT;
    },
    drop_patterns => q{
        UPDATE searched SET name = 'new ' || i WHERE id = 1 + i % 50;
        COMMIT;
    },
    hit => q{
        PERFORM slate_cache_get('shop:kept:' || 1 + i % 500);
        PERFORM slate_cache_mget(ARRAY['shop:kept:' || 1 + i % 500, 'shop:list:' || i % 50]);
        PERFORM slate_cache_fetch('shop:fetched', 'SELECT 1 AS one, $1 AS two', '1 hour', 'two');
        COMMIT;
    },
    miss => q{
        PERFORM slate_cache_del('shop:kept:' || 1 + i % 500, 'shop:list:' || i % 50);
        COMMIT;
        PERFORM slate_cache_get('shop:kept:' || 1 + i % 500), slate_cache_get('shop:list:' || i % 50);
        PERFORM slate_cache_get('shop:kept:' || 1001 + i % 500);
        COMMIT;
    },
    fail => q{
        BEGIN
            UPDATE kept SET name = 'never' WHERE id = 1 + i % 500;
            PERFORM 1 / (i - i);
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
        BEGIN
            PERFORM slate_cache_fetch('shop:failed', 'SELECT 1 / $1::int', '1 hour', '0');
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
        BEGIN
            PERFORM slate_cache_set(repeat('k', 10000), '1');
        EXCEPTION WHEN invalid_parameter_value THEN NULL;
        END;
        COMMIT;
        UPDATE kept SET name = 'never' WHERE id = 1 + i % 500;
        ROLLBACK;
    },
);
foreach my $kind (sort keys %work)
{
    $node->safe_psql('postgres', "CREATE PROCEDURE $kind(times int, first int) LANGUAGE plpgsql AS \$\$
        BEGIN FOR i IN first .. first + times - 1 LOOP $work{$kind} END LOOP; END \$\$");
}
my $session = SlateSession->new($node);
my $worker = $node->safe_psql('postgres', 'SELECT pid FROM slate_cache.progress');

# kB of a process that are its own (not shared memory), counted exactly by the kernel.
sub kilobytes
{
    my $text = slurp_file("/proc/$_[0]/smaps_rollup");
    my $sum = 0;
    $sum += $1 while $text =~ /^(?:Anonymous|Swap): +(\d+) kB/mg;
    return $sum;
}

# Redis' own figures, without clients' buffers, which follow the last exchange, and with
# what scripts hold but not their garbage.
sub measure
{
    $redis->cli('EVAL', 'collectgarbage() return 0', '0') eq '0' or BAIL_OUT('Lua keeps its garbage');
    my %info = $redis->cli('INFO', 'memory') =~ /^(\w+):(\d+)\r?$/mg;
    my $bytes = $info{used_memory} - $info{mem_clients_normal} + $info{used_memory_lua};
    return { session => kilobytes($session->pid), worker => kilobytes($worker), Redis => $bytes / 1024 };
}

# Calls the procedure for so many rounds in all.
sub work
{
    my ($procedure, $from, $to, $between) = @_;
    for (my $first = $from; $first < $to; $first += AT_ONCE)
    {
        $session->query("CALL $procedure(" . AT_ONCE . ", $first)");
        $session->error eq '' or BAIL_OUT($session->error);
        $between->() if $between;
    }
    $node->safe_psql('postgres', 'SELECT slate_cache_repair()');
    return;
}

sub grows_not
{
    my ($what, $procedure, $times, $between) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    work($procedure, 0, $times / 3, $between);
    my $before = measure();
    work($procedure, $times / 3, $times, $between);
    my $after = measure();
    foreach my $who (sort keys %$after)
    {
        my $grown = $after->{$who} - $before->{$who};
        note sprintf('%s, %s: %d kB, then %+d', $what, $who, $before->{$who}, $grown);
        cmp_ok($grown, '<', LIMIT, "$what: $who does not grow");
    }
    return;
}

grows_not('mode commit', 'change', COMMITS);
$session->query("SET slate_cache.mode = 'async'");

# The worker's buffers are as large as what it has found in the ring: let that be all.
$redis->pause;
$session->query('CALL change(5000, 0)');
$redis->resume;
grows_not('mode async', 'change', COMMITS);
$session->query("SET slate_cache.mode = 'strict'");
grows_not('mode strict', 'change', TIMES);
$session->query("SET slate_cache.mode = 'commit'");
grows_not('patterns', 'drop_patterns', TIMES);
grows_not('hits', 'hit', TIMES);
grows_not('misses', 'miss', TIMES);
grows_not('errors', 'fail', TIMES);
is($redis->field('shop:kept:500', 'name'), $node->safe_psql('postgres', 'SELECT name FROM kept WHERE id = 500'),
    'what was changed last is there');
grows_not('lost connections', 'change', TIMES, sub { $redis->cli('CLIENT', 'KILL', 'TYPE', 'normal') });

# What was to be done was done.
my $done = $node->safe_psql('postgres',
    'SELECT least(keys_stored, hits, misses), pushes_lost FROM slate_cache.stats');
my ($least, $lost) = split /\|/, $done;
cmp_ok($least, '>=', TIMES, 'keys were stored, hit and missed');
is($lost, 0, 'no push was lost');
SlateNode::unharmed($node);
done_testing();
