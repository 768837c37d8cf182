# slate_cache.mode = strict, and a kill -9 of the backend at each point of its
# way, of the worker, of the postmaster: whoever reads Redis from then on finds
# what is in the table, or nothing; and within seconds every key can be filled
# again.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateClient;
use SlateHistory;
use SlateJournal;
use SlateMarks;
use SlateNode;
use SlateRedis;
use SlateSampler;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep time);

# From the kill to the last key that is filled, on a busy machine.
use constant RECOVERY => 30;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, testing => 1,
    conf => { 'slate_cache.timeout' => 60000, 'slate_cache.connect_timeout' => 60000, 'restart_after_crash' => 'on' });
SlateNode::create_items($node, 60);
$node->safe_psql('postgres', q{
    CREATE TABLE sale (customer int);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
my $client = SlateClient->new($redis);

my %locks = (before_commit => 1, before_publish => 2, after_journal => 5, before_ack => 6);

sub wait_until_paused
{
    SlateNode::wait_for($node,
        q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}, $_[0] // 1);
    return;
}

# Rows are cached.  What a crash has left to be replayed would drop them.
sub warm
{
    my (@ids) = @_;
    SlateJournal::wait_until_told($node);
    my @keys = map { "shop:item:$_" } @ids;
    my $reader = SlateSession->new($node);
    SlateRedis::wait_until(
        sub {
            $reader->query("SELECT count(*) FROM slate_cache_mget(ARRAY['" . join("','", @keys) . "'])");
            return $client->ask('EXISTS', @keys) == @keys;
        },
        'rows are cached');
    return;
}

# The session is in its commit, at that point.
sub come_to
{
    my ($gate, $point, $sql) = @_;
    my $session = SlateSession->new($node);
    $session->query("SET slate_cache.mode = 'strict'; SET slate_cache.pause_at = '$point'");
    $gate->query("SELECT pg_advisory_lock(7351, $locks{$point})");
    $session->send($sql);
    return $session;
}

sub marks { return SlateMarks::count($client) }

# After a kill: what is in the table, samples, and the way back.
sub recover
{
    my ($what, $kill, $expected, @free) = @_;
    my @ids = sort { $a <=> $b } keys %$expected;
    my @keys = map { "shop:item:$_" } @ids;
    my $sampler = SlateSampler->begin($redis, @keys);
    my $start = time;
    $kill->();
    my $up = time;
    my $reader = SlateSession->new($node);
    my %rows = map { split /=/, $_, 2 } split /\n/,
      $reader->query('SELECT id || \'=\' || name FROM item WHERE id IN (' . join(',', @ids) . ')');
    is_deeply(\%rows, $expected, "$what: the table has what was committed");

    my ($wrong, $marks, $filled) = (0);
    my $get = q{SELECT count(*) FILTER (WHERE value ->> 'name' IS DISTINCT FROM name)
        FROM slate_cache_mget(ARRAY(SELECT 'shop:item:' || id FROM item WHERE id IN (} . join(',', @ids) . q{))) m
             JOIN item ON m.key = 'shop:item:' || id};
    do
    {
        sleep 0.05 if defined $filled;
        $wrong += $reader->query($get);
        $reader->query("SELECT slate_cache_fetch('$_', 'SELECT 1')") foreach @free;
        ($marks, $filled) = (marks(), $client->ask('EXISTS', @keys, @free));
    } until ($marks == 0 && $filled == @keys + @free) || time > $start + RECOVERY;
    my $recovered = time;
    my ($samples, @seen) = $sampler->end;
    is($marks, 0, "$what: no mark is left");
    is($filled, @keys + @free, "$what: every key can be filled");
    is($wrong, 0, "$what: get has always had what is in the table");
    my %may = map { ("shop:item:$_" => "{\"id\":$_,\"name\":\"$expected->{$_}\"}") } @ids;
    is(join("\n", map { "$_->[0] $_->[1]" } grep { $_->[1] ne $may{ $_->[0] } } @seen), '', "$what: GET has found that or nothing");
    is(scalar @seen, scalar @ids, "$what: and that at last");
    note(sprintf '%s: %d samples; up after %.1f s, all is filled after %.1f s', $what, $samples,
        $up - $start, $recovered - $start);
    return;
}

sub wait_until_back
{
    my ($log) = @_;
    SlateRedis::wait_until(
        sub { SlateNode::log_text($node, $log) =~ /database system is ready to accept connections/ },
        'the server is up again');
    return;
}

sub kill_process
{
    my ($pid) = @_;
    my $log = SlateNode::log_size($node);
    kill 'KILL', $pid;
    wait_until_back($log);
    return;
}

sub restart_killed
{
    $node->kill9;
    SlateHistory::wait_until_gone($node);
    unlink $node->data_dir . '/postmaster.pid';
    $node->start;
    return;
}

# Backends.
my $id = 0;
foreach my $point (qw(after_journal before_commit before_publish before_ack))
{
    $id++;
    my $committed = $point =~ /publish|ack/;
    warm($id);
    my $gate = SlateSession->new($node);
    my $session = come_to($gate, $point, "UPDATE item SET name = '$point' WHERE id = $id");
    wait_until_paused();
    is( $redis->field("shop:item:$id", 'name'),
        { after_journal => 'old', before_commit => '', before_publish => '', before_ack => $point }->{$point},
        "$point: Redis knows what it may know");
    recover("kill -9 $point", sub { kill_process($session->pid) }, { $id => $committed ? $point : 'old' });
}

warm(11 .. 50);

# With patterns, and another that is not killed itself but goes with it.
$client->ask('SET', 'shop:search:2:mine', '1');
my $gate = SlateSession->new($node);
my $session = come_to($gate, 'before_publish',
    "BEGIN; UPDATE item SET name = 'many' WHERE id BETWEEN 11 AND 30; INSERT INTO sale VALUES (1); COMMIT");
wait_until_paused(1);
my $other = come_to($gate, 'before_commit',
    "BEGIN; UPDATE item SET name = 'never' WHERE id BETWEEN 31 AND 50; INSERT INTO sale VALUES (2); COMMIT");
wait_until_paused(2);
is(marks(), 4, 'many keys: two marks, two beginnings');
is($client->ask('EXISTS', map { "shop:item:$_" } 11 .. 50), 0, 'many keys: none is there');
recover('kill -9 with many keys', sub { kill_process($session->pid) },
    { (map { ($_ => 'many') } 11 .. 30), map { ($_ => 'old') } 31 .. 50 }, 'shop:search:1:a', 'shop:search:2:a');

# The worker, and the postmaster.
my %ends = (
    'kill -9 of the worker' => sub {
        kill_process($node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'"));
    },
    'kill -9 of the postmaster' => \&restart_killed);
foreach my $what (sort keys %ends)
{
    $id++;
    warm($id, 50 + $id);
    $gate = SlateSession->new($node);
    $session = come_to($gate, 'before_publish', "UPDATE item SET name = '$what' WHERE id = $id");
    wait_until_paused(1);
    $other = come_to($gate, 'before_commit', "UPDATE item SET name = 'never' WHERE id = 50 + $id");
    wait_until_paused(2);
    is(marks() . $client->ask('EXISTS', "shop:item:$id", 'shop:item:' . (50 + $id)), '20', "$what: marked");
    recover($what, $ends{$what}, { $id => $what, 50 + $id => 'old' });
}

is($node->safe_psql('postgres', 'SELECT pushes_lost FROM slate_cache.stats'), '0', 'nothing counts as lost');

# Nobody but a test waits for a lock after his commit, when the postmaster dies.
my @deaths = SlateNode::messages($node, qr/was terminated by signal|PANIC|TRAP/);
is(join("\n", grep { !/signal 9|PANIC:  cannot abort transaction \d+, it was already committed/ } @deaths), '',
    'nobody has died but by kill -9');
done_testing();
