/*-------------------------------------------------------------------------
 *
 * bundle.h
 *	  Pushes of several transactions, to be sent in one exchange.
 *
 * begin, add each part, end; send the batch; hand each reply to take.  Then each
 * part's unit has the outcome.  Parts that are one call each are joined into
 * calls of many keys: what a call costs Redis, before it touches a key, is a
 * good part of what a push costs.  In which order the pushes of different
 * transactions come does not matter: they could come from their sessions in
 * any.  The batch grows as it must, so all this may throw.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_BUNDLE_H
#define SLATE_BUNDLE_H

#include "call.h"
#include "exchange.h"

/* What Redis answers to one after the other: a part, or several joined. */
typedef struct SlateBundleUnit
{
	int			first;			/* the first of its commands */
	SlateOutcome outcome;
} SlateBundleUnit;

/* What one transaction sends. */
typedef struct SlateBundlePart
{
	const char *bytes;
	int			nbytes;
	int			ncommands;
	const SlateCall *call;		/* all of it, if its nkeys is not 0 */
	SlateBundleUnit *unit;		/* set when the bundle has ended */
} SlateBundlePart;

/* Parts that will be one call, and a hash table of their keys. */
typedef struct SlateBundleJoin
{
	int			count;
	SlateBundlePart *parts[SLATE_KEYS_PER_JOIN];
	int			nkeys;
	uint32		nth;			/* whose places are valid */
	struct
	{
		uint32		nth;
		SlateSlice	key;
	}			places[4 * SLATE_KEYS_PER_JOIN];
} SlateBundleJoin;

typedef struct SlateBundle
{
	SlateBatch	batch;			/* initialised by the caller, once */
	int			nunits;
	SlateBundleUnit *units;		/* the caller's; as many as parts */
	SlateBundleJoin join;
} SlateBundle;

extern void slate_bundle_begin(SlateBundle *bundle);
extern void slate_bundle_add(SlateBundle *bundle, SlateBundlePart *part);
extern void slate_bundle_end(SlateBundle *bundle);

/* The indexes are those of the batch's commands. */
extern void slate_bundle_take_reply(SlateBundle *bundle, int index,
									const redisReply *reply);

#endif							/* SLATE_BUNDLE_H */
