# The Redis user lacks a command: changes wait, slate_cache.health and the log tell what Redis
# refuses, and once it is granted nothing is left that is old.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateCheck;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new(port => 1);
$redis->cli('ACL', 'SETUSER', 'slate', 'on', '>secret', '~*', '&*', '+@all');
my $node = SlateNode->start('main', redis => 'redis://slate:secret@127.0.0.1:' . $redis->port,
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::create_items($node, 3);
my $session = SlateSession->new($node);
my $well = q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('redis', 'history', 'journal')};
my $refused = q{SELECT string_agg("check", ' ') FROM slate_cache.health WHERE NOT ok AND detail ~* 'perm|can.t run'};
SlateNode::wait_for($node, $well);

sub scans_refused { return $redis->cli('INFO', 'commandstats') =~ /^cmdstat_scan:.*rejected_calls=(\d+)/m ? $1 : 0 }

foreach my $command (qw(unlink scan set evalsha))
{
    $session->query("TRUNCATE item; INSERT INTO item VALUES (1, 'old'), (2, 'old'), (3, 'old')");
    SlateNode::wait_for($node, $well);
    $session->query('SELECT slate_cache_get(key) FROM slate_cache_mget(ARRAY(SELECT $$shop:item:$$ || i FROM generate_series(1, 3) i))');
    $redis->cli('ACL', 'SETUSER', 'slate', "-$command");
    $session->query(q{DELETE FROM item WHERE id = 1; UPDATE item SET id = 20 WHERE id = 2});
    is($session->error, '', "-$command: commits succeed");
    $session->query('TRUNCATE item');
    is($session->error, '', "-$command: so does a TRUNCATE");
    SlateNode::wait_for($node, "SELECT ($refused) IS NOT NULL");
    pass("-$command: health tells what is refused: " . $node->safe_psql('postgres', $refused));
    if ($command eq 'scan')
    {
        my $tried = scans_refused();
        SlateRedis::wait_until(sub { scans_refused() > $tried + 2 }, 'the worker has tried again');
        is(scalar(SlateNode::messages($node, qr/Redis refuses what slate_cache tells it: .*scan/i)), '1', "-$command: the log tells once");
    }
    $redis->cli('ACL', 'SETUSER', 'slate', "+$command");
    SlateJournal::wait_until_told($node);
    SlateNode::wait_for($node, $well);
    is(SlateCheck::present($redis, map { "shop:item:$_" } 1, 2, 3, 20), '0', "+$command: nothing old is left");
}
# What must be asked to know whether Redis still is the one that is known.
$session->query("INSERT INTO item VALUES (1, 'old')");
$redis->cli('ACL', 'SETUSER', 'slate', '-get');
SlateNode::wait_for($node, "SELECT ($refused) ~ 'history'");
pass('-get: health tells what is refused');
$session->query('SELECT slate_cache_stats_reset()');
is($session->query(q{SELECT slate_cache_get('shop:item:1')->>'name'}), 'old', '-get: get reads the table');
is($session->query('SELECT read_failures > 0, hits FROM slate_cache.stats'), 't|0', '-get: and counts that');
$redis->cli('FLUSHALL');
$session->query("UPDATE item SET name = 'new' WHERE id = 1");
is($session->error, '', '-get: commits succeed after a FLUSHALL');
$redis->cli('ACL', 'SETUSER', 'slate', '+get');
SlateNode::wait_for($node, $well);
is($session->query(q{SELECT slate_cache_get('shop:item:1')->>'name'}), 'new', '+get: nothing old is read');
SlateRedis::wait_until(sub { $session->query("UPDATE item SET name = 'newer' WHERE id = 1");
        $redis->field('shop:item:1', 'name') eq 'newer' }, 'values are set again');

my @told = SlateNode::messages($node, qr/Redis refuses what slate_cache tells it: .*(?i:perm|can.t run)/);
cmp_ok(scalar @told, '>=', 5, 'the log tells, too');
is($node->safe_psql('postgres', q{SELECT count(*) > 3 FROM slate_cache.events WHERE kind = 'refused' AND detail ~* 'perm|can.t run'}), 't', 'and the events');
SlateNode::unharmed($node);
done_testing();
