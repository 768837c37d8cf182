# What sentinels may answer: that the master is another in the middle of a
# commit, that it is one of before the last failover, that they want a
# password, that they know nothing, nonsense, or nothing at all.  The servers
# are real, the sentinels say what they are told to.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my @fakes = map { begin_fake("$dir/fake$_") } 1 .. 3;
END { kill 'KILL', map { $_->{pid} // () } @fakes }

# Its answers stand in a file, and in another who asked for what.
sub begin_fake
{
    my ($path) = @_;
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 64)
      or die "no free port: $!";
    my $self = { path => $path, port => $listener->sockport };
    append_to_file("$path.heard", '');
    $self->{pid} = fork() // die "fork: $!";
    return $self if $self->{pid};
    serve($listener, $path);
    POSIX::_exit(0);
}

sub serve
{
    my ($listener, $path) = @_;
    my $clients = IO::Select->new($listener);
    my (%bytes, %knows);
    while (1)
    {
        foreach my $client ($clients->can_read)
        {
            if ($client == $listener)
            {
                $clients->add(scalar $listener->accept);
                next;
            }
            if (!sysread $client, $bytes{$client}, 65536, length($bytes{$client} // ''))
            {
                $clients->remove($client);
                delete $bytes{$client};
                delete $knows{$client};
                close $client;
                next;
            }
            while (my @command = take_command(\$bytes{$client}))
            {
                append_to_file("$path.heard", "@command\n");
                syswrite $client, answer_to($path, \$knows{$client}, @command);
            }
        }
    }
}

# A whole command is taken off the front.
sub take_command
{
    my ($bytes) = @_;
    return unless $$bytes =~ /^\*(\d+)\r\n/;
    my ($count, $rest) = ($1, $');
    my @words;
    while (@words < $count)
    {
        return unless $rest =~ /^\$(\d+)\r\n/ && length($') >= $1 + 2;
        push @words, substr $', 0, $1;
        $rest = substr $', $1 + 2;
    }
    $$bytes = $rest;
    return @words;
}

sub bulk { return join '', map { '$' . length($_) . "\r\n$_\r\n" } @_ }

sub answer_to
{
    my ($path, $knows, @command) = @_;
    my %says = map { split / /, $_, 2 } split /\n/, slurp_file($path);
    if ($command[0] eq 'AUTH')
    {
        my $is_right = "@command[1 .. $#command]" eq ($says{password} // '');
        $$knows ||= $is_right;
        return $is_right ? "+OK\r\n" : "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    }
    return "-NOAUTH Authentication required.\r\n" if defined $says{password} && !$$knows;
    return $says{raw} =~ s/\\r\\n/\r\n/gr if defined $says{raw};
    return lc $command[1] eq 'master' ? "-ERR No such master with that name\r\n" : "*-1\r\n"
      unless $says{master} && $command[2] eq 'mine';
    return '*2' . "\r\n" . bulk('127.0.0.1', $says{master}) unless lc $command[1] eq 'master';
    return '*6' . "\r\n" . bulk('name', 'mine', 'config-epoch', $says{epoch}, 'flags', 'master');
}

# From now on.
sub says
{
    my ($fake, %says) = @_;
    open my $file, '>', "$fake->{path}.new" or die "$fake->{path}: $!";
    print $file map { "$_ $says{$_}\n" } keys %says;
    close $file;
    rename "$fake->{path}.new", $fake->{path} or die "$fake->{path}: $!";
    return;
}

sub all_say
{
    says($_, @_) foreach @fakes;
    return;
}

# How often it was asked for anything.
sub times_asked { return scalar(() = slurp_file("$_[0]{path}.heard") =~ /^SENTINEL MASTER/mg) }

sub wait_until_asked
{
    my (@whom) = @_;
    my @before = map { times_asked($_) } @whom;
    SlateRedis::wait_until(
        sub {
            my @now = map { times_asked($_) } @whom;
            return !grep { $now[$_] < $before[$_] + 2 } 0 .. $#now;
        },
        'the sentinels are asked');
    return;
}

sub hang { kill 'STOP', map { $_->{pid} } @_; return }
sub go_on { kill 'CONT', map { $_->{pid} } @_; return }

my ($one, $two) = map { SlateRedis->new(port => 1) } 1 .. 2;
my $hosts = join ',', map { "127.0.0.1:$_->{port}" } @fakes;
all_say(master => $one->port, epoch => 7);
my $node = SlateNode->start('main', redis => "sentinel://$hosts/mine", testing => 1,
    conf => { 'slate_cache.timeout' => 1000, 'slate_cache.connect_timeout' => 1000 });
SlateNode::create_items($node, 9);
my $session = SlateSession->new($node);
my $changes = 0;

sub delivered
{
    my ($server) = @_;
    my $value = 'change ' . ++$changes;
    $session->query("UPDATE item SET name = '$value' WHERE id = 1");
    return $server->field('shop:item:1', 'name') eq $value;
}

sub wait_until_delivered
{
    my ($server) = @_;
    SlateRedis::wait_until(sub { delivered($server) }, 'a change arrives');
    return;
}

sub redis_detail
{
    return $node->safe_psql('postgres', q{SELECT detail FROM slate_cache.health WHERE "check" = 'redis'});
}

# One that knows of a failover is believed; the others cannot take that back.
wait_until_delivered($one);
says($fakes[1], master => $two->port, epoch => 8);
wait_until_delivered($two);
pass('one sentinel of three knows of a failover: it is followed');
wait_until_asked(@fakes);
ok(delivered($two), 'the others name the old master: they are not believed');
hang($fakes[1]);
wait_until_delivered($one);
pass('the one hangs: most of them are believed');
go_on($fakes[1]);
all_say(master => $two->port, epoch => 8);
wait_until_delivered($two);

# A single one that has forgotten everything, and then most of them.
hang(@fakes[0, 1]);
says($fakes[2], master => $one->port, epoch => 0);
wait_until_asked($fakes[2]);
ok(delivered($two), 'one sentinel has forgotten the failovers: it is not believed');
go_on(@fakes[0, 1]);
all_say(master => $one->port, epoch => 0);
wait_until_delivered($one);
pass('all have: they are believed');

# While a transaction commits, the master is replaced, and the old one does not
# know it yet.  The new one is emptied, trusted, and filled with what the
# transaction is about to change.
my $gate = SlateSession->new($node);
my $writer = SlateSession->new($node);
my $reader = SlateSession->new($node);
$writer->query(q{UPDATE item SET name = 'stale' WHERE id = 2});
$writer->query(q{SET slate_cache.pause_at = 'before_commit'});
$gate->query('SELECT pg_advisory_lock(7351, 1)');
$writer->send(q{UPDATE item SET name = 'right' WHERE id = 2});
SlateNode::wait_for($node,
    q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7351 AND NOT granted}, '1');
all_say(master => $two->port, epoch => 1);
wait_until_delivered($two);
SlateRedis::wait_until(
    sub { $reader->query(q{SELECT slate_cache_get('shop:item:2')}); $two->field('shop:item:2', 'name') eq 'stale' },
    'the new master is filled');
$gate->query('SELECT pg_advisory_unlock(7351, 1)');
$writer->finish;
is($writer->error, '', 'the master is replaced during a commit, which succeeds');
SlateRedis::wait_until(sub { $two->field('shop:item:2', 'name') ne 'stale' }, 'the new master hears of it');
pass('what it has told the old master the new one is told, too');
is($reader->query(q{SELECT slate_cache_get('shop:item:2') ->> 'name'}), 'right', 'and a reader has what was committed');
$gate->quit;
$writer->quit;

# Passwords: they are those of the server, and with a user or without one.
$two->config(requirepass => 'secret');
is($two->cli('ACL', 'SETUSER', 'slate', 'on', '>secret', '+@all', '~*'), 'OK', 'the server has a user');
foreach my $login ('secret', 'slate secret')
{
    all_say(master => $two->port, epoch => 1, password => $login);
    $node->append_conf('postgresql.conf', "slate_cache.url = 'sentinel://slate:secret\@$hosts/mine'");
    $node->restart;
    $session = SlateSession->new($node);
    wait_until_delivered($two);
    pass("sentinels that want a password: $login");
}
all_say(master => $two->port, epoch => 1, password => 'another');
$node->restart;
$session = SlateSession->new($node);
SlateRedis::wait_until(sub { redis_detail() =~ /sentinel master mine db 0: .*no sentinel could be asked: 127\.0\.0\.1:\d+: NOAUTH/ },
    'the reason is known');
pass('sentinels that want another password: health says so');
unlike(redis_detail() . SlateNode::log_text($node), qr/:secret\b|\bsecret@/, 'without the password');

# No answers, and odd ones.
foreach my $case (
    [ 'no such master', { }, qr/it knows no master of this name/ ],
    [ 'a Redis', { raw => q{-ERR unknown command `SENTINEL`, with args beginning with: \r\n} }, qr/ERR unknown command/ ],
    [ 'another type', { raw => q{+OK\r\n} }, qr/its answer makes no sense/ ],
    [ 'no port', { raw => q{*2\r\n$9\r\n127.0.0.1\r\n$1\r\n0\r\n} }, qr/its answer makes no sense/ ],
    [ 'an odd host', { raw => q{*2\r\n$3\r\na b\r\n$4\r\n6379\r\n} }, qr/its answer makes no sense/ ],
    [ 'garbage', { raw => q{HTTP/1.1 400 Bad Request\r\n} }, qr/does not speak the Redis protocol/ ])
{
    my ($what, $says, $reason) = @$case;
    all_say(%$says);
    SlateRedis::wait_until(sub { redis_detail() =~ /no sentinel could be asked: .*$reason/ }, $what);
    ok(!delivered($two), "$what: a change is not delivered");
    is($session->error, '', "$what: and the commit succeeds");
}
hang(@fakes);
SlateRedis::wait_until(sub { redis_detail() =~ /no sentinel could be asked: .*timed out/ }, 'they hang');
pass('all hang: health says so');
go_on(@fakes);
all_say(master => $two->port, epoch => 1);
wait_until_delivered($two);
pass('all is well again: the same session delivers');

SlateNode::unharmed($node);
done_testing();
