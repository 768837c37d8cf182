/*-------------------------------------------------------------------------
 *
 * history.h
 *	  The epochs that this database has had with Redis: a table.
 *
 * See trust.c.  Both begin a transaction of their own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_HISTORY_H
#define SLATE_HISTORY_H

#include "access/xlogdefs.h"

typedef struct SlateHistory
{
	int64		number;			/* 0: there is none */
	uint64		epoch;
	uint64		identity;
	TimeLineID	timeline;
} SlateHistory;

/* The last one. */
extern void slate_history_read(SlateHistory *last);

/* It is flushed when this returns. */
extern void slate_history_append(const SlateHistory *history);

#endif							/* SLATE_HISTORY_H */
