# Redis has no memory left, and evicts nothing: what patterns match is removed nevertheless, by
# commits and by the worker; who waits for the worker is told that it cannot finish; and when
# there is memory again nothing is left to be done.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 10000, 'slate_cache.connect_timeout' => 10000 });
$node->safe_psql('postgres', q{
    CREATE TABLE item (id int PRIMARY KEY, kind text);
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'], list_keys => ARRAY['shop:items:{kind}'],
        drop_keys => ARRAY['shop:search:{kind}:*']);
    INSERT INTO item SELECT i, 'kind ' || i % 3 FROM generate_series(1, 9) i});
my $session = SlateSession->new($node);
SlateJournal::wait_until_told($node);

sub is_there { return $redis->cli('EXISTS', @_) }
sub app_sets { $redis->cli('SET', $_, '"app"') foreach @_; return }
sub fill { $redis->cli('EVAL', "for i = 1, $_[0] do redis.call('SET', 'filler:' .. i, 'x') end", '0'); return }
sub wait_until_gone { my ($key) = @_; SlateRedis::wait_until(sub { !is_there($key) }, "$key has gone"); return }

# A small Redis: the commit looks for itself.
$session->query(q{SELECT slate_cache_get('shop:items:kind 1')});
app_sets('shop:search:kind 1:mine');
$redis->config(maxmemory => 1);
$session->query(q{UPDATE item SET kind = 'kind 2' WHERE id = 1});
is($session->error, '', 'a commit succeeds');
like($session->query(q{SELECT detail FROM slate_cache.health WHERE "check" = 'eviction' AND NOT ok}), qr/memory is full/, 'health tells why');
$session->query(q{SET slate_cache.mode = strict; UPDATE item SET kind = 'kind 1' WHERE id = 3});
like($session->error, qr/OOM/, 'in mode strict it fails, as health says');
$session->query('SET slate_cache.mode = commit');
is(is_there('shop:item:1', 'shop:items:kind 1', 'shop:search:kind 1:mine'), '0', 'keys, lists and what a pattern matches have gone');
is(is_there('shop:item:2'), '1', 'others have not');
$session->query('TRUNCATE item');
is($session->query(q{SELECT slate_cache_get('shop:item:2')}), '', 'TRUNCATE: nobody reads an old row');
is(is_there(map { "shop:item:$_" } 1 .. 9), '0', 'none is there');

# A large one: the worker does.
$redis->config(maxmemory => 0);
SlateJournal::wait_until_told($node);
fill(3000);
$session->query(q{INSERT INTO item VALUES (1, 'kind 1')});
app_sets('shop:search:kind 1:mine', 'shop:search:kind 2:mine');
$redis->config(maxmemory => 1);
$session->query(q{UPDATE item SET kind = 'kind 1' WHERE id = 1; INSERT INTO item VALUES (2, 'kind 1')});
wait_until_gone('shop:search:kind 1:mine');
pass('a large Redis: the worker finds what a pattern matches');
$session->query(q{INSERT INTO item VALUES (3, 'kind 2')});
wait_until_gone('shop:search:kind 2:mine');
pass('and what another one matches that came later');
isnt($session->query('SELECT count(*) FROM slate_cache.journal'), '0', 'but the journal keeps them');
SlateNode::wait_for($node, q{SELECT NOT ok AND detail ~ 'does not take them' FROM slate_cache.health WHERE "check" = 'journal'});
pass('and health tells');
like(join("\n", SlateNode::messages($node, qr/could not deliver cache changes to Redis yet/)), qr/yet: OOM /, 'the log says why');

# Who waits for it to be done waits no longer than if Redis were away.
foreach my $function ('repair', 'flush')
{
    $session->query("SELECT slate_cache_$function()");
    like($session->error, qr/Redis does not take what the worker tells it.*HINT/s, "slate_cache_$function() gives up");
}
$redis->config(maxmemory => 0);
$session->query('SELECT slate_cache_repair()');
is($session->error, '', 'there is memory again: it is done');
is($session->query('SELECT count(*) FROM slate_cache.journal'), '0', 'the journal is empty');
SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('history', 'journal', 'redis')});
is($session->query(q{SELECT slate_cache_get('shop:item:3')->>'kind'}), 'kind 2', 'and all is cached again');
is(is_there('shop:item:3'), '1', 'in Redis');

SlateNode::unharmed($node);
done_testing();
