/*-------------------------------------------------------------------------
 *
 * emptying.h
 *	  The worker empties the namespace of its database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_EMPTYING_H
#define SLATE_EMPTYING_H

#include "database.h"

/* Why should it be emptied?  NULL: it should not. */
extern const char *slate_emptying_reason(SlateDatabase *database);

/*
 * Empty it, and begin a new epoch, unless that has failed a moment ago.  False
 * if it is not empty, or not known to be.
 */
extern bool slate_emptying_try(SlateDatabase *database, const char *reason);

/* When it may be tried again after a failure; slate_link_now(), or before. */
extern int64 slate_emptying_next_try(void);

/* There is nothing to be emptied: the next failure is a first one. */
extern void slate_emptying_is_over(void);

/*
 * What transactions before this have written to the journal as "everything"
 * has been done by an emptying.
 */
extern uint64 slate_emptying_horizon(void);

#endif							/* SLATE_EMPTYING_H */
