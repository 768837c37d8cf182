# Sessions whose slate_cache.url is not their worker's: a statement during which a reload changes
# it, and sessions that are older than an ALTER DATABASE.  What they tell their Redis the worker's
# has yet to hear; the journal sees to that.  And they read tables, not a Redis that nobody else tells.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my ($here, $there) = map { SlateRedis->new } 1 .. 2;
my $node = SlateNode->start('main', redis => $here);
SlateNode::create_items($node, 10);
my ($gate, $late) = map { SlateSession->new($node) } 1 .. 2;

sub is_well
{
    SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('worker', 'redis', 'history')});
    return;
}

# A statement that goes on until the gate is opened; meanwhile all move to the other Redis, and
# somebody fills what is there before the commit.
foreach my $mode (qw(commit async))
{
    my $to = $mode eq 'commit' ? $there : $here;
    my $id = $mode eq 'commit' ? 1 : 2;
    my $was = $gate->query("SELECT name FROM item WHERE id = $id");
    is($late->query("SET slate_cache.mode = '$mode'; SELECT slate_cache_get('shop:item:$id')->>'name'"), $was, "$mode: before");
    $gate->query('SELECT pg_advisory_lock(1)');
    $late->send("UPDATE item SET name = 'new' WHERE id = $id RETURNING pg_advisory_xact_lock(1)");
    SlateNode::wait_for($node, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}, '1');
    SlateNode::set($node, 'slate_cache.url' => $to->url);
    is_well();
    my $reader = SlateSession->new($node);
    is($reader->query("SELECT slate_cache_get('shop:item:$id')->>'name'"), $was, "$mode: a reader fills the new Redis with what is committed");
    is($to->field("shop:item:$id", 'name'), $was, "$mode: and there it is");
    $gate->query('SELECT pg_advisory_unlock(1)');
    $late->finish;
    is($late->error, '', "$mode: the statement commits");
    $gate->query('SELECT slate_cache_repair()');
    unlike($to->field("shop:item:$id", 'name') // '', qr/\Q$was\E/, "$mode: the new Redis has no old value");
    is($reader->query("SELECT slate_cache_get('shop:item:$id')->>'name'"), 'new', "$mode: nor does a reader find one");
    is($reader->query('SELECT pushes_lost FROM slate_cache.stats'), '0', "$mode: nothing is lost");
}

# Sessions keep what ALTER DATABASE had set when they began.
my $old = SlateSession->new($node);
is($old->query(q{SELECT slate_cache_get('shop:item:3')->>'name'}), 'old', 'ALTER DATABASE: a session reads');
$node->safe_psql('postgres', q{ALTER DATABASE postgres SET slate_cache.url = '} . $here->url(db => 1) . q{'; SELECT pg_reload_conf()});
SlateNode::wait_for($node, q{SELECT count(*) FROM slate_cache.health WHERE "check" = 'worker' AND ok}, '1');
is_well();
my $new = SlateSession->new($node);
is($new->query(q{SELECT slate_cache_get('shop:item:3')->>'name'}), 'old', 'ALTER DATABASE: another fills the new Redis');
$old->query(q{UPDATE item SET name = 'pooled' WHERE id = 3});
is($old->error, '', 'ALTER DATABASE: the former session writes');
$new->query('SELECT slate_cache_repair()');
is($new->query(q{SELECT slate_cache_get('shop:item:3')->>'name'}), 'pooled', 'ALTER DATABASE: the new one sees it');
$new->query(q{UPDATE item SET name = 'newer' WHERE id = 3});
my $bypasses = $old->query('SELECT bypasses FROM slate_cache.stats');
is($here->cli('EXISTS', 'shop:item:3'), 0, 'ALTER DATABASE: the former Redis got no value, which nobody would have removed there');
is($old->query(q{SELECT slate_cache_get('shop:item:3')->>'name'}), 'newer', 'ALTER DATABASE: but the former session reads the table');
is($old->query('SELECT bypasses FROM slate_cache.stats') - $bypasses, 1, 'ALTER DATABASE: which counts as a bypass');
like($old->query(q{SELECT detail FROM slate_cache.health WHERE "check" = 'worker'}), qr/has another slate_cache\.url than this session/, 'and health says why');

# A query's value would be found there again, though others drop it elsewhere.
my $names = q{SELECT slate_cache_fetch('shop:names', 'SELECT name FROM item WHERE id = 4')};
is($old->query($names), '"old"', 'ALTER DATABASE: the former session fetches');
$new->query(q{UPDATE item SET name = 'later' WHERE id = 4; SELECT slate_cache_del('shop:names')});
is($old->query($names), '"later"', 'ALTER DATABASE: and again, and has what the query gives');
is($here->cli('EXISTS', 'shop:names'), 0, 'ALTER DATABASE: nothing is left where nobody would drop it');

foreach my $function (qw(warm verify))
{
    $old->query("SELECT slate_cache_$function('item')");
    like($old->error, qr/this session uses another Redis than the database's worker.*Connect anew/s, "slate_cache_$function() does not fill, or judge, a Redis that nobody tells");
}

done_testing();
