/*-------------------------------------------------------------------------
 *
 * peer.h
 *	  One server that is talked to: its connection, and what a failure was.
 *
 * Nothing here throws, except out of LINK_WAIT_INTERRUPTIBLE waits, see link.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_PEER_H
#define SLATE_PEER_H

#include "handshake.h"
#include "link.h"
#include "service.h"

typedef enum SlateRedisStatus
{
	REDIS_DONE,					/* all replies came (error replies included) */
	REDIS_TIMEOUT,				/* no answer within the deadline */
	REDIS_UNREACHABLE,			/* connection refused, broken, or not RESP */
	REDIS_TOO_LARGE,			/* a reply was larger than one may be; the
								 * connection is gone, and nobody's fault */
	REDIS_REJECTED,				/* the handshake got an error reply: a wrong
								 * password, no such database, ...; or the
								 * server is no master; or the handshake could
								 * not be begun: a password file that cannot
								 * be read */
	REDIS_RESTING				/* not tried: the breaker is open */
} SlateRedisStatus;

/*
 * The url's server, the master that sentinels name, or a master of the Cluster.
 * Fields but for the link, which is looked at, are peer.c's to write.
 */
typedef struct SlatePeer
{
	SlateAddress address;		/* where the connection goes, or would go */
	char		name[SLATE_SERVICE_NAME_SIZE];	/* the same, for people */
	SlateLink	link;			/* the connection, if any */
	bool		loss_is_told;	/* if there is none: is what became of the
								 * last what slate_peer_error() tells? */
	bool		has_failed;		/* since it was last found to be well */
	SlateServerInfo info;		/* while the connection is open */
} SlatePeer;

/*
 * It is at another address from now on (NULL: at none that is known), and
 * nothing speaks against it; one of nmasters of a Cluster.
 */
extern void slate_peer_move(SlatePeer *peer, const SlateAddress *address,
							int nmasters);

/*
 * Connect, introduce ourselves, and send the preamble; or, if the connection
 * is open, have the server tell anew what it told longer ago than max_age, in
 * us.  timeout is that of the settings, in ms, which the breaker is told of if it
 * has passed.
 */
extern SlateRedisStatus slate_peer_connect(SlatePeer *peer,
										   const SlatePreamble *preamble,
										   int timeout, int64 deadline,
										   SlateWait wait);
extern SlateRedisStatus slate_peer_refresh(SlatePeer *peer, int64 max_age,
										   int timeout, int64 deadline,
										   SlateWait wait);

/* slate_link_exchange() for it.  Without a connection: REDIS_UNREACHABLE. */
extern SlateRedisStatus slate_peer_exchange(SlatePeer *peer,
											const char *bytes, size_t len,
											int nreplies,
											SlateExpected *expected,
											SlateReplyFn reply_fn, void *arg,
											int timeout, int64 deadline,
											SlateWait wait);

/* Drop its connection, for the reason that was just set. */
extern void slate_peer_lose(SlatePeer *peer);

/* ------------------------------------------------------------------------
 * Failures
 * ------------------------------------------------------------------------
 */

/*
 * Note a reason, under the peer's name.  Let the breaker know of the failure of
 * which that is the reason.  timeout: which one has passed, in ms; 0: none.
 */
extern void slate_peer_set_error(const SlatePeer *peer, const char *format,...)
			pg_attribute_printf(2, 3);
extern void slate_peer_fail(SlatePeer *peer, int timeout);

/* Valid until the next is set. */
extern const char *slate_peer_error(void);

/* slate_service_password(), with a reason that is noted so. */
extern bool slate_peer_password(const SlatePeer *peer, char *password);

#endif							/* SLATE_PEER_H */
