# PREPARE TRANSACTION in mode strict: the keys are marked from then on until it is
# resolved, by whichever session, after whatever happened to either server; no
# reader finds, or gets, what was before the commit once that is visible; and
# after ROLLBACK PREPARED nothing stays marked.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateClient;
use SlateMarks;
use SlateNode;
use SlateProxy;
use SlateRedis;
use SlateSampler;
use SlateSession;
use Test::More;
use Time::HiRes qw(sleep time);

# What must have ended by itself has done so within this time.
use constant RECOVERY => 20;

my $redis = SlateRedis->new;
my $proxy = SlateProxy->new($redis);
my $node = SlateNode->start('main', redis => $proxy->url, testing => 1,
    conf => { 'slate_cache.timeout' => 10000, 'slate_cache.connect_timeout' => 10000 });
SlateNode::wait_until_trusted($node);
SlateNode::create_items($node, 60);
$node->safe_psql('postgres', q{
    CREATE TABLE sale (customer int);
    SELECT slate_cache_attach('sale', drop_keys => ARRAY['shop:search:{customer}:*'])});
my $session = strict_session();
my $other = SlateSession->new($node);

sub strict_session
{
    my $new = SlateSession->new($node);
    $new->query("\\set VERBOSITY verbose\nSET slate_cache.mode = 'strict'");
    return $new;
}

sub ask { return SlateClient->new($redis)->ask(@_) }
sub name { return $redis->field("shop:item:$_[0]", 'name') }
sub there { return ask('EXISTS', @_) }
sub row { return $other->query("SELECT name FROM item WHERE id = $_[0]") }
sub get { return $other->query("SELECT coalesce(slate_cache_get('shop:item:$_[0]')->>'name', 'null')") }
sub prepare { my ($gid, $sql) = @_; $session->query("BEGIN; $sql;\nPREPARE TRANSACTION '$gid'"); return }
sub change { my ($id, $name) = @_; return "UPDATE item SET name = '$name' WHERE id = $id" }

sub marks { return SlateMarks::count(SlateClient->new($redis)) }

# Another session says what becomes of the rows of prepared transactions, while
# others read.  Then they all can be filled, and other keys.
sub resolve
{
    my ($what, $sql, $rows, @others) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @ids = sort { $a <=> $b } keys %$rows;
    my @keys = ((map { "shop:item:$_" } @ids), @others);
    my $sampler = SlateSampler->begin($redis, map { "shop:item:$_" } @ids);
    $other->query($sql);
    my $resolved = time;
    is($other->error, '', "$what: they are resolved");
    my (%wrong, $marks, $filled);
    do
    {
        sleep 0.01 if defined $filled;
        foreach my $id (@ids) { my $name = get($id); $wrong{"$id: $name"} = 1 if $name ne $rows->{$id}; }
        $other->query("SELECT slate_cache_fetch('$_', 'SELECT 1')") foreach @others;
        ($marks, $filled) = (marks(), there(@keys));
    } until ($marks == 0 && $filled == @keys) || time > $resolved + RECOVERY;
    is($marks, 0, "$what: nothing stays marked");
    is($filled, scalar @keys, "$what: every key can be filled");
    note(sprintf '%s: after %.1f s', $what, time - $resolved);
    is(join(' ', sort keys %wrong), '', "$what: from then on get has what is true");
    my ($count, @seen) = $sampler->end;
    note("$what: $count times read");
    my %values = map { ($_->[1] => 1) } grep { $_->[3] > $resolved } @seen;
    is(join(' ', sort keys %values), join(' ', sort map { qq({"id":$_,"name":"$rows->{$_}"}) } @ids),
        "$what: and GET has found nothing else");
    return;
}

# Between PREPARE and COMMIT PREPARED.
is(name(1), 'old', 'a key is there');
prepare('one', change(1, 'new'));
is($session->error, '', 'a transaction is prepared');
is(there('shop:item:1') . marks(), '01', 'its key is marked');
is(get(1), 'old', 'get has the old row');
is(there('shop:item:1'), 0, 'and does not fill');
$session->query(change(2, 'by the way'));
is($session->error . name(2), 'by the way', 'the session goes on');
$other->query(change(3, 'commit'));
is(name(3), 'commit', 'others do, too');
SlateMarks::wait_for_looks(SlateClient->new($redis));
is(get(1) . there('shop:item:1') . marks(), 'old01', 'the mark lasts');
prepare('no', change(4, 'never'));
is(there('shop:item:4') . marks(), '02', 'another one is marked');

prepare('some', 'SAVEPOINT a; ' . change(5, 'never') . '; ROLLBACK TO a; SAVEPOINT b; ' . change(6, 'new') . '; RELEASE b');
is(name(5) . marks(), 'old3', 'savepoints: what was rolled back is not marked');
is(there('shop:item:6'), 0, 'savepoints: what was released is');

# Errors after the mark.
prepare('twice', change(7, 'new'));
prepare('twice', change(8, 'never'));
like($session->error, qr/ERROR:  42710/, 'a name that is in use: PREPARE fails');
is(marks(), 4, 'a name that is in use: nothing of it stays marked');
is(get(8) . name(8), 'oldold', 'a name that is in use: its key can be filled at once');

# Patterns.
my @searches = qw(shop:search:1:a shop:search:1:b);
my @loose = qw(shop:loose:2 shop:free shop:gone);
$other->query("SELECT slate_cache_fetch('$_', 'SELECT 1')") foreach @searches, 'shop:search:2:a';
ask('SET', 'shop:loose:1', '"by an app"');
is(there(@searches, 'shop:search:2:a'), 3, 'patterns: keys are filled');
prepare('patterns', q{INSERT INTO sale VALUES (1);
    SELECT slate_cache_invalidate('shop:loose:*'), slate_cache_set('shop:free', '1'), slate_cache_del('shop:gone')});
is($session->error . there(@searches, 'shop:loose:1'), '0', 'patterns: they are gone');
$other->query("SELECT slate_cache_fetch('$_', 'SELECT 2')") foreach @searches, @loose;
is(there(@searches, @loose), 0, 'patterns: and are not filled');
is(there('shop:search:2:a'), 1, 'patterns: others stay');
is(marks(), 7, 'patterns: a mark and two beginnings');

resolve('prepared', q{COMMIT PREPARED 'one'; ROLLBACK PREPARED 'no'; COMMIT PREPARED 'some'; COMMIT PREPARED 'twice'; COMMIT PREPARED 'patterns'},
    { 1 => 'new', 4 => 'old', 5 => 'old', 6 => 'new', 7 => 'new', 8 => 'old' }, @searches, @loose);

# PostgreSQL is stopped in between.
sub stop_and_start { my ($mode) = @_; $_->quit foreach $session, $other; $node->stop($mode); return }

sub start_again
{
    $node->start;
    $session = strict_session();
    $other = SlateSession->new($node);
    return;
}

sub wait_until_known
{
    SlateNode::wait_for($node, q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('history', 'redis')});
    return;
}

my $first = 10;
foreach my $mode (qw(fast immediate))
{
    my ($yes, $no, $long) = ($first .. $first + 2);
    $first += 3;
    prepare('yes', change($yes, "new $mode"));
    prepare('no', change($no, 'never'));
    prepare('long', change($long, "long $mode"));
    my @keys = map { "shop:item:$_" } $yes, $no, $long;
    stop_and_start($mode);

    # The worker asks for the epoch first, and has no answer for now.
    $proxy->hold('slate_cache:epoch');
    start_again();
    $proxy->wait_until_held;
    is(marks() . there(@keys), '30', "$mode stop: the marks are there");
    is(get($yes) . get($no), 'oldold', "$mode stop: before the worker has looked, get has the old rows");
    is(there(@keys), 0, "$mode stop: and does not fill");
    $other->query("COMMIT PREPARED 'yes'; ROLLBACK PREPARED 'no'");
    is($other->error . get($yes) . get($no), "new ${mode}old", "$mode stop: then those that are true");
    is(there(@keys), 0, "$mode stop: and still does not fill");
    $proxy->release;
    wait_until_known();
    SlateMarks::wait_for_looks(SlateClient->new($redis)) if $mode eq 'immediate';
    SlateRedis::wait_until(sub { get($no); there("shop:item:$no") }, 'what is resolved can be filled');
    is(get($long) . there("shop:item:$long") . marks(), 'old01', "$mode stop: a mark lasts");
    resolve("$mode stop", "COMMIT PREPARED 'long'", { $yes => "new $mode", $no => 'old', $long => "long $mode" });
}

# However many marks are needed, those that are not are taken away.  (All but one are written
# by hand: more of what is prepared, and some of a transaction that is long over.)
prepare('many', change(43, 'new'));
my ($noted) = split /\n/, $redis->all_keys('slate_cache:marks:*');
my ($xid) = grep { length $_ != 16 } split /\n/, $redis->cli('HVALS', $noted);
my @useless = map { sprintf 'ffff%012x', $_ } 1 .. 50;
ask('HSET', $noted, (map { sprintf('eeee%012x', $_), $xid } 1 .. 2000), map { $_, 3 } @useless);
my $all_gone = sub { !grep { /^ffff/ } split /\n/, $redis->cli('HKEYS', $noted) };
my $looked = time;
sleep 0.05 until $all_gone->() || time > $looked + RECOVERY;
ok($all_gone->(), 'thousands of marks: those that nobody needs go');
is(scalar(grep { /^eeee/ } split /\n/, $redis->cli('HKEYS', $noted)), 2000, 'thousands of marks: others stay');
ask('HDEL', $noted, map { sprintf 'eeee%012x', $_ } 1 .. 2000);
resolve('thousands of marks', "COMMIT PREPARED 'many'", { 43 => 'new' });

# Redis forgets: while PostgreSQL runs, and while it does not.
foreach my $how ('FLUSHALL', 'a restart of Redis', 'both are down')
{
    my ($yes, $no) = ($first .. $first + 1);
    $first += 2;
    prepare('yes', change($yes, "new $yes") . "; INSERT INTO sale VALUES ($yes)");
    prepare('no', change($no, 'never'));
    is(marks(), 3, "$how: two are prepared");
    stop_and_start('fast') if $how eq 'both are down';
    if ($how eq 'FLUSHALL') { ask('FLUSHALL') }
    else { $redis->restart }
    start_again() if $how eq 'both are down';
    my $start = time;
    sleep 0.02 until marks() == 3 || time > $start + RECOVERY;
    is(marks(), 3, "$how: they are marked again");
    note(sprintf '%s: marked again after %.1f s', $how, time - $start);
    wait_until_known();
    SlateRedis::wait_until(sub { get(50); there('shop:item:50') }, 'other keys are filled');
    is(get($yes) . get($no), 'oldold', "$how: get has the old rows");
    $other->query("SELECT slate_cache_fetch('shop:search:$yes:a', 'SELECT 1')");
    is(there("shop:item:$yes", "shop:item:$no", "shop:search:$yes:a"), 0, "$how: and does not fill");
    resolve($how, "COMMIT PREPARED 'yes'; ROLLBACK PREPARED 'no'", { $yes => "new $yes", $no => 'old' }, "shop:search:$yes:a");
}

# It forgets, and the worker comes to marking again when nobody answers it.  (What
# is held begins with the mark, the transaction's number and a nonce.)
prepare('held', change(30, 'new'));
$proxy->hold(qr/\r\n\$24\r\n[0-9a-f]{24}\r\n\$\d+\r\n\d+\r\n\$16\r\n/);
ask('FLUSHALL');
$proxy->wait_until_held;
is(marks(), 0, 'not marked again yet: Redis has no mark');
is(get(30) . there('shop:item:30'), 'old0', 'not marked again yet: get does not fill');
$other->query("COMMIT PREPARED 'held'");
is(get(30) . there('shop:item:30'), 'new0', 'not marked again yet: committed, and get has that');
$proxy->release;
resolve('marked again', 'SELECT', { 30 => 'new' });

# Redis is away: not prepared, in time; and committed while it is.
prepare('away', change(40, 'new'));
is($session->error . marks(), '1', 'one is prepared');
$redis->pause;
SlateNode::set($node, 'slate_cache.timeout' => 1000);
prepare('never', change(41, 'never'));
like($session->error, qr/ERROR:  08006.*^DETAIL:  127\.0\.0\.1:\d+ db 0: .*^HINT:  .*slate_cache\.mode/ms,
    'Redis is away: PREPARE fails, and says why');
cmp_ok($session->seconds, '<', 10, 'Redis is away: in time');
is($other->query('SELECT string_agg(gid, \',\') FROM pg_prepared_xacts'), 'away', 'Redis is away: nothing is prepared');
$other->query("COMMIT PREPARED 'away'");
is($other->error . get(40), 'new', 'Redis is away: another is committed, and get has it');
$redis->resume;
SlateRedis::wait_until(sub { prepare('again', change(42, 'new')); $session->error eq '' }, 'PREPARE succeeds again');
resolve('Redis is back', "COMMIT PREPARED 'again'", { 40 => 'new', 41 => 'old', 42 => 'new' });

is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), 0, 'all is resolved');
is(SlateNode::counter($node, 'pushes_lost'), '0', 'nothing was lost');
SlateNode::unharmed($node);
done_testing();
