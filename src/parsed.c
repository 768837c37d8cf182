/*-------------------------------------------------------------------------
 *
 * parsed.c
 *	  Values that this backend has parsed before.
 *
 * Most of what a hit costs a backend is to turn text into jsonb.  The same
 * text always becomes the same jsonb, so those that came more than once are
 * kept side by side.  This is no cache of a key: each hit still asks Redis,
 * and compares the bytes that it gives.  Nothing here can be stale.
 *
 * Texts are found by the hash of the key that they came under, in a table of
 * rows with a few places each: a key is shorter than its text, and to hash that
 * takes longer than to compare it.  The first time a key comes a place notes
 * the hash alone; the second time it keeps text and jsonb: of what is read but
 * once, nothing is copied.  When the key comes with another text it begins anew.
 * Where all places have texts that were used since another key last wanted one,
 * it gets none this time.  If there is too much in all, a hand goes round and
 * takes away what was not used since it last came by.
 *
 * Invariant: held is the size of all entries, and exceeds the setting only
 * from when that was lowered to the next text.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "common/hashfn.h"
#include "parsed.h"
#include "utils/memutils.h"
#include "value.h"

/* Places for texts, and those of one row; powers of two. */
#define NPLACES 2048
#define ROW_PLACES 4

/* A text takes at most this part of the memory. */
#define LARGEST_PART 4

/* A text, and behind it, aligned, what it was parsed to. */
typedef struct Entry
{
	size_t		size;			/* of all of it */
	size_t		len;			/* of the text */
	bool		used;
	char		bytes[FLEXIBLE_ARRAY_MEMBER];
} Entry;

typedef struct Place
{
	uint64		hash;			/* of the key that came last; 0 for none */
	Entry	   *entry;			/* or NULL */
} Place;

int			slate_parsed_memory = 1024;

static MemoryContext context;
static Place *places;
static size_t held;
static int	hand;

static Jsonb *
parsed_of(Entry *entry)
{
	return (Jsonb *) ((char *) entry +
					  MAXALIGN(offsetof(Entry, bytes) + entry->len));
}

static size_t
limit(void)
{
	return (size_t) slate_parsed_memory * 1024;
}

static Place *
row_of(uint64 hash)
{
	if (places == NULL)
	{
		MemoryContext created = AllocSetContextCreate(TopMemoryContext,
													  "slate_cache parsed values",
													  ALLOCSET_DEFAULT_SIZES);

		places = MemoryContextAllocZero(created, NPLACES * sizeof(Place));
		context = created;
	}
	return &places[hash * ROW_PLACES & (NPLACES - 1)];
}

static void
forget(Place *place)
{
	held -= place->entry->size;
	pfree(place->entry);
	place->entry = NULL;
	place->hash = 0;
}

/* Twice round takes away everything. */
static void
make_room(size_t size)
{
	while (held > 0 && held + size > limit())
	{
		Place	   *place = &places[hand];

		hand = (hand + 1) & (NPLACES - 1);
		if (place->entry == NULL)
			continue;
		if (place->entry->used)
			place->entry->used = false;
		else
			forget(place);
	}
}

static void
keep(Place *place, const char *bytes, size_t len, const Jsonb *parsed)
{
	Size		parsed_size = VARSIZE(parsed);
	Size		size = MAXALIGN(offsetof(Entry, bytes) + len) + parsed_size;
	Entry	   *entry;

	if (size > limit() / LARGEST_PART)
		return;
	make_room(size);
	entry = MemoryContextAllocExtended(context, size, MCXT_ALLOC_NO_OOM);
	if (entry == NULL)
		return;
	entry->size = size;
	entry->len = len;
	entry->used = false;
	memcpy(entry->bytes, bytes, len);
	memcpy(parsed_of(entry), parsed, parsed_size);
	place->entry = entry;
	held += size;
}

static Jsonb *
copy_of(Entry *entry)
{
	Jsonb	   *parsed = parsed_of(entry);
	Jsonb	   *copy = palloc(VARSIZE(parsed));

	memcpy(copy, parsed, VARSIZE(parsed));
	entry->used = true;
	return copy;
}

/* The key's place, or NULL. */
static Place *
find_place(Place *row, uint64 hash)
{
	for (int i = 0; i < ROW_PLACES; i++)
	{
		if (row[i].hash == hash)
			return &row[i];
	}
	return NULL;
}

/*
 * One for another key: rather a free one than one with a hash, and that rather
 * than one with a text; NULL if all have texts that were used.  Where keys have
 * the choice not all of them begin with the same.
 */
static Place *
find_victim(Place *row, uint64 hash)
{
	Place	   *victim = NULL;

	for (int i = 0; i < ROW_PLACES; i++)
	{
		Place	   *place = &row[((hash >> 32) + i) % ROW_PLACES];

		if (place->hash == 0)
			return place;
		if (place->entry == NULL && (victim == NULL || victim->entry))
			victim = place;
		if (place->entry && !place->entry->used && victim == NULL)
			victim = place;
	}
	if (victim == NULL)
	{
		for (int i = 0; i < ROW_PLACES; i++)
			row[i].entry->used = false;
	}
	return victim;
}

/* Have the next time that the key comes keep its text. */
static void
note(Place *row, Place *place, uint64 hash)
{
	if (place == NULL)
		place = find_victim(row, hash);
	if (place == NULL)
		return;
	if (place->entry)
		forget(place);
	place->hash = hash;
}

static bool
has_text(const Place *place, const char *bytes, size_t len)
{
	return place->entry && place->entry->len == len &&
		memcmp(place->entry->bytes, bytes, len) == 0;
}

Jsonb *
slate_parsed_get(SlateSlice key, const char *bytes, size_t len)
{
	uint64		hash;
	Place	   *row;
	Place	   *place;
	Jsonb	   *parsed;

	if (held > limit())
		make_room(0);
	if (len > limit() / LARGEST_PART)
		return slate_value_parse(bytes, len);

	hash = hash_bytes_extended((const unsigned char *) key.start, key.len, 0);
	row = row_of(hash);
	place = find_place(row, hash);
	if (place && has_text(place, bytes, len))
		return copy_of(place->entry);

	parsed = slate_value_parse(bytes, len);
	if (parsed == NULL)
		return NULL;
	if (place && place->entry == NULL)
		keep(place, bytes, len, parsed);
	else
		note(row, place, hash);
	return parsed;
}
