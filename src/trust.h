/*-------------------------------------------------------------------------
 *
 * trust.h
 *	  Is this Redis the one that we know, and are we the ones it knows?
 *
 * See trust.c for what is compared with what.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_TRUST_H
#define SLATE_TRUST_H

#include "batch.h"
#include "database.h"

typedef enum SlateTrust
{
	TRUST_UNKNOWN,				/* no worker has looked yet */
	TRUST_WAITING,				/* it has, and Redis did not answer */
	TRUST_EMPTYING,				/* history is unknown; the namespace goes */
	TRUST_HELD,					/* by the epoch and identity that are noted */
	TRUST_STANDING_BACK			/* a later timeline of ours uses this Redis */
} SlateTrust;

/* Why something is not delivered that Redis has taken. */
#define SLATE_NOT_KNOWN "this Redis is not known yet"

/* ------------------------------------------------------------------------
 * Backends.  A connection must be prepared.  They may wait for the worker: a
 * second at most for its first look after a start of the server or at another
 * url, 200 ms while it empties the namespace, and once for each other server or
 * epoch that they meet.  That is not Redis' time: a deadline that is given by its
 * address is moved on.
 * ------------------------------------------------------------------------
 */

/*
 * A reload comes to sessions and to the worker one after the other.  If ours has
 * come, and our url is the server's, give the worker a moment to have it, too: a
 * second at most, and only once for each url, as the worker's database may have one
 * of its own.  Needs no connection.
 */
extern void slate_trust_await_url(SlateWait wait);

/*
 * Give a stamp the epoch, so that its PUTs count only in a Redis we know, and
 * are DROPs in any other.  May connect anew.
 */
extern void slate_trust_stamp(SlateStamp *stamp, int64 *deadline);

/*
 * The same, for a push that the worker will send: no connection is needed, and
 * nothing waited for.  since is slate_link_now() before the stamp's version was
 * taken.  NULL if this database's worker cannot, since it has another Redis, or
 * does not exist.
 */
extern SlateDatabase *slate_trust_stamp_for_worker(SlateStamp *stamp,
												   int64 since);

/*
 * May keys be marked there, for mode strict?  In a Redis that is being emptied
 * they may.  Gives the stamp the epoch as it is noted.  May connect anew.
 */
extern bool slate_trust_meet(SlateStamp *stamp, int64 deadline);

/* After Redis' answer to that: was it the Redis that counts? */
extern bool slate_trust_is_marked(bool strange);

/*
 * Have what was pushed directly, and is not done, never be done: by touching
 * the epoch's key, see direct.c.  Prepared before a commit; after it does not
 * throw.  False if Redis has not done it.
 */
extern void slate_trust_prepare_fence(void);
extern bool slate_trust_fence(int64 deadline, SlateWait wait);

/*
 * After the commit, and Redis' answer: was it the Redis that counts?  strange:
 * it had another epoch.  Does not throw.
 */
extern bool slate_trust_is_delivered(const SlateStamp *stamp, bool strange);

/*
 * Is this database's worker at another Redis?  Then others tell that, not ours.
 * For readers: may connect to ours.
 */
extern bool slate_trust_is_elsewhere(void);

/* Is there no worker for this database, nor going to be one? */
extern bool slate_trust_nobody_looks(void);

/* May what Redis has be taken for an answer?  May connect anew, and be canceled. */
extern bool slate_trust_reads(int64 *deadline);

/*
 * Ask for leases there, see slate_script_add_leases().  If the answer is that
 * Redis has another epoch: is that mended, so that asking once more is worth it?
 * That waits, and can be canceled.
 */
extern void slate_trust_add_leases(SlateBatch *batch,
								   const SlateSlice *keys, int nkeys);
extern bool slate_trust_should_lease_again(void);

#endif							/* SLATE_TRUST_H */
