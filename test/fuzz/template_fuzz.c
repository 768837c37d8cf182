/*-------------------------------------------------------------------------
 *
 * template_fuzz.c
 *	  Properties of src/template.c that must hold for whatever it is given.
 *
 *		template_fuzz [seed [iterations]]
 *
 * Every iteration takes one property and makes up an input for it.  All that
 * is made up comes from choose(): with this program, out of a seeded random
 * generator; with -DLIBFUZZER, out of the bytes that the fuzzer hands over.
 * A failure names its iteration, and the same seed comes to it again.
 *
 * Inputs are short and made of few different bytes, so that things meet: what
 * breaks with a hundred bytes breaks with six as well, and far more often.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "template.h"

#define MAX_TEXT 12				/* longest text made up here */
#define MAX_SPLITS SLATE_TEMPLATE_MAX_SPLITS

/* Where choices come from: the input if there is one, or the generator. */
static const uint8 *input = NULL;
static size_t input_left = 0;
static uint64 generator = 1;

/* The case at hand, to be shown if it fails. */
static StringInfoData story;

/* Everything special in a template or a glob, and a few ordinary bytes. */
static const char alphabet[] = "aaabb::**?[]!\\^-{}.\xc3\xa9";

/*
 * Choosing
 */

/* Steele and Vigna's splitmix64. */
static uint64
next_random(void)
{
	uint64		z = (generator += UINT64CONST(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* A number from 0 to below n. */
static int
choose(int n)
{
	if (input == NULL)
		return next_random() % n;
	if (input_left == 0)
		return 0;
	input_left--;
	return *input++ % n;
}

static char
choose_byte(void)
{
	return alphabet[choose(sizeof(alphabet) - 1)];
}

/* Append some text to buf; bytes may be NULL for the whole alphabet. */
static void
append_text(StringInfo buf, const char *bytes, int maxlen)
{
	int			len = choose(maxlen + 1);

	while (len-- > 0)
		appendStringInfoChar(buf, bytes == NULL ? choose_byte() :
							 bytes[choose(strlen(bytes))]);
}

static StringInfo
choose_text(const char *bytes, int maxlen)
{
	StringInfo	text = makeStringInfo();

	append_text(text, bytes, maxlen);
	return text;
}

static void
free_text(StringInfo text)
{
	pfree(text->data);
	pfree(text);
}

static void
tell(const char *what, const char *text, int len)
{
	int			i;

	appendStringInfo(&story, "#   %s: \"", what);
	for (i = 0; i < len; i++)
	{
		if (text[i] < ' ' || text[i] > '~')
			appendStringInfo(&story, "<%02x>", (unsigned char) text[i]);
		else
			appendStringInfoChar(&story, text[i]);
	}
	appendStringInfoString(&story, "\"\n");
}

static bool
glob_matches(StringInfo glob, StringInfo text)
{
	return slate_glob_match(glob->data, glob->len, text->data, text->len);
}

/*
 * Making up templates
 */

/*
 * A template that parses: literals and one-letter columns in turn.  Returns
 * NULL where the literals happen to make it a wrong one.
 */
static SlateTemplate *
choose_template(SlateTemplateDialect dialect, const char *bytes)
{
	StringInfo	source = choose_text(bytes, 3);
	int			ncolumns = choose(4);
	const char *error;
	int			position;
	SlateTemplate *template;
	int			i;

	for (i = 0; i < ncolumns; i++)
	{
		appendStringInfo(source, "{%c}", 'a' + i);
		append_text(source, bytes, 3);
	}
	template = slate_template_parse(source->data, dialect, &error, &position);
	tell("template", source->data, source->len);
	free_text(source);
	return template;
}

/* Texts for its columns; they are all in one buffer, to be freed. */
static StringInfo
choose_values(const SlateTemplate *template, const char *bytes,
			  SlateSlice *values)
{
	StringInfo	texts = makeStringInfo();
	int			i;

	enlargeStringInfo(texts, MAX_TEXT * SLATE_TEMPLATE_MAX_COLUMNS);
	for (i = 0; i < template->ncolumns; i++)
	{
		int			start = texts->len;

		append_text(texts, bytes, 4);
		values[i].start = texts->data + start;
		values[i].len = texts->len - start;
		tell("value", values[i].start, values[i].len);
	}
	return texts;
}

/*
 * A second opinion on globs: sets of bytes for what takes a byte, and plain
 * recursion for stars.  Takes exponential time, so for short inputs only.
 */

/* Add what lies between two bytes, in the order that plain chars have. */
static void
add_range(bool *members, char one, char other)
{
	int			c;

	for (c = Min(one, other); c <= Max(one, other); c++)
		members[(unsigned char) c] = true;
}

/*
 * What takes a byte at the pattern's start, as a set.  Returns how much of
 * the pattern that was.
 */
static int
reference_set(const char *pattern, int len, bool *members)
{
	int			i = 1;
	bool		negated = false;
	int			c;

	memset(members, 0, 256);
	if (pattern[0] == '?')
		memset(members, 1, 256);
	else if (pattern[0] == '\\' && len > 1)
		members[(unsigned char) pattern[i++]] = true;
	else if (pattern[0] != '[')
		members[(unsigned char) pattern[0]] = true;
	if (pattern[0] != '[')
		return i;

	if (i < len && pattern[i] == '^')
	{
		negated = true;
		i++;
	}
	for (; i < len && pattern[i] != ']'; i++)
	{
		if (pattern[i] == '\\' && i + 1 < len)
			members[(unsigned char) pattern[++i]] = true;
		else if (i + 2 < len && pattern[i + 1] == '-')
		{
			add_range(members, pattern[i], pattern[i + 2]);
			i += 2;
		}
		else
			members[(unsigned char) pattern[i]] = true;
	}
	for (c = 0; c < 256; c++)
		members[c] = (members[c] != negated);
	return i < len ? i + 1 : len;
}

static bool
reference_match(const char *pattern, int plen, const char *text, int len)
{
	bool		members[256];
	int			taken;

	if (plen == 0)
		return len == 0;
	if (pattern[0] == '*')
		return reference_match(pattern + 1, plen - 1, text, len) ||
			(len > 0 && reference_match(pattern, plen, text + 1, len - 1));
	if (len == 0)
		return false;
	taken = reference_set(pattern, plen, members);
	return members[(unsigned char) *text] &&
		reference_match(pattern + taken, plen - taken, text + 1, len - 1);
}

/* The same for splits: try every end of every column, shortest first. */
static void
reference_split(const SlateTemplate *template, int column, const char *text,
				int len, SlateSlice *values,
				SlateSlice (*splits)[SLATE_TEMPLATE_MAX_COLUMNS], int *nsplits)
{
	const SlateTemplatePart *part = &template->parts[column];
	int			taken;

	if (len < part->literal_len ||
		memcmp(text, part->literal, part->literal_len) != 0)
		return;
	text += part->literal_len;
	len -= part->literal_len;
	if (column == template->ncolumns)
	{
		if (len == 0 && *nsplits < MAX_SPLITS)
			memcpy(splits[(*nsplits)++], values,
				   column * sizeof(SlateSlice));
		return;
	}
	for (taken = 0; taken <= len; taken++)
	{
		values[column].start = text;
		values[column].len = taken;
		reference_split(template, column + 1, text + taken, len - taken,
						values, splits, nsplits);
	}
}

/* A text that the glob matches, mostly. */
static StringInfo
choose_match(StringInfo glob)
{
	StringInfo	text = makeStringInfo();
	bool		members[256];
	int			i = 0;
	int			tries;

	while (i < glob->len)
	{
		char		byte = choose_byte();

		if (glob->data[i] == '*')
		{
			append_text(text, NULL, 3);
			i++;
			continue;
		}
		i += reference_set(glob->data + i, glob->len - i, members);
		for (tries = 0; tries < 256; tries++)
		{
			if (members[(unsigned char) byte] && byte != '\0')
				break;
			byte++;
		}
		appendStringInfoChar(text, byte);
	}
	return text;
}

/*
 * Properties.  Each returns false if it does not hold.
 */

/* The matcher and the one above are of one opinion. */
static bool
matcher_agrees_with_reference(void)
{
	static const char *const sets[] = {"ab*", "a[]^!-\\b", "ab*?[]\\^-c"};
	const char *bytes = sets[choose(lengthof(sets))];
	StringInfo	glob = choose_text(choose(4) ? bytes : NULL, 10);
	StringInfo	text = choose(2) ? choose_match(glob) :
	choose_text(choose(2) ? bytes : NULL, 10);
	bool		ok;

	tell("glob", glob->data, glob->len);
	tell("text", text->data, text->len);
	ok = glob_matches(glob, text) ==
		reference_match(glob->data, glob->len, text->data, text->len);
	free_text(glob);
	free_text(text);
	return ok;
}

/* Replace, insert or remove one byte. */
static void
mutate(StringInfo text)
{
	int			at = choose(text->len + 1);
	StringInfoData tail;

	initStringInfo(&tail);
	if (choose(2))
		appendStringInfoChar(&tail, choose_byte());
	if (at < text->len)
		appendStringInfoString(&tail, text->data + at + choose(2));
	text->len = at;
	appendBinaryStringInfo(text, tail.data, tail.len);
	pfree(tail.data);
}

/* An escaped text is no pattern, matches the text, and nothing else. */
static bool
escape_is_exact(void)
{
	StringInfo	text = choose_text(NULL, MAX_TEXT);
	StringInfo	glob = makeStringInfo();
	StringInfo	back = makeStringInfo();
	bool		ok;

	slate_glob_escape(glob, text->data, text->len);
	slate_glob_unescape(back, glob->data, glob->len);
	tell("text", text->data, text->len);
	tell("escaped", glob->data, glob->len);
	ok = glob_matches(glob, text) &&
		reference_match(glob->data, glob->len, text->data, text->len) &&
		!slate_glob_is_pattern(glob->data, glob->len) &&
		strcmp(back->data, text->data) == 0;

	mutate(text);
	tell("mutated", text->data, text->len);
	ok = ok && glob_matches(glob, text) ==
		(strcmp(back->data, text->data) == 0);
	free_text(text);
	free_text(glob);
	free_text(back);
	return ok;
}

/* A glob that is no pattern matches its one key, and only that. */
static bool
exact_glob_has_one_key(void)
{
	StringInfo	glob = choose_text("ab\\\\*]^-", 6);
	StringInfo	key = makeStringInfo();
	StringInfo	other = choose_text("ab\\*]^-", 6);
	bool		ok = true;

	slate_glob_unescape(key, glob->data, glob->len);
	tell("glob", glob->data, glob->len);
	tell("other", other->data, other->len);
	if (!slate_glob_is_pattern(glob->data, glob->len))
		ok = glob_matches(glob, key) &&
			glob_matches(glob, other) ==
			(strcmp(key->data, other->data) == 0);
	free_text(glob);
	free_text(key);
	free_text(other);
	return ok;
}

/* The source of a template, put together from its parts. */
static StringInfo
rebuild_source(const SlateTemplate *template)
{
	StringInfo	source = makeStringInfo();
	int			i;
	const char *byte;

	for (i = 0; i <= template->ncolumns; i++)
	{
		const SlateTemplatePart *part = &template->parts[i];

		for (byte = part->literal; *byte; byte++)
		{
			if (*byte == '{' || *byte == '}')
				appendStringInfoChar(source, *byte);
			appendStringInfoChar(source, *byte);
		}
		if (part->column != NULL)
			appendStringInfo(source, "{%s}", part->column);
	}
	return source;
}

/*
 * The parser takes anything.  It either says what is wrong and where, or loses
 * nothing (but for the backslashes of an exact key).
 */
static bool
parser_takes_anything(void)
{
	static const char *const sets[] = {"ab{}", "a{}[]\\", NULL};
	StringInfo	source = choose_text(sets[choose(lengthof(sets))],
									 choose(50) ? 16 : 1100);
	SlateTemplateDialect dialect = choose(2) ? TEMPLATE_KEY : TEMPLATE_DROP;
	const char *error = NULL;
	int			position = -1;
	SlateTemplate *template;
	StringInfo	rebuilt;
	bool		ok;

	tell("source", source->data, source->len);
	template = slate_template_parse(source->data, dialect, &error, &position);
	if (template == NULL)
		ok = error != NULL && position >= 0 && position <= source->len;
	else
	{
		rebuilt = rebuild_source(template);
		ok = error == NULL && strcmp(template->source, source->data) == 0 &&
			(strcmp(rebuilt->data, source->data) == 0 ||
			 (dialect == TEMPLATE_DROP && !template->is_pattern));
		free_text(rebuilt);
		pfree(template);
	}
	free_text(source);
	return ok;
}

static bool
same_values(const SlateTemplate *template, const SlateSlice *one,
			const SlateSlice *other)
{
	int			i;

	for (i = 0; i < template->ncolumns; i++)
	{
		if (one[i].len != other[i].len ||
			memcmp(one[i].start, other[i].start, one[i].len) != 0)
			return false;
	}
	return true;
}

/* The splits are those of the reference, in its order, and no more. */
static bool
splits_are_those(const SlateTemplate *template, StringInfo key,
				 const SlateSlice *original)
{
	SlateSlice	expected[MAX_SPLITS][SLATE_TEMPLATE_MAX_COLUMNS];
	SlateSlice	values[SLATE_TEMPLATE_MAX_COLUMNS];
	int			nexpected = 0;
	bool		seen = (original == NULL);
	int			i;

	reference_split(template, 0, key->data, key->len, values, expected,
					&nexpected);
	for (i = 0; slate_template_split(template, key->data, key->len, i,
									 values); i++)
	{
		if (i >= nexpected || !same_values(template, values, expected[i]))
			return false;
		if (original != NULL && same_values(template, values, original))
			seen = true;
	}
	return i == nexpected && (seen || i == MAX_SPLITS);
}

/* A rendered key is split into what it was rendered from. */
static bool
split_undoes_render(void)
{
	static const char *const sets[] = {"a:", "a:*", NULL};
	const char *bytes = sets[choose(lengthof(sets))];
	SlateTemplate *template = choose_template(TEMPLATE_KEY, bytes);
	SlateSlice	original[SLATE_TEMPLATE_MAX_COLUMNS];
	StringInfo	texts;
	StringInfo	key;
	bool		ok;

	if (template == NULL)
		return true;
	texts = choose_values(template, bytes, original);
	key = makeStringInfo();
	ok = slate_template_render(template, original, key);
	tell("key", key->data, key->len);
	ok = ok && splits_are_those(template, key, original) &&
		slate_template_covers(template, key->data, key->len);
	free_text(texts);
	free_text(key);
	pfree(template);
	return ok;
}

/* A key has a split just if the template covers it, and its wildcard agrees. */
static bool
split_covers_and_wildcard_agree(void)
{
	static const char *const sets[] = {"a:", "a*:", "a:[]\\"};
	const char *bytes = sets[choose(lengthof(sets))];
	SlateTemplate *template = choose_template(TEMPLATE_KEY, bytes);
	SlateSlice	values[SLATE_TEMPLATE_MAX_COLUMNS];
	StringInfo	key = choose_text(bytes, MAX_TEXT);
	StringInfo	glob = makeStringInfo();
	bool		ok = true;
	bool		covers;

	tell("key", key->data, key->len);
	if (template != NULL)
	{
		slate_template_wildcard(template, glob);
		tell("wildcard", glob->data, glob->len);
		covers = slate_template_covers(template, key->data, key->len);
		ok = covers == slate_template_split(template, key->data, key->len, 0,
											values) &&
			covers == glob_matches(glob, key) &&
			splits_are_those(template, key, NULL);
		pfree(template);
	}
	free_text(key);
	free_text(glob);
	return ok;
}

static bool
same_family(const SlateTemplate *template, StringInfo key, StringInfo glob)
{
	StringInfo	of_key = makeStringInfo();
	StringInfo	of_glob = makeStringInfo();
	bool		ok;

	ok = slate_template_family(template, key->data, key->len, false, of_key) &&
		slate_template_family(template, glob->data, glob->len, true, of_glob);
	tell("key's family", of_key->data, of_key->len);
	tell("glob's family", of_glob->data, of_glob->len);
	ok = ok && strcmp(of_key->data, of_glob->data) == 0 &&
		strncmp(key->data, of_key->data, of_key->len) == 0;
	free_text(of_key);
	free_text(of_glob);
	return ok;
}

/* A key that a rendered glob matches is covered, and in the glob's family. */
static bool
matched_key_is_in_family(void)
{
	static const char *const sets[] = {"a:*", "ab:*?\\", "a[]b-*", NULL};
	const char *bytes = sets[choose(lengthof(sets))];
	SlateTemplate *template = choose_template(TEMPLATE_DROP, bytes);
	SlateSlice	values[SLATE_TEMPLATE_MAX_COLUMNS];
	StringInfo	texts;
	StringInfo	glob;
	StringInfo	key;
	bool		ok;

	if (template == NULL)
		return true;
	texts = choose_values(template, bytes, values);
	glob = makeStringInfo();
	ok = slate_template_render(template, values, glob);
	tell(template->is_pattern ? "glob" : "exact key", glob->data, glob->len);
	if (ok && template->is_pattern)
	{
		key = choose(3) ? choose_match(glob) : choose_text(bytes, MAX_TEXT);
		tell("key", key->data, key->len);
		if (glob_matches(glob, key))
			ok = slate_template_covers(template, key->data, key->len) &&
				same_family(template, key, glob);
		free_text(key);
	}
	free_text(texts);
	free_text(glob);
	pfree(template);
	return ok;
}

/* What is refused leaves no trace. */
static bool
refusals_leave_no_trace(void)
{
	SlateTemplate *template = choose_template(TEMPLATE_DROP, "a:*");
	SlateSlice	values[SLATE_TEMPLATE_MAX_COLUMNS];
	StringInfo	big = makeStringInfo();
	StringInfo	out = choose_text("xy", 3);
	int			oldlen = out->len;
	bool		is_glob = choose(2);
	bool		ok = true;
	int			i;

	if (template != NULL)
	{
		append_text(big, "a*:", choose(3 * SLATE_KEY_MAX) + 1);
		for (i = 0; i < template->ncolumns; i++)
		{
			values[i].start = big->data;
			values[i].len = choose(2) ? big->len : choose(big->len + 1);
		}
		if (!slate_template_render(template, values, out))
			ok = (out->len == oldlen);
		else
			ok = out->len - oldlen <=
				SLATE_KEY_MAX * (template->is_pattern ? 2 : 1);

		oldlen = out->len;
		if (!slate_template_family(template, big->data, big->len, is_glob,
								   out))
			ok = ok && out->len == oldlen;
		ok = ok && strlen(out->data) == (size_t) out->len;
		pfree(template);
	}
	free_text(big);
	free_text(out);
	return ok;
}

static const struct
{
	const char *name;
	bool		(*holds) (void);
}			properties[] = {
	{"the matcher agrees with a reference", matcher_agrees_with_reference},
	{"an escaped text matches itself and nothing else", escape_is_exact},
	{"a glob that is no pattern has one key", exact_glob_has_one_key},
	{"the parser takes anything and loses nothing", parser_takes_anything},
	{"a split undoes a rendering", split_undoes_render},
	{"split, covers and wildcard agree", split_covers_and_wildcard_agree},
	{"a key that a glob matches is in its family", matched_key_is_in_family},
	{"refusals leave no trace", refusals_leave_no_trace},
};

#define NPROPERTIES ((int) lengthof(properties))

static bool
try_property(int i)
{
	if (story.data == NULL)
		initStringInfo(&story);
	resetStringInfo(&story);
	return properties[i].holds();
}

#ifdef LIBFUZZER

extern int	LLVMFuzzerTestOneInput(const uint8 *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	int			property;

	input = data;
	input_left = size;
	property = choose(NPROPERTIES);
	if (!try_property(property))
	{
		fprintf(stderr, "%s: does not hold\n%s", properties[property].name,
				story.data);
		abort();
	}
	return 0;
}

#else

int
main(int argc, char **argv)
{
	uint64		seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
	long		iterations = argc > 2 ? atol(argv[2]) : 200000;
	long		tried[NPROPERTIES] = {0};
	bool		failed[NPROPERTIES] = {false};
	int			nfailed = 0;
	long		n;
	int			i;

	for (n = 0; n < iterations; n++)
	{
		i = n % NPROPERTIES;
		generator = seed * UINT64CONST(1000003) + n;
		if (failed[i])
			continue;
		tried[i]++;
		if (!try_property(i))
		{
			printf("# %s: does not hold in iteration %ld of seed "
				   UINT64_FORMAT "\n%s",
				   properties[i].name, n, seed, story.data);
			failed[i] = true;
			nfailed++;
		}
	}
	for (i = 0; i < NPROPERTIES; i++)
		printf("%sok %d - %s (%ld tried)\n", failed[i] ? "not " : "", i + 1,
			   properties[i].name, tried[i]);
	printf("1..%d\n", NPROPERTIES);
	return nfailed == 0 ? 0 : 1;
}

#endif							/* LIBFUZZER */
