# Sessions that do nothing cost Redis nothing: a connection that is not used for
# slate_cache.idle_timeout is closed, also after an error, and made again when it
# is wanted.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

use constant SESSIONS => 20;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.idle_timeout' => '1s', wal_level => 'replica', max_wal_senders => 2 });
SlateNode::create_items($node, SESSIONS);

# Connections of slate_cache, its worker's among them.
sub connections
{
    my @lines = split /\n/, $redis->cli('CLIENT', 'LIST');
    return scalar grep { /name=slate_cache/ } @lines;
}

my @sessions = map { SlateSession->new($node) } 1 .. SESSIONS;
$_->query("SELECT slate_cache_get('shop:item:1')") foreach @sessions;
$sessions[0]->query('SELECT 1 / 0');
like($sessions[0]->error, qr/division by zero/, 'one of them ends with an error');
$sessions[1]->query('BEGIN; SELECT 1 / 0');
$sessions[1]->query('SELECT 1');
like($sessions[1]->error, qr/current transaction is aborted/, 'another has one more in a transaction that has failed');
$sessions[1]->query('ROLLBACK');
cmp_ok(connections(), '>=', 1, 'the worker has a connection');
SlateRedis::wait_until(sub { connections() == 1 }, 'the connections of idle sessions are closed');
pass('the connections of idle sessions are closed');

my $log = SlateNode::log_size($node);
foreach my $id (1 .. SESSIONS)
{
    $sessions[$id - 1]->query("UPDATE item SET name = 'awake' WHERE id = $id");
}
is(join(' ', map { $redis->field("shop:item:$_", 'name') } 1 .. SESSIONS), join(' ', ('awake') x SESSIONS),
    'each connects again with its commit');
is(scalar(SlateNode::messages($node, qr/WARNING:|ERROR:|could not/, $log)), 0, 'nobody complains');
is($node->safe_psql('postgres', 'SELECT pushes_delayed, pushes_lost FROM slate_cache.stats'), '0|0',
    'nothing was delayed');

# A COMMIT that waits for a standby will want its connection.
my ($waiting) = @sessions;
SlateNode::set($node, synchronous_standby_names => 'nobody');
$waiting->send(q{UPDATE item SET name = 'waiting' WHERE id = 1});
SlateNode::wait_for($node, q{SELECT wait_event FROM pg_stat_activity WHERE pid = } . $waiting->pid, 'SyncRep');
SlateRedis::wait_until(sub { $redis->cli('CLIENT', 'LIST') =~ /name=slate_cache age=\d+ idle=(?:[3-9]|\d\d) / },
    'a connection that has not been used for three seconds');
pass('it is there when those of others would have been closed');
SlateNode::set($node, synchronous_standby_names => '');
$waiting->finish;
is($waiting->error, '', 'the COMMIT returns');
is($redis->field('shop:item:1', 'name'), 'waiting', 'and has been pushed');
is($node->safe_psql('postgres', 'SELECT pushes_delayed, pushes_lost FROM slate_cache.stats'), '0|0', 'at once');
is($node->safe_psql('postgres', q{SELECT count(*) FROM slate_cache.events WHERE kind = 'breaker opened'}), '0',
    'nothing speaks against Redis');
SlateRedis::wait_until(sub { connections() == 1 }, 'its connection is idle again');
pass('its connection is closed when it is idle again');

$_->quit foreach @sessions;
SlateNode::unharmed($node);
done_testing();
