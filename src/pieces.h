/*-------------------------------------------------------------------------
 *
 * pieces.h
 *	  What a key says of its row: the texts that a template takes out of it, as
 *	  values of their columns.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_PIECES_H
#define SLATE_PIECES_H

#include "rules.h"

/* Columns are those of a bound rule's template, by their number in it. */

/* What the column's values are made of: its type, or its domain's. */
extern Oid	slate_pieces_type(const SlateRule *rule, int column);

/* Are equal values of the column equal bytes? */
extern bool slate_pieces_equality_is_identity(const SlateRule *rule, int column);

/*
 * Convert all pieces of a match; values has room for them, and they are in the
 * current memory context.  False if no row can have that key.
 */
extern bool slate_pieces_values(const SlateRule *rule, const SlateMatch *match,
								Datum *values);

/* The value that a type's input function makes of a text; false if it refuses. */
extern bool slate_pieces_input(const SlateRelation *relation, Oid type,
							   char *text, Datum *value);

#endif							/* SLATE_PIECES_H */
