# The background workers: one a database that has the extension, without a
# restart.  They come and go with it, and with the database, and hinder nothing.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep time);

# Whoever waits for a Redis that hangs waits for a minute.
my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, extension => 0,
    conf => { 'slate_cache.timeout' => 60000, 'slate_cache.connect_timeout' => 60000,
        'max_worker_processes' => 20, 'allow_in_place_tablespaces' => 'on' });

# Who hinders something makes it fail after five seconds.
my $soon = 4;

# The worker's database, or what pg_stat_activity says of it.
sub worker
{
    my ($database, $what) = @_;
    return $node->safe_psql('postgres', 'SELECT ' . ($what // 'pid') . qq{ FROM pg_stat_activity
        WHERE backend_type = 'slate_cache worker' AND datname = '$database'});
}

sub workers
{
    return $node->safe_psql('postgres', q{SELECT string_agg(coalesce(datname, 'none'), ' ' ORDER BY datname)
        FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'});
}

sub workers_become
{
    my ($expected, $what) = @_;
    my $end = time + 60;
    until (workers() eq $expected || time > $end) { sleep 0.02; }
    return is(workers(), $expected, $what);
}

sub ok_and_soon
{
    my ($sql, $what) = @_;
    my $started = time;
    my ($status, undef, $error) = $node->psql('postgres', $sql);
    is($error, '', "$what: no error");
    cmp_ok(time - $started, '<', $soon, "$what: at once");
    return;
}

# A change that Redis refuses is in doubt; with its right back, Redis hears of
# it from the worker.
my $refusals = 0;

sub refuse { return $redis->cli('ACL', 'SETUSER', 'default', '-evalsha') }

sub allow { return $redis->cli('ACL', 'SETUSER', 'default', '+@all') }

sub lose_push
{
    my ($database, $id) = @_;
    SlateNode::wait_until_trusted($node, $database);
    $node->safe_psql($database, "SELECT slate_cache_get('$database:item:$id')");
    refuse();
    $node->safe_psql($database, "UPDATE item SET name = 'refused " . ++$refusals . "' WHERE id = $id");
    is($redis->field("$database:item:$id", 'name'), 'old', "$database: a change does not reach Redis");
    return;
}

sub arrives
{
    my ($database, $id, $what) = @_;
    SlateRedis::wait_until(sub { $redis->cli('EXISTS', "$database:item:$id") eq '0' },
        "$what: the key of $database has gone");
    return pass("$what: what had not reached Redis does");
}

# Databases have keys of their own.
sub create_items
{
    my ($database) = @_;
    SlateNode::wait_until_trusted($node, $database);
    SlateNode::create_items($node, 9, $database, $database);
    return;
}

# With the extension.
is(workers(), '', 'without the extension there is no worker');
is( $node->safe_psql('postgres', q{SELECT count(*), bool_and(datid IS NULL) FROM pg_stat_activity
        WHERE backend_type = 'slate_cache launcher'}),
    '1|t', 'there is a launcher, in no database');
my $log = SlateNode::log_size($node);
$node->safe_psql('postgres', 'CREATE EXTENSION slate_cache');
workers_become('postgres', 'CREATE EXTENSION brings one, without a restart');
isnt(worker('postgres', 'query'), '', 'which tells what it does');
SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('preload', 'launcher', 'worker')});
pass('health finds all well');
create_items('postgres');
lose_push('postgres', 1);
allow();
arrives('postgres', 1, 'the new worker');

$node->safe_psql('postgres', 'DROP TABLE item');
ok_and_soon('DROP EXTENSION slate_cache', 'DROP EXTENSION');
workers_become('', 'and the worker leaves');
$node->safe_psql('postgres', 'BEGIN; CREATE EXTENSION slate_cache; ROLLBACK');
workers_become('', 'one that is rolled back brings none that stays');
$node->safe_psql('postgres', 'CREATE EXTENSION slate_cache');
workers_become('postgres', 'CREATE EXTENSION again');
foreach my $nth (1 .. 3)
{
    $node->safe_psql('postgres', $_) foreach 'DROP EXTENSION slate_cache', 'CREATE EXTENSION slate_cache', 'SELECT slate_cache_repair()';
    is($node->safe_psql('postgres', q{SELECT string_agg("check" || ': ' || detail, '; ') FROM slate_cache.health
        WHERE NOT ok AND "check" IN ('worker', 'history')}), '', "slate_cache_repair() waits until it is there, and knows Redis ($nth)");
}
$node->safe_psql('postgres', 'BEGIN; DROP EXTENSION slate_cache; ROLLBACK');
workers_become('postgres', 'DROP EXTENSION rolled back: the worker is there');
create_items('postgres');
lose_push('postgres', 1);
allow();
arrives('postgres', 1, 'and works');

# In several databases.
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(one two);
$node->safe_psql($_, 'CREATE EXTENSION slate_cache') foreach qw(one two);
create_items($_) foreach qw(one two);
workers_become('one postgres two', 'each database has one');
foreach my $database (qw(postgres one two))
{
    lose_push($database, 2);
    allow();
    arrives($database, 2, $database);
}
lose_push('one', 9);
is($node->safe_psql('one', 'SELECT keys FROM slate_cache.journal'), '{one:item:9}', 'and a journal of its own');
is($node->safe_psql('two', 'SELECT count(*) FROM slate_cache.journal'), '0', 'that others do not see');
allow();
arrives('one', 9, 'one');

# Databases come, move and go.
foreach my $strategy (qw(wal_log file_copy))
{
    ok_and_soon("CREATE DATABASE copy TEMPLATE one STRATEGY $strategy", "CREATE DATABASE TEMPLATE, $strategy");
    workers_become('copy one postgres two', 'both have a worker then');
    ok_and_soon('DROP DATABASE copy', 'DROP DATABASE');
    workers_become('one postgres two', 'its worker leaves');
}
$node->psql('postgres', 'CREATE DATABASE two TEMPLATE one');
workers_become('one postgres two', 'CREATE DATABASE that fails leaves the worker where it was');
lose_push('one', 3);
allow();
arrives('one', 3, 'after having been a template');

ok_and_soon('ALTER DATABASE two RENAME TO three', 'ALTER DATABASE RENAME');
workers_become('one postgres three', 'the worker is there under the new name');
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION ''");
ok_and_soon('ALTER DATABASE three SET TABLESPACE elsewhere', 'ALTER DATABASE SET TABLESPACE');
workers_become('one postgres three', 'and it comes back');
SlateNode::wait_until_trusted($node, 'three');
$node->safe_psql('three', "SELECT slate_cache_get('two:item:3')");
refuse();
$node->safe_psql('three', "UPDATE item SET name = 'moved' WHERE id = 3");
is($redis->field('two:item:3', 'name'), 'old', 'a change after the move does not reach Redis');
allow();
SlateRedis::wait_until(sub { $redis->cli('EXISTS', 'two:item:3') eq '0' }, 'the key has gone');
pass('and then it does');
# A database that takes no connections for a while is none that has gone.
lose_push('one', 4);
$node->safe_psql('postgres', 'ALTER DATABASE one ALLOW_CONNECTIONS false');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'one'});
workers_become('postgres three', 'its worker has been ended');
$node->safe_psql('postgres', 'CREATE DATABASE beside');
$node->safe_psql('beside', 'CREATE EXTENSION slate_cache');
workers_become('beside postgres three', 'the launcher has looked at all databases since, and sent none there');
ok_and_soon('DROP DATABASE beside', 'DROP DATABASE beside it');
$node->safe_psql('postgres', 'ALTER DATABASE one ALLOW_CONNECTIONS true');
is($node->safe_psql('one', 'SELECT keys FROM slate_cache.journal'), '{one:item:4}', 'what was in doubt there still is');
workers_become('one postgres three', 'it has a worker again');
allow();
arrives('one', 4, 'and Redis hears of it');

ok_and_soon('DROP DATABASE three WITH (FORCE)', 'DROP DATABASE WITH (FORCE)');
workers_become('one postgres', 'its worker leaves');

is($node->safe_psql('postgres', 'SELECT pushes_lost FROM slate_cache.stats'), '0', 'nothing has counted as lost');
SlateNode::unharmed($node);
done_testing();
