# A session that is kept from running while Redis answers, for longer than it has
# for that: the answer is there when it runs again, and counts.  Nothing is told
# later, the connection is not lost, and nobody stays away from Redis.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep);

use constant TIMEOUT => 3000;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url,
    conf => { 'slate_cache.timeout' => TIMEOUT, 'slate_cache.near' => 'off' });
SlateNode::create_items($node, 9);
SlateNode::wait_until_trusted($node);
my $session = SlateSession->new($node);
$session->query(q{UPDATE item SET name = 'before' WHERE id = 1});
SlateNode::stop_worker($node);

# Redis has the question; then the session sleeps until the time is over.
sub sleep_through
{
    my ($pattern, $sql) = @_;
    $proxy->hold($pattern);
    $session->send($sql);
    $proxy->wait_until_held;
    kill 'STOP', $session->pid;
    $proxy->release;
    $proxy->pass;
    sleep 2 * TIMEOUT / 1000;
    kill 'CONT', $session->pid;
    return $session->finish;
}

sleep_through(qr/\r\nshop:item:1\r\n/, q{UPDATE item SET name = 'slept' WHERE id = 1});
is($session->error, '', 'the commit ends well');
is($redis->field('shop:item:1', 'name'), 'slept', 'Redis has its change');
is($node->safe_psql('postgres', 'SELECT pushes_delayed, pushes_lost FROM slate_cache.stats'), '0|0',
    'and it knows');
is($proxy->connections, 0, 'by the same connection');
is(sleep_through(qr/\r\nshop:item:1\r\n/, q{SELECT slate_cache_peek('shop:item:1')->>'name'}), 'slept', 'so it is with a read');
is($proxy->connections, 0, 'by the same connection, too');
is($node->safe_psql('postgres', q{SELECT count(*) FROM slate_cache.events WHERE kind = 'breaker opened'}), '0',
    'nobody stays away');
SlateNode::continue_worker();
SlateNode::unharmed($node);
done_testing();
