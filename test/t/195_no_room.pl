# Mode async where the server cannot make shared memory for the ring: sessions wait for Redis
# as in mode commit, and the worker lives on, with all that it has to do.  And where it has
# no room for workers.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'dynamic_shared_memory_type' => 'mmap', 'slate_cache.timeout' => 10000 });
SlateNode::create_items($node, 9);
SlateNode::wait_until_trusted($node);
my ($async, $commit, $look) = map { SlateSession->new($node) } 1 .. 3;
my $worker = $look->query(q{SELECT pid FROM slate_cache.progress});
my $folder = $node->data_dir . '/pg_dynshmem';

# Who is told that there is no ring asks for it.
chmod 0500, $folder;
$async->query(q{SET slate_cache.mode = async});
$async->query(q{UPDATE item SET name = 'async' WHERE id = 1});
is($async->error, '', 'a commit succeeds');
is($redis->field('shop:item:1', 'name'), 'async', 'and has waited for Redis');
SlateRedis::wait_until(sub { SlateNode::messages($node, qr/cannot make room for pushes of mode async/) }, 'the log says so');
like(SlateNode::log_text($node), qr/HINT:  Lower slate_cache.ring_size/, 'with a hint');

# What is left to the worker is done.
$redis->cli('ACL', 'SETUSER', 'default', '-evalsha');
$commit->query(q{UPDATE item SET name = 'newer' WHERE id = 3});
is($redis->field('shop:item:3', 'name'), 'old', 'a push fails');
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
SlateRedis::wait_until(sub { $redis->field('shop:item:3', 'name') ne 'old' }, 'the worker replays it');
$async->query(q{UPDATE item SET name = 'again' WHERE id = 1});
is($redis->field('shop:item:1', 'name'), 'again', 'mode async still waits');
SlateJournal::wait_until_told($node);
is($look->query(q{SELECT pid FROM slate_cache.progress}), $worker, 'all by the same worker');
is(scalar(SlateNode::messages($node, qr/cannot make room/)), 1, 'which does not try again and again');
chmod 0700, $folder;

# There is one, but its file has been cleaned away: who has not mapped it does without.
$_->quit foreach $async, $commit, $look;
$node->restart;
SlateNode::wait_until_trusted($node);
($async, $commit, $look) = map { SlateSession->new($node) } 1 .. 3;
$async->query(q{SET slate_cache.mode = async; UPDATE item SET name = 'mapped' WHERE id = 1});
SlateRedis::wait_until(sub { $redis->field('shop:item:1', 'name') eq 'mapped' }, 'the worker has told it');
my ($ring) = sort { -s $b <=> -s $a } glob "$folder/mmap.*";
cmp_ok(-s $ring, '>=', 4096 * 1024, 'there is a ring');
unlink $ring or die "$ring: $!";
$commit->query(q{SET slate_cache.mode = async; UPDATE item SET name = 'unmapped' WHERE id = 1});
is($commit->error, '', 'a session that cannot map it commits');
is($redis->field('shop:item:1', 'name'), 'unmapped', 'and has waited for Redis');
is($look->query(q{SELECT ring_bytes IS NULL FROM slate_cache.progress}), 't', 'nor can it tell what is in there');
$async->query(q{UPDATE item SET name = 'mapped still' WHERE id = 1});
SlateRedis::wait_until(sub { $redis->field('shop:item:1', 'name') eq 'mapped still' }, 'who has it mapped goes on');

# Nobody waits for a worker for ever.  A database that takes no connections has none.
$node->safe_psql('postgres', 'CREATE DATABASE closed');
$node->safe_psql('closed', 'CREATE EXTENSION slate_cache');
my $inside = SlateSession->new($node, database => 'closed');
$inside->query('SELECT slate_cache_flush()');
is($inside->error, '', 'flush: there is a worker');
$node->safe_psql('postgres', q{ALTER DATABASE closed ALLOW_CONNECTIONS false;
    SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'slate_cache worker' AND datname = 'closed'});
$inside->query('SELECT slate_cache_flush()');
like($inside->error, qr/no slate_cache worker.*DETAIL:  The launcher has started none/s, 'flush: there is none any more');
$inside->quit;

# Nor where there is no room for any background worker.
$_->quit foreach $async, $commit, $look;
$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
$node->restart;
my ($repair, $flush) = map { SlateSession->new($node) } 1 .. 2;
$repair->send(q{\set VERBOSITY verbose
SELECT slate_cache_repair()});
$flush->query(q{SELECT slate_cache_flush()});
like($flush->error, qr/this database has no slate_cache worker.*DETAIL:  The launcher, which would start one, is not running/s, 'flush: there is none');
$repair->finish;
like($repair->error, qr/55000.*this database has no slate_cache worker.*HINT:  Raise max_worker_processes/s, 'repair: likewise');

SlateNode::unharmed($node);
done_testing();
