/*-------------------------------------------------------------------------
 *
 * service.h
 *	  Which Redis is asked for: slate_cache.url and slate_cache.password_file.
 *
 * Nothing here throws, connects, or uses palloc.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_SERVICE_H
#define SLATE_SERVICE_H

#include "url.h"

/*
 * Settings of this room, set by the module's GUCs.  slate_service_reconfigure()
 * must be called when one of them, or what a connection is made with besides,
 * has changed or is about to: it only makes a note, so that it may be called
 * from an assign hook.
 */
extern char *slate_service_url; /* slate_cache.url, valid by its check hook */
extern char *slate_service_password_file;	/* "" for none */
extern bool slate_service_is_servers;	/* the url is the configuration file's,
										 * not a session's, role's, database's */
extern void slate_service_reconfigure(void);

/*
 * Is there anything new to take up, or nothing taken up yet?  Then connections
 * are to be made anew.  Take it up: true if it asks for something else than
 * before, or for the first time.
 */
extern bool slate_service_is_new(void);
extern bool slate_service_take_up(void);

/* What was taken up last; all zeros if nothing has been. */
extern const SlateUrl *slate_service(void);

/*
 * A hash of what the url asks for, never 0: processes with the same key use the
 * same service.  It depends neither on credentials nor on which server is the
 * master at the moment.  This, and whether it is a Cluster, is about the url that
 * is set, even if nobody has taken it up yet.
 */
extern uint64 slate_service_key(void);
extern bool slate_service_is_cluster(void);

/*
 * The password to use, with its null byte: the first line of the file, if one is
 * set, or the url's.  False: the reason is there.
 */
#define SLATE_PASSWORD_SIZE sizeof(((SlateUrl *) NULL)->password)

extern bool slate_service_password(char *password, char *reason,
								   size_t reason_size);

/*
 * For people, without credentials: "unix:/path db 0", "host:6379 db 0",
 * "tls:host:6379 db 0", "[::1]:6379 db 0", "sentinel master mymaster at
 * host:6379 db 0", or "cluster of 3, host:6379".
 *
 * The address is that of the server; of a Cluster it is one of nmasters.  NULL:
 * none is known but those that the url has.
 */
#define SLATE_SERVICE_NAME_SIZE 512

extern void slate_service_write_name(char *name, const SlateAddress *address,
									 int nmasters);

#endif							/* SLATE_SERVICE_H */
