#-------------------------------------------------------------------------
# SlateLoad - a few sessions that go on working (pgbench), and how they fared.
#
#   use SlateLoad;
#   my $load = SlateLoad->new($node,
#       sessions => 4,
#       database => 'postgres',
#       scripts => [ [ 8 => 'UPDATE ...;' ], [ 1 => 'SELECT ...;' ] ]);
#                                             # weight and text of each
#   ...
#   $load->stop;
#   $load->errors;                            # pgbench's complaints, '': none
#   $load->count;                             # transactions
#   $load->count($from, $to);                 # those that ended between
#   $load->slowest($from, $to);               # the longest of those, in seconds
#
# Times are Time::HiRes::time's.  A transaction that fails ends its session and
# is an error.  What is counted is known after stop.
#-------------------------------------------------------------------------
package SlateLoad;

use strict;
use warnings;
use Carp;
use IPC::Run ();
use List::Util qw(max);
use PostgreSQL::Test::Utils ();

# No test runs so long; pgbench wants to know, see stop.
use constant LONGEST => 36000;

sub new
{
    my ($class, $node, %args) = @_;
    my $dir = PostgreSQL::Test::Utils::tempdir();
    my $sessions = $args{sessions} // 4;
    my @files;
    foreach my $script (@{ $args{scripts} })
    {
        my ($weight, $text) = @$script;
        my $file = "$dir/script" . @files / 2 . '.sql';
        PostgreSQL::Test::Utils::append_to_file($file, "$text\n");
        push @files, '-f', "$file\@$weight";
    }

    my $self = bless { dir => $dir, out => '', err => '', owner => $$ }, $class;
    $self->{pgbench} = IPC::Run::start(
        [   'pgbench', '-n', '-c', $sessions, '-T', LONGEST, '-l', "--log-prefix=$dir/log",
            @files, $node->connstr($args{database} // 'postgres') ],
        '<', \undef, '>', \$self->{out}, '2>', \$self->{err});
    return $self;
}

# pgbench ends by the alarm it has set itself, and then writes out its log.
sub stop
{
    my ($self) = @_;
    my $pgbench = delete $self->{pgbench} or return;
    $pgbench->signal('ALRM');
    my $finished = eval {
        local $SIG{ALRM} = sub { die "timeout\n" };
        alarm 120;
        $pgbench->finish;
        alarm 0;
        1;
    };
    alarm 0;
    if (!$finished)
    {
        $pgbench->kill_kill;
        croak "the load does not end: $self->{err}";
    }
    $self->{status} = $pgbench->full_result;
    $self->{entries} = [ map { read_log($_) } glob "$self->{dir}/log.*" ];
    return;
}

# [ end, seconds ] of each transaction.
sub read_log
{
    my ($file) = @_;
    return map {
        my (undef, undef, $us, undef, $end, $fraction) = split / /;
        [ $end + $fraction / 1e6, $us / 1e6 ]
    } split /\n/, PostgreSQL::Test::Utils::slurp_file($file);
}

sub errors
{
    my ($self) = @_;
    my $text = join "\n", grep { /error|fatal|abort/i } split /\n/, $self->{err};
    return $text ne '' ? $text : $self->{status} ? "pgbench: status $self->{status}" : '';
}

sub between
{
    my ($self, $from, $to) = @_;
    return grep { $_->[0] >= ($from // 0) && (!defined $to || $_->[0] <= $to) } @{ $self->{entries} };
}

sub count { my @entries = between(@_); return scalar @entries }
sub slowest { return max(0, map { $_->[1] } between(@_)) }

sub DESTROY
{
    my ($self) = @_;
    local ($?, $!, $@);
    $self->{pgbench}->kill_kill(grace => 1) if $self->{pgbench} && $self->{owner} == $$;
    return;
}

1;
