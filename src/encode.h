/*-------------------------------------------------------------------------
 *
 * encode.h
 *	  Writing commands in Redis' protocol: arrays of bulk strings.
 *
 * put_...() write to where there is room, and return where it goes on;
 * append_...() make room, and so may palloc, but where it has been reserved.
 * Used by script.c, keyname.c and direct.c, which say what is sent.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_ENCODE_H
#define SLATE_ENCODE_H

#include "batch.h"
#include "utils/builtins.h"

static inline char *
put_bytes(char *to, const char *bytes, int len)
{
	memcpy(to, bytes, len);
	return to + len;
}

/* A head: its kind, a number, and the end of the line; so long at most. */
#define MAX_HEAD 16

static inline char *
put_head(char *to, char kind, int number)
{
	*to++ = kind;
	if (number < 10)
		*to++ = '0' + number;
	else
		to += pg_ltoa(number, to);
	*to++ = '\r';
	*to++ = '\n';
	return to;
}

static inline char *
put_bulk(char *to, const char *bytes, int len)
{
	to = put_bytes(put_head(to, '$', len), bytes, len);
	*to++ = '\r';
	*to++ = '\n';
	return to;
}

/* Room for so many bytes more, and where they go; then how far they went. */
static inline char *
begin_append(StringInfo into, int bytes)
{
	enlargeStringInfo(into, bytes);
	return into->data + into->len;
}

static inline void
end_append(StringInfo into, char *at)
{
	into->len = at - into->data;
	*at = '\0';
}

static inline void
append_head(StringInfo into, char kind, int number)
{
	end_append(into, put_head(begin_append(into, MAX_HEAD), kind, number));
}

/* A command of so many words, which are to follow; the batch has one more. */
static inline void
begin_command(SlateBatch *batch, int nwords)
{
	append_head(&batch->bytes, '*', nwords);
	batch->ncommands++;
}

static inline void
append_bulk(StringInfo into, const char *bytes, int len)
{
	end_append(into, put_bulk(begin_append(into, MAX_HEAD + len + 2), bytes,
							  len));
}

static inline void
append_bytes(SlateBatch *batch, const char *bytes, int len)
{
	append_bulk(&batch->bytes, bytes, len);
}

static inline void
append_text(SlateBatch *batch, const char *text)
{
	append_bytes(batch, text, strlen(text));
}

static inline void
append_number(SlateBatch *batch, int64 number)
{
	char		text[24];

	append_bytes(batch, text, pg_lltoa(number, text));
}

static inline void
append_slices(SlateBatch *batch, const SlateSlice *slices, int nslices)
{
	for (int i = 0; i < nslices; i++)
		append_bytes(batch, slices[i].start, slices[i].len);
}

/* A text that is known at compile time. */
#define PUT_LITERAL(to, text) put_bytes(to, text, sizeof(text) - 1)

#endif							/* SLATE_ENCODE_H */
