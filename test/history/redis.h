/*-------------------------------------------------------------------------
 *
 * redis.h
 *	  Redis as an app sees it: one, or the masters of a Cluster.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REDIS_H
#define REDIS_H

#include <hiredis/hiredis.h>

#include "history.h"

/* The slots of a Cluster. */
#define NSLOTS 16384

/* The slot of a key: of its hash tag, if it has one. */
extern int	redis_slot(const char *key);

/*
 * The server that has a key, as far as we know, and an open connection to one;
 * -1, and NULL: not now.  Without a Cluster there is one.
 */
extern int	redis_server_of(const char *key);
extern redisContext *redis_connection(int server);

/* The connection has failed; what the server has may be another's by now. */
extern void redis_failed(int server);

/* Does a reply send us to another master? */
extern bool redis_is_redirection(const redisReply *reply);

/* Is it for want of a master that a key is not served? */
extern bool redis_is_down(const redisReply *reply);

/*
 * GET of a key; to where a redirection says, if there is one (or NULL), and on
 * from there.  NULL: a connection has failed, or they lead nowhere.
 */
extern redisReply *redis_get(const char *key, const char *redirection);

extern void redis_close_all(void);

#endif							/* REDIS_H */
