/*-------------------------------------------------------------------------
 *
 * traffic.h
 *	  Who is on the way to Redis with which key: may a push go there directly?
 *
 * A push by script asks Redis whether it comes too late.  One that nobody else
 * is on the way with, nor was with a higher version, need not ask, which costs
 * Redis a third.  This room knows who is on the way; how a direct push is made,
 * and what it relies on, is told in direct.c.
 *
 * None of this throws, and only slate_traffic_fence() waits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_TRAFFIC_H
#define SLATE_TRAFFIC_H

#include "database.h"
#include "link.h"
#include "template.h"

/* slate_cache.direct: may this session's pushes go directly? */
extern bool slate_traffic_direct;

extern Size slate_traffic_shmem_size(void);
extern void slate_traffic_shmem_startup(void);	/* holds AddinShmemInitLock */

/*
 * Enter, with a version (a WAL position), before a push is sent; in mode strict
 * before the mark is.  First globs and keys, then slate_traffic_close(), which
 * decides.  Nothing is entered without shared memory: then nobody goes
 * directly.
 *
 * direct: some of it could go directly.  slate_traffic_add_key() tells whether
 * anything is known to keep its key from that; and slate_traffic_close(),
 * which is told whether there is something left that could, whether it may.
 * version is the lowest of what could.
 *
 * distinct: no key comes twice, and all go directly or none does.  Otherwise
 * only the first of the same keys can, and so it is with keys that are taken for
 * the same.
 */
extern void slate_traffic_open(bool direct, bool distinct);
extern void slate_traffic_add_glob(SlateSlice glob, uint64 version);
extern bool slate_traffic_add_key(SlateSlice key, uint64 version);
extern void slate_traffic_add_everything(uint64 version);
extern bool slate_traffic_close(bool direct, uint64 version);

extern bool slate_traffic_is_entered(void);

/*
 * Who does not go directly, and has found somebody who does: see to it that
 * what that one has sent is done or never will be.  Also where an exchange was
 * broken off, and what was sent may still come.  Does nothing where it is not
 * needed.  False if Redis could not be told: then nothing may be sent either.
 */
extern bool slate_traffic_fence(int64 deadline, SlateWait wait);

/* Why it has failed. */
extern const char *slate_traffic_fence_error(void);

/*
 * Around a direct exchange: is it known what became of it?  If not, or if it
 * was thrown out of, it may still come to be done.
 */
extern void slate_traffic_begin_direct(void);
extern void slate_traffic_end_direct(bool is_known);

/* Marks may stay behind, so that others have to look for a while. */
extern void slate_traffic_leave_marks(void);

/* Leave: when Redis has answered, or nothing more will be sent. */
extern void slate_traffic_leave(void);

#endif							/* SLATE_TRAFFIC_H */
