/*-------------------------------------------------------------------------
 *
 * drain.c
 *	  The worker's part in mode async: sends what sessions leave in the ring.
 *
 * All that is ready goes out in one exchange, however many transactions it is
 * of; while Redis answers the next ones gather.
 *
 * Of two pushes of one key that meet in an exchange the earlier one need not
 * be sent, if both have the same order and the later one has the higher
 * version: Redis would do the same after the one as after both.
 *
 * Otherwise see bundle.c.
 *
 * What Redis did not take is in doubt, and becomes DROPs like everything that
 * is late.  Nothing is sent twice, since its nonces would come twice: what a
 * worker was sending when it died is in doubt for its successor.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "bundle.h"
#include "doubt.h"
#include "drain.h"
#include "near.h"
#include "ring.h"
#include "stats.h"
#include "utils/memutils.h"

/* What one exchange has at most. */
#define MAX_ENTRIES 512
#define MAX_BYTES (256 * 1024)

/* Places to look for another push of the same key. */
#define SLOTS (4 * MAX_ENTRIES)

typedef struct Sent
{
	SlateRingEntry *entry;
	SlateBundlePart part;
	int			instead;		/* who is sent in its place; -1: itself */
} Sent;

static struct
{
	int			count;
	uint64		end;			/* position behind the last one */
	Sent		sent[MAX_ENTRIES];
	SlateBundleUnit units[MAX_ENTRIES];
	SlateBundle bundle;
}			exchange;

/* ------------------------------------------------------------------------
 * Gathering
 * ------------------------------------------------------------------------
 */

/* Until the end of the ring, or a position. */
static void
gather(SlateDatabase *database, uint64 until)
{
	uint64		position = slate_ring_first(database);
	Size		bytes = 0;
	SlateRingEntry *entry;

	exchange.count = 0;
	exchange.end = position;
	while (exchange.count < MAX_ENTRIES && bytes < MAX_BYTES &&
		   position < until &&
		   (entry = slate_ring_read(database, &position)) != NULL)
	{
		Sent	   *sent = &exchange.sent[exchange.count];

		memset(sent, 0, sizeof(*sent));
		sent->entry = entry;
		sent->instead = -1;
		bytes += entry->nbytes;
		exchange.end = position;
		exchange.count++;
	}
}

static bool
same_key(const SlateRingEntry *a, const SlateRingEntry *b)
{
	int			at_a = 0;
	int			at_b = 0;
	SlateSlice	key_a = slate_script_next_key(&a->call, slate_ring_bytes(a),
											  &at_a);
	SlateSlice	key_b = slate_script_next_key(&b->call, slate_ring_bytes(b),
											  &at_b);

	return slate_slice_compare(&key_a, &key_b) == 0;
}

/* From the last to the first: who is there already is later. */
static void
coalesce(void)
{
	int16		slots[SLOTS];

	memset(slots, -1, sizeof(slots));
	for (int i = exchange.count - 1; i >= 0; i--)
	{
		SlateRingEntry *entry = exchange.sent[i].entry;
		uint32		slot = entry->key_hash % SLOTS;
		SlateRingEntry *later;

		if (entry->order == SLATE_SHARED)
			continue;
		if (slots[slot] < 0)
		{
			slots[slot] = i;
			continue;
		}
		later = exchange.sent[slots[slot]].entry;
		if (later->key_hash == entry->key_hash &&
			later->order == entry->order &&
			later->version > entry->version && same_key(later, entry))
			exchange.sent[i].instead = slots[slot];
	}
}

static void
encode(void)
{
	SlateBundle *bundle = &exchange.bundle;

	if (bundle->batch.bytes.data == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		slate_script_batch_init(&bundle->batch);
		bundle->units = exchange.units;
		MemoryContextSwitchTo(old);
	}
	slate_bundle_begin(bundle);
	for (int i = 0; i < exchange.count; i++)
	{
		Sent	   *sent = &exchange.sent[i];
		const SlateRingEntry *entry = sent->entry;

		if (sent->instead >= 0)
			continue;
		sent->part.bytes = slate_ring_bytes(entry);
		sent->part.nbytes = entry->nbytes;
		sent->part.ncommands = entry->ncommands;
		sent->part.call = &entry->call;
		slate_bundle_add(bundle, &sent->part);
	}
	slate_bundle_end(bundle);
}

/* ------------------------------------------------------------------------
 * Sending
 * ------------------------------------------------------------------------
 */

static void
on_reply(int index, const redisReply *reply, void *arg)
{
	slate_bundle_take_reply(arg, index, reply);
}

static bool
is_known(SlateDatabase *database)
{
	return slate_redis_identity() == pg_atomic_read_u64(&database->identity);
}

/* False: nobody knows what Redis has heard. */
static bool
send_batch(SlateDatabase *database, const char **reason)
{
	int64		deadline = slate_link_now() + slate_redis_timeout;

	if (slate_script_prepare(deadline, LINK_WAIT_INTERRUPTIBLE) == REDIS_DONE &&
		is_known(database) &&
		slate_script_run(&exchange.bundle.batch, on_reply,
						 &exchange.bundle, deadline,
						 LINK_WAIT_INTERRUPTIBLE) == REDIS_DONE &&
		is_known(database))
		return true;
	*reason = slate_redis_error();
	if ((*reason)[0] == '\0')
		*reason = "this Redis is not known yet";
	return false;
}

/* ------------------------------------------------------------------------
 * Settling
 * ------------------------------------------------------------------------
 */

static void
settle_failed(SlateDatabase *database, const SlateRingEntry *entry,
			  const char *reason)
{
	if (entry->generations == 0)
	{
		slate_stats_lost(entry->nkeys, reason);
		return;
	}
	slate_doubt_add(database, DOUBT_ALL, entry->xid, entry->generations);
	slate_stats_delayed(entry->nkeys, reason);
}

static void
settle_unswept(SlateDatabase *database, const SlateRingEntry *entry)
{
	if (entry->generations == 0)
		slate_stats_add(STAT_SWEEPS_UNFINISHED, 1);
	else
		slate_doubt_add(database, DOUBT_PATTERNS, entry->xid,
						entry->generations);
}

static void
count_units(SlateDatabase *database)
{
	for (int i = 0; i < exchange.bundle.nunits; i++)
	{
		const SlateOutcome *outcome = &exchange.units[i].outcome;

		slate_stats_add(STAT_KEYS_STORED, outcome->stored);
		slate_stats_add(STAT_KEYS_DROPPED, outcome->dropped);
		slate_stats_add(STAT_KEYS_OUTDATED, outcome->outdated);
		if (outcome->strange)
			pg_atomic_write_u32(&database->look, SLATE_LOOK_EPOCH);
	}
}

static void
settle(SlateDatabase *database, bool answered, const char *reason)
{
	for (int i = 0; i < exchange.count; i++)
	{
		Sent	   *sent = &exchange.sent[i];
		const SlateBundleUnit *unit = sent->instead >= 0
			? exchange.sent[sent->instead].part.unit : sent->part.unit;

		slate_stats_add(STAT_PUSHES, 1);
		if (sent->instead >= 0)
			slate_stats_add(STAT_KEYS_OUTDATED, 1);
		if (!answered)
			settle_failed(database, sent->entry, reason);
		else if (unit->outcome.refused > 0)
			settle_failed(database, sent->entry, unit->outcome.error);
		else if (sent->entry->unswept)
			settle_unswept(database, sent->entry);
		slate_near_void(&sent->entry->near);
	}
}

/* What a worker was sending when it died; there is no more of it than that. */
static void
take_over(SlateDatabase *database)
{
	gather(database, slate_ring_sending(database));
	settle(database, false, "the worker was stopped while it pushed");
	slate_ring_advance(database, slate_ring_sending(database));
}

bool
slate_drain(SlateDatabase *database)
{
	const char *reason = NULL;
	bool		answered;

	if (slate_ring_first(database) < slate_ring_sending(database))
		take_over(database);
	gather(database, PG_UINT64_MAX);
	if (exchange.count == 0)
		return false;
	coalesce();
	encode();
	slate_ring_set_sending(database, exchange.end);
	slate_progress_enter(&database->progress, PHASE_PUSHING);
	answered = send_batch(database, &reason);
	count_units(database);
	settle(database, answered, reason);
	slate_ring_advance(database, exchange.end);
	return true;
}
