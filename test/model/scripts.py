"""What Redis does: each script of src/lua.c as a function on one key K.

A function here is one Lua script, and so one atomic step.  It takes what Redis
holds and gives what it holds afterwards (and an answer, where one is used).
The branches are those of the Lua, in its order; compare them line by line.

A Redis holds of K, and around it:

    value   None, or (view, content): whose changes it shows, see world.py
    guard   None, or a Guard
    member  is K in its family's index?
    floor   None, or (version, stamped): the newest glob over K; see below
    epochs  one number an owner (a database of a cluster); 0 for none
    ids     whose marks stand, as bits: the fields of slate_cache:marks:<owner>
    marked  who has marked a beginning of K, as bits: slate_cache:marked
    counts  eight bits a writer: how many of its calls have succeeded

Time is not counted.  A guard and the floor remember instead which writers had
their version when they were last touched (stamped), and a guard also which had
when its version was raised: when it expires, or its version lapses, more than
a guard's life has passed since, and so the PUTs of all of these are late.
A walk over the keyspace is shorter than a guard's life, or done once more (see
src/sweep.c): while there is one, only what was last touched before it (aged)
expires.

A guard that holds marks, or that Redis has refused to write again (maxmemory),
lives for two days (long), longer than anything here takes.  Such a guard holds
no lease.

off is a set of mechanisms that are switched off, see scenarios.py.
"""
from collections import namedtuple

Guard = namedtuple(
    'Guard', 'top order nonce whose raised stamped aged marks long')
Redis = namedtuple(
    'Redis', 'value guard member floor epochs ids marked counts')

SHARED = 0          # the order of a push that has none
NOBODY = -1         # whose version that of a mere lease is
LAPSED = -1         # the version was raised so long ago that it does not count


def empty(owners=1):
    return Redis(None, None, False, None, (0,) * owners, 0, 0, 0)


def new_guard(nonce, stamped):
    return Guard(0, SHARED, nonce, NOBODY, LAPSED, stamped, False, 0,
                 False)


def touched(guard, stamped, **fields):
    """Its life begins anew."""
    return guard._replace(stamped=stamped, aged=False, long=False, **fields)


# ---------------------------------------------------------------------- marks

def standing(redis):
    """The marks on K's guard that stand."""
    if redis.guard is None:
        return 0
    return redis.guard.marks & redis.ids


def covered(redis, me):
    """Has another marked a beginning of K?"""
    return redis.marked & redis.ids & ~me


def mark(redis, me, nonce, stamped, off):
    guard = redis.guard
    marks = standing(redis) | me
    if guard is None:
        guard = new_guard(nonce, stamped)
    elif 'mark_voids' not in off:
        guard = guard._replace(nonce=nonce)
    return redis._replace(value=None, ids=redis.ids | me, guard=touched(
        guard, stamped, marks=marks)._replace(long=True))


def mark_beginning(redis, me, off):
    if 'mark_beginning' in off:
        return redis._replace(ids=redis.ids | me)
    return redis._replace(ids=redis.ids | me, marked=redis.marked | me)


def release(redis, me, calls):
    """If so many calls have succeeded; -1: in any case."""
    place = 8 * (me.bit_length() - 1)
    if calls >= 0 and (redis.counts >> place & 255) < calls:
        return redis
    return redis._replace(ids=redis.ids & ~me, marked=redis.marked & ~me,
                          counts=redis.counts & ~(255 << place))


def counted(redis, call):
    """A strict writer's call has succeeded, says the last thing it does."""
    if call.refused or not redis.ids & call.me:
        return redis
    return redis._replace(
        counts=redis.counts + (1 << 8 * (call.me.bit_length() - 1)))


# --------------------------------------------------------------------- pushes

class Call:
    """The arguments of a push: KEYS and ARGV, and what the clock says."""
    __slots__ = ('me', 'version', 'nonce', 'order', 'owner', 'epoch', 'late',
                 'value', 'stamped', 'refused')

    def __init__(self, **given):
        self.me = 0             # whose mark is mine, as a bit; 0: none
        self.order = SHARED
        self.owner = 0
        self.epoch = None       # None: the epoch is not looked at
        self.late = False       # the deadline has passed
        self.value = None
        self.refused = False    # Redis writes no guard for it (maxmemory)
        for name, value in given.items():
            setattr(self, name, value)


def newest(guard, call):
    """The version and order that the guard will have; is ours older?"""
    if guard and guard.raised != LAPSED and guard.top > call.version:
        return guard.top, guard.order, True
    return call.version, call.order, False


def note(redis, call, top, order, value, off, keeps_mine=False):
    """Write the guard, and the value.  A push takes its own mark away."""
    old = redis.guard
    stand = standing(redis)
    others = stand if keeps_mine else stand & ~call.me
    if call.refused:
        if old and 'keep_refused' not in off:
            old = touched(old, call.stamped)._replace(long=True)
        else:
            old = None
        return redis._replace(value=None, guard=old)
    nonce = old.nonce if old and 'nonce' in off else call.nonce
    whose, raised = call.owner, call.stamped
    if top != call.version:
        whose, raised = old.whose, old.raised
    if 'other_stay' in off:
        others = 0
    return redis._replace(value=value, guard=Guard(
        top, order, nonce, whose, raised, call.stamped, False, others,
        others != 0 and 'mark_life' not in off))


def drop(redis, call, off, keeps_mine=False):
    top, order, _ = newest(redis.guard, call)
    return note(redis, call, top, order, None, off, keeps_mine)


def put(redis, call, off):
    guard = redis.guard
    if (call.epoch is not None and call.epoch != redis.epochs[call.owner]
            and 'epoch' not in off):
        return drop(redis, call, off)
    if call.late and 'deadline' not in off:
        return drop(redis, call, off)
    top, order, older = newest(guard, call)
    stand = standing(redis)
    if 'version' in off:
        top, order, older = call.version, call.order, False
    if older and (order == call.order != SHARED or 'orders' in off or
                  'orders_mixed' in off and SHARED not in (order, call.order)):
        if guard.long:
            return note(redis, call, top, order, redis.value, off)
        return redis._replace(guard=touched(guard, call.stamped))
    if older or (redis.floor and redis.floor[0] > call.version and
                 'floor' not in off):
        return drop(redis, call, off)
    if stand & ~call.me and 'other_marks' not in off:
        return drop(redis, call, off)
    if call.me and not stand & call.me and 'own_mark' not in off:
        return drop(redis, call, off)
    if covered(redis, call.me) and 'put_covered' not in off:
        return drop(redis, call, off)
    return note(redis, call, top, order, call.value, off)


def set_floor(redis, call):
    known = redis.floor[0] if redis.floor else 0
    return redis._replace(floor=(max(known, call.version), call.stamped))


def drop_family(redis, call, off):
    """The index's members stay: one may be registered and not leased yet.

    So does the own mark: the same transaction may put one next.
    """
    if not redis.member:
        return redis
    redis = drop(redis, call, off, 'family_mark' not in off)
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


def lease(redis, nonce, owner, epoch, stamped, off):
    """The token, or None: there is a value, or no lease to be had."""
    guard = redis.guard
    if redis.value is not None:
        return redis, None
    if (epoch is not None and epoch != redis.epochs[owner] and
            'lease_epoch' not in off):
        return redis, None
    if covered(redis, 0) and 'lease_covered' not in off:
        return redis, None
    if guard is None:
        guard = new_guard(nonce, stamped)
    elif guard.long:
        if standing(redis) and 'lease_marks' not in off:
            return redis, None
        guard = touched(guard, stamped, nonce=nonce, marks=0)
    else:
        guard = touched(guard, stamped)
    return redis._replace(guard=guard), guard.nonce


def fill(redis, token, value, stamped, off):
    """None: refused."""
    guard = redis.guard
    void = guard and guard.long and 'mark_voids' not in off
    if (not guard or guard.nonce != token or void) and 'lease' not in off:
        return None
    if guard and guard.order != SHARED and 'fill_shared' not in off:
        guard = touched(guard, stamped, order=SHARED, marks=0)
    elif guard and 'fill_renews' not in off:
        guard = touched(guard, stamped)
    return redis._replace(value=value, guard=guard)


def forget(redis, nonce, stamped, off):
    """A key of a namespace that is emptied: a DROP without a version."""
    guard = redis.guard
    if guard and 'keep_guard' in off:
        guard = None
    elif guard and 'void_leases' not in off:
        guard = touched(guard, stamped, nonce=nonce)._replace(
            long=guard.marks != 0)
        if 'forget_marks' in off:
            guard = guard._replace(marks=0, long=False)
    return redis._replace(value=None, guard=guard)
