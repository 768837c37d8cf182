# Databases on one Redis: what one has cached under keys that no rule knows, by
# slate_cache_set() or slate_cache_fetch(), another leaves alone when it empties
# its namespace, as it does when the extension is created, or at a flush.  By a
# pattern they go whosever they are.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);
$node->safe_psql('postgres', 'CREATE DATABASE neighbour');

my @kept = qw(slate:session:7 hand:ours fetched:ours rule:1);
$node->safe_psql('postgres', q{
    CREATE TABLE ours (id int PRIMARY KEY);
    SELECT slate_cache_attach('ours', row_keys => ARRAY['rule:{id}']);
    INSERT INTO ours VALUES (1);
    SELECT slate_cache_set('slate:session:7', '7'), slate_cache_set('hand:ours', '1');
    SELECT slate_cache_fetch('fetched:ours', 'SELECT 1')});

sub are_there
{
    my ($what, @keys) = @_;
    is(join(' ', grep { $redis->cli('EXISTS', $_) eq '1' } @kept, qw(hand:theirs fetched:theirs)),
        join(' ', @keys), $what);
    return;
}

# Whatever the worker has to do when the extension is new, it has done.
my $well = q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('worker', 'history', 'journal')};
are_there('at first', @kept);
$node->safe_psql('neighbour', q{CREATE EXTENSION slate_cache});
SlateNode::wait_for($node, $well, 't', 'neighbour');
is($node->safe_psql('neighbour', 'SELECT slate_cache_repair()'), '0', 'the neighbour has nothing to do');
are_there('a neighbour has come', @kept);

$node->safe_psql('neighbour', q{
    SELECT slate_cache_set('hand:theirs', '1');
    SELECT slate_cache_fetch('fetched:theirs', 'SELECT 1')});
are_there('and has set keys', @kept, 'hand:theirs', 'fetched:theirs');
$node->safe_psql('neighbour', 'SELECT slate_cache_flush()');
are_there('its flush takes its own', @kept);

$node->safe_psql('neighbour', q{SELECT slate_cache_set('hand:theirs', '1')});
$node->safe_psql('postgres', q{SELECT slate_cache_invalidate('hand:*')});
are_there('a pattern takes all', qw(slate:session:7 fetched:ours rule:1));
$node->safe_psql('neighbour', q{SELECT slate_cache_set('hand:theirs', '1')});
$node->safe_psql('postgres', 'SELECT slate_cache_flush()');
are_there('our flush takes ours', 'hand:theirs');

done_testing();
