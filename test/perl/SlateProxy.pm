#-------------------------------------------------------------------------
# SlateProxy - stands between sessions and a real Redis, and misbehaves.
#
#   use SlateProxy;
#   my $proxy = SlateProxy->new($redis);
#   $proxy->url;                               # for slate_cache.url
#   my $proxy = SlateProxy->new($redis,
#       tls => 1,                              # before its TLS port
#       piece => 100);                         # passes on at most so many bytes
#                                              # at a time
#
# It passes everything on until it is told what to do when a client's bytes
# match a pattern:
#
#   $proxy->answer(qr/EVALSHA/ => "-MOVED 1 h:1\r\n");  # in Redis' place, once
#                                              # a match; Redis hears nothing
#   $proxy->hang_up(qr/EVALSHA/);              # closes, Redis hears nothing
#   $proxy->hang_up(qr/GET/, after => 5);      # Redis does it, the client gets
#                                              # that many bytes of the reply
#   $proxy->hold(qr/EVALSHA/);                 # keeps the bytes, and all that
#                                              # the same client sends later
#   $proxy->wait_until_held;                   # until a client's bytes are kept
#   $proxy->release;                           # Redis gets them, whether the
#                                              # client still waits or not, and
#                                              # has done what they say
#   $proxy->delay(requests => [0, 400], replies => [100, 100]);
#                                              # each piece of bytes is passed
#                                              # on so many ms later, at random
#                                              # within the bounds, in order;
#                                              # a request also when its client
#                                              # has gone
#   $proxy->trickle;                           # what Redis sends comes by two
#                                              # bytes each 5 ms
#   $proxy->refuse;                            # closes all connections, and new
#                                              # ones as they come
#   $proxy->pass;                              # as at first, for new bytes
#   $proxy->matches;                           # how often since the last order
#   $proxy->connections;                       # how many came since then
#
# Bytes match by the piece in which they arrive; keep what is to match small.
#-------------------------------------------------------------------------
package SlateProxy;

use strict;
use warnings;
use Carp;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX ();
use Socket;
use Time::HiRes qw(sleep time);

# Of the proxy's own process.
my $piece = 1 << 20;

sub new
{
    my ($class, $redis, %args) = @_;
    my $listener = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 64)
      or croak "no free port: $!";
    socketpair(my $ours, my $its, AF_UNIX, SOCK_STREAM, PF_UNSPEC)
      or croak "socketpair: $!";
    my $self = bless {
        port => $listener->sockport,
        scheme => $args{tls} ? 'rediss' : 'redis',
        control => $ours,
        owner => $$,
    }, $class;

    my $pid = fork() // croak "fork: $!";
    if ($pid == 0)
    {
        close $ours;
        $piece = $args{piece} // $piece;
        eval { serve($listener, $its, $args{tls} ? $redis->tls_port : $redis->socket); 1 }
          or print STDERR "proxy: $@";
        POSIX::_exit(0);
    }
    $self->{pid} = $pid;
    close $its;
    $ours->autoflush(1);
    return $self;
}

sub url { return "$_[0]{scheme}://127.0.0.1:$_[0]{port}/0" }

sub answer { my ($self, $what, $bytes) = @_; $self->order('answer', $what, $bytes); return }
sub hold { my ($self, $what) = @_; $self->order('hold', $what); return }
sub trickle { $_[0]->order('trickle', qr/\A/); return }
sub release { $_[0]->order('release'); return }
sub pass { $_[0]->order('pass'); return }
sub refuse { $_[0]->order('refuse'); return }
sub matches { return $_[0]->order('matches') }
sub connections { return $_[0]->order('connections') }

# What clients send is delayed by "requests", what Redis sends by "replies".
sub delay
{
    my ($self, %ranges) = @_;
    $self->order('delay', qr/\A/, join ' ', map { @{ $ranges{$_} // [ 0, 0 ] } } qw(requests replies));
    return;
}

sub hang_up
{
    my ($self, $what, %args) = @_;
    $self->order('hang_up', $what, $args{after} // '');
    return;
}

sub wait_until_held
{
    my ($self) = @_;
    my $end = time + 60;
    while (!$self->order('held'))
    {
        croak 'nothing was sent that is to be held' if time > $end;
        sleep 0.01;
    }
    return;
}

# One line there, one line back; the parts in hexadecimal.
sub order
{
    my ($self, @parts) = @_;
    my $control = $self->{control};
    print $control join(' ', map { unpack 'H*', $_ // '' } @parts), "\n";
    my $answer = <$control> // croak 'the proxy has ended';
    chomp $answer;
    return $answer;
}

sub DESTROY
{
    my ($self) = @_;
    local ($?, $!, $@);
    return unless $self->{owner} == $$;
    close $self->{control};
    kill 'KILL', $self->{pid};
    waitpid $self->{pid}, 0;
    return;
}

#
# The proxy's own process
#

my %connections;    # by either socket: { client, server, held, left, due }
my %rule = (action => 'pass', matches => 0, connections => 0);
my $select;

# What is on its way: [ when, connection, to which side, bytes ], the earliest
# first; no bytes: this side gets no more.
my @delayed;

sub serve
{
    my ($listener, $control, $where) = @_;
    local $SIG{PIPE} = 'IGNORE';
    $control->autoflush(1);
    $select = IO::Select->new($listener, $control);
    while (1)
    {
        deliver_delayed();
        my $rest = @delayed ? $delayed[0][0] - time : undef;
        foreach my $ready ($select->can_read(defined $rest && $rest < 0 ? 0 : $rest))
        {
            if ($ready == $listener) { accept_client($listener, $where); }
            elsif ($ready == $control)
            {
                # Orders come one at a time, so no line is left in the buffer.
                my $line = <$control> // return;
                print $control obey(map { pack 'H*', $_ } split / /, $line =~ s/\n//r, -1), "\n";
            }
            elsif (my $connection = $connections{$ready})
            {
                if (defined $connection->{client} && $ready == $connection->{client})
                {
                    from_client($connection);
                }
                else { from_server($connection); }
            }
        }
    }
    return;
}

sub obey
{
    my ($order, $what, $bytes) = @_;
    return $rule{$order} if $order eq 'matches' || $order eq 'connections';
    return (grep { defined $_->{held} } values %connections) ? 1 : 0 if $order eq 'held';
    %rule = $order eq 'release' ? (action => 'pass')
      : (action => $order, what => $what, bytes => $bytes);
    $rule{matches} = $rule{connections} = 0;
    deliver_held() if $order eq 'release';
    if ($order eq 'refuse')
    {
        my @all = values %connections;
        end_connection($_) foreach @all;
    }
    return 'done';
}

sub accept_client
{
    my ($listener, $where) = @_;
    my $client = $listener->accept or return;
    $rule{connections}++;
    return close $client if $rule{action} eq 'refuse';
    my $server = $where =~ /^\d+$/
      ? IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $where)
      : IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $where);
    return close $client unless $server;
    $connections{$client} = $connections{$server} = { client => $client, server => $server };
    $select->add($client, $server);
    return;
}

sub end_socket
{
    my ($connection, $side) = @_;
    my $socket = delete $connection->{$side} or return;
    $select->remove($socket);
    delete $connections{$socket};
    close $socket;
    return;
}

sub end_connection
{
    my ($connection) = @_;
    end_socket($connection, $_) foreach qw(client server);
    return;
}

sub from_client
{
    my ($connection) = @_;
    my $got = sysread $connection->{client}, my $bytes, $piece;
    if (!$got)
    {
        # What is held, and what is on its way, outlives its client.
        end_socket($connection, 'client');
        if (is_due($connection, 'server')) { pass_on($connection, 'server', undef); }
        elsif (!defined $connection->{held}) { end_socket($connection, 'server'); }
        return;
    }
    if (defined $connection->{held}) { $connection->{held} .= $bytes; return; }

    my $matches = defined $rule{what} ? () = $bytes =~ /$rule{what}/g : 0;
    $rule{matches} += $matches;
    if (!$matches || $rule{action} =~ /^(pass|delay|trickle)$/) { pass_on($connection, 'server', $bytes); }
    elsif ($rule{action} eq 'hold') { $connection->{held} = $bytes; }
    elsif ($rule{action} eq 'answer') { put($connection->{client}, $rule{bytes} x $matches); }
    elsif ($rule{bytes} eq '') { end_connection($connection); }
    else
    {
        $connection->{left} = $rule{bytes};
        put($connection->{server}, $bytes);
    }
    return;
}

sub from_server
{
    my ($connection) = @_;
    my $trickles = $rule{action} eq 'trickle';
    my $got = sysread $connection->{server}, my $bytes, $trickles ? 2 : $piece;
    if (!$got)
    {
        return end_connection($connection) unless is_due($connection, 'client');
        end_socket($connection, 'server');
        return pass_on($connection, 'client', undef);
    }
    $bytes = substr $bytes, 0, $connection->{left} if defined $connection->{left};
    pass_on($connection, 'client', $bytes);
    sleep 0.005 if $trickles;
    end_connection($connection) if defined $connection->{left};
    return;
}

# Is there something on its way to this side?
sub is_due
{
    my ($connection, $side) = @_;
    return ($connection->{due}{$side} // 0) > 0;
}

# At once, or late if it is to be, or if something before it is still on its way.
sub pass_on
{
    my ($connection, $side, $bytes) = @_;
    my ($min, $max) = (0, 0);
    ($min, $max) = (split / /, $rule{bytes})[ $side eq 'server' ? (0, 1) : (2, 3) ]
      if $rule{action} eq 'delay';
    my $when = time + ($min + rand($max - $min)) / 1000;
    return put($connection->{$side}, $bytes) unless $max > 0 || is_due($connection, $side);

    $when = $connection->{last}{$side}
      if is_due($connection, $side) && $connection->{last}{$side} > $when;
    $connection->{last}{$side} = $when;
    $connection->{due}{$side}++;
    my $place = @delayed;
    $place-- while $place > 0 && $delayed[ $place - 1 ][0] > $when;
    splice @delayed, $place, 0, [ $when, $connection, $side, $bytes ];
    return;
}

sub deliver_delayed
{
    while (@delayed && $delayed[0][0] <= time)
    {
        my (undef, $connection, $side, $bytes) = @{ shift @delayed };
        $connection->{due}{$side}--;
        if (defined $bytes) { put($connection->{$side}, $bytes); }
        elsif ($side eq 'client') { end_socket($connection, 'client'); }

        # Redis closes when it has done it all.
        elsif ($connection->{server}) { shutdown $connection->{server}, 1; }
    }
    return;
}

# Redis has done it all when it closes a connection that sends no more.
sub deliver_held
{
    my %seen;
    foreach my $connection (grep { !$seen{$_}++ } values %connections)
    {
        my $held = delete $connection->{held} // next;
        put($connection->{server}, $held);
        next if $connection->{client};
        shutdown $connection->{server}, 1;
        1 while sysread $connection->{server}, my $bytes, 1 << 20;
        end_connection($connection);
    }
    return;
}

sub put
{
    my ($socket, $bytes) = @_;
    while ($socket && length $bytes)
    {
        my $sent = syswrite $socket, $bytes;
        return unless $sent;
        substr $bytes, 0, $sent, '';
    }
    return;
}

1;
