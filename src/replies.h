/*-------------------------------------------------------------------------
 *
 * replies.h
 *	  What Redis has answered, as hiredis' reader builds it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_REPLIES_H
#define SLATE_REPLIES_H

#include <hiredis/hiredis.h>

/*
 * The replies of one reader.  All fields are private to replies.c, but for
 * refused.  Zeroed memory is empty.
 */
typedef struct SlateReplies
{
	struct SlateReplyBlock *blocks; /* the one that is in use first */
	size_t		nelements;		/* of all arrays of the reply that comes in */
	bool		refused;		/* it went over a limit */
} SlateReplies;

/*
 * Have the reader build its replies there.  It must not free one of them: they
 * are there until the next one of these.
 */
extern void slate_replies_use(redisReader *reader, SlateReplies *replies);

/* None is in use any more, and the next one may begin; some memory is kept. */
extern void slate_replies_reset(SlateReplies *replies);

/* Likewise, and none is kept. */
extern void slate_replies_free(SlateReplies *replies);

#endif							/* SLATE_REPLIES_H */
