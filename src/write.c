/*-------------------------------------------------------------------------
 *
 * write.c
 *	  Changing the cache by hand: set, mset, del, invalidate and their like.
 *
 * All of these only add to what the transaction will tell Redis when it
 * commits; a rollback leaves nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "lib/stringinfo.h"
#include "load.h"
#include "pending.h"
#include "read.h"
#include "rules.h"
#include "slatekeys.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(slate_cache_set);
PG_FUNCTION_INFO_V1(slate_cache_mset);
PG_FUNCTION_INFO_V1(slate_cache_del);
PG_FUNCTION_INFO_V1(slate_cache_invalidate);
PG_FUNCTION_INFO_V1(slate_cache_invalidate_project);
PG_FUNCTION_INFO_V1(slate_cache_key);
PG_FUNCTION_INFO_V1(slate_cache_ttl);

static void
require_value(bool isnull, const char *what, const char *hint)
{
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what),
				 errdetail("Nothing has been changed."),
				 errhint("%s", hint)));
}

/* ------------------------------------------------------------------------
 * Values
 * ------------------------------------------------------------------------
 */

static void
put_jsonb(SlateSlice key, JsonbContainer *container, int estimate,
		  const Interval *ttl)
{
	StringInfoData json;

	initStringInfo(&json);
	(void) JsonbToCString(&json, container, estimate);
	slate_pending_put(key.start, key.len, json.data, json.len,
					  slate_read_ttl(key, ttl));
	pfree(json.data);
}

Datum
slate_cache_set(PG_FUNCTION_ARGS)
{
	SlateSlice	key;
	Jsonb	   *value;

	PreventCommandDuringRecovery("slate_cache_set()");
	require_value(PG_ARGISNULL(0), "key", "Name the key to set.");
	require_value(PG_ARGISNULL(1), "value",
				  "Use slate_cache_del() to remove a key; JSON's null is 'null'::jsonb.");
	key = slate_read_key_argument(PG_GETARG_TEXT_PP(0));
	value = PG_GETARG_JSONB_P(1);
	put_jsonb(key, &value->root, VARSIZE(value),
			  PG_ARGISNULL(2) ? NULL : PG_GETARG_INTERVAL_P(2));
	PG_RETURN_VOID();
}

Datum
slate_cache_mset(PG_FUNCTION_ARGS)
{
	Jsonb	   *entries;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	item;
	text	   *key = NULL;

	PreventCommandDuringRecovery("slate_cache_mset()");
	require_value(PG_ARGISNULL(0), "entries",
				  "Pass a JSON object of keys and values.");
	entries = PG_GETARG_JSONB_P(0);
	if (!JB_ROOT_IS_OBJECT(entries))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("entries must be a JSON object"),
				 errdetail("Its keys are cache keys, its values are their values."),
				 errhint("For instance '{\"slate:session:7\": {\"theme\": \"dark\"}}'.")));

	iterator = JsonbIteratorInit(&entries->root);
	while ((token = JsonbIteratorNext(&iterator, &item, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = cstring_to_text_with_len(item.val.string.val,
										   item.val.string.len);
		else if (token == WJB_VALUE)
		{
			Jsonb	   *value = JsonbValueToJsonb(&item);

			put_jsonb(slate_read_key_argument(key), &value->root,
					  VARSIZE(value),
					  PG_ARGISNULL(1) ? NULL : PG_GETARG_INTERVAL_P(1));
		}
	}
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------------
 * Removal
 * ------------------------------------------------------------------------
 */

Datum
slate_cache_del(PG_FUNCTION_ARGS)
{
	Datum	   *keys;
	bool	   *nulls;
	int			nkeys;

	PreventCommandDuringRecovery("slate_cache_del()");
	if (PG_ARGISNULL(0))
		PG_RETURN_VOID();
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false,
					  TYPALIGN_INT, &keys, &nulls, &nkeys);
	for (int i = 0; i < nkeys; i++)
	{
		SlateSlice	key;

		if (nulls[i])
			continue;
		key = slate_read_key_argument(DatumGetTextPP(keys[i]));
		slate_pending_drop(key.start, key.len);
	}
	PG_RETURN_VOID();
}

Datum
slate_cache_invalidate(PG_FUNCTION_ARGS)
{
	SlateSlice	glob;

	PreventCommandDuringRecovery("slate_cache_invalidate()");
	require_value(PG_ARGISNULL(0), "pattern",
				  "Pass a glob, such as 'slate:search:42:*'.");
	glob = slate_read_pattern_argument(PG_GETARG_TEXT_PP(0));
	slate_pending_glob(glob.start, glob.len);
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------------
 * Projects
 *
 * What belongs to a project: its own row's keys, those of the rows that name
 * it in a column project_id, and the families that have no table.
 * ------------------------------------------------------------------------
 */

static void
invalidate_families(SlateSlice id)
{
	for (int i = 0; i < slate_keys_nproject; i++)
	{
		const char *error;
		int			position;
		SlateTemplate *template = slate_template_parse(slate_keys_project[i],
													   TEMPLATE_DROP,
													   &error, &position);
		StringInfoData glob;

		initStringInfo(&glob);
		if (!slate_template_render(template, &id, &glob))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("project id is too long"),
					 errdetail("A key has at most %d bytes.", SLATE_KEY_MAX),
					 errhint("Pass the project's id as text.")));
		if (template->is_pattern)
			slate_pending_glob(glob.data, glob.len);
		else
			slate_pending_drop(glob.data, glob.len);
		pfree(glob.data);
		pfree(template);
	}
}

static void
invalidate_row(SlateRelation *relation, HeapTuple tuple,
			   void *arg pg_attribute_unused())
{
	StringInfoData key;
	bool		too_long;

	initStringInfo(&key);
	for (int i = 0; i < relation->nrules; i++)
	{
		SlateRule  *rule = &relation->rules[i];

		resetStringInfo(&key);
		if (!slate_rules_render(rule, tuple, &key, NULL, &too_long))
			continue;
		if (rule->template->is_pattern)
			slate_pending_rule_glob(rule, key.data, key.len);
		else
			slate_pending_rule_drop(rule, key.data, key.len);
	}
	pfree(key.data);
}

/* The column by which a table's rows belong to a project, or NULL. */
static const char *
project_column(const SlateRelation *relation)
{
	AttrNumber	attnum;
	Oid			type;

	for (int i = 0; i < relation->nrules; i++)
	{
		if (strcmp(relation->rules[i].template->source,
				   "slate:project:{id}") == 0)
			return "id";
	}
	attnum = get_attnum(relation->relid, "project_id");
	if (attnum == InvalidAttrNumber)
		return NULL;

	/* a project's id is no json, whatever that column is for */
	type = getBaseType(get_atttype(relation->relid, attnum));
	return OidIsValid(lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr)
		? "project_id" : NULL;
}

Datum
slate_cache_invalidate_project(PG_FUNCTION_ARGS)
{
	text	   *argument;
	SlateSlice	id;
	ListCell   *lc;

	PreventCommandDuringRecovery("slate_cache_invalidate_project()");
	require_value(PG_ARGISNULL(0), "project id",
				  "Pass the project's id as text.");
	argument = PG_GETARG_TEXT_PP(0);
	id.start = VARDATA_ANY(argument);
	id.len = VARSIZE_ANY_EXHDR(argument);
	if (id.len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("project id must not be empty"),
				 errdetail("No project's keys have an empty id."),
				 errhint("Pass the project's id as text.")));

	invalidate_families(id);
	foreach(lc, slate_rules_all())
	{
		SlateRelation *relation = lfirst(lc);
		const char *column = project_column(relation);

		if (column)
			slate_load_rows(relation->relid, column,
							pnstrdup(id.start, id.len),
							invalidate_row, NULL);
	}
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------------
 * Names
 * ------------------------------------------------------------------------
 */

Datum
slate_cache_key(PG_FUNCTION_ARGS)
{
	StringInfoData key;
	Datum	   *parts;
	bool	   *nulls;
	int			nparts;
	text	   *result;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	initStringInfo(&key);
	appendStringInfo(&key, "slate:%s",
					 text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (key.len == strlen("slate:"))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("resource must not be empty"),
				 errdetail("A SLATE key is \"slate:\", a resource, and its parts."),
				 errhint("For instance slate_cache_key('project', '42').")));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false,
					  TYPALIGN_INT, &parts, &nulls, &nparts);
	for (int i = 0; i < nparts; i++)
	{
		if (nulls[i])
			PG_RETURN_NULL();
		appendStringInfo(&key, ":%s", TextDatumGetCString(parts[i]));
	}
	result = cstring_to_text_with_len(key.data, key.len);
	(void) slate_read_key_argument(result); /* its length */
	PG_RETURN_TEXT_P(result);
}

Datum
slate_cache_ttl(PG_FUNCTION_ARGS)
{
	SlateSlice	key = slate_read_key_argument(PG_GETARG_TEXT_PP(0));
	int64		ttl = slate_rules_ttl(key.start, key.len);
	Interval   *interval;

	if (ttl <= 0)
		PG_RETURN_NULL();
	interval = palloc0_object(Interval);
	interval->time = ttl * 1000;
	PG_RETURN_INTERVAL_P(interval);
}
