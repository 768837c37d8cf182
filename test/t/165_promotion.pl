# A replica that has not got the last transactions is promoted: Redis knows what
# PostgreSQL does not.  Those values go; and the old primary, should it come back
# beside the new one, does not get its values in.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateHistory;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep);

my $redis = SlateRedis->new;
my $old = SlateNode->start('old', redis => $redis, init => [ allows_streaming => 1 ],
    conf => { 'slate_cache.guard_life' => 10, 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
$old->backup('backup');
my $replica = PostgreSQL::Test::Cluster->new('replica');
$replica->init_from_backup($old, 'backup', has_streaming => 1);
$replica->start;
SlateNode::create_items($old, 100);
SlateHistory::set_again($old, $redis, 'at first');
$redis->cli('SET', 'other:app', 'theirs');
SlateHistory::forget_journal($old);
$old->wait_for_catchup($replica, 'replay');

# The replica gets no more; Redis does.
$replica->append_conf('postgresql.conf', "primary_conninfo = ''");
$replica->reload;
SlateNode::wait_for($replica, 'SELECT count(*) = 0 FROM pg_stat_wal_receiver');
$old->safe_psql('postgres', q{
    UPDATE item SET name = 'ahead' WHERE id BETWEEN 2 AND 50;
    DELETE FROM item WHERE id = 60;
    INSERT INTO item SELECT i, 'ahead' FROM generate_series(101, 110) i});
is($redis->field('shop:item:2', 'name'), 'ahead', 'Redis has what the replica will never have');
is($redis->field('shop:item:101', 'name'), 'ahead', 'a row, too');
my $session = SlateSession->new($replica);
is($session->query("SELECT slate_cache_get('shop:item:2')->>'name'"), 'ahead', 'a replica answers hits');
$old->kill9;

# From the moment of its promotion each answer is right, that is, its own.
$session->query('SELECT pg_promote(wait => false)');
SlateHistory::right_once_promoted($replica, $redis, $session, 'promotion');
SlateHistory::set_again($replica, $redis, 'promotion');
my $new = SlateSession->new($replica);
is(SlateHistory::wrong_gets($new), '', 'a new session gets what is right');
is(SlateHistory::wrong_gets($session), '', 'and so does the other');
is(SlateHistory::wrong($replica, $redis), '', 'what they have filled is right');
is($redis->cli('GET', 'other:app'), 'theirs', 'keys of others are left alone');

# The old primary comes back, with what nobody else knows.
sub epochs
{
    return join ' ', map { "$_: " . $redis->cli('GET', $_) } split /\n/, $redis->all_keys('slate_cache:epoch:*');
}

my $epochs = epochs();
my $emptied = SlateNode::counter($replica, 'emptied');
like($epochs, qr/^slate_cache:epoch:\S+: \S+$/, 'there is one epoch');
SlateHistory::wait_until_gone($old);
$old->start;
my $back = SlateSession->new($old);
is($back->query("SELECT slate_cache_get('shop:item:2')->>'name'"), 'ahead', 'the old primary answers from its tables');
my ($of_old, $of_none, $own) = (0, 0, 0);
foreach my $turn (1 .. 10)
{
    $back->query("UPDATE item SET name = 'split $turn' WHERE id BETWEEN 2 AND 4");
    $of_old++ if $redis->field('shop:item:3', 'name') =~ /split|ahead/;
    $of_old++ if SlateHistory::wrong($replica, $redis) ne '';
    $own++ if $back->query("SELECT slate_cache_get('shop:item:3')->>'name'") eq "split $turn";
    $new->query("UPDATE item SET name = 'promoted $turn' WHERE id BETWEEN 3 AND 5");
    $of_none++ unless $redis->field('shop:item:3', 'name') eq "promoted $turn";
    $of_none++ unless $new->query("SELECT slate_cache_get('shop:item:3')->>'name'") eq "promoted $turn";
    sleep 0.2;
}
is($of_old, 0, 'nothing of the old primary gets into Redis');
is($own, 10, 'which goes on reading its own tables');
is($of_none, 0, 'the new one goes on writing through');
is(epochs(), $epochs, 'the epoch is that of the new one');
is(SlateNode::counter($replica, 'emptied'), $emptied, 'which has not emptied anything again');
is($back->error, '', 'the old primary has no errors');
cmp_ok($back->query('SELECT count(*) FROM slate_cache.health WHERE NOT ok AND "check" = \'history\''), '==', 1,
    'its view health tells');
like($back->query("SELECT detail FROM slate_cache.health WHERE \"check\" = 'history'"), qr/timeline/, 'why');
SlateRedis::wait_until(sub { $back->query("SELECT detail FROM slate_cache.health WHERE \"check\" = 'journal'") =~ /kept while/ },
    'what it cannot tell waits in its journal');
like($back->query("SELECT detail FROM slate_cache.health WHERE \"check\" = 'journal'"),
    qr/^rows that wait for Redis: [1-9]\d*, kept while this server stands back/, 'and its journal, that it is kept');
is($back->query("SELECT kind, datname FROM slate_cache.events WHERE kind = 'standing back'"), 'standing back|postgres',
    'so does an event');
SlateRedis::wait_until(sub { $back->query('SELECT phase FROM slate_cache.progress') eq 'standing back' },
    'progress shows it');
pass('and progress');
is($new->query('SELECT count(*) FROM slate_cache.health WHERE NOT ok AND "check" = \'history\''), '0',
    'that of the new one finds all well');
$new->query("UPDATE item SET name = 'last' WHERE id > 1");
is(SlateHistory::wrong($replica, $redis), '', 'no key is wrong');
is(SlateHistory::wrong_gets($new), '', 'no answer either');

# Redis loses everything while both are there: it is the new one's again.
$redis->cli('FLUSHALL');
$back->query("UPDATE item SET name = 'split again' WHERE id > 1");
SlateHistory::set_again($replica, $redis, 'FLUSHALL');
SlateHistory::become_right($replica, $redis, 'FLUSHALL');
SlateRedis::wait_until(
    sub { $back->query("SELECT ok FROM slate_cache.health WHERE \"check\" = 'history'") eq 'f' },
    'the old primary stands back again');
$back->query("UPDATE item SET name = 'split, too' WHERE id > 1");
SlateHistory::set_again($replica, $redis, 'FLUSHALL, once more');
SlateHistory::become_right($replica, $redis, 'FLUSHALL, once more');

# The new one is given up, and the old one is kept: who empties the cache by
# hand means it.
$_->quit foreach $session, $new;
$replica->safe_psql('postgres', "UPDATE item SET name = 'given up'");
$replica->stop;
$back->query('SELECT slate_cache_flush()');
is($back->error, '', 'slate_cache_flush() on the old primary');
SlateHistory::become_right($old, $redis, 'given up');
SlateHistory::set_again($old, $redis, 'given up');
is(SlateHistory::wrong_gets($back), '', 'given up: gets are right');
is(SlateHistory::wrong($old, $redis), '', 'given up: what they have filled is right');

$back->quit;
SlateNode::unharmed($_) foreach $old, $replica;
done_testing();
