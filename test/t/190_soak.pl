# A short soak: a few seconds of load and faults, and then every key in Redis
# holds what its table says.  `make soak` has more of it; see SlateSoak.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateRedis;
use SlateSoak;
use Test::More;

my $soak = SlateSoak->new(
    seconds => 6, sessions => 5, large => 0, seed => $ENV{SLATE_SOAK_SEED},
    faults => $ENV{SLATE_SOAK_FAULTS} || 'all', say => \&note);
ok($soak->run, 'no key is wrong after ' . $soak->summary)
  or diag "SLATE_SOAK_SEED=$soak->{seed} makes the same choices";

# Could it have told?
my $redis = $soak->{redis};
my $found = sub { return join '; ', map { /^(soak\S*|loose\S*|odd): (.*)/ ? "$1: $2" : () } $soak->compare };
$soak->sql(q{INSERT INTO item VALUES (9001, 1, 'right'); DELETE FROM item WHERE id = 9002;
    UPDATE hand SET value = '1' WHERE key = 'loose:1'});
$redis->cli('SET', 'soak:name:9001', '"wrong"');
$redis->cli('SET', 'soak:item:9002', '{"id":9002}');
$redis->cli('SET', 'odd', '1');
$redis->cli('SET', 'loose:1', '"planted"');
$redis->cli('RPUSH', 'soak:customer:9000', '1');
is($found->(), join('; ',
        'loose:1: another value', 'odd: nobody writes such a key', 'soak:customer:9000: must not be there',
        'soak:item:9002: must not be there', 'soak:name:9001: another value'),
    'a comparison finds what is planted');
done_testing();
