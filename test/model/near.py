#!/usr/bin/env python3
"""Explores every interleaving of the near cache: does anybody find an old value?

    python3 test/model/near.py          writers in each mode, a reader beside them
        --large         and two of them; a minute
        --mutants       each mechanism off in turn: a counterexample must be found

The rules of src/near.c, and of those who call it, for one key and its cell.  What
Redis does is what explore.py shows of it: a push or a removal of a later commit is not
overtaken by an earlier one, and a value that was loaded is filled only if nobody has
pushed, removed or marked since the lease.

WHAT IS ONE STEP

- a writer enters, commits (or aborts, or is prepared), his push arrives or fails, he
  leaves.  Writers of one row commit one after the other, but push in any order.
- the worker pushes (mode async) or removes (what has failed, what was prepared), then
  voids; it looks for prepared transactions, then opens.
- a reader looks at the cell and finds what is near, or else reads Redis or takes a
  snapshot and then fills Redis and keeps the value, each a step; then he reads again.

WHAT MUST HOLD

- A value that is found near is not older than what was visible when the reader looked
  at the cell, if all writers are in mode strict; or than what was acknowledged then,
  in mode commit with pushes that do not fail.
- At rest what can be found is what the table has.
"""
import sys
from collections import deque, namedtuple

sys.dont_write_bytecode = True

# A cell: changes, and writers under way.  Redis: a value or None, its nonce, and how
# many marks stand.  doubt: numbers of writers whom the worker has to tell Redis of;
# voids: whom it has told, and not voided.  opened is not quite what the database calls settled: one less.
State = namedtuple('State', 'table acked changes under_way value nonce marks near doubt voids '
                            'prepared opened seen writers readers')
Writer = namedtuple('Writer', 'phase version')
Reader = namedtuple('Reader', 'phase reads cell value nonce')

IDLE_READER = Reader('idle', 0, None, None, None)


class Near:
    def __init__(self, kinds, readers, reads, without=()):
        self.kinds, self.nreaders, self.reads, self.without = kinds, readers, reads, without
        self.strict = all(kind in ('strict', 'strict prepared') for kind in kinds)
        self.acknowledged = all(kind in ('strict', 'commit') for kind in kinds)

    def start(self):
        return State(0, 0, 0, 0, 0, 0, 0, None, frozenset(), frozenset(), 0, 0, None,
                     tuple(Writer('idle', None) for _ in self.kinds),
                     tuple(IDLE_READER for _ in range(self.nreaders)))

    # -- what is found ---------------------------------------------------

    def is_open(self, s):
        return s.opened == s.prepared or 'closing' in self.without

    def cell(self, s):
        """What a lease is of; None: no lease."""
        if s.under_way > 0 or not self.is_open(s):
            return None
        return s.changes

    def found(self, s):
        cell = self.cell(s)
        return s.near[0] if s.near and cell is not None and s.near[1] == cell else None

    def wrong(self, s):
        if self.at_rest(s) and self.found(s) not in (None, s.table):
            return 'an old value is found at rest'
        return s.readers and next((r.phase for r in s.readers if r.phase.startswith('stale')), None)

    def at_rest(self, s):
        return not s.doubt and not s.voids and all(w.phase == 'done' for w in s.writers)

    # -- steps -------------------------------------------------------------

    def steps(self, s):
        for i, kind in enumerate(self.kinds):
            yield from self.writer(s, i, kind)
        yield from self.worker(s)
        for i in range(len(s.readers)):
            yield from self.reader(s, i)

    def writer(self, s, i, kind):
        w = s.writers[i]
        strict, prepared = kind.startswith('strict'), kind.endswith('prepared')

        def now(phase, version=w.version, **changed):
            writers = s.writers[:i] + (Writer(phase, version),) + s.writers[i + 1:]
            return s._replace(writers=writers, **changed)

        entered = {} if 'entering' in self.without else {
            'changes': s.changes + 1, 'under_way': s.under_way + 1}
        left = {} if 'entering' in self.without else {'under_way': s.under_way - 1}
        locked = any(o.phase in ('marked', 'entered', 'prepared', 'handed over')
                     for j, o in enumerate(s.writers) if j != i)
        if w.phase == 'idle' and not locked:
            if strict:
                yield i, 'marks', now('marked', value=None, nonce=s.nonce + 1, marks=s.marks + 1)
            else:
                yield i, 'enters', now('entered', **entered)
        elif w.phase == 'marked':
            yield i, 'enters', now('entered', **entered)
        elif w.phase == 'entered' and prepared:
            yield i, 'is prepared', now('prepared', prepared=s.prepared + 1)
        elif w.phase == 'entered':
            yield i, 'commits', now('committed', s.table + 1, table=s.table + 1)
            yield i, 'aborts', now('done', marks=s.marks - strict, **left)
        elif w.phase == 'prepared':
            yield i, 'leaves', now('handed over', **left)
        elif w.phase == 'handed over':
            yield i, 'is committed', now('done', s.table + 1, table=s.table + 1, doubt=s.doubt | {i})
        elif w.phase == 'committed' and (kind == 'async' or 'staying' in self.without):
            yield i, 'leaves', now('left', **left) if kind != 'async' else \
                now('done', doubt=s.doubt | {i}, **left)
        elif w.phase in ('committed', 'left'):
            ends = {} if w.phase == 'left' else left
            pushed = self.push(s, w.version, strict)
            yield i, 'pushes', now('pushed' if w.phase == 'committed' else 'done',
                                   acked=max(s.acked, w.version) if w.phase == 'left' else s.acked, **pushed)
            if kind == 'failing':
                yield i, 'fails', now('done', doubt=s.doubt | {i}, **ends)
        elif w.phase == 'pushed':
            yield i, 'leaves', now('done', acked=max(s.acked, w.version), **left)

    def push(self, s, version, strict):
        """The guard: a value that is not the newest is none."""
        newest = version == s.table
        marks = s.marks - strict
        value = version if newest and marks == 0 else None
        if not newest and marks == 0 and s.value is not None and s.value > version:
            value = s.value
        return {'value': value, 'nonce': s.nonce + 1, 'marks': marks}

    def worker(self, s):
        for i in s.doubt:
            kind, version = self.kinds[i], s.writers[i].version
            told = self.push(s, version, False) if kind == 'async' else {
                'value': None, 'nonce': s.nonce + 1, 'marks': s.marks - kind.startswith('strict')}
            voids = s.voids if 'voiding' in self.without else s.voids | {i}
            yield 'worker', 'tells Redis of %d' % i, s._replace(doubt=s.doubt - {i}, voids=voids, **told)
        for i in s.voids:
            yield 'worker', 'voids', s._replace(voids=s.voids - {i}, changes=s.changes + 1)
        if s.seen is None and s.opened != s.prepared:
            yield 'worker', 'counts', s._replace(seen=s.prepared)
        # It has looked after it had counted: none is prepared, or in doubt.
        undecided = any(w.phase in ('prepared', 'handed over') for w in s.writers)
        if s.seen is not None:
            if undecided or s.doubt or s.voids:
                yield 'worker', 'counts again', s._replace(seen=None)
            else:
                yield 'worker', 'opens', s._replace(seen=None, opened=s.seen)

    def reader(self, s, i):
        r = s.readers[i]

        def now(**changed):
            new = changed.pop('s', s)
            return new._replace(readers=new.readers[:i] + (r._replace(**changed),) + new.readers[i + 1:])

        def again():
            return {**IDLE_READER._asdict(), 'reads': r.reads + 1}

        if r.phase == 'idle' and r.reads < self.reads:
            found = self.found(s)
            if found is None:
                yield 'reader %d' % i, 'looks', now(phase='looked', cell=self.cell(s))
            elif self.strict and found < s.table:
                yield 'reader %d' % i, 'finds', now(phase='stale: older than visible')
            elif self.acknowledged and found < s.acked:
                yield 'reader %d' % i, 'finds', now(phase='stale: older than acknowledged')
            else:
                yield 'reader %d' % i, 'finds', now(**again())
        elif r.phase == 'looked' and s.value is not None:
            yield 'reader %d' % i, 'reads Redis', now(phase='read', value=s.value)
        elif r.phase == 'looked':
            yield 'reader %d' % i, 'leases', now(phase='leased', nonce=s.nonce if s.marks == 0 else None)
        elif r.phase == 'leased':
            yield 'reader %d' % i, 'takes a snapshot', now(phase='loaded', value=s.table)
        elif r.phase == 'loaded':
            filled = s._replace(value=r.value) if r.nonce == s.nonce and s.marks == 0 else s
            yield 'reader %d' % i, 'fills', now(phase='read', s=filled)
        elif r.phase == 'read':
            cell = self.cell(s) if 'lease' in self.without else r.cell
            near = s._replace(near=(r.value, cell)) if cell is not None else s
            yield 'reader %d' % i, 'keeps %s' % r.value, now(s=near, **again())


def search(near):
    start = near.start()
    before, todo = {start: None}, deque([start])
    while todo:
        s = todo.popleft()
        wrong = near.wrong(s)
        if wrong:
            way = []
            while before[s]:
                who, what, s = before[s]
                way.append('%s %s' % ('writer %d' % who if isinstance(who, int) else who, what))
            return len(before), wrong, reversed(way)
        for who, what, after in near.steps(s):
            if after not in before:
                before[after] = (who, what, s)
                todo.append(after)
    return len(before), None, []


# Who meets whom: writers, readers with large bounds, and how often each reads.
SCENARIOS = {
    'strict': (('strict', 'strict'), 2, 2),
    'commit': (('commit', 'commit'), 2, 2),
    'a push fails': (('failing', 'commit'), 2, 2),
    'async': (('async', 'async'), 2, 2),
    'modes': (('strict', 'commit', 'async'), 1, 2),
    'prepared': (('strict prepared', 'strict'), 2, 2),
    'prepared twice': (('strict prepared', 'strict prepared'), 1, 3),
}

# Mechanisms, and a scenario that needs each.
MUTANTS = {
    'entering': 'commit',       # a writer is seen, from before his commit on
    'staying': 'commit',        # until Redis has his push
    'lease': 'commit',          # a value is kept as of before it was read
    'voiding': 'async',         # the worker voids what it tells Redis
    'closing': 'prepared',      # nothing is found while one is prepared
}


def main():
    bad = 0
    if sys.argv[1:] == ['--mutants']:
        for name, scenario in MUTANTS.items():
            count, wrong, way = search(Near(*SCENARIOS[scenario], without=(name,)))
            print('%s - near without %-10s %s' % ('ok' if wrong else 'not ok', name, wrong or 'nothing is wrong'))
            bad += not wrong
    else:
        for name, (kinds, readers, reads) in SCENARIOS.items():
            if sys.argv[1:] == ['--large']:
                near = Near(kinds, readers, reads)
            else:
                near = Near(kinds, 1, reads)
            count, wrong, way = search(near)
            print('%s - near %-16s %8d states' % ('not ok' if wrong else 'ok', name, count))
            if wrong:
                print('\n'.join(['  ' + wrong] + ['    ' + step for step in way]))
            bad += bool(wrong)
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
