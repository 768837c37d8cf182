# Redis loads a large file after a restart, and answers LOADING for seconds under
# load.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateOutage;
use SlateRedis;
use Test::More;

# Each key of the file takes a millisecond, and in between Redis answers.
my %slowly = (save => '3600 1', 'key-load-delay' => 1000, 'loading-process-events-interval-bytes' => 1024);
my $outage = SlateOutage->new(redis => \%slowly);
my $redis = $outage->redis;
my $keys = 1000 * SlateOutage::SECONDS + 1000;
$redis->cli('EVAL', "for i = 1, $keys do redis.call('SET', 'filler:' .. i, string.rep('x', 100)) end", '0');

sub is_loading { return $redis->cli('GET', 'filler:1') =~ /^LOADING / }
sub wait_until_loaded { SlateRedis::wait_until(sub { !is_loading() }, 'Redis has loaded'); return }

$outage->hit('loading',
    begin => sub { $redis->stop; $redis->start(wait => 0); SlateRedis::wait_until(\&is_loading, 'Redis loads') },
    during => sub { my ($name) = @_; ok(is_loading(), "$name: it still loads") },
    end => \&wait_until_loaded,
    warm => 0);

$outage->finish;
done_testing();
