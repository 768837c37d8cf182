# What only a broken, or a quite different, server does: each is a failure to
# deliver that costs a connection at most, and the next exchange is in step; and
# what it has not taken the worker tells it again.  For direct pushes see 189_direct.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url,
    conf => { 'slate_cache.timeout' => 2000, 'slate_cache.connect_timeout' => 2000, 'slate_cache.direct' => 'off' });
SlateNode::create_items($node, 9);
$redis->cli('SET', "shop:free:$_", qq("free $_")) foreach 1 .. 9;
my $session = SlateSession->new($node);

# Until the worker has replayed what failed, and the breaker lets a change through.
my $tries = 0;
sub recovers
{
    my ($what) = @_;
    $proxy->pass;
    SlateRedis::wait_until(
        sub { $session->query('SELECT count(*) FROM slate_cache.journal') eq '0' },
        "the journal empties after: $what");
    SlateRedis::wait_until(
        sub {
            $session->query("UPDATE item SET name = 'try " . ++$tries . "' WHERE id = 3");
            return $redis->field('shop:item:3', 'name') eq "try $tries";
        },
        "the session delivers after: $what");
    is($session->query("SELECT slate_cache_get('shop:free:2')"), '"free 2"', "$what: then all is in step");
    return;
}

my $push = qr/\r\nEVALSHA\r\n.*\r\nshop:/s;
my $get = qr/\r\nGET\r\n\$\d+\r\nshop:/;
my @misbehaviours = (
    [ 'MOVED', sub { $proxy->answer($_[0] => "-MOVED 3999 127.0.0.1:7001\r\n") } ],
    [ 'ASK', sub { $proxy->answer($_[0] => "-ASK 3999 127.0.0.1:7001\r\n") } ],
    [ 'CLUSTERDOWN', sub { $proxy->answer($_[0] => "-CLUSTERDOWN Hash slot not served\r\n") } ],
    [ 'NOAUTH on an open connection', sub { $proxy->answer($_[0] => "-NOAUTH Authentication required.\r\n") } ],
    [ 'NOSCRIPT for ever', sub { $proxy->answer($_[0] => "-NOSCRIPT No matching script.\r\n") } ],
    [ 'a reply of another type', sub { $proxy->answer($_[0] => ":1\r\n") } ],
    [ 'an array of another size', sub { $proxy->answer($_[0] => "*2\r\n:1\r\n:0\r\n") } ],
    [ 'a long error', sub { $proxy->answer($_[0] => '-ERR ' . ('x' x 5000) . "\r\n") } ],
    [ 'an error with odd bytes', sub { $proxy->answer($_[0] => "-ERR \e[31m\xff\x01%s%n\r\n") } ],
    [ 'an empty error', sub { $proxy->answer($_[0] => "-\r\n") } ],
    [ 'garbage', sub { $proxy->answer($_[0] => "HTTP/1.1 400 Bad Request\r\n\r\n") } ],
    [ 'a reply too many', sub { $proxy->answer($_[0] => "*3\r\n:1\r\n:0\r\n:0\r\n+OK\r\n") } ],
    [ 'a negative length', sub { $proxy->answer($_[0] => "\$-5\r\n") } ],
    [ 'a huge length', sub { $proxy->answer($_[0] => "*2147483647\r\n") } ],
    [ 'closed before', sub { $proxy->hang_up($_[0]) } ],
    [ 'closed after, without a reply', sub { $proxy->hang_up($_[0], after => 0) } ],
    [ 'a reply cut in the middle', sub { $proxy->hang_up($_[0], after => 6) } ]);

recovers('nothing');
foreach my $misbehaviour (@misbehaviours)
{
    my ($what, $begin) = @$misbehaviour;
    $session->query("SELECT slate_cache_get('shop:item:1')");
    is($redis->cli('EXISTS', 'shop:item:1'), '1', "push, $what: there is a copy");
    $node->safe_psql('postgres', 'SELECT slate_cache_stats_reset()');
    $begin->($push);
    $session->query("UPDATE item SET name = '$what' WHERE id = 1");
    is($session->error, '', "push, $what: the commit succeeds");
    cmp_ok($proxy->matches, '>', 0, "push, $what: the server has misbehaved");
    is( $node->safe_psql('postgres', 'SELECT pushes_delayed, pushes_lost, keys_stored FROM slate_cache.stats'),
        $what eq 'a reply too many' ? '1|0|1' : '1|0|0', "push, $what: it is delayed");
    recovers("push, $what");
    is($redis->cli('EXISTS', 'shop:item:1'), '0', "push, $what: then the copy has gone");

    # The same to readers: lease and fill, then GET itself.
    $redis->cli('DEL', 'shop:item:4');
    $begin->($push);
    is($session->query("SELECT slate_cache_get('shop:item:4')->>'name'"), 'old',
        "lease, $what: the table answers");
    is($session->error, '', "lease, $what: without an error");
    recovers("lease, $what");
    next if $what =~ /another type|another size|too many/;    # these may be values

    $begin->($get);
    is($session->query("SELECT slate_cache_get('shop:item:5')->>'name'"), 'old',
        "get, $what: the table answers");
    is($session->error, '', "get, $what: without an error");
    recovers("get, $what");
}

# A pattern whose second step, dropping what SCAN has found, is refused: the keys
# are still there, so it is not done.
$redis->cli('SET', 'app:1', '1');
$node->safe_psql('postgres', 'SELECT slate_cache_stats_reset()');
$proxy->answer(qr/\r\nEVALSHA\r\n.*\r\napp:/s => "-READONLY You can't write against a read only replica.\r\n");
$session->query("SELECT slate_cache_invalidate('app:*')");
is($session->error, '', 'sweep refused: the commit succeeds');
is($redis->cli('EXISTS', 'app:1'), '1', 'sweep refused: the key is still there');
is(SlateNode::counter($node, 'pushes_delayed'), '1', 'sweep refused: it counts as delayed');
recovers('sweep refused');
is($redis->cli('EXISTS', 'app:1'), '0', 'sweep refused: then the key has gone');
is(SlateNode::counter($node, 'pushes_lost'), '0', 'sweep refused: nothing was lost');

# Words of a server go to the log with no more than printable characters.
unlike(SlateNode::log_text($node), qr/\e/, 'no escape sequence gets into the log');

SlateNode::unharmed($node);
done_testing();
