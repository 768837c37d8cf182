/*-------------------------------------------------------------------------
 *
 * doubt.h
 *	  Which committed transactions Redis may not have heard of.
 *
 * A transaction whose changes are in the journal enters before its row is
 * written and leaves when its outcome is known.  If Redis has not heard all of
 * it, it leaves its id behind, and the worker replays its rows.  So whatever a
 * generation of the journal holds is done with when nobody is in it and none
 * of its transactions is in doubt.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_DOUBT_H
#define SLATE_DOUBT_H

#include "database.h"

typedef enum SlateLeaving
{
	LEAVE_DELIVERED,			/* nothing is left to be done; or aborted */
	LEAVE_FAILED,				/* in doubt */
	LEAVE_UNSWEPT				/* in doubt for its patterns */
} SlateLeaving;

extern Size slate_doubt_shmem_size(void);
extern void slate_doubt_shmem_startup(void);	/* holds AddinShmemInitLock */

/* ------------------------------------------------------------------------
 * Backends
 * ------------------------------------------------------------------------
 */

/*
 * Enter the journal: returns the generation to write to, which stays until
 * slate_doubt_leave().  If it is full, and the transaction may do without a
 * row, *no_row tells that there is nothing to write; what then fails empties
 * the namespace.  Who is going to be prepared writes to
 * SLATE_PREPARED_GENERATION in any case.
 */
extern int	slate_doubt_enter(SlateDatabase *database, bool may_have_none,
							  bool *no_row);
extern void slate_doubt_enter_prepared(SlateDatabase *database);

/* Where this transaction has entered; NULL: nowhere. */
extern SlateDatabase *slate_doubt_entered(void);

/* In which generations its rows are, as bits; 0: it has none. */
extern uint32 slate_doubt_generations(void);

/* The rows are written, by this transaction. */
extern void slate_doubt_written(uint64 xid);

/*
 * Somebody else will end this transaction: it is in doubt until then.  Comes
 * before slate_doubt_leave(LEAVE_DELIVERED).
 */
extern void slate_doubt_prepared(void);

/*
 * In mode strict: from its marks until it has left, whether it is in the
 * journal or not, a transaction says that it is not done with.  These do not
 * throw.
 */
extern void slate_doubt_begin_marking(uint64 xid);
extern void slate_doubt_end_marking(void);

/*
 * Leave; false if this transaction has not entered, so that nobody remembers
 * it.  After a commit or an abort; does not throw.
 */
extern bool slate_doubt_leave(SlateLeaving kind);

/* ------------------------------------------------------------------------
 * The worker
 * ------------------------------------------------------------------------
 */

/* A transaction that was left to the worker is in doubt. */
extern void slate_doubt_add(SlateDatabase *database, SlateDoubtKind kind,
							uint64 xid, uint32 generations);

/* A worker begins: what its predecessor has known by itself is in doubt. */
extern void slate_doubt_take_over(SlateDatabase *database);

/* Take over what backends have left. */
extern void slate_doubt_collect(SlateDatabase *database);

/*
 * Look whether undecided transactions are decided, at the crowd every few
 * seconds.  How many of those with a place are not?  While there is a crowd, no
 * place is free.
 */
extern int	slate_doubt_decide(SlateDatabase *database);

/*
 * Begin a pass over what is in doubt, or go on with one that was not ended.
 * False if nothing is.  The sets stay as they are until the pass ends.
 */
extern bool slate_doubt_begin_pass(SlateDatabase *database);

/* The pass has met a row of a transaction that is still under way. */
extern void slate_doubt_add_undecided(SlateDatabase *database, uint64 xid,
									  int generation);

/* Everything that the pass was about has reached Redis. */
extern void slate_doubt_end_pass(SlateDatabase *database);

/* It has not: the pass begins anew, with what has come since. */
extern void slate_doubt_repeat_pass(SlateDatabase *database);

/* The extension is gone, and with it all that was in doubt. */
extern void slate_doubt_forget(SlateDatabase *database);

/* The database is gone, and with it what its backends have left. */
extern void slate_doubt_forget_database(Oid oid);

/*
 * Has it marks, and not left yet?  Who asks has seen before that it is not
 * under way any more, and looks afterwards whether it is in doubt.
 */
extern bool slate_doubt_is_marking(uint64 xid);

/* Is anybody in this generation, or in doubt that may have a row there? */
extern bool slate_doubt_uses(SlateDatabase *database, int generation);

/* ------------------------------------------------------------------------
 * Anybody who looks
 * ------------------------------------------------------------------------
 */

/* A copy of what is in doubt, waiting entries of backends included. */
typedef struct SlateDoubtCopy
{
	SlateRanges ranges[2 * SLATE_DOUBT_KINDS];	/* kind: position modulo 2 */
	SlateRanges left[SLATE_DOUBT_KINDS];	/* by backends */
	int			nundecided;
	SlateUndecided undecided[SLATE_MAX_UNDECIDED];
	SlateRange	crowd;
	bool		must_empty;		/* some rely on a row "everything" */
} SlateDoubtCopy;

extern void slate_doubt_copy(SlateDatabase *database, SlateDoubtCopy *copy);

extern bool slate_doubt_copy_contains(const SlateDoubtCopy *copy, uint64 xid);

/* May it be one of the crowd, if it is not decided? */
extern bool slate_doubt_copy_spans(const SlateDoubtCopy *copy, uint64 xid);

/* Is there anything but undecided transactions? */
extern bool slate_doubt_exists(SlateDatabase *database);

#endif							/* SLATE_DOUBT_H */
