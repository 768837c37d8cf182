# Somebody closes a connection on which a session has just begun to introduce itself:
# that may have been this one alone.  Its commit is told later, and nobody else stays
# away from Redis; but a server that does so again is not asked by all for a while.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url, conf => { 'slate_cache.timeout' => 30000, 'slate_cache.connect_timeout' => 30000 });
SlateNode::wait_until_trusted($node);
SlateNode::create_items($node, 9);
my ($session, $other) = map { SlateSession->new($node) } 1 .. 2;
$other->query(q{UPDATE item SET name = 'x' WHERE id = 1});

sub opened { return $node->safe_psql('postgres', q{SELECT count(*) FROM slate_cache.events WHERE kind = 'breaker opened'}) }

$proxy->hang_up(qr/\r\nSETNAME\r\n/);
$session->query(q{UPDATE item SET name = 'cut' WHERE id = 2});
is($session->error, '', 'the commit does not fail');
cmp_ok($proxy->matches, '>', 0, 'its connection was closed');
is(opened(), '0', 'and nobody stays away');
$other->query(q{UPDATE item SET name = 'beside' WHERE id = 3});
is($redis->field('shop:item:3', 'name'), 'beside', 'that of another is pushed at once');
$session->query(q{UPDATE item SET name = 'again' WHERE id = 4});
is($session->error, '', 'nor does the next one fail');
is(opened(), '1', 'that it is closed again is for all');
$proxy->pass;
SlateJournal::wait_until_told($node);
isnt($redis->field('shop:item:2', 'name'), 'old', 'what was not pushed is removed');
isnt($redis->field('shop:item:4', 'name'), 'old', 'so is the next');
SlateRedis::wait_until(
    sub { $session->query(q{UPDATE item SET name = 'back' WHERE id = 2}); ($redis->field('shop:item:2', 'name') // '') eq 'back' },
    'then it is pushed');
SlateNode::unharmed($node);
done_testing();
