# Somebody closes connections, while Redis is well (CLIENT KILL, a proxy that is
# restarted): who uses his next finds it closed, however short a time ago he used
# it, and connects anew; and if it is closed in the middle of a push, that one
# is delayed, and nobody else stays away from Redis.
use strict;
use warnings;
use IO::Socket::UNIX;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

use constant ROUNDS => 20;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, testing => 1);
SlateNode::create_items($node, 9);
my $session = SlateSession->new($node);
my $other = SlateSession->new($node);
my $gate = SlateSession->new($node);

# Redis has closed them when it answers.
my $killer = IO::Socket::UNIX->new($redis->socket) or BAIL_OUT("no connection: $!");
sub kill_all
{
    print $killer "CLIENT KILL TYPE normal\r\n";
    my $answer = <$killer>;
    return $answer =~ /^:(\d+)/ ? $1 : BAIL_OUT("CLIENT KILL: $answer");
}

my %acts = (
    commit => sub { "UPDATE item SET name = 'commit $_[0]' WHERE id = 1" },
    strict => sub { "SET slate_cache.mode = strict; UPDATE item SET name = 'strict $_[0]' WHERE id = 1; RESET slate_cache.mode" });
foreach my $what (sort keys %acts)
{
    my $wrong = 0;
    my $errors = '';
    $session->query($acts{$what}->(0));
    foreach my $i (1 .. ROUNDS)
    {
        kill_all();
        $session->query($acts{$what}->($i));
        $errors .= $session->error;
        $wrong++ if $redis->field('shop:item:1', 'name') ne "$what $i";
        $session->query("SELECT slate_cache_peek('shop:item:1')");
    }
    is($errors, '', "$what: no transaction fails");
    is($wrong, 0, "$what: each is pushed");
}
my $missed = 0;
foreach (1 .. ROUNDS)
{
    kill_all();
    $missed++ if $session->query("SELECT slate_cache_peek('shop:item:1')") eq '';
}
is($missed, 0, 'a read: each is a hit');

# In the middle of a push.
$gate->query('SELECT pg_advisory_lock(7351, 2)');
$session->query("SET slate_cache.pause_at = 'before_publish'");
$session->send("UPDATE item SET name = 'cut' WHERE id = 2");
SlateNode::wait_for($node, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", '1');
cmp_ok(kill_all(), '>', 0, 'its connection is closed');
$other->query("SELECT slate_cache_peek('shop:item:3')");
$gate->query('SELECT pg_advisory_unlock(7351, 2)');
$session->finish;
is($session->error, '', 'in the middle of a push: the commit does not fail');
$other->query("UPDATE item SET name = 'beside' WHERE id = 3");
is($redis->field('shop:item:3', 'name'), 'beside', 'and that of another is pushed at once');
SlateJournal::wait_until_told($node);
isnt($redis->field('shop:item:2', 'name'), 'old', 'what was not pushed is removed');
is($node->safe_psql('postgres', q{SELECT count(*) FROM slate_cache.events WHERE kind = 'breaker opened'}), '0',
    'nobody has stayed away');

done_testing();
