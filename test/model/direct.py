#!/usr/bin/env python3
"""Explores every interleaving of direct pushes: does anything old stay?

    python3 test/model/direct.py        who meets whom, small bounds
        --large         and more of them; some minutes
        --mutants       each mechanism off in turn: a counterexample must be found
        --scenario NAME that one alone

The rules of src/traffic.c and of those who call it, for one key and its cell, and
those of the Lua in src/lua.c as far as they matter to it.  explore.py shows that
pushes by script are right; here it is about whether a bare SET does what they would.

WHAT IS ONE STEP

- a writer takes his version, commits, or aborts; each look at a cell or a counter, and
  each change of one; to send, and to have read the answers.
- Redis does the next command of any connection.  Commands of one connection are done
  in turn, but at any time.  EXEC, and the WATCH and the GET behind it, are three.
- whoever waits for an answer takes it for lost (a fault).  What he has sent may come to
  be done at any later time, also when all is said to be at rest.
- the worker replays, as one who pushes; and takes a mark away.
- a reader leases, takes a snapshot, and fills.
- a fault: a value is evicted, FLUSHALL, PostgreSQL crashes, another cluster takes over.

WHAT MUST HOLD

- At rest there is no value, or the one that the table has.
- Mode commit: what was acknowledged is there, or a later one, or none.
- Mode strict: what is visible is there, or a later one, or none.

A value is of a row, as in world.py: what changes another row does not make it old; nor
would pushes by script notice.
"""
import sys
from collections import deque, namedtuple
from time import time

sys.dont_write_bytecode = True

# table, acked, visible: of each row, the number of the last commit; of the last one
# that was acknowledged; and of the last one in mode strict.  direct, script, version:
# the key's cell; began, globs, passed: the same of its beginning's.  epoch: in Redis;
# known: in shared memory.  standing: marks.  doubt: of whom the worker has to tell
# Redis; target: of whom he does.  actors: the writers, and the worker.
State = namedtuple('State', 'clock commits table acked visible direct script version began globs passed '
                            'broken mended epoch known value guard floor standing sessions orphans actors '
                            'target readers doubt timeouts faults')
Guard = namedtuple('Guard', 'version order nonce marks')

# What a connection has sent and Redis has not done; whether it WATCHes; the epoch that
# it knows of (None: goes by script); what GET and EXEC have answered.
Session = namedtuple('Session', 'queue watch seen got done')

# direct: as it has turned out; counted: as what others see him; began: also in the
# beginning's cell; note: of mutants.
Actor = namedtuple('Actor', 'phase version value epoch direct counted began must broken marked note')
Reader = namedtuple('Reader', 'phase token value')

(IDLE, STAMPED, ARMING, BEGIN, LOOK_THERE, ENTER, LOOK, RAISE, COUNT, COMPARE, GOING, FENCING, SENDING,
 MARKING, MARKED, RELEASING, BREAK, SET_AHEAD, LEAVE, DONE) = range(20)

# Whoever does not go directly after all says so at any time, or never.
TURNING = (RAISE, COMPARE, FENCING, SENDING)

NOT, CLEAN, DIRTY = range(3)                    # WATCH
NOWHERE, DIRECTLY, BY_SCRIPT, AS_GLOB = range(4)

# The epoch that Redis has once another cluster has taken over.
TAKEN_OVER = 100

SHARED = 0
NOBODY = Guard(0, SHARED, 0, frozenset())
NEW_ACTOR = Actor(IDLE, 0, None, 0, False, NOWHERE, False, False, 0, False, None)
GONE_ACTOR = NEW_ACTOR._replace(phase=DONE)
NEW_SESSION = Session((), NOT, None, None, False)
ARMED_SESSION = NEW_SESSION._replace(watch=CLEAN, seen=0)

Writer = namedtuple('Writer', 'mode op order row locks aborts session')
Scenario = namedtuple('Scenario', 'writers readers timeouts faults armed equal broken')


def writer(mode, op='put', order=1, row=0, locks=True, aborts=False, session=None):
    """mode: direct (if he may), script, strict, failing (strict, and cannot push), elsewhere
    (by script, with another key).  locks: waits for others of his order."""
    return Writer(mode, op, order, row, locks, aborts, session)


def scenario(writers, readers=(), timeouts=0, faults='', armed=True, equal=False, broken=0):
    """readers: their rows.  faults: evicted, flushed, crash, taken over; by their initials."""
    return Scenario(tuple(writers), tuple(readers), timeouts, faults, armed, equal, broken)


class Direct:
    def __init__(self, scenario, without=()):
        self.scenario, self.without = scenario, frozenset(without)
        self.writers = scenario.writers
        self.worker = len(self.writers)
        ids, self.of_session = [], []
        for i, w in enumerate(self.writers):
            name = ('own', i) if w.session is None else w.session
            if name not in ids:
                ids.append(name)
            self.of_session.append(ids.index(name))
        self.of_session.append(len(ids))        # the worker's
        self.before = [[j for j in range(i) if self.of_session[j] == self.of_session[i] or
                        self.writers[j] == w and w.session is None] for i, w in enumerate(self.writers)]
        self.has_globs = any(w.op == 'glob' for w in self.writers)
        self.pushes_again = [any(self.of_session[j] == self.of_session[i] for j in range(i + 1, self.worker))
                             for i in range(self.worker)]

    def start(self):
        sessions = (ARMED_SESSION if self.scenario.armed else NEW_SESSION,) * self.of_session[-1]
        return State(
            clock=0, commits=0, table=(0, 0), acked=(0, 0), visible=(0, 0), direct=0, script=0, version=0,
            began=0, globs=0, passed=0, broken=self.scenario.broken, mended=0, epoch=0, known=0, value=None,
            guard=None, floor=0, standing=frozenset(), sessions=sessions + (NEW_SESSION,), orphans=(),
            actors=(NEW_ACTOR,) * (self.worker + 1), target=None,
            readers=(Reader(IDLE, 0, None),) * len(self.scenario.readers), doubt=frozenset(),
            timeouts=self.scenario.timeouts, faults=self.scenario.faults)

    # -- judging -----------------------------------------------------------

    def wrong(self, s):
        if s.value is None:
            return None
        row, number = s.value
        if number < s.visible[row] and self.is_ours(s):
            return 'a value is older than what is visible'
        if number < s.acked[row] and self.is_ours(s):
            return 'a value is older than what was acknowledged'
        if number != s.table[row] and self.at_rest(s):
            return 'an old value stays'
        return None

    def at_rest(self, s):
        return (s.known is not None and not s.doubt and s.actors[-1].phase == IDLE and
                (s.known == s.epoch or not self.is_ours(s)) and
                all(a.phase in (IDLE, DONE) for a in s.actors))

    def is_ours(self, s):
        return s.epoch != TAKEN_OVER

    # -- Redis ---------------------------------------------------------------

    def touched(self, s):
        """Who WATCHes the epoch is told that it was written."""
        return s._replace(
            sessions=tuple(c._replace(watch=DIRTY) if c.watch == CLEAN else c for c in s.sessions),
            orphans=tuple(sorted((queue, DIRTY if watch == CLEAN else watch) for queue, watch in s.orphans)))

    def do(self, s, command):
        """What a command does that all can see."""
        name = command[0]
        if name == 'FENCE':
            return self.touched(s) if s.epoch is not None else s
        if name == 'EXEC':
            _, op, version, order, value, by = command
            return s._replace(guard=Guard(version, order, self.nonce(s, by), frozenset()),
                              value=value if op == 'put' else None)
        if name == 'script':
            return self.push(s, *command[1:])
        if name == 'FLOOR':
            return s._replace(floor=max(s.floor, command[1]))
        if name == 'MARK':
            known = s.guard or NOBODY
            others = (known.marks & s.standing) | {command[1]}
            return s._replace(value=None, standing=s.standing | {command[1]},
                              guard=known._replace(nonce=-1 - command[1], marks=others))
        if name == 'RELEASE':
            return s._replace(standing=s.standing - {command[1]})
        return s

    def nonce(self, s, nonce):
        return nonce if any(r.phase != 3 for r in s.readers) else None

    def push(self, s, op, version, order, value, by, epoch=0, me=None):
        known = s.guard or NOBODY
        if op == 'swept' and s.guard is None and s.value is None:
            return s
        marks = known.marks & s.standing
        others = marks - {me}
        older = known.version > version
        if op == 'put' and epoch == s.epoch:
            if older and known.order == order != SHARED:
                return s
            if not (older or s.floor > version or others or me is not None and me not in marks):
                return s._replace(value=value, guard=Guard(version, order, self.nonce(s, by), others))
        top = (known.version, known.order) if older else (version, order)
        return s._replace(value=None, guard=Guard(top[0], top[1], self.nonce(s, by), others))

    def redis(self, s):
        for i, session in enumerate(s.sessions):
            if session.queue:
                command, after = session.queue[0], s
                session = session._replace(queue=session.queue[1:])
                if command[0] == 'WATCH':
                    session = session._replace(watch=CLEAN if session.watch == NOT else session.watch)
                elif command[0] == 'UNWATCH':
                    session = session._replace(watch=NOT)
                elif command[0] == 'GET':
                    session = session._replace(got=s.epoch)
                elif command[0] == 'EXEC':
                    session, after = session._replace(watch=NOT, done=self.counts(session.watch)), s
                    if session.done:
                        after = self.do(s, command)
                else:
                    after = self.do(s, command)
                    session = session._replace(watch=after.sessions[i].watch)
                yield 'Redis', 'does %s' % self.told(i, command, command[0] != 'EXEC' or session.done), \
                    self.with_session(after, i, session)
        for j, (queue, watch) in enumerate(s.orphans):
            rest = s.orphans[:j] + s.orphans[j + 1:]
            command = queue[0]
            done = command[0] != 'EXEC' or self.counts(watch)
            if command[0] == 'WATCH' and watch == NOT:
                watch = CLEAN
            if len(queue) > 1:
                rest = tuple(sorted(rest + ((queue[1:], watch),)))
            after = s._replace(orphans=rest)
            yield 'Redis', 'does at last %s' % self.told(None, command, done), \
                self.do(after, command) if done else after

    def counts(self, watch):
        """Does EXEC do anything?"""
        return watch != DIRTY or 'watch' in self.without

    @staticmethod
    def told(session, command, done):
        text = command[0]
        if command[0] in ('EXEC', 'script'):
            text += ' (%s, version %d)' % (command[1].upper(), command[2])
        if session is not None:
            text += ' of session %d' % session
        return text if done else text + ': nothing'

    @staticmethod
    def with_session(s, i, session):
        return s._replace(sessions=put_in(s.sessions, i, session))

    # -- who pushes ------------------------------------------------------------

    def steps(self, s):
        for i, a in enumerate(s.actors):
            if a.phase in (SENDING, MARKING, RELEASING) and not s.sessions[self.of_session[i]].queue:
                yield from self.actor(s, i)
                return
        yield from self.redis(s)
        for i in range(len(s.actors)):
            if s.actors[i].phase != DONE:
                yield from self.actor(s, i)
        for i in range(len(s.readers)):
            yield from self.reader(s, i)
        yield from self.others(s)

    def to(self, s, i, phase, **changed):
        """What is still to be known of an actor."""
        actor = s.actors[i]._replace(phase=phase, **changed)
        if phase in (IDLE, DONE):
            actor = NEW_ACTOR if phase == IDLE else GONE_ACTOR
        elif phase in (LEAVE, SET_AHEAD, BREAK):
            actor = NEW_ACTOR._replace(phase=phase, counted=actor.counted, began=actor.began, note=actor.note)
        return s._replace(actors=put_in(s.actors, i, actor))

    def send(self, s, i, phase, *commands, **changed):
        k = self.of_session[i]
        session = s.sessions[k]._replace(queue=commands, done=False, got=None)
        if commands[0][0] == 'script' and not (i < self.worker and self.pushes_again[i]):
            session = NEW_SESSION._replace(queue=commands)
        return self.to(self.with_session(s, k, session), i, phase, **changed)

    def kind(self, s, i):
        """Mode and op; the worker's are those of whom he replays."""
        if i == self.worker:
            return 'worker', self.writers[s.target].op if s.target is not None else None
        mode = self.writers[i].mode
        return 'strict' if mode == 'failing' else mode, self.writers[i].op

    def actor(self, s, i):
        a, (mode, op) = s.actors[i], self.kind(s, i)
        who = 'worker' if i == self.worker else 'writer %d' % i
        if a.phase < BEGIN:
            steps = self.before_commit(s, i, a, mode)
        elif a.phase < GOING:
            steps = self.entering(s, i, a, mode, op)
        else:
            steps = self.on_the_way(s, i, a, mode, op)
        for what, after in steps:
            yield who, what, after
        if a.counted == DIRECTLY and not a.direct and a.phase in TURNING:
            yield who, 'turns to script', self.to(self.counted(s, i, BY_SCRIPT), i, a.phase,
                                                  counted=BY_SCRIPT, began=False)
        if s.timeouts and a.phase in (FENCING, MARKING, SENDING, RELEASING):
            yield who, 'gives up', self.give_up(s, i)

    def first(self, mode):
        """Into the cell, but for mutants."""
        return COUNT if mode == 'worker' and 'worker' in self.without else \
            GOING if mode == 'strict' and 'early' in self.without else BEGIN

    def before_commit(self, s, i, a, mode):
        later = s._replace(clock=s.clock + 1)
        if a.phase == IDLE and mode == 'worker':
            for target in s.doubt:
                yield 'begins to replay %d, with version %d' % (target, later.clock), self.to(
                    later._replace(target=target), i, self.first(mode), version=later.clock)
        elif a.phase == IDLE and mode == 'elsewhere' and self.may_begin(s, i):
            if s.broken != s.mended:
                yield 'sends a fence', self.send(s, i, FENCING, ('FENCE',), broken=s.broken)
        elif a.phase == IDLE and mode != 'elsewhere' and self.may_begin(s, i):
            phase = self.first(mode) if mode == 'strict' else STAMPED
            epoch = -3 if s.known is None else s.known
            yield 'takes version %d' % later.clock, self.to(later, i, phase, version=later.clock, epoch=epoch)
            if self.scenario.equal and any(o.phase == STAMPED and o.version == s.clock for o in s.actors):
                yield 'takes version %d, too' % s.clock, self.to(s, i, phase, version=s.clock, epoch=epoch)
        elif a.phase == STAMPED:
            k = self.of_session[i]
            if mode == 'direct' and not self.scenario.armed and s.sessions[k].seen != a.epoch:
                yield 'sends WATCH', self.send(s, i, ARMING, ('WATCH',), ('GET',))
            yield 'commits', self.committed(s, i, BEGIN)
            if self.writers[i].aborts:
                yield 'aborts', self.to(s, i, DONE)
        elif a.phase == ARMING and not s.sessions[self.of_session[i]].queue:
            yield 'WATCHes', self.to(self.armed(s, i), i, STAMPED)

    def may_begin(self, s, i):
        w = self.writers[i]
        for j in self.before[i]:
            if s.actors[j].phase == IDLE or self.of_session[j] == self.of_session[i] and s.actors[j].phase != DONE:
                return False
        return not w.locks or not any(
            o.locks and o.order == w.order and j != i and s.actors[j].version and s.actors[j].value is None and
            s.actors[j].phase not in (RELEASING, SET_AHEAD, LEAVE) for j, o in enumerate(self.writers))

    def committed(self, s, i, phase):
        w = self.writers[i]
        if not self.is_ours(s):
            return self.to(s, i, phase, value=(w.row, -1))
        number = s.commits + 1
        s = s._replace(commits=number, table=put_in(s.table, w.row, number),
                       clock=s.clock + self.scenario.equal)
        if w.mode in ('strict', 'failing'):
            s = s._replace(visible=put_in(s.visible, w.row, number))
        return self.to(s, i, phase, value=(w.row, number))

    def armed(self, s, i):
        """All is answered; the last was GET, if there was one."""
        k = self.of_session[i]
        watch, seen = s.sessions[k].watch, s.sessions[k].got
        if 'seen' in self.without and watch != NOT:
            seen = s.actors[i].epoch
        return self.with_session(s, k, Session((), watch, seen, None, False))

    # Into the cells.

    def counted(self, s, i, counted, began=False):
        a = s.actors[i]

        def difference(what):
            return (counted == what) - (a.counted == what)

        return s._replace(direct=s.direct + difference(DIRECTLY), script=s.script + difference(BY_SCRIPT),
                          globs=s.globs + difference(AS_GLOB), began=s.began + began - a.began)

    def entering(self, s, i, a, mode, op):
        if a.phase == BEGIN and op == 'glob':
            yield 'enters with a glob', self.to(
                self.counted(s, i, AS_GLOB), i, RAISE, counted=AS_GLOB,
                must=s.began > 0 and 'notice' not in self.without)
        elif a.phase == BEGIN:
            session = s.sessions[self.of_session[i]]
            direct = mode == 'direct' and (session.seen is not None and session.seen == a.epoch or
                                           'earlier' in self.without)
            if not direct or not self.has_globs:
                yield from self.enter(self.to(s, i, ENTER, direct=direct), i)
            elif 'beginning' in self.without:
                yield 'begins', self.to(s, i, ENTER, direct=True)
            else:
                yield 'enters the beginning', self.to(
                    self.counted(s, i, NOWHERE, True), i, LOOK_THERE, direct=s.globs == 0, began=True)
        elif a.phase == LOOK_THERE:
            yield 'looks at the version of the beginning', self.to(
                s, i, ENTER, direct=a.direct and (s.passed < a.version or 'passed' in self.without))
        elif a.phase == ENTER:
            yield from self.enter(s, i)
        elif a.phase == LOOK:
            yield 'looks at the version there', self.to(
                s, i, RAISE, direct=s.version < a.version or 'version' in self.without)
        elif a.phase == RAISE and op == 'glob':
            yield 'raises the version of the beginning', self.to(
                s._replace(passed=max(s.passed, a.version)), i, COUNT)
        elif a.phase == RAISE:
            yield 'raises the version there', self.to(s._replace(version=max(s.version, a.version)), i, COUNT)
        elif a.phase == COUNT:
            yield 'reads what was broken off', self.to(s, i, COMPARE, broken=s.broken)
        elif a.phase == COMPARE:
            if a.must and a.counted != DIRECTLY and not (s.began if op == 'glob' else s.direct):
                new = self.to(s, i, COUNT, must=False)
                yield 'has waited until they had left', self.go(new, i) if 'anew' in self.without else new
            if a.must or a.broken != s.mended and 'broken' not in self.without:
                new = self.to(s, i, FENCING, must=False, direct=False)
                if 'fence' in self.without:
                    yield 'does not fence', self.go(new, i)
                else:
                    yield 'sends a fence', self.send(new, i, FENCING, *self.fence(s, i))
            else:
                yield 'need not fence, and %s' % self.what(s, i), self.go(s, i)

    def enter(self, s, i):
        a = s.actors[i]
        alone = s.direct == s.script == 0
        if not a.direct and 'script' in self.without:
            yield 'does not enter', self.to(s, i, COUNT, must=s.direct > 0)
        elif a.direct and 'order' in self.without and a.note is None:
            yield 'looks at the cell', self.to(s, i, ENTER, note=(alone, s.direct))
        else:
            if a.note:
                alone = a.note[0]
            must = s.direct > 0 and not ('order' in self.without and alone)
            if 'notice' in self.without:
                alone, must = True, False
            direct = a.direct and alone
            counted = DIRECTLY if a.direct else BY_SCRIPT
            yield 'enters %s' % ('directly' if a.direct else 'by script'), self.to(
                self.counted(s, i, counted, a.began), i, LOOK if direct else RAISE,
                direct=direct, counted=counted, must=must, note=None)

    # On the way.

    def fence(self, s, i):
        """Our own WATCH has seen it, too."""
        again = i < self.worker and self.pushes_again[i] and s.sessions[self.of_session[i]].seen is not None
        return (('FENCE',), ('UNWATCH',), ('WATCH',), ('GET',)) if again else (('FENCE',),)

    def what(self, s, i):
        a, (mode, op) = s.actors[i], self.kind(s, i)
        return 'goes on' if a.marked or mode == 'elsewhere' else 'sends %s' % (
            'MARK' if mode == 'strict' else 'EXEC' if a.direct else 'a script')

    def go(self, s, i):
        """Who has entered, and fenced if he had to."""
        a, (mode, op) = s.actors[i], self.kind(s, i)
        if mode == 'elsewhere':
            return self.to(s, i, DONE)
        if a.marked:
            return self.to(s, i, MARKED)
        if mode == 'strict':
            return self.send(s, i, MARKING, ('MARK', i), marked=True)
        if a.direct:
            return self.send(s, i, SENDING, *self.directly(i, a), broken=0)
        return self.send(s, i, SENDING, *self.by_script(s, i), broken=0)

    def on_the_way(self, s, i, a, mode, op):
        k = self.of_session[i]
        answered = not s.sessions[k].queue
        if a.phase == FENCING and answered:
            mended = max(s.mended, s.broken if 'before' in self.without else a.broken)
            new = self.armed(s, i) if len(self.fence(s, i)) > 1 else s
            yield 'has fenced, and %s' % self.what(s, i), self.go(new._replace(mended=mended), i)
        elif a.phase == GOING:
            yield self.what(s, i), self.go(s, i)
        elif a.phase == MARKING and answered:
            yield 'has marked', self.to(s, i, BEGIN if 'early' in self.without else MARKED)
        elif a.phase == MARKED and self.writers[i].mode == 'failing':
            new = self.committed(s, i, MARKED)
            yield 'commits, and cannot push', self.to(
                new._replace(doubt=s.doubt | {i}), i, LEAVE if 'ahead' in self.without else SET_AHEAD)
        elif a.phase == MARKED:
            new = self.committed(s, i, SENDING)
            yield 'commits, and sends a script', self.send(new, i, SENDING, *self.by_script(new, i))
            if self.writers[i].aborts:
                yield 'aborts, and sends RELEASE', self.send(s, i, RELEASING, ('RELEASE', i))
        elif a.phase == RELEASING and answered:
            yield 'has released', self.to(s, i, LEAVE)
        elif a.phase == SENDING and answered and mode == 'worker':
            yield 'has replayed %d' % s.target, self.to(s._replace(doubt=s.doubt - {s.target}), i, LEAVE)
        elif a.phase == SENDING and answered and a.direct and not s.sessions[k].done:
            new = self.armed(s, i)
            yield 'was not done, and sends a script', self.send(
                new, i, SENDING, *self.by_script(new, i), direct=False)
        elif a.phase == SENDING and answered:
            row, number = a.value
            new = self.armed(s, i) if a.direct and self.pushes_again[i] else self.with_session(
                s, k, s.sessions[k] if self.pushes_again[i] else NEW_SESSION)
            yield 'is answered', self.to(new._replace(
                acked=put_in(s.acked, row, max(number, s.acked[row]))), i, LEAVE)
        elif a.phase == BREAK:
            yield 'counts it as broken off', self.to(
                s._replace(broken=s.broken + 1), i, LEAVE if a.note is None else DONE)
        elif a.phase == SET_AHEAD:
            yield 'sets the version there ahead', self.to(s._replace(version=s.clock), i, LEAVE)
        elif a.phase == LEAVE:
            new = self.counted(s, i, NOWHERE)
            yield 'leaves', self.to(
                new._replace(target=None) if mode == 'worker' else new, i,
                IDLE if mode == 'worker' else BREAK if a.note else DONE, counted=NOWHERE, began=False)

    def directly(self, i, a):
        w = self.writers[i]
        commands = (('EXEC', w.op, a.version, w.order, a.value, i),)
        if 'earlier' in self.without:
            commands = (('WATCH',),) + commands
        return commands + ((('WATCH',), ('GET',)) if self.pushes_again[i] else ())

    def by_script(self, s, i):
        a, (mode, op) = s.actors[i], self.kind(s, i)
        if op == 'glob':
            return ('FLOOR', a.version), ('script', 'swept', a.version, SHARED, None, 1000 + a.version)
        if mode == 'worker':
            return ('script', 'drop', a.version, SHARED, None, 1000 + a.version),
        w = self.writers[i]
        push = ('script', op, a.version, w.order, a.value, i, a.epoch, i if mode == 'strict' else None)
        return (push, ('RELEASE', i)) if mode == 'strict' else (push,)

    def give_up(self, s, i):
        """Nobody knows what Redis has done of it, nor what it will do."""
        a, k = s.actors[i], self.of_session[i]
        queue, watch = s.sessions[k].queue, s.sessions[k].watch
        while queue and queue[-1][0] in ('UNWATCH', 'WATCH', 'GET'):
            queue = queue[:-1]
        orphans = s.orphans
        if queue:
            watch = watch if any(command[0] == 'EXEC' for command in queue) else NOT
            orphans = tuple(sorted(orphans + ((queue, watch),)))
        s = self.with_session(s, k, NEW_SESSION)._replace(orphans=orphans, timeouts=s.timeouts - 1)
        if i == self.worker:
            return self.to(s, i, LEAVE)
        if a.value is not None:
            s = s._replace(doubt=s.doubt | {i})
        if self.kind(s, i)[0] == 'strict':
            return self.to(s, i, LEAVE if 'ahead' in self.without else SET_AHEAD)
        if a.phase == SENDING and a.direct:
            if 'sooner' in self.without:
                return self.to(s, i, LEAVE, note='break')
            return self.to(s, i, BREAK)
        return self.to(s, i, LEAVE)

    def crashed(self, s):
        """Shared memory is gone, and all who have begun."""
        orphans, doubt, actors = list(s.orphans), set(s.doubt), []
        for i, a in enumerate(s.actors):
            queue, watch = s.sessions[self.of_session[i]][:2]
            if queue and a.phase not in (IDLE, DONE):
                orphans.append((queue, watch))
            if a.value is not None:
                doubt.add(i)
            actors.append(NEW_ACTOR if a.phase == IDLE or i == self.worker else GONE_ACTOR)
        return s._replace(
            direct=0, script=0, version=0, began=0, globs=0, passed=0, mended=0, known=None, target=None,
            broken=0 if 'crash' in self.without else 1, sessions=(NEW_SESSION,) * len(s.sessions),
            orphans=tuple(sorted(orphans)), actors=tuple(actors), doubt=frozenset(doubt))

    # -- others ------------------------------------------------------------------

    def reader(self, s, i):
        r, row = s.readers[i], self.scenario.readers[i]
        who = 'reader %d' % i

        def now(new, *reader):
            return new._replace(readers=put_in(new.readers, i, Reader(*reader)))

        if r.phase == IDLE and s.value is None and s.epoch == s.known:
            guard = s.guard or NOBODY._replace(nonce=-100 - i)
            if not guard.marks & s.standing:
                guard = guard._replace(marks=frozenset())
                yield who, 'leases', now(s._replace(guard=guard), 1, guard.nonce, None)
        elif r.phase == 1:
            yield who, 'takes a snapshot', now(s, 2, r.token, s.table[row])
        elif r.phase == 2:
            if s.guard and s.guard.nonce == r.token and not s.guard.marks:
                yield who, 'fills', now(s._replace(value=(row, r.value), guard=s.guard._replace(order=SHARED)),
                                        3, 0, None)
            else:
                yield who, 'may not fill', now(s, 3, 0, None)

    def others(self, s):
        for i in s.standing:
            if s.actors[i].phase == DONE and i not in s.doubt:
                yield 'worker', 'takes the mark of %d away' % i, s._replace(standing=s.standing - {i})
        for fault in sorted(set(s.faults)):
            left = s._replace(faults=s.faults.replace(fault, '', 1))
            if fault == 'e' and s.value is not None:
                yield 'Redis', 'evicts the value', left._replace(value=None)
            elif fault == 'f':
                yield 'Redis', 'is flushed', self.touched(left)._replace(
                    epoch=None, value=None, guard=None, floor=0, standing=frozenset())
            elif fault == 'c':
                yield 'PostgreSQL', 'crashes', self.crashed(left)
            elif fault == 't':
                number = s.commits + 1
                yield 'another cluster', 'takes over, and commits', self.touched(left)._replace(
                    epoch=TAKEN_OVER, value=None, commits=number, table=put_in(s.table, 0, number),
                    guard=s.guard and s.guard._replace(nonce=-200))
        if s.epoch == 0 and s.known is None:
            yield 'worker', 'writes a new epoch', self.touched(s)._replace(epoch=2, known=2)
        if s.epoch is None and s.known is not None:
            yield 'worker', 'trusts Redis no more', s._replace(known=None)
        elif s.epoch is None:
            yield 'worker', 'withdraws the epoch', self.touched(s)._replace(epoch=-1)
        elif s.epoch == -1:
            yield 'worker', 'empties Redis', s._replace(
                epoch=-2, value=None, guard=s.guard and s.guard._replace(nonce=-300))
        elif s.epoch == -2:
            yield 'worker', 'writes a new epoch', self.touched(s)._replace(epoch=1, known=1)


def put_in(items, position, item):
    return items[:position] + (item,) + items[position + 1:]


def search(direct, most=10 ** 7):
    start = direct.start()
    before, todo = {start: None}, deque([start])
    while todo:
        s = todo.popleft()
        wrong = direct.wrong(s)
        if wrong:
            way = []
            while before[s] is not None:
                last, s = s, before[s]
                way.append(next((who, what) for who, what, after in direct.steps(s) if after == last))
            return len(before), wrong, way[::-1]
        if len(before) > most:
            return len(before), 'too many states', []
        for _, _, after in direct.steps(s):
            if after not in before:
                before[after] = s
                todo.append(after)
    return len(before), None, []


DIRECT, BY, STRICT = writer('direct'), writer('script'), writer('strict', aborts=True)
DELETE = writer('direct', 'drop')
LIST = writer('direct', 'drop', locks=False)
OTHER = writer('direct', order=2, row=1)
TWICE, AGAIN = writer('direct', session='twice'), writer('direct', session='again')
GLOB, GLOB_LIST = writer('script', 'glob'), writer('script', 'glob', locks=False)
ELSEWHERE, FAILING = writer('elsewhere', locks=False), writer('failing')
STRICT_OTHER = writer('strict', order=2, row=1, aborts=True)
STRICT_LIST = writer('strict', 'drop', locks=False, aborts=True)

# With small bounds, and what there is besides with large ones.
SMALL = {
    'row': scenario([DIRECT, DIRECT], [0], faults='e'),
    'late': scenario([DIRECT, DIRECT], timeouts=1),
    'script': scenario([DIRECT, BY], timeouts=1),
    'deleted': scenario([DIRECT, DELETE], timeouts=1),
    'three': scenario([DIRECT, DIRECT, DIRECT]),
    'list': scenario([LIST, LIST], [0], equal=True),
    'two tables': scenario([DIRECT, OTHER], timeouts=1),
    'equal': scenario([DIRECT, OTHER], [0], equal=True),
    'not yet': scenario([DIRECT, DIRECT], armed=False),
    'twice': scenario([TWICE, TWICE, DIRECT]),
    'twice, by turns': scenario([TWICE, TWICE, AGAIN, AGAIN]),
    'strict': scenario([DIRECT, STRICT], timeouts=1),
    'strict fails': scenario([writer('direct', order=2), FAILING]),
    'strict, read': scenario([DIRECT, STRICT], [0]),
    'strict other': scenario([DIRECT, STRICT_OTHER], timeouts=1),
    'strict list': scenario([LIST, STRICT_LIST], [0]),
    'strict twice': scenario([DIRECT, STRICT, STRICT]),
    'truncate': scenario([DIRECT, GLOB], timeouts=1),
    'glob': scenario([LIST, GLOB_LIST], [0]),
    'taken over': scenario([TWICE, TWICE], faults='t', armed=False),
    'crash': scenario([DIRECT, DIRECT], faults='c', armed=False),
    'crash, strict': scenario([STRICT, DIRECT], faults='c', armed=False),
    'flush': scenario([DIRECT, DIRECT], faults='f', armed=False),
}

LARGE = {
    'elsewhere': scenario([DIRECT, BY, ELSEWHERE, ELSEWHERE], timeouts=1, armed=False, broken=1),
    'late twice': scenario([DIRECT, DIRECT], timeouts=2),
    'late, read': scenario([DIRECT, DIRECT], [0], timeouts=1),
    'deleted, read': scenario([DIRECT, DELETE], [0], timeouts=1),
    'list, late': scenario([LIST, LIST], [0], timeouts=1),
    'two tables, read': scenario([DIRECT, OTHER], [0], timeouts=1),
    'three tables': scenario([DIRECT, DIRECT, OTHER]),
    'twice, late': scenario([TWICE, TWICE, DIRECT], timeouts=1),
    'strict, late': scenario([DIRECT, STRICT], [0], timeouts=1),
    'strict late twice': scenario([DIRECT, STRICT], timeouts=2),
    'strict list, late': scenario([LIST, STRICT_LIST], [0], timeouts=1),
    'glob, late': scenario([LIST, GLOB_LIST], [0], timeouts=1),
    'truncate, two': scenario([DIRECT, DIRECT, GLOB]),
    'crash, late': scenario([DIRECT, DIRECT], timeouts=1, faults='c', armed=False),
    'crash, read': scenario([DIRECT, DIRECT], [0], faults='c', armed=False),
    'flush, read': scenario([DIRECT, DIRECT], [0], faults='f', armed=False),
}

# Mechanisms, and a scenario that needs each.
MUTANTS = {
    'notice': 'row',            # who enters sees who is there
    'order': 'row',             # he is seen before he looks
    'script': 'strict',         # whoever goes by script enters, too
    'fence': 'row',             # who has found one who goes directly waits or fences
    'anew': 'late',             # who has waited looks for what was broken off meanwhile
    'watch': 'row',             # EXEC does nothing once the epoch was touched
    'earlier': 'not yet',       # WATCH was answered before he entered
    'version': 'row',           # who is older than who was there goes by script
    'broken': 'late',           # who finds what was broken off fences
    'sooner': 'late',           # it is counted before one leaves
    'before': 'elsewhere',      # a fence is for what was counted before it
    'worker': 'late',           # the worker enters for what it replays
    'early': 'strict',          # in mode strict one enters before the mark
    'ahead': 'strict fails',    # sets the version ahead, if marks may stay behind
    'seen': 'taken over',       # the epoch is read behind WATCH
    'crash': 'crash',           # nobody knows what was broken off before a start
    'beginning': 'truncate',    # a glob and who goes directly see each other
    'passed': 'truncate',       # who is older than a glob that has passed goes by script
}


def show(way):
    for who, what in way:
        print('    %s %s' % (who, what))


def explore(name, scenario):
    begun = time()
    count, wrong, way = search(Direct(scenario))
    print('%s - direct %-18s %8d states %6.1f s' % (
        'not ok' if wrong else 'ok', name, count, time() - begun), flush=True)
    if wrong:
        print('  ' + wrong)
        show(way)
    return not wrong


def main():
    options, bad = sys.argv[1:], 0
    scenarios = {**SMALL, **LARGE} if options else SMALL
    if options[:1] == ['--mutants']:
        for name in options[1:] or MUTANTS:
            count, wrong, way = search(Direct(scenarios[MUTANTS[name]], without=(name,)))
            print('%s - direct without %-10s %s' % (
                'ok' if wrong else 'not ok', name,
                '%s, after %d steps' % (wrong, len(way)) if wrong else 'nothing is wrong'), flush=True)
            if options[1:]:
                show(way)
            bad += not wrong
    else:
        for name in options[1:] if options[:1] == ['--scenario'] else scenarios:
            bad += not explore(name, scenarios[name])
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
