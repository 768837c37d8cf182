#-------------------------------------------------------------------------
# SlateHistory - for tests in which Redis or PostgreSQL goes back in time.
#
#   use SlateHistory;                           # with SlateNode's table item
#   SlateHistory::wrong($node, $redis);            # what keys are wrong, '': none
#   SlateHistory::become_right($node, $redis, 'what');     # waits, asserts that
#                                                  # none is, notes how long
#   SlateHistory::set_again($node, $redis, 'what',         # waits, asserts that
#                                                  # changes are written through
#       row => 1, database => 'postgres');
#   SlateHistory::wrong_gets($session);            # slate_cache_get's answers,
#                                                  # for rows that are not there, too
#   SlateHistory::right_once_promoted($node, $redis, $session, 'what');
#                                                  # asserts that all answers are,
#                                                  # from the end of recovery on
#   SlateHistory::forget_journal($node);           # waits until it is truncated: what a
#                                                  # restart replays would hide the rest
#   SlateHistory::wait_until_gone($node);          # no process of it is left
#   SlateHistory::put_back($node, 'backup');       # $node->backup_fs_cold's, as
#                                                  # the stopped node's data
#-------------------------------------------------------------------------
package SlateHistory;

use strict;
use warnings;
use Carp;
use File::Path ();
use PostgreSQL::Test::RecursiveCopy;
use SlateCheck;
use SlateRedis;
use Test::More;
use Time::HiRes qw(sleep time);

# A wait that takes longer than this many seconds has failed.
use constant PATIENCE => 40;

my $serial = 0;

sub wrong
{
    my ($node, $redis, %args) = @_;
    my %found = SlateCheck::compare($node, $redis, 'item', 'shop:item:{id}', %args);
    return $found{wrong} ? "$found{wrong} wrong: $found{examples}" : '';
}

sub become_right
{
    my ($node, $redis, $what, %args) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $start = time;
    my $wrong;
    sleep 0.05
      until ($wrong = wrong($node, $redis, %args)) eq '' || time > $start + PATIENCE;
    is($wrong, '', "$what: no key is wrong");
    note(sprintf '%s: right after %.1f s', $what, time - $start);
    return;
}

# Once all is trusted Redis gets values, not just removals.
sub set_again
{
    my ($node, $redis, $what, %args) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $row = $args{row} // 1;
    my $start = time;
    my ($name, $found);
    do
    {
        sleep 0.05 if defined $found;
        $name = 'again ' . ++$serial;
        $node->safe_psql($args{database} // 'postgres', "UPDATE item SET name = '$name' WHERE id = $row");
        $found = $redis->field("shop:item:$row", 'name');
    } until $found eq $name || time > $start + PATIENCE;
    is($found, $name, "$what: a change is written through");
    note(sprintf '%s: written through after %.1f s', $what, time - $start);
    return;
}

sub wrong_gets
{
    my ($session) = @_;
    my $wrong = $session->query(q{
        SELECT m.key || ': ' || coalesce(value::text, 'null') || ' instead of ' || coalesce(name, 'null')
        FROM slate_cache_mget(ARRAY(SELECT 'shop:item:' || i
                                    FROM generate_series(1, (SELECT max(id) + 5 FROM item)) i)) m
             LEFT JOIN item ON m.key = 'shop:item:' || id
        WHERE value ->> 'name' IS DISTINCT FROM name});
    my @wrong = split /\n/, $wrong;
    splice @wrong, 5, @wrong - 5, @wrong . ' wrong' if @wrong > 5;
    return $session->error . join "\n", @wrong;
}

# Asks again and again, until the namespace has been emptied.
sub right_once_promoted
{
    my ($node, $redis, $session, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $start = time;
    my ($asked, $wrong, $wrong_keys, $promoted) = (0, '', '', 0);
    do
    {
        $promoted ||= $session->query('SELECT pg_is_in_recovery()') eq 'f';
        if ($promoted)
        {
            $asked++;
            $wrong ||= wrong_gets($session);
            $wrong_keys = wrong($node, $redis);
        }
    } until ($promoted && $wrong_keys eq '') || time > $start + PATIENCE;
    ok($promoted, "$what: recovery has ended");
    is($wrong, '', "$what: a session that was there gets what is right, asked $asked times");
    is($wrong_keys, '', "$what: no key is wrong");
    note(sprintf '%s: right after %.1f s', $what, time - $start);
    return;
}

# The worker does it when the journal is some seconds old.
sub forget_journal
{
    my ($node) = @_;
    $node->poll_query_until('postgres',
        q{SELECT sum(pg_relation_size(oid)) = 0 FROM pg_class WHERE relname ~ '^journal_[a-z]+$'})
      or croak 'the journal is not truncated';
    return;
}

# A postmaster that was killed leaves children, which end when they notice, and
# itself, until whoever is to look after it has done so.
sub wait_until_gone
{
    my ($node) = @_;
    my $data = $node->data_dir;
    my $postmaster = '';
    if (open my $file, '<', "$data/postmaster.pid") { ($postmaster) = <$file> =~ /(\d+)/; }
    SlateRedis::wait_until(
        sub {
            return !($postmaster && -d "/proc/$postmaster")
              && !grep { (readlink($_) // '') eq $data } glob '/proc/[0-9]*/cwd';
        },
        'the processes of ' . $node->name . ' have ended');
    return;
}

sub put_back
{
    my ($node, $backup) = @_;
    my $data = $node->data_dir;
    wait_until_gone($node);

    # The folder itself stays: by its inode the next postmaster finds, and frees, the
    # shared memory of one that was killed.
    File::Path::remove_tree($data, { keep_root => 1 });
    system('cp', '-R', $node->backup_dir . "/$backup/.", $data) == 0 or croak 'cp has failed';
    chmod 0700, $data or croak "chmod $data: $!";
    return;
}

1;
