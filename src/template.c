/*-------------------------------------------------------------------------
 *
 * template.c
 *	  Key templates ("shop:invoice:{id}") and Redis globs ("shop:search:7:*").
 *
 * Three layers, each on top of the one before: globs, read one token at a
 * time; the parser, which turns a template's source into literals and columns;
 * and what is done with a parsed template (render, split, cover, family).
 *
 * Invariants:
 *
 * - scan_glob_token() is the only place that knows the syntax of a glob.
 *	 Whether a text is a pattern, what it matches, and what it says without its
 *	 backslashes all follow from it and so cannot disagree.
 *
 * - A column stands neither inside a bracket expression nor behind a dangling
 *	 backslash: the parser refuses both.  Hence the literals of a pattern are
 *	 whole globs of their own, a rendering is their concatenation, and escaping
 *	 a column's text needs no thought of what comes before it.
 *
 * - There is text between two columns.  Without it, keys would be ambiguous
 *	 whatever the columns hold, and split() would have nothing to look for.
 *
 * - Nothing here takes more than O(length * length of the template) steps, nor
 *	 recurses: keys and globs come from whoever may call the SQL functions, and
 *	 some of this runs where it cannot be cancelled.
 *
 * The file also compiles as frontend code, for the tests in test/fuzz.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "template.h"

int
slate_slice_compare(const void *a, const void *b)
{
	const SlateSlice *x = a;
	const SlateSlice *y = b;

	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return memcmp(x->start, y->start, x->len);
}

/*
 * Globs
 */

typedef enum GlobTokenKind
{
	GLOB_BYTE,					/* one byte, perhaps behind a backslash */
	GLOB_ANY_BYTE,				/* ? */
	GLOB_CLASS,					/* [...] */
	GLOB_STAR					/* * */
} GlobTokenKind;

typedef struct GlobToken
{
	GlobTokenKind kind;
	int			len;			/* bytes of the pattern it takes, at least 1 */
	char		byte;			/* GLOB_BYTE: the byte that it stands for */
	bool		complete;		/* false: lacks its "]", or what to escape */
} GlobToken;

/* Reads a text as plain bytes, undoing a glob's escapes if it is a glob. */
typedef struct PlainReader
{
	const char *next;
	int			left;
	bool		is_glob;
} PlainReader;

/*
 * A template being parsed.  The template and all of its strings are one chunk;
 * "room" is where in it the next string goes.
 */
typedef struct TemplateParser
{
	SlateTemplate *template;
	SlateTemplateDialect dialect;
	const char *next;			/* in template->source */
	char	   *room;
	const char *error;			/* NULL while all is well */
	const char *error_at;		/* in template->source */
} TemplateParser;

/*
 * A key being split.  Column i goes from start[i] to end[i].  Were it to start
 * behind latest_start[i], what is left of the key would not hold what is left
 * of the template.
 */
typedef struct TemplateSplit
{
	const SlateTemplate *template;
	const char *key;
	int			latest_start[SLATE_TEMPLATE_MAX_COLUMNS];
	int			start[SLATE_TEMPLATE_MAX_COLUMNS];
	int			end[SLATE_TEMPLATE_MAX_COLUMNS];
} TemplateSplit;

/*
 * Is the byte between the two, whichever of them is the lower one?
 *
 * Redis compares plain chars, whose sign is the platform's.  That matters only
 * for a range from an ASCII byte to one above 0x7f, and plain chars here make
 * it what a Redis on the same kind of machine takes it for.
 */
static bool
byte_in_range(char byte, char one, char other)
{
	return one <= other ?
		(byte >= one && byte <= other) :
		(byte >= other && byte <= one);
}

/*
 * Read the bracket expression that the pattern starts with, and tell in
 * *member whether the byte belongs to it.
 *
 * The corner cases are Redis's: only "^" negates, and only in the first place;
 * the first "]" closes, so "[]" is empty and matches nothing; but the end of a
 * range is taken as it is, be it "]" or a backslash.  Without a "]" the
 * expression goes on to the pattern's end.
 */
static GlobToken
scan_glob_class(const char *pattern, int len, char byte, bool *member)
{
	GlobToken	token = {.kind = GLOB_CLASS};
	bool		negated = (len > 1 && pattern[1] == '^');
	bool		found = false;
	int			i = negated ? 2 : 1;

	while (i < len && pattern[i] != ']')
	{
		if (pattern[i] == '\\' && len - i >= 2)
		{
			found |= (pattern[i + 1] == byte);
			i += 2;
		}
		else if (len - i >= 3 && pattern[i + 1] == '-')
		{
			found |= byte_in_range(byte, pattern[i], pattern[i + 2]);
			i += 3;
		}
		else
			found |= (pattern[i++] == byte);
	}
	token.complete = (i < len);
	token.len = token.complete ? i + 1 : len;
	*member = (found != negated);
	return token;
}

/*
 * Read the token that the pattern, which is not empty, starts with, and tell
 * in *member whether it matches the byte (no matter what, for a star).
 *
 * A backslash at the very end stands for itself, as in Redis.
 */
static GlobToken
scan_glob_token(const char *pattern, int len, char byte, bool *member)
{
	GlobToken	token = {GLOB_BYTE, 1, pattern[0], true};

	*member = true;
	switch (pattern[0])
	{
		case '*':
			token.kind = GLOB_STAR;
			return token;
		case '?':
			token.kind = GLOB_ANY_BYTE;
			return token;
		case '[':
			return scan_glob_class(pattern, len, byte, member);
		case '\\':
			token.complete = (len >= 2);
			if (token.complete)
			{
				token.len = 2;
				token.byte = pattern[1];
			}
			break;
	}
	*member = (token.byte == byte);
	return token;
}

/* The same where there is nothing to match yet. */
static GlobToken
next_glob_token(const char *pattern, int len)
{
	bool		member;

	return scan_glob_token(pattern, len, '\0', &member);
}

bool
slate_glob_is_pattern(const char *text, int len)
{
	int			i = 0;

	while (i < len)
	{
		GlobToken	token = next_glob_token(text + i, len - i);

		if (token.kind != GLOB_BYTE)
			return true;
		i += token.len;
	}
	return false;
}

/*
 * "]", "^" and "-" are special only between brackets, where no text is ever
 * put; so they stay as they are, and UUIDs stay readable.
 */
void
slate_glob_escape(StringInfo out, const char *text, int len)
{
	int			i;

	for (i = 0; i < len; i++)
	{
		if (text[i] == '*' || text[i] == '?' ||
			text[i] == '[' || text[i] == '\\')
			appendStringInfoChar(out, '\\');
		appendStringInfoChar(out, text[i]);
	}
}

static bool
read_plain_byte(PlainReader *reader, char *byte)
{
	GlobToken	token = {GLOB_BYTE, 1, '\0', true};

	if (reader->left == 0)
		return false;
	if (reader->is_glob)
		token = next_glob_token(reader->next, reader->left);
	else
		token.byte = *reader->next;
	if (token.kind != GLOB_BYTE)
		return false;
	reader->next += token.len;
	reader->left -= token.len;
	*byte = token.byte;
	return true;
}

void
slate_glob_unescape(StringInfo out, const char *text, int len)
{
	PlainReader reader = {text, len, true};
	char		byte;

	while (read_plain_byte(&reader, &byte))
		appendStringInfoChar(out, byte);
}

/* Bytes that are looked at between two questions whether to go on. */
#define BYTES_AT_ONCE (1024 * 1024)

static bool
goes_on(SlateGlobPatience *patience, int nbytes)
{
	if (patience == NULL || patience->given_up)
		return patience == NULL;
	patience->nbytes += nbytes;
	if (patience->nbytes < BYTES_AT_ONCE)
		return true;
	patience->nbytes = 0;
	patience->given_up = !patience->go_on(patience->arg);
	return !patience->given_up;
}

/* Is there no star, and how many bytes does it take then? */
static bool
has_fixed_length(const char *pattern, int len, int *nbytes)
{
	*nbytes = 0;
	for (int i = 0; i < len;)
	{
		GlobToken	token = next_glob_token(pattern + i, len - i);

		if (token.kind == GLOB_STAR)
			return false;
		i += token.len;
		++*nbytes;
	}
	return true;
}

/*
 * Every token but a star takes exactly one byte.  So when something does not
 * match, it is enough to let the last star take one byte more: whatever an
 * earlier star could take instead, the last one can take as well.  And what is
 * behind the last of all can only be the text's end.
 */
static bool
match_glob(const char *pattern, int patternlen, const char *text, int len,
		   SlateGlobPatience *patience)
{
	int			p = 0;
	int			t = 0;
	int			after_star = -1;	/* in pattern; -1: no star so far */
	int			star_end = 0;	/* in text: where the last star's part ends */

	while (t < len)
	{
		GlobToken	token;
		bool		matches = false;

		if (p < patternlen)
		{
			token = scan_glob_token(pattern + p, patternlen - p, text[t],
									&matches);
			if (token.kind == GLOB_STAR)
			{
				int			rest;

				after_star = ++p;
				star_end = t;
				if (has_fixed_length(pattern + p, patternlen - p, &rest))
				{
					if (rest > len - t)
						return false;
					t = len - rest;
					after_star = -1;
				}
				continue;
			}
		}
		if (matches)
		{
			p += token.len;
			t++;
		}
		else if (after_star >= 0 && goes_on(patience, p - after_star + 1))
		{
			p = after_star;
			t = ++star_end;
		}
		else
			return false;
	}
	while (p < patternlen && pattern[p] == '*')
		p++;
	return p == patternlen;
}

bool
slate_glob_match(const char *pattern, int patternlen,
				 const char *text, int len)
{
	return match_glob(pattern, patternlen, text, len, NULL);
}

/*
 * The parser
 */

static bool
fail_parse(TemplateParser *parser, const char *error, const char *error_at)
{
	parser->error = error;
	parser->error_at = error_at;
	return false;
}

/*
 * Check a literal of a DROP template: it must be a glob of its own, which
 * means the same whatever is put behind it.  It ends at parser->next.
 */
static bool
check_glob_literal(TemplateParser *parser, const SlateTemplatePart *part)
{
	GlobToken	token;
	int			i;

	for (i = 0; i < part->literal_len; i += token.len)
	{
		token = next_glob_token(part->literal + i, part->literal_len - i);
		if (token.kind != GLOB_BYTE)
			parser->template->is_pattern = true;
		if (token.complete)
			continue;

		/* An incomplete token is the last one. */
		if (token.kind == GLOB_BYTE)
			return fail_parse(parser,
							  "A backslash has nothing to escape.",
							  parser->next - 1);
		if (*parser->next != '\0')
			return fail_parse(parser,
							  "A column cannot stand between brackets.",
							  parser->next);
	}
	return true;
}

/* Read literal text up to the next column, or to the end. */
static bool
parse_literal(TemplateParser *parser, SlateTemplatePart *part)
{
	part->literal = parser->room;
	while (*parser->next != '\0')
	{
		char		byte = *parser->next;

		if (byte == '{' || byte == '}')
		{
			if (parser->next[1] == byte)
				parser->next++;
			else if (byte == '{')
				break;
			else
				return fail_parse(parser,
								  "A closing brace has no opening brace.",
								  parser->next);
		}
		*parser->room++ = byte;
		parser->next++;
	}
	part->literal_len = parser->room - part->literal;
	*parser->room++ = '\0';
	return parser->dialect == TEMPLATE_KEY ||
		check_glob_literal(parser, part);
}

/* Read "{column}". */
static bool
parse_column(TemplateParser *parser, SlateTemplatePart *part)
{
	const char *brace = parser->next;
	const char *name = brace + 1;
	int			len = strcspn(name, "{}");

	if (name[len] != '}')
		return fail_parse(parser, "An opening brace is not closed.", brace);
	if (len == 0)
		return fail_parse(parser, "A column name is empty.", brace);
	if (part > parser->template->parts && part->literal_len == 0)
		return fail_parse(parser,
						  "Two columns have nothing between them.", brace);
	if (parser->template->ncolumns == SLATE_TEMPLATE_MAX_COLUMNS)
		return fail_parse(parser, "There are too many columns.", brace);

	part->column = parser->room;
	memcpy(parser->room, name, len);
	parser->room += len;
	*parser->room++ = '\0';
	parser->next = name + len + 1;
	parser->template->ncolumns++;
	return true;
}

static bool
parse_parts(TemplateParser *parser)
{
	SlateTemplatePart *part = parser->template->parts;

	while (parse_literal(parser, part))
	{
		if (*parser->next == '\0')
			return true;
		if (!parse_column(parser, part))
			return false;
		part++;
	}
	return false;
}

/*
 * A DROP template turned out to be an exact key, so its literals are not globs
 * after all: take their backslashes out.  They only get shorter.
 */
static void
unescape_literals(SlateTemplate *template)
{
	int			i;

	for (i = 0; i <= template->ncolumns; i++)
	{
		SlateTemplatePart *part = &template->parts[i];
		PlainReader reader = {part->literal, part->literal_len, true};
		char	   *end = part->literal;
		char		byte;

		while (read_plain_byte(&reader, &byte))
			*end++ = byte;
		*end = '\0';
		part->literal_len = end - part->literal;
	}
}

/*
 * One chunk for a template and its strings: the source, and a copy of its text
 * cut in pieces.  A column's braces leave room for the end of its name and of
 * the literal before it; the end of the last literal is the byte on top.
 */
static SlateTemplate *
make_template(const char *source, int len, char **room)
{
	Size		header = offsetof(SlateTemplate,
								  parts[SLATE_TEMPLATE_MAX_COLUMNS + 1]);
	SlateTemplate *template = palloc0(header + 2 * (len + 1));

	template->source = (char *) template + header;
	memcpy(template->source, source, len + 1);
	*room = template->source + len + 1;
	return template;
}

SlateTemplate *
slate_template_parse(const char *source, SlateTemplateDialect dialect,
					 const char **error, int *position)
{
	TemplateParser parser = {.dialect = dialect};
	Size		len = strlen(source);

	if (len == 0 || len > SLATE_KEY_MAX)
	{
		*error = len == 0 ? "The template is empty." :
			"The template is longer than a key can be.";
		*position = len == 0 ? 0 : SLATE_KEY_MAX;
		return NULL;
	}

	parser.template = make_template(source, len, &parser.room);
	parser.next = parser.template->source;
	if (!parse_parts(&parser))
	{
		*error = parser.error;
		*position = parser.error_at - parser.template->source;
		pfree(parser.template);
		return NULL;
	}
	if (dialect == TEMPLATE_DROP && !parser.template->is_pattern)
		unescape_literals(parser.template);
	return parser.template;
}

/*
 * Rendering
 */

/* Take back what was appended since out held len bytes. */
static bool
take_back(StringInfo out, int len)
{
	out->len = len;
	out->data[len] = '\0';
	return false;
}

bool
slate_template_render(const SlateTemplate *template,
					  const SlateSlice *values, StringInfo out)
{
	int			limit = SLATE_KEY_MAX * (template->is_pattern ? 2 : 1);
	int			oldlen = out->len;
	int			i;

	for (i = 0; i <= template->ncolumns; i++)
	{
		const SlateTemplatePart *part = &template->parts[i];

		appendBinaryStringInfo(out, part->literal, part->literal_len);
		if (part->column != NULL)
		{
			/* Look first: a value may be huge, and out cannot hold that. */
			if (values[i].len > limit)
				return take_back(out, oldlen);
			if (template->is_pattern)
				slate_glob_escape(out, values[i].start, values[i].len);
			else
				appendBinaryStringInfo(out, values[i].start, values[i].len);
		}
		if (out->len - oldlen > limit)
			return take_back(out, oldlen);
	}
	return true;
}

void
slate_template_wildcard(const SlateTemplate *template, StringInfo out)
{
	int			i;

	for (i = 0; i <= template->ncolumns; i++)
	{
		const SlateTemplatePart *part = &template->parts[i];

		if (template->is_pattern)
			appendBinaryStringInfo(out, part->literal, part->literal_len);
		else
			slate_glob_escape(out, part->literal, part->literal_len);
		if (part->column != NULL)
			appendStringInfoChar(out, '*');
	}
}

bool
slate_template_covers(const SlateTemplate *template,
					  const char *key, int keylen)
{
	StringInfoData glob;
	bool		covers;

	if (keylen > SLATE_KEY_MAX)
		return false;
	initStringInfo(&glob);
	slate_template_wildcard(template, &glob);
	covers = slate_glob_match(glob.data, glob.len, key, keylen);
	pfree(glob.data);
	return covers;
}

/*
 * Splitting
 *
 * All splits of a key can be walked through without ever running into a dead
 * end.  A column may take any text, so if the rest of the key can be split
 * from some place on, then it can from every earlier place too.  The latest
 * such place tells of each choice at once whether it leads to a split.
 */

/*
 * Find the latest start of each column, from the last column to the first.
 * Returns false if the key cannot be split at all.
 */
static bool
find_latest_starts(TemplateSplit *split, int keylen)
{
	const SlateTemplatePart *parts = split->template->parts;
	int			last = split->template->ncolumns;
	int			pos = keylen - parts[last].literal_len;
	int			i;

	/* The last literal has one place to be: the end. */
	if (pos < 0 ||
		memcmp(split->key + pos, parts[last].literal,
			   parts[last].literal_len) != 0)
		return false;

	for (i = last - 1; i >= 0; i--)
	{
		const SlateTemplatePart *part = &parts[i];

		split->latest_start[i] = pos;
		pos -= part->literal_len;
		while (pos >= 0 && i > 0 &&
			   memcmp(split->key + pos, part->literal,
					  part->literal_len) != 0)
			pos--;
		if (pos < 0)
			return false;
	}

	/* The first literal has one place as well: the beginning. */
	if (memcmp(split->key, parts[0].literal, parts[0].literal_len) != 0)
		return false;
	return last > 0 || pos == 0;
}

/*
 * End the column at the first place from pos on where the literal behind it is
 * found, and start the next column there.  Returns false if there is no such
 * place that leaves enough for the rest.
 */
static bool
end_column(TemplateSplit *split, int column, int pos)
{
	const SlateTemplatePart *behind = &split->template->parts[column + 1];

	if (column == split->template->ncolumns - 1)
	{
		split->end[column] = split->latest_start[column];
		return pos <= split->end[column];
	}
	while (pos + behind->literal_len <= split->latest_start[column + 1])
	{
		if (memcmp(split->key + pos, behind->literal,
				   behind->literal_len) == 0)
		{
			split->end[column] = pos;
			split->start[column + 1] = pos + behind->literal_len;
			return true;
		}
		pos++;
	}
	return false;
}

/* Let this column and those behind it be as short as they can. */
static void
shorten_columns(TemplateSplit *split, int column)
{
	while (column < split->template->ncolumns)
	{
		bool		found PG_USED_FOR_ASSERTS_ONLY;

		found = end_column(split, column, split->start[column]);
		Assert(found);			/* latest_start[] promised it */
		column++;
	}
}

/*
 * Go to the next split: like a counter, make the hindmost column that can be
 * longer the next size longer, and those behind it as short as they can be.
 */
static bool
advance_split(TemplateSplit *split)
{
	int			column;

	for (column = split->template->ncolumns - 1; column >= 0; column--)
	{
		if (end_column(split, column, split->end[column] + 1))
		{
			shorten_columns(split, column + 1);
			return true;
		}
	}
	return false;
}

bool
slate_template_split(const SlateTemplate *template,
					 const char *key, int keylen, int nth,
					 SlateSlice *values)
{
	TemplateSplit split;
	int			i;

	/* one column is split in one way */
	if (nth > 0 && template->ncolumns <= 1)
		return false;
	split.template = template;
	split.key = key;
	if (template->is_pattern || keylen > SLATE_KEY_MAX ||
		nth < 0 || nth >= SLATE_TEMPLATE_MAX_SPLITS ||
		!find_latest_starts(&split, keylen))
		return false;

	split.start[0] = template->parts[0].literal_len;
	shorten_columns(&split, 0);
	for (i = 0; i < nth; i++)
	{
		if (!advance_split(&split))
			return false;
	}
	for (i = 0; i < template->ncolumns; i++)
	{
		values[i].start = key + split.start[i];
		values[i].len = split.end[i] - split.start[i];
	}
	return true;
}

/*
 * Families
 */

/* Append the text's next bytes, which must be those that the literal has. */
static bool
append_literal(PlainReader *literal, PlainReader *text, StringInfo out)
{
	char		expected;
	char		byte;

	while (read_plain_byte(literal, &expected))
	{
		if (!read_plain_byte(text, &byte) || byte != expected)
			return false;
		appendStringInfoChar(out, byte);
	}
	return true;
}

/* Append the text's next bytes up to and including the first "last". */
static bool
append_through(PlainReader *text, char last, StringInfo out)
{
	char		byte;

	do
	{
		if (!read_plain_byte(text, &byte))
			return false;
		appendStringInfoChar(out, byte);
	} while (byte != last);
	return true;
}

/*
 * That both sides come to the same family is easy to see: up to the byte that
 * ends it a rendering has no glob characters, only literal text and a column,
 * which is escaped.  So a key that it matches begins with those same bytes.
 */
bool
slate_template_family(const SlateTemplate *template,
					  const char *text, int len, bool is_glob,
					  StringInfo out)
{
	const SlateTemplatePart *part = &template->parts[0];
	PlainReader literal = {part->literal, part->literal_len, true};
	PlainReader reader = {text, len, is_glob};
	int			oldlen = out->len;
	char		last;

	if (!template->is_pattern)
		return false;
	if (!append_literal(&literal, &reader, out))
		return take_back(out, oldlen);
	if (literal.left > 0 || part->column == NULL)
		return true;

	literal.next = part[1].literal;
	literal.left = part[1].literal_len;
	if (read_plain_byte(&literal, &last) &&
		!append_through(&reader, last, out))
		return take_back(out, oldlen);
	return true;
}

/*
 * Sets of globs
 */

typedef struct GlobSetEntry
{
	SlateSlice	glob;
	int			prefix_len;		/* plain bytes that it begins with */
	int			position;
} GlobSetEntry;

struct SlateGlobSet
{
	int			nentries;
	GlobSetEntry *entries;		/* by prefix_len, then by prefix */
	int			nlengths;
	int		   *lengths;		/* the prefix lengths there are */
	int		   *starts;			/* where each begins; one more at the end */
};

int
slate_glob_prefix_len(const char *glob, int len)
{
	int			plain = 0;

	while (plain < len && strchr("*?[\\", glob[plain]) == NULL)
		plain++;
	return plain;
}

static int
compare_prefixes(const void *a, const void *b)
{
	const GlobSetEntry *x = a;
	const GlobSetEntry *y = b;

	if (x->prefix_len != y->prefix_len)
		return x->prefix_len < y->prefix_len ? -1 : 1;
	return memcmp(x->glob.start, y->glob.start, x->prefix_len);
}

SlateGlobSet *
slate_globset_make(const SlateSlice *globs, int nglobs)
{
	SlateGlobSet *set = palloc0(sizeof(SlateGlobSet));

	set->nentries = nglobs;
	set->entries = palloc((nglobs + 1) * sizeof(GlobSetEntry));
	set->lengths = palloc((nglobs + 1) * sizeof(int));
	set->starts = palloc((nglobs + 1) * sizeof(int));
	for (int i = 0; i < nglobs; i++)
	{
		set->entries[i].glob = globs[i];
		set->entries[i].prefix_len = slate_glob_prefix_len(globs[i].start,
															   globs[i].len);
		set->entries[i].position = i;
	}
	qsort(set->entries, nglobs, sizeof(GlobSetEntry), compare_prefixes);
	for (int i = 0; i < nglobs; i++)
	{
		int			len = set->entries[i].prefix_len;

		if (i > 0 && len == set->entries[i - 1].prefix_len)
			continue;
		set->lengths[set->nlengths] = len;
		set->starts[set->nlengths++] = i;
	}
	set->starts[set->nlengths] = nglobs;
	return set;
}

SlateSlice
slate_globset_glob(const SlateGlobSet *set, int position)
{
	int			i = 0;

	while (set->entries[i].position != position)
		i++;
	return set->entries[i].glob;
}

/* The first entry from low to high whose prefix is not before the text's. */
static int
first_with_prefix(const SlateGlobSet *set, int low, int high,
				  const char *text, int len)
{
	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (memcmp(set->entries[middle].glob.start, text, len) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool
slate_globset_match(const SlateGlobSet *set, const char *text, int len,
					SlateGlobAcceptFn accept, void *arg,
					SlateGlobPatience *patience)
{
	for (int l = 0; set && l < set->nlengths; l++)
	{
		int			prefix_len = set->lengths[l];
		int			end = set->starts[l + 1];
		int			i;

		if (prefix_len > len)
			return false;
		i = first_with_prefix(set, set->starts[l], end, text, prefix_len);
		for (; i < end; i++)
		{
			const GlobSetEntry *entry = &set->entries[i];

			if (memcmp(entry->glob.start, text, prefix_len) != 0)
				break;
			if (match_glob(entry->glob.start, entry->glob.len, text, len,
						   patience) &&
				(accept == NULL || accept(entry->position, arg)))
				return true;
			if (!goes_on(patience, 1))
				return false;
		}
	}
	return false;
}
