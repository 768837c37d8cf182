/*-------------------------------------------------------------------------
 *
 * hearsay.c
 *	  What one process was told by servers, for all: entries in shared memory,
 *	  and when to ask again.
 *
 * An entry is taken by whoever needs it first, and never given back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "hearsay.h"
#include "sequence.h"
#include "storage/shmem.h"

/* How often what is merely old is asked for again, in ms. */
#define ASK_PAUSE 1000

/* A zeroed one. */
static void
init_entry(SlateHearsay *entry)
{
	pg_atomic_init_u64(&entry->group, 0);
	pg_atomic_init_u64(&entry->asked_at, 0);
	pg_atomic_init_u64(&entry->told_at, 0);
	pg_atomic_init_u64(&entry->last, 0);
	pg_atomic_init_u64(&entry->changes, 0);
	pg_atomic_init_u32(&entry->sequence, 0);
}

static SlateHearsay *
nth_entry(const SlateHearsayTable *table, int n)
{
	return (SlateHearsay *) ((char *) table->shared + n * table->size);
}

Size
slate_hearsay_shmem_size(const SlateHearsayTable *table)
{
	return MAXALIGN(table->nentries * table->size);
}

void
slate_hearsay_shmem_startup(SlateHearsayTable *table)
{
	Size		size = slate_hearsay_shmem_size(table);
	bool		found;

	table->shared = ShmemInitStruct(table->name, size, &found);
	if (found)
		return;
	memset(table->shared, 0, size);
	for (int i = 0; i < table->nentries; i++)
		init_entry(nth_entry(table, i));
}

SlateHearsay *
slate_hearsay_choose(SlateHearsayTable *table, const void *whom, Size len)
{
	uint64		group = Max(hash_bytes_extended(whom, len, 0), 1);

	for (int i = 0; table->shared != NULL && i < table->nentries; i++)
	{
		SlateHearsay *entry = nth_entry(table, i);
		uint64		owner = pg_atomic_read_u64(&entry->group);

		if (owner == 0 &&
			pg_atomic_compare_exchange_u64(&entry->group, &owner, group))
			return entry;
		if (owner == group)
			return entry;
	}

	/* what it has may be others' */
	memset(table->own, 0, table->size);
	init_entry(table->own);
	return table->own;
}

uint64
slate_hearsay_changes(SlateHearsay *entry)
{
	pg_memory_barrier();
	return pg_atomic_read_u64(&entry->changes);
}

bool
slate_hearsay_should_ask(SlateHearsay *entry, int64 distrusted_at,
						 int64 max_age)
{
	int64		now = slate_link_now();
	int64		told_at = pg_atomic_read_u64(&entry->told_at);
	uint64		asked_at = pg_atomic_read_u64(&entry->asked_at);

	if (told_at == 0 || told_at <= distrusted_at)
		return true;
	if (now - told_at < max_age)
		return false;
	return now - (int64) asked_at >= Min(max_age, ASK_PAUSE) &&
		pg_atomic_compare_exchange_u64(&entry->asked_at, &asked_at, now);
}

void
slate_hearsay_ask(SlateHearsay *entry)
{
	pg_atomic_write_u64(&entry->asked_at, slate_link_now());
}

void
slate_hearsay_tell(SlateHearsay *entry, uint64 last)
{
	pg_atomic_write_u64(&entry->last, last);
	pg_atomic_write_u64(&entry->told_at, slate_link_now());
}

int64
slate_hearsay_age(SlateHearsay *entry)
{
	return slate_link_now() - (int64) pg_atomic_read_u64(&entry->told_at);
}

bool
slate_hearsay_read(SlateHearsay *entry, void *to, const void *place,
				   Size size, uint64 *changes)
{
	uint32		before;

	for (int i = 0; i < SLATE_SEQUENCE_TRIES; i++)
	{
		if (!slate_sequence_begin_read(&entry->sequence, &before))
			continue;
		memcpy(to, place, size);
		*changes = pg_atomic_read_u64(&entry->changes);
		if (slate_sequence_end_read(&entry->sequence, before))
			return *changes > 0;
	}
	return false;
}

void
slate_hearsay_note_failure(char *text, size_t size,
						   const SlateAddress *address, const char *reason)
{
	size_t		used = strlen(text);
	char		server[sizeof(address->host) + 16];

	slate_link_write_address(server, sizeof(server), address);
	snprintf(text + used, size - used, "%s%s: %s", used > 0 ? "; " : "",
			 server, reason);
}
