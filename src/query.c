/*-------------------------------------------------------------------------
 *
 * query.c
 *	  The query of slate_cache_fetch(), and its result as JSON.
 *
 * It runs as its caller's, through SPI, with a snapshot that is taken when it
 * runs: after the lease, that is.  It must be one SELECT that writes and locks
 * nothing: what is cached stands for it, and a hit does not run it.
 *
 * Throws; no locks of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "executor/spi.h"
#include "funcapi.h"
#include "nodes/params.h"
#include "parser/parse_param.h"
#include "query.h"
#include "rowjson.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

static void
infer_parameters(ParseState *pstate, void *arg)
{
	SlateQuery *query = arg;

	setup_parse_variable_parameters(pstate, &query->types, &query->ntypes);
}

static ParamListInfo
query_parameters(const SlateQuery *query)
{
	ParamListInfo params = makeParamList(query->ntypes);

	for (int i = 0; i < query->ntypes; i++)
	{
		ParamExternData *param = &params->params[i];
		Oid			type = OidIsValid(query->types[i]) ? query->types[i] : TEXTOID;
		Oid			input;
		Oid			ioparam;

		getTypeInputInfo(type, &input, &ioparam);
		param->isnull = query->args[i] == NULL;
		param->value = OidInputFunctionCall(input, query->args[i], ioparam, -1);
		param->pflags = PARAM_FLAG_CONST;
		param->ptype = type;
	}
	return params;
}

static void
check_argument_count(const SlateQuery *query)
{
	if (query->ntypes > query->nargs)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_PARAMETER),
				 errmsg("the query has more parameters than arguments"),
				 errdetail_plural("It uses $%d; %d argument was given.",
								  "It uses $%d; %d arguments were given.",
								  query->nargs, query->ntypes, query->nargs),
				 errhint("Pass one argument after the TTL for each parameter.")));
}

/*
 * One column: the value of the one row, NULL if there is no row.  Several: an
 * array of row objects.
 */
static char *
result_as_json(SPITupleTable *table, uint64 nrows, int *len)
{
	StringInfoData json;

	initStringInfo(&json);
	if (table->tupdesc->natts == 1)
	{
		if (nrows == 0)
			return NULL;
		if (nrows > 1)
			ereport(ERROR,
					(errcode(ERRCODE_CARDINALITY_VIOLATION),
					 errmsg("a query of one column must return one row at most"),
					 errdetail("It returned " UINT64_FORMAT " rows.", nrows),
					 errhint("Aggregate the rows, for instance with jsonb_agg(), or select several columns to get an array of objects.")));
		slate_rowjson_render(table->tupdesc, table->vals[0], 1, GetUserId(),
							 &json);
	}
	else
	{
		MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
													  "slate_cache row",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext old = CurrentMemoryContext;

		appendStringInfoChar(&json, '[');
		for (uint64 i = 0; i < nrows; i++)
		{
			if (i > 0)
				appendStringInfoChar(&json, ',');
			MemoryContextSwitchTo(scratch);
			slate_rowjson_render(table->tupdesc, table->vals[i],
								 InvalidAttrNumber, GetUserId(), &json);
			MemoryContextSwitchTo(old);
			MemoryContextReset(scratch);
		}
		appendStringInfoChar(&json, ']');
		MemoryContextDelete(scratch);
	}
	*len = json.len;
	return json.data;
}

/* A SELECT that neither writes nor locks rows?  Deeper in it that is refused. */
static bool
only_reads(SPIPlanPtr plan)
{
	CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(plan));
	Query	   *query = linitial_node(Query, source->query_list);

	return query->commandType == CMD_SELECT && query->utilityStmt == NULL &&
		!query->hasModifyingCTE && query->rowMarks == NIL;
}

compat_noreturn static void
refuse_query(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("slate_cache_fetch() needs one query that returns rows"),
			 errdetail("A cached result stands for its query, so the query must not change or lock anything."),
			 errhint("Pass a single SELECT.")));
}

char *
slate_query_run(SlateQuery *query, int *len)
{
	MemoryContext caller = CurrentMemoryContext;
	SPIPlanPtr	plan;
	char	   *json;
	int			nestlevel;
	int			status;

	/*
	 * The parser would allocate the types where SPI frees them too early; it
	 * leaves an array that is large enough where it is.
	 */
	query->types = palloc0_array(Oid, query->nargs + 1);
	query->ntypes = query->nargs;

	SPI_connect();
	plan = SPI_prepare_params(query->text, infer_parameters, query, 0);
	if (plan == NULL)
		elog(ERROR, "could not prepare the query: %s",
			 SPI_result_code_string(SPI_result));
	if (!SPI_is_cursor_plan(plan) || !only_reads(plan))
		refuse_query();
	check_argument_count(query);

	PushActiveSnapshot(GetTransactionSnapshot());
	status = SPI_execute_plan_with_paramlist(plan, query_parameters(query),
											 true, 0);
	PopActiveSnapshot();
	if (status != SPI_OK_SELECT || SPI_tuptable == NULL)
		refuse_query();
	MemoryContextSwitchTo(caller);
	nestlevel = slate_rowjson_begin_settings();
	json = result_as_json(SPI_tuptable, SPI_processed, len);
	slate_rowjson_end_settings(nestlevel);
	SPI_finish();
	return json;
}

void
slate_query_set_arguments(SlateQuery *query, ArrayType *array)
{
	Datum	   *values;
	bool	   *nulls;

	deconstruct_array(array, TEXTOID, -1, false,
					  TYPALIGN_INT, &values, &nulls, &query->nargs);
	query->args = palloc0_array(char *, query->nargs + 1);
	for (int i = 0; i < query->nargs; i++)
	{
		if (!nulls[i])
			query->args[i] = TextDatumGetCString(values[i]);
	}
}
