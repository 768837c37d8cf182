#-------------------------------------------------------------------------
# SlateOutage - a load, a fault of Redis in the midst of it, and what must be
# true during and after it.
#
#   use SlateOutage;
#   my $outage = SlateOutage->new(
#       timeout => 400,                  # slate_cache.timeout, ms
#       proxy => 1,                      # a SlateProxy stands before Redis
#       redis => { save => '3600 1' });  # its config
#   $outage->hit('hangs',
#       begin => sub { $outage->redis->pause },
#       end => sub { $outage->redis->resume },
#       seconds => 2,                    # how long
#       warm => 1,                       # what was not touched is still cached
#       delayed => 1);                   # pushes fail
#   $outage->finish;
#
# hit() lets a few sessions change, move, delete, insert and read rows, makes
# the fault for some seconds (a minute with SLATE_LONG), and asserts: no
# transaction fails, commits go on, none waits for long, not even that of a
# session that is new; afterwards the journal empties itself while the load
# still runs; nothing is lost; and every key is right.  Half of the rows, lists
# and patterns are not touched; with warm those must still be in Redis.
#-------------------------------------------------------------------------
package SlateOutage;

use strict;
use warnings;
use List::Util qw(max);
use SlateCheck;
use SlateLoad;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep time);

# Rows 1 to HOT are changed, as many more are not; likewise shelves (lists) and
# customers (patterns).
use constant { HOT => 300, SHELVES => 10, CUSTOMERS => 10 };

# How long a fault lasts.
use constant SECONDS => $ENV{SLATE_LONG} ? 60 : 2;

# All must be right within this time after the fault, on the busiest machine.
use constant RECOVERY => 30;

sub new
{
    my ($class, %args) = @_;
    my $timeout = $args{timeout} // 400;
    my $redis = SlateRedis->new(config => $args{redis} // {});
    my $proxy = $args{proxy} ? SlateProxy->new($redis) : undef;
    my $node = SlateNode->start('main', redis => $proxy ? $proxy->url : $redis,
        conf => { 'slate_cache.timeout' => $timeout, 'slate_cache.connect_timeout' => $timeout,
            %{ $args{conf} // {} } });
    SlateNode::wait_for($node, q{SELECT ok FROM slate_cache.health WHERE "check" = 'history'});
    $node->safe_psql('postgres', q{
        CREATE TABLE item (id int PRIMARY KEY, shelf int, name text);
        CREATE TABLE sale (customer int, at timestamptz DEFAULT clock_timestamp());
        INSERT INTO item SELECT i, 1 + i % } . SHELVES . q{ + CASE WHEN i > } . HOT
          . ' THEN ' . SHELVES . q{ ELSE 0 END, 'old' FROM generate_series(1, } . 2 * HOT . q{) i;
        SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'],
            list_keys => ARRAY['shop:shelf:{shelf}']);
        SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
    return bless { redis => $redis, proxy => $proxy, node => $node, timeout => $timeout / 1000,
        session => SlateSession->new($node) }, $class;
}

sub redis { return $_[0]{redis} }
sub proxy { return $_[0]{proxy} }
sub node { return $_[0]{node} }

# What the sessions do; rows that are deleted come back.
sub scripts
{
    my $row = "\\sleep 2 ms\n\\set id random(1, " . HOT . ")\n\\set shelf random(1, " . SHELVES . ")\n";
    my $customer = "\\sleep 2 ms\n\\set customer random(1, " . CUSTOMERS . ")\n";
    return [
        [ 6 => "${row}UPDATE item SET name = clock_timestamp()::text, shelf = :shelf WHERE id = :id;" ],
        [ 2 => "${row}BEGIN;
            UPDATE item SET name = 'gone' WHERE id = :id;
            SAVEPOINT s;
            UPDATE item SET name = 'never' WHERE id = :id;
            ROLLBACK TO s;
            UPDATE item SET name = clock_timestamp()::text WHERE id = :id;
            COMMIT;" =~ s/\n +/\n/gr ],
        [ 1 => "${row}DELETE FROM item WHERE id = :id;" ],
        [ 2 => "${row}INSERT INTO item VALUES (:id, :shelf, 'new') ON CONFLICT (id) DO UPDATE SET name = 'again';" ],
        [ 2 => "${customer}INSERT INTO sale VALUES (:customer);" ],
        [ 2 => "${row}SELECT slate_cache_get('shop:item:' || :id), slate_cache_get('shop:shelf:' || :shelf);" ]
    ];
}

# What apps have put under the customers' patterns.
sub search_keys { return map { "shop:search:$_:mine" } $_[0] .. $_[1] }

sub warm_keys
{
    return (
        (map { "shop:item:$_" } HOT + 1 .. 2 * HOT),
        (map { "shop:shelf:$_" } SHELVES + 1 .. 2 * SHELVES),
        search_keys(CUSTOMERS + 1, 2 * CUSTOMERS),
        'app:mine');
}

sub fill
{
    my ($self) = @_;
    my ($node, $redis) = @{$self}{qw(node redis)};
    SlateRedis::wait_until(
        sub {
            $self->{session}->query(q{SELECT count(*) FROM slate_cache_mget(
                (SELECT array_agg(k) FROM (SELECT 'shop:item:' || id AS k FROM item
                    UNION SELECT 'shop:shelf:' || shelf FROM item) x))});
            return SlateCheck::present($redis, map { "shop:shelf:$_" } 1 .. 2 * SHELVES) == 2 * SHELVES;
        },
        'the cache is filled');
    $redis->cli('MSET', map { ($_, '"app"') } search_keys(CUSTOMERS + 1, 2 * CUSTOMERS), 'app:mine');
    $node->safe_psql('postgres', 'SELECT slate_cache_stats_reset()');
    return;
}

# How many transactions Redis may not have heard of; those that began to wait
# before a time, or all.
sub in_doubt
{
    my ($self, $before) = @_;
    return $self->{node}->safe_psql('postgres', 'SELECT count(DISTINCT xid) FROM slate_cache.journal'
          . (defined $before ? " WHERE since < '$before'" : ''));
}

sub hit
{
    my ($self, $name, %args) = @_;
    my ($node, $redis) = @{$self}{qw(node redis)};
    my $bound = 4 * $self->{timeout} + 5;
    my $delayed = $args{delayed} // 1;

    $self->fill;
    my @warm = warm_keys();
    is(SlateCheck::present($redis, @warm), scalar @warm, "$name: before it, all is warm");

    my $load = SlateLoad->new($node, scripts => scripts());
    SlateNode::wait_for($node, 'SELECT pushes > 100 FROM slate_cache.stats');

    # What sales after this are to drop.
    $redis->cli('MSET', map { ($_, '"app"') } search_keys(1, CUSTOMERS));
    my $since = $node->safe_psql('postgres', 'SELECT clock_timestamp()');

    my $began = time;
    $args{begin}->();
    SlateNode::wait_for($node, 'SELECT pushes_delayed > 10 FROM slate_cache.stats') if $delayed;
    my $new = SlateSession->new($node);
    $new->query("UPDATE item SET name = 'by a new session' WHERE id = 1");
    my ($new_error, $new_seconds) = ($new->error, $new->seconds);
    sleep 0.05 while time < $began + max(SECONDS, $args{seconds} // 0);
    $args{during}->($name) if $args{during};

    my $ended = time;
    $args{end}->();

    # Under load there is always something new.
    my $then = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
    my $backlog = $self->in_doubt($then);
    SlateRedis::wait_until(sub { $self->in_doubt($then) == 0 }, "$name: the backlog is replayed");
    my $recovered = time;
    my $stored = SlateNode::counter($node, 'keys_stored');
    SlateRedis::wait_until(sub { SlateNode::counter($node, 'keys_stored') > $stored }, 'changes arrive');
    $load->stop;
    SlateNode::wait_for($node, 'SELECT count(*) = 0 FROM slate_cache.journal');

    is($load->errors, '', "$name: no transaction fails");
    cmp_ok($load->count($began, $ended), '>', 20, "$name: commits go on");
    is($new_error, '', "$name: a new session's commit succeeds");
    my ($normal, $slowest) = ($load->slowest(0, $began), $load->slowest($began));
    cmp_ok($slowest, '<', $bound, "$name: no transaction waits for long");
    cmp_ok($new_seconds, '<', $bound, "$name: nor does the new session's");
    cmp_ok($recovered - $ended, '<', RECOVERY, "$name: the backlog is replayed soon after it");
    note(sprintf '%s: %d transactions in %.1f s; the slowest took %.0f ms, before it %.0f ms, '
          . 'timeout %.0f ms, the new session %.0f ms; %d in doubt, done after %.2f s',
        $name, $load->count($began, $ended), $ended - $began, 1000 * $slowest, 1000 * $normal,
        1000 * $self->{timeout}, 1000 * $new_seconds, $backlog, $recovered - $ended);
    $self->check_counters($name, $delayed);
    $self->check_keys($name, $since, $args{warm} // 1);
    return;
}

sub check_counters
{
    my ($self, $name, $delayed) = @_;
    my ($pushes, $late, $keys, $replayed, $emptied, $lost, $keys_lost) = split /\|/,
      $self->{node}->safe_psql('postgres', 'SELECT pushes, pushes_delayed, keys_delayed, replayed, emptied,
        pushes_lost, keys_lost FROM slate_cache.stats');
    note("$name: $pushes pushes, $late delayed ($keys keys), $replayed replayed, emptied $emptied times");
    is("$lost|$keys_lost", '0|0', "$name: nothing is lost");
    return unless $delayed;
    cmp_ok($late, '>', 0, "$name: pushes were delayed");
    cmp_ok($replayed, '>', 0, "$name: and replayed");
    return;
}

sub check_keys
{
    my ($self, $name, $since, $warm) = @_;
    my ($node, $redis) = @{$self}{qw(node redis)};
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my %rows = SlateCheck::all_right($node, $redis, 'item', 'shop:item:{id}', name => "$name: rows");
    SlateCheck::all_right($node, $redis, 'item', 'shop:shelf:{shelf}', list => 'id', name => "$name: lists");

    # What a commit or a replay leaves to a sweep may take it a moment.
    my @gone = map { search_keys($_, $_) } split /\n/,
      $node->safe_psql('postgres', "SELECT DISTINCT customer FROM sale WHERE at > '$since'");
    cmp_ok(scalar @gone, '>', 0, "$name: patterns were to be dropped");
    SlateRedis::wait_until(sub { SlateCheck::present($redis, @gone) == 0 },
        "$name: the patterns' keys are gone");
    my @warm = warm_keys();
    my $present = SlateCheck::present($redis, @warm);
    note("$name: $present of " . @warm . ' keys that were not touched are warm');
    is($present, scalar @warm, "$name: what was not touched is warm") if $warm;
    is($redis->cli('EXISTS', 'app:mine'), '1', "$name: what is an app's alone is there");

    # And on it goes; where the namespace was emptied, the first change of a key
    # may drop it, for it cannot be compared with what is known of the key.
    $self->{session}->query("UPDATE item SET name = '$_ $name' WHERE id = " . 2 * HOT) foreach qw(after well-after);
    is($redis->field('shop:item:' . 2 * HOT, 'name'), "well-after $name", "$name: commits write through");
    is($self->in_doubt, '0', "$name: and leave nothing in doubt");
    return;
}

sub finish
{
    my ($self) = @_;
    $self->{session}->quit;
    SlateNode::unharmed($self->{node});
    return;
}

1;
