/*-------------------------------------------------------------------------
 *
 * examine.h
 *	  The worker's look at Redis: is its history ours?
 *
 * With a prepared connection.  These begin transactions of their own and exchange
 * with Redis outside of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_EXAMINE_H
#define SLATE_EXAMINE_H

#include "trust.h"

/*
 * Compare; sets the state.  TRUST_EMPTYING: the caller empties the namespace
 * and then calls slate_examine_establish().  *reason is a constant text.
 */
extern SlateTrust slate_examine(SlateDatabase *database,
								const char **reason);

/* Did the last look find the epoch of somebody else? */
extern bool slate_examine_is_contested(void);

/* From now on no PUT counts, nor lease.  False if Redis has not heard it. */
extern bool slate_examine_withdraw(SlateDatabase *database);

/*
 * Begin a new epoch.  False if Redis has not heard it, or has lost its memory
 * since the last of the above.
 */
extern bool slate_examine_establish(SlateDatabase *database);

#endif							/* SLATE_EXAMINE_H */
