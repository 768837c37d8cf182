/*-------------------------------------------------------------------------
 *
 * redis.h
 *	  This backend's connections: to the server, the master, or each master.
 *
 * Runs batches of commands that are already encoded.  Nothing here throws,
 * except where the caller asks for interruptible waits (see link.h), and, for want
 * of memory, what makes a preamble for slate_redis_prepare().  After a
 * commit only slate_redis_run() may be called, with what sends ahead for it, and
 * what merely looks: slate_redis_server_clock() and slate_redis_clock_ahead(),
 * slate_redis_identity(), slate_redis_error(), slate_redis_refusal(), and
 * what tells of nodes and topology.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_REDIS_H
#define SLATE_REDIS_H

#include "peer.h"

/* Settings, set by the module's GUCs; service.h has the others. */
extern int	slate_redis_timeout;	/* ms, a whole exchange */
extern int	slate_redis_connect_timeout;	/* ms */
extern int	slate_redis_idle_timeout;	/* s; 0: never */

/*
 * Have a connection that nobody uses for slate_cache.idle_timeout closed: for
 * whoever has just ended the timers of the session, as every ERROR does.
 */
extern void slate_redis_watch_idle(void);

/* It is not idle while a commit is on its way, however long that waits. */
extern void slate_redis_hold(bool hold);

/*
 * Commands to be sent on each new connection to a node after AUTH and SELECT
 * (script loads); the bytes must stay valid until the connection is made.  An
 * error reply to one of them rejects the connection.
 */
typedef void (*SlatePreambleFn) (int which, SlatePreamble *preamble);
extern void slate_redis_set_preamble(SlatePreambleFn fn);

/*
 * For the launcher: want the names of the server, or of the sentinels and the
 * master, or of the Cluster's nodes, before somebody needs them; see names.h.
 */
extern void slate_redis_want_names(void);

/*
 * For workers: ask a sentinel which server is the master, or a node of the
 * Cluster which are, unless somebody has within the last half second; so call
 * it about that often.  Without those does nothing.  Waits interruptibly, half
 * a second at most.
 */
extern void slate_redis_refresh(void);

/*
 * The nodes of a Cluster: its masters that have slots, numbered from 0, as of
 * the last slate_redis_prepare().  Without a Cluster, and before one is known,
 * there is one node, 0.
 *
 * slate_redis_node_of() tells which has a key.  slate_redis_tag() is a hash tag
 * that makes a name the node's, "{7}"; "" without a Cluster.
 * slate_redis_topology() is another number, in this process, whenever the
 * numbers of nodes may mean others; 0 where there is no Cluster, or none is
 * known.  That is what batches go by; slate_service_is_cluster() is about the
 * url that is set, which the next slate_redis_prepare() takes up.
 */
extern int	slate_redis_nodes(void);
extern int	slate_redis_node_of(const char *key, int keylen);
extern const char *slate_redis_tag(int which);
extern uint64 slate_redis_topology(void);

/* Is it still that one?  If not, slate_redis_error() says so. */
extern bool slate_redis_has_topology(uint64 number);

/*
 * Make sure that there is a usable connection to each node: reuse, or connect
 * and shake hands, within min(connect_timeout, deadline).  With sentinels, the
 * connection is to what they last said is the master; they are asked here, and
 * only here, if no worker has done it.  For use before a commit and in reads.
 * While the breaker is open returns REDIS_RESTING at once, unless it is this
 * backend's turn to probe.  A probe is over when slate_redis_run() has
 * succeeded or something has failed; a backend that does neither gives its
 * turn away after a time.
 *
 * The connection is good for one exchange soon: what comes later should
 * prepare again, which costs one poll(2).
 */
extern SlateRedisStatus slate_redis_prepare(int64 deadline, SlateWait wait);

/*
 * Run a batch on the prepared connection to a node.  Never connects: without a
 * usable connection the status is REDIS_UNREACHABLE.  A timeout opens the
 * breaker, and so does an answer that is none; success closes it.  A connection
 * that breaks does not, unless it is open: whoever connects next finds out.  A
 * deadline that is over already is nobody's failure: REDIS_TIMEOUT, with nothing
 * sent but ahead.
 *
 * With sentinels or a Cluster, REDIS_DONE also means that when all replies had
 * come, no process of ours had heard of another master.  After a READONLY among
 * the replies, also within an array, the connections are gone; so they are after
 * a MOVED or CLUSTERDOWN.
 *
 * If expected is given, and met, no reply was handed over; see link.h.
 */
extern SlateRedisStatus slate_redis_run(int which,
										const char *bytes, size_t len,
										int nreplies,
										SlateExpected *expected,
										SlateReplyFn reply_fn, void *arg,
										int64 deadline, SlateWait wait);

/*
 * Send to a node what is to be run there next, the same bytes, so that several
 * nodes are at it at the same time.  Whoever does not come to run it gives up.
 */
extern void slate_redis_send_ahead(int which, const char *bytes, size_t len,
								   int64 deadline);
extern void slate_redis_give_up_ahead(void);

/*
 * The server's clock now, in ms since the epoch, as far as its last TIME
 * tells: never ahead of the server, unless that has set its clock back since.
 * slate_redis_prepare() asks anew after a minute; in between the estimate
 * falls behind by a thousandth, which is more than two clocks drift apart.  0
 * when there is no connection.
 */
extern int64 slate_redis_server_clock(void);

/*
 * That is node 0's clock in a Cluster: how far is another node's ahead of it, in
 * ms?  0 if it is not known.
 */
extern int64 slate_redis_clock_ahead(int which);

/*
 * Which Redis the open connection goes to: a hash of its run_id, which each
 * start of a Redis chooses anew, and, if it was once promoted from a replica,
 * of the offset at which that was: as a replica it has taken over another's
 * data.  Never 0, unless there is no connection, or an exchange on it is under
 * way.  slate_redis_prepare() learns it anew each minute, in a worker each second,
 * since somebody may make the server a replica, and promote it again.  Each
 * database of a server has another one.  Of a Cluster: of all its nodes, and of
 * who has which slots.
 */
extern uint64 slate_redis_identity(void);

/*
 * Which connection of this process it is, from 1; 0 if there is none.  What
 * was agreed on one with the server ends with it.
 */
extern uint64 slate_redis_connection(void);

/*
 * What the last failure was: server and reason, never a password.  If it was
 * that the breaker is open, with the reason that others met.  Valid until the
 * next call into this room.
 */
extern const char *slate_redis_error(void);

/*
 * The last error reply since slate_redis_forget_refusal(), without a line's end;
 * "" if there was none.  NOSCRIPT is none: what misses a script is sent again.
 */
extern const char *slate_redis_refusal(void);
extern void slate_redis_forget_refusal(void);

/*
 * See slate_service_write_name(): the server of the last slate_redis_prepare(),
 * or, before the first, the one it will try.
 */
extern const char *slate_redis_server_name(void);

/*
 * For how many ms no sentinel has answered anybody; 0 without sentinels.  After a
 * slate_redis_prepare().
 */
extern int64 slate_redis_sentinels_silence(void);

/*
 * For workers.  From now on, until this process ends, it asks each second what
 * the server is, see slate_redis_identity(), and is the one that tries
 * again for all that use its url: it calls slate_redis_next_try(), waits for
 * so many ms (0: no longer; the breaker is closed, or a try is due), and has
 * slate_redis_prepare() and slate_redis_run() succeed or fail.  Backends try
 * only when it has let a second and both timeouts pass.  There may be several.
 */
extern void slate_redis_become_prober(void);
extern int64 slate_redis_next_try(void);

#endif							/* SLATE_REDIS_H */
