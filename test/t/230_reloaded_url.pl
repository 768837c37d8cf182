# A reload changes slate_cache.url, and a session has it before the worker: the
# session waits for the worker, and what it commits is in the new Redis, whatever
# its mode.  One with a url of its own sets no value there.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep time);

my @redis = (SlateRedis->new, SlateRedis->new);
my $node = SlateNode->start('main', redis => $redis[0]);
SlateNode::create_items($node, 9);
my $looker = SlateSession->new($node);
my $id = 0;

# The statement has come to its commit, or to Redis; or it has ended.
sub wait_until_begun
{
    my ($session, $condition) = @_;
    my $pid = $session->pid;

    # It waits for a second at most, so this must be quick.
    SlateRedis::wait_until(
        sub { $looker->query("SELECT state = 'idle' OR $condition FROM pg_stat_activity WHERE pid = $pid") eq 't' }, 'it has begun');
    return;
}

# The worker gets to the reload when the session waits for it.
sub reload_beside
{
    my ($what, $settings, $sql, $condition) = @_;
    @redis = reverse @redis;
    my $session = SlateSession->new($node);
    $session->query($settings) if $settings ne '';
    SlateNode::stop_worker($node);
    SlateNode::set($node, 'slate_cache.url' => $redis[0]->url);
    $session->send($sql);
    wait_until_begun($session, $condition);
    SlateNode::continue_worker();
    my $result = $session->finish;
    is($session->error, '', "$what: it ends well");
    return $result;
}

foreach my $mode (qw(commit strict async))
{
    $id++;
    reload_beside($mode, "SET slate_cache.mode = '$mode'", "UPDATE item SET name = '$mode' WHERE id = $id",
        'backend_xid IS NOT NULL');

    # In mode async the worker may still be at it.
    my $until = time + 20;
    sleep 0.02 until $mode ne 'async' || $redis[0]->field("shop:item:$id", 'name') eq $mode || time > $until;
    is($redis[0]->field("shop:item:$id", 'name'), $mode, "$mode: its value is in the new Redis");
}
$id++;
reload_beside('PREPARE', '', "BEGIN; UPDATE item SET name = 'prepared' WHERE id = $id; PREPARE TRANSACTION 'one'", 'backend_xid IS NOT NULL');
$node->safe_psql('postgres', q{COMMIT PREPARED 'one'});
SlateJournal::wait_until_told($node);
is($redis[0]->cli('EXISTS', "shop:item:$id"), '0', 'PREPARE: the worker drops its key');
is(reload_beside('get', '', q{SELECT slate_cache_get('shop:item:9')->>'name'}, q{state = 'active'}), 'old', 'get: it has the value');
is($redis[0]->field('shop:item:9', 'name'), 'old', 'get: it has filled');

# That url is the session's alone: the worker is not going to have it.
SlateNode::wait_until_trusted($node);
my $elsewhere = SlateSession->new($node);
$elsewhere->query(q{SET slate_cache.url = '} . $redis[1]->url . q{'});
$elsewhere->query(q{UPDATE item SET name = 'elsewhere' WHERE id = 9});
is($elsewhere->error, '', 'a url of its own: the commit ends well');
is($redis[1]->cli('EXISTS', 'shop:item:9'), '0', 'a url of its own: no value is set there');
SlateNode::unharmed($node);
done_testing();
