"""Write-through of one row per commit: candidates and their tables."""
import os
import subprocess
import time

import report
import servers
from load import Load, Writer, exchange, take_turns, write_commands
from servers import psql

BASE = 'no trigger'
ASYNC, COMMIT, STRICT = 'slate_cache async', 'slate_cache commit', 'slate_cache strict'
NO_JOURNAL = 'slate_cache commit, no journal'
BESIDE = 'no trigger, ideal SETs beside'
EMPTY = 'a trigger in C that does nothing'
MEMCACHE, PYTHON, NOTIFY, WAL2JSON, APP, NODE = (
    'pgmemcache trigger', 'PL/Python trigger', 'LISTEN/NOTIFY and a consumer',
    'wal2json and a consumer', 'app in C: UPDATE, then SET', 'app in JavaScript, likewise')

# Their tables; the key of a row is table:id.
TABLES = {BASE: 'w_base', BESIDE: 'w_beside', EMPTY: 'w_empty', ASYNC: 'w_async', COMMIT: 'w_commit',
          STRICT: 'w_strict', NO_JOURNAL: 'w_unjournaled', MEMCACHE: 'w_memcache',
          PYTHON: 'w_python', NOTIFY: 'w_notify', WAL2JSON: 'w_wal2json', APP: 'w_app', NODE: 'w_node'}
OPTIONS = {ASYNC: '-c slate_cache.mode=async', STRICT: '-c slate_cache.mode=strict',
           NO_JOURNAL: '-c slate_cache.journal=off'}
SLATE = (ASYNC, COMMIT, STRICT, NO_JOURNAL)

# A copy of app.mjs beside what it needs, or nothing.
NODE_APP = os.environ.get('SLATE_BENCH_NODE')

# For the other kind of socket those alone whose number it changes.
LEFT_OUT_OF_TCP = (EMPTY, NO_JOURNAL, NOTIFY, WAL2JSON)


class Follower:
    """A consumer that makes the copies after the commits; how long after a turn the last.

    It has caught up when the last change that it is told of is in Redis.
    """

    def __init__(self):
        self.turns, self.behind = 0, []

    def begin(self):
        pass

    def catch_up(self):
        begun = time.monotonic()
        self.turns += 1
        self.mark(self.turns)
        servers.wait_for('the consumer', lambda: servers.ask('GET', 'w_turns:%d' % self.turns), 60)
        servers.ask('DEL', 'w_turns:%d' % self.turns)
        self.behind.append(time.monotonic() - begun)

    def end(self):
        pass


class Listener(Follower):
    def __init__(self, address):
        super().__init__()
        self.load = Load([servers.STAGE + '/bench/consumer', address, 'rows'], name='listener')

    def mark(self, turn):
        psql("NOTIFY rows, 'w_turns:%d {}'" % turn)

    def end(self):
        self.load.end()


class Decoder(Follower):
    """A slot and its reader, there for a turn: else it would decode what others write."""

    def __init__(self, address, table):
        super().__init__()
        self.address, self.receiver, self.consumer = address, None, None
        self.tables = 'public.%s,public.w_turns' % table
        psql('DROP TABLE IF EXISTS w_turns; CREATE TABLE w_turns (id int PRIMARY KEY)')
        psql("SELECT pg_create_logical_replication_slot('bench', 'wal2json')")
        psql("SELECT pg_drop_replication_slot('bench')")

    def begin(self):
        psql("SELECT pg_create_logical_replication_slot('bench', 'wal2json')")
        options = {'format-version': 2, 'include-types': 'off', 'include-transaction': 'off',
                   'actions': 'insert,update', 'add-tables': self.tables}
        command = ['pg_recvlogical', '-d', 'postgres', '-S', 'bench', '--start', '--no-loop', '-f', '-']
        for option in options.items():
            command += ['-o', '%s=%s' % option]
        self.receiver = Load(command, name='receiver', stdout=subprocess.PIPE)
        self.consumer = Load([servers.STAGE + '/bench/consumer', self.address], name='follower',
                             stdin=self.receiver.process.stdout)
        self.receiver.process.stdout.close()
        servers.wait_for('the slot', lambda: psql('SELECT active FROM pg_replication_slots') == 't')

    def mark(self, turn):
        psql('INSERT INTO w_turns VALUES (%d)' % turn)

    def catch_up(self):
        super().catch_up()
        self.end()

    def end(self):
        if self.receiver:
            self.receiver.end()
            self.consumer.end()
            self.receiver = self.consumer = None
            servers.wait_for('the slot', lambda: psql('SELECT active FROM pg_replication_slots') == 'f')
            psql("SELECT pg_drop_replication_slot('bench')")


class Series:
    """One kind of socket: its tables, triggers and processes."""

    def __init__(self, kind, wanted):
        self.kind = kind
        self.address = servers.REDIS_SOCKET if kind == 'unix' else '127.0.0.1:%d' % servers.REDIS_PORT
        servers.use_redis('unix://' + self.address if kind == 'unix' else 'redis://' + self.address)
        self.memcached, self.followers = None, {}
        self.missing = []
        self.names = [name for name in TABLES if name == BASE or name in wanted or
                      not wanted and not (kind == 'tcp' and name in LEFT_OUT_OF_TCP)]
        for name in self.names[:]:
            self.make_table(name)

    def make_table(self, name):
        table = TABLES[name]
        psql('DROP TABLE IF EXISTS %s' % table)
        psql("SELECT make_rows('%s')" % table)
        if name in SLATE:
            psql("SELECT slate_cache_attach('%s', row_keys => ARRAY['%s:{id}'], ttl => '1 hour')"
                 % (table, table))
        else:
            makers = {EMPTY: self.make_empty, MEMCACHE: self.make_memcache, PYTHON: self.make_python,
                      NOTIFY: self.make_notify, WAL2JSON: self.make_wal2json, NODE: self.find_node}
            try:
                makers.get(name, lambda table: None)(table)
            except RuntimeError as error:
                self.missing.append('%s (%s)' % (name, str(error).splitlines()[0]))
                self.names.remove(name)

    def make_empty(self, table):
        psql("CREATE OR REPLACE FUNCTION read_one_column() RETURNS trigger LANGUAGE c AS '%s/bench/trigger'"
             % servers.STAGE)
        self.trigger(table, 'read_one_column')

    def make_memcache(self, table):
        psql('CREATE EXTENSION IF NOT EXISTS pgmemcache')
        self.memcached = servers.Memcached(self.kind)
        psql("ALTER SYSTEM SET pgmemcache.default_servers = '%s'" % self.memcached.address)
        psql('SELECT pg_reload_conf()')
        psql("""CREATE OR REPLACE FUNCTION to_memcached() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM memcache_set(TG_TABLE_NAME || ':' || NEW.id, row_to_json(NEW)::text,
                                     interval '1 hour');
                RETURN NULL;
            END $$""")
        self.trigger(table, 'to_memcached')

    def make_python(self, table):
        psql('CREATE EXTENSION IF NOT EXISTS plpython3u')
        where = ("unix_socket_path='%s'" % self.address if self.kind == 'unix'
                 else "host='127.0.0.1', port=%d" % servers.REDIS_PORT)
        psql("""CREATE OR REPLACE FUNCTION to_redis() RETURNS trigger LANGUAGE plpython3u AS $$
if 'redis' not in SD:
    import json, redis
    SD['dumps'] = json.dumps
    SD['redis'] = redis.Redis(%s)
row = TD['new']
SD['redis'].set('%%s:%%s' %% (TD['table_name'], row['id']), SD['dumps'](row), ex=3600)
$$""" % where)
        psql('DO LANGUAGE plpython3u $$ import redis $$')
        self.trigger(table, 'to_redis')

    def make_notify(self, table):
        psql("""CREATE OR REPLACE FUNCTION to_listener() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_notify('rows', TG_TABLE_NAME || ':' || NEW.id || ' ' || row_to_json(NEW));
                RETURN NULL;
            END $$""")
        self.trigger(table, 'to_listener')
        self.followers[NOTIFY] = Listener(self.address)

    def make_wal2json(self, table):
        self.followers[WAL2JSON] = Decoder(self.address, table)

    @staticmethod
    def find_node(table):
        if not NODE_APP:
            raise RuntimeError('node, or its pg and ioredis, are not there')

    @staticmethod
    def trigger(table, function):
        psql('CREATE TRIGGER copy AFTER INSERT OR UPDATE ON %s '
             'FOR EACH ROW EXECUTE FUNCTION %s()' % (table, function))

    def app(self, name, clients):
        """The command of a program that does it itself; None for a candidate of pgbench."""
        program = {APP: [servers.STAGE + '/bench/app'], NODE: ['node', NODE_APP]}.get(name)
        return program and [*program, self.address, TABLES[name], str(clients)]

    def measure(self, clients, rounds, seconds):
        """TPS of each candidate in each round."""
        last = {}
        psql('CHECKPOINT')
        psql('SELECT slate_cache_stats_reset()')
        sets = write_commands('sets', [
            servers.command('SET', 'beside:%d' % i, 'x' * 300, 'EX', '3600') for i in range(10000)])

        def beside(seconds):
            rate = last.get(ASYNC) or last.get(COMMIT) or 5000
            return exchange(self.address, sets, seconds, 1, rate)

        candidates = []
        try:
            for name in self.names:
                candidates.append(Writer(name, clients, TABLES[name], OPTIONS.get(name, ''),
                                         beside if name == BESIDE else None,
                                         self.app(name, clients),
                                         self.followers.get(name)))
            return take_turns(candidates, rounds, seconds, last.__setitem__)
        finally:
            for candidate in candidates:
                candidate.end()

    def end(self):
        if self.memcached:
            self.memcached.stop()
        for follower in self.followers.values():
            follower.end()

    # What is fast because it does not do its work is no candidate.
    def check(self):
        """How many of 300 rows have a copy.  It must be right; slate_cache may have none."""
        there = {}
        for name in self.names:
            if name in (BASE, BESIDE, EMPTY):
                continue
            rows = psql('SELECT id, n FROM %s WHERE n > 0 ORDER BY random() LIMIT 300'
                        % TABLES[name]).splitlines()
            there[name] = sum(self.check_copy(name, *row.split('|')) for row in rows)
        return there

    def check_copy(self, name, id, n):
        key, found = '%s:%s' % (TABLES[name], id), []

        def is_right():
            found[:] = [self.memcached.ask(b'get ' + key.encode()) if name == MEMCACHE
                        else servers.ask('GET', key)]
            if found[0] is None:
                return name in SLATE
            return found[0].replace(b' ', b'').endswith(b'"n":%d}' % int(n))

        # An app that is ended between its UPDATE and its SET leaves an old one.
        if name in (APP, NODE):
            return is_right()
        servers.wait_for('the right copy of %s by the %s' % (key, name), is_right, 10)
        return found[0] is not None


def run(kind, clients_wanted, rounds, seconds, plots, wanted, machine):
    series = Series(kind, wanted)
    where = 'a unix socket' if kind == 'unix' else 'TCP'
    reached, spreads = {}, {}
    try:
        for clients in clients_wanted:
            reached[clients] = series.measure(clients, rounds, seconds)
            delivery = psql('SELECT keys_stored, keys_dropped, pushes_delayed, fallbacks, pushes_lost '
                            'FROM slate_cache.stats').split('|')
            print('%d clients: %s keys set, %s dropped, %s pushes delayed, %s fallbacks, %s lost'
                  % (clients, *delivery), flush=True)
            for name, follower in series.followers.items():
                print('%s: the last copy %s s after the end of a turn'
                      % (name, report.Spread(follower.behind).text()), flush=True)
                follower.behind = []
        there = series.check()
        print('Of 300 rows changed so many have a copy, and it is right: '
              + ', '.join('%s %d' % item for item in there.items()))
    finally:
        series.end()
    rows = []
    for name in series.names:
        row = [name]
        for clients in clients_wanted:
            values = reached[clients][name]
            spread = spreads[name, clients] = report.ratios(values, reached[clients][BASE])
            row += ['%.0f' % report.median(values), spread.text()]
        rows.append(row)
    head = ['Redis on ' + where]
    for clients in clients_wanted:
        head += ['TPS, %d client%s' % (clients, 's' * (clients > 1)), 'ratio to the base']
    report.table('Writes: one row per commit, ' + where, head, rows,
                 'Medians of %d rounds; ratios within a round, the middle half of them in '
                 'parentheses.' % rounds)
    conclude(reached, clients_wanted)
    if series.missing:
        print('Left out: ' + '; '.join(series.missing))
    report.plot('%s/writes_%s.svg' % (plots, kind), 'Commits a second, as a part of those without a trigger',
                'Redis on %s; %s' % (where, machine),
                ['%d client%s' % (c, 's' * (c > 1)) for c in clients_wanted],
                [name for name in series.names if name != BASE],
                {(name, '%d client%s' % (c, 's' * (c > 1))): spread
                 for (name, c), spread in spreads.items() if name != BASE})
    return reached


# The comparisons that the targets are about.
COMPARED = ((COMMIT, NO_JOURNAL, 'journal on against off'),
            (ASYNC, BESIDE, 'async against the base with ideal SETs beside'),
            (ASYNC, EMPTY, 'async against a trigger that does nothing'),
            (COMMIT, MEMCACHE, 'commit against pgmemcache'),
            (COMMIT, PYTHON, 'commit against PL/Python'),
            (COMMIT, NOTIFY, 'commit against LISTEN/NOTIFY'),
            (ASYNC, NOTIFY, 'async against LISTEN/NOTIFY'),
            (ASYNC, WAL2JSON, 'async against wal2json'),
            (COMMIT, APP, 'commit against the app in C'),
            (COMMIT, NODE, 'commit against the app in JavaScript'))


def conclude(reached, clients_wanted):
    rows = []
    for one, other, title in COMPARED:
        if all(one in reached[c] and other in reached[c] for c in clients_wanted):
            rows.append([title] + [report.ratios(reached[c][one], reached[c][other]).text(3)
                                   for c in clients_wanted])
    if 1 in reached:
        for name in (ASYNC, COMMIT, NO_JOURNAL, STRICT, APP):
            if name in reached[1]:
                more = report.Spread([1e6 / value - 1e6 / base for value, base in
                                      zip(reached[1][name], reached[1][BASE])])
                rows.append(['%s: µs more a commit' % name, more.text(0)] + [''] * (len(clients_wanted) - 1))
    if rows:
        report.table('TPS against each other', ['']
                     + ['%d client%s' % (c, 's' * (c > 1)) for c in clients_wanted], rows)
