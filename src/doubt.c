/*-------------------------------------------------------------------------
 *
 * doubt.c
 *	  Which committed transactions Redis may not have heard of.
 *
 * SLOTS
 *
 * Each backend has a slot.  "busy" says which generations of the journal it
 * may be writing to, or may have written to without knowing yet what became of
 * it. A few entries hold transactions that Redis may not have heard of; the
 * worker of their database takes them away.  An entry is written by its slot's
 * backend while its xid is 0, and then belongs to that worker until it is 0
 * again.  Workers of other databases look at it, too, and at what comes there
 * next; so who takes one away has seen its database between two looks at its xid,
 * which never comes twice.  If all are taken (the worker is away, or slow) the
 * database notes the least and the greatest transaction that found no entry, and
 * all between them are in doubt.  So nothing here waits for anybody, and all of
 * it may happen after a commit.
 *
 * GENERATIONS
 *
 * The worker flips the current generation and truncates the other one, if
 * nobody uses it.  A backend reads the current one, says that it is busy
 * there, and reads it again, with a full barrier in between; the worker writes
 * it and reads who is busy, likewise.  So one of them sees the other.  A
 * backend leaves an entry before it stops being busy; the worker reads who is
 * busy before it reads the entries.  Transactions that are going to be
 * prepared, and may stay so for days, write to a generation of their own,
 * which is always current; it is truncated under a lock that excludes writers,
 * when nobody uses it.
 *
 * SETS
 *
 * What the worker has taken over is in "fresh", as ranges of transactions;
 * when a set is full the two ranges that are closest become one, which costs
 * some keys their place in the cache, but loses nothing.  A pass over the
 * journal works on "active", which is what was fresh when it began; so it can
 * go on after a failure, and its successor after its death.  Transactions that
 * are not decided yet, prepared ones above all, stand aside.
 *
 * There is room for some of those.  The rest is a crowd: the worker has it in
 * its own memory, and in shared memory is what range it is in.  Not everything
 * in that range is in doubt; but a worker that takes over knows no better, and
 * has a pass sort out who of them is decided and who is not.
 *
 * Locks: the sets are written by the worker alone, under the lock of the
 * registry, for the sake of those who look.  The worker itself reads them
 * without it.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/transam.h"
#include "doubt.h"
#include "link.h"
#include "ring.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#define ENTRIES_PER_SLOT 4

/* How often to look whether those of the crowd are decided. */
#define CROWD_MS 2000

/* All generations: what to take where it is not known. */
#define ANYWHERE ((1 << SLATE_GENERATIONS) - 1)

typedef struct Entry
{
	pg_atomic_uint64 xid;		/* 0: free */
	Oid			database;
	uint32		generations;
	SlateDoubtKind kind;
} Entry;

typedef struct Slot
{
	pg_atomic_uint32 busy;		/* generations, as bits */
	pg_atomic_uint32 database;
	pg_atomic_uint64 marking;	/* has marks, and has not left yet; 0: none */
	Entry		entries[ENTRIES_PER_SLOT];

	/* what each commit writes is in no cache line of another backend's */
	char		pad[PG_CACHE_LINE_SIZE - 16 - ENTRIES_PER_SLOT * sizeof(Entry)];
} Slot;

StaticAssertDecl(sizeof(Slot) == PG_CACHE_LINE_SIZE,
				 "a backend's slot is a cache line");

static Slot *slots = NULL;

/* What this backend is in the middle of. */
static struct
{
	SlateDatabase *database;	/* NULL: nothing */
	uint32		generations;
	uint64		xid;			/* 0: it has no rows */
	bool		no_row;			/* the journal is full */
	bool		prepared;
}			mine;

/* In the worker: undecided transactions, by xid, that found no place. */
static HTAB *crowd = NULL;

Size
slate_doubt_shmem_size(void)
{
	return mul_size(MaxBackends, sizeof(Slot));
}

void
slate_doubt_shmem_startup(void)
{
	bool		found;

	slots = ShmemInitStruct("slate_cache slots", slate_doubt_shmem_size(),
							&found);
	if (found)
		return;
	for (int i = 0; i < MaxBackends; i++)
	{
		pg_atomic_init_u32(&slots[i].busy, 0);
		pg_atomic_init_u32(&slots[i].database, InvalidOid);
		pg_atomic_init_u64(&slots[i].marking, 0);
		for (int j = 0; j < ENTRIES_PER_SLOT; j++)
			pg_atomic_init_u64(&slots[i].entries[j].xid, 0);
	}
}

static Slot *
my_slot(void)
{
	return &slots[compat_my_proc_number()];
}

/* ------------------------------------------------------------------------
 * Backends
 * ------------------------------------------------------------------------
 */

/* Is the journal so full that transactions write no more rows? */
static bool
is_full(SlateDatabase *database)
{
	return pg_atomic_read_u32(&database->full) == SLATE_JOURNAL_FULL;
}

static void
become_busy(SlateDatabase *database, uint32 generations)
{
	Slot	   *slot = my_slot();

	pg_atomic_write_u32(&slot->database, MyDatabaseId);
	pg_write_barrier();
	pg_atomic_write_u32(&slot->busy, generations);
	pg_memory_barrier();
	mine.database = database;
	mine.generations = generations;
	mine.xid = 0;
	mine.prepared = false;
}

int
slate_doubt_enter(SlateDatabase *database, bool may_have_none, bool *no_row)
{
	for (;;)
	{
		int			generation = pg_atomic_read_u32(&database->current);

		mine.no_row = *no_row = may_have_none && is_full(database);

		/* who has no row relies on that of another, wherever that is */
		become_busy(database, *no_row ? ANYWHERE : 1 << generation);
		if (*no_row ? is_full(database)
			: generation == pg_atomic_read_u32(&database->current))
			return generation;
	}
}

void
slate_doubt_enter_prepared(SlateDatabase *database)
{
	mine.no_row = false;
	become_busy(database, 1 << SLATE_PREPARED_GENERATION);
}

SlateDatabase *
slate_doubt_entered(void)
{
	return mine.database;
}

void
slate_doubt_written(uint64 xid)
{
	mine.xid = xid;
}

uint32
slate_doubt_generations(void)
{
	return mine.database && mine.xid != 0 ? mine.generations : 0;
}

/*
 * The greatest first, with a full barrier in between: who takes the least away,
 * and reads the greatest then, has either ours, or leaves us to note the least
 * again.  The greatest stays: the next one is greater still.
 */
static void
note_overflow(SlateDatabase *database, SlateDoubtKind kind, uint64 xid)
{
	pg_atomic_uint64 *from = &database->overflow_from[kind];
	pg_atomic_uint64 *to = &database->overflow_to[kind];
	uint64		known = pg_atomic_read_u64(to);

	while (known < xid)
	{
		if (pg_atomic_compare_exchange_u64(to, &known, xid))
			break;
	}
	pg_memory_barrier();
	known = pg_atomic_read_u64(from);
	while (known == 0 || known > xid)
	{
		if (pg_atomic_compare_exchange_u64(from, &known, xid))
			break;
	}
}

/* My transaction is in doubt. */
static void
leave_behind(SlateDoubtKind kind)
{
	Slot	   *slot = my_slot();

	for (int i = 0; i < ENTRIES_PER_SLOT; i++)
	{
		Entry	   *entry = &slot->entries[i];

		if (pg_atomic_read_u64(&entry->xid) != 0)
			continue;
		entry->database = MyDatabaseId;
		entry->generations = mine.generations;
		entry->kind = kind;
		pg_write_barrier();
		pg_atomic_write_u64(&entry->xid, mine.xid);
		return;
	}
	note_overflow(mine.database, kind, mine.xid);
}

void
slate_doubt_begin_marking(uint64 xid)
{
	pg_atomic_write_u64(&my_slot()->marking, xid);
}

void
slate_doubt_end_marking(void)
{
	/* after what it has left behind */
	pg_write_barrier();
	pg_atomic_write_u64(&my_slot()->marking, 0);
}

bool
slate_doubt_is_marking(uint64 xid)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		if (pg_atomic_read_u64(&slots[i].marking) == xid)
			return true;
	}
	pg_read_barrier();
	return false;
}

void
slate_doubt_prepared(void)
{
	leave_behind(DOUBT_ALL);
	mine.prepared = true;
}

bool
slate_doubt_leave(SlateLeaving kind)
{
	SlateDatabase *database = mine.database;

	if (database == NULL)
		return false;
	if (kind != LEAVE_DELIVERED)
	{
		if (mine.no_row)
			pg_atomic_write_u32(&database->must_empty, 1);
		else
			leave_behind(kind == LEAVE_FAILED ? DOUBT_ALL : DOUBT_PATTERNS);
	}

	/* whoever sees that we are gone sees what we have left */
	pg_write_barrier();
	pg_atomic_write_u32(&my_slot()->busy, 0);
	mine.database = NULL;
	if (kind != LEAVE_DELIVERED || mine.prepared)
		slate_database_wake(database);
	return true;
}

/* ------------------------------------------------------------------------
 * The worker
 * ------------------------------------------------------------------------
 */

static bool
is_under_way(uint64 xid)
{
	return TransactionIdIsInProgress(XidFromFullTransactionId(FullTransactionIdFromU64(xid)));
}

static bool
is_within(const SlateRange *range, uint64 xid)
{
	return range->last != 0 && range->first <= xid && xid <= range->last;
}

static void
extend(SlateRange *range, uint64 xid, uint32 generations)
{
	if (range->last == 0)
		range->first = xid;
	range->first = Min(range->first, xid);
	range->last = Max(range->last, xid);
	range->generations |= generations;
}

static bool
is_in_crowd(uint64 xid)
{
	return crowd && hash_search(crowd, &xid, HASH_FIND, NULL) != NULL;
}

static HTAB *
make_crowd(void)
{
	HASHCTL		control = {
		.keysize = sizeof(uint64),
		.entrysize = sizeof(SlateUndecided),
		.hcxt = TopMemoryContext
	};

	return hash_create("slate_cache undecided transactions",
					   SLATE_MAX_UNDECIDED, &control,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Under the lock. */
static void
join_crowd(SlateDatabase *database, uint64 xid, uint32 generations)
{
	SlateUndecided *member;
	bool		found;

	/* first: if there is no memory, that is for our successor */
	extend(&database->crowd, xid, generations);
	if (crowd == NULL)
		crowd = make_crowd();
	member = hash_search(crowd, &xid, HASH_ENTER, &found);
	if (!found)
		member->generations = 0;
	member->generations |= generations;
}

/* Under the lock. */
static void
add_undecided(SlateDatabase *database, uint64 xid, uint32 generations)
{
	for (int i = 0; i < database->nundecided; i++)
	{
		if (database->undecided[i].xid != xid)
			continue;
		database->undecided[i].generations |= generations;
		return;
	}
	if (database->nundecided == SLATE_MAX_UNDECIDED || is_in_crowd(xid))
	{
		join_crowd(database, xid, generations);
		return;
	}
	database->undecided[database->nundecided].xid = xid;
	database->undecided[database->nundecided++].generations = generations;
}

void
slate_doubt_take_over(SlateDatabase *database)
{
	LWLockAcquire(slate_database_lock(), LW_EXCLUSIVE);
	if (database->crowd.last != 0)
		slate_ranges_add(&database->fresh[DOUBT_ALL], &database->crowd);
	memset(&database->crowd, 0, sizeof(database->crowd));
	LWLockRelease(slate_database_lock());
}

static void
collect_entry(SlateDatabase *database, Entry *entry)
{
	uint64		xid = pg_atomic_read_u64(&entry->xid);

	if (xid == 0)
		return;
	pg_read_barrier();
	if (entry->database != pg_atomic_read_u32(&database->oid))
		return;

	/* another database's worker may have taken it away, and ours come since */
	pg_read_barrier();
	if (pg_atomic_read_u64(&entry->xid) != xid)
		return;
	LWLockAcquire(slate_database_lock(), LW_EXCLUSIVE);
	if (entry->kind == DOUBT_ALL && is_under_way(xid))
		add_undecided(database, xid, entry->generations);
	else
		slate_ranges_add_one(&database->fresh[entry->kind], xid,
							 entry->generations);
	LWLockRelease(slate_database_lock());
	pg_memory_barrier();
	pg_atomic_write_u64(&entry->xid, 0);
}

void
slate_doubt_collect(SlateDatabase *database)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		for (int j = 0; j < ENTRIES_PER_SLOT; j++)
			collect_entry(database, &slots[i].entries[j]);
	}
	for (int kind = 0; kind < SLATE_DOUBT_KINDS; kind++)
	{
		uint64		from = pg_atomic_read_u64(&database->overflow_from[kind]);
		SlateRange	range = {.generations = ANYWHERE};

		if (from == 0)
			continue;

		/* whoever finds no entry later notes himself again */
		LWLockAcquire(slate_database_lock(), LW_EXCLUSIVE);
		range.first = pg_atomic_exchange_u64(&database->overflow_from[kind], 0);
		range.last = pg_atomic_read_u64(&database->overflow_to[kind]);
		if (range.first != 0)
			slate_ranges_add(&database->fresh[kind], &range);
		LWLockRelease(slate_database_lock());
	}
}

/* Does it leave the crowd: is it decided, if that is asked, or a place free? */
static bool
leaves_crowd(SlateDatabase *database, const SlateUndecided *member, bool look)
{
	bool		is_decided = look && !is_under_way(member->xid);

	if (!is_decided && database->nundecided == SLATE_MAX_UNDECIDED)
		return false;
	LWLockAcquire(slate_database_lock(), LW_EXCLUSIVE);
	if (is_decided)
		slate_ranges_add_one(&database->fresh[DOUBT_ALL], member->xid,
							 member->generations);
	else
		database->undecided[database->nundecided++] = *member;
	LWLockRelease(slate_database_lock());
	return true;
}

/* Thousands are not looked at in each round. */
static void
decide_crowd(SlateDatabase *database)
{
	static int64 next_look = 0;
	bool		look = slate_link_now() >= next_look;
	SlateRange	left = {0};
	HASH_SEQ_STATUS scan;
	SlateUndecided *member;

	if (crowd == NULL || hash_get_num_entries(crowd) == 0 ||
		(!look && database->nundecided == SLATE_MAX_UNDECIDED))
		return;
	hash_seq_init(&scan, crowd);
	while ((member = hash_seq_search(&scan)) != NULL)
	{
		if (leaves_crowd(database, member, look))
			(void) hash_search(crowd, &member->xid, HASH_REMOVE, NULL);
		else
			extend(&left, member->xid, member->generations);
	}

	/* whoever has left is in doubt or has a place by now */
	LWLockAcquire(slate_database_lock(), LW_EXCLUSIVE);
	database->crowd = left;
	LWLockRelease(slate_database_lock());
	if (look)
		next_look = slate_link_now() + CROWD_MS;
}

int
slate_doubt_decide(SlateDatabase *database)
{
	for (int i = database->nundecided - 1; i >= 0; i--)
	{
		SlateUndecided *undecided = &database->undecided[i];

		if (is_under_way(undecided->xid))
			continue;
		LWLockAcquire(slate_database_lock(), LW_EXCLUSIVE);
		slate_ranges_add_one(&database->fresh[DOUBT_ALL], undecided->xid,
							 undecided->generations);
		*undecided = database->undecided[--database->nundecided];
		LWLockRelease(slate_database_lock());
	}
	decide_crowd(database);
	return database->nundecided;
}

void
slate_doubt_add(SlateDatabase *database, SlateDoubtKind kind, uint64 xid,
				uint32 generations)
{
	LWLockAcquire(slate_database_lock(), LW_EXCLUSIVE);
	slate_ranges_add_one(&database->fresh[kind], xid, generations);
	LWLockRelease(slate_database_lock());
}

static bool
is_empty(const SlateRanges *sets)
{
	return sets[DOUBT_ALL].count == 0 && sets[DOUBT_PATTERNS].count == 0;
}

bool
slate_doubt_begin_pass(SlateDatabase *database)
{
	if (!is_empty(database->active))
		return true;
	if (is_empty(database->fresh))
		return false;
	LWLockAcquire(slate_database_lock(), LW_EXCLUSIVE);
	for (int kind = 0; kind < SLATE_DOUBT_KINDS; kind++)
	{
		database->active[kind] = database->fresh[kind];
		database->fresh[kind].count = 0;
	}
	LWLockRelease(slate_database_lock());
	return true;
}

void
slate_doubt_add_undecided(SlateDatabase *database, uint64 xid, int generation)
{
	LWLockAcquire(slate_database_lock(), LW_EXCLUSIVE);
	add_undecided(database, xid, 1 << generation);
	LWLockRelease(slate_database_lock());
}

void
slate_doubt_end_pass(SlateDatabase *database)
{
	LWLockAcquire(slate_database_lock(), LW_EXCLUSIVE);
	for (int kind = 0; kind < SLATE_DOUBT_KINDS; kind++)
		database->active[kind].count = 0;
	LWLockRelease(slate_database_lock());
	pg_atomic_fetch_add_u32(&database->passes, 1);
}

void
slate_doubt_repeat_pass(SlateDatabase *database)
{
	LWLockAcquire(slate_database_lock(), LW_EXCLUSIVE);
	for (int kind = 0; kind < SLATE_DOUBT_KINDS; kind++)
	{
		SlateRanges *fresh = &database->fresh[kind];

		for (int i = 0; i < fresh->count; i++)
			slate_ranges_add(&database->active[kind], &fresh->ranges[i]);
		fresh->count = 0;
	}
	LWLockRelease(slate_database_lock());
}

void
slate_doubt_forget(SlateDatabase *database)
{
	LWLockAcquire(slate_database_lock(), LW_EXCLUSIVE);
	for (int kind = 0; kind < SLATE_DOUBT_KINDS; kind++)
		database->fresh[kind].count = 0;
	database->nundecided = 0;
	memset(&database->crowd, 0, sizeof(database->crowd));
	LWLockRelease(slate_database_lock());
	slate_doubt_end_pass(database);
}

void
slate_doubt_forget_database(Oid oid)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		for (int j = 0; j < ENTRIES_PER_SLOT; j++)
		{
			Entry	   *entry = &slots[i].entries[j];

			if (pg_atomic_read_u64(&entry->xid) == 0)
				continue;
			pg_read_barrier();
			if (entry->database == oid)
				pg_atomic_write_u64(&entry->xid, 0);
		}
	}
}

static bool
is_busy(SlateDatabase *database, uint32 generations)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		if ((pg_atomic_read_u32(&slots[i].busy) & generations) == 0)
			continue;
		pg_read_barrier();
		if (pg_atomic_read_u32(&slots[i].database) ==
			pg_atomic_read_u32(&database->oid))
			return true;
	}
	return false;
}

bool
slate_doubt_uses(SlateDatabase *database, int generation)
{
	uint32		generations = 1 << generation;

	/* who was busy is in the ring by now, or has left an entry */
	pg_memory_barrier();
	if (is_busy(database, generations))
		return true;
	pg_read_barrier();

	/* the row "everything" of one that was told stands for others, too */
	if (generation != SLATE_PREPARED_GENERATION &&
		pg_atomic_read_u32(&database->must_empty) != 0)
		return true;
	if (slate_ring_uses(database, generations))
		return true;
	slate_doubt_collect(database);
	for (int kind = 0; kind < SLATE_DOUBT_KINDS; kind++)
	{
		if (slate_ranges_use(&database->fresh[kind], generations) ||
			slate_ranges_use(&database->active[kind], generations))
			return true;
	}
	for (int i = 0; i < database->nundecided; i++)
	{
		if (database->undecided[i].generations & generations)
			return true;
	}
	return (database->crowd.generations & generations) != 0;
}

/* ------------------------------------------------------------------------
 * Anybody who looks
 * ------------------------------------------------------------------------
 */

static void
copy_entries(SlateDatabase *database, SlateDoubtCopy *copy)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		for (int j = 0; j < ENTRIES_PER_SLOT; j++)
		{
			Entry	   *entry = &slots[i].entries[j];
			uint64		xid = pg_atomic_read_u64(&entry->xid);

			if (xid == 0)
				continue;
			pg_read_barrier();
			if (entry->database == pg_atomic_read_u32(&database->oid))
				slate_ranges_add_one(&copy->left[entry->kind], xid, ANYWHERE);
		}
	}
	for (int kind = 0; kind < SLATE_DOUBT_KINDS; kind++)
	{
		SlateRange	range = {.generations = ANYWHERE};

		range.first = pg_atomic_read_u64(&database->overflow_from[kind]);
		pg_read_barrier();
		range.last = pg_atomic_read_u64(&database->overflow_to[kind]);
		if (range.first != 0)
			slate_ranges_add(&copy->left[kind], &range);
	}
}

void
slate_doubt_copy(SlateDatabase *database, SlateDoubtCopy *copy)
{
	copy->left[DOUBT_ALL].count = 0;
	copy->left[DOUBT_PATTERNS].count = 0;

	/* first: the worker takes from here to there */
	copy_entries(database, copy);
	LWLockAcquire(slate_database_lock(), LW_SHARED);
	memcpy(copy->ranges, database->fresh, sizeof(database->fresh));
	memcpy(copy->ranges + SLATE_DOUBT_KINDS, database->active,
		   sizeof(database->active));
	copy->nundecided = database->nundecided;
	memcpy(copy->undecided, database->undecided, sizeof(database->undecided));
	copy->crowd = database->crowd;
	LWLockRelease(slate_database_lock());
	copy->must_empty = pg_atomic_read_u32(&database->must_empty) != 0;
}

bool
slate_doubt_copy_contains(const SlateDoubtCopy *copy, uint64 xid)
{
	for (int i = 0; i < lengthof(copy->ranges); i++)
	{
		if (slate_ranges_contain(&copy->ranges[i], xid))
			return true;
	}
	for (int i = 0; i < lengthof(copy->left); i++)
	{
		if (slate_ranges_contain(&copy->left[i], xid))
			return true;
	}
	for (int i = 0; i < copy->nundecided; i++)
	{
		if (copy->undecided[i].xid == xid)
			return true;
	}

	/* the worker knows more than the copy says */
	return is_within(&copy->crowd, xid) && (crowd == NULL || is_in_crowd(xid));
}

bool
slate_doubt_copy_spans(const SlateDoubtCopy *copy, uint64 xid)
{
	return is_within(&copy->crowd, xid);
}

bool
slate_doubt_exists(SlateDatabase *database)
{
	SlateDoubtCopy *copy = palloc(sizeof(SlateDoubtCopy));
	bool		exists = false;

	slate_doubt_copy(database, copy);
	for (int i = 0; i < 2 * SLATE_DOUBT_KINDS; i++)
		exists |= copy->ranges[i].count > 0;
	exists |= !is_empty(copy->left);

	/* the worker has yet to see that these are decided */
	for (int i = 0; i < copy->nundecided; i++)
		exists |= !is_under_way(copy->undecided[i].xid);
	pfree(copy);
	return exists || pg_atomic_read_u32(&database->must_empty) != 0;
}
