# What a real Redis answers when it cannot do what it is told: each is a failure
# to deliver, counted and logged with its reason; commits and reads do not
# fail; and when Redis can again, the journal empties, no old copy is left, and
# the same session delivers.
use strict;
use warnings;
use IO::Socket::UNIX;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new(
    config => { 'key-load-delay' => 0, 'loading-process-events-interval-bytes' => 1024 });
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::create_items($node, 9);
my $session;

# A message is logged every 30 seconds at most, a restart forgets the last one.
sub begin
{
    $session->quit if $session;
    $node->restart;
    SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health
        WHERE "check" IN ('breaker', 'history')});
    $session = SlateSession->new($node);
    $session->query("UPDATE item SET name = 'stale' WHERE id = 1");
    is($redis->field('shop:item:1', 'name'), 'stale', 'all is well at first');
    return;
}

# Expects one failure, and its reason.
sub fails
{
    my ($reason, $what) = @_;
    my $log = SlateNode::log_size($node);
    my $delayed = SlateNode::counter($node, 'pushes_delayed');
    $session->query("UPDATE item SET name = 'new' WHERE id = 1");
    is($session->error, '', "$what: a commit succeeds");
    is(SlateNode::counter($node, 'pushes_delayed'), $delayed + 1, "$what: it counts as delayed");

    # Without memory Redis does not set, but it drops what the worker replays.
    is($session->query('SELECT keys FROM slate_cache.journal'), '{shop:item:1}', "$what: it is in the journal")
      unless $what eq 'no memory';

    # Reads come from the table; they also are where the log is written to.
    is($session->query("SELECT slate_cache_get('shop:item:2')->>'name'"), 'old', "$what: a get succeeds");
    is($session->error, '', "$what: without an error");
    my @lines = SlateNode::messages($node, qr/could not deliver cache changes/, $log);
    is(scalar @lines, 1, "$what: the log says it once");
    like($lines[0] // '', $reason, "$what: with its reason");
    return;
}

sub recovers
{
    my ($what) = @_;
    SlateRedis::wait_until(
        sub { $session->query('SELECT count(*) FROM slate_cache.journal') eq '0' }, 'the journal empties');
    isnt($redis->field('shop:item:1', 'name'), 'stale', "$what over: the journal empties, the old copy has gone");
    SlateRedis::wait_until(
        sub {
            $session->query("UPDATE item SET name = name || '!' WHERE id = 1");
            return $redis->field('shop:item:1', 'name') =~ /^(new|short 3)!+$/;
        },
        'a change arrives');
    pass("$what over: the same session delivers");
    is($session->query("SELECT slate_cache_get('shop:item:1')->>'name'"),
        $node->safe_psql('postgres', 'SELECT name FROM item WHERE id = 1'), "$what over: and reads");
    return;
}

# Whoever asks first, the worker or we.
begin();
$redis->cli('REPLICAOF', '127.0.0.1', '1');
fails(qr/READONLY|is a replica/, 'a replica');
$redis->config('replica-serve-stale-data' => 'no');
is($session->query("SELECT slate_cache_get('shop:item:1')->>'name'"), 'new',
    'a replica without its master: get loads from the table');
$redis->config('replica-serve-stale-data' => 'yes');
$redis->cli('REPLICAOF', 'NO', 'ONE');
recovers('a replica');

# Who ends right after a failure has no next statement to log it with.  New
# connections are not even begun to be used.
begin();
$redis->cli('REPLICAOF', '127.0.0.1', '1');
my $log = SlateNode::log_size($node);
$node->safe_psql('postgres', "UPDATE item SET name = 'short $_' WHERE id = 1") foreach 1 .. 3;
SlateNode::wait_for($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'", '2');
is(scalar(() = SlateNode::messages($node, qr/could not deliver .*: the server is a replica/, $log)), 1,
    'short sessions: the log says it once');
$redis->cli('REPLICAOF', 'NO', 'ONE');
recovers('short sessions');

begin();
$redis->config(maxmemory => 1);
fails(qr/OOM/, 'no memory');
is($redis->cli('EXISTS', 'shop:item:1'), '0', 'no memory: the old value is gone');
is($session->query("SELECT slate_cache_get('shop:item:1')->>'name'"), 'new', 'no memory: get has the new one');
$redis->config(maxmemory => 0);
recovers('no memory');

begin();
is($redis->cli('ACL', 'SETUSER', 'default', '-evalsha'), 'OK', 'a user loses a right');
fails(qr/NOPERM/, 'no permission');
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
recovers('no permission');

# What a new connection asks first.
foreach my $command ('info', 'role')
{
    begin();
    is($redis->cli('ACL', 'SETUSER', 'default', "-$command"), 'OK', "a user may not call $command");
    $redis->cli('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    fails(qr/the server rejected \U$command\E: NOPERM/, "no permission for $command");
    $redis->cli('ACL', 'SETUSER', 'default', '+@all');
    recovers("no permission for $command");
}

begin();
$redis->config(requirepass => 'secret');
$redis->cli('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
fails(qr/NOAUTH/, 'a password is set');
$redis->config(requirepass => '');
recovers('a password is set');

# redis-cli would be one client too many.
begin();
my $only = IO::Socket::UNIX->new(Peer => $redis->socket);
$session->quit;
print $only "CONFIG SET maxclients 1\r\n";
is(scalar <$only>, "+OK\r\n", 'one client is all that Redis takes');
print $only "CLIENT KILL TYPE normal SKIPME yes\r\n";
like(scalar <$only>, qr/^:\d+\r\n/, 'and no other is left');
$session = SlateSession->new($node);
fails(qr/max number of clients/, 'too many clients');
print $only "CONFIG SET maxclients 1000\r\n";
<$only>;
recovers('too many clients');

# A dump that takes seconds to load.
begin();
$redis->cli('EVAL', "for i = 1, 1500 do redis.call('SET', 'filler:' .. i, string.rep('x', 100)) end", '0');
is($redis->cli('SAVE'), 'OK', 'a dump is saved');
$redis->stop;
$redis->{config}{'key-load-delay'} = 1000;
$redis->start(wait => 0);
SlateRedis::wait_until(sub { $redis->cli('GET', 'filler:1') =~ /LOADING/ }, 'Redis loads its dump');
fails(qr/LOADING/, 'a dump is loaded');
like($redis->cli('GET', 'filler:1'), qr/LOADING/, 'which takes longer than that');
$redis->wait_until_up;
recovers('a dump is loaded');

SlateNode::unharmed($node);
done_testing();
