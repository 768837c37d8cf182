# Redis Sentinel: the master is found through any of the sentinels, and a
# failover is followed without a restart of anything.  Whatever an old master
# was told too late, in the end every key is right.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSentinel;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep time);

use constant ROWS => 200;

my $group = SlateSentinel->new;
my ($first, $second, $third) = $group->sentinels;
my $node = SlateNode->start('main', redis => $group->url(also => ['127.0.0.1:1']),
    conf => { 'slate_cache.timeout' => 1000, 'slate_cache.connect_timeout' => 1000 });
SlateNode::create_items($node, ROWS);
my $session = SlateSession->new($node);
my $changes = 0;

# Is this change, or any later one, told to the server?
sub delivered
{
    my ($server, $who) = @_;
    my $value = 'change ' . ++$changes;
    ($who // $session)->query("UPDATE item SET name = '$value' WHERE id = 1");
    return $server->field('shop:item:1', 'name') eq $value;
}

sub redis_detail { return $session->query(q{SELECT detail FROM slate_cache.health WHERE "check" = 'redis'}) }

# Clients of ours that a server has.
sub clients { return scalar(() = $_[0]->cli('CLIENT', 'LIST') =~ / name=slate_cache /g) }

# Changes of all rows, over and over, until told to end.
my $load;
END { kill 'TERM', $load if $load }

sub begin_load
{
    my $connstr = $node->connstr('postgres');
    my $script = PostgreSQL::Test::Utils::tempdir() . '/load.sql';
    append_to_file($script, '\set id random(2, ' . ROWS . ")\n"
          . "UPDATE item SET name = 'load ' || clock_timestamp() WHERE id = :id;\n"
          . "SELECT slate_cache_get('shop:item:' || :id);\n");
    $load = fork() // die "fork: $!";
    return if $load;
    open STDOUT, '>', '/dev/null';
    open STDERR, '>&', \*STDOUT;
    exec('pgbench', '-n', '-c', '3', '-T', '600', '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres')
      or POSIX::_exit(127);
}

sub end_load
{
    kill 'TERM', $load;
    waitpid $load, 0;
    undef $load;
    SlateNode::wait_for($node,
        q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'}, '0');
    return;
}

# Nothing is in doubt any more, and each key in the master is absent or right.
sub all_is_right
{
    my ($what) = @_;
    SlateJournal::wait_until_told($node);
    my $master = $group->master;
    my @keys = map { "shop:item:$_" } 1 .. ROWS;
    my @values = split /\n/, $master->cli('MGET', @keys), -1;
    my @names = split /\n/, $node->safe_psql('postgres', 'SELECT name FROM item ORDER BY id'), -1;
    my (@wrong, $present);
    foreach my $i (0 .. $#keys)
    {
        next if $values[$i] eq '';
        $present++;
        push @wrong, "$keys[$i]: $values[$i], not $names[$i]"
          unless $values[$i] =~ /"name": ?"\Q$names[$i]\E"/;
    }
    is(scalar @values, ROWS, "$what: all keys were asked for");
    is(join("\n", @wrong), '', "$what: each key is right (" . ($present // 0) . ' are cached)');
    return;
}

# Discovery.
my $master = $group->master;
my $port = $master->port;
ok(delivered($master), 'the master is found, though the first sentinel is not there');
like(redis_detail(), qr/^sentinel master \S+ at 127\.0\.0\.1:$port db 0/, 'the view health names it');
$_->kill9 foreach $first, $second;
my $another = SlateSession->new($node);
ok(delivered($master, $another), 'two of three sentinels are dead: a new session delivers');
$third->kill9;
$master->cli('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
SlateRedis::wait_until(sub { delivered($master) }, 'a change arrives');
pass('all sentinels are dead: the master that was known will do');
SlateRedis::wait_until(sub { redis_detail() =~ /answers PONG; no sentinel has answered for \d+ s: a failover would not be noticed$/ },
    'the view health tells that nobody would tell');
is($session->query("SELECT ok FROM slate_cache.health WHERE \"check\" = 'redis'"), 'f', 'and counts it as a fault');
$node->restart;
$session = SlateSession->new($node);
ok(!delivered($master), 'none was ever known: a change is not delivered');
SlateRedis::wait_until(
    sub {
        redis_detail() =~ /^sentinel master \S+ db 0: .*no sentinel could be asked: 127\.0\.0\.1:1: could not connect: .*; 127\.0\.0\.1:\d+: /;
    },
    'the view health has the reasons');
$_->start foreach $first, $second, $third;
SlateRedis::wait_until(sub { delivered($master) }, 'a change arrives');
pass('the sentinels are back: the same session delivers');
SlateRedis::wait_until(sub { $group->all_have_met }, 'the sentinels know each other and the replicas');

# The master dies under load.
begin_load();
SlateRedis::wait_until(sub { $master->field('shop:item:2', 'name') =~ /^load/ }, 'the load has begun');
$master->kill9;
my $new = $group->wait_for_failover($master);
SlateRedis::wait_until(sub { delivered($new) }, 'a change arrives');
pass('the master is killed: the same session delivers to another');
is($session->query("SELECT datname, detail FROM slate_cache.events WHERE kind = 'failover'"),
    '|' . sprintf('sentinel master %s: from 127.0.0.1:%d to 127.0.0.1:%d', redis_detail() =~ /^sentinel master (\S+)/, $port, $new->port),
    'and that is an event, once');
$master->start;
$group->wait_until_whole;
is(clients($master), 0, 'the old master is a replica, and has no client of ours');
end_load();
all_is_right('after a kill');

# A master that is made a replica behind our back, with the connection open.
SlateRedis::wait_until(sub { delivered($new) }, 'a change arrives');
my $others = (grep { $_ != $new } $group->servers)[0];
$_->pause foreach $group->sentinels;
$new->cli('REPLICAOF', '127.0.0.1', $others->port);
ok(!delivered($new), 'the master becomes a replica: a change is not delivered');
is($session->error, '', 'and the commit succeeds');
SlateRedis::wait_until(sub { redis_detail() =~ /the server is a replica/ }, 'a new connection to it is refused');
is($new->cli('REPLICAOF', 'NO', 'ONE'), 'OK', 'it is the master again');
$_->resume foreach $group->sentinels;
SlateRedis::wait_until(sub { my $now = $group->master; $now && delivered($now) }, 'a change arrives');
pass('it is a master again: the same session delivers');
$group->wait_until_whole;

# The master hangs under load, is replaced, and comes back believing in itself.
# A session that was idle all the while has a connection to it.
$master = $group->master;
my $idle = SlateSession->new($node);
SlateRedis::wait_until(sub { delivered($master, $idle) }, 'a change arrives');
begin_load();
SlateRedis::wait_until(sub { $master->field('shop:item:2', 'name') =~ /^load/ }, 'the load has begun');
$master->pause;
$new = $group->wait_for_failover($master);
SlateRedis::wait_until(sub { delivered($new) }, 'a change arrives');
pass('the master hangs: the same session delivers to another');

# What could not be told meanwhile is dropped once more, whatever has been put
# since: row 1 was changed then, too.
SlateJournal::wait_until_told($node);
$_->pause foreach $group->sentinels;
$master->resume;
is(SlateSentinel::role($master), 'master', 'the old master comes back and thinks that it is one');
ok(delivered($new, $idle), 'a session that had a connection to it does not use that');
is($idle->error, '', 'and its commit succeeds');
unlike($master->field('shop:item:1', 'name'), qr/change $changes$/, 'the old master was not told');
$_->resume foreach $group->sentinels;
$group->wait_until_whole;
is(clients($master), 0, 'the old master is a replica, and has no client of ours');
end_load();
all_is_right('after a hang');

SlateNode::unharmed($node);
done_testing();
