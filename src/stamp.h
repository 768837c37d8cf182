/*-------------------------------------------------------------------------
 *
 * stamp.h
 *	  What tells a transaction's pushes from those of others.
 *
 * Nothing here asks Redis; slate_stamp_make() may throw.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_STAMP_H
#define SLATE_STAMP_H

#include "access/xlogdefs.h"
#include "template.h"

/*
 * A version: timeline and WAL position as decimal digits of fixed width, so
 * that the order of the texts is the order of the versions in any collation.
 */
#define SLATE_VERSION_LEN 30

/* So much of it, and of an epoch, is the timeline. */
#define SLATE_TIMELINE_LEN 10

/* A nonce, or the token of a lease: 16 hexadecimal digits. */
#define SLATE_TOKEN_LEN 16

/* A mark: eight digits of owner, and the nonce of a transaction. */
#define SLATE_MARK_LEN (8 + SLATE_TOKEN_LEN)

/* An epoch: ten digits of timeline, 16 hexadecimal digits; see epoch.h. */
#define SLATE_EPOCH_LEN 26

/*
 * Numbers of fixed width, with leading zeros, and no zero byte behind: commits
 * write some dozens of them, and formats are slow.
 */
extern char *slate_stamp_put_digits(char *to, uint64 number, int width);
extern char *slate_stamp_put_hex(char *to, uint64 number, int width);

/* A version, and a zero byte behind it; the timeline of one that is ours. */
extern void slate_stamp_put_version(char *to, TimeLineID timeline,
									XLogRecPtr position);
extern TimeLineID slate_stamp_timeline(const char *version);

/* A time, in ms; a duration, likewise. */
#define SLATE_CLOCK_LEN 13
#define SLATE_LIFE_LEN 8

/*
 * How pushes to one key are ordered among themselves.  Whoever pushed with an
 * order other than SLATE_SHARED held a lock that a second writer of the same
 * key and order must wait for (the row's, or the unique index's), so versions
 * are in the order of the commits.  Writers that share a key otherwise may
 * commit in any order.
 */
typedef uint32 SlateOrder;

#define SLATE_SHARED ((SlateOrder) 0)

/* What tells a transaction's pushes from those of others. */
typedef struct SlateStamp
{
	char		version[SLATE_VERSION_LEN + 1];
	uint64		position;		/* of the version; 0: it was not taken here */
	int64		made_at;		/* slate_link_now(), or before */
	char		nonce[SLATE_TOKEN_LEN + 1];
	int64		deadline;		/* past it a PUT is a DROP; server's clock */
	const char *epoch_key;		/* "": the epoch is not looked at */
	char		epoch[SLATE_EPOCH_LEN + 1]; /* of the Redis that we trust */
	char		owner[8 + 1];	/* whose version it is */
	char		mark[SLATE_MARK_LEN + 1];	/* on the keys; "": mode commit */
} SlateStamp;

/* What a transaction says about one key. */
typedef struct SlatePush
{
	const char *key;
	int			keylen;
	const char *value;			/* JSON; NULL for a DROP */
	int			valuelen;
	int64		ttl;			/* ms; 0 for no expiry */
	SlateOrder	order;
} SlatePush;

/* Settings of this room: how long a guard lives, in seconds. */
extern int	slate_stamp_guard_life;
extern int64 slate_stamp_guard_life_ms(void);

/* The stamp of changes made now; only on a primary.  Without an epoch. */
extern void slate_stamp_make(SlateStamp *stamp);

/*
 * Without a connection: by the server's clock (ms) as somebody else knows it;
 * 0 for not at all: then it is over already.
 */
extern void slate_stamp_set_deadline(SlateStamp *stamp, int64 clock);

/* Give it a mark, for mode strict; after its owner and nonce. */
extern void slate_stamp_make_mark(SlateStamp *stamp);

/* Make it one of this database. */
extern void slate_stamp_own(SlateStamp *stamp);

/* Take version, owner and mark from it: what is sent only removes. */
extern void slate_stamp_disown(SlateStamp *stamp);

/* Another nonce for what is sent under a stamp that was sent before. */
extern void slate_stamp_refresh_nonce(SlateStamp *stamp);

/* A nonce of its own, for a step that has no stamp. */
extern void slate_stamp_make_nonce(char nonce[SLATE_TOKEN_LEN + 1]);

/*
 * A key's guard as a push would have it (SLATE_GUARD_LEN bytes), and when that
 * expires: ms, by the server's clock; 0: it is not known.
 */
#define SLATE_GUARD_LEN (SLATE_VERSION_LEN + 8 + SLATE_TOKEN_LEN + 8 + \
						 SLATE_CLOCK_LEN)
extern char *slate_stamp_put_guard(char *at, const SlateStamp *stamp,
								   const SlatePush *push);
extern int64 slate_stamp_guard_expiry(const SlateStamp *stamp);

#endif							/* SLATE_STAMP_H */
