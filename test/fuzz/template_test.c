/*-------------------------------------------------------------------------
 *
 * template_test.c
 *	  What src/template.c promises, case by case: one row, one TAP line.
 *
 * Read the tables as documentation: first globs (what matches, what is
 * escaped), then the parser and its errors, then what is done with a template.
 * template_fuzz.c looks for what is missing here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <limits.h>
#include <time.h>

#include "template.h"

#define MAX_VALUES 3			/* as many as a row below can have */
#define ROWS(table) ((int) lengthof(table))

static int	ntests = 0;
static int	nfailures = 0;

/* Turn text into something that is safe in a TAP line. */
static char *
printable(const char *text)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (; *text; text++)
	{
		if (*text == '#' || *text < ' ' || *text > '~')
			appendStringInfo(&buf, "<%02x>", (unsigned char) *text);
		else
			appendStringInfoChar(&buf, *text);
	}
	return buf.data;
}

static void
report(bool ok, const char *subject, const char *why)
{
	char	   *name = printable(subject);

	printf("%sok %d - %s%s%s\n", ok ? "" : "not ", ++ntests, name,
		   why[0] ? ": " : "", why);
	if (!ok)
		nfailures++;
	pfree(name);
}

static void
report_text(const char *got, const char *expected, const char *subject,
			const char *why)
{
	bool		ok = strcmp(got, expected) == 0;

	report(ok, subject, why);
	if (!ok)
	{
		printf("#   got      \"%s\"\n", printable(got));
		printf("#   expected \"%s\"\n", printable(expected));
	}
}

static SlateTemplate *
must_parse(const char *source, SlateTemplateDialect dialect)
{
	const char *error;
	int			position;
	SlateTemplate *template;

	template = slate_template_parse(source, dialect, &error, &position);
	if (template == NULL)
	{
		printf("Bail out! \"%s\" at %d of %s\n", error, position, source);
		exit(1);
	}
	return template;
}

/*
 * Matching
 */

typedef struct MatchCase
{
	const char *pattern;
	const char *text;
	bool		matches;
	const char *why;
} MatchCase;

static const MatchCase match_cases[] = {
	{"", "", true, "nothing matches nothing"},
	{"", "a", false, ""},
	{"a", "", false, ""},
	{"abc", "abc", true, ""},
	{"abc", "abcd", false, "the whole text must match"},
	{"abc", "ab", false, "the whole pattern must match"},
	{"abc", "ABC", false, "case matters"},

	{"*", "", true, "a star matches nothing"},
	{"**", "", true, "so do two"},
	{"*", "abc", true, ""},
	{"a*", "a", true, ""},
	{"a**", "a", true, ""},
	{"*c", "abc", true, ""},
	{"*c", "abcd", false, ""},
	{"a*c", "ac", true, ""},
	{"a*c", "abcbc", true, "the star goes on beyond the first c"},
	{"a*b*c", "a-b-b-c-c", true, ""},
	{"a*b*c", "a-c-b", false, "the order counts"},
	{"*ab*ab*", "xabyaxab", true, ""},
	{"*aab", "aaaab", true, "a failed try starts over one byte further"},
	{"a*a", "a", false, "no byte is matched twice"},
	{"*?", "", false, ""},
	{"*?*?", "ab", true, ""},
	{"*?*?", "a", false, ""},

	{"?", "a", true, ""},
	{"?", "", false, ""},
	{"?", "ab", false, ""},
	{"?", "\xc3\xa9", false, "a letter of two bytes is two"},
	{"??", "\xc3\xa9", true, ""},

	{"h[ae]llo", "hello", true, ""},
	{"h[ae]llo", "hillo", false, ""},
	{"h[ae]llo", "hllo", false, "brackets take exactly one byte"},
	{"h[^e]llo", "hallo", true, ""},
	{"h[^e]llo", "hello", false, ""},
	{"[a^]", "^", true, "a caret negates in the first place only"},
	{"[!a]", "a", true, "an exclamation mark does not negate"},
	{"[!a]", "!", true, ""},
	{"[!a]", "b", false, ""},
	{"[^a]", "", false, "a negated class takes a byte as well"},
	{"[]", "a", false, "an empty class matches nothing"},
	{"[]", "]", false, ""},
	{"[]a]", "]a]", false, "the first closing bracket closes"},
	{"[^]", "a", true, "the negation of an empty class matches all"},
	{"[^]a]", "xa]", true, ""},
	{"]", "]", true, "outside a class it is an ordinary byte"},
	{"a^b-c", "a^b-c", true, "and so are these"},
	{"[*?]", "*", true, "no wildcards between brackets"},
	{"[*?]", "a", false, ""},
	{"[[]", "[", true, ""},

	{"[a-c]", "b", true, ""},
	{"[a-c]", "c", true, "a range has both its ends"},
	{"[a-c]", "d", false, ""},
	{"[c-a]", "b", true, "a reversed range is the same range"},
	{"[c-a]", "d", false, ""},
	{"[^a-c]", "b", false, ""},
	{"[^c-a]", "d", true, ""},
	{"[a-b-d]", "-", true, "after a range a dash is ordinary"},
	{"[a-b-d]", "c", false, ""},
	{"[-a]", "-", true, "a dash in the first place is ordinary"},
	{"[--0]", ".", true, "unless it starts a range"},
	{"[a-]", "]", true, "the end of a range is taken as it is"},
	{"[a-]", "^", true, "and so this is a range"},
	{"[a-]", "-", false, "and not a dash"},
	{"[a-]b]", "]b]", false, "the range took the bracket, so b is a member"},
	{"[a-]b]", "b", true, ""},
	{"[a-\\]", "]", true, "a backslash ends a range, and escapes nothing"},
	{"[a-\\]", "b", false, ""},
	{"[\\a-c]", "b", false, "an escaped byte starts no range"},
	{"[\\a-c]", "-", true, ""},
	{"[\x80-\x90]", "\x88", true, "bytes above 0x7f are in order"},
	{"[\x80-\x90]", "\x98", false, ""},
	{"[\x80-\x90]", "a", false, ""},
	{"[a-\xff]", "z", CHAR_MIN == 0, "plain chars, as in Redis"},
	{"[a-\xff]", "\xff", true, ""},

	{"\\*", "*", true, "an escaped star is a star"},
	{"\\*", "a", false, ""},
	{"\\?", "a", false, ""},
	{"\\[a]", "[a]", true, ""},
	{"\\[a]", "a", false, ""},
	{"\\\\", "\\", true, ""},
	{"\\a", "a", true, "any byte can be escaped"},
	{"\\a", "\\a", false, ""},
	{"[\\]]", "]", true, "also between brackets"},
	{"[\\]]", "\\", false, ""},
	{"[\\^a]", "^", true, ""},
	{"[\\^a]", "b", false, ""},
	{"[a\\-c]", "b", false, ""},
	{"[a\\-c]", "-", true, ""},
	{"[\\\\]", "\\", true, ""},
	{"a\\", "a\\", true, "at the end a backslash stands for itself"},
	{"a\\", "a", false, ""},

	{"[", "[", false, "an unclosed class that is empty matches nothing"},
	{"[", "a", false, ""},
	{"[^", "a", true, "and negated it matches everything"},
	{"[ab", "b", true, "an unclosed class goes on to the end"},
	{"[ab", "c", false, ""},
	{"[a*", "*", true, ""},
	{"[a*", "aa", false, ""},
	{"*[ab", "xxb", true, ""},
	{"[a-", "-", true, "an unfinished range is its two bytes"},
	{"[a-", "b", false, ""},
	{"[\\", "\\", true, "nothing to escape here either"},
	{"[a\\", "\\", true, ""},
};

static void
test_match(void)
{
	int			i;

	for (i = 0; i < ROWS(match_cases); i++)
	{
		const MatchCase *c = &match_cases[i];
		bool		got = slate_glob_match(c->pattern, strlen(c->pattern),
										   c->text, strlen(c->text));

		report(got == c->matches,
			   psprintf("glob \"%s\" %s \"%s\"", c->pattern,
						c->matches ? "matches" : "does not match", c->text),
			   c->why);
	}
}

/* What lies behind pattern and text must not be looked at. */
static void
test_match_lengths(void)
{
	report(slate_glob_match("ab*", 2, "abc", 2),
		   "the lengths of glob and text count", "not their NULs");
	report(slate_glob_match("[ab]", 3, "b", 1),
		   "a class may end with the length", "");
	report(slate_glob_match("[^]", 2, "a", 1),
		   "a caret may be the last byte", "");
	report(!slate_glob_match("[a-c]", 3, "b", 1),
		   "a range may be cut off by the length", "");
	report(slate_glob_match("\\a", 1, "\\", 1),
		   "a backslash may be the last byte", "");
}

/*
 * Escaping
 */

typedef struct TextCase
{
	const char *from;
	const char *to;
	const char *why;
} TextCase;

static const TextCase escape_cases[] = {
	{"", "", "nothing"},
	{"plain:text_1", "plain:text_1", ""},
	{"*", "\\*", ""},
	{"a?b", "a\\?b", ""},
	{"[a]", "\\[a]", "a closing bracket alone is an ordinary byte"},
	{"\\", "\\\\", ""},
	{"\\*", "\\\\\\*", ""},
	{"^a-b]", "^a-b]", "special between brackets only"},
	{"\xc3\xa9", "\xc3\xa9", ""},
};

static const TextCase unescape_cases[] = {
	{"", "", ""},
	{"abc", "abc", ""},
	{"\\*a\\?", "*a?", ""},
	{"\\\\", "\\", ""},
	{"\\\\\\*", "\\*", ""},
	{"\\a", "a", "any byte can be escaped"},
	{"a\\", "a\\", "a backslash at the end stands for itself"},
	{"]^-", "]^-", ""},
};

static void
test_escape(void)
{
	int			i;

	for (i = 0; i < ROWS(escape_cases); i++)
	{
		const TextCase *c = &escape_cases[i];
		StringInfoData out;
		bool		matches;

		initStringInfo(&out);
		slate_glob_escape(&out, c->from, strlen(c->from));
		report_text(out.data, c->to, psprintf("escape \"%s\"", c->from),
					c->why);
		matches = slate_glob_match(out.data, out.len,
								   c->from, strlen(c->from));
		report(matches && !slate_glob_is_pattern(out.data, out.len),
			   psprintf("escaped \"%s\" matches just that", c->from), "");
	}
}

static void
test_unescape(void)
{
	int			i;

	for (i = 0; i < ROWS(unescape_cases); i++)
	{
		const TextCase *c = &unescape_cases[i];
		StringInfoData out;

		initStringInfo(&out);
		slate_glob_unescape(&out, c->from, strlen(c->from));
		report_text(out.data, c->to, psprintf("unescape \"%s\"", c->from),
					c->why);
	}
}

static const struct
{
	const char *text;
	bool		is_pattern;
}			is_pattern_cases[] = {
	{"", false},
	{"a:b", false},
	{"a*", true},
	{"a?", true},
	{"[a]", true},
	{"a[", true},
	{"a]", false},
	{"a\\*", false},
	{"a\\\\*", true},
	{"a\\\\\\*", false},
	{"\\[a]", false},
	{"\\?*", true},
	{"a\\", false},
};

static void
test_is_pattern(void)
{
	int			i;

	for (i = 0; i < ROWS(is_pattern_cases); i++)
	{
		const char *text = is_pattern_cases[i].text;
		bool		expected = is_pattern_cases[i].is_pattern;

		report(slate_glob_is_pattern(text, strlen(text)) == expected,
			   psprintf("\"%s\" is %s pattern", text, expected ? "a" : "no"),
			   "");
	}
}

/*
 * Parsing
 */

/*
 * A parsed template as text: literals as they are, columns in angle brackets,
 * patterns with a tilde in front.
 */
static char *
describe_template(const SlateTemplate *template)
{
	StringInfoData buf;
	int			i;

	initStringInfo(&buf);
	if (template->is_pattern)
		appendStringInfoChar(&buf, '~');
	for (i = 0; i <= template->ncolumns; i++)
	{
		const SlateTemplatePart *part = &template->parts[i];

		appendStringInfoString(&buf, part->literal);
		if ((int) strlen(part->literal) != part->literal_len)
			appendStringInfoString(&buf, "(wrong length)");
		if ((part->column == NULL) != (i == template->ncolumns))
			appendStringInfoString(&buf, "(wrong end)");
		if (part->column != NULL)
			appendStringInfo(&buf, "<%s>", part->column);
	}
	return buf.data;
}

typedef struct ParseCase
{
	SlateTemplateDialect dialect;
	const char *source;
	const char *parsed;
	const char *why;
} ParseCase;

static const ParseCase parse_cases[] = {
	{TEMPLATE_KEY, "shop:invoice:{id}", "shop:invoice:<id>", ""},
	{TEMPLATE_KEY, "{a}:{b}", "<a>:<b>", ""},
	{TEMPLATE_KEY, "{a}:{a}", "<a>:<a>", "a column may come twice"},
	{TEMPLATE_KEY, "a", "a", "no column at all"},
	{TEMPLATE_KEY, "{a}", "<a>", "nothing but a column"},
	{TEMPLATE_KEY, "{Order No. *}", "<Order No. *>", "names are taken as is"},
	{TEMPLATE_KEY, "{{{a}}}", "{<a>}", "doubled braces are braces"},
	{TEMPLATE_KEY, "{{a}}", "{a}", ""},
	{TEMPLATE_KEY, "{a}}}{{{b}", "<a>}{<b>", ""},
	{TEMPLATE_KEY, "{{}}", "{}", ""},
	{TEMPLATE_KEY, "a*?[b]\\{c}", "a*?[b]\\<c>", "no globs in keys"},
	{TEMPLATE_KEY, "a\\", "a\\", "nor backslashes"},

	{TEMPLATE_DROP, "a:{b}", "a:<b>", "one key"},
	{TEMPLATE_DROP, "a:{b}:*", "~a:<b>:*", "many keys"},
	{TEMPLATE_DROP, "{a}?", "~<a>?", ""},
	{TEMPLATE_DROP, "{a}[0-9]", "~<a>[0-9]", ""},
	{TEMPLATE_DROP, "a\\*:{b}", "a*:<b>", "one key, without backslashes"},
	{TEMPLATE_DROP, "\\a{b}\\\\", "a<b>\\", ""},
	{TEMPLATE_DROP, "a\\*:{b}:*", "~a\\*:<b>:*", "a glob keeps them"},
	{TEMPLATE_DROP, "*{a}\\*", "~*<a>\\*", "in all of its literals"},
	{TEMPLATE_DROP, "a]{b}", "a]<b>", ""},
	{TEMPLATE_DROP, "\\[{a}]", "[<a>]", "these are no brackets"},
	{TEMPLATE_DROP, "[{{]{a}", "~[{]<a>", ""},
	{TEMPLATE_DROP, "[a-\\]{b}", "~[a-\\]<b>", "the range ends, so it closes"},
	{TEMPLATE_DROP, "\\{{{a}", "{<a>", "a brace is doubled nonetheless"},
	{TEMPLATE_DROP, "{a}[b", "~<a>[b", "unclosed, as Redis has it"},
	{TEMPLATE_DROP, "{a}[\\", "~<a>[\\", ""},
};

static void
test_parse(void)
{
	int			i;

	for (i = 0; i < ROWS(parse_cases); i++)
	{
		const ParseCase *c = &parse_cases[i];
		SlateTemplate *template = must_parse(c->source, c->dialect);

		report_text(describe_template(template), c->parsed,
					psprintf("parse %s \"%s\"",
							 c->dialect == TEMPLATE_KEY ? "key" : "drop",
							 c->source),
					c->why);
		if (strcmp(template->source, c->source) != 0)
			report_text(template->source, c->source, "source is kept", "");
		pfree(template);
	}
}

typedef struct ErrorCase
{
	SlateTemplateDialect dialect;
	const char *source;
	int			position;
	const char *error;
} ErrorCase;

static const ErrorCase error_cases[] = {
	{TEMPLATE_KEY, "", 0, "The template is empty."},
	{TEMPLATE_DROP, "", 0, "The template is empty."},
	{TEMPLATE_KEY, "a:{b", 2, "An opening brace is not closed."},
	{TEMPLATE_KEY, "a:{", 2, "An opening brace is not closed."},
	{TEMPLATE_KEY, "{a{b}", 0, "An opening brace is not closed."},
	{TEMPLATE_KEY, "{{{", 2, "An opening brace is not closed."},
	{TEMPLATE_KEY, "a:{}", 2, "A column name is empty."},
	{TEMPLATE_KEY, "a}", 1, "A closing brace has no opening brace."},
	{TEMPLATE_KEY, "{a}}", 3, "A closing brace has no opening brace."},
	{TEMPLATE_KEY, "{{a}", 3, "A closing brace has no opening brace."},
	{TEMPLATE_KEY, "x{a}{b}", 4, "Two columns have nothing between them."},
	{TEMPLATE_DROP, "x{a}{b}*", 4, "Two columns have nothing between them."},
	{TEMPLATE_KEY,
		"{a}.{b}.{c}.{d}.{e}.{f}.{g}.{h}."
		"{i}.{j}.{k}.{l}.{m}.{n}.{o}.{p}.{q}", 64,
	"There are too many columns."},
	{TEMPLATE_DROP, "a\\", 1, "A backslash has nothing to escape."},
	{TEMPLATE_DROP, "a*\\\\\\", 4, "A backslash has nothing to escape."},
	{TEMPLATE_DROP, "a\\{b}", 1, "A backslash has nothing to escape."},
	{TEMPLATE_DROP, "{{\\{b}", 2, "A backslash has nothing to escape."},
	{TEMPLATE_DROP, "a[{b}]", 2, "A column cannot stand between brackets."},
	{TEMPLATE_DROP, "[^a\\]{b}]", 5,
	"A column cannot stand between brackets."},
	{TEMPLATE_DROP, "[a-]{b}]", 4, "A column cannot stand between brackets."},
};

static void
check_error(const char *source, const ErrorCase *c)
{
	const char *error = NULL;
	int			position = -1;
	SlateTemplate *template;

	template = slate_template_parse(source, c->dialect, &error, &position);
	report_text(template != NULL ? "parsed" :
				psprintf("%d %s", position, error),
				psprintf("%d %s", c->position, c->error),
				psprintf("%s \"%.70s\" is refused",
						 c->dialect == TEMPLATE_KEY ? "key" : "drop", source),
				c->error);
}

static char *
repeat(const char *text, int times)
{
	StringInfoData buf;

	initStringInfo(&buf);
	while (times-- > 0)
		appendStringInfoString(&buf, text);
	return buf.data;
}

static void
test_parse_errors(void)
{
	static const ErrorCase too_long = {
		TEMPLATE_KEY, NULL, SLATE_KEY_MAX,
		"The template is longer than a key can be."
	};
	SlateTemplate *template;
	int			i;

	for (i = 0; i < ROWS(error_cases); i++)
		check_error(error_cases[i].source, &error_cases[i]);

	check_error(repeat("x", SLATE_KEY_MAX + 1), &too_long);
	template = must_parse(repeat("x", SLATE_KEY_MAX), TEMPLATE_KEY);
	report(template->parts[0].literal_len == SLATE_KEY_MAX,
		   "a template as long as a key can be is taken", "");
	template = must_parse(repeat(".{c}", SLATE_TEMPLATE_MAX_COLUMNS),
						  TEMPLATE_DROP);
	report(template->ncolumns == SLATE_TEMPLATE_MAX_COLUMNS,
		   "as many columns as there can be are taken", "");
}

/*
 * Rendering
 */

typedef struct RenderCase
{
	SlateTemplateDialect dialect;
	const char *source;
	const char *values[MAX_VALUES];
	const char *rendered;
	const char *wildcard;
} RenderCase;

static const RenderCase render_cases[] = {
	{TEMPLATE_KEY, "shop:{id}", {"7"}, "shop:7", "shop:*"},
	{TEMPLATE_KEY, "{a}:{b}:{c}", {"x", "", "z"}, "x::z", "*:*:*"},
	{TEMPLATE_KEY, "{a}", {""}, "", "*"},
	{TEMPLATE_KEY, "a*\\{b}", {"*{c}"}, "a*\\*{c}", "a\\*\\\\*"},
	{TEMPLATE_KEY, "a", {NULL}, "a", "a"},
	{TEMPLATE_DROP, "a:{b}:*", {"7"}, "a:7:*", "a:*:*"},
	{TEMPLATE_DROP, "a:{b}:*", {"*?[x]\\"}, "a:\\*\\?\\[x]\\\\:*", "a:*:*"},
	{TEMPLATE_DROP, "a\\?{b}:*", {"7"}, "a\\?7:*", "a\\?*:*"},
	{TEMPLATE_DROP, "a\\?:{b}", {"*"}, "a?:*", "a\\?:*"},
	{TEMPLATE_DROP, "*:{a}:[0-9]", {"7"}, "*:7:[0-9]", "*:*:[0-9]"},
};

static void
fill_values(const SlateTemplate *template, const char *const *texts,
			SlateSlice *values)
{
	int			i;

	for (i = 0; i < template->ncolumns; i++)
	{
		values[i].start = texts[i];
		values[i].len = strlen(texts[i]);
	}
}

static void
test_render(void)
{
	int			i;

	for (i = 0; i < ROWS(render_cases); i++)
	{
		const RenderCase *c = &render_cases[i];
		SlateTemplate *template = must_parse(c->source, c->dialect);
		SlateSlice	values[MAX_VALUES];
		StringInfoData out;

		fill_values(template, c->values, values);
		initStringInfo(&out);
		appendStringInfoString(&out, "before ");
		slate_template_render(template, values, &out);
		report_text(out.data, psprintf("before %s", c->rendered),
					psprintf("render \"%s\"", c->source), "");

		resetStringInfo(&out);
		slate_template_wildcard(template, &out);
		report_text(out.data, c->wildcard,
					psprintf("wildcard of \"%s\"", c->source), "");
	}
}

/* Render "k{a}" or "k{a}*" with a text of so many bytes. */
static void
check_length(const char *source, const char *byte, int times, bool expected,
			 const char *why)
{
	SlateTemplate *template = must_parse(source, TEMPLATE_DROP);
	SlateSlice	value = {repeat(byte, times), times};
	StringInfoData out;
	bool		rendered;

	initStringInfo(&out);
	appendStringInfoString(&out, "before");
	rendered = slate_template_render(template, &value, &out);
	report(rendered == expected &&
		   (rendered || (out.len == 6 && strcmp(out.data, "before") == 0)),
		   psprintf("\"%s\" with %d times \"%s\"", source, times, byte), why);
}

static void
test_render_lengths(void)
{
	check_length("k{a}", "x", SLATE_KEY_MAX - 1, true, "the longest key");
	check_length("k{a}", "x", SLATE_KEY_MAX, false, "too long by one");
	check_length("k{a}", "*", SLATE_KEY_MAX - 1, true, "not escaped");
	check_length("k{a}k", "x", SLATE_KEY_MAX - 1, false,
				 "it is the last literal that is too much");
	check_length("k{a}", "x", 1000000, false, "far too long");
	check_length("k{a}*", "x", 2 * SLATE_KEY_MAX - 2, true,
				 "the longest glob");
	check_length("k{a}*", "x", 2 * SLATE_KEY_MAX - 1, false, "");
	check_length("k{a}*", "*", SLATE_KEY_MAX - 1, true, "escaped");
	check_length("k{a}*", "*", SLATE_KEY_MAX, false, "");
}

/*
 * Splitting
 */

typedef struct SplitCase
{
	const char *source;
	const char *key;
	const char *splits;			/* "a,b" for each, in order; "/" between */
	const char *why;
} SplitCase;

static const SplitCase split_cases[] = {
	{"shop:{id}", "shop:7", "7", ""},
	{"shop:{id}", "shop:7:8", "7:8", "a column takes any text"},
	{"shop:{id}", "shop:", "", "even none"},
	{"shop:{id}", "shop", "none", ""},
	{"shop:{id}", "shop;7", "none", ""},
	{"shop:{id}", "xshop:7", "none", ""},
	{"shop:{id}:x", "shop:7:x", "7", ""},
	{"shop:{id}:x", "shop:7:x:x", "7:x", "the last literal is at the end"},
	{"shop:{id}:x", "shop:7:y", "none", ""},
	{"a:{b}:a", "a:a", "none", "the literals cannot overlap"},
	{"a:{b}:a", "a::a", "", ""},
	{"{a}:{b}", "x:y", "x,y", ""},
	{"{a}:{b}", "x:y:z", "x,y:z/x:y,z", "the shortest first column first"},
	{"{a}:{b}", ":", ",", ""},
	{"{a}:{b}", "::", ",:/:,", ""},
	{"{a}:{b}", "xy", "none", ""},
	{"{a}:{b}:{c}", "1:2:3:4", "1,2,3:4/1,2:3,4/1:2,3,4",
	"then the shortest second"},
	{"{a}::{b}", "1:::2", "1,:2/1:,2", "literals that overlap themselves"},
	{"{a}:{b}:{c};", "1:2:3", "none", "no dead ends are tried"},
	{"{a}:{b}x{c}", "1:2:x", "1,2:,/1:2,,", ""},
	{"{a}.{a}", "1.2", "1,2", "a column twice is two texts"},
	{"{a}*", "x*", "x", "a literal star"},
	{"{{{a}}}", "{7}", "7", ""},
	{"{a}", "", "", ""},
	{"abc", "abc", "", "a template without columns has one split"},
	{"abc", "abcd", "none", ""},
	{"abc", "xabc", "none", ""},
	{"abc", "ab", "none", ""},
	{"{a}x{b}", "xxxxxxxxxxxxxxxxxxxx",
		",xxxxxxxxxxxxxxxxxxx/x,xxxxxxxxxxxxxxxxxx/xx,xxxxxxxxxxxxxxxxx/"
		"xxx,xxxxxxxxxxxxxxxx/xxxx,xxxxxxxxxxxxxxx/xxxxx,xxxxxxxxxxxxxx/"
		"xxxxxx,xxxxxxxxxxxxx/xxxxxxx,xxxxxxxxxxxx/xxxxxxxx,xxxxxxxxxxx/"
		"xxxxxxxxx,xxxxxxxxxx/xxxxxxxxxx,xxxxxxxxx/xxxxxxxxxxx,xxxxxxxx/"
		"xxxxxxxxxxxx,xxxxxxx/xxxxxxxxxxxxx,xxxxxx/xxxxxxxxxxxxxx,xxxxx/"
	"xxxxxxxxxxxxxxx,xxxx", "sixteen at most"},
};

/* All splits of a key as text, as in split_cases. */
static char *
describe_splits(const SlateTemplate *template, const char *key, int keylen)
{
	SlateSlice	values[SLATE_TEMPLATE_MAX_COLUMNS];
	StringInfoData buf;
	int			n;
	int			i;

	initStringInfo(&buf);
	for (n = 0; slate_template_split(template, key, keylen, n, values); n++)
	{
		if (n > 0)
			appendStringInfoChar(&buf, '/');
		for (i = 0; i < template->ncolumns; i++)
			appendStringInfo(&buf, "%s%.*s", i > 0 ? "," : "",
							 values[i].len, values[i].start);
	}
	if (n == 0)
		appendStringInfoString(&buf, "none");
	return buf.data;
}

static void
test_split(void)
{
	SlateTemplate *template;
	SlateSlice	value;
	int			i;

	for (i = 0; i < ROWS(split_cases); i++)
	{
		const SplitCase *c = &split_cases[i];

		template = must_parse(c->source, TEMPLATE_KEY);
		report_text(describe_splits(template, c->key, strlen(c->key)),
					c->splits,
					psprintf("split \"%s\" by \"%s\"", c->key, c->source),
					c->why);
	}

	template = must_parse("{a}:x", TEMPLATE_KEY);
	report(slate_template_split(template, "7:xyz", 3, 0, &value) &&
		   value.len == 1, "the key's length counts in a split", "");
	report(!slate_template_split(template, "7:x", 3, -1, &value),
		   "there is no split before the first", "");
	template = must_parse("{a}:*", TEMPLATE_DROP);
	report(!slate_template_split(template, "7:x", 3, 0, &value),
		   "a pattern does not split keys", "");
	template = must_parse("{a}", TEMPLATE_KEY);
	report(!slate_template_split(template, repeat("x", SLATE_KEY_MAX + 1),
								 SLATE_KEY_MAX + 1, 0, &value),
		   "what is longer than a key is not split", "");
}

/*
 * Covering and families
 */

typedef struct CoverCase
{
	const char *source;
	const char *key;
	bool		covers;
} CoverCase;

static const CoverCase cover_cases[] = {
	{"shop:search:{id}:*", "shop:search:7:x", true},
	{"shop:search:{id}:*", "shop:search:7:8:x", true},
	{"shop:search:{id}:*", "shop:search:7", false},
	{"shop:search:{id}:*", "shop:searches:7:x", false},
	{"a\\*{b}?", "a*c", true},
	{"a\\*{b}?", "a*", false},
	{"a\\*{b}?", "abc", false},
	{"a:{b}", "a:7", true},
	{"a:{b}", "b:7", false},
	{"a\\*:{b}", "a*:7", true},
	{"a\\*:{b}", "ax:7", false},
};

static void
test_covers(void)
{
	SlateTemplate *template;
	int			i;

	for (i = 0; i < ROWS(cover_cases); i++)
	{
		const CoverCase *c = &cover_cases[i];

		template = must_parse(c->source, TEMPLATE_DROP);
		report(slate_template_covers(template, c->key,
									 strlen(c->key)) == c->covers,
			   psprintf("\"%s\" %s \"%s\"", c->source,
						c->covers ? "covers" : "does not cover", c->key), "");
	}
	template = must_parse("a*", TEMPLATE_DROP);
	report(slate_template_covers(template, repeat("a", SLATE_KEY_MAX),
								 SLATE_KEY_MAX),
		   "the longest key is covered", "");
	report(!slate_template_covers(template, repeat("a", SLATE_KEY_MAX + 1),
								  SLATE_KEY_MAX + 1),
		   "what is longer than a key is not covered", "");
}

typedef struct FamilyCase
{
	const char *source;
	bool		is_glob;
	const char *text;
	const char *family;			/* NULL: none */
	const char *why;
} FamilyCase;

static const FamilyCase family_cases[] = {
	{"s:{id}:*", false, "s:7:x", "s:7:", "up to the byte behind the column"},
	{"s:{id}:*", true, "s:7:*", "s:7:", "which the glob shares"},
	{"s:{id}:*", true, "s:7:8:*", "s:7:", "also if the column has that byte"},
	{"s:{id}:*", false, "s:7:8:x", "s:7:", ""},
	{"s:{id}:*", true, "s:a\\*b:*", "s:a*b:", "escapes are undone in globs"},
	{"s:{id}:*", false, "s:a*b:x", "s:a*b:", ""},
	{"s:{id}:*", false, "s:a\\*b:x", "s:a\\*b:", "and kept in keys"},
	{"s:{id}:*", true, "s:a\\\\:*", "s:a\\:", ""},
	{"s:{id}:*", false, "s::x", "s::", "the column may be empty"},
	{"s:{id}:*", false, "s:7", NULL, "no byte behind the column"},
	{"s:{id}:*", false, "t:7:x", NULL, "another literal"},
	{"s:{id}:*", false, "s", NULL, ""},
	{"s:{id}:*", true, "s:*", NULL, "not one of its renderings"},
	{"s:{id}::x*", false, "s:7::xy", "s:7:", "the first byte ends it"},
	{"s:{id}\\*:?", false, "s:7*:x", "s:7*", "an escaped byte is ordinary"},
	{"s:{id}\\*:?", true, "s:7\\*:?", "s:7*", ""},
	{"s:{id}*", false, "s:7", "s:", "a glob character right behind"},
	{"s:{id}*", true, "s:7*", "s:", ""},
	{"s:{id}[a]", true, "s:7[a]", "s:", ""},
	{"s:*:{id}:x", false, "s:7:8:x", "s:", "a glob character before it"},
	{"s:*:{id}:x", true, "s:*:8:x", "s:", ""},
	{"s:*:{id}:x", false, "s", NULL, ""},
	{"s:*", false, "s:7", "s:", "no column"},
	{"s\\?{id}:*", false, "s?7:x", "s?7:", "escapes in the template"},
	{"s\\?{id}:*", true, "s\\?7:*", "s?7:", ""},
	{"{id}:*", false, "7:x", "7:", "no literal in front"},
	{"*:{id}", false, "x:7", "", "every key is in the one family"},
	{"*:{id}", true, "*:7", "", ""},
	{"s:{id}", false, "s:7", NULL, "not a pattern"},
};

static void
test_family(void)
{
	int			i;

	for (i = 0; i < ROWS(family_cases); i++)
	{
		const FamilyCase *c = &family_cases[i];
		SlateTemplate *template = must_parse(c->source, TEMPLATE_DROP);
		StringInfoData out;
		bool		found;

		initStringInfo(&out);
		appendStringInfoString(&out, "before ");
		found = slate_template_family(template, c->text, strlen(c->text),
									  c->is_glob, &out);
		report_text(psprintf("%s%s", found ? "" : "none ", out.data),
					c->family ? psprintf("before %s", c->family) :
					"none before ",
					psprintf("family of %s \"%s\" under \"%s\"",
							 c->is_glob ? "glob" : "key", c->text, c->source),
					c->why);
	}
}

/*
 * Time.  What would take a naive implementation years must take less than a
 * second here, sanitizers included.
 */

static void
report_time(clock_t began, bool ok, const char *subject)
{
	double		seconds = (double) (clock() - began) / CLOCKS_PER_SEC;

	report(ok && seconds < 1.0, subject, "in no time");
	if (seconds >= 1.0)
		printf("#   took %.1f s\n", seconds);
}

static void
test_time(void)
{
	char	   *colons = repeat(":", SLATE_KEY_MAX);
	char	   *many = repeat("{a}:", SLATE_TEMPLATE_MAX_COLUMNS);
	char	   *as = repeat("a", SLATE_KEY_MAX);
	SlateTemplate *template = must_parse(many, TEMPLATE_KEY);
	char	   *glob;
	clock_t		began = clock();

	report_time(began,
				strncmp(describe_splits(template, colons, SLATE_KEY_MAX),
						",,,,,,,,,,,,,,,:::", 18) == 0,
				"sixteen columns split a key of colons");
	many[strlen(many) - 1] = ';';
	template = must_parse(many, TEMPLATE_KEY);
	began = clock();
	report_time(began,
				strcmp(describe_splits(template, colons, SLATE_KEY_MAX),
					   "none") == 0,
				"sixteen columns find nothing in a key of colons");
	template = must_parse("{a}:{b}:{c}:{d};{e}:{f}", TEMPLATE_KEY);
	colons[SLATE_KEY_MAX - 2] = ';';
	began = clock();
	report_time(began,
				strcmp(describe_splits(template, colons, SLATE_KEY_MAX),
					   "none") != 0,
				"a semicolon near the end is found");
	glob = psprintf("%sb", repeat("*a", 500));
	began = clock();
	report_time(began,
				!slate_glob_match(glob, strlen(glob), as, SLATE_KEY_MAX),
				"hundreds of stars match nothing");
	glob = psprintf("*%sb", repeat("[^b-z]", 300));
	began = clock();
	report_time(began,
				!slate_glob_match(glob, strlen(glob), as, SLATE_KEY_MAX),
				"hundreds of classes match nothing");
}

int
main(void)
{
	test_match();
	test_match_lengths();
	test_escape();
	test_unescape();
	test_is_pattern();
	test_parse();
	test_parse_errors();
	test_render();
	test_render_lengths();
	test_split();
	test_covers();
	test_family();
	test_time();
	printf("1..%d\n", ntests);
	return nfailures == 0 ? 0 : 1;
}
