#-------------------------------------------------------------------------
# SlateNode - a PostgreSQL::Test::Cluster node that has slate_cache preloaded.
#
#   use SlateNode;
#   my $node = SlateNode->start('main', redis => $redis,
#       testing => 1,                                   # the pause points' build
#       conf => { 'slate_cache.timeout' => 200 },       # more settings
#       init => [ allows_streaming => 1 ],              # for Cluster's init
#       extension => 0);                                # no CREATE EXTENSION
#
# Returns the Cluster object, started, with the extension in its database
# "postgres".  redis is a SlateRedis object or a url.  A test that asks for the
# testing build is skipped where there is none.
#
#   SlateNode::set($node, 'slate_cache.timeout' => 50, ...);   # and reload
#   SlateNode::wait_for($node, 'SELECT ...', 'expected');      # polls, croaks
#   SlateNode::wait_until_trusted($node, $database);           # Redis is
#   SlateNode::wait_for_a_round($node);                        # of the worker's
#   SlateNode::stop_worker($node);                             # SIGSTOP
#   SlateNode::continue_worker;
#-------------------------------------------------------------------------
package SlateNode;

use strict;
use warnings;
use Carp;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils ();
use SlateRedis;
use Test::More;

my $stopped;
END { continue_worker() }

sub start
{
    my ($class, $name, %args) = @_;
    my @installation;
    if ($args{testing})
    {
        my $path = $ENV{SLATE_TESTING_INSTALLATION};
        plan skip_all => 'needs the testing build: make test' unless $path;
        @installation = (install_path => $path);
    }
    my $node = PostgreSQL::Test::Cluster->new($name, @installation);
    $node->init(@{ $args{init} // [] });

    my %conf = (
        shared_preload_libraries => 'slate_cache',
        max_prepared_transactions => 10,
        %{ $args{conf} // {} });
    $conf{'slate_cache.url'} = ref $args{redis} ? $args{redis}->url : $args{redis}
      if defined $args{redis};
    foreach my $setting (sort keys %conf)
    {
        $node->append_conf('postgresql.conf', "$setting = " . quote($conf{$setting}));
    }
    $node->start;
    return $node if defined $args{extension} && !$args{extension};
    $node->safe_psql('postgres', 'CREATE EXTENSION slate_cache');

    # The first commit waits for the worker's first look, but not for ever.
    wait_until_trusted($node)
      if ref $args{redis} && $args{redis}->pid && $conf{shared_preload_libraries} =~ /slate_cache/;
    return $node;
}

# In postgresql.conf every value may stand in quotes.
sub quote
{
    my ($value) = @_;
    $value =~ s/(['\\])/$1$1/g;
    return "'$value'";
}

sub set
{
    my ($node, %settings) = @_;
    my $loaded = $node->safe_psql('postgres', 'SELECT pg_conf_load_time()');
    foreach my $setting (sort keys %settings)
    {
        $node->append_conf('postgresql.conf', "$setting = " . quote($settings{$setting}));
    }
    $node->reload;

    # The postmaster reads it when it gets to it; sessions begun later have it.
    wait_for($node, "SELECT pg_conf_load_time() > '$loaded'");
    return;
}

sub wait_for
{
    my ($node, $query, $expected, $database) = @_;
    $node->poll_query_until($database // 'postgres', $query, $expected // 't')
      or croak "timed out waiting for: $query";
    return;
}

# A Redis that is new to a database is emptied before it is trusted.
sub wait_until_trusted
{
    my ($node, $database) = @_;
    wait_for($node, q{SELECT ok FROM slate_cache.health WHERE "check" = 'history'}, 't', $database);
    return;
}

# The worker of the database "postgres", which has Redis, does all that it has to
# do; it begins after this is called.
sub wait_for_a_round
{
    my ($node) = @_;
    foreach my $end (1, 2)
    {
        my $now = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
        wait_for($node, qq{SELECT count(*) > 0 FROM pg_stat_activity
            WHERE backend_type = 'slate_cache worker' AND datname = 'postgres'
            AND query = 'waiting for something to do' AND state_change > '$now'});
    }
    return;
}

sub counter
{
    my ($node, $name) = @_;
    return $node->safe_psql('postgres', "SELECT $name FROM slate_cache.stats");
}

# From here on nothing is done in the background of the database "postgres".
sub stop_worker
{
    my ($node) = @_;
    my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity
        WHERE backend_type = 'slate_cache worker' AND datname = 'postgres'});
    croak 'there is no worker' unless $pid;
    $stopped = $pid;
    kill 'STOP', $pid;
    SlateRedis::wait_until(sub { PostgreSQL::Test::Utils::slurp_file("/proc/$pid/stat") =~ /\) T / }, 'the worker has stopped');
    return;
}

sub continue_worker
{
    kill 'CONT', $stopped if $stopped;
    $stopped = undef;
    return;
}

sub log_size { return -s $_[0]->logfile }

sub log_text
{
    my ($node, $offset) = @_;
    return PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset // 0);
}

# Lines that say something, as opposed to statements that mention it.
sub messages
{
    my ($node, $pattern, $offset) = @_;
    return grep { !/LOG:  statement:/ && /$pattern/ } split /\n/, log_text($node, $offset);
}

# After a crash the postmaster lives on, so its start says little; its log does.
sub unharmed
{
    my ($node, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @harm = messages($node,
        qr/PANIC:|was terminated by|reinitializing|TRAP:/);
    is(join("\n", @harm), '', $name // 'no process of the server has died');
    return;
}

# A table with one row rule; rows 1 to n have the name "old".
sub create_items
{
    my ($node, $rows, $database, $namespace) = @_;
    $namespace //= 'shop';
    $node->safe_psql($database // 'postgres', qq{
        CREATE TABLE item (id int PRIMARY KEY, name text);
        SELECT slate_cache_attach('item', row_keys => ARRAY['$namespace:item:{id}']);
        INSERT INTO item SELECT i, 'old' FROM generate_series(1, $rows) i});
    return;
}

1;
