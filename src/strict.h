/*-------------------------------------------------------------------------
 *
 * strict.h
 *	  slate_cache.mode = strict: marks on keys whose change is being committed.
 *
 * See lua.c for what a mark does, strict.c for who takes it away.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_STRICT_H
#define SLATE_STRICT_H

#include "journal.h"
#include "ops.h"

/* ------------------------------------------------------------------------
 * Backends
 * ------------------------------------------------------------------------
 */

/*
 * Before anything else: is there a Redis to mark in, and room for a worker
 * that takes marks away which are left behind?  Otherwise throws, 08006 or
 * 55000.
 */
extern void slate_strict_connect(int64 deadline);

/*
 * Then: is it the Redis that counts?  The stamp gets its epoch.  It may be met
 * on a new connection, so nothing is sent to it before.  Throws likewise.
 */
extern void slate_strict_meet(SlateStamp *stamp);

/* Throw 08006: Redis did not answer, or refused. */
compat_noreturn extern void slate_strict_fail(const char *reason);

/* Throw 55000: nobody would take marks away. */
compat_noreturn extern void slate_strict_refuse(void);

/*
 * Mark all that the list names, for a stamp with a mark.  When this returns
 * Redis has acknowledged it; otherwise it throws, 08006.  Waits for each of
 * its exchanges as long as slate_cache.timeout, begins none for a large family
 * when that has passed, and can be cancelled.
 */
extern void slate_strict_mark(const SlateOpList *list, SlateStamp *stamp);

/*
 * Somebody else takes the marks away: the pushes, or the worker.  Does not
 * throw.
 */
extern void slate_strict_leave(void);

/*
 * After an abort: take away what this transaction has marked, if anything.  If
 * Redis does not answer the worker does it.  Does not throw.
 */
extern void slate_strict_release(void);

/* ------------------------------------------------------------------------
 * The worker, with a prepared connection
 * ------------------------------------------------------------------------
 */

/* Take away the marks of transactions that have ended. */
extern void slate_strict_resolve(SlateDatabase *database);

/*
 * Mark again what transactions under way have marked: Redis may have lost it.
 * False if that has failed.
 */
extern bool slate_strict_mark_again(void);

#endif							/* SLATE_STRICT_H */
