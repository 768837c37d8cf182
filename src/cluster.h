/*-------------------------------------------------------------------------
 *
 * cluster.h
 *	  Which master of a Redis Cluster has which keys: what its nodes say.
 *
 * Nothing here throws, except where the caller asks for interruptible waits
 * (see link.h).  Only slate_cluster_ask() exchanges anything with a node; the
 * others look at what is noted in memory, and may be called after a commit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_CLUSTER_H
#define SLATE_CLUSTER_H

#include "link.h"

/* Masters that have slots; nodes that a url may name; slots of each Cluster. */
#define SLATE_MAX_NODES 32
#define SLATE_MAX_SEEDS 8
#define SLATE_NSLOTS 16384

/* Whom to ask.  Zeroed before it is filled in: it is hashed. */
typedef struct SlateSeeds
{
	int			count;			/* 0: it is no Cluster */
	SlateAddress address[SLATE_MAX_SEEDS];
} SlateSeeds;

/*
 * A hash tag, "{123}", of a slot that the node has; "" without a Cluster.  Of
 * some slots there is none with less than six digits.
 */
#define SLATE_TAG_SIZE 9

typedef struct SlateClusterNode
{
	SlateAddress address;
	char		tag[SLATE_TAG_SIZE];
} SlateClusterNode;

/*
 * The masters that have slots, in the order of the first slot of each.  The
 * same texts and numbers in all processes of a server that know of the same
 * changes.
 */
typedef struct SlateTopology
{
	uint64		hash;			/* of ids, addresses and slots; never 0 */
	uint64		changes;		/* see slate_cluster_changes() */
	int			count;
	SlateClusterNode node[SLATE_MAX_NODES];
	uint8		owner[SLATE_NSLOTS];	/* an index of node[] */
} SlateTopology;

/* The slot of a key: of its hash tag, if it has one. */
extern int	slate_cluster_slot(const char *key, int keylen);

/*
 * Of a node's answer to CLUSTER NODES: may it be importing that slot?  Yes, if
 * it is no answer.
 */
extern bool slate_cluster_may_import(const redisReply *reply, int slot);

extern Size slate_cluster_shmem_size(void);
extern void slate_cluster_shmem_startup(void);	/* holds AddinShmemInitLock */

/*
 * From now on the others are about the Cluster that these belong to; they must
 * stay where they are.  To be called first.
 */
extern void slate_cluster_choose(const SlateSeeds *seeds);

/* What is known of it, by whomever it was asked; false: nothing. */
extern bool slate_cluster_known(SlateTopology *topology);

/*
 * How often somebody has found another topology than before.  While that stands
 * still, so does the topology, as far as is known.  Reading it is a full memory
 * barrier.
 */
extern uint64 slate_cluster_changes(void);

/*
 * Should the caller ask before it relies on what is known?  As
 * slate_sentinel_should_ask().
 */
extern bool slate_cluster_should_ask(int64 distrusted_at, int64 max_age);

/*
 * Ask nodes in turn, those that are known and the seeds, beginning with the one
 * that answered last, or, if that is to be doubted (another), the one after it.
 * One whose knowledge is older than what is known already does not count,
 * unless most of them agree; nor does one whose slots are not all served.  A
 * node that wants a password is given the user ("" for none) and the password;
 * they must stay valid.  On failure slate_cluster_error() says what each has
 * answered.
 */
extern SlateLinkStatus slate_cluster_ask(const char *user,
										 const char *password, bool another,
										 int64 deadline, SlateWait wait);
extern const char *slate_cluster_error(void);

#endif							/* SLATE_CLUSTER_H */
