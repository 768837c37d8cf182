/*-------------------------------------------------------------------------
 *
 * load.h
 *	  From a key to the value that its table has.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_LOAD_H
#define SLATE_LOAD_H

#include "rules.h"

/* A key to load, and what was found. */
typedef struct SlateLoad
{
	SlateSlice	key;
	void	   *arg;			/* the caller's */
	char	   *json;			/* NULL: no rule has a row for it */
	int			len;
	int64		ttl;			/* of the rule that had it, ms */
	bool		is_list;		/* that is a list's rule */
	bool		possible;		/* some row could have this key */
	SlateMatch	match;			/* private to load.c */
	Datum	   *values;			/* private to load.c */
	StringInfo	list;			/* private to load.c; NULL: not a list yet */
	bool		settled;		/* private to load.c */
} SlateLoad;

/*
 * Load keys by their rules, as the current user, with a snapshot taken now: a
 * lease must come before.  One query a rule.  Results are in the caller's
 * memory context.
 */
extern void slate_load(SlateLoad *loads, int nloads);

/*
 * Call fn for each row of a table whose column has this text; for none if the
 * text is not one of the column's type.  The table may be large: rows come by
 * a cursor.  Runs as the current user, with a snapshot taken now.
 */
typedef void (*SlateRowFn) (SlateRelation *rules, HeapTuple tuple, void *arg);
extern void slate_load_rows(Oid relid, const char *column, char *text,
							SlateRowFn fn, void *arg);

#endif							/* SLATE_LOAD_H */
