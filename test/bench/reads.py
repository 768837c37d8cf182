"""Reads by a backend, beside a bare GET loop; and of a hundred keys at once."""
import report
import servers
from load import Exchange, Reader, take_turns
from servers import command, psql

EMPTY = 'SELECT that does nothing'
ROW = 'row by primary key, as JSON'
PAGE = 'join with an aggregate, as JSON'
HIT, PEEK = 'slate_cache_get, a hit', 'slate_cache_peek, a hit'
AGAIN, NEAR = 'slate_cache_get, one of 300 rows', 'slate_cache_get, near'
PAGE_HIT = 'slate_cache_peek of that page'
MEMCACHE, PYTHON = 'memcache_get', 'PL/Python with redis-py'
LOOP = 'GET loop in C'

ID = '\\set id random(1, 10000)\n'
PROJECT = '\\set id random(0, 99)\n'

# What a page needs of a project: its name, its files and how large they are.
PAGE_QUERY = """SELECT p.id, p.name, count(*) AS files, sum(length(f.content)) AS bytes,
    array_agg(f.path ORDER BY f.id) AS paths
    FROM r_projects p JOIN r_files f ON f.project_id = p.id WHERE p.id = $1::int GROUP BY p.id"""

SCRIPTS = {
    EMPTY: 'SELECT 1;',
    ROW: ID + 'SELECT row_to_json(f) FROM r_files f WHERE id = :id;',
    PAGE: PROJECT + 'SELECT row_to_json(q) FROM (%s) q;' % PAGE_QUERY.replace('$1', ':id').replace('\n', ' '),
    HIT: ID + "SELECT slate_cache_get('r_files:' || :id::int);",
    AGAIN: ID.replace('10000', '300') + "SELECT slate_cache_get('r_files:' || :id::int);",
    NEAR: ID + "SELECT slate_cache_get('r_files:' || :id::int);",
    PEEK: ID + "SELECT slate_cache_peek('r_files:' || :id::int);",
    PAGE_HIT: PROJECT + "SELECT slate_cache_peek('page:' || :id::int);",
    MEMCACHE: ID + "SELECT memcache_get('r_files:' || :id::int);",
    PYTHON: ID + "SELECT redis_get('r_files:' || :id::int);",
}


# All but one ask Redis.
FAR = '-c slate_cache.near=off'


def make_rows():
    psql("SELECT make_rows('r_files'); ANALYZE r_files; "
         'CREATE INDEX ON r_files (project_id); '
         "CREATE TABLE r_projects AS SELECT id, 'project ' || id AS name FROM generate_series(0, 99) id; "
         'ALTER TABLE r_projects ADD PRIMARY KEY (id); VACUUM ANALYZE r_files, r_projects; ')
    psql("SELECT slate_cache_attach('r_files', row_keys => ARRAY['r_files:{id}'], ttl => '1 hour')")
    servers.wait_for_walk()
    psql("SELECT slate_cache_warm('r_files')")
    psql("""SELECT count(slate_cache_fetch('page:' || id, $$%s$$, '1 hour', id::text))
            FROM generate_series(0, 99) id""" % PAGE_QUERY)


def make_peers(missing):
    """memcached, or None."""
    memcached = None
    try:
        psql('CREATE EXTENSION IF NOT EXISTS plpython3u')
        psql("""CREATE FUNCTION redis_get(key text) RETURNS text LANGUAGE plpython3u AS $$
if 'redis' not in SD:
    import redis
    SD['redis'] = redis.Redis(unix_socket_path='%s')
value = SD['redis'].get(key)
return value.decode() if value is not None else None
$$""" % servers.REDIS_SOCKET)
        psql("SELECT redis_get('')")
    except RuntimeError as error:
        missing[PYTHON] = str(error).splitlines()[0]
    try:
        psql('CREATE EXTENSION IF NOT EXISTS pgmemcache')
        memcached = servers.Memcached('unix')
        psql("ALTER SYSTEM SET pgmemcache.default_servers = '%s'" % memcached.address)
        psql('SELECT pg_reload_conf()')
        psql("SELECT memcache_set('r_files:' || id, row_to_json(f)::text) FROM r_files f")
        if memcached.ask(b'get r_files:1') is None:
            raise RuntimeError('memcached does not have what was set')
    except (RuntimeError, OSError) as error:
        missing[MEMCACHE] = str(error).splitlines()[0]
    return memcached


def run(clients_wanted, rounds, seconds, plots, machine):
    missing, reached, spreads, rows = {}, {}, {}, []
    servers.use_redis('unix://' + servers.REDIS_SOCKET)
    make_rows()
    memcached = make_peers(missing)
    names = [name for name in SCRIPTS if name not in missing] + [LOOP]
    keys = [command('GET', 'r_files:%d' % i) for i in range(1, 10001)]
    before = counted()
    for clients in clients_wanted:
        candidates = [Reader(name, clients, SCRIPTS[name], '' if name == NEAR else FAR) for name in names if name != LOOP]
        candidates.append(Exchange(LOOP, servers.REDIS_SOCKET, keys, 1, clients))
        reached[clients] = take_turns(candidates, rounds, seconds)
    check_hits(before)
    if memcached:
        memcached.stop()
    for name in names:
        row = [name]
        for clients in clients_wanted:
            values, others = reached[clients][name], reached[clients]
            spread = spreads[name, series(clients)] = report.ratios(values, others[EMPTY])
            row += ['%.0f' % report.median(values), spread.text()]
            if clients == 1:
                row.append('%.1f' % report.median([1e6 / value for value in values]))
                row.append(report.Spread([1e6 / v - 1e6 / e for v, e in
                                          zip(values, others[EMPTY])]).text(1))
        rows.append(row)
    head = ['pgbench -M prepared, unix sockets']
    for clients in clients_wanted:
        head += ['a second, ' + series(clients), 'to the empty SELECT']
        if clients == 1:
            head += ['µs', 'µs more than the empty SELECT']
    report.table('Reads', head, rows, 'Medians of %d rounds.' % rounds)
    conclude(reached, clients_wanted)
    for name, why in missing.items():
        print('Left out: %s (%s)' % (name, why))
    report.plot(plots + '/reads.svg', 'Reads a second, SELECT 1 = 1', machine,
                [series(clients) for clients in clients_wanted],
                [name for name in names if name != EMPTY],
                {key: spread for key, spread in spreads.items() if key[0] != EMPTY})


def series(clients):
    return '%d client%s' % (clients, 's' * (clients > 1))


def counted():
    return [int(n) for n in psql(
        'SELECT hits, misses + bypasses, read_failures FROM slate_cache.stats').split('|')]


def check_hits(before):
    """A figure is of hits; where the machine stood still one in a thousand is not."""
    hits, misses, failures = [now - then for now, then in zip(counted(), before)]
    if misses + failures > hits / 1000:
        raise RuntimeError('%d hits, %d misses, %d failures' % (hits, misses, failures))


def conclude(reached, clients_wanted):
    rows = []
    if 1 in reached:
        one = reached[1]
        for name in (HIT, AGAIN, NEAR, PEEK):
            rows.append(['%s, without the empty SELECT, in GETs' % name] + [report.Spread(
                [(1 / hit - 1 / nothing) * get for hit, nothing, get in
                 zip(one[name], one[EMPTY], one[LOOP])]).text()] + [''] * (len(clients_wanted) - 1))
    for title, name, other in (('a hit against the row by primary key', HIT, ROW),
                               ('a near hit against the row by primary key', NEAR, ROW),
                               ('a near hit against a hit', NEAR, HIT),
                               ('a hit of the page against its query', PAGE_HIT, PAGE),
                               ('a hit against memcache_get', HIT, MEMCACHE),
                               ('a hit against PL/Python', HIT, PYTHON)):
        if all(name in reached[c] and other in reached[c] for c in clients_wanted):
            rows.append([title] + [report.ratios(reached[c][name], reached[c][other]).text()
                                   for c in clients_wanted])
    report.table('Reads against each other', [''] + [series(c) for c in clients_wanted], rows)


MGET, MGET_AGAIN, MGET_NEAR, GETS, GETS_NEAR, BARE_MGET, BARE_GETS, NOTHING, ROWS = (
    'slate_cache_mget of 100', 'slate_cache_mget of 100 of 300 rows', 'slate_cache_mget of 100, near',
    '100 slate_cache_get in one query', '100 slate_cache_get in one query, near', 'MGET of 100 in C',
    '100 GETs in C, one by one', 'a query that makes 100 keys', '100 rows by primary key, as JSON')


def run_mget(rounds, seconds, plots, machine):
    servers.use_redis('unix://' + servers.REDIS_SOCKET)
    if psql("SELECT to_regclass('r_files')") == '':
        make_rows()
    start = '\\set id random(1, 9900)\n'
    made = "SELECT 'r_files:' || (:id::int + i) AS key FROM generate_series(0, 99) i"
    scripts = {
        NOTHING: start + 'SELECT count(key) FROM unnest(ARRAY(%s)) key;' % made,
        MGET: start + 'SELECT count(value) FROM slate_cache_mget(ARRAY(%s));' % made,
        MGET_AGAIN: start.replace('9900', '200') + 'SELECT count(value) FROM slate_cache_mget(ARRAY(%s));' % made,
        MGET_NEAR: start + 'SELECT count(value) FROM slate_cache_mget(ARRAY(%s));' % made,
        GETS: start + 'SELECT count(slate_cache_get(key)) FROM (%s OFFSET 0) k;' % made,
        GETS_NEAR: start + 'SELECT count(slate_cache_get(key)) FROM (%s OFFSET 0) k;' % made,
        ROWS: start + 'SELECT count(row_to_json(f)::text) FROM r_files f WHERE id = ANY (ARRAY('
                      'SELECT :id::int + i FROM generate_series(0, 99) i));'}
    candidates = [Reader('mget ' + name, 1, script, '' if name in (MGET_NEAR, GETS_NEAR) else FAR) for name, script in scripts.items()]
    for candidate, name in zip(candidates, scripts):
        candidate.name = name
    hundreds = [[b'r_files:%d' % (i + j) for j in range(100)] for i in range(1, 9901, 33)]
    candidates.append(Exchange(BARE_MGET, servers.REDIS_SOCKET,
                               [command('MGET', *keys) for keys in hundreds]))
    candidates.append(Exchange(BARE_GETS, servers.REDIS_SOCKET,
                               [command('GET', key) for key in hundreds[0]]))
    before = counted()
    reached = take_turns(candidates, rounds, seconds)
    check_hits(before)
    times = {name: [1e6 / rate * (100 if name == BARE_GETS else 1) for rate in rates]
             for name, rates in reached.items()}
    # What asking costs, without making the keys and the query around it.
    asking = {name: ([t - n for t, n in zip(values, times[NOTHING])]
                     if name in (MGET, MGET_AGAIN, MGET_NEAR, GETS, GETS_NEAR) else values) for name, values in times.items()}
    report.table('A hundred keys at once, 300 bytes each', ['one client, unix sockets', 'µs', 'without the query around it', 'in MGETs'], [
        [name, report.Spread(values).text(0), '%.0f' % report.median(asking[name]),
         report.ratios(asking[name], times[BARE_MGET]).text()]
        for name, values in times.items()], 'Medians of %d rounds.' % rounds)
    report.plot(plots + '/mget.svg', 'Time of reading a hundred keys, MGET = 1', machine, [''],
                [name for name in times if name != NOTHING],
                {(name, ''): report.ratios(asking[name], times[BARE_MGET])
                 for name in times if name != NOTHING})
