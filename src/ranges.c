/*-------------------------------------------------------------------------
 *
 * ranges.c
 *	  Sets of transactions, as ranges.
 *
 * A set has a fixed size.  Where there is no room for one more range, the two that
 * are closest become one: it may then hold more than was added to it, never less.
 *
 * The file also compiles as frontend code, for the tests in test/fuzz.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "ranges.h"

/* Make one of a range and its successor. */
static void
unite(SlateRanges *set, int position)
{
	SlateRange *range = &set->ranges[position];

	range->last = Max(range->last, range[1].last);
	range->generations |= range[1].generations;
	set->count--;
	memmove(range + 1, range + 2,
			(set->count - position - 1) * sizeof(SlateRange));
}

static void
unite_closest(SlateRanges *set)
{
	int			closest = 0;
	uint64		least = PG_UINT64_MAX;

	for (int i = 0; i + 1 < set->count; i++)
	{
		uint64		gap = set->ranges[i + 1].first - set->ranges[i].last;

		if (gap < least)
		{
			least = gap;
			closest = i;
		}
	}
	unite(set, closest);
}

/* How many ranges begin at xid or before? */
static int
count_before(const SlateRanges *set, uint64 xid)
{
	int			low = 0;
	int			high = set->count;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (set->ranges[middle].first <= xid)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

void
slate_ranges_add(SlateRanges *set, const SlateRange *range)
{
	int			at;

	if (set->count == SLATE_MAX_RANGES)
		unite_closest(set);
	at = count_before(set, range->first);
	memmove(&set->ranges[at + 1], &set->ranges[at],
			(set->count - at) * sizeof(SlateRange));
	set->ranges[at] = *range;
	set->count++;

	/* neighbours that touch it, before and behind */
	if (at > 0 && set->ranges[at - 1].last + 1 >= range->first)
		unite(set, --at);
	while (at + 1 < set->count &&
		   set->ranges[at].last + 1 >= set->ranges[at + 1].first)
		unite(set, at);
}

void
slate_ranges_add_one(SlateRanges *set, uint64 xid, uint32 generations)
{
	SlateRange	range = {xid, xid, generations};

	slate_ranges_add(set, &range);
}

bool
slate_ranges_contain(const SlateRanges *set, uint64 xid)
{
	int			at = count_before(set, xid);

	return at > 0 && set->ranges[at - 1].last >= xid;
}

bool
slate_ranges_use(const SlateRanges *set, uint32 generations)
{
	for (int i = 0; i < set->count; i++)
	{
		if (set->ranges[i].generations & generations)
			return true;
	}
	return false;
}
