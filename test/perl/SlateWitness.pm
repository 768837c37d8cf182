#-------------------------------------------------------------------------
# SlateWitness - writers, readers and faults, and a judge of what is read.
#
#   use SlateWitness;
#   my $witness = SlateWitness->new(
#       mode => 'commit',           # slate_cache.mode, and what is promised;
#                                   # mixed: some writers strict, some commit
#       seconds => 60,              # how long; or until so many
#       reads => 0,                 # values were checked, whichever comes first
#       more_than => {...},         # and longer, by LONGER at most, until there
#                                   # were more commits, reads, pushes_direct and
#                                   # near_hits than that
#       faults => 'all',            # or a list "a,b"; or 'none'
#       mean => 1.5,                # seconds between faults
#       naive => 1,                 # not slate_cache, but a cache by triggers
#       cluster => 1,               # a Redis Cluster of 3 masters, with a replica
#                                   # each; it has faults of its own
#       seed => 4711, rows => 300, writers => 5, readers => 2, askers => 3,
#       prepared => 4,              # transactions in a hundred that are prepared
#       say => sub { ... });        # takes lines: progress, and the report
#   $witness->run;                  # 0: no promise was broken, 1: one was,
#                                   # 2: the program has failed
#   $witness->found('rolled back'); # how many values were that
#   $witness->checked;              # how many values were looked at
#
# Writers count up rows, readers look at what they see; see the top of
# test/history/history.h for the method.  This module starts the servers and
# the program, throws the faults, and tells the program of each before and
# after.  The seed makes the choices, not the timing.
#-------------------------------------------------------------------------
package SlateWitness;

use strict;
use warnings;
use Carp;
use Cwd ();
use File::Basename ();
use File::Temp ();
use IO::Select;
use IPC::Open3 ();
use List::Util qw(sum0);
use POSIX ();
use SlateCerts;
use SlateClient;
use SlateCluster;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSoak;
use Test::More ();
use Time::HiRes qw(sleep time);

# Where the program's sources are.
my $sources = Cwd::abs_path(File::Basename::dirname(__FILE__) . '/../history');

# Seconds after which a silent program has failed.
use constant PATIENCE => 200;

# For how many seconds a run goes on for what it has not seen yet.
use constant LONGER => 120;

# After how many ms a Cluster's nodes take one for dead.
use constant NODE_TIMEOUT => 3000;

#
# The tables
#

my $tables = <<'END';
CREATE TABLE item (id int PRIMARY KEY, shelf int NOT NULL, counter bigint NOT NULL,
    before bigint NOT NULL, token bigint NOT NULL) WITH (fillfactor = 50);
CREATE INDEX ON item (shelf);
CREATE TABLE grave (id int PRIMARY KEY, counter bigint NOT NULL,
    before bigint NOT NULL, token bigint NOT NULL);
CREATE TABLE quick (token bigint PRIMARY KEY, counter bigint NOT NULL, before bigint NOT NULL);
CREATE TABLE panel (id int PRIMARY KEY, counter bigint NOT NULL,
    before bigint NOT NULL, token bigint NOT NULL);
END

my $rules = <<'END';
SELECT slate_cache_attach('item', row_keys => ARRAY['h:{id}'], list_keys => ARRAY['hl:{shelf}'],
    drop_keys => ARRAY['hf:{id}'], ttl => '1 day', list_ttl => '1 day');
SELECT slate_cache_attach('panel', drop_keys => ARRAY['hp:{id}:*']);
END

# The first writes, one for each row, are in the program's ledger, too.
my $rows = <<'END';
INSERT INTO item SELECT i, (i - 1) % (%ROWS% / 5), 1, 0, i FROM generate_series(1, %ROWS%) i;
INSERT INTO panel SELECT i, 1, 0, %ROWS% + i FROM generate_series(1, %PANELS%) i;
END

# What one writes by hand: a trigger that tells Redis of each change, and
# readers that fill what they miss.
my $naive = <<'END';
CREATE FUNCTION naive_get(text, text) RETURNS text LANGUAGE c STRICT AS '%LIBRARY%', 'naive_get';
CREATE FUNCTION naive_set(text, text, text) RETURNS void LANGUAGE c STRICT AS '%LIBRARY%', 'naive_set';
CREATE FUNCTION naive_del(text, text) RETURNS void LANGUAGE c STRICT AS '%LIBRARY%', 'naive_del';

CREATE FUNCTION item_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM naive_del('%SOCKET%', 'h:' || OLD.id);
    ELSE
        PERFORM naive_set('%SOCKET%', 'h:' || NEW.id, row_to_json(NEW)::text);
    END IF;
    PERFORM naive_del('%SOCKET%', 'hl:' || coalesce(NEW.shelf, OLD.shelf));
    PERFORM naive_del('%SOCKET%', 'hf:' || coalesce(NEW.id, OLD.id));
    RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION item_changed();

CREATE FUNCTION panel_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM naive_del('%SOCKET%', 'hp:' || NEW.id || ':' || n) FROM generate_series(0, 1) n;
    RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER INSERT OR UPDATE ON panel FOR EACH ROW EXECUTE FUNCTION panel_changed();

CREATE FUNCTION slate_cache_fetch(key text, query text, ttl interval, VARIADIC args text[])
    RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    value text := naive_get('%SOCKET%', key);
BEGIN
    IF value IS NULL THEN
        EXECUTE 'SELECT coalesce(json_agg(q), ''[]'') FROM (' || query || ') q' INTO value USING args[1];
        PERFORM naive_set('%SOCKET%', key, value);
    END IF;
    RETURN value;
END $$;
CREATE FUNCTION slate_cache_get(key text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    value text := naive_get('%SOCKET%', key);
    number int := split_part(key, ':', 2);
BEGIN
    IF value IS NULL AND key LIKE 'h:%' THEN
        SELECT row_to_json(i) INTO value FROM item i WHERE i.id = number;
    ELSIF value IS NULL AND key LIKE 'hl:%' THEN
        SELECT json_agg(i) INTO value FROM item i WHERE shelf = number;
    ELSE
        RETURN value;
    END IF;
    PERFORM naive_set('%SOCKET%', key, value);
    RETURN value;
END $$;
CREATE FUNCTION slate_cache_mget(keys text[], OUT key text, OUT value jsonb) RETURNS SETOF record
    LANGUAGE sql AS 'SELECT k, slate_cache_get(k) FROM unnest(keys) WITH ORDINALITY u (k, n) ORDER BY n';
CREATE FUNCTION slate_cache_set(key text, value jsonb) RETURNS void LANGUAGE sql
    AS $$ SELECT naive_set('%SOCKET%', key, value::text) $$;
CREATE FUNCTION slate_cache_del(key text) RETURNS void LANGUAGE sql
    AS $$ SELECT naive_del('%SOCKET%', key) $$;
END

# What the program asks: is nothing on its way to Redis; is Redis reached
# again, and has it heard what was to be told $1 seconds ago; how many pushes
# were delayed.
my $healthy = q{NOT EXISTS (SELECT FROM slate_cache.health WHERE NOT ok
    AND "check" IN ('launcher', 'worker', 'redis', 'breaker', 'journal', 'history'))};
my %queries = (
    settled => "SELECT NOT EXISTS (SELECT FROM slate_cache.journal) AND $healthy AND \$1 >= 0.0",
    well => "SELECT $healthy AND NOT EXISTS (SELECT FROM slate_cache.journal
        WHERE state <> 'prepared' AND since < clock_timestamp() - \$1 * interval '1 second')",
    delayed => 'SELECT pushes_delayed FROM slate_cache.stats');

#
# Faults.  "kind" is what they do to Redis, in the program's words.  Each
# throws, and may return when (seconds from now) to call what.  One that finds
# no opportunity returns 'not now'.  "where" tells which are for one Redis, and
# which for a Cluster; the others are for both.
#

my %faults = (
    terminate => { kind => 'none', weight => 4, throw => sub { $_[0]->signal_backend('TERM') } },
    cancel => { kind => 'none', weight => 4, throw => sub { $_[0]->signal_backend('INT') } },
    kill_backend => { kind => 'none', weight => 2, throw => \&kill_backend },
    kill_worker => { kind => 'none', weight => 1,
        throw => sub { $_[0]->kill_backend(qr/slate_cache/) } },
    kill_postmaster => { kind => 'none', weight => 1, throw => \&kill_postmaster },
    immediate => { kind => 'none', weight => 1, throw => \&stop_immediately },
    hang => { where => 'redis', kind => 'unreachable', weight => 3, throw => \&hang_redis },
    cut => { where => 'redis', kind => 'unreachable', weight => 4, throw => \&cut_connections },
    restart_redis => { where => 'redis', kind => 'forgetful', weight => 1, throw => \&restart_redis },
    flushall => { where => 'redis', kind => 'forgetful', weight => 1, throw => \&flush_redis },

    # These need a proxy between PostgreSQL and Redis, which slows all down;
    # they are thrown if they are named.
    cut_request => { kind => 'unreachable', weight => 4, proxy => 1, where => 'redis',
        throw => sub { $_[0]->misbehave('hang_up', qr/EVALSHA|MULTI/) } },
    cut_reply => { kind => 'unreachable', weight => 4, proxy => 1, where => 'redis',
        throw => sub { $_[0]->misbehave('hang_up', qr/EVALSHA|MULTI/, after => 1 + int rand 8) } },
    delay => { kind => 'none', weight => 6, proxy => 1, where => 'redis', throw => \&delay_bytes },
    hold => { kind => 'unreachable', weight => 4, proxy => 1, where => 'redis', throw => \&hold_bytes },

    # Each at one master of a Cluster.  A hang is shorter or longer than
    # slate_cache.timeout, and ends before the others take the master for dead.
    # What a master has forgotten that was killed, or a replica that takes over
    # has never heard of, is "forgetful"; a planned failover, and a slot that
    # moves, lose nothing.
    scripts => { where => 'cluster', kind => 'none', weight => 2, throw => \&flush_scripts },
    kill_replica => { where => 'cluster', kind => 'none', weight => 1, throw => \&kill_replica },
    cut_master => { where => 'cluster', kind => 'unreachable', weight => 4, throw => \&cut_master },
    short_hang => { where => 'cluster', kind => 'unreachable', weight => 2,
        throw => sub { $_[0]->hang_master(0.1 + rand 0.7) } },
    long_hang => { where => 'cluster', kind => 'unreachable', weight => 2,
        throw => sub { $_[0]->hang_master(1.2 + rand 1) } },
    flush_master => { where => 'cluster', kind => 'forgetful', weight => 1, throw => \&flush_master },
    restart_master => { where => 'cluster', kind => 'forgetful', weight => 1, throw => \&restart_master },
    move_slot => { where => 'cluster', kind => 'unreachable', weight => 2,
        throw => sub { $_[0]->move_slot_of_a_key('h:', 'hl:') } },
    move_indexed => { where => 'cluster', kind => 'unreachable', weight => 1,
        throw => sub { $_[0]->move_slot_of_a_key('hf:', 'hs:') } },
    move_tag => { where => 'cluster', kind => 'unreachable', weight => 1,
        throw => sub { $_[0]->move_slot_of_a_tag } },
    handover => { where => 'cluster', kind => 'unreachable', weight => 1, throw => \&hand_over },
    failover => { where => 'cluster', kind => 'forgetful', weight => 1, throw => \&fail_over },
    hang_failover => { where => 'cluster', kind => 'forgetful', weight => 1, throw => \&hang_and_fail_over });

# Of one Redis, or of a Cluster.
sub fault_names
{
    my ($cluster) = @_;
    my $other = $cluster ? 'redis' : 'cluster';
    return grep { ($faults{$_}{where} // '') ne $other } sort keys %faults;
}

#
# The whole
#

sub new
{
    my ($class, %args) = @_;
    my $self = bless {
        mode => 'commit', seconds => 60, reads => 0, more_than => {}, faults => 'all', mean => 1.5, naive => 0,
        rows => 300, panels => 20, writers => 5, readers => 2, askers => 3, prepared => 4, say => sub { },
        %args, thrown => {}, undo => [],
    }, $class;
    $self->{seed} ||= 1 + int rand 1_000_000_000;
    srand($self->{seed});
    my @there_are = fault_names($self->{cluster});
    my @names = $self->{faults} eq 'all' ? grep { !$faults{$_}{proxy} } @there_are
      : $self->{faults} eq 'none' ? () : split /,/, $self->{faults};
    foreach my $name (@names)
    {
        croak "there is no fault \"$name\"; there are: @there_are" unless grep { $_ eq $name } @there_are;
    }
    croak 'a Cluster is asked without TLS, and has no naive cache' if $self->{cluster} && ($self->{tls} || $self->{naive});
    $self->{chosen} = [ sort @names ];
    $self->build;
    $self->start_servers;
    return $self;
}

# For test/history/run.
sub main
{
    my $out = Test::More->builder->output;
    $out->autoflush(1);
    my %given = map { my $value = $ENV{"SLATE_HISTORY_\U$_"}; ($value // '') ne '' ? ($_ => $value) : () }
      qw(mode seconds reads faults seed rows writers readers askers naive near mean prepared tls cluster);
    if (($given{faults} // '') eq 'help')
    {
        print $out join(' ', fault_names($given{cluster})), "\n";
        exit 0;
    }
    exit SlateWitness->new(%given, say => sub { print $out "$_[0]\n" })->run;
}

# Once for all of a process' witnesses.
my ($built, $servers);

sub build
{
    my ($self) = @_;
    $self->{built} = $built //= File::Temp->newdir('witness_XXXXXX', TMPDIR => 1);
    my @command = ('make', '-C', $sources, "BUILDDIR=$built");
    push @command, "PG_CONFIG=$ENV{PG_CONFIG}" if $ENV{PG_CONFIG};
    my $status = system("@command >'$built/log' 2>&1");
    my $log = SlateSoak::slurp("$built/log");
    croak "could not build the program:\n$log" if $status != 0;
    $self->{warnings} = join '', $log =~ /^.*warning:.*\n/mg;
    return;
}

sub start_servers
{
    my ($self) = @_;
    my $certs = $self->{certs} = $self->{tls} ? SlateCerts->new : undef;
    my %config = (maxclients => 1000);
    if ($self->{cluster})
    {
        $self->{cluster} = SlateCluster->new(replicas => 1, node_timeout => NODE_TIMEOUT, config => \%config);
    }
    else { $self->{redis} = SlateRedis->new(tls => $certs, config => \%config); }
    $self->{proxy} = SlateProxy->new($self->{redis}) if grep { $faults{$_}{proxy} } @{ $self->{chosen} };
    croak 'a proxy does not see into TLS' if $certs && $self->{proxy};
    my $where = $self->{cluster} ? $self->{cluster}->url : $self->{proxy} ? $self->{proxy}->url
      : $certs ? $self->{redis}->url(tls => 1) : $self->{redis};
    my %conf = (
        $certs ? ('slate_cache.tls_ca_file' => $certs->ca) : (),
        restart_after_crash => 'on', deadlock_timeout => '50ms', max_connections => 60,
        max_prepared_transactions => 40, log_statement => 'none', log_min_messages => 'log',
        log_min_error_statement => 'panic');
    if ($self->{naive}) { $conf{shared_preload_libraries} = ''; }
    else
    {
        # A machine that is busy with this is no outage.
        $conf{'slate_cache.timeout'} = $self->{cluster} ? 1000 : 2000;
        $conf{'slate_cache.connect_timeout'} = 1000;
        $conf{'slate_cache.mode'} = $self->{mode} eq 'mixed' ? 'strict' : $self->{mode};
        $conf{'slate_cache.near_memory'} = $self->{near} if $self->{near};
    }
    my $node = $self->{node} = SlateNode->start('history' . ++$servers, redis => $where,
        extension => !$self->{naive}, conf => \%conf);

    SlateNode::wait_for($node, q{SELECT ok FROM slate_cache.health WHERE "check" = 'history'}) if $self->{cluster};
    my %values = (LIBRARY => "$self->{built}/naive.so", SOCKET => $self->{redis} && $self->{redis}->socket,
        ROWS => $self->{rows}, PANELS => $self->{panels});
    my $schema = $tables . ($self->{naive} ? $naive : $rules) . $rows;
    $schema =~ s/%([A-Z]+)%/$values{$1}/g;
    $node->safe_psql('postgres', $schema);
    return;
}

# Of the view slate_cache.stats: since the server's last start.
sub counter
{
    my ($self, $name) = @_;
    return $self->{$name} = $self->{node}->safe_psql('postgres', "SELECT $name FROM slate_cache.stats");
}

# Prepared transactions keep others from it: see prepared.
sub pushes
{
    my ($self) = @_;
    return sprintf 'pushes since the server\'s last start: %d, of which directly: %d',
      $self->counter('pushes'), $self->counter('pushes_direct');
}

# Without any, the near cache was not checked.
sub near_hits
{
    my ($self) = @_;
    return 'hits in the near cache since the server\'s last start: ' . $self->counter('near_hits');
}

# How much there is of it in some seconds depends on the faults, and on the
# machine.
sub has_enough
{
    my ($self) = @_;
    my $least = $self->{more_than};
    return 0 if $self->{progress}[0] <= ($least->{reads} // -1) || $self->{progress}[1] <= ($least->{commits} // -1);
    foreach my $name (qw(pushes_direct near_hits))
    {
        return 0 if defined $least->{$name} && $self->counter($name) <= $least->{$name};
    }
    return 1;
}

# Until it was long enough, and enough.
sub goes_on
{
    my ($self, $end) = @_;
    return 0 if $self->{reads} && $self->{progress}[0] >= $self->{reads};
    return 1 if time < $end;
    return time < $end + LONGER && !$self->has_enough;
}

sub run
{
    my ($self) = @_;
    $self->start_program;
    my $end = time + $self->{seconds};
    my $next_fault = time + $self->pause;
    while ($self->goes_on($end))
    {
        $self->undo_due(time);
        if (@{ $self->{chosen} } && time >= $next_fault)
        {
            $self->throw_one;
            $next_fault = time + $self->pause;
        }
        $self->listen(0.02);
    }
    $self->undo_due(9e99);
    $self->tell('stop');
    $self->listen(1) until $self->{ended};
    waitpid $self->{pid}, 0;
    my $status = $? & 127 ? 2 : $? >> 8;
    $self->{say}->($self->faults_thrown);
    $self->{say}->($self->pushes) unless $self->{naive};
    $self->{say}->($self->near_hits) if $self->{near};
    return $status;
}

sub pause { my ($self) = @_; return -$self->{mean} * log(1 - rand) }

sub faults_thrown
{
    my ($self) = @_;
    my $thrown = $self->{thrown};
    return 'faults: ' . (join(', ', map { "$thrown->{$_} $_" } sort keys %$thrown) || 'none');
}

sub found { my ($self, $class) = @_; return $self->{summary}{ $class =~ tr/ /_/r } }
sub checked { return $_[0]{summary}{checked} }
sub commits { return $_[0]{summary}{commits} }

#
# The program
#

sub start_program
{
    my ($self) = @_;
    my @command = ("$self->{built}/history", '--connstr', $self->{node}->connstr('postgres'),
        $self->{cluster} ? ('--cluster', $self->{cluster}->url =~ s,^cluster://,,r)
        : ('--socket', $self->{redis}->socket));
    push @command, "--$_", $self->{$_} foreach qw(mode rows panels writers readers askers seed prepared);
    push @command, "--$_", $queries{$_} foreach $self->{naive} ? () : sort keys %queries;
    $self->{pid} = IPC::Open3::open3($self->{to}, $self->{from}, undef, @command);
    $self->{to}->autoflush(1);
    $self->{progress} = [ 0, 0, 0 ];
    $self->{text} = '';
    $self->{heard} = time;
    $self->{told} = time;
    return;
}

# Takes what the program says within that time.
sub listen
{
    my ($self, $seconds) = @_;
    if (!IO::Select->new($self->{from})->can_read($seconds))
    {
        croak 'the program says nothing' if time > $self->{heard} + PATIENCE;
        return;
    }
    $self->{heard} = time;
    sysread $self->{from}, $self->{text}, 1 << 16, length $self->{text} or $self->{ended} = 1;
    while ($self->{text} =~ s/^(.*)\n//)
    {
        my $line = $1;
        if ($line =~ /^progress (\d+) (\d+) (\d+)$/) { $self->take_progress($1, $2, $3); }
        elsif ($line eq 'ok') { $self->{answered} = 1; }
        else
        {
            $self->{summary} = { $line =~ /(\w+)=(\d+)/g } if $line =~ /^summary: /;
            $self->{say}->($line) unless $line =~ /^summary: /;
        }
    }
    return;
}

sub take_progress
{
    my ($self, @progress) = @_;
    $self->{progress} = \@progress;
    return if time < $self->{told} + 10;
    $self->{told} = time;
    $self->{say}->(sprintf '%d reads, %d commits, %d faults, %d suspicions',
        @progress[ 0, 1 ], sum0(values %{ $self->{thrown} }), $progress[2]);
    return;
}

# The program knows it when this returns.
sub tell
{
    my ($self, $line) = @_;
    local $SIG{PIPE} = 'IGNORE';
    $self->{answered} = 0;
    syswrite $self->{to}, "$line\n";
    $self->listen(1) until $self->{answered} || $self->{ended};
    return;
}

#
# Throwing faults
#

sub throw_one
{
    my ($self) = @_;
    my $left = rand sum0(map { $faults{$_}{weight} } @{ $self->{chosen} });
    my $name;
    foreach (@{ $self->{chosen} })
    {
        $name = $_;
        last if ($left -= $faults{$_}{weight}) < 0;
    }
    $self->tell("fault $faults{$name}{kind}");
    my ($delay, $undo) = $faults{$name}{throw}->($self);
    if ($undo) { push @{ $self->{undo} }, { time => time + $delay, undo => $undo }; }
    else { $self->tell('mended'); }
    $self->{thrown}{$name}++ unless defined $delay && $delay eq 'not now';
    return;
}

sub undo_due
{
    my ($self, $until) = @_;
    my @due = grep { $_->{time} <= $until } @{ $self->{undo} };
    $self->{undo} = [ grep { $_->{time} > $until } @{ $self->{undo} } ];
    foreach my $fault (sort { $a->{time} <=> $b->{time} } @due)
    {
        $fault->{undo}->();
        $self->tell('mended');
    }
    return;
}

# Until it takes connections again.
sub wait_for_postgres
{
    my ($self) = @_;
    SlateRedis::wait_until(
        sub { ($self->{node}->psql('postgres', 'SELECT 1', stderr => \my $complaint))[0] == 0 },
        'PostgreSQL is up again');
    return;
}

sub signal_backend
{
    my ($self, $signal, $title) = @_;
    my @pids = SlateSoak::backends($self, $title // qr/\[local\]/) or return 'not now';
    kill $signal, $pids[ rand @pids ];
    return;
}

sub kill_backend
{
    my ($self, $title) = @_;
    my $outcome = $self->signal_backend('KILL', $title);
    sleep 0.1;    # the postmaster hears of it, and ends the others
    $self->wait_for_postgres;
    return $outcome;
}

sub kill_postmaster
{
    my ($self) = @_;
    my $pid = $self->{node}{_pid};
    $self->{node}->kill9;
    sleep 0.02 while kill 0, $pid;
    SlateSoak::start_postgres($self);
    return;
}

sub stop_immediately
{
    my ($self) = @_;
    $self->{node}->stop('immediate');
    SlateSoak::start_postgres($self);
    return;
}

sub hang_redis
{
    my ($self) = @_;
    return 'not now' if $self->{hanging};
    $self->{hanging} = 1;
    $self->{redis}->pause;
    return (0.2 + rand 2.8, sub { $self->{redis}->resume; $self->{hanging} = 0 });
}

# PostgreSQL's connections to Redis; an app's go on.
sub cut_connections
{
    my ($self) = @_;
    return 'not now' if $self->{hanging};
    my @ids = map { / name=slate/ && /^id=(\d+) / ? $1 : () } split /\n/, $self->{redis}->cli(qw(CLIENT LIST));
    $self->{redis}->cli(qw(CLIENT KILL ID), $_) foreach @ids;
    return;
}

sub flush_redis
{
    my ($self) = @_;
    return 'not now' if $self->{hanging};
    $self->{redis}->cli('FLUSHALL');
    return;
}

sub restart_redis
{
    my ($self) = @_;
    return 'not now' if $self->{hanging};
    $self->{redis}->kill9;
    sleep rand 0.5;
    $self->{redis}->start;
    return;
}

sub misbehave
{
    my ($self, $how, @args) = @_;
    $self->{proxy}->$how(@args);
    return (0.05 + rand 0.5, sub { $self->{proxy}->pass });
}

# So little that nothing is late: what is sent later on one connection arrives
# before what was sent first on another.
sub delay_bytes
{
    my ($self) = @_;
    $self->{proxy}->delay(requests => [ 0, 5 + rand 50 ], replies => [ 0, rand 5 ]);
    return (1 + rand 3, sub { $self->{proxy}->pass });
}

sub hold_bytes
{
    my ($self) = @_;
    $self->{proxy}->hold(qr/EVALSHA|MULTI/);
    return (0.1 + rand 2, sub { $self->{proxy}->release });
}

#
# Faults of a Cluster.  One that has left it in disorder does not wait: until it
# is well again there are no others.
#

sub is_disturbed
{
    my ($self) = @_;
    return $self->{hanging} || !$self->{cluster}->is_ok;
}

# A master that has slots, or nothing while there is another fault.
sub choose_master
{
    my ($self) = @_;
    return if $self->is_disturbed;
    my @masters = $self->{cluster}->masters;
    return $masters[ rand @masters ];
}

# After a time, as an undo; "mended" is told when all nodes say that all is well.
sub later_well
{
    my ($self, $delay, $function) = @_;
    $self->{hanging} = 1;
    return (
        $delay,
        sub {
            $function->();
            $self->{cluster}->wait_until_ok;
            $self->{hanging} = 0;
        });
}

sub flush_scripts
{
    my ($self) = @_;
    my $master = $self->choose_master or return 'not now';
    $master->cli(qw(SCRIPT FLUSH));
    return;
}

sub kill_replica
{
    my ($self) = @_;
    my $master = $self->choose_master or return 'not now';
    my ($replica) = grep { SlateSentinel::role($_) eq 'slave' } $master, $self->{cluster}->replicas_of($master);
    $replica->kill9;
    return $self->later_well(rand 2, sub { $replica->start });
}

# Connections of PostgreSQL, by their name; or all clients', half of the time.
sub cut_master
{
    my ($self) = @_;
    my $master = $self->choose_master or return 'not now';
    if (rand() < 0.5)
    {
        $master->cli(qw(CLIENT KILL TYPE normal SKIPME yes));
        return;
    }
    my @ids = map { / name=slate/ && /^id=(\d+) / ? $1 : () } split /\n/, $master->cli(qw(CLIENT LIST));
    $master->cli(qw(CLIENT KILL ID), $_) foreach @ids;
    return;
}

sub hang_master
{
    my ($self, $seconds) = @_;
    my $master = $self->choose_master or return 'not now';
    $master->pause;
    return $self->later_well($seconds, sub { $master->resume });
}

sub flush_master
{
    my ($self) = @_;
    my $master = $self->choose_master or return 'not now';
    $master->cli('FLUSHALL');
    return;
}

sub restart_master
{
    my ($self) = @_;
    my $master = $self->choose_master or return 'not now';
    $master->kill9;
    return $self->later_well(rand 0.8, sub { $master->start });
}

# Of a key by a rule, or of one that stands in the index of a family.
sub move_slot_of_a_key
{
    my ($self, @prefixes) = @_;
    my $number = 1 + int rand(rand() < 0.5 ? 8 : $self->{rows} / 5);
    return $self->move($self->{cluster}->slot($prefixes[ rand @prefixes ] . $number));
}

# That of a master's epoch, say, and of all that it has noted of itself.
sub move_slot_of_a_tag
{
    my ($self) = @_;
    my $master = $self->choose_master or return 'not now';
    my ($epoch) = sort split /\n/, $master->cli('KEYS', 'slate_cache:{*}epoch:*');
    return 'not now' unless $epoch;
    return $self->move($self->{cluster}->slot($epoch));
}

# In steps between which writers and readers go on.
sub move
{
    my ($self, $slot) = @_;
    my $cluster = $self->{cluster};
    return 'not now' if $self->is_disturbed;
    my $port = SlateCluster::port_of_slot($slot, $cluster->majority);
    my $from = $cluster->at_port($port);
    my @others = grep { $_ != $from } $cluster->masters;
    my $to = $others[ rand @others ];
    $cluster->begin_move($slot, $from, $to);
    sleep rand 0.2;
    my @keys = @{ SlateClient->new($from)->ask('CLUSTER', 'GETKEYSINSLOT', $slot, 1000) };
    foreach my $key (@keys)
    {
        $cluster->migrate_keys($slot, $from, $to, $key);
        sleep rand(0.3 / @keys);
    }
    return $self->later_well(
        rand 0.3,
        sub {
            $cluster->migrate_keys($slot, $from, $to);
            $cluster->end_move($slot, $from, $to);
        });
}

# A replica takes over when it has all that its master had.
sub hand_over
{
    my ($self) = @_;
    my $master = $self->choose_master or return 'not now';
    my ($replica) = $self->replicas_now($master);
    $replica->cli(qw(CLUSTER FAILOVER));
    return $self->later_well(0.3, sub { $self->wait_for_master($replica) });
}

# Those that replicate from it at present.
sub replicas_now
{
    my ($self, $master) = @_;
    return grep { SlateSentinel::role($_) eq 'slave' } $self->{cluster}->replicas_of($master);
}

sub wait_for_master
{
    my ($self, $node) = @_;
    SlateRedis::wait_until(
        sub { grep { $_ == $node } $self->{cluster}->masters },
        'a replica has become a master');
    return;
}

# At once, by force, or when the others have noticed.
sub fail_over
{
    my ($self) = @_;
    my $master = $self->choose_master or return 'not now';
    my ($replica) = $self->replicas_now($master);
    $master->kill9;
    $replica->cli(qw(CLUSTER FAILOVER FORCE)) if rand() < 0.7;
    return $self->later_well(rand 1, sub { $self->wait_for_master($replica); $master->start });
}

# The old master comes back with all that it had, and does not know yet.
sub hang_and_fail_over
{
    my ($self) = @_;
    my $master = $self->choose_master or return 'not now';
    my ($replica) = $self->replicas_now($master);
    $master->pause;
    $replica->cli(qw(CLUSTER FAILOVER FORCE)) if rand() < 0.7;
    return $self->later_well(rand 1, sub { $self->wait_for_master($replica); $master->resume });
}

1;
