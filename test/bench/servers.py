"""The servers of a benchmark, and what is asked of them outside the turns.

The run script has started PostgreSQL and Redis; memcached is started here.
"""
import os
import socket
import subprocess
import sys
import time

STAGE = os.environ.get('STAGE', '')
REDIS_SOCKET = os.environ.get('SLATE_REDIS_SOCKET', '')
REDIS_PORT = int(os.environ.get('SLATE_BENCH_PORT') or 0)


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def psql(sql, database='postgres'):
    """The result of some SQL, unaligned; fails as psql does."""
    done = subprocess.run(
        ['psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', database],
        input=sql, text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout.strip()


def redis_cli(*arguments):
    done = subprocess.run(['redis-cli', '-s', REDIS_SOCKET, *arguments],
                          text=True, capture_output=True, check=True)
    return done.stdout.rstrip('\n')


def command(*words):
    """A command in Redis' protocol."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b'*%d\r\n' % len(words) + b''.join(b'$%d\r\n%s\r\n' % (len(w), w) for w in words)


def count_commands(text):
    """How many there are in a text of the protocol."""
    count, at = 0, 0
    while at < len(text):
        end = text.index(b'\n', at) + 1
        words, at, count = int(text[at + 1:end]), end, count + 1
        for _ in range(words):
            end = text.index(b'\n', at) + 1
            at = end + int(text[at + 1:end]) + 2
    return count


def pushed_directly(update, nkeys=1):
    """What one commit of a session sends that pushes directly, for another time.

    update is a statement; a session does it so often that it comes to do so.
    """
    commits = 'DO $$ BEGIN FOR i IN 1 .. 50 LOOP %s; COMMIT; END LOOP; END $$' % update
    psql(commits)
    with Monitor() as monitor:
        psql(commits)
        monitor.until(b'MULTI')
        sets = []
        while len(sets) < 2 * nkeys:
            words = monitor.until(b'SET')
            # the worker sets notes of its own
            if not words[1].startswith(b'slate_cache:') or words[1].startswith(b'slate_cache:guard:'):
                sets.append(words)
        watch = monitor.until(b'WATCH')
    # When the guards go, in ms.
    for words in sets[::2]:
        words[4] = b'%d' % (int(words[4]) + 86400000)
    return b''.join(command(*words) for words in (
        [b'MULTI'], *sets, [b'EXEC'], watch, [b'GET', watch[1]]))


def ask(*words):
    """Redis' bare answer to one command (no arrays)."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(REDIS_SOCKET)
        link.sendall(command(*words))
        with link.makefile('rb') as replies:
            line = replies.readline()
            if line[:1] != b'$':
                return line[1:].strip()
            return None if line == b'$-1\r\n' else replies.read(int(line[1:]))


class Monitor:
    """The commands that Redis executes meanwhile, in its MONITOR's words."""

    def __enter__(self):
        self.link = socket.socket(socket.AF_UNIX)
        self.link.connect(REDIS_SOCKET)
        self.link.settimeout(1)
        self.replies = self.link.makefile('rb')
        self.link.sendall(command('MONITOR'))
        self.replies.readline()
        return self

    def __exit__(self, *_):
        self.link.close()

    def until(self, name):
        """The words of the next command of that name from a client."""
        while True:
            line = self.replies.readline()
            head, _, rest = line.partition(b'] ')
            words = unquote(rest.strip())
            if b' lua' not in head and words and words[0].upper() == name:
                return words


def unquote(line):
    escapes = {ord('n'): 10, ord('r'): 13, ord('t'): 9, ord('a'): 7, ord('b'): 8}
    words, at = [], 0
    while at < len(line):
        at += 2 if line[at:at + 1] == b' ' else 1
        word = bytearray()
        while line[at:at + 1] != b'"':
            if line[at:at + 2] == b'\\x':
                word.append(int(line[at + 2:at + 4], 16))
                at += 4
            elif line[at:at + 1] == b'\\':
                word.append(escapes.get(line[at + 1], line[at + 1]))
                at += 2
            else:
                word.append(line[at])
                at += 1
        words.append(bytes(word))
        at += 1
    return words


def wait_for(what, condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError('waited in vain for ' + what)
        time.sleep(0.02)


def slate_is_well(url=None):
    """Has the worker begun to work, with the url that new sessions have?  Is it this one?"""
    is_new = "current_setting('slate_cache.url') = '%s'" % url if url else 'true'
    return psql('SELECT bool_and(ok) AND %s FROM slate_cache.health '
                "WHERE \"check\" IN ('worker', 'redis', 'breaker', 'history')" % is_new) == 't'


def wait_for_walk():
    """What a new rule's keys held before is looked for; what is filled until then goes, too."""
    wait_for('the walk over Redis', lambda: psql('SELECT NOT EXISTS (SELECT FROM slate_cache.journal)') == 't', 120)


def use_redis(url):
    """Have all of slate_cache, the worker included, reach Redis so."""
    psql("ALTER SYSTEM SET slate_cache.url = '%s'" % url)
    psql('SELECT pg_reload_conf()')
    wait_for('the worker at ' + url, lambda: slate_is_well(url))


# Those that run, so that none is left behind when something fails.
memcacheds = set()


def end_all():
    for memcached in list(memcacheds):
        memcached.stop()


class Memcached:
    """A private memcached, on a socket or a port; None where it is missing."""

    def __init__(self, kind):
        if kind == 'unix':
            self.address = STAGE + '/run/memcached.sock'
            where = ['-s', self.address]
        else:
            port = free_port()
            self.address = '127.0.0.1:%d' % port
            where = ['-l', '127.0.0.1', '-p', str(port), '-U', '0']
        self.process = subprocess.Popen(
            ['memcached', '-t', '2', '-m', '256', *where],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        memcacheds.add(self)
        wait_for('memcached', self.answers, 10)

    def answers(self):
        try:
            if self.address[0] == '/':
                link = socket.socket(socket.AF_UNIX)
                link.connect(self.address)
            else:
                host, port = self.address.split(':')
                link = socket.create_connection((host, int(port)))
            link.sendall(b'version\r\n')
            answer = link.recv(64)
            link.close()
            return answer.startswith(b'VERSION')
        except OSError:
            return False

    def ask(self, line):
        link = socket.socket(socket.AF_UNIX) if self.address[0] == '/' else socket.socket()
        host, _, port = self.address.partition(':')
        link.connect(self.address if self.address[0] == '/' else (host, int(port)))
        with link, link.makefile('rb') as replies:
            link.sendall(line + b'\r\n')
            answer = replies.readline()
            if answer.startswith(b'VALUE'):
                return replies.read(int(answer.split()[3]))
            return None

    def stop(self):
        self.process.kill()
        self.process.wait()
        memcacheds.discard(self)


if __name__ == '__main__' and sys.argv[1:] == ['free_port']:
    print(free_port())
