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
 * What one reply may hold.  More is taken for a mistake, or malice: the
 * connection is dropped, with LINK_PROTOCOL, and memory stays bounded whatever
 * the other side sends.  How many bytes it may have, link.c knows.
 */
#define SLATE_REPLY_MAX_ELEMENTS 1000000	/* in all its arrays together */
#define SLATE_REPLY_MAX_DEPTH	7	/* arrays within arrays */

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
