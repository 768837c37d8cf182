/*-------------------------------------------------------------------------
 *
 * rowjson.c
 *	  A row as JSON, of any types.
 *
 * It is what row_to_json() makes of it, to the byte (test/t/191_rows.pl), by the
 * types' own output functions.  That function itself would call anybody's casts
 * to json as whoever happens to be there: it looks for them when it comes to a
 * column, so nobody could tell before what it is going to find.  Here each is run
 * as who it belongs to, or not at all: see owner.c.
 *
 * (row.c is faster, for tables of common types.)  Texts in Redis are for all
 * sessions; so while they are made, here or for keys, the settings that they
 * depend on are pinned.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "owner.h"
#include "pgtime.h"
#include "row.h"
#include "rowjson.h"
#include "utils/array.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

typedef struct Rendering
{
	StringInfo	out;
	Oid			beneficiary;	/* who chooses the values */
} Rendering;

static void render_value(const Rendering *rendering, Oid declared, Datum value,
						 bool isnull);

/* ------------------------------------------------------------------------
 * Rows
 * ------------------------------------------------------------------------
 */

static void
render_row(const Rendering *rendering, TupleDesc desc, HeapTuple tuple)
{
	char		separator = '{';

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		Datum		value;
		bool		isnull;

		if (attribute->attisdropped)
			continue;
		appendStringInfoChar(rendering->out, separator);
		separator = ',';
		escape_json(rendering->out, NameStr(attribute->attname));
		appendStringInfoChar(rendering->out, ':');
		value = heap_getattr(tuple, i + 1, desc, &isnull);
		render_value(rendering, attribute->atttypid, value, isnull);
	}
	if (separator == '{')
		appendStringInfoChar(rendering->out, '{');
	appendStringInfoChar(rendering->out, '}');
}

static void
render_composite(const Rendering *rendering, Datum value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
											  HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple = {
		.t_len = HeapTupleHeaderGetDatumLength(header),
		.t_data = header
	};

	render_row(rendering, desc, &tuple);
	ReleaseTupleDesc(desc);
}

/* What is left of an array's elements, as the dimensions nest. */
typedef struct Elements
{
	Oid			type;
	const int  *dims;
	int			ndims;
	Datum	   *values;
	bool	   *nulls;
} Elements;

static void
render_dimension(const Rendering *rendering, Elements *elements, int dim)
{
	appendStringInfoChar(rendering->out, '[');
	for (int i = 0; i < elements->dims[dim]; i++)
	{
		if (i > 0)
			appendStringInfoChar(rendering->out, ',');
		if (dim + 1 < elements->ndims)
			render_dimension(rendering, elements, dim + 1);
		else
			render_value(rendering, elements->type, *elements->values++,
						 *elements->nulls++);
	}
	appendStringInfoChar(rendering->out, ']');
}

static void
render_array(const Rendering *rendering, Datum value)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	Elements	elements = {
		.type = ARR_ELEMTYPE(array),
		.dims = ARR_DIMS(array),
		.ndims = ARR_NDIM(array)
	};
	int16		len;
	bool		byval;
	char		align;
	int			nelements;

	if (ArrayGetNItems(elements.ndims, elements.dims) <= 0)
	{
		appendStringInfoString(rendering->out, "[]");
		return;
	}
	get_typlenbyvalalign(elements.type, &len, &byval, &align);
	deconstruct_array(array, elements.type, len, byval, align,
					  &elements.values, &elements.nulls, &nelements);
	render_dimension(rendering, &elements, 0);
}

/* ------------------------------------------------------------------------
 * Values
 * ------------------------------------------------------------------------
 */

/* False if the type has none that may be called. */
static bool
render_by_cast(const Rendering *rendering, Oid type, Datum value)
{
	text	   *json = slate_owner_cast(type, value, rendering->beneficiary);

	if (json == NULL)
		return false;
	appendBinaryStringInfo(rendering->out, VARDATA_ANY(json),
						   VARSIZE_ANY_EXHDR(json));
	return true;
}

static void
render_text(const Rendering *rendering, Oid type, Datum value)
{
	Oid			function;
	bool		is_varlena;

	getTypeOutputInfo(type, &function, &is_varlena);
	escape_json(rendering->out, OidOutputFunctionCall(function, value));
}

/* Also those whose type says nothing of their elements. */
static bool
is_array(Oid type)
{
	return OidIsValid(get_element_type(type)) || type == RECORDARRAYOID ||
		type == ANYARRAYOID || type == ANYCOMPATIBLEARRAYOID;
}

/*
 * Types are told apart as the server's json.c does: domains have no casts of
 * their own, nor have arrays, composites, and types that come with PostgreSQL.
 */
static void
render_value(const Rendering *rendering, Oid declared, Datum value,
			 bool isnull)
{
	Oid			type;

	check_stack_depth();
	if (isnull)
	{
		appendStringInfoString(rendering->out, "null");
		return;
	}
	type = getBaseType(declared);
	if (slate_row_append_value(type, value, rendering->out))
		return;
	if (is_array(type))
		render_array(rendering, value);
	else if (type_is_rowtype(type))
		render_composite(rendering, value);
	else if (type < FirstNormalObjectId ||
			 !render_by_cast(rendering, type, value))
		render_text(rendering, type, value);
}

void
slate_rowjson_render(TupleDesc desc, HeapTuple tuple,
					 AttrNumber value_attnum, Oid beneficiary, StringInfo out)
{
	Rendering	rendering = {out, beneficiary};
	Datum		value;
	bool		isnull;

	if (value_attnum == InvalidAttrNumber)
	{
		render_row(&rendering, desc, tuple);
		return;
	}
	value = heap_getattr(tuple, value_attnum, desc, &isnull);
	render_value(&rendering, TupleDescAttr(desc, value_attnum - 1)->atttypid,
				 value, isnull);
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
