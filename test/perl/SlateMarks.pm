#-------------------------------------------------------------------------
# SlateMarks - what strict writers have marked in a SlateRedis, and who looks.
#
#   use SlateMarks;
#   SlateMarks::count($client);                # marks that stand
#   SlateMarks::wait_for_looks($client);       # until the worker has looked
#
# $client is a SlateClient.
#-------------------------------------------------------------------------
package SlateMarks;

use strict;
use warnings;
use SlateRedis;

# Transactions, and beginnings of keys.
sub count
{
    my ($client) = @_;
    return $client->ask('EVAL', q{
        local found = redis.call('HLEN', 'slate_cache:marked')
        for _, name in ipairs(redis.call('KEYS', 'slate_cache:marks:*')) do
          for _, field in ipairs(redis.call('HKEYS', name)) do
            if #field == 16 then found = found + 1 end
          end
        end
        return found}, 0);
}

# Rounds of the worker, each of which looks at all marks.
sub looks
{
    my ($client) = @_;
    my ($calls) = $client->ask('INFO', 'commandstats') =~ /cmdstat_hgetall:calls=(\d+)/;
    return $calls // 0;
}

# One round that has begun after this is called has ended.
sub wait_for_looks
{
    my ($client) = @_;
    my $before = looks($client);
    SlateRedis::wait_until(sub { looks($client) >= $before + 2 }, 'the worker has looked');
    return;
}

1;
