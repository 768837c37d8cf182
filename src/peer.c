/*-------------------------------------------------------------------------
 *
 * peer.c
 *	  One server that is talked to: its connection, and what a failure was.
 *
 * The one place where a failure of Redis gets its words, and where the breaker
 * hears of it.  Whoever fails sets the reason first, then says what it counts as.
 *
 * Throws: nothing, except out of LINK_WAIT_INTERRUPTIBLE waits, see link.c.
 * Such a throw leaves the link to be dropped at its next use, and a probe to
 * run out (see breaker.c); nothing leaks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "breaker.h"
#include "names.h"
#include "peer.h"

/* What slate_peer_error() returns. */
static char error_text[1024];
static size_t error_prefix;		/* so much of it is the server's name */

/* ------------------------------------------------------------------------
 * Failures
 * ------------------------------------------------------------------------
 */

void
slate_peer_set_error(const SlatePeer *peer, const char *format,...)
{
	va_list		args;

	snprintf(error_text, sizeof(error_text), "%s: ", peer->name);
	error_prefix = strlen(error_text);

	va_start(args, format);
	vsnprintf(error_text + error_prefix, sizeof(error_text) - error_prefix,
			  format, args);
	va_end(args);
}

const char *
slate_peer_error(void)
{
	return error_text;
}

void
slate_peer_fail(SlatePeer *peer, int timeout)
{
	peer->has_failed = true;
	slate_breaker_open(timeout, peer->name, error_text + error_prefix);
}

bool
slate_peer_password(const SlatePeer *peer, char *password)
{
	char		reason[512];

	if (slate_service_password(password, reason, sizeof(reason)))
		return true;
	slate_peer_set_error(peer, "%s", reason);
	return false;
}

/* Say what the link says. */
static void
tell_loss(SlatePeer *peer)
{
	slate_peer_set_error(peer, "%s", peer->link.error);
	peer->loss_is_told = true;
}

/* timeout is the one that may have passed. */
static SlateRedisStatus
link_failed(SlatePeer *peer, SlateLinkStatus status, int timeout)
{
	tell_loss(peer);
	switch (status)
	{
		case LINK_TOO_LARGE:
			/* it is well: we have asked for too much */
			return REDIS_TOO_LARGE;

		case LINK_TIMEOUT:
			slate_peer_fail(peer, timeout);
			return REDIS_TIMEOUT;

		case LINK_NOMEM:
			/* says nothing about the server */
			return REDIS_UNREACHABLE;

		default:
			slate_peer_fail(peer, 0);
			return REDIS_UNREACHABLE;
	}
}

/*
 * A connection that was there is gone: perhaps somebody has closed just this one
 * (CLIENT KILL, a proxy), which is no reason for all to stay away.  Who connects
 * next finds out.
 */
static SlateRedisStatus
cut_off(SlatePeer *peer)
{
	tell_loss(peer);
	peer->has_failed = true;
	return REDIS_UNREACHABLE;
}

void
slate_peer_lose(SlatePeer *peer)
{
	slate_link_close(&peer->link);
	peer->loss_is_told = true;
}

/* ------------------------------------------------------------------------
 * Connecting
 * ------------------------------------------------------------------------
 */

void
slate_peer_move(SlatePeer *peer, const SlateAddress *address, int nmasters)
{
	slate_link_close(&peer->link);
	if (address != NULL)
		peer->address = *address;
	else
		memset(&peer->address, 0, sizeof(peer->address));
	slate_service_write_name(peer->name, address, nmasters);
	peer->has_failed = false;
}

/* What has come of a handshake? */
static SlateRedisStatus
settle_handshake(SlatePeer *peer, SlateLinkStatus status,
				 const char *objection, int timeout)
{
	/* first of all: a server that rejects us may hang up right afterwards */
	if (objection[0] != '\0')
	{
		slate_peer_set_error(peer, "%s", objection);
		slate_peer_lose(peer);
		slate_peer_fail(peer, 0);
		return REDIS_REJECTED;
	}
	if (status == LINK_NOMEM)
	{
		slate_peer_set_error(peer, "out of memory");
		return REDIS_UNREACHABLE;
	}

	/* once, that may be this connection; then it is the server */
	if (status == LINK_BROKEN && !peer->has_failed && !slate_breaker_is_open())
		return cut_off(peer);
	if (status != LINK_OK)
		return link_failed(peer, status, timeout);
	peer->has_failed = false;
	return REDIS_DONE;
}

/* Introduce ourselves on a connection that was just made. */
static SlateRedisStatus
introduce(SlatePeer *peer, const SlatePreamble *preamble, int timeout,
		  int64 deadline, SlateWait wait)
{
	static char password[SLATE_PASSWORD_SIZE];	/* a throw leaks nothing */
	char		objection[SLATE_OBJECTION_SIZE];
	SlateLinkStatus status;

	if (!slate_peer_password(peer, password))
	{
		slate_peer_fail(peer, 0);
		return REDIS_REJECTED;
	}
	status = slate_handshake(&peer->link, slate_service(), password, preamble,
							 &peer->info, objection, deadline, wait);
	explicit_bzero(password, sizeof(password));
	return settle_handshake(peer, status, objection, timeout);
}

/*
 * Without a launcher who looks the name up we must, and that knows no deadline;
 * if it took longer than it should have, it counts as a timeout, whatever came of
 * it.
 */
SlateRedisStatus
slate_peer_connect(SlatePeer *peer, const SlatePreamble *preamble,
				   int timeout, int64 deadline, SlateWait wait)
{
	SlateLinkStatus opened = slate_names_open(&peer->link, &peer->address,
											  deadline, wait);
	SlateRedisStatus status;

	if (opened == LINK_UNREACHABLE && slate_link_now() >= deadline)
		opened = LINK_TIMEOUT;
	if (opened != LINK_OK)
		return link_failed(peer, opened, timeout);

	peer->loss_is_told = false;
	status = introduce(peer, preamble, timeout, deadline, wait);
	if (status != REDIS_DONE)
		slate_peer_lose(peer);
	return status;
}

SlateRedisStatus
slate_peer_refresh(SlatePeer *peer, int64 max_age, int timeout,
				   int64 deadline, SlateWait wait)
{
	char		objection[SLATE_OBJECTION_SIZE];
	SlateLinkStatus status;

	if (slate_handshake_clock() - peer->info.clock_told_at < max_age)
		return REDIS_DONE;
	status = slate_handshake_ask(&peer->link, &peer->info, objection, deadline,
								 wait);
	return settle_handshake(peer, status, objection, timeout);
}

SlateRedisStatus
slate_peer_exchange(SlatePeer *peer, const char *bytes, size_t len,
					int nreplies, SlateExpected *expected,
					SlateReplyFn reply_fn, void *arg, int timeout,
					int64 deadline, SlateWait wait)
{
	SlateLinkStatus status;

	if (!slate_link_is_open(&peer->link) &&
		!slate_link_is_ahead(&peer->link, bytes, len))
	{
		if (!peer->loss_is_told)
			slate_peer_set_error(peer, "there is no connection");
		return REDIS_UNREACHABLE;
	}
	if (slate_link_now() >= deadline)
	{
		slate_peer_set_error(peer, "there was no time left to ask");
		return REDIS_TIMEOUT;
	}
	status = slate_link_exchange(&peer->link, bytes, len, nreplies, expected,
								 reply_fn, arg, deadline, wait);

	/* what a probe has met is for all */
	if (status == LINK_BROKEN && !slate_breaker_is_open())
		return cut_off(peer);
	if (status != LINK_OK)
		return link_failed(peer, status, timeout);
	peer->has_failed = false;
	return REDIS_DONE;
}
