#-------------------------------------------------------------------------
# SlateSession - one psql session that stays open while the test goes on.
#
#   use SlateSession;
#   my $session = SlateSession->new($node, database => 'postgres', user => 'u');
#   my $rows = $session->query('SELECT 1');    # rows as psql -At prints them
#   $session->error;                           # of the last query, '' if none
#   $session->seconds;                         # how long the last query took
#   $session->pid;                             # the backend's
#
#   $session->send('UPDATE ...');              # begun, not waited for
#   $session->finish;                          # like query's return
#   $session->quit;
#
# A query that fails does not end the session.  A session that is lost, or does
# not answer in time, ends the test.
#-------------------------------------------------------------------------
package SlateSession;

use strict;
use warnings;
use Carp;
use IPC::Run ();
use Time::HiRes qw(time);

use constant TIME_LIMIT => $ENV{PG_TEST_TIMEOUT_DEFAULT} || 180;

sub new
{
    my ($class, $node, %args) = @_;
    my $self = bless { in => '', out => '', err => '', count => 0, error => '' }, $class;
    my @user = defined $args{user} ? ('-U', $args{user}) : ();
    $self->{limit} = IPC::Run::timeout(TIME_LIMIT);
    $self->{psql} = IPC::Run::start(
        [   'psql', '-XAtq', @user, '-d', $node->connstr($args{database} // 'postgres'), '-f', '-' ],
        '<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err}, $self->{limit});
    $self->{pid} = $self->query('SELECT pg_backend_pid()');
    return $self;
}

sub pid { return $_[0]{pid} }
sub error { return $_[0]{error} }
sub seconds { return $_[0]{seconds} }

sub send
{
    my ($self, $sql) = @_;
    my $mark = 'done-' . ++$self->{count};
    $self->{out} = $self->{err} = '';
    $self->{started} = time;
    $self->{limit}->start(TIME_LIMIT);
    $self->{in} .= "\\echo sent\n$sql\n;\n\\echo $mark\n\\warn $mark\n";
    $self->{psql}->pump until $self->{out} =~ s/^sent\n//;
    return;
}

sub finish
{
    my ($self) = @_;
    my $mark = qr/^done-$self->{count}\n/m;
    until ($self->{out} =~ $mark && $self->{err} =~ $mark)
    {
        croak "the session has ended: $self->{err}" unless $self->{psql}->pumpable;
        $self->{psql}->pump;
    }
    $self->{seconds} = time - $self->{started};
    s/$mark// foreach $self->{out}, $self->{err};
    $self->{error} = $self->{err};
    chomp(my $rows = $self->{out});
    return $rows;
}

sub query
{
    my ($self, $sql) = @_;
    $self->send($sql);
    return $self->finish;
}

# Whether the backend was lost or not.
sub quit
{
    my ($self) = @_;
    my $psql = delete $self->{psql} or return;
    $self->{in} .= "\\q\n";
    eval { $psql->finish; };
    return;
}

sub DESTROY
{
    my ($self) = @_;
    local ($?, $!, $@);
    $self->quit;
    return;
}

1;
