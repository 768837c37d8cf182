/*-------------------------------------------------------------------------
 *
 * ranges.h
 *	  Sets of transactions, as ranges.
 *
 * Neither allocates nor throws, and may lie in shared memory; locks are the
 * callers'.  An empty one is zeroed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_RANGES_H
#define SLATE_RANGES_H

#define SLATE_MAX_RANGES 256

typedef struct SlateRange
{
	uint64		first;			/* full transaction ids */
	uint64		last;
	uint32		generations;	/* where their rows may be: bits */
} SlateRange;

typedef struct SlateRanges
{
	int			count;			/* sorted; they neither overlap nor touch */
	SlateRange	ranges[SLATE_MAX_RANGES];
} SlateRanges;

/* Add one, or a single transaction; generations are bits that are kept with it. */
extern void slate_ranges_add(SlateRanges *set, const SlateRange *range);
extern void slate_ranges_add_one(SlateRanges *set, uint64 xid,
								 uint32 generations);

/* True for each that was added, and maybe for others. */
extern bool slate_ranges_contain(const SlateRanges *set, uint64 xid);

/* Has any of them one of these generations? */
extern bool slate_ranges_use(const SlateRanges *set, uint32 generations);

#endif							/* SLATE_RANGES_H */
