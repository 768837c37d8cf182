# More databases use the extension than have a journal: the others cache without one, as without
# preload, and who asks for a worker there is told why there is none.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

use constant MOST => 64;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => { max_logical_replication_workers => 0 });
$node->safe_psql('postgres', 'CREATE DATABASE model');
$node->safe_psql('model', q{CREATE EXTENSION slate_cache; CREATE TABLE item (id int PRIMARY KEY, name text);
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'])});
$node->safe_psql('postgres', 'ALTER DATABASE model ALLOW_CONNECTIONS false');

# Each has an entry from when it is first used.
my $detail = q{SELECT detail FROM slate_cache.health WHERE "check" = 'worker'};
my @without;
foreach my $number (1 .. MOST + 1)
{
    $node->safe_psql('postgres', "CREATE DATABASE d$number TEMPLATE model");
    push @without, "d$number" if $node->safe_psql("d$number", $detail) =~ /^more than ${\ MOST} databases use slate_cache/;
}
isnt($without[0], undef, 'one has no entry') or die 'all have';

my $session = SlateSession->new($node, database => $without[0]);
$session->query(q{INSERT INTO item VALUES (1, 'one')});
is($redis->field('shop:item:1', 'name'), 'one', 'it caches all the same');
foreach my $function ('repair', 'flush')
{
    $session->query("SELECT slate_cache_$function()");
    like($session->error, qr/no slate_cache worker.*DETAIL:  More than ${\ MOST} databases use slate_cache\..*HINT:  Drop the extension/s,
        "$function: there are too many");
}
$session->quit;
SlateNode::unharmed($node);
done_testing();
