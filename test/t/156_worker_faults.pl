# What happens to background workers loses nothing: a Redis that hangs, SIGTERM,
# a reload with another url, fewer places than databases.  None holds a
# transaction open while it waits for Redis.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep time);

# Whoever waits for a Redis that hangs waits for a minute.
my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 60000, 'slate_cache.connect_timeout' => 60000 });
my $refusals = 0;

# What pg_stat_activity says of the worker of a database.
sub worker
{
    my ($database, $what) = @_;
    return $node->safe_psql('postgres', qq{SELECT $what FROM pg_stat_activity
        WHERE backend_type = 'slate_cache worker' AND datname = '$database'});
}

sub wait_for_workers
{
    my ($expected) = @_;
    SlateNode::wait_for($node, q{SELECT string_agg(datname, ' ' ORDER BY datname)
        FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'}, $expected);
    return;
}

# Databases have keys of their own.
sub create_items
{
    my ($database) = @_;
    SlateNode::wait_until_trusted($node, $database);
    SlateNode::create_items($node, 9, $database, $database);
    return;
}

# A change that Redis refuses is in doubt; with its right back, Redis hears of
# it from the worker.
sub lose_push
{
    my ($database, $id) = @_;
    SlateNode::wait_until_trusted($node, $database);
    $redis->cli('ACL', 'SETUSER', 'default', '-evalsha');
    $node->safe_psql($database, "UPDATE item SET name = 'refused " . ++$refusals . "' WHERE id = $id");
    is($redis->field("$database:item:$id", 'name'), 'old', "$database: a change does not reach Redis");
    return;
}

sub allow { return $redis->cli('ACL', 'SETUSER', 'default', '+@all') }

sub arrives
{
    my ($database, $id, $what) = @_;
    SlateRedis::wait_until(sub { $redis->cli('EXISTS', "$database:item:$id") eq '0' },
        "$what: the key of $database has gone");
    return pass("$what: then it does");
}

$node->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(one two);
$node->safe_psql($_, 'CREATE EXTENSION slate_cache') foreach qw(one two);
create_items($_) foreach qw(postgres one two);
wait_for_workers('one postgres two');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'slate_cache worker' AND query = ''}), '0', 'pg_stat_activity tells what workers do');

# Redis hangs with something to replay.
sub hang_worker
{
    my ($id) = @_;
    lose_push('one', $id);
    $redis->pause;
    SlateRedis::wait_until(sub { worker('one', 'state') eq 'active' }, 'the worker waits for Redis');
    return;
}

# Reading a batch takes a transaction, but none of them lasts.
hang_worker(1);
note(worker('one', 'query'));
my (%seen, @lasting);
foreach my $sample (1 .. 20)
{
    push @lasting, grep { $seen{$_}++ } split /\n/, $node->safe_psql('postgres', q{
        SELECT pid, xact_start, backend_xmin, backend_xid FROM pg_stat_activity
        WHERE backend_type = 'slate_cache worker'
        AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)});
    sleep 0.05;
}
is("@lasting", '', 'Redis hangs: no transaction is open meanwhile');
is(worker('one', 'state'), 'active', 'Redis hangs: the worker waits all the time');
my $pid = worker('one', 'pid');
my $started = time;
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
SlateRedis::wait_until(sub { worker('one', 'pid') !~ /^(|$pid)$/ }, 'another worker is there');
cmp_ok(time - $started, '<', 20, 'Redis hangs: a worker that is ended has a successor');
$redis->resume;
allow();
arrives('one', 1, 'Redis runs on');

# A command that wants the database for itself fails after five seconds.
hang_worker(2);
$started = time;
my ($status, undef, $error) = $node->psql('postgres', 'DROP DATABASE one');
is($error, '', 'Redis hangs: DROP DATABASE is not hindered');
cmp_ok(time - $started, '<', 4, 'and does not wait for long');
$redis->resume;
allow();
wait_for_workers('postgres two') if !$error;

# SIGTERM.  What fails while there is none is replayed by the next.
foreach my $id (2 .. 4)
{
    $pid = worker('postgres', 'pid');
    $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
    lose_push('postgres', $id);
    allow();
    arrives('postgres', $id, 'SIGTERM');
    isnt(worker('postgres', 'pid'), $pid, 'SIGTERM: by another worker');
}
my $launcher = q{FROM pg_stat_activity WHERE backend_type = 'slate_cache launcher'};
$pid = $node->safe_psql('postgres', "SELECT pid $launcher");
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
SlateNode::wait_for($node, "SELECT count(*) $launcher AND pid <> $pid", '1');
pass('SIGTERM: the launcher comes back');
$node->safe_psql('postgres', 'CREATE DATABASE three');
$node->safe_psql('three', 'CREATE EXTENSION slate_cache');
wait_for_workers('postgres three two');
pass('and starts new workers');
create_items('three');

# A reload.  The other server has no keys yet.
my $new = SlateRedis->new;
SlateNode::set($node, 'slate_cache.url' => $new->url);
SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('worker', 'redis', 'journal')});
SlateRedis::wait_until(
    sub {
        $node->safe_psql('postgres', "UPDATE item SET name = name || '.' WHERE id = 9");
        return $new->field('postgres:item:9', 'name') ne '';
    },
    'the new server is trusted');
$new->cli('ACL', 'SETUSER', 'default', '-evalsha');
my $stale = $new->field('postgres:item:9', 'name');
$node->safe_psql('postgres', "UPDATE item SET name = 'refused' WHERE id = 9");
is($new->field('postgres:item:9', 'name'), $stale, 'another url: a change does not reach the new server');
$new->cli('ACL', 'SETUSER', 'default', '+@all');
SlateRedis::wait_until(sub { $new->cli('EXISTS', 'postgres:item:9') eq '0' }, 'the key has gone');
pass('another url: the worker has followed');
SlateJournal::wait_until_told($node);
is($node->safe_psql('postgres', 'SELECT pushes_lost FROM slate_cache.stats'), '0', 'nothing has counted as lost');

# Three databases and a place for one worker: two are the launchers'.
$node->stop;
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
$node->append_conf('postgresql.conf', "slate_cache.url = '" . $redis->url . "'");
$node->start;
my $of = q{SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity
    WHERE backend_type = 'slate_cache worker'};
SlateNode::wait_for($node, "SELECT ($of) IN ('postgres', 'two', 'three')");
my $with = $node->safe_psql('postgres', $of);
my @without = grep { $_ ne $with } qw(postgres two three);
foreach my $database (@without)
{
    is($node->safe_psql($database, q{SELECT ok FROM slate_cache.health WHERE "check" = 'worker'}), 'f',
        'no place for a worker: health says so');
    like($node->safe_psql($database, q{SELECT detail FROM slate_cache.health WHERE "check" = 'worker'}),
        qr/max_worker_processes/, 'and what to raise');
    is($node->safe_psql('postgres', qq{SELECT count(*) FROM slate_cache.events
            WHERE kind = 'no worker' AND datname = '$database' AND detail LIKE '%max_worker_processes is 3'}), '1',
        'and so does an event, once');
}
foreach my $database ($with, @without)
{
    SlateRedis::wait_until(
        sub {
            $node->safe_psql($database, "UPDATE item SET name = 'written' WHERE id = 5");
            return $redis->field("$database:item:5", 'name') eq 'written';
        },
        'a value is written through');
    pass('values are written through all the same');
}
$node->safe_psql($with, 'DROP TABLE item; DROP EXTENSION slate_cache');
SlateNode::wait_for($node, "SELECT ($of) IN ('$without[0]', '$without[1]')");
pass('a place that is left is taken');
SlateNode::unharmed($node);
done_testing();
