/*-------------------------------------------------------------------------
 *
 * owner.h
 *	  Code that somebody has defined for a type, run as him or not at all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_OWNER_H
#define SLATE_OWNER_H

#include "attempt.h"

/*
 * What a type's cast to json makes of a value; NULL if it has none by a function,
 * or by one that must not be called here: its owner's, where the beneficiary, who
 * chooses the values, may not act as him.
 *
 * Unless the function is a superuser's, it runs as its owner, in a
 * security-restricted operation in which nothing can be written.  That is a
 * subtransaction that is rolled back: of what it does only that stays which no
 * rollback undoes (a session's advisory locks).  In any case search_path is
 * "pg_catalog, pg_temp".  An error of the function's goes on to the caller.
 */
extern text *slate_owner_cast(Oid type, Datum value, Oid beneficiary);

/*
 * slate_attempt() in such an operation, as that owner if the current user may act
 * as him, and as himself otherwise.  What fn returns does not count.
 */
extern ErrorData *slate_owner_attempt(Oid owner, SlateAttemptFn fn, void *arg);

/* How many casts this process has called. */
extern uint64 slate_owner_calls(void);

#endif							/* SLATE_OWNER_H */
