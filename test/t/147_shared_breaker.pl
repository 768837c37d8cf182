# What one session has learnt about Redis being away, all know: no other waits.
# While there is a worker it alone asks whether Redis is back, less and less
# often; if it does not get round to it, a session asks.
use strict;
use warnings;
use List::Util qw(max min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep time);

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);

# Large, so that waiting for it would be seen.
my $timeout = 1500;
my $node = SlateNode->start('main', redis => $proxy->url, conf => {
    'slate_cache.timeout' => $timeout, 'slate_cache.connect_timeout' => $timeout });
SlateNode::wait_until_trusted($node);
SlateNode::create_items($node, 10);
my @sessions = map { SlateSession->new($node) } 1 .. 3;
my ($first, @others) = @sessions;
my $workers = q{FROM pg_stat_activity WHERE backend_type = 'slate_cache worker' AND datname = 'postgres'};
SlateNode::wait_for($node, "SELECT count(*) = 1 $workers");
my $worker = $node->safe_psql('postgres', "SELECT pid $workers");
my ($commits, $errors, $stopped) = (0, '');

END { kill 'CONT', $worker if $stopped }

# Always a change; returns how long it took.
sub change
{
    my ($session) = @_;
    $session->query('UPDATE item SET name = ' . ++$commits . ' WHERE id = 1');
    $errors .= $session->error;
    return $session->seconds;
}

sub breaker_is_closed
{
    return $others[0]->query(q{SELECT ok FROM slate_cache.health WHERE "check" = 'breaker'});
}

# It is the worker who finds out, without any commit.
sub all_deliver
{
    my ($when) = @_;
    SlateNode::wait_for($node, 'SELECT count(*) = 0 FROM slate_cache.journal');
    is(breaker_is_closed(), 't', "$when: the breaker is closed");
    my $delivered = 0;
    foreach my $session (@sessions)
    {
        change($session);
        $delivered++ if $redis->field('shop:item:1', 'name') eq $commits;
    }
    is($delivered, @sessions, "$when: each session delivers at once");
    return;
}

all_deliver('at first');

# A rest of 50 ms, doubled up to a second: some seven in 4 s, and a second one of
# each turn is allowed for.
$proxy->refuse;
change($first);
my $before = $proxy->connections;
my $begun = time;
while (time < $begun + 4) { change($_) foreach @sessions; }
my $asked = $proxy->connections - $before;
note("asked $asked times in 4 s");
cmp_ok($asked, '>', 1, 'refused: Redis is asked again');
cmp_ok($asked, '<', 20, 'refused: now and then');

# The longest rests are a second, a quarter more or less: servers that have lost
# the same Redis do not return to it together.
my ($last, $known, @rests) = (undef, $proxy->connections);
while (@rests < 8)
{
    sleep 0.005;
    my $now = time;
    my $connections = $proxy->connections;
    die 'nobody asks' if $now > ($last // $begun) + 60;
    next if $connections == $known;
    push @rests, $now - $last if defined $last && $now - $last > 0.1;
    ($last, $known) = ($now, $connections);
}
note('rests of ' . join(', ', map { sprintf '%.2f', $_ } @rests) . ' s');
cmp_ok(max(@rests) - min(@rests), '>', 0.08, 'refused: each rest is of another length');
cmp_ok(max(@rests), '<', 3, 'refused: none is long');

# Redis is back, and the worker does not see it.
$stopped = kill 'STOP', $worker;
SlateRedis::wait_until(sub { slurp_file("/proc/$worker/stat") =~ /\) T / }, 'the worker has stopped');
change($first);
$proxy->pass;
$begun = time;
SlateRedis::wait_until(
    sub { change($first); return $redis->field('shop:item:1', 'name') eq $commits },
    'a session delivers');
note(sprintf 'a session delivers after %.2f s', time - $begun);
pass('the worker hangs: a session finds out that Redis is back');
$stopped = 0;
kill 'CONT', $worker;
all_deliver('after the refusals');

# Whoever sends something hears nothing: one commit waits, to connect or for an
# answer.
$proxy->hold(qr/./);
cmp_ok(change($first), '>', $timeout / 5000, 'hung: the first commit waits');
my $next = max(map { change($_) } @sessions, SlateSession->new($node));
note("the slowest of the next commits took $next s");
cmp_ok($next, '<', $timeout / 2000, 'hung: the next ones do not, nor does that of a new session');
is(breaker_is_closed(), 'f', 'hung: the breaker is open');

# The worker asks twice meanwhile.
$before = $proxy->connections;
$begun = time;
my $slowest = 0;
until ($proxy->connections >= $before + 2)
{
    $slowest = max($slowest, map { change($_) } @sessions);
    die 'nobody asks' if time > $begun + 60;
}
note(sprintf '%d commits in %.1f s; the slowest took %.3f s', $commits, time - $begun, $slowest);
cmp_ok($slowest, '<', $timeout / 2000, 'hung: Redis is asked again, and no commit waits for it');
$proxy->release;
all_deliver('after the hang');

is($errors, '', 'no commit fails');
is(SlateNode::counter($node, 'pushes_lost'), '0', 'nothing is lost');
SlateNode::unharmed($node);
done_testing();
