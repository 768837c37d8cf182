/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  A database's worker: replays the journal, sweeps, keeps watch on Redis.
 *
 * ITS ROUND
 *
 * 1. What have sessions in mode async left in the ring?  See drain.c.  As long
 *	  as more comes it stays with that, but for a look at the rest now and then.
 * 2. Is the extension still here?  Does somebody want the database for
 *	  himself?  Then it leaves; the launcher sends another one when it is asked.
 * 3. Is it still the Redis that we know?  See trust.c.  If not, or if the
 *	  journal was full, or on request, the namespace is emptied: emptying.c.
 * 4. What is marked, for mode strict, and need not be any more?  See strict.c.
 * 5. What is in doubt?  One step of a pass over the journal: replay.c.
 * 6. Generations: see journal.c.
 *
 * While Redis is away the worker is the one that tries it (the breaker, see
 * redis.c), and so knows first that it is back.  It then works as long as it
 * rests: half of Redis' time is for the others.
 *
 * No transaction is open during I/O.  The worker may die at any place.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_db_role_setting.h"
#include "commands/extension.h"
#include "deliver.h"
#include "doubt.h"
#include "drain.h"
#include "emptying.h"
#include "events.h"
#include "examine.h"
#include "journal.h"
#include "namespace.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "redis.h"
#include "replay.h"
#include "ring.h"
#include "script.h"
#include "stats.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "strict.h"
#include "sweep.h"
#include "tcop/tcopprot.h"
#include "traffic.h"
#include "trust.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/* How often to look around when nothing is to be done. */
#define ROUND_MS 1000

/* How often while transactions are prepared. */
#define UNDECIDED_MS 200

/* How long to wait after a failure, at first and at most. */
#define MIN_RETRY_MS 200
#define MAX_RETRY_MS 5000

/* How long to wait before the namespace is emptied again, at most. */
#define MAX_EMPTY_REST_MS 60000

/* Pages of a generation that tell how old it is. */
#define FIRST_BLOCKS 16

/* A generation has served when it holds so much, or for so long. */
#define ROTATE_BYTES (256 * 1024)
#define ROTATE_MS 5000

/* How often to connect anew, to meet the server that others would meet. */
#define RECONNECT_MS 10000

/* How often marks of prepared transactions are renewed. */
#define RENEW_MS (6 * 3600 * 1000)

/*
 * It waits for more in the ring: so long between two looks, until nothing has
 * come for so long, and away from the rest for no longer than this.
 */
#define DRAIN_NAP_MS 1
#define DRAIN_IDLE_MS 20
#define DRAIN_MS 200

/* How long it rests after a step, at most. */
#define MAX_REST_MS 100

/* How often the end of a failure is an event. */
#define CONCLUDE_MS 10000

static SlateDatabase *database = NULL;
static Oid	extension_oid = InvalidOid;

/* What was set for this worker when it began; that has been changed. */
static char *own_settings = NULL;
static bool is_outdated = false;

/* The last refusal of Redis that was logged since all went well. */
static char told_refusal[SLATE_REASON_SIZE];

/* How long it waits after the next failure, and twice as long after that. */
static long retry = MIN_RETRY_MS;

static int64 next_rotation = 0;
static int64 next_empty = 0;
static int64 empty_rest = ROUND_MS;

PGDLLEXPORT void slate_worker_main(Datum arg);

/* ------------------------------------------------------------------------
 * Watching Redis
 * ------------------------------------------------------------------------
 */

/*
 * A round has failed.  Redis may be away, which others tell; but if it refuses
 * something, a missing privilege, say, that is for somebody to mend.
 */
static void
note_failure(void)
{
	const char *refusal = slate_redis_refusal();

	pg_atomic_fetch_add_u32(&database->failing, 1);
	slate_database_note_refusal(database, refusal);
	if (refusal[0] == '\0' || strcmp(refusal, told_refusal) == 0)
		return;
	strlcpy(told_refusal, refusal, sizeof(told_refusal));
	slate_events_note(EVENT_REFUSED, MyDatabaseId, "%s: %s",
					  slate_redis_server_name(), refusal);
	ereport(LOG,
			(errmsg("Redis refuses what slate_cache tells it: %s", refusal),
			 errdetail("The server is %s; until it takes that, changes wait in the journal.",
					   slate_redis_server_name()),
			 errhint("Its user may lack a privilege, or it may be out of memory; see slate_cache.health.")));
}

static void
note_recovery(void)
{
	pg_atomic_write_u32(&database->failing, 0);
	told_refusal[0] = '\0';
}

/* Marks of strict writers: those that are left, those that must last. */
static void
watch_marks(void)
{
	static int64 next_renewal = 0;
	int64		now = slate_link_now();

	if (next_renewal == 0)
		next_renewal = now + RENEW_MS;
	if (now >= next_renewal && slate_strict_mark_again())
		next_renewal = now + RENEW_MS;
	slate_strict_resolve(database);
}

/* False if there is no Redis to work with, or no trust in it. */
static bool
watch(void)
{
	static int64 next_reconnect = 0;
	int64		now = slate_link_now();
	const char *reason;

	/* is it still the same server that others meet? */
	if (now >= next_reconnect ||
		pg_atomic_read_u32(&database->look) == SLATE_LOOK_SERVER)
	{
		slate_service_reconfigure();
		next_reconnect = now + RECONNECT_MS;
	}
	slate_progress_show(&database->progress, PHASE_LOOKING,
						"asking Redis for its epoch");
	if (!slate_deliver_connect())
	{
		uint32		unknown = TRUST_UNKNOWN;

		(void) pg_atomic_compare_exchange_u32(&database->trust, &unknown,
											  TRUST_WAITING);
		return false;
	}
	pg_atomic_write_u32(&database->look, 0);
	reason = slate_emptying_reason(database);
	if (reason == NULL)
	{
		if (now > next_empty)
			empty_rest = ROUND_MS;
		if (pg_atomic_read_u32(&database->trust) != TRUST_HELD ||
			pg_atomic_read_u32(&database->unseen) != 0)
			return false;
		slate_emptying_is_over();
		return true;
	}

	/* two servers that take the epoch from each other leave it some time */
	if (now < next_empty && slate_examine_is_contested())
		return false;
	if (!slate_emptying_try(database, reason))
		return false;
	if (slate_examine_is_contested())
	{
		next_empty = slate_link_now() + empty_rest;
		empty_rest = Min(2 * empty_rest, MAX_EMPTY_REST_MS);
	}
	return true;
}

/* ------------------------------------------------------------------------
 * Generations
 * ------------------------------------------------------------------------
 */

static void
truncate_generation(int generation)
{
	bool		done;

	slate_database_begin();
	done = slate_journal_truncate(database, generation);
	slate_database_commit();
	if (!done)
		return;

	/* no more can be forgiven than both generations still hold */
	pg_atomic_write_u64(&database->forgiven,
						Min(pg_atomic_read_u64(&database->forgiven),
							pg_atomic_read_u64(&database->bytes[0]) +
							pg_atomic_read_u64(&database->bytes[1])));
}

static void
rotate(void)
{
	int			current = pg_atomic_read_u32(&database->current);
	int			other = 1 - current;
	uint64		bytes = pg_atomic_read_u64(&database->bytes[current]);
	int64		now = slate_link_now();

	if (pg_atomic_read_u64(&database->bytes[SLATE_PREPARED_GENERATION]) > 0)
		truncate_generation(SLATE_PREPARED_GENERATION);
	if (pg_atomic_read_u64(&database->bytes[other]) > 0)
	{
		truncate_generation(other);
		return;
	}
	if (bytes == 0)
		next_rotation = now + ROTATE_MS;
	else if (bytes >= ROTATE_BYTES || now >= next_rotation)
	{
		pg_atomic_write_u32(&database->current, other);
		pg_memory_barrier();
		next_rotation = now + ROTATE_MS;
	}
}

/* ------------------------------------------------------------------------
 * The worker
 * ------------------------------------------------------------------------
 */

static bool
is_told_to_leave(void)
{
	return slate_link_now() <
		(int64) pg_atomic_read_u64(&database->leave_until);
}

/*
 * It was dropped: whoever creates it again begins anew.  Who has done so already
 * may have left something in doubt, or in the ring, and that is kept: what is
 * said there of the former one's journal finds no row in this one's.
 */
static void
forget_extension(bool has_successor)
{
	pg_atomic_write_u32(&database->trust, TRUST_UNKNOWN);
	pg_atomic_write_u64(&database->epoch, 0);
	if (has_successor)
		return;
	slate_doubt_forget(database);
	slate_doubt_forget_database(MyDatabaseId);
	for (int i = 0; i < SLATE_GENERATIONS; i++)
		pg_atomic_write_u64(&database->bytes[i], 0);
	pg_atomic_write_u32(&database->full, SLATE_JOURNAL_ROOM);
	pg_atomic_write_u32(&database->must_empty, 0);
	slate_ring_remove(database);
	pg_atomic_write_u64(&database->progress.delayed_since, 0);
}

/* The extension's OID; what it had when it was created. */
static Oid
look_for_extension(void)
{
	Oid			oid;

	slate_database_begin();
	oid = get_extension_oid("slate_cache", true);
	slate_database_commit();
	return oid;
}

/*
 * What ALTER DATABASE and ALTER ROLE have set for us, in the current context.
 * Who is connected keeps what he began with; so a worker that was to have other
 * settings, of which the url is one, makes room for another.
 */
static char *
read_own_settings(void)
{
	Relation	relation = table_open(DbRoleSettingRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, NULL, 0,
										  NULL);
	StringInfoData text;
	HeapTuple	tuple;

	initStringInfo(&text);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_db_role_setting form = (Form_pg_db_role_setting) GETSTRUCT(tuple);
		Datum		array;
		bool		isnull;

		if ((OidIsValid(form->setdatabase) && form->setdatabase != MyDatabaseId) ||
			(OidIsValid(form->setrole) && form->setrole != GetUserId()))
			continue;
		array = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
							 RelationGetDescr(relation), &isnull);
		if (!isnull)
			appendStringInfo(&text, "%u %u %s\n", form->setdatabase, form->setrole,
							 OidOutputFunctionCall(F_ARRAY_OUT, array));
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return text.data;
}

static bool
has_other_settings(void)
{
	bool		differ;

	slate_database_begin();
	differ = strcmp(read_own_settings(), own_settings) != 0;
	slate_database_commit();
	return differ;
}

/* By the postmaster or an administrator; die() forgets it when it is obeyed. */
static volatile sig_atomic_t is_terminated = false;

static void
on_terminate(SIGNAL_ARGS)
{
	is_terminated = true;
	die(postgres_signal_arg);
}

static const char *
reason_to_leave(void)
{
	if (is_told_to_leave())
		return "a command wants the database for itself";
	if (!OidIsValid(extension_oid))
		return "the extension was dropped";
	if (is_outdated)
		return "its settings were changed";
	return is_terminated ? "terminated" : "failed; the server log says why";
}

static void
leave(int code, Datum arg pg_attribute_unused())
{
	slate_traffic_leave();
	slate_progress_leave(&database->progress);
	slate_events_note(EVENT_WORKER_ENDED, MyDatabaseId, "%s",
					  reason_to_leave());
	database->latch = NULL;
	pg_write_barrier();
	pg_atomic_write_u32(&database->worker, 0);

	/* another one, but where there is nothing to do */
	if (OidIsValid(extension_oid))
		slate_database_wake(database);
}

/* SlateJournalFn: the least version. */
static void
note_oldest(const SlateJournalRow *row, void *arg)
{
	char	   *oldest = arg;

	if (oldest[0] == '\0' || strcmp(row->stamp.version, oldest) < 0)
		strlcpy(oldest, row->stamp.version, SLATE_VERSION_LEN + 1);
}

/*
 * A server that has just started does not know to which generation its
 * predecessor wrote last.  Go on with that one: the other is older, and is to
 * be replayed first.
 */
static void
choose_generation(void)
{
	int			current = pg_atomic_read_u32(&database->current);
	char		oldest[2][SLATE_VERSION_LEN + 1] = {"", ""};

	for (int i = 0; i < 2; i++)
	{
		SlateJournalPlace place = {0};

		(void) slate_journal_read(i, &place, FIRST_BLOCKS, note_oldest,
								  oldest[i]);
	}
	if (oldest[current][0] != '\0' &&
		strcmp(oldest[current], oldest[1 - current]) < 0)
		pg_atomic_write_u32(&database->current, 1 - current);
}

/*
 * Whoever was wanted is here.  One who could not even begin, since there were too
 * many connections say, is still wanted.
 */
static void
answer_launcher(void)
{
	SlateDatabase *entry = slate_database_find(MyDatabaseId);

	if (entry)
		pg_atomic_write_u32(&entry->wanted, 0);
}

/* False if another worker is there, or there is nothing for one. */
static bool
enter(void)
{
	uint32		nobody = 0;

	extension_oid = look_for_extension();
	if (!OidIsValid(extension_oid))
		return false;
	database = slate_database_mine();
	if (database == NULL || is_told_to_leave() ||
		!pg_atomic_compare_exchange_u32(&database->worker, &nobody, MyProcPid))
		return false;
	before_shmem_exit(leave, (Datum) 0);
	database->latch = MyLatch;
	answer_launcher();
	slate_doubt_take_over(database);
	slate_events_note(EVENT_WORKER_STARTED, MyDatabaseId, "for %s",
					  slate_redis_server_name());
	slate_sweep_count(&database->progress.keys);
	pg_atomic_write_u32(&database->unavailable, 0);
	slate_database_move(database, slate_service_key());
	slate_redis_become_prober();

	/* what was there before us */
	slate_database_begin();
	for (int i = 0; i < SLATE_GENERATIONS; i++)
		pg_atomic_write_u64(&database->bytes[i],
							Max(pg_atomic_read_u64(&database->bytes[i]),
								slate_journal_size(i)));
	choose_generation();
	own_settings = MemoryContextStrdup(TopMemoryContext, read_own_settings());
	slate_database_commit();
	return true;
}

/* Another url is another history. */
static void
reload(void)
{
	uint64		server;

	is_outdated = has_other_settings();
	if (is_outdated)
		proc_exit(0);
	ProcessConfigFile(PGC_SIGHUP);
	server = slate_service_key();
	if (server == pg_atomic_read_u64(&database->server))
		return;
	retry = MIN_RETRY_MS;
	pg_atomic_write_u32(&database->trust, TRUST_UNKNOWN);
	pg_atomic_write_u64(&database->epoch, 0);
	pg_atomic_write_u32(&database->look, SLATE_LOOK_SERVER);
	slate_database_move(database, server);
}

/* Has slate_cache_flush() asked for something that has not just failed? */
static bool
is_asked_to_flush(void)
{
	return pg_atomic_read_u32(&database->flush) !=
		pg_atomic_read_u32(&database->flushed) &&
		slate_link_now() >= slate_emptying_next_try();
}

/*
 * Whatever comes meanwhile: during an outage each commit has something to tell
 * us.  But who asks for a look at Redis is heard.
 */
static void
take_a_rest(int64 rest)
{
	int64		end = slate_link_now() + rest;
	int64		now;
	bool		was_open = slate_redis_next_try() > 0;
	SlatePhase	phase = pg_atomic_read_u32(&database->progress.phase);

	pgstat_report_activity(STATE_IDLE, "resting");
	while ((now = slate_link_now()) < end)
	{
		if (slate_drain(database))
			continue;
		slate_progress_enter(&database->progress, phase);
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(end - now, 50), PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();

		/* sentinels may name another server meanwhile */
		slate_redis_refresh();
		if (ConfigReloadPending || is_told_to_leave() ||
			(was_open && slate_redis_next_try() == 0) || is_asked_to_flush())
			break;
	}
}

/* Tell Redis what sessions have left for it, as long as they do. */
static void
drain(void)
{
	int64		start = slate_link_now();
	int64		last = start - DRAIN_IDLE_MS;
	int64		now;

	slate_ring_make(database);
	slate_ring_wake_up(database);
	for (;;)
	{
		bool		done = slate_drain(database);

		now = slate_link_now();
		if (done)
		{
			last = now;
			pgstat_report_activity(STATE_RUNNING, "pushing for sessions in mode async");
		}
		if (now >= last + DRAIN_IDLE_MS || now >= start + DRAIN_MS ||
			ConfigReloadPending || is_told_to_leave())
			return;
		CHECK_FOR_INTERRUPTS();
		if (!done)
			(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 DRAIN_NAP_MS, PG_WAIT_EXTENSION);
	}
}

/*
 * Nothing is in doubt any more.  That this began and ended is an event each,
 * but not more often than a Redis that refuses now and then should be told of;
 * until then it goes on.
 */
static void
conclude(uint64 delayed_since)
{
	static int64 next_event = 0;
	int64		now = slate_link_now();
	int64		nlate = slate_replay_late_rows();

	if ((delayed_since == 0 && nlate == 0) || now < next_event)
		return;
	next_event = now + CONCLUDE_MS;
	(void) pg_atomic_compare_exchange_u64(&database->progress.delayed_since,
										  &delayed_since, 0);
	slate_events_note(EVENT_REPLAYED, MyDatabaseId,
					  INT64_FORMAT " rows of the journal", nlate);
	slate_replay_forget_late_rows();
}

/* Redis is away, or not to be worked with. */
static void
enter_waiting(void)
{
	slate_progress_enter(&database->progress,
						 pg_atomic_read_u32(&database->trust) ==
						 TRUST_STANDING_BACK ? PHASE_STANDING_BACK
						 : PHASE_WAITING);
}

/*
 * It has not worked, again: how long to wait?  An open breaker knows; otherwise
 * it was not the connection, and each time it is longer.
 */
static long
choose_rest(void)
{
	long		rest = slate_redis_next_try();

	if (rest <= 0)
		rest = slate_emptying_next_try() - slate_link_now();
	if (rest <= 0)
	{
		rest = retry;
		retry = Min(2 * retry, MAX_RETRY_MS);
	}
	return Min(rest, MAX_RETRY_MS);
}

/* What was broken off, and nobody has come since to fence off. */
static void
fence(void)
{
	slate_traffic_open(false, false);
	(void) slate_traffic_close(false, 0);
	if (slate_deliver_connect() && slate_deliver_is_known(database))
		(void) slate_traffic_fence(slate_link_now() + slate_redis_timeout,
								   LINK_WAIT_INTERRUPTIBLE);
	slate_traffic_leave();
}

/* Does anybody ask for what watch() does? */
static bool
is_asked_to_watch(void)
{
	return pg_atomic_read_u32(&database->look) != 0 ||
		pg_atomic_read_u32(&database->must_empty) != 0 ||
		pg_atomic_read_u32(&database->flush) !=
		pg_atomic_read_u32(&database->flushed);
}

/* Once a second, and on request; false if there is nothing to work with. */
static bool
watch_in_time(int64 now)
{
	static int64 next_watch = 0;
	bool		can_work;

	if (now < next_watch && !is_asked_to_watch())
		return true;
	can_work = watch();
	if (can_work)
	{
		watch_marks();
		slate_namespace_tell();
		fence();
	}
	next_watch = can_work ? now + ROUND_MS : 0;
	return can_work;
}

/* Does all that can be done now; returns how long it may wait for more. */
static long
go_round(void)
{
	int64		start = slate_link_now();
	bool		can_work;
	SlateReplay progress = REPLAY_IDLE;
	int			nundecided;
	uint64		delayed_since;
	uint32		prepared;

	drain();
	slate_redis_refresh();
	slate_redis_forget_refusal();

	/* what fails after this may not be collected */
	delayed_since = pg_atomic_read_u64(&database->progress.delayed_since);
	prepared = slate_database_count_prepared(database);
	slate_doubt_collect(database);
	nundecided = slate_doubt_decide(database);
	can_work = watch_in_time(start);
	if (can_work)
		progress = slate_replay();
	rotate();

	if (!can_work || progress == REPLAY_FAILED)
	{
		note_failure();
		enter_waiting();
		take_a_rest(choose_rest());
		return 0;
	}

	/* a step is no success if a pass before or in it must be repeated */
	if (!slate_replay_must_be_repeated())
	{
		note_recovery();
		retry = MIN_RETRY_MS;
	}
	if (progress == REPLAY_STEP)
	{
		take_a_rest(Min(slate_link_now() - start, MAX_REST_MS));
		return 0;
	}
	conclude(delayed_since);
	if (nundecided == 0)
		slate_database_settle(database, prepared);
	slate_progress_enter(&database->progress, PHASE_IDLE);
	return nundecided > 0 ? UNDECIDED_MS : ROUND_MS;
}

/* Connect, and be the database's worker; or end. */
static void
begin(Oid databaseid)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, on_terminate);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(databaseid, InvalidOid, 0);
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "slate_cache worker");
	slate_database_use_plain_transactions();
	slate_script_init();
	slate_trust_prepare_fence();
	if (!enter())
	{
		/* who is only sent away for a moment is still wanted */
		if (database == NULL || !is_told_to_leave())
			answer_launcher();
		proc_exit(0);
	}
	slate_replay_init(database);
}

/* Is all as it was when we began?  Or end. */
static void
look_around(void)
{
	Oid			present;

	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		reload();
	}
	if (is_told_to_leave())
		proc_exit(0);
	present = look_for_extension();
	if (present != extension_oid)
	{
		forget_extension(OidIsValid(present));
		extension_oid = InvalidOid;
		proc_exit(0);
	}
}

/* Until somebody has something to do, or so many ms are over. */
static void
wait_for_more(long rest)
{
	pgstat_report_activity(STATE_IDLE, "waiting for something to do");
	(void) pgstat_report_stat(false);
	if (rest > 0 && slate_ring_may_sleep(database))
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 rest, PG_WAIT_EXTENSION);
}

void
slate_worker_main(Datum arg)
{
	MemoryContext context;

	begin(DatumGetObjectId(arg));
	context = AllocSetContextCreate(TopMemoryContext, "slate_cache worker",
									ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		long		rest;

		/* first of all: what comes from here on sets it again */
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		look_around();

		/* a transaction has left another */
		MemoryContextSwitchTo(context);
		SetCurrentStatementStartTimestamp();
		rest = go_round();
		slate_stats_log_losses();
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextReset(context);
		wait_for_more(rest);
	}
}
