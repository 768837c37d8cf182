# A full journal: a transaction has written that everything may be old, and told Redis; others
# rely on that row, which stays until the namespace is emptied for them, over a restart, too.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep);

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => {
    autovacuum => 'off', 'slate_cache.max_journal' => '1MB', 'slate_cache.timeout' => 10000 });
$node->safe_psql('postgres', q{
    CREATE TABLE item (id int PRIMARY KEY, name text);
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'],
        drop_keys => ARRAY['shop:long:{id}:' || repeat('x', 900)], ttl => '1 day');
    INSERT INTO item SELECT i, 'old' FROM generate_series(1, 800) i});
SlateJournal::wait_until_told($node);
SlateJournal::rotate($node);
my $session = SlateSession->new($node);
my $size = q{SELECT pg_relation_size('slate_cache.journal_a') + pg_relation_size('slate_cache.journal_b')};
is($redis->field('shop:item:5', 'name'), 'old', 'a row is cached');

# All of it is told; the worker would make room, but is not there.
SlateNode::stop_worker($node);
$session->query("UPDATE item SET name = '$_'") foreach qw(other old);
$session->query("UPDATE item SET name = 'told' WHERE id = 2");
is($redis->field('shop:item:2', 'name'), 'told', 'the journal is full, and Redis is told');
cmp_ok($session->query($size), '>', 1024 * 1024, 'full, indeed');

# Then Redis cannot be reached, and a transaction has no row of its own.
rename $redis->socket, $redis->socket . '.away';
system('redis-cli', '-s', $redis->socket . '.away', 'CLIENT', 'KILL', 'TYPE', 'normal');
$session->query("UPDATE item SET name = 'new' WHERE id = 5");
is($session->error, '', 'a change is not told');
is($session->query('SELECT pushes_delayed, pushes_lost FROM slate_cache.stats'), '1|0', 'it counts as delayed');
is($session->query('SELECT state FROM slate_cache.journal'), 'everything', 'and the row that it relies on is shown');
SlateNode::continue_worker();
for (1 .. 50)
{
    last if $session->query($size) eq '0';
    sleep 0.1;
}
cmp_ok($session->query($size), '>', 0, 'the worker keeps the row that it relies on');

# What shared memory knew is gone.
$node->stop('fast');
$node->start;
rename $redis->socket . '.away', $redis->socket;
SlateRedis::wait_until(sub { $redis->field('shop:item:5', 'name') ne 'old' }, 'the old value is gone');
pass('after a restart the namespace is emptied, or the row replayed');
is($node->safe_psql('postgres', q{SELECT slate_cache_get('shop:item:5')->>'name'}), 'new', 'a reader has the new one');
SlateNode::unharmed($node);
done_testing();
