# Somebody has put something else where an index of ours was.  What it knew of is found by the walk
# over Redis, and then there is an index again.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);
my $session = SlateSession->new($node);
$session->query(q{CREATE TABLE t (id int PRIMARY KEY, project_id int, v text); INSERT INTO t VALUES (1, 1, 'a');
    SELECT slate_cache_attach('t', row_keys => ARRAY['t:{id}'], drop_keys => ARRAY['t:search:{project_id}:*'])});
is($session->error, '', 'a table with a pattern');

sub index_of
{
    my ($part) = @_;
    return grep { index($_, $part) >= 0 } grep { /^slate_cache:index:/ } split /\n/, $redis->cli('KEYS', 'slate_cache:index:*');
}

sub overwrite
{
    my ($name) = @_;
    $redis->cli('DEL', $name);
    return $redis->cli('RPUSH', $name, 'nonsense');
}

foreach my $mode (qw(commit async strict))
{
    $session->query(qq{SET slate_cache.mode = commit; SELECT slate_cache_set('t:search:1:x', '"$mode"')});
    my ($index) = index_of('t:search');
    is($redis->cli('TYPE', $index), 'zset', "$mode: there is an index");
    is(overwrite($index), '1', "$mode: it is overwritten");
    $session->query(qq{SET slate_cache.mode = $mode; UPDATE t SET v = '$mode'});
    $mode eq 'strict'
      ? like($session->error, qr/could not mark/, 'strict: a commit fails')
      : is($session->error, '', "$mode: a commit does not fail");
    $session->query(qq{UPDATE t SET v = 'strict'}) if $mode eq 'strict';
    is($session->error, '', "$mode: but only once") if $mode eq 'strict';
    $session->query('SELECT slate_cache_repair()');
    is($session->error, '', "$mode: the journal is worked off");
    is($redis->cli('EXISTS', 't:search:1:x'), '0', "$mode: what the index knew of has gone");
}

# Who registers a key has an index again.
$session->query(q{SET slate_cache.mode = commit; SELECT slate_cache_set('t:search:1:x', '1')});
overwrite(index_of('t:search'));
$session->query(q{SELECT slate_cache_set('t:search:1:y', '2')});
is($redis->cli('GET', 't:search:1:y'), '2', 'a key is set');
is($redis->cli('TYPE', index_of('t:search')), 'zset', 'and there is an index');
$session->query(q{UPDATE t SET v = 'last'; SELECT slate_cache_repair()});
is($redis->cli('EXISTS', 't:search:1:x', 't:search:1:y'), '0', 'both are dropped with the pattern');

# That of keys under no rule.
$session->query(q{SELECT slate_cache_set('free:1', '1')});
overwrite(index_of('{*'));
$session->query('SELECT slate_cache_flush()');
is($session->error, '', 'the namespace can be emptied');
is($node->safe_psql('postgres', q{SELECT ok FROM slate_cache.health WHERE "check" = 'history'}), 't', 'and Redis is trusted');
is($node->safe_psql('postgres', q{SELECT pushes_lost FROM slate_cache.stats WHERE scope = 'server'}), '0', 'nothing is lost');
SlateNode::unharmed($node);

done_testing();
