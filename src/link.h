/*-------------------------------------------------------------------------
 *
 * link.h
 *	  One connection to one Redis server: bytes under a deadline.
 *
 * Nothing here throws and nothing uses palloc or memory contexts, so that all
 * of it may run after a commit has become final; the one exception is stated
 * at SlateWait.  Every wait ends at the caller's deadline, however many
 * signals arrive.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_LINK_H
#define SLATE_LINK_H

#include <sys/socket.h>

#include <hiredis/hiredis.h>

#include "replies.h"

typedef enum SlateLinkStatus
{
	LINK_OK,
	LINK_TIMEOUT,				/* the deadline came first */
	LINK_UNREACHABLE,			/* no connection could be made */
	LINK_BROKEN,				/* end of file or an I/O error on the way */
	LINK_PROTOCOL,				/* what came back is not RESP, is nested more
								 * deeply than a reply may be, or was not
								 * asked for */
	LINK_TOO_LARGE,				/* a reply has more bytes than one may have */
	LINK_NOMEM					/* malloc failed */
} SlateLinkStatus;

/* Where a server listens. */
typedef struct SlateAddress
{
	bool		is_unix;
	bool		is_tls;			/* by TCP alone */
	char		host[256];		/* name, IPv4 or IPv6 address; or socket path */
	int			port;
} SlateAddress;

extern bool slate_link_same_address(const SlateAddress *a,
									const SlateAddress *b);

/*
 * For people: "host:port", "[IPv6 address]:port", with "tls:" in front where
 * that is so, "unix:path", or "" if there is no host.
 */
extern void slate_link_write_address(char *words, size_t size,
									 const SlateAddress *address);

/*
 * How to wait for a socket.
 *
 * LINK_WAIT_UNINTERRUPTED: poll(2) alone.  Signals are left pending.  The only
 * choice after a commit.
 * LINK_WAIT_INTERRUPTIBLE: poll(2) in slices of at most 50 ms with
 * CHECK_FOR_INTERRUPTS() between them (a signal ends a slice at once; the
 * slice bounds how long one that came just before poll() goes unseen).  This
 * may throw out of slate_link_exchange() and slate_link_open().
 */
typedef enum SlateWait
{
	LINK_WAIT_UNINTERRUPTED,
	LINK_WAIT_INTERRUPTIBLE
} SlateWait;

/*
 * State of a connection.  All fields are private to link.c, but for error.
 * Zeroed memory is a closed link.  A link must not move while it is open.
 */
typedef struct SlateLink
{
	redisReader *reader;		/* NULL when there is no connection: then all
								 * but error is void */
	int			fd;				/* the socket, or -1 before there is one */
	struct SlateTls *tls;		/* what speaks TLS on it, or NULL */
	bool		mid_exchange;	/* set while connecting and while replies are
								 * outstanding; whoever finds it set at the
								 * start of an exchange knows that the last
								 * one was thrown out of, and that the
								 * connection must be dropped */
	const char *ahead_of;		/* the exchange to come, if it has begun ... */
	size_t		ahead;			/* and how many of its bytes are sent */
	SlateReplies replies;		/* the one in the caller's hands, or coming in */
	size_t		reply_bytes;	/* of the reply that is coming in, so far */
	bool		buffer_grown;	/* the reader's buffer is worth giving back */
	char		error[256];		/* what the last failure was, for a log line */
} SlateLink;

/*
 * Called for each reply in order; the reply is freed afterwards.  May throw
 * where the caller of the exchange may: the connection is then dropped at its
 * next use.
 */
typedef void (*SlateReplyFn) (int index, const redisReply *reply, void *arg);

/*
 * What all replies of an exchange together will be, byte for byte, if nothing
 * is out of the ordinary: then they need not be parsed, and none is handed
 * over.
 */
typedef struct SlateExpected
{
	const char *bytes;
	size_t		len;
	bool		met;			/* set by the exchange */
} SlateExpected;

/* Monotonic clock in milliseconds; deadlines are points of this clock. */
extern int64 slate_link_now(void);

/* What a host name stands for. */
#define SLATE_MAX_ADDRESSES 8

typedef struct SlateAddressList
{
	int			count;
	struct sockaddr_storage address[SLATE_MAX_ADDRESSES];
	socklen_t	len[SLATE_MAX_ADDRESSES];
} SlateAddressList;

/*
 * Look a host name up with getaddrinfo(), which has no deadline and cannot be
 * interrupted.  On failure *error is a constant or strerror()'s text.
 */
extern SlateLinkStatus slate_link_look_up(const SlateAddress *address,
										  SlateAddressList *found,
										  const char **error);

/*
 * Connect.  Any earlier connection of this link is closed first.
 *
 * known is what the address' host stands for; if it is NULL, the host is
 * looked up, so that this must never be called after a commit.  The addresses
 * (the first eight) are tried in turn within the deadline, each with an equal
 * share of the time that is left, so that one that swallows packets does not
 * keep the next from its turn.  With TLS the server must prove within the rest
 * of the time who it is, see tls.h.  TCP sockets get TCP_NODELAY and keepalive;
 * all are close-on-exec, and counted with AcquireExternalFD().
 */
extern SlateLinkStatus slate_link_open(SlateLink *link,
									   const SlateAddress *address,
									   const SlateAddressList *known,
									   int64 deadline, SlateWait wait);

/* Close; harmless on a closed link. */
extern void slate_link_close(SlateLink *link);

/*
 * Is there a connection that was left in order?  Does not look at the socket.
 */
extern bool slate_link_is_open(const SlateLink *link);

/*
 * Of a link that is open: is there nothing wrong in sight?  An idle connection on
 * which anything can be read (the server's end of file above all; by TLS also
 * what is no data, such as new keys) is not usable.  Does not block; closes the
 * connection when the answer is no.
 */
extern bool slate_link_usable(SlateLink *link);

/*
 * Begin an exchange: send what the socket takes at once.  For who has exchanges
 * with several servers to make, so that all are at it.  The same bytes are to be
 * exchanged next; then is_ahead is true, and with any others the connection is
 * good for nothing any more.  Whoever does not come to it closes the link.  By
 * TLS does nothing.
 */
extern void slate_link_send_ahead(SlateLink *link, const char *bytes,
								  size_t len);
extern bool slate_link_is_ahead(const SlateLink *link, const char *bytes,
								size_t len);

/*
 * On a link that is open, or ahead with these bytes: send them, and read nreplies
 * replies, interleaved, so that neither side's full buffer can stop the other.
 * Any status but LINK_OK closes the connection.  An error reply (-ERR ...) is a
 * reply: LINK_OK.  Replies that came before a failure have been handed over (a
 * server that turns a client away says why before it hangs up).  expected may be
 * NULL.
 */
extern SlateLinkStatus slate_link_exchange(SlateLink *link,
										   const char *bytes, size_t len,
										   int nreplies,
										   SlateExpected *expected,
										   SlateReplyFn reply_fn, void *arg,
										   int64 deadline, SlateWait wait);

/* Is it an error reply that begins so? */
extern bool slate_link_is_error(const redisReply *reply, const char *code);

/*
 * The value of a line "name:value" in an answer to INFO or the like, which ends
 * with \r\n or there; NULL if there is none.
 */
extern const char *slate_link_info_value(const char *info, const char *name,
										 size_t *len);

/*
 * The words of an error reply, for a log: its first line, of which only
 * printable ASCII passes.  None but those before the first of the bytes of
 * until, if that is not NULL.
 */
extern void slate_link_words(char *words, size_t size,
							 const redisReply *reply, const char *until);

#endif							/* SLATE_LINK_H */
