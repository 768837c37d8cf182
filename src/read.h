/*-------------------------------------------------------------------------
 *
 * read.h
 *	  What the write functions share with the readers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_READ_H
#define SLATE_READ_H

#include "template.h"
#include "utils/timestamp.h"

/* The key that an argument holds; ERROR if it is empty, too long, reserved. */
extern SlateSlice slate_read_key_argument(text *argument);

/* The same for a glob. */
extern SlateSlice slate_read_pattern_argument(text *argument);

/*
 * The TTL in ms of a value: the one given, else the key's rule's, else
 * slate_cache.default_ttl; 0 for none.
 */
extern int64 slate_read_ttl(SlateSlice key, const Interval *given);

#endif							/* SLATE_READ_H */
