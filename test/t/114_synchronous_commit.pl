# With synchronous_commit = off a crash may take back a commit.  One that Redis
# is told of is flushed first, so that the cache is never ahead of the database.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
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
SlateNode::create_items($node, 2);
my $session = SlateSession->new($node);
$session->query('CREATE TABLE plain (id int PRIMARY KEY, name text); INSERT INTO plain VALUES (1)');

# Whether the WAL up to the transaction's last change is flushed after COMMIT.
sub flushed
{
    my ($sql) = @_;
    $session->query("BEGIN; $sql");
    my $lsn = $session->query('SELECT pg_current_wal_insert_lsn()');
    $session->query('COMMIT');
    return $session->query("SELECT pg_current_wal_flush_lsn() > '$lsn'") eq 't';
}

my @plain = grep { flushed("UPDATE plain SET name = 'n$_'") } 1 .. 10;
cmp_ok(scalar @plain, '<', 10, 'a transaction of which Redis is not told commits asynchronously');
my @told = grep { flushed("UPDATE item SET name = 'n$_' WHERE id = 1") } 1 .. 10;
is(scalar @told, 10, 'one with a changed row is flushed');
@told = grep { flushed("UPDATE plain SET name = 's$_'; SELECT slate_cache_set('shop:free', '$_')") } 1 .. 10;
is(scalar @told, 10, 'so is one that sets a key by hand');
@told = grep { flushed("UPDATE plain SET name = 'i$_'; SELECT slate_cache_invalidate('shop:free:*')") } 1 .. 10;
is(scalar @told, 10, 'or drops a pattern');

# The proof: a crash right after the commit.
$session->query("UPDATE item SET name = 'told' WHERE id = 1");
is($redis->field('shop:item:1', 'name'), 'told', 'Redis has been told');
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT name FROM item WHERE id = 1'), 'told', 'a crash does not take it back');
done_testing();
