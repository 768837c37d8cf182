/*-------------------------------------------------------------------------
 *
 * attach.c
 *	  Putting rules on a table, and taking them off.
 *
 * A table's rules are the arguments of its trigger (see rules.h), so attaching
 * is creating triggers, and detaching is dropping them.  Both need ownership
 * of the table.  The triggers are created in the name of the extension's
 * owner: the trigger functions are nobody else's to use, since whoever can put
 * them on a table of his own writes whatever he likes to Redis.
 *
 * Attaching and detaching also drop from the cache what the rules name: copies
 * from before may be stale, and copies after will be.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "rules.h"
#include "slatekeys.h"
#include "stamp.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(slate_cache_attach);
PG_FUNCTION_INFO_V1(slate_cache_detach);
PG_FUNCTION_INFO_V1(slate_cache_attach_defaults);
PG_FUNCTION_INFO_V1(slate_cache_rules);

/* What a table is to be given. */
typedef struct Attachment
{
	List	   *sources[RULE_DELETE_DROP + 1];	/* templates by kind */
	int64		ttl;			/* ms; -1 where nothing was said */
	int64		list_ttl;
} Attachment;

/* ------------------------------------------------------------------------
 * What may be attached
 * ------------------------------------------------------------------------
 */

static void
check_relation_kind(Relation relation)
{
	const char *name = RelationGetRelationName(relation);
	char		relkind = relation->rd_rel->relkind;

	if (!slate_rule_suits(relkind))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", name),
				 errdetail_relkind_not_supported(relkind),
				 relkind == RELKIND_VIEW || relkind == RELKIND_MATVIEW
				 ? errhint("Attach the tables that it reads.")
				 : errhint("Ordinary and partitioned tables can be attached.")));
	if (relation->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a temporary table", name),
				 errdetail("Its rows are one session's own, and a cache is everybody's."),
				 errhint("Attach permanent tables.")));
	if (relation->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		ereport(WARNING,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is an unlogged table", name),
				 errdetail("A crash of the server empties it, and nobody tells the cache."),
				 errhint("After a crash, drop its keys with slate_cache_invalidate().")));
	if (IsCatalogRelation(relation))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a system catalog", name),
				 errdetail("Catalogs fire no triggers."),
				 errhint("Attach tables of your own.")));
}

static void
check_owner(Oid relid)
{
	const char *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table with OID %u does not exist", relid),
				 errdetail("It may have been dropped a moment ago."),
				 errhint("Name the table, as in 'invoices'.")));
	if (!compat_relation_ownercheck(relid, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table %s", name),
				 errdetail("Cache rules are triggers of the table."),
				 errhint("Only the table's owner, or a superuser, may change its cache rules.")));
}

/*
 * Open a table for changing its rules.  Nobody may queue for a lock on a table
 * that is not his; so ownership is looked at before, and again under the lock.
 *
 * Creating a trigger keeps writers out, but not readers; dropping one, all.
 * The lock is kept, and must not be raised later: somebody who reads now and
 * writes then would wait for us as we for him.
 */
static Relation
open_own_table(Oid relid, bool has_rules)
{
	LOCKMODE	lockmode = has_rules ? AccessExclusiveLock
	: ShareRowExclusiveLock;
	Relation	relation;

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("table must not be null"),
				 errdetail("The first argument is the table, as a regclass."),
				 errhint("For instance 'invoices'.")));
	check_owner(relid);
	LockRelationOid(relid, lockmode);
	check_owner(relid);
	relation = relation_open(relid, NoLock);
	check_relation_kind(relation);
	return relation;
}

/* A parent's triggers are cloned to its partitions, which must have none. */
static void
check_partitions(Relation relation)
{
	ListCell   *lc;
	Oid			ours[2];

	slate_rules_functions(ours);
	if (relation->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return;
	foreach(lc, find_all_inheritors(RelationGetRelid(relation),
									ShareRowExclusiveLock, NULL))
	{
		Oid			relid = lfirst_oid(lc);
		Relation	partition;

		if (relid == RelationGetRelid(relation))
			continue;
		partition = relation_open(relid, NoLock);
		for (int i = 0; partition->trigdesc && i < partition->trigdesc->numtriggers; i++)
		{
			Trigger    *trigger = &partition->trigdesc->triggers[i];

			if (trigger->tgfoid == ours[0] && !trigger->tgisclone)
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("partition \"%s\" of table \"%s\" has cache rules of its own",
								RelationGetRelationName(partition),
								RelationGetRelationName(relation)),
						 errdetail("A partition has the rules of its parent."),
						 errhint("Detach the partition first with slate_cache_detach().")));
		}
		relation_close(partition, NoLock);
	}
}

/* The extension writes its own tables past all triggers. */
static void
check_not_ours(Relation relation)
{
	Oid			ours = get_extension_oid("slate_cache", false);

	if (getExtensionOfObject(RelationRelationId,
							 RelationGetRelid(relation)) == ours)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" belongs to extension slate_cache",
						RelationGetRelationName(relation)),
				 errdetail("What the extension writes there fires no triggers."),
				 errhint("Attach tables of your own.")));
}

/* Two rules for one key would each take the other's value for its own. */
static void
check_is_new(List *keys, const char *key, Relation relation)
{
	ListCell   *lc;

	foreach(lc, keys)
	{
		if (strcmp(lfirst(lc), key) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("duplicate cache key for table \"%s\"",
							RelationGetRelationName(relation)),
					 errdetail("Key template \"%s\" is given more than once among row_keys and list_keys.",
							   key),
					 errhint("A key holds a row, a column of it, or a list: give each a template of its own.")));
	}
}

static void
check_sources(Relation relation, const Attachment *attachment)
{
	List	   *keys = NIL;		/* those that hold values */
	int			nrules = 0;

	for (int kind = RULE_ROW; kind <= RULE_DELETE_DROP; kind++)
	{
		ListCell   *lc;

		foreach(lc, attachment->sources[kind])
		{
			char	   *key = slate_rule_check(relation, kind, lfirst(lc));

			nrules++;
			if (kind != RULE_ROW && kind != RULE_LIST)
				continue;
			check_is_new(keys, key, relation);
			keys = lappend(keys, key);
		}
	}
	if (nrules == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no keys for table \"%s\"",
						RelationGetRelationName(relation)),
				 errdetail("A table is attached with at least one key template."),
				 errhint("For instance row_keys => ARRAY['shop:invoice:{id}'].")));
}

/* ------------------------------------------------------------------------
 * Triggers
 * ------------------------------------------------------------------------
 */

static void
run_command(const char *command)
{
	int			status = SPI_execute(command, false, 0);

	if (status != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\": %s", command,
			 SPI_result_code_string(status));
}

static void run_commandf(const char *format,...) pg_attribute_printf(1, 2);

static void
run_commandf(const char *format,...)
{
	StringInfoData command;

	initStringInfo(&command);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, format);
		needed = appendStringInfoVA(&command, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&command, needed);
	}
	run_command(command.data);
	pfree(command.data);
}

/* The arguments of the row trigger, as SQL literals. */
static char *
trigger_arguments(const Attachment *attachment)
{
	StringInfoData arguments;
	const char *separator = "";

	initStringInfo(&arguments);
	for (int kind = RULE_ROW; kind <= RULE_DELETE_DROP; kind++)
	{
		ListCell   *lc;

		foreach(lc, attachment->sources[kind])
		{
			appendStringInfo(&arguments, "%s%s, %s", separator,
							 quote_literal_cstr(slate_rule_kind_name(kind)),
							 quote_literal_cstr(lfirst(lc)));
			separator = ", ";
		}
	}
	if (attachment->ttl >= 0)
		appendStringInfo(&arguments, ", 'ttl_ms', '" INT64_FORMAT "'",
						 attachment->ttl);
	if (attachment->list_ttl >= 0)
		appendStringInfo(&arguments, ", 'list_ttl_ms', '" INT64_FORMAT "'",
						 attachment->list_ttl);
	return arguments.data;
}

static char *
table_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

/*
 * The names of a table's triggers that are ours; people may have renamed them.
 * A partition has clones of its parent's, which are not to be touched here.
 */
static List *
our_triggers(Relation relation)
{
	List	   *names = NIL;
	TriggerDesc *triggers;
	Oid			ours[2];

	slate_rules_functions(ours);
	triggers = relation->trigdesc;

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (trigger->tgfoid != ours[0] && trigger->tgfoid != ours[1])
			continue;
		if (trigger->tgisclone)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table \"%s\" has the cache rules of the table that it is a partition of",
							RelationGetRelationName(relation)),
					 errdetail("A partition has the rules of its parent."),
					 errhint("Attach or detach the partitioned table.")));
		names = lappend(names, pstrdup(trigger->tgname));
	}
	return names;
}

static void
drop_triggers(Oid relid, List *names)
{
	ListCell   *lc;

	foreach(lc, names)
		run_commandf("DROP TRIGGER %s ON %s", quote_identifier(lfirst(lc)),
					 table_name(relid));
}

/*
 * ENABLE ALWAYS, so that logical replication's apply fires it, too; and as by
 * ALTER TRIGGER ... DEPENDS ON EXTENSION, but that would lock out readers.
 */
static void
finish_trigger(Oid relid, const char *name)
{
	ObjectAddress trigger;
	ObjectAddress extension;

	run_commandf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s",
				 table_name(relid), name);
	ObjectAddressSet(trigger, TriggerRelationId,
					 get_trigger_oid(relid, name, false));
	ObjectAddressSet(extension, ExtensionRelationId,
					 get_extension_oid("slate_cache", false));
	recordDependencyOn(&trigger, &extension, DEPENDENCY_AUTO_EXTENSION);
}

static void
create_triggers(Oid relid, const Attachment *attachment)
{
	run_commandf("CREATE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %s"
				 " FOR EACH ROW EXECUTE FUNCTION slate_cache.capture(%s)",
				 SLATE_ROW_TRIGGER, table_name(relid),
				 trigger_arguments(attachment));
	finish_trigger(relid, SLATE_ROW_TRIGGER);
	run_commandf("CREATE TRIGGER %s AFTER TRUNCATE ON %s"
				 " FOR EACH STATEMENT EXECUTE FUNCTION slate_cache.capture_truncate()",
				 SLATE_TRUNCATE_TRIGGER, table_name(relid));
	finish_trigger(relid, SLATE_TRUNCATE_TRIGGER);
}

static Oid
extension_owner(void)
{
	Oid			capture = slate_rules_capture_oid();
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(capture));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function slate_cache.capture() does not exist"),
				 errhint("CREATE EXTENSION slate_cache in this database.")));
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	if (!superuser_arg(owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the owner of function slate_cache.capture() is not a superuser"),
				 errdetail("Cache triggers are created in the name of that role, \"%s\", on tables of anybody.",
						   GetUserNameFromId(owner, false)),
				 errhint("Have a superuser own it: ALTER FUNCTION slate_cache.capture() OWNER TO ...")));
	return owner;
}

/*
 * Replace a table's triggers; a NULL attachment takes them off.  Returns false
 * if there were none.  The caller has checked that the user owns the table; so
 * he may drop triggers of his own accord, and the commands that create them are
 * ours, so that the extension's owner can lend his name.  An error gives it
 * back.
 *
 * Closes the relation: ALTER TABLE insists that nobody has it open.  The lock
 * stays.
 */
static bool
replace_triggers(Relation relation, const Attachment *attachment)
{
	Oid			relid = RelationGetRelid(relation);
	List	   *old = our_triggers(relation);
	Oid			user;
	int			context;

	relation_close(relation, NoLock);
	SPI_connect();
	drop_triggers(relid, old);
	if (attachment)
	{
		GetUserIdAndSecContext(&user, &context);
		SetUserIdAndSecContext(extension_owner(),
							   context | SECURITY_LOCAL_USERID_CHANGE);
		create_triggers(relid, attachment);
		SetUserIdAndSecContext(user, context);
	}
	SPI_finish();
	return old != NIL;
}

/* As far as one can tell without a lock. */
static bool
has_rules(Oid relid)
{
	return OidIsValid(relid) && slate_rules_wildcards(relid) != NIL;
}

static void
attach(Oid relid, const Attachment *attachment)
{
	Relation	relation = open_own_table(relid, has_rules(relid));

	check_not_ours(relation);
	check_partitions(relation);
	check_sources(relation, attachment);
	if (replace_triggers(relation, attachment))
		ereport(NOTICE,
				(errmsg("replacing the cache rules of table \"%s\"",
						get_rel_name(relid))));
}

/* ------------------------------------------------------------------------
 * SQL functions
 * ------------------------------------------------------------------------
 */

static List *
sources_argument(FunctionCallInfo fcinfo, int argument)
{
	List	   *sources = NIL;
	Datum	   *elements;
	bool	   *nulls;
	int			nelements;

	if (PG_ARGISNULL(argument))
		return NIL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argument), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, &nulls, &nelements);
	for (int i = 0; i < nelements; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("key template must not be null"),
					 errdetail("One of the arrays of templates has a null element."),
					 errhint("Leave it out.")));
		sources = lappend(sources, TextDatumGetCString(elements[i]));
	}
	return sources;
}

static int64
ttl_argument(FunctionCallInfo fcinfo, int argument)
{
	if (PG_ARGISNULL(argument))
		return -1;
	return slate_rule_interval_ttl(PG_GETARG_INTERVAL_P(argument));
}

Datum
slate_cache_attach(PG_FUNCTION_ARGS)
{
	Attachment	attachment;

	PreventCommandDuringRecovery("slate_cache_attach()");
	for (int kind = RULE_ROW; kind <= RULE_DELETE_DROP; kind++)
		attachment.sources[kind] = sources_argument(fcinfo, 1 + kind);
	attachment.ttl = ttl_argument(fcinfo, 5);
	attachment.list_ttl = ttl_argument(fcinfo, 6);
	if (attachment.list_ttl < 0)
		attachment.list_ttl = attachment.ttl;
	attach(PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0), &attachment);
	PG_RETURN_VOID();
}

Datum
slate_cache_detach(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);

	PreventCommandDuringRecovery("slate_cache_detach()");
	if (!replace_triggers(open_own_table(relid, true), NULL))
		ereport(NOTICE,
				(errmsg("table \"%s\" has no cache rules",
						get_rel_name(relid))));
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------------
 * SLATE's own tables
 * ------------------------------------------------------------------------
 */

/* Does the table have the columns that a source names? */
static bool
has_columns(Oid relid, const char *source)
{
	const char *arrow = strstr(source, " -> ");

	if (arrow && get_attnum(relid, arrow + 4) == InvalidAttrNumber)
		return false;
	for (const char *open = strchr(source, '{'); open; open = strchr(open + 1, '{'))
	{
		char	   *column = pnstrdup(open + 1, strcspn(open + 1, "}"));

		if (get_attnum(relid, column) == InvalidAttrNumber)
			return false;
	}
	return true;
}

/*
 * The defaults that fit a table; false if none does.  Where assets have no
 * column of components, an app makes that value from something else, and it is
 * dropped with the row.
 */
static bool
choose_defaults(Oid relid, const char *table, Attachment *attachment)
{
	bool		found = false;

	for (int i = 0; i < slate_keys_nrules; i++)
	{
		const SlateKeysRule *rule = &slate_keys_rules[i];
		SlateRuleKind kind = rule->kind;
		char	   *source = pstrdup(rule->source);
		char	   *arrow = strstr(source, " -> ");

		if (strcmp(rule->table, table) != 0)
			continue;
		if (arrow && !has_columns(relid, source))
		{
			*arrow = '\0';
			kind = RULE_DROP;
		}
		if (has_columns(relid, source))
		{
			attachment->sources[kind] = lappend(attachment->sources[kind],
												source);
			found = true;
		}
		else
			ereport(NOTICE,
					(errmsg("skipping cache rule \"%s\": table \"%s\" does not have its columns",
							source, table)));
	}
	return found;
}

/* Other relations may have a table's name. */
static bool
suits_defaults(Oid relid)
{
	bool		is_ours = slate_rule_suits(get_rel_relkind(relid));
	const char *name = get_rel_name(relid);

	if (is_ours && !slate_rules_is_temporary(relid))
		return true;

	/* or has it been dropped meanwhile? */
	if (name)
		ereport(NOTICE,
				(errmsg("skipping \"%s\": it is %s", name,
						is_ours ? "a temporary table" : "no table")));
	return false;
}

Datum
slate_cache_attach_defaults(PG_FUNCTION_ARGS)
{
	int			nattached = 0;

	(void) fcinfo;
	PreventCommandDuringRecovery("slate_cache_attach_defaults()");
	for (int i = 0; i < SLATE_KEYS_TABLES; i++)
	{
		Attachment	attachment = {.ttl = -1};
		Oid			relid = RelnameGetRelid(slate_keys_tables[i].table);

		if (!OidIsValid(relid) || !suits_defaults(relid) ||
			!choose_defaults(relid, slate_keys_tables[i].table, &attachment))
			continue;
		attachment.ttl = (int64) slate_keys_tables[i].ttl * 1000;
		attachment.list_ttl = (int64) slate_keys_tables[i].list_ttl * 1000;
		attach(relid, &attachment);
		nattached++;
	}
	if (nattached == 0)
		ereport(NOTICE,
				(errmsg("none of the tables projects, files and assets was attached"),
				 errhint("They are looked for along search_path, with SLATE's columns.")));
	PG_RETURN_INT32(nattached);
}

/* ------------------------------------------------------------------------
 * The view slate_cache.rules
 * ------------------------------------------------------------------------
 */

/* Whether writers are ordered is known once the rule is bound to its table. */
static SlateRule *
bind_if_unlocked(const SlateRule *rule)
{
	SlateRule  *bound = NULL;
	Relation	relation;

	if (!ConditionalLockRelationOid(rule->relation->relid, AccessShareLock))
		return NULL;
	relation = try_relation_open(rule->relation->relid, NoLock);
	if (relation)
	{
		if (slate_rules_fits(rule->relation))
			bound = slate_rules_bind(relation, rule);
		relation_close(relation, NoLock);
	}
	UnlockRelationOid(rule->relation->relid, AccessShareLock);
	return bound;
}

static void
put_rule(ReturnSetInfo *result, const SlateRule *rule)
{
	Datum		row[7] = {0};
	bool		nulls[7] = {false};
	Interval   *ttl = palloc0_object(Interval);
	SlateRule  *bound = rule->kind == RULE_ROW ? bind_if_unlocked(rule) : NULL;

	row[0] = ObjectIdGetDatum(rule->relation->relid);
	row[1] = CStringGetTextDatum(slate_rule_kind_name(rule->kind));
	row[2] = CStringGetTextDatum(rule->template->source);
	if (rule->value_column)
		row[3] = CStringGetTextDatum(rule->value_column);
	nulls[3] = rule->value_column == NULL;
	ttl->time = slate_rule_ttl(rule) * 1000;
	row[4] = IntervalPGetDatum(ttl);
	nulls[4] = ttl->time == 0 ||
		(rule->kind != RULE_ROW && rule->kind != RULE_LIST);
	row[5] = BoolGetDatum(bound && bound->order != SLATE_SHARED);
	nulls[5] = bound == NULL;
	row[6] = BoolGetDatum(rule->relation->enabled);
	tuplestore_putvalues(result->setResult, result->setDesc, row, nulls);
}

/* A view to be read by anybody, at any time: it waits for no lock. */
Datum
slate_cache_rules(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, slate_rules_all())
	{
		SlateRelation *relation = lfirst(lc);

		for (int i = 0; i < relation->nrules; i++)
			put_rule(result, &relation->rules[i]);
	}
	return (Datum) 0;
}
