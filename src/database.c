/*-------------------------------------------------------------------------
 *
 * database.c
 *	  What the sessions of one database and its worker know in common: the
 *	  registry of databases.
 *
 * An entry is found by a walk over all of them without a lock: its oid is
 * written last when it is made.  It is made under the lock.  It is given back
 * when its database is gone, so when nobody can be using it.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "database.h"
#include "redis.h"
#include "storage/dsm.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#define TRANCHE_NAME "slate_cache"

/*
 * A keyspace is large if a walk over it meets more names than this, or takes
 * longer; and is taken for large for so long.  So many names take Redis a
 * millisecond or two.
 */
#define LARGE_NAMES 2000
#define LARGE_MS 50
#define LARGE_FOR_MS 60000

/*
 * How long (ms) it takes a server that starts, or whose launcher has ended, to have
 * one, at most.
 */
#define LAUNCHER_DUE_MS 10000

typedef struct Registry
{
	LWLock	   *lock;
	Latch	   *volatile launcher;
	pg_atomic_uint64 launcher_due;	/* until then it may still come */
	SlateStart	start;			/* under the lock */
	SlateDatabase databases[SLATE_MAX_DATABASES];
} Registry;

static Registry *registry = NULL;

static Size
shmem_size(void)
{
	return MAXALIGN(sizeof(Registry));
}

void
slate_database_shmem_request(void)
{
	RequestAddinShmemSpace(shmem_size());
	RequestNamedLWLockTranche(TRANCHE_NAME, 1);
}

/* All of it but the oid. */
static void
reset(SlateDatabase *database)
{
	pg_atomic_init_u32(&database->worker, 0);
	database->latch = NULL;
	pg_atomic_init_u32(&database->wanted, 0);
	pg_atomic_init_u32(&database->unavailable, 0);
	pg_atomic_init_u64(&database->leave_until, 0);
	pg_atomic_init_u64(&database->server, 0);
	pg_atomic_init_u64(&database->clock, 0);
	pg_atomic_init_u64(&database->large_until, 0);
	pg_atomic_init_u32(&database->ring, DSM_HANDLE_INVALID);
	pg_atomic_init_u32(&database->ring_wanted, 0);
	pg_atomic_init_u32(&database->look, 0);
	pg_atomic_init_u32(&database->flush, 0);
	pg_atomic_init_u32(&database->flushed, 0);
	pg_atomic_init_u32(&database->passes, 0);
	pg_atomic_init_u32(&database->failing, 0);
	pg_atomic_init_u32(&database->unseen, 0);
	database->refusal[0] = '\0';
	slate_progress_init(&database->progress);
	pg_atomic_init_u32(&database->current, 0);
	for (int i = 0; i < SLATE_GENERATIONS; i++)
		pg_atomic_init_u64(&database->bytes[i], 0);
	pg_atomic_init_u32(&database->full, 0);
	pg_atomic_init_u64(&database->forgiven, 0);
	pg_atomic_init_u32(&database->must_empty, 0);
	for (int kind = 0; kind < SLATE_DOUBT_KINDS; kind++)
	{
		pg_atomic_init_u64(&database->overflow_from[kind], 0);
		pg_atomic_init_u64(&database->overflow_to[kind], 0);
		database->fresh[kind].count = 0;
		database->active[kind].count = 0;
	}
	database->nundecided = 0;
	memset(&database->crowd, 0, sizeof(database->crowd));
	pg_atomic_init_u32(&database->trust, 0);
	pg_atomic_init_u64(&database->trust_since, 0);
	pg_atomic_init_u64(&database->epoch, 0);
	pg_atomic_init_u32(&database->begun, 0);
	pg_atomic_init_u64(&database->identity, 0);
	pg_atomic_init_u64(&database->confirmed_at, 0);

	/* what was sent in an earlier life of the server may still come */
	pg_atomic_init_u64(&database->broken, 1);
	pg_atomic_init_u64(&database->fenced, 0);
	pg_atomic_init_u32(&database->prepared, 0);
	pg_atomic_init_u32(&database->settled, 0);
}

void
slate_database_shmem_startup(void)
{
	bool		found;

	registry = ShmemInitStruct("slate_cache databases",
							   shmem_size(), &found);
	if (found)
		return;
	registry->lock = &GetNamedLWLockTranche(TRANCHE_NAME)->lock;
	registry->launcher = NULL;
	pg_atomic_init_u64(&registry->launcher_due,
					   slate_link_now() + LAUNCHER_DUE_MS);
	memset(&registry->start, 0, sizeof(registry->start));
	for (int i = 0; i < SLATE_MAX_DATABASES; i++)
	{
		pg_atomic_init_u32(&registry->databases[i].oid, InvalidOid);
		reset(&registry->databases[i]);
	}
}

bool
slate_database_is_shared(void)
{
	return registry != NULL;
}

LWLock *
slate_database_lock(void)
{
	return registry->lock;
}

SlateDatabase *
slate_database_at(int position)
{
	SlateDatabase *database = &registry->databases[position];

	return pg_atomic_read_u32(&database->oid) == InvalidOid ? NULL : database;
}

SlateDatabase *
slate_database_find(Oid oid)
{
	if (registry == NULL || !OidIsValid(oid))
		return NULL;
	for (int i = 0; i < SLATE_MAX_DATABASES; i++)
	{
		if (pg_atomic_read_u32(&registry->databases[i].oid) == oid)
		{
			pg_read_barrier();
			return &registry->databases[i];
		}
	}
	return NULL;
}

/*
 * The file says where recovery ended: before anybody may write there is a
 * checkpoint, or a new timeline.  Of a new timeline nothing is known; then
 * what has been given until now is not of this life either.
 */
static void
read_start(SlateStart *start)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);

	if (!crc_ok)
		elog(ERROR, "the control file is damaged");
	start->timeline = GetWALInsertionTimeLine();
	start->lsn = control->checkPointCopy.redo;
	if (control->checkPointCopy.ThisTimeLineID == start->timeline)
		start->xid = U64FromFullTransactionId(control->checkPointCopy.nextXid);
	else
		start->xid = U64FromFullTransactionId(ReadNextFullTransactionId());
	start->known = true;
	pfree(control);
}

void
slate_database_start(SlateStart *start)
{
	LWLockAcquire(registry->lock, LW_SHARED);
	*start = registry->start;
	LWLockRelease(registry->lock);
	if (start->known)
		return;

	read_start(start);
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	if (!registry->start.known)
		registry->start = *start;
	*start = registry->start;
	LWLockRelease(registry->lock);
}

/* What the server has found in the journal when it started is in doubt. */
static void
begin_entry(SlateDatabase *database, Oid oid, const SlateStart *start)
{
	reset(database);
	database->fresh[DOUBT_ALL].count = 1;
	database->fresh[DOUBT_ALL].ranges[0].first = 0;
	database->fresh[DOUBT_ALL].ranges[0].last = start->xid - 1;
	database->fresh[DOUBT_ALL].ranges[0].generations =
		(1 << SLATE_GENERATIONS) - 1;
	pg_write_barrier();
	pg_atomic_write_u32(&database->oid, oid);
}

static SlateDatabase *
make_entry(Oid oid)
{
	SlateStart	start;
	SlateDatabase *database;

	slate_database_start(&start);
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	database = slate_database_find(oid);
	for (int i = 0; i < SLATE_MAX_DATABASES && database == NULL; i++)
	{
		if (pg_atomic_read_u32(&registry->databases[i].oid) != InvalidOid)
			continue;
		database = &registry->databases[i];
		begin_entry(database, oid, &start);
	}
	LWLockRelease(registry->lock);
	return database;
}

SlateDatabase *
slate_database_mine(void)
{
	static SlateDatabase *mine = NULL;

	if (mine && pg_atomic_read_u32(&mine->oid) == MyDatabaseId)
		return mine;
	if (registry == NULL || !OidIsValid(MyDatabaseId) || RecoveryInProgress())
		return NULL;
	mine = slate_database_find(MyDatabaseId);
	if (mine == NULL)
		mine = make_entry(MyDatabaseId);
	return mine;
}

void
slate_database_release(SlateDatabase *database)
{
	dsm_handle	ring = pg_atomic_read_u32(&database->ring);

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	pg_atomic_write_u32(&database->oid, InvalidOid);
	LWLockRelease(registry->lock);
	if (ring != DSM_HANDLE_INVALID)
		dsm_unpin_segment(ring);
}

static MemoryContext worker_context;
static ResourceOwner worker_owner;

void
slate_database_begin(void)
{
	worker_context = CurrentMemoryContext;
	worker_owner = CurrentResourceOwner;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(worker_context);
}

void
slate_database_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker_context);
	CurrentResourceOwner = worker_owner;
}

void
slate_database_use_plain_transactions(void)
{
	static const char *const settings[][2] = {
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"synchronous_commit", "local"},
		COMPAT_TRANSACTION_TIMEOUT
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
						PGC_S_OVERRIDE);
}

void
slate_database_set_launcher(Latch *latch)
{
	if (latch == NULL)
		pg_atomic_write_u64(&registry->launcher_due,
							slate_link_now() + LAUNCHER_DUE_MS);
	registry->launcher = latch;
}

bool
slate_database_has_launcher(void)
{
	return registry != NULL && registry->launcher != NULL;
}

bool
slate_database_expects_launcher(void)
{
	if (slate_database_has_launcher())
		return true;
	return registry != NULL &&
		slate_link_now() < (int64) pg_atomic_read_u64(&registry->launcher_due);
}

void
slate_database_move(SlateDatabase *database, uint64 server)
{
	if (pg_atomic_read_u64(&database->server) == server)
		return;

	/* whoever sees the one does not see the other's */
	pg_atomic_write_u64(&database->identity, 0);
	pg_memory_barrier();
	pg_atomic_write_u64(&database->server, server);
}

bool
slate_database_is_elsewhere(SlateDatabase *database)
{
	if (slate_database_has_our_redis(database))
		return false;
	pg_memory_barrier();
	return slate_redis_identity() == 0 ||
		pg_atomic_read_u64(&database->identity) != slate_redis_identity();
}

bool
slate_database_has_our_redis(SlateDatabase *database)
{
	uint64		server = pg_atomic_read_u64(&database->server);

	return server == 0 || server == slate_service_key();
}

void
slate_database_note_refusal(SlateDatabase *database, const char *refusal)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	strlcpy(database->refusal, refusal, sizeof(database->refusal));
	LWLockRelease(registry->lock);
}

const char *
slate_database_refusal(SlateDatabase *database)
{
	char		refusal[SLATE_REASON_SIZE];

	if (pg_atomic_read_u32(&database->failing) == 0)
		return "";
	LWLockAcquire(registry->lock, LW_SHARED);
	strlcpy(refusal, database->refusal, sizeof(refusal));
	LWLockRelease(registry->lock);
	return pstrdup(refusal);
}

void
slate_database_note_keyspace(SlateDatabase *database, uint64 nnames, int64 ms)
{
	if (nnames > LARGE_NAMES || ms > LARGE_MS)
		pg_atomic_write_u64(&database->large_until,
							slate_link_now() + LARGE_FOR_MS);
}

bool
slate_database_keyspace_is_large(SlateDatabase *database)
{
	return slate_link_now() <
		(int64) pg_atomic_read_u64(&database->large_until);
}

void
slate_database_wake(SlateDatabase *database)
{
	Latch	   *latch = database->latch;

	if (latch == NULL)
	{
		pg_atomic_write_u32(&database->wanted, 1);
		latch = registry->launcher;
	}
	if (latch)
		SetLatch(latch);
}

void
slate_database_want(SlateDatabase *database)
{
	Latch	   *launcher = registry->launcher;

	pg_atomic_write_u32(&database->wanted, 1);
	slate_database_wake(database);
	if (launcher)
		SetLatch(launcher);
}

/* ------------------------------------------------------------------------
 * Prepared transactions
 * ------------------------------------------------------------------------
 */

void
slate_database_note_prepared(void)
{
	SlateDatabase *database = slate_database_find(MyDatabaseId);

	if (database)
		pg_atomic_fetch_add_u32(&database->prepared, 1);
}

bool
slate_database_is_settled(SlateDatabase *database)
{
	return pg_atomic_read_u32(&database->settled) ==
		pg_atomic_read_u32(&database->prepared) + 1;
}

uint32
slate_database_count_prepared(SlateDatabase *database)
{
	uint32		count = pg_atomic_read_u32(&database->prepared);

	/* what is looked at afterwards is read afterwards */
	pg_memory_barrier();
	return count;
}

void
slate_database_settle(SlateDatabase *database, uint32 prepared)
{
	if (pg_atomic_read_u32(&database->settled) != prepared + 1)
		pg_atomic_write_u32(&database->settled, prepared + 1);
}
