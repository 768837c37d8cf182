/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  What is done for the backends in the background: sweeps, and looking up
 *	  the server's name.
 *
 * There is one worker a server, if the library is preloaded.  Backends hand it
 * the globs whose keys they have no time to look for; all that wait go in one
 * pass over the keyspace.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_WORKER_H
#define SLATE_WORKER_H

#include "script.h"

extern void slate_worker_register(void);	/* in _PG_init(), when preloaded */
extern void slate_worker_shmem_request(void);
extern void slate_worker_shmem_startup(void);	/* holds AddinShmemInitLock */

/*
 * The next four are for use after a commit.  They do not throw; the last one
 * waits some milliseconds for a lock at most.
 */

/* Is it running?  And does it sweep the server that this backend uses? */
extern bool slate_worker_is_there(void);
extern bool slate_worker_serves_us(void);

/* Did its last pass take longer than a commit should? */
extern bool slate_worker_keyspace_is_large(void);

/*
 * Have it DROP what matches the globs.  False if it has too much waiting, or
 * sweeps another server than this backend uses.
 */
extern bool slate_worker_sweep(const SlateSlice *globs, int nglobs,
							   const SlateStamp *stamp);

#endif							/* SLATE_WORKER_H */
