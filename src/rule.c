/*-------------------------------------------------------------------------
 *
 * rule.c
 *	  One rule: what its text says, and what that means for its table.
 *
 * The arguments of a table's capture trigger come in pairs: a kind ("row",
 * "list", "drop", "delete_drop") and a template, or "ttl_ms" or "list_ttl_ms"
 * and a number.  Parsed, they tell to which tables a key may belong; bound to
 * the table's columns, which keys a row has.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "common/hashfn.h"
#include "keyname.h"
#include "rule.h"
#include "types.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* No TTL is longer: ten years, in ms. */
#define MAX_TTL (INT64CONST(10) * 366 * 24 * 3600 * 1000)

int			slate_rule_default_ttl = 3600;

/* ------------------------------------------------------------------------
 * What its text says
 * ------------------------------------------------------------------------
 */

static const char *const kind_names[] = {
	[RULE_ROW] = "row",
	[RULE_LIST] = "list",
	[RULE_DROP] = "drop",
	[RULE_DELETE_DROP] = "delete_drop"
};

const char *
slate_rule_kind_name(SlateRuleKind kind)
{
	return kind_names[kind];
}

static bool
kind_by_name(const char *name, SlateRuleKind *kind)
{
	for (int i = 0; i < lengthof(kind_names); i++)
	{
		if (strcmp(name, kind_names[i]) == 0)
		{
			*kind = i;
			return true;
		}
	}
	return false;
}

/*
 * "key -> column" keeps one column of the row.  Returns the key's part, and
 * the column or NULL.
 */
static char *
split_value_column(SlateRuleKind kind, const char *source, char **column)
{
	const char *arrow = NULL;

	*column = NULL;
	if (kind == RULE_ROW)
	{
		for (const char *p = strstr(source, " -> "); p; p = strstr(p + 1, " -> "))
			arrow = p;
	}
	if (arrow == NULL)
		return pstrdup(source);
	*column = pstrdup(arrow + 4);
	return pnstrdup(source, arrow - source);
}

static SlateTemplateDialect
kind_dialect(SlateRuleKind kind)
{
	return kind == RULE_ROW || kind == RULE_LIST ? TEMPLATE_KEY : TEMPLATE_DROP;
}

static SlateTemplate *
parse_template(SlateRuleKind kind, const char *source)
{
	SlateTemplateDialect dialect = kind_dialect(kind);
	SlateTemplate *template;
	const char *error;
	int			position;

	template = slate_template_parse(source, dialect, &error, &position);
	if (template == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid key template \"%s\"", source),
				 errdetail("At byte %d: %s", position + 1, error),
				 errhint("A template looks like \"shop:invoice:{id}\"; \"{{\" and \"}}\" stand for literal braces.")));
	if (slate_keyname_is_internal(source, strlen(source)))
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("invalid key template \"%s\"", source),
				 errdetail("Keys that begin with \"%s\" are the extension's own.",
						   SLATE_INTERNAL_PREFIX),
				 errhint("Choose another prefix.")));
	if (dialect == TEMPLATE_KEY && template->ncolumns == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key template \"%s\" names no column", source),
				 errdetail("Without a column in braces all rows of the table would share one key."),
				 errhint("Name at least one key column, as in \"shop:invoice:{id}\".")));
	return template;
}

/* What a rule's text says, without a look at its table. */
static void
parse_rule(SlateRelation *into, SlateRule *rule, SlateRuleKind kind,
		   const char *source)
{
	char	   *key = split_value_column(kind, source, &rule->value_column);
	StringInfoData wildcard;

	rule->relation = into;
	rule->kind = kind;
	rule->source = pstrdup(source);
	rule->template = parse_template(kind, key);
	initStringInfo(&wildcard);
	slate_template_wildcard(rule->template, &wildcard);
	rule->wildcard = wildcard.data;
}

/* Would parse_template() take it?  For triggers that somebody made by hand. */
static bool
is_sound(SlateRuleKind kind, const char *source)
{
	SlateTemplateDialect dialect = kind_dialect(kind);
	char	   *column;
	char	   *key = split_value_column(kind, source, &column);
	const char *error;
	int			position;
	SlateTemplate *template = slate_template_parse(key, dialect, &error,
												   &position);

	return template != NULL && !slate_keyname_is_internal(key, strlen(key)) &&
		(dialect != TEMPLATE_KEY || template->ncolumns > 0);
}

/* What Redis would refuse is as if there were none. */
static int64
parse_ttl(const char *text)
{
	int64		ttl = strtoll(text, NULL, 10);

	return ttl >= 0 && ttl <= MAX_TTL ? ttl : -1;
}

void
slate_rule_parse_arguments(SlateRelation *into, int nargs, char **args,
						   bool quiet)
{
	int64		ttl = -1;
	int64		list_ttl = -1;

	into->rules = palloc0_array(SlateRule, nargs / 2 + 1);
	for (int i = 0; i + 1 < nargs; i += 2)
	{
		SlateRuleKind kind;

		if (strcmp(args[i], "ttl_ms") == 0)
			ttl = parse_ttl(args[i + 1]);
		else if (strcmp(args[i], "list_ttl_ms") == 0)
			list_ttl = parse_ttl(args[i + 1]);
		else if (kind_by_name(args[i], &kind) &&
				 (!quiet || is_sound(kind, args[i + 1])))
			parse_rule(into, &into->rules[into->nrules++], kind, args[i + 1]);
		else if (quiet)
			into->incomplete = true;
		else
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized argument \"%s\" of a cache trigger",
							args[i]),
					 errhint("Let slate_cache_attach() create the trigger.")));
	}
	for (int i = 0; i < into->nrules; i++)
		into->rules[i].ttl = into->rules[i].kind == RULE_LIST && list_ttl >= 0
			? list_ttl : ttl;
}

/* The setting may be another with each transaction. */
int64
slate_rule_ttl(const SlateRule *rule)
{
	return rule->ttl >= 0 ? rule->ttl : (int64) slate_rule_default_ttl * 1000;
}

int64
slate_rule_interval_ttl(const Interval *interval)
{
	int64		days = (int64) interval->month * DAYS_PER_MONTH + interval->day;
	int64		ms = -1;

	if (days >= -100000 && days <= 100000)
		ms = days * (USECS_PER_DAY / 1000) + interval->time / 1000;
	if (ms <= 0 || ms > MAX_TTL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid TTL: \"%s\"",
						DatumGetCString(DirectFunctionCall1(interval_out,
															IntervalPGetDatum(interval)))),
				 errdetail("A TTL is at least one millisecond and at most 3660 days."),
				 errhint("Use an interval such as '1 hour', or NULL for the default.")));
	return ms;
}

/* ------------------------------------------------------------------------
 * In which order its writers come
 * ------------------------------------------------------------------------
 */

/*
 * Does a key tell its columns' texts?  "{a}:{b}" does if a is a number, not if
 * it is text, which may hold a colon.
 */
static bool
key_is_unambiguous(const SlateRule *rule, TupleDesc desc)
{
	for (int i = 0; i < rule->template->ncolumns - 1; i++)
	{
		Oid			type = TupleDescAttr(desc, rule->attnums[i] - 1)->atttypid;
		char		next = rule->template->parts[i + 1].literal[0];

		if (!slate_types_has_plain_text(type) || isalnum((unsigned char) next) ||
			strchr(".+-", next) != NULL)
			return false;
	}
	return true;
}

static bool
rule_has_attnum(const SlateRule *rule, AttrNumber attnum)
{
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		if (rule->attnums[i] == attnum)
			return true;
	}
	return false;
}

/*
 * Does this index allow one row only for a key of the rule, at any time?  A
 * deferrable one does not: its second writer need not wait.  On a partition
 * only an index that is part of the topmost table's can promise that.
 */
static bool
index_orders_rule(Relation relation, HeapTuple index, const SlateRule *rule)
{
	Form_pg_index form = (Form_pg_index) GETSTRUCT(index);

	if (!form->indisunique || !form->indisvalid || !form->indimmediate ||
		!heap_attisnull(index, Anum_pg_index_indpred, NULL))
		return false;
	if (relation->rd_rel->relispartition &&
		list_length(get_partition_ancestors(form->indexrelid)) !=
		list_length(get_partition_ancestors(RelationGetRelid(relation))))
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		/* an expression has attnum 0, which no rule has */
		if (!rule_has_attnum(rule, form->indkey.values[i]))
			return false;
	}
	return true;
}

/* What tells one order from all others, whatever database pushes. */
static SlateOrder
order_of_rule(Relation relation, const SlateRule *rule)
{
	Oid			relid = RelationGetRelid(relation);
	uint64		identity[3] = {GetSystemIdentifier(), MyDatabaseId, relid};
	uint32		hash;

	if (relation->rd_rel->relispartition)
		identity[2] = llast_oid(get_partition_ancestors(relid));
	hash = hash_combine(hash_bytes((unsigned char *) identity, sizeof(identity)),
						hash_bytes((unsigned char *) rule->source,
								   strlen(rule->source)));
	return hash == SLATE_SHARED ? 1 : hash;
}

/*
 * Two writers of one key wait for each other if they write the same row, or if
 * a unique index makes the second one wait.  Lists are shared by nature.
 */
static SlateOrder
rule_order(Relation relation, const SlateRule *rule)
{
	SlateOrder	order = SLATE_SHARED;
	List	   *indexes;
	ListCell   *lc;

	if (rule->kind != RULE_ROW ||
		!key_is_unambiguous(rule, RelationGetDescr(relation)))
		return SLATE_SHARED;

	/* looked up, not opened: nobody is to wait here for a REINDEX */
	indexes = RelationGetIndexList(relation);
	foreach(lc, indexes)
	{
		Datum		oid = ObjectIdGetDatum(lfirst_oid(lc));
		HeapTuple	index = SearchSysCache1(INDEXRELID, oid);

		if (!HeapTupleIsValid(index))
			continue;
		if (index_orders_rule(relation, index, rule))
			order = order_of_rule(relation, rule);
		ReleaseSysCache(index);
	}
	list_free(indexes);
	return order;
}

/* ------------------------------------------------------------------------
 * What it means for the table
 * ------------------------------------------------------------------------
 */

static AttrNumber
column_attnum(Oid relid, const char *source, const char *column)
{
	AttrNumber	attnum = get_attnum(relid, column);

	if (attnum <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of cache rule \"%s\" does not exist in table \"%s\"",
						column, source, get_rel_name(relid)),
				 errdetail("Templates name columns of the table itself, spelled as they are; system columns are not among them."),
				 errhint("Name an existing column; to alter an attached table, detach it first with slate_cache_detach().")));
	return attnum;
}

/* Keys must be the same in every session, and seen by triggers. */
static const char *
attribute_error(Form_pg_attribute attribute, const char **hint)
{
	Oid			type = attribute->atttypid;
	Oid			culprit = slate_types_session_text(type);

	*hint = "Use a column of another type; to alter an attached table, detach it first with slate_cache_detach().";
	if (culprit == type)
		return psprintf("The text of type %s depends on settings of the session.",
						format_type_be(type));
	if (OidIsValid(culprit))
		return psprintf("Type %s holds type %s, whose text depends on settings of the session.",
						format_type_be(type), format_type_be(culprit));
	*hint = "Use a stored generated column.";
	if (compat_is_virtual(attribute))
		return "It is a virtual generated column, which triggers do not see.";
	return NULL;
}

/* Why a column cannot be part of keys, and what to do; NULL if it can. */
static const char *
key_column_error(Oid relid, AttrNumber attnum, const char **hint)
{
	HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid),
										Int16GetDatum(attnum));
	const char *error;

	*hint = "Name an existing column.";
	if (!HeapTupleIsValid(tuple))
		return "It has been dropped a moment ago.";
	error = attribute_error((Form_pg_attribute) GETSTRUCT(tuple), hint);
	ReleaseSysCache(tuple);
	return error;
}

/* The column of the table that is the template's ith. */
static AttrNumber
key_attnum(Oid relid, const SlateRule *rule, int i)
{
	const char *column = rule->template->parts[i].column;
	AttrNumber	attnum = column_attnum(relid, rule->source, column);
	const char *hint;
	const char *error = key_column_error(relid, attnum, &hint);

	if (error)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" cannot be part of cache key \"%s\"",
						column, rule->source),
				 errdetail("%s", error),
				 errhint("%s", hint)));
	return attnum;
}

/* What it means for the table. */
static void
bind_rule(Relation relation, SlateRule *rule)
{
	int			ncolumns = rule->template->ncolumns;

	rule->attnums = palloc_array(AttrNumber, ncolumns + 1);
	for (int i = 0; i < ncolumns; i++)
		rule->attnums[i] = key_attnum(RelationGetRelid(relation), rule, i);
	if (rule->value_column)
		rule->value_attnum = column_attnum(RelationGetRelid(relation), rule->source,
										   rule->value_column);
	rule->order = rule_order(relation, rule);
}

static void
compile_outputs(SlateRelation *into)
{
	into->outputs = palloc0_array(FmgrInfo, into->desc->natts);
	for (int r = 0; r < into->nrules; r++)
	{
		for (int i = 0; i < into->rules[r].template->ncolumns; i++)
		{
			AttrNumber	attnum = into->rules[r].attnums[i];
			Oid			output;
			bool		is_varlena;

			Oid			type = TupleDescAttr(into->desc, attnum - 1)->atttypid;

			getTypeOutputInfo(type, &output, &is_varlena);
			fmgr_info(output, &into->outputs[attnum - 1]);
			if (!slate_types_has_stable_text(type))
				into->key_needs_settings = true;
		}
	}
}

static void
look_at_columns(SlateRelation *into)
{
	into->sets_values = true;
	into->needs_settings = false;
	for (int i = 0; i < into->desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(into->desc, i);

		if (attribute->attisdropped)
			continue;
		if (!slate_types_has_stable_text(attribute->atttypid))
			into->needs_settings = true;
		if (compat_is_virtual(attribute))
			into->sets_values = false;
	}
}

bool
slate_rule_suits(char relkind)
{
	return relkind == RELKIND_RELATION || relkind == RELKIND_PARTITIONED_TABLE;
}

bool
slate_rule_fires(char tgenabled)
{
	return tgenabled == TRIGGER_FIRES_ALWAYS ||
		tgenabled == TRIGGER_FIRES_ON_ORIGIN;
}

/* Is it a partition, or a part of one, that its table does not show any more? */
static bool
is_being_detached(Oid relid)
{
	while (get_rel_relispartition(relid))
	{
		if (PartitionHasPendingDetach(relid))
			return true;
		relid = get_partition_parent(relid, true);
	}
	return false;
}

SlateRelation *
slate_rule_compile(Relation relation, const Trigger *trigger,
				   MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "slate_cache relation",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SlateRelation *into = palloc0_object(SlateRelation);

	into->context = context;
	into->relid = RelationGetRelid(relation);
	into->owner = relation->rd_rel->relowner;
	into->enabled = slate_rule_fires(trigger->tgenabled);
	slate_rule_parse_arguments(into, trigger->tgnargs, trigger->tgargs, false);

	into->desc = CreateTupleDescCopyConstr(RelationGetDescr(relation));
	for (int i = 0; i < into->nrules; i++)
		bind_rule(relation, &into->rules[i]);
	compile_outputs(into);
	look_at_columns(into);
	into->sets_values &= !is_being_detached(into->relid);
	into->format = slate_row_format(into->desc);

	/* until here an error would have freed it with the caller's context */
	MemoryContextSetParent(context, parent);
	MemoryContextSwitchTo(old);
	return into;
}

/* ------------------------------------------------------------------------
 * Whether it fits
 * ------------------------------------------------------------------------
 */

/*
 * A key's rows are looked for by its columns.  That is a reader's need: rules
 * that are there already serve their writers without it.
 */
static void
check_equality(Oid relid, const SlateRule *rule, AttrNumber attnum)
{
	Oid			type = get_atttype(relid, attnum);

	if (slate_types_has_equality(type))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FUNCTION),
			 errmsg("column \"%s\" cannot be part of cache key \"%s\"",
					get_attname(relid, attnum, false), rule->source),
			 errdetail("Type %s has no equality operator, by which a key's rows are found.",
					   format_type_be(type)),
			 errhint("Use a column of another type, or drop_keys; to alter an attached table, detach it first with slate_cache_detach().")));
}

void
slate_rule_check_columns(Oid relid, const SlateRule *rule)
{
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		AttrNumber	attnum = key_attnum(relid, rule, i);

		if (kind_dialect(rule->kind) == TEMPLATE_KEY)
			check_equality(relid, rule, attnum);
	}
	if (rule->value_column)
		(void) column_attnum(relid, rule->source, rule->value_column);
}

/*
 * An arrow that is no separator would be text of the key's.  What is to be dropped
 * may have that, unless it looks as if a column were meant; and so may triggers
 * that have one already.
 */
static void
check_arrow(const SlateRule *rule)
{
	const char *key = rule->template->source;
	const char *end = strrchr(key, '}');

	if (strstr(end ? end : key,
			   kind_dialect(rule->kind) == TEMPLATE_KEY ? "->" : " -> ") == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid key template \"%s\"", rule->source),
			 rule->kind == RULE_ROW
			 ? errdetail("An arrow between a key and the column that it holds has a blank before and after it.")
			 : errdetail("Only row_keys can hold one column of a row."),
			 errhint("For instance row_keys => ARRAY['shop:note:{id} -> note'].")));
}

/*
 * A key that begins with a column, or a wildcard, may be any key.  (A pattern
 * that does is dropped with each change: he who gives one means that.)
 */
static void
warn_of_any_key(const SlateRule *rule)
{
	if (kind_dialect(rule->kind) == TEMPLATE_KEY && rule->wildcard[0] == '*')
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("key template \"%s\" begins with a column", rule->source),
				 errdetail("By their names keys of others in the same Redis database cannot be told from its own: TRUNCATE, ALTER TABLE, slate_cache_flush() and the like remove them, too."),
				 errhint("Begin it with a text of its own, as in \"shop:invoice:{id}\", or give slate_cache a Redis database that nobody else uses.")));
}

char *
slate_rule_check(Relation relation, SlateRuleKind kind, const char *source)
{
	SlateRelation scratch = {0};
	SlateRule	rule = {0};

	parse_rule(&scratch, &rule, kind, source);
	check_arrow(&rule);
	warn_of_any_key(&rule);
	slate_rule_check_columns(RelationGetRelid(relation), &rule);
	return rule.template->source;
}

bool
slate_rule_fits(const SlateRule *rule)
{
	Oid			relid = rule->relation->relid;

	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		AttrNumber	attnum = get_attnum(relid, rule->template->parts[i].column);
		const char *hint;

		if (attnum <= 0 || key_column_error(relid, attnum, &hint) != NULL)
			return false;
	}
	return rule->value_column == NULL ||
		get_attnum(relid, rule->value_column) > 0;
}
