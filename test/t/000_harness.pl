# The harness itself: a private PostgreSQL with the extension, a private Redis,
# and each way in which the other tests will make Redis fail.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use Test::More;

my $redis = SlateRedis->new(port => 1);
my $node = SlateNode->start('main', redis => $redis);

is($node->safe_psql('postgres', 'SELECT 1'), '1', 'PostgreSQL answers');
is($redis->cli('PING'), 'PONG', 'Redis answers');
is($node->safe_psql('postgres', 'SHOW slate_cache.url'), $redis->url, 'the url is set');
is( $node->safe_psql('postgres', "SELECT extname FROM pg_extension WHERE extname = 'slate_cache'"),
    'slate_cache', 'the extension is created');
like($redis->url(tcp => 1, db => 3), qr{^redis://127\.0\.0\.1:\d+/3$}, 'a TCP address');

# The server runs from the private installation.
my $bindir = $node->config_data('--bindir');
unlike($bindir, qr{^/usr/}, 'the installation is private');

my $pid = $redis->pid;
$redis->cli('SET', 'k', 'v');
$redis->pause;
$redis->resume;
is($redis->cli('GET', 'k'), 'v', 'pause and resume keep the data');
$redis->restart;
isnt($redis->pid, $pid, 'restart: another process');
is($redis->cli('GET', 'k'), '', 'restart: empty');
$redis->kill9;
like($redis->cli('PING'), qr/Could not connect/, 'killed');
$redis->start;
$redis->config(requirepass => 'secret');
is($redis->cli('PING'), 'PONG', 'password: cli uses it');
like($redis->url(tcp => 1), qr/:secret@/, 'password: url has it');

# A Unix socket's url has no room for it.
$redis->config(requirepass => '');
is($redis->cli('PING'), 'PONG', 'no password: cli uses none');

# Even a paused server ends with its object.
my $other = SlateRedis->new;
$pid = $other->pid;
$other->pause;
undef $other;
ok(!kill(0, $pid), 'a paused server ends');

my $testing = SlateNode->start('testing', redis => $redis, testing => 1);
like($testing->config_data('--bindir'), qr{/testing/}, 'the testing build has its own installation');

done_testing();
