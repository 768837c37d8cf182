"""The scenarios: who takes part, and what may go wrong; and the mechanisms.

Each scenario is explored to the end: all interleavings, all faults at any
moment.  What is said to be "large" takes part with --bounds large only.
"""
from collections import namedtuple

from world import ALL

WriterSpec = namedtuple('WriterSpec', (
    'name calls '
    'row '          # what it changes; None: everything
    'order '        # of its PUTs; 0: SHARED
    'locks '        # does it wait for other writers of what it changes?
    'changes '      # does it change anything?
    'sweeps '       # does the worker look for keys by its glob?
    'owner '        # the database: 0 (A), 1 (B)
    'strict prepared '
    'ring '         # mode async: the worker sends its calls
    'aborts '       # may it roll back?
    'unwritten '    # the journal is full
    'blind '        # its value was not read from anything
    'after '        # begins when that other writer has committed
    'last '         # begins when all others' pushes have arrived
    'ahead'))       # how far the WAL of its cluster is ahead

ReaderSpec = namedtuple('ReaderSpec', 'view family owner')

Scenario = namedtuple('Scenario', (
    'name story writers readers faults '
    'equal '        # may two transactions take the same version?
    'keeps '        # when all is done, a value must be there
    'never '        # promise of the mode strict
    'owners '
    'limit'))       # this is known not to hold: why


def writer(name, calls, row=None, order=0, locks=True, changes=True,
           sweeps=False, owner=0, strict=False, prepared=False, ring=False,
           aborts=False, unwritten=False, blind=False, after=None,
           last=False, ahead=0):
    return WriterSpec(name, calls, row, order, locks, changes, sweeps, owner,
                      strict, prepared, ring, aborts, unwritten, blind, after,
                      last, ahead)


def put(row=0, order=1, **more):
    """INSERT or UPDATE of a row under a rule that a unique index orders."""
    return writer('update', ('PUT',), row, order, **more)


def put_shared(row=0, **more):
    """The same, under a rule whose key nothing makes unique."""
    return put(row, 0, **more)


def delete(row=0, order=1, **more):
    return writer('delete', ('DROP',), row, order, **more)


def listed(**more):
    """Changes a row of a list; nobody else writes that row."""
    return writer('list', ('DROP',), locks=False, **more)


def del_key(**more):
    """slate_cache_del(): changes nothing."""
    return writer('del', ('DROP',), locks=False, changes=False, **more)


def set_key(**more):
    """slate_cache_set() of a key that its family's index must know."""
    return writer('set', ('REGISTER', 'PUT'), locks=False, blind=True, **more)


def truncate(row=None, **more):
    """Drops by glob the rows' keys, which no index knows, under a lock."""
    return writer('truncate', ('FLOOR',), row, sweeps=True, **more)


def invalidate(**more):
    """slate_cache_invalidate(): the same without a lock, and no change."""
    return writer('invalidate', ('FLOOR',), locks=False, changes=False,
                  sweeps=True, **more)


def family(**more):
    """A change that drops by glob the keys of a family, from its index."""
    return writer('family', ('FLOOR', 'FAMILY'), locks=False, **more)


def glob_and_put(**more):
    """A glob, and then a new value for one of its keys."""
    return writer('glob+put', ('FLOOR', 'PUT'), 0, 1, sweeps=True, **more)


def family_and_set(**more):
    """A pattern over a family, and then a value for one of its keys."""
    return writer('family+set', ('FLOOR', 'FAMILY', 'REGISTER', 'PUT'),
                  locks=False, blind=True, **more)


def read(view=0, family=False, owner=0):
    return ReaderSpec(view, family, owner)


def fetch():
    """slate_cache_fetch() of a key that its family's index must know."""
    return read(ALL, family=True)


def make(bounds):
    """All scenarios, for bounds 'small' or 'large'."""
    scenarios = []
    large = bounds == 'large'

    def add(name, story, actors, faults=None, more=(), more_faults=None,
            equal=False, keeps=False, never=False, owners=1, limit=None):
        actors = list(actors) + (list(more) if large else [])
        faults = dict(faults or {})
        if large:
            faults.update(more_faults or {})
        scenarios.append(Scenario(
            name, story,
            tuple(a for a in actors if isinstance(a, WriterSpec)),
            tuple(a for a in actors if isinstance(a, ReaderSpec)),
            faults, equal, keeps, never, owners, limit))

    # One key, its writers and readers; nothing goes wrong.

    add('row', 'writers of one row, and readers of old snapshots',
        [put(aborts=True), put(), read(), read()], more=[put()])
    add('row-deleted', 'the row is deleted, and comes back',
        [put(), delete(), put(), read()], more=[read()])
    add('two-rows', 'two rows give the same key; versions may be equal',
        [put_shared(0), put_shared(1), delete(0, 0), read(0)], equal=True,
        more=[read(1)])
    add('two-tables', 'two tables give the same key, each with its order',
        [put(0, 1), put(0, 1), put(1, 2), read(0)],
        more=[read(1)], more_faults={'timeout': 1})
    add('list', 'writers who do not wait for each other, equal versions',
        [listed(aborts=True), listed(), read(ALL), read(ALL)], equal=True,
        more=[listed()])
    add('del', 'a row, and slate_cache_del() in between',
        [put(), put(), del_key(), read()],
        faults={'evict value': 1}, more=[read()])

    add('bad-value', 'a reader drops what is no JSON',
        [put(), put(), read()], faults={'bad value': 1}, more=[read()],
        more_faults={'timeout': 1})

    # Globs.

    add('family', 'keys that only an index knows, and globs over them',
        [family(), family(), fetch()], more=[fetch()],
        more_faults={'timeout': 1})
    add('family-late', 'the same, and pushes that fail or come late',
        [family(), fetch()], faults={'timeout': 1},
        more=[family(), fetch()])
    add('family-two', 'two who drop, two who fetch',
        [family(), family(), fetch(), fetch()])
    add('set', 'slate_cache_set() of a key that a glob drops',
        [set_key(), family(), fetch()], faults={'timeout': 1},
        more=[family()])
    add('family-swept', 'an index and a sweep for one glob',
        [family(sweeps=True), fetch()], faults={'timeout': 1},
        more=[family()])
    add('truncate', 'a truncated table, and a PUT that comes late',
        [put(), truncate(), read()], faults={'timeout': 1}, more=[put()])
    add('two-truncates', 'two globs that one sweep looks for',
        [put(), truncate(), truncate()], more=[read(), read()])
    add('truncate-one', 'two tables give the same key; one is truncated',
        [put(0, 1), truncate(1), read(1)],
        faults={'evict value': 1}, more=[put(1, 2)])
    add('swept-list', 'a list is swept; its DROPs have newer versions',
        [listed(), truncate(), read(ALL)], more=[listed(), read(ALL)])
    add('swept-row', 'slate_cache_invalidate() between two writers',
        [put(), put(), invalidate()], more=[read(), invalidate()])
    add('glob-and-put', 'what is put after a glob, in its transaction, stays',
        [glob_and_put()], keeps=True)
    add('glob-before-put', 'what is put after a glob, by another, stays',
        [invalidate(), put(after=0)], keeps=True)
    add('glob-put-glob', 'a glob and a PUT, and another glob, in one sweep',
        [glob_and_put(), truncate()], more=[read(), truncate()])

    # Pushes that fail, that come late, that come after their replay.

    add('late', 'pushes are taken for failed, are replayed, and arrive',
        [put(), put(), read()], faults={'timeout': 2}, more=[put()])
    add('late-list', 'the same for a list',
        [listed(), listed(), read(ALL)], faults={'timeout': 2},
        more=[read(ALL)])
    add('late-delete', 'the same for a row that is deleted',
        [put(), delete(), read()], faults={'timeout': 2}, more=[put()])
    add('expire', 'guards and the floor come to the end of their lives',
        [put(), put(), read()], faults={'timeout': 1, 'expire': 1},
        more_faults={'timeout': 2, 'expire': 2})
    add('expire-truncate', 'the same where a glob has dropped',
        [put(), truncate()], faults={'timeout': 1, 'expire': 2},
        more=[read()])
    add('expire-swept', 'a slow reader, and a sweep that passes meanwhile',
        [truncate(), read()], faults={'expire': 1},
        more=[put()], more_faults={'timeout': 1})
    add('evict-value', 'values go by their TTL or are evicted',
        [put(), put(), read(), read()], faults={'evict value': 2},
        more_faults={'timeout': 1})
    add('prepared', 'PREPARE TRANSACTION, and its end',
        [put(prepared=True, aborts=True), put(), read()],
        more=[read()], more_faults={'timeout': 1})
    add('crash', 'PostgreSQL crashes, what is in the journal is replayed',
        [put(), put(), read()], faults={'crash': 1},
        more=[read()], more_faults={'timeout': 1})
    add('crash-globs', 'the same with globs',
        [put(), truncate(after=0)], faults={'crash': 1},
        more=[read()], more_faults={'timeout': 1})
    add('full-journal', 'no row was written: the namespace is emptied instead',
        [put(unwritten=True), put(), read()], faults={'timeout': 1},
        more_faults={'timeout': 2})

    # Redis loses its memory.

    add('flush', 'FLUSHALL at any time',
        [put(), put(), read()], faults={'flush': 1},
        more_faults={'flush': 2, 'timeout': 1})
    add('flush-late', 'FLUSHALL, and pushes that come after the emptying',
        [put(), put()], faults={'flush': 1, 'timeout': 1},
        more=[read()], more_faults={'worker dies': 1})
    add('flush-list', 'FLUSHALL under a list',
        [listed(), listed(), read(ALL)], faults={'flush': 1},
        more_faults={'timeout': 1})
    add('flush-truncate', 'FLUSHALL under a glob',
        [put(), truncate()], faults={'flush': 1, 'timeout': 1}, more=[read()])
    add('flush-crash', 'FLUSHALL, and PostgreSQL crashes as well',
        [put(), put()], faults={'flush': 1, 'crash': 1}, more=[read()])
    add('restart', 'Redis restarts with an older dump',
        [put(), put(), read()], faults={'dump': 1, 'restart': 1},
        more_faults={'timeout': 1})
    add('restart-list', 'the same under a list',
        [listed(), read(ALL)], faults={'dump': 1, 'restart': 1},
        more=[listed()])
    add('move', 'another Redis at the address, and the former one lives on',
        [listed(), read(ALL)], faults={'dump': 1, 'move': 1},
        more=[listed()])
    add('move-row', 'the same for a row',
        [put(), put()], faults={'dump': 1, 'move': 1}, more=[read()])
    add('emptied', 'slate_cache_flush(), and a worker that dies meanwhile',
        [put(), put(), read()], faults={'ask': 1, 'worker dies': 1},
        more_faults={'timeout': 1})
    add('emptied-late', 'pushes of before the emptying come after newer ones',
        [put(), put(), put()], faults={'ask': 1, 'timeout': 1},
        more=[read()])
    add('late-forget', "a step of the emptying comes late, after a new epoch",
        [put(), put(), read()], faults={'ask': 1, 'late forget': 1},
        more_faults={'timeout': 1})
    add('two-databases', 'database B empties keys that A has, too',
        [put(), put()], faults={'ask': 1}, owners=2,
        more=[read()], more_faults={'timeout': 1})
    add('two-clusters', 'a key of two clusters, whose versions say nothing '
        'to each other', [put(0, 1), put(0, 1), put(0, 1),
                          put(1, 2, owner=1, ahead=50)], owners=2,
        more=[read()], more_faults={'ask': 1})
    add('two-clusters-back', 'the same, with the other cluster behind',
        [put(0, 1, ahead=50), put(0, 1, ahead=50), put(1, 2, owner=1),
         put(1, 2, owner=1)], owners=2, more=[read()], more_faults={'ask': 1})

    add('copied', 'a copy of a cluster truncates what the other has put; it '
        'is behind', [put(owner=1, ahead=50), truncate(last=True)], owners=2,
        more=[put(owner=1, ahead=50), read()], more_faults={'timeout': 1})

    add('flush-index', 'FLUSHALL between a registration and its lease',
        [family(), fetch()], faults={'flush': 1}, more=[fetch()])

    # Redis refuses to write (maxmemory), or has forgotten the scripts.

    add('refused', 'no guard is written for a push that comes late',
        [put(), put(), read()], faults={'oom': 1, 'timeout': 2},
        more=[read()])
    add('refused-list', 'the same for a list',
        [listed(), listed(), read(ALL)], faults={'oom': 1, 'timeout': 1},
        more=[read(ALL)])
    add('noscript', 'SCRIPT FLUSH before a call, and others load them again',
        [family(), family(), fetch()], faults={'noscript': 1},
        more_faults={'oom': 1})

    # Mode async.

    add('async', 'the worker pushes, and leaves out what is superseded',
        [put(ring=True), put(ring=True), put(), read()],
        faults={'worker dies': 1}, more_faults={'flush': 1})
    add('async-list', 'the same for a list; the worker dies in an exchange',
        [listed(ring=True), listed(), read(ALL)], faults={'worker dies': 1},
        more=[listed(ring=True)])
    add('async-tables', 'two tables give the same key, each with its order',
        [put(0, 1, ring=True), put(1, 2, ring=True), put(1, 2), read(0)],
        faults={'evict value': 1}, more=[put(0, 1, ring=True)])
    add('async-strict', 'with a writer in mode strict',
        [put(ring=True), put(strict=True), read()], never=True,
        faults={'worker dies': 1}, more=[put(ring=True)])

    # Mode strict.

    add('strict', 'readers who must never see anything old',
        [put(strict=True, aborts=True), put(strict=True), read(), read()],
        never=True, more_faults={'timeout': 1})
    add('strict-list', 'the same for a list',
        [listed(strict=True, aborts=True), listed(strict=True), read(ALL)],
        never=True, more=[read(ALL)])
    add('strict-late', 'pushes that fail or come late',
        [put(strict=True), put(strict=True), read()], never=True,
        faults={'timeout': 2}, more=[read()])
    add('strict-crash', 'marks that a crash leaves behind',
        [put(strict=True), put(strict=True), read()], never=True,
        faults={'crash': 1}, more_faults={'timeout': 1})
    add('strict-mixed', 'with a writer in mode commit',
        [put(strict=True), put(), read()], never=True,
        faults={'timeout': 1}, more=[put(strict=True)],
        more_faults={'timeout': 2})
    add('strict-mixed-list', 'the same for a list, equal versions',
        [listed(strict=True), listed(), read(ALL)], never=True, equal=True,
        faults={'timeout': 1}, more=[read(ALL)])
    add('strict-tables', 'two tables give the same key, each with its order',
        [put(0, 1, strict=True), put(0, 1), put(1, 2, strict=True), read(0)],
        never=True, more_faults={'timeout': 1})
    add('strict-del', 'with slate_cache_del() in between',
        [put(strict=True), put(), del_key(strict=True), read()], never=True,
        more_faults={'evict value': 1, 'timeout': 1})
    add('strict-prepared', 'PREPARE TRANSACTION; marks last until its end',
        [put(strict=True, prepared=True, aborts=True), put(), read()],
        never=True, faults={'timeout': 1}, more=[read()],
        more_faults={'crash': 1})
    add('strict-truncate', 'a glob marks all that begins as it does',
        [put(), truncate(strict=True), read()], never=True,
        faults={'timeout': 1}, more=[read()], more_faults={'expire': 1})
    add('strict-glob-put', 'a glob, and then a new value for one of its keys',
        [glob_and_put(strict=True), read()], never=True,
        faults={'timeout': 1}, more=[put()])
    add('strict-family', 'globs over keys that only an index knows',
        [family(strict=True), fetch(), fetch()], never=True,
        faults={'timeout': 1}, more=[family(strict=True)])
    add('strict-set', 'slate_cache_set() of a key that a glob drops',
        [family(strict=True), set_key(), fetch()], never=True,
        more_faults={'timeout': 1})
    add('strict-family-set', 'a family, and then a value for one of its keys',
        [family_and_set(strict=True), fetch()], never=True, keeps=True)
    add('strict-family-set-two', 'the same beside another who sets it',
        [family_and_set(strict=True), set_key(), fetch()], never=True,
        more_faults={'timeout': 1})
    add('strict-expire', 'a push of another on a guard that holds a mark',
        [put(0, 1, strict=True), put(1, 2), read(0)], never=True,
        faults={'expire': 1}, more=[put(0, 1)])
    add('strict-databases', 'a key of two databases',
        [put(0, 1, strict=True), put(1, 2, owner=1), read(0, owner=1)],
        never=True, owners=2, more=[put(1, 2, owner=1, strict=True)])
    add('strict-refused', 'Redis refuses to write a guard that holds a mark',
        [put(strict=True), put(), read()], never=True,
        faults={'oom': 1, 'timeout': 1}, more=[read()])
    add('strict-noscript', 'SCRIPT FLUSH before a push',
        [put(strict=True), put(), read()], never=True,
        faults={'noscript': 1, 'timeout': 1}, more_faults={'oom': 1})
    add('strict-emptied', 'slate_cache_flush() at any time',
        [listed(strict=True), read(ALL)], never=True,
        faults={'ask': 1, 'late forget': 1, 'worker dies': 1},
        more=[listed(strict=True)])
    add('strict-flush', 'FLUSHALL, even during the emptying that it causes',
        [listed(strict=True), read(ALL)], never=True, faults={'flush': 2},
        more=[read(ALL)], more_faults={'timeout': 1})
    add('strict-restart-empty', 'Redis restarts with nothing',
        [listed(strict=True), read(ALL)], never=True,
        faults={'restart empty': 1}, more=[listed(strict=True)])
    add('strict-move-empty', 'another Redis at the address, which is empty',
        [listed(strict=True), read(ALL)], never=True,
        faults={'move empty': 1}, more=[read(ALL)])
    add('strict-flush-row', 'FLUSHALL under two writers',
        [put(strict=True), put(), read()], never=True, faults={'flush': 1},
        more_faults={'timeout': 1})
    add('strict-flush-prepared', 'FLUSHALL under a prepared transaction',
        [put(strict=True, prepared=True), read()], never=True,
        faults={'flush': 1, 'timeout': 1}, more=[read(), put()])
    add('strict-flush-truncate', 'FLUSHALL under a glob',
        [truncate(strict=True), read()], never=True, faults={'flush': 1},
        more=[put()])
    add('strict-restart', 'Redis restarts with an older dump: right at rest',
        [listed(strict=True), read(ALL)], faults={'dump': 1, 'restart': 1},
        more=[listed(strict=True)])
    add('strict-evicted', 'a guard with marks is lost: right at rest',
        [put(strict=True), put(strict=True), read()], faults={'evict': 1},
        more_faults={'timeout': 1})

    # What it cannot do.

    add('limit-evicted', 'a guard is evicted while pushes of its key are '
        'swapped', [put(), put()], faults={'evict': 1},
        limit='one guard that is lost alone is missed by nobody')
    add('limit-noscript', 'a key is put and not registered: SCRIPT FLUSH, and '
        'others load the scripts between two of our calls',
        [family(strict=True), set_key(), fetch()], faults={'noscript': 1},
        never=True, limit='until it is replayed no glob finds it')
    add('limit-mark', 'a mark expires before its transaction commits',
        [put(strict=True), read()], faults={'expire mark': 1}, never=True,
        limit='nobody can make a commit wait for a deadline')
    add('limit-restart', 'Redis restarts with an older dump',
        [put(strict=True), read()], faults={'dump': 1, 'restart': 1},
        never=True, limit='what it holds can be read until it is emptied')
    return scenarios


# What makes it work: name, what happens without it, where that is noticed.
MECHANISMS = (
    ('version', 'a PUT does not look for a newer version', 'row'),
    ('orders', 'a PUT that finds a newer version of any order does nothing',
     'del'),
    ('orders_mixed', 'versions of two tables are compared', 'async-tables'),
    ('nonce', 'pushes leave the nonce as it is', 'row'),
    ('lease', 'a FILL does not look at its token', 'row'),
    ('lease_first', 'the snapshot is older than the lease', 'list'),
    ('fill_shared', 'a FILL leaves the order in the guard', 'truncate-one'),
    ('fill_renews', "a FILL does not renew the guard's life", 'expire-swept'),
    ('deadline', 'a PUT is never too late', 'expire'),
    ('floor', 'a PUT does not look for newer globs', 'truncate'),
    ('index', 'keys are not registered', 'family'),
    ('index_first', 'keys are registered after the lease', 'family'),
    ('members', 'what is dropped leaves the index', 'family-two'),
    ('family_mark', "strict: a family's drop takes its own mark",
     'strict-family-set'),
    ('own_nonce', 'a sweep drops what its own transaction has put',
     'glob-and-put'),
    ('differ', 'a sweep for two transactions spares what one has put',
     'glob-put-glob'),
    ('highest', 'a sweep for two transactions has the version of the older',
     'two-truncates'),
    ('spare_newer', 'a sweep drops what was put since', 'glob-before-put'),
    ('spare_values', 'a sweep spares a guard without a value, leases and all',
     'truncate-one'),
    ('spare_others', "a sweep takes another cluster's version for newer",
     'copied'),
    ('spare_ordered', 'a sweep spares all that is newer', 'swept-list'),
    ('journal', 'what has failed is not replayed', 'late'),
    ('undecided', 'a prepared transaction is replayed before its end',
     'prepared'),
    ('replay_drops', 'the replay sends the values again', 'expire'),
    ('replay_floor', 'the replay of a glob does not raise the floor',
     'truncate'),
    ('fresh_nonce', 'the replay writes the nonce of the first push', 'late'),
    ('epoch', 'a PUT does not repeat the epoch, nobody compares it', 'flush'),
    ('stamp_epoch', 'the epoch is the one known when the PUT is sent',
     'flush-late'),
    ('run_id', 'another instance of Redis is taken for the same', 'restart'),
    ('emptying', 'a new epoch begins, and nothing is emptied', 'restart-list'),
    ('void_leases', 'emptying leaves the nonces of guards', 'restart-list'),
    ('keep_guard', 'emptying removes guards', 'late-forget'),
    ('delivered', 'a reply from any Redis will do', 'move'),
    ('lease_epoch', 'a LEASE does not repeat the epoch', 'flush-index'),
    ('keep_refused', 'a guard goes if Redis refuses to write it', 'refused'),
    ('resend', 'what was done behind a missing script is sent again',
     'noscript'),
    ('sent_once', 'async: a worker sends again what its predecessor has sent',
     'async-list'),
    ('ring_order', 'async: a push is left out for one of another order',
     'async-tables'),
    ('ring_version', 'async: a push is left out for one that is older',
     'async'),
    ('mark', 'strict: no mark before the commit', 'strict'),
    ('mark_where', 'strict: a mark in any Redis will do',
     'strict-move-empty'),
    ('mark_voids', 'strict: a mark leaves leases as they are', 'strict'),
    ('lease_marks', 'strict: a lease in spite of marks', 'strict'),
    ('other_marks', 'strict: a PUT in spite of the marks of others', 'strict'),
    ('own_mark', 'strict: a PUT without its mark', 'strict-evicted'),
    ('other_stay', 'strict: a push takes the marks of others away',
     'strict-expire'),
    ('mark_life', 'strict: a push shortens the life of marks',
     'strict-expire'),
    ('count', 'strict: marks are released though a push was refused',
     'strict-refused'),
    ('resolve', 'strict: nobody takes away marks that were left',
     'strict-crash'),
    ('under_way', 'strict: the worker takes away marks of who is under way',
     'strict'),
    ('busy', 'strict: and of who is about to push', 'strict-mixed'),
    ('in_doubt', 'strict: and of who is in doubt', 'strict-mixed'),
    ('mark_beginning', 'strict: a glob marks no beginning',
     'strict-truncate'),
    ('lease_covered', 'strict: a lease in spite of a marked beginning',
     'strict-truncate'),
    ('put_covered', 'strict: a PUT in spite of a marked beginning',
     'strict-truncate'),
    ('mark_walk', 'strict: a glob leaves what no index knows',
     'strict-truncate'),
    ('mark_family', 'strict: a glob leaves what its index holds',
     'strict-family'),
    ('beginning_first', 'strict: a glob drops first and marks then',
     'strict-family'),
    ('forget_marks', 'strict: emptying removes marks', 'strict-emptied'),
    ('remark', 'strict: after FLUSHALL nobody marks again', 'strict-flush'),
    ('remark_first', 'strict: the worker marks again in the new epoch',
     'strict-flush'),
    ('remark_all', 'strict: it does so for prepared transactions alone',
     'strict-flush'),
    ('tell_checks', 'strict: FLUSHALL during an emptying is not noticed',
     'strict-flush'),
)
