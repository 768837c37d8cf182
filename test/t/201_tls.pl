# Redis by TLS: all that is done by TCP; records that come in pieces; who is not who he should be,
# in whatever way, gets nothing, and no commit fails for it; what has been put right is used
# without a restart.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IO::Socket::INET;
use IPC::Run ();
use POSIX ();
use SlateCerts;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(time);

# What a busy machine may add to any wait, in s.
my $slack = 20;
my $timeout = 5000;

my $certs = SlateCerts->new;
my $stranger = SlateCerts->new;
my $redis = SlateRedis->new(port => 1, tls => $certs, config => { requirepass => 'sesame' });
my $node = SlateNode->start('main', redis => $redis->url(tls => 1),
    conf => {
        'slate_cache.tls_ca_file' => $certs->ca,
        'slate_cache.timeout' => $timeout,
        'slate_cache.connect_timeout' => $timeout,
    });
SlateNode::create_items($node, 3);

my $changes = 0;

sub redis_detail
{
    return $node->safe_psql('postgres', q{SELECT detail FROM slate_cache.health WHERE "check" = 'redis'});
}

# A change arrives, and nothing is left of those before it.
sub works
{
    my ($what) = @_;
    $node->poll_query_until('postgres', q{SELECT ok FROM slate_cache.health WHERE "check" = 'redis'})
      or die "$what: health says " . redis_detail();
    SlateNode::wait_until_trusted($node);
    SlateNode::wait_for($node, 'SELECT count(*) = 0 FROM slate_cache.journal');
    my $value = 'change ' . ++$changes;
    $node->safe_psql('postgres', "UPDATE item SET name = '$value' WHERE id = 1");
    is($redis->field('shop:item:1', 'name'), $value, "$what: a change arrives");
    return;
}

# A change does not arrive, the commit succeeds, and health says why.
sub refused
{
    my ($what, $reason) = @_;
    my $before = $redis->cli('GET', 'shop:item:2');
    my $value = 'refused ' . ++$changes;
    $node->safe_psql('postgres', "UPDATE item SET name = '$value' WHERE id = 2");
    is($redis->cli('GET', 'shop:item:2'), $before, "$what: a change does not arrive, and its commit succeeds")
      or die 'nothing that follows would tell more';
    is($node->safe_psql('postgres', q{SELECT slate_cache_get('shop:item:2')->>'name'}), $value,
        'the table answers');
    $node->poll_query_until('postgres',
        q{SELECT detail ~ '} . $reason . q{' FROM slate_cache.health WHERE "check" = 'redis'})
      or die "$what: health says " . redis_detail();
    pass('health says why');
    return;
}

# What fails while a session has another url than the worker counts as lost.
sub use_settings
{
    my (%settings) = @_;
    SlateNode::set($node, %settings);
    SlateNode::wait_for($node, q{SELECT ok FROM slate_cache.health WHERE "check" = 'worker'});
    return;
}

#
# All that there is
#
works('by TLS');
like(redis_detail(), qr/tls:127\.0\.0\.1:\d+ db 0/, 'health names the server');
like($redis->cli('CLIENT', 'LIST'), qr/laddr=127\.0\.0\.1:${\ $redis->tls_port} .*name=slate_cache/,
    'the connection is to that port');

foreach my $protocol ('TLSv1.2', 'TLSv1.3')
{
    $redis->config('tls-protocols' => $protocol);
    my $session = SlateSession->new($node);
    foreach my $mode (qw(commit strict async))
    {
        my $value = "$protocol $mode";
        $session->query("SET slate_cache.mode = $mode; UPDATE item SET name = '$value' WHERE id = 3");
        is($session->error, '', "$value: a commit succeeds");
        SlateRedis::wait_until(sub { $redis->field('shop:item:3', 'name') eq $value }, 'the change arrives');
        is($session->query(q{SELECT slate_cache_get('shop:item:3')->>'name'}), $value, 'and is read');
    }

    # Many records, there and back.
    $session->query('SET slate_cache.mode = commit');
    $session->query(q{SELECT slate_cache_mset(jsonb_object_agg('big:' || i, repeat(i::text, 50000))) FROM generate_series(1, 30) i});
    is($session->error, '', "$protocol: more than a megabyte is set");
    is($redis->cli('STRLEN', 'big:30'), 100002, 'it has arrived');
    is($session->query(q{
        SELECT count(*), bool_and(value #>> '{}' = repeat(substr(key, 5), 50000))
          FROM slate_cache_mget(ARRAY(SELECT 'big:' || i FROM generate_series(1, 30) i))}),
        '30|t', 'and is read');

    # An idle connection lives on: not all that can be read of it is a farewell.
    my ($before) = $redis->cli('INFO', 'stats') =~ /total_connections_received:(\d+)/;
    $session->query(q{SELECT pg_sleep(0.05), slate_cache_peek('big:1') IS NOT NULL}) foreach 1 .. 5;
    my ($after) = $redis->cli('INFO', 'stats') =~ /total_connections_received:(\d+)/;
    cmp_ok($after - $before, '<', 5, 'and no connection is made for each');
    $session->quit;
}
$redis->config('tls-protocols' => '');

# Records in small pieces, a reply of which does not come in time, and one that is cut.
{
    my $other = SlateRedis->new(tls => $certs);
    my $proxy = SlateProxy->new($other, tls => 1, piece => 7);
    my $session = SlateSession->new($node);
    $session->query("SET slate_cache.url = '" . $proxy->url . q{'; SELECT slate_cache_set('pieces', to_jsonb(repeat('x', 30000)))});
    is($other->cli('STRLEN', 'pieces'), 30002, 'in pieces of seven bytes: a value is set');
    is($session->query(q{SELECT length(slate_cache_peek('pieces') #>> '{}')}), 30000, 'and read');

    $proxy->hang_up(qr/\x17\x03\x03/, after => 3);
    is($session->query(q{SELECT slate_cache_peek('pieces')}) . $session->error, '', 'cut within a record: no answer, no error');
    $proxy->pass;

    # A record takes half a minute; for each proxy another breaker.
    foreach my $way ('time', 'cancel')
    {
        my $slow = SlateProxy->new($other, tls => 1);
        $session->query("SET slate_cache.url = '" . $slow->url . "'");
        is($session->query(q{SELECT length(slate_cache_peek('pieces') #>> '{}')}), 30000, 'connected');
        $slow->trickle;
        $session->query($way eq 'time' ? 'SET slate_cache.timeout = 1000'
            : 'SET slate_cache.timeout = 60000; SET statement_timeout = 1000');
        is($session->query(q{SELECT slate_cache_peek('pieces')}), '', "$way: a record that comes too slowly is no answer");
        like($session->error, $way eq 'time' ? qr/^$/ : qr/statement timeout/, 'and an error if it is cancelled');
        cmp_ok($session->seconds, '<', 1 + $slack, 'at once');
    }
    $session->quit;
}

#
# Who is not who he should be
#
use_settings('slate_cache.timeout' => 1000, 'slate_cache.connect_timeout' => 1000);

use_settings('slate_cache.tls_ca_file' => $stranger->ca);
refused('signed by another authority', 'certificate is refused: ');
use_settings('slate_cache.tls_ca_file' => '');
refused('by none that the system knows', 'certificate is refused: ');
use_settings('slate_cache.tls_ca_file' => $certs->ca);
works('signed by the right one');

sub present
{
    my ($name) = @_;
    my $answer = $redis->cli('CONFIG', 'SET', 'tls-cert-file', $certs->file("$name.crt"), 'tls-key-file', $certs->file("$name.key"));
    is($answer, 'OK', "Redis has the certificate $name");
    $redis->cli('CLIENT', 'KILL', 'TYPE', 'normal');
    return;
}

use_settings('slate_cache.tls_ca_file' => $certs->file('redis.crt'));
works('that very certificate');
use_settings('slate_cache.tls_ca_file' => $certs->ca);
$certs->issue('elsewhere', names => 'IP:127.0.0.2');
present('elsewhere');
refused('of another address', 'certificate is refused: IP address mismatch');
use_settings('slate_cache.tls_server_name' => '127.0.0.2');
works('another address that is asked for');
$certs->issue('named', names => 'DNS:redis.test,DNS:*.example.test');
present('named');
use_settings('slate_cache.tls_server_name' => 'other.test');
refused('of another name', 'certificate is refused: hostname mismatch');
use_settings('slate_cache.tls_server_name' => 'redis.test');
works('a name that is asked for');
use_settings('slate_cache.tls_server_name' => '');
$certs->issue('old', days => -1);
present('old');
refused('a certificate of yesterday', 'certificate is refused: certificate has expired');
present('redis');
works('one of today');

#
# Who we are
#
$redis->config('tls-auth-clients' => 'yes');
$redis->cli('CLIENT', 'KILL', 'TYPE', 'normal');
refused('Redis asks for a certificate', 'certificate required|reset by peer|closed the connection|Broken pipe');

# With its key in the same file.
$certs->issue('client');
my $file = $certs->file('client.pem');
append_to_file($file, slurp_file($certs->file('client.crt')) . slurp_file($certs->file('client.key')));
use_settings('slate_cache.tls_cert_file' => $file);
works('with a certificate');
use_settings('slate_cache.tls_cert_file' => $certs->file('client.crt'), 'slate_cache.tls_key_file' => $certs->file('client.key'));
works('and its key in another file');
use_settings('slate_cache.tls_key_file' => '');
refused('and no key anywhere', 'could not load a key from slate_cache.tls_cert_file, and slate_cache.tls_key_file is not set: ');
use_settings('slate_cache.tls_key_file' => $certs->file('client.key'));
works('and its key named again');

# Renewed in place, as by a tool that renews certificates: nobody is told, not even a session
# that has met the former one.
$stranger->issue('client');
$certs->issue('good');
use_settings('slate_cache.tls_cert_file' => $stranger->file('client.crt'), 'slate_cache.tls_key_file' => $stranger->file('client.key'));
refused('a certificate that Redis does not trust', 'unknown ca|reset by peer|closed the connection|Broken pipe');

# In another database of Redis no worker tries in its place.
my $session = SlateSession->new($node);
$redis->cli('-n', 1, 'SET', 'there', '1');
$session->query("SET slate_cache.url = '" . $redis->url(tls => 1, db => 1) . "'");
is($session->query(q{SELECT slate_cache_peek('there')}), '', 'a session that lives on has failed with it');
foreach my $end (qw(crt key))
{
    open my $in_place, '>', $stranger->file("client.$end") or die "client.$end: $!";
    print $in_place slurp_file($certs->file("good.$end"));
    close $in_place;
}
works('renewed in place');
SlateRedis::wait_until(sub { $session->query(q{SELECT slate_cache_peek('there')}) eq '1' }, 'the session connects with the new one');
pass('also to a session that has failed with the former one');
$session->quit;

$certs->issue('secret', passphrase => 'sesame');
use_settings('slate_cache.tls_cert_file' => $certs->file('secret.crt'), 'slate_cache.tls_key_file' => $certs->file('secret.key'));
refused('a key with a passphrase', 'could not load slate_cache.tls_key_file: ');
use_settings('slate_cache.tls_cert_file' => $certs->file('client.crt'));
refused('the key of another certificate', 'could not load slate_cache.tls_key_file: ');
use_settings('slate_cache.tls_key_file' => $certs->file('client.key'));
works('the right key');

my $pipe = $certs->file('pipe');
POSIX::mkfifo($pipe, 0600) or die "mkfifo: $!";
use_settings('slate_cache.tls_ca_file' => $pipe);
refused('authorities in a pipe', 'tls_ca_file "[^"]*pipe": not a regular file');
use_settings('slate_cache.tls_ca_file' => $certs->file('nothing'));
refused('in no file', 'tls_ca_file "[^"]*nothing": No such file or directory');
use_settings('slate_cache.tls_ca_file' => $certs->file('ca.key'));
refused('in a file that has none', 'could not load slate_cache.tls_ca_file: ');
use_settings('slate_cache.tls_ca_file' => $certs->ca);
works('in the right one');

#
# Who does not speak TLS, or nothing at all
#
use_settings('slate_cache.url' => $redis->url(tcp => 1) =~ s/redis:/rediss:/r);

# Redis waits for the end of a line.
refused('a port without TLS', 'could not connect by TLS: |timed out in the TLS handshake');
use_settings('slate_cache.url' => $redis->url(tls => 1) =~ s/rediss:/redis:/r);
refused('one with TLS, without', 'closed the connection|reset by peer|protocol|Broken pipe');

my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 5) or die "listen: $!";
my $began = time;
use_settings('slate_cache.url' => 'rediss://127.0.0.1:' . $silent->sockport);
refused('one that says nothing', 'timed out in the TLS handshake');
cmp_ok(time - $began, '<', 2 * $slack, 'none waits for long');

# One that says what means nothing, in the clear, without an end (HelloRequest).
my $babbler = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 5) or die "listen: $!";
my $child = fork() // die "fork: $!";
if ($child == 0)
{
    local $SIG{PIPE} = 'IGNORE';
    my $nothing = "\x16\x03\x03\x00\x04\x00\x00\x00\x00" x 10000;
    while (my $client = $babbler->accept)
    {
        my $end = time + 90;
        1 while time < $end && syswrite $client, $nothing;
    }
    POSIX::_exit(0);
}
my $listener = SlateSession->new($node);
$listener->query("SET slate_cache.url = 'rediss://127.0.0.1:" . $babbler->sockport . "'");
is($listener->query(q{SELECT slate_cache_peek('there')}) . $listener->error, '', 'one that never comes to the point: no answer, no error');
cmp_ok($listener->seconds, '<', 2 * $slack, 'when the time is over');
$listener->quit;
kill 'KILL', $child;
waitpid $child, 0;

use_settings('slate_cache.url' => $redis->url(tls => 1));
works('at the end');
is($node->safe_psql('postgres', 'SELECT pushes_lost FROM slate_cache.stats'), 0, 'nothing was lost');
$redis->cli('DEL', 'shop:item:2');
is($node->safe_psql('postgres', q{SELECT slate_cache_get('shop:item:2')->>'name' = name FROM item WHERE id = 2}), 't',
    'and all is right');
SlateNode::unharmed($node);

#
# An openssl.cnf that allows more, or less, than usual
#
my $settings = $certs->file('openssl.cnf');

sub openssl_settings
{
    my ($line) = @_;
    open my $file, '>', $settings or die "openssl.cnf: $!";
    print $file "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = all\n[all]\n$line\n";
    close $file;
    return;
}

# Ciphers that need no certificate, and a server that has none.
my $port = SlateRedis::free_port();
my ($in, $heard) = ('', '');
my $nobody = IPC::Run::start([ 'openssl', 's_server', '-accept', $port, '-nocert', '-quiet', '-tls1_2', '-cipher', 'aNULL:@SECLEVEL=0' ],
    '<', \$in, '>&', \$heard);
openssl_settings('CipherString = ALL:@SECLEVEL=0');
local $ENV{OPENSSL_CONF} = $settings;
$node = SlateNode->start('lax', redis => "rediss://:sesame\@127.0.0.1:$port",
    conf => { 'slate_cache.tls_ca_file' => $certs->ca });
$node->poll_query_until('postgres', q{SELECT detail ~ 'has shown no certificate' FROM slate_cache.health WHERE "check" = 'redis'})
  or die 'health says ' . redis_detail();
pass('a server without a certificate is refused, whatever openssl.cnf allows');
$nobody->pump_nb;
unlike($heard, qr/AUTH|SETNAME/, 'and hears nothing');
$nobody->kill_kill;

# A minimum that is higher than ours.
openssl_settings('MinProtocol = TLSv1.3');
$node->append_conf('postgresql.conf', "slate_cache.url = '" . $redis->url(tls => 1) . "'");
$node->restart;
$redis->config('tls-auth-clients' => 'no', 'tls-protocols' => 'TLSv1.2');
$node->poll_query_until('postgres', q{SELECT detail ~ 'could not connect by TLS: ' FROM slate_cache.health WHERE "check" = 'redis'})
  or die 'health says ' . redis_detail();
pass('TLS 1.2 is not spoken where openssl.cnf asks for 1.3');
$redis->config('tls-protocols' => '');
SlateNode::wait_for($node, q{SELECT ok FROM slate_cache.health WHERE "check" = 'redis'});
pass('1.3 is');
SlateNode::unharmed($node);
done_testing;
