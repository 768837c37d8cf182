# Rules so long that pg_trigger has them out of line: at a commit nobody may have a snapshot
# to fetch them with.  What keeps one there by chance goes when others change catalogs.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);
SlateNode::wait_until_trusted($node);
$node->safe_psql('postgres', q{
    CREATE TABLE long (id int PRIMARY KEY, k int, v text);
    SELECT slate_cache_attach('long', row_keys => ARRAY['shop:long:{id}'], drop_keys =>
        (SELECT array_agg('shop:' || words || ':{k}:*') FROM
            (SELECT string_agg(md5(g || '/' || i), '' ORDER BY i) AS words
             FROM generate_series(1, 20) g, generate_series(1, 20) i GROUP BY g) s));
    CREATE TABLE short (id int PRIMARY KEY, v text);
    SELECT slate_cache_attach('short', row_keys => ARRAY['shop:short:{id}'], drop_keys => ARRAY['shop:shorts:{id}:*'])});
is($node->safe_psql('postgres', q{SELECT max(pg_column_size(tgargs)) > 8000 FROM pg_trigger}), 't', 'a trigger has long arguments');
is($node->safe_psql('postgres', q{SELECT sum(pg_relation_size(reltoastrelid)) > 0 FROM pg_class WHERE oid = 'pg_trigger'::regclass}),
    't', 'out of line');

# Each in a session that has not read any rules.
my $n = 0;
foreach my $mode (qw(async commit strict))
{
    foreach my $table (qw(long short))
    {
        my $session = SlateSession->new($node);
        $session->query("SET slate_cache.mode = $mode; INSERT INTO $table (id, v) VALUES (" . ++$n . ", '$mode')");
        is($session->error, '', "$mode: a row of $table");
        SlateRedis::wait_until(sub { ($redis->field("shop:$table:$n", 'v') // '') eq $mode }, 'is there');
    }
}

# Beside DDL.
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/ddl.sql", "CREATE TABLE passing (a int);\nDROP TABLE passing;\n");
append_to_file("$dir/update.sql", "UPDATE long SET v = 'x' || pg_backend_pid() WHERE id = 1;\nUPDATE short SET v = 'x' || pg_backend_pid() WHERE id = 2;\n");
my @pgbench = ('pgbench', '-n', '-h', $node->host, '-p', $node->port, '-d', 'postgres');
my $ddl = IPC::Run::start([ @pgbench, '-f', "$dir/ddl.sql", '-T', 600 ], '>', \my $out, '2>', \my $err);
my ($stdout, $stderr) = run_command([ @pgbench, '-C', '-f', "$dir/update.sql", '-t', 200 ]);
$ddl->kill_kill;
like($stdout, qr{number of transactions actually processed: 200/200}, 'beside DDL all commits succeed');
unlike($stderr, qr/ERROR/, 'without an error');
foreach my $row ([ 'long', 1 ], [ 'short', 2 ])
{
    my ($table, $id) = @$row;
    is($redis->field("shop:$table:$id", 'v'), $node->safe_psql('postgres', "SELECT v FROM $table WHERE id = $id"), "$table: the last one is there");
}

# What takes the rules away needs them, too.
$node->safe_psql('postgres', q{SELECT slate_cache_detach('long'); DROP TABLE short});
is($redis->all_keys('shop:*'), '', 'detached, dropped: nothing is left');
SlateNode::unharmed($node);
done_testing();
