/*-------------------------------------------------------------------------
 *
 * select.c
 *	  SELECTs on an attached table that we write ourselves.
 *
 * SPI runs them as the current user, whose search_path is his: so every name
 * in them is qualified.  A schema can be renamed all the same, for which nobody
 * needs a lock on its tables; so whenever the server analyzes such a query, the
 * first time and for each plan that it makes anew, its first relation is
 * compared with the one that is meant.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "catalog/pg_operator.h"
#include "select.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

void
slate_select_begin(StringInfo sql, Relation relation)
{
	char	   *name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
												  RelationGetRelationName(relation));

	/* without the cast it would be its columns */
	appendStringInfo(sql, "SELECT (%s.*)::%s FROM %s%s AS %s", SLATE_SELECT_ROW, name,
					 relation->rd_rel->relkind == RELKIND_RELATION ? "ONLY " : "",
					 name, SLATE_SELECT_ROW);
}

/*
 * "row.column =".  A domain's column is taken for what it is made of: an operator
 * of the same name may be anybody's that fits the domain better, and that of
 * enums takes any of them, but no domain.
 */
void
slate_select_equality(StringInfo sql, const char *column, Oid declared)
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
	appendStringInfo(sql, "%s.%s", SLATE_SELECT_ROW, quote_identifier(column));
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

/* The query that may be analyzed now, and what its first relation must be. */
static struct
{
	const char *text;
	Oid			relid;
}			expected;

void
slate_select_check_analyzed(const char *text, const Query *query)
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

/* What SPI is to do with such a query: one of the functions below. */
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
slate_select_open(const char *sql, int nargs, Oid *types, Datum *values,
				  Oid relid)
{
	SpiStep		step = {.sql = sql,.nargs = nargs,.types = types,.values = values};

	take_step(open_cursor, &step, relid);
	PinPortal(step.portal);
	return step.portal;
}

void
slate_select_close(Portal portal)
{
	UnpinPortal(portal);
	SPI_cursor_close(portal);
}

SPIPlanPtr
slate_select_plan(const char *sql, int nargs, Oid *types, Oid relid)
{
	SpiStep		step = {.sql = sql,.nargs = nargs,.types = types};

	take_step(prepare, &step, relid);
	SPI_keepplan(step.plan);
	return step.plan;
}

void
slate_select_execute(SPIPlanPtr plan, Datum *values, Oid relid)
{
	CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(plan));
	SpiStep		step = {.plan = plan,.sql = source->query_string,.values = values};

	take_step(execute, &step, relid);
}
