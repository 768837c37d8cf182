/*-------------------------------------------------------------------------
 *
 * events.h
 *	  The last things that happened to the cache: slate_cache.events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_EVENTS_H
#define SLATE_EVENTS_H

/* In the order of the names in events.c. */
typedef enum SlateEventKind
{
	EVENT_LAUNCHER_STARTED,
	EVENT_LAUNCHER_ENDED,
	EVENT_WORKER_STARTED,
	EVENT_WORKER_ENDED,
	EVENT_NO_WORKER,			/* no room for one */
	EVENT_BREAKER_OPENED,
	EVENT_BREAKER_CLOSED,
	EVENT_FAILOVER,
	EVENT_TRUST_LOST,
	EVENT_STANDING_BACK,
	EVENT_FLUSH_ASKED,
	EVENT_EMPTIED,
	EVENT_PUSHES_DELAYED,
	EVENT_PUSHES_LOST,
	EVENT_JOURNAL_FULL,
	EVENT_REFUSED,
	EVENT_REPLAYED
} SlateEventKind;

#define EVENT_KINDS (EVENT_REPLAYED + 1)

extern Size slate_events_shmem_size(void);
extern void slate_events_shmem_startup(void);	/* holds AddinShmemInitLock */

/*
 * Note an event, of this process; database: InvalidOid if it is not of one.
 * The detail, "" for none, must hold no password; it is cut where it is too
 * long.  Neither throws, allocates nor waits: safe after a commit.  There is
 * room for the last 1024, so callers do not repeat themselves.
 */
extern void slate_events_note(SlateEventKind kind, Oid database,
							  const char *format,...)
			pg_attribute_printf(3, 4);

#endif							/* SLATE_EVENTS_H */
