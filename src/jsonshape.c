/*-------------------------------------------------------------------------
 *
 * jsonshape.c
 *	  Objects that have the same names in the same order as one before.
 *
 * Rows of one table are objects with the same names in the same order, and a
 * list has hundreds of them.  To find where a name ends, to bring names into
 * jsonb's order, and to write them and their JEntries was half of what an object
 * took.  A shape has all that of an object that was there before: of the next
 * one each name is compared with the shape's, and if all are the same then what
 * comes before the values in jsonb is copied as it is.
 *
 * A few shapes are kept.  The one that an object had that was as deep in its
 * text is tried first; where the text goes another way, those that begin in the
 * same way are.  What a text has used stays until that has been written.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "jsonshape.h"

#define NSHAPES 8

/* Depths that differ for what is expected; a power of two. */
#define NDEPTHS 8

static SlateShape shapes[NSHAPES];
static uint32 expected[NDEPTHS];

/* Texts so far. */
static uint64 serial = 0;

/* The shape that made way last. */
static int	hand = 0;

/* The text of which one was learned last. */
static uint64 learned_from = 0;

/* Size of the last object without a shape, see was_seen(). */
static uint64 seen = 0;

void
slate_shape_begin(void)
{
	serial++;
}

/* Any will do to begin with. */
uint32
slate_shape_expect(int depth)
{
	return Max(expected[depth % NDEPTHS], 1);
}

const SlateShape *
slate_shape_at(uint32 shape)
{
	return &shapes[shape - 1];
}

static uint32
number_of(const SlateShape *shape)
{
	return shape - shapes + 1;
}

static uint32
start_of(const SlateShape *shape, int nth)
{
	return nth == 0 ? 0 : shape->ends[nth - 1];
}

static bool
goes_on(const SlateShape *shape, int nth, const char *at, size_t left)
{
	uint32		start;
	uint32		len;

	if (nth >= shape->nmembers)
		return false;
	start = start_of(shape, nth);
	len = shape->ends[nth] - start;
	return len <= left && memcmp(shape->names + start, at, len) == 0;
}

/* Do both have the same first names? */
static bool
begins_likewise(const SlateShape *shape, const SlateShape *other, int nth)
{
	uint32		len = start_of(shape, nth);

	return other->nmembers >= nth && start_of(other, nth) == len &&
		memcmp(shape->names, other->names, len) == 0;
}

uint32
slate_shape_follow(uint32 shape, int nth, const char *at, size_t left,
				   uint32 *len)
{
	const SlateShape *tried = slate_shape_at(shape);
	const SlateShape *found = tried;

	for (int i = 0; !goes_on(found, nth, at, left); i++)
	{
		if (i == NSHAPES)
			return 0;
		if (begins_likewise(tried, &shapes[i], nth))
			found = &shapes[i];
	}
	*len = found->ends[nth] - start_of(found, nth);
	return number_of(found);
}

uint32
slate_shape_end(uint32 shape, int nmembers, int depth)
{
	SlateShape *tried = &shapes[shape - 1];
	SlateShape *found = tried;

	for (int i = 0; found->nmembers != nmembers; i++)
	{
		if (i == NSHAPES)
			return 0;
		if (begins_likewise(tried, &shapes[i], nmembers))
			found = &shapes[i];
	}
	found->used_by = serial;
	expected[depth % NDEPTHS] = number_of(found);
	return number_of(found);
}

/* Whether another one is the same need not be certain. */
static bool
was_seen(int nmembers, uint32 total)
{
	uint64		before = seen;

	seen = ((uint64) nmembers << 32) | total;
	return seen == before;
}

bool
slate_shape_is_wanted(int nmembers, uint32 total)
{
	return nmembers > 0 && nmembers <= SLATE_SHAPE_MEMBERS &&
		total <= SLATE_SHAPE_BYTES && learned_from != serial &&
		was_seen(nmembers, total);
}

/* NULL if the text has used all of them. */
static SlateShape *
find_room(void)
{
	for (int i = 0; i < NSHAPES; i++)
	{
		hand = (hand + 1) % NSHAPES;
		if (shapes[hand].used_by != serial)
			return &shapes[hand];
	}
	return NULL;
}

static void
put_names(SlateShape *shape, const SlateSlice *names)
{
	char	   *at = shape->names;

	for (int i = 0; i < shape->nmembers; i++)
	{
		*at++ = '"';
		memcpy(at, names[i].start, names[i].len);
		at += names[i].len;
		*at++ = '"';
		*at++ = ':';
		shape->ends[i] = at - shape->names;
	}
}

void
slate_shape_learn(const SlateSlice *names, const uint8 *order, int nmembers,
				  uint32 total, const char *block, uint32 blocklen)
{
	SlateShape *shape = find_room();

	if (shape == NULL)
		return;
	shape->nmembers = nmembers;
	shape->used_by = learned_from = serial;
	shape->total = total;
	put_names(shape, names);
	memcpy(shape->order, order, nmembers);
	memcpy(shape->block, block, blocklen);
	shape->blocklen = blocklen;
}
