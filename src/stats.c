/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  Counters, and the log's word about what could not be delivered.
 *
 * Each backend has counters of its own, which the next one that has its place
 * goes on with; a reader adds them up.  If all counted in one place, each commit
 * and each hit would fetch it from another processor's cache.  They are atomics
 * without a lock, since anybody may reset them: a reader of several gets each
 * one right, not a snapshot of all.
 *
 * A loss is noticed after a commit, where writing to the log is out of the
 * question: ereport() may throw.  So the backend keeps it in loss, and logs it
 * when it next comes to a place where an error does no harm, or ends.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "database.h"
#include "events.h"
#include "link.h"
#include "port/atomics.h"
#include "stats.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#define LOG_INTERVAL_MS 30000

/* How often a loss is an event; all are counted. */
#define EVENT_INTERVAL_MS 60000

typedef struct StatsState
{
	pg_atomic_uint64 next_loss_log; /* clock of slate_link_now(); 0 at first */
	pg_atomic_uint64 next_delay_log;	/* likewise */
	pg_atomic_uint64 next_event;	/* likewise */
} StatsState;

/* A backend's, in cache lines that are not another's, too. */
typedef union Counters
{
	pg_atomic_uint64 of[STAT_COUNT];
	char		pad[TYPEALIGN(PG_CACHE_LINE_SIZE,
							  STAT_COUNT * sizeof(pg_atomic_uint64))];
} Counters;

/* This session's own, until shared memory takes its place. */
static StatsState own_state;
static StatsState *state = &own_state;
static Counters own_counters;
static Counters *counters = &own_counters;
static int	nbackends = 1;

/* Failures of this backend that have not been logged. */
static struct
{
	int64		npushes;		/* lost */
	int64		nkeys;
	char		reason[256];	/* of the last one */
	int64		ndelayed;		/* in the journal */
	char		delay_reason[256];	/* likewise */
}			loss;

static Size
counters_size(void)
{
	return mul_size(MaxBackends, sizeof(Counters));
}

Size
slate_stats_shmem_size(void)
{
	return add_size(CACHELINEALIGN(sizeof(StatsState)), counters_size());
}

void
slate_stats_shmem_startup(void)
{
	bool		found;

	state = ShmemInitStruct("slate_cache stats", sizeof(StatsState), &found);
	counters = ShmemInitStruct("slate_cache counters", counters_size(), &found);
	nbackends = MaxBackends;
	if (found)
		return;
	for (int i = 0; i < nbackends; i++)
	{
		for (int j = 0; j < STAT_COUNT; j++)
			pg_atomic_init_u64(&counters[i].of[j], 0);
	}
	pg_atomic_init_u64(&state->next_loss_log, 0);
	pg_atomic_init_u64(&state->next_delay_log, 0);
	pg_atomic_init_u64(&state->next_event, 0);
}

bool
slate_stats_shared(void)
{
	return state != &own_state;
}

/* Whoever is no backend counts with the first one. */
static Counters *
my_counters(void)
{
	int			number = MyProc ? compat_my_proc_number() : 0;

	return &counters[number < nbackends ? number : 0];
}

void
slate_stats_add(SlateCounter counter, int64 n)
{
	if (n != 0)
		pg_atomic_fetch_add_u64(&my_counters()->of[counter], n);
}

uint64
slate_stats_get(SlateCounter counter)
{
	uint64		sum = 0;

	for (int i = 0; i < nbackends; i++)
		sum += pg_atomic_read_u64(&counters[i].of[counter]);
	return sum;
}

void
slate_stats_reset(void)
{
	for (int i = 0; i < nbackends; i++)
	{
		for (int j = 0; j < STAT_COUNT; j++)
			pg_atomic_write_u64(&counters[i].of[j], 0);
	}
}

/* Is it time, and nobody else's turn?  Then the next is so many ms later. */
static bool
is_due(pg_atomic_uint64 *next, int64 interval)
{
	uint64		now = slate_link_now();
	uint64		due = pg_atomic_read_u64(next);

	return now >= due &&
		pg_atomic_compare_exchange_u64(next, &due, now + interval);
}

/* The first that fails since the worker has told all; false if it is not. */
static bool
is_first_delay(void)
{
	SlateDatabase *database = slate_database_find(MyDatabaseId);
	uint64		never = 0;

	return database &&
		pg_atomic_compare_exchange_u64(&database->progress.delayed_since,
									   &never, GetCurrentTimestamp());
}

void
slate_stats_lost(int64 nkeys, const char *reason)
{
	if (is_due(&state->next_event, EVENT_INTERVAL_MS))
		slate_events_note(EVENT_PUSHES_LOST, MyDatabaseId, "%s", reason);
	slate_stats_add(STAT_PUSHES_LOST, 1);
	slate_stats_add(STAT_KEYS_LOST, nkeys);
	loss.npushes++;
	loss.nkeys += nkeys;
	strlcpy(loss.reason, reason, sizeof(loss.reason));
}

void
slate_stats_delayed(int64 nkeys, const char *reason)
{
	if (is_first_delay())
		slate_events_note(EVENT_PUSHES_DELAYED, MyDatabaseId, "%s", reason);
	slate_stats_add(STAT_PUSHES_DELAYED, 1);
	slate_stats_add(STAT_KEYS_DELAYED, nkeys);
	loss.ndelayed++;
	strlcpy(loss.delay_reason, reason, sizeof(loss.delay_reason));
}

/* Each kind by itself: what is lost is not to hide behind what is late. */
static void
log_losses(void)
{
	int64		npushes = loss.npushes;
	int64		nkeys = loss.nkeys;

	if (npushes == 0 || !is_due(&state->next_loss_log, LOG_INTERVAL_MS))
		return;
	loss.npushes = 0;
	loss.nkeys = 0;
	/* the statement is another one by now */
	ereport(LOG_SERVER_ONLY,
			(errmsg("could not deliver cache changes to Redis: %s", loss.reason),
			 errdetail("Lost since this session's last such message: " INT64_FORMAT " keys of " INT64_FORMAT " transactions. Cached copies of them may be stale until they expire.",
					   nkeys, npushes),
			 errhint("The view slate_cache.stats counts the losses of all sessions."),
			 errhidestmt(true)));
}

static void
log_delays(void)
{
	int64		ndelayed = loss.ndelayed;

	if (ndelayed == 0 || !is_due(&state->next_delay_log, LOG_INTERVAL_MS))
		return;
	loss.ndelayed = 0;
	ereport(LOG_SERVER_ONLY,
			(errmsg("could not deliver cache changes to Redis yet: %s",
					loss.delay_reason),
			 errdetail("In the journal since this session's last such message: " INT64_FORMAT " transactions.",
					   ndelayed),
			 errhint("The view slate_cache.journal shows what waits for Redis."),
			 errhidestmt(true)));
}

static void
log_at_exit(int code pg_attribute_unused(), Datum arg pg_attribute_unused())
{
	log_losses();
	log_delays();
}

void
slate_stats_log_losses(void)
{
	static bool registered = false;

	/* for the loss of a session's last commit */
	if (!registered)
		before_shmem_exit(log_at_exit, (Datum) 0);
	registered = true;
	log_losses();
	log_delays();
}
