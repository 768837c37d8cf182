#-------------------------------------------------------------------------
# SlateSentinel - one master, its replicas, and Redis Sentinels that watch them,
# for one TAP test; all real, on loopback.
#
#   use SlateSentinel;
#   my $group = SlateSentinel->new;               # 1 master, 2 replicas, 3 sentinels
#   my $group = SlateSentinel->new(
#       replicas => 1, sentinels => 1,
#       password => 'secret',                     # of the servers
#       sentinel_password => 'secret');           # of the sentinels
#
#   $group->url; $group->url(db => 1);            # for slate_cache.url
#   $group->url(also => [ '127.0.0.1:1' ]);       # more sentinels, at the front
#   $group->master;                               # a SlateRedis: whom the sentinels
#                                                 # name master, if most agree
#   $group->servers; $group->replicas;            # SlateRedis; without the master
#   $group->sentinels;                            # SlateRedis, too: cli, stop,
#                                                 # start, kill9, pause, resume
#   $group->wait_for_failover($old);              # until most name another, which
#                                                 # thinks so too; returns it
#   $group->wait_until_whole;                     # until each server that runs is
#                                                 # the master or its replica
#
# A failover takes two or three seconds.  All ends with the object.
#-------------------------------------------------------------------------
package SlateSentinel;

use strict;
use warnings;
use Carp;
use SlateRedis;

use constant NAME => 'slate-master_1.test';

sub new
{
    my ($class, %args) = @_;
    my $self = bless { password => $args{password}, servers => [], sentinels => [] }, $class;

    my %config = ('repl-diskless-sync-delay' => 0, 'repl-diskless-load' => 'on-empty-db');
    @config{ 'requirepass', 'masterauth' } = ($args{password}) x 2 if defined $args{password};
    push @{ $self->{servers} }, SlateRedis->new(port => 1, config => {%config})
      for 0 .. $args{replicas} // 2;
    my ($first, @others) = $self->servers;
    $_->cli('REPLICAOF', '127.0.0.1', $first->port) foreach @others;
    SlateRedis::wait_until(sub { replicas_in_sync($first) == @others }, 'the replicas are in sync');

    my $nsentinels = $args{sentinels} // 3;
    $self->{quorum} = int($nsentinels / 2) + 1;
    $self->add_sentinel($args{sentinel_password}) for 1 .. $nsentinels;
    SlateRedis::wait_until(sub { $self->all_have_met }, 'the sentinels know each other and the replicas');
    return $self;
}

sub servers { return @{ $_[0]{servers} } }
sub sentinels { return @{ $_[0]{sentinels} } }

# What stands in the configuration of a sentinel it also writes there.
sub add_sentinel
{
    my ($self, $password) = @_;
    my ($first) = $self->servers;
    my $sentinel = SlateSentinel::Server->new(port => 1, start => 0,
        config => defined $password ? { requirepass => $password } : {});
    my $name = NAME;
    my @lines = (
        'bind 127.0.0.1',
        'port ' . $sentinel->port,
        'unixsocket ' . $sentinel->socket,
        "dir $sentinel->{dir}",
        "logfile $sentinel->{dir}/log",
        "sentinel monitor $name 127.0.0.1 " . $first->port . " $self->{quorum}",
        "sentinel down-after-milliseconds $name 500",
        "sentinel failover-timeout $name 2000");
    push @lines, "sentinel auth-pass $name $self->{password}" if defined $self->{password};
    push @lines, "requirepass $password", "sentinel sentinel-pass $password" if defined $password;
    open my $file, '>', "$sentinel->{dir}/sentinel.conf" or croak "sentinel.conf: $!";
    print $file map { "$_\n" } @lines;
    close $file or croak "sentinel.conf: $!";
    $sentinel->start;
    push @{ $self->{sentinels} }, $sentinel;
    return;
}

sub url
{
    my ($self, %args) = @_;
    my $login = defined $self->{password} ? ":$self->{password}\@" : '';
    my $hosts = join ',', @{ $args{also} // [] }, map { '127.0.0.1:' . $_->port } $self->sentinels;
    return "sentinel://$login$hosts/" . NAME . (defined $args{db} ? "/$args{db}" : '');
}

sub replicas_in_sync
{
    my ($server) = @_;
    return scalar(() = $server->cli('INFO', 'replication') =~ /state=online/g);
}

sub role
{
    my ($server) = @_;
    my ($role) = split /\n/, $server->cli('ROLE');
    return $role // '';
}

sub all_have_met
{
    my ($self) = @_;
    my ($nservers, $nsentinels) = (scalar $self->servers, scalar $self->sentinels);
    foreach my $sentinel ($self->sentinels)
    {
        my %of = split /\n/, $sentinel->cli('SENTINEL', 'MASTER', NAME);
        return 0
          unless ($of{'num-slaves'} // 0) == $nservers - 1
          && ($of{'num-other-sentinels'} // 0) == $nsentinels - 1
          && $of{flags} eq 'master';
    }
    return 1;
}

# Would keep redis-cli for ever.
sub is_paused
{
    my ($server) = @_;
    open my $file, '<', "/proc/$server->{pid}/stat" or return 0;
    return scalar <$file> =~ /\) T /;
}

sub runs { return $_[0]->pid && !is_paused($_[0]) }

# The port that a sentinel names, or '' if it does not answer.
sub port_named_by
{
    my ($sentinel) = @_;
    return '' unless runs($sentinel);
    my ($host, $port) = split /\n/, $sentinel->cli('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', NAME);
    return ($host // '') eq '127.0.0.1' && $port ? $port : '';
}

sub master
{
    my ($self) = @_;
    my %votes;
    $votes{ port_named_by($_) }++ foreach $self->sentinels;
    my ($master) = grep { ($votes{ $_->port } // 0) >= $self->{quorum} } $self->servers;
    return $master;
}

sub replicas
{
    my ($self) = @_;
    my $master = $self->master;
    return grep { !$master || $_ != $master } $self->servers;
}

sub wait_for_failover
{
    my ($self, $old) = @_;
    my $new;
    SlateRedis::wait_until(
        sub {
            $new = $self->master;
            return $new && $new != $old && role($new) eq 'master';
        },
        'another server has become the master');
    return $new;
}

sub wait_until_whole
{
    my ($self) = @_;
    SlateRedis::wait_until(
        sub {
            my $master = $self->master or return 0;
            my @others = grep { $_ != $master && runs($_) } $self->servers;
            return role($master) eq 'master' && replicas_in_sync($master) == @others;
        },
        'all servers are the master or its replicas');
    return;
}

# A redis-server that is a sentinel: it has its configuration in a file, where
# it also notes what it learns.
package SlateSentinel::Server;

use parent -norequire, 'SlateRedis';
use POSIX ();

sub start
{
    my ($self) = @_;
    my $pid = fork() // die "fork: $!";
    if ($pid == 0)
    {
        setpgrp;
        chdir "$self->{dir}";
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', "$self->{dir}/out";
        open STDERR, '>&', \*STDOUT;
        exec('redis-server', 'sentinel.conf', '--sentinel') or POSIX::_exit(127);
    }
    $self->{pid} = $pid;
    $self->wait_until_up;

    # Where it can be told to, it talks to the others more often.
    $self->cli('SENTINEL', 'DEBUG', 'PING-PERIOD', 250, 'ASK-PERIOD', 100,
        'PUBLISH-PERIOD', 250, 'INFO-PERIOD', 500);
    return $self;
}

1;
