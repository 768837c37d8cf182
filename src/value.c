/*-------------------------------------------------------------------------
 *
 * value.c
 *	  What comes back from Redis, before it may be called jsonb.
 *
 * jsonb_in() throws on bad input, and an ERROR cannot be caught without a
 * subtransaction.  So everything that it would object to is looked for first:
 * the parser reports syntax errors by a code, and what remains, numbers that
 * numeric refuses and nesting that would exhaust the stack, is checked here.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "value.h"

/* Far more than people nest, far less than max_stack_depth allows. */
#define MAX_NESTING 1000

/* What numeric can hold (see numeric.h), and some exponents less. */
#define MAX_WHOLE_DIGITS 131072
#define MAX_FRACTION_DIGITS 16383
#define MAX_SCIENTIFIC_LEN 10000
#define MAX_EXPONENT 1000

static bool
nests_too_deeply(const char *bytes, size_t len)
{
	bool		in_string = false;
	int			depth = 0;

	for (size_t i = 0; i < len; i++)
	{
		char		c = bytes[i];

		if (in_string)
		{
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		}
		else if (c == '"')
			in_string = true;
		else if (c == '[' || c == '{')
		{
			if (++depth > MAX_NESTING)
				return true;
		}
		else if (c == ']' || c == '}')
			depth--;
	}
	return false;
}

static bool
number_fits(const char *token)
{
	const char *exponent = strpbrk(token, "eE");
	const char *point = strchr(token, '.');

	if (exponent)
		return strlen(token) <= MAX_SCIENTIFIC_LEN &&
			strlen(exponent) < 10 && abs(atoi(exponent + 1)) <= MAX_EXPONENT;
	if (point)
		return point - token <= MAX_WHOLE_DIGITS &&
			strlen(point + 1) <= MAX_FRACTION_DIGITS;
	return strlen(token) <= MAX_WHOLE_DIGITS;
}

static COMPAT_JSON_ACTION
check_scalar(void *state, char *token, JsonTokenType type)
{
	bool	   *fits = state;

	if (type == JSON_TOKEN_NUMBER && !number_fits(token))
		*fits = false;
	COMPAT_JSON_ACTION_DONE();
}

static bool
is_json(char *text, size_t len)
{
	bool		fits = true;
	JsonSemAction actions = {.semstate = &fits,.scalar = check_scalar};
	JsonLexContext *lexer = compat_json_lexer(text, len);

	return pg_parse_json(lexer, &actions) == JSON_SUCCESS && fits;
}

Jsonb *
slate_value_parse(const char *bytes, size_t len)
{
	char	   *text;
	Jsonb	   *value = NULL;

	if (len > MaxAllocSize / 8 || memchr(bytes, '\0', len) != NULL ||
		!pg_verify_mbstr(GetDatabaseEncoding(), bytes, len, true) ||
		nests_too_deeply(bytes, len))
		return NULL;
	text = pnstrdup(bytes, len);
	if (is_json(text, len))
		value = slate_value_from_json(text);
	pfree(text);
	return value;
}

Jsonb *
slate_value_from_json(char *json)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
}
