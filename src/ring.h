/*-------------------------------------------------------------------------
 *
 * ring.h
 *	  What sessions of a database in mode async leave to their worker: pushes
 *	  that are encoded, in a ring in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_RING_H
#define SLATE_RING_H

#include "batch.h"
#include "database.h"
#include "near.h"

/* Setting: its size in kB, when it is made. */
extern int	slate_ring_size;

/* ------------------------------------------------------------------------
 * Backends
 * ------------------------------------------------------------------------
 */

/*
 * Before the commit: is there a worker, and a ring for him to empty?  Makes the
 * ring if there is none yet; false if there is no room for it.  May throw.
 */
extern bool slate_ring_prepare(SlateDatabase *database);

/* Is this so small that it may be left there? */
extern bool slate_ring_takes(const SlateBatch *batch);

/* What a transaction leaves there, before its bytes. */
typedef struct SlateRingEntry
{
	pg_atomic_uint32 ready;		/* all of it is written */
	uint32		size;			/* with this header, and what aligns it */
	uint64		xid;			/* 0: only a gap, at the ring's end */
	uint32		generations;	/* where its rows in the journal may be, as
								 * bits; 0: nowhere */
	int			nkeys;			/* for the counters */
	bool		unswept;		/* keys of its patterns are to be looked for;
								 * so they are where a family takes more than
								 * one step */

	/* if it is one call that pushes, and nothing else; otherwise nkeys is 0 */
	SlateCall	call;
	uint64		version;		/* WAL position; there is one timeline here */

	SlateNearCells near;		/* to be voided when it is pushed */

	/* if it does nothing but one push under an order, otherwise 0 */
	SlateOrder	order;
	uint32		key_hash;

	int			nbytes;
	int			ncommands;
} SlateRingEntry;

/*
 * After the commit: leave it to the worker.  The caller has filled in what is
 * not the batch's.  False if there is no room.  Waits for nobody but who is
 * reserving room at the moment; does not throw.
 */
extern bool slate_ring_push(const SlateBatch *batch,
							const SlateRingEntry *entry);

/* Is there nothing in it? */
extern bool slate_ring_is_empty(SlateDatabase *database);

/*
 * Anybody, of any database: how many bytes wait in it, and its size.  False if
 * there is no ring.  What this process has mapped stays.  May throw.
 */
extern bool slate_ring_usage(SlateDatabase *database, uint64 *used,
							 uint64 *size);

/* ------------------------------------------------------------------------
 * The worker
 * ------------------------------------------------------------------------
 */

/* Make a ring if one is wanted that a session could not make.  May throw. */
extern void slate_ring_make(SlateDatabase *database);

/* The extension is gone. */
extern void slate_ring_remove(SlateDatabase *database);

/*
 * The entry at a position, from slate_ring_first() on, and the position behind
 * it; NULL: no more, or it is not ready.
 */
extern uint64 slate_ring_first(SlateDatabase *database);
extern SlateRingEntry *slate_ring_read(SlateDatabase *database,
									   uint64 *position);
extern const char *slate_ring_bytes(const SlateRingEntry *entry);

/*
 * What is before the position is being sent; until where was it, when somebody
 * said so last?  What is before the position is done with.
 */
extern void slate_ring_set_sending(SlateDatabase *database, uint64 position);
extern uint64 slate_ring_sending(SlateDatabase *database);
extern void slate_ring_advance(SlateDatabase *database, uint64 position);

/*
 * Has an entry rows in one of these generations?  Whoever is still writing his
 * is busy there, see doubt.c; those that are ready behind it count.
 */
extern bool slate_ring_uses(SlateDatabase *database, uint32 generations);

/* The worker is going to sleep; false if it should not. */
extern bool slate_ring_may_sleep(SlateDatabase *database);
extern void slate_ring_wake_up(SlateDatabase *database);

#endif							/* SLATE_RING_H */
