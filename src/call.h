/*-------------------------------------------------------------------------
 *
 * call.h
 *	  A call that pushes, looked at again by who sends it for others.
 *
 * bytes are those that the call was encoded into.  Nothing here throws or pallocs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_CALL_H
#define SLATE_CALL_H

#include "batch.h"

/* What such a call has in front, but for its mark. */
#define SLATE_HEAD_LEN (2 * SLATE_CLOCK_LEN + SLATE_LIFE_LEN)

/* The keys of a call, one by one; *offset is 0 at first. */
extern SlateSlice slate_call_next_key(const SlateCall *call,
									  const char *bytes, int *offset);

/* One push of a call after the other; zeroes at first. */
typedef struct SlateCallPush
{
	SlateSlice	key;
	const char *guard;			/* SLATE_GUARD_LEN bytes */
	SlateSlice	expiry;			/* of that; ms, by the server's clock */
	SlateSlice	ttl;			/* ms; "0": none; "-": it is a DROP */
	SlateSlice	value;
	int			key_at;			/* where the next one begins */
	int			at;
} SlateCallPush;

extern void slate_call_next_push(const SlateCall *call, const char *bytes,
								 SlateCallPush *push);

/* Is it for this epoch, and without marks?  Is its deadline later than this? */
extern bool slate_call_is_for_epoch(const SlateCall *call,
									const char *bytes, const char *epoch);
extern bool slate_call_is_in_time(const SlateCall *call, const char *bytes,
								  int64 clock);

/*
 * May they be joined: do they differ in nothing but their keys and deadlines?  So
 * many keys may be those of one.
 */
#define SLATE_KEYS_PER_JOIN 128
extern bool slate_call_may_join(const SlateCall *a, const char *a_bytes,
								const SlateCall *b, const char *b_bytes);

/*
 * Of two such texts in front make the first one right for both: with the least
 * deadline, and the last expiry.
 */
extern void slate_call_join_clocks(char *head, const char *other);

#endif							/* SLATE_CALL_H */
