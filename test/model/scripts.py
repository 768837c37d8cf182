"""What Redis does: each script of src/script.c as a function on one key K.

A function here is one Lua script, and so one atomic step.  It takes what Redis
holds and gives what it holds afterwards (and an answer, where one is used).
The branches are those of the Lua, in its order; compare them line by line.

A Redis holds of K, and around it:

    value   None, or (view, content): whose changes it shows, see world.py
    guard   None, or a Guard
    member  is K in its family's index?
    floor   None, or (version, stamped): the newest glob over K; see below
    epochs  one number an owner (a database of a cluster); 0 for none

Time is not counted.  A guard and the floor remember instead which writers had
their version when they were last touched (stamped), and a guard also which had
when its version was raised: when it expires, or its version lapses, more than
a guard's life has passed since, and so the PUTs of all of these are late.
A walk over the keyspace is shorter than a guard's life: while there is one,
only what was last touched before it (aged) expires.

off is a set of mechanisms that are switched off, see scenarios.py.

MARK and UNMARK, and what PUT and LEASE do about marks, are planned for mode
strict; there is no Lua for them yet.  conform.py compares the rest with Redis.
"""
from collections import namedtuple

Guard = namedtuple('Guard', 'top order nonce whose raised stamped aged marks')
Redis = namedtuple('Redis', 'value guard member floor epochs')

SHARED = 0          # the order of a push that has none
NOBODY = -1         # whose version that of a mere lease is
LAPSED = -1         # the version was raised so long ago that it does not count


def empty(owners=1):
    return Redis(None, None, False, None, (0,) * owners)


def new_guard(nonce, stamped):
    return Guard(0, SHARED, nonce, NOBODY, LAPSED, stamped, False, 0)


def touched(guard, stamped, **fields):
    """Its life begins anew."""
    return guard._replace(stamped=stamped, aged=False, **fields)


class Call:
    """The arguments of a push: KEYS and ARGV, and what the clock says."""
    __slots__ = ('me', 'version', 'nonce', 'order', 'owner', 'epoch', 'late',
                 'strict', 'value', 'stamped')

    def __init__(self, **given):
        self.me = 0             # as a bit; 0 for who has no marks
        self.order = SHARED
        self.owner = 0
        self.epoch = None       # None: the epoch is not looked at
        self.late = False       # the deadline has passed
        self.strict = False
        self.value = None
        for name, value in given.items():
            setattr(self, name, value)


def newest(guard, call):
    """The version and order that the guard will have; is ours older?"""
    if guard and guard.raised != LAPSED and guard.top > call.version:
        return guard.top, guard.order, True
    return call.version, call.order, False


def note(redis, call, top, order, value, off):
    """Write the guard, and the value.  A push takes its own mark away."""
    old = redis.guard
    nonce = old.nonce if old and 'nonce' in off else call.nonce
    whose, raised = call.owner, call.stamped
    if top != call.version:
        whose, raised = old.whose, old.raised
    marks = old.marks & ~call.me if old else 0
    return Redis(value, Guard(top, order, nonce, whose, raised, call.stamped,
                              False, marks),
                 redis.member, redis.floor, redis.epochs)


def drop(redis, call, off):
    top, order, _ = newest(redis.guard, call)
    return note(redis, call, top, order, None, off)


def put(redis, call, off):
    guard = redis.guard
    marks = guard.marks if guard else 0
    if (call.epoch is not None and call.epoch != redis.epochs[call.owner]
            and 'epoch' not in off):
        return drop(redis, call, off)
    if call.late and 'deadline' not in off:
        return drop(redis, call, off)
    if call.strict and not marks & call.me and 'own_mark' not in off:
        return drop(redis, call, off)
    top, order, older = newest(guard, call)
    if 'version' in off:
        top, order, older = call.version, call.order, False
    if older and (order == call.order != SHARED or 'orders' in off):
        return redis._replace(guard=touched(
            guard, call.stamped, marks=marks & ~call.me))
    below = (redis.floor and redis.floor[0] > call.version
             and 'floor' not in off)
    if older or below or (marks & ~call.me and 'other_marks' not in off):
        return drop(redis, call, off)
    return note(redis, call, top, order, call.value, off)


def set_floor(redis, call):
    known = redis.floor[0] if redis.floor else 0
    return redis._replace(floor=(max(known, call.version), call.stamped))


def drop_family(redis, call, off):
    """The index's members stay: one may be registered and not leased yet."""
    if not redis.member:
        return redis
    redis = drop(redis, call, off)
    return redis._replace(member=False) if 'members' in off else redis


def drop_swept(redis, call, own_nonce, off):
    """own_nonce: None if the globs are of several transactions.

    Only a value is spared.  A guard without one may have been leased.
    """
    guard = redis.guard
    newer = guard and guard.top > call.version and (
        guard.order != SHARED or 'spare_ordered' in off) and (
        guard.whose == call.owner or 'spare_others' in off)
    own = guard and own_nonce is not None and guard.nonce == own_nonce
    if 'spare_newer' in off:
        newer = False
    if 'own_nonce' in off:
        own = False
    if redis.value is None and 'spare_values' not in off:
        newer = own = False
    return redis if newer or own else drop(redis, call, off)


def register(redis):
    return redis._replace(member=True)


def lease(redis, nonce, stamped, off):
    """The token, or None: there is a value, or a write is under way."""
    guard = redis.guard
    if redis.value is not None:
        return redis, None
    if guard and guard.marks and 'lease_marks' not in off:
        return redis, None
    if guard:
        guard = touched(guard, stamped)
    else:
        guard = new_guard(nonce, stamped)
    return redis._replace(guard=guard), guard.nonce


def fill(redis, token, value, stamped, off):
    """None: refused."""
    guard = redis.guard
    if not (guard and guard.nonce == token) and 'lease' not in off:
        return None
    if guard and guard.order != SHARED and 'fill_shared' not in off:
        guard = touched(guard, stamped, order=SHARED)
    elif guard and 'fill_renews' not in off:
        guard = touched(guard, stamped)
    return redis._replace(value=value, guard=guard)


def forget(redis, nonce, stamped, off):
    """A key of a namespace that is emptied: a DROP without a version."""
    guard = redis.guard
    if guard and 'keep_guard' in off:
        guard = None
    elif guard and 'void_leases' not in off:
        guard = touched(guard, stamped, nonce=nonce)
    return redis._replace(value=None, guard=guard)


def mark(redis, me, nonce, stamped, off):
    guard = redis.guard or new_guard(nonce, stamped)
    if 'mark_nonce' not in off:
        guard = guard._replace(nonce=nonce)
    return redis._replace(value=None, guard=touched(
        guard, stamped, marks=guard.marks | me))


def unmark(redis, me, nonce):
    if redis.guard is None:
        return redis
    return redis._replace(guard=redis.guard._replace(
        nonce=nonce, marks=redis.guard.marks & ~me))
