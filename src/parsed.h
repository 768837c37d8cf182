/*-------------------------------------------------------------------------
 *
 * parsed.h
 *	  Values that this backend has parsed before.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_PARSED_H
#define SLATE_PARSED_H

#include "template.h"
#include "utils/jsonb.h"

/* slate_cache.parsed_memory: kB that are kept; 0 for none. */
extern int	slate_parsed_memory;

/*
 * As slate_value_parse(), of which it is a faster way if the same bytes come
 * again under the same key.  The result is the caller's own.
 */
extern Jsonb *slate_parsed_get(SlateSlice key, const char *bytes, size_t len);

#endif							/* SLATE_PARSED_H */
