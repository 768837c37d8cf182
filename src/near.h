/*-------------------------------------------------------------------------
 *
 * near.h
 *	  The near cache: values in shared memory, for hits without a round trip.
 *
 * There is none unless slate_cache.near_memory is set; then all of this does
 * nothing, and costs next to nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_NEAR_H
#define SLATE_NEAR_H

#include "database.h"
#include "ops.h"
#include "template.h"
#include "utils/jsonb.h"

/* slate_cache.near_memory: kB for all databases; 0 for none. */
extern int	slate_near_memory;

/* slate_cache.near: may this session find values there, and keep some? */
extern bool slate_near_enabled;

extern void slate_near_shmem_request(void);
extern void slate_near_shmem_startup(void); /* holds AddinShmemInitLock */

/* ------------------------------------------------------------------------
 * Readers
 * ------------------------------------------------------------------------
 */

/* What was known about a key at one moment. */
typedef struct SlateNearLease
{
	bool		valid;			/* nobody is changing it */
	uint64		hash;
	uint64		seen[3];		/* see near.c */
} SlateNearLease;

/*
 * Begin to read a key: this is the moment as of which its value will be right.
 * It comes before anything is read, from Redis or by a snapshot, that is to be
 * kept.
 */
extern void slate_near_lease(SlateSlice key, SlateNearLease *lease);

/* The key's value, in the current context; NULL: it is not there. */
extern Jsonb *slate_near_get(SlateSlice key, const SlateNearLease *lease);

/* Keep a value that was read since the lease, for ttl ms at most; 0: no end. */
extern void slate_near_put(SlateSlice key, const SlateNearLease *lease,
						   const Jsonb *value, int64 ttl);

/* ------------------------------------------------------------------------
 * Writers
 * ------------------------------------------------------------------------
 */

/* Cells that a transaction changes, see near.c; more than fit are all. */
#define SLATE_NEAR_CELLS 16

typedef struct SlateNearCells
{
	int			count;
	uint32		at[SLATE_NEAR_CELLS];
} SlateNearCells;

/*
 * Before the commit: from here until slate_near_leave() nobody finds what the
 * transaction changes, nor keeps what he reads of it.  Leaving comes after the
 * push, or the abort.  Neither throws.
 */
extern void slate_near_enter(const SlateOpList *list);
extern void slate_near_leave(void);

/* Where this transaction has entered. */
extern const SlateNearCells *slate_near_entered(void);

/* ------------------------------------------------------------------------
 * Who changes Redis for transactions that have left
 * ------------------------------------------------------------------------
 */

/* After Redis has answered.  None of these throws. */
extern void slate_near_void(const SlateNearCells *cells);
extern void slate_near_void_key(SlateSlice key);
extern void slate_near_void_glob(SlateSlice glob);
extern void slate_near_void_all(void);

#endif							/* SLATE_NEAR_H */
