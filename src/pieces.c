/*-------------------------------------------------------------------------
 *
 * pieces.c
 *	  What a key says of its row: the texts that a template takes out of it, as
 *	  values of their columns.
 *
 * A piece must be the very text of the value: "042" is not the text of 42, and
 * 'slate:project:042' not a key that any writer of the row would touch.
 *
 * Types may belong to anybody, and input functions and the checks of domains
 * run as the table's owner.  Whatever they say of their input, that it is none,
 * is no ERROR here; all else is.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/transam.h"
#include "attempt.h"
#include "catalog/pg_type.h"
#include "owner.h"
#include "pieces.h"
#include "rowjson.h"
#include "utils/lsyscache.h"

Oid
slate_pieces_type(const SlateRule *rule, int column)
{
	Form_pg_attribute attribute =
	TupleDescAttr(rule->relation->desc, rule->attnums[column] - 1);

	return getBaseType(attribute->atttypid);
}

/* Are equal values of the column equal bytes? */
bool
slate_pieces_equality_is_identity(const SlateRule *rule, int column)
{
	Form_pg_attribute attribute =
	TupleDescAttr(rule->relation->desc, rule->attnums[column] - 1);

	switch (slate_pieces_type(rule, column))
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
bool
slate_pieces_input(const SlateRelation *relation, Oid type, char *text,
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
	Oid			type = slate_pieces_type(rule, column);
	char	   *text = pnstrdup(piece.start, piece.len);
	Oid			input;
	Oid			ioparam;

	if (is_plain_input(type, text))
	{
		getTypeInputInfo(type, &input, &ioparam);
		*value = OidInputFunctionCall(input, text, ioparam, -1);
	}
	else if (!slate_pieces_input(rule->relation, type, text, value))
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
bool
slate_pieces_values(const SlateRule *rule, const SlateMatch *match, Datum *values)
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
