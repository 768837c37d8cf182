"""Everybody around Redis: writers, their pushes, readers, workers, faults.

A World is a scenario made ready: start() is its first state, steps() gives
every state that one atomic step can lead to, wrong() judges a state.

CONTENT

What the database holds is the set of the writers that have committed.  A
writer changes a row (0, 1, ...) or, by a list or a glob, everything.  A view
is what a value shows: a row (the writers of that row, and those that change
everything) or ALL.  A value is (view, content): the writers in the view that
had committed when it was made.  It is stale if the database has others now.

Writers of one row, and of a locked table, wait for each other; the lock is
held from before the version is taken until the commit.

STATES OF A WRITER

    START      has done nothing
    STAMPED    PRE_COMMIT: has a connection, its version, the epoch, and its
               row in the journal; strict: marks, step by step (todo)
    PREPARED   waits for COMMIT PREPARED
    COMMITTED  visible; its calls go to Redis one by one, at any time, as long
               as that server lives.  That it was taken for failed does not
               stop them: they are bytes in a socket, or held by a proxy.
    ABORTING   strict: its marks are still to be released
    ABORTED    and who is aborting, may still have a MARK on its way (todo)

What a strict writer marks, in this order: P, the literal beginnings of its
globs; I, what an index holds; K, its keys; V and G, what a walk over the
keyspace finds: the value's name, the guard's.

A committed writer is WAITING for its replies, then it is DELIVERED, or
DOUBTED: then the worker replays it, step by step (told counts them).  A
writer that had no row in a full journal is UNWRITTEN until the namespace has
been emptied (CAPTURED: that has begun).

What only ends an actor and changes nothing else (a hit, a fill that is
refused) is no step: an actor may stop anywhere.
"""
from collections import namedtuple

import scripts
from scripts import Call, SHARED

START, STAMPED, PREPARED, COMMITTED, ABORTING, ABORTED = range(6)
WAITING, DELIVERED, UNWRITTEN, CAPTURED, DOUBTED = range(5)

# States of a reader; what it does next.
ARRIVES, LEASES, LOADS, FILLS, GONE = range(5)

# What an owner's worker thinks of Redis.
HELD, EMPTYING, UNKNOWN = range(3)

NO_EPOCH = -1                   # what a backend says that does not trust
WITHDRAWN = -2                  # what Redis says while it is being emptied
ALL = 'all'

State = namedtuple('State', (
    'db '           # who has committed, as bits
    'clock '        # the newest version
    'begun '        # who has a version
    'late '         # whose PUTs come after their deadline
    'servers '      # Redis; the last one is where the address points to
    'alive '        # which of them live, as bits
    'saved '        # what a dump holds
    'trust '        # by owner
    'writers readers '
    'workers '      # by owner: None, or a job
    'globs '        # (writer, version) of those that wait for a sweep
    'adrift '       # servers that a delayed forget is on its way to, as bits
    'asked '        # owners that were asked to empty their namespace, as bits
    'epochs '       # how many epochs there have been
    'faults'))      # how many are still to come, of each kind

Writer = namedtuple('Writer', (
    'phase version epoch server '
    'sent '         # how many of its calls have arrived
    'told content '
    'todo '         # what is still to be marked
    'found '        # the walk has found a name
    'missed '       # the first call that met no script, from 1 on; 0: none
    'refused'))     # a call was answered with an error
Reader = namedtuple('Reader', 'phase server token value epoch')
Trust = namedtuple('Trust', 'state identity epoch history')

# An owner's worker sweeps for globs, or empties the namespace (stage).  todo:
# what SCAN has still to pass, the value's name or the guard's; found: it has.
Sweep = namedtuple('Sweep', 'globs todo found')
Empty = namedtuple('Empty', 'stage todo found')

WITHDRAW, WALK, READ, REMARK, WRITE, TELL, HOLD = range(7)

NEW_WRITER = Writer(START, 0, 0, 0, 0, WAITING, 0, '', False, 0, False)
NEW_READER = Reader(ARRIVES, 0, 0, None, 0)
GONE_READER = Reader(GONE, 0, 0, None, 0)

# Nonces, by who writes them.  Random ones never come twice, nor do these.
PUSHED, FAMILY, REPLAYED, REPLAYED_FAMILY, SWEPT, LEASED, FORGOTTEN, DELAYED, \
    MARKING = range(0, 90000, 10000)

POSITION = {kind: {name: i for i, name in enumerate(kind._fields)}
            for kind in (State, Writer, Reader, Trust, scripts.Redis)}


def changed(record, **fields):
    """As record._replace(**fields), in a third of the time."""
    position = POSITION[type(record)]
    items = list(record)
    for name, value in fields.items():
        items[position[name]] = value
    return tuple.__new__(type(record), items)


def put_in(items, position, item):
    return items[:position] + (item,) + items[position + 1:]


class World:
    def __init__(self, scenario, off=()):
        self.scenario = scenario
        self.off = frozenset(off)
        self.writers = scenario.writers
        self.readers = scenario.readers
        self.owners = scenario.owners
        self.kinds = tuple(scenario.faults)
        self.views = {ALL: self.changers(lambda w: True)}
        for row in ({w.row for w in self.writers} |
                    {r.view for r in self.readers}) - {ALL, None}:
            self.views[row] = self.changers(lambda w: w.row in (row, None))
        self.strict = self.changers(lambda w: w.strict)
        self.blind = any(w.blind for w in self.writers)
        self.calls = [w.calls + ('RELEASE',)
                      if w.strict and not w.prepared and 'release' not in off
                      else w.calls for w in self.writers]

        # of those who are alike, the first comes first
        self.twins = [[j for j in range(i) if self.writers[j] == w]
                      for i, w in enumerate(self.writers)]
        self.reader_twins = [[j for j in range(i) if self.readers[j] == r]
                             for i, r in enumerate(self.readers)]

    def changers(self, test):
        """Writers that change something and pass a test, as bits."""
        return sum(1 << i for i, w in enumerate(self.writers)
                   if w.changes and test(w))

    def start(self):
        redis = changed(scripts.empty(self.owners), epochs=(1,) * self.owners)
        trust = Trust(HELD, 0, 1, (0, 1))
        return State(0, 0, 0, 0, (redis,), 1, None, (trust,) * self.owners,
                     (NEW_WRITER,) * len(self.writers),
                     (NEW_READER,) * len(self.readers),
                     (None,) * self.owners, (), 0, 0, 1,
                     tuple(self.scenario.faults.values()))

    # ---------------------------------------------------------------- judging

    def wrong(self, s):
        """What is wrong with a state, or None."""
        value = s.servers[-1].value
        if value is not None:
            view, content = value
            missing = s.db & self.views[view] & ~content
            if self.scenario.never and content & ~s.db and not self.blind:
                return 'a value that is not committed can be read'
            if self.scenario.never and missing & self.strict:
                return 'a stale value can be read'
            if missing and self.at_rest(s):
                return 'a stale value stays'
        elif self.scenario.keeps and self.at_rest(s) and all(
                w.phase == COMMITTED for w in s.writers):
            return 'a value that should stay has gone'
        return None

    def stuck(self, s):
        """What is wrong if nothing can happen any more, or None."""
        redis = s.servers[-1]
        if (scripts.standing(redis) or scripts.covered(redis, 0)) and not any(
                w.phase == STAMPED or w.phase == PREPARED or
                w.phase == COMMITTED and w.told != DELIVERED
                for w in s.writers):
            return 'a mark stays'
        return None

    def at_rest(self, s):
        """Has all that is committed been told, as far as anybody knows?"""
        if s.globs or s.asked:
            return False
        for w in s.writers:
            if w.phase == COMMITTED and w.told != DELIVERED:
                return False
        for owner in range(self.owners):
            if s.workers[owner] is not None or self.doubts(s, owner):
                return False
        return True

    # ------------------------------------------------------------------ steps

    def steps(self, s):
        """All that may come next: pairs of what happens and the state then."""
        found = []
        for i in range(len(s.writers)):
            self.writer_steps(s, i, found)
        for i in range(len(s.readers)):
            self.reader_steps(s, i, found)
        for owner in range(self.owners):
            self.worker_steps(s, owner, found)
        self.fault_steps(s, found)
        return found

    def living(self, s):
        return [i for i in range(len(s.servers)) if s.alive & 1 << i]

    def fault_left(self, s, kind):
        """The faults that are left after one of this kind; None: none is."""
        if kind not in self.kinds:
            return None
        position = self.kinds.index(kind)
        left = s.faults[position]
        return put_in(s.faults, position, left - 1) if left > 0 else None

    def nonce(self, s, kind, number, step=0, epoch=0):
        """A fresh one; what is done again after a fault has another."""
        again = sum(left for name, left in zip(self.kinds, s.faults)
                    if name in ('crash', 'worker dies', 'late forget',
                                'bad value'))
        return kind + 1000 * epoch + 100 * again + 10 * step + number

    # ---------------------------------------------------------------- writers

    def writer_steps(self, s, i, found):
        w, spec = s.writers[i], self.writers[i]
        phase = w.phase

        def to(label, writer, also=None, **more):
            writers = put_in(s.writers, i, writer)
            if also:
                writers = put_in(writers, *also)
            found.append(('%s %d: %s' % (spec.name, i, label), changed(
                s, writers=writers, **more)))

        if phase == START:
            if self.may_begin(s, i):
                self.stamp(s, i, to)
        elif phase == STAMPED:
            if w.todo or w.found:
                self.mark_steps(s, i, to)
            elif spec.prepared:
                to('PREPARE', changed(w, phase=PREPARED, told=DOUBTED))
            else:
                self.commit(s, i, to)
            if spec.aborts:
                self.abort(s, i, to)
        elif phase == PREPARED:
            self.commit(s, i, to)
            if spec.aborts:
                to('ROLLBACK PREPARED', changed(NEW_WRITER, phase=ABORTED))
        elif phase == COMMITTED:
            self.push_steps(s, i, to)
        elif phase in (ABORTING, ABORTED):
            self.aborting_steps(s, i, to)

    # Marks, and their release after an abort.

    def first_todo(self, spec):
        """What a writer has to mark."""
        if not spec.strict or 'mark' in self.off:
            return ''
        marks = ''
        if 'FLOOR' in spec.calls:
            marks = 'P'
            if 'FAMILY' in spec.calls and 'mark_family' not in self.off:
                marks = 'IP' if 'beginning_first' in self.off else 'PI'
        if 'PUT' in spec.calls or 'DROP' in spec.calls:
            marks += 'K'
        if spec.sweeps and 'mark_walk' not in self.off:
            marks += 'VG'
        return marks

    def mark_steps(self, s, i, to):
        """Its next MARK is acknowledged, or refused."""
        w = s.writers[i]
        here = s.trust[self.writers[i].owner].identity
        if not s.alive & 1 << w.server or (w.server != here and not (
                self.off & {'run_id', 'mark_where'})):
            return
        redis = s.servers[w.server]

        def go(label, todo, redis, **more):
            to(label, changed(w, todo=todo, found=False), servers=put_in(
                s.servers, w.server, redis), **more)

        if w.found:
            go('forgets what it found', w.todo, scripts.forget(
                redis, self.nonce(s, MARKING, i, 1 + len(w.todo)), s.begun,
                self.off))
        elif w.todo[0] in 'VG':
            for label, todo, present in self.scan(redis, w.todo):
                after = changed(w, todo=todo, found=present)
                if len(w.todo) == 2:
                    s = changed(s, servers=self.aged(s))
                to(label, after, servers=s.servers)
        else:
            go('MARK (%s)' % w.todo[0], w.todo[1:],
               self.mark(s, i, w.todo[0], redis))

    def mark(self, s, i, what, redis, epoch=0):
        if what == 'P':
            return scripts.mark_beginning(redis, 1 << i, self.off)
        if what == 'K':
            return scripts.mark(
                redis, 1 << i, self.nonce(s, MARKING, i, 0, epoch),
                s.begun, self.off)
        return scripts.drop_family(redis, Call(
            version=0, nonce=self.nonce(s, MARKING, i, 9), stamped=s.begun,
            owner=scripts.NOBODY), self.off)

    def aborted(self, i, w):
        """What is on its way may still arrive: one MARK at most."""
        todo = w.todo[:1] if w.todo[:1] in ('P', 'K') else ''
        strict = self.writers[i].strict
        return changed(NEW_WRITER, phase=ABORTING if strict else ABORTED,
                       server=w.server, todo=todo)

    def abort(self, s, i, to):
        w = s.writers[i]
        to('ROLLBACK', self.aborted(i, changed(w, todo='')))
        if w.todo and w.todo[0] in 'PK' and s.alive & 1 << w.server:
            to('ROLLBACK, a MARK is on its way', self.aborted(i, w))

    def aborting_steps(self, s, i, to):
        w = s.writers[i]
        if w.phase == ABORTING:
            to('does not release its marks', changed(w, phase=ABORTED))
        if not s.alive & 1 << w.server:
            return
        redis = s.servers[w.server]
        if w.phase == ABORTING:
            to('RELEASE', changed(w, phase=ABORTED), servers=put_in(
                s.servers, w.server, scripts.release(redis, 1 << i, -1)))
        if w.todo:
            to('its MARK arrives', changed(w, todo=''), servers=put_in(
                s.servers, w.server, self.mark(s, i, w.todo, redis)))

    def may_begin(self, s, i):
        spec = self.writers[i]
        if spec.after is not None and (
                s.writers[spec.after].phase != COMMITTED):
            return False
        if spec.last and any(
                w.phase != COMMITTED or w.told != DELIVERED or
                w.sent < len(self.calls[j])
                for j, w in enumerate(s.writers) if j != i):
            return False
        return not self.is_blocked(s, i) and not any(
            s.writers[j].phase == START for j in self.twins[i])

    def is_blocked(self, s, i):
        """Does another writer hold a lock that this one needs?"""
        mine = self.writers[i]
        if not mine.locks:
            return False
        for j, w in enumerate(s.writers):
            theirs = self.writers[j]
            if (w.phase in (STAMPED, PREPARED) and theirs.locks and
                    theirs.owner == mine.owner and
                    (theirs.row is None or mine.row in (theirs.row, None))):
                return True
        return False

    def stamp(self, s, i, to):
        """PRE_COMMIT, over whichever connection this backend has."""
        spec = self.writers[i]
        versions = [s.clock + 1]
        if self.scenario.equal and any(
                w.phase == STAMPED and w.version == s.clock
                for w in s.writers):
            versions.append(s.clock)    # nothing was written to the WAL since
        for server in self.living(s):
            if spec.strict and not self.may_mark(s, spec.owner, server):
                continue
            epoch = self.known_epoch(s, spec.owner, server)
            for version in versions:
                to('takes version %d' % version,
                   changed(NEW_WRITER, phase=STAMPED,
                           version=version + spec.ahead, epoch=epoch,
                           server=server, todo=self.first_todo(spec)),
                   clock=version, begun=s.begun | 1 << i)

    def may_mark(self, s, owner, server):
        """Also in one that is being emptied."""
        trust = s.trust[owner]
        return trust.state != UNKNOWN and (
            trust.identity == server or self.off & {'run_id', 'mark_where'})

    def known_epoch(self, s, owner, server):
        trust = s.trust[owner]
        if trust.state == HELD and (trust.identity == server or
                                    'run_id' in self.off):
            return trust.epoch
        return NO_EPOCH

    def commit(self, s, i, to):
        w, spec = s.writers[i], self.writers[i]
        if w.phase == PREPARED and 'undecided' in self.off and (
                w.told != DELIVERED):
            self.replay(s, i, to)
        db = s.db | (1 << i if spec.changes else 0)
        content = (s.begun if spec.blind else db) & self.views[
            ALL if spec.row is None else spec.row]
        after = changed(w, phase=COMMITTED, content=content)
        if spec.prepared:               # nobody has anything to send
            after = changed(after, sent=len(self.calls[i]))
            if 'journal' in self.off:
                after = changed(after, told=DELIVERED)
        clock = s.clock + 1 if self.scenario.equal else s.clock
        to('COMMIT', after, db=db, clock=clock)
        epoch = self.known_epoch(s, spec.owner, w.server)
        if epoch != w.epoch:            # it has waited for a new one
            to('COMMIT with the new epoch', changed(
                after, epoch=epoch), db=db, clock=clock)

    # A committed writer's calls, what is thought of them, and their replay.

    def push_steps(self, s, i, to):
        w = s.writers[i]
        lives = s.alive & 1 << w.server
        if w.sent < len(self.calls[i]) and lives:
            self.call_steps(s, i, to)
        if w.told == WAITING:
            faults = self.fault_left(s, 'timeout')
            if not lives:
                to('loses its connection', self.failed(i, w))
            elif faults is not None:
                to('is taken for failed', self.failed(i, w), faults=faults)
        elif w.told >= DOUBTED:
            self.replay(s, i, to)

    def call_steps(self, s, i, to):
        """The next of its calls arrives, in time or not."""
        w = s.writers[i]
        name = self.calls[i][w.sent]
        done = changed(w, sent=w.sent + 1)
        if self.writers[i].ring and w.told == WAITING:
            self.ring_steps(s, i, name, done, to)
        if w.missed and 'resend' not in self.off:
            done = changed(done, missed=0, refused=True)
        self.call(s, i, name, to, done)
        faults = self.fault_left(s, 'oom')
        if faults is not None and name in ('PUT', 'DROP', 'FAMILY'):
            self.call(s, i, name + ', refused', to,
                      changed(done, refused=True),
                      faults=faults)
        faults = self.fault_left(s, 'noscript')
        if w.told == WAITING and not w.refused and (
                faults is not None or w.missed):
            more = {} if w.missed else {'faults': faults}
            self.answered(s, i, name + ': NOSCRIPT', to, changed(
                w, sent=w.sent + 1, missed=w.missed or w.sent + 1), **more)

    # In mode async the worker sends the calls.

    def ring_steps(self, s, i, name, done, to):
        """What else may become of a call that waits in the ring."""
        w, spec = s.writers[i], self.writers[i]
        faults = self.fault_left(s, 'worker dies')
        if faults is not None:
            after = self.failed(i, done)
            if 'sent_once' in self.off:
                after = changed(w, sent=0)
            to(name + ', and the worker dies', after, faults=faults,
               servers=put_in(s.servers, w.server, self.run(
                   s, i, name, s.servers[w.server])))
        for j, later in enumerate(s.writers):
            if j != i and self.takes_place_of(s, later, self.writers[j], w,
                                              spec):
                redis = self.run(s, j, self.calls[j][0],
                                 s.servers[later.server])
                to('is left out for %d' % j,
                   self.tidy(i, self.replies(s, i, done)[0]),
                   servers=put_in(s.servers, later.server, redis), also=(
                       j, self.tidy(j, self.replies(s, j, changed(
                           later, sent=1))[0])))

    def takes_place_of(self, s, later, theirs, w, spec):
        """Two pushes of one exchange: is the earlier one of no use?"""
        return (theirs.ring and theirs.owner == spec.owner and
                later.phase == COMMITTED and later.told == WAITING and
                later.sent == 0 and later.server == w.server and
                len(theirs.calls) == len(spec.calls) == 1 and
                (theirs.order == spec.order != SHARED or
                 'ring_order' in self.off) and
                (later.version > w.version or 'ring_version' in self.off))

    def call(self, s, i, name, to, after, **more):
        w = s.writers[i]
        redis = self.run(s, i, name, s.servers[w.server])
        self.answered(s, i, name, to, after, servers=put_in(
            s.servers, w.server, redis), **more)

    def answered(self, s, i, name, to, after, **more):
        """If that was the last one, is all done?"""
        globs = s.globs
        if after.sent == len(self.calls[i]) and after.told == WAITING:
            if after.missed:
                after = changed(after, sent=after.missed - 1, missed=0)
            elif after.refused:
                after = self.failed(i, after)
            else:
                after, globs = self.replies(s, i, after)
        to(name, self.tidy(i, after), globs=globs, **more)

    def value_of(self, i, w):
        row = self.writers[i].row
        return (ALL if row is None else row), w.content

    def run(self, s, i, name, redis):
        w, spec = s.writers[i], self.writers[i]
        call = Call(me=1 << i if spec.strict else 0, version=w.version,
                    nonce=PUSHED + i, order=spec.order, owner=spec.owner,
                    epoch=w.epoch, late=s.late & 1 << i,
                    value=self.value_of(i, w), stamped=s.begun)
        if 'stamp_epoch' in self.off:
            call.epoch = self.known_epoch(s, spec.owner, w.server)
        name, _, call.refused = name.partition(', ')
        if name == 'RELEASE':
            return scripts.release(redis, call.me, -1 if 'count' in self.off
                                   else len(spec.calls))
        if name == 'PUT':
            redis = scripts.put(redis, call, self.off)
        elif name == 'DROP':
            redis = scripts.drop(redis, call, self.off)
        elif name == 'FLOOR':
            redis = scripts.set_floor(redis, call)
        elif name == 'REGISTER':
            redis = scripts.register(redis)
        else:
            call.nonce, call.order = FAMILY + i, SHARED
            redis = scripts.drop_family(redis, call, self.off)
        return scripts.counted(redis, call) if spec.strict else redis

    def replies(self, s, i, w):
        """All are there.  But was it the Redis that counts?"""
        if s.trust[self.writers[i].owner].identity != w.server and not (
                self.off & {'delivered', 'run_id'}):
            return self.failed(i, w), s.globs
        return changed(w, told=DELIVERED), self.globs_with(s, i, w)

    def globs_with(self, s, i, w):
        """What waits for a sweep when this one has told the rest."""
        if not self.writers[i].sweeps:
            return s.globs
        return tuple(sorted(s.globs + ((i, w.version),)))

    def failed(self, i, w):
        if 'journal' in self.off:
            return changed(w, told=DELIVERED)
        return changed(w, told=UNWRITTEN if self.writers[i].unwritten
                       else DOUBTED)

    def tidy(self, i, w):
        """What is over need not be told apart."""
        if (w.phase == COMMITTED and w.told == DELIVERED and
                w.sent == len(self.calls[i]) and
                'crash' not in self.kinds):
            return changed(NEW_WRITER, phase=COMMITTED, sent=w.sent,
                           told=DELIVERED)
        return w

    def replay(self, s, i, to):
        """What is in doubt, call by call, as DROPs."""
        w, spec = s.writers[i], self.writers[i]
        server = self.workers_server(s, spec.owner)
        if s.trust[spec.owner].state != HELD or not s.alive & 1 << server:
            return
        position = w.told - DOUBTED
        name = spec.calls[position]
        redis = s.servers[server]
        call = Call(version=w.version, stamped=s.begun,
                    nonce=self.nonce(s, REPLAYED, i),
                    owner=spec.owner)
        if 'fresh_nonce' in self.off:
            call.nonce = PUSHED + i
        if name == 'FLOOR':
            if 'replay_floor' not in self.off:
                redis = scripts.set_floor(redis, call)
        elif name == 'FAMILY':
            call.nonce = self.nonce(s, REPLAYED_FAMILY, i)
            redis = scripts.drop_family(redis, call, self.off)
        elif name == 'PUT' and 'replay_drops' in self.off:
            call.order, call.value = spec.order, self.value_of(i, w)
            redis = scripts.put(redis, call, self.off)
        elif name != 'REGISTER':
            # a step of the journal has the highest version of its rows
            call.version = max([w.version] + [
                x.version for j, x in enumerate(s.writers)
                if x.phase == COMMITTED and x.told >= DOUBTED and
                self.writers[j].owner == spec.owner])
            redis = scripts.drop(redis, call, self.off)
        after, globs = changed(w, told=w.told + 1), s.globs
        if position + 1 == len(spec.calls):
            after = changed(after, told=DELIVERED)
            globs = self.globs_with(s, i, w)
        to('is replayed (%s)' % name, self.tidy(i, after), globs=globs,
           servers=put_in(s.servers, server, redis))

    # ---------------------------------------------------------------- readers

    def reader_steps(self, s, i, found):
        r, spec = s.readers[i], self.readers[i]
        if r.phase == GONE or r.phase == ARRIVES and any(
                s.readers[j].phase == ARRIVES for j in self.reader_twins[i]):
            return

        def to(label, reader, server=None, redis=None):
            new = changed(s, readers=put_in(s.readers, i, reader))
            if redis is not None:
                new = changed(new, servers=put_in(s.servers, server, redis))
            found.append(('reader %d: %s' % (i, label), new))

        if r.phase == ARRIVES and 'lease_first' in self.off:
            to('loads', Reader(LEASES, 0, 0, self.load(s, spec), None))
        elif r.phase == ARRIVES and spec.family and not (
                self.off & {'index', 'index_first'}):
            for server in self.living(s):
                epoch = self.lease_epoch(s, spec.owner, server)
                to('REGISTER', Reader(LEASES, server, 0, None, epoch), server,
                   scripts.register(s.servers[server]))
        elif r.phase == ARRIVES:
            for server in self.living(s):
                self.lease(s, i, server, to)
        elif r.phase == LEASES:
            self.lease(s, i, r.server, to)
        elif r.phase == LOADS:
            to('loads', changed(r, phase=FILLS, value=self.load(s, spec)))
        else:
            for server in self.living(s):
                self.fill(s, i, server, to)

    def load(self, s, spec):
        return spec.view, s.db & self.views[spec.view]

    def lease(self, s, i, server, to):
        r = s.readers[i]
        if not s.alive & 1 << server:
            return
        owner = self.readers[i].owner
        epoch = r.epoch
        if r.phase == ARRIVES:
            epoch = self.lease_epoch(s, owner, server)
        redis, token = scripts.lease(s.servers[server], LEASED + i, owner,
                                     epoch, s.begun, self.off)
        if token is not None:
            to('LEASE', Reader(LOADS if r.value is None else FILLS, server,
                               token, r.value, 0), server, redis)
        elif redis != s.servers[server]:
            to('LEASE, in vain', GONE_READER, server, redis)

    def lease_epoch(self, s, owner, server):
        """Who does not trust asks for none, or for an impossible one."""
        return self.known_epoch(s, owner, server)

    def fill(self, s, i, server, to):
        """Over the connection of the lease, or a later one to whatever."""
        r = s.readers[i]
        redis = scripts.fill(s.servers[server], r.token, r.value, s.begun,
                             self.off)
        if redis is None:
            return
        if 'index_first' in self.off and self.readers[i].family:
            redis = scripts.register(redis)
        to('FILL', GONE_READER, server, redis)

    # ---------------------------------------------------------------- workers

    def workers_server(self, s, owner):
        return (len(s.servers) - 1 if 'run_id' in self.off
                else s.trust[owner].identity)

    def doubts(self, s, owner):
        """Is the Redis at the address another one than is trusted?"""
        trust = s.trust[owner]
        here = len(s.servers) - 1
        return (trust.state != HELD or
                ('epoch' not in self.off and
                 s.servers[here].epochs[owner] != trust.epoch) or
                ('run_id' not in self.off and trust.identity != here))

    def worker_steps(self, s, owner, found):
        job = s.workers[owner]

        def to(label, job, **more):
            found.append(('worker %s %s' % ('AB'[owner], label), changed(
                s, workers=put_in(s.workers, owner, job), **more)))

        if job is None:
            if self.doubts(s, owner) or s.asked & 1 << owner:
                self.examine(s, owner, to)
            if s.globs and owner == 0 and s.trust[0].state == HELD:
                to('begins a sweep', Sweep(s.globs, 'VG', False), globs=(),
                   servers=self.aged(s))
            self.resolve(s, owner, to)
        elif type(job) is Sweep:
            self.sweep(s, owner, job, to)
        else:
            self.empty(s, owner, job, to)
        faults = self.fault_left(s, 'worker dies')
        if job is not None and faults is not None:
            to('dies', None, faults=faults, globs=tuple(sorted(
                s.globs + job.globs)) if type(job) is Sweep else s.globs)

    def resolve(self, s, owner, to):
        """Takes away marks that nobody needs any more."""
        server = self.workers_server(s, owner)
        if (s.trust[owner].state != HELD or not s.alive & 1 << server or
                'resolve' in self.off):
            return
        redis = s.servers[server]
        for i, w in enumerate(s.writers):
            if (self.writers[i].owner == owner and redis.ids & 1 << i and
                    self.is_done_with(w)):
                to('takes away the marks of %d' % i, None, servers=put_in(
                    s.servers, server, scripts.release(redis, 1 << i, -1)))

    def is_done_with(self, w):
        """Neither under way, nor about to push, nor in doubt."""
        if w.phase in (STAMPED, PREPARED):
            return 'under_way' in self.off
        if w.phase != COMMITTED or w.told == DELIVERED:
            return True
        if w.told == WAITING:
            return 'busy' in self.off
        return 'in_doubt' in self.off   # all strict writers have a row

    @staticmethod
    def aged(s):
        """A walk begins."""
        return tuple(changed(redis, guard=redis.guard._replace(aged=True))
                     if redis.guard else redis for redis in s.servers)

    def scan(self, redis, todo):
        """SCAN passes the value's name and the guard's, in either order."""
        for name in todo:
            present = redis.value if name == 'V' else redis.guard
            yield ('scans past the %s' % {'V': 'value', 'G': 'guard'}[name],
                   todo.replace(name, ''), present is not None)

    def sweep(self, s, owner, job, to):
        server = self.workers_server(s, owner)
        if not s.alive & 1 << server:
            to('begins its sweep again', Sweep(job.globs, 'VG', False))
        elif job.found:
            to('drops what it found', Sweep(job.globs, job.todo, False),
               servers=put_in(s.servers, server, self.drop_swept(
                   s, job, s.servers[server])))
        elif job.todo:
            for label, todo, present in self.scan(s.servers[server], job.todo):
                to(label, Sweep(job.globs, todo, present))
        else:
            to('ends its sweep', None)

    def drop_swept(self, s, job, redis):
        """The highest version of the globs; own, if they are of one writer."""
        who = [i for i, _ in job.globs]
        best = min if 'highest' in self.off else max
        own = PUSHED + who[0]
        call = Call(version=best(v for _, v in job.globs), stamped=s.begun,
                    nonce=self.nonce(s, SWEPT, who[0], len(job.todo)))
        if 'sweep_nonce' in self.off:
            call.nonce = own
        if len(set(who)) > 1 and 'differ' not in self.off:
            own = None
        return scripts.drop_swept(redis, call, own, self.off)

    def examine(self, s, owner, to):
        """Look; if history is unknown, or on request, empty the namespace."""
        here = len(s.servers) - 1
        trust = s.trust[owner]
        if trust.state == UNKNOWN and trust.history == (
                here, s.servers[here].epochs[owner]):
            to('knows this Redis', Empty(WRITE, '', False), trust=put_in(
                s.trust, owner, changed(trust, identity=here)))
            return
        to('begins to empty', Empty(WITHDRAW, 'VG', False),
           trust=put_in(s.trust, owner, changed(trust, state=EMPTYING,
                                                identity=here)))

    def empty(self, s, owner, job, to):
        trust = s.trust[owner]
        here = trust.identity
        redis = s.servers[here]

        def go(label, job, redis=redis, **more):
            to(label, job, servers=put_in(s.servers, here, redis), **more)

        if here != len(s.servers) - 1:
            self.examine(s, owner, to)
        elif job.stage == WITHDRAW:
            if 'withdraw' not in self.off:
                redis = changed(redis, epochs=put_in(
                    redis.epochs, owner, WITHDRAWN))
            s = changed(s, servers=put_in(s.servers, here, redis))
            to('withdraws the epoch', Empty(WALK, 'VG', False),
               servers=self.aged(s),
               writers=self.settle(s, owner, UNWRITTEN, CAPTURED),
               asked=s.asked & ~(1 << owner))
        elif job.stage == WALK:
            self.walk(s, owner, job, go)
        elif job.stage in (READ, REMARK):
            self.mark_again(s, owner, job, redis, go)
        elif job.stage == WRITE:
            go('writes history', Empty(TELL, '', False), epochs=s.epochs + 1,
               trust=put_in(s.trust, owner, changed(
                   trust, history=(here, s.epochs + 1))))
        elif (job.stage == TELL and redis.epochs[owner] == 0 and
              'tell_checks' not in self.off):
            self.examine(s, owner, to)      # Redis has lost it meanwhile
        elif job.stage == TELL:
            go('sets a new epoch', Empty(HOLD, '', False), changed(
                redis, epochs=put_in(redis.epochs, owner, trust.history[1])))
        else:
            late = 'remark_first' in self.off and self.has_strict(owner)
            to('trusts this Redis', Empty(READ, '', True) if late else None,
               writers=self.settle(s, owner, CAPTURED, DELIVERED),
               trust=put_in(s.trust, owner, changed(
                   trust, state=HELD, epoch=trust.history[1])))

    # Before a new epoch begins, those under way are marked again: Redis may
    # have lost their marks, and nobody sets anything without an epoch.

    def has_strict(self, owner):
        return any(w.strict and w.owner == owner for w in self.writers)

    def mark_again(self, s, owner, job, redis, go):
        """job.found: the epoch has begun already."""
        after = None if job.found else Empty(WRITE, '', False)
        if job.stage == READ:
            rows = ''.join(
                str(i) for i, w in enumerate(s.writers)
                if self.writers[i].strict and self.writers[i].owner == owner
                and (w.phase == PREPARED or w.phase == STAMPED and
                     'remark_all' not in self.off))
            go('reads who is under way',
               Empty(REMARK, rows, job.found) if rows else after)
            return
        i = int(job.todo[0])
        for what in self.first_todo(self.writers[i]):
            if what in 'PK':
                redis = self.mark(s, i, what, redis, s.epochs)
        rest = job.todo[1:]
        go('marks again for %d' % i,
           Empty(REMARK, rest, job.found) if rest else after, redis)

    def walk(self, s, owner, job, go):
        redis = s.servers[-1]
        if job.found:
            after = Empty(WALK, job.todo, False)
            go('forgets what it found', after, scripts.forget(
                redis, self.nonce(s, FORGOTTEN, 0, len(job.todo), s.epochs),
                s.begun, self.off))
            faults = self.fault_left(s, 'late forget')
            if faults is not None:
                go('takes its forget for failed', None, faults=faults,
                   adrift=s.adrift | s.alive & -s.alive)
        elif job.todo and 'emptying' not in self.off:
            for label, todo, present in self.scan(redis, job.todo):
                go(label, Empty(WALK, todo, present))
        else:
            remark = self.has_strict(owner) and not (
                self.off & {'remark', 'remark_first'})
            go('has passed all keys',
               Empty(READ if remark else WRITE, '', False))

    def settle(self, s, owner, before, after):
        return tuple(changed(w, told=after)
                     if w.told == before and self.writers[i].owner == owner
                     else w for i, w in enumerate(s.writers))

    # ----------------------------------------------------------------- faults

    def fault_steps(self, s, found):
        here = len(s.servers) - 1
        for server in self.living(s) if s.adrift else ():
            if s.adrift & 1 << server:
                found.append(('a delayed forget arrives', changed(
                    s, adrift=s.adrift & ~(1 << server),
                    servers=put_in(s.servers, server, scripts.forget(
                        s.servers[server], self.nonce(s, DELAYED, 0), s.begun,
                        self.off)))))
        for position, kind in enumerate(self.kinds):
            handler = getattr(self, kind.replace(' ', '_'), None)
            if handler is None or s.faults[position] == 0:
                continue
            for label, new in handler(s, s.servers[here], here):
                found.append((label, changed(new, faults=put_in(
                    s.faults, position, s.faults[position] - 1))))

    def expire(self, s, redis, here):
        """So long after its last use that those who had a version are late."""
        walk = any(s.workers) or any(
            w.found or w.todo in ('V', 'G') for w in s.writers)
        if redis.guard and not redis.guard.long and (
                redis.guard.aged or not walk):
            yield 'the guard expires', self.without_guard(
                changed(s, late=s.late | redis.guard.stamped), redis, here)
        if redis.guard and redis.guard.raised != scripts.LAPSED:
            yield "the guard's version lapses", changed(
                s, late=s.late | redis.guard.raised,
                servers=put_in(s.servers, here, changed(
                    redis, guard=redis.guard._replace(raised=scripts.LAPSED))))
        if redis.floor:
            yield 'the floor expires', changed(
                s, late=s.late | redis.floor[1],
                servers=put_in(s.servers, here, changed(redis, floor=None)))

    def expire_mark(self, s, redis, here):
        if redis.guard and redis.guard.long:
            yield 'a guard with a mark expires', self.without_guard(
                changed(s, late=s.late | redis.guard.stamped), redis, here)

    def evict(self, s, redis, here):
        if redis.guard:
            yield 'the guard is evicted', self.without_guard(s, redis, here)

    def without_guard(self, s, redis, here):
        return changed(s, servers=put_in(s.servers, here,
                                         changed(redis, guard=None)))

    def evict_value(self, s, redis, here):
        if redis.value:
            yield 'the value is evicted', changed(s, servers=put_in(
                s.servers, here, changed(redis, value=None)))

    def bad_value(self, s, redis, here):
        """Whoever reads something that is no JSON drops it, versionless."""
        if redis.value or redis.guard:
            yield 'a reader drops the key', changed(s, servers=put_in(
                s.servers, here, scripts.drop(redis, Call(
                    version=0, owner=scripts.NOBODY,
                    nonce=self.nonce(s, DELAYED, 1),
                    stamped=s.begun), self.off)))

    def flush(self, s, redis, here):
        yield 'FLUSHALL', changed(s, servers=put_in(
            s.servers, here, scripts.empty(self.owners)))

    def dump(self, s, redis, here):
        yield 'Redis writes a dump', changed(s, saved=redis)

    def restart(self, s, redis, here):
        """A new instance with the dump; connections to the old one die."""
        if s.saved is not None:
            yield 'Redis restarts with the dump', changed(
                s, servers=s.servers + (s.saved,), alive=1 << here + 1)

    def move(self, s, redis, here):
        """The same, but the old instance lives, and is still talked to."""
        if s.saved is not None:
            yield 'the address leads to another Redis', changed(
                s, servers=s.servers + (s.saved,),
                alive=s.alive | 1 << here + 1)

    def restart_empty(self, s, redis, here):
        yield 'Redis restarts with nothing', changed(
            s, servers=s.servers + (scripts.empty(self.owners),),
            alive=1 << here + 1)

    def move_empty(self, s, redis, here):
        yield 'the address leads to an empty Redis', changed(
            s, servers=s.servers + (scripts.empty(self.owners),),
            alive=s.alive | 1 << here + 1)

    def ask(self, s, redis, here):
        owner = self.owners - 1
        yield 'slate_cache_flush() in database %s' % 'AB'[owner], changed(
            s, asked=s.asked | 1 << owner)

    def crash(self, s, redis, here):
        """PostgreSQL starts again; whatever is in the journal is in doubt."""
        yield 'PostgreSQL crashes', changed(
            s, writers=tuple(self.crashed(i, w)
                             for i, w in enumerate(s.writers)),
            readers=(GONE_READER,) * len(s.readers),
            workers=(None,) * self.owners, globs=(),
            trust=tuple(changed(t, state=UNKNOWN) for t in s.trust))

    def crashed(self, i, w):
        if w.phase in (STAMPED, ABORTING):
            return changed(self.aborted(i, w), phase=ABORTED)
        if w.phase == COMMITTED:
            return changed(w, told=DELIVERED if 'journal' in self.off
                           else DOUBTED)
        return w
