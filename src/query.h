/*-------------------------------------------------------------------------
 *
 * query.h
 *	  The query of slate_cache_fetch(), and its result as JSON.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_QUERY_H
#define SLATE_QUERY_H

#include "utils/array.h"

typedef struct SlateQuery
{
	const char *text;
	int			nargs;			/* given */
	char	  **args;			/* texts; NULL for SQL NULL */
	Oid		   *types;			/* inferred by the parser */
	int			ntypes;
} SlateQuery;

/* An array of text, of what $1, $2, ... stand for. */
extern void slate_query_set_arguments(SlateQuery *query, ArrayType *array);

/*
 * Run it, with a snapshot taken now: the value of its one row if it has one
 * column, NULL if there is no row; of several columns an array of objects.  In
 * the caller's context.  ERROR if it is no SELECT, might change or lock
 * something, or has more parameters than arguments.
 */
extern char *slate_query_run(SlateQuery *query, int *len);

#endif							/* SLATE_QUERY_H */
