# An outage in which the journal exceeds slate_cache.max_journal: from then on
# one row stands for everything, the journal does not grow any more, and when
# Redis is back the namespace, and no other key, is emptied once.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateCheck;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

# Keys of some 80 bytes.
my $rows = 30_000;
my $template = 'shop:item:{id}:{token}';
my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => { 'slate_cache.max_journal' => '1MB' });
$node->safe_psql('postgres', qq{
    CREATE TABLE item (id int PRIMARY KEY, token text, name text);
    INSERT INTO item SELECT i, md5(i::text) || md5(i || 'x'), 'old' FROM generate_series(1, $rows) i;
    CREATE TABLE sale (customer int);
    SELECT slate_cache_attach('item', row_keys => ARRAY['$template']);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
my $session = SlateSession->new($node);

sub key { return $node->safe_psql('postgres', "SELECT 'shop:item:' || id || ':' || token FROM item WHERE id = $_[0]") }

sub in_doubt
{
    my ($what) = @_;
    return $node->safe_psql('postgres', "SELECT $what FROM slate_cache.journal");
}

sub journal_bytes
{
    return $node->safe_psql('postgres',
        q{SELECT pg_relation_size('slate_cache.journal_a') + pg_relation_size('slate_cache.journal_b')});
}

sub change
{
    my ($from, $to, $name) = @_;
    $session->query(qq{DO \$\$ BEGIN
        FOR i IN $from .. $to BY 100 LOOP
            UPDATE item SET name = '$name' WHERE id BETWEEN i AND i + 99;
            COMMIT;
        END LOOP; END \$\$});
    is($session->error, '', "$name: the commits succeed");
    return;
}

sub fill
{
    SlateCheck::store($node, $redis, 'item', $template);
    $redis->cli('MSET', 'shop:search:1:mine', '"app"', 'shop:search:2:mine', '"app"', 'app:mine', '"app"');
    $node->safe_psql('postgres', 'SELECT slate_cache_stats_reset()');
    return;
}

# Up to the limit each row is in the journal, past it none is.
fill();
$redis->pause;
change(1, 2000, 'below the limit');
is(in_doubt(q{count(*) FILTER (WHERE state = 'everything')}), '0', 'below the limit: rows of their own');
is(in_doubt('count(DISTINCT xid)'), '20', 'below the limit: all of them');
change(1, $rows - 1000, 'past the limit');
cmp_ok(in_doubt(q{count(*) FILTER (WHERE state = 'everything')}), '>', 0, 'past the limit: everything is in doubt');
my $bytes = journal_bytes();
note("journal: $bytes bytes");
cmp_ok($bytes, '>', 512 * 1024, 'past the limit: the journal has been filled');
cmp_ok($bytes, '<', 1.5 * 1024 * 1024, 'past the limit: and not more');
change(1, $rows - 1000, 'far past the limit');
$session->query('INSERT INTO sale VALUES (1)');
cmp_ok(journal_bytes(), '<=', $bytes + 64 * 1024, 'far past the limit: it does not grow any more');
is($node->safe_psql('postgres', 'SELECT pushes_lost, emptied FROM slate_cache.stats'), '0|0', 'nothing is lost');

# Back again.
$redis->resume;
SlateRedis::wait_until(sub { in_doubt('count(*)') == 0 }, 'the journal is empty');
is(SlateNode::counter($node, 'emptied'), '1', 'Redis is back: the namespace is emptied once');
is($node->safe_psql('postgres', q{SELECT string_agg(kind, ', ' ORDER BY at) FROM slate_cache.events
        WHERE kind = 'journal full' OR (kind = 'emptied' AND detail LIKE '%: the journal was full%')}),
    'journal full, emptied', 'Redis is back: the view events tells why');
SlateCheck::all_right($node, $redis, 'item', $template, name => 'Redis is back: no key is wrong');
is($redis->cli('EXISTS', key($rows)), '0', 'Redis is back: what was not touched is gone, too');
is($redis->cli('EXISTS', 'shop:search:1:mine', 'shop:search:2:mine'), '0', 'Redis is back: so is what patterns cover');
is($redis->cli('GET', 'app:mine'), '"app"', 'Redis is back: what no rule covers is there');

# As before.
SlateRedis::wait_until(sub { journal_bytes() < 512 * 1024 }, 'the journal is truncated');
$session->query(q{UPDATE item SET name = 'through' WHERE id = 1});
is($redis->field(key(1), 'name'), 'through', 'the next commit writes through');
is($session->query("SELECT slate_cache_get('" . key(2) . "')->>'name'"), 'far past the limit', 'get loads');
is($redis->field(key(2), 'name'), 'far past the limit', 'and fills');

# A second, short outage is an ordinary one.
fill();
$redis->pause;
change(1, 2000, 'another time');
is(in_doubt(q{count(*) FILTER (WHERE state = 'everything')}), '0', 'another time: rows of their own');
$redis->resume;
SlateRedis::wait_until(sub { in_doubt('count(*)') == 0 }, 'the journal is empty');
my %found = SlateCheck::all_right($node, $redis, 'item', $template, name => 'another time: no key is wrong');
is($found{right}, $rows - 2000, 'another time: what was not touched is there');
is(SlateNode::counter($node, 'emptied'), '0', 'another time: the namespace was not emptied');

SlateNode::unharmed($node);
done_testing();
