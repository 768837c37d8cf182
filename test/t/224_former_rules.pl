# Keys of rules that the database does not have any more, or not yet: when the namespace is emptied
# they go, too.  Redis knows what the rules have covered.
use strict;
use warnings;
use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use Test::More;

my ($redis, $other) = map { SlateRedis->new } 1 .. 2;
my $node = SlateNode->start('main', redis => $redis, conf => { max_wal_senders => 2, wal_level => 'replica' });
SlateNode::create_items($node, 5);
my $owner;

sub sql { return $node->safe_psql('postgres', @_) }

sub attach
{
    my ($table, $template) = @_;
    sql("CREATE TABLE $table (id int PRIMARY KEY, v text); INSERT INTO $table SELECT id, 'first' FROM generate_series(1, 3) id;
        SELECT slate_cache_attach('$table', row_keys => ARRAY[E'$template']); UPDATE $table SET v = 'cached'");
    return;
}

# The worker notes them when it comes by.
sub is_noted
{
    my ($server, $pattern) = @_;
    $owner //= (grep { /^slate_cache:rules:/ } split /\n/, $server->cli('KEYS', 'slate_cache:*'))[0];
    SlateRedis::wait_until(sub { index($server->cli('GET', $owner), $pattern) >= 0 }, "$pattern is noted");
    return;
}

sub is_emptied
{
    my ($before) = @_;
    SlateNode::wait_for($node, "SELECT emptied > $before FROM slate_cache.stats WHERE scope = 'server'");
    SlateNode::wait_until_trusted($node);
    return;
}

sub emptied { return sql(q{SELECT emptied FROM slate_cache.stats WHERE scope = 'server'}) }

SlateRedis::wait_until(sub { $redis->cli('KEYS', 'slate_cache:rules:*') }, 'there is a note');
is_noted($redis, '11:shop:item:*');
$redis->cli('SET', 'other:app', 'theirs');

# Another Redis, and back, with a table detached meanwhile.
attach('third', 'third:{id}');
attach('odd', 'odd:[{id}\n]');
is_noted($redis, 'third:*');
is($redis->field('third:1', 'v'), 'cached', 'a key of a rule');
SlateNode::set($node, 'slate_cache.url' => $other->url);
SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('worker', 'redis', 'history')});
sql(q{SELECT slate_cache_detach('third'); UPDATE third SET v = 'newer'});
my $count = emptied();
SlateNode::set($node, 'slate_cache.url' => $redis->url);
is_emptied($count);
is($redis->cli('EXISTS', 'third:1', 'third:2', 'third:3'), 0, 'a Redis that was left before the table was detached: its keys are gone');
unlike($redis->cli('GET', $owner), qr/third/, 'and so is the pattern');
is_noted($redis, "odd:\\[*\n");
is($redis->cli('GET', 'other:app'), 'theirs', 'keys of others are left alone');

# An older dump.
attach('dumped', 'dumped:{id}');
is_noted($redis, 'dumped:*');
is($redis->cli('SAVE'), 'OK', 'a dump');
sql(q{SELECT slate_cache_detach('dumped'); UPDATE dumped SET v = 'newer'});
$count = emptied();
$redis->kill9;
$redis->start;
is_emptied($count);
is($redis->cli('EXISTS', 'dumped:1', 'dumped:2', 'dumped:3'), 0, 'an older dump of Redis: its keys are gone');

# PostgreSQL is put back to before there was such a table.  Not all notes are there to be read.
$node->stop;
my $copy = $node->basedir . '/copy';
PostgreSQL::Test::RecursiveCopy::copypath($node->data_dir, $copy);
$node->start;
attach('late', 'late:{id}');
is_noted($redis, 'late:*');
$redis->cli('APPEND', $owner, '7:broken');
is($redis->field('late:1', 'v'), 'cached', 'a key of a later rule');
$node->stop;
PostgreSQL::Test::Utils::system_or_bail('rm', '-rf', $node->data_dir);
PostgreSQL::Test::Utils::system_or_bail('mv', $copy, $node->data_dir);
chmod 0700, $node->data_dir or die $!;
$count = 0;
$node->start;
is_emptied($count);
is($redis->cli('EXISTS', 'late:1', 'late:2', 'late:3'), 0, 'a copy of the database from before: they are gone');
is_noted($redis, '11:shop:item:*');
unlike($redis->cli('GET', $owner), qr/late|broken/, 'the note is right again');

# As long as nothing is emptied a pattern stays; one of another type is none of ours.
attach('flushed', 'flushed:{id}');
is_noted($redis, 'flushed:*');
sql(q{DROP TABLE flushed});
$redis->cli('SET', 'flushed:7', 'left behind');
sql('SELECT slate_cache_flush()');
is($redis->cli('EXISTS', 'flushed:7'), 0, 'flush removes what is left of a former rule');
$redis->cli('DEL', $owner);
$redis->cli('RPUSH', $owner, 'x');
attach('typed', 'typed:{id}');
is_noted($redis, 'typed:*');
sql('SELECT slate_cache_flush()');
is($redis->cli('EXISTS', 'typed:1'), 0, 'a note that was overwritten does not keep it from being emptied');
SlateNode::unharmed($node);

done_testing();
