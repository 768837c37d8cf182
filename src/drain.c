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
 * What else is put together, and why, bundle.h tells.
 *
 * What Redis did not take is in doubt, and becomes DROPs like everything that
 * is late.  Nothing is sent twice, since its nonces would come twice: what a
 * worker was sending when it died is in doubt for its successor.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xlog.h"
#include "bundle.h"
#include "call.h"
#include "deliver.h"
#include "direct.h"
#include "doubt.h"
#include "drain.h"
#include "exchange.h"
#include "near.h"
#include "ring.h"
#include "script.h"
#include "stats.h"
#include "traffic.h"
#include "trust.h"
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
	bool		direct;			/* without a script */
} Sent;

static struct
{
	int			count;
	uint64		end;			/* position behind the last one */
	Sent		sent[MAX_ENTRIES];
	SlateBundleUnit units[MAX_ENTRIES];
	SlateBundle bundle;
	SlateDirect direct;
	SlateStamp	stamp;			/* of which the epoch counts */
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
	SlateSlice	key_a = slate_call_next_key(&a->call, slate_ring_bytes(a),
											&at_a);
	SlateSlice	key_b = slate_call_next_key(&b->call, slate_ring_bytes(b),
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
init(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	slate_batch_init_for(&exchange.bundle.batch, 0);
	slate_direct_init(&exchange.direct);
	exchange.bundle.units = exchange.units;
	MemoryContextSwitchTo(old);
}

static void
encode_directly(void)
{
	slate_direct_begin(&exchange.direct);
	for (int i = 0; i < exchange.count; i++)
	{
		const SlateRingEntry *entry = exchange.sent[i].entry;

		if (exchange.sent[i].direct)
			slate_direct_add_call(&exchange.direct, &entry->call,
								  slate_ring_bytes(entry));
	}
	slate_direct_end(&exchange.direct, &exchange.stamp);
}

/* All that is not sent directly. */
static void
encode(void)
{
	SlateBundle *bundle = &exchange.bundle;

	slate_bundle_begin(bundle);
	for (int i = 0; i < exchange.count; i++)
	{
		Sent	   *sent = &exchange.sent[i];
		const SlateRingEntry *entry = sent->entry;

		if (sent->instead >= 0 || sent->direct)
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
is_one_call(const SlateRingEntry *entry)
{
	return entry->call.nkeys > 0 && entry->ncommands == 1;
}

/* May all of its keys be pushed directly, if anything may? */
static bool
enter_keys(const SlateRingEntry *entry)
{
	bool		is_free = true;
	int			offset = 0;

	for (int i = 0; i < entry->call.nkeys; i++)
	{
		SlateSlice	key = slate_call_next_key(&entry->call,
											  slate_ring_bytes(entry), &offset);

		is_free &= slate_traffic_add_key(key, entry->version);
	}
	return is_free;
}

/*
 * Choose what goes directly, and enter with it: of one key the first push,
 * since what follows is to see it.
 */
static bool
enter_directly(void)
{
	const char *epoch = exchange.stamp.epoch;
	int64		clock = slate_redis_server_clock();
	uint64		lowest = PG_UINT64_MAX;

	slate_traffic_open(true, false);
	for (int i = 0; i < exchange.count; i++)
	{
		Sent	   *sent = &exchange.sent[i];
		const SlateRingEntry *entry = sent->entry;
		const char *bytes = slate_ring_bytes(entry);

		if (sent->instead >= 0 || !is_one_call(entry) ||
			!slate_call_is_for_epoch(&entry->call, bytes, epoch) ||
			!slate_call_is_in_time(&entry->call, bytes, clock))
			continue;
		sent->direct = enter_keys(entry);
		if (sent->direct)
			lowest = Min(lowest, entry->version);
	}
	return slate_traffic_close(lowest < PG_UINT64_MAX, lowest);
}

/* Enter with the rest. */
static void
enter_by_script(void)
{
	uint64		now = GetXLogInsertRecPtr();

	slate_traffic_open(false, false);
	for (int i = 0; i < exchange.count; i++)
	{
		const Sent *sent = &exchange.sent[i];

		if (sent->instead >= 0 || sent->direct)
			continue;
		if (is_one_call(sent->entry))
			(void) enter_keys(sent->entry);
		else
			slate_traffic_add_everything(now);
	}
	(void) slate_traffic_close(false, now);
}

/* The one that is watched is the one that entries should have. */
static void
watch(SlateDatabase *database, int64 deadline)
{
	if (slate_trust_stamp_for_worker(&exchange.stamp,
									 slate_link_now()) == NULL)
		exchange.stamp.epoch[0] = '\0';
	if (slate_traffic_direct &&
		slate_direct_should_watch(&exchange.stamp, true))
		(void) slate_direct_watch(&exchange.stamp, deadline,
								  LINK_WAIT_INTERRUPTIBLE);
}

static void
go_by_script(void)
{
	for (int i = 0; i < exchange.count; i++)
		exchange.sent[i].direct = false;
}

/*
 * The next ones return NULL, or why nobody knows what Redis has heard.  What it
 * has not done directly, though it has answered, is left to be sent by script.
 */
static const char *
exchange_directly(int64 deadline)
{
	SlateRedisStatus status;
	SlateOutcome outcome;
	bool		done;

	encode_directly();
	slate_traffic_begin_direct();
	status = slate_direct_push(&exchange.direct, &outcome, &done, deadline,
							   LINK_WAIT_INTERRUPTIBLE);
	slate_traffic_end_direct(status == REDIS_DONE);
	if (status != REDIS_DONE)
		return slate_redis_error();
	if (!done)
	{
		go_by_script();
		return NULL;
	}
	slate_exchange_count_outcome(&outcome);
	for (int i = 0; i < exchange.count; i++)
	{
		if (exchange.sent[i].direct)
			slate_stats_add(STAT_PUSHES_DIRECT, 1);
	}
	return NULL;
}

/* Those that may. */
static const char *
send_directly(int64 deadline)
{
	const char *failure = NULL;

	if (!slate_direct_is_watching(&exchange.stamp))
		return NULL;
	if (enter_directly())
		failure = exchange_directly(deadline);
	else
		go_by_script();
	slate_traffic_leave();
	return failure;
}

/* The rest. */
static const char *
send_by_script(int64 deadline)
{
	const char *failure = NULL;

	encode();
	if (exchange.bundle.batch.ncommands == 0)
		return NULL;
	enter_by_script();
	if (!slate_traffic_fence(deadline, LINK_WAIT_INTERRUPTIBLE))
		failure = slate_traffic_fence_error();
	else if (slate_exchange_run(&exchange.bundle.batch, on_reply,
								&exchange.bundle, deadline,
								LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE)
		failure = slate_redis_error();
	slate_traffic_leave();
	return failure;
}

static const char *
send_batch(SlateDatabase *database)
{
	int64		deadline = slate_link_now() + slate_redis_timeout;
	const char *failure;

	if (slate_script_prepare(deadline, LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE)
		return slate_redis_error();
	if (!slate_deliver_is_known(database))
		return SLATE_NOT_KNOWN;
	watch(database, deadline);
	failure = send_directly(deadline);
	if (failure == NULL)
		failure = send_by_script(deadline);
	if (failure == NULL && !slate_deliver_is_known(database))
		failure = SLATE_NOT_KNOWN;
	return failure;
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
		slate_exchange_count_outcome(&exchange.units[i].outcome);
		if (exchange.units[i].outcome.strange)
			pg_atomic_write_u32(&database->look, SLATE_LOOK_EPOCH);
	}
}

/* failure: NULL, or why nobody knows what Redis has heard. */
static void
settle(SlateDatabase *database, const char *failure)
{
	for (int i = 0; i < exchange.count; i++)
	{
		Sent	   *sent = &exchange.sent[i];
		const Sent *told = sent->instead >= 0
			? &exchange.sent[sent->instead] : sent;
		const SlateBundleUnit *unit = told->part.unit;

		slate_stats_add(STAT_PUSHES, failure ? 0 : 1);
		if (sent->instead >= 0)
			slate_stats_add(STAT_KEYS_OUTDATED, 1);
		if (failure)
			settle_failed(database, sent->entry, failure);
		else if (!told->direct && unit->outcome.refused > 0)
			settle_failed(database, sent->entry, unit->outcome.error);
		else if (sent->entry->unswept ||
				 (!told->direct && unit->outcome.unfinished > 0))
			settle_unswept(database, sent->entry);
		slate_near_void(&sent->entry->near);
	}
}

/* What a worker was sending when it died; there is no more of it than that. */
static void
take_over(SlateDatabase *database)
{
	gather(database, slate_ring_sending(database));
	settle(database, "the worker was stopped while it pushed");
	slate_ring_advance(database, slate_ring_sending(database));
}

bool
slate_drain(SlateDatabase *database)
{
	const char *failure;

	if (slate_ring_first(database) < slate_ring_sending(database))
		take_over(database);
	if (exchange.bundle.batch.bytes.data == NULL)
		init();
	gather(database, PG_UINT64_MAX);
	if (exchange.count == 0)
		return false;
	coalesce();
	exchange.bundle.nunits = 0;
	slate_ring_set_sending(database, exchange.end);
	slate_progress_enter(&database->progress, PHASE_PUSHING);
	failure = send_batch(database);
	count_units(database);
	settle(database, failure);
	slate_ring_advance(database, exchange.end);
	return true;
}
