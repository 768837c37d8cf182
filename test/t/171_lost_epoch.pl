# The worker begins an epoch, and Redis' answer is lost: Redis has taken what the
# table does not hold yet.  A mere restart empties nothing for that.  But a server
# that is left in the middle of being emptied has been told what the one before has
# not, though it never got an epoch: that one, met again, is emptied.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateHistory;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

use constant ROWS => 100;

# The script that begins an epoch is the only one that notes a WAL position.
my $begin = qr/EVALSHA.*slate_cache:wal:/s;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url,
    conf => { 'slate_cache.timeout' => 10000, 'slate_cache.connect_timeout' => 10000 });
SlateNode::create_items($node, ROWS);
SlateHistory::forget_journal($node);

# A rule's keys that are in Redis.
sub warm { return $redis->cli('EVAL', "return #redis.call('KEYS', 'shop:item:*')", 0) }

is(warm(), ROWS, 'all keys are warm');
$node->stop;
$proxy->hang_up($begin, after => 1);
$node->start;
SlateRedis::wait_until(sub { $proxy->matches >= 3 }, 'an epoch is begun three times, and not answered');
$proxy->answer($begin => "-OOM command not allowed\r\n" x 2);    # a tick comes with it
SlateRedis::wait_until(sub { $proxy->matches >= 1 }, 'then it is refused');
isnt($node->safe_psql('postgres', q{SELECT ok FROM slate_cache.health WHERE "check" = 'history'}), 't',
    'a restart, answers lost: Redis is not trusted yet');
$proxy->pass;
SlateNode::wait_until_trusted($node);
is(SlateNode::counter($node, 'emptied'), '0', 'a restart, answers lost: nothing is emptied');
is(warm(), ROWS, 'a restart, answers lost: all keys stay');
SlateHistory::set_again($node, $redis, 'a restart, answers lost');

# The worker is sent to another server, and does not get through emptying it.  Who
# commits meanwhile tells that server what to forget, and that counts.
my $other = SlateRedis->new;
my $way = SlateProxy->new($other);
$way->hold(qr/\r\nSCAN\r\n/i);
SlateNode::set($node, 'slate_cache.url' => $way->url);
$way->wait_until_held;
my $session = SlateSession->new($node);
$session->query("UPDATE item SET name = 'told another' WHERE id = 2");
is(SlateNode::counter($node, 'pushes_delayed'), '0', 'another server is emptied: it takes a change');
is($redis->field('shop:item:2', 'name'), 'old', 'another server is emptied: the first one knows nothing of it');
SlateNode::set($node, 'slate_cache.url' => $proxy->url);
$way->refuse;
SlateNode::wait_until_trusted($node);
is(SlateHistory::wrong_gets($session), '', 'back again: a session that was there gets what is right');
is(SlateHistory::wrong($node, $redis), '', 'back again: no key is wrong');
$session->quit;

# Redis loses the epoch, and there is no worker to mend that: a commit waits for it once, and no
# longer than for anything else.
SlateNode::stop_worker($node);
my ($key) = split /\n/, $redis->all_keys('slate_cache:epoch:*');
$redis->cli('DEL', $key);
my $waits = sub {
    my ($one) = @_;
    $one->query('SELECT pg_sleep(0.01)');    # nobody has heard of Redis for some time
    $one->query("UPDATE item SET name = name || '.' WHERE id = 3");
    return $one->seconds;
};
my $again = SlateSession->new($node);
$again->query("UPDATE item SET name = 'first' WHERE id = 3");
my ($least) = sort { $a <=> $b } map { $waits->($again) } 1 .. 5;
cmp_ok($least, '<', 0.15, 'no worker: only the first commit waits for another epoch');
my ($hurried) = sort { $a <=> $b } map {
    my $session = SlateSession->new($node);
    $session->query("SET slate_cache.timeout = 50; SELECT slate_cache_peek('shop:item:3')");
    $waits->($session);
} 1 .. 3;
cmp_ok($hurried, '<', 0.15, 'no worker: nor does that wait longer than slate_cache.timeout');
SlateNode::continue_worker();

done_testing();
