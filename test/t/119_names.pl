# Names are looked up in the background, the server's ahead of need, a database's when it is asked
# for: a name server that does not answer keeps no commit and no read waiting.
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
    if (node == NULL || strstr(node, ".slate.test") == NULL)
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

# Nor without a launcher, who is away for some seconds.
SlateNode::wait_for($node, q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE backend_type = 'slate_cache launcher'}, '0');
$started = time;
$node->safe_psql('postgres', q{UPDATE item SET name = 'newer' WHERE id = 1});
cmp_ok(time - $started, '<', 10, 'the launcher is away, too: a new session commits');
is($redis->cli('GET', 'shop:item:1'), '{"id":1,"name":"newer"}', 'and its push arrives');
$node->safe_psql('postgres', q{UPDATE item SET name = 'new' WHERE id = 1});
unlink $slow;

# A new name after a reload is looked up at once.
SlateNode::set($node, 'slate_cache.url' => "redis://localhost:$port/0");
is($node->safe_psql('postgres', q{SELECT slate_cache_get('shop:item:1') ->> 'name'}), 'new', 'another name');
SlateNode::wait_for($node, q{SELECT slate_cache_peek('shop:item:1') ->> 'name'}, 'new');
pass('it is the same server, and trusted when the worker has seen that');

# A database's own name, which nobody has looked up before: the first commit does not wait for the
# name server, and the worker tells Redis when that has answered.
my $check = q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('worker', 'redis', 'history')};
foreach my $name (qw(known unknown))
{
    unlink $slow;
    $node->safe_psql('postgres', "CREATE DATABASE $name");
    $node->safe_psql('postgres', "ALTER DATABASE $name SET slate_cache.url = 'redis://$name.slate.test:$port/1'");
    append_to_file($slow, '') if $name eq 'unknown';
    $node->safe_psql($name, q{CREATE EXTENSION slate_cache; CREATE TABLE item (id int PRIMARY KEY, name text);
        SELECT slate_cache_attach('item', row_keys => ARRAY['} . $name . q{:item:{id}'])});
    SlateNode::wait_for($node, $check, 't', $name) if $name eq 'known';
    append_to_file($slow, '') if $name eq 'known';
    my $start = time;
    $node->safe_psql($name, q{INSERT INTO item VALUES (1, 'new')});
    cmp_ok(time - $start, '<', 10, "a $name name of a database: a commit does not wait for the name server");
    is($redis->cli('-n', '1', 'GET', "$name:item:1"), $name eq 'known' ? '{"id":1,"name":"new"}' : '', "a $name name: " . ($name eq 'known' ? 'it is pushed' : 'it is left'));
}
unlink $slow;
SlateNode::wait_for($node, $check, 't', 'unknown');
SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0', 'unknown');
is($node->safe_psql('unknown', q{SELECT slate_cache_get('unknown:item:1') ->> 'name'}), 'new', 'an unknown name: it is told when the name is known');

done_testing();
