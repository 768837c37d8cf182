#!/usr/bin/env python3
"""Explores every interleaving of the cache protocol: is anything ever stale?

    python3 test/model/explore.py       all scenarios, small bounds
        --scenario NAME     that one alone; may be repeated
        --bounds small      (default) seconds; large: more actors and faults
        --without NAME      with that mechanism switched off
        --mutants           each mechanism off in turn: a counterexample must
                            be found, or the mechanism is not needed
        --list              what there is

Needs nothing but Python 3 (python3-minimal).  Prints a line for each, "ok" or
"not ok"; a counterexample as the shortest way to it.  The exit status is 1 if
one is not ok.  `make -C test/model check` runs all that takes a minute.

WHAT IT IS

Not the program but its rules, written a second time: scripts.py has those of
the Lua in src/lua.c (conform.py compares the two); world.py those of
pending.c, publish.c, strict.c, read.c, journal.c, trust.c and replay.c;
scenarios.py says who meets whom.  From the first state of a scenario every
step that anybody could take is taken, in every order, until no new state is
found.  So what holds holds for these few actors and faults; what fails comes
with the interleaving.  Who changes a rule in the source changes it here, too,
and sees.

WHAT IS ONE STEP

- each Lua script, for one key K (with its guard, its place in an index, the
  floor over it, the epochs of its databases, the marks that stand).  Keys do
  not disturb each other.
- PRE_COMMIT: lock, connection, version, epoch, row in the journal.  The epoch
  may be read again until the commit: that is a backend that waits for its
  worker.
- in mode strict: each MARK, acknowledged.  One of a transaction that has been
  aborted may arrive at any later time.
- COMMIT: visible, locks released.  So is PREPARE, and every other end.
- a reader's snapshot, in which it loads.
- each thing that a worker says to Redis, and each of its looks around; SCAN
  passes the names of a value and of its guard in either order.
- each fault.

WHAT MAY HAPPEN

A push reaches Redis at any time after its commit, call by call, before or
after those of others, before or after it was taken for failed and replayed,
or never.  A backend that is killed between commit and push is one whose push
was taken for failed, and never arrives.  Nobody waits for anything but row and
table locks.  Each connection belongs to the instance of Redis that it was made
to.  Time passes as faults do: "the guard expires" also means that the PUTs of
all who had their version when it was last touched are past their deadline.

WHAT MUST HOLD

- At rest nothing stale is in Redis.  It is at rest when every committed
  transaction has told Redis or was replayed, nothing waits for a sweep, and
  the workers trust the Redis that the address leads to.  Pushes that are still
  on their way are no excuse.
- Mode strict: never is there a value that lacks a commit that is visible in
  the database, or has one that is not.  Commits in mode commit are not in that
  promise, but their late pushes are in the way.  FLUSHALL, and so a Redis that
  starts empty, is within the promise; an evicted guard and an older dump are
  not (see limit-*): there it is right at rest.
- No mark stays that nobody needs.
- A value that was put after a glob stays.

WHAT IS NOT IN IT

The bookkeeping of the journal (slots, ranges, generations), how a server finds
out that PostgreSQL has gone back in time, timelines, TTLs, keys that apps SET
by themselves, commits that a crash takes back (synchronous_commit = off).
Scenarios named limit-* show what the protocol cannot do: there a
counterexample must be found.
"""
import gc
import sys
from collections import deque
from time import time

sys.dont_write_bytecode = True

import scenarios
from world import World, COMMITTED

# States after which a scenario is given up.
MOST = {'small': 300 * 1000, 'large': 2000 * 1000}


def search(world, most):
    """Breadth first: (states, what is wrong or None, the way there)."""
    start = world.start()
    before = {start: None}
    todo = deque([start])
    while todo:
        s = todo.popleft()
        wrong = world.wrong(s)
        if wrong:
            return len(before), wrong, way_to(world, before, s)
        if len(before) > most:
            return len(before), 'too many states', []
        steps = world.steps(s)
        wrong = not steps and world.stuck(s)
        if wrong:
            return len(before), wrong, way_to(world, before, s)
        for _, after in steps:
            if after not in before:
                before[after] = s
                todo.append(after)
    return len(before), None, []


def way_to(world, before, s):
    """What happened, and the state then, from the first step on."""
    way = []
    while before[s] is not None:
        label = next(label for label, after in world.steps(before[s])
                     if after == s)
        way.append((label, s))
        s = before[s]
    return reversed(way)


def show(world, way):
    for label, s in way:
        print('    %-44s %s' % (label, '  '.join(describe(world, s))))


def describe(world, s):
    """The database, then each Redis that lives."""
    yield 'committed ' + (','.join(
        str(i) for i, w in enumerate(s.writers)
        if w.phase == COMMITTED) or '-')
    for server in world.living(s):
        redis = s.servers[server]
        yield 'Redis' + (' %d' % server if len(s.servers) > 1 else '')
        if redis.value is not None:
            view, content = redis.value
            yield 'value(%s:%s)' % (view, ','.join(
                str(i) for i in range(len(s.writers)) if content & 1 << i))
        if redis.guard:
            guard = redis.guard
            yield 'guard(version %d order %d nonce %d%s)' % (
                guard.top, guard.order, guard.nonce,
                ' marks %s' % bin(guard.marks) if guard.marks else '')
        if redis.floor:
            yield 'floor(%d)' % redis.floor[0]
        if redis.member:
            yield 'indexed'


def ok(good):
    return 'ok' if good else 'not ok'


def explore(scenario, off, bounds):
    """One line about it; True if all is as it should be."""
    begun = time()
    world = World(scenario, off)
    states, wrong, way = search(world, MOST[bounds])
    good = not wrong
    verdict = wrong or 'holds'
    if scenario.limit and not off:
        good = bool(wrong)
        verdict = ('as known: %s' % scenario.limit if wrong else
                   'holds, though it was known not to')
    print('%s - %-22s %8d states %6.1f s  %s' % (
        ok(good), scenario.name, states, time() - begun, verdict), flush=True)
    if not good:
        show(world, way)
    return good


def explore_all(wanted, off, bounds):
    chosen = [s for s in scenarios.make(bounds)
              if not wanted or s.name in wanted]
    bad = sum(not explore(s, off, bounds) for s in chosen)
    return bad == 0


def explore_mutants():
    by_name = {s.name: s for s in scenarios.make('small')}
    missed = 0
    for name, story, where in scenarios.MECHANISMS:
        begun = time()
        states, wrong, way = search(World(by_name[where], [name]),
                                    MOST['large'])
        steps = len(list(way))
        missed += steps == 0
        print('%s - %-22s %15s %6.1f s  %s' % (
            ok(steps > 0), 'without ' + name, where, time() - begun,
            '%s, after %d steps' % (wrong, steps) if steps
            else 'nobody notices: ' + story), flush=True)
    return missed == 0


def show_list():
    print('Scenarios:')
    for scenario in scenarios.make('small'):
        print('  %-18s %s' % (scenario.name, scenario.story))
    print('\nMechanisms, and what happens without them:')
    for name, story, where in scenarios.MECHANISMS:
        print('  %-18s %s (%s)' % (name, story, where))
    return True


def main(arguments):
    gc.disable()                # there are no cycles, but millions of tuples
    wanted, off, bounds, action = [], [], 'small', None
    rest = iter(arguments)
    for argument in rest:
        if argument in ('--mutants', '--list'):
            action = argument
            continue
        value = next(rest, None)
        if argument == '--scenario' and value in {
                s.name for s in scenarios.make('small')}:
            wanted.append(value)
        elif argument == '--without' and value in {
                m[0] for m in scenarios.MECHANISMS}:
            off.append(value)
        elif argument == '--bounds' and value in MOST:
            bounds = value
        else:
            sys.exit('%s %s: not known; see the top of %s, and --list' % (
                argument, value or '', sys.argv[0]))
    if action == '--list':
        return show_list()
    if action == '--mutants':
        return explore_mutants()
    return explore_all(wanted, off, bounds)


if __name__ == '__main__':
    sys.exit(0 if main(sys.argv[1:]) else 1)
