# The whole server ends at once: pg_ctl stop -m immediate, kill -9 of the
# postmaster, of a worker, of the launcher; and, for comparison, a clean stop.
# What had not reached Redis does then; all other keys stay.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(time);

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 60000, 'slate_cache.connect_timeout' => 60000, 'restart_after_crash' => 'on' });
my $others = 1000;
SlateNode::create_items($node, $others + 20);
$node->safe_psql('postgres', q{
    CREATE TABLE sale (customer int);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
$redis->cli('SET', 'shop:search:0:mine', '1');

# Keys whose transaction is still in the journal are in doubt after a crash:
# from here on, none is.
SlateJournal::rotate($node);

# How many of the others are there, with their value.
sub warm
{
    return $redis->cli('EVAL', q{
        local found = redis.call('EXISTS', 'shop:search:0:mine') - 1
        for id = 21, 20 + ARGV[1] do
          if redis.call('GET', 'shop:item:' .. id) == '{"id":' .. id .. ',"name":"old"}' then
            found = found + 1
          end
        end
        return found}, '0', $others);
}

sub kill_process
{
    my ($backend_type) = @_;
    my $log = SlateNode::log_size($node);
    kill 'KILL', $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = '$backend_type'");
    SlateRedis::wait_until(
        sub { SlateNode::log_text($node, $log) =~ /database system is ready to accept connections/ },
        'the server is up again');
    return;
}

# Its shared memory is in use until the last of its processes has noticed.
sub kill_postmaster
{
    $node->kill9;
    SlateRedis::wait_until(sub { unlink $node->data_dir . '/postmaster.pid'; $node->start(fail_ok => 1) },
        'the server has started');
    return;
}

my %ends = (
    'a clean stop' => sub { $node->restart },
    'pg_ctl stop -m immediate' => sub { $node->stop('immediate'); $node->start },
    'kill -9 of the postmaster' => \&kill_postmaster,
    'kill -9 of the worker' => sub { kill_process('slate_cache worker') },
    'kill -9 of the launcher' => sub { kill_process('slate_cache launcher') });
my $id = 0;
is(warm(), $others, 'a thousand keys are warm');
foreach my $what (sort keys %ends)
{
    # Redis refuses, so that nothing arrives before the end; or after it in
    # another way than by the journal.
    ++$id;
    $redis->cli('SET', "shop:search:$id:mine", '1');
    is($redis->cli('ACL', 'SETUSER', 'default', '-evalsha'), 'OK', "$what: Redis refuses");
    $node->safe_psql('postgres', "UPDATE item SET name = '$what' WHERE id = $id");
    $node->safe_psql('postgres', "INSERT INTO sale VALUES ($id)");
    is($redis->field("shop:item:$id", 'name') . $redis->cli('EXISTS', "shop:search:$id:mine"), 'old1',
        "$what: two transactions do not reach it");
    $ends{$what}->();
    is($node->safe_psql('postgres', "SELECT name FROM item WHERE id = $id"), $what, "$what: they are committed");
    like($node->safe_psql('postgres', q{SELECT detail FROM slate_cache.health WHERE "check" = 'journal'}),
        qr/^rows that wait for Redis: [1-9]/, "$what: health knows that something waits");
    is($redis->cli('ACL', 'SETUSER', 'default', '+@all'), 'OK', "$what: Redis does as it is told");
    SlateRedis::wait_until(
        sub { $redis->cli('EXISTS', "shop:item:$id", "shop:search:$id:mine") eq '0' },
        "$what: the key and the pattern are dropped");
    pass("$what: the key and the pattern are dropped");
    SlateJournal::wait_until_told($node);
    is(warm(), $others, "$what: all other keys stay");
    is($node->safe_psql('postgres', 'SELECT pushes_lost, emptied FROM slate_cache.stats'), '0|0',
        "$what: nothing counts as lost");
}

# A worker that waits for a Redis that hangs does not keep the server's shared
# memory from being freed.
$redis->cli('ACL', 'SETUSER', 'default', '-evalsha');
$node->safe_psql('postgres', "UPDATE item SET name = 'hangs' WHERE id = 20");
$redis->pause;
SlateNode::wait_for($node, q{SELECT state = 'active' FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'});
my $started = time;
kill_postmaster();
cmp_ok(time - $started, '<', 20, 'kill -9 of the postmaster while Redis hangs: the server starts again');
$redis->resume;
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
SlateRedis::wait_until(sub { $redis->cli('EXISTS', 'shop:item:20') eq '0' }, 'the key is dropped');
SlateJournal::wait_until_told($node);
is(warm(), $others, 'and only that one');
done_testing();
