/*-------------------------------------------------------------------------
 *
 * hearsay.c
 *	  What one process was told by servers, for all: entries in shared memory,
 *	  and when to ask again.
 *
 * An entry is taken by whoever needs it first, and never given back.  Its
 * sequence is odd while somebody writes it, as in names.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "hearsay.h"

/* How often what is merely old is asked for again, in ms. */
#define ASK_PAUSE 1000

void
slate_hearsay_init(SlateHearsay *entry)
{
	pg_atomic_init_u64(&entry->group, 0);
	pg_atomic_init_u64(&entry->asked_at, 0);
	pg_atomic_init_u64(&entry->told_at, 0);
	pg_atomic_init_u64(&entry->changes, 0);
	pg_atomic_init_u32(&entry->sequence, 0);
}

SlateHearsay *
slate_hearsay_choose(void *entries, int nentries, Size size, uint64 group)
{
	for (int i = 0; entries != NULL && i < nentries; i++)
	{
		SlateHearsay *entry = (SlateHearsay *) ((char *) entries + i * size);
		uint64		owner = pg_atomic_read_u64(&entry->group);

		if (owner == 0 &&
			pg_atomic_compare_exchange_u64(&entry->group, &owner, group))
			return entry;
		if (owner == group)
			return entry;
	}
	return NULL;
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

bool
slate_hearsay_begin_write(SlateHearsay *entry)
{
	uint32		sequence = pg_atomic_read_u32(&entry->sequence);

	return sequence % 2 == 0 &&
		pg_atomic_compare_exchange_u32(&entry->sequence, &sequence,
									   sequence + 1);
}

void
slate_hearsay_end_write(SlateHearsay *entry)
{
	pg_write_barrier();
	pg_atomic_fetch_add_u32(&entry->sequence, 1);
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
