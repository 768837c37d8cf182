# Redis hangs (SIGSTOP), is stopped, or is killed, for seconds under load.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateOutage;
use Test::More;

my $outage = SlateOutage->new(redis => { save => '3600 1' });
my $redis = $outage->redis;

# Longer than any commit may take.
$outage->hit('hung', begin => sub { $redis->pause }, end => sub { $redis->resume }, seconds => 7);

# It saves what it has when it is stopped, and comes back with it: old values,
# which nobody trusts.
$outage->hit('stopped', begin => sub { $redis->stop }, end => sub { $redis->start }, warm => 0);

# Killed, it comes back with what it had then: older values.
$outage->hit('killed', begin => sub { $redis->config(save => ''); $redis->kill9 },
    end => sub { $redis->start }, warm => 0);

$outage->finish;
done_testing();
