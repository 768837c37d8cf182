# A Redis so far away that connecting to it takes a good part of the time that a
# commit has: what a new session commits gets there by itself, nothing is left to
# the worker, and the breaker stays closed.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

# To connect takes a round trip, and so does a push: a third one would not fit in.
use constant { TIMEOUT => 4000, ONE_WAY => 690 };

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url,
    conf => { 'slate_cache.timeout' => TIMEOUT, 'slate_cache.connect_timeout' => TIMEOUT });
SlateNode::create_items($node, 9);
SlateNode::wait_until_trusted($node);

# Nobody has heard of Redis lately, and nobody will push in the session's place.
SlateNode::wait_for_a_round($node);
SlateNode::stop_worker($node);
$proxy->delay(requests => [ ONE_WAY, ONE_WAY ], replies => [ ONE_WAY, ONE_WAY ]);

foreach my $id (1, 2)
{
    my $session = SlateSession->new($node);
    foreach my $name ('first', 'second')
    {
        $session->query("UPDATE item SET name = '$name' WHERE id = $id");
        is($session->error, '', "session $id: its $name commit ends well");
        is($redis->field("shop:item:$id", 'name'), $name, 'and Redis has it');
        note(sprintf 'it took %.1f s', $session->seconds);
    }
}
is($node->safe_psql('postgres', 'SELECT pushes_delayed, pushes_lost FROM slate_cache.stats'), '0|0', 'nothing is late');
is($node->safe_psql('postgres', q{SELECT ok FROM slate_cache.health WHERE "check" = 'breaker'}), 't', 'the breaker is closed');

SlateNode::continue_worker();
$proxy->pass;
SlateNode::unharmed($node);
done_testing();
