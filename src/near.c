/*-------------------------------------------------------------------------
 *
 * near.c
 *	  The near cache: values in shared memory, for hits without a round trip.
 *
 * It holds values of keys that a rule covers, whose truth is in tables of this
 * server, so that all who change them pass by here.  What it promises is what
 * Redis does, and in mode strict just as much:
 *
 * Shared memory has cells, each a count of changes and of writers under way.
 * A key has three: its own, that of its beginning, and that of its database.
 * Before the commit a writer enters the cells of its keys; a pattern's is that
 * of its beginning, or if that is short, the database's.  To enter adds a
 * change and a writer, to leave takes the writer away.  A reader looks at the
 * cells first.  If there are no writers, what was kept when the cells were the
 * same is still right: who changes the key has entered before his change
 * became visible, and no one has entered since; and it was right then, since
 * who had entered before had left.  What the reader reads after that look, and
 * finds nothing, may be kept with the cells as they were; if somebody has
 * entered since, they are others, and nobody will ever find it.  So there is
 * nothing to be undone and no order of steps to get wrong; keys that share a
 * cell by accident lose some hits.
 *
 * A writer has left when Redis has its push.  If it could not be pushed, or
 * the worker does that (mode async), what Redis has may be old for a while
 * longer, and then a reader may keep that, as he may find it in Redis.  So who
 * tells Redis later voids the keys after it has answered: adds a change.  The
 * same goes for what empties the namespace.
 *
 * A prepared transaction is ended by somebody who does not know its keys.  So
 * from PREPARE until the worker has seen that none is in doubt the database's
 * near cache is closed: slate_database_is_settled().  A standby has no worker.
 *
 * What apps SET or DEL in Redis by themselves does not pass by here.  So
 * nothing is kept for longer than NEAR_LIFE_MS.
 *
 * test/model/near.py tries all this in every order of its steps.
 *
 * The values are jsonb, in partitions by the key's hash, each a ring that
 * overwrites its oldest entries, and an index of one place a hash.
 *
 * Locks: a partition's lock guards its ring and index, shared for a look.
 * Cells are atomic; what is done to one is a full barrier.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "cells.h"
#include "link.h"
#include "miscadmin.h"
#include "near.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#define TRANCHE_NAME "slate_cache near"

/* Powers of two. */
#define NCELLS 65536
#define NPARTITIONS 32

/* How long a value is kept at most. */
#define NEAR_LIFE_MS 10000

/* A value takes at most this part of a partition; a place is for so much. */
#define LARGEST_PART 8
#define BYTES_PER_PLACE 512

/* A cell: the writers under way, below the changes. */
#define WRITER UINT64CONST(1)
#define CHANGE (UINT64CONST(1) << 20)
#define WRITERS (CHANGE - 1)

/* An entry of no place is a gap at the end of the ring. */
#define NO_PLACE PG_UINT32_MAX

typedef struct Entry
{
	uint32		size;			/* with all that follows, aligned */
	uint32		place;			/* in the index */
	uint64		hash;
	uint64		seen[3];
	int64		until;			/* slate_link_now() */
	Oid			database;
	int			keylen;			/* the value comes behind it, aligned */
	char		key[FLEXIBLE_ARRAY_MEMBER];
} Entry;

#define ENTRY_HEADER MAXALIGN(sizeof(Entry))

typedef struct Partition
{
	LWLock	   *lock;
	Size		head;			/* where the next entry goes */
	Size		tail;			/* the oldest entry */
	Size		used;			/* bytes from tail to head */
} Partition;

typedef struct Near
{
	Size		ring_size;		/* of each partition */
	uint32		nplaces;		/* likewise; a power of two */
	pg_atomic_uint64 cells[NCELLS];
	Partition	partitions[NPARTITIONS];
} Near;

int			slate_near_memory = 0;
bool		slate_near_enabled = true;

static Near *near_cache = NULL;
static uint32 *places;			/* of all partitions: where an entry is, in
								 * units of MAXALIGN, plus one; 0: none */
static char *rings;

static bool entered = false;
static SlateNearCells mine;

/* ------------------------------------------------------------------------
 * Shared memory
 * ------------------------------------------------------------------------
 */

static Size
ring_size(void)
{
	return MAXALIGN_DOWN((Size) slate_near_memory * 1024 / NPARTITIONS);
}

static uint32
nplaces(void)
{
	uint32		count = 1;

	while (count < ring_size() / BYTES_PER_PLACE)
		count *= 2;
	return count;
}

static Size
shmem_size(void)
{
	Size		size = MAXALIGN(sizeof(Near));

	size = add_size(size, mul_size(NPARTITIONS,
								   MAXALIGN(nplaces() * sizeof(uint32))));
	return add_size(size, mul_size(NPARTITIONS, ring_size()));
}

void
slate_near_shmem_request(void)
{
	if (slate_near_memory == 0)
		return;
	RequestAddinShmemSpace(shmem_size());
	RequestNamedLWLockTranche(TRANCHE_NAME, NPARTITIONS);
}

void
slate_near_shmem_startup(void)
{
	LWLockPadded *locks;
	bool		found;

	if (slate_near_memory == 0)
		return;
	near_cache = ShmemInitStruct("slate_cache near", shmem_size(), &found);
	places = (uint32 *) ((char *) near_cache + MAXALIGN(sizeof(Near)));
	rings = (char *) places + NPARTITIONS * MAXALIGN(nplaces() * sizeof(uint32));
	if (found)
		return;
	memset(near_cache, 0, shmem_size());
	near_cache->ring_size = ring_size();
	near_cache->nplaces = nplaces();
	for (int i = 0; i < NCELLS; i++)
		pg_atomic_init_u64(&near_cache->cells[i], 0);
	locks = GetNamedLWLockTranche(TRANCHE_NAME);
	for (int i = 0; i < NPARTITIONS; i++)
		near_cache->partitions[i].lock = &locks[i].lock;
}

/* ------------------------------------------------------------------------
 * Cells
 * ------------------------------------------------------------------------
 */

static uint32
cell_of_key(SlateSlice key)
{
	return slate_cells_hash(key.start, key.len) & (NCELLS - 1);
}

static uint32
cell_of_database(void)
{
	return slate_cells_hash("", 0) & (NCELLS - 1);
}

/* Another one than that of a key which is just this. */
static uint32
cell_of_beginning(const char *bytes)
{
	return (slate_cells_hash_beginning(bytes) >> 32) & (NCELLS - 1);
}

static uint32
cell_of_glob(SlateSlice glob)
{
	return slate_cells_has_beginning(glob)
		? cell_of_beginning(glob.start) : cell_of_database();
}

static void
add_to_cells(const SlateNearCells *cells, uint64 what)
{
	for (int i = 0; i < cells->count; i++)
		pg_atomic_fetch_add_u64(&near_cache->cells[cells->at[i]], what);
}

/* ------------------------------------------------------------------------
 * Readers
 * ------------------------------------------------------------------------
 */

/* Who uses another Redis than the database's worker may find other values. */
static bool
is_open(SlateDatabase *database)
{
	return database != NULL && slate_database_is_settled(database) &&
		pg_atomic_read_u64(&database->server) == slate_service_key();
}

static uint64
look_at(uint32 cell, SlateNearLease *lease)
{
	uint64		seen = pg_atomic_read_u64(&near_cache->cells[cell]);

	if ((seen & WRITERS) != 0)
		lease->valid = false;
	return seen;
}

void
slate_near_lease(SlateSlice key, SlateNearLease *lease)
{
	lease->valid = false;
	if (near_cache == NULL || !slate_near_enabled ||
		!is_open(slate_database_find(MyDatabaseId)))
		return;
	lease->valid = true;
	lease->hash = slate_cells_hash(key.start, key.len);
	lease->seen[0] = look_at(lease->hash & (NCELLS - 1), lease);
	lease->seen[1] = key.len < SLATE_BEGINNING_LEN ? 0
		: look_at(cell_of_beginning(key.start), lease);
	lease->seen[2] = look_at(cell_of_database(), lease);

	/* nothing is read before this */
	pg_memory_barrier();
}

/* The hash's low bits are the cell's, so that these are others. */
static int
partition_of(uint64 hash)
{
	return (hash >> 16) % NPARTITIONS;
}

static uint32
place_of(uint64 hash)
{
	return (uint32) (hash >> 32) & (near_cache->nplaces - 1);
}

static uint32 *
places_of(int nth)
{
	return (uint32 *) ((char *) places +
					   nth * MAXALIGN(near_cache->nplaces * sizeof(uint32)));
}

static Entry *
entry_at(int nth, Size position)
{
	return (Entry *) (rings + nth * near_cache->ring_size + position);
}

static Jsonb *
value_of(Entry *entry)
{
	return (Jsonb *) ((char *) entry +
					  MAXALIGN(offsetof(Entry, key) + entry->keylen));
}

Jsonb *
slate_near_get(SlateSlice key, const SlateNearLease *lease)
{
	Jsonb	   *value = NULL;
	int			nth;
	uint32		at;

	if (!lease->valid)
		return NULL;
	nth = partition_of(lease->hash);
	LWLockAcquire(near_cache->partitions[nth].lock, LW_SHARED);
	at = places_of(nth)[place_of(lease->hash)];
	if (at != 0)
	{
		Entry	   *entry = entry_at(nth, (Size) (at - 1) * MAXIMUM_ALIGNOF);

		if (entry->hash == lease->hash && entry->database == MyDatabaseId &&
			entry->keylen == key.len &&
			memcmp(entry->key, key.start, key.len) == 0 &&
			memcmp(entry->seen, lease->seen, sizeof(entry->seen)) == 0 &&
			entry->until > slate_link_now())
		{
			Size		size = VARSIZE(value_of(entry));

			value = palloc(size);
			memcpy(value, value_of(entry), size);
		}
	}
	LWLockRelease(near_cache->partitions[nth].lock);
	return value;
}

/* The oldest entry, or what is too small for one, goes. */
static void
drop_oldest(int nth)
{
	Partition  *partition = &near_cache->partitions[nth];
	Size		size = near_cache->ring_size - partition->tail;

	if (size >= ENTRY_HEADER)
	{
		Entry	   *entry = entry_at(nth, partition->tail);

		if (entry->place != NO_PLACE &&
			places_of(nth)[entry->place] == partition->tail / MAXIMUM_ALIGNOF + 1)
			places_of(nth)[entry->place] = 0;
		size = entry->size;
	}
	partition->used -= size;
	partition->tail = (partition->tail + size) % near_cache->ring_size;
}

/* Room at the head, for which older entries go. */
static void
make_room(int nth, Size size)
{
	Partition  *partition = &near_cache->partitions[nth];

	while (near_cache->ring_size - partition->used < size)
		drop_oldest(nth);
}

/* An entry that does not fit before the end of the ring goes to its start. */
static Entry *
reserve(int nth, Size size)
{
	Partition  *partition = &near_cache->partitions[nth];
	Size		rest = near_cache->ring_size - partition->head;
	Entry	   *entry;

	if (rest < size)
	{
		make_room(nth, rest);
		if (rest >= ENTRY_HEADER)
		{
			entry = entry_at(nth, partition->head);
			entry->size = rest;
			entry->place = NO_PLACE;
		}
		partition->used += rest;
		partition->head = 0;
	}
	make_room(nth, size);
	entry = entry_at(nth, partition->head);
	entry->size = size;
	partition->used += size;
	partition->head = (partition->head + size) % near_cache->ring_size;
	return entry;
}

void
slate_near_put(SlateSlice key, const SlateNearLease *lease, const Jsonb *value,
			   int64 ttl)
{
	Size		size;
	Entry	   *entry;
	int			nth;

	if (!lease->valid)
		return;
	nth = partition_of(lease->hash);
	size = MAXALIGN(offsetof(Entry, key) + key.len) + MAXALIGN(VARSIZE(value));
	size = Max(size, ENTRY_HEADER);
	if (size > near_cache->ring_size / LARGEST_PART)
		return;
	LWLockAcquire(near_cache->partitions[nth].lock, LW_EXCLUSIVE);
	entry = reserve(nth, size);
	entry->place = place_of(lease->hash);
	entry->hash = lease->hash;
	memcpy(entry->seen, lease->seen, sizeof(entry->seen));
	entry->until = slate_link_now() +
		(ttl > 0 ? Min(ttl, NEAR_LIFE_MS) : NEAR_LIFE_MS);
	entry->database = MyDatabaseId;
	entry->keylen = key.len;
	memcpy(entry->key, key.start, key.len);
	memcpy(value_of(entry), value, VARSIZE(value));
	places_of(nth)[entry->place] =
		((char *) entry - (char *) entry_at(nth, 0)) / MAXIMUM_ALIGNOF + 1;
	LWLockRelease(near_cache->partitions[nth].lock);
}

/* ------------------------------------------------------------------------
 * Writers
 * ------------------------------------------------------------------------
 */

void
slate_near_enter(const SlateOpList *list)
{
	int			count = list->nops + list->nglobs;

	if (near_cache == NULL)
		return;
	Assert(!entered);
	mine.count = 0;
	if (count > SLATE_NEAR_CELLS)
		mine.at[mine.count++] = cell_of_database();
	else
	{
		for (int i = 0; i < list->nops; i++)
			mine.at[mine.count++] =
				cell_of_key((SlateSlice) {list->ops[i].key,
										  list->ops[i].keylen});
		for (int i = 0; i < list->nglobs; i++)
			mine.at[mine.count++] =
				cell_of_glob((SlateSlice) {list->globs[i].glob,
										   list->globs[i].len});
	}
	entered = true;
	add_to_cells(&mine, CHANGE + WRITER);
}

void
slate_near_leave(void)
{
	if (entered)
		add_to_cells(&mine, -WRITER);
	entered = false;
	mine.count = 0;
}

const SlateNearCells *
slate_near_entered(void)
{
	return &mine;
}

/* ------------------------------------------------------------------------
 * Who changes Redis for transactions that have left
 * ------------------------------------------------------------------------
 */

void
slate_near_void(const SlateNearCells *cells)
{
	if (near_cache)
		add_to_cells(cells, CHANGE);
}

static void
void_cell(uint32 cell)
{
	slate_near_void(&(SlateNearCells) {1, {cell}});
}

void
slate_near_void_key(SlateSlice key)
{
	if (near_cache)
		void_cell(cell_of_key(key));
}

void
slate_near_void_glob(SlateSlice glob)
{
	if (near_cache)
		void_cell(cell_of_glob(glob));
}

void
slate_near_void_all(void)
{
	if (near_cache)
		void_cell(cell_of_database());
}
