# Redis is there and refuses, for seconds under load: too many clients, too few
# replicas, a replica itself, no memory.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateClient;
use SlateOutage;
use Test::More;

my $outage = SlateOutage->new;
my $redis = $outage->redis;

# All places are taken; this one is ours.
my $client = SlateClient->new($redis);
$outage->hit('too many clients',
    begin => sub { $client->ask(qw(CONFIG SET maxclients 1)); $client->ask(qw(CLIENT KILL TYPE normal)) },
    end => sub { $client->ask(qw(CONFIG SET maxclients 10000)) });

# It reads, and does not write.
$outage->hit('too few replicas',
    begin => sub { $client->ask(qw(CONFIG SET min-replicas-to-write 1)) },
    end => sub { $client->ask(qw(CONFIG SET min-replicas-to-write 0)) });

# It removes what it cannot replace, and evicts nothing.
$outage->hit('out of memory',
    begin => sub { $client->ask(qw(CONFIG SET maxmemory 1)) },
    end => sub { $client->ask(qw(CONFIG SET maxmemory 0)) });

# Nobody listens there, so it keeps what it has.  But whoever was promoted may
# have missed something, and is not trusted.
$outage->hit('a replica',
    begin => sub { $client->ask(qw(REPLICAOF 127.0.0.1 1)) },
    end => sub { $client->ask(qw(REPLICAOF NO ONE)) },
    warm => 0);

$outage->finish;
done_testing();
