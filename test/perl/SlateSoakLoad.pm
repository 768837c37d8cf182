#-------------------------------------------------------------------------
# SlateSoakLoad - one session of the soak's load, a process of its own.
#
#   use SlateSoakLoad;
#   my $session = SlateSoakLoad->start('writer', connstr => ..., socket => ...,
#       seed => 1, name => '1-1', file => $path);
#   $session->stop;             # it ends its transaction; does not wait
#   $session->result;           # waits; { commits, unexpected => [ text... ] }
#   $session->kind; $session->end_now;
#
# Kinds:
#   writer    transactions of everything that changes rows and keys
#   reader    slate_cache_get(), mget(), fetch()
#   app       reads the table "tally" and SETs what it has read, as apps do,
#             behind the extension's back; and changes it
#   resolver  commits or rolls back what writers have prepared; at the end all
#
# A session that is lost connects again.  What it was doing has happened or not:
# the tables know.
#-------------------------------------------------------------------------
package SlateSoakLoad;

use strict;
use warnings;
use Carp;
use IO::Select;
use List::Util qw(sum);
use POSIX ();
use SlateSoakWire;
use Time::HiRes qw(sleep time);

# Longer than any fault: who waits so long for an answer is stuck.
use constant TIME_LIMIT => 60;

# The greatest ids.
use constant { CUSTOMERS => 40, ITEMS => 2000, DOCS => 500, EVENTS => 800, BINS => 100 };

# What happens to sessions that get in each other's way, or lose their server.
my %explained = map { $_ => 1 } qw(40001 40P01 23505 23503 55P03 25P02
  3B001 54000 57P01 57P02 57P03 57014);

#
# In the process that starts it
#

sub start
{
    my ($class, $kind, %args) = @_;
    my $self = bless { %args, kind => $kind, commits => 0, unexpected => [], count => 0 }, $class;
    my $pid = fork() // croak "fork: $!";
    if ($pid == 0)
    {
        my $done = eval { $self->work; 1 };
        push @{ $self->{unexpected} }, "the session's driver has died: $@" unless $done;
        $self->report;
        POSIX::_exit(0);
    }
    $self->{pid} = $pid;
    return $self;
}

sub kind { return $_[0]{kind} }
sub stop { my ($self) = @_; kill 'TERM', $self->{pid} if $self->{pid}; return }

sub end_now
{
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;
    kill('KILL', $pid);
    waitpid $pid, 0;
    return;
}

sub result
{
    my ($self) = @_;
    my $end = time + 2 * TIME_LIMIT;
    while (waitpid($self->{pid}, POSIX::WNOHANG()) == 0)
    {
        if (time > $end) { $self->end_now; last; }
        sleep 0.02;
    }
    delete $self->{pid};
    my %result = (commits => 0, unexpected => []);
    open my $handle, '<:raw', $self->{file} or return { %result, unexpected => ['it has not come to an end'] };
    chomp($result{commits} = <$handle>);
    chomp(@{ $result{unexpected} } = <$handle>);
    return \%result;
}

#
# The process itself
#

sub report
{
    my ($self) = @_;
    open my $handle, '>:raw', $self->{file} or return;
    s/\n/\\n/g foreach @{ $self->{unexpected} };
    print $handle map { "$_\n" } $self->{commits}, @{ $self->{unexpected} };
    close $handle;
    return;
}

my $stop = 0;

sub work
{
    my ($self) = @_;
    my $turn = $self->{kind} . '_turn';
    my $parent = getppid;
    $SIG{TERM} = sub { $stop = 1 };
    $SIG{PIPE} = 'IGNORE';
    unlink $self->{file};
    srand $self->{seed};
    while (!$stop && getppid == $parent && @{ $self->{unexpected} } < 20)
    {
        $self->$turn;
    }
    $self->resolve_all if $self->{kind} eq 'resolver';
    $self->disconnect;
    return;
}

sub open_psql
{
    my ($self) = @_;
    pipe(my $from, my $its_out) or croak "pipe: $!";
    pipe(my $its_in, my $to) or croak "pipe: $!";
    my $pid = fork() // croak "fork: $!";
    if ($pid == 0)
    {
        open STDIN, '<&', $its_in;
        open STDOUT, '>&', $its_out;
        open STDERR, '>&', $its_out;
        exec('psql', '-XAt', '-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=never',
            '-d', $self->{connstr}, '-f', '-') or POSIX::_exit(127);
    }
    close $its_out;
    close $its_in;
    $to->autoflush(1);
    @$self{qw(psql from to)} = ($pid, $from, $to);
    return defined $self->run($self->settings);
}

sub disconnect
{
    my ($self) = @_;
    my $psql = delete $self->{psql} or return;
    close delete $self->{to};
    close delete $self->{from};

    # It may wait for a server that does not answer.
    kill('TERM', $psql);
    waitpid $psql, 0;
    return;
}

# Each session has other settings, none of which may be seen in the cache.
sub settings
{
    my ($self) = @_;
    my @settings = (
        "client_encoding = 'UTF8'",
        "client_min_messages = 'error'",
        "lock_timeout = '2s'",
        "application_name = 'soak-$self->{kind}'",
        "timezone = '" . one_of('UTC', 'Asia/Tokyo', 'America/New_York') . "'",
        "datestyle = '" . one_of('ISO, DMY', 'German', 'SQL, MDY') . "'",
        "bytea_output = '" . one_of('hex', 'escape') . "'",
        'synchronous_commit = ' . one_of('on', 'off'),
        "default_transaction_isolation = '"
          . one_of(('read committed') x 8, 'repeatable read', 'serializable') . "'");
    push @settings, "slate_cache.max_pending = '64kB'" if rand() < 0.1;
    return join "\n", map { "SET $_;" } @settings;
}

# Runs statements; the answer, or nothing if the session was lost.  Waits
# between attempts to connect.
sub query
{
    my ($self, $sql) = @_;
    if (!$self->{psql} && !$self->open_psql)
    {
        sleep 0.05;
        return;
    }
    my $answer = $self->run($sql) // return;
    $self->{commits} += () = $answer =~ /^COMMIT(?: PREPARED)?$/mg;
    return $answer;
}

sub run
{
    my ($self, $sql) = @_;
    my $mark = 'soak-done-' . ++$self->{count};
    print { $self->{to} } "$sql\n\\echo $mark\n";
    my ($answer, $complete) = $self->answer(qr/^$mark\n/m);
    if (!defined $complete)
    {
        push @{ $self->{unexpected} }, 'no answer after ' . TIME_LIMIT . " s: $sql";
    }
    $self->look_for_errors($answer, $sql);
    return $answer if $complete;
    $self->disconnect;
    return;
}

# What comes until the mark, and true; false if the session ends before it;
# undefined if it takes too long.
sub answer
{
    my ($self, $mark) = @_;
    my $select = IO::Select->new($self->{from});
    my $end = time + TIME_LIMIT;
    my $answer = '';
    while (time < $end)
    {
        next unless $select->can_read(1);
        my $got = sysread $self->{from}, $answer, 1 << 16, length $answer;
        next if !defined $got && $!{EINTR};
        return ($answer, 0) unless $got;
        return ($answer, 1) if $answer =~ $mark;
    }
    return ($answer, undef);
}

sub look_for_errors
{
    my ($self, $answer, $sql) = @_;
    while ($answer =~ /^psql:<stdin>:\d+: ((?:ERROR|PANIC):  (\w{5}): .*)/mg)
    {
        push @{ $self->{unexpected} }, "$1 -- $sql" unless $explained{$2};
    }
    return;
}

#
# Choices
#

sub one_of { return $_[ rand @_ ] }
sub number { my ($to) = @_; return 1 + int rand $to }

# Some are in demand, so that sessions meet; most are left alone for long, so
# that nothing covers up what has gone wrong with them.
sub hot
{
    my ($to) = @_;
    my $kind = rand;
    return number($kind < 0.3 ? 8 : $kind < 0.5 ? 100 : $to);
}

my @pieces = ('a', 'Hello ', '"', '\\', "\n", "\t", "'", "\xc3\xa9", "\xe6\x97\xa5", "\xf0\x9f\x98\x80",
    '</x>', "\x01", '%s', '{id}', '$1', ':name', '*', '\\u0041', ' ');

sub text
{
    my $text = join '', map { one_of(@pieces) } 1 .. rand 12;
    $text .= 'x' x 3000 if rand() < 0.03;
    $text .= join '', map { one_of(@pieces) } 1 .. 20000 if rand() < 0.002;
    return $text;
}

sub literal { my ($text) = @_; return "'" . $text =~ s/'/''/gr . "'" }
sub nullable { return rand() < 0.1 ? 'NULL' : literal(text()) }
sub json { return literal(one_of('{"a": [1, 2.50, null]}', '[]', 'null', '{"b": "' . number(1000) . '"}')) }

# One line of COPY's text format.
sub copy_line
{
    my %escaped = ("\\" => '\\\\', "\t" => '\t', "\n" => '\n', "\r" => '\r');
    return join("\t", map { defined $_ ? s/([\\\t\n\r])/$escaped{$1}/gr : '\N' } @_) . "\n";
}

my @folders = ('plain', 'f*', 'f[1]', 'f?', 'back\\slash');

sub hand_key
{
    return one_of('soak:desk:' . number(5) . ':' . number(6),
        'loose:' . number(20), 'slate:session:' . number(5));
}

# What stands for a choice in the statements below.  <a=item> ... <a> is the
# same twice.
my %choices = (
    item => sub { hot(ITEMS) },
    many => sub { number(ITEMS) },
    customer => sub { number(CUSTOMERS) },
    doc => sub { hot(DOCS) },
    event => sub { hot(EVENTS) },
    bin => sub { hot(BINS) },
    region => sub { number(5) },
    kind => sub { number(4) },
    desk => sub { number(5) },
    few => sub { number(50) },
    folder => sub { literal(one_of(@folders)) },
    path => sub { "'p" . hot(DOCS) . "'" },
    text => sub { literal(text()) },
    name => \&nullable,
    json => \&json,
    hex => sub { sprintf "'%08x'", rand 2**32 },
    hand => sub { literal(hand_key()) },
    partition => sub { one_of('event_1', 'event_2', 'event_rest') },
    column => sub { one_of('ADD IF NOT EXISTS extra int DEFAULT 7', 'DROP IF EXISTS extra') },
);

sub choose
{
    my ($statement) = @_;
    my %kept;
    return $statement =~ s{<(?:(\w+)=)?(\w+)>}{
        my $choice = exists $kept{$2} ? $kept{$2} : $choices{$2}->();
        $kept{$1} = $choice if defined $1;
        $choice}ger;
}

# How often, and what.  A statement that fails takes its transaction with it.
my %changes = (
    item_update => [ 12, 'UPDATE item SET name = <name>, changed = clock_timestamp() WHERE id = <item>' ],
    item_columns => [ 4, q{UPDATE item SET price = price + 0.10, tags = <json>, raw = decode(<hex>, 'hex')
        WHERE id = <item>} ],
    item_insert => [ 6, 'INSERT INTO item SELECT <item>, id, <name> FROM customer WHERE id = <customer>
        ON CONFLICT DO NOTHING' ],
    item_upsert => [ 4, 'INSERT INTO item SELECT <item>, id, <name> FROM customer WHERE id = <customer>
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, customer = excluded.customer' ],
    item_refill => [ 1, q{INSERT INTO item SELECT i, <customer>, 'again ' || i
        FROM generate_series(<a=many>, <a> + 20) i ON CONFLICT DO NOTHING} ],
    item_delete => [ 5, 'DELETE FROM item WHERE id = <item>' ],
    item_move => [ 4, 'UPDATE item SET customer = (SELECT id FROM customer WHERE id <> customer
        ORDER BY random() LIMIT 1) WHERE id = <item>' ],
    item_swap => [ 3, \&swap_items ],
    item_many => [ 2, 'UPDATE item SET name = id || <text> WHERE id BETWEEN <a=many> AND <a> + <few>' ],
    item_all => [ 0.02, q{UPDATE item SET name = 'all ' || id || repeat('-', 300)} ],
    item_copy => [ 2, \&copy_items ],
    item_merge => [ 1, 'MERGE INTO item USING (SELECT <item> AS id) s ON item.id = s.id
        WHEN MATCHED AND item.id % 2 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET name = <name>' ],
    customer_update => [ 2, 'UPDATE customer SET name = <name> WHERE id = <customer>' ],
    customer_cascade => [ 0.5, q{DELETE FROM customer WHERE id = <a=customer>;
        INSERT INTO customer VALUES (<a>, 'again')} ],
    doc_update => [ 5, 'UPDATE doc SET body = <name> WHERE id = <doc>' ],
    doc_rename => [ 4, 'UPDATE doc SET folder = <folder>, path = <path> WHERE id = <doc>' ],
    doc_insert => [ 4, 'INSERT INTO doc VALUES (<doc>, <folder>, <path>, <name>) ON CONFLICT DO NOTHING' ],
    doc_delete => [ 3, 'DELETE FROM doc WHERE folder = <folder> AND path = <path>' ],
    doc_swap => [ 3, \&swap_docs ],
    doc_reuse => [ 3, 'DELETE FROM doc WHERE folder = <a=folder> AND path = <b=path>;
        INSERT INTO doc VALUES (<doc>, <a>, <b>, <name>) ON CONFLICT DO NOTHING' ],
    event_update => [ 4, 'UPDATE event SET note = <name> WHERE id = <event>' ],
    event_move => [ 4, 'UPDATE event SET region = <region> WHERE region = <region> AND id = <event>' ],
    event_insert => [ 4, 'INSERT INTO event VALUES (<region>, <event>, <name>) ON CONFLICT DO NOTHING' ],
    event_refill => [ 0.5, q{INSERT INTO event SELECT <region>, i, 'again'
        FROM generate_series(<a=event>, <a> + 40) i ON CONFLICT DO NOTHING} ],
    event_delete => [ 2, 'DELETE FROM event WHERE id = <event>' ],
    event_truncate => [ 0.2, 'TRUNCATE <partition>' ],
    bin_insert => [ 5, 'INSERT INTO bin VALUES (<bin>, <kind>, <name>) ON CONFLICT DO NOTHING' ],
    bin_update => [ 4, 'UPDATE bin SET kind = <kind>, note = <name> WHERE id = <bin>' ],
    bin_delete => [ 3, 'WITH d AS (DELETE FROM bin WHERE id = <bin> RETURNING kind)
        UPDATE gone SET n = n + 1 WHERE kind IN (SELECT kind FROM d)' ],
    bin_truncate => [ 0.3, 'TRUNCATE bin; UPDATE gone SET n = n + 1' ],
    bin_alter => [ 0.1, 'ALTER TABLE bin <column>' ],
    hand_set => [ 6, q{UPDATE hand SET value = <v=json> WHERE key = <k=hand>;
        SELECT slate_cache_set(<k>, <v>, '1 day')} ],
    hand_mset => [ 2, \&set_many_by_hand ],
    hand_del => [ 3, 'UPDATE hand SET value = NULL WHERE key = <k=hand>; SELECT slate_cache_del(<k>)' ],
    hand_invalidate => [ 1, q{UPDATE hand SET value = NULL WHERE key LIKE 'soak:desk:<a=desk>:%';
        SELECT slate_cache_invalidate('soak:desk:<a>:*')} ],
    desk_update => [ 2, q{UPDATE hand SET value = NULL WHERE key LIKE 'soak:desk:<a=desk>:%';
        UPDATE desk SET n = n + 1 WHERE id = <a>} ],
);

# In a fixed order, or the seed would not choose the same.
my @change_names = sort keys %changes;
my $all_weights = sum(map { $_->[0] } values %changes);

sub change
{
    my ($self) = @_;
    my $left = rand $all_weights;
    foreach my $name (@change_names)
    {
        my ($weight, $statement) = @{ $changes{$name} };
        next unless ($left -= $weight) < 0;
        return ref $statement ? $statement->($self) : choose($statement);
    }
    return 'SELECT 1';
}

sub swap_items
{
    my ($one, $other) = (hot(ITEMS), hot(ITEMS));
    return "UPDATE item SET id = -1 WHERE id = $one; UPDATE item SET id = $one WHERE id = $other; "
      . "UPDATE item SET id = $other WHERE id = -1; DELETE FROM item WHERE id = -1";
}

sub swap_docs
{
    my ($one, $other) = (hot(DOCS), hot(DOCS));
    return 'SELECT 1' if $one == $other;
    return "INSERT INTO parked SELECT * FROM doc WHERE id IN ($one, $other) FOR UPDATE; "
      . "UPDATE doc SET path = 'swapping' || id WHERE id IN ($one, $other); "
      . "UPDATE doc SET folder = p.folder, path = p.path FROM parked p WHERE doc.id IN ($one, $other) "
      . 'AND p.id = CASE WHEN (SELECT count(*) FROM parked) = 2 THEN ' . ($one + $other) . ' - doc.id ELSE doc.id END; '
      . 'DELETE FROM parked';
}

sub copy_items
{
    my ($self) = @_;
    my $file = "$self->{file}.copy";
    my $customer = number(CUSTOMERS);
    open my $handle, '>:raw', $file or croak "$file: $!";
    print $handle copy_line($_, $customer, text()) foreach ITEMS + 1 .. ITEMS + number(30);
    close $handle or croak "$file: $!";
    return "DELETE FROM item WHERE id > " . ITEMS . "; COPY item (id, customer, name) FROM '$file'";
}

sub set_many_by_hand
{
    my %values = map { hand_key() => number(1000) } 1 .. 4;
    my $entries = literal('{' . join(', ', map { "\"$_\": $values{$_}" } sort keys %values) . '}');
    return "UPDATE hand SET value = e.value FROM jsonb_each($entries) e WHERE hand.key = e.key; "
      . "SELECT slate_cache_mset($entries, '1 day')";
}

#
# Reading
#

my @readable = qw(soak:item:<item> soak:name:<item> soak:items:<customer> soak:customer:<customer>
  soak:doc:<doc> soak:event:<region>:<event> soak:events:<region> soak:bin:<bin> soak:bins:<kind>);

sub any_key
{
    my $kind = number(@readable + 3);
    return choose($readable[ $kind - 1 ]) if $kind <= @readable;
    return hand_key() if $kind == @readable + 1;
    return 'soak:docs:' . one_of(@folders) if $kind == @readable + 2;
    return 'soak:path:' . one_of(@folders) . ':p' . hot(DOCS);
}

sub fetch
{
    my ($key, $query, @args);
    my $kind = number(3);
    if ($kind == 1)
    {
        @args = (number(CUSTOMERS), number(5) - 1);
        $key = "soak:search:$args[0]:$args[1]";
        $query = 'SELECT id, name FROM item WHERE customer = $1::int AND id % 5 = $2::int ORDER BY id';
    }
    elsif ($kind == 2)
    {
        @args = (one_of(@folders), number(3) - 1);
        $key = "soak:grep:$args[0]:$args[1]";
        $query = 'SELECT id, path FROM doc WHERE folder = $1 AND id % 3 = $2::int ORDER BY id';
    }
    else
    {
        @args = (number(4));
        $key = "soak:gone:$args[0]:" . number(5);
        $query = 'SELECT n FROM gone WHERE kind = $1::int';
    }
    my @all = map { literal($_) } $key, $query, '1 day', @args;
    return 'SELECT length(slate_cache_fetch(' . join(', ', @all) . ')::text)';
}

sub read_something
{
    my $kind = rand;
    return 'SELECT length(slate_cache_get(' . literal(any_key()) . ')::text)' if $kind < 0.5;
    return fetch() if $kind < 0.8;
    my @keys = map { literal(any_key()) } 1 .. number(20);
    return 'SELECT count(value) FROM slate_cache_mget(ARRAY[' . join(', ', @keys) . '])';
}

#
# Turns
#

sub reader_turn
{
    my ($self) = @_;
    $self->query(join ";\n", map({ read_something() } 1 .. 5), '');
    return;
}

sub writer_turn
{
    my ($self) = @_;
    my @statements = ('BEGIN');
    foreach (1 .. number(4))
    {
        my $statement = rand() < 0.15 ? read_something() : $self->change;
        my $outcome = rand;
        $statement = "SAVEPOINT s; $statement; ROLLBACK TO s" if $outcome < 0.1;
        $statement = "SAVEPOINT s; $statement; RELEASE s" if $outcome > 0.85;
        push @statements, $statement;
    }
    push @statements, 'SELECT pg_sleep(' . rand(0.02) . ')' if rand() < 0.1;
    push @statements, $self->ending, '';
    $self->query(join ";\n", @statements);
    return;
}

sub ending
{
    my ($self) = @_;
    my $kind = rand;
    return 'ROLLBACK' if $kind < 0.1;
    return 'COMMIT' if $kind > 0.15;
    return "PREPARE TRANSACTION 'soak-$self->{name}-" . ++$self->{count} . "'";
}

# The same owner has one app, so that it knows when what it read is the latest.
sub app_turn
{
    my ($self) = @_;
    my $owner = number(5);
    my $key = "soak:app:$owner:" . number(4);
    if (rand() < 0.6)
    {
        $self->query("BEGIN; UPDATE tally SET n = n + 1 WHERE owner = $owner; COMMIT;");
        return;
    }
    my $answer = $self->query("SELECT 'n is ' || n FROM tally WHERE owner = $owner;") // return;
    my ($n) = $answer =~ /^n is (\d+)$/m or return;

    # Waits for the answer, however long: it must not happen after the next change.
    $self->{wire} = SlateSoakWire->new($self->{socket}) if !$self->{wire} || $self->{wire}->ended;
    $self->{wire}->ask('SET', $key, $n, 'EX', 86400) if $self->{wire};
    return;
}

sub resolver_turn
{
    my ($self) = @_;
    sleep 0.1;
    my @prepared = $self->prepared(q{prepared < clock_timestamp() - random() * interval '1 second'});
    $self->query((rand() < 0.7 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$_';") foreach @prepared;
    return;
}

sub prepared
{
    my ($self, $which) = @_;
    my $answer = $self->query("SELECT gid FROM pg_prepared_xacts WHERE $which;") // '';
    return $answer =~ /^(soak-[\d-]+)$/mg;
}

sub resolve_all
{
    my ($self) = @_;
    my $end = time + TIME_LIMIT;
    while (time < $end)
    {
        my $answer = $self->query(q{SELECT 'left ' || count(*) FROM pg_prepared_xacts;}) // next;
        return if $answer =~ /^left 0$/m;
        $self->query("COMMIT PREPARED '$_';") foreach $self->prepared('true');
    }
    push @{ $self->{unexpected} }, 'prepared transactions are left';
    return;
}

1;
