# slate_cache.sweep is its role's also where the worker has to do the walk, which has the server's.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => { 'slate_cache.sweep' => 'off' });
$node->safe_psql('postgres', q{
    CREATE TABLE sale (customer int);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
SlateJournal::wait_until_told($node);
my $session = SlateSession->new($node);
foreach my $sweep (qw(on off))
{
    # Redis is away when it commits, so that all is left to the worker.
    $redis->cli('SET', 'shop:search:1:mine', '"app"');
    $redis->pause;
    $session->query("SET slate_cache.sweep = $sweep; INSERT INTO sale VALUES (1)");
    is($session->error, '', "$sweep: commits");
    $redis->resume;
    $session->query('SELECT slate_cache_repair()');
    is($redis->cli('EXISTS', 'shop:search:1:mine'), $sweep eq 'on' ? 0 : 1, "$sweep: what an app has SET " . ($sweep eq 'on' ? 'is dropped' : 'stays'));
}

done_testing();
