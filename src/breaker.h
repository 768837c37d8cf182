/*-------------------------------------------------------------------------
 *
 * breaker.h
 *	  When to stop trying a server for a while.
 *
 * Shared memory has breakers, one for each url (of the first 31; the rest have
 * one together), so that what one backend learns all know.  Without
 * shared_preload_libraries each backend has a breaker of its own.
 *
 * Nothing here throws, but at server start.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_BREAKER_H
#define SLATE_BREAKER_H

/* Room for a reason, with its null byte. */
#define SLATE_REASON_SIZE 256

extern Size slate_breaker_shmem_size(void);
extern void slate_breaker_shmem_startup(void);	/* holds AddinShmemInitLock */

/* Use that of another url, which has this hash; needed before what follows. */
extern void slate_breaker_choose(uint64 url);

/*
 * May this backend try now?  If the rest is over, that takes the turn to probe,
 * for as long (ms) as connecting and an exchange may take.
 */
extern bool slate_breaker_take_turn(int64 longest);

/* It has answered: if it is open, close it. */
extern bool slate_breaker_is_open(void);
extern void slate_breaker_close(const char *server);

/*
 * It has failed, which nobody else has told since.  timeout: which one has
 * passed, in ms; 0: it refused at once.
 */
extern void slate_breaker_open(int64 timeout, const char *server,
							   const char *reason);

/*
 * How it stands: failures in a row, and ms until the next try; the reason of
 * the last failure, "" if writers were in the way.  The first may be asked
 * before one was chosen.
 */
extern void slate_breaker_look(int *failures, int64 *rests_for);
extern void slate_breaker_reason(char *reason);

/* For how many ms not to try; 0: it is closed, or a try is due, or ours. */
extern int64 slate_breaker_next_try(void);

/* See slate_redis_become_prober(); once, and before one is chosen. */
extern void slate_breaker_become_prober(void);

#endif							/* SLATE_BREAKER_H */
