#-------------------------------------------------------------------------
# SlateRedis - a private, real redis-server for one TAP test.
#
#   use SlateRedis;
#   my $redis = SlateRedis->new;                  # started, on a Unix socket
#   my $redis = SlateRedis->new(
#       port => 1,                                # on a free TCP port as well
#       tls => SlateCerts->new,                   # on one by TLS as well, with
#                                                 # the certificate "redis"
#       config => { requirepass => 'secret', maxmemory => '4mb' },
#       start => 0);                              # not yet
#
#   $redis->cli('SET', 'k', 'v');                 # redis-cli's output, chomped
#   $redis->url; $redis->url(tcp => 1, db => 2);  # for slate_cache.url
#   $redis->url(tls => 1);
#   $redis->socket; $redis->port; $redis->tls_port; $redis->pid; $redis->log;
#   $redis->start; $redis->stop; $redis->restart; $redis->kill9;
#   $redis->pause; $redis->resume;                # SIGSTOP, SIGCONT: a hang
#   $redis->config(requirepass => 'other');       # CONFIG SET, kept on restart
#   $redis->wait_until_up;
#   $redis->field('shop:item:1', 'name');      # a text in a JSON object; '': no key
#   $redis->calls('evalsha');                  # how often it was called
#   $redis->all_keys;                          # all, sorted, one a line
#   $redis->loose_index;                       # the name of the index of keys under no rule
#   $redis->start(wait => 0);                    # it may still be loading
#   SlateRedis::wait_until(sub { ... }, 'what');  # polls, croaks
#   SlateRedis::proposed_user();               # for ACL SETUSER slate, as README
#                                              # has it for a shell
#
# Nothing is saved unless config asks for it: a restart is an empty Redis.  A
# server ends with its object and at the latest with the test, paused or not.
#-------------------------------------------------------------------------
package SlateRedis;

use strict;
use warnings;
use Carp;
use File::Basename qw(dirname);
use File::Temp ();
use IO::Socket::INET;
use IPC::Run ();
use POSIX ();
use PostgreSQL::Test::Utils ();
use Scalar::Util ();
use Text::ParseWords qw(shellwords);
use Time::HiRes qw(sleep time);

my %servers;

sub new
{
    my ($class, %args) = @_;

    # Not below the test's own folder: sockets' paths are short.
    my $dir = File::Temp->newdir('redis_XXXXXX', TMPDIR => 1);
    my $self = bless {
        dir => $dir,
        socket => "$dir/s",
        config => { %{ $args{config} // {} } },
        password => undef,
        port => $args{port} ? free_port() : 0,
        tls_port => $args{tls} ? free_port() : 0,
        owner => $$,
    }, $class;
    $self->{password} = $self->{config}{requirepass};
    $self->{config} = { tls_config($args{tls}, $self->{tls_port}), %{ $self->{config} } } if $args{tls};
    $servers{ Scalar::Util::refaddr($self) } = $self;
    Scalar::Util::weaken($servers{ Scalar::Util::refaddr($self) });
    $self->start unless defined $args{start} && !$args{start};
    return $self;
}

sub free_port
{
    my $probe = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1)
      or croak "no free port: $!";
    return $probe->sockport;
}

sub tls_config
{
    my ($certs, $port) = @_;
    return (
        'tls-port' => $port,
        'tls-ca-cert-file' => $certs->ca,
        'tls-cert-file' => $certs->file('redis.crt'),
        'tls-key-file' => $certs->file('redis.key'),
        'tls-auth-clients' => 'no');
}

sub socket { return $_[0]{socket} }
sub port { return $_[0]{port} }
sub tls_port { return $_[0]{tls_port} }
sub pid { return $_[0]{pid} }

sub log
{
    my ($self) = @_;
    open my $file, '<', "$self->{dir}/log" or return '';
    local $/;
    return <$file>;
}

# The address as slate_cache.url wants it.  tcp => 1, or tls, gives that port's, with
# the password that the server has, or with password => 'x' another, or none
# (undef).  A Unix socket's url has no room for a password: it comes from
# slate_cache.password_file.
sub url
{
    my ($self, %args) = @_;
    my $db = $args{db} // 0;
    return "unix://$self->{socket}" . ($db ? "?db=$db" : '') unless $args{tcp} || $args{tls};

    my ($scheme, $port) = $args{tls} ? ('rediss', $self->{tls_port}) : ('redis', $self->{port});
    croak 'this server has no such port' unless $port;
    my $password = exists $args{password} ? $args{password} : $self->{password};
    my $login = defined $password ? ":$password\@" : '';
    return "$scheme://${login}127.0.0.1:$port/$db";
}

sub start
{
    my ($self, %args) = @_;
    croak 'already started' if $self->{pid};
    my %config = (
        port => $self->{port},
        bind => '127.0.0.1',
        unixsocket => $self->{socket},
        dir => "$self->{dir}",
        logfile => "$self->{dir}/log",
        save => '',
        appendonly => 'no',
        daemonize => 'no',
        %{ $self->{config} });
    my @command = ('redis-server', map { ("--$_", $config{$_}) } sort keys %config);

    my $pid = fork() // croak "fork: $!";
    if ($pid == 0)
    {
        # Ctrl-C at the test is not for Redis: it ends with the object.
        setpgrp;
        chdir "$self->{dir}";
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', "$self->{dir}/out";
        open STDERR, '>&', \*STDOUT;
        exec(@command) or POSIX::_exit(127);
    }
    $self->{pid} = $pid;
    $self->wait_until_up unless defined $args{wait} && !$args{wait};
    return $self;
}

sub wait_until_up
{
    my ($self, $seconds) = @_;
    my $end = time + ($seconds // 30);
    while (time < $end)
    {
        return 1 if $self->cli('PING') eq 'PONG';
        if ($self->{pid} && waitpid($self->{pid}, POSIX::WNOHANG()) == $self->{pid})
        {
            undef $self->{pid};
            last;
        }
        sleep 0.05;
    }
    croak "redis-server did not come up:\n" . $self->log;
}

# What redis-cli prints for one command; an error reply too ("NOAUTH ...").
sub cli
{
    my ($self, @command) = @_;
    my @login = defined $self->{password} ? ('--no-auth-warning', '-a', $self->{password}) : ();
    my ($out, $err) = ('', '');
    IPC::Run::run(
        [ 'redis-cli', '-s', $self->{socket}, @login, @command ],
        '<', \undef, '>', \$out, '2>', \$err);
    $out = $err if $out eq '';
    chomp $out;
    return $out;
}

sub field
{
    my ($self, $key, $field) = @_;
    my ($text) = $self->cli('GET', $key) =~ /"$field": ?"([^"]*)"/;
    return $text // '';
}

sub calls
{
    my ($self, $command) = @_;
    my ($calls) = $self->cli('INFO', 'commandstats') =~ /^cmdstat_$command:calls=(\d+)/m;
    return $calls // 0;
}

sub all_keys
{
    my ($self, $pattern) = @_;
    return join "\n", sort split /\n/, $self->cli('KEYS', $pattern // '*');
}

sub wait_until
{
    my ($condition, $what) = @_;
    my $end = time + 60;
    until ($condition->())
    {
        croak "timed out waiting until $what" if time > $end;
        sleep 0.02;
    }
    return;
}

# The index of the keys that no rule knows, of the one database that has some.
sub loose_index
{
    my ($self) = @_;
    my @names = split /\n/, $self->cli('KEYS', 'slate_cache:index:{\\**}');
    return @names == 1 ? $names[0] : croak 'there are ' . @names . ' indexes of loose keys';
}

sub proposed_user
{
    my $readme = PostgreSQL::Test::Utils::slurp_file(dirname(__FILE__) . '/../../README.md');
    my ($user) = $readme =~ /^```sh\nredis-cli ACL SETUSER slate (.*?)^```$/ms
      or croak 'the README has no ACL';
    return shellwords($user =~ s/\\\n//gr);
}

sub config
{
    my ($self, %settings) = @_;
    foreach my $name (sort keys %settings)
    {
        my $reply = $self->cli('CONFIG', 'SET', $name, $settings{$name});
        croak "CONFIG SET $name: $reply" unless $reply eq 'OK';
        $self->{config}{$name} = $settings{$name};
        $self->{password} = $settings{$name} eq '' ? undef : $settings{$name}
          if $name eq 'requirepass';
    }
    return;
}

sub end_with
{
    my ($self, $signal) = @_;
    my $pid = delete $self->{pid} or return;
    kill $signal, $pid;
    waitpid $pid, 0;

    # Killed, it leaves its socket behind; a path to nobody is what clients of
    # a server that has gone find either way.
    return;
}

sub stop { $_[0]->resume; return $_[0]->end_with('TERM') }
sub kill9 { return $_[0]->end_with('KILL') }
sub restart { $_[0]->stop; return $_[0]->start }
sub pause { kill 'STOP', $_[0]{pid} if $_[0]{pid}; return }
sub resume { kill 'CONT', $_[0]{pid} if $_[0]{pid}; return }

sub DESTROY
{
    my ($self) = @_;
    local ($?, $!, $@);

    # A forked child of the test owns no server.
    $self->kill9 if $self->{owner} == $$;
    delete $servers{ Scalar::Util::refaddr($self) };
    return;
}

END
{
    my $status = $?;
    foreach my $server (grep { defined } values %servers)
    {
        $server->kill9 if $server->{owner} == $$;
    }
    $? = $status;
}

1;
