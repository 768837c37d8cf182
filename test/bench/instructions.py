"""Instructions of the hot paths, by callgrind: see instructions."""
import glob
import os
import re
import subprocess
import sys
import time

import servers
from servers import command, psql

STAGE = os.environ['STAGE']
N = int(os.environ.get('SLATE_INSTRUCTIONS_N') or 300)
ONLY = [name for name in os.environ.get('SLATE_INSTRUCTIONS', '').split(';') if name]
PROFILE = os.environ.get('SLATE_PROFILE', '')
ACCEPT = os.environ.get('SLATE_INSTRUCTIONS_ACCEPT', '')

# Of a session's statements, and of the calls to Redis, those that fill caches and
# are not counted.
WARM_UP = 200
WARM_UP_CALLS = 5

# Builds of the servers differ a little; a regression is more than this.
TOLERANCE = 0.10


def control(option, pid, *arguments):
    done = subprocess.run(['callgrind_control', option, *arguments, str(pid)],
                          text=True, capture_output=True, check=True)
    if 'Error' in done.stdout:
        raise RuntimeError(done.stdout)


def total_of(profile):
    with open(profile) as file:
        found = re.search(r'^(?:totals|summary): (\d+)', file.read(), re.M)
    return int(found.group(1)) if found else None


def show(name, profile):
    if name == PROFILE:
        for inclusive in ('yes', 'no'):
            print(subprocess.run(
                ['callgrind_annotate', '--inclusive=' + inclusive, '--threshold=99', profile],
                text=True, capture_output=True).stdout, flush=True)


def run_backend(settings, statements):
    """A session; where its profile is when it has ended."""
    session = subprocess.Popen(
        ['psql', '-XqAt', '-v', 'ON_ERROR_STOP=1'], text=True, env={**os.environ, 'PGOPTIONS': settings},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = session.communicate('SELECT pg_backend_pid();\n' + '\n'.join(statements) + '\n')
    if session.returncode != 0:
        raise RuntimeError(errors)
    profile = '%s/log/callgrind.%s' % (STAGE, output.split('\n', 1)[0])
    servers.wait_for(profile, lambda: os.path.exists(profile) and total_of(profile) is not None, 60)
    return profile


def count_backend(name, settings, preparation, statement):
    """Instructions of one statement: what a session of many costs more than one of fewer."""
    def some(n):
        return [statement % (1 + i % 100) if '%d' in statement else statement for i in range(n)]
    # what the first one leaves in shared memory the others find
    run_backend(settings, [preparation + ';', *some(WARM_UP)])
    fewer = run_backend(settings, [preparation + ';', *some(WARM_UP)])
    more = run_backend(settings, [preparation + ';', *some(WARM_UP + N)])
    show(name, more)
    return (total_of(more) - total_of(fewer)) / N


def make_tables():
    psql('CREATE EXTENSION slate_cache')
    with open(os.path.dirname(__file__) + '/schema.sql') as schema:
        psql(schema.read())
    psql("CREATE FUNCTION read_one_column() RETURNS trigger LANGUAGE c AS '%s/bench/trigger'" % STAGE)
    for table in ('i_base', 'i_trigger', 'i_slate', 'i_page'):
        psql("SELECT make_rows('%s'); DELETE FROM %s WHERE id > 100; VACUUM FULL ANALYZE %s"
             % (table, table, table))
    psql('CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON i_trigger '
         'FOR EACH ROW EXECUTE FUNCTION read_one_column()')
    psql("SELECT slate_cache_attach('i_slate', row_keys => ARRAY['i_slate:{id}'], ttl => '1 hour')")
    psql("UPDATE i_page SET content = repeat(md5(id::text), 29); "
         "SELECT slate_cache_attach('i_page', row_keys => ARRAY['i_page:{id}'], ttl => '1 hour')")
    servers.wait_for('the worker', servers.slate_is_well, 120)
    psql("SELECT slate_cache_warm('i_page'), slate_cache_warm('i_slate')")
    servers.wait_for('a tick', lambda: servers.ask('EXISTS', 'slate_cache:tick') == b'1', 60)


UPDATE = 'PREPARE w(int) AS UPDATE %s SET n = n + 1 WHERE id = $1'


def backends():
    """name -> (settings, preparation, statement)"""
    undone = 'BEGIN; EXECUTE w(%d); ROLLBACK;'
    commit = 'EXECUTE w(%d);'
    mode = '-c slate_cache.mode='
    yield 'UPDATE rolled back', '', UPDATE % 'i_base', undone
    yield 'UPDATE rolled back, empty trigger', '', UPDATE % 'i_trigger', undone
    yield 'UPDATE rolled back, captured', '', UPDATE % 'i_slate', undone
    yield 'UPDATE', '', UPDATE % 'i_base', commit
    yield 'UPDATE, commit', '', UPDATE % 'i_slate', commit
    yield 'UPDATE, commit, no journal', '-c slate_cache.journal=off', UPDATE % 'i_slate', commit
    yield 'UPDATE, async', mode + 'async', UPDATE % 'i_slate', commit
    yield 'UPDATE, strict', mode + 'strict', UPDATE % 'i_slate', commit
    yield 'SELECT that does nothing', '', 'PREPARE w(int) AS SELECT $1', commit
    yield ('row by primary key, as JSON', '',
           'PREPARE w(int) AS SELECT row_to_json(p) FROM i_page p WHERE id = $1', commit)
    far, get = '-c slate_cache.near=off', "PREPARE w(int) AS SELECT slate_cache_get('i_page:' || $1)"
    yield 'get of 1 kB, never read before', far + ' -c slate_cache.parsed_memory=0', get, commit
    yield 'get of 1 kB', far, get, commit
    yield 'get of 1 kB, near', '', get, commit
    yield 'peek of 1 kB', '', "PREPARE w(int) AS SELECT slate_cache_peek('i_page:' || $1)", commit
    mget = ("PREPARE w(text[]) AS SELECT count(value) FROM slate_cache_mget($1)",
            "EXECUTE w('{%s}');" % ','.join('i_slate:%d' % i for i in range(1, 101)))
    yield 'mget of 100, never read before', far + ' -c slate_cache.parsed_memory=0', *mget
    yield 'mget of 100', far, *mget


def count_backends():
    for name, settings, preparation, statement in backends():
        if not ONLY or name in ONLY:
            yield name, count_backend(name, settings, preparation, statement)


def pushes(keys_per_call):
    """What commits of so many rows send, each newer than the last, with deadlines far away."""
    psql('UPDATE i_slate SET n = n + 1 WHERE id <= %d' % keys_per_call)
    with servers.Monitor() as monitor:
        psql('UPDATE i_slate SET n = n + 1 WHERE id <= %d' % keys_per_call)
        # the worker calls scripts, too
        at = []
        while not at:
            words = monitor.until(b'EVALSHA')
            at = [i for i, word in enumerate(words) if len(word) == 34 and word.isdigit()]
    at = at[0]
    for i in range(1, 1 + WARM_UP_CALLS + max(20, N // keys_per_call)):
        head = b'%013d%013d%s' % (int(words[at][:13]) + 86400000 + i,
                                  int(words[at][13:26]) + 86400000 + i, words[at][26:])
        new = [word if j <= at or len(word) < 76 or not word[:75].isalnum() else
               b'%s%020d%s%016x%s' % (word[:10], int(word[10:30]) + i, word[30:38], i, word[54:])
               for j, word in enumerate(words)]
        new[at] = head
        yield command(*new)


def count_redis():
    with open('%s/redis/pid' % STAGE) as file:
        pid = int(file.read())
    keys = ['i_page:%d' % i for i in range(1, 101)]
    kinds = {
        'Redis: GET of 1 kB': (1, lambda: [command('GET', key) for key in keys]),
        'Redis: SET … EX of 300 bytes': (1, lambda: [command('SET', 'plain:' + key, 'x' * 300, 'EX', 3600) for key in keys]),
        'Redis: direct push of one row': (1, lambda: [servers.pushed_directly('UPDATE i_slate SET n = n + 1 WHERE id = 1')]),
        'Redis: direct push of a row among ten': (10, lambda: [servers.pushed_directly('UPDATE i_slate SET n = n + 1 WHERE id <= 10', 10)]),
        'Redis: direct push of a row among a hundred': (100, lambda: [servers.pushed_directly('UPDATE i_slate SET n = n + 1', 100)]),
        'Redis: push of one row': (1, lambda: list(pushes(1))),
        'Redis: push of a row among ten': (10, lambda: list(pushes(10))),
        'Redis: push of a row among a hundred': (100, lambda: list(pushes(100)))}
    for name, (per_call, commands) in kinds.items():
        if not ONLY or name in ONLY:
            calls = max(20, N // per_call)
            profile = count_calls(name, pid, commands, calls)
            show(name, profile)
            yield name, total_of(profile) / calls / per_call


def count_calls(name, pid, commands, calls):
    """The profile of so many calls.

    Under valgrind the worker may be late with its tick, and without one Redis looks
    closely at each key: then once more, with other pushes, for the same would be
    outdated.
    """
    for _ in range(20):
        texts = commands()
        servers.ask('SET', 'slate_cache:tick', '%013d' % (time.time() * 1000), 'PX', 60000)
        with Calls() as link:
            quick = link.make(texts[:WARM_UP_CALLS])
            control('-z', pid)
            quick &= link.make(texts[(WARM_UP_CALLS + i) % len(texts)] for i in range(calls))
            control('-d', pid)
        profile = max(glob.glob('%s/log/callgrind.%d.*' % (STAGE, pid)),
                      key=lambda file: int(file.rsplit('.', 1)[1]))
        if quick:
            return profile
    raise RuntimeError('%s: Redis looked closely at each' % name)


class Calls:
    """A connection to Redis for one call after the other."""

    def __enter__(self):
        self.link = servers.socket.socket(servers.socket.AF_UNIX)
        self.link.connect(servers.REDIS_SOCKET)
        self.replies = self.link.makefile('rb')
        return self

    def __exit__(self, *_):
        self.link.close()

    def make(self, texts):
        """Whether each answer was no array, as those of pushes are that are looked at closely."""
        quick = True
        for text in texts:
            self.link.sendall(text)
            replies = [self.read() for _ in range(servers.count_commands(text))]
            quick &= len(replies) > 1 or not replies[0]
        return quick

    def read(self):
        """One answer; whether it was an array."""
        line = self.replies.readline()
        if line[:1] == b'$':
            self.replies.read(int(line[1:]) + 2)
        elif line[:1] == b'*':
            for _ in range(int(line[1:])):
                self.replies.readline()
        elif line[:1] not in (b'+', b':'):
            raise RuntimeError('Redis: %r' % line)
        return line[:1] == b'*'


def noted(file):
    if not os.path.exists(file):
        return {}
    with open(file) as lines:
        pairs = [line.rsplit(None, 1) for line in lines if line.strip() and line[0] != '#']
    return {name.strip(): float(number) for name, number in pairs}


def main(file):
    before, found, worse = noted(file), {}, []
    make_tables()
    for count in (count_backends, count_redis):
        for name, number in count():
            found[name] = number
            was = before.get(name)
            change = '' if was is None else '%+6.1f %%' % (100 * (number / was - 1))
            if was is not None and number > was * (1 + TOLERANCE):
                worse.append(name)
                change += '  MORE'
            print('%-40s %9.0f  %s' % (name, number, change), flush=True)
    def over(what, base, other):
        if what in found and base in found and other in found:
            print('%s: %.2f times %s' % (
                what, (found[what] - found[base]) / (found[other] - found[base]), other))
    over('UPDATE rolled back, captured', 'UPDATE rolled back', 'UPDATE rolled back, empty trigger')
    note({**before, **found})
    if worse:
        print('More than noted: ' + ', '.join(worse))
        sys.exit(0 if ACCEPT else 1)


def note(numbers):
    with open(STAGE + '/log/instructions.txt', 'w') as file:
        file.write('# Instructions by callgrind, for one transaction, query or row; make instructions\n'
                   '# compares, ACCEPT=1 notes them.  %s, Redis %s.\n' % (
                       psql('SELECT substring(version() FROM $$PostgreSQL [0-9.]+$$)'),
                       re.search('redis_version:([0-9.]+)', servers.redis_cli('INFO', 'server')).group(1)))
        for name, number in numbers.items():
            file.write('%-40s %9.0f\n' % (name, number))


if __name__ == '__main__':
    main(sys.argv[1])
