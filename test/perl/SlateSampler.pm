#-------------------------------------------------------------------------
# SlateSampler - a process that reads keys of a SlateRedis all the time.
#
#   use SlateSampler;
#   my $sampler = SlateSampler->begin($redis, 'a', 'b');
#   ...
#   my ($count, @seen) = $sampler->end;        # [ 'a', $value, $first, $last ], ...
#
# It does what an app would, MGET after MGET, a thousand times a second, and
# once more when it is told to end.  @seen has each value that a key had, and the
# times at which the first and the last reading that saw it began.
#-------------------------------------------------------------------------
package SlateSampler;

use strict;
use warnings;
use PostgreSQL::Test::Utils ();
use POSIX ();
use SlateClient;
use Time::HiRes qw(time);

my $samplers = 0;

sub begin
{
    my ($class, $redis, @keys) = @_;
    my $file = PostgreSQL::Test::Utils::tempdir() . '/samples.' . ++$samplers;
    pipe my $end, my $stop or die "pipe: $!";
    my $pid = fork() // die "fork: $!";
    if ($pid == 0)
    {
        close $stop;
        # Whatever happens here must not run what the test does at its end.
        my $done = eval { write_samples($file, take_samples($redis, $end, @keys)); 1 };
        print STDERR $@ unless $done;
        POSIX::_exit($done ? 0 : 1);
    }
    close $end;
    return bless { pid => $pid, stop => $stop, file => $file }, $class;
}

sub take_samples
{
    my ($redis, $end, @keys) = @_;
    my $client = SlateClient->new($redis);
    my ($count, %seen) = (0);
    my $ready = '';
    vec($ready, fileno($end), 1) = 1;
    my $told;
    do
    {
        $told = select(my $now = $ready, undef, undef, 0.001);
        my $at = time;
        my $values = $client->ask('MGET', @keys);
        foreach my $i (0 .. $#keys)
        {
            next unless defined $values->[$i];
            my $times = $seen{"$keys[$i]\t$values->[$i]"} //= [ $at ];
            $times->[1] = $at;
        }
        $count++;
    } until $told;
    return ($count, map { "$_\t@{ $seen{$_} }" } sort keys %seen);
}

sub write_samples
{
    my ($file, @lines) = @_;
    open my $out, '>', $file or die "$file: $!";
    print $out map { "$_\n" } @lines;
    close $out or die "$file: $!";
    return;
}

sub end
{
    my ($self) = @_;
    close $self->{stop};
    waitpid $self->{pid}, 0;
    die 'it could not read' if $? != 0;
    my ($count, @lines) = split /\n/, PostgreSQL::Test::Utils::slurp_file($self->{file});
    return ($count, map { /^(.*)\t(.*)\t(\S+) (\S+)$/ ? [ $1, $2, $3, $4 ] : () } @lines);
}

1;
