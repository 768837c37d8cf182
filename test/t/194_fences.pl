# Fences where they are hard to come by: Redis has forgotten the scripts, has no memory, is
# another one than that which counts; and direct pushes by who does not WATCH any more.
use strict;
use warnings;
use File::Temp ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

# What the proxy's address leads to can be changed.
package Place { sub new { return bless { path => $_[1] }, $_[0] } sub socket { return $_[0]{path} } }
package main;

my $redis = SlateRedis->new;
my $folder = File::Temp->newdir('place_XXXXXX', TMPDIR => 1);
chmod 0755, "$folder";
symlink $redis->socket, "$folder/s" or die "symlink: $!";
my $proxy = SlateProxy->new(Place->new("$folder/s"));
my $node = SlateNode->start('main', redis => $proxy->url, testing => 1, conf => { 'slate_cache.timeout' => 60000 });
SlateNode::wait_for($node, q{SELECT ok FROM slate_cache.health WHERE "check" = 'history'});
SlateNode::create_items($node, 99);
$node->safe_psql('postgres', q{CREATE TABLE filler (t text)});

my $direct = qr/\r\nMULTI\r\n.*\r\nshop:/s;
my ($slow, $fast, $watcher, $idle) = map { SlateSession->new($node) } 1 .. 4;
my $worker = $watcher->query(q{SELECT pid FROM slate_cache.progress WHERE datname = 'postgres'});
my $stopped;
END { kill 'CONT', $worker if $stopped }

sub counter { return $watcher->query("SELECT $_[0] FROM slate_cache.stats") }
sub name { return $redis->field("shop:item:$_[0]", 'name') }

# Does the session push this directly?
sub is_direct
{
    my ($session, $sql) = @_;
    my $before = counter('pushes_direct');
    $session->query($sql);
    return counter('pushes_direct') == $before + 1;
}

# Far in the WAL, so that a place where somebody was fenced off is free again.
sub fill { $watcher->query(q{INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 400)}); return }

sub warm_up
{
    my ($session, $id) = @_;
    fill();
    SlateRedis::wait_until(sub { is_direct($session, "UPDATE item SET name = name || '.' WHERE id = $id") },
        'a session pushes directly');
    return;
}

# What the slow session sends directly is held, the commit waits; others pass.
sub commit_slowly
{
    my ($sql) = @_;
    warm_up($slow, 99);
    $proxy->hold($direct);
    $slow->send($sql);
    $proxy->wait_until_held;
    $proxy->pass;
    return;
}

sub push_arrives
{
    my ($what) = @_;
    $proxy->release;
    $slow->finish;
    is($slow->error, '', "$what: the slow commit ends well");
    return;
}

#
# The scripts are gone
#
# Without the worker nobody loads them again but who needs them.
$fast->query(q{UPDATE item SET name = 'x' WHERE id = 1});
commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 10});
$stopped = kill 'STOP', $worker;
$redis->cli('SCRIPT', 'FLUSH');
my $delayed = counter('pushes_delayed');
$fast->query(q{UPDATE item SET name = 'newer' WHERE id = 10});
is($fast->error, '', 'SCRIPT FLUSH: the commit ends well');
is(name(10), 'newer', 'SCRIPT FLUSH: the value is there');
is(counter('pushes_delayed'), $delayed, 'SCRIPT FLUSH: nothing is left to the worker');
$redis->cli('SCRIPT', 'FLUSH');
$fast->query(q{SET slate_cache.mode = strict; UPDATE item SET name = 'strict' WHERE id = 10; RESET slate_cache.mode});
is($fast->error, '', 'SCRIPT FLUSH: a strict commit does not fail');
$stopped = 0;
kill 'CONT', $worker;
push_arrives('SCRIPT FLUSH');
is(name(10), 'strict', 'SCRIPT FLUSH: the older was fenced off');
SlateJournal::wait_until_told($node);

#
# No memory
#
commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 30});
my $ttl = $redis->cli('PTTL', ($redis->all_keys('slate_cache:epoch:*'))[0]);
is($ttl, '-1', 'no memory: the epoch lives for ever');
$redis->config(maxmemory => 1);
$fast->query(q{UPDATE item SET name = 'newer' WHERE id = 30});
is($fast->error, '', 'no memory: the commit ends well');
is(name(30), '', 'no memory: the old value is removed');
push_arrives('no memory');
is(name(30), '', 'no memory: the older was fenced off');
is($redis->cli('PTTL', ($redis->all_keys('slate_cache:epoch:*'))[0]), '-1', 'no memory: the epoch still lives for ever');

# A server that starts does not know what was broken off.
$_->quit foreach $slow, $fast, $watcher, $idle;
$node->restart;
($slow, $fast, $watcher, $idle) = map { SlateSession->new($node) } 1 .. 4;
is(name(31), 'old', 'no memory, a restart: a value is there');
SlateRedis::wait_until(sub { $fast->query(q{UPDATE item SET name = 'new' WHERE id = 31}); name(31) eq '' },
    'no memory, a restart: it is removed');
$redis->config(maxmemory => 0);
SlateJournal::wait_until_told($node);
SlateNode::wait_for($node, q{SELECT ok FROM slate_cache.health WHERE "check" = 'history'});

#
# Two servers
#
# The address comes to mean another one; an idle session is still connected to the first.
my $other = SlateRedis->new;
$idle->query(q{UPDATE item SET name = 'idle' WHERE id = 21});
my $emptied = counter('emptied');
unlink "$folder/s" or die "unlink: $!";
symlink $other->socket, "$folder/s" or die "symlink: $!";
$redis = $other;
SlateRedis::wait_until(sub { counter('emptied') > $emptied }, 'the worker meets the other');
SlateNode::wait_for($node, q{SELECT ok FROM slate_cache.health WHERE "check" = 'history'});
commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 20});
$idle->query(q{SET slate_cache.mode = strict; UPDATE item SET name = 'strict' WHERE id = 20; RESET slate_cache.mode});
is($idle->error, '', 'two servers: the strict commit ends well');
is(name(20), 'strict', 'two servers: its value is there');
push_arrives('two servers');
like(name(20), qr/^(strict|)$/, 'two servers: the older does not win');
SlateJournal::wait_until_told($node);
like(name(20), qr/^(strict|)$/, 'two servers: nor when all is told');

#
# A connection that does not WATCH
#
# Rendering a row may run code that asks Redis, and so connect anew.
$node->safe_psql('postgres', q{
    CREATE TYPE mood AS ENUM ('older', 'newer', 'old');
    CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
    BEGIN PERFORM slate_cache_peek('shop:config'); RETURN to_json($1::text); END $$;
    CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);
    CREATE TABLE person (id int PRIMARY KEY, name mood);
    SELECT slate_cache_attach('person', row_keys => ARRAY['shop:person:{id}']);
    INSERT INTO person VALUES (5, 'old')});
sub ids { return map { /^id=(\d+) .*name=slate_cache/ ? $1 : () } split /\n/, $redis->cli('CLIENT', 'LIST') }
my ($victim, $id);
SlateRedis::wait_until(sub {
    my %before = map { $_ => 1 } ids();
    $victim = SlateSession->new($node);
    $victim->query(q{UPDATE item SET name = name || '.' WHERE id = 98});
    my @new = grep { !$before{$_} } ids();
    $id = $new[0];
    return @new == 1;
}, 'a session has a connection of its own');
warm_up($victim, 98);
$fast->query(q{UPDATE item SET name = 'x' WHERE id = 1});
$watcher->query('SELECT pg_advisory_lock(7351, 5)');
$victim->query(q{SET slate_cache.pause_at = 'after_journal'});
$victim->send(q{UPDATE person SET name = 'older' WHERE id = 5});
my $look = SlateSession->new($node);
SlateRedis::wait_until(sub { $look->query(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) eq '1' }, 'it waits');
is($redis->cli('CLIENT', 'KILL', 'ID', $id), '1', 'no WATCH: the connection is closed before the row is rendered');
$proxy->hold($direct);
$watcher->query('SELECT pg_advisory_unlock(7351, 5)');
SlateRedis::wait_until(sub { $proxy->order('held') || $look->query('SELECT state FROM pg_stat_activity WHERE pid = ' . $victim->pid) eq 'idle' },
    'it has pushed, or is held');
$proxy->pass;
$fast->query(q{UPDATE person SET name = 'newer' WHERE id = 5});
is($redis->field('shop:person:5', 'name'), 'newer', 'no WATCH: the newer is there');
$proxy->release;
$victim->finish;
is($victim->error, '', 'no WATCH: the older ends well');
SlateJournal::wait_until_told($node);
like($redis->field('shop:person:5', 'name'), qr/^(newer|)$/, 'no WATCH: and does not win');

SlateNode::unharmed($node);
done_testing();
