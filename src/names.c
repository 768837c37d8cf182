/*-------------------------------------------------------------------------
 *
 * names.c
 *	  What host names stand for, looked up ahead of need.
 *
 * A small table in shared memory, without locks: see sequence.h.  Who cannot
 * read an entry does without.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include <arpa/inet.h>
#include <poll.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "names.h"
#include "sequence.h"
#include "storage/shmem.h"

/* What nobody has wanted for so long is not looked up any more. */
#define WANTED_MS 600000

/*
 * How long to leave a name alone after a look, at least, and in times of how long
 * that took: the launcher is deaf meanwhile.  Whose name has no answer yet needs
 * it more.
 */
#define KNOWN_REST_MS 10000
#define KNOWN_REST_TIMES 5
#define UNKNOWN_REST_MS 1000
#define UNKNOWN_REST_TIMES 1

/*
 * Without a launcher, which comes back in seconds if at all, what is known is good
 * for so long after it was due.
 */
#define ALONE_MS 60000

/* Steps of waiting for a name, and how many between two calls for it. */
#define AWAIT_STEP_MS 2
#define STEPS_PER_CALL 16

/* What is known of one name and port; before the first look, nothing. */
typedef struct Known
{
	SlateAddress address;
	SlateAddressList list;
	char		failure[80];	/* of the last look, or "" */
} Known;

typedef struct NameEntry
{
	pg_atomic_uint32 sequence;
	pg_atomic_uint32 hash;		/* of the address, to find it by; 0: free */
	pg_atomic_uint64 wanted_at; /* clock of slate_link_now() */
	pg_atomic_uint64 due_at;	/* likewise; the launcher's to write */
	Known		known;
} NameEntry;

typedef struct Names
{
	Latch	   *volatile looker;	/* of the launcher, or NULL */
	NameEntry	entries[SLATE_MAX_NAMES];
} Names;

/* NULL without preload. */
static Names *names = NULL;

Size
slate_names_shmem_size(void)
{
	return MAXALIGN(sizeof(Names));
}

void
slate_names_shmem_startup(void)
{
	bool		found;

	names = ShmemInitStruct("slate_cache names", slate_names_shmem_size(),
							&found);
	if (found)
		return;
	memset(names, 0, slate_names_shmem_size());
	for (int i = 0; i < SLATE_MAX_NAMES; i++)
	{
		NameEntry  *entry = &names->entries[i];

		pg_atomic_init_u32(&entry->sequence, 0);
		pg_atomic_init_u32(&entry->hash, 0);
		pg_atomic_init_u64(&entry->wanted_at, 0);
		pg_atomic_init_u64(&entry->due_at, 0);
	}
}

/* Is there anything to look up: neither a socket path nor a number? */
static bool
is_name(const SlateAddress *address)
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

/* False if a writer was in the way. */
static bool
read_entry(NameEntry *entry, Known *known)
{
	return slate_sequence_copy(&entry->sequence, known, &entry->known,
							   sizeof(*known));
}

/* The entry of an address, and a copy of it; or NULL. */
static NameEntry *
find_entry(const SlateAddress *address, Known *known)
{
	uint32		hash = hash_address(address);

	for (int i = 0; i < SLATE_MAX_NAMES; i++)
	{
		NameEntry  *entry = &names->entries[i];

		if (pg_atomic_read_u32(&entry->hash) == hash &&
			read_entry(entry, known) &&
			slate_link_same_address(&known->address, address))
			return entry;
	}
	return NULL;
}

/* What can best be spared. */
static NameEntry *
find_victim(void)
{
	NameEntry  *victim = &names->entries[0];

	for (int i = 1; i < SLATE_MAX_NAMES; i++)
	{
		NameEntry  *entry = &names->entries[i];

		if (pg_atomic_read_u64(&entry->wanted_at) <
			pg_atomic_read_u64(&victim->wanted_at))
			victim = entry;
	}
	return victim;
}

/* False if another is at it. */
static bool
write_entry(NameEntry *entry, uint32 hash, const Known *known)
{
	if (!slate_sequence_begin_write(&entry->sequence))
		return false;
	memcpy(&entry->known, known, sizeof(*known));
	pg_atomic_write_u32(&entry->hash, hash);
	slate_sequence_end_write(&entry->sequence);
	return true;
}

/* Many want it, so that is only noted when some time has passed since. */
static void
note_wanted(NameEntry *entry)
{
	uint64		now = slate_link_now();

	if (pg_atomic_read_u64(&entry->wanted_at) + WANTED_MS / 10 < now)
		pg_atomic_write_u64(&entry->wanted_at, now);
}

void
slate_names_want(const SlateAddress *address)
{
	Known		known;
	NameEntry  *entry;

	if (names == NULL || !is_name(address))
		return;
	entry = find_entry(address, &known);
	if (entry == NULL)
	{
		memset(&known, 0, sizeof(known));
		known.address = *address;
		entry = find_victim();
		if (!write_entry(entry, hash_address(address), &known))
			return;
		pg_atomic_write_u64(&entry->wanted_at, slate_link_now());
		pg_atomic_write_u64(&entry->due_at, 0);
		return;
	}
	note_wanted(entry);
}

/* Has there been a look that counts? */
static bool
get(const SlateAddress *address, Known *known)
{
	NameEntry  *entry = find_entry(address, known);

	if (entry == NULL ||
		(known->list.count == 0 && known->failure[0] == '\0'))
		return false;
	if (names->looker == NULL &&
		pg_atomic_read_u64(&entry->due_at) + ALONE_MS < slate_link_now())
		return false;
	note_wanted(entry);
	return true;
}

/* Call for a look; may throw where the wait says so. */
static bool
await(const SlateAddress *address, Known *known, int64 deadline,
	  SlateWait wait)
{
	for (int i = 0; slate_link_now() < deadline; i++)
	{
		Latch	   *looker = names->looker;

		if (looker == NULL)
			break;
		if (i % STEPS_PER_CALL == 0)
		{
			slate_names_want(address);
			SetLatch(looker);
		}
		if (wait == LINK_WAIT_INTERRUPTIBLE)
			CHECK_FOR_INTERRUPTS();
		(void) poll(NULL, 0, AWAIT_STEP_MS);
		if (get(address, known))
			return true;
	}
	return false;
}

static SlateLinkStatus
fail(SlateLink *link, SlateLinkStatus status, const char *why)
{
	slate_link_close(link);
	snprintf(link->error, sizeof(link->error),
			 "could not look up the host: %s", why);
	return status;
}

SlateLinkStatus
slate_names_open(SlateLink *link, const SlateAddress *address, int64 deadline,
				 SlateWait wait)
{
	Known		known;
	bool		is_known;

	if (names == NULL || !is_name(address))
		return slate_link_open(link, address, NULL, deadline, wait);
	is_known = get(address, &known);
	if (!is_known && names->looker == NULL)
		return slate_link_open(link, address, NULL, deadline, wait);
	if (!is_known && !await(address, &known, deadline, wait))
		return fail(link, LINK_TIMEOUT, "there was no answer in time");
	if (known.list.count == 0)
		return fail(link, LINK_UNREACHABLE, known.failure);
	return slate_link_open(link, address, &known.list, deadline, wait);
}

/* ------------------------------------------------------------------------
 * The launcher
 * ------------------------------------------------------------------------
 */

void
slate_names_look_here(Latch *latch)
{
	if (names)
		names->looker = latch;
}

static void
look_up(NameEntry *entry)
{
	int64		start = slate_link_now();
	int64		rest;
	Known		known;
	uint32		hash = pg_atomic_read_u32(&entry->hash);
	const char *error;

	if (!read_entry(entry, &known) || hash_address(&known.address) != hash)
		return;
	known.failure[0] = '\0';
	if (slate_link_look_up(&known.address, &known.list, &error) != LINK_OK)
		strlcpy(known.failure, error, sizeof(known.failure));

	/* unless it is another's by now, who is due at once */
	if (pg_atomic_read_u32(&entry->hash) != hash)
		return;
	(void) write_entry(entry, hash, &known);
	rest = slate_link_now() - start;
	if (known.list.count > 0)
		rest = Max(rest * KNOWN_REST_TIMES, KNOWN_REST_MS);
	else
		rest = Max(rest * UNKNOWN_REST_TIMES, UNKNOWN_REST_MS);
	pg_atomic_write_u64(&entry->due_at, slate_link_now() + rest);
}

void
slate_names_look_up(bool anew)
{
	for (int i = 0; names != NULL && i < SLATE_MAX_NAMES; i++)
	{
		NameEntry  *entry = &names->entries[i];
		uint64		now = slate_link_now();

		if (pg_atomic_read_u32(&entry->hash) == 0 ||
			pg_atomic_read_u64(&entry->wanted_at) + WANTED_MS < now ||
			(!anew && pg_atomic_read_u64(&entry->due_at) > now))
			continue;

		/* one may take long, and others of the server wait for us meanwhile */
		CHECK_FOR_INTERRUPTS();
		look_up(entry);
	}
}
