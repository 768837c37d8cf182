/*-------------------------------------------------------------------------
 *
 * ddl.c
 *	  What happens to tables besides changes of their rows.
 *
 * No trigger of a table sees that its definition changes, or that the table, or
 * its trigger, is dropped.  slate_cache_on_ddl(), an event trigger, sees the
 * former; where event triggers do not fire, and for the latter, there is
 * slate_ddl_object_access(), a hook.  What logical replication's apply
 * truncates neither sees: slate_ddl_before_commit().  In each case what the cache
 * holds of the table's rows is dropped at commit.
 *
 * The event trigger also refuses what rules would not survive.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "ddl.h"
#include "doubt.h"
#include "executor/spi.h"
#include "journal.h"
#include "miscadmin.h"
#include "pending.h"
#include "replication/logicalworker.h"
#include "ring.h"
#include "rules.h"
#include "script.h"
#include "storage/lmgr.h"
#include "triggers.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(slate_cache_on_ddl);

void
slate_ddl_drop_all(Oid relid)
{
	ListCell   *lc;

	/* it has nothing there, and may be dropped while the transaction commits */
	if (slate_rules_is_temporary(relid))
		return;
	foreach(lc, slate_rules_wildcards(relid))
		slate_pending_drop_all(lfirst(lc));
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
	slate_ddl_drop_all(relid);
}

/* What is done about each table that a command reaches. */
typedef void (*TableFn) (Oid relid);

/*
 * After ALTER TYPE, say of an enum's label: keys and values of the tables that
 * use the type may have another text now, and typed tables other columns.  The
 * command has not locked those tables; a writer who still sees the old label
 * must not push with a newer version than ours.
 */
static void
on_altered_type(Oid type, TableFn fn)
{
	ListCell   *lc;

	foreach(lc, slate_rules_all())
	{
		SlateRelation *relation = lfirst(lc);

		if (!slate_rules_use_type(relation, type))
			continue;

		/* partitions too: they can be written by their own names */
		LockRelationOid(relation->relid, ShareRowExclusiveLock);
		(void) find_all_inheritors(relation->relid, ShareRowExclusiveLock,
								   NULL);
		fn(relation->relid);
	}
}

/* A table, those that inherit its columns, those that have its row type. */
static void
on_altered_relation(Oid relid, TableFn fn)
{
	Oid			type = get_rel_type_id(relid);
	ListCell   *lc;

	/* of DROP SCHEMA we hear of a column when its table has gone, too */
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		return;
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
		fn(lfirst_oid(lc));
	if (OidIsValid(type))
		on_altered_type(type, fn);
}

static void
on_altered(Oid class_id, Oid object_id, TableFn fn)
{
	if (class_id == RelationRelationId)
		on_altered_relation(object_id, fn);
	else if (class_id == TypeRelationId)
		on_altered_type(object_id, fn);
}

/* The table of a capture trigger, or InvalidOid. */
static Oid
captured_table(Oid trigger_oid)
{
	Oid			capture = slate_rules_capture_oid();
	SlateTrigger *trigger = OidIsValid(capture)
		? slate_triggers_find(trigger_oid, capture) : NULL;

	return trigger ? trigger->relid : InvalidOid;
}

/* AFTER has no bit of its own. */
#define SEES_ROWS \
	(TRIGGER_TYPE_ROW | TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE)
#define SEES_TRUNCATE TRIGGER_TYPE_TRUNCATE

/* The changes of rows that a trigger does not fire on. */
static char *
missing_events(int16 type)
{
	static const struct
	{
		int16		event;
		const char *name;
	}			events[] = {
		{TRIGGER_TYPE_INSERT, "INSERT"},
		{TRIGGER_TYPE_UPDATE, "UPDATE"},
		{TRIGGER_TYPE_DELETE, "DELETE"}
	};
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < lengthof(events); i++)
	{
		if ((type & events[i].event) == 0)
			appendStringInfo(&names, "%s%s", names.len > 0 ? " and " : "",
							 events[i].name);
	}
	return names.data;
}

/* What a trigger would not see of the changes that it is for; NULL: nothing. */
static const char *
blind_spot(const SlateTrigger *trigger, int16 sees)
{
	Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(trigger->tuple);
	int16		type = form->tgtype;

	if (!TRIGGER_FOR_AFTER(type))
		return "It does not see what comes of a change: it is not AFTER.";
	if (TRIGGER_FOR_ROW(sees) && !TRIGGER_FOR_ROW(type))
		return "It does not see which rows change: it is not FOR EACH ROW.";
	if (TRIGGER_FOR_ROW(sees) && type != sees)
		return psprintf("It does not see %s.", missing_events(type));
	if (type != sees)
		return "It sees TRUNCATE alone, and is for nothing else.";
	if (form->tgattr.dim1 > 0)
		return "It does not see an UPDATE of other columns.";
	if (!heap_attisnull(trigger->tuple, Anum_pg_trigger_tgqual, NULL))
		return "It does not see changes for which its WHEN condition is not true.";
	return NULL;
}

/*
 * What a trigger does not see nobody tells Redis, and nobody would be told that:
 * better not to have it.  One that was made where event triggers do not fire goes
 * on as it is.
 */
static void
check_sees_all(const SlateTrigger *trigger, int16 sees)
{
	const char *detail = blind_spot(trigger, sees);

	if (detail)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot cache table \"%s\" by such a trigger",
						get_rel_name(trigger->relid)),
				 errdetail("%s", detail),
				 errhint("Let slate_cache_attach() create the trigger.")));
}

/* Arguments of which no rules can be made fail now, not when a row changes. */
static void
check_arguments(const SlateTrigger *trigger)
{
	SlateRelation rules = {0};
	int			nargs;
	char	  **args = slate_triggers_arguments(trigger, &nargs);

	slate_rule_parse_arguments(&rules, nargs, args, false);
	if (nargs % 2 != 0 || rules.nrules == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid arguments of a cache trigger for table \"%s\"",
						get_rel_name(trigger->relid)),
				 errdetail("They are pairs, of a kind and a key template, and there is at least one."),
				 errhint("Let slate_cache_attach() create the trigger.")));
}

/*
 * A dump that is restored makes its triggers so: rules without
 * slate_cache_attach().  Redis may have something under their keys.
 */
static void
on_created_trigger(Oid trigger_oid)
{
	Oid			ours[2];
	SlateTrigger *trigger;
	Oid			relid;

	slate_rules_functions(ours);
	trigger = slate_triggers_find(trigger_oid, ours[1]);
	if (trigger)
		check_sees_all(trigger, SEES_TRUNCATE);
	trigger = slate_triggers_find(trigger_oid, ours[0]);
	if (trigger == NULL)
		return;
	relid = trigger->relid;
	if (slate_rules_is_temporary(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot cache temporary table \"%s\"",
						get_rel_name(relid)),
				 errdetail("Its rows are for one session, the cache is for all."),
				 errhint("Give a permanent table cache rules.")));
	if (!slate_rule_suits(get_rel_relkind(relid)))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", get_rel_name(relid)),
				 errdetail("Its rows may change without anybody noticing."),
				 errhint("Give the tables that its rows are from cache rules.")));
	check_sees_all(trigger, SEES_ROWS);
	check_arguments(trigger);
	check_one_trigger(relid);

	/* else later commands would fail for them, also those on other tables */
	slate_rules_check_columns(relid);
	slate_ddl_drop_all(relid);
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

		if (class_id == TriggerRelationId)
			on_created_trigger(object_id);
		else
			on_altered(class_id, object_id, check_and_drop);
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
	slate_ddl_drop_all(relid);

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
		slate_ddl_drop_all(relid);
}

/*
 * Has Redis not heard of something, as far as is known?  Before the worker's
 * first look, or its next after something was prepared, that is whatever the
 * journal has.
 */
static bool
is_untold(SlateDatabase *database)
{
	if (!slate_ring_is_empty(database))
		return true;
	if (slate_database_is_settled(database))
		return slate_doubt_exists(database);
	for (int i = 0; i < SLATE_GENERATIONS; i++)
	{
		if (slate_journal_size(i) > 0)
			return true;
	}
	return false;
}

/*
 * What the journal has goes with the extension, and so does whoever would tell
 * Redis of it.  The transaction can still be rolled back.
 */
void
slate_ddl_before_dropping_extension(void)
{
	static TimestampTz told_in = 0;
	SlateDatabase *database = slate_database_find(MyDatabaseId);
	Oid			extension = get_extension_oid("slate_cache", true);

	/* others are about to be refused, and need not know where Redis is */
	if (database == NULL || !OidIsValid(extension) ||
		!compat_extension_ownercheck(extension, GetUserId()))
		return;

	/* by its name, and then as an object; or with its schema, or its owner's */
	if (told_in == GetCurrentStatementStartTimestamp())
		return;
	told_in = GetCurrentStatementStartTimestamp();
	if (slate_script_prepare(slate_link_now() + slate_redis_connect_timeout,
							 LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("Redis cannot be told that its copies are nobody's any more"),
				 errdetail("%s", slate_redis_error()),
				 errhint("They stay until their TTL, however old they get. Drop extension slate_cache when Redis is there, or remove its keys by hand.")));
	else if (is_untold(database))
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
			slate_ddl_before_dropping_extension();
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

	/* this library is loaded now, for slate_ddl_object_access() */
	PG_RETURN_NULL();
}

/*
 * Where event triggers do not fire nobody is refused anything, but the cache
 * learns of it.  A column that is added, or dropped, is a part of its table.
 */
static bool
is_alteration(ObjectAccessType access, int sub_id)
{
	return access == OAT_POST_ALTER ||
		(sub_id != 0 && (access == OAT_POST_CREATE || access == OAT_DROP));
}

/*
 * A dropped table takes its trigger with it, so the trigger is what to watch.
 * TRUNCATE of a partition fires no trigger of its parent, so that is watched
 * here too.  TRUNCATE comes here before it locks the table, and even before it
 * asks whether the user may; so no lock is taken here.
 */
void
slate_ddl_object_access(ObjectAccessType access, Oid class_id,
						Oid object_id, int sub_id)
{
	Oid			relid = InvalidOid;

	if (access == OAT_DROP && class_id == TriggerRelationId)
		relid = captured_table(object_id);
	else if (access == OAT_TRUNCATE && class_id == RelationRelationId)
		relid = object_id;
	if (OidIsValid(relid))
		slate_ddl_drop_all(relid);
	if (is_alteration(access, sub_id) && !compat_event_triggers_fire())
		on_altered(class_id, object_id, slate_ddl_drop_all);
}

/*
 * Of a TRUNCATE on the publisher apply gets the partitions, and truncates them
 * by ExecuteTruncateGuts(): their parent's trigger is not theirs, and nothing
 * asks whether one may.  But each has a new file then.  Elsewhere that means
 * nothing: VACUUM FULL makes one, too.
 */
void
slate_ddl_before_commit(void)
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
			slate_ddl_drop_all(RelationGetRelid(relation));
		RelationClose(relation);
	}
}
