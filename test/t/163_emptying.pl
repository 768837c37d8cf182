# While the namespace is emptied, because Redis was started from an older dump:
# slate_cache_get reads the tables, changes remove keys, and nothing is trusted
# before all of it is done, whatever interrupts it.  Keys of others are left
# alone, whatever they look like.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateCheck;
use SlateHistory;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;

use constant ROWS => 3000;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url,
    conf => { 'slate_cache.timeout' => 30000, 'slate_cache.connect_timeout' => 30000 });
SlateNode::create_items($node, ROWS);
$node->safe_psql('postgres', q{
    CREATE TABLE sale (id int PRIMARY KEY, customer int);
    SELECT slate_cache_attach('sale', list_keys => ARRAY['shop:sales:{customer}'],
        drop_keys => ARRAY['shop:search:{customer}:*']);
    INSERT INTO sale VALUES (1, 7), (2, 7)});
my $session = SlateSession->new($node);

# Keys of others, some of them nearly like ours.
my %foreign = map { ($_ => "theirs, $_") } qw(other:app shop:items shop:item shop:itemize:1 xshop:item:1
    Shop:item:1 shop_item:1 {shop:item:1} shop:search session:shop:item:1 slate_cached slate:project:1);
$redis->cli('SET', $_, $foreign{$_}) foreach keys %foreign;
$redis->cli('RPUSH', 'other:list', 'a', 'b');
$redis->cli('HSET', 'other:hash', 'a', 'b');

sub check_foreign
{
    my ($what) = @_;
    my @changed = grep { $redis->cli('GET', $_) ne $foreign{$_} } sort keys %foreign;
    push @changed, 'other:list' unless $redis->cli('LLEN', 'other:list') eq '2';
    push @changed, 'other:hash' unless $redis->cli('HLEN', 'other:hash') eq '1';
    is("@changed", '', "$what: keys of others are left alone");
    return;
}

my $count = 0;

# Redis comes back with old values, and the worker does not get far: whoever
# sends a SCAN hears nothing.
sub age
{
    $count++;
    SlateHistory::become_right($node, $redis, "before $count");
    SlateHistory::set_again($node, $redis, "before $count");
    SlateRedis::wait_until(
        sub {
            $node->safe_psql('postgres', "UPDATE item SET name = 'before $count'");
            return $redis->field('shop:item:2', 'name') eq "before $count";
        },
        'all is written through');
    $session->query("SELECT slate_cache_get('shop:sales:7')");
    $redis->cli('SET', 'shop:search:7:mine', '[1]');
    $redis->cli('SAVE');
    $node->safe_psql('postgres', "UPDATE item SET name = 'after $count' WHERE id > 1;
        INSERT INTO sale VALUES (" . (10 + $count) . ', 7)');
    $redis->kill9;
    $proxy->hold(qr/\r\nSCAN\r\n/i);
    $redis->start;
    $session->query("SELECT slate_cache_get('shop:item:1')");
    $proxy->wait_until_held;
    return;
}

sub let_go
{
    my ($what) = @_;
    $proxy->release;
    SlateHistory::become_right($node, $redis, $what);
    is($redis->cli('EXISTS', 'shop:search:7:mine'), '0', "$what: what a pattern covers is gone");
    SlateHistory::set_again($node, $redis, $what);
    is(SlateHistory::wrong_gets($session), '', "$what: gets are right");
    $session->query("SELECT slate_cache_get('shop:sales:7')");
    SlateCheck::all_right($node, $redis, 'sale', 'shop:sales:{customer}', list => 'id', name => "$what: lists");
    is(SlateHistory::wrong($node, $redis), '', "$what: what was filled is right");
    check_foreign($what);
    return;
}

# What is seen meanwhile.
age();
is($redis->field('shop:item:2', 'name'), 'before 1', 'old values are in Redis');
is($session->query(q{SELECT state, query FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'}),
    'active|emptying the namespace', 'pg_stat_activity tells what the worker does');
my $hits = SlateNode::counter($node, 'hits');
is(SlateHistory::wrong_gets($session), '', 'gets are right meanwhile');
my $new = SlateSession->new($node);
is(SlateHistory::wrong_gets($new), '', 'those of a new session, too');
is($session->query("SELECT jsonb_array_length(slate_cache_get('shop:sales:7'))"), '3', 'lists, too');
is(SlateNode::counter($node, 'hits'), $hits, 'the tables have answered');
$session->query("UPDATE item SET name = 'changed meanwhile' WHERE id = 3");
is($session->error, '', 'a change goes well');
cmp_ok($session->seconds, '<', 10, 'and does not wait for the emptying');
isnt($redis->field('shop:item:3', 'name'), 'before 1', 'it removes the old value');
is($session->query("SELECT slate_cache_get('shop:item:3')->>'name'"), 'changed meanwhile', 'get has the new one');
is($redis->field('shop:item:4', 'name'), 'before 1', 'the old values of others are still there');
my $emptied = SlateNode::counter($node, 'emptied');
$redis->cli('CONFIG', 'RESETSTAT');
$proxy->release;
SlateNode::wait_for($node, "SELECT emptied > $emptied FROM slate_cache.stats");
my $commands = $redis->cli('INFO', 'commandstats');
my ($scans) = $commands =~ /^cmdstat_scan:calls=(\d+)/m;
cmp_ok($scans // 0, '>=', 2 * ROWS / 1000, 'Redis is walked in steps');
unlike($commands, qr/^cmdstat_(?:keys|flushall|flushdb):/m, 'never with KEYS, nothing is flushed');
let_go('old dump');

# The worker ends in the middle of it.
age();
my $find_worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache worker' AND datname = 'postgres'";
my $worker = $node->safe_psql('postgres', $find_worker);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
SlateNode::wait_for($node, "SELECT count(*) = 1 FROM ($find_worker) w WHERE pid <> $worker");
is($redis->field('shop:item:2', 'name'), 'before 2', 'worker: old values are in Redis');
is(SlateHistory::wrong_gets($session), '', 'worker: gets are right');
let_go('worker');

# PostgreSQL is restarted in the middle of it.
age();
$_->quit foreach $session, $new;
$node->restart;
$session = SlateSession->new($node);
is($redis->field('shop:item:2', 'name'), 'before 3', 'restart: old values are in Redis');
is(SlateHistory::wrong_gets($session), '', 'restart: gets are right');
let_go('restart');

# Redis is restarted in the middle of it, again from that dump.
age();
$redis->kill9;
$redis->start;
is($redis->field('shop:item:2', 'name'), 'before 4', 'Redis again: old values are in Redis');
is(SlateHistory::wrong_gets($session), '', 'Redis again: gets are right');
let_go('Redis again');

# Keys that no rule knows, of whom slate_cache alone knows that they are its own.
my @own = qw(shop:free:1 shop:free:2 shop:free:3);
$session->query(q{SELECT slate_cache_set('shop:free:1', '"old"');
    SELECT slate_cache_set('shop:free:2', '"old"');
    SELECT slate_cache_fetch('shop:free:3', 'SELECT count(*) FROM sale')});
is($redis->cli('EXISTS', @own), '3', 'there are keys without a rule');
$redis->cli('SAVE');
$session->query(q{SELECT slate_cache_set('shop:free:1', '"new"'); SELECT slate_cache_del('shop:free:2', 'shop:free:3')});
$redis->kill9;
$redis->start;
SlateHistory::set_again($node, $redis, 'without a rule');
isnt($redis->cli('GET', 'shop:free:1'), '"old"', 'slate_cache_set: the former value does not come back');
is($redis->cli('EXISTS', 'shop:free:2'), '0', 'slate_cache_del: the key does not come back');
is($redis->cli('EXISTS', 'shop:free:3'), '0', 'slate_cache_fetch: the key does not come back');
check_foreign('without a rule');

$session->quit;
SlateNode::unharmed($node);
done_testing();
