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
 *	  journal was full, or on request, the namespace is emptied: all keys that
 *	  rules cover, with their guards, in steps of a SCAN.
 * 4. What is marked, for mode strict, and need not be any more?  See strict.c.
 * 5. What is in doubt?  See doubt.c.  One step of a pass over the journal, the
 *	  oldest pages first: in a transaction it reads some of them and encodes
 *	  DROPs of what the rows in doubt name; after the transaction it sends them.
 *	  It goes on when all of them have arrived, and otherwise repeats the step.
 *	  Patterns are gathered, and looked for in one walk over the keyspace at the
 *	  end.
 * 6. Generations: see journal.c.
 *
 * While Redis is away the worker is the one that tries it (the breaker, see
 * redis.c), and so knows first that it is back.  It then works as long as it
 * rests: half of Redis' time is for the others.
 *
 * DROPs are sent with the highest version among their rows; higher than that
 * of their own transaction does no harm: a PUT that comes later than such a
 * DROP and is older becomes a DROP too.
 *
 * No transaction is open during I/O.  The worker may die at any place: what is
 * in doubt is in shared memory, and a pass begins anew.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_db_role_setting.h"
#include "commands/extension.h"
#include "drain.h"
#include "events.h"
#include "journal.h"
#include "near.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "publish.h"
#include "ring.h"
#include "rules.h"
#include "script.h"
#include "stats.h"
#include "strict.h"
#include "sweep.h"
#include "traffic.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "trust.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "worker.h"

/* How often to look around when nothing is to be done. */
#define ROUND_MS 1000

/* How often while transactions are prepared. */
#define UNDECIDED_MS 200

/* How long to wait after a failure, at first and at most. */
#define MIN_RETRY_MS 100
#define MAX_RETRY_MS 5000

/* How long to wait before the namespace is emptied again, at most. */
#define MAX_EMPTY_REST_MS 60000

/* Pages of the journal in one step. */
#define STEP_BLOCKS 16

/* Patterns in one walk over the keyspace. */
#define GLOBS_PER_SWEEP 512

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

/* The pass that is under way. */
static struct
{
	bool		open;
	int			nth;			/* of the generations */
	int			generations[SLATE_GENERATIONS];
	uint64		nblocks;		/* of those before it */
	uint64		total;			/* of all, as far as is known */
	uint64		nrows;			/* that were replayed */
	BlockNumber block;			/* where the next step begins */
	BlockNumber end;			/* where the generation ended */
	MemoryContext context;		/* patterns are in it */
	SlateOpList *globs;			/* as a list of globs */
	int			maxstamps;
	SlateStamp *stamps;			/* theirs, by position */
	uint64	   *tell;			/* in which step to tell Redis of a pattern:
								 * floor and indexes */
	uint64		nsteps;
	bool		out_of_memory;	/* Redis is: what it holds is removed, but
								 * nothing noted, so it counts for nothing */
	bool		again;			/* that was so of the one before */
}			pass;

/* What one step has read. */
typedef struct Step
{
	SlateOpList *list;			/* keys */
	SlateStamp	stamp;			/* the highest */
	int64		nrows;
	int64		nlate;			/* those that should have been told before */
} Step;

/* Late rows that were told since the last event said so. */
static int64 nconcluded = 0;

/* Transactions before this had their "everything" by an emptying. */
static uint64 emptied_for = 0;

static int64 next_rotation = 0;
static int64 next_empty = 0;
static int64 empty_rest = ROUND_MS;

/* An emptying that has failed waits until then, and longer each time. */
static int64 next_attempt = 0;
static int64 attempt_rest = 0;

PGDLLEXPORT void slate_worker_main(Datum arg);

/* What the worker is doing: for slate_cache.progress, and pg_stat_activity. */
static void
enter_phase(SlatePhase phase, const char *activity)
{
	slate_progress_enter(&database->progress, phase);
	pgstat_report_activity(STATE_RUNNING, activity);
}

/* ------------------------------------------------------------------------
 * Reading a step
 * ------------------------------------------------------------------------
 */

static bool
is_in_doubt(SlateDoubtKind kind, uint64 xid)
{
	return slate_doubt_contains(&database->active[kind], xid);
}

/*
 * Add a pattern to the pass, or raise its stamp.  If it is all that is left of
 * a transaction, Redis has been told of it, and it is only looked for.
 */
static void
gather_glob(const SlateJournalRow *row, const SlateJournalEntry *entry,
			bool tell)
{
	int			known = pass.globs->nglobs;
	int			position = slate_ops_note_glob(pass.globs, entry->name,
											   1, NULL, entry->is_thorough);
	SlateStamp *stamp;

	if (position >= pass.maxstamps)
	{
		pass.maxstamps *= 2;
		pass.stamps = repalloc_array(pass.stamps, SlateStamp, pass.maxstamps);
		pass.tell = repalloc_array(pass.tell, uint64, pass.maxstamps);
	}
	if (pass.globs->nglobs > known)
		pass.tell[position] = 0;
	if (tell)
		pass.tell[position] = pass.nsteps;
	stamp = &pass.stamps[position];
	if (pass.globs->nglobs > known)
	{
		*stamp = row->stamp;
		slate_script_own(stamp);
		return;
	}
	if (strcmp(stamp->nonce, row->stamp.nonce) == 0)
		return;

	/* of two transactions now: it spares neither's own keys */
	if (strcmp(row->stamp.version, stamp->version) > 0)
		strlcpy(stamp->version, row->stamp.version, sizeof(stamp->version));
	memset(stamp->nonce, '-', SLATE_TOKEN_LEN);
}

static void
take_entry(Step *step, const SlateJournalRow *row,
		   const SlateJournalEntry *entry, bool keys)
{
	if (entry->is_everything && row->xid < emptied_for)
		return;
	if (entry->is_everything)
		pg_atomic_write_u32(&database->must_empty, 1);
	else if (!entry->is_glob && keys)
		(void) slate_ops_begin(step->list, entry->name, 1);
	else if (entry->is_glob)
		gather_glob(row, entry, keys);
}

static void
take_row(const SlateJournalRow *row, void *arg)
{
	Step	   *step = arg;
	bool		keys = is_in_doubt(DOUBT_ALL, row->xid);
	SlateJournalEntry entry;
	int			offset = 0;

	if (!keys && !is_in_doubt(DOUBT_PATTERNS, row->xid))
		return;
	if (row->state == ROW_UNDER_WAY)
	{
		slate_doubt_add_undecided(database, row->xid, row->generation);
		return;
	}
	while (slate_journal_next(row, &offset, &entry))
		take_entry(step, row, &entry, keys);
	if (strcmp(row->stamp.version, step->stamp.version) > 0)
		strlcpy(step->stamp.version, row->stamp.version,
				sizeof(step->stamp.version));
	step->nrows++;
	if (keys && row->generation != SLATE_PREPARED_GENERATION)
		step->nlate++;
}

/* ------------------------------------------------------------------------
 * Encoding a step
 * ------------------------------------------------------------------------
 */

typedef struct FamilyState
{
	SlateBatch *batch;
	const SlateStamp *stamp;
	const SlateGlobOp *glob;
} FamilyState;

static void
drop_from_family(const char *family, int familylen, void *arg)
{
	FamilyState *state = arg;

	slate_script_add_drop_family(state->batch, state->stamp, family,
								 familylen, state->glob->glob,
								 state->glob->len);
}

/* The floor first, then what indexes know. */
static void
encode_glob(SlateBatch *batch, int position)
{
	const SlateGlobOp *glob = &pass.globs->globs[position];
	FamilyState state = {batch, &pass.stamps[position], glob};
	SlateSlice	prefix = {glob->glob,
	slate_glob_prefix_len(glob->glob, glob->len)};

	slate_script_add_floor(batch, state.stamp, &prefix, 1);
	slate_rules_glob_families(glob->glob, glob->len, drop_from_family, &state);
}

static void
encode_keys(SlateBatch *batch, const Step *step)
{
	SlateOpList *list = step->list;
	SlatePush  *pushes = palloc0_array(SlatePush, list->nops + 1);

	for (int i = 0; i < list->nops; i++)
	{
		pushes[i].key = list->ops[i].key;
		pushes[i].keylen = list->ops[i].keylen;
		pushes[i].order = SLATE_SHARED;
	}
	slate_script_add_pushes(batch, &step->stamp, pushes, list->nops);
	pfree(pushes);
}

/* In a transaction of its own; what it makes is in the current context. */
static void
read_step(Step *step, SlateBatch *batch, BlockNumber *block)
{
	BlockNumber nblocks = Min(STEP_BLOCKS, pass.end - pass.block);

	memset(step, 0, sizeof(*step));
	step->list = slate_ops_create(CurrentMemoryContext);
	step->stamp.epoch_key = "";
	slate_script_own(&step->stamp);
	pass.nsteps++;
	slate_script_refresh_nonce(&step->stamp);
	slate_script_batch_init(batch);

	slate_database_begin();
	*block = pass.block;

	/* it ends earlier if it was truncated: then nothing there was in doubt */
	if (!slate_journal_read(pass.generations[pass.nth], block, nblocks,
							take_row, step))
		*block = pass.end;
	for (int i = 0; i < pass.globs->nglobs; i++)
	{
		if (pass.tell[i] == pass.nsteps)
			encode_glob(batch, i);
	}
	encode_keys(batch, step);
	slate_database_commit();
}

/* ------------------------------------------------------------------------
 * Sending
 * ------------------------------------------------------------------------
 */

static bool
is_connected(void)
{
	return slate_script_prepare(slate_link_now() + slate_redis_timeout,
								LINK_WAIT_INTERRUPTIBLE) == REDIS_DONE;
}

/* What another server hears is not delivered; see trust.c. */
static bool
is_known(void)
{
	if (slate_redis_identity() == pg_atomic_read_u64(&database->identity))
		return true;
	pg_atomic_write_u32(&database->look, SLATE_LOOK_SERVER);
	return false;
}

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

/*
 * While Redis has no memory a pass goes on, but is not done at its end: what
 * is refused is to note patterns, and to walk over what they match is not.
 * Others do not want to know: NULL.
 */
static bool
send_batch(const SlateBatch *batch, bool *out_of_memory)
{
	SlateOutcome outcome = {0};

	if (batch->ncommands == 0)
		return true;
	if (!is_connected() || !is_known() ||
		slate_script_publish(batch, &outcome,
							 slate_link_now() + slate_redis_timeout,
							 slate_redis_timeout,
							 LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE)
		return false;
	slate_stats_add(STAT_KEYS_DROPPED, outcome.dropped);
	if (out_of_memory && slate_script_is_out_of_memory(&outcome))
		*out_of_memory = true;
	else if (outcome.refused > 0)
		return false;
	return is_known();
}

/* A walk over the keyspace; stamps: see slate_sweep(). */
static bool
walk(const SlateSlice *globs, int nglobs, const SlateStamp *const *stamps)
{
	int64		start = slate_link_now();
	SlateSwept	swept;

	slate_sweep_init();
	if (!is_connected() || !is_known())
		return false;
	slate_progress_begin_walk(&database->progress, nglobs);
	(void) slate_sweep(slate_globset_make(globs, nglobs), stamps,
					   &swept, PG_INT64_MAX, PG_INT64_MAX,
					   LINK_WAIT_INTERRUPTIBLE);
	slate_progress_end_walk(&database->progress);
	slate_stats_add(STAT_SWEEPS, 1);
	slate_stats_add(STAT_KEYS_DROPPED, swept.outcome.dropped);
	if (!swept.finished || swept.outcome.refused > 0 || !is_known())
		return false;
	slate_database_note_keyspace(database, swept.nnames,
								 slate_link_now() - start);
	return true;
}

/* Forget the patterns that were gathered. */
static void
begin_gathering(void)
{
	MemoryContext old;

	MemoryContextReset(pass.context);
	old = MemoryContextSwitchTo(pass.context);
	pass.globs = slate_ops_create(pass.context);
	pass.maxstamps = GLOBS_PER_SWEEP;
	pass.stamps = palloc_array(SlateStamp, pass.maxstamps);
	pass.tell = palloc_array(uint64, pass.maxstamps);
	MemoryContextSwitchTo(old);
}

/* Look for what the pass has gathered. */
static bool
sweep_pass(void)
{
	SlateSlice *globs = palloc_array(SlateSlice, pass.globs->nglobs + 1);
	const SlateStamp **stamps = palloc_array(const SlateStamp *,
											 pass.globs->nglobs + 1);
	int			nglobs = 0;

	for (int i = 0; i < pass.globs->nglobs; i++)
	{
		const SlateGlobOp *glob = &pass.globs->globs[i];

		/* without slate_cache.sweep rules drop what indexes know */
		if (!slate_publish_sweep && !glob->thorough)
			continue;
		globs[nglobs].start = glob->glob;
		globs[nglobs].len = glob->len;
		stamps[nglobs++] = &pass.stamps[i];
	}
	if (nglobs == 0)
		return true;
	enter_phase(PHASE_SWEEPING, "sweeping Redis for dropped patterns");
	if (!walk(globs, nglobs, stamps))
		return false;
	for (int i = 0; i < nglobs; i++)
		slate_near_void_glob(globs[i]);
	return true;
}

/* ------------------------------------------------------------------------
 * A pass over the journal
 * ------------------------------------------------------------------------
 */

/* For slate_cache.progress. */
static void
show_pass(void)
{
	slate_progress_set_pass(&database->progress, pass.nblocks + pass.block,
							pass.total, pass.nrows);
}

static void
open_generation(void)
{
	slate_database_begin();
	pass.end = slate_journal_size(pass.generations[pass.nth]) / BLCKSZ;
	pass.total = pass.nblocks + pass.end;

	/* those that follow may grow until it is their turn */
	for (int i = pass.nth + 1; i < SLATE_GENERATIONS; i++)
		pass.total += slate_journal_size(pass.generations[i]) / BLCKSZ;
	slate_database_commit();
	pass.block = 0;
	show_pass();
}

/*
 * What is oldest comes first: it has been wrong for longest.  In a generation
 * that is the order of the pages, or nearly so: sessions that write at once
 * have pages of their own.  What is prepared was written before much of the
 * rest, and is little.
 */
static void
open_pass(void)
{
	pass.nth = 0;
	pass.nblocks = 0;
	pass.nrows = 0;
	pass.out_of_memory = false;
	slate_progress_begin_pass(&database->progress);
	pass.generations[0] = SLATE_PREPARED_GENERATION;
	pass.generations[2] = pg_atomic_read_u32(&database->current);
	pass.generations[1] = 1 - pass.generations[2];
	open_generation();
	begin_gathering();
	pass.open = true;
}

typedef enum Progress
{
	PROGRESS_IDLE,				/* there is nothing to be done */
	PROGRESS_STEP,				/* something was done; there may be more */
	PROGRESS_FAILED				/* Redis did not take it */
} Progress;

/* What Redis has dropped is not near either. */
static void
void_step(const Step *step)
{
	for (int i = 0; i < step->list->nops; i++)
		slate_near_void_key((SlateSlice) {step->list->ops[i].key,
										  step->list->ops[i].keylen});
	for (int i = 0; i < pass.globs->nglobs; i++)
	{
		if (pass.tell[i] == pass.nsteps)
			slate_near_void_glob((SlateSlice) {pass.globs->globs[i].glob,
											   pass.globs->globs[i].len});
	}
}

/* False if Redis did not take it. */
static bool
send_step(const Step *step, const SlateBatch *batch)
{
	uint64		now = GetXLogInsertRecPtr();
	bool		done;

	if (batch->ncommands == 0)
		return true;
	slate_traffic_open(false);
	for (int i = 0; i < pass.globs->nglobs; i++)
	{
		if (pass.tell[i] == pass.nsteps)
			slate_traffic_add_glob((SlateSlice) {pass.globs->globs[i].glob,
												 pass.globs->globs[i].len},
								   now);
	}
	for (int i = 0; i < step->list->nops; i++)
		(void) slate_traffic_add_key((SlateSlice) {step->list->ops[i].key,
												   step->list->ops[i].keylen},
									 now);
	(void) slate_traffic_close(false, now);
	done = is_connected() && is_known() &&
		slate_traffic_fence(slate_link_now() + slate_redis_timeout,
							LINK_WAIT_INTERRUPTIBLE) &&
		send_batch(batch, &pass.out_of_memory);
	slate_traffic_leave();
	return done;
}

static Progress
replay_pages(void)
{
	Step		step;
	SlateBatch	batch;
	BlockNumber block;

	enter_phase(PHASE_REPLAYING, "replaying the journal");
	read_step(&step, &batch, &block);
	if (!send_step(&step, &batch))
		return PROGRESS_FAILED; /* patterns gathered twice are there once */
	void_step(&step);
	slate_stats_add(STAT_REPLAYED, step.nrows);
	nconcluded += step.nlate;
	pass.nrows += step.nrows;
	pass.block = block;
	show_pass();
	return PROGRESS_STEP;
}

static Progress
replay(void)
{
	if (!pass.open)
	{
		if (!slate_doubt_begin_pass(database))
			return PROGRESS_IDLE;
		open_pass();
	}
	if (pass.globs->nglobs >= GLOBS_PER_SWEEP)
	{
		if (!sweep_pass())
			return PROGRESS_FAILED;
		begin_gathering();
	}
	if (pass.block < pass.end)
		return replay_pages();
	if (pass.nth + 1 < SLATE_GENERATIONS)
	{
		pass.nth++;
		pass.nblocks += pass.end;
		open_generation();
		return PROGRESS_STEP;
	}
	if (!sweep_pass())
		return PROGRESS_FAILED;
	pass.open = false;
	pass.again = pass.out_of_memory;
	if (pass.out_of_memory)
	{
		/* others may have failed meanwhile, and have left values there */
		slate_doubt_repeat_pass(database);
		return PROGRESS_FAILED;
	}
	slate_doubt_end_pass(database);
	slate_progress_end_pass(&database->progress);
	return PROGRESS_STEP;
}

/* ------------------------------------------------------------------------
 * Emptying the namespace
 * ------------------------------------------------------------------------
 */

/* The patterns that all keys of all rules match, in the current context. */
static List *
namespace_globs(void)
{
	List	   *globs = NIL;
	ListCell   *lc;

	slate_database_begin();
	foreach(lc, slate_rules_all())
	{
		SlateRelation *relation = lfirst(lc);

		for (int i = 0; i < relation->nrules; i++)
			globs = lappend(globs, pstrdup(relation->rules[i].wildcard));
	}
	slate_database_commit();
	return globs;
}

/* Keys that were set by hand, under no rule. */
static bool
drop_loose_keys(void)
{
	SlateBatch	batch;
	SlateStamp	stamp;

	slate_script_batch_init(&batch);
	slate_script_stamp(&stamp);
	slate_script_add_drop_family(&batch, &stamp, SLATE_LOOSE_FAMILY,
								 strlen(SLATE_LOOSE_FAMILY), "*", 1);
	return send_batch(&batch, NULL);
}

static bool
forget_namespace(void)
{
	List	   *patterns = namespace_globs();
	SlateSlice *globs = palloc_array(SlateSlice, list_length(patterns) + 1);
	int			nglobs = 0;
	ListCell   *lc;

	foreach(lc, patterns)
	{
		globs[nglobs].start = lfirst(lc);
		globs[nglobs].len = strlen(lfirst(lc));
		nglobs++;
	}
	return drop_loose_keys() &&
		(nglobs == 0 || walk(globs, nglobs, NULL));
}

/*
 * Empty it, and begin a new epoch.  If the journal was full, there is room
 * from now on; transactions that still rely on the entry "everything" of
 * another are seen by their failure.  What has rows is replayed nevertheless.
 */
static bool
empty_namespace(const char *reason)
{
	uint32		flush = pg_atomic_read_u32(&database->flush);
	bool		all = pg_atomic_read_u32(&database->must_empty) != 0;
	uint64		identity;
	uint64		next_xid;

	ereport(LOG,
			(errmsg("slate_cache empties its namespace in %s",
					slate_redis_server_name()),
			 errdetail("The reason: %s.", reason)));
	enter_phase(PHASE_EMPTYING, "emptying the namespace");
	if (!slate_trust_withdraw(database))
		return false;
	identity = slate_redis_identity();
	next_xid = U64FromFullTransactionId(ReadNextFullTransactionId());
	if (all)
	{
		uint32		full = SLATE_JOURNAL_FULL;

		/* what is there has yet to be replayed */
		pg_atomic_write_u64(&database->forgiven,
							pg_atomic_read_u64(&database->bytes[0]) +
							pg_atomic_read_u64(&database->bytes[1]));
		pg_atomic_write_u32(&database->must_empty, 0);
		(void) pg_atomic_compare_exchange_u32(&database->full, &full,
											  SLATE_JOURNAL_ROOM);
		pg_memory_barrier();
	}
	if (!forget_namespace() || !slate_strict_mark_again() ||
		identity != slate_redis_identity() || !slate_trust_establish(database))
	{
		if (all)
			pg_atomic_write_u32(&database->must_empty, 1);
		return false;
	}
	emptied_for = next_xid;
	slate_near_void_all();
	slate_stats_add(STAT_EMPTIED, 1);
	slate_events_note(EVENT_EMPTIED, MyDatabaseId, "%s: %s",
					  slate_redis_server_name(), reason);
	pg_atomic_write_u32(&database->flushed, flush);
	return true;
}

/* Why should it be emptied?  NULL: it should not. */
static const char *
reason_to_empty(void)
{
	const char *reason = NULL;
	SlateTrust	trust = slate_trust_examine(database, &reason);

	if (pg_atomic_read_u32(&database->flush) !=
		pg_atomic_read_u32(&database->flushed))
		return "slate_cache_flush() has asked for it";
	if (trust != TRUST_HELD && trust != TRUST_EMPTYING)
		return NULL;
	if (pg_atomic_read_u32(&database->must_empty) != 0)
		return "the journal was full while Redis was away";
	return trust == TRUST_EMPTYING ? reason : NULL;
}

/*
 * Empty it, unless that has failed a moment ago.  The breaker does not keep us
 * from it: Redis may take the first steps each time, which closes it, and then
 * refuse, or hang up.
 */
static bool
try_to_empty(const char *reason)
{
	if (slate_link_now() < next_attempt)
		return false;
	if (empty_namespace(reason))
	{
		attempt_rest = 0;
		return true;
	}
	attempt_rest = Min(Max(2 * attempt_rest, MIN_RETRY_MS), MAX_RETRY_MS);
	next_attempt = slate_link_now() + attempt_rest;
	return false;
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
		slate_redis_reconfigure();
		next_reconnect = now + RECONNECT_MS;
	}
	enter_phase(PHASE_LOOKING, "asking Redis for its epoch");
	if (!is_connected())
	{
		uint32		unknown = TRUST_UNKNOWN;

		(void) pg_atomic_compare_exchange_u32(&database->trust, &unknown,
											  TRUST_WAITING);
		return false;
	}
	pg_atomic_write_u32(&database->look, 0);
	reason = reason_to_empty();
	if (reason == NULL)
	{
		if (now > next_empty)
			empty_rest = ROUND_MS;
		if (pg_atomic_read_u32(&database->trust) != TRUST_HELD)
			return false;
		attempt_rest = 0;
		return true;
	}

	/* two servers that take the epoch from each other leave it some time */
	if (now < next_empty && slate_trust_is_contested())
		return false;
	if (!try_to_empty(reason))
		return false;
	if (slate_trust_is_contested())
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
	pg_atomic_write_u64(&database->bytes[generation], 0);
	pg_atomic_write_u64(&database->forgiven, 0);
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

/* Nothing of it is left: whoever creates it again begins anew. */
static void
forget_extension(void)
{
	slate_doubt_forget(database);
	pg_atomic_write_u32(&database->trust, TRUST_UNKNOWN);
	pg_atomic_write_u64(&database->epoch, 0);
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
		BlockNumber block = 0;

		(void) slate_journal_read(i, &block, STEP_BLOCKS, note_oldest,
								  oldest[i]);
	}
	if (oldest[current][0] != '\0' &&
		strcmp(oldest[current], oldest[1 - current]) < 0)
		pg_atomic_write_u32(&database->current, 1 - current);
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
	slate_events_note(EVENT_WORKER_STARTED, MyDatabaseId, "for %s",
					  slate_redis_server_name());
	slate_sweep_count(&database->progress.keys);
	pg_atomic_write_u32(&database->unavailable, 0);
	pg_atomic_write_u64(&database->server, slate_redis_server_key());
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
	server = slate_redis_server_key();
	if (server == pg_atomic_read_u64(&database->server))
		return;
	pg_atomic_write_u32(&database->trust, TRUST_WAITING);
	pg_atomic_write_u64(&database->epoch, 0);
	pg_atomic_write_u64(&database->server, server);
}

/* Has slate_cache_flush() asked for something that has not just failed? */
static bool
is_asked_to_flush(void)
{
	return pg_atomic_read_u32(&database->flush) !=
		pg_atomic_read_u32(&database->flushed) &&
		slate_link_now() >= next_attempt;
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

	if ((delayed_since == 0 && nconcluded == 0) || now < next_event)
		return;
	next_event = now + CONCLUDE_MS;
	(void) pg_atomic_compare_exchange_u64(&database->progress.delayed_since,
										  &delayed_since, 0);
	slate_events_note(EVENT_REPLAYED, MyDatabaseId,
					  INT64_FORMAT " rows of the journal", nconcluded);
	nconcluded = 0;
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
 * it was not the connection.
 */
static long
choose_rest(long retry)
{
	long		rest = slate_redis_next_try();
	long		attempt = next_attempt - slate_link_now();

	if (rest <= 0)
		rest = attempt > 0 ? attempt : retry;
	return Min(rest, MAX_RETRY_MS);
}

/* What was broken off, and nobody has come since to fence off. */
static void
fence(void)
{
	slate_traffic_open(false);
	(void) slate_traffic_close(false, 0);
	if (is_connected() && is_known())
		(void) slate_traffic_fence(slate_link_now() + slate_redis_timeout,
								   LINK_WAIT_INTERRUPTIBLE);
	slate_traffic_leave();
}

/* Does all that can be done now; returns how long it may wait for more. */
static long
go_round(void)
{
	static long retry = MIN_RETRY_MS;
	static int64 next_watch = 0;
	int64		start = slate_link_now();
	bool		can_work = true;
	Progress	progress = PROGRESS_IDLE;
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
	if (start >= next_watch || pg_atomic_read_u32(&database->look) != 0 ||
		pg_atomic_read_u32(&database->must_empty) != 0 ||
		pg_atomic_read_u32(&database->flush) !=
		pg_atomic_read_u32(&database->flushed))
	{
		can_work = watch();
		if (can_work)
		{
			watch_marks();
			fence();
		}
		next_watch = can_work ? start + ROUND_MS : 0;
	}
	if (can_work)
		progress = replay();
	rotate();

	if (!can_work || progress == PROGRESS_FAILED)
	{
		note_failure();
		enter_waiting();
		retry = Min(2 * retry, MAX_RETRY_MS);
		take_a_rest(choose_rest(retry));
		return 0;
	}

	/* a step is no success if a pass before or in it must be repeated */
	if (!pass.again && !(pass.open && pass.out_of_memory))
	{
		note_recovery();
		retry = MIN_RETRY_MS;
	}
	if (progress == PROGRESS_STEP)
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

void
slate_worker_main(Datum arg)
{
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, on_terminate);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg),
											  InvalidOid, 0);
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "slate_cache worker");
	slate_script_init();
	slate_trust_prepare_fence();
	if (!enter())
		proc_exit(0);
	context = AllocSetContextCreate(TopMemoryContext, "slate_cache worker",
									ALLOCSET_DEFAULT_SIZES);
	pass.context = AllocSetContextCreate(TopMemoryContext, "slate_cache pass",
										 ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		long		rest;

		/* first of all: what comes from here on sets it again */
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			reload();
		}
		if (is_told_to_leave())
			proc_exit(0);
		if (look_for_extension() != extension_oid)
		{
			forget_extension();
			extension_oid = InvalidOid;
			proc_exit(0);
		}
		MemoryContextSwitchTo(context);
		SetCurrentStatementStartTimestamp();
		rest = go_round();
		slate_stats_log_losses();
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextReset(context);
		pgstat_report_activity(STATE_IDLE, "waiting for something to do");
		(void) pgstat_report_stat(false);
		if (rest > 0 && slate_ring_may_sleep(database))
			(void) WaitLatch(MyLatch,
							 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 rest, PG_WAIT_EXTENSION);
	}
}
