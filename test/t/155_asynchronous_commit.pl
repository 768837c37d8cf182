# synchronous_commit = off and the journal: after a crash that takes commits
# back, the cache has nothing that the database has lost, and nothing old of
# what it has kept.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

# The WAL writer is kept from doing it by chance.
my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => {
        'slate_cache.timeout' => 5000, 'synchronous_commit' => 'off', 'wal_writer_delay' => '10s',
        'wal_writer_flush_after' => '1GB', 'full_page_writes' => 'off', 'autovacuum' => 'off',
        'restart_after_crash' => 'on', 'bgwriter_lru_maxpages' => 0 });
SlateNode::create_items($node, 60);
$node->safe_psql('postgres', q{
    CREATE TABLE plain (id int PRIMARY KEY, name text);
    INSERT INTO plain VALUES (1, 'old')});
my $session = SlateSession->new($node);

# Keys that are there and not what the table says.
sub wrong
{
    return $node->safe_psql('postgres', q{
        SELECT string_agg(id || ' ' || name || ' ' || value, ', ' ORDER BY id)
        FROM (SELECT id, name, slate_cache_peek('shop:item:' || id) ->> 'name' AS value FROM item) i
        WHERE value <> name});
}

sub crash
{
    $session->quit;
    $node->stop('immediate');
    $node->start;
    SlateJournal::wait_until_told($node);
    $session = SlateSession->new($node);
    return;
}

# Redis refuses every other transaction: half of the values arrive at once, the
# others only by the journal.  The last ones are followed by a crash.
foreach my $round (1 .. 3)
{
    foreach my $id (1 .. 20)
    {
        $redis->cli('ACL', 'SETUSER', 'default', $id % 2 ? '+@all' : '-evalsha');
        $session->query("UPDATE item SET name = 'round $round' WHERE id = $id");
        $session->query("UPDATE plain SET name = 'round $round, $id'");
    }
    $redis->cli('ACL', 'SETUSER', 'default', '+@all');
    crash();
    is(wrong(), '', "crash $round: no key has another value than its row");
    is($session->query(q{SELECT count(slate_cache_peek('shop:item:' || id)) FROM item WHERE id > 20}), '40',
        "crash $round: other keys stay") if $round > 1;

    # The first INSERT is in doubt as well, so its keys may be gone.
    $session->query(q{SELECT slate_cache_get('shop:item:' || id) FROM item});
    SlateJournal::rotate($node);
}

# A reader caches nothing that a crash can take back: not the result of a query
# over a table that has no rules, either.
$session->query("UPDATE plain SET name = 'taken back'");
is($session->query("SELECT slate_cache_fetch('shop:plain', 'SELECT name FROM plain', '1 hour')"), '"taken back"',
    'a query sees a commit that is not flushed');
crash();
my $kept = $session->query('SELECT name FROM plain');
my $cached = $redis->cli('GET', 'shop:plain');
ok($cached eq '' || $cached eq "\"$kept\"", 'the cache is not ahead of what recovery has kept')
  or diag("kept: $kept, cached: $cached");

# Changes of which Redis cannot be told, and a miss that loads them.
$redis->cli('ACL', 'SETUSER', 'default', '-evalsha');
$session->query("UPDATE item SET name = 'not told' WHERE id = 30");
$redis->cli('DEL', 'shop:item:30');
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
SlateRedis::wait_until(
    sub {
        $session->query("SELECT slate_cache_get('shop:item:30')");
        return $redis->cli('EXISTS', 'shop:item:30') || 
          $session->query("SELECT pg_current_wal_flush_lsn() = pg_current_wal_insert_lsn()") eq 't';
    },
    'a reader has filled');
crash();
is(wrong(), '', 'a reader has not cached what a crash takes back');
is($session->query('SELECT pushes_lost, emptied FROM slate_cache.stats'), '0|0', 'nothing counts as lost');
done_testing();
