/*-------------------------------------------------------------------------
 *
 * attempt.h
 *	  What may fail, in a subtransaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_ATTEMPT_H
#define SLATE_ATTEMPT_H

/* Returns whether what it has done in the database is to stay. */
typedef bool (*SlateAttemptFn) (void *arg);

/*
 * Call fn in a subtransaction, in the caller's memory context, where all that it
 * leaves in memory stays.  Returns NULL; or the ERROR that it threw, a copy, after
 * all has been undone, whichever it was (a cancel, too): ReThrowError() what is
 * not yours.
 */
extern ErrorData *slate_attempt(SlateAttemptFn fn, void *arg);

#endif							/* SLATE_ATTEMPT_H */
