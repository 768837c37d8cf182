/*-------------------------------------------------------------------------
 *
 * history.c
 *	  The epochs that this database has had with Redis: a table.
 *
 * Only the last row counts.  Where the table is missing, or something else has its
 * name, there is no history, and what cannot be written there is as if it had not
 * been.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/storage.h"
#include "database.h"
#include "history.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* The table of epochs is cut when it has more blocks than this. */
#define HISTORY_BLOCKS 4

/* Columns of slate_cache.history. */
enum
{
	HISTORY_NUMBER,
	HISTORY_EPOCH,
	HISTORY_IDENTITY,
	HISTORY_TIMELINE,
	HISTORY_NCOLUMNS
};

/* NULL if there is none, or something else of that name. */
static Relation
open_history(LOCKMODE lockmode)
{
	Oid			schema = get_namespace_oid("slate_cache", true);
	Oid			relid = OidIsValid(schema)
		? get_relname_relid("history", schema) : InvalidOid;
	Relation	relation = OidIsValid(relid)
		? try_relation_open(relid, lockmode) : NULL;

	if (relation == NULL)
		return NULL;
	if (relation->rd_rel->relkind == RELKIND_RELATION &&
		RelationGetNumberOfAttributes(relation) == HISTORY_NCOLUMNS)
		return relation;
	relation_close(relation, lockmode);
	return NULL;
}

static void
find_last(Relation relation, SlateHistory *last)
{
	TableScanDesc scan = table_beginscan(relation, GetActiveSnapshot(), 0,
										 NULL);
	HeapTuple	tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Datum		values[HISTORY_NCOLUMNS];
		bool		nulls[HISTORY_NCOLUMNS];

		heap_deform_tuple(tuple, RelationGetDescr(relation), values, nulls);
		if (DatumGetInt64(values[HISTORY_NUMBER]) <= last->number)
			continue;
		last->number = DatumGetInt64(values[HISTORY_NUMBER]);
		last->epoch = (uint64) DatumGetInt64(values[HISTORY_EPOCH]);
		last->identity = (uint64) DatumGetInt64(values[HISTORY_IDENTITY]);
		last->timeline = (TimeLineID) DatumGetInt32(values[HISTORY_TIMELINE]);
	}
	table_endscan(scan);
}

void
slate_history_read(SlateHistory *last)
{
	Relation	relation;

	memset(last, 0, sizeof(*last));
	slate_database_begin();
	relation = open_history(AccessShareLock);
	if (relation)
	{
		find_last(relation, last);
		table_close(relation, AccessShareLock);
	}
	slate_database_commit();
}

/* Only the last row counts, and losing it only costs a warm cache. */
static void
cut_history(Relation relation)
{
	if (RelationGetNumberOfBlocks(relation) > HISTORY_BLOCKS &&
		ConditionalLockRelation(relation, AccessExclusiveLock))
		RelationTruncate(relation, 0);
}

/* As the journal: not for logical decoding. */
void
slate_history_append(const SlateHistory *history)
{
	Datum		values[HISTORY_NCOLUMNS];
	bool		nulls[HISTORY_NCOLUMNS] = {false};
	Relation	relation;

	slate_database_begin();
	relation = open_history(RowExclusiveLock);
	if (relation)
	{
		cut_history(relation);
		values[HISTORY_NUMBER] = Int64GetDatum(history->number);
		values[HISTORY_EPOCH] = Int64GetDatum((int64) history->epoch);
		values[HISTORY_IDENTITY] = Int64GetDatum((int64) history->identity);
		values[HISTORY_TIMELINE] = Int32GetDatum((int32) history->timeline);
		heap_insert(relation,
					heap_form_tuple(RelationGetDescr(relation), values, nulls),
					GetCurrentCommandId(true), TABLE_INSERT_NO_LOGICAL, NULL);
		table_close(relation, NoLock);
	}
	ForceSyncCommit();
	slate_database_commit();
}
