/*-------------------------------------------------------------------------
 *
 * deliver.c
 *	  What a worker tells Redis, if it is the Redis that it knows.
 *
 * A worker has time: it waits for each exchange as long as it may take, and
 * interruptibly.  Between the steps over a large family it rests as long as
 * they took: half of Redis' time is for others.  What it has told counts only
 * if the server is still the same afterwards; else it says false, and its
 * caller begins again.
 *
 * Throws: out of waits, see link.c.  No locks.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "deliver.h"
#include "exchange.h"
#include "script.h"
#include "stats.h"
#include "storage/latch.h"
#include "sweep.h"
#include "utils/wait_event.h"

bool
slate_deliver_connect(void)
{
	return slate_script_prepare(slate_link_now() + slate_redis_timeout,
								LINK_WAIT_INTERRUPTIBLE) == REDIS_DONE;
}

bool
slate_deliver_is_known(SlateDatabase *database)
{
	if (slate_redis_identity() == pg_atomic_read_u64(&database->identity))
		return true;
	pg_atomic_write_u32(&database->look, SLATE_LOOK_SERVER);
	return false;
}

bool
slate_deliver_ask(const SlateBatch *batch, SlateReplyFn fn, void *arg)
{
	return slate_exchange_run(batch, fn, arg,
							  slate_link_now() + slate_redis_timeout,
							  LINK_WAIT_INTERRUPTIBLE) == REDIS_DONE;
}

static void
rest(int64 ms)
{
	(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, (long) ms,
					 PG_WAIT_EXTENSION);
	CHECK_FOR_INTERRUPTS();
}

/*
 * What the first steps have left of large families.  A Redis without memory
 * removes nevertheless.  False if it has not answered.
 */
static bool
finish_families(SlateDatabase *database, SlateBatch *batch,
				SlateOutcome *outcome, int64 since)
{
	while (slate_exchange_members_left(batch) > 0 &&
		   (outcome->refused == 0 || slate_exchange_is_out_of_memory(outcome)))
	{
		rest(Max(slate_link_now() - since, 1));
		since = slate_link_now();
		if (!slate_deliver_connect() || !slate_deliver_is_known(database) ||
			slate_exchange_go_on(batch, outcome,
								 slate_link_now() + slate_redis_timeout,
								 LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE)
			return false;
	}
	return true;
}

bool
slate_deliver_batch(SlateDatabase *database, SlateBatch *batch,
					bool *out_of_memory)
{
	int64		start = slate_link_now();
	SlateOutcome outcome = {0};

	if (batch->ncommands == 0)
		return true;
	if (!slate_deliver_connect() || !slate_deliver_is_known(database) ||
		slate_exchange_publish(batch, &outcome,
							   slate_link_now() + slate_redis_timeout,
							   slate_redis_timeout,
							   LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE ||
		!finish_families(database, batch, &outcome, start))
		return false;
	slate_stats_add(STAT_KEYS_DROPPED, outcome.dropped);
	if (out_of_memory && slate_exchange_is_out_of_memory(&outcome))
		*out_of_memory = true;
	else if (outcome.refused > 0)
		return false;
	return slate_deliver_is_known(database);
}

bool
slate_deliver_walk(SlateDatabase *database, const SlateSlice *globs, int nglobs,
				   const SlateStamp *const *stamps)
{
	int64		start = slate_link_now();
	SlateSwept	swept;

	slate_sweep_init();
	if (!slate_deliver_connect() || !slate_deliver_is_known(database))
		return false;
	slate_progress_begin_walk(&database->progress, nglobs);
	(void) slate_sweep(slate_globset_make(globs, nglobs), stamps,
					   &swept, PG_INT64_MAX, PG_INT64_MAX,
					   LINK_WAIT_INTERRUPTIBLE);
	slate_progress_end_walk(&database->progress);
	slate_stats_add(STAT_SWEEPS, 1);
	slate_stats_add(STAT_KEYS_DROPPED, swept.outcome.dropped);
	if (!swept.finished || swept.outcome.refused > 0 || !slate_deliver_is_known(database))
		return false;
	slate_database_note_keyspace(database, swept.nnames,
								 slate_link_now() - start);
	return true;
}
