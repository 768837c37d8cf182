/*-------------------------------------------------------------------------
 *
 * group.c
 *	  Commits that meet tell Redis together.
 *
 * An exchange costs Redis, and the kernel between us and it, far more than the
 * push in it, and what a dozen sessions say at the same time costs them a dozen
 * exchanges.  So one of them leads: it sends what the others have left in slots
 * in shared memory along with its own, in one exchange, tells them what became
 * of it, and wakes one of those who came meanwhile, to lead next.  Who meets
 * nobody leads a group of one, and that is as if there were no groups.
 *
 * THE WAY OF A FOLLOWER
 *
 * It finds a leader, takes a free slot, copies its bytes there, and waits on the
 * slot's semaphore.  A slot's state goes
 *
 *	  FREE -> FILLING -> WAITING -> TAKEN -> DELIVERED or FAILED -> FREE
 *
 * by compare-and-swap: the leader takes it when it encodes, and settles it when
 * Redis has answered.  A follower whom nobody has taken for PATIENCE_MS takes its
 * slot back and sends for itself: a leader who is slow, or was stopped, is no
 * reason to think that Redis is away.  One who was taken shares what becomes of
 * the leader's exchange; if it is not over by its own deadline, it leaves the
 * slot to the leader (ABANDONED -> FREE), and its push is in doubt, like any
 * whose answer did not come in time.  It cannot be sent again: its nonces would
 * come twice.
 *
 * WHO LEADS
 *
 * The database's entry says who leads, and since when.  A leader gives that up
 * first and looks for who waits then; a follower says that it waits first and
 * looks for a leader then.  So one of the two sees the other.  A leader that
 * has taken PATIENCE_MS gets no more followers.
 *
 * All of this is after the commit.  Nothing here throws, allocates or takes a
 * lock; all waits end with a deadline.  Semaphores are POSIX ones, since
 * latches may throw.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include <errno.h>

#include "bundle.h"
#include "database.h"
#include "group.h"
#include "pause.h"
#include "pgstat.h"
#include "storage/shmem.h"
#include "trust.h"
#include "utils/memutils.h"

/* Slots of the whole server, and what fits into one. */
#define SLOTS 64
#define SLOT_BYTES 4096

/* How many followers one exchange has at most, and its room. */
#define MAX_FOLLOWERS 31
#define BUNDLE_BYTES (MAX_FOLLOWERS * (SLOT_BYTES + SLATE_BUNDLE_OVERHEAD) + \
					  SLOT_BYTES + SLATE_BUNDLE_OVERHEAD)

/* Many times as long as an exchange takes.  Tests have all the time. */
#ifdef SLATE_CACHE_TESTING
#define PATIENCE_MS slate_pause_patience
#else
#define PATIENCE_MS 30
#endif

typedef enum SlotState
{
	SLOT_FREE,
	SLOT_FILLING,				/* a follower writes */
	SLOT_WAITING,
	SLOT_TAKEN,					/* a leader sends it */
	SLOT_DELIVERED,				/* these two are the follower's to free */
	SLOT_FAILED,
	SLOT_ABANDONED				/* the leader's to free */
} SlotState;

typedef struct Slot
{
	pg_atomic_uint32 state;
	sem_t		wake;
	Oid			database;
	SlateCall	call;
	int			nbytes;
	int			ncommands;
	char		bytes[SLOT_BYTES];
} Slot;

/* NULL without shared memory. */
static Slot *slots = NULL;

/* What a leader sends; made before the commit. */
static SlateBundle bundle;
static SlateBundleUnit units[MAX_FOLLOWERS + 1];

Size
slate_group_shmem_size(void)
{
	return mul_size(SLOTS, sizeof(Slot));
}

void
slate_group_shmem_startup(void)
{
	bool		found;

	slots = ShmemInitStruct("slate_cache groups", slate_group_shmem_size(),
							&found);
	for (int i = 0; i < SLOTS && !found; i++)
	{
		pg_atomic_init_u32(&slots[i].state, SLOT_FREE);
		if (sem_init(&slots[i].wake, 1, 0) != 0)
			elog(ERROR, "could not initialize a semaphore: %m");
	}
}

void
slate_group_prepare(void)
{
	MemoryContext old;

	if (slots == NULL || bundle.batch.bytes.data)
		return;
	old = MemoryContextSwitchTo(TopMemoryContext);
	slate_script_batch_init(&bundle.batch);
	enlargeStringInfo(&bundle.batch.bytes, BUNDLE_BYTES);
	bundle.units = units;
	MemoryContextSwitchTo(old);
}

static bool
change_state(Slot *slot, SlotState from, SlotState to)
{
	uint32		state = from;

	return pg_atomic_compare_exchange_u32(&slot->state, &state, to);
}

/* ------------------------------------------------------------------------
 * Leading
 * ------------------------------------------------------------------------
 */

static bool
become_leader(SlateDatabase *database)
{
	uint32		nobody = 0;

	if (!pg_atomic_compare_exchange_u32(&database->leader, &nobody,
										MyProcPid))
		return false;
	pg_atomic_write_u64(&database->led_since, (uint64) slate_link_now());
	return true;
}

/* Somebody who waits shall look whether to lead. */
static void
wake_next(SlateDatabase *database)
{
	pg_memory_barrier();
	if (pg_atomic_read_u32(&database->leader) != 0)
		return;
	for (int i = 0; i < SLOTS; i++)
	{
		if (pg_atomic_read_u32(&slots[i].state) == SLOT_WAITING &&
			slots[i].database == MyDatabaseId)
		{
			(void) sem_post(&slots[i].wake);
			return;
		}
	}
}

static void
stop_leading(SlateDatabase *database)
{
	pg_atomic_write_u32(&database->leader, 0);
	wake_next(database);
}

/* Those of this database that wait; how many. */
static int
take_followers(Slot **taken)
{
	int			ntaken = 0;

	for (int i = 0; i < SLOTS && ntaken < MAX_FOLLOWERS; i++)
	{
		Slot	   *slot = &slots[i];

		if (pg_atomic_read_u32(&slot->state) != SLOT_WAITING)
			continue;
		pg_read_barrier();
		if (slot->database == MyDatabaseId &&
			change_state(slot, SLOT_WAITING, SLOT_TAKEN))
			taken[ntaken++] = slot;
	}
	return ntaken;
}

static void
settle_follower(Slot *slot, bool delivered)
{
	if (change_state(slot, SLOT_TAKEN,
					 delivered ? SLOT_DELIVERED : SLOT_FAILED))
		(void) sem_post(&slot->wake);
	else
		pg_atomic_write_u32(&slot->state, SLOT_FREE);	/* abandoned */
}

static void
on_reply(int index, const redisReply *reply, void *arg)
{
	slate_bundle_take_reply(arg, index, reply);
}

/* Those of the other units, for the counters. */
static void
add_counts(SlateOutcome *outcome, const SlateBundleUnit *own)
{
	for (int i = 0; i < bundle.nunits; i++)
	{
		if (&bundle.units[i] == own)
			continue;
		outcome->stored += bundle.units[i].outcome.stored;
		outcome->dropped += bundle.units[i].outcome.dropped;
		outcome->outdated += bundle.units[i].outcome.outdated;
	}
}

/* One exchange for all of them; the outcome is that of the leader's part. */
static SlateRedisStatus
send_together(const SlateBatch *batch, Slot **taken, int ntaken,
			  SlateOutcome *outcome, int64 deadline)
{
	SlateBundlePart parts[MAX_FOLLOWERS + 1];
	SlateRedisStatus status;

	slate_bundle_begin(&bundle);
	for (int i = 0; i <= ntaken; i++)
	{
		const Slot *slot = i < ntaken ? taken[i] : NULL;

		parts[i].bytes = slot ? slot->bytes : batch->bytes.data;
		parts[i].nbytes = slot ? slot->nbytes : batch->bytes.len;
		parts[i].ncommands = slot ? slot->ncommands : batch->ncommands;
		parts[i].call = slot ? &slot->call : &batch->call;
		slate_bundle_add(&bundle, &parts[i]);
	}
	slate_bundle_end(&bundle);
	status = slate_script_run(&bundle.batch, on_reply, &bundle, deadline,
							  LINK_WAIT_UNINTERRUPTED);
	for (int i = 0; i < ntaken; i++)
	{
		const SlateOutcome *theirs = &parts[i].unit->outcome;

		settle_follower(taken[i], status == REDIS_DONE &&
						theirs->refused == 0 &&
						slate_trust_is_told(theirs->strange));
	}
	*outcome = parts[ntaken].unit->outcome;
	add_counts(outcome, parts[ntaken].unit);
	return status;
}

static SlateGroupResult
lead(SlateDatabase *database, const SlateBatch *batch, SlateOutcome *outcome,
	 SlateRedisStatus *status, int64 deadline)
{
	Slot	   *taken[MAX_FOLLOWERS];
	int			ntaken;

	slate_pause(PAUSE_LEADING);
	ntaken = take_followers(taken);
	if (ntaken == 0)
		*status = slate_script_publish(batch, outcome, deadline,
									   slate_redis_timeout,
									   LINK_WAIT_UNINTERRUPTED);
	else
		*status = send_together(batch, taken, ntaken, outcome, deadline);
	stop_leading(database);
	return GROUP_LED;
}

/* ------------------------------------------------------------------------
 * Following
 * ------------------------------------------------------------------------
 */

static Slot *
leave_in_slot(const SlateBatch *batch)
{
	for (int i = 0; i < SLOTS; i++)
	{
		/* not all from the same end */
		Slot	   *slot = &slots[(MyProcPid + i) % SLOTS];

		if (pg_atomic_read_u32(&slot->state) != SLOT_FREE ||
			!change_state(slot, SLOT_FREE, SLOT_FILLING))
			continue;
		while (sem_trywait(&slot->wake) == 0)
			 /* of who had it before */ ;
		slot->database = MyDatabaseId;
		slot->call = batch->call;
		if (batch->ncommands != 1)
			slot->call.nkeys = 0;
		slot->nbytes = batch->bytes.len;
		slot->ncommands = batch->ncommands;
		memcpy(slot->bytes, batch->bytes.data, batch->bytes.len);
		(void) change_state(slot, SLOT_FILLING, SLOT_WAITING);
		return slot;
	}
	return NULL;
}

/* False when the deadline has come; a signal may end it early, too. */
static bool
wait_until(Slot *slot, int64 deadline)
{
	struct timespec end = {deadline / 1000, deadline % 1000 * 1000000};

	return compat_sem_wait(&slot->wake, &end) == 0 || errno == EINTR;
}

/* Nobody has taken it for long enough; false if somebody has. */
static bool
take_back(SlateDatabase *database, Slot *slot)
{
	if (!change_state(slot, SLOT_WAITING, SLOT_FREE))
		return false;

	/* it may have been us who was to lead */
	wake_next(database);
	return true;
}

static SlateGroupResult
follow(SlateDatabase *database, Slot *slot, const SlateBatch *batch,
	   SlateOutcome *outcome, SlateRedisStatus *status, int64 deadline)
{
	int64		patient_until = slate_link_now() + PATIENCE_MS;

	for (;;)
	{
		SlotState	state = pg_atomic_read_u32(&slot->state);

		if (state == SLOT_DELIVERED || state == SLOT_FAILED)
		{
			pg_atomic_write_u32(&slot->state, SLOT_FREE);
			return state == SLOT_DELIVERED ? GROUP_DELIVERED : GROUP_FAILED;
		}
		if (state == SLOT_WAITING && become_leader(database))
		{
			if (change_state(slot, SLOT_WAITING, SLOT_FREE))
				return lead(database, batch, outcome, status, deadline);
			stop_leading(database);
			continue;
		}
		if (wait_until(slot, state == SLOT_WAITING
					   ? Min(patient_until, deadline) : deadline))
			continue;
		if (state == SLOT_WAITING && take_back(database, slot))
			return GROUP_ALONE;
		if (state == SLOT_TAKEN &&
			change_state(slot, SLOT_TAKEN, SLOT_ABANDONED))
			return GROUP_FAILED;
	}
}

/* ------------------------------------------------------------------------
 * Both
 * ------------------------------------------------------------------------
 */

/* Is somebody leading for longer than an exchange takes? */
static bool
is_stuck(SlateDatabase *database)
{
	return slate_link_now() - PATIENCE_MS >
		(int64) pg_atomic_read_u64(&database->led_since);
}

SlateGroupResult
slate_group_publish(const SlateBatch *batch, SlateOutcome *outcome,
					SlateRedisStatus *status, int64 deadline)
{
	SlateDatabase *database = slate_database_find(MyDatabaseId);
	SlateGroupResult result;
	Slot	   *slot;

	if (slots == NULL || database == NULL || bundle.batch.bytes.data == NULL ||
		batch->ncuts > 0 || batch->bytes.len > SLOT_BYTES)
		return GROUP_ALONE;
	if (become_leader(database))
		return lead(database, batch, outcome, status, deadline);
	if (is_stuck(database))
		return GROUP_ALONE;
	slot = leave_in_slot(batch);
	if (slot == NULL)
		return GROUP_ALONE;
	pgstat_report_wait_start(PG_WAIT_EXTENSION);
	result = follow(database, slot, batch, outcome, status, deadline);
	pgstat_report_wait_end();
	return result;
}
