# A recovery to a point in time, in another data directory, with the Redis that
# was used before: what was pushed after that point goes.  Then a second one, to
# an earlier point, which has the same timeline as the first.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateHistory;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, init => [ allows_streaming => 1, has_archiving => 1 ],
    conf => { 'slate_cache.guard_life' => 10, 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::create_items($node, 100);
SlateHistory::set_again($node, $redis, 'at first');
$redis->cli('SET', 'other:app', 'theirs');
SlateHistory::forget_journal($node);
$node->backup('base');
$node->safe_psql('postgres', q{
    UPDATE item SET name = 'earlier' WHERE id <= 50;
    SELECT pg_create_restore_point('earlier');
    UPDATE item SET name = 'later' WHERE id BETWEEN 20 AND 70;
    SELECT pg_create_restore_point('later');
    UPDATE item SET name = 'lost' WHERE id BETWEEN 40 AND 90;
    DELETE FROM item WHERE id = 95;
    INSERT INTO item SELECT i, 'lost' FROM generate_series(101, 104) i});
my $segment = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
SlateNode::wait_for($node, "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver");
is($redis->field('shop:item:60', 'name'), 'lost', 'Redis has what will be lost');
$node->stop;

# Its history is not archived, so that the next one knows nothing of it.
sub restored
{
    my ($point) = @_;
    my $restored = PostgreSQL::Test::Cluster->new("to_$point");
    $restored->init_from_backup($node, 'base', has_restoring => 1, standby => 0);
    $restored->append_conf('postgresql.conf',
        "archive_mode = off\nrecovery_target_name = '$point'\nrecovery_target_action = 'pause'");
    $restored->start;
    SlateNode::wait_for($restored, "SELECT pg_get_wal_replay_pause_state() = 'paused'");
    return $restored;
}

my $checked = 0;

sub check
{
    my ($restored, $what, $session) = @_;

    # Versions of the other lives stand until the end of a guard's: of a row that
    # none has changed there is none.
    SlateHistory::set_again($restored, $redis, $what, row => 100 - $checked++);
    my $new = SlateSession->new($restored);
    is(SlateHistory::wrong_gets($new), '', "$what: a new session gets what is right");
    is(SlateHistory::wrong_gets($session), '', "$what: so does the other");
    is(SlateHistory::wrong($restored, $redis), '', "$what: what they have filled is right");
    is($redis->cli('GET', 'other:app'), 'theirs', "$what: keys of others are left alone");
    return;
}

my $later = restored('later');
my $session = SlateSession->new($later);
is($session->query("SELECT name FROM item WHERE id = 60"), 'later', 'the point is reached');
is($session->query("SELECT slate_cache_get('shop:item:60')->>'name'"), 'lost', 'before the end of recovery, hits are answered');
$session->query('SELECT pg_wal_replay_resume()');
SlateHistory::right_once_promoted($later, $redis, $session, 'later');
check($later, 'later', $session);

# It lives for a while, and is not what was wanted.
$session->query("UPDATE item SET name = 'second life' WHERE id BETWEEN 10 AND 80");
is($redis->field('shop:item:30', 'name'), 'second life', 'it writes through');
my $timeline = $later->safe_psql('postgres', 'SELECT timeline_id FROM pg_control_checkpoint()');
$session->quit;
$later->stop;

my $earlier = restored('earlier');
$session = SlateSession->new($earlier);
is($session->query("SELECT name FROM item WHERE id = 60"), 'old', 'the earlier point is reached');
$session->query('SELECT pg_wal_replay_resume()');
SlateHistory::right_once_promoted($earlier, $redis, $session, 'earlier');
check($earlier, 'earlier', $session);
$session->quit;
$earlier->stop;
my ($control) = run_command([ 'pg_controldata', $earlier->data_dir ]);
my ($second) = $control =~ /Latest checkpoint's TimeLineID: *(\d+)/;
is($second, '2', 'both had the same timeline');

# The first of the two, once more.
$later->start;
$session = SlateSession->new($later);
is(SlateHistory::wrong_gets($session), '', 'the first again: gets are right at once');
SlateHistory::become_right($later, $redis, 'the first again');
check($later, 'the first again', $session);

$session->quit;
SlateNode::unharmed($_) foreach $node, $later, $earlier;
done_testing();
