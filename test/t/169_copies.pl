# Databases that came from one another, or have nothing in common but a Redis
# and the names of their keys: a restored dump, a copy of a database, two
# clusters, a clone that runs beside its original.  Nothing that one has left
# is another's, and nobody's version is compared with another's.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateHistory;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep);

my $redis = SlateRedis->new;
my %conf = ('slate_cache.guard_life' => 10, 'slate_cache.timeout' => 5000, 'slate_cache.connect_timeout' => 5000);
my $first = SlateNode->start('first', redis => $redis, testing => 1, conf => \%conf);
SlateNode::create_items($first, 50);
SlateHistory::set_again($first, $redis, 'at first');
$redis->cli('SET', 'other:app', 'theirs');

#
# A dump, restored into another cluster.  Its rules come with its triggers.
#

my $dump = $first->basedir . '/dump';
command_ok([ 'pg_dump', '-Fc', '-f', $dump, $first->connstr('postgres') ], 'pg_dump');
$first->safe_psql('postgres', "UPDATE item SET name = 'after the dump' WHERE id < 20;
    DELETE FROM item WHERE id = 30; INSERT INTO item VALUES (51, 'after the dump')");
is($redis->field('shop:item:2', 'name'), 'after the dump', 'Redis has what is not in the dump');
$first->stop;

my $second = SlateNode->start('second', redis => $redis, testing => 1, conf => \%conf, extension => 0);
command_ok([ 'pg_restore', '-e', '-d', $second->connstr('postgres'), $dump ], 'pg_restore');
my $session = SlateSession->new($second);
is(SlateHistory::wrong_gets($session), '', 'dump: gets are right at once');
SlateHistory::become_right($second, $redis, 'dump');
SlateHistory::set_again($second, $redis, 'dump');
is(SlateHistory::wrong_gets($session), '', 'dump: gets are right');
is(SlateHistory::wrong($second, $redis), '', 'dump: what they have filled is right');
$session->quit;

#
# A copy of a database.  It has a part of Redis of its own, and there is what an
# earlier copy has left.
#

my $url = $redis->url(db => 1);

sub copy_database
{
    $second->safe_psql('template1', "CREATE DATABASE copy TEMPLATE postgres;
        ALTER DATABASE copy SET slate_cache.url = '$url'");
    return;
}

# The same Redis, its part 1.
package SlateRedisPart
{
    our @ISA = ('SlateRedis');
    sub cli { my ($self, @command) = @_; return $self->SUPER::cli('-n', 1, @command) }
    sub DESTROY { return }
}
my $part = bless { %$redis }, 'SlateRedisPart';

sub wrong_in_part
{
    my %names = map { split /\|/ } split /\n/,
      $second->safe_psql('copy', q{SELECT 'shop:item:' || id, name FROM item});
    return join ' ', grep { my $name = $part->field($_, 'name'); $name ne '' && $name ne ($names{$_} // '') }
      split /\n/, $part->all_keys('shop:item:*');
}

copy_database();
$second->safe_psql('copy', "UPDATE item SET name = 'an earlier copy' WHERE id < 20;
    INSERT INTO item VALUES (60, 'an earlier copy')");
$session = SlateSession->new($second, database => 'copy');
SlateRedis::wait_until(
    sub {
        $session->query("UPDATE item SET name = 'earlier copy ' || clock_timestamp() WHERE id = 3");
        return $part->field('shop:item:3', 'name') =~ /^earlier copy/;
    },
    'a copy writes through');
$session->query("UPDATE item SET name = 'an earlier copy' WHERE id < 20");
is($part->field('shop:item:2', 'name'), 'an earlier copy', 'a copy has a cache of its own');
is(wrong_in_part(), '', 'copy: no key is wrong');
is(SlateHistory::wrong($second, $redis), '', 'copy: the original is as it was');
$session->quit;
$second->safe_psql('template1', 'DROP DATABASE copy');
is($part->field('shop:item:2', 'name'), 'an earlier copy', 'it leaves something behind');
copy_database();
$session = SlateSession->new($second, database => 'copy');
is(SlateHistory::wrong_gets($session), '', 'another copy: gets are right at once');
SlateRedis::wait_until(sub { wrong_in_part() eq '' }, 'another copy: no key is wrong');
SlateRedis::wait_until(
    sub {
        $session->query("UPDATE item SET name = 'another copy ' || clock_timestamp() WHERE id = 3");
        return $part->field('shop:item:3', 'name') =~ /^another copy/;
    },
    'another copy writes through');
is(SlateHistory::wrong_gets($session), '', 'another copy: gets are right');
is(wrong_in_part(), '', 'another copy: what they have filled is right');
is(SlateHistory::wrong($second, $redis), '', 'another copy: the original is as it was');
$session->quit;

#
# Two clusters that both write the same keys.  Which of the two an app finds
# there nobody can say; but after a commit it is the value of that commit or
# none, never one from before it.  The first has been at it for longer: its WAL
# is far ahead.  The tables' and indexes' numbers are the same in both.
#

# Each of the two alternates; returns how often something old was found.
sub take_turns
{
    my ($one, $other, $what) = @_;
    my ($wrong, $set) = (0, 0);
    my %session = (one => SlateSession->new($one), other => SlateSession->new($other));
    foreach my $turn (1 .. 24)
    {
        my $whose = (qw(one other other one one other))[ $turn % 6 ];
        my $id = 2 + $turn % 2;
        $session{$whose}->query("UPDATE item SET name = '$whose $turn' WHERE id = $id");
        my $found = $redis->field("shop:item:$id", 'name');
        $wrong++ unless $found eq '' || $found eq "$whose $turn";
        $set++ if $found ne '';

        # What is filled is its own, too, as long as the other does nothing.
        $session{$whose}->query("SELECT slate_cache_del('shop:item:$id')");
        $wrong++ unless $session{$whose}->query("SELECT slate_cache_get('shop:item:$id')->>'name'") eq "$whose $turn";
    }
    is($wrong, 0, "$what: nothing old was found");
    note("$what: $set of 24 commits have set a value");
    $_->quit foreach values %session;
    return;
}

$first->start;
$first->safe_psql('postgres', 'SELECT txid_current(); SELECT pg_switch_wal()') foreach 1 .. 12;
cmp_ok($first->safe_psql('postgres', 'SELECT pg_current_wal_lsn() - \'0/0\''), '>',
    $second->safe_psql('postgres', 'SELECT pg_current_wal_lsn() - \'0/0\''), 'the WAL of one is far ahead');
take_turns($first, $second, 'two clusters');

# A pattern that one drops takes what the other has put, whatever their
# positions.
$first->safe_psql('postgres', "UPDATE item SET name = 'put by the first' WHERE id = 6");
$second->safe_psql('postgres', "SELECT slate_cache_invalidate('shop:item:*')");
is($redis->all_keys('shop:item:*'), '', 'a pattern takes everything');

# A push that is late: meanwhile its own cluster has pushed what is newer, and the
# other one may have, too.
my $gate = SlateSession->new($first);
my $late = SlateSession->new($first);
$late->query("SET slate_cache.pause_at = 'before_publish'");
foreach my $order ('second first', 'first second', 'first')
{
    $gate->query('SELECT pg_advisory_lock(7351, 2)');
    $late->send("UPDATE item SET name = 'late' WHERE id = 4");
    SlateNode::wait_for($first,
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", '1');
    foreach my $whose (split / /, $order)
    {
        ($whose eq 'first' ? $first : $second)
          ->safe_psql('postgres', "UPDATE item SET name = '$whose since' WHERE id = 4");
    }
    $gate->query('SELECT pg_advisory_unlock(7351, 2)');
    $late->finish;
    isnt($redis->field('shop:item:4', 'name'), 'late', "a late push, after $order: it does not win");
}

# Two that are late, after a newer one, and after the other cluster's.  They
# come one by one: in the queue for the lock another gate stands between them.
my $second_gate = SlateSession->new($first);
my $later = SlateSession->new($first);
$later->query("SET slate_cache.pause_at = 'before_publish'");
$gate->query('SELECT pg_advisory_lock(7351, 2)');
my $waiting = 0;
foreach my $step (
    [ $late, "UPDATE item SET name = 'late 1' WHERE id = 5" ],
    [ $second_gate, 'SELECT pg_advisory_lock(7351, 2)' ],
    [ $later, "UPDATE item SET name = 'late 2' WHERE id = 5" ])
{
    $step->[0]->send($step->[1]);
    SlateNode::wait_for($first,
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", ++$waiting);
}
$first->safe_psql('postgres', "UPDATE item SET name = 'newer' WHERE id = 5");
$second->safe_psql('postgres', "UPDATE item SET name = 'of the other' WHERE id = 5");
$gate->query('SELECT pg_advisory_unlock(7351, 2)');
$_->finish foreach $late, $second_gate;
unlike($redis->field('shop:item:5', 'name'), qr/late/, 'two late pushes: the first does not win');
$second_gate->query('SELECT pg_advisory_unlock(7351, 2)');
$later->finish;
unlike($redis->field('shop:item:5', 'name'), qr/late/, 'two late pushes: nor does the second');
$_->quit foreach $gate, $late, $second_gate, $later;

# What one does to its epoch is not the business of the other.
my ($epochs) = scalar split /\n/, $redis->all_keys('slate_cache:epoch:*');
cmp_ok($epochs, '>=', 2, 'each has an epoch of its own');
my $emptied = SlateNode::counter($second, 'emptied');
$first->restart;
SlateHistory::set_again($first, $redis, 'a restart of one');
$first->safe_psql('postgres', 'SELECT slate_cache_flush()');
$second->safe_psql('postgres', "UPDATE item SET name = 'after a flush' WHERE id = 7");
like($redis->field('shop:item:7', 'name'), qr/^(?:after a flush)?$/, 'a flush of one: the other has its value there, or none');
is($second->safe_psql('postgres', "SELECT slate_cache_get('shop:item:7')->>'name'"), 'after a flush', 'and gets it');
is($second->safe_psql('postgres', "SELECT detail FROM slate_cache.health WHERE \"check\" = 'history'"), 'known',
    'its history is as before');
is(SlateNode::counter($second, 'emptied'), $emptied, 'who has not emptied anything');

# The other falls silent: what it has left goes as the rows change.
$second->stop;
$first->safe_psql('postgres', "UPDATE item SET name = 'alone ' || id");
is(SlateHistory::wrong($first, $redis), '', 'alone again: no key is wrong');

#
# A clone: the same cluster, the same timeline, twice.
#

$first->stop;
$first->backup_fs_cold('cold');
my $clone = PostgreSQL::Test::Cluster->new('clone', install_path => $ENV{SLATE_TESTING_INSTALLATION});
$clone->init_from_backup($first, 'cold');
$first->start;
$first->safe_psql('postgres', "UPDATE item SET name = 'original' WHERE id > 4");
$clone->start;
$session = SlateSession->new($clone);
is(SlateHistory::wrong_gets($session), '', 'clone: gets are right at once');
take_turns($first, $clone, 'clone');

my $before = SlateNode::counter($first, 'emptied') + SlateNode::counter($clone, 'emptied');
$session->query('SELECT pg_sleep(4)');
my $after = SlateNode::counter($first, 'emptied') + SlateNode::counter($clone, 'emptied');
note('clone: in 4 s both have emptied the namespace ' . ($after - $before) . ' times');
cmp_ok($after - $before, '<=', 8, 'clone: they do not empty it all the time');
$session->query("UPDATE item SET name = 'clone' WHERE id > 10");
$session->quit;
$clone->stop;
SlateHistory::become_right($first, $redis, 'clone gone');
SlateHistory::set_again($first, $redis, 'clone gone');
SlateHistory::become_right($first, $redis, 'in the end');
is($redis->cli('GET', 'other:app'), 'theirs', 'keys of others are left alone');

SlateNode::unharmed($_) foreach $first, $second, $clone;
done_testing();
