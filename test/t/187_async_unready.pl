# Mode async: a session has reserved room in the ring, and has not written there
# yet; another one has pushed behind it.  The worker cannot send either, and the
# journal keeps what they have told it: if the server crashes then, that is all
# that is left.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, testing => 1,
    conf => { 'slate_cache.mode' => 'async', 'slate_cache.timeout' => '30s' });
SlateNode::create_items($node, 5);

my ($late, $slow, $gate) = map { SlateSession->new($node) } 1 .. 3;

sub name { return $redis->field("shop:item:$_[0]", 'name') }

sub rows_in { return $gate->query("SELECT count(*) FROM slate_cache.$_[0]") }

# The advisory locks (7351, n) of the points, see src/pause.h.
my %locks = (before_publish => 2, before_ready => 7);

sub hold
{
    my ($session, $point, $id) = @_;
    $gate->query("SELECT pg_advisory_lock(7351, $locks{$point})");
    $session->query("SET slate_cache.pause_at = '$point'");
    $session->send("UPDATE item SET name = 'told' WHERE id = $id");
    SlateNode::wait_for($node, "SELECT count(*) FROM pg_locks
        WHERE locktype = 'advisory' AND NOT granted AND objid = $locks{$point}", '1');
    return;
}

# Commits of this session are in the journal, and not in the ring.
my $plain = SlateSession->new($node);
$plain->query("SET slate_cache.mode = 'commit'");

# A session pushes by itself until there is a ring.
SlateRedis::wait_until(sub {
    $slow->query("UPDATE item SET name = clock_timestamp() WHERE id = 3");
    return $node->safe_psql('postgres', q{SELECT ring_size FROM slate_cache.progress WHERE datname = 'postgres'}) ne '';
}, 'there is a ring');
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
SlateNode::wait_for($node, q{SELECT count(*) FROM
    (SELECT FROM slate_cache.journal_a UNION ALL SELECT FROM slate_cache.journal_b) j}, '0');
$gate->query("SELECT slate_cache_get('shop:item:' || id) FROM item");
is(name(1) . name(2), 'oldold', 'the keys are cached');

# One has written its row, and has not come to the ring yet, when the worker has
# the others write to the other table.
hold($slow, 'before_publish', 1);
my ($its_table, $other_table) = rows_in('journal_a') > 0 ? qw(journal_a journal_b) : qw(journal_b journal_a);
SlateRedis::wait_until(sub {
    $plain->query("UPDATE item SET name = clock_timestamp() WHERE id = 4");
    return rows_in($other_table) > 0;
}, 'the other table is written to');

# The other is on its way into the ring; the first comes behind it.
hold($late, 'before_ready', 2);
$gate->query("SELECT pg_advisory_unlock(7351, $locks{before_publish})");
$slow->finish;
is($slow->error, '', 'the commit has left its push to the worker');
SlateNode::wait_for_a_round($node);
is(name(1), 'old', 'which cannot send it yet');
cmp_ok(rows_in($its_table), '>', 0, 'and keeps its row in the journal');

# The ring is gone.
$node->stop('immediate');
$node->start;
SlateNode::wait_until_trusted($node);
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
is(name(1) . name(2), '', 'after a crash neither key is old');
done_testing();
