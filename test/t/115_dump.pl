# pg_dump and restore of a database with attached tables: the rules survive, in
# every property, and work.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis,
    conf => { 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000 });
$node->safe_psql('postgres', q{
    CREATE ROLE shopkeeper;
    CREATE SCHEMA "odd name";
    CREATE TABLE "odd name"."it's" (id int PRIMARY KEY, "co l" text, body text);
    ALTER TABLE "odd name"."it's" OWNER TO shopkeeper;
    SELECT slate_cache_attach('"odd name"."it''s"',
        row_keys => ARRAY['shop:it:{id}', 'shop:body:{id} -> body'],
        list_keys => ARRAY['shop:its:{co l}'],
        drop_keys => ARRAY['shop:search\:"''$$:{co l}:*'],
        delete_drop_keys => ARRAY['shop:gone:{id}'],
        ttl => '1 hour', list_ttl => '90 s');
    INSERT INTO "odd name"."it's" VALUES (1, 'x', 'first');
    CREATE TABLE projects (id int PRIMARY KEY, user_id int, name text);
    SELECT slate_cache_attach_defaults();
    INSERT INTO projects VALUES (1, 7, 'Apollo')});
my $rules = q{SELECT rel::text, kind, template, value_column, ttl, ordered, enabled
    FROM slate_cache.rules ORDER BY 1, 2, 3};
my $triggers = q{SELECT tgrelid::regclass, tgname, tgenabled, tgtype, encode(tgargs, 'hex')
    FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2};
my $expected = $node->safe_psql('postgres', $rules);
my $expected_triggers = $node->safe_psql('postgres', $triggers);
like($expected, qr/shop:its/, 'there are rules');
like($expected_triggers, qr/\|A\|/, 'and triggers that fire always');

my %ways = (
    plain => [ [], 'psql' ],
    custom => [ ['-Fc'], 'pg_restore' ],
    inserts => [ [ '--inserts', '--clean', '--if-exists' ], 'psql' ]);
my $number = 0;
foreach my $way (sort keys %ways)
{
    my ($options, $program) = @{ $ways{$way} };
    my $file = $node->basedir . "/$way.dump";
    $node->command_ok([ 'pg_dump', @$options, '-f', $file, 'postgres' ], "$way: pg_dump");

    # Another database of the server has a cache of its own.
    my $url = $redis->url(db => ++$number);
    $node->safe_psql('postgres', "CREATE DATABASE $way; ALTER DATABASE $way SET slate_cache.url = '$url'");
    $node->command_ok(
        $program eq 'psql' ? [ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $way, '-f', $file ]
        : [ 'pg_restore', '-e', '-d', $way, $file ],
        "$way: restore");
    is($node->safe_psql($way, $rules), $expected, "$way: the rules are the same");
    is($node->safe_psql($way, $triggers), $expected_triggers, "$way: the triggers are the same");
    $node->safe_psql($way, q{UPDATE "odd name"."it's" SET body = 'second';
        UPDATE projects SET name = 'Gemini'});
    like($redis->cli('-n', $number, 'GET', 'shop:it:1'), qr/second/, "$way: the rules work");
    is($redis->cli('-n', $number, 'GET', 'shop:body:1'), '"second"', "$way: for a column too");
    like($redis->cli('-n', $number, 'GET', 'slate:project:1'), qr/Gemini/, "$way: and the defaults");
    is($node->safe_psql($way, "SELECT slate_cache_get('shop:its:x')->0->>'body'"), 'second', "$way: and lists");
    $node->safe_psql($way, q{SELECT slate_cache_detach('projects')});
    is($node->safe_psql($way, q{SELECT count(*) FROM slate_cache.rules WHERE rel = 'projects'::regclass}),
        '0', "$way: detach works");
}
is($node->safe_psql('postgres', $rules), $expected, 'the dumped database is as it was');
like($redis->cli('GET', 'shop:it:1'), qr/first/, 'and so is its cache');
SlateNode::unharmed($node);
done_testing();
