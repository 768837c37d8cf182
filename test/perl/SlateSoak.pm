#-------------------------------------------------------------------------
# SlateSoak - a load, random faults, and then: is every key right?
#
#   use SlateSoak;
#   my $soak = SlateSoak->new(
#       seconds => 600,             # of load, all rounds together
#       round => 20,                # of load, one round
#       seed => 4711,               # of all random choices; default: a new one
#       sessions => 8,              # that write and read
#       large => 0.3,               # share of rounds with a large Redis
#       faults => 'flushall,kill_dump',     # or 'all', 'none'
#       trace => 1,                 # log statements; Redis' MONITOR to a file
#       say => sub { ... });        # takes lines of progress
#   $soak->run or ...;              # false: something is wrong, and was said
#   $soak->summary;                 # one line
#   $soak->compare;                 # differences right now, one a line
#
# A round: sessions read and write, and at random moments Redis, the way to it
# and PostgreSQL fail.  Then the load stops, the faults end, and what has not
# reached Redis is waited for: slate_cache.journal is empty, within a minute.
# Then every key in Redis must hold exactly what the tables say; each key must
# be one that somebody may have written.  After that the whole cache is filled
# through slate_cache_mget(), so that it shows that it still works, compared
# again, and the next round begins with it.  A round that finds anything wrong
# is the last.
#
# What the tables say: each key has its value from the tables by the view
# "expected", whatever the way it came to Redis: rows, lists, columns, queries
# of slate_cache_fetch(), values set by hand (the table "hand" has them, set in
# the same transactions), and keys that an app SETs after it has read the table
# "tally", of which only the patterns of that table know.
#
# Besides, wrong is: an error that no fault explains, a session that waits for
# more than a minute, a process of the server that dies of anything but our
# kill -9, a push that counts as lost.
#
# The seed makes the choices, not the timing: the same seed is the same load
# and the same faults, not the same races.
#-------------------------------------------------------------------------
package SlateSoak;

use strict;
use warnings;
use Carp;
use File::Copy ();
use File::Temp ();
use List::Util qw(max min sum0);
use POSIX ();
use PostgreSQL::Test::Utils ();
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSoakLoad;
use SlateSoakWire;
use Test::More ();
use Time::HiRes qw(sleep time);

# Seconds until the journal must be empty, and differences that are shown.
use constant SETTLE_LIMIT => 60;
use constant SHOWN => 20;

#
# The tables, and what each key must hold
#

my $schema = <<'END';
CREATE TABLE customer (id int PRIMARY KEY, name text);
CREATE TABLE item (
    id int PRIMARY KEY,
    customer int NOT NULL REFERENCES customer ON DELETE CASCADE,
    name text, price numeric(12,2), tags jsonb, raw bytea,
    changed timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON item (customer);
CREATE TABLE doc (id int PRIMARY KEY, folder text NOT NULL, path text NOT NULL, body text,
    UNIQUE (folder, path));
CREATE TABLE event (region int, id int, note text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
CREATE TABLE event_2 PARTITION OF event FOR VALUES IN (2);
CREATE TABLE event_rest PARTITION OF event DEFAULT;
CREATE TABLE bin (id int PRIMARY KEY, kind int NOT NULL, note text);
CREATE TABLE gone (kind int PRIMARY KEY, n int NOT NULL);
CREATE TABLE desk (id int PRIMARY KEY, n int NOT NULL);
CREATE TABLE hand (key text PRIMARY KEY, value jsonb);
-- where a swap keeps what it swaps; empty at the end of a transaction
CREATE TABLE parked (LIKE doc);
CREATE TABLE tally (owner int PRIMARY KEY, n int NOT NULL);

INSERT INTO customer SELECT i, 'customer ' || i FROM generate_series(1, 40) i;
INSERT INTO item SELECT i, 1 + i % 40, 'item ' || i, i FROM generate_series(1, 2000) i;
INSERT INTO doc SELECT i, (ARRAY['plain', 'f*', 'f[1]', 'f?', 'back\slash'])[1 + i % 5], 'p' || i, 'body'
    FROM generate_series(1, 500) i;
INSERT INTO event SELECT 1 + i % 4, i, 'event' FROM generate_series(1, 800) i;
INSERT INTO bin SELECT i, 1 + i % 4, 'bin' FROM generate_series(1, 100) i;
INSERT INTO gone SELECT i, 0 FROM generate_series(1, 4) i;
INSERT INTO desk SELECT i, 0 FROM generate_series(1, 5) i;
INSERT INTO hand SELECT 'soak:desk:' || d || ':' || k FROM generate_series(1, 5) d, generate_series(1, 6) k;
INSERT INTO hand SELECT 'loose:' || k FROM generate_series(1, 20) k;
INSERT INTO hand SELECT 'slate:session:' || k FROM generate_series(1, 5) k;
INSERT INTO tally SELECT i, 0 FROM generate_series(1, 5) i;

SELECT slate_cache_attach('customer', row_keys => ARRAY['soak:customer:{id}'],
    delete_drop_keys => ARRAY['soak:search:{id}:*'], ttl => '1 day');
SELECT slate_cache_attach('item', row_keys => ARRAY['soak:item:{id}', 'soak:name:{id} -> name'],
    list_keys => ARRAY['soak:items:{customer}'], drop_keys => ARRAY['soak:search:{customer}:*'],
    ttl => '1 day', list_ttl => '1 day');
SELECT slate_cache_attach('doc', row_keys => ARRAY['soak:doc:{id}', 'soak:path:{folder}:{path}'],
    list_keys => ARRAY['soak:docs:{folder}'], drop_keys => ARRAY['soak:grep:{folder}:*'],
    ttl => '1 day', list_ttl => '1 day');
SELECT slate_cache_attach('event', row_keys => ARRAY['soak:event:{region}:{id}'],
    list_keys => ARRAY['soak:events:{region}'], ttl => '1 day', list_ttl => '1 day');
SELECT slate_cache_attach('bin', row_keys => ARRAY['soak:bin:{id}'], list_keys => ARRAY['soak:bins:{kind}'],
    delete_drop_keys => ARRAY['soak:gone:{kind}:*'], ttl => '1 day', list_ttl => '1 day');
SELECT slate_cache_attach('desk', drop_keys => ARRAY['soak:desk:{id}:*']);
SELECT slate_cache_attach('tally', drop_keys => ARRAY['soak:app:{owner}:*']);

-- What Redis may hold.  exact: these very bytes, and a rule covers the key;
-- otherwise the same JSON.
CREATE VIEW expected (key, exact, value) AS
    SELECT 'soak:customer:' || id, true, row_to_json(t)::text FROM customer t
    UNION ALL SELECT 'soak:item:' || id, true, row_to_json(t)::text FROM item t
    UNION ALL SELECT 'soak:name:' || id, true, coalesce(to_json(name), 'null')::text FROM item
    UNION ALL SELECT 'soak:items:' || customer, true,
        '[' || string_agg(row_to_json(t)::text, ',' ORDER BY id) || ']' FROM item t GROUP BY customer
    UNION ALL SELECT 'soak:doc:' || id, true, row_to_json(t)::text FROM doc t
    UNION ALL SELECT 'soak:path:' || folder || ':' || path, true, row_to_json(t)::text FROM doc t
    UNION ALL SELECT 'soak:docs:' || folder, true,
        '[' || string_agg(row_to_json(t)::text, ',' ORDER BY id) || ']' FROM doc t GROUP BY folder
    UNION ALL SELECT 'soak:event:' || region || ':' || id, true, row_to_json(t)::text FROM event t
    UNION ALL SELECT 'soak:events:' || region, true,
        '[' || string_agg(row_to_json(t)::text, ',' ORDER BY id) || ']' FROM event t GROUP BY region
    UNION ALL SELECT 'soak:bin:' || id, true, row_to_json(t)::text FROM bin t
    UNION ALL SELECT 'soak:bins:' || kind, true,
        '[' || string_agg(row_to_json(t)::text, ',' ORDER BY id) || ']' FROM bin t GROUP BY kind
    UNION ALL SELECT 'soak:search:' || customer || ':' || id % 5, false,
        json_agg(json_build_object('id', id, 'name', name) ORDER BY id)::text
        FROM item GROUP BY customer, id % 5
    UNION ALL SELECT 'soak:grep:' || folder || ':' || id % 3, false,
        json_agg(json_build_object('id', id, 'path', path) ORDER BY id)::text
        FROM doc GROUP BY folder, id % 3
    UNION ALL SELECT 'soak:gone:' || kind || ':' || i, false, n::text FROM gone, generate_series(1, 5) i
    UNION ALL SELECT 'soak:app:' || owner || ':' || i, false, n::text FROM tally, generate_series(1, 4) i
    UNION ALL SELECT key, false, value::text FROM hand WHERE value IS NOT NULL;
CREATE UNLOGGED TABLE found (key text, value text);
END

# A list or a result without rows is there, or not.
my $comparison = <<'END';
SELECT f.key, f.value, x.value, CASE
        WHEN x.value IS NOT NULL THEN 'another value'
        WHEN f.key ~ '^soak:(customer|item|name|doc|path|event|bin|gone|app):'
            OR f.key IN (SELECT key FROM hand) THEN 'must not be there'
        ELSE 'nobody writes such a key' END
FROM found f LEFT JOIN expected e USING (key),
    LATERAL (SELECT coalesce(e.value,
        CASE WHEN f.key ~ '^soak:(items|docs|events|bins|search|grep):' THEN '[]' END)) x (value)
WHERE x.value IS NULL
    OR CASE WHEN e.exact THEN f.value IS DISTINCT FROM x.value
            ELSE f.value::jsonb IS DISTINCT FROM x.value::jsonb END
ORDER BY 1
END

#
# Faults.  Each throws, and may return when (seconds from now) to call what.
# A fault that finds no opportunity returns 'not now', and does not count.  One
# that empties the cache takes with it what others have left there; so most
# rounds do without those.
#

my %faults = (
    # Redis
    hang => { weight => 6, throw => \&hang_redis },
    kill_empty => { weight => 2, empties => 1, throw => sub { $_[0]->kill_redis('') } },
    kill_dump => { weight => 3, empties => 1, throw => \&kill_redis_for_a_dump },
    flushall => { weight => 2, empties => 1, throw => sub { $_[0]->tell_redis('FLUSHALL') } },
    script_flush => { weight => 2, throw => sub { $_[0]->tell_redis('SCRIPT', 'FLUSH') } },
    client_kill => { weight => 3, throw => sub { $_[0]->tell_redis(qw(CLIENT KILL TYPE normal)) } },
    client_pause => { weight => 2,
        throw => sub { $_[0]->tell_redis('CLIENT', 'PAUSE', int(100 + rand 900), 'ALL') } },
    maxclients => { weight => 2, throw => \&refuse_clients },
    maxmemory => { weight => 2, throw => sub { $_[0]->configure_redis(maxmemory => 1, 0) } },
    password => { weight => 2, throw => \&want_password },
    readonly => { weight => 2, throw => \&make_replica },

    # The way to it, in rounds that go through the proxy
    cut => { weight => 4, throw => sub { $_[0]->misbehave('hang_up', qr/EVALSHA|MULTI/) } },
    cut_reply => { weight => 4,
        throw => sub { $_[0]->misbehave('hang_up', qr/EVALSHA|MULTI/, after => 1 + int rand 8) } },
    hold => { weight => 4, throw => \&hold_bytes },
    loading => { weight => 2,
        throw => sub { $_[0]->misbehave('answer', qr/EVALSHA/ => "-LOADING Redis is loading\r\n") } },

    # PostgreSQL
    terminate => { weight => 5, throw => sub { $_[0]->signal_backend('TERM', qr/\[local\]/) } },
    cancel => { weight => 3, throw => sub { $_[0]->signal_backend('INT', qr/\[local\]/) } },
    terminate_worker => { weight => 3, throw => sub { $_[0]->signal_backend('TERM', qr/slate_cache/) } },
    kill_backend => { weight => 1.5, throw => sub { $_[0]->kill_backend(qr/\[local\]/) } },
    kill_worker => { weight => 0.7, throw => sub { $_[0]->kill_backend(qr/slate_cache/) } },
    immediate => { weight => 0.7, throw => sub { $_[0]->restart_postgres('immediate') } },
    restart => { weight => 0.7, throw => sub { $_[0]->restart_postgres('fast') } },
    kill_postmaster => { weight => 0.5, throw => \&kill_postmaster },
    reload => { weight => 2, throw => sub { $_[0]{node}->reload; return } },);

sub fault_names { return sort keys %faults }

#
# The whole
#

sub new
{
    my ($class, %args) = @_;
    my $self = bless {
        seconds => 20, round => 20, sessions => 8, large => 0.3, faults => 'all', trace => 0,
        say => sub { },
        %args,
        commits => 0, compared => 0, thrown => {}, wrong => [], kills => 0,
        owner => $$, started => time,
    }, $class;
    $self->{seed} //= int rand 1_000_000_000;
    $self->{mean} //= 0.7;    # seconds between faults
    my @names = $self->{faults} eq 'all' ? fault_names()
      : $self->{faults} eq 'none' ? () : split /,/, $self->{faults};
    foreach my $name (@names)
    {
        croak "there is no fault \"$name\"; there are: " . join(' ', fault_names()) unless $faults{$name};
    }
    $self->{chosen} = [ sort @names ];
    $self->start_servers;
    return $self;
}

# For test/soak.
sub main
{
    my $out = Test::More->builder->output;
    $out->autoflush(1);
    my $say = sub { print $out "$_[0]\n" };
    if ($ENV{SLATE_SOAK_FAULTS} eq 'help')
    {
        $say->(join ' ', fault_names());
        exit 0;
    }
    my $soak = SlateSoak->new(
        seconds => 60 * $ENV{SLATE_SOAK_MINUTES}, seed => $ENV{SLATE_SOAK_SEED} || undef,
        faults => $ENV{SLATE_SOAK_FAULTS}, trace => $ENV{SLATE_SOAK_TRACE}, say => $say);
    my $well = $soak->run;
    $soak->hold if !$well && $ENV{SLATE_SOAK_HOLD};
    exit($well ? 0 : 1);
}

sub start_servers
{
    my ($self) = @_;
    $self->{dir} = File::Temp->newdir('soak_XXXXXX', TMPDIR => 1);
    mkdir "$self->{dir}/redis" or croak "mkdir: $!";
    $self->{redis} = SlateRedis->new(config => {
            dir => "$self->{dir}/redis", dbfilename => 'dump.rdb', maxclients => 1000 });
    $self->{proxy} = SlateProxy->new($self->{redis});
    $self->{node} = SlateNode->start('soak', redis => $self->{redis}, conf => {
            restart_after_crash => 'on', wal_level => 'replica', deadlock_timeout => '200ms',
            max_connections => 50, max_prepared_transactions => 50, 'slate_cache.guard_life' => 10,
            log_line_prefix => '%m [%p] %x %q%a ', log_min_error_statement => 'panic',
            log_statement => $self->{trace} ? 'all' : 'none',
            log_min_messages => $self->{trace} ? 'warning' : 'log' });
    $self->{node}->safe_psql('postgres', $schema);
    $self->{log_start} = SlateNode::log_size($self->{node});
    return;
}

# True if nothing is wrong.
sub run
{
    my ($self) = @_;
    my $rounds = max(1, POSIX::floor($self->{seconds} / $self->{round} + 0.5));
    $self->say("seed $self->{seed}");
    foreach my $round (1 .. $rounds)
    {
        $self->round($round, $self->{seconds} / $rounds);
        last if @{ $self->{wrong} };
    }
    $self->say($self->summary);
    return !@{ $self->{wrong} };
}

sub round
{
    my ($self, $round, $seconds) = @_;
    local ($self->{compared}, $self->{warm}) = (0, 0);
    my $commits = $self->{commits};
    srand($self->{seed} + 1000 * $round);
    $self->{undo} = [];
    $self->{trail} = [];
    $self->{round_started} = time;
    my $kind = $self->set_up_round;

    $self->start_load($round);
    $self->throw_faults(time + $seconds);
    $self->end_faults;
    $self->stop_load;
    my $settled = $self->settle;
    $self->look_at_log;
    $self->check_all($round) if defined $settled;

    $self->say(sprintf 'round %d (%s): %d commits, %d faults, settled in %s, %d and %d keys compared, %s',
        $round, $kind, $self->{commits} - $commits, scalar @{ $self->{trail} },
        defined $settled ? sprintf('%.1f s', $settled) : 'no time',
        $self->{warm}, $self->{compared} - $self->{warm},
        @{ $self->{wrong} } ? 'WRONG' : '0 differences');
    $self->say("  $_") foreach @{ $self->{wrong} };
    $self->say('  faults: ' . join ', ', @{ $self->{trail} }) if @{ $self->{wrong} };
    $self->{all_compared} += $self->{compared};
    return;
}

sub summary
{
    my ($self) = @_;
    my $thrown = $self->{thrown};
    my $wrong = @{ $self->{wrong} };
    return sprintf '%d commits, %d faults (%s), %d keys compared, %s, seed %d',
      $self->{commits}, sum0(values %$thrown),
      join(', ', map { "$thrown->{$_} $_" } sort keys %$thrown) || 'none',
      $self->{all_compared} // 0, $wrong ? 'NOT RIGHT' : '0 differences', $self->{seed};
}

sub say { my ($self, $line) = @_; $self->{say}->($line); return }

sub wrong { my ($self, @lines) = @_; push @{ $self->{wrong} }, @lines; return }

sub sql { my ($self, $sql) = @_; return $self->{node}->safe_psql('postgres', $sql) }

# What is different from round to round: the way to Redis, its size, settings.
sub set_up_round
{
    my ($self) = @_;
    my $node = $self->{node};
    $self->{proxied} = rand() < 0.5;
    my $forgetful = rand() < 0.35;
    $self->{faults_of_round} =
      [ grep { $forgetful || $self->{faults} ne 'all' || !$faults{$_}{empties} } @{ $self->{chosen} } ];
    my %settings = (
        'slate_cache.url' => $self->{proxied} ? $self->{proxy}->url : $self->{redis}->url,
        'slate_cache.timeout' => @{ [ 100, 250, 1000 ] }[ rand 3 ],
        'slate_cache.max_journal' => $forgetful ? '1MB' : '256MB');
    SlateNode::set($node, %settings);

    # So many keys that a commit leaves walks to the worker.
    my $large = rand() < $self->{large};
    $self->{redis}->cli('EVAL', "for i = 1, 300000 do redis.call('SET', 'filler:' .. i, 'x') end", '0')
      if $large;
    $self->trace_redis if $self->{trace};
    return join ', ', $self->{proxied} ? 'proxy' : 'socket', ($large ? 'large' : ()),
      ($forgetful ? 'forgetful' : ()),
      map { /([a-z_]+)$/ && "$1 $settings{$_}" } grep { !/url/ } sort keys %settings;
}

#
# The load
#

sub start_load
{
    my ($self, $round) = @_;
    my @kinds = (('writer') x max(1, $self->{sessions} - 2), 'reader', 'app', 'resolver');
    $self->{load} = [];
    foreach my $number (0 .. $#kinds)
    {
        push @{ $self->{load} }, SlateSoakLoad->start($kinds[$number],
            connstr => $self->{node}->connstr('postgres'),
            socket => $self->{redis}->socket,
            name => "$round-$number",
            file => "$self->{dir}/load-$number",
            seed => $self->{seed} + 1000 * $round + 1 + $number);
    }
    return;
}

# Writers first: what they have prepared is the resolver's.
sub stop_load
{
    my ($self) = @_;
    my %errors;
    foreach my $resolver (0, 1)
    {
        my @load = grep { ($_->kind eq 'resolver') == $resolver } @{ $self->{load} };
        $_->stop foreach @load;
        foreach my $session (@load)
        {
            my $result = $session->result;
            $self->{commits} += $result->{commits};
            $self->wrong(map { $session->kind . ": $_" } @{ $result->{unexpected} });
        }
    }
    return;
}

#
# Throwing faults
#

sub throw_faults
{
    my ($self, $end) = @_;
    my $next = time + rand $self->{mean};
    my $next_dump = time + rand 3;
    while (time < $end)
    {
        $self->undo_due(time);
        if (time >= $next_dump)
        {
            $self->keep_dump;
            $next_dump = time + 1 + rand 5;
        }
        if (@{ $self->{faults_of_round} } && time >= $next)
        {
            $self->throw_one;
            $next = time + -$self->{mean} * log(1 - rand);
        }
        sleep 0.02;
    }
    return;
}

sub throw_one
{
    my ($self) = @_;
    my $left = rand sum0(map { $faults{$_}{weight} } @{ $self->{faults_of_round} });
    my $name;
    foreach (@{ $self->{faults_of_round} })
    {
        $name = $_;
        last if ($left -= $faults{$_}{weight}) < 0;
    }
    my $at = time - $self->{round_started};
    my ($delay, $undo) = $faults{$name}{throw}->($self);
    return if defined $delay && $delay eq 'not now';
    push @{ $self->{undo} }, { time => time + $delay, undo => $undo } if $undo;
    push @{ $self->{trail} }, sprintf('%.2f %s', $at, $name) . ($undo ? sprintf ' %.1f s', $delay : '');
    $self->{thrown}{$name}++;
    return;
}

sub undo_due
{
    my ($self, $until) = @_;
    my @due = grep { $_->{time} <= $until } @{ $self->{undo} };
    $self->{undo} = [ grep { $_->{time} > $until } @{ $self->{undo} } ];
    $_->{undo}->() foreach sort { $a->{time} <=> $b->{time} } @due;
    return;
}

sub end_faults
{
    my ($self) = @_;
    sleep 0.02 while $self->is_hanging;
    $self->undo_due(9e99);
    return;
}

# Redis

# A process of its own wakes it: everything else here may wait for Redis.
sub hang_redis
{
    my ($self) = @_;
    return 'not now' if $self->is_hanging || !$self->{redis}->pid;
    my $pid = $self->{redis}->pid;
    my $delay = 0.1 + rand 2.9;
    my $child = fork() // croak "fork: $!";
    if ($child == 0)
    {
        kill 'STOP', $pid;
        sleep $delay;
        kill 'CONT', $pid;
        POSIX::_exit(0);
    }
    $self->{waker} = $child;
    return ($delay, sub { });
}

sub is_hanging
{
    my ($self) = @_;
    return 0 unless $self->{waker};
    return 1 if waitpid($self->{waker}, POSIX::WNOHANG()) == 0;
    delete $self->{waker};
    return 0;
}

# A connection that is there before Redis refuses others.
sub tell_redis
{
    my ($self, @command) = @_;
    return 'not now' if $self->is_hanging || !$self->{redis}->pid;
    foreach (1, 2)
    {
        $self->{wire} //= SlateSoakWire->new($self->{redis}->socket);
        my $reply = $self->{wire} && $self->{wire}->ask(@command);
        if (ref $reply eq 'SCALAR' && $$reply =~ /^NOAUTH/)
        {
            $self->{wire}->ask('AUTH', 'soak');
            $reply = $self->{wire}->ask(@command);
        }
        return if defined $reply && ref $reply ne 'SCALAR';
        undef $self->{wire};
    }
    return 'not now';
}

sub configure_redis
{
    my ($self, $name, $value, $back, $delay) = @_;
    my $outcome = $self->tell_redis('CONFIG', 'SET', $name, $value);
    return $outcome if defined $outcome;
    return ($delay // 0.2 + rand 1.8, sub { $self->mend_redis('CONFIG', 'SET', $name, $back) });
}

# What cannot be taken back ends with the process.
sub mend_redis
{
    my ($self, @command) = @_;
    return unless $self->{redis}->pid;
    sleep 0.02 while $self->is_hanging;
    return unless defined $self->tell_redis(@command);
    $self->{redis}->kill9;
    $self->start_redis;
    return;
}

sub refuse_clients
{
    my ($self) = @_;
    my @outcome = $self->configure_redis(maxclients => 1, 1000);
    $self->tell_redis(qw(CLIENT KILL TYPE normal)) unless $outcome[0] eq 'not now';
    return @outcome;
}

sub want_password
{
    my ($self) = @_;
    my @outcome = $self->configure_redis(requirepass => 'soak', '');
    $self->tell_redis(qw(CLIENT KILL TYPE normal)) unless $outcome[0] eq 'not now';
    return @outcome;
}

# Read-only, as after a failover; its master is nowhere.
sub make_replica
{
    my ($self) = @_;
    return 'not now' if defined $self->tell_redis('REPLICAOF', '127.0.0.1', '1');
    return (0.2 + rand 1.8, sub { $self->mend_redis('REPLICAOF', 'NO', 'ONE') });
}

sub keep_dump
{
    my ($self) = @_;
    return if defined $self->tell_redis('SAVE');
    File::Copy::copy("$self->{dir}/redis/dump.rdb", "$self->{dir}/dump-" . int rand 3);
    return;
}

sub kill_redis_for_a_dump
{
    my ($self) = @_;
    my @dumps = glob "$self->{dir}/dump-*";
    return 'not now' unless @dumps;
    return $self->kill_redis($dumps[ rand @dumps ]);
}

sub kill_redis
{
    my ($self, $dump) = @_;
    return 'not now' unless $self->{redis}->pid;
    $self->{redis}->kill9;
    undef $self->{wire};
    unlink "$self->{dir}/redis/dump.rdb";
    File::Copy::copy($dump, "$self->{dir}/redis/dump.rdb") if $dump;
    return (rand() < 0.3 ? 0 : rand 3, sub { $self->start_redis });
}

sub start_redis
{
    my ($self) = @_;
    $self->{redis}->start unless $self->{redis}->pid;
    $self->trace_redis if $self->{trace};
    return;
}

# The proxy

sub misbehave
{
    my ($self, $how, @args) = @_;
    return 'not now' unless $self->{proxied};
    $self->{proxy}->$how(@args);
    return (0.05 + rand 0.5, sub { $self->{proxy}->pass });
}

sub hold_bytes
{
    my ($self) = @_;
    return 'not now' unless $self->{proxied};
    $self->{proxy}->hold(qr/EVALSHA|MULTI/);
    return (0.1 + rand 2, sub { $self->{proxy}->release });
}

# PostgreSQL

# Its processes whose titles match, by /proc: the server may not answer.
sub backends
{
    my ($self, $title) = @_;
    my $postmaster = $self->{node}{_pid} or return;
    my @found;
    foreach my $entry (glob '/proc/[0-9]*')
    {
        my $stat = slurp("$entry/stat");
        next unless $stat =~ /\) \S (\d+) / && $1 == $postmaster;
        push @found, $entry =~ s,.*/,,r if slurp("$entry/cmdline") =~ $title;
    }
    return sort { $a <=> $b } @found;
}

sub slurp
{
    my ($name) = @_;
    open my $handle, '<', $name or return '';
    local $/;
    return scalar <$handle> // '';
}

sub signal_backend
{
    my ($self, $signal, $title) = @_;
    my @pids = $self->backends($title) or return 'not now';
    kill $signal, $pids[ rand @pids ];
    return;
}

sub kill_backend
{
    my ($self, $title) = @_;
    $self->{kills}++;
    return $self->signal_backend('KILL', $title);
}

sub restart_postgres
{
    my ($self, $mode) = @_;
    my $node = $self->{node};
    $node->stop($mode, fail_ok => 1)
      or $self->wrong("PostgreSQL did not stop ($mode)");
    sleep rand 0.5;
    $self->start_postgres;
    return;
}

sub kill_postmaster
{
    my ($self) = @_;
    my $pid = $self->{node}{_pid};
    $self->{node}->kill9;
    sleep 0.02 while kill 0, $pid;
    $self->start_postgres;
    return;
}

# After a kill -9 its children hold the shared memory until they notice.
sub start_postgres
{
    my ($self) = @_;
    my $node = $self->{node};
    my $end = time + 60;
    until ($node->start(fail_ok => 1))
    {
        croak 'PostgreSQL does not start again' if time > $end;
        undef $node->{_pid};
        sleep 0.1;
    }
    return;
}

#
# What is wrong
#

# Waits for whatever has not reached Redis; how long, or nothing if in vain.
sub settle
{
    my ($self) = @_;
    my $begun = time;
    my $what = q{SELECT NOT EXISTS (SELECT FROM slate_cache.journal)
        AND NOT EXISTS (SELECT FROM slate_cache.health WHERE NOT ok
            AND "check" IN ('launcher', 'worker', 'redis', 'breaker', 'journal', 'history'))};
    while (time < $begun + SETTLE_LIMIT)
    {
        my ($status, $out) = $self->{node}->psql('postgres', $what);
        return time - $begun if $status == 0 && $out eq 't';
        sleep 0.1;
    }
    $self->wrong('not all has reached Redis after ' . SETTLE_LIMIT . ' s');
    $self->wrong(split /\n/, $self->{node}->safe_psql('postgres', $_))
      foreach ('TABLE slate_cache.health', 'TABLE slate_cache.journal LIMIT 20',
        q{SELECT * FROM pg_stat_activity WHERE backend_type LIKE 'slate_cache%'});
    return;
}

# Our kill -9 of a process makes the server end the others, with signals 3 and 9.
sub look_at_log
{
    my ($self) = @_;
    my @died = grep { !/terminated by signal (?:3|9)\b/ }
      SlateNode::messages($self->{node}, qr/PANIC:|TRAP:|was terminated by signal/, $self->{log_start});
    $self->wrong(@died);
    $self->{log_start} = SlateNode::log_size($self->{node});
    return;
}

sub check_all
{
    my ($self, $round) = @_;
    my @differences = $self->compare;
    $self->{warm} = $self->{compared};
    my $lost = SlateNode::counter($self->{node}, 'pushes_lost');
    $self->wrong_keys('differences', @differences) if @differences;
    $self->wrong("$lost pushes are counted as lost") if $lost > 0;
    return if @{ $self->{wrong} };

    # It works: what is read is there afterwards, and right.
    $self->sql(q{
        SET slate_cache.timeout = '20s';
        SET slate_cache.connect_timeout = '20s';
        DO $$ BEGIN PERFORM slate_cache_mget(ARRAY(SELECT key FROM expected WHERE exact)); END $$});
    @differences = $self->compare;
    $self->wrong_keys('differences after the cache was filled', @differences) if @differences;
    my $missing = $self->sql(q{SELECT count(*)
        FROM (SELECT key FROM expected WHERE exact EXCEPT SELECT key FROM found) missing});
    $self->wrong("$missing rows and lists were not cached when they were read") if $missing > 0;
    return;
}

sub wrong_keys
{
    my ($self, $what, @differences) = @_;
    my $shown = min(SHOWN, scalar @differences);
    $self->wrong(scalar(@differences) . " $what; the first $shown:", @differences[ 0 .. $shown - 1 ]);
    return;
}

# Compares every key in Redis with the tables.
sub compare
{
    my ($self) = @_;
    my $wire = SlateSoakWire->new($self->{redis}->socket) // croak 'Redis is away';
    my %values = $wire->everything(qr/^(?:slate_cache:|filler:)/);
    $self->{compared} += keys %values;
    $self->store_found(\%values);
    my @rows = split /\x1d/, $self->{node}->safe_psql('postgres',
        "SET timezone = 'UTC'; $comparison", extra_params => [ '-F', "\x1c", '-R', "\x1d" ]);
    return map { describe($wire, split /\x1c/, $_, -1) } @rows;
}

sub store_found
{
    my ($self, $values) = @_;
    my $file = "$self->{dir}/found";
    open my $handle, '>:raw', $file or croak "$file: $!";
    print $handle SlateSoakLoad::copy_line($_, $values->{$_}) foreach sort keys %$values;
    close $handle or croak "$file: $!";
    $self->sql("TRUNCATE found; COPY found FROM '$file'");
    return;
}

sub describe
{
    my ($wire, $key, $cached, $expected, $why) = @_;
    my $guard = $key =~ /\{[^}]+\}/ ? "slate_cache:tagged:$key" : "slate_cache:guard:{$key}";

    # Of two long values, from where they part.
    my $same = length +(($cached ^ $expected) =~ /^(\0*)/)[0];
    $same = $same > 80 ? $same - 40 : 0;
    return join "\n", "$key: $why",
      '    cached   ' . part($cached, $same),
      '    expected ' . part($expected, $same),
      '    PTTL ' . $wire->ask('PTTL', $key) . ', guard ' . ($wire->ask('GET', $guard) // 'none');
}

sub part
{
    my ($text, $from) = @_;
    my $shown = substr($text, $from, 200) =~ s/\n/\\n/gr;
    my $size = length $text;
    return ($from ? '...' : '') . $shown . ($from + 200 < $size ? "... ($size bytes)" : '');
}

# Servers stay as they are, for whoever looks into it, until the file is gone.
sub hold
{
    my ($self) = @_;
    my $file = "$self->{dir}/hold";
    open my $handle, '>', $file;
    $self->say(join "\n", 'Held until somebody removes ' . $file,
        'psql ' . $self->{node}->connstr('postgres'), 'redis-cli -s ' . $self->{redis}->socket);
    sleep 1 while -e $file;
    return;
}

# MONITOR's output, for whoever looks into a difference.
sub trace_redis
{
    my ($self) = @_;
    my $pid = $self->{redis}->pid or return;
    return if ($self->{traced} // 0) == $pid;
    $self->{traced} = $pid;
    my $child = fork() // croak "fork: $!";
    return if $child;
    my $file = $self->{node}->logfile =~ s/\.log$/.monitor/r;
    open STDOUT, '>>', $file;
    print STDOUT "--- Redis $pid\n";
    exec('redis-cli', '-s', $self->{redis}->socket, 'MONITOR') or POSIX::_exit(127);
}

sub DESTROY
{
    my ($self) = @_;
    local ($?, $!, $@);
    return unless $self->{owner} == $$;
    $_->end_now foreach grep { defined } @{ $self->{load} // [] };
    return;
}

1;
