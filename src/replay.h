/*-------------------------------------------------------------------------
 *
 * replay.h
 *	  The worker tells Redis what the journal has in doubt.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_REPLAY_H
#define SLATE_REPLAY_H

#include "database.h"

typedef enum SlateReplay
{
	REPLAY_IDLE,				/* there is nothing to be done */
	REPLAY_STEP,				/* something was done; there may be more */
	REPLAY_FAILED				/* Redis did not take it */
} SlateReplay;

/* Once, before all else. */
extern void slate_replay_init(SlateDatabase *mine);

/* One step of a pass, which begins if something is in doubt. */
extern SlateReplay slate_replay(void);

/*
 * Must the pass be repeated, or was that so of the one before?  Redis had no
 * memory for what it is to note.
 */
extern bool slate_replay_must_be_repeated(void);

/* Rows that should have been told before, and are now; since the latter call. */
extern int64 slate_replay_late_rows(void);
extern void slate_replay_forget_late_rows(void);

#endif							/* SLATE_REPLAY_H */
