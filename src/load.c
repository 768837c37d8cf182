/*-------------------------------------------------------------------------
 *
 * load.c
 *	  From a key to the value that its table has.
 *
 * A key is taken apart by its rule's template; each piece must be the text of
 * a value of its column, the very text ("042" is not the text of 42, and
 * 'slate:project:042' not a key that any writer of the row would touch).  Then
 * the rule's query finds the rows, and of those only rows that render to the
 * same key count.  So whatever equality means for the column's type, a value
 * is only stored under the key that its writers will find.
 *
 * A key that several rules or several splits may explain is tried in their
 * order until a row is found.
 *
 * Queries are prepared once per rule and backend.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/transam.h"
#include "attempt.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "load.h"
#include "owner.h"
#include "rowjson.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* A column may be called that, but before a dot it is the row. */
#define ROW_ALIAS "\"slate_cache row\""
#define KEYS_ALIAS "\"slate_cache keys\""

/* Keys of one rule that are loaded together. */
typedef struct LoadGroup
{
	SlateRule  *rule;			/* bound */
	int			nloads;
	SlateLoad **loads;			/* sorted by key */
	StringInfoData *lists;		/* RULE_LIST: rows so far, parallel to loads */
} LoadGroup;

/* ------------------------------------------------------------------------
 * Types
 * ------------------------------------------------------------------------
 */

static Oid
column_type(const SlateRule *rule, int column)
{
	Form_pg_attribute attribute =
	TupleDescAttr(rule->relation->desc, rule->attnums[column] - 1);

	return getBaseType(attribute->atttypid);
}

/* Are equal values of the column equal bytes? */
static bool
equality_is_identity(const SlateRule *rule, int column)
{
	Form_pg_attribute attribute =
	TupleDescAttr(rule->relation->desc, rule->attnums[column] - 1);

	switch (column_type(rule, column))
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case UUIDOID:
		case DATEOID:
			return true;
		case TEXTOID:
		case VARCHAROID:
			return get_collation_isdeterministic(attribute->attcollation);
		default:
			return false;
	}
}

static bool
all_digits(const char *text, int maxlen)
{
	int			len = strlen(text);

	return len > 0 && len <= maxlen &&
		strspn(text, "0123456789") == (size_t) len;
}

/* Is this a text that the type's input function takes for certain? */
static bool
is_plain_input(Oid type, const char *text)
{
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return true;
		case INT2OID:
			return all_digits(text, 4);
		case INT4OID:
			return all_digits(text, 9);
		case INT8OID:
			return all_digits(text, 18);
		default:
			return false;
	}
}

/* A domain in an array has constraints, and a tsquery a syntax. */
static bool
is_about_input(int sqlerrcode)
{
	int			category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category == ERRCODE_DATA_EXCEPTION ||
		category == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION ||
		sqlerrcode == ERRCODE_SYNTAX_ERROR;
}

typedef struct InputState
{
	Oid			input;
	Oid			ioparam;
	char	   *text;
	Datum		value;
} InputState;

/* SlateAttemptFn */
static bool
call_input(void *arg)
{
	InputState *state = arg;

	state->value = OidInputFunctionCall(state->input, state->text,
										state->ioparam, -1);
	return true;
}

/* May its input function call what its owner has defined, a domain's check? */
static bool
may_call_code(Oid type)
{
	return type >= FirstNormalObjectId && !type_is_enum(type);
}

/* Call an input function that may not like its input, of a column's type. */
static bool
input_or_false(const SlateRelation *relation, Oid type, char *text,
			   Datum *value)
{
	InputState	state = {.text = text};
	ErrorData  *error;

	getTypeInputInfo(type, &state.input, &state.ioparam);
	if (may_call_code(type))
		error = slate_owner_attempt(relation->owner, call_input, &state);
	else
		error = slate_attempt(call_input, &state);
	if (error == NULL)
	{
		*value = state.value;
		return true;
	}
	if (!is_about_input(error->sqlerrcode))
		ReThrowError(error);
	FreeErrorData(error);
	return false;
}

/* The value whose text this is; false if there is none. */
static bool
value_of_text(const SlateRule *rule, int column, SlateSlice piece,
			  Datum *value)
{
	Oid			type = column_type(rule, column);
	char	   *text = pnstrdup(piece.start, piece.len);
	Oid			input;
	Oid			ioparam;

	if (is_plain_input(type, text))
	{
		getTypeInputInfo(type, &input, &ioparam);
		*value = OidInputFunctionCall(input, text, ioparam, -1);
	}
	else if (!input_or_false(rule->relation, type, text, value))
		return false;
	return strcmp(text,
				  OutputFunctionCall(&rule->relation->outputs[rule->attnums[column] - 1],
									 *value)) == 0;
}

/* A column that stands in the template twice must have one text. */
static bool
pieces_agree(const SlateRule *rule, const SlateMatch *match)
{
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		for (int j = 0; j < i; j++)
		{
			if (rule->attnums[i] == rule->attnums[j] &&
				(match->values[i].len != match->values[j].len ||
				 memcmp(match->values[i].start, match->values[j].start,
						match->values[i].len) != 0))
				return false;
		}
	}
	return true;
}

/* Convert all pieces of a match by its bound rule; values has room for them. */
static bool
values_of_match(const SlateRule *rule, const SlateMatch *match, Datum *values)
{
	int			nestlevel = 0;
	bool		fits = pieces_agree(rule, match);

	if (rule->relation->key_needs_settings)
		nestlevel = slate_rowjson_begin_settings();
	for (int i = 0; fits && i < rule->template->ncolumns; i++)
		fits = value_of_text(rule, i, match->values[i], &values[i]);
	if (nestlevel > 0)
		slate_rowjson_end_settings(nestlevel);
	return fits;
}

/* ------------------------------------------------------------------------
 * Queries
 * ------------------------------------------------------------------------
 */

/*
 * "row.column =".  A domain's column is taken for what it is made of: an operator
 * of the same name may be anybody's that fits the domain better, and that of
 * enums takes any of them, but no domain.
 */
static void
append_equality(StringInfo sql, const char *column, Oid declared)
{
	Oid			type = getBaseType(declared);
	Oid			operator = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("type %s has no equality operator", format_type_be(type)),
				 errhint("Use a key column of another type.")));
	form = (Form_pg_operator) GETSTRUCT(tuple);
	appendStringInfo(sql, "%s.%s", ROW_ALIAS, quote_identifier(column));
	if (type != declared)
		appendStringInfo(sql, "::%s",
						 format_type_extended(type, -1,
											  FORMAT_TYPE_TYPEMOD_GIVEN |
											  FORMAT_TYPE_FORCE_QUALIFY));
	appendStringInfo(sql, " OPERATOR(%s.%s) ",
					 quote_identifier(get_namespace_name(form->oprnamespace)),
					 NameStr(form->oprname));
	ReleaseSysCache(tuple);
}

/* The same for a rule's column, as a condition of a query's. */
static void
append_condition(StringInfo sql, const SlateRule *rule, int column)
{
	appendStringInfoString(sql, column == 0 ? " WHERE " : " AND ");
	append_equality(sql, rule->template->parts[column].column,
					TupleDescAttr(rule->relation->desc,
								  rule->attnums[column] - 1)->atttypid);
}

static void
append_from(StringInfo sql, Relation relation)
{
	char	   *name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
												  RelationGetRelationName(relation));

	/* without the cast it would be its columns */
	appendStringInfo(sql, "SELECT (%s.*)::%s FROM %s%s AS %s", ROW_ALIAS, name,
					 relation->rd_rel->relkind == RELKIND_RELATION ? "ONLY " : "",
					 name, ROW_ALIAS);
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

		appendStringInfo(sql, "%s%s.%s", i == 0 ? " ORDER BY " : ", ", ROW_ALIAS,
						 quote_identifier(get_attname(RelationGetRelid(relation),
													  attnum, false)));
	}
	index_close(primary, AccessShareLock);
}

/*
 * A query of ours that may be analyzed now, and its first relation.  To rename a
 * schema takes no lock on its tables: so a name may come to mean another one,
 * a view, say, which would run what its owner likes.  A plan that is kept is
 * analyzed once more whenever the server thinks fit, so we look each time.
 */
static struct
{
	const char *text;
	Oid			relid;
}			expected;

void
slate_load_check_analyzed(const char *text, const Query *query)
{
	const RangeTblEntry *table;

	if (expected.text == NULL || text == NULL ||
		strcmp(text, expected.text) != 0)
		return;
	table = linitial_node(RangeTblEntry, query->rtable);
	if (table->rtekind != RTE_RELATION || table->relid != expected.relid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("table \"%s\" has just got another name",
						get_rel_name(expected.relid)),
				 errdetail("What it was called is another relation now."),
				 errhint("Try again.")));
}

/* What SPI is to do with a query of ours: exactly one of these. */
typedef struct SpiStep
{
	SPIPlanPtr	plan;			/* NULL: to be prepared */
	const char *sql;
	int			nargs;
	Oid		   *types;
	Datum	   *values;
	Portal		portal;			/* comes back */
} SpiStep;

static void
prepare(SpiStep *step)
{
	step->plan = SPI_prepare(step->sql, step->nargs, step->types);
	if (step->plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", step->sql,
			 SPI_result_code_string(SPI_result));
}

static void
execute(SpiStep *step)
{
	if (SPI_execute_plan(step->plan, step->values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not load rows for cache keys");
}

static void
open_cursor(SpiStep *step)
{
	prepare(step);
	step->portal = SPI_cursor_open(NULL, step->plan, step->values, NULL, true);
}

/* What runs within may load something, too. */
static void
take_step(void (*fn) (SpiStep *), SpiStep *step, Oid relid)
{
	const char *text_before = expected.text;
	Oid			relid_before = expected.relid;

	expected.text = step->sql;
	expected.relid = relid;
	PG_TRY();
	{
		fn(step);
	}
	PG_FINALLY();
	{
		expected.text = text_before;
		expected.relid = relid_before;
	}
	PG_END_TRY();
}

Portal
slate_load_open(const char *sql, int nargs, Oid *types, Datum *values,
				Oid relid)
{
	SpiStep		step = {.sql = sql,.nargs = nargs,.types = types,.values = values};

	take_step(open_cursor, &step, relid);
	PinPortal(step.portal);
	return step.portal;
}

void
slate_load_close(Portal portal)
{
	UnpinPortal(portal);
	SPI_cursor_close(portal);
}

static SPIPlanPtr
keep_plan(const char *sql, int nargs, Oid *types, Oid relid)
{
	SpiStep		step = {.sql = sql,.nargs = nargs,.types = types};

	take_step(prepare, &step, relid);
	SPI_keepplan(step.plan);
	return step.plan;
}

static void
execute_plan(SPIPlanPtr plan, Datum *values, Oid relid)
{
	CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(plan));
	SpiStep		step = {.plan = plan,.sql = source->query_string,.values = values};

	take_step(execute, &step, relid);
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
	append_from(&sql, relation);
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		types[i] = column_type(rule, i);
		append_condition(&sql, rule, i);
		appendStringInfo(&sql, "$%d", i + 1);
	}
	append_order(&sql, relation, rule);
	return rule->plan = keep_plan(sql.data, rule->template->ncolumns, types,
								  RelationGetRelid(relation));
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
	append_from(&sql, relation);
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
		types[i] = get_array_type(column_type(rule, i));
		append_condition(&sql, rule, i);
		appendStringInfo(&sql, "%s.k%d", KEYS_ALIAS, i + 1);
	}
	append_order(&sql, relation, rule);
	return rule->plan_many = keep_plan(sql.data, ncolumns, types,
									   RelationGetRelid(relation));
}

static bool
can_plan_for_many(const SlateRule *rule)
{
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		if (!equality_is_identity(rule, i) ||
			!OidIsValid(get_array_type(column_type(rule, i))))
			return false;
	}
	return true;
}

static Datum
array_of_column(const LoadGroup *group, Datum *values, int column)
{
	int			ncolumns = group->rule->template->ncolumns;
	Oid			type = column_type(group->rule, column);
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

/* Leaves garbage in the current memory context; what counts is in the strings'. */
static void
take_row(LoadGroup *group, HeapTuple tuple, StringInfo key, StringInfo json,
		 MemoryContext context)
{
	SlateRule  *rule = group->rule;
	SlateLoad **place;
	bool		too_long;

	resetStringInfo(key);
	if (!slate_rules_render(rule, tuple, key, &too_long))
		return;
	place = find_load(group, key);
	if (place == NULL || (rule->kind == RULE_ROW && (*place)->json))
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
		StringInfo	list = &group->lists[place - group->loads];

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

static void
finish_lists(LoadGroup *group)
{
	if (group->rule->kind != RULE_LIST)
		return;
	for (int i = 0; i < group->nloads; i++)
	{
		StringInfo	list = &group->lists[i];

		appendStringInfoString(list, list->len == 0 ? "[]" : "]");
		group->loads[i]->json = list->data;
		group->loads[i]->len = list->len;
	}
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
		execute_plan(plan_for_many(relation, group->rule), arrays,
					 RelationGetRelid(relation));
		take_rows(group, context);
		return;
	}
	for (int i = 0; i < group->nloads; i++)
	{
		LoadGroup	single = {group->rule, 1, &group->loads[i],
		&group->lists[i]};

		execute_plan(plan_for_one(relation, group->rule),
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
		if (values_of_match(group->rule, &loads[i].match, loads[i].values))
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

static void
load_group(Relation relation, LoadGroup *group, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);

	group->lists = palloc0_array(StringInfoData, group->nloads);
	for (int i = 0; i < group->nloads; i++)
		initStringInfo(&group->lists[i]);
	MemoryContextSwitchTo(old);

	execute_group(relation, group, group_values(group), context);
	finish_lists(group);
	for (int i = 0; i < group->nloads; i++)
	{
		SlateLoad  *load = group->loads[i];

		load->settled = load->json != NULL;
		load->ttl = slate_rule_ttl(group->rule);
		load->is_list = group->rule->kind == RULE_LIST;
	}
}

/* Go on to the next rule, or split, that may explain a key. */
static void
advance(SlateLoad *load)
{
	if (!slate_rules_match(load->key.start, load->key.len, &load->match))
		load->settled = true;
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

static void
walk_cursor(Portal portal, SlateRelation *rules, SlateRowFn fn, void *arg)
{
	for (;;)
	{
		SPI_cursor_fetch(portal, true, 1000);
		if (SPI_processed == 0)
			return;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			HeapTupleData tuple;

			tuple_of_row(rules, i, &tuple);
			fn(rules, &tuple, arg);
		}
		SPI_freetuptable(SPI_tuptable);
	}
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
	append_from(&sql, relation);
	appendStringInfoString(&sql, " WHERE ");
	append_equality(&sql, column, declared);
	appendStringInfoString(&sql, "$1");

	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	portal = slate_load_open(sql.data, 1, &type, &value,
							 RelationGetRelid(relation));
	walk_cursor(portal, rules, fn, arg);
	slate_load_close(portal);
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
	if (input_or_false(rules, getBaseType(declared), text, &value))
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
