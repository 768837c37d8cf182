#-------------------------------------------------------------------------
# SlateSoakWire - a connection to Redis that takes any bytes for what they are.
#
#   use SlateSoakWire;
#   my $wire = SlateSoakWire->new($path);      # undef: nobody listens
#   $wire->ask('GET', 'k');     # a string or an array; \'ERR ...' for an error;
#                               # undef: null, or the connection has ended
#   $wire->ended;
#   $wire->everything(qr/^filler:/);           # all keys but those, and values
#-------------------------------------------------------------------------
package SlateSoakWire;

use strict;
use warnings;
use Carp;
use IO::Socket::UNIX;

sub new
{
    my ($class, $path) = @_;
    my $socket = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $path) or return;
    return bless { socket => $socket, buffer => '' }, $class;
}

sub ended { return !$_[0]{socket} }

sub ask
{
    my ($self, @command) = @_;
    return if $self->ended;
    my $bytes = '*' . @command . "\r\n" . join '', map { '$' . length($_) . "\r\n$_\r\n" } @command;
    while (length $bytes)
    {
        my $sent = syswrite $self->{socket}, $bytes;
        next if !defined $sent && $!{EINTR};
        return $self->end unless $sent;
        substr $bytes, 0, $sent, '';
    }
    return $self->reply;
}

sub end { my ($self) = @_; delete $self->{socket}; return }

sub more
{
    my ($self) = @_;
    my $got;
    do
    {
        $got = sysread $self->{socket}, $self->{buffer}, 1 << 20, length $self->{buffer};
    } until defined $got || !$!{EINTR};
    return $got;
}

sub line
{
    my ($self) = @_;
    while ($self->{buffer} !~ /\r\n/) { $self->more or return; }
    $self->{buffer} =~ s/^(.*?)\r\n//s;
    return $1;
}

sub reply
{
    my ($self) = @_;
    my $line = $self->line // return $self->end;
    my ($type, $rest) = $line =~ /^(.)(.*)$/s;
    return $rest if $type eq '+' || $type eq ':';
    return \$rest if $type eq '-';
    return if $rest == -1;
    return [ map { scalar $self->reply } 1 .. $rest ] if $type eq '*';
    while (length $self->{buffer} < $rest + 2) { $self->more or return $self->end; }
    return substr substr($self->{buffer}, 0, $rest + 2, ''), 0, $rest;
}

# A key that holds no string has an undefined value.
sub everything
{
    my ($self, $but) = @_;
    my (%values, $cursor);
    do
    {
        my $step = $self->ask('SCAN', $cursor // 0, 'COUNT', 5000);
        croak 'could not read all keys' unless ref $step eq 'ARRAY';
        $cursor = $step->[0];
        my @keys = grep { !/$but/ } @{ $step->[1] };
        @values{@keys} = @{ $self->ask('MGET', @keys) } if @keys;
    } while $cursor ne '0';
    return %values;
}

1;
