# Others in the same server: a library that changes rows when a transaction
# commits, a role that asks for a database which is not its own, and readers of
# what a table has left in Redis.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

# Its callback runs when the transaction is about to commit: before ours if it
# is loaded after slate_cache, after ours if it comes first.
sub build_late
{
    my $dir = PostgreSQL::Test::Utils::tempdir;
    append_to_file("$dir/late.c", <<'C');
#include "postgres.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;
void _PG_init(void);

static char *late_command;

static void
on_transaction(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT || late_command[0] == '\0')
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	SPI_execute(late_command, false, 0);
	SPI_finish();
	PopActiveSnapshot();
}

void
_PG_init(void)
{
	DefineCustomStringVariable("late.command", "run before each commit", NULL,
							   &late_command, "", PGC_USERSET, 0, NULL, NULL,
							   NULL);
	RegisterXactCallback(on_transaction, NULL);
}
C
    my ($include) = run_command([ $ENV{PG_CONFIG} // 'pg_config', '--includedir-server' ]);
    system_or_bail('gcc', '-shared', '-fPIC', "-I$include", '-o', "$dir/late.so", "$dir/late.c");
    return "$dir/late";
}

my $late = build_late();
my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 10000, 'slate_cache.connect_timeout' => 10000 });
$node->safe_psql('postgres', q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE other (id int);
    SELECT slate_cache_attach('t', row_keys => ARRAY['shop:t:{id}']);
    INSERT INTO t VALUES (1, 'one')});

sub with_late
{
    my ($late_command, $statement) = @_;
    return "BEGIN; SET LOCAL late.command = \$\$$late_command\$\$; $statement; COMMIT";
}

my $change = q{UPDATE public.t SET v = v || '!'};

# Loaded after slate_cache: its change is a change like any other.
SlateNode::set($node, shared_preload_libraries => "slate_cache, $late");
$node->restart;
SlateNode::wait_until_trusted($node);
my $session = SlateSession->new($node);
is($session->query(with_late($change, 'INSERT INTO other VALUES (1)')), '', 'a transaction that changes nothing of ours commits');
is($redis->cli('GET', 'shop:t:1'), '{"id":1,"v":"one!"}', 'and what the library changes is pushed');
is($session->query(with_late($change, q{UPDATE t SET v = 'two'})), '', 'and so with one that does');
is($redis->cli('GET', 'shop:t:1'), '{"id":1,"v":"two!"}', 'both are pushed');

# Loaded before it: nobody could tell Redis of that any more, so it fails.
SlateNode::set($node, shared_preload_libraries => "$late, slate_cache");
$node->restart;
SlateNode::wait_until_trusted($node);
$session = SlateSession->new($node);
is($session->query(q{UPDATE t SET v = 'three'}), '', 'the library does nothing');
is($redis->cli('GET', 'shop:t:1'), '{"id":1,"v":"three"}', 'and the row is pushed');
foreach my $statement ('INSERT INTO other VALUES (1)', q{UPDATE t SET v = 'four'})
{
    $session->query(with_late($change, $statement));
    like($session->error, qr/cannot change cached data while the transaction is being committed/, "$statement: a change that comes too late is refused");
    like($session->error, qr/must come after slate_cache in shared_preload_libraries/, 'and what to do is told');
}
is($session->query(with_late('SELECT 1', 'SELECT v FROM t')), 'three', 'what does not change anything of ours may come');
is($redis->cli('GET', 'shop:t:1'), '{"id":1,"v":"three"}', 'Redis has what the table has');

# Who may not have a database alone does not send its worker away.
$node->safe_psql('postgres', 'CREATE ROLE nobody_in_particular LOGIN; CREATE ROLE maker LOGIN CREATEDB');
my $worker = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache worker' AND datname = 'postgres'};
SlateNode::wait_for($node, "SELECT count(*) FROM ($worker) w", '1');
my $pid = $node->safe_psql('postgres', $worker);
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
my $stranger = SlateSession->new($node, database => 'template1');
foreach my $case (
    [ nobody_in_particular => 'ALTER DATABASE postgres RENAME TO foo', qr/must be owner/ ],
    [ nobody_in_particular => 'ALTER DATABASE postgres SET TABLESPACE pg_default', qr/must be owner/ ],
    [ nobody_in_particular => 'DROP DATABASE postgres', qr/must be owner/ ],
    [ nobody_in_particular => 'CREATE DATABASE foo TEMPLATE postgres', qr/permission denied to create database/ ],
    [ maker => 'CREATE DATABASE foo TEMPLATE postgres', qr/permission denied to copy database/ ])
{
    my ($role, $command, $error) = @$case;
    $stranger->query("SET SESSION AUTHORIZATION $role");
    $stranger->query($command);
    like($stranger->error, $error, "$role: $command");
    $stranger->query('RESET SESSION AUTHORIZATION');
}
$node->safe_psql('postgres', 'SELECT slate_cache_repair()');
is($node->safe_psql('postgres', $worker), $pid, 'the worker is still the same');
is($node->safe_psql('postgres', q{SELECT count(*) FROM slate_cache.events WHERE kind = 'worker ended' AND datname = 'postgres'}),
    '0', 'and has not been sent away');

# Where the extension is not, what is called as its function is none of ours.
$node->safe_psql('postgres', 'CREATE DATABASE elsewhere OWNER maker TEMPLATE template0');
my $maker = SlateSession->new($node, database => 'elsewhere');
$maker->query(q{SET SESSION AUTHORIZATION maker; CREATE SCHEMA slate_cache;
    CREATE FUNCTION slate_cache.capture() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TABLE mine (id int);
    CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION slate_cache.capture('row', 'shop:t:{id}');
    INSERT INTO mine VALUES (1);
    TRUNCATE mine});
is($maker->error, '', 'a function of the same name elsewhere');
is($node->safe_psql('postgres', q{SELECT pushes_lost FROM slate_cache.stats}), '0', 'pushes nothing');
is($node->safe_psql('postgres', q{SELECT count(*) FROM slate_cache.progress WHERE datname = 'elsewhere'}), '0', 'and wants no worker');
$maker->quit;

# Who may not read a table does not read what the cache has of it when its rules
# are gone, and no rule says so any more: mode async does not leave that to the
# worker.
$session->query(q{SET slate_cache.mode = 'async'; UPDATE t SET v = 'by the worker'});
SlateRedis::wait_until(sub { $redis->cli('GET', 'shop:t:1') eq '{"id":1,"v":"by the worker"}' }, 'the worker has it');
SlateNode::stop_worker($node);
is($session->query(q{UPDATE t SET v = 'not yet'}), '', 'a change that is left to the worker');
is($redis->cli('GET', 'shop:t:1'), '{"id":1,"v":"by the worker"}', 'waits for it');
foreach my $command (q{SELECT FROM slate_cache_detach('t')},
    q{SELECT FROM slate_cache_attach('t', row_keys => ARRAY['shop:other:{id}'])}, 'DROP TABLE t')
{
    $session->query(q{SET slate_cache.mode = 'commit'; DELETE FROM t;
        SELECT FROM slate_cache_attach('t', row_keys => ARRAY['shop:t:{id}']); INSERT INTO t VALUES (1, 'secret')});
    is($redis->cli('EXISTS', 'shop:t:1'), '1', "before $command");
    is($session->query("SET slate_cache.mode = 'async'; $command"), '', $command);
    is($redis->cli('EXISTS', 'shop:t:1'), '0', 'it has gone when COMMIT returns');
}
SlateNode::continue_worker();

SlateNode::unharmed($node);
done_testing();
