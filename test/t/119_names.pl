# The server's name is looked up in the background, ahead of need: a name server
# that does not answer keeps no commit and no read waiting.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateNode;
use SlateRedis;
use Test::More;
use Time::HiRes qw(time);

# A getaddrinfo() that knows one more name, and takes long while a file exists.
my $dir = PostgreSQL::Test::Utils::tempdir();
my $slow = "$dir/slow";
append_to_file("$dir/names.c", q{
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

int
getaddrinfo(const char *node, const char *service,
            const struct addrinfo *hints, struct addrinfo **list)
{
    int (*real) (const char *, const char *, const struct addrinfo *, struct addrinfo **);

    real = (int (*) (const char *, const char *, const struct addrinfo *, struct addrinfo **))
        dlsym(RTLD_NEXT, "getaddrinfo");
    if (node == NULL || strcmp(node, "redis.slate.test") != 0)
        return real(node, service, hints, list);
    if (access(SLOW, F_OK) == 0)
        sleep(20);
    return real("127.0.0.1", service, hints, list);
}
});
system('gcc', '-shared', '-fPIC', '-o', "$dir/names.so", "-DSLOW=\"$slow\"", "$dir/names.c", '-ldl') == 0
  or BAIL_OUT('no compiler');

my $redis = SlateRedis->new(port => 1);
my $port = $redis->port;
my $node;
{
    local $ENV{LD_PRELOAD} = "$dir/names.so";
    $node = SlateNode->start('main', redis => "redis://redis.slate.test:$port/0");
}
$node->safe_psql('postgres', q{
    CREATE TABLE item (id int PRIMARY KEY, name text);
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}']);
    INSERT INTO item VALUES (1, 'old')});
is($redis->cli('GET', 'shop:item:1'), '{"id":1,"name":"old"}', 'a name instead of an address');

append_to_file($slow, '');
my $started = time;
$node->safe_psql('postgres', q{UPDATE item SET name = 'new' WHERE id = 1});
cmp_ok(time - $started, '<', 10, 'the name server hangs: a new session commits');
is($redis->cli('GET', 'shop:item:1'), '{"id":1,"name":"new"}', 'and its push arrives');
is($node->safe_psql('postgres', q{SELECT slate_cache_peek('shop:item:1') ->> 'name'}),
    'new', 'and another reads it');
unlink $slow;

# A new name after a reload is looked up at once.
SlateNode::set($node, 'slate_cache.url' => "redis://localhost:$port/0");
is($node->safe_psql('postgres', q{SELECT slate_cache_get('shop:item:1') ->> 'name'}), 'new', 'another name');
SlateNode::wait_for($node, q{SELECT slate_cache_peek('shop:item:1') ->> 'name'}, 'new');
pass('it is the same server, and trusted when the worker has seen that');

done_testing();
