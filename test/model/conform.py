#!/usr/bin/env python3
"""Does the model do what the Lua does?

    python3 test/model/conform.py [SEED]

Takes the scripts out of src/lua.c, runs random calls on a private Redis
and the same on scripts.py, and compares what both hold after each.  Needs
redis-server.  The exit status is 1 at the first difference.
"""
import os
import random
import re
import socket
import subprocess
import sys
from time import sleep, time

sys.dont_write_bytecode = True

import scripts
from scripts import Call, LAPSED, NOBODY, SHARED

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                      '..', '..', 'src')
RUNS = 600
STEPS = 25

KEY = 'k:1'
GUARD = 'slate_cache:guard:{k:1}'
LIFE = 100000                   # ms; nothing expires by itself here
WRITERS = 4                     # who may have marks


def use_tag(tag):
    """What is a node's own has its hash tag in a Cluster."""
    global TAG, OWN, INDEX, EPOCH, MARKED, TICK
    TAG = tag
    OWN = 'slate_cache:' + tag
    INDEX = OWN + 'index:{k:*}'
    EPOCH = OWN + 'epoch:1'
    MARKED = OWN + 'marked'
    TICK = OWN + 'tick'


# ------------------------------------------------------------------ the Lua

def lua_scripts():
    """The text of each script, by the name of its variable."""
    source = ''
    for name in 'lua.h', 'lua.c':
        with open(os.path.join(SOURCE, name)) as file:
            source += file.read()
    macros = {}

    def text(pieces):
        return ''.join(
            macros[name] if name else string.encode().decode('unicode_escape')
            for string, name in re.findall(
                r'"((?:[^"\\]|\\.)*)"|\b([A-Z_]+)\b', pieces))

    for name, pieces in re.findall(
            r'^#define (LUA_\w*)\s+(.*)$',
            source.replace('\\\n', ''), re.M):
        macros[name] = text(pieces)
    return {name: text(pieces) for name, pieces in re.findall(
        r'^static const char (\w+)_source\[\] =\n(.*?);\n\n', source,
        re.M | re.S)}


class Redis:
    """A private server, and one connection to it."""

    def __init__(self):
        self.folder = os.path.join(os.environ.get('TMPDIR', '/tmp'),
                                   'slate-conform.%d' % os.getpid())
        os.mkdir(self.folder, 0o700)
        self.path = os.path.join(self.folder, 'socket')
        self.server = subprocess.Popen(
            ['redis-server', '--port', '0', '--unixsocket', self.path,
             '--save', '', '--dir', self.folder], stdout=subprocess.DEVNULL)
        self.connection = self.connect()
        self.replies = self.connection.makefile('rb')

    def connect(self):
        end = time() + 10
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(self.path)
                return connection
            except OSError:
                connection.close()
                if time() > end:
                    raise
                sleep(0.01)

    def stop(self):
        self.server.terminate()
        self.server.wait()
        for name in os.listdir(self.folder):
            os.unlink(os.path.join(self.folder, name))
        os.rmdir(self.folder)

    def __call__(self, *words):
        return self.many(words)[0]

    def many(self, *commands):
        """The replies to several commands, in one exchange."""
        self.connection.sendall(b''.join(map(self.encoded, commands)))
        return [self.reply() for _ in commands]

    @staticmethod
    def encoded(command):
        words = [str(word).encode() for word in command]
        return b'*%d\r\n' % len(words) + b''.join(
            b'$%d\r\n%s\r\n' % (len(word), word) for word in words)

    def reply(self):
        line = self.replies.readline()[:-2]
        kind, rest = line[:1], line[1:]
        if kind == b'-':
            raise RuntimeError(rest.decode())
        if kind == b':':
            return int(rest)
        if kind == b'$':
            return (None if rest == b'-1'
                    else self.replies.read(int(rest) + 2)[:-2].decode())
        if kind == b'*':
            return [self.reply() for _ in range(int(rest))]
        return rest.decode()

    def now(self):
        seconds, micros = self('TIME')
        return int(seconds) * 1000 + int(micros) // 1000


# ---------------------------------------------------- how values are written

def name_or_dashes(number, nothing):
    return '--------' if number == nothing else '%08x' % number


def number_or(nothing, text):
    return nothing if text == '--------' else int(text, 16)


def owner_of(writer):
    return 1 + writer % 2


def id_of(writer):
    return '%016x' % (1000 + writer)


def mark_of(writer):
    return '%08x%s' % (owner_of(writer), id_of(writer))


def marks_name(owner):
    return OWN + 'marks:%08x' % owner


def guard_as_tuple(text, life, clock):
    if text is None:
        return None
    marks = [text[at:at + 24] for at in range(75, len(text), 24)]
    now = int(clock[0]) * 1000 + int(clock[1]) // 1000
    return (int(text[:30]), number_or(SHARED, text[30:38]),
            int(text[38:54], 16), number_or(NOBODY, text[54:62]),
            int(text[62:75]) + LIFE >= now,
            sorted(w for w in range(WRITERS) if mark_of(w) in marks),
            life > LIFE)


def in_redis(redis):
    """What Redis holds, in the same form as in_model()."""
    value, guard, life, clock, member, epoch, marked, floor, *ids = redis.many(
        ('GET', KEY), ('GET', GUARD), ('PTTL', GUARD), ('TIME',),
        ('ZSCORE', INDEX, KEY), ('GET', EPOCH), ('HKEYS', MARKED),
        ('GET', OWN + 'floor:k:'),
        *(('HMGET', marks_name(owner_of(w)), id_of(w), id_of(w) + '+')
          for w in range(WRITERS)))
    return (value, guard_as_tuple(guard, life, clock), member is not None,
            int(floor or 0), int(epoch or 0),
            [(int(number is not None), int(mark_of(w) + 'k:' in marked),
              int(count or 0)) for w, (number, count) in enumerate(ids)])


def in_model(model):
    guard = model.guard
    return (model.value, guard and (
        guard.top, guard.order, guard.nonce, guard.whose,
        guard.raised != LAPSED,
        [w for w in range(WRITERS) if guard.marks >> w & 1], guard.long),
        model.member, model.floor[0] if model.floor else 0, model.epochs[0],
        [(model.ids >> w & 1, model.marked >> w & 1,
          model.counts >> 8 * w & 255) for w in range(WRITERS)])


# ---------------------------------------------------------------- the calls

class Pair:
    """Both, and a random call on both."""

    quick = [0, 0]              # pushes that were looked at closely, or not

    def __init__(self, redis, lua, kind):
        """Kinds: anything happens; nobody marks; only keys are marked.

        In the latter two the epoch is mostly there, and so is the tick.
        """
        self.redis = redis
        self.lua = lua
        self.kind = kind
        self.model = scripts.empty()
        redis('FLUSHALL')
        if kind != ANYTHING:
            self.begin_epoch(None)

    def run(self, script, keys, *arguments):
        # keys of several slots are none by name
        nkeys = 0 if TAG and script in ('drop_swept', 'forget') else len(keys)
        return self.redis('EVALSHA', self.lua[script], nkeys, *keys,
                          *arguments)

    def step(self, number):
        """What was called, and whether both gave the same answer."""
        call = Call(version=random.randint(1, 6),
                    nonce=random.randint(1, 1 << 40),
                    order=random.randint(0, 2), owner=random.randint(1, 2),
                    late=random.random() < 0.1, value=str(number), stamped=1)
        often, writers = [(0.4, WRITERS), (0, 1), (0.8, 2)][self.kind]
        if random.random() < often:
            call.me = 1 << random.randrange(writers)
            call.owner = owner_of(call.me.bit_length() - 1)
        name = random.choice(ACTIONS[self.kind])
        return name, getattr(self, name)(call) is not False

    @staticmethod
    def mark_text(call):
        return mark_of(call.me.bit_length() - 1) if call.me else ''

    def push(self, call):
        return ('%030d' % call.version, '%016x' % call.nonce, LIFE,
                name_or_dashes(call.owner, NOBODY), self.mark_text(call))

    def count(self, call):
        self.model = scripts.counted(self.model, call)

    def publish(self, call, ttl, epoch=('', ''), refuse=False):
        """Mostly there is a tick, and then mostly the short way.

        refuse: Redis refuses the first thing that the script writes, if that
        is one which takes memory.
        """
        if random.random() < 0.7:
            self.run('tick', [], LIFE // 8)
            ticks = self.redis('EXISTS', TICK)
            assert ticks == (self.redis('EXISTS', MARKED) == 0)
        now = self.redis.now()
        deadline = now + LIFE // 2
        if call.late:
            deadline = random.choice([0, now - 1])
        head = '%013d%013d%08d' % (
            deadline, deadline and now + LIFE - 1000, LIFE)
        guard = '%030d%s%016x%s%013d' % (
            call.version, name_or_dashes(call.order, SHARED), call.nonce,
            name_or_dashes(call.owner, NOBODY), 0 if call.late else now)
        if refuse:
            self.redis('CONFIG', 'SET', 'maxmemory', 1)
        try:
            reply = self.run('publish', [KEY], epoch[0],
                             head + self.mark_text(call), epoch[1],
                             guard + ttl, call.value)
            Pair.quick[isinstance(reply, int)] += 1
        finally:
            self.redis('CONFIG', 'SET', 'maxmemory', 0)
            self.redis('UNLINK', TICK)

    def put(self, call):
        known = random.choice([None, 1, 1, 2])
        self.publish(call, '0', ('', '') if known is None else (EPOCH, known))
        if known is not None and known != self.model.epochs[0]:
            call.late = True            # put() counts epochs by owner
        self.model = scripts.put(self.model, call, ())
        self.count(call)

    def put_refused(self, call):
        call.late = False
        epoch = (EPOCH, self.model.epochs[0]) if self.model.epochs[0] else ('', '')
        try:
            self.publish(call, '0', epoch, refuse=True)
        except RuntimeError as error:
            assert str(error).startswith('OOM'), error
            call.refused = True
        self.model = scripts.put(self.model, call, ())
        self.count(call)

    def drop(self, call):
        self.publish(call, '-')
        self.model = scripts.drop(self.model, call, ())
        self.count(call)

    def drop_bad_value(self, call):
        call.version, call.order, call.owner, call.me = 0, SHARED, NOBODY, 0
        self.drop(call)

    def set_floor(self, call):
        self.run('floor', [], *self.push(call), 'k:')
        self.model = scripts.set_floor(self.model, call)
        self.count(call)

    def drop_family(self, call):
        self.run('drop_family', [INDEX], *self.push(call), 'k:*',
                 '%016x%s%020d%05d' % (call.nonce, 16 * '-', 0, 1000))
        call.order = SHARED
        self.model = scripts.drop_family(self.model, call, ())
        self.count(call)

    def drop_swept(self, call):
        guard = self.model.guard
        glob = random.choice([guard.nonce if guard else 1, 1])
        single = random.random() < 0.5
        self.run('drop_swept', [KEY], LIFE, '%016x' % call.nonce,
                 name_or_dashes(call.owner, NOBODY), '%030d%016x%s' % (
                     call.version, glob, '=' if single else ''))
        call.order, call.me = SHARED, 0
        self.model = scripts.drop_swept(self.model, call,
                                        glob if single else None, ())

    def register(self, call):
        self.run('register', [INDEX], self.mark_text(call), LIFE, KEY)
        self.model = scripts.register(self.model)
        self.count(call)

    def lease(self, call):
        epoch = random.choice([None, 1, 1, 2])
        [[found, text]] = self.run(
            'lease', [KEY], '%016x' % call.nonce, LIFE,
            *('', '') if epoch is None else (EPOCH, epoch))
        self.model, token = scripts.lease(self.model, call.nonce, 0, epoch, 1,
                                          ())
        return token == (int(text, 16) if found in (0, 2) else None)

    def fill(self, call):
        guard = self.model.guard
        token = guard.nonce if guard and random.random() < 0.7 else 1
        done = self.run('fill', [KEY], '%016x' % token, 0, call.value, LIFE)
        model = scripts.fill(self.model, token, call.value, 1, ())
        self.model = model or self.model
        return (model is not None) == (done == 1)

    def forget(self, call):
        self.run('forget', [KEY], LIFE, '%016x' % call.nonce)
        self.model = scripts.forget(self.model, call.nonce, 1, ())

    def mark(self, call):
        """It tells whether the epoch is another one, and marks."""
        call.me = call.me or 1
        epoch = random.choice([1, 2])
        beginnings = random.choice([[], ['k:']])
        keys = random.choice([[], [KEY], [KEY]])
        if self.kind == KEYS_MARKED:
            beginnings, keys = [], [KEY]
        reply = self.run('mark', keys, self.mark_text(call), 77,
                         '%016x' % call.nonce, EPOCH, epoch, *beginnings)
        same = reply == [0, 0, 0, int(epoch != self.model.epochs[0])]
        self.model = self.model._replace(ids=self.model.ids | call.me)
        if beginnings:
            self.model = scripts.mark_beginning(self.model, call.me, ())
        if keys:
            self.model = scripts.mark(self.model, call.me, call.nonce, 1, ())
        return same

    def release(self, call):
        call.me = call.me or 1
        calls = random.choice([-1, 0, 1, 2, 3])
        self.run('release', [], self.mark_text(call), calls)
        self.model = scripts.release(self.model, call.me, calls)

    def lose_marks(self, call):
        self.redis('UNLINK', marks_name(call.owner))
        for w in range(WRITERS):
            if owner_of(w) == call.owner:
                self.model = self.model._replace(
                    ids=self.model.ids & ~(1 << w),
                    counts=self.model.counts & ~(255 << 8 * w))

    def change_epoch(self, call):
        """Only if the one that is there is the one that should be."""
        known, new = random.choice([1, 2]), random.choice([1, 2])
        reply = self.run('epoch', [EPOCH, OWN + 'wal:1'], known, new, 9)
        strange = known != self.model.epochs[0]
        if not strange:
            self.model = self.model._replace(epochs=(new,))
        return reply[3] == int(strange)

    def begin_epoch(self, call):
        epoch = random.choice([1, 1, 2])
        self.redis('SET', EPOCH, epoch)
        self.model = self.model._replace(epochs=(epoch,))

    def lose_epoch(self, call):
        self.redis('UNLINK', EPOCH)
        self.model = self.model._replace(epochs=(0,))

    def lose_guard(self, call):
        self.redis('UNLINK', GUARD)
        self.model = self.model._replace(guard=None)

    def lose_value(self, call):
        self.redis('UNLINK', KEY)
        self.model = self.model._replace(value=None)

    def lapse(self, call):
        text = self.redis('GET', GUARD)
        if text is None:
            return
        self.redis('SET', GUARD, '%s%013d%s' % (
            text[:62], self.redis.now() - LIFE - 1000, text[75:]), 'KEEPTTL')
        self.model = self.model._replace(
            guard=self.model.guard._replace(raised=LAPSED))


ANYTHING, UNMARKED, KEYS_MARKED = range(3)

ALL_ACTIONS = ['put', 'mark'] * 4 + ['fill', 'lease', 'begin_epoch'] * 2 + [
    'put_refused', 'drop', 'drop_bad_value', 'set_floor', 'drop_family',
    'drop_swept', 'register', 'forget', 'release', 'lose_marks',
    'change_epoch', 'lose_epoch', 'lose_guard', 'lose_value', 'lapse']

CALM_ACTIONS = ['put'] * 6 + ['drop'] * 2 + [
    action for action in ALL_ACTIONS if action not in (
        'put', 'mark', 'release', 'lose_epoch', 'change_epoch')]

ACTIONS = [ALL_ACTIONS, CALM_ACTIONS,
           CALM_ACTIONS + ['mark'] * 6 + ['release'] + ['lose_guard'] * 3]


def compare(redis, lua):
    lua = {name: redis('SCRIPT', 'LOAD', text.replace('@', TAG))
           for name, text in lua.items()}
    for run in range(RUNS):
        pair = Pair(redis, lua, run % 3)
        for number in range(STEPS):
            before = in_model(pair.model)
            name, same_answer = pair.step(number)
            if not same_answer or in_redis(redis) != in_model(pair.model):
                print('not ok - run %d, step %d: %s, %s answer\n'
                      '  before    %s\n  in Redis  %s\n  in model  %s' % (
                          run, number, name,
                          'the same' if same_answer else 'another', before,
                          in_redis(redis), in_model(pair.model)))
                return False
    print('ok - %d calls did the same in Redis and in the model%s' % (
        RUNS * STEPS, TAG and ', as in a Cluster'))
    if min(Pair.quick) < RUNS // 2:
        print('not ok - of the pushes %d were looked at closely, %d not' %
              tuple(Pair.quick))
        return False
    return True


def main(arguments):
    random.seed(int(arguments[0]) if arguments else 1)
    redis = Redis()
    lua = lua_scripts()
    try:
        for tag in '', '{7}':
            use_tag(tag)
            if not compare(redis, lua):
                return False
        return True
    finally:
        redis.stop()


if __name__ == '__main__':
    sys.exit(0 if main(sys.argv[1:]) else 1)
