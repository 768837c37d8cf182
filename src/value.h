/*-------------------------------------------------------------------------
 *
 * value.h
 *	  What comes back from Redis, before it may be called jsonb.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_VALUE_H
#define SLATE_VALUE_H

#include "utils/jsonb.h"

/*
 * Turn bytes, with a zero behind them, into jsonb, or return NULL if they are
 * not JSON that jsonb can hold: wrong encoding, wrong syntax, \u0000, a number
 * out of numeric's range, nested more deeply than a stack allows.  Never throws
 * for the bytes' sake; anybody may have written them.
 */
extern Jsonb *slate_value_parse(const char *bytes, size_t len);

/* The same for our own rendering of a table's row; ERRORs where jsonb does. */
extern Jsonb *slate_value_from_json(const char *json);

#endif							/* SLATE_VALUE_H */
