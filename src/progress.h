/*-------------------------------------------------------------------------
 *
 * progress.h
 *	  What a database's worker is doing, and how far it has got:
 *	  slate_cache.progress.
 *
 * The worker alone writes it, but for delayed_since.  Each number is right, all
 * together are not a snapshot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_PROGRESS_H
#define SLATE_PROGRESS_H

#include "port/atomics.h"

/* In the order of the names in progress.c. */
typedef enum SlatePhase
{
	PHASE_NONE,					/* there is no worker */
	PHASE_IDLE,
	PHASE_LOOKING,				/* asks Redis for its epoch */
	PHASE_PUSHING,				/* for sessions in mode async */
	PHASE_EMPTYING,
	PHASE_REPLAYING,
	PHASE_SWEEPING,
	PHASE_WAITING,				/* until it tries again */
	PHASE_STANDING_BACK			/* see trust.c */
} SlatePhase;

typedef struct SlateProgress
{
	pg_atomic_uint32 phase;
	pg_atomic_uint64 since;		/* TimestampTz; 0: no worker was there yet */

	/* the pass over the journal */
	pg_atomic_uint32 in_pass;	/* is one under way? */
	pg_atomic_uint64 blocks_done;
	pg_atomic_uint64 blocks_total;
	pg_atomic_uint64 rows;

	/* the walk over the keyspace */
	pg_atomic_uint32 patterns;	/* 0: none is under way */
	pg_atomic_uint64 keys;

	/* TimestampTz: the first push that is not yet told; 0: all are */
	pg_atomic_uint64 delayed_since;
} SlateProgress;

extern void slate_progress_init(SlateProgress *progress);

/*
 * The worker enters a phase, at which it may be already.  A phase that others
 * interrupt keeps the time at which it began, see progress.c.
 */
extern void slate_progress_enter(SlateProgress *progress, SlatePhase phase);

/* Likewise, and tell pg_stat_activity what it does. */
extern void slate_progress_show(SlateProgress *progress, SlatePhase phase,
								const char *activity);

/* The worker ends. */
extern void slate_progress_leave(SlateProgress *progress);

extern void slate_progress_begin_pass(SlateProgress *progress);
extern void slate_progress_set_pass(SlateProgress *progress, uint64 done,
									uint64 total, uint64 rows);
extern void slate_progress_end_pass(SlateProgress *progress);

/* It counts in keys what it has looked at. */
extern void slate_progress_begin_walk(SlateProgress *progress, int npatterns);
extern void slate_progress_end_walk(SlateProgress *progress);

#endif							/* SLATE_PROGRESS_H */
