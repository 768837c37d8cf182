/*-------------------------------------------------------------------------
 *
 * sweep.h
 *	  A walk over everything that Redis has, for keys that no index knows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_SWEEP_H
#define SLATE_SWEEP_H

#include "exchange.h"
#include "port/atomics.h"

/* What became of a walk. */
typedef struct SlateSwept
{
	SlateOutcome outcome;		/* of what it has dropped */
	uint64		nnames;			/* that it has looked at */
	bool		finished;		/* it has got through */
} SlateSwept;

/* Before the commit after which one may run; palloc. */
extern void slate_sweep_init(void);

/* From now on this process counts there the names that its sweeps look at. */
extern void slate_sweep_count(pg_atomic_uint64 *names);

/*
 * Walk the whole keyspace with SCAN and DROP what matches one of the globs:
 * values that apps have SET themselves, and guards of keys without a value.
 * stamps are those of the globs, by their position in the set, all of one
 * owner.  What was PUT by the very transaction of the globs that match it
 * stays, and so does what was PUT under an order with a newer version.
 * Without stamps (NULL) all that matches goes, whatever its version is.
 *
 * Begins no step after stop_at; a step may take slate_cache.timeout, but not
 * past the deadline, which should be so much later than stop_at that running
 * out of time is not taken for a failure of Redis.  An interruptible
 * sweep may throw between two steps.  May run after a commit, if
 * slate_sweep_init() was called before it.
 */
extern SlateRedisStatus slate_sweep(const SlateGlobSet *globs,
									const SlateStamp *const *stamps,
									SlateSwept *swept, int64 stop_at,
									int64 deadline, SlateWait wait);

#endif							/* SLATE_SWEEP_H */
