/*-------------------------------------------------------------------------
 *
 * sentinel.h
 *	  Which server is the master now: what Redis Sentinels say.
 *
 * Nothing here throws, except where the caller asks for interruptible waits
 * (see link.h).  Only slate_sentinel_ask() exchanges anything with a sentinel;
 * the others look at what is noted in memory, and may be called after a
 * commit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_SENTINEL_H
#define SLATE_SENTINEL_H

#include "link.h"

#define SLATE_MAX_SENTINELS 8
#define SLATE_SENTINEL_PORT 26379

/* Whom to ask, and for what.  Zeroed before it is filled in: it is hashed. */
typedef struct SlateSentinels
{
	int			count;			/* 0: there is no Sentinel */
	SlateAddress address[SLATE_MAX_SENTINELS];
	char		master[128];	/* the name they know the master by */
} SlateSentinels;

typedef struct SlateMaster
{
	SlateAddress address;
	uint64		changes;		/* see slate_sentinel_changes() */
} SlateMaster;

extern Size slate_sentinel_shmem_size(void);
extern void slate_sentinel_shmem_startup(void); /* holds AddinShmemInitLock */

/*
 * From now on the others are about these sentinels, which must stay where they
 * are.  To be called first.
 */
extern void slate_sentinel_choose(const SlateSentinels *sentinels);

/* What is known of the master, by whomever it was asked; false: nothing. */
extern bool slate_sentinel_known(SlateMaster *master);

/*
 * How often somebody has found that the master is another than before.  While
 * that stands still, so does the master, as far as is known.  Reading it is a
 * full memory barrier.
 */
extern uint64 slate_sentinel_changes(void);

/*
 * Should the caller ask before it relies on what is known?  So it is if no
 * sentinel has answered since distrusted_at, when the caller has seen
 * something that speaks against it (of slate_link_now(); 0: it has not); and
 * if the last answer is older than max_age ms, but then only for one caller a
 * second.
 */
extern bool slate_sentinel_should_ask(int64 distrusted_at, int64 max_age);

/* For how many ms no sentinel has answered anybody. */
extern int64 slate_sentinel_silence(void);

/*
 * Ask the sentinels in turn, beginning with the one that answered last, or, if
 * that is to be doubted (another), the one after it.  One whose knowledge is
 * older than what is known already does not count, unless most of them agree.
 * A sentinel that wants a password is given the user ("" for none) and the
 * password; they must stay valid.  On failure slate_sentinel_error() says what
 * each has answered.
 */
extern SlateLinkStatus slate_sentinel_ask(const char *user,
										  const char *password, bool another,
										  int64 deadline, SlateWait wait);
extern const char *slate_sentinel_error(void);

#endif							/* SLATE_SENTINEL_H */
