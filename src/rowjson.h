/*-------------------------------------------------------------------------
 *
 * rowjson.h
 *	  A row as JSON, of any types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_ROWJSON_H
#define SLATE_ROWJSON_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "lib/stringinfo.h"

/*
 * Append a row's JSON under a rule, as it is stored in Redis: the row as an
 * object in the order of its columns, or the one column's value.  Casts to json
 * of others run as them or not at all: see owner.c; the beneficiary is who
 * chooses the values.  Leaves garbage in the current memory context.
 */
extern void slate_rowjson_render(TupleDesc desc, HeapTuple tuple,
								 AttrNumber value_attnum, Oid beneficiary,
								 StringInfo out);

/*
 * Texts must not depend on the session: between these two, DateStyle,
 * IntervalStyle, TimeZone (UTC), extra_float_digits and bytea_output have
 * fixed values, and so has array_nulls, for who reads such a text.  An error in
 * between undoes it too.
 */
extern int	slate_rowjson_begin_settings(void);
extern void slate_rowjson_end_settings(int nestlevel);

/* Have those that a row's text depends on these values already? */
extern bool slate_rowjson_has_settings(void);

#endif							/* SLATE_ROWJSON_H */
