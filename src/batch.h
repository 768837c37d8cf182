/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  Commands that wait to be sent.
 *
 * To one server, or to those of a Cluster.  What they say script.c knows, and how
 * that is written encode.h; exchange.c sends them.  Whatever makes one larger may
 * palloc.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_BATCH_H
#define SLATE_BATCH_H

#include "lib/stringinfo.h"
#include "redis.h"
#include "stamp.h"

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

/* An empty one, for whatever nodes there are; for one of them alone. */
extern void slate_batch_init(SlateBatch *batch);
extern void slate_batch_init_for(SlateBatch *batch, int node);

/* Have one that is for one node alone, and empty, be for another. */
extern void slate_batch_aim(SlateBatch *batch, int node);

/* Empty it, and keep its memory; free that. */
extern void slate_batch_reset(SlateBatch *batch);
extern void slate_batch_free(SlateBatch *batch);

/* How many bytes are waiting. */
extern int	slate_batch_size(const SlateBatch *batch);

/* Does it take several exchanges with one node? */
extern bool slate_batch_is_long(const SlateBatch *batch);

/* Where to append the next command: for a node, or for the one that has a key. */
extern SlateBatch *slate_batch_for_node(SlateBatch *batch, int node);
extern SlateBatch *slate_batch_for_key(SlateBatch *batch,
									   const char *key, int keylen);

/* For who tells each node: how many there are. */
extern int	slate_batch_count_nodes(const SlateBatch *batch);

/* A call with so many keys was added: is the exchange full? */
extern void slate_batch_count_keys(SlateBatch *batch, int nkeys);

/* Begin a call that drops what an index knows, behind what goes to a node. */
extern SlateIndexDrop *slate_batch_add_index_drop(SlateBatch *batch);

#endif							/* SLATE_BATCH_H */
