# A standby writes nothing, neither its sessions nor its processes: here it may
# not, and Redis has nothing to object.  So with an old primary that is rewound
# and follows the one that was promoted; promoted in its turn, it is right.
use strict;
use warnings;
use File::Copy qw(copy);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateHistory;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

# Whoever connects as "reader" is refused all that writes, and Redis notes it.
my $acl = PostgreSQL::Test::Utils::tempdir() . '/users.acl';
append_to_file($acl, "user default on nopass ~* &* +\@all\n"
      . "user reader on >secret ~* &* +\@all -\@write -eval -evalsha -function -flushall -config +config|get -debug\n");
my $redis = SlateRedis->new(port => 1, config => { aclfile => $acl });
my $reader = 'redis://reader:secret@127.0.0.1:' . $redis->port . '/0';

my $old = SlateNode->start('old', redis => $redis, init => [ allows_streaming => 1 ],
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
$old->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($old, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', "slate_cache.url = '$reader'");
$standby->start;
SlateNode::create_items($old, 50);
SlateHistory::set_again($old, $redis, 'at first');
$old->wait_for_catchup($standby, 'replay');

sub refused { return $redis->cli('ACL', 'LOG') =~ s/\s+/ /gr }

# All that stays; what the extension keeps for itself may expire.
sub contents
{
    return join "\n", map { "$_ " . unpack 'H*', $redis->cli('DUMP', $_) }
      grep { !/^slate_cache:/ } split /\n/, $redis->all_keys;
}

sub internals { return split /\n/, $redis->all_keys('slate_cache:*') }

# Whatever a standby is asked, and whatever it may see.
sub use_standby
{
    my ($node, $session, $what) = @_;
    $redis->cli('DEL', 'shop:item:3');
    $redis->cli('SET', 'shop:item:4', 'not JSON');
    $redis->cli('DEL', 'shop:item:5');
    $redis->cli('RPUSH', 'shop:item:5', 'a list');
    my ($before, %internals) = (contents(), map { ($_ => 1) } internals());

    is(SlateHistory::wrong_gets($session), '', "$what: gets are right");
    foreach my $query (
        "SELECT slate_cache_peek('shop:item:4')",
        "SELECT slate_cache_fetch('shop:count', 'SELECT count(*) FROM item')",
        'SELECT * FROM slate_cache.health',
        'SELECT * FROM slate_cache.journal',
        'SELECT * FROM slate_cache.stats',
        'SELECT * FROM slate_cache.rules')
    {
        $session->query($query);
        is($session->error, '', "$what: $query");
    }
    foreach my $call (
        "slate_cache_set('shop:free', '1')", "slate_cache_del('shop:item:1')",
        "slate_cache_invalidate('shop:*')", 'slate_cache_flush()', 'slate_cache_repair()')
    {
        $session->query("SELECT $call");
        like($session->error, qr/ERROR: .*(?:read-only|recovery)/, "$what: $call is refused");
    }

    # Time for its processes to do what they should not.
    $session->query('SELECT pg_sleep(2)');
    is(contents(), $before, "$what: what is in Redis is the same");
    is(join(' ', grep { !$internals{$_} } internals()), '', "$what: nothing is noted there");
    is(refused(), '', "$what: nothing was tried");
    return;
}

# The test can fail.
$redis->cli('-u', $reader, 'SET', 'shop:free', '1');
like(refused(), qr/ set /, 'Redis notes what is tried');
$redis->cli('ACL', 'LOG', 'RESET');

# With the primary away, whatever is written would be the standby's.
$old->stop;
my $session = SlateSession->new($standby);
use_standby($standby, $session, 'standby');
$redis->cli('FLUSHALL');
use_standby($standby, $session, 'an empty Redis');
$redis->restart;
use_standby($standby, $session, 'another Redis');
$session->quit;
$standby->restart;
$session = SlateSession->new($standby);
use_standby($standby, $session, 'restarted');

# The primary goes on alone, and is lost.
$standby->append_conf('postgresql.conf', "primary_conninfo = ''\nslate_cache.url = '" . $redis->url . "'");
$standby->reload;
$old->start;
SlateHistory::set_again($old, $redis, 'the old primary');
is($old->safe_psql('postgres', "SELECT count(slate_cache_get('shop:item:' || id)) FROM item"), '50', 'all is cached');
$old->safe_psql('postgres', "UPDATE item SET name = 'ahead' WHERE id BETWEEN 2 AND 30;
    INSERT INTO item VALUES (51, 'ahead')");
is($redis->field('shop:item:2', 'name'), 'ahead', 'Redis has what the standby will never have');
$old->stop('immediate');
$standby->promote;
my $promoted = $standby;
SlateHistory::become_right($promoted, $redis, 'promoted');
SlateHistory::set_again($promoted, $redis, 'promoted');
$promoted->safe_psql('postgres', "UPDATE item SET name = 'promoted' WHERE id BETWEEN 20 AND 40; CHECKPOINT");

# It is rewound, which runs a server in single-user mode first, and follows.
my $conf = $old->data_dir . '/postgresql.conf';
my $saved = PostgreSQL::Test::Utils::tempdir() . '/postgresql.conf';
copy($conf, $saved) or die "copy: $!";
command_ok(
    [   'pg_rewind', '--source-server', $promoted->connstr('postgres'),
        '--target-pgdata', $old->data_dir, '--no-sync' ],
    'pg_rewind');
copy($saved, $conf) or die "copy: $!";
$old->append_conf('postgresql.conf', "slate_cache.url = '$reader'\nprimary_conninfo = '" . $promoted->connstr . "'");
$old->set_standby_mode;
$old->start;
$promoted->wait_for_catchup($old, 'replay');
$session->quit;
$session = SlateSession->new($old);
is($session->query('SELECT pg_is_in_recovery()'), 't', 'the rewound server is a standby');
is($session->query("SELECT slate_cache_get('shop:item:21')->>'name'"), 'promoted', 'it answers hits');
is(SlateHistory::wrong_gets($session), '', 'what it answers is right');
$promoted->safe_psql('postgres', "UPDATE item SET name = 'promoted, too' WHERE id = 22; DELETE FROM item WHERE id = 23");
$promoted->wait_for_catchup($old, 'replay');
is(SlateHistory::wrong_gets($session), '', 'after changes, too');
is(SlateHistory::wrong($promoted, $redis), '', 'no key is wrong');
is(refused(), '', 'it has not tried to write');
$promoted->stop;
use_standby($old, $session, 'rewound');

# Back again.
$old->append_conf('postgresql.conf', "slate_cache.url = '" . $redis->url . "'");
$old->reload;
$old->promote;
is(SlateHistory::wrong_gets($session), '', 'promoted in its turn: gets are right at once');
SlateHistory::become_right($old, $redis, 'promoted in its turn');
SlateHistory::set_again($old, $redis, 'promoted in its turn');
is(SlateHistory::wrong_gets($session), '', 'promoted in its turn: gets are right');
is(SlateHistory::wrong($old, $redis), '', 'promoted in its turn: what was filled is right');

$session->quit;
SlateNode::unharmed($_) foreach $old, $standby;
done_testing();
