# A session that is canceled while it learns a table's rules, waiting for a lock on a
# catalog, say, learns them the next time.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => { 'slate_cache.timeout' => 10000 });
SlateNode::create_items($node, 9);
my $locker = SlateSession->new($node);

# What becomes of a new session's first statement.
sub first_statement
{
    my ($statement) = @_;
    my $session = SlateSession->new($node);
    $locker->query('BEGIN; LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE');
    $session->query("SET lock_timeout = '100ms'; $statement");
    like($session->error, qr/canceling statement due to lock timeout/, "$statement: it waits for the lock");
    $locker->query('COMMIT');
    $session->query('RESET lock_timeout');
    return $session;
}

my $session = first_statement(q{UPDATE item SET name = 'never' WHERE id = 1});
is($redis->field('shop:item:1', 'name'), 'old', 'nothing has changed');
$session->query(q{UPDATE item SET name = 'new' WHERE id = 1});
is($session->error, '', 'the next statement succeeds');
is($redis->field('shop:item:1', 'name'), 'new', 'and Redis is told');

$redis->cli('UNLINK', 'shop:item:2');
$session = first_statement(q{SELECT slate_cache_get('shop:item:2')});
is($session->query(q{SELECT slate_cache_get('shop:item:2')->>'name'}), 'old', 'the next one finds the row');
is($session->query(q{SELECT count(value) FROM slate_cache_mget('{shop:item:2,shop:item:3}')}), '2', 'and more of them');

SlateNode::unharmed($node);
done_testing();
