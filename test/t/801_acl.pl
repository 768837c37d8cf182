# The Redis user that the README proposes may do all that slate_cache needs, and
# does: Redis has denied nothing.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use Test::More;

my @rule = SlateRedis::proposed_user();
is($rule[0], 'on', 'the README proposes a user');

my $redis = SlateRedis->new(port => 1);
is($redis->cli('ACL', 'SETUSER', 'slate', @rule), 'OK', 'Redis takes it');
my $url = 'redis://slate:secret@127.0.0.1:' . $redis->port;
my $node = SlateNode->start('main', redis => $url, conf => { max_prepared_transactions => 2 });
$node->safe_psql('postgres', q{
    CREATE TABLE item (id int PRIMARY KEY, owner int, name text);
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'],
        list_keys => ARRAY['shop:items:{owner}'], drop_keys => ARRAY['shop:search:{owner}:*'])});

# Everything that talks to Redis, in both modes.
my @everything = split /;\s*\n/, q{
    INSERT INTO item VALUES (1, 7, 'one'), (2, 7, 'two');
    SELECT slate_cache_get('shop:items:7'), slate_cache_get('shop:item:3'), slate_cache_peek('shop:item:1');
    SELECT count(*) FROM slate_cache_mget(ARRAY['shop:item:1', 'shop:item:2', 'shop:items:8']);
    SELECT slate_cache_fetch('shop:search:7:a', 'SELECT count(*) FROM item');
    SELECT slate_cache_fetch('shop:search:7:a', 'SELECT count(*) FROM item');
    SELECT slate_cache_set('shop:note', '1'), slate_cache_set('shop:short', '1', '1 minute');
    SELECT slate_cache_del('shop:note');
    UPDATE item SET name = 'three' WHERE id = 1;
    DELETE FROM item WHERE id = 2;
    SELECT slate_cache_invalidate('shop:s*');
    SELECT slate_cache_warm('item');
    SELECT count(*) FROM slate_cache_verify('item', repair => true);
    SELECT count(*) FROM slate_cache_verify('item', sample => 5);
    BEGIN; UPDATE item SET name = 'four'; PREPARE TRANSACTION 'p';
    COMMIT PREPARED 'p';
    SELECT slate_cache_repair();
    BEGIN; UPDATE item SET name = 'five'; ROLLBACK;
    TRUNCATE item;
    SELECT slate_cache_flush()};
foreach my $mode ('commit', 'strict')
{
    foreach my $statement (@everything)
    {
        my ($status, $out, $err) = $node->psql('postgres', "SET slate_cache.mode = $mode; $statement");
        is($err, '', "$mode: " . ($statement =~ s/^\s+//r));
    }
}

# Directly, too: see 189_direct.
$node->safe_psql('postgres', q{CREATE TABLE plain (id int PRIMARY KEY, n int);
    SELECT slate_cache_attach('plain', row_keys => ARRAY['shop:plain:{id}']); INSERT INTO plain VALUES (1, 0)});
SlateRedis::wait_until(
    sub {
        $node->safe_psql('postgres', q{DO $$ BEGIN FOR i IN 1 .. 50 LOOP UPDATE plain SET n = n + 1; COMMIT; END LOOP; END $$});
        return SlateNode::counter($node, 'pushes_direct') > 0;
    },
    'a session pushes directly');
is($redis->cli('GET', 'shop:plain:1'), $node->safe_psql('postgres', 'SELECT row_to_json(plain) FROM plain'), 'and Redis has it');
$redis->cli('FLUSHALL');
SlateNode::wait_until_trusted($node);

# slate_cache.health may ask for its persistence, and says so if it may not: what it does not
# know is neither bad nor good.  What anybody may ask it tells all the same.
sub persistence { return $node->safe_psql('postgres', q{SELECT ok || ': ' || detail FROM slate_cache.health WHERE "check" = 'persistence'}) }
like(persistence(), qr/^true: not known: Redis refuses CONFIG GET\b.*\+config\|get/, 'who may not ask does not know');
$redis->config(appendonly => 'yes');
like(persistence(), qr/^false: the append-only file is on/, 'but for what INFO tells');
$redis->config(appendonly => 'no');
$redis->cli('ACL', 'SETUSER', 'slate', '+config|get');
like(persistence(), qr/^true: off/, 'who may knows');
$redis->config(save => '3600 1');
like(persistence(), qr/^false: snapshots are on/, 'whatever it is');
my @denied = grep { $_ ne 'config|get' } $redis->cli('ACL', 'LOG') =~ /^object\n(.*)$/mg;
is("@denied", '', 'nothing was denied');
done_testing();
