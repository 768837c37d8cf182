/*-------------------------------------------------------------------------
 *
 * group.h
 *	  Commits that meet tell Redis together.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_GROUP_H
#define SLATE_GROUP_H

#include "script.h"

extern Size slate_group_shmem_size(void);
extern void slate_group_shmem_startup(void);	/* holds AddinShmemInitLock */

/* Before the commit: what leading a group will need.  May throw. */
extern void slate_group_prepare(void);

typedef enum SlateGroupResult
{
	GROUP_ALONE,				/* nobody has sent it: the caller has to */
	GROUP_LED,					/* the caller has led: see status, outcome */
	GROUP_DELIVERED,			/* another has sent it, and Redis has it */
	GROUP_FAILED				/* it is not known whether Redis has it */
} SlateGroupResult;

/*
 * After the commit: have a batch sent with those of others, or send those of
 * others with it, by the deadline.  What it is sent with counts as delivered
 * only if it went to the server that the database trusts.  Does not throw.
 */
extern SlateGroupResult slate_group_publish(const SlateBatch *batch,
											SlateOutcome *outcome,
											SlateRedisStatus *status,
											int64 deadline);

#endif							/* SLATE_GROUP_H */
