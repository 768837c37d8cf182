/*-------------------------------------------------------------------------
 *
 * jsontext.c
 *	  JSON, from text to jsonb.
 *
 * Of a hit that a session has not parsed before, this is most of what it
 * costs.  jsonb_in() hands each token from the lexer to the parser to an action
 * to a tree to jsonb, and copies each string three times on the way.  Here one
 * look over the text notes its values, in the text's order (scan), and what
 * they take is written where it is to be (write).  A string is copied once, and
 * nothing is freed or allocated for each.
 *
 * What is scanned is RFC 8259 alone.  Whatever is wrong, and whatever is rare
 * enough that it need not be fast (names that come twice or have escapes, deep
 * nesting, large texts), makes the text strange: jsonb_in() reads it once more,
 * and says what it is.  So what is refused, and in which words, is its own; and
 * whatever is accepted here has the same bytes, see 192_json.  A string with
 * \u is the server's lexer's, and a number that is no small integer
 * numeric_in()'s.
 *
 * The layout of jsonb is in utils/jsonb.h, and how numbers and containers are
 * aligned in it in jsonb_util.c: it is on disks, and will not change.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "jsonshape.h"
#include "jsontext.h"
#include "lib/stringinfo.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

/* Levels of objects and arrays; more are strange. */
#define MAX_DEPTH 64

/*
 * Bytes of text; more are strange.  Jsonb is at most six times as long, which
 * a JEntry can hold.
 */
#define MAX_TEXT (16 * 1024 * 1024)

/* Pieces of a text, and names of an object, that need no memory of their own. */
#define PIECES_AT_HAND 128
#define NAMES_AT_HAND 32

/* Digits of an integer that is written without numeric_in(). */
#define INTEGER_DIGITS 20

/*
 * numeric of such an integer, the short form of numeric.c: a word of flags, sign,
 * weight, and no decimals; then digits to the base of 10000, the most
 * significant one first, without zeros at the end.  The weight is the first
 * one's exponent.
 */
#define NUMERIC_IS_SHORT 0x8000
#define NUMERIC_IS_NEGATIVE 0x2000
#define NUMERIC_DIGIT_LEN 4
#define INTEGER_WORDS (1 + INTEGER_DIGITS / NUMERIC_DIGIT_LEN)

typedef enum PieceKind
{
	PIECE_STRING,
	PIECE_ESCAPED,				/* a string with a backslash */
	PIECE_INTEGER,				/* at most INTEGER_DIGITS digits */
	PIECE_NUMBER,				/* any other */
	PIECE_TRUE,
	PIECE_FALSE,
	PIECE_NULL,
	PIECE_ARRAY,
	PIECE_OBJECT
} PieceKind;

/*
 * A value, or a member's name, which is a string in front of the member's
 * value.  What is in an array or an object comes behind it.
 */
typedef struct Piece
{
	PieceKind	kind;
	uint32		len;			/* bytes of a string or number; of a
								 * container, its elements or members */
	union
	{
		const char *start;		/* of a string or number */
		struct
		{
			uint32		end;	/* of a container: the piece behind all that
								 * is in it */
			uint32		shape;	/* of an object, or 0 */
		};
	};
} Piece;

/* A text on its way. */
typedef struct Parse
{
	const char *at;				/* what is to be scanned next */
	const char *end;			/* where the zero is */
	int			depth;
	bool		is_strange;		/* found out while it was written */
	uint32		npieces;
	uint32		room;
	Piece	   *pieces;
	StringInfoData out;
	Piece		at_hand[PIECES_AT_HAND];
} Parse;

/* ------------------------------------------------------------------------
 * Scanning.  What returns a bool returns false if the text is strange.
 * ------------------------------------------------------------------------
 */

static bool scan_value(Parse *parse);

static void
skip_spaces(Parse *parse)
{
	while (*parse->at == ' ' || *parse->at == '\n' || *parse->at == '\t' ||
		   *parse->at == '\r')
		parse->at++;
}

/* Go past a character, and the spaces behind it, if it is there. */
static bool
take(Parse *parse, char c)
{
	if (*parse->at != c)
		return false;
	parse->at++;
	skip_spaces(parse);
	return true;
}

/* Pointers to pieces do not survive this; numbers of pieces do. */
static void
make_room(Parse *parse)
{
	Size		size = sizeof(Piece) * parse->room;

	parse->room *= 2;
	if (parse->pieces != parse->at_hand)
		parse->pieces = repalloc(parse->pieces, size * 2);
	else
		parse->pieces = memcpy(palloc(size * 2), parse->at_hand, size);
}

/* Nor do they survive this one. */
static inline Piece *
add_piece(Parse *parse, PieceKind kind)
{
	Piece	   *piece;

	if (unlikely(parse->npieces == parse->room))
		make_room(parse);
	piece = &parse->pieces[parse->npieces++];
	piece->kind = kind;
	piece->len = 0;
	piece->start = parse->at;
	return piece;
}

static bool
scan_string(Parse *parse)
{
	Piece	   *piece = add_piece(parse, PIECE_STRING);
	const char *at = ++piece->start;

	for (;;)
	{
		at += slate_jsontext_plain_length(at, parse->end - at);
		if (*at != '\\')
			break;
		/* if the text ends behind it, the next look sees that */
		piece->kind = PIECE_ESCAPED;
		at += at + 1 < parse->end ? 2 : 1;
	}
	if (*at != '"')
		return false;
	piece->len = at - piece->start;
	parse->at = at + 1;
	return true;
}

static const char *
skip_digits(const char *at)
{
	while (*at >= '0' && *at <= '9')
		at++;
	return at;
}

/* What comes behind it is looked at by who wants a comma or a brace there. */
static bool
scan_number(Parse *parse)
{
	const char *start = parse->at;
	const char *digits = start + (*start == '-');
	const char *at = skip_digits(digits);
	Piece	   *piece = add_piece(parse, PIECE_INTEGER);

	if (at == digits || (*digits == '0' && at > digits + 1))
		return false;
	if (at - digits > INTEGER_DIGITS)
		piece->kind = PIECE_NUMBER;
	if (*at == '.')
	{
		const char *fraction = at + 1;

		at = skip_digits(fraction);
		if (at == fraction)
			return false;
		piece->kind = PIECE_NUMBER;
	}
	if (*at == 'e' || *at == 'E')
	{
		const char *exponent = at + 1;

		exponent += *exponent == '-' || *exponent == '+';
		at = skip_digits(exponent);
		if (at == exponent)
			return false;
		piece->kind = PIECE_NUMBER;
	}
	parse->at = at;
	piece->len = at - start;
	return true;
}

static bool
scan_word(Parse *parse, const char *word, PieceKind kind)
{
	size_t		len = strlen(word);

	if (strncmp(parse->at, word, len) != 0)
		return false;
	add_piece(parse, kind);
	parse->at += len;
	return true;
}

/* A name, and the colon. */
static bool
scan_name(Parse *parse)
{
	if (*parse->at != '"' || !scan_string(parse) ||
		parse->pieces[parse->npieces - 1].kind == PIECE_ESCAPED)
		return false;
	skip_spaces(parse);
	return take(parse, ':');
}

/* If it is the next one of the object's shape; from then on it has none if not. */
static bool
take_expected_name(Parse *parse, uint32 nth, uint32 *shape)
{
	Piece	   *piece;
	uint32		len;

	*shape = slate_shape_follow(*shape, nth, parse->at,
								parse->end - parse->at, &len);
	if (*shape == 0)
		return false;
	piece = add_piece(parse, PIECE_STRING);
	piece->start++;
	piece->len = len - SLATE_SHAPE_MARKS;
	parse->at += len;
	skip_spaces(parse);
	return true;
}

static bool
scan_members(Parse *parse, uint32 *count, uint32 *shape)
{
	do
	{
		if (*shape == 0 || !take_expected_name(parse, *count, shape))
		{
			if (!scan_name(parse))
				return false;
		}
		if (!scan_value(parse))
			return false;
		++*count;
	} while (take(parse, ','));
	return true;
}

static bool
scan_elements(Parse *parse, uint32 *count)
{
	do
	{
		if (!scan_value(parse))
			return false;
		++*count;
	} while (take(parse, ','));
	return true;
}

/* Empty, or members with commas between them. */
static bool
scan_container(Parse *parse, PieceKind kind)
{
	char		closing = kind == PIECE_OBJECT ? '}' : ']';
	uint32		self = parse->npieces;
	uint32		count = 0;
	uint32		shape = 0;

	if (++parse->depth > MAX_DEPTH)
		return false;
	add_piece(parse, kind);
	parse->at++;
	skip_spaces(parse);
	if (*parse->at != closing)
	{
		if (kind == PIECE_OBJECT)
			shape = slate_shape_expect(parse->depth);
		if (kind == PIECE_OBJECT ? !scan_members(parse, &count, &shape)
			: !scan_elements(parse, &count))
			return false;
		if (*parse->at != closing)
			return false;
	}
	if (shape != 0)
		shape = slate_shape_end(shape, count, parse->depth);
	parse->at++;
	parse->depth--;
	parse->pieces[self].len = count;
	parse->pieces[self].end = parse->npieces;
	parse->pieces[self].shape = shape;
	return true;
}

static bool
scan_any(Parse *parse)
{
	switch (*parse->at)
	{
		case '{':
			return scan_container(parse, PIECE_OBJECT);
		case '[':
			return scan_container(parse, PIECE_ARRAY);
		case '"':
			return scan_string(parse);
		case 't':
			return scan_word(parse, "true", PIECE_TRUE);
		case 'f':
			return scan_word(parse, "false", PIECE_FALSE);
		case 'n':
			return scan_word(parse, "null", PIECE_NULL);
		default:
			return scan_number(parse);
	}
}

/* A value, and the spaces behind it. */
static bool
scan_value(Parse *parse)
{
	if (!scan_any(parse))
		return false;
	skip_spaces(parse);
	return true;
}

/* ------------------------------------------------------------------------
 * Writing.  What returns a JEntry has appended what it is about, the bytes
 * that align it among them.
 * ------------------------------------------------------------------------
 */

static JEntry write_value(Parse *parse, const Piece *piece);

/* The JEntries of a container that is being written. */
typedef struct Entries
{
	int			at;				/* where they are in what is written */
	uint32		nth;
	uint32		total;			/* bytes of all so far */
} Entries;

static const Piece *
next_of(const Parse *parse, const Piece *piece)
{
	return piece->kind < PIECE_ARRAY ? piece + 1 : parse->pieces + piece->end;
}

/* There is room for most of what comes. */
static void
append(StringInfo out, const void *bytes, uint32 len)
{
	if (out->maxlen - out->len <= (int) len)
		enlargeStringInfo(out, len);
	memcpy(out->data + out->len, bytes, len);
	out->len += len;
}

static void
align(StringInfo out)
{
	uint32		zero = 0;

	append(out, &zero, INTALIGN(out->len) - out->len);
}

static JEntry
write_string(Parse *parse, const Piece *piece)
{
	append(&parse->out, piece->start, piece->len);
	return JENTRY_ISSTRING | piece->len;
}

/* With the quotes around it. */
static void
append_lexed(Parse *parse, const char *start, uint32 len)
{
	JsonLexContext *lex = compat_make_json_lexer(start, len, true);

	if (json_lex(lex) == JSON_SUCCESS)
		append(&parse->out, lex->strval->data, lex->strval->len);
	else
		parse->is_strange = true;
	compat_free_json_lexer(lex);
}

/* Behind a backslash; 0 for what is no letter of an escape, or \u. */
static char
escaped_by(char letter)
{
	switch (letter)
	{
		case 'b':
			return '\b';
		case 'f':
			return '\f';
		case 'n':
			return '\n';
		case 'r':
			return '\r';
		case 't':
			return '\t';
		case '"':
		case '\\':
		case '/':
			return letter;
		default:
			return '\0';
	}
}

static JEntry
write_escaped(Parse *parse, const Piece *piece)
{
	int			before = parse->out.len;
	const char *at = piece->start;
	const char *end = at + piece->len;

	for (;;)
	{
		size_t		plain = slate_jsontext_plain_length(at, end - at);
		char		c;

		append(&parse->out, at, plain);
		at += plain;
		if (at == end)
			break;
		c = escaped_by(at[1]);
		if (c == '\0')
		{
			parse->out.len = before;
			append_lexed(parse, piece->start - 1, piece->len + 2);
			break;
		}
		append(&parse->out, &c, 1);
		at += 2;
	}
	return JENTRY_ISSTRING | (parse->out.len - before);
}

static JEntry
write_integer(Parse *parse, const Piece *piece)
{
	int			before = parse->out.len;
	bool		is_negative = *piece->start == '-';
	const char *at = piece->start + is_negative;
	const char *end = piece->start + piece->len;
	int			weight = (end - at - 1) / NUMERIC_DIGIT_LEN;
	uint16		words[INTEGER_WORDS];
	int			nwords = 1;
	int			last = 0;
	int			start;

	while (at < end)
	{
		uint16		digit = 0;

		do
			digit = digit * 10 + (*at++ - '0');
		while ((end - at) % NUMERIC_DIGIT_LEN != 0);
		words[nwords] = digit;
		if (digit != 0)
			last = nwords;
		nwords++;
	}
	words[0] = NUMERIC_IS_SHORT | weight |
		(is_negative && last > 0 ? NUMERIC_IS_NEGATIVE : 0);
	align(&parse->out);
	start = parse->out.len;
	append(&parse->out, &start, VARHDRSZ);
	append(&parse->out, words, (last + 1) * sizeof(uint16));
	SET_VARSIZE(parse->out.data + start, parse->out.len - start);
	return JENTRY_ISNUMERIC | (parse->out.len - before);
}

static Numeric
number_of(const Piece *piece)
{
	char	   *digits = pnstrdup(piece->start, piece->len);
	Datum		number = DirectFunctionCall3(numeric_in,
											 CStringGetDatum(digits),
											 ObjectIdGetDatum(InvalidOid),
											 Int32GetDatum(-1));

	pfree(digits);
	return DatumGetNumeric(number);
}

static JEntry
write_number(Parse *parse, const Piece *piece)
{
	int			before = parse->out.len;
	Numeric		number = number_of(piece);

	align(&parse->out);
	append(&parse->out, number, VARSIZE(number));
	pfree(number);
	return JENTRY_ISNUMERIC | (parse->out.len - before);
}

/* A container begins with its header, and its JEntries. */
static void
begin_container(Parse *parse, uint32 header, uint32 count, Entries *entries)
{
	StringInfo	out = &parse->out;

	align(out);
	append(out, &header, sizeof(header));
	entries->at = out->len;
	entries->nth = 0;
	entries->total = 0;
	enlargeStringInfo(out, count * sizeof(JEntry));
	out->len += count * sizeof(JEntry);
}

/* Some have the offset of their end instead of their length. */
static void
add_entry(Parse *parse, Entries *entries, JEntry entry)
{
	entries->total += JBE_OFFLENFLD(entry);
	if (entries->nth % JB_OFFSET_STRIDE == 0)
		entry = (entry & JENTRY_TYPEMASK) | JENTRY_HAS_OFF | entries->total;
	memcpy(parse->out.data + entries->at + entries->nth * sizeof(JEntry),
		   &entry, sizeof(JEntry));
	entries->nth++;
}

static JEntry
write_array(Parse *parse, const Piece *array)
{
	int			before = parse->out.len;
	const Piece *element = array + 1;
	Entries		entries;

	begin_container(parse, JB_FARRAY | array->len, array->len, &entries);
	for (uint32 i = 0; i < array->len; i++)
	{
		add_entry(parse, &entries, write_value(parse, element));
		element = next_of(parse, element);
	}
	return JENTRY_ISCONTAINER | (parse->out.len - before);
}

/* A member's name; its value comes behind it. */
typedef const Piece *MemberName;

/* jsonb's order of names. */
static inline int
compare_names(const MemberName *a, const MemberName *b)
{
	if ((*a)->len != (*b)->len)
		return (*a)->len < (*b)->len ? -1 : 1;
	return memcmp((*a)->start, (*b)->start, (*a)->len);
}

#define ST_SORT sort_names
#define ST_ELEMENT_TYPE MemberName
#define ST_COMPARE(a, b) compare_names(a, b)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/* The names of an object, in the text's order. */
static void
list_names(const Parse *parse, const Piece *object, MemberName *names)
{
	MemberName	name = object + 1;

	for (uint32 i = 0; i < object->len; i++)
	{
		names[i] = name;
		name = next_of(parse, name + 1);
	}
}

/* What has been written for its names, which are in jsonb's order by now. */
static void
learn_shape(Parse *parse, const Piece *object, const MemberName *names,
			uint32 total, int block)
{
	MemberName	in_text[SLATE_SHAPE_MEMBERS];
	SlateSlice	slices[SLATE_SHAPE_MEMBERS];
	uint8		order[SLATE_SHAPE_MEMBERS];

	list_names(parse, object, in_text);
	for (uint32 i = 0; i < object->len; i++)
	{
		slices[i].start = in_text[i]->start;
		slices[i].len = in_text[i]->len;
		for (uint32 j = 0; j < object->len; j++)
		{
			if (names[j] == in_text[i])
				order[j] = i;
		}
	}
	slate_shape_learn(slices, order, object->len, total,
					  parse->out.data + block, parse->out.len - block);
}

static JEntry
write_members(Parse *parse, const Piece *object, MemberName *names)
{
	int			before = parse->out.len;
	int			block;
	Entries		entries;

	list_names(parse, object, names);
	sort_names(names, object->len);
	for (uint32 i = 1; i < object->len; i++)
		parse->is_strange |= compare_names(&names[i - 1], &names[i]) == 0;

	begin_container(parse, JB_FOBJECT | object->len, object->len * 2, &entries);
	block = entries.at - sizeof(uint32);
	for (uint32 i = 0; i < object->len; i++)
		add_entry(parse, &entries, write_string(parse, names[i]));
	if (!parse->is_strange && slate_shape_is_wanted(object->len, entries.total))
		learn_shape(parse, object, names, entries.total, block);
	for (uint32 i = 0; i < object->len; i++)
		add_entry(parse, &entries, write_value(parse, names[i] + 1));
	return JENTRY_ISCONTAINER | (parse->out.len - before);
}

static JEntry
write_shaped(Parse *parse, const Piece *object, const SlateShape *shape)
{
	int			before = parse->out.len;
	MemberName	names[SLATE_SHAPE_MEMBERS];
	Entries		entries;

	list_names(parse, object, names);
	align(&parse->out);
	entries.at = parse->out.len + sizeof(uint32);
	entries.nth = object->len;
	entries.total = shape->total;
	append(&parse->out, shape->block, shape->blocklen);
	for (uint32 i = 0; i < object->len; i++)
		add_entry(parse, &entries,
				  write_value(parse, names[shape->order[i]] + 1));
	return JENTRY_ISCONTAINER | (parse->out.len - before);
}

static JEntry
write_object(Parse *parse, const Piece *object)
{
	MemberName	at_hand[NAMES_AT_HAND];
	MemberName *names = at_hand;
	JEntry		entry;

	if (object->shape != 0)
		return write_shaped(parse, object, slate_shape_at(object->shape));
	if (object->len > NAMES_AT_HAND)
		names = palloc(object->len * sizeof(MemberName));
	entry = write_members(parse, object, names);
	if (names != at_hand)
		pfree(names);
	return entry;
}

static JEntry
write_value(Parse *parse, const Piece *piece)
{
	switch (piece->kind)
	{
		case PIECE_STRING:
			return write_string(parse, piece);
		case PIECE_ESCAPED:
			return write_escaped(parse, piece);
		case PIECE_INTEGER:
			return write_integer(parse, piece);
		case PIECE_NUMBER:
			return write_number(parse, piece);
		case PIECE_TRUE:
			return JENTRY_ISBOOL_TRUE;
		case PIECE_FALSE:
			return JENTRY_ISBOOL_FALSE;
		case PIECE_ARRAY:
			return write_array(parse, piece);
		case PIECE_OBJECT:
			return write_object(parse, piece);
		case PIECE_NULL:
			break;
	}
	return JENTRY_ISNULL;
}

/* Of a text that begins with a container.  NULL: it is strange. */
static Jsonb *
write_text(Parse *parse, size_t len)
{
	Jsonb	   *jsonb;

	initStringInfo(&parse->out);
	/* about: a JEntry for each, and what a number takes more than its digits */
	enlargeStringInfo(&parse->out, VARHDRSZ + len + parse->npieces * 12);
	parse->out.len = VARHDRSZ;
	write_value(parse, parse->pieces);
	jsonb = (Jsonb *) parse->out.data;
	SET_VARSIZE(jsonb, parse->out.len);
	return parse->is_strange ? NULL : jsonb;
}

static Jsonb *
parse_text(const char *bytes, size_t len)
{
	Parse		parse;
	Jsonb	   *jsonb = NULL;

	parse.at = bytes;
	parse.end = bytes + len;
	parse.depth = 0;
	parse.is_strange = false;
	parse.npieces = 0;
	parse.room = PIECES_AT_HAND;
	parse.pieces = parse.at_hand;

	slate_shape_begin();
	skip_spaces(&parse);
	if ((*parse.at == '{' || *parse.at == '[') && scan_value(&parse) &&
		parse.at == parse.end)
		jsonb = write_text(&parse, len);
	if (parse.pieces != parse.at_hand)
		pfree(parse.pieces);
	return jsonb;
}

Jsonb *
slate_jsontext_parse(const char *text, size_t len)
{
	Jsonb	   *jsonb = len > MAX_TEXT ? NULL : parse_text(text, len);

	if (jsonb == NULL)
		jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
												   CStringGetDatum(text)));
	return jsonb;
}
