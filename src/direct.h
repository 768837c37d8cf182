/*-------------------------------------------------------------------------
 *
 * direct.h
 *	  Pushes without a script, by who knows that he may; see traffic.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_DIRECT_H
#define SLATE_DIRECT_H

#include "exchange.h"

/* A direct push of some keys, encoded. */
typedef struct SlateDirect
{
	SlateBatch	batch;
	int			nputs;
	int			ndrops;
	StringInfoData expected;	/* the usual answer; "": there is none */
} SlateDirect;

/*
 * Keys, and bytes of all values, that one may have: what a call of the script has
 * at most.
 */
#define SLATE_DIRECT_KEYS SLATE_KEYS_PER_CALL
#define SLATE_DIRECT_BYTES (256 * 1024)

/*
 * Does the connection WATCH the stamp's epoch?  Without that nothing can be
 * pushed directly.  Should it?  That is worth a round trip for who has pushed
 * often by script, which he notes each time, or will (at_once), if the server
 * has not refused it.
 */
extern void slate_direct_note_script(void);
extern bool slate_direct_is_watching(const SlateStamp *stamp);
extern bool slate_direct_should_watch(const SlateStamp *stamp, bool at_once);
extern SlateRedisStatus slate_direct_watch(const SlateStamp *stamp,
										   int64 deadline, SlateWait wait);

/*
 * Encode: once init, then begin, what is to be pushed, end.  The stamps of all
 * that is pushed have the epoch that end is given.
 */
extern void slate_direct_init(SlateDirect *direct);
extern void slate_direct_begin(SlateDirect *direct);
extern void slate_direct_add(SlateDirect *direct,
							 const SlateStamp *stamp,
							 const SlatePush *pushes, int npushes);
extern void slate_direct_end(SlateDirect *direct,
							 const SlateStamp *stamp);

/* The same for a call that was encoded for the script. */
extern void slate_direct_add_call(SlateDirect *direct, const SlateCall *call,
								  const char *bytes);

/*
 * If it is answered (REDIS_DONE) and *done is false then nothing was set, or
 * Redis has refused a part of it: the same pushes may be sent by script, if
 * there still is a connection.
 * Otherwise what was sent may still be done, at any time.
 */
extern SlateRedisStatus slate_direct_push(const SlateDirect *direct,
										  SlateOutcome *outcome,
										  bool *done, int64 deadline,
										  SlateWait wait);

/*
 * Fence off what was sent directly and is not done; see slate_trust_fence().
 * It is made before the commit.  Its own connection goes on to WATCH, if it did.
 */
extern void slate_direct_make_fence(SlateBatch *batch, const char *epoch_key);
extern SlateRedisStatus slate_direct_fence(const SlateBatch *batch,
										   bool *done, int64 deadline,
										   SlateWait wait);

#endif							/* SLATE_DIRECT_H */
