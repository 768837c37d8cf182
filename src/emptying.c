/*-------------------------------------------------------------------------
 *
 * emptying.c
 *	  The worker empties the namespace of its database.
 *
 * That is, all keys that rules cover or have covered, with their guards, in one
 * walk of SCANs, and those that were set by hand under no rule.  Nobody trusts
 * Redis from its beginning on; at its end, if it is still the same server, it
 * gets a new epoch, and what strict writers have under way is marked again.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/transam.h"
#include "deliver.h"
#include "emptying.h"
#include "events.h"
#include "examine.h"
#include "namespace.h"
#include "near.h"
#include "resettle.h"
#include "script.h"
#include "stamp.h"
#include "stats.h"
#include "strict.h"
#include "trust.h"

/* How long to wait after a failure, at first and at most. */
#define MIN_ATTEMPT_MS 100
#define MAX_ATTEMPT_MS 5000

/* One that has failed waits until then, and longer each time. */
static int64 next_attempt = 0;
static int64 attempt_rest = 0;

/* Transactions before this had their "everything" by an emptying. */
static uint64 emptied_for = 0;

static bool
drop_loose_family(SlateDatabase *database)
{
	SlateSlice	loose = slate_keyname_loose_family();
	SlateBatch	batch;
	SlateStamp	stamp;

	slate_batch_init(&batch);
	slate_stamp_make(&stamp);
	slate_script_add_drop_family(&batch, &stamp, loose.start, loose.len, "*", 1,
								 false);
	return slate_deliver_batch(database, &batch, NULL);
}

/*
 * Keys that were set by hand, under no rule, in this database.  An index that
 * somebody has overwritten is removed by the first try, and then there is none.
 */
static bool
drop_loose_keys(SlateDatabase *database)
{
	if (slate_redis_topology() != 0)
		return slate_resettle(database);
	return drop_loose_family(database) || drop_loose_family(database);
}

static bool
forget_namespace(SlateDatabase *database)
{
	List	   *patterns;
	SlateSlice *globs;
	int			nglobs = 0;
	ListCell   *lc;

	if (!slate_namespace_globs(&patterns))
		return false;
	globs = palloc_array(SlateSlice, list_length(patterns) + 1);
	foreach(lc, patterns)
	{
		globs[nglobs].start = lfirst(lc);
		globs[nglobs].len = strlen(lfirst(lc));
		nglobs++;
	}
	if (!drop_loose_keys(database) ||
		(nglobs > 0 && !slate_deliver_walk(database, globs, nglobs, NULL)))
		return false;
	slate_namespace_is_empty();
	return true;
}

/*
 * Empty it, and begin a new epoch.  If the journal was full, there is room
 * from now on; transactions that still rely on the entry "everything" of
 * another are seen by their failure.  What has rows is replayed nevertheless.
 */
static bool
empty_namespace(SlateDatabase *database, const char *reason)
{
	uint32		flush = pg_atomic_read_u32(&database->flush);
	bool		all = pg_atomic_read_u32(&database->must_empty) != 0;
	uint64		identity;
	uint64		next_xid;

	ereport(LOG,
			(errmsg("slate_cache empties its namespace in %s",
					slate_redis_server_name()),
			 errdetail("The reason: %s.", reason)));
	slate_progress_show(&database->progress, PHASE_EMPTYING,
						"emptying the namespace");
	if (!slate_examine_withdraw(database))
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
	if (!forget_namespace(database) || !slate_strict_mark_again() ||
		identity != slate_redis_identity() || !slate_examine_establish(database))
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

const char *
slate_emptying_reason(SlateDatabase *database)
{
	const char *reason = NULL;
	SlateTrust	trust = slate_examine(database, &reason);

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
 * The breaker does not keep us from trying: Redis may take the first steps each
 * time, which closes it, and then refuse, or hang up.
 */
bool
slate_emptying_try(SlateDatabase *database, const char *reason)
{
	if (slate_link_now() < next_attempt)
		return false;
	if (empty_namespace(database, reason))
	{
		attempt_rest = 0;
		return true;
	}
	attempt_rest = Min(Max(2 * attempt_rest, MIN_ATTEMPT_MS), MAX_ATTEMPT_MS);
	next_attempt = slate_link_now() + attempt_rest;
	return false;
}

int64
slate_emptying_next_try(void)
{
	return next_attempt;
}

void
slate_emptying_is_over(void)
{
	attempt_rest = 0;
}

uint64
slate_emptying_horizon(void)
{
	return emptied_for;
}
