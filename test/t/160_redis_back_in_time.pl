# A Redis that has gone back in time: started from an older dump, replaced by an
# empty one or by another server at the same address, with PostgreSQL up or
# down.  What slate_cache_get answers is right from the first moment, and what
# a plain GET finds, soon after.
use strict;
use warnings;
use File::Basename qw(dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateHistory;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

use constant ROWS => 300;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::create_items($node, ROWS);
$redis->cli('SET', 'other:app', 'theirs');
my $session = SlateSession->new($node);
my $count = 0;

# What a dump that is made now will bring back: values of rows that are changed
# or deleted after it, and no trace of one that is new.
sub age
{
    $count++;

    # Guards of what was emptied make the next change a removal.
    SlateRedis::wait_until(
        sub {
            $node->safe_psql('postgres', "UPDATE item SET name = 'before $count at ' || clock_timestamp()");
            return $redis->field('shop:item:2', 'name') =~ /^before $count at/;
        },
        'all is written through');
    is($redis->cli('SAVE'), 'OK', "dump $count has values that will be old");
    $node->safe_psql('postgres', "UPDATE item SET name = 'after $count' WHERE id % 3 > 0;
        DELETE FROM item WHERE id = " . (3 * $count) . ";
        INSERT INTO item VALUES (" . (ROWS + $count) . ", 'new')");
    $session->query("SELECT slate_cache_get('shop:item:1')");
    return;
}

sub answers_are_right
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $new = SlateSession->new($node);
    is(SlateHistory::wrong_gets($new), '', "$what: a new session gets what is right at once");
    is(SlateHistory::wrong_gets($session), '', "$what: so does one that was connected");
    SlateHistory::become_right($node, $redis, $what);
    SlateHistory::set_again($node, $redis, $what);
    is(SlateHistory::wrong_gets($session), '', "$what: what is filled is right");
    is(SlateHistory::wrong($node, $redis), '', "$what: and stays so");
    return;
}

# From an older dump.
age();
$redis->kill9;
$redis->start;
answers_are_right('older dump');
is($redis->cli('GET', 'other:app'), 'theirs', 'older dump: keys of others are left alone');

# PostgreSQL stops cleanly, and is not there when it happens.
age();
SlateHistory::forget_journal($node);
$session->quit;
$node->stop;
$redis->kill9;
$redis->start;
$node->start;
$session = SlateSession->new($node);
answers_are_right('older dump while PostgreSQL was down');

# Both are lost at the same moment.
age();
$node->kill9;
$redis->kill9;
$session->quit;
SlateHistory::wait_until_gone($node);
$redis->start;
$node->start;
$session = SlateSession->new($node);
answers_are_right('older dump and a crash of PostgreSQL');
is($redis->cli('GET', 'other:app'), 'theirs', 'both lost: keys of others are left alone');

# An empty one.
age();
$redis->kill9;
unlink dirname($redis->socket) . '/dump.rdb' or die "dump.rdb: $!";
$redis->start;
is($redis->cli('EXISTS', 'shop:item:2'), '0', 'an empty Redis is there');
answers_are_right('an empty Redis');

# Another server at the same address, with what it once held of ours; the path
# of a Unix socket is its address.
sub another_server
{
    my ($what) = @_;
    my $other = SlateRedis->new;
    $other->cli('MSET', map { ("shop:item:$_", qq({"id":$_,"name":"$what"})) } 1 .. ROWS + 20);
    $other->cli('SET', 'other:app', $what);
    return $other;
}

my $other = another_server('a former server');
$redis->stop;
rename $other->socket, $redis->socket or die "rename: $!";
is($redis->cli('GET', 'other:app'), 'a former server', 'another server has the address');
answers_are_right('another server');
is($redis->cli('GET', 'other:app'), 'a former server', 'another server: keys of others are left alone');

# Once more, while the server that was there lives on, and so do connections to
# it: whoever is connected to it must not go on telling it what changes.
my $third = another_server('a third server');
rename $third->socket, $redis->socket or die "rename: $!";
is($redis->cli('GET', 'other:app'), 'a third server', 'a third server has the address');
my $new = SlateSession->new($node);
is(SlateHistory::wrong_gets($new), '', 'former server still up: a new session gets what is right at once');
SlateHistory::become_right($node, $redis, 'former server still up');
SlateHistory::set_again($node, $redis, 'former server still up');
$session->query("UPDATE item SET name = 'connected before' WHERE id = 2");
isnt($redis->field('shop:item:2', 'name'), 'a third server', 'former server still up: the value is not the old one');
SlateRedis::wait_until(
    sub {
        $session->query("UPDATE item SET name = 'connected before ' || clock_timestamp() WHERE id = 2");
        return $redis->field('shop:item:2', 'name') =~ /^connected before/;
    },
    'a session that was connected reaches the new server');
SlateHistory::become_right($node, $redis, 'former server still up, changes of a session that was connected');
is(SlateHistory::wrong_gets($session), '', 'former server still up: that session gets what is right');

$session->quit;
$new->quit;
done_testing();
