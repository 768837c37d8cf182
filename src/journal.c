/*-------------------------------------------------------------------------
 *
 * journal.c
 *	  What Redis must be told, written down in the transaction that changes it.
 *
 * Each transaction appends the names of its keys and patterns, in one row (in
 * several if they are many), to one of two tables, slate_cache.journal_a and
 * _b, its generations.  The rows commit and abort with the transaction, and
 * survive what it survives.  In the steady state nobody reads them: the worker
 * lets the transactions write to the one table, and when all that are in
 * the other have told Redis, it truncates that.  See doubt.c for how that is
 * known, replay.c for how the rows of those that have not are replayed.
 *
 * The tables have no index and no TOAST table; a row is smaller than a page.
 * They are written through the access method, below privileges, triggers and
 * logical decoding: they belong to this cluster alone.  Being members of the
 * extension they are not dumped.
 *
 * A ROW
 *
 * lsn, timeline, nonce and since say with which stamp, and when, the
 * transaction told Redis.  What it told is in a bytea: for each entry two
 * bytes, flags and the length of the name, most significant byte first, and
 * the name.  A row of a strict writer says so in front of them: the worker can
 * mark what it names again.
 *
 * A JOURNAL THAT IS FULL
 *
 * Redis may be away for days.  When both generations together exceed
 * slate_cache.max_journal, one transaction adds the entry "everything"; when
 * it has committed, others write no rows any more.  Then the whole namespace
 * is emptied when Redis is back.  Those that drop patterns still write: theirs
 * may be of a rule that is not there any more when the namespace is emptied;
 * and so do strict writers, whose marks must last until they are replayed.
 *
 * PREPARED TRANSACTIONS
 *
 * They have a table of their own, slate_cache.journal_prepared, and always a
 * row there: they may be committed days later, and would keep a generation
 * from being truncated.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "catalog/storage.h"
#include "events.h"
#include "journal.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Columns of a generation. */
enum
{
	ROW_LSN,
	ROW_NONCE,
	ROW_SINCE,
	ROW_TIMELINE,
	ROW_ENTRIES,
	ROW_NCOLUMNS
};

static const Oid column_types[ROW_NCOLUMNS] = {
	[ROW_LSN] = INT8OID,
	[ROW_NONCE] = INT8OID,
	[ROW_SINCE] = TIMESTAMPTZOID,
	[ROW_TIMELINE] = INT4OID,
	[ROW_ENTRIES] = BYTEAOID
};

/* Bytes of entries in one row: a row must fit into a page. */
#define ENTRIES_PER_ROW 7600

/* Flags of an entry, and what is left for the length of its name. */
#define ENTRY_GLOB 0x8000
#define ENTRY_EVERYTHING 0x4000
#define ENTRY_SWEPT 0x2000
#define ENTRY_LENGTH 0x1fff

/* No entry: the row's transaction has marked what the row names. */
#define ENTRY_MARKED (ENTRY_EVERYTHING | ENTRY_SWEPT)

/* A glob that is longer than this is written as "everything". */
#define ENTRY_NAME_MAX 4096

static const char *const table_names[SLATE_GENERATIONS] = {
	"journal_a", "journal_b", "journal_prepared"
};

bool		slate_journal_enabled = true;
int			slate_journal_max = 256 * 1024;

/* This transaction is the one that writes that the journal is full. */
static SlateDatabase *filling = NULL;

/* ------------------------------------------------------------------------
 * The tables
 * ------------------------------------------------------------------------
 */

static Oid
table_oid(int generation)
{
	Oid			schema = get_namespace_oid("slate_cache", true);

	return OidIsValid(schema)
		? get_relname_relid(table_names[generation], schema) : InvalidOid;
}

/*
 * Like try_relation_open(), which asks pg_class first; but the relation cache
 * answers NULL for what is not there, too.
 */
static Relation
open_if_there(Oid relid, LOCKMODE lockmode)
{
	Relation	relation;

	if (!OidIsValid(relid))
		return NULL;
	if (lockmode != NoLock)
		LockRelationOid(relid, lockmode);
	relation = RelationIdGetRelation(relid);
	if (relation)
		pgstat_init_relation(relation);
	else if (lockmode != NoLock)
		UnlockRelationOid(relid, lockmode);
	return relation;
}

static bool
has_our_columns(Relation relation)
{
	TupleDesc	desc = RelationGetDescr(relation);

	if (desc->natts != ROW_NCOLUMNS)
		return false;
	for (int i = 0; i < ROW_NCOLUMNS; i++)
	{
		if (TupleDescAttr(desc, i)->atttypid != column_types[i])
			return false;
	}
	return true;
}

/* NULL if it is something else. */
static Relation
open_if_table(Oid relid, int generation, LOCKMODE lockmode)
{
	Relation	relation = open_if_there(relid, lockmode);

	if (relation == NULL)
		return NULL;
	if (relation->rd_rel->relkind == RELKIND_RELATION &&
		relation->rd_rel->relam == HEAP_TABLE_AM_OID &&
		strcmp(RelationGetRelationName(relation),
			   table_names[generation]) == 0 &&
		has_our_columns(relation))
		return relation;
	relation_close(relation, lockmode);
	return NULL;
}

/*
 * NULL if there is none.  Its OID is remembered, since names are looked up in
 * every commit otherwise: who creates the extension again makes others.
 */
static Relation
open_table(int generation, LOCKMODE lockmode)
{
	static Oid	known[SLATE_GENERATIONS];
	Relation	relation = open_if_table(known[generation], generation,
										 lockmode);

	if (relation)
		return relation;
	known[generation] = table_oid(generation);
	return open_if_table(known[generation], generation, lockmode);
}

uint64
slate_journal_size(int generation)
{
	Relation	relation = open_table(generation, AccessShareLock);
	uint64		size;

	if (relation == NULL)
		return 0;
	size = (uint64) RelationGetNumberOfBlocks(relation) * BLCKSZ;
	table_close(relation, AccessShareLock);
	return size;
}

bool
slate_journal_truncate(SlateDatabase *database, int generation)
{
	Oid			relid = table_oid(generation);
	Relation	relation;

	if (!OidIsValid(relid))
		return true;
	if (slate_doubt_uses(database, generation) ||
		!ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return false;

	/* who has written since has said so before he got his lock */
	if (slate_doubt_uses(database, generation))
		return false;
	relation = open_table(generation, NoLock);
	if (relation == NULL)
		return true;
	RelationTruncate(relation, 0);

	/* who writes next counts what he writes when we have let go of the lock */
	pg_atomic_write_u64(&database->bytes[generation], 0);
	table_close(relation, NoLock);
	return true;
}

/* ------------------------------------------------------------------------
 * Writing
 * ------------------------------------------------------------------------
 */

/*
 * A row as it lies in its page.  It has the same columns in every transaction,
 * and none is NULL: so it is put together where it is, which takes a tenth of
 * what heap_form_tuple() does.
 */
typedef struct Row
{
	union
	{
		HeapTupleHeaderData header;
		char		room[MAXALIGN(SizeofHeapTupleHeader)];
	}			head;
	int64		lsn;
	int64		nonce;
	TimestampTz since;
	int32		timeline;
	char		entries[VARHDRSZ + ENTRIES_PER_ROW];	/* bytea */
} Row;

StaticAssertDecl(offsetof(Row, lsn) == MAXALIGN(SizeofHeapTupleHeader) &&
				 offsetof(Row, entries) == offsetof(Row, timeline) + sizeof(int32),
				 "columns follow each other as in a heap tuple");
StaticAssertDecl(sizeof(Row) <= MaxHeapTupleSize, "a row fits into a page");

typedef struct Writer
{
	Relation	relation;
	BulkInsertState bulk;		/* NULL for one row */
	const SlateStamp *stamp;
	int64		written;		/* bytes */
	int			used;			/* of entries */
	Row			row;
} Writer;

/* What so many digits say; letters are small ones. */
static uint64
from_hex(const char *digits, int ndigits)
{
	uint64		number = 0;

	for (int i = 0; i < ndigits; i++)
		number = number << 4 | ((digits[i] & 15) + (digits[i] > '9' ? 9 : 0));
	return number;
}

static void
set_stamp(Row *row, const SlateStamp *stamp)
{
	row->timeline = (int32) slate_stamp_timeline(stamp->version);
	row->lsn = (int64) stamp->position;
	row->nonce = (int64) from_hex(stamp->nonce, SLATE_TOKEN_LEN);
}

static void
put_entry(Writer *writer, uint16 flags, const char *name, int len)
{
	char	   *at = writer->row.entries + VARHDRSZ + writer->used;

	at[0] = (char) ((flags | len) >> 8);
	at[1] = (char) ((flags | len) & 0xff);
	memcpy(at + 2, name, len);
	writer->used += 2 + len;
}

static void
begin_row(Writer *writer)
{
	writer->used = 0;
	if (writer->stamp->mark[0])
		put_entry(writer, ENTRY_MARKED, "", 0);
}

static void
set_header(Row *row)
{
	HeapTupleHeader header = &row->head.header;

	memset(&row->head, 0, sizeof(row->head));
	HeapTupleHeaderSetNatts(header, ROW_NCOLUMNS);
	header->t_infomask = HEAP_HASVARWIDTH;
	header->t_hoff = offsetof(Row, lsn);
}

static void
write_row(Writer *writer)
{
	Row		   *row = &writer->row;
	HeapTupleData tuple;

	set_header(row);
	set_stamp(row, writer->stamp);
	row->since = GetCurrentTimestamp();
	SET_VARSIZE(row->entries, VARHDRSZ + writer->used);

	tuple.t_len = offsetof(Row, entries) + VARHDRSZ + writer->used;
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = RelationGetRelid(writer->relation);
	tuple.t_data = &row->head.header;
	heap_insert(writer->relation, &tuple, GetCurrentCommandId(true),
				TABLE_INSERT_NO_LOGICAL, writer->bulk);
	writer->written += tuple.t_len + sizeof(ItemIdData);
	begin_row(writer);
}

static void
write_entry(Writer *writer, uint16 flags, const char *name, int len)
{
	if (len > ENTRY_NAME_MAX)
	{
		flags = ENTRY_EVERYTHING;
		len = 0;
	}
	if (writer->used + 2 + len > ENTRIES_PER_ROW)
	{
		CHECK_FOR_INTERRUPTS();
		write_row(writer);
	}
	put_entry(writer, flags, name, len);
}

static void
write_rows(Writer *writer, const SlateOpList *list)
{
	for (int i = 0; i < list->nops; i++)
		write_entry(writer, 0, list->ops[i].key, list->ops[i].keylen);
	for (int i = 0; i < list->nglobs; i++)
	{
		SlateGlobOp *glob = &list->globs[i];

		write_entry(writer,
					glob->swept ? ENTRY_GLOB | ENTRY_SWEPT : ENTRY_GLOB,
					glob->glob, glob->len);
	}
	if (filling)
		write_entry(writer, ENTRY_EVERYTHING, "", 0);
	write_row(writer);
}

/* Is this transaction to write that the journal is full? */
static void
check_room(SlateDatabase *database)
{
	uint32		room = SLATE_JOURNAL_ROOM;
	uint64		bytes = pg_atomic_read_u64(&database->bytes[0]) +
	pg_atomic_read_u64(&database->bytes[1]);

	if (bytes > (uint64) slate_journal_max * 1024 +
		pg_atomic_read_u64(&database->forgiven) &&
		pg_atomic_compare_exchange_u32(&database->full, &room,
									   SLATE_JOURNAL_FILLING))
		filling = database;
}

/*
 * Writer has room for 7600 bytes of entries, so its fields are set one by one: to
 * zero it would cost more than the row.
 */
static void
append(SlateDatabase *database, int generation, Relation relation,
	   const SlateOpList *list, const SlateStamp *stamp)
{
	Writer		writer;

	writer.relation = relation;
	writer.bulk = list->nops + list->nglobs > 100
		? GetBulkInsertState() : NULL;
	writer.stamp = stamp;
	writer.written = 0;
	begin_row(&writer);
	write_rows(&writer, list);
	if (writer.bulk)
		FreeBulkInsertState(writer.bulk);
	pg_atomic_fetch_add_u64(&database->bytes[generation], writer.written);
	slate_doubt_written(U64FromFullTransactionId(GetTopFullTransactionId()));
}

/* Is the table there? */
static bool
write_to_table(SlateDatabase *database, int generation,
			   const SlateOpList *list, const SlateStamp *stamp, bool prepared)
{
	Relation	relation = open_table(generation, RowExclusiveLock);

	if (relation == NULL)
	{
		(void) slate_doubt_leave(LEAVE_DELIVERED);
		return false;
	}
	if (!prepared)
		check_room(database);
	append(database, generation, relation, list, stamp);
	if (prepared)
		slate_doubt_prepared();

	/* a prepared transaction would keep its locks */
	table_close(relation, prepared ? RowExclusiveLock : NoLock);
	return true;
}

bool
slate_journal_append(const SlateOpList *list, const SlateStamp *stamp,
					 bool prepared)
{
	SlateDatabase *database = slate_journal_enabled
	? slate_database_mine() : NULL;
	bool		no_row = false;
	int			generation = SLATE_PREPARED_GENERATION;
	int			lock_timeout = LockTimeout;
	volatile bool is_there;

	if (database == NULL)
		return false;

	/* marks are for the worker to take away, and what is prepared to push */
	if ((prepared || stamp->mark[0] != '\0') &&
		!slate_database_has_our_redis(database))
		return false;
	if (prepared)
		slate_doubt_enter_prepared(database);
	else
		generation = slate_doubt_enter(database, list->nglobs == 0 &&
									   stamp->mark[0] == '\0', &no_row);
	if (no_row)
		return true;

	/*
	 * The worker truncates the table, and who finds it empty extends it: they
	 * hold others up for a moment, which nobody's lock_timeout is meant for.
	 */
	LockTimeout = 0;
	PG_TRY();
	{
		is_there = write_to_table(database, generation, list, stamp, prepared);
	}
	PG_FINALLY();
	{
		LockTimeout = lock_timeout;
	}
	PG_END_TRY();
	return is_there;
}

/* The worker's database, if this transaction is in the journal. */
static SlateDatabase *
replayer(void)
{
	SlateDatabase *database = slate_doubt_entered();

	return database && slate_database_has_our_redis(database) ? database : NULL;
}

/*
 * The worker replays to its own Redis.  While a reload changes the url, sessions
 * and worker do not have the new one at once.  Then what we have told ours the
 * worker's has yet to hear: others read that.
 */
bool
slate_journal_leave(SlateLeaving kind, bool committed)
{
	SlateDatabase *database = slate_doubt_entered();
	bool		is_replayed = replayer() != NULL;

	if (committed && database && slate_database_is_elsewhere(database))
		kind = LEAVE_FAILED;

	if (filling)
	{
		pg_atomic_write_u32(&filling->full, committed ? SLATE_JOURNAL_FULL
							: SLATE_JOURNAL_ROOM);
		if (committed)
		{
			pg_atomic_write_u32(&filling->must_empty, 1);
			slate_events_note(EVENT_JOURNAL_FULL, MyDatabaseId,
							  "it exceeds slate_cache.max_journal, %d kB",
							  slate_journal_max);
		}
		filling = NULL;
	}
	return slate_doubt_leave(kind) && is_replayed;
}

bool
slate_journal_has_worker(void)
{
	SlateDatabase *database = replayer();

	return database && pg_atomic_read_u32(&database->worker) != 0;
}

bool
slate_journal_keyspace_is_large(void)
{
	SlateDatabase *database = replayer();

	return database && slate_database_keyspace_is_large(database);
}

void
slate_journal_note_keyspace(uint64 nnames)
{
	SlateDatabase *database = replayer();

	if (database)
		slate_database_note_keyspace(database, nnames, 0);
}

/* ------------------------------------------------------------------------
 * Reading
 * ------------------------------------------------------------------------
 */

/* A transaction's full id: none in the table is as old as half a turn. */
static uint64
full_xid(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return U64FromFullTransactionId(FullTransactionIdFromEpochAndXid(epoch, xid));
}

/* False if the row's transaction was aborted. */
static bool
judge(HeapTupleHeader header, SlateJournalRow *row)
{
	TransactionId xmin = HeapTupleHeaderGetRawXmin(header);

	row->xid = full_xid(xmin);
	row->state = ROW_COMMITTED;
	if (HeapTupleHeaderXminFrozen(header) ||
		HeapTupleHeaderXminCommitted(header))
		return true;
	if (HeapTupleHeaderXminInvalid(header))
		return false;
	if (TransactionIdIsInProgress(xmin))
	{
		row->state = ROW_UNDER_WAY;
		return true;
	}
	return TransactionIdDidCommit(xmin);
}

static void
take_apart(HeapTuple tuple, TupleDesc desc, SlateJournalRow *row)
{
	Datum		values[ROW_NCOLUMNS];
	bool		nulls[ROW_NCOLUMNS];
	struct varlena *entries;

	heap_deform_tuple(tuple, desc, values, nulls);
	memset(&row->stamp, 0, sizeof(row->stamp));
	slate_stamp_put_version(row->stamp.version,
							(TimeLineID) DatumGetInt32(values[ROW_TIMELINE]),
							(XLogRecPtr) DatumGetInt64(values[ROW_LSN]));
	snprintf(row->stamp.nonce, sizeof(row->stamp.nonce), "%016llx",
			 (unsigned long long) DatumGetInt64(values[ROW_NONCE]));
	row->since = DatumGetTimestampTz(values[ROW_SINCE]);
	entries = (struct varlena *) DatumGetPointer(values[ROW_ENTRIES]);
	row->bytes = VARDATA_ANY(entries);
	row->nbytes = VARSIZE_ANY_EXHDR(entries);
}

bool
slate_journal_is_marked(const SlateJournalRow *row)
{
	return row->nbytes >= 2 &&
		(unsigned char) row->bytes[0] == ENTRY_MARKED >> 8 &&
		row->bytes[1] == 0;
}

bool
slate_journal_next(const SlateJournalRow *row, int *offset,
				   SlateJournalEntry *entry)
{
	const unsigned char *at;
	int			head;

	if (*offset == 0 && slate_journal_is_marked(row))
		*offset = 2;
	if (*offset + 2 > row->nbytes)
		return false;
	at = (const unsigned char *) row->bytes + *offset;
	head = at[0] << 8 | at[1];
	entry->is_glob = (head & ENTRY_GLOB) != 0;
	entry->is_everything = (head & ENTRY_EVERYTHING) != 0;
	entry->is_swept = (head & ENTRY_SWEPT) != 0;
	entry->name.start = (const char *) at + 2;
	entry->name.len = head & ENTRY_LENGTH;
	*offset += 2 + entry->name.len;
	return *offset <= row->nbytes;
}

static void
scan(Relation relation, BlockNumber from, BlockNumber nblocks,
	 int generation, SlateJournalFn fn, void *arg)
{
	TableScanDesc scandesc = table_beginscan_strat(relation, SnapshotAny, 0,
												   NULL, true, false);
	HeapTuple	tuple;

	heap_setscanlimits(scandesc, from, nblocks);
	while ((tuple = heap_getnext(scandesc, ForwardScanDirection)) != NULL)
	{
		SlateJournalRow row = {.generation = generation};

		CHECK_FOR_INTERRUPTS();
		if (!judge(tuple->t_data, &row))
			continue;
		take_apart(tuple, RelationGetDescr(relation), &row);
		fn(&row, arg);
	}
	table_endscan(scandesc);
}

bool
slate_journal_read(int generation, SlateJournalPlace *place,
				   BlockNumber nblocks, SlateJournalFn fn, void *arg)
{
	Relation	relation = open_table(generation, AccessShareLock);
	BlockNumber end;

	if (relation == NULL)
		return false;
	if (place->file != relation->rd_rel->relfilenode)
	{
		place->file = relation->rd_rel->relfilenode;
		place->block = 0;
	}
	end = RelationGetNumberOfBlocks(relation);
	nblocks = place->block < end ? Min(nblocks, end - place->block) : 0;
	if (nblocks > 0)
		scan(relation, place->block, nblocks, generation, fn, arg);
	place->block += nblocks;
	table_close(relation, AccessShareLock);
	return place->block < end;
}
