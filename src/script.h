/*-------------------------------------------------------------------------
 *
 * script.h
 *	  The cache protocol: what is said to Redis about a key, in Lua that runs
 *	  inside Redis, and nothing of it anywhere else.
 *
 * Encoders append commands to a batch; they palloc, so they belong before the
 * commit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_SCRIPT_H
#define SLATE_SCRIPT_H

#include "batch.h"
#include "keyname.h"

/* Comes before all else in this room; slate_script_prepare() does it, too. */
extern void slate_script_init(void);

/*
 * Make sure that there is a connection, and that its server has the scripts;
 * see slate_redis_prepare().
 */
extern SlateRedisStatus slate_script_prepare(int64 deadline, SlateWait wait);

/* SCRIPT LOAD of all scripts, as that server was last prepared. */
extern const SlateBatch *slate_script_loading(int node);

/*
 * For who makes a batch before that: in a Cluster that is not known yet, prepare.
 * A batch that was made for other nodes than there are when it is sent is not
 * sent (REDIS_UNREACHABLE).
 */
extern void slate_script_find_nodes(SlateWait wait);

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
 * SLATE_KEYS_PER_JOIN of them at most, if each may join the first (see call.h).
 * What Redis answers is about all of them.
 */
extern void slate_script_add_joined(SlateBatch *batch,
									const SlateCall *const *calls,
									const char *const *bytes, int ncalls);

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
 * slate_exchange_go_on().  What was PUT under the stamp's nonce stays, in the
 * first step, too, if that has been pushed already.
 */
extern void slate_script_add_drop_family(SlateBatch *batch,
										 const SlateStamp *stamp,
										 const char *family, int familylen,
										 const char *glob, int globlen,
										 bool is_pushed);

/*
 * For exchange.c: have the next step begin where the last one has ended, at a
 * cursor of so many digits at most (it has 64 bits).
 */
#define SLATE_STEP_CURSOR_LEN 20
extern void slate_script_next_step(SlateBatch *batch,
								   const SlateIndexDrop *drop,
								   const char *cursor);

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
 * One step over the members of an index, whose answer is as that of SCAN, but for
 * scores between the names; and one member less.
 */
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

/* Ask a Cluster's node how it sees the Cluster: slate_cluster_may_import(). */
extern void slate_script_add_cluster_nodes(SlateBatch *batch);

/*
 * Remove what the step of slate_script_add_scan_all() at this cursor finds that
 * a glob matches and that is too long for a key of ours.  Its name, which may
 * have 512 MB, is not sent.
 */
extern void slate_script_add_drop_long(SlateBatch *batch, const char *cursor,
									   int count, SlateSlice glob);

/*
 * Ask for leases, of a Redis with the stamp's epoch; of the stamp nothing else
 * counts.  The reply is an array with one pair a key, a number and a text.  In a
 * Cluster there is a reply for each key, an array of one.
 */
extern void slate_script_add_leases(SlateBatch *batch,
									const SlateStamp *stamp,
									const SlateSlice *keys, int nkeys);

/* Those numbers; lua.c has them, too. */
typedef enum SlateLeaseKind
{
	SLATE_LEASE_TOKEN = 0,
	SLATE_LEASE_VALUE = 1,		/* there is one after all */
	SLATE_LEASE_RETYPED = 2,	/* a token; something of another type than
								 * string was there and has been removed */
	SLATE_LEASE_NONE = 3,		/* there is none to be had; "" */
	SLATE_LEASE_STRANGE = 4		/* likewise: Redis has another epoch */
} SlateLeaseKind;

/* Such a pair: its number and its text.  What makes no sense is no lease. */
extern SlateLeaseKind slate_script_take_lease(const redisReply *pair,
											  const redisReply **text);

/* Is the text then a token? */
static inline bool
slate_script_is_leased(SlateLeaseKind kind)
{
	return kind == SLATE_LEASE_TOKEN || kind == SLATE_LEASE_RETYPED;
}

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

#endif							/* SLATE_SCRIPT_H */
