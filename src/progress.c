/*-------------------------------------------------------------------------
 *
 * progress.c
 *	  What a database's worker is doing, and how far it has got:
 *	  slate_cache.progress.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "commands/dbcommands.h"
#include "database.h"
#include "fmgr.h"
#include "funcapi.h"
#include "pgstat.h"
#include "ring.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(slate_cache_progress);

#define NPHASES (PHASE_STANDING_BACK + 1)

#define BIT(phase) (1U << (phase))

/* In the order of SlatePhase. */
static const char *const phase_names[NPHASES] = {
	"no worker",
	"idle",
	"looking at redis",
	"pushing",
	"emptying",
	"replaying",
	"sweeping",
	"waiting for redis",
	"standing back"
};

/*
 * Which phases are over when another begins.  The rest are interrupted: the
 * worker looks at Redis every second, and pushes what comes in mode async, in
 * the middle of a pass that takes an hour; and while it waits for Redis it
 * tries now and then.
 */
static const uint32 ends[NPHASES] = {
	[PHASE_NONE] = ~0U,
	[PHASE_IDLE] = ~BIT(PHASE_IDLE),
	[PHASE_LOOKING] = BIT(PHASE_LOOKING),
	[PHASE_PUSHING] = BIT(PHASE_IDLE),
	[PHASE_EMPTYING] = ~BIT(PHASE_REPLAYING),
	[PHASE_REPLAYING] = ~(BIT(PHASE_REPLAYING) | BIT(PHASE_PUSHING)),
	[PHASE_SWEEPING] = ~(BIT(PHASE_REPLAYING) | BIT(PHASE_PUSHING)),
	[PHASE_WAITING] = BIT(PHASE_IDLE) | BIT(PHASE_STANDING_BACK),
	[PHASE_STANDING_BACK] = BIT(PHASE_IDLE) | BIT(PHASE_WAITING)
};

/* ------------------------------------------------------------------------
 * The worker
 * ------------------------------------------------------------------------
 */

void
slate_progress_init(SlateProgress *progress)
{
	pg_atomic_init_u32(&progress->phase, PHASE_NONE);
	pg_atomic_init_u64(&progress->since, 0);
	pg_atomic_init_u32(&progress->in_pass, 0);
	pg_atomic_init_u64(&progress->blocks_done, 0);
	pg_atomic_init_u64(&progress->blocks_total, 0);
	pg_atomic_init_u64(&progress->rows, 0);
	pg_atomic_init_u32(&progress->patterns, 0);
	pg_atomic_init_u64(&progress->keys, 0);
	pg_atomic_init_u64(&progress->delayed_since, 0);
}

void
slate_progress_enter(SlateProgress *progress, SlatePhase phase)
{
	static TimestampTz began[NPHASES];	/* 0: is not under way */

	if (pg_atomic_read_u32(&progress->phase) == phase)
		return;
	for (int i = 0; i < NPHASES; i++)
	{
		if (ends[phase] & BIT(i))
			began[i] = 0;
	}
	if (began[phase] == 0)
		began[phase] = GetCurrentTimestamp();
	pg_atomic_write_u64(&progress->since, (uint64) began[phase]);
	pg_atomic_write_u32(&progress->phase, phase);
}

void
slate_progress_show(SlateProgress *progress, SlatePhase phase,
					const char *activity)
{
	slate_progress_enter(progress, phase);
	pgstat_report_activity(STATE_RUNNING, activity);
}

void
slate_progress_leave(SlateProgress *progress)
{
	slate_progress_end_pass(progress);
	slate_progress_end_walk(progress);
	slate_progress_enter(progress, PHASE_NONE);
}

void
slate_progress_begin_pass(SlateProgress *progress)
{
	slate_progress_set_pass(progress, 0, 0, 0);
	pg_atomic_write_u32(&progress->in_pass, 1);
}

void
slate_progress_set_pass(SlateProgress *progress, uint64 done, uint64 total,
						uint64 rows)
{
	pg_atomic_write_u64(&progress->blocks_done, done);
	pg_atomic_write_u64(&progress->blocks_total, total);
	pg_atomic_write_u64(&progress->rows, rows);
}

void
slate_progress_end_pass(SlateProgress *progress)
{
	pg_atomic_write_u32(&progress->in_pass, 0);
}

void
slate_progress_begin_walk(SlateProgress *progress, int npatterns)
{
	pg_atomic_write_u64(&progress->keys, 0);
	pg_atomic_write_u32(&progress->patterns, npatterns);
}

void
slate_progress_end_walk(SlateProgress *progress)
{
	pg_atomic_write_u32(&progress->patterns, 0);
}

/* ------------------------------------------------------------------------
 * slate_cache.progress
 * ------------------------------------------------------------------------
 */

/* The columns, in their order. */
enum
{
	COLUMN_DATNAME,
	COLUMN_PID,
	COLUMN_PHASE,
	COLUMN_SINCE,
	COLUMN_BLOCKS_DONE,
	COLUMN_BLOCKS_TOTAL,
	COLUMN_ROWS,
	COLUMN_PATTERNS,
	COLUMN_KEYS,
	COLUMN_RING_BYTES,
	COLUMN_RING_SIZE,
	COLUMN_DELAYED_SINCE,
	NCOLUMNS
};

static void
put_time(Datum *row, bool *nulls, int column, pg_atomic_uint64 *time)
{
	uint64		value = pg_atomic_read_u64(time);

	row[column] = TimestampTzGetDatum((TimestampTz) value);
	nulls[column] = value == 0;
}

static void
put_numbers(Datum *row, bool *nulls, SlateProgress *progress)
{
	bool		in_pass = pg_atomic_read_u32(&progress->in_pass) != 0;
	uint32		patterns = pg_atomic_read_u32(&progress->patterns);

	row[COLUMN_BLOCKS_DONE] =
		Int64GetDatum((int64) pg_atomic_read_u64(&progress->blocks_done));
	row[COLUMN_BLOCKS_TOTAL] =
		Int64GetDatum((int64) pg_atomic_read_u64(&progress->blocks_total));
	row[COLUMN_ROWS] =
		Int64GetDatum((int64) pg_atomic_read_u64(&progress->rows));
	nulls[COLUMN_BLOCKS_DONE] = nulls[COLUMN_BLOCKS_TOTAL] =
		nulls[COLUMN_ROWS] = !in_pass;
	row[COLUMN_PATTERNS] = Int32GetDatum((int32) patterns);
	row[COLUMN_KEYS] =
		Int64GetDatum((int64) pg_atomic_read_u64(&progress->keys));
	nulls[COLUMN_PATTERNS] = nulls[COLUMN_KEYS] = patterns == 0;
}

static void
put_database(ReturnSetInfo *result, SlateDatabase *database)
{
	SlateProgress *progress = &database->progress;
	char	   *datname = get_database_name(pg_atomic_read_u32(&database->oid));
	uint32		pid = pg_atomic_read_u32(&database->worker);
	SlatePhase	phase = pg_atomic_read_u32(&progress->phase);
	uint64		used = 0;
	uint64		size = 0;
	NameData	name;
	Datum		row[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};

	if (datname == NULL)
		return;					/* it is gone, and the entry will be */
	namestrcpy(&name, datname);
	row[COLUMN_DATNAME] = NameGetDatum(&name);
	row[COLUMN_PID] = Int32GetDatum((int32) pid);
	nulls[COLUMN_PID] = pid == 0;
	row[COLUMN_PHASE] = CStringGetTextDatum(phase_names[phase]);
	put_time(row, nulls, COLUMN_SINCE, &progress->since);
	put_numbers(row, nulls, progress);
	nulls[COLUMN_RING_BYTES] = nulls[COLUMN_RING_SIZE] =
		!slate_ring_usage(database, &used, &size);
	row[COLUMN_RING_BYTES] = Int64GetDatum((int64) used);
	row[COLUMN_RING_SIZE] = Int64GetDatum((int64) size);
	put_time(row, nulls, COLUMN_DELAYED_SINCE, &progress->delayed_since);
	tuplestore_putvalues(result->setResult, result->setDesc, row, nulls);
}

Datum
slate_cache_progress(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; slate_database_is_shared() && i < SLATE_MAX_DATABASES; i++)
	{
		SlateDatabase *database = slate_database_at(i);

		if (database)
			put_database((ReturnSetInfo *) fcinfo->resultinfo, database);
	}
	return (Datum) 0;
}
