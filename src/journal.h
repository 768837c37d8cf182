/*-------------------------------------------------------------------------
 *
 * journal.h
 *	  What Redis must be told, written down in the transaction that changes it.
 *
 * Like the WAL: always written, read only to recover.  See journal.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_JOURNAL_H
#define SLATE_JOURNAL_H

#include "datatype/timestamp.h"
#include "doubt.h"
#include "ops.h"
#include "storage/block.h"

/* Settings: write it?  How large may it become, in kB? */
extern bool slate_journal_enabled;
extern int	slate_journal_max;

/*
 * At PRE_COMMIT or PRE_PREPARE: write down the keys and patterns of the list.
 * From then on slate_journal_leave() must be called at the transaction's end.
 * False if there is no journal here: no shared memory, too many databases,
 * switched off; for marks and what is prepared also another Redis than the
 * worker's.
 */
extern bool slate_journal_append(const SlateOpList *list,
								 const SlateStamp *stamp, bool prepared);

/*
 * The transaction has ended.  False if it is not in the journal, or the worker
 * has another Redis: what has failed is lost.  Does not throw.
 */
extern bool slate_journal_leave(SlateLeaving kind, bool committed);

/*
 * Is this transaction in the journal, and a worker there to go on with it in
 * our Redis?
 */
extern bool slate_journal_has_worker(void);

/* Has Redis more names than a commit should walk over, as far as is known? */
extern bool slate_journal_keyspace_is_large(void);

/* A walk of this session's has met so many. */
extern void slate_journal_note_keyspace(uint64 nnames);

/* A row, as a reader gets it. */
typedef enum SlateRowState
{
	ROW_COMMITTED,
	ROW_UNDER_WAY				/* prepared, above all */
} SlateRowState;

typedef struct SlateJournalRow
{
	uint64		xid;			/* full */
	SlateRowState state;
	SlateStamp	stamp;			/* version and nonce */
	TimestampTz since;
	int			generation;
	const char *bytes;			/* for slate_journal_next() */
	int			nbytes;
} SlateJournalRow;

/* What a row names. */
typedef struct SlateJournalEntry
{
	SlateSlice	name;
	bool		is_glob;
	bool		is_swept;		/* look through all keys for it */
	bool		is_everything;	/* the whole namespace; no name */
} SlateJournalEntry;

/* Has the row's transaction marked what it names, for mode strict? */
extern bool slate_journal_is_marked(const SlateJournalRow *row);

/* The next entry from *offset on, which is 0 at first; false: no more. */
extern bool slate_journal_next(const SlateJournalRow *row, int *offset,
							   SlateJournalEntry *entry);

/* How far a generation has been read; zeroes at first. */
typedef struct SlateJournalPlace
{
	BlockNumber block;			/* comes next */
	Oid			file;			/* of these blocks */
} SlateJournalPlace;

/*
 * Read a generation from a place on, at most nblocks of it, in a transaction:
 * rows that are not dead, in their order.  The row is good during the call.
 * Moves the place on; false at the end.  If the table has been rewritten since
 * (VACUUM FULL) its rows are elsewhere, and it is read from its beginning.
 */
typedef void (*SlateJournalFn) (const SlateJournalRow *row, void *arg);
extern bool slate_journal_read(int generation, SlateJournalPlace *place,
							   BlockNumber nblocks,
							   SlateJournalFn fn, void *arg);

/* Bytes on disk; 0 if there is no journal. */
extern uint64 slate_journal_size(int generation);

/*
 * Throw a generation away, in a transaction, if nobody uses it and nobody has
 * it locked; otherwise false.
 */
extern bool slate_journal_truncate(SlateDatabase *database, int generation);

#endif							/* SLATE_JOURNAL_H */
