/*-------------------------------------------------------------------------
 *
 * ranges_test.c
 *	  Sets of transactions: by hand, and at random against a plain array.
 *
 * ranges_test [SEED [ITERATIONS]]
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "ranges.h"

/* Transactions of the random sets are below this. */
#define XIDS 5000

static int	ntests = 0;
static int	nfailed = 0;

static void
check(bool is_true, const char *what)
{
	printf("%sok %d - %s\n", is_true ? "" : "not ", ++ntests, what);
	if (!is_true)
		nfailed++;
}

static void
add(SlateRanges *set, uint64 first, uint64 last, uint32 generations)
{
	SlateRange	range = {first, last, generations};

	slate_ranges_add(set, &range);
}

static bool
is_range(const SlateRanges *set, int i, uint64 first, uint64 last)
{
	return i < set->count && set->ranges[i].first == first &&
		set->ranges[i].last == last;
}

static void
by_hand(void)
{
	SlateRanges set = {0};

	check(!slate_ranges_contain(&set, 0) && !slate_ranges_use(&set, ~0U),
		  "an empty set has nothing");
	add(&set, 10, 19, 1);
	check(slate_ranges_contain(&set, 10) && slate_ranges_contain(&set, 19) &&
		  !slate_ranges_contain(&set, 9) && !slate_ranges_contain(&set, 20),
		  "a range has both its ends, and no more");
	add(&set, 30, 39, 2);
	check(set.count == 2 && !slate_ranges_contain(&set, 25),
		  "two that do not touch are two");
	add(&set, 20, 20, 1);
	check(set.count == 2 && is_range(&set, 0, 10, 20),
		  "what touches one from behind becomes part of it");
	slate_ranges_add_one(&set, 29, 1);
	check(set.count == 2 && is_range(&set, 1, 29, 39) &&
		  set.ranges[1].generations == 3,
		  "and from the front, with its generations");
	add(&set, 15, 35, 0);
	check(set.count == 1 && is_range(&set, 0, 10, 39),
		  "what lies over both makes them one");
	check(slate_ranges_use(&set, 2) && !slate_ranges_use(&set, 4),
		  "generations are those that were added");
	add(&set, 12, 13, 4);
	check(set.count == 1 && is_range(&set, 0, 10, 39) &&
		  slate_ranges_use(&set, 4), "a part of one changes nothing else");

	memset(&set, 0, sizeof(set));
	add(&set, 0, 0, 1);
	add(&set, PG_UINT64_MAX - 1, PG_UINT64_MAX - 1, 1);
	check(set.count == 2 && slate_ranges_contain(&set, 0) &&
		  slate_ranges_contain(&set, PG_UINT64_MAX - 1),
		  "the least and the greatest");

	/* the closest two are 1000 and 1005 */
	memset(&set, 0, sizeof(set));
	for (int i = 0; i < SLATE_MAX_RANGES; i++)
		slate_ranges_add_one(&set, i <= 100 ? i * 10 : i * 10 - 5, 1);
	slate_ranges_add_one(&set, 3000, 1);
	check(set.count == SLATE_MAX_RANGES && is_range(&set, 100, 1000, 1005) &&
		  is_range(&set, SLATE_MAX_RANGES - 1, 3000, 3000),
		  "in a full set the closest two become one");
}

/* Are they in order, with something between them? */
static bool
is_sound(const SlateRanges *set)
{
	for (int i = 0; i < set->count; i++)
	{
		if (set->ranges[i].first > set->ranges[i].last ||
			(i > 0 && set->ranges[i - 1].last + 1 >= set->ranges[i].first))
			return false;
	}
	return set->count <= SLATE_MAX_RANGES;
}

/* Has it all that was added, with its generations; if it never was full, no more? */
static bool
agrees(const SlateRanges *set, const uint32 *added, bool was_full)
{
	for (uint64 xid = 0; xid < XIDS; xid++)
	{
		bool		contains = slate_ranges_contain(set, xid);

		if (added[xid] != 0 ? !contains : contains && !was_full)
			return false;
	}
	for (int i = 0; i < set->count; i++)
	{
		for (uint64 xid = set->ranges[i].first; xid <= set->ranges[i].last; xid++)
		{
			if (added[xid] & ~set->ranges[i].generations)
				return false;
		}
	}
	return true;
}

static bool
at_random(unsigned int *seed)
{
	static uint32 added[XIDS];
	SlateRanges set = {0};
	int			spread = 1 + rand_r(seed) % XIDS;
	int			longest = 1 + rand_r(seed) % 20;
	int			n = rand_r(seed) % (3 * SLATE_MAX_RANGES);
	bool		was_full = false;

	memset(added, 0, sizeof(added));
	for (int i = 0; i < n; i++)
	{
		uint64		first = rand_r(seed) % spread;
		uint64		last = Min(first + rand_r(seed) % longest, XIDS - 1);
		uint32		generations = 1 << rand_r(seed) % 3;

		was_full |= set.count == SLATE_MAX_RANGES;
		add(&set, first, last, generations);
		for (uint64 xid = first; xid <= last; xid++)
			added[xid] |= generations;
		if (!is_sound(&set))
			return false;
	}
	return agrees(&set, added, was_full);
}

int
main(int argc, char **argv)
{
	unsigned int seed = argc > 1 ? atoi(argv[1]) : 1;
	int			iterations = argc > 2 ? atoi(argv[2]) : 500;
	bool		right = true;

	by_hand();
	for (int i = 0; i < iterations && right; i++)
		right = at_random(&seed);
	check(right, "at random they have what was added, in order");
	printf("1..%d\n", ntests);
	return nfailed > 0 ? 1 : 0;
}
