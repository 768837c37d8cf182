/*-------------------------------------------------------------------------
 *
 * exchange.h
 *	  Sending batches, and what comes back.
 *
 * Neither throws nor pallocs, unless the wait is interruptible (see link.h).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_EXCHANGE_H
#define SLATE_EXCHANGE_H

#include "batch.h"

/*
 * Send a batch and hand on the replies, unless reply_fn is NULL.  If Redis has
 * forgotten the scripts they are loaded again, and what it has not done is sent
 * once more.  Server errors other than NOSCRIPT are handed on.
 */
extern SlateRedisStatus slate_exchange_run(const SlateBatch *batch,
										   SlateReplyFn reply_fn, void *arg,
										   int64 deadline, SlateWait wait);

/* What became of a batch of pushes. */
typedef struct SlateOutcome
{
	int64		stored;			/* values set */
	int64		dropped;		/* DROPs done, PUTs that became one included */
	int64		outdated;		/* PUTs for which a newer one was there */
	bool		strange;		/* Redis has another epoch: no value was set */
	int64		unfinished;		/* calls of which more is left to be done */
	int64		refused;		/* commands answered by an error */
	char		error[192];		/* the first of those errors */
} SlateOutcome;

/*
 * Was what was refused refused for want of memory?  Then values were removed
 * all the same, by those scripts that found some.
 */
extern bool slate_exchange_is_out_of_memory(const SlateOutcome *outcome);

/* Add what one push has answered; add an outcome to slate_cache.stats. */
extern void slate_exchange_take_reply(SlateOutcome *outcome,
									  const redisReply *reply);
extern void slate_exchange_count_outcome(const SlateOutcome *outcome);

/*
 * Send a batch of pushes, and add up what became of them.  One of more than a
 * thousand or so keys takes several exchanges, each of which must be over
 * within timeout ms, the first one by the deadline; the first failure ends it.
 */
extern SlateRedisStatus slate_exchange_publish(SlateBatch *batch,
											   SlateOutcome *outcome,
											   int64 deadline, int timeout,
											   SlateWait wait);

/*
 * A family may have many thousand members, and each call drops about a thousand
 * at most.  How many are left of those that the batch is to drop, about?  0:
 * none.  The next step of one of them, on the same connection, or on another to
 * the same server; adds to the outcome.
 */
extern int64 slate_exchange_members_left(const SlateBatch *batch);
extern SlateRedisStatus slate_exchange_go_on(SlateBatch *batch,
											 SlateOutcome *outcome,
											 int64 deadline, SlateWait wait);

#endif							/* SLATE_EXCHANGE_H */
