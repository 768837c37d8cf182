/*-------------------------------------------------------------------------
 *
 * row.h
 *	  A row as JSON, for tables of common types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_ROW_H
#define SLATE_ROW_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "lib/stringinfo.h"

/*
 * Append a value of such a type, decompressed or not, as it is in JSON.  False, and
 * nothing is appended, if the type is another one.
 */
extern bool slate_row_append_value(Oid type, Datum value, StringInfo out);

typedef struct SlateRowFormat SlateRowFormat;

/*
 * How rows of this shape are rendered, in the current memory context; NULL if
 * they have a column of a type that is left to rowjson.c.
 */
extern SlateRowFormat *slate_row_format(TupleDesc desc);

/*
 * Append what row_to_json() gives for the row, to the byte.  False, and nothing
 * is appended, if the row is left to it: since it is large, or has values that
 * must be decompressed.  Throws nothing but for want of memory.  What the
 * session's settings say of dates and numbers counts here, too.
 */
extern bool slate_row_render(const SlateRowFormat *format, TupleDesc desc,
							 HeapTuple tuple, StringInfo out);

#endif							/* SLATE_ROW_H */
