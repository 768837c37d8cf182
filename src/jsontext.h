/*-------------------------------------------------------------------------
 *
 * jsontext.h
 *	  JSON, from text to jsonb.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_JSONTEXT_H
#define SLATE_JSONTEXT_H

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "port/pg_bitutils.h"
#include "utils/jsonb.h"

/*
 * What jsonb_in() makes of a text of so many bytes, in the database's encoding
 * and with a zero behind them; the same bytes, and the same ERRORs, but that of
 * two faults another one may be told.
 */
extern Jsonb *slate_jsontext_parse(const char *text, size_t len);

/* ------------------------------------------------------------------------
 * Strings
 * ------------------------------------------------------------------------
 */

/* Each byte of a word. */
#define SLATE_JSONTEXT_EACH(byte) (UINT64CONST(0x0101010101010101) * (byte))

/*
 * The highest bits of those bytes of eight that are less than n, which is at
 * most 128; and perhaps of some behind the first one.  From
 * Bit Twiddling Hacks, by Sean Eron Anderson, in the public domain.
 */
static inline uint64
slate_jsontext_less(uint64 word, uint8 n)
{
	return (word - SLATE_JSONTEXT_EACH(n)) & ~word & SLATE_JSONTEXT_EACH(0x80);
}

#ifdef __SSE2__

/* Of sixteen bytes, a bit for each that may not stand in a string as it is. */
static inline uint32
slate_jsontext_odd_ones(const char *bytes)
{
	__m128i		chunk = _mm_loadu_si128((const __m128i *) bytes);
	__m128i		quotes = _mm_cmpeq_epi8(chunk, _mm_set1_epi8('"'));
	__m128i		slashes = _mm_cmpeq_epi8(chunk, _mm_set1_epi8('\\'));
	__m128i		spaces = _mm_set1_epi8(' ');
	__m128i		others = _mm_cmpeq_epi8(_mm_max_epu8(chunk, spaces), chunk);

	return _mm_movemask_epi8(_mm_or_si128(quotes, slashes)) |
		(_mm_movemask_epi8(others) ^ 0xffff);
}

#endif

/*
 * How many of the bytes, from the first one on, may stand in a string as they
 * are?  The next one is a quote, a backslash or a control character, or there
 * is none.
 */
static inline size_t
slate_jsontext_plain_length(const char *bytes, size_t len)
{
	size_t		n = 0;
	uint64		word;

#ifdef __SSE2__
	for (; n + sizeof(__m128i) <= len; n += sizeof(__m128i))
	{
		uint32		odd = slate_jsontext_odd_ones(bytes + n);

		if (odd != 0)
			return n + pg_rightmost_one_pos32(odd);
	}
#endif
	for (; n + sizeof(word) <= len; n += sizeof(word))
	{
		uint64		odd;

		memcpy(&word, bytes + n, sizeof(word));
		odd = slate_jsontext_less(word, ' ') |
			slate_jsontext_less(word ^ SLATE_JSONTEXT_EACH('"'), 1) |
			slate_jsontext_less(word ^ SLATE_JSONTEXT_EACH('\\'), 1);
		if (odd != 0)
		{
#ifndef WORDS_BIGENDIAN
			return n + pg_rightmost_one_pos64(odd) / 8;
#else
			break;
#endif
		}
	}
	while (n < len && (unsigned char) bytes[n] >= ' ' && bytes[n] != '"' &&
		   bytes[n] != '\\')
		n++;
	return n;
}

/*
 * How many of the bytes, from the first one on, are ASCII for sure, and no zeros?
 * There may be more.
 */
static inline size_t
slate_jsontext_ascii_length(const char *bytes, size_t len)
{
	size_t		n = 0;

#ifdef __SSE2__
	for (; n + sizeof(__m128i) <= len; n += sizeof(__m128i))
	{
		__m128i		chunk = _mm_loadu_si128((const __m128i *) (bytes + n));
		__m128i		zeros = _mm_cmpeq_epi8(chunk, _mm_setzero_si128());

		/* of each byte the highest bit */
		if (_mm_movemask_epi8(_mm_or_si128(chunk, zeros)) != 0)
			break;
	}
#endif
	return n;
}

#endif							/* SLATE_JSONTEXT_H */
