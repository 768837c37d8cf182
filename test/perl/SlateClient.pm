#-------------------------------------------------------------------------
# SlateClient - one connection to a SlateRedis that stays open.
#
#   use SlateClient;
#   my $client = SlateClient->new($redis);
#   $client->ask('SET', 'k', 'v');             # 'OK'
#   $client->ask('MGET', 'k', 'none');         # [ 'v', undef ]
#
# What redis-cli cannot do: hold a connection, send thousands of words, tell a
# value that is not there from an empty one.  Bytes are bytes.  An error reply,
# and a server that does not answer, end the test.
#-------------------------------------------------------------------------
package SlateClient;

use strict;
use warnings;
use Carp;
use IO::Socket::UNIX;
use Socket qw(SOL_SOCKET SO_RCVTIMEO);

sub new
{
    my ($class, $redis) = @_;
    my $socket = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $redis->socket)
      or croak "could not connect to Redis: $!";
    $socket->setsockopt(SOL_SOCKET, SO_RCVTIMEO, pack 'l!l!', 60, 0);
    my $self = bless { socket => $socket }, $class;
    $self->ask('AUTH', $redis->{password}) if defined $redis->{password};
    return $self;
}

sub ask
{
    my ($self, @words) = @_;
    utf8::encode($_) foreach grep { utf8::is_utf8($_) } @words;
    my $bytes = join '', '*' . @words . "\r\n", map { '$' . length($_) . "\r\n$_\r\n" } @words;
    print { $self->{socket} } $bytes or croak "could not send to Redis: $!";
    $self->{socket}->flush;
    return $self->reply;
}

sub reply
{
    my ($self) = @_;
    my $line = readline $self->{socket} // croak 'Redis has not answered';
    my ($kind, $rest) = $line =~ /^(.)(.*)\r\n\z/s or croak 'Redis has not ended its line';
    croak "Redis: $rest" if $kind eq '-';
    return $rest if $kind eq '+' || $kind eq ':';
    return undef if $rest < 0;
    return [ map { $self->reply } 1 .. $rest ] if $kind eq '*';

    read($self->{socket}, my $text, $rest + 2) == $rest + 2
      or croak 'Redis has not sent all of a value';
    return substr $text, 0, $rest;
}

1;
