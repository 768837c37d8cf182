/*-------------------------------------------------------------------------
 *
 * traffic.c
 *	  Who is on the way to Redis with which key: may a push go there directly?
 *
 * A direct push sets a key's guard and value without a look at what is there
 * (see direct.c).  It may do so because all who push are on this
 * server, and tell each other here.
 *
 * Shared memory has cells, by a key's hash: how many are on the way directly,
 * how many by script, and a version up to which all have to go by script.  Who
 * pushes enters the key's cell, sends, has Redis' answer, and leaves.  He may
 * go directly if he has found nobody there, and no version as high as his own,
 * which he leaves behind in any case.  So when a direct push is done, then
 *
 * - who had been there before has left, and was older: the guard is older;
 * - who has come since has found him, and goes by script: later than he, if
 *	 Redis does it later, and otherwise he has been fenced off.
 *
 * Who has found somebody waits until that one has left, which takes what is left
 * of a round trip.  If it takes longer he fences: he changes what the direct push
 * has WATCHed, so if it is not done by then, it never will be, and whoever sent it
 * is told so and goes by script, too.  All others who are on the way directly at
 * that moment have to, as well; that is why to wait comes first.  Either way takes
 * time.  So the cell's version is set ahead, and for a while all go by script
 * there.
 *
 * A direct push whose answer never came may be done at any later time, with
 * nobody in the cell.  So before he leaves, its sender counts it as broken off;
 * and until somebody has fenced since, all have to, and none goes directly.
 * Numbers of both are the database's, as is the key that is WATCHed.
 *
 * A glob is on the way to all keys that begin as it does: there are cells of
 * beginnings, which keys enter besides their own; and one of everything, for
 * globs with short beginnings, and for who pushes too many keys to be in all
 * their cells.  That one only those enter who go directly.
 *
 * In mode strict a writer enters before he marks his keys, and leaves when his
 * marks are gone; or else they are left to the worker, and then he leaves the
 * present version behind: who has a version by now finds the marks.  Who takes
 * one later also commits later, and may wipe the marks of one who has ended.
 * Prepared transactions have their marks, and nobody there: until they have
 * ended, see slate_database_is_settled(), nobody goes directly.
 *
 * Shared memory does not outlive the server, but what backends have sent that
 * were killed does.  So with the server each count begins as if something had
 * been broken off.
 *
 * Two keys that share a cell by accident are taken for one, which costs time
 * only.
 *
 * test/model/direct.py tries all this in every order of its steps.
 *
 * Locks: none.  Cells are atomic; what is done to one is a full barrier.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xlog.h"
#include "cells.h"
#include "miscadmin.h"
#include "pause.h"
#include "storage/shmem.h"
#include "traffic.h"
#include "trust.h"

/* Powers of two. */
#define NKEY_CELLS 16384
#define NBEGINNING_CELLS 1024

#define CELL_OF_EVERYTHING (NKEY_CELLS + NBEGINNING_CELLS)
#define NCELLS (CELL_OF_EVERYTHING + 1)

/* Bytes of WAL for which all go by script where it was crowded. */
#define CROWDED_FOR (256 * 1024)

/* Who is there, by what he does. */
#define DIRECT UINT64CONST(1)
#define SCRIPT (UINT64CONST(1) << 20)
#define GLOB (UINT64CONST(1) << 40)
#define COUNT_OF(there, what) (((there) / (what)) & 0xfffff)

/*
 * In Traffic.cells, beside a cell's number: as what it counts us, and whether we
 * have found somebody there who may be on the way directly.
 */
#define AS_GLOB (UINT32_C(1) << 31)
#define AS_DIRECT (UINT32_C(1) << 30)
#define HAS_MET (UINT32_C(1) << 29)
#define CELL_OF(entry) ((entry) & ~(AS_GLOB | AS_DIRECT | HAS_MET))

/* How often, and for how many us, to wait for those. */
#define MAX_NAPS 50
#define NAP_US 100

/* Cells that one can be in by name; with more, one is everywhere. */
#define MAX_CELLS 1024

typedef struct Cell
{
	pg_atomic_uint64 there;
	pg_atomic_uint64 version;	/* up to it all go by script */
} Cell;

typedef struct Traffic
{
	bool		entered;
	bool		everywhere;		/* and therefore in no more cells */
	bool		direct;			/* may go directly, as far as is known */
	bool		distinct;		/* no key comes twice; all or none is direct */
	bool		has_met;		/* in one of the cells, those */
	bool		must_fence;		/* what was broken off may still come */
	bool		has_marks;
	bool		in_flight;		/* sent directly, not answered */
	uint64		broken;			/* the database's count, when we entered */
	int			ncells;
	uint32		cells[MAX_CELLS];
} Traffic;

bool		slate_traffic_direct = true;

static Cell *cells = NULL;

/* A process is on the way once at a time. */
static Traffic mine;

Size
slate_traffic_shmem_size(void)
{
	return mul_size(NCELLS, sizeof(Cell));
}

void
slate_traffic_shmem_startup(void)
{
	bool		found;

	cells = ShmemInitStruct("slate_cache traffic", slate_traffic_shmem_size(),
							&found);
	for (int i = 0; i < NCELLS && !found; i++)
	{
		pg_atomic_init_u64(&cells[i].there, 0);
		pg_atomic_init_u64(&cells[i].version, 0);
	}
}

/* ------------------------------------------------------------------------
 * Cells
 * ------------------------------------------------------------------------
 */

static uint32
cell_of_key(SlateSlice key)
{
	return slate_cells_hash(key.start, key.len) & (NKEY_CELLS - 1);
}

static uint32
cell_of_beginning(const char *bytes)
{
	return NKEY_CELLS +
		(slate_cells_hash_beginning(bytes) & (NBEGINNING_CELLS - 1));
}

static bool
is_crowded_for(uint32 cell, uint64 version)
{
	return pg_atomic_read_u64(&cells[cell].version) >= version;
}

static void
raise_version(uint32 cell, uint64 version)
{
	uint64		old = pg_atomic_read_u64(&cells[cell].version);

	while (old < version &&
		   !pg_atomic_compare_exchange_u64(&cells[cell].version, &old,
										   version))
		;
}

/* ------------------------------------------------------------------------
 * Entering
 * ------------------------------------------------------------------------
 */

void
slate_traffic_open(bool direct, bool distinct)
{
	Assert(!mine.entered);
	memset(&mine, 0, offsetof(Traffic, cells));
	if (cells == NULL)
		return;
	mine.entered = true;
	mine.direct = direct && slate_traffic_direct;
	mine.distinct = distinct;
}

/* False if we are there already. */
static bool
remember(uint32 entry)
{
	for (int i = 0; i < mine.ncells; i++)
	{
		if ((mine.cells[i] & ~(AS_DIRECT | HAS_MET)) == (entry & ~AS_DIRECT))
			return false;
	}
	mine.cells[mine.ncells++] = entry;
	return true;
}

/* In the cell that we have just entered: was somebody there directly? */
static bool
note_met(uint64 there)
{
	if (COUNT_OF(there, DIRECT) == 0)
		return false;
	mine.cells[mine.ncells - 1] |= HAS_MET;
	mine.has_met = true;
	return true;
}

static uint64
counts_as(uint32 entry)
{
	if (entry & AS_GLOB)
		return GLOB;
	return entry & AS_DIRECT ? DIRECT : SCRIPT;
}

static void
enter_for_glob(uint32 cell, uint64 version)
{
	if (remember(cell | AS_GLOB))
		(void) note_met(pg_atomic_fetch_add_u64(&cells[cell].there, GLOB));
	raise_version(cell, version);
}

void
slate_traffic_add_everything(uint64 version)
{
	if (!mine.entered)
		return;
	mine.everywhere = true;
	enter_for_glob(CELL_OF_EVERYTHING, version);
}

/* With one more for everything. */
static bool
is_full(int more)
{
	return mine.ncells + more >= MAX_CELLS;
}

void
slate_traffic_add_glob(SlateSlice glob, uint64 version)
{
	if (!mine.entered)
		return;
	if (mine.everywhere || is_full(1) ||
		!slate_cells_has_beginning(glob))
		slate_traffic_add_everything(version);
	else
		enter_for_glob(cell_of_beginning(glob.start), version);
}

/*
 * Who finds us takes us for what we may still become: for direct, until it is
 * decided.
 */
static uint32
as_it_looks(uint32 cell)
{
	return mine.direct ? cell | AS_DIRECT : cell;
}

/* Does anything there keep the key from being pushed directly? */
static bool
enter_beginning(uint32 cell, uint64 version)
{
	uint32		entry = as_it_looks(cell);
	uint64		there;

	if (remember(entry))
		there = pg_atomic_fetch_add_u64(&cells[cell].there, counts_as(entry));
	else
		there = pg_atomic_read_u64(&cells[cell].there);
	return COUNT_OF(there, GLOB) == 0 && !is_crowded_for(cell, version);
}

/*
 * Likewise.  If we are there already we keep ourselves from it, unless that is
 * with another key: then all has been said with that one, since whoever has come
 * meanwhile has found us.
 */
static bool
enter_key(uint32 cell, uint64 version)
{
	uint32		entry = as_it_looks(cell);
	uint64		there;
	bool		crowded;
	bool		is_free;

	if (!remember(entry))
	{
		raise_version(cell, version);
		return mine.distinct;
	}
	there = pg_atomic_fetch_add_u64(&cells[cell].there, counts_as(entry));
	crowded = note_met(there);
	is_free = there == 0 && !is_crowded_for(cell, version);
	raise_version(cell, version + (crowded ? CROWDED_FOR : 0));
	return is_free;
}

bool
slate_traffic_add_key(SlateSlice key, uint64 version)
{
	bool		is_free = mine.direct;

	if (!mine.entered)
		return false;
	if (mine.everywhere || is_full(2))
	{
		slate_traffic_add_everything(version);
		return false;
	}
	if (key.len >= SLATE_BEGINNING_LEN)
		is_free &= enter_beginning(cell_of_beginning(key.start), version);
	is_free &= enter_key(cell_of_key(key), version);
	return is_free;
}

/* Does this session speak to the same Redis as the others? */
static bool
shares_redis(SlateDatabase *database)
{
	return pg_atomic_read_u64(&database->server) == slate_service_key();
}

/* Those who come from now on need not fence us off. */
static void
go_by_script(void)
{
	mine.direct = false;
	for (int i = 0; i < mine.ncells; i++)
	{
		uint32		entry = mine.cells[i];

		if ((entry & AS_DIRECT) == 0)
			continue;
		pg_atomic_fetch_add_u64(&cells[CELL_OF(entry)].there,
								SCRIPT - DIRECT);
		mine.cells[i] = entry & ~AS_DIRECT;
	}
}

/* Was anything broken off that nobody has fenced off since? */
static bool
look_for_broken(SlateDatabase *database)
{
	if (database == NULL)
		return false;
	mine.broken = pg_atomic_read_u64(&database->broken);
	if (mine.broken == pg_atomic_read_u64(&database->fenced))
		return false;
	mine.must_fence = true;
	return true;
}

bool
slate_traffic_close(bool direct, uint64 version)
{
	SlateDatabase *database;

	if (!mine.entered)
		return false;
	direct &= mine.direct && !mine.everywhere &&
		enter_beginning(CELL_OF_EVERYTHING, version);
	database = slate_database_find(MyDatabaseId);
	if (look_for_broken(database))
		direct = false;
	direct &= database != NULL && slate_database_is_settled(database) &&
		shares_redis(database);
	if (!direct)
		go_by_script();
	return direct;
}

bool
slate_traffic_is_entered(void)
{
	return mine.entered;
}

/* ------------------------------------------------------------------------
 * On the way
 * ------------------------------------------------------------------------
 */

/*
 * Have all left whom we have found on the way directly?  Who has come since has
 * found us.  We ourselves go by script, and are counted so.
 */
static bool
have_left(void)
{
	for (int i = 0; i < mine.ncells; i++)
	{
		Cell	   *cell = &cells[CELL_OF(mine.cells[i])];

		if ((mine.cells[i] & HAS_MET) == 0)
			continue;
		if (COUNT_OF(pg_atomic_read_u64(&cell->there), DIRECT) > 0)
			return false;
		mine.cells[i] &= ~HAS_MET;
	}
	return true;
}

/*
 * Wait for them, and see how they have ended.  After a commit no latch can be
 * waited for, and who is to wake us would have to know of us.
 */
static void
let_others_leave(SlateDatabase *database, int64 deadline)
{
	bool		gone = false;

	slate_pause(PAUSE_HAS_MET);
	for (int i = 0; i < MAX_NAPS && slate_link_now() < deadline; i++)
	{
		gone = have_left();
		if (gone)
			break;
		pg_usleep(NAP_US);
	}

	/* who leaves has counted before what he has broken off */
	pg_read_barrier();
	(void) look_for_broken(database);
	if (!gone)
		mine.must_fence = true;
	mine.has_met = false;
}

bool
slate_traffic_fence(int64 deadline, SlateWait wait)
{
	SlateDatabase *database;

	if (!mine.has_met && !mine.must_fence)
		return true;
	database = slate_database_find(MyDatabaseId);
	if (mine.has_met)
		let_others_leave(database, deadline);
	if (!mine.must_fence)
		return true;
	if (!slate_trust_fence(deadline, wait))
		return false;
	mine.must_fence = false;

	/* another server's watchers have not been told */
	if (database != NULL && shares_redis(database) &&
		pg_atomic_read_u64(&database->identity) == slate_redis_identity())
	{
		uint64		fenced = pg_atomic_read_u64(&database->fenced);

		while (fenced < mine.broken &&
			   !pg_atomic_compare_exchange_u64(&database->fenced, &fenced,
											   mine.broken))
			;
	}
	return true;
}

/* Without a connection it was that. */
const char *
slate_traffic_fence_error(void)
{
	return slate_redis_connection() == 0 ? slate_redis_error()
		: "Redis has not let us fence off what others have sent";
}

void
slate_traffic_begin_direct(void)
{
	mine.in_flight = true;
}

void
slate_traffic_end_direct(bool is_known)
{
	SlateDatabase *database = slate_database_find(MyDatabaseId);

	if (!is_known && database != NULL)
		pg_atomic_fetch_add_u64(&database->broken, 1);
	mine.in_flight = false;
}

void
slate_traffic_leave_marks(void)
{
	mine.has_marks = true;
}

void
slate_traffic_leave(void)
{
	uint64		last = 0;

	if (!mine.entered)
		return;
	if (mine.in_flight)
		slate_traffic_end_direct(false);
	if (mine.has_marks)
		last = GetXLogInsertRecPtr();
	for (int i = 0; i < mine.ncells; i++)
	{
		uint32		entry = mine.cells[i];

		raise_version(CELL_OF(entry), last);
		pg_atomic_fetch_sub_u64(&cells[CELL_OF(entry)].there,
								counts_as(entry));
	}
	mine.entered = false;
}
