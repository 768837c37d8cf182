/*-------------------------------------------------------------------------
 *
 * names.h
 *	  What host names stand for, looked up ahead of need.
 *
 * getaddrinfo() has no deadline: with a name server that does not answer it
 * takes many seconds, and a commit must not.  So one process, the launcher,
 * looks up every name that somebody wants, now and then, and notes the addresses
 * in shared memory.  Whoever finds none there asks for them, and waits until
 * his own deadline.  While there is no launcher what is known does for a minute;
 * then, or without one at all, everybody looks for himself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_NAMES_H
#define SLATE_NAMES_H

#include "link.h"
#include "storage/latch.h"

extern Size slate_names_shmem_size(void);
extern void slate_names_shmem_startup(void);	/* holds AddinShmemInitLock */

/*
 * slate_link_open() with what is known of the address, or becomes so until the
 * deadline.
 */
extern SlateLinkStatus slate_names_open(SlateLink *link,
										const SlateAddress *address,
										int64 deadline, SlateWait wait);

/* ------------------------------------------------------------------------
 * Who looks them up
 * ------------------------------------------------------------------------
 */

/* Who sets this latch will be heard; NULL: nobody looks any more. */
extern void slate_names_look_here(Latch *latch);

/*
 * Keep the address of a name, if it is one, up to date for the next minutes.
 * There is room for SLATE_MAX_NAMES; the one that nobody has wanted for longest
 * makes room for another.
 */
#define SLATE_MAX_NAMES 32

extern void slate_names_want(const SlateAddress *address);

/*
 * Look up what is due; may take long.  What is known stays if that fails.  anew:
 * all of it is.
 */
extern void slate_names_look_up(bool anew);

#endif							/* SLATE_NAMES_H */
