/*-------------------------------------------------------------------------
 *
 * strict.c
 *	  slate_cache.mode = strict: marks on keys whose change is being committed.
 *
 * THE PROMISE
 *
 * No reader of the cache finds a value that lacks a commit which is visible in
 * the database, nor one that was not committed.  In mode commit there is such
 * a moment, from the commit to its push.  In mode strict PRE_COMMIT marks the
 * keys (see lua.c) and waits until Redis has acknowledged that; only then
 * can the change become visible.  From the mark on nobody finds a value, nor
 * can set one; the push puts the new one and takes the marks away.
 *
 * If Redis does not acknowledge, the transaction fails.
 *
 * PATTERNS
 *
 * A glob marks all keys that begin as it does, which keeps new ones from being
 * filled; and what is there goes: what indexes know, and, for globs over keys
 * that no index holds (TRUNCATE, slate_cache_invalidate(), ...), what a walk
 * over the keyspace finds, however long that takes: such a commit can be
 * cancelled.  Patterns of rules, over keys that apps SET by themselves, are
 * looked for after the commit only, as in mode commit: what apps SET nobody
 * can vouch for.
 *
 * What an index knows is dropped step by step, all of it before the commit, and
 * within slate_cache.timeout: a transaction that cannot get through a large
 * family by then fails.  One that is going to walk has as long for this, too.
 *
 * WHO TAKES MARKS AWAY
 *
 * - the last command of the pushes, if all of them have succeeded;
 * - the backend after an abort, if it can;
 * - for whatever is left the worker.  It asks Redis each second for its
 *	 database's marks, and the transactions that they belong to.  Those that
 *	 are not under way (prepared ones are), nor pushing, nor in doubt, so that
 *	 all their keys have been dropped, have no use for marks any more.
 *
 * Redis forgets marks after two days, so that the keys of a database that is
 * gone for good can be used again.  A prepared transaction may take longer, or
 * Redis may lose its memory.  So the worker marks again, from the journal, for
 * all that are under way: now and then, and whenever it has emptied the
 * namespace.  Then it does so before the new epoch begins: until that nobody
 * gets a lease, and every PUT is a DROP, so that not even FLUSHALL lets an old
 * value in.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/transam.h"
#include "access/xact.h"
#include "exchange.h"
#include "script.h"
#include "storage/procarray.h"
#include "strict.h"
#include "sweep.h"
#include "trust.h"

/* Marks that the worker looks at in one go. */
#define MARKS_PER_LOOK 1024

/* Pages of the journal in one step. */
#define STEP_BLOCKS 16

/* What this transaction has marked; the bytes are in TopTransactionContext. */
static struct
{
	bool		standing;
	SlateBatch	release;
}			marked;

/* ------------------------------------------------------------------------
 * Backends
 * ------------------------------------------------------------------------
 */

void
slate_strict_fail(const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not mark the changes of this transaction in Redis"),
			 errdetail("%s", reason),
			 errhint("Nothing is committed. Try again, or set slate_cache.mode to \"commit\", which commits while Redis is away.")));
}

static void
report_failure_of_server(const char *reason)
{
	slate_strict_fail(psprintf("%s: %s", slate_redis_server_name(), reason));
}

void
slate_strict_refuse(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("slate_cache.mode = \"strict\" needs slate_cache's journal and worker"),
			 errdetail("Nobody would replay a push that has failed, and take away the marks of a session that has crashed."),
			 errhint("Add slate_cache to shared_preload_libraries, switch slate_cache.journal on, use the slate_cache.url of the database's worker, and look at slate_cache.health; or set slate_cache.mode to \"commit\".")));
}

void
slate_strict_connect(int64 deadline)
{
	SlateDatabase *database = slate_database_mine();

	if (database == NULL || !slate_database_has_our_redis(database))
		slate_strict_refuse();
	if (slate_script_prepare(deadline, LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE)
		slate_strict_fail(slate_redis_error());
}

void
slate_strict_meet(SlateStamp *stamp)
{
	if (!slate_trust_meet(stamp, slate_link_now() + slate_redis_timeout))
		report_failure_of_server("it is not known whether it holds the present data; slate_cache.health tells more");
}

/* Beginnings first: what has no guard yet gets none meanwhile. */
static void
encode_marks(SlateBatch *batch, const SlateOpList *list,
			 const SlateStamp *stamp, uint64 xid)
{
	SlateSlice *slices = palloc_array(SlateSlice,
									  Max(list->nops, list->nglobs) + 1);
	SlateStamp	no_version = *stamp;

	slate_stamp_disown(&no_version);
	for (int i = 0; i < list->nglobs; i++)
	{
		slices[i].start = list->globs[i].glob;
		slices[i].len = slate_glob_prefix_len(list->globs[i].glob,
											  list->globs[i].len);
	}
	slate_script_add_mark_beginnings(batch, stamp, xid, slices, list->nglobs);

	/* DROPs that neither raise a version nor count for the mark */
	for (int i = 0; i < list->nglobs; i++)
		slate_rules_add_drops(batch, &no_version, list->globs[i].glob,
							  list->globs[i].len, false);
	for (int i = 0; i < list->nops; i++)
	{
		slices[i].start = list->ops[i].key;
		slices[i].len = list->ops[i].keylen;
	}
	slate_script_add_marks(batch, stamp, xid, slices, list->nops);
	pfree(slices);
}

static bool
is_going_to_walk(const SlateOpList *list)
{
	for (int i = 0; i < list->nglobs; i++)
	{
		if (list->globs[i].thorough)
			return true;
	}
	return false;
}

/* Redis is there, but has not got through what it was to drop. */
compat_noreturn static void
fail_for_want_of_time(int64 left)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not drop all keys of a family in Redis within slate_cache.timeout"),
			 errdetail("About " INT64_FORMAT " keys were left after %d ms.",
					   left, slate_redis_timeout),
			 errhint("Nothing is committed. Raise slate_cache.timeout, or set slate_cache.mode to \"commit\", which leaves the rest to slate_cache's worker.")));
}

/* What the first steps have left of large families. */
static void
finish_families(SlateBatch *batch, SlateOutcome *outcome, int64 stop_at)
{
	int64		left;

	while (outcome->refused == 0 &&
		   (left = slate_exchange_members_left(batch)) > 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (slate_link_now() >= stop_at)
			fail_for_want_of_time(left);
		if (slate_exchange_go_on(batch, outcome,
								 slate_link_now() + slate_redis_timeout,
								 LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE)
			slate_strict_fail(slate_redis_error());
	}
}

/* What is there under globs whose keys no index holds. */
static void
walk(const SlateOpList *list)
{
	SlateSlice *globs = palloc_array(SlateSlice, list->nglobs + 1);
	SlateSwept	swept;
	int			nglobs = 0;

	for (int i = 0; i < list->nglobs; i++)
	{
		if (!list->globs[i].thorough)
			continue;
		globs[nglobs].start = list->globs[i].glob;
		globs[nglobs++].len = list->globs[i].len;
	}
	if (nglobs == 0)
		return;
	slate_sweep_init();
	if (slate_sweep(slate_globset_make(globs, nglobs), NULL, &swept,
					PG_INT64_MAX, PG_INT64_MAX,
					LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE)
		slate_strict_fail(slate_redis_error());
	if (swept.outcome.refused > 0)
		report_failure_of_server(swept.outcome.error);
	if (!swept.finished)
		report_failure_of_server("unexpected reply to SCAN");
}

/* From here on an abort takes them away. */
static void
hold_marks(const SlateStamp *stamp, uint64 xid)
{
	slate_batch_init(&marked.release);
	slate_script_add_release(&marked.release, stamp->mark, true);
	slate_doubt_begin_marking(xid);
	marked.standing = true;
}

void
slate_strict_mark(const SlateOpList *list, SlateStamp *stamp)
{
	MemoryContext old = MemoryContextSwitchTo(list->context);
	uint64		xid = U64FromFullTransactionId(GetTopFullTransactionId());
	int64		deadline = slate_link_now() + slate_redis_timeout;
	SlateOutcome outcome = {0};
	SlateBatch	batch;

	slate_batch_init(&batch);
	encode_marks(&batch, list, stamp, xid);
	hold_marks(stamp, xid);
	if (slate_exchange_publish(&batch, &outcome, deadline, slate_redis_timeout,
							   LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE)
		slate_strict_fail(slate_redis_error());
	finish_families(&batch, &outcome,
					is_going_to_walk(list) ? PG_INT64_MAX : deadline);
	if (outcome.refused > 0)
		report_failure_of_server(outcome.error);
	walk(list);
	if (!slate_trust_is_marked(outcome.strange))
		report_failure_of_server("it is another server than the one that slate_cache has used so far");
	slate_batch_free(&batch);
	MemoryContextSwitchTo(old);
}

void
slate_strict_leave(void)
{
	if (marked.standing)
		slate_doubt_end_marking();
	marked.standing = false;
}

void
slate_strict_release(void)
{
	if (!marked.standing)
		return;
	slate_strict_leave();
	(void) slate_exchange_run(&marked.release, NULL, NULL,
							  slate_link_now() + slate_redis_timeout,
							  LINK_WAIT_UNINTERRUPTED);
}

/* ------------------------------------------------------------------------
 * The worker: marks that are left
 * ------------------------------------------------------------------------
 */

typedef struct Mark
{
	uint64		xid;
	char		id[SLATE_TOKEN_LEN + 1];
} Mark;

typedef struct Look
{
	int			count;
	Mark		marks[MARKS_PER_LOOK];
} Look;

/*
 * Numbers that this server has not given yet, or gave so long ago that they
 * would be taken for others, are of another life of it.
 */
static bool
is_ours_and_under_way(uint64 xid)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	if (xid >= next || next - xid > PG_INT32_MAX)
		return false;
	return TransactionIdIsInProgress(XidFromFullTransactionId(FullTransactionIdFromU64(xid)));
}

/* So it may be: each node has marks of a transaction that has keys there. */
static bool
is_listed(const Look *look, const redisReply *id)
{
	for (int i = 0; i < look->count; i++)
	{
		if (id->type == REDIS_REPLY_STRING &&
			strcmp(look->marks[i].id, id->str) == 0)
			return true;
	}
	return false;
}

static void
take_marks(int index pg_attribute_unused(), const redisReply *reply, void *arg)
{
	Look	   *look = arg;

	if (reply->type != REDIS_REPLY_ARRAY)
		return;
	for (size_t i = 0; i + 1 < reply->elements; i += 2)
	{
		const redisReply *id = reply->element[i];
		const redisReply *xid = reply->element[i + 1];
		Mark	   *mark = &look->marks[look->count];

		/* others are counts */
		if (look->count == MARKS_PER_LOOK)
			break;
		if (is_listed(look, id))
			continue;
		if (id->type != REDIS_REPLY_STRING || id->len != SLATE_TOKEN_LEN ||
			xid->type != REDIS_REPLY_STRING)
			continue;
		strlcpy(mark->id, id->str, sizeof(mark->id));
		mark->xid = strtou64(xid->str, NULL, 10);

		/* of all those that are prepared none takes the place of another */
		if (!is_ours_and_under_way(mark->xid))
			look->count++;
	}
}

/* Leaves those that nobody needs.  The order of the questions matters. */
static void
keep_useless(Look *look, SlateDatabase *database)
{
	SlateDoubtCopy *doubt = palloc(sizeof(SlateDoubtCopy));
	int			kept = 0;

	for (int i = 0; i < look->count; i++)
	{
		uint64		xid = look->marks[i].xid;

		if (!is_ours_and_under_way(xid) && !slate_doubt_is_marking(xid))
			look->marks[kept++] = look->marks[i];
	}
	look->count = kept;
	if (kept > 0)
		slate_doubt_copy(database, doubt);
	kept = 0;
	for (int i = 0; i < look->count; i++)
	{
		if (!slate_doubt_copy_contains(doubt, look->marks[i].xid))
			look->marks[kept++] = look->marks[i];
	}
	look->count = kept;
	pfree(doubt);
}

void
slate_strict_resolve(SlateDatabase *database)
{
	Look	   *look = palloc0(sizeof(Look));
	int64		deadline = slate_link_now() + slate_redis_timeout;
	SlateBatch	batch;
	SlateStamp	stamp;

	slate_stamp_own(&stamp);
	slate_batch_init(&batch);
	slate_script_add_get_marks(&batch, &stamp);
	if (slate_exchange_run(&batch, take_marks, look, deadline,
						   LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE)
		return;
	keep_useless(look, database);
	slate_batch_init(&batch);
	for (int i = 0; i < look->count; i++)
	{
		memcpy(stamp.nonce, look->marks[i].id, sizeof(stamp.nonce));
		slate_stamp_make_mark(&stamp);
		slate_script_add_release(&batch, stamp.mark, true);
	}
	if (batch.ncommands > 0)
		(void) slate_exchange_run(&batch, NULL, NULL, deadline,
								  LINK_WAIT_INTERRUPTIBLE);
}

/* ------------------------------------------------------------------------
 * The worker: marks that Redis may have lost
 * ------------------------------------------------------------------------
 */

static void
mark_row(const SlateJournalRow *row, void *arg)
{
	SlateBatch *batch = arg;
	SlateStamp	stamp = row->stamp;
	SlateJournalEntry entry;
	int			offset = 0;

	if (row->state != ROW_UNDER_WAY || !slate_journal_is_marked(row))
		return;
	stamp.epoch_key = "";
	slate_stamp_own(&stamp);
	slate_stamp_make_mark(&stamp);
	while (slate_journal_next(row, &offset, &entry))
	{
		SlateSlice	beginning = {entry.name.start,
		slate_glob_prefix_len(entry.name.start, entry.name.len)};

		if (entry.is_everything || entry.is_glob)
			slate_script_add_mark_beginnings(batch, &stamp, row->xid,
											 &beginning, 1);
		else
			slate_script_add_marks(batch, &stamp, row->xid, &entry.name, 1);
	}
}

static bool
mark_generation(int generation)
{
	SlateJournalPlace place = {0};
	bool		more = true;

	while (more)
	{
		SlateOutcome outcome = {0};
		SlateBatch	batch;

		slate_batch_init(&batch);
		slate_database_begin();
		more = slate_journal_read(generation, &place, STEP_BLOCKS, mark_row,
								  &batch);
		slate_database_commit();
		if (batch.ncommands > 0 &&
			(slate_exchange_publish(&batch, &outcome,
									slate_link_now() + slate_redis_timeout,
									slate_redis_timeout,
									LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE ||
			 outcome.refused > 0))
			return false;
		slate_batch_free(&batch);
	}
	return true;
}

/*
 * Rows are written before the marks.  So who has none yet, when we read them,
 * marks later than this began.
 */
bool
slate_strict_mark_again(void)
{
	for (int generation = 0; generation < SLATE_GENERATIONS; generation++)
	{
		if (!mark_generation(generation))
			return false;
	}
	return true;
}
