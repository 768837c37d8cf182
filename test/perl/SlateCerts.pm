#-------------------------------------------------------------------------
# SlateCerts - an authority, and certificates that it signs, for tests of TLS.
#
#   use SlateCerts;
#   my $certs = SlateCerts->new;          # has one called "redis", of 127.0.0.1
#   $certs->ca;                           # the authority's certificate, a path
#   $certs->issue('other', names => 'DNS:redis.test');
#   $certs->issue('old', days => -1);     # it has expired
#   $certs->issue('client', passphrase => 'x');   # of its key
#   $certs->file('other.crt');            # and other.key; paths
#
# Keys are made anew each time, and are gone with the object.
#-------------------------------------------------------------------------
package SlateCerts;

use strict;
use warnings;
use Carp;
use File::Temp ();
use IPC::Run ();
use POSIX ();

my @new_key = qw(-newkey ec -pkeyopt ec_paramgen_curve:P-256);

sub new
{
    my ($class) = @_;
    my $self = bless { dir => File::Temp->newdir('certs_XXXXXX', TMPDIR => 1) }, $class;
    openssl('req', '-x509', @new_key, '-nodes', '-days', 30, '-subj', '/CN=authority',
        '-keyout', $self->file('ca.key'), '-out', $self->ca);
    $self->issue('redis');
    return $self;
}

sub file { my ($self, $name) = @_; return "$self->{dir}/$name" }
sub ca { return $_[0]->file('ca.crt') }

sub issue
{
    my ($self, $name, %args) = @_;
    my ($key, $certificate) = ($self->file("$name.key"), $self->file("$name.crt"));
    open my $extensions, '>', $self->file('extensions') or croak "extensions: $!";
    print $extensions 'subjectAltName=', $args{names} // 'IP:127.0.0.1', "\n";
    close $extensions;
    openssl('req', @new_key, '-subj', "/CN=$name", '-out', $self->file('request'), '-keyout', $key,
        defined $args{passphrase} ? ('-passout', "pass:$args{passphrase}") : '-nodes');
    my @sign = ('x509', '-req', '-in', $self->file('request'), '-out', $certificate,
        '-CA', $self->ca, '-CAkey', $self->file('ca.key'), '-CAcreateserial',
        '-extfile', $self->file('extensions'));
    openssl(@sign, lasts($args{days} // 30));
    return;
}

# Newer releases of openssl take no number of days below 0, and older ones no dates.
sub lasts
{
    my ($days) = @_;
    my $version = '';
    IPC::Run::run([ 'openssl', 'version' ], '>', \$version) if $days < 0;
    return ('-days', $days) if $days >= 0 || $version =~ /^OpenSSL (1\.|3\.[0-3]\.)/;
    my ($from, $until) = map { POSIX::strftime('%Y%m%d%H%M%SZ', gmtime(time + $_ * 86400)) } $days - 1, $days;
    return ('-not_before', $from, '-not_after', $until);
}

sub openssl
{
    my (@arguments) = @_;
    my $output;
    IPC::Run::run([ 'openssl', @arguments ], '<', \undef, '>&', \$output)
      or croak "openssl @arguments: $output";
    return;
}

1;
