/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  What is done for the backends in the background: sweeps.
 *
 * Shared memory has a queue of globs, a run of entries in a buffer of fixed
 * size.  Backends append, the worker works on what is there and removes it when
 * it is done, so that its successor finds it after an ERROR.  A stop or a crash
 * of the server forgets it, until there is a journal.  A glob that waits already
 * is not appended again.  If the queue is full, the backend is told so.
 *
 * The worker is connected to no database, and so hinders none from being
 * dropped.  It begins no transaction.
 *
 * Locks: the queue's LWLock guards all of it but the two fields that say so.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include <poll.h>

#include "access/xact.h"
#include "common/hashfn.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "script.h"
#include "stats.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "worker.h"

#define TRANCHE_NAME "slate_cache worker"
#define QUEUE_BYTES (64 * 1024)

/* A keyspace is large if a pass over it takes longer than this. */
#define LARGE_PASS_MS 50

/* For so long a keyspace that was large is taken for large. */
#define LARGE_FOR_MS 60000

/* How long to wait after a failure, at first and at most. */
#define MIN_RETRY_MS 500
#define MAX_RETRY_MS 30000

/* How often to look the server's name up. */
#define LOOK_UP_MS 10000

/* If that takes longer than this, it is left alone for a while. */
#define SLOW_LOOK_UP_MS 1000
#define LOOK_UP_REST_MS 120000

/* How often, a millisecond apart, a commit tries to get the lock. */
#define LOCK_TRIES 5

/* One glob; its text follows. */
typedef struct QueueEntry
{
	SlateStamp	stamp;
	uint32		server;			/* of the backend, see my_server() */
	int			len;
} QueueEntry;

typedef struct Queue
{
	LWLock	   *lock;
	pg_atomic_uint64 large_until;	/* clock of slate_link_now(); no lock */
	Latch	   *volatile latch; /* of the worker; NULL: there is none; may be
								 * read without the lock */
	pg_atomic_uint32 server;	/* which Redis it sweeps, see my_server(); no
								 * lock */
	int			used;			/* bytes */
	int			taken;			/* of those, what the present pass works on */
	char		bytes[QUEUE_BYTES] pg_attribute_aligned(MAXIMUM_ALIGNOF);
} Queue;

static Queue *queue = NULL;

/* The worker's: when to look the server's name up again; slate_link_now() */
static int64 next_look_up = 0;

PGDLLEXPORT void slate_worker_main(Datum arg);

/* ------------------------------------------------------------------------
 * Shared memory
 * ------------------------------------------------------------------------
 */

void
slate_worker_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(Queue)));
	RequestNamedLWLockTranche(TRANCHE_NAME, 1);
}

void
slate_worker_shmem_startup(void)
{
	bool		found;

	queue = ShmemInitStruct("slate_cache worker", sizeof(Queue), &found);
	if (found)
		return;
	memset(queue, 0, offsetof(Queue, bytes));
	queue->lock = &GetNamedLWLockTranche(TRANCHE_NAME)->lock;
	pg_atomic_init_u64(&queue->large_until, 0);
	pg_atomic_init_u32(&queue->server, 0);
}

/* ------------------------------------------------------------------------
 * Backends
 * ------------------------------------------------------------------------
 */

bool
slate_worker_is_there(void)
{
	return queue && queue->latch != NULL;
}

/* A database or a role may have another Redis than the worker. */
static uint32
my_server(void)
{
	const char *name = slate_redis_server_name();

	return hash_bytes((const unsigned char *) name, strlen(name));
}

bool
slate_worker_serves_us(void)
{
	return slate_worker_is_there() &&
		pg_atomic_read_u32(&queue->server) == my_server();
}

bool
slate_worker_keyspace_is_large(void)
{
	return queue && slate_link_now() <
		(int64) pg_atomic_read_u64(&queue->large_until);
}

static Size
entry_size(int len)
{
	return MAXALIGN(sizeof(QueueEntry) + len);
}

static void
append_entry(const SlateSlice *glob, const SlateStamp *stamp, uint32 server)
{
	QueueEntry *entry = (QueueEntry *) (queue->bytes + queue->used);

	entry->stamp = *stamp;
	entry->server = server;
	entry->len = glob->len;
	memcpy(entry + 1, glob->start, glob->len);
	queue->used += entry_size(glob->len);
}

/* A commit must not wait for whoever may have been stopped with the lock. */
static bool
lock_within_reason(void)
{
	for (int i = 0; i < LOCK_TRIES; i++)
	{
		if (LWLockConditionalAcquire(queue->lock, LW_EXCLUSIVE))
			return true;
		(void) poll(NULL, 0, 1);
	}
	return false;
}

/* An entry for the glob that no pass has taken yet, or NULL. */
static QueueEntry *
waiting_entry(const SlateSlice *glob, uint32 server)
{
	int			offset = queue->taken;

	while (offset < queue->used)
	{
		QueueEntry *entry = (QueueEntry *) (queue->bytes + offset);

		if (entry->len == glob->len && entry->server == server &&
			memcmp(entry + 1, glob->start, glob->len) == 0)
			return entry;
		offset += entry_size(entry->len);
	}
	return NULL;
}

/* The entry is of two transactions now, and so spares neither's own keys. */
static void
raise_entry(QueueEntry *entry, const SlateStamp *stamp)
{
	if (strcmp(stamp->version, entry->stamp.version) > 0)
		strlcpy(entry->stamp.version, stamp->version,
				sizeof(entry->stamp.version));
	memset(entry->stamp.nonce, '-', SLATE_TOKEN_LEN);
}

/* False if it does not fit. */
static bool
add_glob(const SlateSlice *glob, const SlateStamp *stamp, uint32 server)
{
	QueueEntry *entry = waiting_entry(glob, server);

	if (entry)
		raise_entry(entry, stamp);
	else if (queue->used + entry_size(glob->len) <= QUEUE_BYTES)
		append_entry(glob, stamp, server);
	else
		return false;
	return true;
}

bool
slate_worker_sweep(const SlateSlice *globs, int nglobs,
				   const SlateStamp *stamp)
{
	uint32		server = my_server();
	bool		takes;

	if (!lock_within_reason())
		return false;

	/* what was added before one does not fit does no harm */
	takes = slate_worker_serves_us();
	for (int i = 0; takes && i < nglobs; i++)
		takes = add_glob(&globs[i], stamp, server);
	if (takes)
		SetLatch(queue->latch);
	LWLockRelease(queue->lock);
	return takes;
}

/* ------------------------------------------------------------------------
 * The worker
 * ------------------------------------------------------------------------
 */

/* A copy of what waited when a pass began. */
typedef struct Work
{
	int			nbytes;
	char	   *bytes;
	int			nglobs;
	SlateSlice *globs;
	const SlateStamp **stamps;
	int			nforeign;		/* globs of another server: the url has changed
								 * since */
} Work;

static void
take_work(Work *work)
{
	int			offset = 0;

	/* an error under the lock would leave it locked */
	work->bytes = palloc(QUEUE_BYTES);
	LWLockAcquire(queue->lock, LW_EXCLUSIVE);
	work->nbytes = queue->taken = queue->used;
	memcpy(work->bytes, queue->bytes, queue->used);
	LWLockRelease(queue->lock);

	work->nglobs = 0;
	work->nforeign = 0;
	work->globs = palloc_array(SlateSlice, work->nbytes / sizeof(QueueEntry) + 1);
	work->stamps = palloc_array(const SlateStamp *,
								work->nbytes / sizeof(QueueEntry) + 1);
	while (offset < work->nbytes)
	{
		QueueEntry *entry = (QueueEntry *) (work->bytes + offset);

		offset += entry_size(entry->len);
		if (entry->server != my_server())
		{
			work->nforeign++;
			continue;
		}
		work->globs[work->nglobs].start = (char *) (entry + 1);
		work->globs[work->nglobs].len = entry->len;
		work->stamps[work->nglobs++] = &entry->stamp;
	}
}

/* Others have only been appended since. */
static void
remove_work(const Work *work)
{
	LWLockAcquire(queue->lock, LW_EXCLUSIVE);
	queue->used -= work->nbytes;
	queue->taken = 0;
	memmove(queue->bytes, queue->bytes + work->nbytes, queue->used);
	LWLockRelease(queue->lock);
	if (work->nforeign > 0)
		slate_stats_lost(work->nforeign,
						 "patterns were dropped on a server that slate_cache.url no longer names");
}

/* One pass over the keyspace for all that waits; false if it did not succeed */
static bool
sweep_once(const Work *work)
{
	int64		start = slate_link_now();
	SlateOutcome outcome = {0};
	bool		finished;

	slate_script_sweep_init();
	if (slate_script_prepare(start + slate_redis_timeout,
							 LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE)
		return false;
	(void) slate_script_sweep(slate_globset_make(work->globs, work->nglobs),
							  work->stamps, &outcome, &finished, PG_INT64_MAX,
							  PG_INT64_MAX, LINK_WAIT_INTERRUPTIBLE);
	slate_stats_add(STAT_SWEEPS, 1);
	slate_stats_add(STAT_KEYS_DROPPED, outcome.dropped);
	if (!finished || outcome.refused > 0)
		return false;
	if (slate_link_now() - start > LARGE_PASS_MS)
		pg_atomic_write_u64(&queue->large_until,
							slate_link_now() + LARGE_FOR_MS);
	return true;
}

/* Returns for how long to wait if nothing new comes; -1 for ever. */
static long
sweep(MemoryContext context)
{
	static long retry = MIN_RETRY_MS / 2;
	MemoryContext old = MemoryContextSwitchTo(context);
	Work		work;
	bool		done = true;

	take_work(&work);
	if (work.nglobs == 0)
		remove_work(&work);
	else
	{
		SetCurrentStatementStartTimestamp();
		pgstat_report_activity(STATE_RUNNING, "sweeping Redis for dropped patterns");
		done = sweep_once(&work);
		if (done)
			remove_work(&work);
		pgstat_report_activity(STATE_IDLE, NULL);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(context);
	if (done)
	{
		retry = MIN_RETRY_MS / 2;
		return -1;
	}
	retry = Min(2 * retry, MAX_RETRY_MS);
	return retry;
}

static void
forget_worker(int code pg_attribute_unused(), Datum arg pg_attribute_unused())
{
	bool		is_waiting;

	LWLockAcquire(queue->lock, LW_EXCLUSIVE);
	queue->latch = NULL;
	queue->taken = 0;
	is_waiting = queue->used > 0;
	LWLockRelease(queue->lock);
	if (is_waiting)
		ereport(LOG,
				(errmsg("slate_cache worker ends before it has looked for all keys of dropped patterns"),
				 errdetail("If the server stops now, what these patterns stand for stays in Redis until it expires.")));
}

/*
 * Backends that use another Redis must look for themselves.  Looking the name
 * up, so that who connects finds it, also takes up a url that has changed.
 */
static void
announce_server(void)
{
	(void) slate_redis_look_up();
	next_look_up = slate_link_now() + LOOK_UP_MS;
	pg_atomic_write_u32(&queue->server, my_server());
}

static void
announce(void)
{
	before_shmem_exit(forget_worker, (Datum) 0);
	announce_server();
	queue->latch = MyLatch;
}

/* Every now and then; false if there is no name. */
static bool
look_up_name(void)
{
	int64		start = slate_link_now();

	if (start < next_look_up)
		return true;
	if (!slate_redis_look_up())
		return false;

	/* a name server that hangs makes us deaf meanwhile */
	next_look_up = slate_link_now() +
		(slate_link_now() - start < SLOW_LOOK_UP_MS ? LOOK_UP_MS
		 : LOOK_UP_REST_MS);
	return true;
}

void
slate_worker_main(Datum arg pg_attribute_unused())
{
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "slate_cache worker");
	context = AllocSetContextCreate(TopMemoryContext, "slate_cache worker",
									ALLOCSET_DEFAULT_SIZES);
	announce();

	for (;;)
	{
		long		wait_for;
		bool		has_name;

		/* first of all: what comes from here on sets it again */
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			announce_server();
		}
		has_name = look_up_name();
		wait_for = sweep(context);
		slate_stats_log_losses();
		if (has_name)
			wait_for = wait_for < 0 ? LOOK_UP_MS : Min(wait_for, LOOK_UP_MS);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (wait_for >= 0 ? WL_TIMEOUT : 0),
						 wait_for, PG_WAIT_EXTENSION);
	}
}

void
slate_worker_register(void)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_ConsistentState,
		.bgw_restart_time = 5
	};

	strlcpy(worker.bgw_name, "slate_cache worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "slate_cache worker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "slate_cache", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "slate_worker_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
