# Names that nearly match patterns with stars in between, in what a session has set and
# invalidated itself: to compare all of them takes a minute, and can be canceled.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(time);

# What takes a minute takes so much longer than what does not that a slow machine does not matter.
use constant SOON => 10;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);
$node->safe_psql('postgres', q{
    CREATE TABLE item (id int PRIMARY KEY);
    SELECT slate_cache_attach('item',
        drop_keys => (SELECT array_agg('k:{id}:*' || repeat('a', 400) || n || '*') FROM generate_series(1, 10) n))});

# It is canceled when it has begun.
sub cancel
{
    my ($what, $session, $sql) = @_;
    my ($verb) = $sql =~ /^(\w+)/;
    my $pid = $session->pid;
    $session->send($sql);
    SlateNode::wait_for($node, "SELECT state = 'active' AND query LIKE '$verb%' FROM pg_stat_activity WHERE pid = $pid");
    my $start = time;
    $node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
    $session->finish;
    like($session->error, qr/canceling statement due to user request/, "$what: it is canceled");
    cmp_ok(time - $start, '<', SOON, 'soon');
    return;
}

my $session = SlateSession->new($node);
$session->query(q{BEGIN;
    SELECT count(slate_cache_set('k:1:' || repeat('a', 900) || i, '1')) FROM generate_series(1, 1500) i});
cancel('keys that rules might cover', $session, 'COMMIT');

my $globs = q{SELECT count(slate_cache_invalidate('*' || repeat('a', 400) || i || 'b*')) FROM generate_series(1, 18000) i};
$session->query("BEGIN; SELECT slate_cache_set('k:1:' || repeat('a', 900), '1'); $globs");
cancel('a key that patterns might take away', $session, 'COMMIT');

$session->query("BEGIN; $globs");
cancel('a key that is read', $session, "SELECT slate_cache_get('k:1:' || repeat('a', 900))");
$session->query('ROLLBACK');

is($redis->cli('EVAL', q{return #redis.call('KEYS', 'k:*')}, '0'), '0', 'nothing of it is in Redis');
SlateNode::unharmed($node);
done_testing();
