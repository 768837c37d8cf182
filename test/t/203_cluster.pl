# A Redis Cluster: each key is at the node that has its slot, and all that is promised holds of
# all nodes: in each mode, for keys with hash tags, for patterns, reads and what looks after the
# cache.  For nodes that fail and slots that move see 204_cluster_faults.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SlateClient;
use SlateCluster;
use SlateJournal;
use SlateNode;
use SlateRedis;
use SlateSession;
use Test::More;

use constant ROWS => 60;

# Nothing ends because it takes long.
my $testing = $ENV{SLATE_TESTING_INSTALLATION} ? 1 : 0;
my $cluster = SlateCluster->new(node_timeout => 5000);
my $node = SlateNode->start('main', redis => $cluster->url(also => ['127.0.0.1:1']), testing => $testing,
    conf => { 'slate_cache.timeout' => 10000, 'slate_cache.connect_timeout' => 10000 });
SlateNode::wait_until_trusted($node);
$node->safe_psql('postgres', q{
    CREATE TABLE item (id int PRIMARY KEY, shelf int, name text);
    SELECT slate_cache_attach('item', row_keys => ARRAY['shop:item:{id}'],
        list_keys => ARRAY['shop:shelf:{shelf}'], drop_keys => ARRAY['shop:search:{shelf}:*'])});
my $session = SlateSession->new($node);
my $other = SlateSession->new($node);
my @keys = map { "shop:item:$_" } 1 .. ROWS;
my @shelves = map { "shop:shelf:$_" } 0 .. 9;

# What a session says; an error, too, so that it is seen.
sub run { my ($sql) = @_; return $session->query($sql) . $session->error }
sub array { return "ARRAY['" . join("','", map { s/'/''/gr } @_) . "']" }
sub name { return $cluster->field("shop:item:$_[0]", 'name') }
sub fill_table { return run('INSERT INTO item SELECT i, i % 10, \'' . $_[0] . "' FROM generate_series(1, @{[ROWS]}) i") }

sub health { return $node->safe_psql('postgres', qq{SELECT $_[1] FROM slate_cache.health WHERE "check" = '$_[0]'}) }

# No key is wrong; all, none, or so many are missing.
sub found
{
    my ($what, $missing, $table, $template, %args) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my %found = $cluster->compare($node, $table // 'item', $template // 'shop:item:{id}', %args);
    is("$found{wrong} wrong, $found{missing} missing", "0 wrong, $missing missing", $what) or diag($found{examples});
    return;
}

sub lists_found { my ($what, $missing) = @_; return found($what, $missing, 'item', 'shop:shelf:{shelf}', list => 'id') }
sub fill_lists { return run('SELECT count(*) FROM slate_cache_mget(' . array(@shelves) . ')') }

# Fields that stand for transactions, and for beginnings of keys.
sub marks
{
    my $count = 0;
    foreach my $client (map { SlateClient->new($_) } $cluster->masters)
    {
        $count += grep { !/\+$/ } map { @{ $client->ask('HKEYS', $_) } } @{ $client->ask('KEYS', 'slate_cache:*mark*') };
    }
    return $count;
}

sub wait_until_unmarked { SlateRedis::wait_until(sub { marks() == 0 }, 'no key is marked'); return }

my %locks = (before_commit => 1, before_fill => 4);
sub close_gate { $other->query("SELECT pg_advisory_lock(7351, $locks{$_[0]})"); return }
sub open_gate { $other->query("SELECT pg_advisory_unlock(7351, $locks{$_[0]})"); return }

sub wait_until_paused
{
    SlateNode::wait_for($node, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}, '1');
    return;
}

#
# Changes
#
sub check_changes
{
    is(fill_table('old'), '', 'rows are inserted');
    found('INSERT: all keys are right, each at its node', 0);
    my %count;
    $count{ $cluster->node_of($_)->port }++ foreach @keys;
    is(scalar keys %count, 3, 'all three nodes have some');

    run(q{UPDATE item SET name = 'new'});
    found('UPDATE of all: all are right', 0);
    is(name(7), 'new', 'and new');
    run('UPDATE item SET id = id + 100 WHERE id <= 6');
    found('new keys are set, the former dropped', 0);
    run('UPDATE item SET id = id - 100 WHERE id > 100');
    run('DELETE FROM item WHERE id % 3 = 0');
    found('DELETE: their keys are dropped', 0);
    is(run(q{BEGIN; INSERT INTO item SELECT i, i % 10, 'back' FROM generate_series(3, 60, 3) i;
        UPDATE item SET name = 'both' WHERE id % 2 = 0; DELETE FROM item WHERE id = 8;
        UPDATE item SET id = 61 WHERE id = 9; COMMIT}), '', 'a transaction of all kinds');
    found('all are right', 0);
    run(q{BEGIN; UPDATE item SET name = 'never'; SAVEPOINT s; DELETE FROM item; ROLLBACK});
    found('ROLLBACK leaves no trace', 0);
    is(name(7), 'new', 'the value is the one before');
    run(q{UPDATE item SET id = 9 WHERE id = 61; INSERT INTO item VALUES (8, 8, 'back')});

    # More than a session pushes by script at first.
    run(join ";\n", map { "UPDATE item SET name = 'one by one $_' WHERE id = " . ($_ % ROWS + 1) } 1 .. 2 * ROWS);
    found('many transactions of a row each: all are right', 0);
    is(name(1), 'one by one ' . 2 * ROWS, 'and new');

    # Lists and patterns, of which apps have SET some keys.
    fill_lists();
    lists_found('all lists are filled', 0);
    run("SELECT slate_cache_fetch('shop:search:$_:sql', 'SELECT 1 AS a, 2 AS b')") foreach 0 .. 9;
    my %mine = map { ("shop:search:$_:mine" => '"app"') } 0 .. 9;
    $cluster->set(%mine);
    is(scalar(() = $cluster->keys('shop:search:*')), 20, 'there are searches');
    run(q{UPDATE item SET name = 'found' WHERE id IN (3, 4)});
    lists_found('two lists are dropped', 2);
    is(join(' ', $cluster->keys('shop:search:*:sql')), join(' ', map { "shop:search:$_:sql" } 0 .. 2, 5 .. 9),
        'and the searches that match');
    SlateRedis::wait_until(sub { $cluster->get('shop:search:3:mine') . $cluster->get('shop:search:4:mine') eq '' },
        'what an app has SET is gone');
    is(join(' ', $cluster->keys('shop:search:*:mine')), join(' ', map { "shop:search:$_:mine" } 0 .. 2, 5 .. 9),
        'what an app has SET is dropped, no more than matches');
    fill_lists();
    lists_found('the lists are filled again', 0);

    is(run('TRUNCATE item'), '', 'TRUNCATE');
    is(join(' ', $cluster->keys('shop:*')), '', 'nothing is left at any node');
    fill_table('old');
    found('and all can be set again', 0);
    return;
}

#
# Reads
#
sub check_reads
{
    run('SELECT slate_cache_stats_reset()');
    is(run('SELECT count(*) FROM item WHERE slate_cache_get(\'shop:item:\' || id) = to_jsonb(item)'), ROWS, 'get has all rows');
    is(SlateNode::counter($node, 'hits'), ROWS, 'from Redis');
    $cluster->del(@keys[ 0 .. 19 ]);
    is(run("SELECT slate_cache_peek('shop:item:1') IS NULL AND slate_cache_peek('shop:item:21')->>'name' = 'old'"), 't', 'peek has what is there');
    is(run("SELECT slate_cache_get('shop:item:1')->>'name'"), 'old', 'get has a row that is not there');
    found('and fills it', 19);

    # Nodes take turns, some twice, some for nothing.
    my @ids = (map({ $_ * 7 % (ROWS + 2) + 1 } 0 .. ROWS + 9), 1, 1, 999);
    is(run("SELECT string_agg(m.key || '=' || coalesce(m.value->>'id', '-'), ' ' ORDER BY n) FROM slate_cache_mget("
            . array(map { "shop:item:$_" } @ids) . ') WITH ORDINALITY AS m(key, value, n)'),
        join(' ', map { "shop:item:$_=" . ($_ <= ROWS ? $_ : '-') } @ids), 'mget has all, in the order asked');
    found('and fills what was missing', 0);
    $cluster->del('shop:shelf:1', 'shop:shelf:2');
    is(run("SELECT jsonb_array_length(slate_cache_get('shop:shelf:1')), count(*) FROM slate_cache_mget(ARRAY['shop:shelf:2', 'shop:item:2'])"),
        '6|2', 'lists, too');
    lists_found('they are filled', 8);

    is(run("SELECT slate_cache_fetch('shop:count', 'SELECT count(*) FROM item', '5 minutes')"), ROWS, 'fetch has what the query gives');
    cmp_ok($cluster->cli_at('shop:count', 'TTL', 'shop:count'), '>', 200, 'with its TTL');
    $cluster->set('shop:count' => '7');
    is(run("SELECT slate_cache_fetch('shop:count', 'SELECT count(*) FROM item')"), '7', 'and then what Redis has');

    run(q{BEGIN; UPDATE item SET name = 'mine' WHERE id = 2});
    is(run("SELECT slate_cache_get('shop:item:2')->>'name'"), 'mine', 'a transaction that has written reads its own');
    is($other->query("SELECT slate_cache_get('shop:item:2')->>'name'"), 'old', 'another does not');
    is($cluster->field('shop:item:2', 'name'), 'old', 'nor Redis');
    run('ROLLBACK');
    is(run("SELECT slate_cache_get('shop:item:2')->>'name'"), 'old', 'after the end it reads Redis again');
    return;
}

#
# By hand
#
sub check_by_hand
{
    my %free = map { ("shop:free:$_" => $_) } 1 .. ROWS;
    run(q{BEGIN; SELECT slate_cache_set('shop:hand', '"set"', '1 hour')});
    is($cluster->get('shop:hand'), '', 'set: not before the commit');
    is(run(q{SELECT slate_cache_get('shop:hand')}), '"set"', 'but in the transaction');
    run('COMMIT');
    is($cluster->get('shop:hand'), '"set"', 'and at the commit');
    is(run(q{SELECT slate_cache_mset(jsonb_object_agg('shop:free:' || i, i)) FROM generate_series(1, 60) i}), '', 'mset');
    is_deeply({ $cluster->values(keys %free) }, \%free, 'all are there');
    run('SELECT slate_cache_del(VARIADIC ' . array(map { "shop:free:$_" } 1 .. 40) . ')');
    is(join(' ', $cluster->keys('shop:free:*')), join(' ', map { "shop:free:$_" } 41 .. ROWS), 'del: forty are gone');
    $cluster->set(map { ("shop:free:mine:$_" => '"app"') } 1 .. ROWS);
    run(q{BEGIN; SELECT slate_cache_invalidate('shop:free:*')});
    is(scalar(() = $cluster->keys('shop:free:*')), ROWS + 20, 'invalidate: not before the commit');
    run('COMMIT');
    is(join(' ', $cluster->keys('shop:free:*')), '', 'and then at all nodes, what apps have SET, too');
    is(run(q{BEGIN; SELECT slate_cache_set('shop:hand', '"never"'), slate_cache_del('shop:item:3'); ROLLBACK}), '|', 'what is rolled back');
    is($cluster->get('shop:hand') . name(3), '"set"old', 'leaves no trace');

    run(q{CREATE TABLE projects (id int PRIMARY KEY, user_id int NOT NULL, name text NOT NULL);
        CREATE TABLE files (id int PRIMARY KEY, project_id int NOT NULL REFERENCES projects ON DELETE CASCADE, path text NOT NULL,
            content text, UNIQUE (project_id, path));
        SELECT slate_cache_attach_defaults();
        INSERT INTO projects VALUES (42, 7, 'Apollo'), (43, 8, 'Gemini');
        INSERT INTO files SELECT i, 42 + i % 2, 'src/' || i || '.c' FROM generate_series(1, 20) i;
        SELECT slate_cache_get('slate:files:project:42'), slate_cache_get('slate:files:project:43')});
    $cluster->set('slate:build:42' => '1', 'slate:search:42:mine' => '1', 'slate:build:43' => '1');
    is(scalar(() = $cluster->keys('slate:*')), 2 + 2 * 20 + 2 + 3, 'two projects are cached');
    run(q{SELECT slate_cache_invalidate_project('42')});
    is(scalar(() = $cluster->keys('slate:*')), 1 + 2 * 10 + 1 + 1, 'one is dropped');
    is(join(' ', grep { /:42\b/ } $cluster->keys('slate:*')), '', 'with all that belongs to it');
    run('DROP TABLE files, projects');
    is(join(' ', $cluster->keys('slate:*:*:*')), '', 'DROP TABLE drops its keys');
    return;
}

#
# What looks after the cache
#
sub check_care
{
    $cluster->del(@keys, @shelves);
    is(run(q{SELECT slate_cache_warm('item')}), ROWS + 10, 'warm fills all that is missing');
    found('all rows are there', 0);
    lists_found('all lists are there', 0);

    # One at each node, and what no row has.
    my %of;
    $of{ $cluster->node_of($_)->port } //= $_ foreach @keys;
    my @planted = sort(values %of, 'shop:item:999');
    $cluster->set(map { ($_ => '{"id":0,"shelf":0,"name":"planted"}') } @planted);
    run('SET slate_cache.timeout = 1000');
    is(run(q{SELECT key, problem FROM slate_cache_verify('item', repair => true) ORDER BY key}),
        join("\n", map { "$_|" . ($_ eq 'shop:item:999' ? 'orphan' : 'stale') } @planted), 'verify finds what is wrong at each node');
    found('and drops it', 3);
    is(run(q{SELECT count(*) FROM slate_cache_verify('item')}), '0', 'then it finds nothing');
    run('RESET slate_cache.timeout');

    like(run('SELECT slate_cache_repair()'), qr/^\d+$/, 'repair comes to an end');
    is(run('SELECT count(*) FROM slate_cache.journal'), '0', 'nothing is in doubt');
    $cluster->set(map { ("other:$_" => 'x') } 1 .. 20);
    is(run('SELECT slate_cache_flush()'), '', 'flush');
    is(join(' ', $cluster->keys('shop:item:*'), $cluster->keys('shop:shelf:*')), '', 'empties the namespace at all nodes');
    is(scalar(() = $cluster->keys('other:*')), 20, 'and leaves the keys of others');
    SlateRedis::wait_until(sub { run(q{UPDATE item SET name = name || '.' WHERE id = 1}); name(1) ne '' }, 'a change arrives');
    run('SELECT count(*) FROM slate_cache_mget(' . array(@keys) . ')');
    found('then all is filled again', 0);
    return;
}

#
# Keys with braces, and others that are odd
#
sub check_odd_keys
{
    my @odd = ('{a}x', 'x{a}y{b}', 'x{}y', 'x{}y{a}', 'a}b', 'a{b', '{', '}', '{}', '}{a}', '{{a}}', 'a{b}}c', 'ключ', 'é{ü}', 'ü}é', ' ', '"', '\\');
    foreach my $key (@odd, map { "odd:$_" } @odd)
    {
        is(SlateClient->new(($cluster->masters)[0])->ask('CLUSTER', 'KEYSLOT', $key), $cluster->slot($key), "the slot of $key is known here");
    }

    # By hand, where the tag may be at the front.
    is(run('SELECT slate_cache_set(k, to_jsonb(k)) FROM unnest(' . array(@odd) . ') k') =~ s/\n//gr, '', 'set');
    my %values = $cluster->values(@odd);
    is(scalar keys %values, @odd, 'all are there');
    is(run('SELECT count(*) FROM unnest(' . array(@odd) . ') k WHERE slate_cache_peek(k) = to_jsonb(k)'), @odd, 'peek has them');
    is(run('SELECT count(*) FROM slate_cache_mget(' . array(@odd) . ') WHERE value = to_jsonb(key)'), @odd, 'so has mget');
    run('SELECT slate_cache_del(VARIADIC ' . array(@odd[ 0 .. 8 ]) . ')');
    %values = $cluster->values(@odd);
    is(join(' ', sort keys %values), join(' ', sort @odd[ 9 .. $#odd ]), 'del drops those');
    run("SELECT slate_cache_invalidate('*{*')");
    %values = $cluster->values(@odd);
    is(join(' ', sort keys %values), join(' ', sort grep { !/\{/ } @odd[ 9 .. $#odd ]), 'invalidate those that match');

    # Of rows.
    run(q{CREATE TABLE odd (key text PRIMARY KEY, name text);
        SELECT slate_cache_attach('odd', row_keys => ARRAY['odd:{key}'])});
    run("INSERT INTO odd SELECT k, 'old' FROM unnest(" . array(@odd) . ') k');
    my @found = (0, 'odd', 'odd:{key}');
    found('rows with odd keys', @found);
    run("UPDATE odd SET name = 'new'");
    found('UPDATE', @found);
    $cluster->del(map { "odd:$_" } @odd);
    is(run(q{SELECT count(*) FROM odd WHERE slate_cache_get('odd:' || key) = to_jsonb(odd)}), @odd, 'get has them');
    found('and fills', @found);
    check_odd_fills(@odd);
    run('SELECT count(*) FROM slate_cache_mget(' . array(map { "odd:$_" } @odd) . ')');
    found('then they fill', @found);
    run("SELECT slate_cache_invalidate('odd:*{*')");
    found('invalidate drops what matches', scalar(grep { /\{/ } @odd), 'odd', 'odd:{key}');
    run('DROP TABLE odd');
    is(join(' ', $cluster->keys('odd:*')), '', 'DROP TABLE drops the rest');
    return;
}

# Fills that come too late are kept off by what stands beside each key.
sub check_odd_fills
{
    my (@odd) = @_;
  SKIP:
    {
        skip 'needs the testing build', 4 unless $testing;
        my $late = SlateSession->new($node);
        my @all = map { "odd:$_" } @odd;
        $late->query("SET slate_cache.pause_at = 'before_fill'");
        $cluster->del(@all);
        close_gate('before_fill');
        $late->send(q{SELECT string_agg(DISTINCT value->>'name', ' ') FROM slate_cache_mget(} . array(@all) . ')');
        wait_until_paused();
        run("UPDATE odd SET name = 'newer'");
        my %values = $cluster->values(@all);
        is(scalar(grep { /newer/ } values %values), @odd, 'a reader has loaded, then all rows change');
        $cluster->del(@all);
        open_gate('before_fill');
        is($late->finish, 'new', 'the reader has the old rows');
        is($late->error, '', 'and no error');
        my %found = $cluster->compare($node, 'odd', 'odd:{key}');
        is($found{wrong}, 0, 'but does not fill them') or diag($found{examples});
        $late->quit;
    }
    return;
}

#
# Modes
#
sub check_strict
{
    my $strict = SlateSession->new($node);
    $strict->query("\\set VERBOSITY verbose\nSET slate_cache.mode = 'strict'");
    run(q{UPDATE item SET name = 'old'});
    fill_lists();
    $strict->query(q{UPDATE item SET name = 'strict'});
    is($strict->error, '', 'strict: a commit of keys at all nodes');
    found('strict: all are right', 0);
    is(name(5), 'strict', 'strict: and new');
    is(marks(), 0, 'strict: no mark is left');
    fill_lists();
    lists_found('strict: lists were dropped, and fill', 0);
    $strict->query(q{BEGIN; UPDATE item SET name = 'never'; ROLLBACK});
    found('strict: ROLLBACK leaves the values', 0);
    is(marks(), 0, 'strict: and no mark');

    # Between the marks and the end.
    $strict->query(q{BEGIN; UPDATE item SET name = 'never'; PREPARE TRANSACTION 'never'});
    is($strict->error, '', 'strict: PREPARE TRANSACTION');
    cmp_ok(marks(), '>', 0, 'strict: there are marks');
    found('strict: the values are gone', ROWS);
    is(run('SELECT string_agg(DISTINCT value->>\'name\', \' \') FROM slate_cache_mget(' . array(@keys) . ')'), 'strict', 'strict: the table answers');
    found('strict: and nobody fills', ROWS);
    run(q{ROLLBACK PREPARED 'never'});
    wait_until_unmarked();
    pass('strict: ROLLBACK PREPARED leaves no mark');
    run('SELECT count(*) FROM slate_cache_mget(' . array(@keys) . ')');
    found('strict: the values come back by reading', 0);
    is(name(5), 'strict', 'strict: those of before');

    $strict->query(q{BEGIN; UPDATE item SET name = 'prepared'; PREPARE TRANSACTION 'strict'});
    run(q{COMMIT PREPARED 'strict'});
    is(run('SELECT string_agg(DISTINCT value->>\'name\', \' \') FROM slate_cache_mget(' . array(@keys) . ')'), 'prepared', 'strict: COMMIT PREPARED, get has the new ones');
    my %found = $cluster->compare($node, 'item', 'shop:item:{id}');
    is($found{wrong}, 0, 'strict: Redis has none of before');
    wait_until_unmarked();
    run('SELECT count(*) FROM slate_cache_mget(' . array(@keys) . ')');
    found('strict: no mark is left, and all fill', 0);

  SKIP:
    {
        skip 'needs the testing build', 6 unless $testing;
        $strict->query(q{SET slate_cache.pause_at = 'before_commit'});
        close_gate('before_commit');
        $strict->send(q{UPDATE item SET name = 'never'});
        wait_until_paused();
        found('strict: before the commit the values are gone', ROWS);
        $other->query('SELECT pg_cancel_backend(' . $strict->pid . ')');
        $strict->finish;
        like($strict->error, qr/ERROR:  57014/, 'strict: it is cancelled');
        open_gate('before_commit');
        wait_until_unmarked();
        pass('strict: no mark is left');
        run('SELECT count(*) FROM slate_cache_mget(' . array(@keys) . ')');
        found('strict: the values come back', 0);
        is(name(5), 'prepared', 'strict: those of before');
        $strict->query(q{SET slate_cache.pause_at = 'nowhere'; UPDATE item SET name = 'after'});
        is(name(5), 'after', 'strict: and the next commit works');
    }
    $strict->quit;
    return;
}

sub check_others
{
    run(q{SET slate_cache.mode = 'async'});
    is(run(q{UPDATE item SET name = 'async'}), '', 'async: a commit');
    SlateRedis::wait_until(sub { my %values = $cluster->values(@keys); !grep { !/"async"/ } @values{@keys} }, 'all are new');
    found('async: all are right, a moment later', 0);
    run('DELETE FROM item WHERE id > 50');
    SlateRedis::wait_until(sub { $cluster->keys('shop:item:*') == 50 }, 'ten are gone');
    found('async: DELETE drops', 0);
    run(q{RESET slate_cache.mode; INSERT INTO item SELECT i, i % 10, 'back' FROM generate_series(51, 60) i});

    run(q{BEGIN; UPDATE item SET name = 'prepared'; SELECT slate_cache_set('shop:hand', '"prepared"'); PREPARE TRANSACTION 'commit'});
    is($session->error, '', 'commit: PREPARE TRANSACTION');
    is(name(5), 'async', 'commit: until it is resolved the values stay');
    is($other->query(q{COMMIT PREPARED 'commit'}) . $other->error, '', 'commit: another session commits it');
    SlateRedis::wait_until(sub { !grep { $_ ne 'shop:hand' } $cluster->keys('shop:item:*') }, 'all are dropped');
    is($cluster->get('shop:hand'), '', 'commit: what was set by hand is dropped');
    run('SELECT count(*) FROM slate_cache_mget(' . array(@keys) . ')');
    found('commit: the keys are dropped, and fill', 0);
    is(name(5), 'prepared', 'commit: with what was committed');
    return;
}

#
# Urls
#
sub use_url
{
    my ($url, %settings) = @_;
    SlateNode::set($node, 'slate_cache.url' => $url, %settings);
    SlateNode::wait_for($node, q{SELECT ok FROM slate_cache.health WHERE "check" = 'worker'});
    return;
}

# A change arrives, after what went before has been made up for.
my $changes = 0;

sub works
{
    my ($what, $where) = @_;
    $node->poll_query_until('postgres', q{SELECT bool_and(ok) FROM slate_cache.health WHERE "check" IN ('redis', 'history')})
      or die "$what: health says " . health('redis', 'detail');
    SlateJournal::wait_until_told($node);
    my $value = 'works ' . ++$changes;
    $node->safe_psql('postgres', "UPDATE item SET name = '$value'");
    is(scalar(grep { $where->field($_, 'name') eq $value } @keys[ 0 .. 9 ]), 10, "$what: changes arrive");
    return;
}

sub refused
{
    my ($what, $reason) = @_;
    my $value = 'refused ' . ++$changes;
    $node->safe_psql('postgres', "UPDATE item SET name = '$value'");
    is($node->safe_psql('postgres', q{SELECT slate_cache_get('shop:item:2')->>'name'}), $value,
        "$what: a commit succeeds, and the table answers");
    $node->poll_query_until('postgres',
        qq{SELECT NOT ok AND detail ~* '$reason' FROM slate_cache.health WHERE "check" = 'redis'})
      or die "$what: health says " . health('redis', 'detail');
    pass("$what: health says why");
    return;
}

sub check_urls
{
    foreach my $bad ('cluster://', 'cluster://127.0.0.1:1/2', 'cluster://127.0.0.1:0', 'cluster://a,,b')
    {
        like(run("SET slate_cache.url = '$bad'"), qr/ERROR:.*invalid value/, "$bad is refused");
    }
    $_->quit foreach $session, $other;

    # A session that has used the Cluster is told of another url.
    my $plain = SlateRedis->new(port => 1);
    my $used = SlateSession->new($node);
    my $async = SlateSession->new($node);
    is($used->query('SELECT count(value) FROM slate_cache_mget(' . array(@keys) . ')'), ROWS, 'a session has read from the cluster');
    $async->query(q{SET slate_cache.mode = 'async'; UPDATE item SET name = 'before' WHERE id = 1});
    use_url($plain->url);
    is($used->query('SELECT count(value) FROM slate_cache_mget(' . array(@keys) . ')'), ROWS, 'another url: it reads on');
    is($async->query(q{UPDATE item SET name = 'after' WHERE id = 1}) . $async->error, '', 'another url: a commit in mode async');
    works('another url', $plain);
    use_url($cluster->url);
    is($used->query('SELECT count(value) FROM slate_cache_mget(' . array(@keys) . ')'), ROWS, 'and back: it reads on');
    is($async->query(q{UPDATE item SET name = 'back' WHERE id = 1}) . $async->error, '', 'and back: a commit in mode async');
    works('and back', $cluster);
    $_->quit foreach $used, $async;

    use_url($cluster->url(nodes => [ ($cluster->masters)[2] ]));
    works('one node of three in the url', $cluster);

    # Of standalone servers.
    my $alone = SlateRedis->new(port => 1);
    use_url('cluster://127.0.0.1:' . $alone->port);
    refused('a server that is in no cluster', 'cluster support disabled|no cluster|not .*cluster');
    is($alone->all_keys, '', 'it gets nothing');

    my $secret = SlateCluster->new(masters => 2, password => 'open-sesame', node_timeout => 5000);
    use_url($secret->url(password => 'wr0ng-secret'));
    refused('a wrong password', 'WRONGPASS|AUTH');
    unlike(health('redis', 'detail'), qr/wr0ng-secret/, 'but not the password');
    use_url($secret->url(password => undef));
    refused('no password', 'NOAUTH|authentication|password');
    use_url($secret->url);
    works('a password in the url', $secret);
    my $file = PostgreSQL::Test::Utils::tempdir() . '/password';
    append_to_file($file, "open-sesame\n");
    use_url($secret->url(password => 'wr0ng-secret'), 'slate_cache.password_file' => $file);
    works('in a file', $secret);

    # The README's user, with what a Cluster takes besides, and what health looks at.
    my @rights = (SlateRedis::proposed_user(), '+cluster|info', '+cluster|slots', '+cluster|nodes', '+zrem', '+config|get');
    $_->cli('ACL', 'SETUSER', 'slate', @rights) foreach $secret->nodes;
    $_->cli('ACL', 'LOG', 'RESET') foreach $secret->nodes;
    use_url($secret->url(password => undef) =~ s{//}{//slate:secret@}r, 'slate_cache.password_file' => '');
    works('with a user', $secret);
    $node->safe_psql('postgres', q{SELECT slate_cache_set('loose:' || i, to_jsonb(i)) FROM generate_series(1, 8) i});
    is(scalar(() = $secret->keys('loose:*')), 8, 'with a user: keys that no rule covers');
    $node->safe_psql('postgres', q{SELECT slate_cache_flush()});
    is(join(' ', $secret->keys('loose:*')), '', 'with a user: flush drops them');
    is(join('', map { $_->cli('ACL', 'LOG') } $secret->nodes), '', 'with a user: nothing was denied');
    my $logged_in = SlateSession->new($node);
    $logged_in->query(q{UPDATE item SET name = 'logged in'});
    is(scalar(grep { $_->cli('CLIENT', 'LIST') =~ /name=slate_cache.* user=slate/ } $secret->nodes), 2, 'by which it logs in at each node');
    $logged_in->quit;

    # What the others were not told.
    use_url($cluster->url);
    works('the first again', $cluster);
    unlike(SlateNode::log_text($node) =~ s/.*parameter "slate_cache\.url" changed.*//gr, qr/wr0ng-secret|open-sesame/, 'the log has no password');
    return;
}

#
# Large families
#
# What one master knows of it is more than one call drops; without the walk.
sub large_family_goes
{
    my ($mode) = @_;

    # the worker's walk takes what is newer, too
    SlateJournal::wait_until_told($node);
    run(q{SELECT slate_cache_mset((SELECT jsonb_object_agg('shop:search:3:' || i, i) FROM generate_series(1, 6000) i))});
    is(scalar(() = $cluster->keys('shop:search:3:*')), 6000, "$mode: a family of six thousand");
    run(qq{SET slate_cache.sweep = off; BEGIN; SET LOCAL slate_cache.mode = '$mode';
        UPDATE item SET name = name || '.' WHERE id = 3; SELECT slate_cache_set('shop:search:3:7', '"since"'); COMMIT});
    is(join(' ', grep { $_ ne 'shop:search:3:7' } $cluster->keys('shop:search:3:*')), '', "$mode: has gone");
    is($cluster->get('shop:search:3:7'), '"since"', 'but for what the transaction has set since') if $mode eq 'commit';
    run(q{SELECT slate_cache_del('shop:search:3:7'); UPDATE item SET name = rtrim(name, '.') WHERE id = 3; RESET slate_cache.sweep});
    return;
}

SlateNode::wait_for($node, 'SELECT bool_and(ok) FROM slate_cache.health');
is($node->safe_psql('postgres', q{SELECT "check", detail FROM slate_cache.health WHERE NOT ok}), '', 'health: all is well');
like(health('redis', 'detail'), qr/cluster/i, 'health names it');
check_changes();
check_reads();
check_by_hand();
check_care();
check_odd_keys();
check_strict();
check_others();
check_urls();

# From here on Redis counts as large, and commits leave walks to the worker.
$session = SlateSession->new($node);
large_family_goes($_) foreach qw(commit strict);
SlateNode::unharmed($node);
done_testing();
