/*-------------------------------------------------------------------------
 *
 * pause.c
 *	  Points at which a test can make a session wait.  See pause.h.
 *
 * Waiting for a lock after a commit is something only a test may do.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "pause.h"

#ifdef SLATE_CACHE_TESTING

#include "storage/lock.h"
#include "utils/guc.h"

#define PAUSE_LOCK_CLASS 7351

static int	pause_at = PAUSE_NOWHERE;

static const struct config_enum_entry pause_points[] = {
	{"nowhere", PAUSE_NOWHERE, false},
	{"before_commit", PAUSE_BEFORE_COMMIT, false},
	{"before_publish", PAUSE_BEFORE_PUBLISH, false},
	{"after_lease", PAUSE_AFTER_LEASE, false},
	{"before_fill", PAUSE_BEFORE_FILL, false},
	{"after_journal", PAUSE_AFTER_JOURNAL, false},
	{"before_ack", PAUSE_BEFORE_ACK, false},
	{"before_ready", PAUSE_BEFORE_READY, false},
	{"has_met", PAUSE_HAS_MET, false},
	{NULL, 0, false}
};

void
slate_pause_define_settings(void)
{
	DefineCustomEnumVariable("slate_cache.pause_at",
							 "Point at which this session waits for an advisory lock.",
							 NULL, &pause_at, PAUSE_NOWHERE, pause_points,
							 PGC_USERSET, 0, NULL, NULL, NULL);
}

void
slate_pause(SlatePausePoint point)
{
	LOCKTAG		tag;

	if (pause_at != (int) point)
		return;
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, PAUSE_LOCK_CLASS, point, 2);
	(void) LockAcquire(&tag, ExclusiveLock, true, false);
	LockRelease(&tag, ExclusiveLock, true);
}

#endif							/* SLATE_CACHE_TESTING */
