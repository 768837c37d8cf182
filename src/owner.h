/*-------------------------------------------------------------------------
 *
 * owner.h
 *	  Casts to json that somebody has defined for a type, run as him.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_OWNER_H
#define SLATE_OWNER_H

/*
 * What a type's cast to json makes of a value; NULL if it has none by a function.
 *
 * Unless the function is a superuser's, it runs as its owner, in a
 * security-restricted operation in which nothing can be written.  That is a
 * subtransaction that is rolled back: of what it does only that stays which no
 * rollback undoes (a session's advisory locks).  is_callers: the value is the
 * caller's choice, and who may not act as the owner runs it himself.  In any case
 * search_path is "pg_catalog, pg_temp".  An error of the function's goes on to
 * the caller.
 */
extern text *slate_owner_cast(Oid type, Datum value, bool is_callers);

/* How many such functions this process has called. */
extern uint64 slate_owner_calls(void);

#endif							/* SLATE_OWNER_H */
