# A few seconds of the history checker: nothing that a mode promises not to
# happen is seen, faults and all; and what one writes by hand, SET in an AFTER
# trigger, is caught at everything.  `make check-history` has more of it; see
# SlateWitness.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateWitness;
use Test::More;

# What the program prints is worth reading where it is not as it should be.
sub witness
{
    my ($name, $expected, %args) = @_;
    my @lines;
    my %least = (commits => 100, reads => 10000, map { $_ => 100 } @{ $args{counters} // [] });
    my $witness = SlateWitness->new(seed => $ENV{SLATE_HISTORY_SEED}, more_than => \%least, %args,
        say => sub { push @lines, @_ });
    is($witness->{warnings}, '', "$name: the program compiles without a warning");
    $args{before}->($witness) if $args{before};
    is($witness->run, $expected, "$name: the verdict, seed $witness->{seed}")
      or diag join "\n", @lines;
    cmp_ok($witness->commits, '>', 100, "$name: commits");
    cmp_ok($witness->checked, '>', 10000, "$name: reads");
    cmp_ok($witness->{$_}, '>', 100, "$name: $_") foreach @{ $args{counters} // [] };
    note $witness->{report} = join "\n", @lines;
    return $witness;
}

# Among other things it finds a value that nobody wrote: some of these are read
# before their rows are written.
my @made_up = map { ("h:$_", qq({"id": $_, "counter": 2, "token": 2})) } 200 .. 299;
my $naive = witness('by hand', 1, naive => 1, seconds => 2.5, faults => 'none',
    before => sub { $_[0]{redis}->cli('MSET', @made_up) });
foreach my $class ('made up', 'before its commit', 'rolled back', 'went backwards', 'older than acknowledged',
    'older than visible', 'still wrong after 1 s', 'wrong at rest')
{
    cmp_ok($naive->found($class), '>', 0, "by hand: $class");
}

witness('mode commit', 0, mode => 'commit', seconds => 3, mean => 0.6,
    faults => 'terminate,cancel,kill_backend,hang,cut,flushall');
my $strict = witness('mode strict', 0, mode => 'strict', seconds => 3, mean => 0.6,
    faults => 'terminate,cancel,kill_backend,cut,delay,cut_reply');

witness('near cache', 0, mode => 'strict', near => '8MB', counters => ['near_hits'], seconds => 3, mean => 0.6,
    faults => 'terminate,cancel,cut');

# Without prepared transactions, beside which nobody pushes directly.
witness('directly', 0, mode => 'commit', prepared => 0, counters => ['pushes_direct'], seconds => 4, mean => 0.6,
    faults => 'terminate,cancel,hang,cut,delay');

# None in n reads: one in n/3 at most, with 95 % confidence.
my ($checked, $bound) = $strict->{report} =~ /^older than visible +promised +0 of (\d+) +at most 1 in (\d+)$/m;
is($checked, $strict->checked, 'mode strict: the report says among how many reads none was stale');
is($bound, sprintf('%.0f', $checked / 3), 'mode strict: and what that shows');
like($strict->{report}, qr/with 95 % confidence/, 'mode strict: and how surely');
done_testing();
