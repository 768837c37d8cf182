# A long outage: many rows change, in large transactions and in small ones.  The
# memory of backends and worker stays as it was, the journal grows with what was
# changed and no faster, and afterwards all of it is right and the journal small
# again.  200000 rows; a million with SLATE_LONG.
use strict;
use warnings;
use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateCheck;
use SlateClient;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(time);

# Changed by large transactions, changed one by one, and not changed.
my $rows = $ENV{SLATE_LONG} ? 1_000_000 : 200_000;
my $steps = 10;
my $per_transaction = 5000;
my $singly = $rows / 20;
my $untouched = 1000;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => {
    'slate_cache.max_journal' => '1GB', max_wal_size => '4GB', autovacuum => 'off' });
$node->safe_psql('postgres', qq{
    CREATE TABLE item (id int PRIMARY KEY, name text) WITH (fillfactor = 50);
    INSERT INTO item SELECT i, 'old' FROM generate_series(1, $rows + $singly + $untouched) i;
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'])});
my $large = SlateSession->new($node);
my $small = SlateSession->new($node);
my $workers = q{FROM pg_stat_activity WHERE backend_type = 'slate_cache worker' AND datname = 'postgres'};
SlateNode::wait_for($node, "SELECT count(*) = 1 $workers");
my $worker = $node->safe_psql('postgres', "SELECT pid $workers");

# What is the process's own, in kB: not what it shares with others, which grows
# with each buffer it looks at.
sub memory
{
    my ($pid) = @_;
    my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s*(\d+) kB/m;
    return $kb;
}

sub journal_bytes
{
    return $node->safe_psql('postgres',
        q{SELECT pg_relation_size('slate_cache.journal_a') + pg_relation_size('slate_cache.journal_b')});
}

# Everything is cached; Redis hangs.
SlateCheck::store($node, $redis, 'item', 'shop:item:{id}');
$_->query("UPDATE item SET name = 'new' WHERE id = $rows") foreach $large, $small;
$node->safe_psql('postgres', 'SELECT slate_cache_stats_reset()');
$redis->pause;

my (@backends, @workers, @journal);
my $errors = '';
my $began = time;
foreach my $step (0 .. $steps - 1)
{
    my $from = $step * $rows / $steps;
    my $to = $from + $rows / $steps;
    $large->send(qq{DO \$\$ BEGIN
        FOR i IN $from .. $to - 1 BY $per_transaction LOOP
            UPDATE item SET name = 'changed' WHERE id > i AND id <= i + $per_transaction;
            COMMIT;
        END LOOP; END \$\$});
    my $first = $rows + $step * $singly / $steps;
    $small->send(qq{DO \$\$ BEGIN
        FOR i IN $first + 1 .. $first + $singly / $steps LOOP
            UPDATE item SET name = 'changed' WHERE id = i;
            COMMIT;
        END LOOP; END \$\$});
    foreach my $session ($large, $small)
    {
        $session->finish;
        $errors .= $session->error;
    }
    push @backends, memory($large->pid) + memory($small->pid);
    push @workers, memory($worker);
    push @journal, journal_bytes();
}
my $changed = $rows + $singly;
my $seconds = time - $began;
is($errors, '', 'no transaction fails');
is($node->safe_psql('postgres', "SELECT count(*) FROM item WHERE name = 'changed'"), $changed, 'all are there');
note(sprintf '%d rows in %.1f s, %d in large transactions, %d one by one', $changed, $seconds, $rows, $singly);
note("memory of the backends, kB: @backends");
note("memory of the worker, kB: @workers");
note("journal, bytes: @journal");

# From the second step on, when what is kept for the next time has been made.
my $slack = 4096;
cmp_ok(max(@backends[ 2 .. $steps - 1 ]), '<', $backends[1] + $slack, "the backends' memory stays as it was");
cmp_ok(max(@workers[ 2 .. $steps - 1 ]), '<', $workers[1] + $slack, "so does the worker's");

# A key has up to 16 bytes here.
my $bytes = $journal[-1] / $changed;
note("journal, bytes a changed row: $bytes");
cmp_ok($bytes, '<', 64, 'the journal has little but the keys');
my ($half, $rest) = ($journal[ $steps / 2 - 1 ], $journal[-1] - $journal[ $steps / 2 - 1 ]);
cmp_ok($rest, '<', 1.5 * $half + 1e6, 'it does not grow faster in the second half');
is( $node->safe_psql('postgres', 'SELECT pushes_lost, pushes_delayed FROM slate_cache.stats'),
    '0|' . ($rows / $per_transaction + $singly), 'each transaction is known to be late');
is( $node->safe_psql('postgres', 'SELECT count(DISTINCT xid) FROM slate_cache.journal'),
    $rows / $per_transaction + $singly, 'and shown to be in doubt');

# Redis is back; the worker's memory while it works, and what it leaves of Redis
# to others: at least half of its time, and an answer after a step at most.
my $ended = time;
$redis->resume;
$redis->cli('CONFIG', 'RESETSTAT');
my $other = SlateClient->new($redis);
my (@replaying, @answers);
SlateRedis::wait_until(
    sub {
        push @replaying, memory($worker);
        foreach (1 .. 20)
        {
            my $asked = time;
            $other->ask('GET', 'shop:item:' . ($changed + 1));
            push @answers, time - $asked;
        }
        return $node->safe_psql('postgres', 'SELECT count(*) FROM slate_cache.journal') == 0;
    },
    'the journal is empty');
my $replayed_in = time - $ended;
note(sprintf 'empty after %.1f s', $replayed_in);
my ($calls, $busy) = $redis->cli('INFO', 'commandstats') =~ /^cmdstat_evalsha:calls=(\d+),usec=(\d+)/m;
@answers = sort { $a <=> $b } @answers;
note(sprintf '%d scripts took %.2f s of Redis; of %d answers to others the median took %.1f ms, the last %.1f ms',
    $calls, $busy / 1e6, scalar @answers, 1000 * $answers[ @answers / 2 ], 1000 * $answers[-1]);
cmp_ok($busy / 1e6 / $replayed_in, '<', 0.55, 'meanwhile Redis has half of its time for others');
cmp_ok($answers[ @answers / 2 ], '<', 0.02, 'who are answered soon');
note("memory of the worker meanwhile, kB: at most " . max(@replaying));
cmp_ok(max(@replaying), '<', $workers[1] + 4 * $slack, "the worker's memory stays small while it replays");

SlateCheck::all_right($node, $redis, 'item', 'shop:item:{id}', name => 'afterwards no key is wrong');
is(SlateCheck::present($redis, map { "shop:item:$_" } $changed + 1 .. $changed + $untouched), $untouched,
    'what was not touched is warm');
is( $node->safe_psql('postgres', 'SELECT pushes_lost, emptied FROM slate_cache.stats'), '0|0',
    'nothing is lost, and the namespace was not emptied');
cmp_ok(SlateNode::counter($node, 'replayed'), '>=', $rows / $per_transaction + $singly, 'all rows were replayed');
SlateRedis::wait_until(sub { journal_bytes() < 1e6 }, 'the journal is truncated');
pass('the journal is truncated');

SlateNode::unharmed($node);
done_testing();
