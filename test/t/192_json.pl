# What Redis has is turned into jsonb as the server's own cast does it: of texts made at
# random, and of the same with some characters changed, the same bytes, and the same are none.
use strict;
use warnings;
use utf8;
use Encode qw(encode);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateClient;
use SlateNode;
use SlateRedis;
use Test::More;

my $seed = $ENV{SLATE_SEED} // time ^ $$;
my $many = $ENV{SLATE_TEXTS} // 20_000;
srand $seed;
note "SLATE_SEED=$seed";

sub one_of { return $_[ rand @_ ] }
sub space { return rand() < 0.8 ? '' : join '', map { one_of(' ', "\t", "\n", "\r") } 1 .. 1 + rand 3 }

sub string
{
    my @plain = ('a' .. 'e', ' ', '{', '}', '[', ']', ':', ',', '0', 'äöü', '€', "\x{1d11e}", '/', "'", "\x7f");
    my @odd = ('\\"', '\\\\', '\\/', '\\b', '\\f', '\\n', '\\r', '\\t', '\\u00e4', '\\u20AC', '\\ud834\\udd1e',
        '\\u0022', '\\u005c');
    my @wrong = ('\\u0000', '\\ud834', '\\udd1e', '\\ud834x', '\\ud834\\n', '\\x', '\\u12', "\x01", "\n");
    my $odd = one_of(0, 0, 0, 0.1, 0.5);
    return '"' . join('', map { rand() < $odd ? rand() < 0.01 ? one_of(@wrong) : one_of(@odd) : one_of(@plain) } 1 .. rand one_of(3, 12, 40)) . '"';
}

sub number
{
    return one_of('0', '-0', '1', '-12', '3.140', '1e5', '2E-3', '1.5e+10', '123456789012345678901234567890.1', '00', '1.', '.5', '1e999999',
        '10000', '-1000000', '999999999999999999', '-999999999999999999', '1000000000000000000', '9223372036854775807', '-9223372036854775808',
        '12345678901234567890', '-0.0', '0e0', '1e', '1e+', '--1', '+1', '-01', '1.5.2')
      if rand() < 0.3;
    return one_of('', '-') . int rand 10**one_of(1, 3, 9);
}

# Names that come twice in one object, too.  Of so many members jsonb notes offsets in between.
sub wide
{
    my $n = one_of(31, 32, 33, 64, 65, 130, 200);
    return '[' . join(',', map { value(one_of(0, 0, 0, 1)) } 1 .. $n) . ']' if rand() < 0.5;
    return '{' . join(',', map { '"' . ('x' x rand 3) . int(rand 1e6) . '":' . value(one_of(0, 0, 0, 1)) } 1 .. $n) . '}';
}

sub value
{
    my ($depth) = @_;
    my $kind = rand;
    return wide() if $depth > 0 && $kind < 0.02;
    if ($depth > 0 && $kind < 0.35)
    {
        return '{' . space() . join(',', map { space() . (rand() < 0.3 ? '"same"' : string()) . space() . ':' . space() . value($depth - 1) . space() } 1 .. rand 5) . '}';
    }
    if ($depth > 0 && $kind < 0.6)
    {
        return '[' . space() . join(',', map { space() . value($depth - 1) . space() } 1 .. rand 5) . ']';
    }
    return string() if $kind < 0.8;
    return number() if $kind < 0.92;
    return one_of('true', 'false', 'null');
}

# Rows of a few tables, which have the same names in the same order; and some that go another way.
my @tables = (
    (map { my $n = $_; [map { ('name', 'n', "\x{e4}", 'id', '') [$_ % 5] . $_ } 1 .. $n] } 1, 2, 5, 9, 31, 32, 33, 63, 64, 65),
    ['id'], ['id', 'name'], ['name', 'id'], ['id', 'name', 'size'], ['id', 'name', 'path'], ['id', 'size', 'name'], ['identity', 'name'], ['id', 'nam', 'esize'], ['same', 'n', 'same'],
    [map { 'long' x 25 . $_ } 1 .. 12]);

sub row
{
    my ($depth) = @_;
    my @names = @{ one_of(@tables[rand 4], @tables) };
    my ($colon, $comma) = rand() < 0.8 ? (':', ',') : (': ', ', ');
    splice @names, rand @names, one_of(0, 1), one_of([], ['other'], ['id'])->@* if rand() < 0.15;
    $#names = rand @names if rand() < 0.1;
    push @names, one_of('more', 'id', 'name') if rand() < 0.1;
    @names[0, -1] = @names[-1, 0] if @names && rand() < 0.05;
    return '{' . join($comma, map { "\"$_\"$colon" . (rand() < 0.1 && $depth > 0 ? row($depth - 1) : value($depth && one_of(0, 0, 1))) } @names) . '}';
}

sub rows { return '[' . join(one_of(',', ', '), map { row(1) } 1 .. 1 + rand 6) . ']' }

sub changed
{
    my ($text) = @_;
    for (1 .. 1 + rand 2)
    {
        my $at = int rand 1 + length $text;
        substr $text, $at, one_of(0, 1, 2), one_of('', split(//, q({}[]",:\\u0dn -+.eE/ftl)), 'null', "\t", 'ä');
    }
    return $text;
}

my $nested = sub { return ('[' x $_[0]) . (']' x $_[0]) };
my @texts = (
    '', ' ', '{}', '[]', ' { } ', "\n[\n]\n", '{"a":1}', '{"a" : "b"}', '[1,[2,[3]]]', '"text"', ' "text" ', '"\\n"', '12', ' true', 'null ',
    '{"":""}', '{"a":{"b":[]},"c":[{}]}', '{"same":1,"same":"two","same":[3]}', '{"b":1,"a":2,"aa":3}', '{"\\u0061":1,"a":2}', '["\\ud834\\udd1e"]',
    '["\\u0000"]', '{"\\u0000":1}', '["\\ud834"]', '{"a"}', '{"a":}', '{"a":1,}', '[1,]', '[1 2]', '{"a":1}{', '[] []', '{a:1}', "{'a':1}", '["a', '["a\\',
    '["\\"]', '{"a":"\\""}', '{"a\\"b":"c\\\\"}', '["tab	"]', '[1e999999]', '[-]', '[01]', '[nul]', '[truee]', '{"a":tru}', "[1]\0", $nested->(1000), $nested->(200_000),
    '{"a":' x 3000 . '1' . '}' x 3000, map({ ('[' x $_) . '{"a":[1]}' . (']' x $_) } 60 .. 66), '[' . join(',', ('[1,{}]') x 20_000) . ']',
    '{' . join(',', map { "\"$_\":$_" } 1 .. 5000) . '}', '[1,"' . 'x' x (20 * 1024 * 1024) . '"]', '["' . 'x' x 100_000 . '"]', '["' . '\\n' x 50_000 . '"]', '[' . join(',', (1) x 20_000) . ']');
push @texts, rand() < 0.35 ? changed($_) : $_ foreach map { space() . value(1 + rand 5) . space() } 1 .. $many;
push @texts, rand() < 0.1 ? changed($_) : $_ foreach map { rand() < 0.7 ? row(2) : rows() } 1 .. $many / 5;
@texts = grep { !/\0/ } @texts;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);
SlateNode::wait_until_trusted($node);
my $client = SlateClient->new($redis);
my $file = $node->basedir . '/texts';
open my $out, '>:raw', $file or die "$file: $!";
foreach my $i (0 .. $#texts)
{
    my $line = encode('UTF-8', $texts[$i]);
    $client->ask('SET', "json:$i", $line);
    $line =~ s/([\\\t\n\r])/'\\' . { "\\" => "\\", "\t" => 't', "\n" => 'n', "\r" => 'r' }->{$1}/ge;
    print $out "$i\t$line\n";
}
close $out or die "$file: $!";

# *<> is about the bytes.
my $result = $node->safe_psql('postgres', qq{
    SET slate_cache.parsed_memory = 0;
    SET client_min_messages = error;
    SET client_encoding = 'UTF8';
    CREATE TABLE texts (id int, body text);
    CREATE TYPE image AS (value jsonb);
    COPY texts FROM '$file';
    CREATE FUNCTION cast_of(body text) RETURNS jsonb LANGUAGE plpgsql AS \$\$
        BEGIN RETURN body::jsonb; EXCEPTION WHEN data_exception OR program_limit_exceeded THEN RETURN NULL; END \$\$;
    CREATE TABLE both_ways AS SELECT id, body, cast_of(body) AS cast_to, slate_cache_peek('json:' || id) AS peeked FROM texts;
    SELECT count(*), count(cast_to), count(*) - count(cast_to) FROM both_ways;
    SELECT id || ' ' || left(body, 300) || ' => ' || coalesce(left(peeked::text, 300), 'none') FROM both_ways
        WHERE peeked IS DISTINCT FROM cast_to OR peeked::text IS DISTINCT FROM cast_to::text
            OR ROW(peeked)::image *<> ROW(cast_to)::image LIMIT 20});
my ($counts, @wrong) = split /\n/, $result;
my ($all, $values, $none) = split /\|/, $counts;
is($all, scalar @texts, 'all texts are there');
cmp_ok($values, '>', $many / 2, "$values of them are JSON");
cmp_ok($none, '>', $many / 20, "$none are not");
is(join("\n", @wrong), '', 'each is taken as by a cast');

# Bytes that are no text, wherever they are.
foreach my $at (0 .. 49)
{
    my $text = '["' . 'x' x 60 . '"]';
    foreach my $bytes ("\xff", "\0", "\xc3", "\xc3\xa4")
    {
        my $changed = $text;
        substr $changed, 2 + $at, length $bytes, $bytes;
        $client->ask('SET', "bytes:$at:" . unpack('H*', $bytes), $changed);
    }
}
is($node->safe_psql('postgres', q{SELECT bytes, count(slate_cache_peek('bytes:' || at || ':' || bytes))
        FROM generate_series(0, 49) at, unnest('{ff,00,c3,c3a4}'::text[]) bytes GROUP BY 1 ORDER BY 1}),
    "00|0\nc3|0\nc3a4|50\nff|0", 'what is no text is no value');

# An escape that stands for no ASCII cannot be had in SQL_ASCII: no JSON there, and no ERROR.
$node->safe_psql('postgres', q{CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0});
$node->safe_psql('ascii', 'CREATE EXTENSION slate_cache');
SlateNode::wait_until_trusted($node, 'ascii');
$client->ask('SET', "ascii:$_->[0]", qq({"a":"$_->[1]"})) foreach ['escaped', '\\u00e4'], ['plain', '\\u0041'];
is($node->safe_psql('ascii', q{SELECT key, value FROM slate_cache_mget('{ascii:escaped,ascii:plain}')}), qq(ascii:escaped|\nascii:plain|{"a": "A"}),
    'SQL_ASCII: what it cannot hold is a miss');
is($client->ask('EXISTS', 'ascii:escaped', 'ascii:plain'), 1, 'SQL_ASCII: and is dropped');
SlateNode::unharmed($node);

done_testing();
