#-------------------------------------------------------------------------
# SlateCluster - a Redis Cluster for one TAP test: real masters and replicas, on
# loopback.
#
#   use SlateCluster;
#   my $cluster = SlateCluster->new;              # 3 masters, no replicas
#   my $cluster = SlateCluster->new(
#       masters => 3, replicas => 1,              # 1 of each master
#       node_timeout => 1000,                     # ms: cluster-node-timeout
#       password => 'secret',
#       config => { maxmemory => '4mb' });        # of each node
#
#   $cluster->url;                                # for slate_cache.url
#   $cluster->url(also => [ '127.0.0.1:1' ]);     # more nodes, at the front
#   $cluster->url(nodes => [ $node ], password => 'wrong');
#   $cluster->nodes;                              # SlateRedis: cli, stop, start,
#                                                 # kill9, pause, resume
#   $cluster->masters;                            # that have slots, as most nodes
#                                                 # say now, by their first slots
#   $cluster->replicas_of($master);               # by how it was made
#   $cluster->node_of($key);                      # the master of the key, or undef
#   $cluster->slot('{a}key');                     # and its slot
#
#   $cluster->cli_at($key, 'TTL', $key);          # redis-cli at that node, chomped
#   $cluster->get($key);                          # '' if there is none
#   $cluster->field('shop:item:1', 'name');       # as SlateRedis::field
#   my %values = $cluster->values(@keys);         # key => value, of those there are
#   $cluster->set(%values);                       # as an app
#   $cluster->del(@keys);
#   $cluster->keys('shop:*');                     # of all masters, sorted
#   $cluster->flushall;                           # all masters
#   my %found = $cluster->compare($node, 'item', 'shop:item:{id}', list => 'id');
#                                                 # as SlateCheck::compare
#
#   $cluster->move_slot($slot, $from, $to);       # with its keys; or in steps:
#   $cluster->begin_move($slot, $from, $to);
#   $cluster->migrate_keys($slot, $from, $to);    # all keys; or those
#   $cluster->migrate_keys($slot, $from, $to, @keys);
#   $cluster->end_move($slot, $from, $to);
#   $cluster->successor($old);                    # its replica that has its slots, or
#                                                 # undef
#   $cluster->wait_for_failover($old);            # until there is one that is well;
#                                                 # returns that
#   $cluster->wait_until_down;                    # until all nodes that run refuse
#                                                 # to serve: some slots have no node
#   $cluster->wait_until_ok;                      # until all nodes that run say
#                                                 # that all is well, agree, and
#                                                 # replicas are in sync
#
# values, set and del end the test if a node has not got the key's slot.  A node
# that is started again has its place in the cluster, but no data.  To come up
# takes two or three seconds, and so does a failover.  All ends with the object.
#-------------------------------------------------------------------------
package SlateCluster;

use strict;
use warnings;
use Carp;
use IO::Socket::INET;
use IO::Socket::UNIX;
use List::Util qw(first sum0);
use SlateCheck;
use SlateClient;
use SlateRedis;
use SlateSentinel;
use Time::HiRes qw(time);

use constant NSLOTS => 16384;

sub new
{
    my ($class, %args) = @_;
    my $self = bless { password => $args{password}, nodes => [], shard => {}, id => {}, names => [] }, $class;
    my $nmasters = $args{masters} // 3;
    my $nreplicas = $args{replicas} // 0;

    my %config = (
        'cluster-enabled' => 'yes',
        'cluster-config-file' => 'nodes.conf',
        'cluster-node-timeout' => $args{node_timeout} // 1000,
        'cluster-require-full-coverage' => 'yes',
        'cluster-allow-replica-migration' => 'no',
        'repl-diskless-sync-delay' => 0,
        'repl-diskless-load' => 'on-empty-db',
        %{ $args{config} // {} });
    @config{ 'requirepass', 'masterauth' } = ($args{password}) x 2 if defined $args{password};
    $self->add_node($_ % $nmasters, %config) for 0 .. $nmasters * (1 + $nreplicas) - 1;

    my @nodes = $self->nodes;
    my @masters = @nodes[ 0 .. $nmasters - 1 ];
    foreach my $i (0 .. $#masters)
    {
        my ($first, $end) = map { int($_ * NSLOTS / $nmasters) } $i, $i + 1;
        ask_for_ok($masters[$i], 'CLUSTER', 'ADDSLOTSRANGE', $first, $end - 1);
    }
    ask_for_ok($nodes[$_], 'CLUSTER', 'SET-CONFIG-EPOCH', $_ + 1) foreach 0 .. $#nodes;

    $self->have_all_meet;
    foreach my $replica (@nodes[ $nmasters .. $#nodes ])
    {
        my $master = $masters[ $self->{shard}{ $replica->port } ];
        SlateRedis::wait_until(
            sub { $replica->cli('CLUSTER', 'REPLICATE', $self->{id}{ $master->port }) eq 'OK' },
            'a node has become a replica');
    }
    $self->wait_until_ok;
    return $self;
}

sub nodes { return @{ $_[0]{nodes} } }
sub running { return grep { SlateSentinel::runs($_) } $_[0]->nodes }

sub add_node
{
    my ($self, $shard, %config) = @_;
    my ($port, $bus_port) = ($self->reserve_port, $self->reserve_port);
    my $node = SlateCluster::Node->new(start => 0, config => { %config, 'cluster-port' => $bus_port });
    @$node{ 'port', 'bus_port' } = ($port, $bus_port);
    $node->start;
    push @{ $self->{nodes} }, $node;
    $self->{shard}{$port} = $shard;
    $self->{id}{$port} = $node->cli('CLUSTER', 'MYID');
    return;
}

# While a node is away the others try to connect to its ports all the time: so they are none
# that the kernel gives to whoever asks for any.  A name that only one process can have, and
# that ends with it, keeps other tests away from them.
sub reserve_port
{
    my ($self) = @_;
    open my $file, '<', '/proc/sys/net/ipv4/ip_local_port_range' or croak "ip_local_port_range: $!";
    my ($first) = split ' ', <$file>;
    my $end = $first > 12000 ? $first : 32768;
    for (1 .. 1000)
    {
        my $port = 10000 + int rand($end - 10000);
        my $name = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => "\0slate-port-$port", Listen => 1) or next;
        IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1, ReuseAddr => 1) or next;
        push @{ $self->{names} }, $name;
        return $port;
    }
    croak 'no free port';
}

sub url
{
    my ($self, %args) = @_;
    my $password = exists $args{password} ? $args{password} : $self->{password};
    my $login = defined $password ? ":$password\@" : '';
    my @nodes = $args{nodes} ? @{ $args{nodes} } : $self->nodes;
    return "cluster://$login" . join ',', @{ $args{also} // [] }, map { '127.0.0.1:' . $_->port } @nodes;
}

sub ask_for_ok
{
    my ($node, @command) = @_;
    my $reply = $node->cli(@command);
    croak "@command: $reply" unless $reply eq 'OK';
    return;
}

#
# What nodes say
#

# A hash for each node that the node knows; none if it does not answer.
sub view
{
    my ($node) = @_;
    my $text = eval { SlateClient->new($node)->ask('CLUSTER', 'NODES') } // '';
    my @view;
    foreach my $line (split /\n/, $text)
    {
        my ($id, $address, $flags, $master, undef, undef, undef, $link, @slots) = split / /, $line;
        my ($port) = ($address // '') =~ /:(\d+)@/ or next;
        push @view, {
            port => $port,
            role => $flags =~ /master/ ? 'master' : "replica of $master",
            doubt => $flags =~ /fail|handshake|noaddr/ ? 1 : 0,
            linked => $flags =~ /myself/ || $link eq 'connected',

            # without those that are on their way
            slots => [ map { [ /^(\d+)(?:-(\d+))?$/ ] } grep { /^\d/ } @slots ] };
        $_->[1] //= $_->[0] foreach @{ $view[-1]{slots} };
    }
    return sort { $a->{port} <=> $b->{port} } @view;
}

sub slots_in_words
{
    my (@view) = @_;
    return join "\n", map { my $of = $_; map { "$of->{port}: $_->[0]-$_->[1]" } @{ $of->{slots} } } @view;
}

# What most nodes that run say.
sub majority
{
    my ($self) = @_;
    my (%votes, %views);
    foreach my $node ($self->running)
    {
        my @view = view($node);
        my $words = slots_in_words(@view);
        $votes{$words}++;
        $views{$words} = \@view;
    }
    my ($words) = sort { $votes{$b} <=> $votes{$a} || $a cmp $b } keys %votes;
    return @{ $views{ $words // '' } // [] };
}

sub at_port { my ($self, $port) = @_; return first { $_->port == $port } $self->nodes }

sub masters
{
    my ($self) = @_;
    my @with_slots = grep { @{ $_->{slots} } } $self->majority;
    return map { $self->at_port($_->{port}) } sort { $a->{slots}[0][0] <=> $b->{slots}[0][0] } @with_slots;
}

sub replicas_of
{
    my ($self, $master) = @_;
    my $shard = $self->{shard};
    return grep { $_ != $master && $shard->{ $_->port } == $shard->{ $master->port } } $self->nodes;
}

# CRC16 of the key, or of its hash tag, of which there is none if it is empty.
sub slot
{
    my ($self, $key) = @_;
    utf8::encode($key) if utf8::is_utf8($key);
    my $hashed = $key =~ /\{(.*)/s && $1 =~ /^([^}]+)\}/ ? $1 : $key;
    my $crc = 0;
    foreach my $byte (unpack 'C*', $hashed)
    {
        $crc ^= $byte << 8;
        $crc = ($crc & 0x8000 ? $crc << 1 ^ 0x1021 : $crc << 1) & 0xffff for 1 .. 8;
    }
    return $crc % NSLOTS;
}

sub port_of_slot
{
    my ($slot, @view) = @_;
    my $of = first { first { $_->[0] <= $slot && $slot <= $_->[1] } @{ $_->{slots} } } @view;
    return $of && $of->{port};
}

sub node_of
{
    my ($self, $key) = @_;
    my $port = port_of_slot($self->slot($key), $self->majority);
    return $port && $self->at_port($port);
}

# Each meets each: they would hear of each other, but later.  A busy machine may take too long
# for a handshake.
sub have_all_meet
{
    my ($self) = @_;
    my @nodes = $self->nodes;
    my $next = 0;
    SlateRedis::wait_until(
        sub {
            return 1 if $self->all_have_met;
            return 0 if time < $next;
            $next = time + 2;
            foreach my $i (1 .. $#nodes)
            {
                ask_for_ok($_, 'CLUSTER', 'MEET', '127.0.0.1', $nodes[$i]->port, $nodes[$i]{bus_port})
                  foreach @nodes[ 0 .. $i - 1 ];
            }
            return 0;
        },
        'the nodes know each other');
    return;
}

sub all_have_met
{
    my ($self) = @_;
    foreach my $node ($self->nodes)
    {
        my @view = view($node);
        return 0 if @view != $self->nodes || grep { $_->{doubt} || !$_->{linked} } @view;
    }
    return 1;
}

sub state_of
{
    my ($node) = @_;
    my ($state) = $node->cli('CLUSTER', 'INFO') =~ /^cluster_state:(\w+)/;
    return $state // '';
}

sub is_in_sync
{
    my ($node) = @_;
    return $node->cli('INFO', 'replication') =~ /^master_link_status:up/m;
}

sub is_ok
{
    my ($self) = @_;
    my @running = $self->running;
    my %runs = map { $_->port => 1 } @running;
    my (%words, %roles);
    foreach my $node (@running)
    {
        return 0 unless state_of($node) eq 'ok';
        my @view = grep { $runs{ $_->{port} } } view($node);
        return 0 if @view != @running || grep { $_->{doubt} || !$_->{linked} } @view;
        $words{ join "\n", slots_in_words(@view), map { "$_->{port}: $_->{role}" } @view } = 1;
        $roles{ $_->{port} } = $_->{role} foreach @view;
    }
    return 0 unless keys %words == 1;
    my @replicas = grep { $roles{ $_->port } ne 'master' } @running;
    return 0 if grep { !is_in_sync($_) } @replicas;
    return @replicas == sum0(map { SlateSentinel::replicas_in_sync($_) } @running);
}

sub wait_until_ok
{
    my ($self) = @_;
    SlateRedis::wait_until(sub { $self->is_ok }, 'all nodes say that all is well');
    return;
}

sub wait_until_down
{
    my ($self) = @_;
    SlateRedis::wait_until(sub { !grep { state_of($_) ne 'fail' } $self->running },
        'all nodes say that the cluster is down');
    return;
}

sub successor
{
    my ($self, $old) = @_;
    my %candidate = map { $_->port => 1 } $self->replicas_of($old);
    return first { $candidate{ $_->port } } $self->masters;
}

sub wait_for_failover
{
    my ($self, $old) = @_;
    my $new;
    SlateRedis::wait_until(
        sub {
            $new = $self->successor($old);
            return $new && !grep { state_of($_) ne 'ok' } $self->running;
        },
        'a replica has become a master');
    return $new;
}

#
# Keys
#

sub cli_at
{
    my ($self, $key, @command) = @_;
    my $node = $self->node_of($key) // croak "no node has the slot of $key";
    return $node->cli(@command);
}

sub get { my ($self, $key) = @_; return $self->cli_at($key, 'GET', $key) }

sub field
{
    my ($self, $key, $field) = @_;
    my $node = $self->node_of($key) // croak "no node has the slot of $key";
    return $node->field($key, $field);
}

# Calls the function with a connection to its node and each key.
sub for_each
{
    my ($self, $function, @keys) = @_;
    my @view = $self->majority;
    my %clients;
    foreach my $key (@keys)
    {
        my $port = port_of_slot($self->slot($key), @view) // croak "no node has the slot of $key";
        $clients{$port} //= SlateClient->new($self->at_port($port));
        $function->($clients{$port}, $key);
    }
    return;
}

sub values
{
    my ($self, @keys) = @_;
    my %values;
    $self->for_each(
        sub {
            my ($client, $key) = @_;
            my $value = $client->ask('GET', $key);
            $values{$key} = $value if defined $value;
        },
        @keys);
    return %values;
}

sub set
{
    my ($self, %values) = @_;
    $self->for_each(sub { $_[0]->ask('SET', $_[1], $values{ $_[1] }) }, sort keys %values);
    return;
}

sub del
{
    my ($self, @keys) = @_;
    $self->for_each(sub { $_[0]->ask('DEL', $_[1]) }, @keys);
    return;
}

sub keys
{
    my ($self, $pattern) = @_;
    my @keys = sort map { @{ SlateClient->new($_)->ask('KEYS', $pattern // '*') } } $self->masters;
    return @keys;
}

sub compare
{
    my ($self, $node, $table, $template, %args) = @_;
    my %expected = SlateCheck::rows($node, $table, $template, %args);
    my @strays = grep { !exists $expected{$_} } $self->keys(SlateCheck::glob_of($template));
    my %values = $self->values(CORE::keys %expected);
    my @wrong = grep { $values{$_} ne $expected{$_} } sort CORE::keys %values;
    my @examples = ((map { "$_: $values{$_} instead of $expected{$_}" } @wrong), map { "$_: has no row" } @strays);
    return (
        right => CORE::keys(%values) - @wrong,
        wrong => scalar @examples,
        missing => CORE::keys(%expected) - CORE::keys %values,
        examples => join "\n", @examples[ 0 .. ($#examples < 9 ? $#examples : 9) ]);
}

sub flushall { my ($self) = @_; ask_for_ok($_, 'FLUSHALL') foreach $self->masters; return }

#
# Slots
#

sub begin_move
{
    my ($self, $slot, $from, $to) = @_;
    ask_for_ok($to, 'CLUSTER', 'SETSLOT', $slot, 'IMPORTING', $self->{id}{ $from->port });
    ask_for_ok($from, 'CLUSTER', 'SETSLOT', $slot, 'MIGRATING', $self->{id}{ $to->port });
    return;
}

sub migrate_keys
{
    my ($self, $slot, $from, $to, @keys) = @_;
    my $client = SlateClient->new($from);
    my @login = defined $self->{password} ? ('AUTH', $self->{password}) : ();
    my $only = @keys;
    while ($only || (@keys = @{ $client->ask('CLUSTER', 'GETKEYSINSLOT', $slot, 100) }))
    {
        $client->ask('MIGRATE', '127.0.0.1', $to->port, '', 0, 10000, @login, 'KEYS', @keys);
        last if $only;
    }
    return;
}

# Whom it is taken from must not be told first: it would hand the slot to nobody.
sub end_move
{
    my ($self, $slot, $from, $to) = @_;
    my @others = grep { $_ != $from && $_ != $to } $self->masters;
    ask_for_ok($_, 'CLUSTER', 'SETSLOT', $slot, 'NODE', $self->{id}{ $to->port }) foreach $to, $from, @others;
    $self->wait_until_ok;
    return;
}

# The keys that have gone ahead stay where nobody finds them.
sub give_up_move
{
    my ($self, $slot, $from, $to) = @_;
    ask_for_ok($_, 'CLUSTER', 'SETSLOT', $slot, 'STABLE') foreach $from, $to;
    $self->wait_until_ok;
    return;
}

sub move_slot
{
    my ($self, $slot, $from, $to) = @_;
    $self->begin_move($slot, $from, $to);
    $self->migrate_keys($slot, $from, $to);
    $self->end_move($slot, $from, $to);
    return;
}

# A redis-server that has stopped when pause returns: who asked it a moment later would wait
# for an answer.
package SlateCluster::Node;

use parent -norequire, 'SlateRedis';

sub pause
{
    my ($self) = @_;
    $self->SUPER::pause;
    SlateRedis::wait_until(sub { SlateSentinel::is_paused($self) }, 'a node has stopped') if $self->pid;
    return;
}

1;
