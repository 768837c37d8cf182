/*-------------------------------------------------------------------------
 *
 * database.h
 *	  What the sessions of one database and its worker know in common.
 *
 * Shared memory has an entry for each database that uses slate_cache, made by
 * whoever needs it first, and given back when the database is gone.  There are
 * none without shared_preload_libraries.
 *
 * The fields belong to the rooms named beside them; here they are only kept.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_DATABASE_H
#define SLATE_DATABASE_H

#include "access/xlogdefs.h"
#include "breaker.h"
#include "progress.h"
#include "ranges.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

/* Databases that can have an entry.  Those beyond go without a journal. */
#define SLATE_MAX_DATABASES 64

/* Transactions not yet decided, see doubt.h. */
#define SLATE_MAX_UNDECIDED 256

/* Tables of the journal: two that take turns, and one for prepared
 * transactions. */
#define SLATE_GENERATIONS 3
#define SLATE_PREPARED_GENERATION 2

typedef struct SlateUndecided
{
	uint64		xid;
	uint32		generations;
} SlateUndecided;

/* What a transaction has left to be done; indexes of the sets of ranges. */
typedef enum SlateDoubtKind
{
	DOUBT_ALL,					/* Redis may have heard nothing of it */
	DOUBT_PATTERNS				/* its keys are told; not all keys that its
								 * patterns match have been looked for */
} SlateDoubtKind;

#define SLATE_DOUBT_KINDS 2

/* Why the worker should look at Redis. */
#define SLATE_LOOK_EPOCH 1		/* it has another epoch */
#define SLATE_LOOK_SERVER 2		/* who connects now meets another server */

/* How full the journal is; see journal.c. */
#define SLATE_JOURNAL_ROOM 0
#define SLATE_JOURNAL_FILLING 1 /* a transaction is writing that it is full */
#define SLATE_JOURNAL_FULL 2	/* that has been committed */

typedef struct SlateDatabase
{
	pg_atomic_uint32 oid;		/* InvalidOid: free */

	/* the worker; see worker.c */
	pg_atomic_uint32 worker;	/* its pid; 0: there is none */
	Latch	   *volatile latch; /* of the worker */
	pg_atomic_uint32 wanted;	/* a worker is wanted: for the launcher, until
								 * one answers */
	pg_atomic_uint32 unavailable;	/* it could not be started */
	pg_atomic_uint64 leave_until;	/* stay out of the database; clock of
									 * slate_link_now() */
	pg_atomic_uint64 server;	/* which Redis the worker uses */
	pg_atomic_uint64 clock;		/* its clock, less slate_link_now(); 0: not
								 * known */
	pg_atomic_uint64 large_until;	/* the keyspace is large; same clock */
	pg_atomic_uint32 look;		/* look at Redis at once: SLATE_LOOK_... */
	pg_atomic_uint32 flush;		/* empty the namespace, as asked: counts */
	pg_atomic_uint32 flushed;	/* the last of those that is done */
	pg_atomic_uint32 passes;	/* of the journal that are done: counts */
	pg_atomic_uint32 failing;	/* rounds of the worker that have failed since
								 * one has not */
	pg_atomic_uint32 unseen;	/* 1: the worker's last look at Redis has shown
								 * nothing */
	char		refusal[SLATE_REASON_SIZE]; /* what Redis has refused in the
											 * last of those, or ""; under the
											 * registry's lock */

	SlateProgress progress;		/* see progress.c */

	/* pushes that are left to the worker; see ring.c */
	pg_atomic_uint32 ring;		/* a dsm_handle */
	pg_atomic_uint32 ring_wanted;

	/* generations of the journal; see journal.c */
	pg_atomic_uint32 current;	/* 0 or 1 */
	pg_atomic_uint64 bytes[SLATE_GENERATIONS];	/* that are written there,
												 * about */
	pg_atomic_uint32 full;		/* one of the above */
	pg_atomic_uint64 forgiven;	/* bytes that were there when it was found
								 * full */
	pg_atomic_uint32 must_empty;	/* what is in doubt is more than the
									 * journal holds */

	/* what is in doubt; see doubt.c */
	pg_atomic_uint64 overflow_from[SLATE_DOUBT_KINDS];	/* 0: none */
	pg_atomic_uint64 overflow_to[SLATE_DOUBT_KINDS];
	SlateRanges fresh[SLATE_DOUBT_KINDS];	/* under the lock */
	SlateRanges active[SLATE_DOUBT_KINDS];	/* likewise */
	int			nundecided;		/* likewise */
	SlateUndecided undecided[SLATE_MAX_UNDECIDED];
	SlateRange	crowd;			/* likewise: those that found no place there
								 * are in it; last = 0: there are none */

	/* whether Redis is the one that we know; see trust.c */
	pg_atomic_uint32 trust;
	pg_atomic_uint64 trust_since;	/* when it changed; slate_link_now() */
	pg_atomic_uint64 epoch;
	pg_atomic_uint32 begun;		/* this server has had an epoch here */
	pg_atomic_uint64 identity;	/* 0: not known, as after server has changed */
	pg_atomic_uint64 confirmed_at;	/* when Redis last had this epoch;
									 * slate_link_now() */

	/* direct exchanges broken off, and those fenced off; see traffic.c */
	pg_atomic_uint64 broken;
	pg_atomic_uint64 fenced;

	/* see slate_database_is_settled() */
	pg_atomic_uint32 prepared;	/* transactions that were prepared */
	pg_atomic_uint32 settled;	/* one more than those that are known to have
								 * been ended, or 0 */
} SlateDatabase;

/* Where this server's life began: transactions and WAL before are of others. */
typedef struct SlateStart
{
	bool		known;
	uint64		xid;			/* the first one that it could give */
	XLogRecPtr	lsn;
	TimeLineID	timeline;
} SlateStart;

extern void slate_database_shmem_startup(void); /* holds AddinShmemInitLock */
extern void slate_database_shmem_request(void);

/* Is there shared memory? */
extern bool slate_database_is_shared(void);

/*
 * This database's entry.  It is made if there is none: so this may throw, and
 * wait for a lock.  NULL without shared memory, or if there are too many.
 */
extern SlateDatabase *slate_database_mine(void);

/* The same, but NULL if it is not there yet; neither throws nor waits. */
extern SlateDatabase *slate_database_find(Oid oid);

/* All entries, for the launcher: position from 0; NULL: none there. */
extern SlateDatabase *slate_database_at(int position);

/* The database is gone. */
extern void slate_database_release(SlateDatabase *database);

/*
 * Guards the registry, and ranges of all databases.  Never held while
 * Redis is spoken with, nor by a commit but to make an entry.
 */
extern LWLock *slate_database_lock(void);

/* Where this server's life began; not during recovery. */
extern void slate_database_start(SlateStart *start);

/*
 * A transaction of a worker: the memory context is the same in it, and after
 * it, as it was before; so is, after it, the resource owner.
 */
extern void slate_database_begin(void);
extern void slate_database_commit(void);

/*
 * For a process of ours, once: its transactions are ordinary ones, and wait as
 * long as they need, whatever the server's defaults are.  May throw.
 */
extern void slate_database_use_plain_transactions(void);

/*
 * A prepared transaction is ended by somebody who does not know its keys.  So
 * what relies on knowing who is changing a key rests from PREPARE until the
 * worker has seen that no prepared transaction is in doubt any more; and until
 * it has first looked, since shared memory does not outlive the server.  None
 * of these throws.
 *
 * The worker counts first; if then it finds none in doubt, all is settled.
 */
extern void slate_database_note_prepared(void);
extern bool slate_database_is_settled(SlateDatabase *database);
extern uint32 slate_database_count_prepared(SlateDatabase *database);
extern void slate_database_settle(SlateDatabase *database, uint32 prepared);

/*
 * What Redis has refused in the worker's last round, if that has failed; "" for
 * nothing.  The text is palloc'd.
 */
extern void slate_database_note_refusal(SlateDatabase *database,
										const char *refusal);
extern const char *slate_database_refusal(SlateDatabase *database);

/*
 * A walk over Redis has met so many names, and taken so many ms.  Is the
 * keyspace larger than a commit should walk over?  Neither throws.
 */
extern void slate_database_note_keyspace(SlateDatabase *database,
										 uint64 nnames, int64 ms);
extern bool slate_database_keyspace_is_large(SlateDatabase *database);

/*
 * Has its worker the same slate_cache.url as this session?  One that has just
 * been started, and does not say yet, will.  Does not throw.
 */
extern bool slate_database_has_our_redis(SlateDatabase *database);

/*
 * Is this session's connection one to another Redis than the worker's, as far as
 * one can tell?  By another url it may be the same.  Does not throw.
 */
extern bool slate_database_is_elsewhere(SlateDatabase *database);

/* For the worker: it has another url, and has not seen yet what is there. */
extern void slate_database_move(SlateDatabase *database, uint64 server);

/* Who starts the workers. */
extern void slate_database_set_launcher(Latch *latch);
extern bool slate_database_has_launcher(void);

/* Is there one, or may there still be, since the server or it has just begun? */
extern bool slate_database_expects_launcher(void);

/*
 * Have the worker, or where there is none the launcher, look for something to
 * do.  Does not throw.
 */
extern void slate_database_wake(SlateDatabase *database);

/* The same, and there is to be a worker also if the one that is there goes. */
extern void slate_database_want(SlateDatabase *database);

#endif							/* SLATE_DATABASE_H */
