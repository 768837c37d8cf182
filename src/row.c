/*-------------------------------------------------------------------------
 *
 * row.c
 *	  A row as JSON, for tables of common types.
 *
 * row_to_json() looks at each column's type anew for each row, finds its output
 * function in the catalogs, and appends texts character by character: for a row
 * of 300 bytes that was a third of all that a commit spent on the cache.  And
 * since output functions of any type may fail, it has to be called in a
 * subtransaction.  The types here are PostgreSQL's own, and their values were
 * valid when they were stored, so that nothing can fail.
 *
 * What is appended is the same to the byte, which test/t/191_rows.pl compares.
 * Where it is not evidently so (arrays, ranges, composites, domains, types of
 * extensions) the row is left to rowjson.c.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/jsonapi.h"
#include "jsontext.h"
#include "miscadmin.h"
#include "row.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/uuid.h"

/* Larger rows are not worth it. */
#define MAX_ROW_BYTES (1024 * 1024)

typedef void (*AppendFn) (Datum value, Oid type, StringInfo out);

typedef struct Column
{
	AppendFn	append;			/* NULL: the column was dropped */
	Oid			type;
	bool		varlena;
	char	   *name;			/* with all that stands before the value, but
								 * for a comma */
	int			namelen;
} Column;

struct SlateRowFormat
{
	int			ncolumns;
	Datum	   *values;			/* room for those of one row */
	bool	   *nulls;
	Column		columns[FLEXIBLE_ARRAY_MEMBER];
};

/* ------------------------------------------------------------------------
 * Values
 * ------------------------------------------------------------------------
 */

static void
append_escape(StringInfo out, char c)
{
	const char *letter = strchr("\bb\ff\nn\rr\tt\"\"\\\\", c);

	if (letter)
	{
		appendStringInfoCharMacro(out, '\\');
		appendStringInfoCharMacro(out, letter[1]);
	}
	else
		appendStringInfo(out, "\\u%04x", (unsigned char) c);
}

/* As escape_json() does, but what need not be escaped is copied at once. */
static void
append_string(StringInfo out, const char *bytes, int len)
{
	const char *end = bytes + len;

	appendStringInfoCharMacro(out, '"');
	for (;;)
	{
		size_t		plain = slate_jsontext_plain_length(bytes, end - bytes);

		appendBinaryStringInfo(out, bytes, plain);
		bytes += plain;
		if (bytes == end)
			break;
		append_escape(out, *bytes++);
	}
	appendStringInfoCharMacro(out, '"');
}

static void
append_varlena(Datum value, Oid type, StringInfo out)
{
	struct varlena *bytes = (struct varlena *) DatumGetPointer(value);

	append_string(out, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
}

static void
append_name(Datum value, Oid type, StringInfo out)
{
	append_string(out, NameStr(*DatumGetName(value)),
				  strlen(NameStr(*DatumGetName(value))));
}

static void
append_integer(Datum value, Oid type, StringInfo out)
{
	int64		number = type == INT8OID ? DatumGetInt64(value)
		: type == INT4OID ? DatumGetInt32(value) : DatumGetInt16(value);
	char		digits[24];

	appendBinaryStringInfo(out, digits, pg_lltoa(number, digits));
}

static void
append_boolean(Datum value, Oid type, StringInfo out)
{
	appendStringInfoString(out, DatumGetBool(value) ? "true" : "false");
}

/* NaN and infinities are no numbers in JSON. */
static void
append_number(StringInfo out, const char *text)
{
	int			len = strlen(text);

	if (IsValidJsonNumber(text, len))
		appendBinaryStringInfo(out, text, len);
	else
		append_string(out, text, len);
}

static void
append_numeric(Datum value, Oid type, StringInfo out)
{
	append_number(out, DatumGetCString(DirectFunctionCall1(numeric_out,
														   value)));
}

static void
append_float(Datum value, Oid type, StringInfo out)
{
	append_number(out, DatumGetCString(DirectFunctionCall1(type == FLOAT4OID
														   ? float4out
														   : float8out,
														   value)));
}

static void
append_moment(Datum value, Oid type, StringInfo out)
{
	char		text[MAXDATELEN + 1];

	JsonEncodeDateTime(text, value, type, NULL);
	append_string(out, text, strlen(text));
}

static void
append_uuid(Datum value, Oid type, StringInfo out)
{
	const char *text = DatumGetCString(DirectFunctionCall1(uuid_out, value));

	append_string(out, text, strlen(text));
}

static void
append_json(Datum value, Oid type, StringInfo out)
{
	struct varlena *bytes = (struct varlena *) DatumGetPointer(value);

	appendBinaryStringInfo(out, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
}

static void
append_jsonb(Datum value, Oid type, StringInfo out)
{
	Jsonb	   *jsonb = DatumGetJsonbP(value);

	(void) JsonbToCString(out, &jsonb->root, VARSIZE(jsonb));
}

static AppendFn
append_fn(Oid type)
{
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
			return append_integer;
		case BOOLOID:
			return append_boolean;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return append_varlena;
		case NAMEOID:
			return append_name;
		case NUMERICOID:
			return append_numeric;
		case FLOAT4OID:
		case FLOAT8OID:
			return append_float;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return append_moment;
		case UUIDOID:
			return append_uuid;
		case JSONOID:
			return append_json;
		case JSONBOID:
			return append_jsonb;
		default:
			return NULL;
	}
}

bool
slate_row_append_value(Oid type, Datum value, StringInfo out)
{
	AppendFn	append = append_fn(type);

	if (append == NULL)
		return false;
	if (get_typlen(type) == -1)
		value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
	append(value, type, out);
	return true;
}

/* ------------------------------------------------------------------------
 * Rows
 * ------------------------------------------------------------------------
 */

SlateRowFormat *
slate_row_format(TupleDesc desc)
{
	SlateRowFormat *format =
		palloc0(offsetof(SlateRowFormat, columns) +
				desc->natts * sizeof(Column));

	format->ncolumns = desc->natts;
	format->values = palloc_array(Datum, desc->natts);
	format->nulls = palloc_array(bool, desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		Column	   *column = &format->columns[i];
		StringInfoData name;

		if (attribute->attisdropped)
			continue;
		column->append = append_fn(attribute->atttypid);
		if (column->append == NULL)
			return NULL;
		column->type = attribute->atttypid;
		column->varlena = attribute->attlen == -1;
		initStringInfo(&name);
		append_string(&name, NameStr(attribute->attname),
					  strlen(NameStr(attribute->attname)));
		appendStringInfoChar(&name, ':');
		column->name = name.data;
		column->namelen = name.len;
	}
	return format;
}

/* Are all values there as they are? */
static bool
is_plain(const SlateRowFormat *format)
{
	for (int i = 0; i < format->ncolumns; i++)
	{
		struct varlena *bytes;

		if (!format->columns[i].varlena || format->nulls[i])
			continue;
		bytes = (struct varlena *) DatumGetPointer(format->values[i]);
		if (VARATT_IS_EXTERNAL(bytes) || VARATT_IS_COMPRESSED(bytes))
			return false;
	}
	return true;
}

bool
slate_row_render(const SlateRowFormat *format, TupleDesc desc,
				 HeapTuple tuple, StringInfo out)
{
	char		separator = '{';

	if (tuple->t_len > MAX_ROW_BYTES)
		return false;
	heap_deform_tuple(tuple, desc, format->values, format->nulls);
	if (!is_plain(format))
		return false;
	for (int i = 0; i < format->ncolumns; i++)
	{
		const Column *column = &format->columns[i];

		if (column->append == NULL)
			continue;
		appendStringInfoCharMacro(out, separator);
		separator = ',';
		appendBinaryStringInfo(out, column->name, column->namelen);
		if (format->nulls[i])
			appendBinaryStringInfo(out, "null", 4);
		else
			column->append(format->values[i], column->type, out);
	}
	if (separator == '{')
		appendStringInfoCharMacro(out, '{');
	appendStringInfoCharMacro(out, '}');
	return true;
}
