/*-------------------------------------------------------------------------
 *
 * value.c
 *	  What comes back from Redis, before it may be called jsonb.
 *
 * Anybody may have written it.  The parser throws where it is no JSON that
 * jsonb can hold; such an ERROR is caught here without a subtransaction, as
 * xml_is_document() of xml.c does, since parsing holds nothing but memory: no
 * lock, no buffer, no snapshot.  Whatever else may be thrown, out of memory
 * say, is not ours to catch.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "jsontext.h"
#include "utils/memutils.h"
#include "value.h"

/*
 * Is it about the text?  Wrong syntax, a number that numeric refuses, \u0000,
 * strings or arrays that are too large, nesting that would exhaust the stack;
 * in SQL_ASCII, also an escape that stands for no ASCII (not supported).
 */
static bool
is_about_text(int sqlerrcode)
{
	int			category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category == ERRCODE_DATA_EXCEPTION ||
		category == ERRCODE_PROGRAM_LIMIT_EXCEEDED ||
		sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED;
}

/* In the database's encoding, in each of which ASCII is what it is. */
static bool
is_text(const char *bytes, size_t len)
{
	size_t		n = slate_jsontext_ascii_length(bytes, len);

	return memchr(bytes + n, '\0', len - n) == NULL &&
		pg_verify_mbstr(GetDatabaseEncoding(), bytes + n, len - n, true);
}

Jsonb *
slate_value_parse(const char *bytes, size_t len)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *volatile value = NULL;

	if (len > MaxAllocSize / 8 || !is_text(bytes, len))
		return NULL;
	PG_TRY();
	{
		value = slate_jsontext_parse(bytes, len);
	}
	PG_CATCH();
	{
		if (!is_about_text(geterrcode()))
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return value;
}

Jsonb *
slate_value_from_json(const char *json)
{
	return slate_jsontext_parse(json, strlen(json));
}
