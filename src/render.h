/*-------------------------------------------------------------------------
 *
 * render.h
 *	  The rows that a transaction has changed, as what Redis is to hold of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_RENDER_H
#define SLATE_RENDER_H

#include "ops.h"

/* Setting: kB that a value may have; a larger one is dropped. */
extern int	slate_render_max_value;

/*
 * Leaves the operations with their values, in the current context, or as DROPs:
 * a key that a glob of the set takes away later, a table that has changed its
 * shape since, a value too large, and what exceeds max_bytes together.
 *
 * Output functions may be anybody's.  If one of them fails, a WARNING says so,
 * and the rows are dropped from the cache.  A cancelled statement stays
 * cancelled.  May throw.
 */
extern void slate_render(SlateOpList *list, const SlateGlobSet *globset,
						 Size max_bytes);

/* Leave DROPs of rows, and what was set by hand. */
extern void slate_render_as_drops(SlateOpList *list);

#endif							/* SLATE_RENDER_H */
