# Fences where they are hard to come by: Redis has forgotten the scripts, or is another one
# than that which counts; and direct pushes by who does not WATCH any more.
use strict;
use warnings;
use File::Temp ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateDirect;
use SlateJournal;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

# What the proxy's address leads to can be changed.
package Place { sub new { return bless { path => $_[1] }, $_[0] } sub socket { return $_[0]{path} } }
package main;

my ($old_redis, $new_redis) = (SlateRedis->new, SlateRedis->new);
my $dir = File::Temp->newdir('where_XXXXXX', TMPDIR => 1);
chmod 0755, "$dir";
symlink $old_redis->socket, "$dir/s" or die;
my $proxy = SlateProxy->new(Place->new("$dir/s"));
my $node = SlateNode->start('main', redis => $proxy->url, testing => 1,
    conf => { 'slate_cache.timeout' => 60000 });
SlateNode::wait_until_trusted($node);
SlateNode::create_items($node, 99);
my ($slow, $fast, $watcher, $idle) = map { SlateSession->new($node) } 1 .. 4;
my $way = SlateDirect->new(proxy => $proxy, slow => $slow, watcher => $watcher);
my $redis = $old_redis;

sub name { return $redis->field("shop:item:$_[0]", 'name') }

#
# The scripts are gone
#
$fast->query(q{UPDATE item SET name = 'x' WHERE id = 1});
$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 10});
SlateNode::stop_worker($node);    # or else it loads them within a second
$redis->cli('SCRIPT', 'FLUSH');
my $delayed = $way->counter('pushes_delayed');
$fast->query(q{UPDATE item SET name = 'newer' WHERE id = 10});
is($fast->error, '', 'SCRIPT FLUSH: the commit ends well');
is(name(10), 'newer', 'SCRIPT FLUSH: once COMMIT has returned, the value is there');
is($way->counter('pushes_delayed'), $delayed, 'SCRIPT FLUSH: it was not left to the worker');
$redis->cli('SCRIPT', 'FLUSH');
$fast->query(q{SET slate_cache.mode = strict; UPDATE item SET name = 'strict' WHERE id = 10; RESET slate_cache.mode});
is($fast->error, '', 'SCRIPT FLUSH: nor does strict fail');
$fast->query('RESET slate_cache.mode');
SlateNode::continue_worker();
$way->push_arrives('SCRIPT FLUSH');
SlateJournal::wait_until_told($node);

#
# The address comes to mean another server; a session still has a connection to the old one
#
$idle->query(q{UPDATE item SET name = 'idle' WHERE id = 21});
my $emptied = $watcher->query(q{SELECT emptied FROM slate_cache.stats});
unlink "$dir/s" or die;
symlink $new_redis->socket, "$dir/s" or die;
$redis = $new_redis;
SlateRedis::wait_until(sub { $way->counter('emptied') > $emptied }, 'the worker meets the new one');
SlateNode::wait_until_trusted($node);
$way->commit_slowly(q{UPDATE item SET name = 'older' WHERE id = 20});
$idle->query(q{SET slate_cache.mode = strict; UPDATE item SET name = 'strict' WHERE id = 20; RESET slate_cache.mode});
is($idle->error, '', 'two servers: the strict commit ends well');
is(name(20), 'strict', 'two servers: the strict value is there');
$way->push_arrives('two servers');
is($watcher->query('SELECT name FROM item WHERE id = 20'), 'strict', 'two servers: in the table');
like(name(20), qr/^(strict|)$/, 'two servers: and stays');
SlateJournal::wait_until_told($node);
like(name(20), qr/^(strict|)$/, 'two servers: also when all is told');
is($fast->query(q{SELECT slate_cache_get('shop:item:20')->>'name'}), 'strict', 'two servers: by SQL');

#
# The connection that WATCHes is lost between its look and the push
#
$node->safe_psql('postgres', q{
    CREATE TYPE mood AS ENUM ('older', 'newer', 'old');
    CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
    BEGIN PERFORM public.slate_cache_peek('shop:config'); RETURN to_json($1::text); END $$;
    CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);
    CREATE TABLE person (id int PRIMARY KEY, name mood);
    SELECT slate_cache_attach('person', row_keys => ARRAY['shop:person:{id}']);
    INSERT INTO person SELECT i, 'old' FROM generate_series(1, 9) i});
sub ids { return map { /^id=(\d+) .*name=slate_cache/ ? $1 : () } split /\n/, $redis->cli('CLIENT', 'LIST') }
my ($victim, $id);
for (1 .. 5)
{
    my %before = map { $_ => 1 } ids();
    $victim = SlateSession->new($node);
    $victim->query(q{UPDATE item SET name = name || '.' WHERE id = 98});
    my @new = grep { !$before{$_} } ids();
    if (@new == 1) { $id = $new[0]; last; }
}
ok($id, "the session's connection is $id");
$way->fill;
SlateRedis::wait_until(sub { $way->is_direct($victim, q{UPDATE item SET name = name || '.' WHERE id = 98}) }, 'it pushes directly');
$fast->query(q{UPDATE item SET name = 'x' WHERE id = 1});
$watcher->query('SELECT pg_advisory_lock(7351, 5)');
$victim->query(q{SET slate_cache.pause_at = 'after_journal'});
$victim->send(q{UPDATE person SET name = 'older' WHERE id = 5});
my $look = SlateSession->new($node);
SlateRedis::wait_until(sub { $look->query(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) eq '1' }, 'it waits');
is($redis->cli('CLIENT', 'KILL', 'ID', $id), '1', 'its connection ends');
$proxy->hold($SlateDirect::PUSH);
$watcher->query('SELECT pg_advisory_unlock(7351, 5)');
SlateRedis::wait_until(sub { $proxy->order('held') || $look->query('SELECT state FROM pg_stat_activity WHERE pid = ' . $victim->pid) eq 'idle' }, 'it pushes');
$proxy->pass;
$fast->query(q{UPDATE person SET name = 'newer' WHERE id = 5});
is($redis->field('shop:person:5', 'name'), 'newer', 'lost WATCH: the newer is there');
$proxy->release;
$victim->finish;
is($victim->error, '', 'lost WATCH: the older one ends well');
like($redis->field('shop:person:5', 'name'), qr/^(newer|)$/, 'lost WATCH: the older does not win');
SlateJournal::wait_until_told($node);
like($redis->field('shop:person:5', 'name'), qr/^(newer|)$/, 'lost WATCH: nor stays');

SlateNode::unharmed($node);
done_testing();
