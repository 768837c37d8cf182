/*-------------------------------------------------------------------------
 *
 * rowjson.c
 *	  A row as JSON, by the server's own functions.
 *
 * Any type will do, and anybody's functions may be called: see owner.c.  (row.c
 * is faster, for tables of common types.)  Texts in Redis are for all sessions; so
 * while they are made, here or for keys, the settings that they depend on are
 * pinned.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "owner.h"
#include "pgtime.h"
#include "rowjson.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"

/* ------------------------------------------------------------------------
 * Rows
 * ------------------------------------------------------------------------
 */

/* The JSON of one column, by way of a row that has no other */
static void
render_column(TupleDesc desc, HeapTuple tuple, AttrNumber attnum,
			  StringInfo out)
{
	static const char head[] = "{\"value\":";
	TupleDesc	single = CreateTemplateTupleDesc(1);
	HeapTuple	row;
	Datum		value;
	bool		isnull;
	text	   *json;

	TupleDescInitEntry(single, 1, "value",
					   TupleDescAttr(desc, attnum - 1)->atttypid,
					   TupleDescAttr(desc, attnum - 1)->atttypmod, 0);
	single = BlessTupleDesc(single);
	value = heap_getattr(tuple, attnum, desc, &isnull);
	row = heap_form_tuple(single, &value, &isnull);
	json = DatumGetTextPP(DirectFunctionCall1(row_to_json,
											  heap_copy_tuple_as_datum(row, single)));
	appendBinaryStringInfo(out, VARDATA_ANY(json) + strlen(head),
						   VARSIZE_ANY_EXHDR(json) - strlen(head) - 1);
}

typedef struct ValueState
{
	TupleDesc	desc;
	HeapTuple	tuple;
	AttrNumber	value_attnum;
	StringInfo	out;
} ValueState;

static void
render_value(void *arg)
{
	ValueState *state = arg;
	text	   *json;

	if (state->value_attnum != InvalidAttrNumber)
	{
		render_column(state->desc, state->tuple, state->value_attnum,
					  state->out);
		return;
	}
	json = DatumGetTextPP(DirectFunctionCall1(row_to_json,
											  heap_copy_tuple_as_datum(state->tuple,
																	   state->desc)));
	appendBinaryStringInfo(state->out, VARDATA_ANY(json),
						   VARSIZE_ANY_EXHDR(json));
}

void
slate_rowjson_render(TupleDesc desc, HeapTuple tuple,
					 AttrNumber value_attnum, StringInfo out)
{
	SlateCode	code = slate_owner_code(desc, value_attnum);
	ValueState	state = {desc, tuple, value_attnum, out};

	if (code.kind == CODE_OF_OWNER)
		slate_owner_run(&code, render_value, &state);
	else
		render_value(&state);
}

/* ------------------------------------------------------------------------
 * Settings
 * ------------------------------------------------------------------------
 */

static void
save_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* Under the name that initdb gives it where the machine's clock has it, too. */
static bool
timezone_is_utc(void)
{
	const char *name = pg_get_timezone_name(session_timezone);

	return strcmp(name, "UTC") == 0 || strcmp(name, "Etc/UTC") == 0;
}

bool
slate_rowjson_has_settings(void)
{
	return DateStyle == USE_ISO_DATES && IntervalStyle == INTSTYLE_POSTGRES &&
		timezone_is_utc() && extra_float_digits >= 1 &&
		bytea_output == BYTEA_OUTPUT_HEX;
}

/* Changing a setting costs more than looking, and most sessions need none. */
int
slate_rowjson_begin_settings(void)
{
	int			nestlevel = NewGUCNestLevel();

	if (DateStyle != USE_ISO_DATES)
		save_setting("datestyle", "ISO");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		save_setting("intervalstyle", "postgres");
	if (!timezone_is_utc())
		save_setting("timezone", "UTC");
	if (extra_float_digits < 1)
		save_setting("extra_float_digits", "1");
	if (bytea_output != BYTEA_OUTPUT_HEX)
		save_setting("bytea_output", "hex");
	if (!Array_nulls)
		save_setting("array_nulls", "on");
	return nestlevel;
}

void
slate_rowjson_end_settings(int nestlevel)
{
	AtEOXact_GUC(true, nestlevel);
}
