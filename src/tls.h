/*-------------------------------------------------------------------------
 *
 * tls.h
 *	  TLS on a socket that is connected: bytes in and out, as by send(2) and
 *	  recv(2).
 *
 * Nothing here throws, or uses palloc; OpenSSL's memory is malloc's.  Nothing
 * waits but slate_tls_recv() where its caller says so, and then once, for as
 * long as the socket's own timeout.  A PostgreSQL that was built without
 * OpenSSL has none of it: slate_tls_start() says so then.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_TLS_H
#define SLATE_TLS_H

#include <sys/types.h>

/*
 * Settings of this room, set by the module's GUCs; paths of PEM files, and ""
 * for none.  After a change slate_tls_reconfigure() must be called, which only
 * makes a note, so that an assign hook may.
 */
extern char *slate_tls_ca_file; /* whom to trust; "": whom the system does */
extern char *slate_tls_cert_file;	/* our own certificate */
extern char *slate_tls_key_file;	/* its key; "": in the same file */
extern char *slate_tls_server_name; /* in the server's certificate; "": the
									 * url's host */
extern void slate_tls_reconfigure(void);

/* One connection's end; malloc'ed. */
typedef struct SlateTls SlateTls;

typedef enum SlateTlsStatus
{
	TLS_DONE,
	TLS_WANTS_READ,				/* call again when the socket can be read */
	TLS_WANTS_WRITE,			/* or written to */
	TLS_FAILED					/* see slate_tls_error() */
} SlateTlsStatus;

/*
 * Get ready for a handshake with host, whose certificate must have that name or
 * address, unless slate_cache.tls_server_name says another.  Reads the files
 * that the settings name, if that has not been done, or if TLS has failed since:
 * they may have been renewed.  NULL on failure.
 */
extern SlateTls *slate_tls_start(int fd, const char *host);

/* A step of the handshake. */
extern SlateTlsStatus slate_tls_shake_hands(SlateTls *tls);

/* Forget the connection, but leave the socket open; NULL is harmless. */
extern void slate_tls_end(SlateTls *tls);

/*
 * Like send(2) and recv(2): a number of bytes, 0 from the latter at the end, or
 * -1 with errno.  That is EAGAIN if nothing can be done now (also after
 * something that was no data), EINTR if a signal came, else EIO, and
 * slate_tls_error() says why.
 *
 * Send never waits.  After EAGAIN it must be called with the same bytes again,
 * or more behind them; they may have moved.  Recv waits unless flags are
 * MSG_DONTWAIT.
 */
extern ssize_t slate_tls_send(SlateTls *tls, const char *bytes, size_t len);
extern ssize_t slate_tls_recv(SlateTls *tls, char *buffer, size_t size,
							  int flags);

/* Has slate_tls_recv() something to write before it can go on? */
extern bool slate_tls_wants_write(const SlateTls *tls);

/* What the last failure was; for a log line. */
extern const char *slate_tls_error(void);

#endif							/* SLATE_TLS_H */
