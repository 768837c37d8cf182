/*-------------------------------------------------------------------------
 *
 * names.c
 *	  What the server's host name stands for, looked up ahead of need.
 *
 * One entry in shared memory, with one writer.  The sequence is odd while it
 * writes; a reader that finds it odd, or changed when it has copied the entry,
 * tries again a few times and then does without.  No locks, so that a reader
 * never waits for a worker that was stopped.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include <arpa/inet.h>

#include "names.h"
#include "port/atomics.h"
#include "storage/shmem.h"

#define READ_TRIES 10

typedef struct NameEntry
{
	SlateAddress address;		/* a name and a port; "" at first */
	SlateAddressList list;
} NameEntry;

typedef struct NameState
{
	pg_atomic_uint32 sequence;
	NameEntry	entry;
} NameState;

/* NULL without preload. */
static NameState *state = NULL;

Size
slate_names_shmem_size(void)
{
	return MAXALIGN(sizeof(NameState));
}

void
slate_names_shmem_startup(void)
{
	bool		found;

	state = ShmemInitStruct("slate_cache names", slate_names_shmem_size(),
							&found);
	if (found)
		return;
	memset(state, 0, sizeof(*state));
	pg_atomic_init_u32(&state->sequence, 0);
}

bool
slate_names_is_name(const SlateAddress *address)
{
	struct in6_addr number;

	return !address->is_unix &&
		inet_pton(AF_INET, address->host, &number) != 1 &&
		inet_pton(AF_INET6, address->host, &number) != 1;
}

static bool
same_address(const SlateAddress *a, const SlateAddress *b)
{
	return a->is_unix == b->is_unix && a->port == b->port &&
		strcmp(a->host, b->host) == 0;
}

/* A copy of the entry in one piece; false if the writer was in the way. */
static bool
read_entry(NameEntry *entry)
{
	for (int i = 0; i < READ_TRIES; i++)
	{
		uint32		before = pg_atomic_read_u32(&state->sequence);

		if (before % 2 != 0)
			continue;
		pg_read_barrier();
		memcpy(entry, &state->entry, sizeof(*entry));
		pg_read_barrier();
		if (pg_atomic_read_u32(&state->sequence) == before)
			return true;
	}
	return false;
}

bool
slate_names_get(const SlateAddress *address, SlateAddressList *found)
{
	NameEntry	entry;

	if (state == NULL || !slate_names_is_name(address) || !read_entry(&entry) ||
		!same_address(&entry.address, address))
		return false;
	*found = entry.list;
	return true;
}

static void
write_entry(const NameEntry *entry)
{
	uint32		sequence = pg_atomic_read_u32(&state->sequence);

	/* a worker that was killed in between has left it odd */
	sequence -= sequence % 2;
	pg_atomic_write_u32(&state->sequence, sequence + 1);
	pg_write_barrier();
	memcpy(&state->entry, entry, sizeof(*entry));
	pg_write_barrier();
	pg_atomic_write_u32(&state->sequence, sequence + 2);
}

void
slate_names_refresh(const SlateAddress *address)
{
	NameEntry	entry;
	const char *error;

	if (state == NULL || !slate_names_is_name(address))
		return;
	memset(&entry, 0, sizeof(entry));
	entry.address = *address;
	if (slate_link_look_up(address, &entry.list, &error) == LINK_OK)
		write_entry(&entry);
}
