/*-------------------------------------------------------------------------
 *
 * deliver.h
 *	  What a worker tells Redis, if it is the Redis that it knows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_DELIVER_H
#define SLATE_DELIVER_H

#include "batch.h"
#include "database.h"

/* Is there a connection now? */
extern bool slate_deliver_connect(void);

/*
 * Does it go to the Redis that the database knows?  What another hears is not
 * delivered, see trust.c; then the worker is asked to look at it.
 */
extern bool slate_deliver_is_known(SlateDatabase *database);

/* Ask, on a connection that is there: true if all answers have come. */
extern bool slate_deliver_ask(const SlateBatch *batch, SlateReplyFn fn,
							  void *arg);

/*
 * Send a batch; true if Redis has taken all of it, and has got through all
 * families.  While Redis has no memory the caller may go on, but is not done at
 * its end: what is refused is to note patterns, and to walk over what they match
 * is not.  Who does not want to know passes NULL.
 */
extern bool slate_deliver_batch(SlateDatabase *database,
								SlateBatch *batch, bool *out_of_memory);

/* A walk over the keyspace, to its end; stamps: see slate_sweep(). */
extern bool slate_deliver_walk(SlateDatabase *database,
							   const SlateSlice *globs, int nglobs,
							   const SlateStamp *const *stamps);

#endif							/* SLATE_DELIVER_H */
