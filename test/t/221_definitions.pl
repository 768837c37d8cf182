# Definitions at random: tables whose columns, types, partitions, names and rules change between, and
# within, the transactions that change their rows, in several sessions and in all modes.  After each
# transaction Redis has nothing but what the tables and the rules of that moment say.
#
#   SLATE_SEED=n        other transactions than the usual
#   SLATE_LONG=1        more of them
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateCheck;
use SlateClient;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

use constant ROWS => 12;

my $seed = $ENV{SLATE_SEED} // 1;
my $transactions = $ENV{SLATE_LONG} ? 5000 : 250;
note("SLATE_SEED=$seed");
srand($seed);

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);
my $client = SlateClient->new($redis);
my $json = JSON::PP->new->utf8(0)->canonical;

my $oracle = SlateSession->new($node);
$oracle->query(<<'SQL');
    CREATE SCHEMA other;
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TYPE pair AS (x int, y text);
    CREATE DOMAIN price AS numeric;

    -- triggers of the tables' own, which change a row before, and once more after
    CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.b := left(NEW.b, 5) || '!'; RETURN NEW; END$$;
    CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_trigger_depth() = 1 THEN
            EXECUTE format('UPDATE %s SET a = a %% 4 + 1 WHERE id = $1', TG_RELID::regclass) USING NEW.id;
        END IF;
        RETURN NULL;
    END$$;

    -- Each key of the rules that are there now, with the values that are right.  A row key that several
    -- rows share may have any of them.
    CREATE FUNCTION expected(OUT key text, OUT value jsonb) RETURNS SETOF record LANGUAGE plpgsql AS $$
    DECLARE
        rule record;
        expression text;
        first name;
    BEGIN
        FOR rule IN SELECT * FROM slate_cache.rules WHERE kind IN ('row', 'list') LOOP
            expression := (SELECT string_agg(CASE WHEN part[1] LIKE '{%' THEN format('t.%I::text', btrim(part[1], '{}'))
                    ELSE quote_literal(part[1]) END, ' || ')
                FROM regexp_matches(rule.template, '\{[^}]*\}|[^{]+', 'g') part);
            SELECT attname INTO first FROM pg_attribute WHERE attrelid = rule.rel AND attnum = 1;
            IF rule.kind = 'row' THEN
                RETURN QUERY EXECUTE format('SELECT %s, %s FROM %s t', expression,
                    CASE WHEN rule.value_column IS NULL THEN 'to_jsonb(t)'
                    ELSE format('coalesce(to_jsonb(t.%I), ''null'')', rule.value_column) END, rule.rel);
            ELSE
                RETURN QUERY EXECUTE format('SELECT %s, jsonb_agg(to_jsonb(t) ORDER BY t.%I) FROM %s t GROUP BY 1',
                    expression, first, rule.rel);
            END IF;
        END LOOP;
    END$$;

    -- What each row drops.
    CREATE FUNCTION dropped(OUT key text, OUT content text) RETURNS SETOF record LANGUAGE plpgsql AS $$
    DECLARE
        rule record;
    BEGIN
        FOR rule IN SELECT * FROM slate_cache.rules WHERE kind = 'drop' LOOP
            RETURN QUERY EXECUTE format('SELECT replace(replace(%L, ''*'', ''x''), ''{a}'', t.a::text), md5(t::text) FROM %s t',
                rule.template, rule.rel);
        END LOOP;
    END$$;
SQL

sub one_of { return $_[ rand @_ ] }
sub number { my ($from, $to) = @_; return $from + int rand($to - $from + 1) }
sub text { return one_of(qw('x' 'y:z' 'ä*' '' NULL 'q"\\'), q{repeat('long', 300)}) }

# What there is now, sometimes what there is not: a statement that fails is as good a thing to happen in a
# transaction as others.
my %queries = (
    tables => q{SELECT oid::regclass FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
        AND relnamespace::regnamespace::text IN ('public', 'other')},
    parts => q{SELECT oid::regclass FROM pg_class WHERE relkind IN ('r', 'p') AND (relispartition OR relname ~ 'parted_|loose')},
    columns => q{SELECT DISTINCT attname FROM pg_attribute WHERE attname ~ '^x\d$' AND NOT attisdropped});
my %there;
sub look_around { $there{$_} = [ split /\n/, $oracle->query($queries{$_}) ] foreach keys %queries; return }

sub there { my ($what, @others) = @_; my @there = @{ $there{$what} }; return @there && rand() < 0.95 ? one_of(@there) : one_of(@others) }
sub table { return there('tables', qw(plain parted child other.plain)) }
sub part { return there('parts', qw(parted_1 parted_2 parted_3 loose)) }
sub column { return there('columns', qw(x1 x2 x3 x4)) }
sub new_column { return one_of(qw(x1 x2 x3 x4)) }
sub row { return number(1, ROWS) }

# Each time other keys: a key is for one table.
my $attached = 0;
sub attach
{
    my ($table) = @_;
    my $tag = ++$attached;
    my @row = grep { rand() < 0.6 } "shop:$tag:{id}", "shop:$tag:by:{a}:{b}", "shop:$tag:name:{id} -> b", "shop:$tag:x:{id} -> x1";
    my @list = grep { rand() < 0.7 } "shop:$tag:list:{a}", "shop:$tag:lists:{b}";
    my @drop = grep { rand() < 0.5 } "shop:$tag:search:{a}:*", "shop:$tag:count";
    my ($row, $list, $drop) = map { "ARRAY[" . join(', ', map { "'$_'" } @$_) . "]::text[]" } \@row, \@list, \@drop;
    return "SELECT slate_cache_attach('$table', row_keys => $row, list_keys => $list, drop_keys => $drop)";
}

sub create
{
    my ($table) = @_;
    my $columns = '(id int PRIMARY KEY, a int, b text, x1 ' . type() . ')';
    return "CREATE TABLE child (id int PRIMARY KEY, a int REFERENCES plain ON DELETE CASCADE ON UPDATE CASCADE, b text); " . attach('child')
      if $table eq 'child';
    return "CREATE TABLE plain $columns; " . attach('plain') if $table eq 'plain';
    return "CREATE TABLE parted $columns PARTITION BY RANGE (id);"
      . 'CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (5);'
      . 'CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (5) TO (10) PARTITION BY LIST (id);'
      . 'CREATE TABLE parted_3 PARTITION OF parted_2 DEFAULT;'
      . 'CREATE TABLE loose PARTITION OF parted DEFAULT; ' . attach('parted');
}

sub create_missing
{
    my @missing = grep { my $name = $_; !grep { $_ eq $name } @{ $there{tables} } } qw(plain parted child);
    return create(one_of(@missing ? @missing : 'plain'));
}

sub type { return one_of(qw(int text jsonb numeric timestamptz mood pair price mood[] bytea), 'char(4)') }

sub definition
{
    my ($table, $column, $part) = (table(), column(), part());
    return one_of(
        (attach($table)) x 3,
        "SELECT slate_cache_detach('$table')",
        ("ALTER TABLE $table ADD COLUMN @{[ new_column() ]} @{[ type() ]}") x 3,
        "ALTER TABLE $table ADD COLUMN @{[ new_column() ]} int DEFAULT 7",
        "ALTER TABLE $table ADD COLUMN @{[ new_column() ]} text GENERATED ALWAYS AS (b || a) STORED",
        "ALTER TABLE $table DROP COLUMN $column",
        "ALTER TABLE $table DROP COLUMN a CASCADE, ADD COLUMN a int DEFAULT 2",
        "ALTER TABLE $table RENAME COLUMN $column TO @{[ new_column() ]}",
        "ALTER TABLE $table RENAME COLUMN b TO b_2", "ALTER TABLE $table RENAME COLUMN b_2 TO b",
        "ALTER TABLE $table ALTER COLUMN $column TYPE text",
        "ALTER TABLE $table ALTER COLUMN a TYPE @{[ one_of('bigint', 'int', 'bigint USING a + 1') ]}",
        "ALTER TABLE $table RENAME TO @{[ one_of(qw(plain plain_2 parted)) ]}",
        "ALTER TABLE $table SET SCHEMA @{[ one_of(qw(public other)) ]}",
        ("TRUNCATE $table CASCADE", "TRUNCATE $part") x 3,
        "DROP TABLE $table CASCADE",
        (create_missing()) x 6,
        ("ALTER TABLE parted DETACH PARTITION $part", "ALTER TABLE parted ATTACH PARTITION $part @{[ one_of('DEFAULT', 'FOR VALUES FROM (0) TO (5)') ]}",
         "ALTER TABLE parted_2 DETACH PARTITION $part", "ALTER TABLE parted_2 ATTACH PARTITION $part DEFAULT",
         "DROP TABLE $part", "CREATE TABLE $part (LIKE parted INCLUDING ALL)", "CREATE TABLE $part PARTITION OF parted DEFAULT") x 2,
        "ALTER TYPE mood RENAME VALUE 'good' TO 'fine'", "ALTER TYPE mood RENAME VALUE 'fine' TO 'good'",
        "ALTER TYPE pair RENAME ATTRIBUTE x TO z CASCADE", "ALTER TYPE pair RENAME ATTRIBUTE z TO x CASCADE",
        "ALTER TYPE pair ADD ATTRIBUTE w int CASCADE", "ALTER TYPE pair DROP ATTRIBUTE w CASCADE",
        "DROP TYPE pair CASCADE; CREATE TYPE pair AS (x int, y text)",
        "CREATE OR REPLACE TRIGGER @{[ one_of(qw(aaa zzz)) ]} BEFORE INSERT OR UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION shout()",
        ("CREATE OR REPLACE TRIGGER @{[ one_of(qw(aab zzy)) ]} AFTER INSERT OR UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION again()") x 5,
        (map { "DROP TRIGGER $_ ON $table" } qw(aaa zzz aab zzy)),
        "ALTER DOMAIN price SET DEFAULT 5", 'SET session_replication_role = replica', 'RESET session_replication_role',
        "ALTER TABLE $table DISABLE TRIGGER USER; ALTER TABLE $table ENABLE ALWAYS TRIGGER slate_cache_row, ENABLE ALWAYS TRIGGER slate_cache_truncate",
        "CREATE OR REPLACE VIEW plain_view AS SELECT * FROM plain", "DROP VIEW plain_view");
}

sub change
{
    my ($table, $row, $other, $text) = (one_of((table()) x 4, part()), row(), row(), text());
    my $a = one_of(1 .. 4, 'NULL');
    return one_of(
        ("INSERT INTO $table (id, a, b) VALUES ($row, $a, $text) ON CONFLICT (id) DO UPDATE SET b = EXCLUDED.b, a = EXCLUDED.a") x 3,
        ("INSERT INTO $table (id, a, b) SELECT i, 1 + i % 4, $text FROM generate_series($row, $other) i ON CONFLICT DO NOTHING") x 3,
        ("UPDATE $table SET b = $text WHERE id = $row") x 3,
        ("UPDATE $table SET a = $a WHERE id BETWEEN $row AND $other") x 2,
        "UPDATE $table SET x1 = NULL WHERE id = $row",
        ("UPDATE $table SET id = $other WHERE id = $row") x 2,
        "UPDATE $table SET id = id + 20 WHERE id <= @{[ ROWS ]} AND a = $a; UPDATE $table SET id = id - 20 WHERE id > 20",
        "DELETE FROM $table WHERE id = $row", "DELETE FROM $table WHERE a = $a",
        "WITH gone AS (DELETE FROM $table WHERE id = $row RETURNING id, a, b) INSERT INTO @{[ table() ]} (id, a, b) SELECT * FROM gone",
        "MERGE INTO $table t USING (VALUES ($row), ($other)) s(id) ON t.id = s.id WHEN MATCHED AND t.a = 1 THEN DELETE "
          . "WHEN MATCHED THEN UPDATE SET b = $text WHEN NOT MATCHED THEN INSERT (id, a, b) VALUES (s.id, $a, $text)");
}

# Of keys that rows have, and of such that they may have.
sub reading
{
    my ($id, $a) = (row(), number(1, 4));
    return one_of(
        'SELECT count(slate_cache_get(key)) FROM (SELECT key FROM expected() WHERE length(key) BETWEEN 1 AND 1024 ORDER BY random() LIMIT 5) k',
        "SELECT count(m.value) FROM (SELECT array_agg(replace(replace(replace(template, '{id}', '$id'), '{a}', '$a'), '{b}', 'x')) AS keys "
          . "FROM slate_cache.rules WHERE kind IN ('row', 'list')) k, slate_cache_mget(keys) m",
        "SELECT slate_cache_warm('@{[ table() ]}')");
}

sub transaction
{
    my (@open, @statements);
    return reading() if rand() < 0.15;
    return one_of(change(), change(), change(), definition()) if rand() < 0.3;
    foreach my $step (1 .. number(1, 8))
    {
        my $what = rand;
        if ($what < 0.12) { push @open, "s$step"; push @statements, "SAVEPOINT s$step" }
        elsif ($what < 0.25 && @open) { push @statements, one_of("ROLLBACK TO $open[-1]", "RELEASE @{[ pop @open ]}") }
        elsif ($what < 0.35) { push @statements, reading() }
        elsif ($what < 0.45) { push @statements, definition() }
        else { push @statements, change() }
    }
    return join ";\n", 'BEGIN', @statements, one_of(('COMMIT') x 10, "PREPARE TRANSACTION 'p'", 'ROLLBACK', 'ROLLBACK');
}

# What an app has put under the keys that are dropped.
sub put_droppable
{
    my @templates = split /\n/, $oracle->query(q{SELECT replace(template, '*', 'x') FROM slate_cache.rules WHERE kind = 'drop'});
    my @keys = map { my $template = $_; $template =~ /{a}/ ? map { $template =~ s/{a}/$_/r } 1 .. 5 : $template } @templates;
    $client->ask('MSET', map { $_ => '"there"' } @keys) if @keys;
    return;
}

# Keys that the rows of a table drop, by what the rows are.
sub droppable { return map { split /\t/, $_ } split /\n/, $oracle->query(q{SELECT DISTINCT content || key, key FROM dropped() WHERE key IS NOT NULL}) }

# Of those whose rows have changed, what is there still.
sub not_dropped
{
    my ($before) = @_;
    my %after = droppable();
    my %gone;
    $gone{ $before->{$_} } = 1 foreach grep { !exists $after{$_} } keys %$before;
    $gone{ $after{$_} } = 1 foreach grep { !exists $before->{$_} } keys %after;
    my @gone = sort keys %gone;
    return '' unless @gone;
    my $values = $client->ask('MGET', @gone);
    return join ', ', map { "$gone[$_] is there" } grep { defined $values->[$_] } 0 .. $#gone;
}

# All that Redis has, as a literal.
sub cached
{
    my @keys = SlateCheck::scan($client, 'shop:*');
    my %cached;
    @cached{@keys} = @{ $client->ask('MGET', @keys) } if @keys;
    utf8::decode($_) foreach my @text = map { ($_, $cached{$_}) } grep { defined $cached{$_} } keys %cached;
    my $text = $json->encode({@text});
    utf8::encode($text);
    return '$cached$' . $text . '$cached$';
}

# What Redis has and should not.
my $compared = 0;
sub wrong
{
    my $cached = cached();
    my $found = $oracle->query(<<"SQL");
        WITH expected AS MATERIALIZED (SELECT * FROM expected()),
            rules AS MATERIALIZED (SELECT kind, split_part(split_part(template, '{', 1), '*', 1) AS beginning FROM slate_cache.rules),
            cached AS MATERIALIZED (SELECT * FROM jsonb_each_text($cached) c(key, value)),
            judged AS (SELECT key, value, (SELECT string_agg(e.value::text, ' or ') FROM expected e WHERE e.key = c.key) AS should,
                CASE WHEN EXISTS (SELECT FROM expected e WHERE e.key = c.key)
                    THEN EXISTS (SELECT FROM expected e WHERE e.key = c.key AND e.value = c.value::jsonb)
                ELSE EXISTS (SELECT FROM rules r WHERE starts_with(c.key, beginning) AND (kind = 'drop' OR kind = 'list' AND c.value = '[]')) END AS is_right
                FROM cached c)
        SELECT 'count ' || count(*) FROM judged UNION ALL
        (SELECT format('%s: %s instead of %s', key, value, should) FROM judged WHERE NOT is_right LIMIT 5)
SQL
    return $oracle->error if $oracle->error;
    $compared += $1 if $found =~ s/count (\d+)\n?//;
    return $found;
}

# What slate_cache_get() gives for all that rows have, and for lists; then Redis has it.
sub wrong_gets
{
    my ($session) = @_;
    return $session->query(q{
        SELECT key FROM (SELECT key, jsonb_agg(value) AS "values" FROM expected() WHERE length(key) BETWEEN 1 AND 1024 GROUP BY key OFFSET 0) e,
            slate_cache_get(key) got
        WHERE NOT coalesce("values" @> jsonb_build_array(got), false)});
}

# In any session but the one that has prepared it, and then the worker does what is left.
sub resolve
{
    my ($session) = @_;
    $session->query(one_of(qw(COMMIT ROLLBACK)) . " PREPARED 'p'");
    return $session->error if $session->error !~ /^$|does not exist/;
    $oracle->query('SELECT slate_cache_repair()');
    return $oracle->error;
}

my @sessions = map { SlateSession->new($node) } 1 .. 3;
foreach my $table (qw(plain parted child)) { $sessions[0]->query(create($table)) }
my ($failed, $errors) = ('', 0);
foreach my $count (1 .. $transactions)
{
    my ($session, $mode, $rollback) = (one_of(@sessions), one_of(qw(commit commit strict async)), one_of(qw(on on on off)));
    look_around();
    put_droppable();
    my %before = droppable();
    my $sql = transaction();
    $session->query("\\set ON_ERROR_ROLLBACK $rollback\nSET slate_cache.mode = $mode");
    $session->query($sql);
    my $trouble = $session->error;
    $errors++ if $trouble =~ /ERROR/;
    my $found = $trouble =~ /(cache lookup failed|unexpected|could not|PANIC|XX000).*/ ? $& : '';
    $session->query('ROLLBACK; RESET session_replication_role') if $trouble =~ /aborted/;
    $found ||= resolve(one_of(@sessions)) if $sql =~ /PREPARE/;
    $oracle->query('SELECT slate_cache_repair()') if $mode eq 'async';
    $found ||= not_dropped(\%before) || wrong();
    $found ||= join ', ', map { "get: $_" } grep { $_ ne '' } wrong_gets($session) . $session->error if rand() < 0.5;
    $found ||= wrong();
    next if $found eq '';
    $failed = "transaction $count ($mode, ON_ERROR_ROLLBACK $rollback): $found\n$sql\n$trouble";
    last;
}
is($failed, '', "Redis has nothing but what the tables and rules say, after each of $transactions transactions");
cmp_ok($compared, '>', $transactions, 'and has it');
note("$compared values compared, $errors transactions with an error");

SlateNode::unharmed($node);
done_testing();
