/*-------------------------------------------------------------------------
 *
 * capture.c
 *	  The triggers that see every change.
 *
 * slate_cache_capture() is the AFTER ROW trigger of a table with rules,
 * slate_cache_capture_truncate() its AFTER TRUNCATE trigger.  Both only add to
 * the pending list; Redis hears of it at commit.
 *
 * Two things happen to tables that no trigger of theirs sees: their definition
 * changes (slate_cache_on_ddl(), an event trigger), and they, or their
 * trigger, are dropped (slate_capture_object_access(), a hook).  In either
 * case what the cache holds of their rows is dropped too.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "capture.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "doubt.h"
#include "executor/spi.h"
#include "pending.h"
#include "replication/logicalworker.h"
#include "ring.h"
#include "rules.h"
#include "stats.h"
#include "triggers.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(slate_cache_capture);
PG_FUNCTION_INFO_V1(slate_cache_capture_truncate);
PG_FUNCTION_INFO_V1(slate_cache_on_ddl);

/* A row before and after; NULL where there is none. */
typedef struct Change
{
	HeapTuple	old;
	HeapTuple	new;
	SlateRelation *relation;
	bool		new_is_past;	/* this transaction has changed it again */
	SlateImage *image;			/* of the new row, made when first needed */
	bool		image_made;
} Change;

/* ------------------------------------------------------------------------
 * Rows
 * ------------------------------------------------------------------------
 */

/* As suppress_redundant_updates_trigger() compares, see trigfuncs.c */
static bool
same_row(HeapTuple old, HeapTuple new)
{
	HeapTupleHeader o = old->t_data;
	HeapTupleHeader n = new->t_data;

	return old->t_len == new->t_len &&
		o->t_hoff == n->t_hoff &&
		HeapTupleHeaderGetNatts(o) == HeapTupleHeaderGetNatts(n) &&
		(o->t_infomask & ~HEAP_XACT_MASK) == (n->t_infomask & ~HEAP_XACT_MASK) &&
		memcmp((char *) o + SizeofHeapTupleHeader,
			   (char *) n + SizeofHeapTupleHeader,
			   old->t_len - SizeofHeapTupleHeader) == 0;
}

/*
 * Has this transaction changed or deleted the row since?  When another AFTER
 * trigger, or a foreign key's action, changes the row again, the event of that
 * change comes before ours: what we were given is not the row's last version,
 * and the event that has it was here already, or will be.  A change that was
 * rolled back with its subtransaction does not count.
 */
static bool
is_past(HeapTuple tuple)
{
	HeapTupleHeader header = tuple->t_data;

	return (header->t_infomask & HEAP_XMAX_INVALID) == 0 &&
		!HEAP_XMAX_IS_LOCKED_ONLY(header->t_infomask) &&
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(header));
}

/*
 * Did an UPDATE change nothing?  If the old row is of this transaction, the
 * event that made it may have passed it over, or will: see is_past().
 */
static bool
is_idle(HeapTuple old, HeapTuple new)
{
	return same_row(old, new) &&
		!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(old->t_data));
}

static bool
render_key(SlateRule *rule, HeapTuple tuple, StringInfo key)
{
	bool		too_long;
	bool		rendered;

	if (tuple == NULL)
		return false;
	if (key->data == NULL)
		initStringInfo(key);
	resetStringInfo(key);
	rendered = slate_rules_render(rule, tuple, key, &too_long);
	if (too_long)
		slate_stats_add(STAT_KEYS_TOO_LONG, 1);
	return rendered;
}

static SlateImage *
new_image(Change *change)
{
	if (!change->image_made)
	{
		change->image = slate_pending_image(change->relation, change->new);
		change->image_made = true;
	}
	return change->image;
}

static bool
same_text(StringInfo a, StringInfo b)
{
	return a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}

/*
 * Does the row have the same key before and after, if it has one?  Columns of
 * the same bytes have the same text; others may.
 */
static bool
keeps_key(SlateRule *rule, Change *change)
{
	TupleDesc	desc = change->relation->desc;

	if (change->old == NULL || change->new == NULL)
		return false;
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		AttrNumber	attnum = rule->attnums[i];
		Form_pg_attribute attribute = TupleDescAttr(desc, attnum - 1);
		bool		old_isnull;
		bool		new_isnull;
		Datum		old = heap_getattr(change->old, attnum, desc, &old_isnull);
		Datum		new = heap_getattr(change->new, attnum, desc, &new_isnull);

		if (old_isnull != new_isnull ||
			(!old_isnull && !datumIsEqual(old, new, attribute->attbyval,
										  attribute->attlen)))
			return false;
	}
	return true;
}

/* The old key goes, the new one is written through. */
static void
capture_row_key(SlateRule *rule, Change *change,
				StringInfo old_key, StringInfo new_key)
{
	bool		has_old = !keeps_key(rule, change) &&
	render_key(rule, change->old, old_key);
	bool		has_new = render_key(rule, change->new, new_key);

	if (has_old && !(has_new && same_text(old_key, new_key)))
		slate_pending_row_key(rule, old_key->data, old_key->len, NULL);
	if (has_new && !change->new_is_past)
		slate_pending_row_key(rule, new_key->data, new_key->len,
							  new_image(change));
}

/* A list, or another key or glob that goes with the row before and after. */
static void
capture_drops(SlateRule *rule, Change *change,
			  StringInfo old_key, StringInfo new_key)
{
	void		(*add) (SlateRule *rule, const char *text, int len);
	bool		has_old = !keeps_key(rule, change) &&
	render_key(rule, change->old, old_key);
	bool		has_new = render_key(rule, change->new, new_key);

	add = rule->template->is_pattern ? slate_pending_rule_glob
		: slate_pending_rule_drop;
	if (has_old)
		add(rule, old_key->data, old_key->len);
	if (has_new && !(has_old && same_text(old_key, new_key)))
		add(rule, new_key->data, new_key->len);
}

static void
capture_change(Change *change)
{
	StringInfoData old_key = {0};
	StringInfoData new_key = {0};

	for (int i = 0; i < change->relation->nrules; i++)
	{
		SlateRule  *rule = &change->relation->rules[i];

		if (rule->kind == RULE_ROW)
			capture_row_key(rule, change, &old_key, &new_key);
		else if (rule->kind != RULE_DELETE_DROP || change->new == NULL)
			capture_drops(rule, change, &old_key, &new_key);
	}
}

/* ERROR unless called as the kind of trigger that attach makes. */
static void
check_called_as_trigger(FunctionCallInfo fcinfo, bool row)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		(row ? !TRIGGER_FIRED_FOR_ROW(trigger->tg_event)
		 : !TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("slate_cache triggers must be fired AFTER, the one FOR EACH ROW and the other on TRUNCATE"),
				 errhint("Let slate_cache_attach() create them.")));
}

Datum
slate_cache_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Change		change = {0};
	int			nestlevel = 0;

	check_called_as_trigger(fcinfo, true);
	change.relation = slate_rules_get(trigger->tg_relation);
	if (change.relation == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no cache rules",
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("Its cache trigger does not run a function slate_cache.capture() of the extension."),
				 errhint("The extension's schema must keep its name, slate_cache.")));

	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		change.new = trigger->tg_trigtuple;
	else
		change.old = trigger->tg_trigtuple;
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		change.new = trigger->tg_newtuple;
		if (is_idle(change.old, change.new))
			return PointerGetDatum(NULL);
	}

	change.new_is_past = change.new && is_past(change.new);

	if (change.relation->key_needs_settings)
		nestlevel = slate_rules_begin_settings();
	capture_change(&change);
	if (nestlevel > 0)
		slate_rules_end_settings(nestlevel);
	return PointerGetDatum(NULL);
}

/* ------------------------------------------------------------------------
 * Whole tables
 * ------------------------------------------------------------------------
 */

static void
drop_all_of(Oid relid)
{
	ListCell   *lc;

	/* it has nothing there, and may be dropped while the transaction commits */
	if (slate_rules_is_temporary(relid))
		return;
	foreach(lc, slate_rules_wildcards(relid))
		slate_pending_drop_all(lfirst(lc));
}

Datum
slate_cache_capture_truncate(PG_FUNCTION_ARGS)
{
	check_called_as_trigger(fcinfo, false);
	drop_all_of(RelationGetRelid(((TriggerData *) fcinfo->context)->tg_relation));
	return PointerGetDatum(NULL);
}

/*
 * Both triggers would fire, by the rules of the first one: what the other stands
 * for would get old.
 */
static void
check_one_trigger(Oid relid)
{
	Oid			capture = slate_rules_capture_oid();

	if (OidIsValid(capture) &&
		list_length(slate_triggers_of(relid, capture)) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" would have two cache triggers",
						get_rel_name(relid)),
				 errdetail("A table has one set of cache rules, and a partition has its parent's."),
				 errhint("Take the rules off first, with slate_cache_detach().")));
}

static void
check_and_drop(Oid relid)
{
	check_one_trigger(relid);
	slate_rules_check_columns(relid);
	drop_all_of(relid);
}

/*
 * After ALTER TYPE, say of an enum's label: keys and values of the tables that
 * use the type may have another text now, and typed tables other columns.  The
 * command has not locked those tables; a writer who still sees the old label
 * must not push with a newer version than ours.
 */
static void
on_altered_type(Oid type)
{
	ListCell   *lc;

	foreach(lc, slate_rules_all())
	{
		SlateRelation *relation = lfirst(lc);

		if (!slate_rules_use_type(relation, type))
			continue;

		/* partitions too: they can be written by their own names */
		(void) find_all_inheritors(relation->relid, ShareRowExclusiveLock,
								   NULL);
		check_and_drop(relation->relid);
	}
}

/* A table, those that inherit its columns, those that have its row type. */
static void
on_altered_relation(Oid relid)
{
	Oid			type = get_rel_type_id(relid);
	ListCell   *lc;

	/* of DROP SCHEMA we hear of a column when its table has gone, too */
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		return;
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
		check_and_drop(lfirst_oid(lc));
	if (OidIsValid(type))
		on_altered_type(type);
}

/* The table of a capture trigger, or InvalidOid. */
static Oid
captured_table(Oid trigger_oid)
{
	Oid			capture = slate_rules_capture_oid();

	return OidIsValid(capture) ? slate_triggers_table(trigger_oid, capture)
		: InvalidOid;
}

/*
 * A dump that is restored makes its triggers so: rules without
 * slate_cache_attach().  Redis may have something under their keys.
 */
static void
on_created_trigger(Oid trigger_oid)
{
	Oid			relid = captured_table(trigger_oid);

	if (!OidIsValid(relid))
		return;
	if (slate_rules_is_temporary(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot cache temporary table \"%s\"",
						get_rel_name(relid)),
				 errdetail("Its rows are for one session, the cache is for all."),
				 errhint("Give a permanent table cache rules.")));
	check_one_trigger(relid);
	drop_all_of(relid);
}

/*
 * Run a query that gives the class and the OID of the objects that a command
 * has changed.  What the cache has of them may have the old shape.
 */
static void
look_at_changed(const char *query)
{
	uint64		nobjects;

	SPI_connect();
	if (SPI_execute(query, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the objects of an event trigger");
	nobjects = SPI_processed;
	for (uint64 i = 0; i < nobjects; i++)
	{
		HeapTuple	object = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Oid			class_id = DatumGetObjectId(SPI_getbinval(object, desc, 1,
															  &isnull));
		Oid			object_id = DatumGetObjectId(SPI_getbinval(object, desc, 2,
															   &isnull));

		if (class_id == RelationRelationId)
			on_altered_relation(object_id);
		else if (class_id == TypeRelationId)
			on_altered_type(object_id);
		else if (class_id == TriggerRelationId)
			on_created_trigger(object_id);
	}
	SPI_finish();
}

/* A new label changes nothing that is there. */
static bool
adds_enum_value(Node *command)
{
	return IsA(command, AlterEnumStmt) &&
		((AlterEnumStmt *) command)->oldVal == NULL;
}

/*
 * DETACH PARTITION ... CONCURRENTLY hides the partition's rows when the first of
 * its two transactions commits; the second waits for others, or never comes.  We
 * are in the first one.
 */
static void
before_detaching(const AlterTableStmt *command, const PartitionCmd *detached)
{
	Oid			relid = RangeVarGetRelid(command->relation, NoLock, true);
	Oid			partition = RangeVarGetRelid(detached->name, NoLock, true);
	ListCell   *lc;

	if (!OidIsValid(relid) || !OidIsValid(partition))
		return;
	drop_all_of(relid);

	/* who writes to the partition itself finds that it is being detached */
	foreach(lc, find_all_inheritors(partition, NoLock, NULL))
		CacheInvalidateRelcacheByRelid(lfirst_oid(lc));
}

/* The keys of the rules that a trigger of ours has so far. */
static void
before_replacing(const CreateTrigStmt *command)
{
	Oid			relid = RangeVarGetRelid(command->relation, NoLock, true);
	Oid			replaced = command->replace && OidIsValid(relid)
		? get_trigger_oid(relid, command->trigname, true) : InvalidOid;

	if (OidIsValid(replaced) && OidIsValid(captured_table(replaced)))
		drop_all_of(relid);
}

/*
 * What the journal has goes with the extension, and so does whoever would tell
 * Redis of it.  The transaction can still be rolled back.
 */
static void
before_dropping_extension(void)
{
	SlateDatabase *database = slate_database_find(MyDatabaseId);

	if (database == NULL)
		return;
	if (slate_script_prepare(slate_link_now() + slate_redis_connect_timeout,
							 LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("Redis cannot be told that its copies are nobody's any more"),
				 errdetail("%s", slate_redis_error()),
				 errhint("They stay until their TTL, however old they get. Drop extension slate_cache when Redis is there, or remove its keys by hand.")));
	else if (slate_doubt_exists(database) || !slate_ring_is_empty(database) ||
			 !slate_database_is_settled(database))
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("Redis has not heard of all changes, and nobody will tell it any more"),
				 errdetail("The journal is dropped with extension slate_cache; transactions wait in it, or are prepared."),
				 errhint("End what is prepared, and have slate_cache_repair() wait for the rest, before the extension is dropped.")));
}

static void
before_dropping(const DropStmt *command)
{
	ListCell   *lc;

	if (command->removeType != OBJECT_EXTENSION)
		return;
	foreach(lc, command->objects)
	{
		if (strcmp(strVal(lfirst(lc)), "slate_cache") == 0)
			before_dropping_extension();
	}
}

static void
before_altering(Node *command)
{
	ListCell   *lc;

	if (IsA(command, CreateTrigStmt))
		before_replacing((CreateTrigStmt *) command);
	if (IsA(command, DropStmt))
		before_dropping((DropStmt *) command);
	if (!IsA(command, AlterTableStmt))
		return;
	foreach(lc, ((AlterTableStmt *) command)->cmds)
	{
		AlterTableCmd *part = lfirst_node(AlterTableCmd, lc);

		if (part->subtype == AT_DetachPartition &&
			castNode(PartitionCmd, part->def)->concurrent)
			before_detaching((AlterTableStmt *) command,
							 castNode(PartitionCmd, part->def));
	}
}

/*
 * Event trigger.  After a command that may change columns, the rules of the
 * tables that it reaches must still fit, or the command fails.  Before one, see
 * before_altering().
 */
Datum
slate_cache_on_ddl(PG_FUNCTION_ARGS)
{
	const char *event;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("slate_cache.on_ddl() can only be called as an event trigger")));

	event = ((EventTriggerData *) fcinfo->context)->event;
	if (strcmp(event, "ddl_command_end") == 0 &&
		!adds_enum_value(((EventTriggerData *) fcinfo->context)->parsetree))
		look_at_changed("SELECT DISTINCT classid, objid"
						" FROM pg_catalog.pg_event_trigger_ddl_commands()");
	else if (strcmp(event, "sql_drop") == 0)
		look_at_changed("SELECT DISTINCT classid, objid"
						" FROM pg_catalog.pg_event_trigger_dropped_objects()"
						" WHERE objsubid OPERATOR(pg_catalog.>) 0");
	else if (strcmp(event, "ddl_command_start") == 0)
		before_altering(((EventTriggerData *) fcinfo->context)->parsetree);

	/* this library is loaded now, for slate_capture_object_access() */
	PG_RETURN_NULL();
}

/*
 * Where event triggers do not fire nobody is refused anything, but the cache
 * learns of it.  A column that is added, or dropped, is a part of its table.
 */
static void
on_altered_unseen(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id)
{
	ListCell   *lc;
	bool		is_part = sub_id != 0 && (access == OAT_POST_CREATE || access == OAT_DROP);

	if (access != OAT_POST_ALTER && !is_part)
		return;
	if (class_id == RelationRelationId)
	{
		foreach(lc, find_all_inheritors(object_id, NoLock, NULL))
			drop_all_of(lfirst_oid(lc));
	}
	else if (class_id == TypeRelationId)
	{
		foreach(lc, slate_rules_all())
		{
			SlateRelation *relation = lfirst(lc);

			if (slate_rules_use_type(relation, object_id))
				drop_all_of(relation->relid);
		}
	}
}

/*
 * A dropped table takes its trigger with it, so the trigger is what to watch.
 * TRUNCATE of a partition fires no trigger of its parent, so that is watched
 * here too.  TRUNCATE comes here before it locks the table, and even before it
 * asks whether the user may; so no lock is taken here.
 */
void
slate_capture_object_access(ObjectAccessType access, Oid class_id,
							Oid object_id, int sub_id)
{
	Oid			relid = InvalidOid;

	if (access == OAT_DROP && class_id == TriggerRelationId)
		relid = captured_table(object_id);
	else if (access == OAT_TRUNCATE && class_id == RelationRelationId)
		relid = object_id;
	if (OidIsValid(relid))
		drop_all_of(relid);
	if (!compat_event_triggers_fire())
		on_altered_unseen(access, class_id, object_id, sub_id);
}

/*
 * Of a TRUNCATE on the publisher apply gets the partitions, and truncates them
 * by ExecuteTruncateGuts(): their parent's trigger is not theirs, and nothing
 * asks whether one may.  But each has a new file then.  Elsewhere that means
 * nothing: VACUUM FULL makes one, too.
 */
void
slate_capture_before_commit(void)
{
	static uint64 seen = 0;
	ListCell   *lc;

	if (!IsLogicalWorker())
		return;
	foreach(lc, slate_rules_changed(&seen))
	{
		Relation	relation = RelationIdGetRelation(lfirst_oid(lc));

		if (!RelationIsValid(relation))
			continue;
		if (compat_first_file_subid(relation) != InvalidSubTransactionId)
			drop_all_of(RelationGetRelid(relation));
		RelationClose(relation);
	}
}
