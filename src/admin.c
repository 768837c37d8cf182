/*-------------------------------------------------------------------------
 *
 * admin.c
 *	  What an administrator looks at, and asks for: slate_cache.stats, health,
 *	  journal; slate_cache_repair(), slate_cache_flush().
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "breaker.h"
#include "events.h"
#include "fmgr.h"
#include "funcapi.h"
#include "journal.h"
#include "pending.h"
#include "pgstat.h"
#include "redis.h"
#include "ring.h"
#include "rules.h"
#include "script.h"
#include "stats.h"
#include "storage/latch.h"
#include "trust.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* How often to look whether the worker has done what it was asked for. */
#define LOOK_MS 20

/*
 * How long Redis must not answer before nobody waits for the worker any more; and
 * how long there must be none.
 */
#define GIVE_UP_MS 5000
#define NO_WORKER_MS 10000

/* More doubt than this is a sign of an outage. */
#define OLD_DOUBT_MS 60000

/* Workers ask the sentinels twice a second. */
#define SILENCE_MS 5000

PG_FUNCTION_INFO_V1(slate_cache_stats);
PG_FUNCTION_INFO_V1(slate_cache_stats_reset);
PG_FUNCTION_INFO_V1(slate_cache_health);
PG_FUNCTION_INFO_V1(slate_cache_journal);
PG_FUNCTION_INFO_V1(slate_cache_repair);
PG_FUNCTION_INFO_V1(slate_cache_flush);

/* ------------------------------------------------------------------------
 * slate_cache.stats
 * ------------------------------------------------------------------------
 */

Datum
slate_cache_stats(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		row[1 + STAT_COUNT];
	bool		nulls[1 + STAT_COUNT] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != lengthof(row))
		elog(ERROR, "unexpected result type of slate_cache.read_stats()");
	row[0] = CStringGetTextDatum(slate_stats_shared() ? "server" : "session");
	for (int i = 0; i < STAT_COUNT; i++)
		row[1 + i] = Int64GetDatum((int64) slate_stats_get(i));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  row, nulls)));
}

Datum
slate_cache_stats_reset(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	slate_stats_reset();
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------------
 * slate_cache.journal
 * ------------------------------------------------------------------------
 */

typedef struct JournalView
{
	ReturnSetInfo *result;
	SlateDoubtCopy *doubt;		/* NULL: all that is there */
} JournalView;

static bool
is_undecided(const SlateDoubtCopy *doubt, uint64 xid)
{
	for (int i = 0; i < doubt->nundecided; i++)
	{
		if (doubt->undecided[i].xid == xid)
			return true;
	}
	return false;
}

/* The state of a row that is in doubt; NULL if it is not. */
static const char *
doubt_about(const SlateDoubtCopy *doubt, const SlateJournalRow *row)
{
	bool		patterns = false;

	if (doubt == NULL)
		return "failed";
	if (is_undecided(doubt, row->xid))
		return row->state == ROW_UNDER_WAY ? "prepared" : "failed";
	if (row->state == ROW_UNDER_WAY && slate_doubt_copy_spans(doubt, row->xid))
		return "prepared";
	for (int i = 0; i < 2 * SLATE_DOUBT_KINDS; i++)
	{
		if (!slate_ranges_contain(&doubt->ranges[i], row->xid) &&
			!slate_ranges_contain(&doubt->left[i % SLATE_DOUBT_KINDS],
								  row->xid))
			continue;
		if (i % SLATE_DOUBT_KINDS == DOUBT_ALL)
			return row->state == ROW_UNDER_WAY ? "prepared" : "failed";
		patterns = true;
	}
	return patterns ? "patterns" : NULL;
}

/* The names of a row, keys or patterns, as an array; sees "everything". */
static Datum
name_array(const SlateJournalRow *row, bool globs, bool *everything)
{
	ArrayBuildState *names = initArrayResult(TEXTOID, CurrentMemoryContext,
											 true);
	SlateJournalEntry entry;
	int			offset = 0;

	while (slate_journal_next(row, &offset, &entry))
	{
		if (entry.is_everything)
			*everything = true;
		else if (entry.is_glob == globs)
			(void) accumArrayResult(names,
									PointerGetDatum(cstring_to_text_with_len(entry.name.start,
																			 entry.name.len)),
									false, TEXTOID, CurrentMemoryContext);
	}
	return makeArrayResult(names, CurrentMemoryContext);
}

static void
put_row(const SlateJournalRow *row, void *arg)
{
	JournalView *view = arg;
	const char *state = doubt_about(view->doubt, row);
	MemoryContext context;
	MemoryContext old;
	bool		everything = false;
	Datum		values[6];
	bool		nulls[6] = {false};

	if (state == NULL && !view->doubt->must_empty)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "slate_cache row",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	values[0] = UInt64GetDatum(row->xid);
	values[2] = TimestampTzGetDatum(row->since);
	values[3] = name_array(row, false, &everything);
	values[4] = name_array(row, true, &everything);
	values[5] = Int64GetDatum(row->nbytes);

	/* "everything" stands for others, also when its own transaction was told */
	if (state != NULL || everything)
	{
		values[1] = CStringGetTextDatum(everything ? "everything" : state);
		tuplestore_putvalues(view->result->setResult, view->result->setDesc,
							 values, nulls);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

Datum
slate_cache_journal(PG_FUNCTION_ARGS)
{
	SlateDatabase *database = slate_database_mine();
	JournalView view = {.result = (ReturnSetInfo *) fcinfo->resultinfo};
	int			first = 0;

	InitMaterializedSRF(fcinfo, 0);

	/* what is in doubt the primary knows */
	if (RecoveryInProgress())
		return (Datum) 0;
	if (database)
	{
		view.doubt = palloc(sizeof(SlateDoubtCopy));
		slate_doubt_copy(database, view.doubt);
		first = 1 - pg_atomic_read_u32(&database->current);
	}
	for (int i = 0; i < SLATE_GENERATIONS; i++)
	{
		SlateJournalPlace place = {0};

		(void) slate_journal_read(i == 0 ? first : i == 1 ? 1 - first : i,
								  &place, MaxBlockNumber, put_row, &view);
	}
	return (Datum) 0;
}

/* ------------------------------------------------------------------------
 * Asking the worker
 * ------------------------------------------------------------------------
 */

compat_noreturn static void
report_no_worker(SlateDatabase *database)
{
	const char *detail = "The library is not preloaded.";
	const char *hint = "Add slate_cache to shared_preload_libraries and restart the server.";

	if (database)
		hint = "Raise max_worker_processes and restart the server.";
	else if (slate_stats_shared())
	{
		detail = psprintf("More than %d databases use slate_cache.",
						  SLATE_MAX_DATABASES);
		hint = "Drop the extension where it is not needed; at the next start of the server others have its place.";
	}
	if (database && pg_atomic_read_u32(&database->unavailable) != 0)
		detail = "The server has no room for one more background worker.";
	else if (database && !slate_database_has_launcher())
		detail = "The launcher, which would start one, is not running itself.";
	else if (database)
	{
		detail = "The launcher has started none, or it has ended.";
		hint = "The server's log tells why, if the database takes connections.";
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("this database has no slate_cache worker"),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

static SlateDatabase *
database_with_worker(void)
{
	SlateDatabase *database;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot change the cache during recovery"),
				 errdetail("A standby writes nothing to Redis."),
				 errhint("Ask the primary.")));
	database = slate_database_mine();
	if (database && pg_atomic_read_u32(&database->worker) == 0)
		slate_database_wake(database);
	if (database == NULL || (pg_atomic_read_u32(&database->worker) == 0 &&
							 pg_atomic_read_u32(&database->unavailable) != 0))
		report_no_worker(database);
	return database;
}

/* What this session knows of Redis may be nothing yet; so it is asked, too. */
compat_noreturn static void
give_up(SlateDatabase *database, int failures)
{
	const char *refusal = slate_database_refusal(database);
	bool		answers;

	answers = slate_script_prepare(slate_link_now() + slate_redis_connect_timeout,
								   LINK_WAIT_INTERRUPTIBLE) == REDIS_DONE;
	if (answers && failures == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("Redis does not take what the worker tells it"),
				 errdetail("It answers, but the worker has failed again and again%s%s.",
						   refusal[0] ? ": " : "", refusal),
				 errhint("slate_cache.events and the server's log tell why: Redis may be out of memory. The worker goes on trying; slate_cache.journal shows what waits.")));
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("Redis does not answer"),
			 errdetail("%s", answers ? "It has failed again and again."
					   : slate_redis_error()),
			 errhint("The worker does it when Redis is back; slate_cache.journal shows what waits.")));
}

/* Since when nothing has gone on, and how far all had come then. */
typedef struct Waiting
{
	int64		since;
	uint64		progress;
} Waiting;

/*
 * One failure counts until the worker has got through a round, and to empty a large
 * Redis is one; so what it has come through counts, too.
 */
static bool
goes_on(SlateDatabase *database, Waiting *waiting, int failures)
{
	uint64		progress = pg_atomic_read_u64(&database->progress.keys) +
	pg_atomic_read_u64(&database->progress.blocks_done);
	bool		has_moved = progress != waiting->progress;

	waiting->progress = progress;
	return has_moved || (failures == 0 &&
						 pg_atomic_read_u32(&database->failing) == 0);
}

/*
 * Look again in a moment; ERROR if Redis has not answered for long, or there has
 * been no worker: the server starts launchers anew within five seconds.
 */
static void
wait_for_worker(SlateDatabase *database, Waiting *waiting)
{
	bool		has_worker = pg_atomic_read_u32(&database->worker) != 0;
	int			failures;
	int64		rests_for;

	slate_breaker_look(&failures, &rests_for);
	if (has_worker && goes_on(database, waiting, failures))
		waiting->since = slate_link_now();
	if (!has_worker && slate_link_now() - waiting->since > NO_WORKER_MS)
		report_no_worker(database);
	if (has_worker && slate_link_now() - waiting->since > GIVE_UP_MS)
		give_up(database, failures);
	slate_database_wake(database);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 LOOK_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Has the worker looked at Redis, and nothing to tell it? */
static bool
is_at_rest(SlateDatabase *database)
{
	SlateTrust	trust = pg_atomic_read_u32(&database->trust);

	return pg_atomic_read_u32(&database->worker) != 0 &&
		(trust == TRUST_HELD || trust == TRUST_STANDING_BACK) &&
		slate_ring_is_empty(database) && !slate_doubt_exists(database);
}

Datum
slate_cache_repair(PG_FUNCTION_ARGS)
{
	SlateDatabase *database = database_with_worker();
	uint64		before = slate_stats_get(STAT_REPLAYED);
	Waiting		waiting = {.since = slate_link_now()};

	(void) fcinfo;
	while (!is_at_rest(database))
		wait_for_worker(database, &waiting);
	PG_RETURN_INT64((int64) (slate_stats_get(STAT_REPLAYED) - before));
}

Datum
slate_cache_flush(PG_FUNCTION_ARGS)
{
	SlateDatabase *database = database_with_worker();
	Waiting		waiting = {.since = slate_link_now()};
	uint32		mine;

	(void) fcinfo;
	slate_events_note(EVENT_FLUSH_ASKED, MyDatabaseId, "by %s",
					  GetUserNameFromId(GetUserId(), false));
	mine = pg_atomic_add_fetch_u32(&database->flush, 1);
	while ((int32) (pg_atomic_read_u32(&database->flushed) - mine) < 0)
		wait_for_worker(database, &waiting);
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------------
 * slate_cache.health
 * ------------------------------------------------------------------------
 */

static void
put_check(ReturnSetInfo *result, const char *name, bool ok, const char *detail)
{
	Datum		row[3];
	bool		nulls[3] = {false};

	row[0] = CStringGetTextDatum(name);
	row[1] = BoolGetDatum(ok);
	row[2] = CStringGetTextDatum(detail);
	tuplestore_putvalues(result->setResult, result->setDesc, row, nulls);
}

static void
check_preload(ReturnSetInfo *result)
{
	bool		preloaded = slate_stats_shared();

	put_check(result, "preload", preloaded, preloaded
			  ? "loaded by shared_preload_libraries"
			  : "not in shared_preload_libraries: no journal, no worker; pushes that fail are lost; breaker, counters and events are this session's own");
	put_check(result, "launcher", slate_database_has_launcher(),
			  slate_database_has_launcher() ? "running" : preloaded ?
			  "not running; the server starts it within 5 s, if max_worker_processes leaves room for it" :
			  "there is none without preload");
}

static void
check_worker(ReturnSetInfo *result, SlateDatabase *database)
{
	if (database == NULL)
		put_check(result, "worker", RecoveryInProgress(),
				  RecoveryInProgress() ? "a standby needs none" :
				  slate_stats_shared() ? psprintf("more than %d databases use slate_cache: no journal here",
												  SLATE_MAX_DATABASES) :
				  "there is none without preload: what fails is lost, and patterns are looked for within slate_cache.timeout");
	else if (pg_atomic_read_u32(&database->worker) == 0)
	{
		slate_database_wake(database);
		put_check(result, "worker", false,
				  pg_atomic_read_u32(&database->unavailable) != 0
				  ? "there is no room for it: raise max_worker_processes"
				  : "not running; the launcher starts it within seconds");
	}
	else if (!slate_database_has_our_redis(database))
		put_check(result, "worker", false,
				  psprintf("process %u has another slate_cache.url than this session: what this one cannot tell Redis is lost",
						   pg_atomic_read_u32(&database->worker)));
	else
		put_check(result, "worker", true,
				  psprintf("running, process %u",
						   pg_atomic_read_u32(&database->worker)));
}

static void
take_pong(int index pg_attribute_unused(), const redisReply *reply, void *arg)
{
	char		words[128];

	if (reply->type != REDIS_REPLY_STATUS && reply->type != REDIS_REPLY_ERROR)
		return;
	slate_link_words(words, sizeof(words), reply, NULL);
	appendStringInfoString((StringInfo) arg, words);
}

static bool
ask(int node, const char *command, SlateReplyFn fn, void *arg)
{
	int64		deadline = slate_link_now() + slate_redis_timeout;

	return slate_script_prepare(deadline, LINK_WAIT_INTERRUPTIBLE) == REDIS_DONE &&
		node < slate_redis_nodes() &&
		slate_redis_run(node, command, strlen(command), 1, NULL, fn, arg,
						deadline, LINK_WAIT_INTERRUPTIBLE) == REDIS_DONE;
}

/* Each node must answer; the first that does not is told of. */
static bool
check_redis(ReturnSetInfo *result)
{
	StringInfoData answer;
	int64		silence;
	int			node = 0;

	initStringInfo(&answer);
	do
	{
		resetStringInfo(&answer);
		if (!ask(node, "*1\r\n$4\r\nPING\r\n", take_pong, &answer))
		{
			put_check(result, "redis", false, slate_redis_error());
			return false;
		}
	} while (strcmp(answer.data, "PONG") == 0 && ++node < slate_redis_nodes());
	silence = slate_redis_sentinels_silence();
	put_check(result, "redis",
			  strcmp(answer.data, "PONG") == 0 && silence < SILENCE_MS,
			  psprintf("%s %s %s%s", slate_redis_server_name(),
					   node > 1 ? "and the others answer" : "answers",
					   answer.data, silence < SILENCE_MS ? "" :
					   psprintf("; no sentinel has answered for " INT64_FORMAT " s: a failover would not be noticed",
								silence / 1000)));
	return true;
}

static void
check_breaker(ReturnSetInfo *result)
{
	int			failures;
	int64		rests_for;

	slate_breaker_look(&failures, &rests_for);
	put_check(result, "breaker", failures == 0,
			  failures == 0 ? "closed" :
			  psprintf("failures in a row: %d; next try in " INT64_FORMAT " ms",
					   failures, rests_for));
}

/* A look at the journal: how much is in doubt, and since when? */
typedef struct Backlog
{
	SlateDoubtCopy *doubt;
	int64		nrows;
	TimestampTz since;
} Backlog;

static void
count_row(const SlateJournalRow *row, void *arg)
{
	Backlog    *backlog = arg;

	if (row->state == ROW_UNDER_WAY || !doubt_about(backlog->doubt, row))
		return;
	if (backlog->nrows++ == 0 || row->since < backlog->since)
		backlog->since = row->since;
}

/* Why rows wait that the worker has tried to tell. */
static const char *
why_they_wait(SlateDatabase *database)
{
	return pg_atomic_read_u32(&database->trust) == TRUST_STANDING_BACK
		? ", kept while this server stands back"
		: ", which does not take them";
}

static void
check_journal(ReturnSetInfo *result, SlateDatabase *database)
{
	Backlog		backlog = {0};
	uint64		bytes = 0;
	bool		is_failing;
	const char *refusal;

	if (database == NULL || !slate_journal_enabled)
	{
		put_check(result, "journal", RecoveryInProgress(),
				  slate_journal_enabled ? "there is none"
				  : "switched off by slate_cache.journal");
		return;
	}
	backlog.doubt = palloc(sizeof(SlateDoubtCopy));
	slate_doubt_copy(database, backlog.doubt);
	for (int i = 0; i < SLATE_GENERATIONS; i++)
	{
		SlateJournalPlace place = {0};

		bytes += slate_journal_size(i);
		(void) slate_journal_read(i, &place, MaxBlockNumber, count_row,
								  &backlog);
	}
	is_failing = backlog.nrows > 0 &&
		pg_atomic_read_u32(&database->failing) > 0;
	refusal = is_failing ? slate_database_refusal(database) : "";
	if (pg_atomic_read_u32(&database->full) != SLATE_JOURNAL_ROOM)
		put_check(result, "journal", false,
				  "full: when Redis is back, the namespace is emptied");
	else
		put_check(result, "journal", backlog.nrows == 0 ||
				  (!is_failing &&
				   !TimestampDifferenceExceeds(backlog.since,
											   GetCurrentTimestamp(),
											   OLD_DOUBT_MS)),
				  psprintf("rows that wait for Redis: " INT64_FORMAT "%s%s%s; " UINT64_FORMAT " kB on disk",
						   backlog.nrows,
						   is_failing ? why_they_wait(database) : "",
						   refusal[0] ? ": " : "", refusal, bytes / 1024));
}

static void
check_history(ReturnSetInfo *result, SlateDatabase *database)
{
	static const char *const words[] = {
		[TRUST_UNKNOWN] = "the worker has not looked yet",
		[TRUST_WAITING] = "Redis has not answered the worker yet",
		[TRUST_EMPTYING] = "unknown: the namespace is being emptied",
		[TRUST_HELD] = "known",
		[TRUST_STANDING_BACK] = "a server with a later timeline of this cluster uses this Redis; slate_cache_flush() takes it over"
	};
	const char *refusal;
	uint32		trust;
	bool		is_known;

	if (database == NULL)
	{
		put_check(result, "history", RecoveryInProgress(),
				  "nobody compares it");
		return;
	}
	trust = pg_atomic_read_u32(&database->trust);
	is_known = trust == TRUST_HELD &&
		pg_atomic_read_u32(&database->unseen) == 0;
	refusal = is_known ? "" : slate_database_refusal(database);
	put_check(result, "history", is_known,
			  refusal[0] ? psprintf("%s; Redis refuses: %s", words[trust], refusal)
			  : is_known || trust != TRUST_HELD ? words[trust]
			  : "known; but Redis did not answer when the worker looked last");
}

/* NULL if there is none. */
static char *
info_field(const char *info, const char *name)
{
	size_t		len;
	const char *value = slate_link_info_value(info, name, &len);

	return value ? pnstrdup(value, len) : NULL;
}

static void
take_info(int index pg_attribute_unused(), const redisReply *reply, void *arg)
{
	StringInfo	answer = arg;

	if (reply->type == REDIS_REPLY_STRING)
		appendBinaryStringInfo(answer, reply->str, reply->len);
}

/* What is known of all nodes so far. */
typedef struct Persistence
{
	bool		saves;			/* snapshots, at some node */
	bool		appends;
	bool		is_hidden;		/* some node does not tell whether it saves */
} Persistence;

/* CONFIG GET's answer: a name and a value; an error if we may not ask. */
static void
take_save(int index pg_attribute_unused(), const redisReply *reply, void *arg)
{
	Persistence *persistence = arg;

	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
		reply->element[1]->type != REDIS_REPLY_STRING)
		persistence->is_hidden = true;
	else if (reply->element[1]->len > 0)
		persistence->saves = true;
}

/* Does one node save snapshots, or append?  False if it does not answer. */
static bool
ask_persistence(int node, Persistence *persistence)
{
	StringInfoData info;
	char	   *aof;

	initStringInfo(&info);
	if (!ask(node, "*2\r\n$4\r\nINFO\r\n$11\r\npersistence\r\n", take_info, &info) ||
		!ask(node, "*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$4\r\nsave\r\n", take_save, persistence))
		return false;
	aof = info_field(info.data, "aof_enabled");
	persistence->appends |= aof && strcmp(aof, "1") == 0;
	return true;
}

/*
 * A Redis that saves comes back from a restart with what it had some time ago.
 * That is noticed, and costs a cold cache; but until then apps read it.
 *
 * A user that may not ask is no failure: who has not granted it need not be
 * alarmed for ever.
 */
static void
check_persistence(ReturnSetInfo *result)
{
	Persistence persistence = {0};

	for (int node = 0; node < slate_redis_nodes(); node++)
	{
		if (!ask_persistence(node, &persistence))
			return;
	}
	if (persistence.appends || persistence.saves)
		put_check(result, "persistence", false,
				  psprintf("%s: after a restart apps can read old values until the worker has emptied the namespace",
						   persistence.saves ? "snapshots are on" : "the append-only file is on"));
	else
		put_check(result, "persistence", true, persistence.is_hidden
				  ? "not known: Redis refuses CONFIG GET (allow +config|get to its user)"
				  : "off: after a restart the cache is empty");
}

/* A number of INFO's; 0 if it does not tell. */
static uint64
info_number(const char *info, const char *name)
{
	char	   *value = info_field(info, name);

	return value ? strtou64(value, NULL, 10) : 0;
}

/* What a node says of its memory. */
typedef struct NodeMemory
{
	char	   *policy;			/* whom it evicts */
	uint64		limit;			/* 0: none */
	bool		is_full;
} NodeMemory;

/* False if a node does not tell. */
static bool
ask_memory(int node, NodeMemory *memory)
{
	StringInfoData info;
	uint64		used;

	initStringInfo(&info);
	if (!ask(node, "*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n", take_info, &info))
		return false;
	memory->policy = info_field(info.data, "maxmemory_policy");
	memory->limit = info_number(info.data, "maxmemory");
	used = info_number(info.data, "used_memory");

	/* see getMaxmemoryState() in Redis' evict.c */
	memory->is_full = memory->limit > 0 &&
		used > memory->limit + info_number(info.data, "mem_not_counted_for_evict");
	return memory->policy != NULL;
}

/*
 * In a Cluster, of the first node that evicts.  One that evicts nothing may be
 * full; while one that does is, it makes room.
 */
static void
check_eviction(ReturnSetInfo *result)
{
	char	   *evicting = NULL;
	bool		is_limited = false;
	bool		is_full = false;

	for (int node = 0; node < slate_redis_nodes(); node++)
	{
		NodeMemory	memory;

		if (!ask_memory(node, &memory))
			return;
		if (memory.limit == 0)
			continue;
		is_limited = true;
		if (strcmp(memory.policy, "noeviction") == 0)
			is_full |= memory.is_full;
		else if (evicting == NULL)
			evicting = memory.policy;
	}
	if (is_full)
		put_check(result, "eviction", false,
				  "noeviction, and memory is full: keys are dropped instead of set, and transactions in mode strict fail");
	else if (evicting)
		put_check(result, "eviction", false,
				  psprintf("maxmemory-policy %s evicts guards, too: a fill is lost then, and a push that is overtaken in that very moment may leave an old value",
						   evicting));
	else
		put_check(result, "eviction", true,
				  is_limited ? "noeviction: when memory is full, keys are dropped instead of set"
				  : "no maxmemory: nothing is evicted");
}

Datum
slate_cache_health(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SlateDatabase *database = slate_database_mine();
	uint64		lost = slate_stats_get(STAT_PUSHES_LOST);

	InitMaterializedSRF(fcinfo, 0);
	check_preload(result);
	check_worker(result, database);
	if (check_redis(result))
	{
		check_persistence(result);
		check_eviction(result);
	}
	check_breaker(result);
	check_journal(result, database);
	check_history(result, database);
	put_check(result, "pushes", lost == 0, lost == 0 ? "none lost"
			  : psprintf(UINT64_FORMAT " transactions could not be told to Redis; copies of their rows may be stale until they expire (counted since the start, or slate_cache_stats_reset())",
						 lost));
	return (Datum) 0;
}
