/*-------------------------------------------------------------------------
 *
 * handshake.h
 *	  What is said to a Redis first, and what it tells of itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_HANDSHAKE_H
#define SLATE_HANDSHAKE_H

#include "link.h"
#include "url.h"

/* Commands to be sent on each new connection behind the login. */
typedef struct SlatePreamble
{
	const char *bytes;
	size_t		len;
	int			nreplies;
} SlatePreamble;

/* What a server has told of itself. */
typedef struct SlateServerInfo
{
	/*
	 * Its clock minus slate_handshake_clock(), in us, and when we were told,
	 * by the latter.
	 */
	int64		clock_offset;
	int64		clock_told_at;

	/*
	 * A hash of its run_id, and, if it was once promoted, of the offset at
	 * which that was; never 0.
	 */
	uint64		identity;
} SlateServerInfo;

/* CLOCK_MONOTONIC in us. */
extern int64 slate_handshake_clock(void);

/*
 * Introduce ourselves on a connection that was just made, send the preamble, and
 * ask the server what we want to know of it.  The objection (so many bytes) is ""
 * or says why it is not to be talked to, whatever the status is: it rejects us, an
 * error reply to the preamble among that, or is no master.
 */
#define SLATE_OBJECTION_SIZE 320

extern SlateLinkStatus slate_handshake(SlateLink *link, const SlateUrl *url,
									   const char *password,
									   const SlatePreamble *preamble,
									   SlateServerInfo *info, char *objection,
									   int64 deadline, SlateWait wait);

/*
 * AUTH with a user ("" for none) and a password, in RESP, where there is room for
 * SLATE_AUTH_ROOM; returns how long it is.
 */
#define SLATE_AUTH_ROOM 448
extern int	slate_handshake_put_auth(char *to, const char *user,
									 const char *password);

/* Ask again. */
extern SlateLinkStatus slate_handshake_ask(SlateLink *link,
										   SlateServerInfo *info,
										   char *objection, int64 deadline,
										   SlateWait wait);

#endif							/* SLATE_HANDSHAKE_H */
