/*-------------------------------------------------------------------------
 *
 * stats.h
 *	  Counters, and the log's word about what could not be delivered.
 *
 * Counters are in shared memory when the library was preloaded, and this
 * session's own otherwise.  Adding to one is a relaxed atomic add: no lock,
 * usable after a commit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_STATS_H
#define SLATE_STATS_H

/* In the order of the columns of slate_cache.stats. */
typedef enum SlateCounter
{
	STAT_HITS,
	STAT_NEAR_HITS,
	STAT_MISSES,
	STAT_FILLS,
	STAT_FILLS_REFUSED,
	STAT_BYPASSES,
	STAT_BAD_VALUES,
	STAT_READ_FAILURES,
	STAT_PUSHES,
	STAT_PUSHES_DIRECT,
	STAT_KEYS_STORED,
	STAT_KEYS_DROPPED,
	STAT_KEYS_OUTDATED,
	STAT_PUSHES_LOST,
	STAT_KEYS_LOST,
	STAT_SWEEPS,
	STAT_SWEEPS_UNFINISHED,
	STAT_KEYS_TOO_LONG,
	STAT_VALUES_TOO_LARGE,
	STAT_FALLBACKS,
	STAT_PUSHES_DELAYED,
	STAT_KEYS_DELAYED,
	STAT_REPLAYED,
	STAT_EMPTIED
} SlateCounter;

#define STAT_COUNT (STAT_EMPTIED + 1)

extern Size slate_stats_shmem_size(void);
extern void slate_stats_shmem_startup(void);	/* holds AddinShmemInitLock */
extern bool slate_stats_shared(void);

extern void slate_stats_add(SlateCounter counter, int64 n);
extern uint64 slate_stats_get(SlateCounter counter);
extern void slate_stats_reset(void);

/*
 * A transaction's push did not arrive: it is lost, or the journal has it.
 * Only notes it, and an event now and then; safe after a commit.
 */
extern void slate_stats_lost(int64 nkeys, const char *reason);
extern void slate_stats_delayed(int64 nkeys, const char *reason);

/*
 * Write to the server log what was noted and not yet logged, at most once in
 * 30 seconds for all backends together.  May throw: before a commit only.
 */
extern void slate_stats_log_losses(void);

#endif							/* SLATE_STATS_H */
