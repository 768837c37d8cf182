/*-------------------------------------------------------------------------
 *
 * replay.c
 *	  The worker tells Redis what the journal has in doubt.
 *
 * It does so in passes over the journal, the oldest pages first, see doubt.c
 * for what is in doubt.  A step reads some pages in a transaction, and encodes
 * DROPs of what the rows in doubt name; after the transaction it sends them.  It
 * goes on when all of them have arrived, and otherwise repeats the step.
 * Patterns are gathered, and looked for in one walk over the keyspace at the
 * end.  That finds what commits have left of large families, too; where there
 * is to be no walk the indexes are gone through instead.
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

#include "access/xlog.h"
#include "deliver.h"
#include "doubt.h"
#include "emptying.h"
#include "journal.h"
#include "near.h"
#include "ops.h"
#include "replay.h"
#include "rules.h"
#include "script.h"
#include "stats.h"
#include "traffic.h"
#include "utils/memutils.h"

/* Pages of the journal in one step. */
#define STEP_BLOCKS 16

/* Patterns in one walk over the keyspace. */
#define GLOBS_PER_SWEEP 512

/* Whose journal it is. */
static SlateDatabase *database = NULL;

/* The pass that is under way. */
static struct
{
	bool		open;
	int			nth;			/* of the generations */
	int			generations[SLATE_GENERATIONS];
	uint64		nblocks;		/* of those before it */
	uint64		total;			/* of all, as far as is known */
	uint64		nrows;			/* that were replayed */
	SlateJournalPlace place;	/* where the next step begins */
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
	SlateJournalPlace place;	/* behind it */
	BlockNumber end;			/* of the generation */
} Step;

/* See slate_replay_late_rows(). */
static int64 nlate = 0;

/* ------------------------------------------------------------------------
 * Reading a step
 * ------------------------------------------------------------------------
 */

static bool
is_in_doubt(SlateDoubtKind kind, uint64 xid)
{
	return slate_ranges_contain(&database->active[kind], xid);
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
											   1, NULL, false);
	SlateStamp *stamp;

	pass.globs->globs[position].swept |= entry->is_swept;
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
		slate_stamp_own(stamp);
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
	if (entry->is_everything && row->xid < slate_emptying_horizon())
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

/* The floor first, then what indexes know, whoever has PUT it. */
static void
encode_glob(SlateBatch *batch, int position)
{
	const SlateGlobOp *glob = &pass.globs->globs[position];
	SlateStamp	stamp = pass.stamps[position];
	SlateSlice	prefix = {glob->glob,
	slate_glob_prefix_len(glob->glob, glob->len)};

	memset(stamp.nonce, '-', SLATE_TOKEN_LEN);
	slate_script_add_floor(batch, &stamp, &prefix, 1);
	slate_rules_add_drops(batch, &stamp, glob->glob, glob->len, false);
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

static BlockNumber
blocks_of(int generation)
{
	return slate_journal_size(generation) / BLCKSZ;
}

/*
 * In a transaction of its own; what it makes is in the current context.  A
 * generation that was rewritten since the last step begins anew.
 */
static void
read_step(Step *step, SlateBatch *batch)
{
	int			generation = pass.generations[pass.nth];
	BlockNumber nblocks = Min(STEP_BLOCKS, pass.end - pass.place.block);
	bool		more;

	memset(step, 0, sizeof(*step));
	step->list = slate_ops_create(CurrentMemoryContext);
	step->stamp.epoch_key = "";
	slate_stamp_own(&step->stamp);
	pass.nsteps++;
	slate_stamp_refresh_nonce(&step->stamp);
	slate_batch_init(batch);

	slate_database_begin();
	step->place = pass.place;
	more = slate_journal_read(generation, &step->place, nblocks, take_row, step);
	step->end = step->place.file == pass.place.file ? pass.end
		: blocks_of(generation);

	/* it ends earlier if it was truncated: then nothing there was in doubt */
	if (!more)
		step->place.block = step->end;
	for (int i = 0; i < pass.globs->nglobs; i++)
	{
		if (pass.tell[i] == pass.nsteps)
			encode_glob(batch, i);
	}
	encode_keys(batch, step);
	slate_database_commit();
}

/* ------------------------------------------------------------------------
 * Looking for patterns
 * ------------------------------------------------------------------------
 */

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

/*
 * Of what is all that is left of a transaction, and not looked for in a walk:
 * what indexes know.
 */
static bool
drop_families(void)
{
	SlateBatch	batch;

	slate_batch_init(&batch);
	slate_database_begin();
	for (int i = 0; i < pass.globs->nglobs; i++)
	{
		const SlateGlobOp *glob = &pass.globs->globs[i];

		if (pass.tell[i] == 0 && !glob->swept)
			slate_rules_add_drops(&batch, &pass.stamps[i], glob->glob,
								  glob->len, true);
	}
	slate_database_commit();
	if (batch.ncommands == 0)
		return true;
	if (!slate_deliver_batch(database, &batch, &pass.out_of_memory))
		return false;
	for (int i = 0; i < pass.globs->nglobs; i++)
		slate_near_void_glob((SlateSlice) {pass.globs->globs[i].glob,
										   pass.globs->globs[i].len});
	return true;
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

		if (!glob->swept)
			continue;
		globs[nglobs].start = glob->glob;
		globs[nglobs].len = glob->len;
		stamps[nglobs++] = &pass.stamps[i];
	}
	if (!drop_families())
		return false;
	if (nglobs == 0)
		return true;
	slate_progress_show(&database->progress, PHASE_SWEEPING,
						"sweeping Redis for dropped patterns");
	if (!slate_deliver_walk(database, globs, nglobs, stamps))
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
	slate_progress_set_pass(&database->progress,
							pass.nblocks + pass.place.block,
							pass.total, pass.nrows);
}

static void
open_generation(void)
{
	slate_database_begin();
	pass.end = blocks_of(pass.generations[pass.nth]);
	pass.total = pass.nblocks + pass.end;

	/* those that follow may grow until it is their turn */
	for (int i = pass.nth + 1; i < SLATE_GENERATIONS; i++)
		pass.total += blocks_of(pass.generations[i]);
	slate_database_commit();
	memset(&pass.place, 0, sizeof(pass.place));
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
send_step(const Step *step, SlateBatch *batch)
{
	uint64		now = GetXLogInsertRecPtr();
	bool		done;

	if (batch->ncommands == 0)
		return true;
	slate_traffic_open(false, false);
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
	done = slate_deliver_connect() && slate_deliver_is_known(database) &&
		slate_traffic_fence(slate_link_now() + slate_redis_timeout,
							LINK_WAIT_INTERRUPTIBLE) &&
		slate_deliver_batch(database, batch, &pass.out_of_memory);
	slate_traffic_leave();
	return done;
}

static SlateReplay
replay_pages(void)
{
	Step		step;
	SlateBatch	batch;

	slate_progress_show(&database->progress, PHASE_REPLAYING,
						"replaying the journal");
	read_step(&step, &batch);

	/* the step is read again; gather_glob() knows those that are there */
	if (!send_step(&step, &batch))
		return REPLAY_FAILED;
	void_step(&step);
	slate_stats_add(STAT_REPLAYED, step.nrows);
	nlate += step.nlate;
	pass.nrows += step.nrows;
	pass.place = step.place;
	pass.end = step.end;
	show_pass();
	return REPLAY_STEP;
}

SlateReplay
slate_replay(void)
{
	if (!pass.open)
	{
		if (!slate_doubt_begin_pass(database))
			return REPLAY_IDLE;
		open_pass();
	}
	if (pass.globs->nglobs >= GLOBS_PER_SWEEP)
	{
		if (!sweep_pass())
			return REPLAY_FAILED;
		begin_gathering();
	}
	if (pass.place.block < pass.end)
		return replay_pages();
	if (pass.nth + 1 < SLATE_GENERATIONS)
	{
		pass.nth++;
		pass.nblocks += pass.end;
		open_generation();
		return REPLAY_STEP;
	}
	if (!sweep_pass())
		return REPLAY_FAILED;
	pass.open = false;
	pass.again = pass.out_of_memory;
	if (pass.out_of_memory)
	{
		/* others may have failed meanwhile, and have left values there */
		slate_doubt_repeat_pass(database);
		return REPLAY_FAILED;
	}
	slate_doubt_end_pass(database);
	slate_progress_end_pass(&database->progress);
	return REPLAY_STEP;
}

bool
slate_replay_must_be_repeated(void)
{
	return pass.again || (pass.open && pass.out_of_memory);
}

int64
slate_replay_late_rows(void)
{
	return nlate;
}

void
slate_replay_forget_late_rows(void)
{
	nlate = 0;
}

void
slate_replay_init(SlateDatabase *mine)
{
	database = mine;
	pass.context = AllocSetContextCreate(TopMemoryContext, "slate_cache pass",
										 ALLOCSET_DEFAULT_SIZES);
}
