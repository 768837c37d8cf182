/*-------------------------------------------------------------------------
 *
 * ring.c
 *	  What sessions of a database in mode async leave to their worker: pushes
 *	  that are encoded, in a ring in shared memory.
 *
 * A session that has committed reserves room at the head, under a spinlock,
 * copies its bytes there, and says that they are ready.  The worker reads from
 * the tail what is ready, sends it, and moves the tail on when Redis has
 * answered.  Head and tail are counts of bytes since the beginning, so the
 * difference is what is in use.  An entry is never split: where it does not
 * fit before the ring's end there is a gap.
 *
 * What is in the ring has not left the journal: it counts as a user of its
 * generation.  The session leaves its place in the journal after it has said
 * ready, so whoever looks at the places first and at the ring then misses
 * none.
 *
 * The ring is a dynamic segment, made by the first session that wants it, or
 * where that has failed by the worker, and stays when either dies.  A session
 * keeps it mapped.  After a crash of the server it is gone, and everything in
 * the journal in doubt.  Where it cannot be made, since /dev/shm is full, say, or
 * mapped, since somebody has cleaned that up, sessions push by themselves, as in
 * mode commit.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "link.h"
#include "pause.h"
#include "ring.h"
#include "storage/dsm.h"
#include "storage/spin.h"
#include "utils/resowner.h"

/* A ring takes no entry that is larger than this part of it. */
#define LARGEST_PART 8

/* How long to do without one where there is no room for it. */
#define RETRY_MS 60000

#define ENTRY_HEADER MAXALIGN(sizeof(SlateRingEntry))

typedef struct Ring
{
	slock_t		lock;			/* of head */
	uint64		head;
	pg_atomic_uint64 tail;
	uint64		sending;		/* a worker has begun to send what is before */
	pg_atomic_uint32 asleep;	/* the worker wants its latch to be set */
	uint32		size;
} Ring;

#define RING_HEADER MAXALIGN(sizeof(Ring))

int			slate_ring_size = 4096;

/* What this process has mapped. */
static dsm_segment *segment = NULL;
static Ring *ring = NULL;
static SlateDatabase *owner = NULL;

/* ------------------------------------------------------------------------
 * The segment
 * ------------------------------------------------------------------------
 */

static void
unmap(void)
{
	if (segment)
		dsm_detach(segment);
	segment = NULL;
	ring = NULL;
}

static void
map(SlateDatabase *database, dsm_segment *mapped)
{
	segment = mapped;
	ring = dsm_segment_address(segment);
	owner = database;
}

/* In the caller's context. */
static void
report_no_room(void)
{
	ErrorData  *error = CopyErrorData();

	FlushErrorState();
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("slate_cache cannot make room for pushes of mode async"),
			 errdetail("%s", error->message),
			 errhint("Lower slate_cache.ring_size, or make more shared memory available to the server. Sessions in mode async wait for Redis meanwhile.")));
	FreeErrorData(error);
}

/* The one that has a handle, or without one, a new one of a size. */
static dsm_segment *
obtain(dsm_handle handle, Size size)
{
	if (handle != DSM_HANDLE_INVALID)
		return dsm_attach(handle);
	return dsm_create(size, DSM_CREATE_NULL_IF_MAXSEGMENTS);
}

/*
 * NULL if there is no room, or it cannot be had.  Nobody must die of that: the
 * worker has other things to do, and a session a commit to make.
 */
static dsm_segment *
obtain_segment(dsm_handle handle, Size size, bool report)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner callers = CurrentResourceOwner;
	ResourceOwner its_owner = ResourceOwnerCreate(callers, "slate_cache ring");
	dsm_segment *volatile found = NULL;

	CurrentResourceOwner = its_owner;
	PG_TRY();
	{
		found = obtain(handle, size);
		if (found)
			dsm_pin_mapping(found);
	}
	PG_CATCH();
	{
		if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		if (report)
			report_no_room();
		else
			FlushErrorState();
	}
	PG_END_TRY();

	/* what is half made */
	CurrentResourceOwner = callers;
	ResourceOwnerRelease(its_owner, RESOURCE_RELEASE_BEFORE_LOCKS, false, false);
	ResourceOwnerRelease(its_owner, RESOURCE_RELEASE_LOCKS, false, false);
	ResourceOwnerRelease(its_owner, RESOURCE_RELEASE_AFTER_LOCKS, false, false);
	ResourceOwnerDelete(its_owner);
	return found;
}

/* The database's ring, mapped; false: there is none. */
static bool
find(SlateDatabase *database)
{
	dsm_handle	handle = pg_atomic_read_u32(&database->ring);
	dsm_segment *mapped;

	if (segment && dsm_segment_handle(segment) == handle)
		return true;
	unmap();
	if (handle == DSM_HANDLE_INVALID)
		return false;
	mapped = dsm_find_mapping(handle);
	if (mapped == NULL)
		mapped = obtain_segment(handle, 0, false);
	if (mapped == NULL)
		return false;
	map(database, mapped);
	return true;
}

/*
 * Make one, unless another process is quicker; false if there is no room.  The
 * first push wakes the worker: it may have gone to sleep without a ring.
 */
static bool
make(SlateDatabase *database, bool report)
{
	Size		size = MAXALIGN_DOWN((Size) slate_ring_size * 1024);
	dsm_segment *made = obtain_segment(DSM_HANDLE_INVALID,
									   RING_HEADER + size, report);
	uint32		none = DSM_HANDLE_INVALID;
	Ring	   *made_ring;

	if (made == NULL)
		return false;
	made_ring = dsm_segment_address(made);
	SpinLockInit(&made_ring->lock);
	made_ring->head = 0;
	made_ring->sending = 0;
	pg_atomic_init_u64(&made_ring->tail, 0);
	pg_atomic_init_u32(&made_ring->asleep, 1);
	made_ring->size = (uint32) size;
	dsm_pin_segment(made);
	if (pg_atomic_compare_exchange_u32(&database->ring, &none,
									   dsm_segment_handle(made)))
	{
		map(database, made);
		return true;
	}
	dsm_unpin_segment(dsm_segment_handle(made));
	dsm_detach(made);
	return find(database);
}

void
slate_ring_make(SlateDatabase *database)
{
	static int64 next_try = 0;

	if (pg_atomic_read_u32(&database->ring_wanted) == 0 ||
		slate_link_now() < next_try)
		return;
	if (find(database) || make(database, true))
		pg_atomic_write_u32(&database->ring_wanted, 0);
	else
		next_try = slate_link_now() + RETRY_MS;
}

void
slate_ring_remove(SlateDatabase *database)
{
	dsm_handle	handle = pg_atomic_read_u32(&database->ring);

	if (handle == DSM_HANDLE_INVALID)
		return;
	pg_atomic_write_u32(&database->ring, DSM_HANDLE_INVALID);
	unmap();
	dsm_unpin_segment(handle);
}

static SlateRingEntry *
entry_at(uint64 position)
{
	return (SlateRingEntry *) ((char *) ring + RING_HEADER +
							   position % ring->size);
}

/* ------------------------------------------------------------------------
 * Backends
 * ------------------------------------------------------------------------
 */

/* Who comes first makes it.  Where he cannot, the worker tries, and tells. */
bool
slate_ring_prepare(SlateDatabase *database)
{
	if (pg_atomic_read_u32(&database->worker) == 0)
		return false;
	if (find(database))
		return true;
	if (pg_atomic_exchange_u32(&database->ring_wanted, 1) != 0)
		return false;
	if (make(database, false))
		return true;
	slate_database_wake(database);
	return false;
}

static uint32
entry_size(int nbytes)
{
	return ENTRY_HEADER + MAXALIGN(nbytes);
}

bool
slate_ring_takes(const SlateBatch *batch)
{
	Assert(batch->nparts == 0);
	return batch->ncuts == 0 &&
		entry_size(batch->bytes.len) <= ring->size / LARGEST_PART;
}

/* Under the lock.  What is reserved must not look ready. */
static SlateRingEntry *
begin_entry(uint32 size)
{
	SlateRingEntry *entry = entry_at(ring->head);

	pg_atomic_write_u32(&entry->ready, 0);
	entry->size = size;
	ring->head += size;
	return entry;
}

static SlateRingEntry *
reserve(uint32 size)
{
	SlateRingEntry *entry = NULL;
	uint32		to_end;
	uint32		gap;

	SpinLockAcquire(&ring->lock);
	to_end = ring->size - (uint32) (ring->head % ring->size);
	gap = to_end < size ? to_end : 0;
	if (ring->head + gap + size - pg_atomic_read_u64(&ring->tail) <=
		ring->size)
	{
		/* too small a rest for a header is skipped by who reads, too */
		if (gap >= ENTRY_HEADER)
		{
			entry = begin_entry(gap);
			entry->xid = 0;
			pg_atomic_write_u32(&entry->ready, 1);
		}
		else
			ring->head += gap;
		entry = begin_entry(size);
	}
	SpinLockRelease(&ring->lock);
	return entry;
}

bool
slate_ring_push(const SlateBatch *batch, const SlateRingEntry *given)
{
	uint32		size = entry_size(batch->bytes.len);
	SlateRingEntry *entry = reserve(size);
	uint32		asleep = 1;

	if (entry == NULL)
		return false;
	slate_pause(PAUSE_BEFORE_READY);
	entry->xid = given->xid;
	entry->generations = given->generations;
	entry->nkeys = given->nkeys;
	entry->unswept = given->unswept;
	entry->call = given->call;
	entry->near = given->near;
	entry->order = given->order;
	entry->version = given->version;
	entry->key_hash = given->key_hash;
	entry->nbytes = batch->bytes.len;
	entry->ncommands = batch->ncommands;
	memcpy((char *) entry + ENTRY_HEADER, batch->bytes.data,
		   batch->bytes.len);
	pg_write_barrier();
	pg_atomic_write_u32(&entry->ready, 1);
	pg_memory_barrier();
	if (pg_atomic_read_u32(&ring->asleep) != 0 &&
		pg_atomic_compare_exchange_u32(&ring->asleep, &asleep, 0))
		slate_database_wake(owner);
	return true;
}

/* ------------------------------------------------------------------------
 * Both
 * ------------------------------------------------------------------------
 */

static uint64
head_of(Ring *there)
{
	uint64		position;

	SpinLockAcquire(&there->lock);
	position = there->head;
	SpinLockRelease(&there->lock);
	return position;
}

static uint64
head(void)
{
	return head_of(ring);
}

bool
slate_ring_is_empty(SlateDatabase *database)
{
	return !find(database) || head() == pg_atomic_read_u64(&ring->tail);
}

bool
slate_ring_usage(SlateDatabase *database, uint64 *used, uint64 *size)
{
	dsm_handle	handle = pg_atomic_read_u32(&database->ring);
	dsm_segment *mapped;
	dsm_segment *attached = NULL;
	Ring	   *there;
	uint64		tail;

	if (handle == DSM_HANDLE_INVALID)
		return false;
	mapped = dsm_find_mapping(handle);
	if (mapped == NULL)
		mapped = attached = obtain_segment(handle, 0, false);
	if (mapped == NULL)
		return false;
	there = dsm_segment_address(mapped);

	/* first: it stays behind the head, which may go on meanwhile */
	tail = pg_atomic_read_u64(&there->tail);
	pg_read_barrier();
	*used = Min(head_of(there) - tail, there->size);
	*size = there->size;
	if (attached)
		dsm_detach(attached);
	return true;
}

/* ------------------------------------------------------------------------
 * The worker
 * ------------------------------------------------------------------------
 */

uint64
slate_ring_first(SlateDatabase *database)
{
	return find(database) ? pg_atomic_read_u64(&ring->tail) : 0;
}

/*
 * The entry at the position, ready or not, or a gap, and the position behind
 * it; NULL: no more.  Its size was written before the head went past it, under
 * the same lock; the rest is good when it is ready.
 */
static SlateRingEntry *
next_entry(uint64 *position)
{
	while (*position < head())
	{
		SlateRingEntry *entry = entry_at(*position);
		uint32		to_end = ring->size - (uint32) (*position % ring->size);

		if (to_end >= ENTRY_HEADER)
		{
			*position += entry->size;
			return entry;
		}
		*position += to_end;
	}
	return NULL;
}

static bool
is_ready(SlateRingEntry *entry)
{
	if (pg_atomic_read_u32(&entry->ready) == 0)
		return false;
	pg_read_barrier();
	return true;
}

SlateRingEntry *
slate_ring_read(SlateDatabase *database, uint64 *position)
{
	SlateRingEntry *entry;
	uint64		next = *position;

	if (!find(database))
		return NULL;
	while ((entry = next_entry(&next)) != NULL && is_ready(entry))
	{
		*position = next;
		if (entry->xid != 0)
			return entry;
	}
	return NULL;
}

const char *
slate_ring_bytes(const SlateRingEntry *entry)
{
	return (const char *) entry + ENTRY_HEADER;
}

void
slate_ring_set_sending(SlateDatabase *database, uint64 position)
{
	if (find(database))
		ring->sending = position;
}

uint64
slate_ring_sending(SlateDatabase *database)
{
	return find(database) ? ring->sending : 0;
}

void
slate_ring_advance(SlateDatabase *database, uint64 position)
{
	if (!find(database))
		return;
	pg_memory_barrier();
	pg_atomic_write_u64(&ring->tail, position);
}

bool
slate_ring_uses(SlateDatabase *database, uint32 generations)
{
	uint64		position = slate_ring_first(database);
	SlateRingEntry *entry;

	if (!find(database))
		return false;
	while ((entry = next_entry(&position)) != NULL)
	{
		/* behind one that is not ready there may be others that are */
		if (is_ready(entry) && entry->xid != 0 &&
			(entry->generations & generations))
			return true;
	}
	return false;
}

bool
slate_ring_may_sleep(SlateDatabase *database)
{
	uint64		position;

	if (!find(database))
		return true;
	pg_atomic_write_u32(&ring->asleep, 1);
	pg_memory_barrier();
	position = slate_ring_first(database);
	return slate_ring_read(database, &position) == NULL;
}

void
slate_ring_wake_up(SlateDatabase *database)
{
	if (find(database))
		pg_atomic_write_u32(&ring->asleep, 0);
}
