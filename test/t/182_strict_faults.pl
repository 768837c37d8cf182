# slate_cache.mode = strict while Redis is away, in each way: the transaction
# fails before anything is committed, in time, and says why; other modes go on;
# when Redis is back the same session commits, and nothing stays marked.  And
# when Redis takes the mark and not the push, no value is there until the worker
# has replayed it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateCheck;
use SlateClient;
use SlateMarks;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep time);

# A wait for it is seen, and so are two.
use constant TIMEOUT => 2000;

# What must have ended by itself has done so within this time.
use constant RECOVERY => 20;

my $redis = SlateRedis->new;
my $node = SlateNode->start('main', redis => $redis, testing => 1,
    conf => { 'slate_cache.timeout' => TIMEOUT, 'slate_cache.connect_timeout' => TIMEOUT });
SlateNode::create_items($node, 30);
$node->safe_psql('postgres', q{
    CREATE TABLE loose (id int);
    CREATE TABLE sale (customer int);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
my $session = SlateSession->new($node);
my $reader = SlateSession->new($node);
my $gate = SlateSession->new($node);
$session->query("\\set VERBOSITY verbose\nSET slate_cache.mode = 'strict'");

sub ask { return SlateClient->new($redis)->ask(@_) }
sub name { return $redis->field("shop:item:$_[0]", 'name') }
sub row { return $node->safe_psql('postgres', "SELECT name FROM item WHERE id = $_[0]") }
sub change { my ($id, $name) = @_; return "UPDATE item SET name = '$name' WHERE id = $id" }

sub marks { return SlateMarks::count(SlateClient->new($redis)) }

sub become
{
    my ($what, $condition) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $start = time;
    my $true;
    sleep 0.05 until ($true = $condition->()) || time > $start + RECOVERY;
    ok($true, $what);
    note(sprintf '%s: after %.1f s', $what, time - $start);
    return;
}

# Nothing is marked any more, and the keys can be filled with what is true.
sub become_free
{
    my ($what, @ids) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    become("$what: nothing stays marked", sub { marks() == 0 });
    my $filled = 'SELECT count(*) FROM slate_cache_mget(ARRAY[' . join(',', map { "'shop:item:$_'" } @ids) . '])';
    become("$what: all keys can be filled",
        sub { $reader->query($filled); ask('EXISTS', map { "shop:item:$_" } @ids) == @ids });
    SlateCheck::all_right($node, $redis, 'item', 'shop:item:{id}', name => "$what: no key is wrong");
    return;
}

sub fails
{
    my ($what, $server, $reason, $bound) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($level, $error) = ($session->error =~ /^(?:psql:<stdin>:\d+: )?(ERROR):  (\w+)/, '', '');
    is("$level $error", 'ERROR 08006', "$what: the transaction fails");
    like($session->error, qr/^DETAIL:  \Q$server\E db 0: .*(?:$reason)/m, "$what: and says where and why");
    like($session->error, qr/^HINT:  .*slate_cache\.mode/m, "$what: and what can be done");
    cmp_ok($session->seconds, '<', $bound // 2 * TIMEOUT / 1000, "$what: it has not waited for long");
    note(sprintf '%s: %.2f s; %s', $what, $session->seconds, $session->error =~ /^DETAIL:  (.*)/m);
    return;
}

my $round = 0;
my $server = 'unix:' . $redis->socket;

# A fault, from which nothing in it is committed.
sub hit
{
    my ($what, %fault) = @_;
    my $n = ++$round;
    $fault{begin}->();
    my $row = row(1);
    $session->query(change(1, "strict $n"));
    fails($what, $server, $fault{reason});
    is(row(1), $row, "$what: nothing is committed");

    # The same session, in the same state of things.
    $session->query("BEGIN; INSERT INTO loose VALUES ($n); COMMIT; SELECT count(*) FROM loose WHERE id = $n");
    is($session->error, '', "$what: a transaction without cached changes is committed");
    $session->query("SET slate_cache.mode = 'commit'; " . change(2, "commit $n"));
    is($session->error . row(2), "commit $n", "$what: in mode commit it is");
    $session->query("SET slate_cache.mode = 'strict'; " . change(3, "strict $n"));
    fails("$what, again", $server, $fault{again} // $fault{reason}, TIMEOUT / 1000 + 2);
    $session->query("BEGIN; SELECT slate_cache_set('shop:free', '$n'), slate_cache_invalidate('shop:none:*'); INSERT INTO sale VALUES ($n); COMMIT");
    fails("$what, patterns", $server, $fault{again} // $fault{reason}, TIMEOUT / 1000 + 2);

    $fault{end}->();
    become("$what: afterwards the session commits again",
        sub { $session->query(change(4, "after $n")); return $session->error eq '' });
    is(row(4), "after $n", "$what: and that is there");
    become("$what: changes are written through",
        sub { $session->query(change(4, "well after $n")); return name(4) eq "well after $n" });
    become_free($what, 1 .. 4);
    is($node->safe_psql('postgres', "SELECT count(*) FROM sale WHERE customer = $n"), 0, "$what: what has failed stays undone");
    return;
}

hit('stopped', reason => 'could not connect', again => 'could not connect',
    begin => sub { $redis->stop },
    end => sub { $redis->start });

hit('hung', reason => 'timed out', again => 'not asked.*the last: ',
    begin => sub { $redis->pause },
    end => sub { $redis->resume });

my $inside = SlateClient->new($redis);
hit('too many clients', reason => 'max number of clients reached',
    begin => sub { $inside->ask(qw(CONFIG SET maxclients 1)); $inside->ask(qw(CLIENT KILL TYPE normal)) },
    end => sub { $inside->ask(qw(CONFIG SET maxclients 10000)) });
hit('another password', reason => 'NOAUTH|WRONGPASS',
    begin => sub { $inside->ask(qw(CONFIG SET requirepass other)); $inside->ask(qw(CLIENT KILL TYPE normal)) },
    end => sub { $inside->ask('CONFIG', 'SET', 'requirepass', '') });
hit('a replica', reason => 'READONLY|is a replica|read-only',
    begin => sub { $inside->ask(qw(REPLICAOF 127.0.0.1 1)) },
    end => sub { $inside->ask(qw(REPLICAOF NO ONE)) });
hit('no memory', reason => 'OOM',
    begin => sub { $inside->ask(qw(CONFIG SET maxmemory 1)) },
    end => sub { $inside->ask(qw(CONFIG SET maxmemory 0)) });

# Each key of the file takes a millisecond, until that is enough.
$redis->config('key-load-delay' => 1000, 'loading-process-events-interval-bytes' => 1024);
$inside->ask('EVAL', q{for i = 1, 20000 do redis.call('SET', 'filler:' .. i, string.rep('x', 100)) end}, 0);
sub is_loading { return $redis->cli('GET', 'filler:1') =~ /^LOADING / }
hit('loading', reason => 'LOADING|loading',
    begin => sub {
        $redis->config(save => '3600 1');
        $redis->stop;
        $redis->start(wait => 0);
        SlateRedis::wait_until(\&is_loading, 'Redis loads');
    },
    end => sub {
        ok(is_loading(), 'loading: it has lasted');
        $redis->config('key-load-delay' => 0);
        SlateRedis::wait_until(sub { !is_loading() }, 'Redis has loaded');
    });
$redis->config(save => '');

# Where nobody would look after the marks.
$session->query("SET slate_cache.journal = off; " . change(5, 'no journal'));
like($session->error, qr/ERROR:  55000:/, 'without the journal it fails');
like($session->error, qr/^HINT:  .*slate_cache\.journal/m, 'with a hint');
is(row(5), 'old', 'nothing is committed');
$session->query("RESET slate_cache.journal");

# On the way to Redis, and back.
my $proxy = SlateProxy->new($redis);
SlateNode::set($node, 'slate_cache.url' => $proxy->url);
($server) = $proxy->url =~ m{//(.*)/0};
become('another way to Redis', sub { $session->query(change(5, 'by the proxy')); $session->error eq '' && name(5) eq 'by the proxy' });

$reader->query(q{SELECT count(*) FROM slate_cache_mget(ARRAY['shop:item:6', 'shop:item:7', 'shop:item:8'])});
is(name(6) . name(7) . name(8), 'oldoldold', 'some rows are cached');
$proxy->hold("shop:item:6\r\n");
$session->query(change(6, 'never'));
fails('a mark that comes late', $server, 'timed out');
cmp_ok($session->seconds, '>=', TIMEOUT / 1000 * 0.9, 'a mark that comes late: it has waited for slate_cache.timeout');
is($proxy->matches, 1, 'a mark that comes late: it was sent');
is(name(6) . marks(), 'old0', 'a mark that comes late: Redis does not know of it');
$proxy->release;
is(name(6), '', 'a mark that comes late: it removes the value');
become_free('a mark that comes late', 6);

become('a change arrives', sub { $session->query(change(5, 'in between')); $session->error eq '' });
$proxy->delay(replies => [ TIMEOUT + 1000, TIMEOUT + 1000 ]);
$session->query(change(7, 'never'));
$proxy->pass;
fails('a reply that comes late', $server, 'timed out');
is(row(7), 'old', 'a reply that comes late: nothing is committed');
is(name(7), '', 'a reply that comes late: Redis has the mark');
become_free('a reply that comes late', 7);

become('a change arrives', sub { $session->query(change(5, 'in between')); $session->error eq '' });
$proxy->hang_up("shop:item:8\r\n", after => 5);
$session->query(change(8, 'never'));
$proxy->pass;
fails('a reply that is cut', $server, 'closed|receive');
is(row(8) . name(8), 'old', 'a reply that is cut: nothing is committed, but Redis has the mark');
become_free('a reply that is cut', 8);

# The push fails.  Then there is no value, until the worker has replayed; not
# even an older push can set one, of somebody who was slower.
sub wait_until_paused
{
    SlateNode::wait_for($node,
        q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}, $_[0]);
    return;
}

my $slow = SlateSession->new($node);
$_->query("SET slate_cache.pause_at = 'before_publish'") foreach $slow, $session;
foreach my $fault (
    [ 'a cut push', 9, 'worker',
        sub { $proxy->hang_up(qr/strict push|--------[0-9a-f]{24}0{13}-/) },
        sub { $proxy->pass } ],
    [ 'a refused push', 10, 'worker and others',
        sub { ask(qw(ACL SETUSER default -set)) },
        sub { ask(qw(ACL SETUSER default +set)) } ],

    # Where there is no memory the worker can drop nevertheless.
    [ 'a push without memory', 11, '',
        sub { ask(qw(CONFIG SET maxmemory 1)) },
        sub { ask(qw(CONFIG SET maxmemory 0)) } ])
{
    my ($what, $id, $waits, $begin, $end) = @$fault;
    become("$what: a change arrives",
        sub { $session->query("SET slate_cache.pause_at = 'nowhere'; " . change(5, "before $id")); $session->error eq '' });
    $gate->query('SELECT pg_advisory_lock(7351, 2)');
    $slow->send(change($id, 'slow push'));
    wait_until_paused(1);
    $gate->query('SELECT pg_advisory_lock(7351, 1)');
    $session->query("SET slate_cache.pause_at = 'before_commit'");
    $session->send(change($id, 'strict push'));
    wait_until_paused(2);
    is(name($id) . marks(), '1', "$what: marked");
    $begin->();
    $gate->query('SELECT pg_advisory_unlock(7351, 1)');
    $session->finish;
    is($session->error, '', "$what: the commit succeeds");
    is(row($id), 'strict push', "$what: and is there");
    is(name($id), '', "$what: there is no value");
    is($reader->query("SELECT slate_cache_get('shop:item:$id')->>'name'"), 'strict push', "$what: get has the row");
    if ($waits)
    {
        SlateMarks::wait_for_looks(SlateClient->new($redis)) if $what =~ /cut/;
        is($node->safe_psql('postgres', 'SELECT count(*) > 0 FROM slate_cache.journal'), 't', "$what: the journal has it");
        is(name($id) . marks(), '1', "$what: get has not filled, and the mark stands");
    }
    $end->() if $waits eq 'worker and others';
    $gate->query('SELECT pg_advisory_unlock(7351, 2)');
    $slow->finish;
    is($slow->error, '', "$what: an older push in mode commit comes");
    unlike(name($id), qr/slow/, "$what: and does not set");
    $end->() unless $waits eq 'worker and others';
    become("$what: it is replayed", sub { $node->safe_psql('postgres', 'SELECT count(*) FROM slate_cache.journal') eq '0' });
    become_free($what, $id);
}

# Redis loses everything between the mark and the commit: it is marked again, or
# without that the value waits; either way no old one is there.
$session->query("SET slate_cache.pause_at = 'before_commit'");
foreach my $waits (1, 0)
{
    my $what = 'FLUSHALL after the mark' . ($waits ? '' : ', and the commit at once');
    my $id = 12 + $waits;
    $gate->query('SELECT pg_advisory_lock(7351, 1)');
    $session->send(change($id, 'flushed'));
    wait_until_paused(1);
    ask('FLUSHALL');
    if ($waits)
    {
        become("$what: marked again", sub { marks() == 1 });
        SlateRedis::wait_until(sub { $reader->query("SELECT slate_cache_get('shop:item:20')"); name(20) eq 'old' }, 'other keys fill');
        $reader->query("SELECT slate_cache_get('shop:item:$id')");
        is(name($id), '', "$what: its key is not filled");
    }
    $gate->query('SELECT pg_advisory_unlock(7351, 1)');
    $session->finish;
    is($session->error . row($id), 'flushed', "$what: the commit succeeds");
    like(name($id), qr/^(flushed)?$/, "$what: no old value is there");
    become_free($what, $id);
}

is(SlateNode::counter($node, 'pushes_lost'), '0', 'nothing was lost');
SlateNode::unharmed($node);
$_->quit foreach $session, $reader, $slow, $gate;

# Without shared memory.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$session = SlateSession->new($node);
$session->query("\\set VERBOSITY verbose\nLOAD 'slate_cache'; SET slate_cache.mode = 'strict'");
$session->query(change(14, 'no preload'));
like($session->error, qr/ERROR:  55000:/, 'without preload it fails');
like($session->error, qr/^HINT:  .*shared_preload_libraries.*slate_cache\.mode/m, 'with a hint');
is(row(14), 'old', 'nothing is committed');
$session->query('INSERT INTO loose VALUES (0)');
is($session->error, '', 'a transaction without cached changes is committed');
$session->query("SET slate_cache.mode = 'commit'; " . change(14, 'no preload'));
is($session->error . row(14), 'no preload', 'and others in mode commit');
done_testing();
