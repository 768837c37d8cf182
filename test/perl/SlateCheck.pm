#-------------------------------------------------------------------------
# SlateCheck - compares every key of a table with its rows.
#
#   use SlateCheck;
#   my %found = SlateCheck::compare($node, $redis, 'item', 'shop:item:{id}');
#       # ( right => 7, missing => 2, wrong => 1, examples => 'shop:item:3: ...' )
#   my %lists = SlateCheck::compare($node, $redis, 'item', 'shop:shelf:{shelf}',
#       list => 'id',                          # arrays of rows, ordered by this
#       database => 'postgres');
#   my %found = SlateCheck::all_right(...);    # the same as one assertion: none
#                                              # is wrong
#   SlateCheck::store($node, $redis, 'item', 'shop:item:{id}');   # as an app
#   my $n = SlateCheck::present($redis, @keys);                   # how many are
#                                              # there
#
# The value is to be the row as row_to_json gives it, byte for byte.  A key
# that is not there is "missing", which is no fault; one that is there without
# a row is "wrong".  Nothing should be writing meanwhile: the table is read
# first, then Redis, and a difference is a difference.
#-------------------------------------------------------------------------
package SlateCheck;

use strict;
use warnings;
use List::Util qw(min);
use SlateClient;
use Test::More;

# How many keys one command asks for.
use constant BATCH => 1000;

# 'shop:item:{id}' as an expression.
sub expression
{
    my ($template) = @_;
    my $sql = join ' || ', map {
        my $part = $_;
        $part =~ s/'/''/g;
        $part =~ /^\{(.*)\}$/ ? qq(t."$1") : "'$part'"
    } grep { $_ ne '' } split /(\{[^}]*\})/, $template;
    return $sql;
}

# The keys that the template can give, as a glob.
sub glob_of
{
    my ($template) = @_;
    my $glob = $template;
    $glob =~ s/([*?\[\]\\])/\\$1/g;
    $glob =~ s/\{[^}]*\}/*/g;
    return $glob;
}

# key => value, as the table has them.
sub rows
{
    my ($node, $table, $template, %args) = @_;
    my $key = expression($template);
    my $sql = defined $args{list}
      ? qq{SELECT $key || E'\\t' || '[' ||
            string_agg(row_to_json(t)::text, ',' ORDER BY t."$args{list}") || ']'
            FROM $table t GROUP BY $key}
      : qq{SELECT $key || E'\\t' || row_to_json(t) FROM $table t WHERE ($key) IS NOT NULL};
    my $text = $node->safe_psql($args{database} // 'postgres', $sql);
    return map { split /\t/, $_, 2 } split /\n/, $text;
}

sub compare
{
    my ($node, $redis, $table, $template, %args) = @_;
    my %expected = rows($node, $table, $template, %args);
    my $client = SlateClient->new($redis);
    my %found = (right => 0, wrong => 0, missing => 0);
    my @examples;

    my @keys = sort keys %expected;
    for (my $first = 0; $first < @keys; $first += BATCH)
    {
        my @batch = @keys[ $first .. min($first + BATCH, scalar @keys) - 1 ];
        my $values = $client->ask('MGET', @batch);
        foreach my $i (0 .. $#batch)
        {
            my ($key, $value) = ($batch[$i], $values->[$i]);
            my $verdict = !defined $value ? 'missing' : $value eq $expected{$key} ? 'right' : 'wrong';
            $found{$verdict}++;
            push @examples, "$key: $value instead of $expected{$key}" if $verdict eq 'wrong';
        }
    }

    my @strays = grep { !exists $expected{$_} } scan($client, glob_of($template));
    $found{wrong} += @strays;
    push @examples, map { "$_: has no row" } @strays;
    return (%found, examples => join "\n", @examples[ 0 .. min(9, $#examples) ]);
}

sub scan
{
    my ($client, $glob) = @_;
    my ($cursor, %keys) = (0);
    do
    {
        my $answer = $client->ask('SCAN', $cursor, 'MATCH', $glob, 'COUNT', BATCH);
        $cursor = $answer->[0];
        $keys{$_} = 1 foreach @{ $answer->[1] };
    } while ($cursor ne '0');
    return sort keys %keys;
}

sub all_right
{
    my ($node, $redis, $table, $template, %args) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $name = delete $args{name} // 'no key is wrong';
    my %found = compare($node, $redis, $table, $template, %args);
    is($found{wrong}, 0, "$name ($template)") or diag($found{examples});
    note("$template: $found{right} right, $found{missing} missing, $found{wrong} wrong");
    return %found;
}

# Puts all rows into Redis as an app would, past slate_cache.
sub store
{
    my ($node, $redis, $table, $template, %args) = @_;
    my @words = rows($node, $table, $template, %args);
    my $client = SlateClient->new($redis);
    while (my @batch = splice @words, 0, 2 * BATCH) { $client->ask('MSET', @batch); }
    return;
}

sub present
{
    my ($redis, @keys) = @_;
    my $client = SlateClient->new($redis);
    my $count = 0;
    while (my @batch = splice @keys, 0, BATCH) { $count += $client->ask('EXISTS', @batch); }
    return $count;
}

1;
