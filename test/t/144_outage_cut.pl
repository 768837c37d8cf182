# The way to Redis is cut for seconds under load: in the midst of replies, with
# Redis having done what it was told; before Redis has heard; at once.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateOutage;
use Test::More;

my $outage = SlateOutage->new(proxy => 1);
my $proxy = $outage->proxy;
my $push = qr/\r\n(?:EVALSHA|MULTI)\r\n.*\r\nshop:/s;
my @pass = (end => sub { $proxy->pass });

$outage->hit('replies cut', begin => sub { $proxy->hang_up($push, after => 5) }, @pass);
$outage->hit('requests cut', begin => sub { $proxy->hang_up($push) }, @pass);
$outage->hit('connections cut', begin => sub { $proxy->refuse }, @pass);

$outage->finish;
done_testing();
