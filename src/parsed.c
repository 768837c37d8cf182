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
 * Texts are found by their hash, in a table of one place each.  The first time
 * a text comes its place notes the hash alone; the second time it keeps text
 * and jsonb: of what is read but once, nothing is copied.  A place whose text
 * was used since another last wanted it stays as it is.  If there is too much
 * in all, a hand goes round and takes away what was not used since it last
 * came by.
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

/* Places for texts, a power of two. */
#define NPLACES 2048

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
	uint64		hash;			/* of the text that came last; 0 for none */
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
place_of(uint64 hash)
{
	if (places == NULL)
	{
		MemoryContext created = AllocSetContextCreate(TopMemoryContext,
													  "slate_cache parsed values",
													  ALLOCSET_DEFAULT_SIZES);

		places = MemoryContextAllocZero(created, NPLACES * sizeof(Place));
		context = created;
	}
	return &places[hash & (NPLACES - 1)];
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

Jsonb *
slate_parsed_get(const char *bytes, size_t len)
{
	uint64		hash;
	Place	   *place;
	Jsonb	   *parsed;

	if (held > limit())
		make_room(0);
	if (len > limit() / LARGEST_PART)
		return slate_value_parse(bytes, len);

	hash = hash_bytes_extended((const unsigned char *) bytes, len, 0);
	place = place_of(hash);
	if (place->entry && place->hash == hash && place->entry->len == len &&
		memcmp(place->entry->bytes, bytes, len) == 0)
		return copy_of(place->entry);

	parsed = slate_value_parse(bytes, len);
	if (parsed == NULL)
		return NULL;
	if (place->entry == NULL && place->hash == hash)
		keep(place, bytes, len, parsed);
	else if (place->entry && place->entry->used)
		place->entry->used = false;
	else
	{
		if (place->entry)
			forget(place);
		place->hash = hash;
	}
	return parsed;
}
