# What the README shows is what happens: its SQL blocks are run in their order,
# in one session, and each text block that follows one is its output.
use strict;
use warnings;
use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use Test::More;

# README.md stands at the top of the tree that this file is in.
my $readme = slurp_file(dirname(__FILE__) . '/../../README.md');
my @blocks;
while ($readme =~ /^```(\w*)\n(.*?)^```$/msg)
{
    my ($kind, $text) = ($1, $2);
    if ($kind eq 'sql') { push @blocks, { sql => $text }; }
    elsif ($kind eq 'text') { $blocks[-1]{expected} = $text; }
}
cmp_ok(scalar @blocks, '>', 5, 'the README has SQL blocks');

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis);

# In the README redis-cli needs no options.
my $bin = PostgreSQL::Test::Utils::tempdir();
my ($real) = grep { -x } map { "$_/redis-cli" } split /:/, $ENV{PATH};
append_to_file("$bin/redis-cli", "#!/bin/sh\nexec $real -s " . $redis->socket . " \"\$\@\"\n");
chmod 0755, "$bin/redis-cli" or die $!;
local $ENV{PATH} = "$bin:$ENV{PATH}";

my $script = join '', map { "\\echo === block $_\n$blocks[$_]{sql}" } 0 .. $#blocks;
my ($out, $err) = ('', '');
IPC::Run::run(
    [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ],
    '<', \$script, '>', \$out, '2>', \$err);
is($err, '', 'no errors');

my @outputs = split /^=== block \d+\n/m, $out;
shift @outputs;
is(scalar @outputs, scalar @blocks, 'all blocks were run');
foreach my $i (0 .. $#blocks)
{
    my ($first) = split /\n/, $blocks[$i]{sql};
    is($outputs[$i] // '', $blocks[$i]{expected} // '', "block $i: $first");
}

done_testing();
