#-------------------------------------------------------------------------
# SlateDirect - pushes without a script, and one of them held back on its way.
#
#   use SlateDirect;
#   my $way = SlateDirect->new(proxy => $proxy, slow => $session, watcher => $other);
#   $way->is_direct($session, 'UPDATE ...');   # is it pushed directly?
#   $way->warm_up($session);                   # until it does push directly
#   $way->commit_slowly('UPDATE ...');         # by slow: committed, its push is held
#   $way->push_arrives('what');                # then; 1 if Redis has done it, else 0
#   $way->counter('pushes_delayed');
#
# The sessions are SlateSessions of a node whose Redis is behind the proxy, with the
# rows of SlateNode::create_items(); number 99 is changed to warm up.  What is sent
# directly is told by its MULTI before keys that begin with "shop:".  The watcher asks
# for counters, and writes WAL into a table of its own.
#-------------------------------------------------------------------------
package SlateDirect;

use strict;
use warnings;
use SlateRedis;
use Test::More;

# What a direct push begins with, for the proxy.
our $PUSH = qr/\r\nMULTI\r\n.*\r\nshop:/s;

sub new
{
    my ($class, %args) = @_;
    $args{watcher}->query('CREATE TABLE IF NOT EXISTS filler (t text)');
    return bless {%args}, $class;
}

sub counter
{
    my ($self, $name) = @_;
    return $self->{watcher}->query("SELECT $name FROM slate_cache.stats");
}

sub is_direct
{
    my ($self, $session, $sql) = @_;
    my $before = $self->counter('pushes_direct');
    $session->query($sql);
    return $self->counter('pushes_direct') == $before + 1;
}

# Far in the WAL, so that a place where somebody was fenced off is free again.
sub fill
{
    my ($self) = @_;
    $self->{watcher}->query(q{INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 400)});
    return;
}

# The worker has looked, and the session has pushed often enough to WATCH.
sub warm_up
{
    my ($self, $session) = @_;
    $self->fill;
    SlateRedis::wait_until(
        sub { $self->is_direct($session, q{UPDATE item SET name = name || '.' WHERE id = 99}) },
        'a session pushes directly');
    return;
}

# The commit waits; others pass.
sub commit_slowly
{
    my ($self, $sql) = @_;
    $self->warm_up($self->{slow});
    $self->{proxy}->hold($PUSH);
    $self->{slow}->send($sql);
    $self->{proxy}->wait_until_held;
    $self->{proxy}->pass;
    return;
}

sub push_arrives
{
    my ($self, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $before = $self->counter('pushes_direct');
    $self->{proxy}->release;
    $self->{slow}->finish;
    is($self->{slow}->error, '', "$what: the slow commit ends well");
    return $self->counter('pushes_direct') - $before;
}

1;
