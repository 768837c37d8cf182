/*-------------------------------------------------------------------------
 *
 * stamp.c
 *	  What tells a transaction's pushes from those of others.
 *
 * A version is taken under the row's lock; a nonce must not come twice in one
 * key's life; a deadline is by the clock of the server that is told.  lua.c has
 * what Redis makes of them.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xlog.h"
#include "common/hashfn.h"
#include "lua.h"
#include "redis.h"
#include "stamp.h"

/*
 * Widths of what is written side by side, besides those of stamp.h; the sum is a
 * guard without marks.
 */
#define ORDER_LEN 8
#define OWNER_LEN 8

StaticAssertDecl(SLATE_GUARD_LEN == SLATE_VERSION_LEN + ORDER_LEN +
				 SLATE_TOKEN_LEN + OWNER_LEN + SLATE_CLOCK_LEN,
				 "a guard's length is the sum of its parts");

int			slate_stamp_guard_life = 60;

static const char no_version[] = "000000000000000000000000000000";

char *
slate_stamp_put_digits(char *to, uint64 number, int width)
{
	for (int i = width - 1; i >= 0; i--)
	{
		to[i] = '0' + number % 10;
		number /= 10;
	}
	return to + width;
}

char *
slate_stamp_put_hex(char *to, uint64 number, int width)
{
	for (int i = width - 1; i >= 0; i--)
	{
		to[i] = "0123456789abcdef"[number & 15];
		number >>= 4;
	}
	return to + width;
}

void
slate_stamp_put_version(char *to, TimeLineID timeline, XLogRecPtr position)
{
	to = slate_stamp_put_digits(to, timeline, SLATE_TIMELINE_LEN);
	to = slate_stamp_put_digits(to, position,
								SLATE_VERSION_LEN - SLATE_TIMELINE_LEN);
	*to = '\0';
}

/*
 * The journal asks in each commit; strtoul(), which looks at the digits more
 * closely, costs more than to form the row.
 */
TimeLineID
slate_stamp_timeline(const char *version)
{
	TimeLineID	timeline = 0;

	for (int i = 0; i < SLATE_TIMELINE_LEN; i++)
		timeline = timeline * 10 + (version[i] - '0');
	return timeline;
}

/*
 * A nonce must not come twice in one key's life, not even from two backends
 * or after a restart; so it starts at a random point and counts.
 */
void
slate_stamp_make_nonce(char nonce[SLATE_TOKEN_LEN + 1])
{
	static uint64 counter = 0;

	if (counter == 0 && !pg_strong_random(&counter, sizeof(counter)))
		elog(ERROR, "could not generate a random nonce");
	*slate_stamp_put_hex(nonce, ++counter, SLATE_TOKEN_LEN) = '\0';
}

int64
slate_stamp_guard_life_ms(void)
{
	return (int64) slate_stamp_guard_life * 1000;
}

void
slate_stamp_make(SlateStamp *stamp)
{
	/* these before the version: however long that takes */
	stamp->made_at = slate_link_now();
	slate_stamp_set_deadline(stamp, slate_redis_server_clock());
	stamp->position = GetXLogInsertRecPtr();
	slate_stamp_put_version(stamp->version, GetWALInsertionTimeLine(),
							stamp->position);
	slate_stamp_make_nonce(stamp->nonce);
	stamp->epoch_key = "";
	stamp->epoch[0] = '\0';
	stamp->mark[0] = '\0';
	slate_stamp_own(stamp);
}

void
slate_stamp_own(SlateStamp *stamp)
{
	uint64		cluster = GetSystemIdentifier();
	uint32		name = hash_combine(hash_combine((uint32) cluster,
												 (uint32) (cluster >> 32)),
									MyDatabaseId);

	*slate_stamp_put_hex(stamp->owner, name, OWNER_LEN) = '\0';
}

void
slate_stamp_set_deadline(SlateStamp *stamp, int64 clock)
{
	stamp->deadline = clock == 0 ? 0 : clock + slate_stamp_guard_life_ms() / 2;
}

void
slate_stamp_make_mark(SlateStamp *stamp)
{
	snprintf(stamp->mark, sizeof(stamp->mark), "%s%s", stamp->owner,
			 stamp->nonce);
}

void
slate_stamp_disown(SlateStamp *stamp)
{
	strlcpy(stamp->version, no_version, sizeof(stamp->version));
	strlcpy(stamp->owner, LUA_NOBODY, sizeof(stamp->owner));
	stamp->mark[0] = '\0';
}

void
slate_stamp_refresh_nonce(SlateStamp *stamp)
{
	slate_stamp_make_nonce(stamp->nonce);
}

char *
slate_stamp_put_guard(char *at, const SlateStamp *stamp,
					  const SlatePush *push)
{
	int64		taken = stamp->deadline
		? stamp->deadline - slate_stamp_guard_life_ms() / 2 : 0;

	memcpy(at, stamp->version, SLATE_VERSION_LEN);
	at += SLATE_VERSION_LEN;
	if (push->order == SLATE_SHARED)
		memcpy(at, LUA_SHARED, ORDER_LEN);
	else
		(void) slate_stamp_put_hex(at, push->order, ORDER_LEN);
	at += ORDER_LEN;
	memcpy(at, stamp->nonce, SLATE_TOKEN_LEN);
	at += SLATE_TOKEN_LEN;
	memcpy(at, stamp->owner, OWNER_LEN);
	at += OWNER_LEN;
	return slate_stamp_put_digits(at, taken, SLATE_CLOCK_LEN);
}

int64
slate_stamp_guard_expiry(const SlateStamp *stamp)
{
	return stamp->deadline ? stamp->deadline + slate_stamp_guard_life_ms() / 2 : 0;
}
