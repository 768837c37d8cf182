# After an outage Redis is told of what is in doubt in the order of its age,
# whichever table of the journal it is in: the older generation before the
# newer one, what was prepared before either, and likewise after a crash.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateClient;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, conf => {
    'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000, 'slate_cache.direct' => 'off', autovacuum => 'off' });
my $session = SlateSession->new($node);
my $written = 0;

# A transaction whose keys tell how many were before it.  Some forty fill a generation.
sub del
{
    return sprintf q{SELECT slate_cache_del(VARIADIC array_agg('nr:%05d:' || repeat('x', 200) || i))
        FROM generate_series(1, 30) i}, $written++;
}

sub write_some
{
    my ($count) = @_;
    $session->query(del()) foreach 1 .. $count;
    return;
}

sub rows { return $node->safe_psql('postgres', "SELECT count(*) FROM slate_cache.$_[0]") }

# Into one generation, then into the other.
sub write_both
{
    write_some(50);
    SlateRedis::wait_until(sub { write_some(1); rows('journal_a') && rows('journal_b') }, 'both generations are used');
    write_some(50);
    return;
}

# Redis takes nothing until then.  The worker has a pass under way that knows of
# nothing but the first transaction: the others are for the next one.
sub begin_outage
{
    $written = 0;
    $redis->cli('ACL', 'SETUSER', 'default', '-evalsha');
    write_some(1);
    SlateNode::wait_for($node, 'SELECT phase FROM slate_cache.progress', 'waiting for redis');
    return;
}

# What Redis is told, by the numbers in it, each where it comes first.
sub end_outage
{
    my $monitor = SlateClient->new($redis);
    $monitor->ask('MONITOR');
    $redis->cli('ACL', 'SETUSER', 'default', '+@all');
    SlateJournal::wait_until_told($node);
    $redis->cli('ECHO', 'all is told');
    my (@numbers, %seen);
    while ((my $line = $monitor->reply) !~ /"all is told"/)
    {
        push @numbers, grep { !$seen{$_}++ } map { $_ + 0 } $line =~ /"nr:(\d+):/g;
    }
    return "@numbers";
}

sub all { return join ' ', 0 .. $written - 1 }

# An outage.
SlateJournal::rotate($node);
begin_outage();
$session->query('BEGIN; ' . del() . "; PREPARE TRANSACTION 'old'");
write_both();
$session->query("COMMIT PREPARED 'old'");
SlateNode::wait_for($node, q{SELECT count(*) FROM slate_cache.journal WHERE state = 'prepared'}, '0');
is(end_outage(), all(), 'an outage: what was prepared, then the older generation, then the newer one');

# The server crashes in an outage.  One that has started does not know which
# generation is older: it is to be the one that would be taken for the newer.
SlateRedis::wait_until(
    sub {
        SlateJournal::rotate($node);
        begin_outage();
        return 1 if rows('journal_a');
        end_outage();
        return 0;
    },
    'the older generation is the first');
write_both();
$node->stop('immediate');
$node->start;
$session = SlateSession->new($node);
SlateNode::wait_for($node, 'SELECT phase FROM slate_cache.progress', 'waiting for redis');
write_some(10);
is(end_outage(), all(), 'a crash: the older generation, then the newer one, then what was written after the start');

SlateNode::unharmed($node);
done_testing();
