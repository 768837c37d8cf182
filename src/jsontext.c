/*-------------------------------------------------------------------------
 *
 * jsontext.c
 *	  JSON, from text to jsonb.
 *
 * jsonb_in() has the parser take the escapes out of each string.  To that end
 * it copies every string byte by byte, which is most of what it costs on
 * PostgreSQL 15, and then copies the copy.  But nearly all strings have no
 * escapes, and are in the text as they are to be.  So here the same parser
 * leaves them alone, and what is built refers to the text.  A string that has a
 * backslash is given to the server's lexer once more, by itself.
 *
 * The parser does not tell its actions where a string is that it has left alone.
 * They see that by its tokens: a value begins where the parser is when it says
 * that a field or an element begins, and ends with the token before the one
 * where it is when it hands over the scalar; a name begins behind the brace or
 * the comma that comes before it, and ends before the colon.  What comes between,
 * white space, is all that is skipped here, after the parser has accepted it.
 *
 * Whatever is strange, or wrong, is left to jsonb_in() to find once more; so
 * what it refuses, and in which words, is its own.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "fmgr.h"
#include "jsontext.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

/* One text, while it is parsed. */
typedef struct Building
{
	JsonLexContext *lex;
	JsonbParseState *parents;	/* what is open */
	JsonbValue *built;			/* the outermost, at last */
	const char *before_name;	/* the next name comes behind it */
	const char *scalar;			/* the next scalar begins there */
	bool		is_strange;		/* jsonb_in() shall say what it is */
} Building;

static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static const char *
skip_spaces(const char *at)
{
	while (is_space(*at))
		at++;
	return at;
}

static const char *
skip_spaces_before(const char *at)
{
	while (is_space(at[-1]))
		at--;
	return at;
}

static void
put(Building *building, JsonbIteratorToken what, JsonbValue *value)
{
	building->built = pushJsonbValue(&building->parents, what, value);
}

/* From quote to quote. */
static void
take_escapes_out(Building *building, const char *start, size_t len,
				 JsonbValue *string)
{
	JsonLexContext *lex = compat_make_json_lexer(start, len, true);

	if (json_lex(lex) != JSON_SUCCESS)
	{
		building->is_strange = true;
		string->val.string.val = unconstify(char *, start);
		string->val.string.len = 0;
		return;
	}
	string->val.string.val = lex->strval->data;
	string->val.string.len = lex->strval->len;
}

static void
take_string(Building *building, const char *start, const char *end,
			JsonbValue *string)
{
	size_t		len = end - start - 2;

	string->type = jbvString;
	building->is_strange |= len > JENTRY_OFFLENMASK;
	if (memchr(start + 1, '\\', len) != NULL)
		take_escapes_out(building, start, end - start, string);
	else
	{
		string->val.string.val = unconstify(char *, start + 1);
		string->val.string.len = len;
	}
}

/* ------------------------------------------------------------------------
 * What the parser does on its way
 * ------------------------------------------------------------------------
 */

static compat_json_result
on_object_start(void *state)
{
	Building   *building = state;

	put(building, WJB_BEGIN_OBJECT, NULL);
	building->before_name = building->lex->token_terminator;
	return COMPAT_JSON_DONE;
}

static compat_json_result
on_object_end(void *state)
{
	put(state, WJB_END_OBJECT, NULL);
	return COMPAT_JSON_DONE;
}

static compat_json_result
on_array_start(void *state)
{
	put(state, WJB_BEGIN_ARRAY, NULL);
	return COMPAT_JSON_DONE;
}

static compat_json_result
on_array_end(void *state)
{
	put(state, WJB_END_ARRAY, NULL);
	return COMPAT_JSON_DONE;
}

/* It has read the colon, and the first token of what follows. */
static compat_json_result
on_field_start(void *state, char *name, bool isnull)
{
	Building   *building = state;
	const char *colon = building->lex->prev_token_terminator - 1;
	JsonbValue	string;

	take_string(building, skip_spaces(building->before_name),
				skip_spaces_before(colon), &string);
	put(building, WJB_KEY, &string);
	building->scalar = building->lex->token_start;
	return COMPAT_JSON_DONE;
}

/* It has read the comma, if there is one. */
static compat_json_result
on_field_end(void *state, char *name, bool isnull)
{
	Building   *building = state;

	building->before_name = building->lex->token_terminator;
	return COMPAT_JSON_DONE;
}

static compat_json_result
on_element_start(void *state, bool isnull)
{
	Building   *building = state;

	building->scalar = building->lex->token_start;
	return COMPAT_JSON_DONE;
}

/* It has read what follows.  Of strings the token is NULL. */
static compat_json_result
on_scalar(void *state, char *token, JsonTokenType type)
{
	Building   *building = state;
	bool		in_object = building->parents->contVal.type == jbvObject;
	JsonbValue	value;

	switch (type)
	{
		case JSON_TOKEN_STRING:
			take_string(building, building->scalar,
						building->lex->prev_token_terminator, &value);
			break;
		case JSON_TOKEN_NUMBER:
			value.type = jbvNumeric;
			value.val.numeric =
				DatumGetNumeric(DirectFunctionCall3(numeric_in,
													CStringGetDatum(token),
													ObjectIdGetDatum(InvalidOid),
													Int32GetDatum(-1)));
			break;
		case JSON_TOKEN_TRUE:
		case JSON_TOKEN_FALSE:
			value.type = jbvBool;
			value.val.boolean = type == JSON_TOKEN_TRUE;
			break;
		default:
			value.type = jbvNull;
			break;
	}
	put(building, in_object ? WJB_VALUE : WJB_ELEM, &value);
	return COMPAT_JSON_DONE;
}

/* NULL: jsonb_in() shall say what it is. */
static Jsonb *
build(const char *text, size_t len)
{
	Building	building = {.lex = compat_make_json_lexer(text, len, false)};
	JsonSemAction actions = {
		.semstate = &building,
		.object_start = on_object_start,
		.object_end = on_object_end,
		.array_start = on_array_start,
		.array_end = on_array_end,
		.object_field_start = on_field_start,
		.object_field_end = on_field_end,
		.array_element_start = on_element_start,
		.scalar = on_scalar
	};

	if (pg_parse_json(building.lex, &actions) != JSON_SUCCESS ||
		building.is_strange)
		return NULL;
	return JsonbValueToJsonb(building.built);
}

Jsonb *
slate_jsontext_parse(const char *text, size_t len)
{
	char		first = *skip_spaces(text);
	Jsonb	   *value = NULL;

	if (first == '{' || first == '[')
		value = build(text, len);
	if (value == NULL)
		value = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
												   CStringGetDatum(text)));
	return value;
}
