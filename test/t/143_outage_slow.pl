# Redis, or the way to it, is slow for seconds under load: late but in time,
# sometimes too late, always too late.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateOutage;
use Test::More;

my $timeout = 400;
my $outage = SlateOutage->new(timeout => $timeout, proxy => 1);
my $proxy = $outage->proxy;
my @pass = (end => sub { $proxy->pass });

$outage->hit('in time', begin => sub { $proxy->delay(requests => [ 0, 15 ], replies => [ 5, 10 ]) }, @pass,
    delayed => 0);
$outage->hit('unsteady', begin => sub { $proxy->delay(requests => [ 0, $timeout ], replies => [ 0, $timeout ]) }, @pass);

# Redis does it, long after the backend has given up; or does it in time, and
# the reply is late.
$outage->hit('requests too late', begin => sub { $proxy->delay(requests => [ 2 * $timeout, 4 * $timeout ]) }, @pass);
$outage->hit('replies too late', begin => sub { $proxy->delay(replies => [ 2 * $timeout, 4 * $timeout ]) }, @pass);

$outage->finish;
done_testing();
