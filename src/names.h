/*-------------------------------------------------------------------------
 *
 * names.h
 *	  What host names stand for, looked up ahead of need.
 *
 * getaddrinfo() has no deadline: with a name server that does not answer it
 * takes many seconds, and a commit must not.  So a worker looks the names up
 * now and then and notes the addresses in shared memory, where backends find
 * them.  Without a worker, or for another name, a backend looks for itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_NAMES_H
#define SLATE_NAMES_H

#include "link.h"

extern Size slate_names_shmem_size(void);
extern void slate_names_shmem_startup(void);	/* holds AddinShmemInitLock */

/* Is there anything to look up: neither a socket path nor a number? */
extern bool slate_names_is_name(const SlateAddress *address);

/* The addresses that are noted; false if there are none for this name. */
extern bool slate_names_get(const SlateAddress *address,
							SlateAddressList *found);

/*
 * Look the name up and note its addresses; what is known stays if that fails.
 * For workers: there is room for SLATE_MAX_NAMES, and the one that was not
 * looked up for longest makes room for another.  May take long.
 */
#define SLATE_MAX_NAMES 32

extern void slate_names_refresh(const SlateAddress *address);

#endif							/* SLATE_NAMES_H */
