# slate_cache.mode = strict, and a failover: while there is no master each
# transaction fails, in time, and nothing of it is committed; then the same
# session goes on, and the new master has nothing old.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSentinel;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep time);

# What a busy machine may add to any wait.
use constant SLACK => 5;

my $group = SlateSentinel->new(replicas => 1, sentinels => 1);
my $node = SlateNode->start('main', redis => $group->url,
    conf => { 'slate_cache.timeout' => 1000, 'slate_cache.connect_timeout' => 1000 });
SlateNode::create_items($node, 20);
my $session = SlateSession->new($node);
$session->query("\\set VERBOSITY verbose\nSET slate_cache.mode = 'strict'");
my $reader = SlateSession->new($node);
my $changes = 0;
my $committed = 'old';
my $slowest = 0;
my %errors;

sub row { return $reader->query('SELECT name FROM item WHERE id = 1') }

# True if it was committed.
sub change
{
    my $name = 'change ' . ++$changes;
    $session->query("UPDATE item SET name = '$name' WHERE id = 1");
    $slowest = $session->seconds if $session->seconds > $slowest;
    if ($session->error eq '') { $committed = $name; return 1 }
    $errors{ $session->error =~ /ERROR:  (\w+): / ? $1 : $session->error }++;
    return 0;
}

sub all_keys { return map { "shop:item:$_" } 1 .. 20 }
sub marks { return $_[0]->cli('EVAL', q{return #redis.call('KEYS', 'slate_cache:marks:*') + #redis.call('KEYS', 'slate_cache:marked')}, '0') }

my $master = $group->master;
SlateRedis::wait_until(sub { change() && $master->field('shop:item:1', 'name') eq $committed }, 'a change arrives');
pass('a master: strict commits write through');

# It dies.
$master->kill9;
($slowest, %errors) = (0);
ok(!change(), 'no master: a transaction fails');
is(row(), $committed, 'and is not committed');
like($session->error, qr/^DETAIL:  sentinel master \S+.* db 0: .+^HINT:  .*slate_cache\.mode/ms, 'it says where, why, and what can be done');
my ($failed, $wrong) = (1, '');
my $start = time;
my $new;
until (change() || time > $start + 60)
{
    $failed++;
    $wrong ||= row() if row() ne $committed;
    sleep 0.05;
}
note(sprintf 'committed again after %.1f s and %d failures, the slowest took %.1f s', time - $start, $failed, $slowest);
is($wrong, '', 'none that has failed is committed');
is(join(' ', keys %errors), '08006', 'all have failed with that error');
cmp_ok($slowest, '<', 2 + SLACK, 'in time');
$new = $group->wait_for_failover($master);
like($new->field('shop:item:1', 'name'), qr/^(?:\Q$committed\E)?$/, 'another master: the same session commits, and nothing old is there');
SlateRedis::wait_until(
    sub {
        change() or return 0;
        my $name = $new->field('shop:item:1', 'name');
        $wrong ||= $name if $name ne '' && $name ne $committed;
        return $name eq $committed;
    },
    'a change arrives');
is($wrong, '', 'at no time');
is(row(), $committed, 'and strict commits write through again');

# Nothing stays marked there.
SlateRedis::wait_until(sub { marks($new) eq '0' }, 'nothing is marked');
pass('nothing stays marked');
SlateRedis::wait_until(
    sub {
        $reader->query(q{SELECT count(*) FROM slate_cache_mget(ARRAY['} . join("','", all_keys()) . q{'])});
        return $new->cli('EXISTS', all_keys()) eq '20';
    },
    'all keys are filled');
pass('all keys can be filled');
SlateNode::unharmed($node);
done_testing();
