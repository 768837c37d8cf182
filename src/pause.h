/*-------------------------------------------------------------------------
 *
 * pause.h
 *	  Points at which a test can make a session wait.  Only in builds with
 *	  SLATE_CACHE_TESTING (make TESTING=1); otherwise nothing at all.
 *
 * A session that has slate_cache.pause_at = 'name' takes the advisory lock
 * (7351, n) for a moment when it comes to that point, n as numbered here.  A
 * test holds that lock to keep the session there, and sees it waiting in
 * pg_locks; so no test depends on time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_PAUSE_H
#define SLATE_PAUSE_H

typedef enum SlatePausePoint
{
	PAUSE_NOWHERE = 0,
	PAUSE_BEFORE_COMMIT = 1,	/* encoded, not yet committed */
	PAUSE_BEFORE_PUBLISH = 2,	/* committed, locks released, nothing sent */
	PAUSE_AFTER_LEASE = 3,		/* a reader has a lease and no snapshot */
	PAUSE_BEFORE_FILL = 4,		/* a reader has loaded and not filled */
	PAUSE_AFTER_JOURNAL = 5,	/* the journal is written, nothing encoded */
	PAUSE_BEFORE_ACK = 6,		/* published, not acknowledged */
	PAUSE_BEFORE_READY = 7,		/* room in the ring, nothing written there */
	PAUSE_HAS_MET = 8			/* who goes by script has found a direct push */
} SlatePausePoint;

#ifdef SLATE_CACHE_TESTING
extern void slate_pause_define_settings(void);
extern void slate_pause(SlatePausePoint point);
#else
#define slate_pause_define_settings() ((void) 0)
#define slate_pause(point) ((void) 0)
#endif

#endif							/* SLATE_PAUSE_H */
