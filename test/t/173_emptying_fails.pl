# A Redis that takes the first steps of an emptying and not the rest, again and
# again: each attempt is a message in the log, and comes later after the one
# before, up to five seconds.  When Redis is well again, one suffices.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(time);

# An attempt that fails is followed by a rest of 100 ms, twice as much, ...
use constant { ATTEMPTS => 6, FIRST_REST => 0.1 };

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url, conf => {
    'slate_cache.timeout' => 30000, 'slate_cache.connect_timeout' => 30000, log_line_prefix => '%n ' });
SlateNode::create_items($node, 100);
my $session = SlateSession->new($node);
my $flusher = SlateSession->new($node);

# When it was tried, in seconds.
sub attempts
{
    my ($log) = @_;
    return map { /^([\d.]+) / } SlateNode::messages($node, qr/slate_cache empties its namespace/, $log);
}

# begin makes the namespace be emptied, which fails until end.  Returns the rests.
sub fails
{
    my ($what, %args) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $emptied = SlateNode::counter($node, 'emptied');
    my $log = SlateNode::log_size($node);
    $args{begin}->();
    SlateRedis::wait_until(sub { attempts($log) >= ATTEMPTS }, 'it was tried again and again');
    my @at = attempts($log);
    my @rests = map { $at[$_] - $at[ $_ - 1 ] } 1 .. ATTEMPTS - 1;
    note("$what: " . join ' ', map { sprintf '%.3f', $_ } @rests);

    # the log's clock has milliseconds
    my @short = grep { $rests[$_] < FIRST_REST * 2**$_ - 0.002 } 0 .. $#rests;
    is(join(' ', map { sprintf '%d: %.3f', $_, $rests[$_] } @short), '', "$what: each rest is twice as long");
    is(SlateNode::counter($node, 'emptied'), $emptied, "$what: the namespace is not emptied");

    my $well = time;
    $args{end}->();
    SlateNode::wait_for($node, "SELECT emptied FROM slate_cache.stats", $emptied + 1);
    note(sprintf '%s: emptied %.1f s after Redis was well again', $what, time - $well);
    cmp_ok(scalar attempts($log), '<=', @at + 2, "$what: then it is, at once");
    SlateRedis::wait_until(
        sub {
            my $value = "$what " . time;
            $session->query("UPDATE item SET name = '$value' WHERE id = 1");
            return $redis->field('shop:item:1', 'name') eq $value;
        },
        'a change is written through');
    return @rests;
}

# With each attempt Redis is asked for its epoch, and answers: that closes the
# breaker, which SCAN opens anew.
fails('Redis hangs up',
    begin => sub { $proxy->hang_up(qr/\r\nSCAN\r\n/); $redis->cli('FLUSHALL') },
    end => sub { $proxy->pass });

# Somebody waits for this one.
fails('Redis refuses',
    begin => sub {
        $redis->cli('ACL', 'SETUSER', 'default', '-scan');
        $flusher->send('SELECT slate_cache_flush()');
    },
    end => sub {
        $flusher->finish;
        like($flusher->error, qr/Redis does not take what the worker tells it/, 'whoever has asked for it is told after five seconds');
        $redis->cli('ACL', 'SETUSER', 'default', '+@all');
    });

# The rests begin anew: the last of them would have been of some seconds.
my ($first) = fails('Redis refuses again',
    begin => sub { $redis->cli('ACL', 'SETUSER', 'default', '-scan'); $redis->cli('FLUSHALL') },
    end => sub { $redis->cli('ACL', 'SETUSER', 'default', '+@all') });
cmp_ok($first, '<', 20 * FIRST_REST, 'after a success the first rest is short again');

$_->quit foreach $session, $flusher;
SlateNode::unharmed($node);
done_testing();
