/*-------------------------------------------------------------------------
 *
 * names.c
 *	  What host names stand for, looked up ahead of need.
 *
 * A small table in shared memory.  The sequence of an entry is odd while
 * somebody writes it; a reader that finds it odd, or changed when it has
 * copied the entry, tries again a few times and then does without.  A writer
 * makes it odd by a compare-and-swap, and where another is at it, leaves it to
 * that.  No locks, so that nobody ever waits for a process that was stopped.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include <arpa/inet.h>

#include "common/hashfn.h"
#include "names.h"
#include "port/atomics.h"
#include "storage/shmem.h"

#define READ_TRIES 10

/* What is known of one name and port. */
typedef struct Known
{
	SlateAddress address;
	SlateAddressList list;
} Known;

typedef struct NameEntry
{
	pg_atomic_uint32 sequence;
	pg_atomic_uint32 hash;		/* of the address, to find it by; 0: free */
	pg_atomic_uint64 written_at;	/* clock of slate_link_now() */
	Known		known;
} NameEntry;

/* An array; NULL without preload. */
static NameEntry *entries = NULL;

Size
slate_names_shmem_size(void)
{
	return MAXALIGN(SLATE_MAX_NAMES * sizeof(NameEntry));
}

void
slate_names_shmem_startup(void)
{
	bool		found;

	entries = ShmemInitStruct("slate_cache names", slate_names_shmem_size(),
							  &found);
	if (found)
		return;
	memset(entries, 0, slate_names_shmem_size());
	for (int i = 0; i < SLATE_MAX_NAMES; i++)
	{
		pg_atomic_init_u32(&entries[i].sequence, 0);
		pg_atomic_init_u32(&entries[i].hash, 0);
		pg_atomic_init_u64(&entries[i].written_at, 0);
	}
}

bool
slate_names_is_name(const SlateAddress *address)
{
	struct in6_addr number;

	return !address->is_unix &&
		inet_pton(AF_INET, address->host, &number) != 1 &&
		inet_pton(AF_INET6, address->host, &number) != 1;
}

/* Never 0. */
static uint32
hash_address(const SlateAddress *address)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) address->host,
										   (int) strlen(address->host),
										   (uint64) address->port);

	return Max((uint32) hash, 1);
}

/* A copy of the entry in one piece; false if a writer was in the way. */
static bool
read_entry(NameEntry *entry, Known *known)
{
	for (int i = 0; i < READ_TRIES; i++)
	{
		uint32		before = pg_atomic_read_u32(&entry->sequence);

		if (before % 2 != 0)
			continue;
		pg_read_barrier();
		memcpy(known, &entry->known, sizeof(*known));
		pg_read_barrier();
		if (pg_atomic_read_u32(&entry->sequence) == before)
			return true;
	}
	return false;
}

bool
slate_names_get(const SlateAddress *address, SlateAddressList *found)
{
	uint32		hash = hash_address(address);
	Known		known;

	if (entries == NULL || !slate_names_is_name(address))
		return false;
	for (int i = 0; i < SLATE_MAX_NAMES; i++)
	{
		if (pg_atomic_read_u32(&entries[i].hash) != hash ||
			!read_entry(&entries[i], &known) ||
			!slate_link_same_address(&known.address, address))
			continue;
		*found = known.list;
		return true;
	}
	return false;
}

/* Where the address is noted, or else what can best be spared. */
static NameEntry *
entry_for(uint32 hash)
{
	NameEntry  *oldest = &entries[0];

	for (int i = 0; i < SLATE_MAX_NAMES; i++)
	{
		if (pg_atomic_read_u32(&entries[i].hash) == hash)
			return &entries[i];
		if (pg_atomic_read_u64(&entries[i].written_at) <
			pg_atomic_read_u64(&oldest->written_at))
			oldest = &entries[i];
	}
	return oldest;
}

static void
write_entry(NameEntry *entry, uint32 hash, const Known *known)
{
	uint32		sequence = pg_atomic_read_u32(&entry->sequence);

	if (sequence % 2 != 0 ||
		!pg_atomic_compare_exchange_u32(&entry->sequence, &sequence,
										sequence + 1))
		return;
	memcpy(&entry->known, known, sizeof(*known));
	pg_atomic_write_u32(&entry->hash, hash);
	pg_atomic_write_u64(&entry->written_at, slate_link_now());
	pg_write_barrier();
	pg_atomic_write_u32(&entry->sequence, sequence + 2);
}

void
slate_names_refresh(const SlateAddress *address)
{
	uint32		hash = hash_address(address);
	Known		known;
	const char *error;

	if (entries == NULL || !slate_names_is_name(address))
		return;
	memset(&known, 0, sizeof(known));
	known.address = *address;
	if (slate_link_look_up(address, &known.list, &error) == LINK_OK)
		write_entry(entry_for(hash), hash, &known);
}
