/*-------------------------------------------------------------------------
 *
 * triggers.c
 *	  Which tables have capture triggers, straight from the catalog.
 *
 * A table's rules are the arguments of its capture trigger.  pg_trigger can be
 * asked for the triggers of a table; for those of a function it has no index,
 * and it may be large: each foreign key has four rows there.  But each trigger
 * depends on its function, and pg_depend has an index for that.
 *
 * Nothing here locks a table: whoever looks for a key must not wait for
 * somebody who alters a table that the key has nothing to do with.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/heaptoast.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "rule.h"
#include "triggers.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/*
 * Long arguments are stored out of line.  Here is the scan's snapshot to fetch
 * them with; who reads them, before a commit say, may have none.
 */
static SlateTrigger *
trigger_from_tuple(Relation pg_trigger, HeapTuple tuple)
{
	Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);
	SlateTrigger *trigger = palloc_object(SlateTrigger);

	trigger->relid = form->tgrelid;
	trigger->oid = form->oid;
	trigger->parent = form->tgparentid;
	trigger->fires = slate_rule_fires(form->tgenabled);
	trigger->xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
	trigger->tid = tuple->t_self;
	trigger->tuple = HeapTupleHasExternal(tuple)
		? toast_flatten_tuple(tuple, RelationGetDescr(pg_trigger))
		: heap_copytuple(tuple);
	return trigger;
}

/* Those that have this in one of pg_trigger's indexes, and run "capture". */
static List *
scan_triggers(Relation pg_trigger, Oid index, AttrNumber attnum, Oid value,
			  Oid capture, Snapshot snapshot, List *triggers)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, attnum, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(value));
	scan = systable_beginscan(pg_trigger, index, true, snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);

		if (form->tgfoid == capture && slate_triggers_counts(form->tgtype))
			triggers = lappend(triggers, trigger_from_tuple(pg_trigger, tuple));
	}
	systable_endscan(scan);
	return triggers;
}

List *
slate_triggers_of(Oid relid, Oid capture)
{
	Relation	pg_trigger = table_open(TriggerRelationId, AccessShareLock);
	List	   *triggers = scan_triggers(pg_trigger, TriggerRelidNameIndexId,
										 Anum_pg_trigger_tgrelid, relid,
										 capture, NULL, NIL);

	table_close(pg_trigger, AccessShareLock);
	return triggers;
}

SlateTrigger *
slate_triggers_find(Oid trigger, Oid function)
{
	Relation	pg_trigger = table_open(TriggerRelationId, AccessShareLock);
	SlateTrigger *found = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(trigger));
	scan = systable_beginscan(pg_trigger, TriggerOidIndexId, true, NULL, 1,
							  &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple) &&
		((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid == function)
		found = trigger_from_tuple(pg_trigger, tuple);
	systable_endscan(scan);
	table_close(pg_trigger, AccessShareLock);
	return found;
}

/* The order must not depend on where in the catalogs the rows lie. */
static int
compare_triggers(const ListCell *a, const ListCell *b)
{
	const SlateTrigger *x = lfirst(a);
	const SlateTrigger *y = lfirst(b);

	if (x->relid != y->relid)
		return x->relid < y->relid ? -1 : 1;
	return x->oid < y->oid ? -1 : x->oid > y->oid;
}

/*
 * One snapshot for both catalogs: else a trigger that is replaced meanwhile
 * would be in neither.
 */
List *
slate_triggers_all(Oid capture)
{
	Relation	pg_depend = table_open(DependRelationId, AccessShareLock);
	Relation	pg_trigger = table_open(TriggerRelationId, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetCatalogSnapshot(TriggerRelationId));
	List	   *triggers = NIL;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(ProcedureRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(capture));
	scan = systable_beginscan(pg_depend, DependReferenceIndexId, true,
							  snapshot, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);

		if (form->classid == TriggerRelationId)
			triggers = scan_triggers(pg_trigger, TriggerOidIndexId,
									 Anum_pg_trigger_oid, form->objid,
									 capture, snapshot, triggers);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(pg_trigger, AccessShareLock);
	table_close(pg_depend, AccessShareLock);
	list_sort(triggers, compare_triggers);
	return triggers;
}

char	  **
slate_triggers_arguments(const SlateTrigger *trigger, int *nargs)
{
	Relation	pg_trigger = table_open(TriggerRelationId, AccessShareLock);
	bool		isnull;
	Datum		stored = heap_getattr(trigger->tuple, Anum_pg_trigger_tgargs,
									  RelationGetDescr(pg_trigger), &isnull);
	char	   *next = isnull ? NULL : VARDATA_ANY(DatumGetByteaPP(stored));
	char	  **args;

	*nargs = ((Form_pg_trigger) GETSTRUCT(trigger->tuple))->tgnargs;
	args = palloc0_array(char *, *nargs + 1);
	for (int i = 0; next && i < *nargs; i++)
	{
		/* each ends in a NUL */
		args[i] = pstrdup(next);
		next += strlen(next) + 1;
	}
	table_close(pg_trigger, AccessShareLock);
	return args;
}

bool
slate_triggers_are_same(List *triggers, List *others)
{
	ListCell   *lc;
	ListCell   *other_lc;

	if (list_length(triggers) != list_length(others))
		return false;
	forboth(lc, triggers, other_lc, others)
	{
		SlateTrigger *trigger = lfirst(lc);
		SlateTrigger *other = lfirst(other_lc);

		if (trigger->oid != other->oid || trigger->xmin != other->xmin ||
			!ItemPointerEquals(&trigger->tid, &other->tid))
			return false;
	}
	return true;
}
