# Patterns with stars in between, and long names that nearly match: to compare all of them takes
# minutes.  Neither a commit waits for that, nor does who ends the worker.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(time);

# What takes minutes takes so much longer than what does not that a slow machine does not matter.
use constant SOON => 30;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);
my $session = SlateSession->new($node);
$session->query(q{SELECT count(slate_cache_set('a:' || repeat('a', 900) || i, '1')) FROM generate_series(1, 500) i});

# In pieces, what is last is at the end: at once.
my $start = time;
$session->query(q{BEGIN; SELECT count(slate_cache_invalidate('*' || repeat('a', 400 + i) || 'b')) FROM generate_series(1, 20) i; COMMIT});
is($session->error, '', 'a commit of patterns with one star');
cmp_ok(time - $start, '<', SOON, 'does not take long');
is($node->safe_psql('postgres', 'SELECT slate_cache_repair() < 10'), 't', 'and is soon done with');

$start = time;
$session->query(q{BEGIN; SELECT count(slate_cache_invalidate('*' || repeat('a', 400 + i) || 'b*c')) FROM generate_series(1, 200) i; COMMIT});
is($session->error, '', 'a commit of patterns with two stars');
cmp_ok(time - $start, '<', SOON, 'does not take long');

# The worker has to go through with it, but not before it may end.
SlateNode::wait_for($node, q{SELECT count(*) FROM slate_cache.progress WHERE phase = 'sweeping'}, '1');
$start = time;
is($node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid, 100000) FROM slate_cache.progress}), 't', 'the worker is ended');
cmp_ok(time - $start, '<', SOON, 'soon');
$session->quit;
$start = time;
$node->stop;
cmp_ok(time - $start, '<', SOON, 'and so is the server');

done_testing();
