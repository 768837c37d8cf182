# Savepoints at random: nested, released and rolled back in every way, with changes of rows
# and of keys by hand between them.  After each transaction Redis has what the tables say: of rows
# their own, of keys by hand a table that is changed, and rolled back, alike.
#
#   SLATE_SEED=n        other transactions than the usual
#   SLATE_LONG=1        more of them
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

use constant ROWS => 40;

my $seed = $ENV{SLATE_SEED} // 1;
my $transactions = $ENV{SLATE_LONG} ? 2000 : 100;
note("SLATE_SEED=$seed");
srand($seed);

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);
$node->safe_psql('postgres', q{
    CREATE TABLE item (id int PRIMARY KEY, name text);
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}']);
    CREATE TABLE free (key text PRIMARY KEY, value jsonb);
    INSERT INTO free SELECT 'free:' || i % 3 || ':' || i FROM generate_series(1, 40) i});
my $session = SlateSession->new($node);

sub one_of { return $_[ rand @_ ] }
sub number { my ($from, $to) = @_; return $from + int rand($to - $from + 1) }

# Text of a size that a small slate_cache.max_pending does not take for long.
sub text { return one_of(qq{'@{[ number(1, 1e6) ]}'}, "repeat('x', @{[ number(1, 4000) ]})") }

# What a subtransaction of PL/pgSQL does, within another, and beside one that fails.
sub block
{
    my ($id, $other, $third) = map { number(1, ROWS) } 1 .. 3;
    return qq{DO \$\$BEGIN
        BEGIN UPDATE item SET name = @{[ text() ]} WHERE id = $id;
            BEGIN UPDATE item SET name = @{[ text() ]} WHERE id = $other; EXCEPTION WHEN division_by_zero THEN NULL; END;
            BEGIN UPDATE item SET name = 'never' WHERE id = $third; PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END;
        EXCEPTION WHEN division_by_zero THEN NULL; END; END\$\$};
}

sub change
{
    my $id = number(1, ROWS);
    my $key = "free:@{[ $id % 3 ]}:$id";
    my $text = text();
    return one_of(
        ("UPDATE item SET name = $text WHERE id = $id") x 4,
        "DELETE FROM item WHERE id = $id",
        ("INSERT INTO item VALUES ($id, $text) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name") x 2,
        "UPDATE item SET name = $text WHERE id BETWEEN $id AND $id + @{[ one_of(3, 25) ]}",
        ("SELECT slate_cache_set('$key', to_jsonb(${text}::text)); UPDATE free SET value = to_jsonb(${text}::text) WHERE key = '$key'") x 2,
        "SELECT slate_cache_del('$key'); UPDATE free SET value = NULL WHERE key = '$key'",
        "SELECT slate_cache_invalidate('free:@{[ $id % 3 ]}:*'); UPDATE free SET value = NULL WHERE key LIKE 'free:@{[ $id % 3 ]}:%'",
        block());
}

sub transaction
{
    my (@open, @statements);
    foreach my $step (1 .. number(3, 40))
    {
        my $what = rand;
        my $at = @open ? number($#open > 2 ? $#open - 2 : 0, $#open) : undef;
        if ($what < 0.25)
        {
            push @open, "s$step";
            push @statements, "SAVEPOINT s$step";
        }
        elsif ($what < 0.45 && @open)
        {
            push @statements, "RELEASE $open[$at]";
            splice @open, $at;
        }
        elsif ($what < 0.55 && @open)
        {
            push @statements, "ROLLBACK TO $open[$at]";
            splice @open, $at + 1;
        }
        else { push @statements, change() }
    }
    return join ";\n", 'BEGIN', @statements, one_of(('COMMIT') x 5, 'ROLLBACK');
}

# What Redis has that is not as it should be.  A key may be missing; one by hand that is there when
# its row has none is wrong.
sub wrong
{
    return $session->query(q{
        SELECT 'row ' || i FROM generate_series(1, 65) i LEFT JOIN item ON id = i, slate_cache_peek('shop:item:' || i) cached
        WHERE cached IS NOT NULL AND cached IS DISTINCT FROM to_jsonb(item)
        UNION ALL SELECT key FROM free, slate_cache_peek(key) cached
        WHERE cached IS NOT NULL AND cached IS DISTINCT FROM value});
}

foreach my $setting ([ mode => 'commit' ], [ mode => 'strict' ], [ max_pending => '64kB' ])
{
    my ($name, $value) = @$setting;
    my ($failed, $rows) = ('', 0);
    $session->query("SET slate_cache.$name = '$value'");
    foreach my $count (1 .. $transactions)
    {
        my $sql = transaction();
        $session->query($sql);
        my $found = $session->error || wrong();
        next if $found eq '';
        $failed = "transaction $count: $found\n$sql";
        last;
    }
    is($failed, '', "$name = $value: Redis has what the tables say, after each of $transactions transactions");
    $session->query("RESET slate_cache.$name");
    cmp_ok($session->query(q{SELECT count(*) FROM item, slate_cache_peek('shop:item:' || id) cached WHERE cached IS NOT NULL}), '>', 0,
        "$name = $value: and has it");
}

# A rendering that fails is a subtransaction that is rolled back, when all levels have become one.
# (At the COMMIT of a block a PostgreSQL with assertions does not bear that: it has one for
# subtransactions that are rolled back there which it has not for their beginning.)
$session->query(q{
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS
        $$BEGIN IF $1 = 'bad' THEN RAISE EXCEPTION 'no json'; END IF; RETURN to_json($1::text); END$$;
    CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);
    CREATE TABLE felt (id int PRIMARY KEY, mood mood, name text);
    SELECT slate_cache_attach('felt', row_keys => ARRAY['shop:felt:{id}']);
    INSERT INTO felt SELECT i, 'good', 'old' FROM generate_series(1, 9) i});
$session->query(q{DO $$BEGIN
    BEGIN
        UPDATE felt SET mood = 'bad', name = 'new' WHERE id = 1;
        UPDATE felt SET name = 'new' WHERE id = 2;
        BEGIN UPDATE felt SET name = 'new' WHERE id = 3; EXCEPTION WHEN division_by_zero THEN NULL; END;
    EXCEPTION WHEN division_by_zero THEN NULL; END; END$$});
like($session->error, qr/WARNING:  changed rows were dropped from the cache/, 'a row that cannot be rendered, after savepoints');
is($redis->cli('EXISTS', map { "shop:felt:$_" } 1 .. 9), '6', 'is dropped, with what was changed beside it');

SlateNode::unharmed($node);
done_testing();
