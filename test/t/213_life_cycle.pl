# What administrators do to a database that has the extension: drop and create it, in one
# transaction, too, and while Redis is away; set defaults for all transactions; alter tables where
# event triggers do not fire; replace triggers by hand.
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
my $node = SlateNode->start('main', redis => $redis, conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
SlateNode::create_items($node, 10);
my $session = SlateSession->new($node);

sub worker { return $session->query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache worker'}) }
sub is_there { return $redis->cli('EXISTS', map { "shop:item:$_" } 1 .. 10) }

# Who is there may be about to go: nobody asks for another but CREATE EXTENSION.
SlateRedis::wait_until(sub { worker() ne '' }, 'there is a worker');
foreach my $how ('one transaction', 'two')
{
    my $before = worker();
    $session->query('BEGIN; DROP EXTENSION slate_cache; ' . ($how eq 'two' ? 'COMMIT; BEGIN; ' : '') . q{CREATE EXTENSION slate_cache;
        SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}']); COMMIT});
    is($session->error, '', "the extension is dropped and created again in $how");
    SlateRedis::wait_until(sub { my $now = worker(); $now ne '' && $now ne $before }, "$how: another worker comes, though nobody asks");
    SlateJournal::wait_until_told($node);
    $session->query("UPDATE item SET name = '$how' WHERE id = 1");
    SlateRedis::wait_until(sub { $session->query(q{UPDATE item SET name = name || '.' WHERE id = 1}); $redis->field('shop:item:1', 'name') =~ /^$how/ },
        "$how: changes arrive");
}

# Defaults of transactions are for others: ours would wait for the end of all that were there before.
my $open = SlateSession->new($node);
$open->query('BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM item; CREATE TABLE other (id int)');
$ENV{PGOPTIONS} = '-c default_transaction_isolation=read\ committed -c default_transaction_read_only=off -c default_transaction_deferrable=off';
SlateNode::set($node, default_transaction_isolation => 'serializable', default_transaction_read_only => 'on', default_transaction_deferrable => 'on');
$session = SlateSession->new($node);
$redis->cli('ACL', 'SETUSER', 'default', '-evalsha');
$session->query("UPDATE item SET name = 'refused' WHERE id = 2");
is($session->error, '', 'a change is not told');
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
SlateRedis::wait_until(sub { $session->query('SELECT count(*) FROM slate_cache.journal') eq '0' }, 'the worker replays it');
is($redis->field('shop:item:2', 'name') // '', '', 'beside a transaction that it would have to wait for by the defaults');
$open->query('ROLLBACK');
SlateNode::set($node, default_transaction_isolation => 'read committed', default_transaction_read_only => 'off', default_transaction_deferrable => 'off');

# A trigger that is replaced by hand, and one that comes with its schema.
$session->query(q{UPDATE item SET name = 'mine'});
is(is_there(), 10, 'rows are in Redis');
my $trigger = 'AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION %s';
$session->query(q{CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$; CREATE OR REPLACE TRIGGER nothing }
    . sprintf($trigger, 'item', 'nothing()'));
is(is_there(), 10, 'a trigger of somebody else may come');
$session->query('CREATE OR REPLACE TRIGGER slate_cache_row ' . sprintf($trigger, 'item', q{slate_cache.capture('row', 'shop:new:{id}')}));
is($session->error, '', 'our trigger is replaced');
SlateJournal::wait_until_told($node);
is(is_there(), 0, 'what the former rule has set is gone');
$redis->cli('SET', 'shop:cs:1', '"old"');
$session->query('CREATE SCHEMA cs CREATE TABLE t (id int PRIMARY KEY, name text) CREATE TRIGGER slate_cache_row '
    . sprintf($trigger, 't', q{slate_cache.capture('row', 'shop:cs:{id}')}));
is($session->error, '', 'a schema is created with a table that has rules');
SlateRedis::wait_until(sub { $redis->cli('EXISTS', 'shop:cs:1') eq '0' }, 'what was there under their keys is gone');
$session->query(q{DROP SCHEMA cs CASCADE; SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'])});

# Where event triggers do not fire: in single-user mode, and where they are switched off.
$session->query(q{CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TYPE place AS (x int);
    ALTER TABLE item ADD COLUMN mood mood DEFAULT 'good', ADD COLUMN place place DEFAULT ROW(1)});
my @altered = ("ALTER TABLE item ALTER COLUMN name TYPE text USING name || ' changed'", 'ALTER TABLE item ADD COLUMN extra int DEFAULT 7',
    'ALTER TABLE item RENAME COLUMN extra TO more', 'ALTER TABLE item DROP COLUMN more',
    "ALTER TYPE mood RENAME VALUE 'good' TO 'fine'", 'ALTER TYPE place ADD ATTRIBUTE y int');
foreach my $statement (@altered)
{
    SlateJournal::wait_until_told($node);
    SlateJournal::rotate($node);
    $session->query("SELECT slate_cache_mget(array_agg('shop:item:' || id)) FROM item");
    is(is_there(), 10, "rows are there before: $statement");
    $node->stop;
    my ($out, $err) = ('', '');
    IPC::Run::run([ 'postgres', '--single', '-j', '-D', $node->data_dir, 'postgres' ], '<', \"$statement;\n\n", '>', \$out, '2>', \$err)
      or die "single-user mode: $err";
    $node->start;
    $session = SlateSession->new($node);
    SlateRedis::wait_until(sub { is_there() eq '0' }, "none is there after it, in single-user mode: $statement");
    my $row = $session->query('SELECT to_jsonb(item) FROM item WHERE id = 3');
    is($session->query(q{SELECT slate_cache_get('shop:item:3')}), $row, 'and a reader has what the table has');
}
SKIP:
{
    skip 'event triggers cannot be switched off before 17', 1 if $node->pg_version < 17;
    $session->query("SELECT slate_cache_mget(array_agg('shop:item:' || id)) FROM item");
    $session->query('SET event_triggers = off; ALTER TABLE item ADD COLUMN extra int DEFAULT 8; RESET event_triggers');
    SlateRedis::wait_until(sub { is_there() eq '0' }, 'none is there after an ALTER TABLE without event triggers');
    pass('event triggers off: an ALTER TABLE is noticed');
}

# What nobody will tell Redis.  (Keys that are gone are no sign that a replay after the last start is
# over.)
$session->query("UPDATE item SET name = 'kept'");
$session->query('SELECT slate_cache_repair()');
is($session->error, '', 'all is told');
$session->query('BEGIN; DROP EXTENSION slate_cache; ROLLBACK');
is($session->error, '', 'the extension may be dropped while all is told');
$redis->cli('ACL', 'SETUSER', 'default', '-evalsha', '-multi');
$session->query("UPDATE item SET name = 'untold' WHERE id = 1");
$session->query('BEGIN; DROP EXTENSION slate_cache; ROLLBACK');
like($session->error, qr/WARNING:  Redis has not heard of all changes.*HINT:.*slate_cache_repair/s, 'a WARNING tells that something is not');
$redis->cli('ACL', 'SETUSER', 'default', '+@all');
SlateJournal::wait_until_told($node);
$session->query("BEGIN; SELECT slate_cache_set('free:1', '1'); PREPARE TRANSACTION 'p'");
$session->query('BEGIN; DROP EXTENSION slate_cache; ROLLBACK');
like($session->error, qr/WARNING:  Redis has not heard of all changes/, 'or is prepared');
$session->query("COMMIT PREPARED 'p'");
SlateJournal::wait_until_told($node);

# Before a worker's first look there may be nothing to be told.
my $launcher = $session->query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'slate_cache launcher'});
END { kill 'CONT', $launcher if $launcher }
kill 'STOP', $launcher;
$node->safe_psql('postgres', 'CREATE DATABASE fresh');
my $fresh = SlateSession->new($node, database => 'fresh');
$fresh->query('CREATE EXTENSION slate_cache');
$fresh->query('DROP EXTENSION slate_cache');
is($fresh->error, '', 'who drops an extension that nobody has used is not warned');
$fresh->query(q{CREATE EXTENSION slate_cache; SELECT slate_cache_set('free:2', '1')});
$fresh->query('DROP EXTENSION slate_cache');
like($fresh->error, qr/WARNING:  Redis has not heard of all changes/, 'but if he has');
kill 'CONT', $launcher;

$fresh->query('CREATE SCHEMA ext; CREATE EXTENSION slate_cache SCHEMA ext');
$redis->stop;
$session->query('BEGIN; DROP EXTENSION slate_cache; ROLLBACK');
like($session->error, qr/WARNING:  Redis cannot be told.*DETAIL:.*HINT:.*when Redis is there/s, 'or that Redis is away');
is(() = $session->error =~ /WARNING/g, 1, 'once');
$fresh->query('BEGIN; DROP SCHEMA ext CASCADE; ROLLBACK');
like($fresh->error, qr/WARNING:  Redis cannot be told/, 'also where it goes with its schema');
$session->query('CREATE ROLE plain LOGIN');
my $plain = SlateSession->new($node, user => 'plain');
$plain->query('DROP EXTENSION slate_cache');
like($plain->error, qr/ERROR:  must be owner of extension slate_cache/, 'who may not drop it is refused');
unlike($plain->error, qr/WARNING/, 'and told nothing of Redis');

SlateNode::unharmed($node);
done_testing();
