/*-------------------------------------------------------------------------
 *
 * walk.h
 *	  All keys of a table, batch by batch: for what looks after the whole cache
 *	  of a table.
 *
 * Everything here may throw, and belongs into a transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_WALK_H
#define SLATE_WALK_H

#include "batch.h"
#include "rules.h"

/* About so many bytes of values are taken together. */
#define SLATE_WALK_BYTES (1024 * 1024)

typedef struct SlateWalk SlateWalk;

/*
 * What is done with the keys of a batch, all different, in a memory context
 * that is emptied after it.  Returns the bytes of values that it had.
 */
typedef Size (*SlateWalkFn) (SlateWalk *walk, SlateSlice *keys, int nkeys);

/* To be zeroed, but for what is set before slate_walk_begin(). */
struct SlateWalk
{
	SlateWalkFn fn;				/* to be set */
	bool		fills;			/* to be set: fn fills keys */
	SlateRelation *rules;		/* bound; the table is locked */

	/* private to walk.c */
	const char *from;			/* the table as FROM has it */
	int			batch_size;
	MemoryContext batch;		/* what fn uses */
	MemoryContext queue;		/* the keys that wait */
	int			nkeys;
	int			maxkeys;
	SlateSlice *keys;
};

/*
 * ERROR in a transaction for which the tables are not what others see: in
 * REPEATABLE READ and the like, or if it has changed something.
 */
extern void slate_walk_check_transaction(const char *function);

/*
 * Lock a table until the end of the transaction.  ERROR if there is none
 * (InvalidOid), if the user may not see all of its rows, or if it has no rules
 * of its own.
 */
extern void slate_walk_begin(SlateWalk *walk, Oid relid);

/* Does the rule give keys with values? */
extern bool slate_walk_has_values(const SlateRule *rule);

/* All keys that one such rule gives for the table's rows. */
extern void slate_walk_rule(SlateWalk *walk, SlateRule *rule);

/* All keys of so many rows, chosen at random. */
extern void slate_walk_sample(SlateWalk *walk, int nrows);

/*
 * What Redis has under the text that all of the table's keys begin with; keys
 * of others, too, and one may come twice.
 */
extern void slate_walk_redis(SlateWalk *walk);

/*
 * Is the key one that this table's rules may know?  Not if it may also be
 * another table's of which the user sees only some rows: what we load is not
 * what others load.  Nor, if it is to be filled, if nobody would keep it
 * right.
 */
extern bool slate_walk_owns(const SlateWalk *walk, SlateSlice key);

/* So many bytes were seen elsewhere than in fn. */
extern void slate_walk_adapt(SlateWalk *walk, Size bytes);

/* Wait so many ms; may be interrupted. */
extern void slate_walk_wait(int64 ms);

/*
 * Run a batch; nothing if it is empty.  ERROR if Redis is away, is not
 * trusted, or answers with an error, other than WRONGTYPE, which is handed on
 * like all replies, unless reply_fn is NULL.
 */
extern void slate_walk_exchange(const SlateBatch *batch,
								SlateReplyFn reply_fn, void *arg);

#endif							/* SLATE_WALK_H */
