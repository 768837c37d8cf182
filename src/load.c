/*-------------------------------------------------------------------------
 *
 * load.c
 *	  From a key to the value that its table has.
 *
 * A key is taken apart by its rule's template, and its pieces must be values of
 * their columns (pieces.c).  Then the rule's query finds the rows, and of those
 * only rows that render to the same key count.  So whatever equality means for
 * the column's type, a value is only stored under the key that its writers will
 * find.
 *
 * A key that several rules or several splits may explain is tried in their
 * order until a row is found.  A list has the rows of all splits by its rule,
 * one after the other; where no rule has any, but one has lists, it is empty.
 *
 * Queries are prepared once per rule and backend.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "load.h"
#include "pieces.h"
#include "rowjson.h"
#include "select.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* What each row of the query's other relation is called. */
#define KEYS_ALIAS "\"slate_cache keys\""

/* Keys of one rule that are loaded together. */
typedef struct LoadGroup
{
	SlateRule  *rule;			/* bound */
	int			nloads;
	SlateLoad **loads;			/* sorted by key */
} LoadGroup;

/* ------------------------------------------------------------------------
 * Queries
 * ------------------------------------------------------------------------
 */

/* A rule's column, as a condition of a query's. */
static void
append_condition(StringInfo sql, const SlateRule *rule, int column)
{
	appendStringInfoString(sql, column == 0 ? " WHERE " : " AND ");
	slate_select_equality(sql, rule->template->parts[column].column,
						  TupleDescAttr(rule->relation->desc,
										rule->attnums[column] - 1)->atttypid);
}

/* The table's primary key, opened; or NULL. */
static Relation
open_primary_key(Relation relation)
{
	List	   *indexes = RelationGetIndexList(relation);
	Relation	primary = NULL;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		primary = index_open(lfirst_oid(lc), AccessShareLock);
		if (primary->rd_index->indisprimary)
			break;
		index_close(primary, AccessShareLock);
		primary = NULL;
	}
	list_free(indexes);
	return primary;
}

/*
 * A list has the order of the primary key, if there is one: of the key's
 * columns as it names them, which need not be as the table has them.
 */
static void
append_order(StringInfo sql, Relation relation, const SlateRule *rule)
{
	Relation	primary;

	if (rule->kind != RULE_LIST)
		return;
	primary = open_primary_key(relation);
	if (primary == NULL)
		return;
	for (int i = 0; i < primary->rd_index->indnkeyatts; i++)
	{
		AttrNumber	attnum = primary->rd_index->indkey.values[i];

		appendStringInfo(sql, "%s%s.%s", i == 0 ? " ORDER BY " : ", ", SLATE_SELECT_ROW,
						 quote_identifier(get_attname(RelationGetRelid(relation),
													  attnum, false)));
	}
	index_close(primary, AccessShareLock);
}


/* ... WHERE a = $1 AND b = $2 */
static SPIPlanPtr
plan_for_one(Relation relation, SlateRule *rule)
{
	Oid			types[SLATE_TEMPLATE_MAX_COLUMNS];
	StringInfoData sql;

	if (rule->plan)
		return rule->plan;
	initStringInfo(&sql);
	slate_select_begin(&sql, relation);
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		types[i] = slate_pieces_type(rule, i);
		append_condition(&sql, rule, i);
		appendStringInfo(&sql, "$%d", i + 1);
	}
	append_order(&sql, relation, rule);
	return rule->plan = slate_select_plan(sql.data, rule->template->ncolumns,
										  types, RelationGetRelid(relation));
}

/*
 * ..., ROWS FROM (unnest($1), unnest($2)) AS keys(k1, k2) WHERE a = k1 AND ...
 * All names are qualified: search_path is the user's.
 */
static SPIPlanPtr
plan_for_many(Relation relation, SlateRule *rule)
{
	int			ncolumns = rule->template->ncolumns;
	Oid			types[SLATE_TEMPLATE_MAX_COLUMNS];
	StringInfoData sql;

	if (rule->plan_many)
		return rule->plan_many;
	initStringInfo(&sql);
	slate_select_begin(&sql, relation);
	appendStringInfoString(&sql, ", ROWS FROM (");
	for (int i = 0; i < ncolumns; i++)
		appendStringInfo(&sql, "%spg_catalog.unnest($%d)",
						 i > 0 ? ", " : "", i + 1);
	appendStringInfo(&sql, ") AS %s(", KEYS_ALIAS);
	for (int i = 0; i < ncolumns; i++)
		appendStringInfo(&sql, "%sk%d", i > 0 ? ", " : "", i + 1);
	appendStringInfoChar(&sql, ')');
	for (int i = 0; i < ncolumns; i++)
	{
		types[i] = get_array_type(slate_pieces_type(rule, i));
		append_condition(&sql, rule, i);
		appendStringInfo(&sql, "%s.k%d", KEYS_ALIAS, i + 1);
	}
	append_order(&sql, relation, rule);
	return rule->plan_many = slate_select_plan(sql.data, ncolumns, types,
											   RelationGetRelid(relation));
}

static bool
can_plan_for_many(const SlateRule *rule)
{
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		if (!slate_pieces_equality_is_identity(rule, i) ||
			!OidIsValid(get_array_type(slate_pieces_type(rule, i))))
			return false;
	}
	return true;
}

static Datum
array_of_column(const LoadGroup *group, Datum *values, int column)
{
	int			ncolumns = group->rule->template->ncolumns;
	Oid			type = slate_pieces_type(group->rule, column);
	Datum	   *elements = palloc_array(Datum, group->nloads);
	int16		typlen;
	bool		byval;
	char		align;

	for (int i = 0; i < group->nloads; i++)
		elements[i] = values[i * ncolumns + column];
	get_typlenbyvalalign(type, &typlen, &byval, &align);
	return PointerGetDatum(construct_array(elements, group->nloads, type,
										   typlen, byval, align));
}

/* ------------------------------------------------------------------------
 * Rows
 * ------------------------------------------------------------------------
 */

static int
compare_loads(const void *a, const void *b)
{
	return slate_slice_compare(&(*(SlateLoad *const *) a)->key,
							   &(*(SlateLoad *const *) b)->key);
}

static SlateLoad **
find_load(const LoadGroup *group, StringInfo key)
{
	SlateLoad	wanted = {.key = {key->data, key->len}};
	SlateLoad  *pointer = &wanted;

	return bsearch(&pointer, group->loads, group->nloads, sizeof(SlateLoad *),
				   compare_loads);
}

/*
 * Has the row been found by its own texts?  If not, by values that are equal: then
 * it is found by these, too.  The key is the same, so lengths tell.
 */
static bool
is_of_split(const SlateMatch *match, const SlateSlice *values)
{
	for (int i = 0; i < match->rule->template->ncolumns; i++)
	{
		if (values[i].len != match->values[i].len)
			return false;
	}
	return true;
}

/* Leaves garbage in the current memory context; what counts is in the strings'. */
static void
take_row(LoadGroup *group, HeapTuple tuple, StringInfo key, StringInfo json,
		 MemoryContext context)
{
	SlateRule  *rule = group->rule;
	SlateLoad **place;
	SlateSlice	values[SLATE_TEMPLATE_MAX_COLUMNS];
	bool		too_long;

	resetStringInfo(key);
	if (!slate_rules_render(rule, tuple, key, values, &too_long))
		return;
	place = find_load(group, key);
	if (place == NULL || (rule->kind == RULE_ROW && (*place)->json) ||
		(rule->kind == RULE_LIST && !is_of_split(&(*place)->match, values)))
		return;

	resetStringInfo(json);
	slate_rowjson_render(rule->relation->desc, tuple, rule->value_attnum,
						 rule->relation->owner, json);
	if (rule->kind == RULE_ROW)
	{
		(*place)->json = MemoryContextStrdup(context, json->data);
		(*place)->len = json->len;
	}
	else
	{
		StringInfo	list = (*place)->list;

		appendStringInfoChar(list, list->len == 0 ? '[' : ',');
		appendBinaryStringInfo(list, json->data, json->len);
	}
}

/* The ith row of SPI's result, whose one column is a row of the table. */
static void
tuple_of_row(const SlateRelation *relation, uint64 i, HeapTuple tuple)
{
	bool		isnull;
	Datum		row = SPI_getbinval(SPI_tuptable->vals[i],
									SPI_tuptable->tupdesc, 1, &isnull);

	if (SPI_gettypeid(SPI_tuptable->tupdesc, 1) !=
		get_rel_type_id(relation->relid))
		elog(ERROR, "unexpected type of a row of relation %u",
			 relation->relid);
	memset(tuple, 0, sizeof(*tuple));
	tuple->t_data = DatumGetHeapTupleHeader(row);
	tuple->t_len = HeapTupleHeaderGetDatumLength(tuple->t_data);
}

/* The rows of the query that has just been executed, in the caller's context */
static void
take_rows(LoadGroup *group, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	MemoryContext scratch = AllocSetContextCreate(context, "slate_cache row",
												  ALLOCSET_DEFAULT_SIZES);
	StringInfoData key;
	StringInfoData json;
	int			nestlevel = 0;

	initStringInfo(&key);
	initStringInfo(&json);
	MemoryContextSwitchTo(scratch);
	if (group->rule->relation->needs_settings)
		nestlevel = slate_rowjson_begin_settings();
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTupleData tuple;

		tuple_of_row(group->rule->relation, i, &tuple);
		take_row(group, &tuple, &key, &json, context);
		MemoryContextReset(scratch);
	}
	if (nestlevel > 0)
		slate_rowjson_end_settings(nestlevel);
	SPI_freetuptable(SPI_tuptable);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
}

/* ------------------------------------------------------------------------
 * Groups
 * ------------------------------------------------------------------------
 */

static void
execute_group(Relation relation, LoadGroup *group, Datum *values,
			  MemoryContext context)
{
	int			ncolumns = group->rule->template->ncolumns;

	if (group->nloads > 1 && can_plan_for_many(group->rule))
	{
		Datum		arrays[SLATE_TEMPLATE_MAX_COLUMNS];

		for (int i = 0; i < ncolumns; i++)
			arrays[i] = array_of_column(group, values, i);
		slate_select_execute(plan_for_many(relation, group->rule), arrays,
							 RelationGetRelid(relation));
		take_rows(group, context);
		return;
	}
	for (int i = 0; i < group->nloads; i++)
	{
		LoadGroup	single = {group->rule, 1, &group->loads[i]};

		slate_select_execute(plan_for_one(relation, group->rule),
							 values + i * ncolumns, RelationGetRelid(relation));
		take_rows(&single, context);
	}
}

/* Keys whose match the group's rule is, and whose pieces are values. */
static void
gather_group(SlateLoad *loads, int nloads, const SlateRule *unbound,
			 LoadGroup *group)
{
	int			ncolumns = group->rule->template->ncolumns;

	group->loads = palloc_array(SlateLoad *, nloads);
	for (int i = 0; i < nloads; i++)
	{
		if (loads[i].settled || loads[i].match.rule != unbound)
			continue;
		loads[i].values = palloc_array(Datum, ncolumns);
		if (slate_pieces_values(group->rule, &loads[i].match, loads[i].values))
		{
			loads[i].possible = true;
			group->loads[group->nloads++] = &loads[i];
		}
	}
	qsort(group->loads, group->nloads, sizeof(SlateLoad *), compare_loads);
}

static Datum *
group_values(const LoadGroup *group)
{
	int			ncolumns = group->rule->template->ncolumns;
	Datum	   *values = palloc_array(Datum, group->nloads * ncolumns);

	/* a domain's check may say otherwise when it is asked again */
	for (int i = 0; i < group->nloads; i++)
		memcpy(values + i * ncolumns, group->loads[i]->values,
			   ncolumns * sizeof(Datum));
	return values;
}

/* Each of the group's keys has a list now, if only an empty one. */
static void
begin_lists(LoadGroup *group, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int i = 0; i < group->nloads; i++)
	{
		SlateLoad  *load = group->loads[i];

		if (load->list)
			continue;
		load->list = makeStringInfo();
		load->ttl = slate_rule_ttl(group->rule);
		load->is_list = true;
	}
	MemoryContextSwitchTo(old);
}

static void
load_group(Relation relation, LoadGroup *group, MemoryContext context)
{
	bool		is_list = group->rule->kind == RULE_LIST;

	if (is_list)
		begin_lists(group, context);
	execute_group(relation, group, group_values(group), context);
	for (int i = 0; i < group->nloads; i++)
	{
		SlateLoad  *load = group->loads[i];

		if (is_list ? load->list->len == 0 : load->json == NULL)
			continue;
		load->settled = !is_list;
		load->is_list = is_list;
		load->ttl = slate_rule_ttl(group->rule);
	}
}

static void
settle(SlateLoad *load)
{
	load->settled = true;
	if (load->list == NULL)
		return;
	appendStringInfoString(load->list, load->list->len == 0 ? "[]" : "]");
	load->json = load->list->data;
	load->len = load->list->len;
}

/*
 * Go on to the next rule, or split, that may explain a key.  A list that has rows
 * gets no other rule's.  If rules have changed all begins again.
 */
static void
advance(SlateLoad *load)
{
	const SlateRule *rule = load->match.rule;
	uint64		generation = load->match.generation;
	bool		is_next = slate_rules_match(load->key.start, load->key.len,
											&load->match);

	if (load->match.generation != generation)
	{
		load->list = NULL;
		load->is_list = false;
	}
	if (!is_next ||
		(load->list && load->list->len > 0 && load->match.rule != rule))
		settle(load);
}

/*
 * Load what one rule may explain.  The lock on the table is taken first: from
 * then on the rule holds for the rows that we shall see, and a snapshot sees
 * what whoever held the lock before has made of them.  If it is not this rule
 * any more, advance() notices that the rules have changed.
 */
static void
load_by_rule(SlateLoad *loads, int nloads, SlateRule *rule,
			 MemoryContext context)
{
	LoadGroup	group = {0};
	Oid			relid = rule->relation->relid;
	Relation	relation = try_relation_open(relid, AccessShareLock);

	if (relation)
		group.rule = slate_rules_bind(relation, rule);
	if (group.rule)
	{
		gather_group(loads, nloads, rule, &group);
		PushActiveSnapshot(GetTransactionSnapshot());
		if (group.nloads > 0)
			load_group(relation, &group, context);
		PopActiveSnapshot();
	}
	for (int i = 0; i < nloads; i++)
	{
		if (loads[i].settled || loads[i].match.rule != rule)
			continue;
		advance(&loads[i]);
	}
	if (relation)
		relation_close(relation, NoLock);
}

void
slate_load(SlateLoad *loads, int nloads)
{
	MemoryContext context = CurrentMemoryContext;

	SPI_connect();
	for (int i = 0; i < nloads; i++)
		advance(&loads[i]);
	for (int i = 0; i < nloads; i++)
	{
		while (!loads[i].settled)
			load_by_rule(loads, nloads, loads[i].match.rule, context);
	}
	SPI_finish();
}

/* ------------------------------------------------------------------------
 * Rows by one column
 * ------------------------------------------------------------------------
 */

/* What fn leaves in memory goes with each portion: there may be millions of rows. */
static void
walk_cursor(Portal portal, SlateRelation *rules, SlateRowFn fn, void *arg)
{
	MemoryContext portion = AllocSetContextCreate(CurrentMemoryContext,
												  "slate_cache rows",
												  ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		MemoryContext old;

		SPI_cursor_fetch(portal, true, 1000);
		if (SPI_processed == 0)
			break;
		old = MemoryContextSwitchTo(portion);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			HeapTupleData tuple;

			tuple_of_row(rules, i, &tuple);
			fn(rules, &tuple, arg);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(portion);
		SPI_freetuptable(SPI_tuptable);
	}
	MemoryContextDelete(portion);
}

/* SELECT ... WHERE column = value */
static void
walk_rows(Relation relation, SlateRelation *rules, const char *column,
		  Oid declared, Datum value, SlateRowFn fn, void *arg)
{
	Oid			type = getBaseType(declared);
	StringInfoData sql;
	Portal		portal;

	initStringInfo(&sql);
	slate_select_begin(&sql, relation);
	appendStringInfoString(&sql, " WHERE ");
	slate_select_equality(&sql, column, declared);
	appendStringInfoString(&sql, "$1");

	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	portal = slate_select_open(sql.data, 1, &type, &value,
							   RelationGetRelid(relation));
	walk_cursor(portal, rules, fn, arg);
	slate_select_close(portal);
	PopActiveSnapshot();
	SPI_finish();
}

static void
load_rows(Relation relation, const char *column, char *text, SlateRowFn fn,
		  void *arg)
{
	SlateRelation *rules = slate_rules_get(relation);
	AttrNumber	attnum = get_attnum(RelationGetRelid(relation), column);
	Oid			declared;
	Datum		value;
	int			nestlevel;

	if (rules == NULL || attnum == InvalidAttrNumber)
		return;
	declared = get_atttype(RelationGetRelid(relation), attnum);
	nestlevel = slate_rowjson_begin_settings();
	if (slate_pieces_input(rules, getBaseType(declared), text, &value))
		walk_rows(relation, rules, column, declared, value, fn, arg);
	slate_rowjson_end_settings(nestlevel);
}

void
slate_load_rows(Oid relid, const char *column, char *text,
				SlateRowFn fn, void *arg)
{
	Relation	relation = try_relation_open(relid, AccessShareLock);

	/* whoever looked for it did so without a lock */
	if (relation == NULL)
		return;
	load_rows(relation, column, text, fn, arg);
	relation_close(relation, NoLock);
}
