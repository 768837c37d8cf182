# Who stops trying, and who tries again: each url has a breaker of its own, and
# while it is open only the worker looks whether Redis is back, unless the
# worker does not.
use strict;
use warnings;
use IO::Socket::UNIX;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Socket;
use Test::More;
use Time::HiRes qw(time);

my $redis = SlateRedis->new(port => 1, config => { databases => 50 });
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 1000, 'slate_cache.connect_timeout' => 1000 });
SlateNode::create_items($node, 9);
$node->safe_psql('postgres', q{
    CREATE ROLE elsewhere LOGIN SUPERUSER;
    ALTER ROLE elsewhere SET slate_cache.url = 'unix:///nowhere'});
my $session = SlateSession->new($node);
my $elsewhere = SlateSession->new($node, user => 'elsewhere');
my $changes = 0;

sub delivered
{
    my $value = 'change ' . ++$changes;
    $session->query("UPDATE item SET name = '$value' WHERE id = 1");
    return $redis->field('shop:item:1', 'name') eq $value;
}

sub breaker_of
{
    my ($who) = @_;
    return $who->query(q{SELECT detail FROM slate_cache.health WHERE "check" = 'breaker'});
}

# A role whose Redis is away.
my @arrived;
foreach my $i (1 .. 20)
{
    $elsewhere->query("UPDATE item SET name = 'elsewhere' WHERE id = 2");
    push @arrived, delivered() ? 'yes' : 'no';
}
like(breaker_of($elsewhere), qr/failures in a row/, 'a role has a Redis that is away');
is(breaker_of($session), 'closed', 'the breaker of the others is closed');
is(join(' ', @arrived), join(' ', ('yes') x 20), 'and all that they change arrives');

# More urls than breakers, of a Redis that is there.
foreach my $database (1 .. 40)
{
    $redis->cli('-n', $database, 'SET', 'shop:item:2', 'old');
    $elsewhere->query("SET slate_cache.url = '" . $redis->url(db => $database) . q{';
        UPDATE item SET name = name || '!' WHERE id = 2});
}
is(join(',', map { $redis->cli('-n', $_, 'EXISTS', 'shop:item:2') } 1 .. 40), join(',', (0) x 40),
    'forty urls in one session: each loses what is old');
$elsewhere->query(q{SET slate_cache.url = 'unix:///nowhere/1';
    UPDATE item SET name = 'away' WHERE id = 2});
$elsewhere->query(q{SET slate_cache.url = 'unix:///nowhere/2'; SELECT slate_cache_peek('shop:item:2')});
like(breaker_of($elsewhere), qr/failures in a row/, 'those that came late share a breaker');
ok(delivered(), 'which is not that of the first');

# In the place of Redis: notes who calls, and hangs up.
my $notes = PostgreSQL::Test::Utils::tempdir() . '/callers';
my $attendant;
END { kill 'KILL', $attendant if $attendant }

sub begin_to_attend
{
    $redis->stop;
    unlink $redis->socket;
    my $listener = IO::Socket::UNIX->new(
        Local => $redis->socket, Listen => 64) or die "listen: $!";
    append_to_file($notes, '');
    $attendant = fork() // die "fork: $!";
    return if $attendant;
    open my $file, '>>', $notes or POSIX::_exit(1);
    $file->autoflush(1);
    while (my $client = $listener->accept)
    {
        printf $file "%d %d %d\n", unpack('i3', getsockopt($client, SOL_SOCKET, SO_PEERCRED));
    }
    POSIX::_exit(0);
}

sub end_to_attend
{
    kill 'KILL', $attendant;
    waitpid $attendant, 0;
    undef $attendant;
    unlink $redis->socket;
    return;
}

# Those who called since, when the condition holds for them; somebody changes
# something all the while.
sub callers
{
    my ($condition) = @_;
    my $from = -s $notes;
    my @callers;
    SlateRedis::wait_until(
        sub {
            $session->query("UPDATE item SET name = name || '!' WHERE id = 1");
            @callers = slurp_file($notes, $from) =~ /^(\d+) /mg;
            return $condition->(@callers);
        },
        'somebody has called');
    return @callers;
}

my $worker = $node->safe_psql('postgres',
    q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'});
begin_to_attend();

# The first to notice may be anybody, and a connection that is closed once may be one alone.
callers(sub { breaker_of($session) =~ /failures in a row/ });
my @callers = callers(sub { @_ >= 6 });
is(join(' ', grep { $_ != $worker } @callers), '', 'while the breaker is open, only the worker calls');

# A worker that was stopped has its turn for a while yet.
my $stopped = kill 'STOP', $worker;
END { kill 'CONT', $worker if $stopped }
my $began = time;
@callers = callers(sub { grep { $_ != $worker } @_ });
cmp_ok(time - $began, '>', 1, 'a worker that does not gets its time to try');
cmp_ok(scalar(grep { $_ == $session->pid } @callers), '>', 0, 'and then a backend does');
$stopped = 0;
kill 'CONT', $worker;
end_to_attend();

# Redis is back: nobody but the worker finds that out.
$redis->start;
SlateRedis::wait_until(sub { delivered() }, 'a change arrives');
pass('Redis is back: a change arrives');
is(breaker_of($session), 'closed', 'and the breaker is closed');

SlateNode::unharmed($node);
done_testing();
