/*-------------------------------------------------------------------------
 *
 * template.h
 *	  Key templates ("shop:invoice:{id}") and Redis globs ("shop:search:7:*").
 *
 * Pure functions over bytes: no catalog, no SPI, no Redis, no settings.  What
 * is returned is allocated in the current memory context.  Nothing here
 * throws, except for palloc running out of memory.
 *
 * A template is literal text with columns in braces; "{{" and "}}" stand for
 * one literal brace.  There are two dialects:
 *
 * - TEMPLATE_KEY, for keys that hold values: everything outside the braces is
 *	 taken literally.
 * - TEMPLATE_DROP, for keys and patterns to drop: text outside the braces is a
 *	 Redis glob, with *, ?, [...] and backslash as Redis has them.  Without an
 *	 unescaped *, ? or [ it names one key (backslashes removed).
 *
 * Column text is never interpreted: inside a glob it is escaped.  In both
 * dialects there must be text between two columns, or keys would be ambiguous.
 * In TEMPLATE_DROP a column cannot stand between brackets, nor behind a lone
 * backslash; backslashes do not escape braces, doubling them does.
 *
 * Texts are byte strings with a length, in the server encoding (UTF-8 or
 * SQL_ASCII); '?' and character classes match single bytes, as in Redis.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_TEMPLATE_H
#define SLATE_TEMPLATE_H

#include "lib/stringinfo.h"

/* The longest key there is, in bytes; a longer one is not a key. */
#define SLATE_KEY_MAX 1024

/* More columns than this in one template are refused. */
#define SLATE_TEMPLATE_MAX_COLUMNS 16

typedef enum SlateTemplateDialect
{
	TEMPLATE_KEY,
	TEMPLATE_DROP
} SlateTemplateDialect;

/*
 * One run of literal text, followed by a column except at the template's end.
 * In a pattern (is_pattern) the literal is glob source; otherwise it is the
 * very bytes of the key.
 */
typedef struct SlateTemplatePart
{
	char	   *literal;		/* NUL-terminated; may be empty */
	int			literal_len;
	char	   *column;			/* column's name; NULL in the last part */
} SlateTemplatePart;

typedef struct SlateTemplate
{
	char	   *source;			/* as the user wrote it */
	bool		is_pattern;		/* names many keys: rendering gives a glob */
	int			ncolumns;		/* occurrences of columns, in order */
	SlateTemplatePart parts[FLEXIBLE_ARRAY_MEMBER]; /* ncolumns + 1 */
} SlateTemplate;

/* A piece of a key: points into the key that was matched. */
typedef struct SlateSlice
{
	const char *start;
	int			len;
} SlateSlice;

/* An order of slices, for qsort() and bsearch(). */
extern int	slate_slice_compare(const void *a, const void *b);

/*
 * Parse a template.  On a syntax error return NULL and set *error to a message
 * (a constant, worded as an errdetail sentence) and *position to the byte
 * offset in the source.  Without an error these two are left alone.
 *
 * A column's name is whatever stands between its braces, taken as it is.  The
 * template is one chunk with all its strings: pfree() frees it.
 */
extern SlateTemplate *slate_template_parse(const char *source,
										   SlateTemplateDialect dialect,
										   const char **error,
										   int *position);

/*
 * Append the key, or the glob, that the columns' texts give; values has
 * ncolumns entries in order of appearance.  Returns false, with *out as it
 * was, if a key would exceed SLATE_KEY_MAX bytes, or a glob twice that (each
 * byte may need a backslash).
 */
extern bool slate_template_render(const SlateTemplate *template,
								  const SlateSlice *values,
								  StringInfo out);

/* Append the glob that every rendering matches: each column becomes "*". */
extern void slate_template_wildcard(const SlateTemplate *template,
									StringInfo out);

/*
 * Split a key into the columns' texts.  There may be several ways to do that
 * ("{a}:{b}" on "x:y:z"); the nth (from 0) is returned, the one with the
 * shortest first column first, then the shortest second one, and so on.
 * Returns false when there is no nth way, or n is SLATE_TEMPLATE_MAX_SPLITS or
 * more.  A column may be empty text.  Not for patterns (returns false).
 *
 * A column that stands in the template twice may get two different texts: it
 * is for the caller to compare them.
 */
#define SLATE_TEMPLATE_MAX_SPLITS 16
extern bool slate_template_split(const SlateTemplate *template,
								 const char *key, int keylen, int nth,
								 SlateSlice *values);

/*
 * Is the key one that some rendering of this template matches (of a pattern)
 * or gives (of any other)?  Columns count as "*".
 */
extern bool slate_template_covers(const SlateTemplate *template,
								  const char *key, int keylen);

/*
 * The family of a key, or of a glob rendered from a pattern, under that
 * pattern: a prefix that every key a rendering matches shares with the
 * rendering.  It is the pattern's first literal up to its first glob
 * character; and, if that literal is whole, is followed by a column and then
 * by a literal that starts with an ordinary byte b (or an escaped one), also
 * the text that follows up to and including the first b.  Both sides use this
 * one function, so a key and the glob that drops it meet in one family even
 * where a column's text holds b itself.  Backslash escapes are undone.
 *
 * is_glob tells which of the two the text is.  Returns false, with *out as it
 * was, if the text does not have that shape (then no rendering matches it), or
 * if the template is not a pattern.
 */
extern bool slate_template_family(const SlateTemplate *template,
								  const char *text, int len, bool is_glob,
								  StringInfo out);

/* How many bytes of literal text, without escapes, does a glob begin with? */
extern int	slate_glob_prefix_len(const char *glob, int len);

/* Does the text have an unescaped glob character? */
extern bool slate_glob_is_pattern(const char *text, int len);

/*
 * Append text so that a glob matches exactly it.  For use outside of brackets,
 * which is the only place for text (see above).
 */
extern void slate_glob_escape(StringInfo out, const char *text, int len);

/* Append an exact glob's one key: the text without its backslashes. */
extern void slate_glob_unescape(StringInfo out, const char *text, int len);

/*
 * Does the glob match the whole text, by Redis's rules (see stringmatchlen()
 * in its util.c for what they are, corner cases such as an unclosed bracket
 * included)?  Takes time proportional to len * patternlen at most: unlike a
 * naive matcher it does not backtrack exponentially over several stars.
 *
 * Three corners are not Redis's own, because versions or platforms differ in
 * them: an empty text is matched by stars however many there are; there may be
 * more than 1000 stars; and a range from an ASCII byte to one above 0x7f is
 * taken as Redis takes it on the machine that this code runs on.
 */
extern bool slate_glob_match(const char *pattern, int patternlen,
							 const char *text, int len);

/*
 * Many globs, to be matched at once.  Most globs begin with literal text; they
 * are found by it, so that what a match costs grows with the lengths that
 * those texts have, not with the number of globs.
 */
typedef struct SlateGlobSet SlateGlobSet;

/* The globs' bytes must outlive the set. */
extern SlateGlobSet *slate_globset_make(const SlateSlice *globs, int nglobs);

/* The glob at a position in the array that the set was made of. */
extern SlateSlice slate_globset_glob(const SlateGlobSet *set, int position);

/*
 * Where this cannot be cancelled: go_on() is asked now and then, and if it says
 * no then nothing more matches, until given_up is set back.
 */
typedef struct SlateGlobPatience
{
	bool		(*go_on) (void *arg);
	void	   *arg;
	int			nbytes;			/* private to template.c; 0 at first */
	bool		given_up;
} SlateGlobPatience;

/*
 * Is there a glob that matches the text, and that accept() takes?  accept gets
 * the glob's position in the array that the set was made of; NULL takes all.
 * Does not allocate.  The set may be NULL: it is empty; and so may be patience:
 * it has no end.
 */
typedef bool (*SlateGlobAcceptFn) (int position, void *arg);
extern bool slate_globset_match(const SlateGlobSet *set,
								const char *text, int len,
								SlateGlobAcceptFn accept, void *arg,
								SlateGlobPatience *patience);

#endif							/* SLATE_TEMPLATE_H */
