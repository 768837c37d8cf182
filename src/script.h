/*-------------------------------------------------------------------------
 *
 * script.h
 *	  The cache protocol: what is said to Redis about a key, in Lua that runs
 *	  inside Redis, and nothing of it anywhere else.
 *
 * Encoders append commands to a batch; they palloc, so they belong before the
 * commit.  Runners send a batch and read the replies; they neither throw nor
 * palloc, unless the wait is interruptible (see link.h).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_SCRIPT_H
#define SLATE_SCRIPT_H

#include "lib/stringinfo.h"
#include "port/atomics.h"
#include "redis.h"
#include "template.h"

/*
 * A version: timeline and WAL position as decimal digits of fixed width, so
 * that the order of the texts is the order of the versions in any collation.
 */
#define SLATE_VERSION_LEN 30

/* A nonce, or the token of a lease: 16 hexadecimal digits. */
#define SLATE_TOKEN_LEN 16

/* A mark: eight digits of owner, and the nonce of a transaction. */
#define SLATE_MARK_LEN (8 + SLATE_TOKEN_LEN)

/* An epoch: ten digits of timeline, 16 hexadecimal digits; see trust.h. */
#define SLATE_EPOCH_LEN 26

/*
 * Numbers of fixed width, with leading zeros, and no zero byte behind: commits
 * write some dozens of them, and formats are slow.
 */
extern char *slate_script_put_digits(char *to, uint64 number, int width);
extern char *slate_script_put_hex(char *to, uint64 number, int width);

/* The family of keys that were set by hand and belong to no other. */
#define SLATE_LOOSE_FAMILY "*"

/* Keys of guards and indexes start so; nobody else's should. */
#define SLATE_INTERNAL_PREFIX "slate_cache:"

extern bool slate_script_is_internal(const char *name, int len);

/* The key that a name in Redis is about, a guard's its own; false: of none. */
extern bool slate_script_find_key(const char *name, int len, SlateSlice *key);

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

/* A part of a batch that is one exchange with Redis. */
typedef struct SlateCut
{
	int			end;			/* offset of its last byte plus one */
	int			ncommands;		/* up to there */
} SlateCut;

/* A call that pushes: where its parts are in a batch's bytes. */
typedef struct SlateCall
{
	int			nkeys;			/* 0: there is none */
	int			keys_at;		/* the keys */
	int			common_at;		/* what is the same for all of them */
	int			head_at;		/* in that, the text with the deadline */
	int			pushes_at;		/* what is said of each key */
	int			end;
} SlateCall;

/*
 * A call that drops what an index knows, a step of it: where it is in a batch's
 * bytes, and how far it has come.
 */
typedef struct SlateIndexDrop
{
	int			number;			/* of the command, as its reply has it */
	int			nth;			/* the same, in the bytes */
	int			start;
	int			end;
	int			step_at;		/* what is new with each step */
	char		own[SLATE_TOKEN_LEN + 1];	/* nonce of what is to stay */
	bool		more;			/* there is more to be dropped */
	int64		seen;			/* members that it has looked at, about */
	int64		members;		/* that there are */
} SlateIndexDrop;

/*
 * Commands that wait to be sent: to one node, or to those of a Cluster.  Then it
 * has a part for each of them, and no bytes of its own; its commands are
 * numbered as they were added, and so are the replies, which may come in any
 * order between nodes.
 */
typedef struct SlateBatch
{
	StringInfoData bytes;
	int			node;			/* where they go */
	int			nparts;			/* 0: there are none */
	struct SlateBatch *parts;
	uint64		topology;		/* by which they were parted */
	int		   *numbers;		/* of a part: of its commands */
	int			maxnumbers;
	SlateCall	call;			/* the last one that pushes */
	int			ncommands;
	int			npushes;		/* of these, what a mark counts */
	int			nkeys;			/* since the last cut */
	int			ncuts;			/* of a batch that is too large for one */
	int			maxcuts;
	SlateCut   *cuts;
	int			ndrops;			/* from indexes, perhaps in several steps */
	int			maxdrops;
	SlateIndexDrop *drops;
} SlateBatch;

/* What became of a batch of pushes. */
typedef struct SlateOutcome
{
	int64		stored;			/* values set */
	int64		dropped;		/* DROPs done, PUTs that became one included */
	int64		outdated;		/* PUTs for which a newer one was there */
	bool		strange;		/* Redis has another epoch: no value was set */
	int64		unfinished;		/* calls of which more is left to be done */
	int64		refused;		/* commands answered by an error */
	char		error[192];		/* the first of those errors */
} SlateOutcome;

/* Settings of this room: how long a guard lives, in seconds. */
extern int	slate_script_guard_life;

/* Comes before all else in this room; slate_script_prepare() does it, too. */
extern void slate_script_init(void);

/*
 * Make sure that there is a connection, and that its server has the scripts;
 * see slate_redis_prepare().
 */
extern SlateRedisStatus slate_script_prepare(int64 deadline, SlateWait wait);

/*
 * For who makes a batch before that: in a Cluster that is not known yet, prepare.
 * A batch that was made for other nodes than there are when it is sent is not
 * sent (REDIS_UNREACHABLE).
 */
extern void slate_script_find_nodes(SlateWait wait);

/* The stamp of changes made now; only on a primary.  Without an epoch. */
extern void slate_script_stamp(SlateStamp *stamp);

/*
 * Without a connection: by the server's clock (ms) as somebody else knows it;
 * 0 for not at all: then it is over already.
 */
extern void slate_script_set_deadline(SlateStamp *stamp, int64 clock);

/* Give it a mark, for mode strict; after its owner and nonce. */
extern void slate_script_make_mark(SlateStamp *stamp);

/* Make it one of this database. */
extern void slate_script_own(SlateStamp *stamp);

/* Take version, owner and mark from it: what is sent only removes. */
extern void slate_script_disown(SlateStamp *stamp);

/* Another nonce for what is sent under a stamp that was sent before. */
extern void slate_script_refresh_nonce(SlateStamp *stamp);

/*
 * One for whatever nodes there are, or for a single one, which may become that
 * for another; empty one, which keeps its memory, or free that.  How many bytes
 * has it?
 */
extern void slate_script_batch_init(SlateBatch *batch);
extern void slate_script_batch_init_for(SlateBatch *batch, int node);
extern void slate_script_batch_aim(SlateBatch *batch, int node);
extern void slate_script_batch_reset(SlateBatch *batch);
extern void slate_script_batch_free(SlateBatch *batch);
extern int	slate_script_batch_size(const SlateBatch *batch);

/* Does it take several exchanges with one node? */
extern bool slate_script_batch_is_long(const SlateBatch *batch);

/*
 * PUTs and DROPs of many keys, in as few calls as is good for Redis: so many keys
 * are for one.
 */
#define SLATE_KEYS_PER_CALL 128
extern void slate_script_add_pushes(SlateBatch *batch,
									const SlateStamp *stamp,
									const SlatePush *pushes, int npushes);

/*
 * Make room for slate_script_add_pushes() of these, so that it does not palloc;
 * for one call at most.
 */
extern void slate_script_reserve(SlateBatch *batch, const SlatePush *pushes,
								 int npushes);

/*
 * Calls of several transactions as one: with keys of which none comes twice,
 * SLATE_KEYS_PER_JOIN of them at most, if each may join the first.  What Redis answers
 * is about all of them.
 */
#define SLATE_KEYS_PER_JOIN 128
extern bool slate_script_may_join(const SlateCall *a, const char *a_bytes,
								  const SlateCall *b, const char *b_bytes);
extern void slate_script_add_joined(SlateBatch *batch,
									const SlateCall *const *calls,
									const char *const *bytes, int ncalls);

/* The keys of a call, one by one; *offset is 0 at first. */
extern SlateSlice slate_script_next_key(const SlateCall *call,
										const char *bytes, int *offset);

/* One push of a call after the other; zeroes at first. */
typedef struct SlateCallPush
{
	SlateSlice	key;
	const char *guard;			/* SLATE_GUARD_LEN bytes */
	SlateSlice	expiry;			/* of that; ms, by the server's clock */
	SlateSlice	ttl;			/* ms; "0": none; "-": it is a DROP */
	SlateSlice	value;
	int			key_at;			/* where the next one begins */
	int			at;
} SlateCallPush;

extern void slate_script_next_push(const SlateCall *call, const char *bytes,
								   SlateCallPush *push);

/* Is it for this epoch, and without marks?  Is its deadline later than this? */
extern bool slate_script_is_for_epoch(const SlateCall *call,
									  const char *bytes, const char *epoch);
extern bool slate_script_is_in_time(const SlateCall *call, const char *bytes,
									int64 clock);

/*
 * For who pushes without the script: a key's guard as a push would have it
 * (SLATE_GUARD_LEN bytes), when that expires (ms, by the server's clock; 0: it
 * is not known), and its name.
 */
#define SLATE_GUARD_LEN (SLATE_VERSION_LEN + 8 + SLATE_TOKEN_LEN + 8 + 13)
extern char *slate_script_put_guard(char *at, const SlateStamp *stamp,
									const SlatePush *push);
extern int64 slate_script_guard_expiry(const SlateStamp *stamp);
extern void slate_script_add_guard_key(SlateBatch *batch,
									   const char *key, int keylen);

/*
 * Register keys in their families' indexes, for ttl ms at least (0: for good);
 * puts them into another order.  stamp is that of the push that they belong to,
 * NULL for a reader.
 */
typedef struct SlateMember
{
	SlateSlice	family;			/* first, for slate_slice_compare() */
	SlateSlice	key;
	int64		ttl;
} SlateMember;

extern void slate_script_add_registrations(SlateBatch *batch,
										   const SlateStamp *stamp,
										   SlateMember *members,
										   int nmembers);

/*
 * Note that globs of this version were dropped, by the literal texts that they
 * begin with; goes before all else that drops them.  Older PUTs under such a
 * text that come later will be DROPs.
 */
extern void slate_script_add_floor(SlateBatch *batch, const SlateStamp *stamp,
								   const SlateSlice *prefixes, int nprefixes);

/*
 * Have pushes done quickly for the next eighth of a guard's life: what they
 * need to know of the time is told ahead.
 */
extern void slate_script_add_tick(SlateBatch *batch);

/*
 * DROP the keys of a family's index that the glob matches: the first step, see
 * slate_script_go_on().  What was PUT under the stamp's nonce stays, in the
 * first step, too, if that has been pushed already.
 */
extern void slate_script_add_drop_family(SlateBatch *batch,
										 const SlateStamp *stamp,
										 const char *family, int familylen,
										 const char *glob, int globlen,
										 bool is_pushed);

/*
 * Plain SET and GET of a key of our own, by its name without a Cluster; each
 * node has one, so there are as many replies, one after the other.
 */
extern void slate_script_add_note(SlateBatch *batch, const char *name,
								  const char *value);
extern void slate_script_add_get_note(SlateBatch *batch, const char *name);

/*
 * Begin an epoch, and note a WAL position, if the one that is there is the one
 * that should be; otherwise the outcome is strange.
 */
extern void slate_script_add_epoch(SlateBatch *batch, const char *key,
								   const char *from, const char *to,
								   const char *wal_key, const char *wal);

/* Plain reads: GET, MGET.  The latter not in a Cluster. */
extern void slate_script_add_get(SlateBatch *batch,
								 const char *key, int keylen);
extern void slate_script_add_mget(SlateBatch *batch,
								  const SlateSlice *keys, int nkeys);

/* PTTL: -2 where there is no such key. */
extern void slate_script_add_ttl(SlateBatch *batch,
								 const char *key, int keylen);

/* GET of a key's guard: the same bytes while nothing is pushed, nor filled. */
extern void slate_script_add_get_guard(SlateBatch *batch,
									   const char *key, int keylen);

/*
 * One step of SCAN for the keys that a glob matches, or for all in portions of
 * about a number; the cursor "0" begins.
 */
extern void slate_script_add_scan(SlateBatch *batch, const char *cursor,
								  const char *glob, int globlen);
extern void slate_script_add_scan_all(SlateBatch *batch, const char *cursor,
									  int count);

/*
 * Of a Cluster's master: a glob for the indexes that it has, and what the name of
 * one says: the tag of the node that it belongs to, and the family.  One step over
 * the members, whose answer is as that of SCAN, but for scores between the names;
 * and one less.
 */
#define SLATE_INDEX_GLOB SLATE_INTERNAL_PREFIX "{*}index:{*"

extern bool slate_script_is_index(SlateSlice name, SlateSlice *tag,
								  SlateSlice *family);
extern void slate_script_add_members(SlateBatch *batch, SlateSlice index,
									 const char *cursor);
extern void slate_script_add_remove(SlateBatch *batch, SlateSlice index,
									SlateSlice member);

/*
 * The names in SCAN's answer, an array, and where the next step begins; "0":
 * nowhere.  NULL if it is no such answer; then the cursor stays.
 */
#define SLATE_CURSOR_SIZE 24

extern const redisReply *slate_script_take_scan(const redisReply *reply,
												char cursor[SLATE_CURSOR_SIZE]);

/*
 * DROP keys that a SCAN has found: each with the stamp of its glob, all of one
 * owner; "only one" says that all globs that match it are of one transaction,
 * what that has PUT stays.  To forget them is to DROP them without a version.
 * Keys and stamps are appended one by one before; 24 bytes more than their
 * text are enough for each.  Nothing is palloc'ed if there is room.
 */
#define SLATE_SWEPT_STAMP_LEN (SLATE_VERSION_LEN + SLATE_TOKEN_LEN + 1)

extern void slate_script_append_swept_key(StringInfo keys, SlateSlice key);
extern void slate_script_append_swept_stamp(StringInfo stamps,
											const SlateStamp *stamp,
											bool is_only_one);
extern void slate_script_add_drop_swept(SlateBatch *batch, StringInfo keys,
										int nkeys, StringInfo stamps,
										const char *owner);
extern void slate_script_add_forget(SlateBatch *batch, StringInfo keys,
									int nkeys);

/*
 * Remove what the step of slate_script_add_scan_all() at this cursor finds that
 * a glob matches and that is too long for a key of ours.  Its name, which may
 * have 512 MB, is not sent.
 */
extern void slate_script_add_drop_long(SlateBatch *batch, const char *cursor,
									   int count, SlateSlice glob);

/*
 * Ask for leases, of a Redis with the stamp's epoch; of the stamp nothing else
 * counts.  The reply is an array with one pair a key: (1, value) when there is
 * a value after all, (0, token), or (2, token) when something of another type
 * than string was there and has been removed; (3, "") when there is no lease
 * to be had.  In a Cluster there is a reply for each key, an array of one.
 */
extern void slate_script_add_leases(SlateBatch *batch,
									const SlateStamp *stamp,
									const SlateSlice *keys, int nkeys);

/*
 * MARK keys, or all keys that begin with certain texts, for transaction xid:
 * values go, leases are void, and until the release nobody sets any.  The
 * outcome is strange if the epoch is not the stamp's; the marks stand
 * nevertheless.
 */
extern void slate_script_add_marks(SlateBatch *batch, const SlateStamp *stamp,
								   uint64 xid,
								   const SlateSlice *keys, int nkeys);
extern void slate_script_add_mark_beginnings(SlateBatch *batch,
											 const SlateStamp *stamp,
											 uint64 xid,
											 const SlateSlice *beginnings,
											 int nbeginnings);

/*
 * Take away all marks of a transaction: in any case, or if the pushes under its
 * stamp that the batch has so far have succeeded.
 */
extern void slate_script_add_release(SlateBatch *batch, const char *mark,
									 bool in_any_case);

/* HGETALL of an owner's marks: ids and transactions, and counts ("id+"). */
extern void slate_script_add_get_marks(SlateBatch *batch,
									   const SlateStamp *stamp);

/* FILL one key under a lease; the reply is 1 if the value was set. */
extern void slate_script_add_fill(SlateBatch *batch,
								  const char *key, int keylen,
								  const char *token,
								  const char *value, int valuelen,
								  int64 ttl);

/*
 * A reader's DROP of something that cannot be a value of ours.  It removes and
 * changes the nonce, but has no version: a reader's would prove nothing.
 */
extern void slate_script_add_drop(SlateBatch *batch,
								  const char *key, int keylen);

/*
 * Send a batch and hand on the replies.  If Redis has forgotten the scripts
 * they are loaded again, and what it has not done is sent once more.
 * Server errors other than NOSCRIPT are handed on.
 */
extern SlateRedisStatus slate_script_run(const SlateBatch *batch,
										 SlateReplyFn reply_fn, void *arg,
										 int64 deadline, SlateWait wait);

/*
 * Was what was refused refused for want of memory?  Then values were removed
 * all the same, by those scripts that found some.
 */
extern bool slate_script_is_out_of_memory(const SlateOutcome *outcome);

/* Add what one push has answered; add an outcome to slate_cache.stats. */
extern void slate_script_take_reply(SlateOutcome *outcome,
									const redisReply *reply);
extern void slate_script_count_outcome(const SlateOutcome *outcome);

/*
 * The same for pushes: adds up what became of them.  A batch of more than a
 * thousand or so keys takes several exchanges, each of which must be over
 * within timeout ms, the first one by the deadline; the first failure ends it.
 */
extern SlateRedisStatus slate_script_publish(SlateBatch *batch,
											 SlateOutcome *outcome,
											 int64 deadline, int timeout,
											 SlateWait wait);

/*
 * A family may have many thousand members, and each call drops about a thousand
 * at most.  How many are left of those that the batch is to drop, about?  0:
 * none.  The next step of one of them, on the same connection, or on another to
 * the same server; adds to the outcome.
 */
extern int64 slate_script_members_left(const SlateBatch *batch);
extern SlateRedisStatus slate_script_go_on(SlateBatch *batch,
										   SlateOutcome *outcome,
										   int64 deadline, SlateWait wait);

#endif							/* SLATE_SCRIPT_H */
