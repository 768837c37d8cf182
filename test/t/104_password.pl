# A wrong password: changes are delayed with a reason in the log, which does not
# hold the password; corrected, the journal empties and an open session delivers.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new(port => 1, config => { requirepass => 'open sesame' });
my $node = SlateNode->start('main',
    redis => $redis->url(tcp => 1, password => 'wr0ng-secret'),
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::create_items($node, 3);
my $session = SlateSession->new($node);

my $changes = 0;

# Each change has a value of its own, so that an earlier one is not taken for it.
sub delivered
{
    my ($name) = @_;
    my $value = "$name " . ++$changes;
    $session->query("UPDATE item SET name = '$value' WHERE id = 1");
    return $redis->field('shop:item:1', 'name') eq $value;
}

# Nor is the last change left out, or what is dropped late left as it is.
sub journal_empties
{
    my ($what) = @_;
    SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
    pass("$what: the journal empties");
    SlateRedis::wait_until(sub { delivered($what) }, 'a change arrives');
    return;
}

sub redis_detail { $session->query(q{SELECT detail FROM slate_cache.health WHERE "check" = 'redis'}) }

# What fails while the session has another url than the worker counts as lost; so both are to have
# the new one.
sub reload
{
    my ($url) = split /\n/, $node->safe_psql('postgres', q{
        SELECT setting FROM pg_file_settings WHERE name = 'slate_cache.url' ORDER BY seqno DESC LIMIT 1});
    $node->reload;
    SlateRedis::wait_until(
        sub {
            $session->query('SHOW slate_cache.url') eq $url
                && $session->query(q{SELECT ok FROM slate_cache.health WHERE "check" = 'worker'}) eq 't';
        },
        'all have the new url');
    return;
}

ok(!delivered('wrong in the url'), 'wrong password in the url: a change is not delivered');
is($session->error, '', 'the commit succeeds');
is($session->query("SELECT slate_cache_get('shop:item:2')->>'name'"), 'old', 'get loads from the table');
is($session->error, '', 'without an error');
my @lines = SlateNode::messages($node, qr/could not deliver/);
is(scalar @lines, 1, 'the log says it once');
like($lines[0], qr/127\.0\.0\.1:\d+ db 0: .*the server rejected AUTH: WRONGPASS/, 'with server and reason');
unlike(SlateNode::log_text($node), qr/wr0ng-secret/, 'but not the password');
my $detail = redis_detail();
like($detail, qr/rejected AUTH|failures in a row/, 'the view health has the reason');
unlike($detail, qr/wr0ng-secret/, 'without the password');

# What is lost does not hide behind what is late.
my $forgetful = SlateSession->new($node);
$forgetful->query(q{SET slate_cache.journal = off; UPDATE item SET name = 'lost' WHERE id = 2});
$forgetful->quit;
SlateRedis::wait_until(sub { SlateNode::messages($node, qr/could not deliver cache changes to Redis: /) == 1 }, 'the loss is logged');
pass('the log tells a loss, too');

# A plain user's error messages do not show it either.
$node->safe_psql('postgres', q{
    CREATE ROLE plain LOGIN;
    GRANT EXECUTE ON FUNCTION slate_cache_get(text) TO plain});
my $plain = SlateSession->new($node, user => 'plain');
is($plain->query("SELECT slate_cache_get('shop:free')"), '', 'a plain user has no value');
is($plain->error, '', 'and no error');
is($plain->query('SHOW slate_cache.url'), '', 'and cannot see the url');
like($plain->error, qr/must be superuser|permission denied/, 'which is refused');

# Its spaces are encoded in a url.
my $right = $redis->url(tcp => 1) =~ s/ /%20/gr;
$node->safe_psql('postgres', "ALTER SYSTEM SET slate_cache.url = '$right'");
reload();
SlateRedis::wait_until(sub { delivered('right in the url') }, 'a change arrives');
pass('ALTER SYSTEM and reload: the open session delivers');
journal_empties('the password is right');
is($session->query("SELECT slate_cache_get('shop:item:3')->>'name'"), 'old', 'and reads');
is($redis->field('shop:item:3', 'name'), 'old', 'and fills');

# From a file, over a Unix socket.
my $file = $node->data_dir . '/redis_password';
append_to_file($file, "wr0ng-secret\n");
$node->safe_psql('postgres', "ALTER SYSTEM SET slate_cache.password_file = '$file'");
$node->safe_psql('postgres', q{ALTER SYSTEM SET slate_cache.url = '} . $redis->url . q{'});
reload();
SlateRedis::wait_until(sub { !delivered('wrong in the file') }, 'the settings are read');
is($session->error, '', 'wrong password in the file: the commit succeeds');
unlink $file;
SlateRedis::wait_until(sub { redis_detail() =~ /could not read the password file/ }, 'the file is missed');
ok(!delivered('no file'), 'no such file: a change is not delivered');
is($session->error, '', 'and the commit succeeds');

append_to_file($file, "open sesame\nnot this line\n");
SlateRedis::wait_until(sub { delivered('right in the file') }, 'a change arrives');
pass('the file corrected: the open session delivers');
journal_empties('the file is right');
is(SlateNode::counter($node, 'pushes_lost'), '1', 'nothing else was lost');
is($session->query("SELECT slate_cache_peek('shop:item:1')->>'name' LIKE 'the file is right%'"), 't',
    'and reads');

# The same Redis by another url, which the worker does not know yet: what a session cannot tell it
# then, the worker does, once it has read the settings.
SlateNode::stop_worker($node);
$node->safe_psql('postgres', "ALTER SYSTEM SET slate_cache.url = '" . $redis->url(tcp => 1, password => undef) . "'");
unlink $file;
append_to_file($file, "wr0ng-secret\n");
$node->reload;
SlateRedis::wait_until(sub { $session->query('SHOW slate_cache.url') =~ /^redis:/ }, 'the session has the url');
ok(!delivered('another url'), 'the session has another url than the worker: a change is not delivered');
isnt($redis->field('shop:item:1', 'name'), '', 'an old copy is there');
unlink $file;
append_to_file($file, "open sesame\n");
SlateNode::continue_worker();
SlateRedis::wait_until(sub { $redis->cli('EXISTS', 'shop:item:1') eq '0' }, 'the old copy has gone');
pass('the worker has taken it away');

SlateNode::unharmed($node);
done_testing();
