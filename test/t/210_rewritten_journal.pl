# VACUUM FULL moves the rows of the journal to other pages, also in the middle of a pass over it:
# the worker begins that table anew, and passes over no row.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $many = 600;
my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => { autovacuum => 'off' });

# Long keys, so that a page of the journal has few.
$node->safe_psql('postgres', qq{
    CREATE TABLE item (grp text, id int, name text, PRIMARY KEY (grp, id));
    SELECT slate_cache_attach('item', row_keys => ARRAY['{grp}:{id}:' || repeat('x', 900)]);
    INSERT INTO item SELECT grp, i, 'old' FROM generate_series(1, $many) i, unnest('{dead,first,second}'::text[]) grp});
SlateJournal::wait_until_told($node);
my $session = SlateSession->new($node);
my $stale = sub { $redis->cli('EVAL', q{local n = 0
    for i = 1, ARGV[2] do
      local value = redis.call('GET', ARGV[1] .. ':' .. i .. ':' .. string.rep('x', 900))
      if value and string.find(value, '"old"', 1, true) then n = n + 1 end
    end
    return n}, '0', $_[0], $many) };
is($stale->('second'), $many, 'all are cached');

# In the journal: rows of a transaction that fails after they were written, then what Redis takes,
# then what it refuses, so that the pass stops there.  (A user who may touch only some keys will do
# for all the rest.)
SlateNode::stop_worker($node);
$redis->cli('ACL', 'SETUSER', 'default', '-hset');
$session->query("SET slate_cache.mode = 'strict'; UPDATE item SET name = 'never' WHERE grp = 'dead'");
isnt($session->error, '', 'one fails');
$session->query('RESET slate_cache.mode');
$redis->cli('ACL', 'SETUSER', 'default', '+hset', 'resetkeys', '~slate_cache:*');
$session->query("UPDATE item SET name = 'new' WHERE grp = 'first'");
$session->query("UPDATE item SET name = 'new' WHERE grp = 'second'");
is($session->error, '', 'others commit, and cannot tell Redis');
$redis->cli('ACL', 'SETUSER', 'default', '~first:*', '~dead:*');
SlateNode::continue_worker();
SlateNode::wait_for($node, q{SELECT detail ~ 'can.t access|ermission' FROM slate_cache.health WHERE "check" = 'journal'});
SlateRedis::wait_until(sub { $redis->cli('EXISTS', 'first:1:' . 'x' x 900) eq '0' }, 'the worker has replayed some pages');
my $pages = q{SELECT (pg_relation_size('slate_cache.journal_a') + pg_relation_size('slate_cache.journal_b')) / 8192};
my $before = $session->query($pages);
$session->query("VACUUM FULL slate_cache.journal_$_") foreach qw(a b prepared);
is($session->error, '', 'VACUUM FULL');
cmp_ok($session->query($pages), '<', $before, 'moves rows towards the beginning');

# Now Redis takes all.
$redis->cli('ACL', 'SETUSER', 'default', 'allkeys');
$session->query('SELECT slate_cache_repair()');
is($session->error, '', 'slate_cache_repair()');
is($stale->($_), 0, "$_: nothing old is left") foreach qw(first second);
is($stale->('dead'), $many, 'what has not changed stays');

done_testing();
