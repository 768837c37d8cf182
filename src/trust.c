/*-------------------------------------------------------------------------
 *
 * trust.c
 *	  Is this Redis the one that we know, and are we the ones it knows?
 *
 * What Redis holds is right because every change was pushed to it, in the
 * order that guards keep.  That is worth nothing if Redis has lost pushes that
 * it had taken (a restart from an older dump, a failover to a replica that
 * lags, another server at the same address, FLUSHALL in the middle of it all),
 * or if PostgreSQL has lost commits that it had made (a restore, a recovery to
 * a point in time, the promotion of a replica that lags).  Then the namespace,
 * all keys that rules of this database cover, is emptied before anything is
 * trusted.
 *
 * WHAT IS COMPARED
 *
 * The worker chooses an epoch, a random number, and notes it in Redis under
 * slate_cache:epoch:<owner>, where the owner is this database of this cluster,
 * and in the table slate_cache.history, together with
 *
 * - the identity of the Redis, a hash of its server's run_id, which every start
 *	 of a server chooses anew, and of which of its databases it is;
 * - our timeline, which every promotion and every recovery to a point in time
 *	 raises.
 *
 * And every second it notes in Redis, under slate_cache:wal:<owner>, how far
 * our WAL is flushed, to a record's end.  What we have pushed is older than
 * that or about as old; so a server whose life begins before it has lost what
 * was pushed: a copy of the data directory, put back.
 *
 * The epoch is the same on both sides, Redis is the same process, we have the
 * same timeline and have not begun before what Redis knows of us: then history
 * is known.  That is so after each restart and each crash of PostgreSQL.  Each
 * start begins another epoch nevertheless: a copy of the data directory from
 * before it is found out by its epoch.
 *
 * WHO LOOKS
 *
 * The worker, when it starts and every second.  In between: each connection
 * has learnt the identity of its server, and a backend trusts no other than
 * the one that is noted in shared memory; each PUT repeats the epoch, and is a
 * DROP where Redis has another one or none.  So even a push that was on its
 * way over a FLUSHALL cannot set what is old.  A backend that does not trust
 * pushes DROPs, which is all an invalidation needs, and reads the tables.
 *
 * An address may come to mean another server while the former lives on.  So
 * what a server has answered counts as delivered only if, after the answer, it
 * still is the one that is noted.  Before it empties another, the worker notes
 * that: a commit that does not see the note was made before the emptying
 * began.  And before that it writes into the table that nobody has our epoch, so
 * that the former server, met again before another has got one, is emptied.
 *
 * TWO SERVERS OF ONE HISTORY
 *
 * After a promotion the old primary may still be alive.  The epoch begins with
 * the timeline; who finds a later one than its own stands back: it does not
 * empty, and all its PUTs are DROPs.
 *
 * Without shared memory, or a worker, nobody could empty the namespace, and so
 * nothing is compared.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include <poll.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "direct.h"
#include "epoch.h"
#include "exchange.h"
#include "postmaster/interrupt.h"
#include "rules.h"
#include "script.h"
#include "service.h"
#include "trust.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/*
 * How long a backend waits for a worker that has not looked yet, or that has
 * begun to empty the namespace: often there is not much to be emptied.
 */
#define AWAIT_MS 1000
#define AWAIT_EMPTYING_MS 200
#define AWAIT_STEP_MS 2

/*
 * A backend asks Redis for its epoch before the commit, too, if nobody has
 * heard of it for so long: a PUT after a FLUSHALL is to be one, not a DROP.
 */
#define CONFIRM_MS 2

/* This database's entry, if its worker can vouch for our Redis. */
static SlateDatabase *
vouching(void)
{
	SlateDatabase *database = slate_database_mine();

	if (database == NULL || !slate_database_has_our_redis(database))
		return NULL;
	return database;
}

/* Was the extension made by this transaction?  Its worker comes afterwards. */
static bool
is_extension_new(void)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID,
										ObjectIdGetDatum(slate_rules_capture_oid()));
	bool		is_new = false;

	if (HeapTupleIsValid(tuple))
	{
		is_new = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
		ReleaseSysCache(tuple);
	}
	return is_new;
}

/* Is there no worker, nor going to be one? */
static bool
nobody_looks(SlateDatabase *database)
{
	return pg_atomic_read_u32(&database->worker) == 0 &&
		(pg_atomic_read_u32(&database->unavailable) != 0 ||
		 !slate_database_expects_launcher());
}

bool
slate_trust_nobody_looks(void)
{
	SlateDatabase *database = slate_database_mine();

	return database == NULL || nobody_looks(database);
}

/* Will there be an answer soon? */
static bool
is_worth_waiting(SlateDatabase *database, SlateTrust trust)
{
	if (trust == TRUST_EMPTYING)
		return slate_link_now() < AWAIT_EMPTYING_MS +
			(int64) pg_atomic_read_u64(&database->trust_since);
	return trust == TRUST_UNKNOWN && !nobody_looks(database);
}

/* One step of waiting for the worker. */
static void
nap(SlateWait wait)
{
	if (wait == LINK_WAIT_INTERRUPTIBLE)
		CHECK_FOR_INTERRUPTS();
	(void) poll(NULL, 0, AWAIT_STEP_MS);
}

/*
 * Wait for the worker's first look after a start of the server, or at another url,
 * and move the deadline on by that: it is Redis' alone, and would count as its
 * failure.  Who has waited for nothing saves the others from doing so.
 */
static SlateTrust
await(SlateDatabase *database, int64 *deadline, SlateWait wait)
{
	int64		start = slate_link_now();
	uint32		trust = pg_atomic_read_u32(&database->trust);

	if (trust == TRUST_UNKNOWN)
		slate_database_wake(database);
	if (trust == TRUST_UNKNOWN && is_extension_new())
		return trust;
	while (is_worth_waiting(database, trust))
	{
		if (slate_link_now() >= start + AWAIT_MS)
		{
			if (trust == TRUST_UNKNOWN)
				(void) pg_atomic_compare_exchange_u32(&database->trust, &trust,
													  TRUST_WAITING);
			break;
		}
		nap(wait);
		trust = pg_atomic_read_u32(&database->trust);
	}
	*deadline += slate_link_now() - start;
	return trust;
}

/*
 * Has nobody ever looked, nor will look?  Then a push is one all the same, as it
 * would be without preload; but nobody reads what a push that has failed has left.
 */
static bool
is_unguarded(SlateDatabase *database, SlateTrust trust)
{
	return (trust == TRUST_UNKNOWN || trust == TRUST_WAITING) &&
		nobody_looks(database);
}

/*
 * Trust is lost before another identity is noted: so it is read afterwards, and
 * not before.
 */
static bool
holds(SlateDatabase *database)
{
	bool		is_ours = pg_atomic_read_u64(&database->identity) ==
		slate_redis_identity();

	pg_read_barrier();
	return is_ours && pg_atomic_read_u32(&database->trust) == TRUST_HELD;
}

/*
 * Redis has just confirmed the epoch.  Sessions tell each other: while there is
 * traffic, nobody asks.
 */
static void
note_confirmed(SlateDatabase *database)
{
	uint64		now = (uint64) slate_link_now();

	/* many write it, so it is only written when it changes */
	if (pg_atomic_read_u64(&database->confirmed_at) != now)
		pg_atomic_write_u64(&database->confirmed_at, now);
}

static bool
is_confirmed(SlateDatabase *database)
{
	return slate_link_now() - CONFIRM_MS <=
		(int64) pg_atomic_read_u64(&database->confirmed_at);
}

typedef struct Confirmation
{
	const char *epoch;
	bool		is_other;
} Confirmation;

static void
take_epoch(int index pg_attribute_unused(), const redisReply *reply, void *arg)
{
	Confirmation *confirmation = arg;

	confirmation->is_other |= reply->type != REDIS_REPLY_ERROR &&
		(reply->type != REDIS_REPLY_STRING ||
		 strcmp(reply->str, confirmation->epoch) != 0);
}

/*
 * Has Redis this epoch?  Yes, if it cannot be asked: the push will tell.  It is not
 * asked if it is so far away that to connect has used up a quarter of the time for
 * all: there might not be enough for this round trip and the push's.
 */
static bool
confirm(SlateDatabase *database, const char *epoch, int64 deadline)
{
	Confirmation confirmation = {epoch, false};
	SlateBatch	batch;

	if (is_confirmed(database) ||
		deadline - slate_link_now() < slate_redis_timeout / 2)
		return true;
	/* locks are held meanwhile */
	deadline = Min(deadline, slate_link_now() + slate_redis_timeout / 2);
	slate_batch_init(&batch);
	slate_script_add_get_note(&batch, slate_epoch_key());
	if (slate_exchange_run(&batch, take_epoch, &confirmation, deadline,
						   LINK_WAIT_UNINTERRUPTED) == REDIS_DONE &&
		!confirmation.is_other)
		note_confirmed(database);
	slate_batch_free(&batch);
	return !confirmation.is_other;
}

/* Have the worker look. */
static void
doubt(SlateDatabase *database, uint32 why)
{
	if (pg_atomic_read_u32(&database->look) < why)
		pg_atomic_write_u32(&database->look, why);
	slate_database_wake(database);
}

/*
 * Redis has another epoch than this; give the worker a moment to mend that, but
 * only once for each epoch, as it may not be there to do so, and no longer than for
 * Redis.
 */
static void
await_other_epoch(SlateDatabase *database, uint64 epoch, int64 *deadline,
				  SlateWait wait)
{
	static uint64 awaited = 0;
	int64		start = slate_link_now();
	int64		end = Min(start + AWAIT_EMPTYING_MS, *deadline);

	doubt(database, SLATE_LOOK_EPOCH);
	if (epoch == awaited)
		return;
	awaited = epoch;
	while (slate_link_now() < end &&
		   (pg_atomic_read_u64(&database->epoch) == epoch ||
			pg_atomic_read_u32(&database->trust) != TRUST_HELD))
		nap(wait);
	*deadline += slate_link_now() - start;
}

/*
 * The epoch that is noted, after a look whether Redis has it, too.  Who WATCHes
 * it finds out when he pushes, and is spared the round trip.
 */
static void
note_epoch(SlateDatabase *database, SlateStamp *stamp, int64 *deadline)
{
	uint64		epoch = pg_atomic_read_u64(&database->epoch);

	slate_epoch_write(stamp->epoch, epoch);
	if (slate_direct_is_watching(stamp) ||
		confirm(database, stamp->epoch, *deadline))
		return;
	await_other_epoch(database, epoch, deadline, LINK_WAIT_UNINTERRUPTED);
	slate_epoch_write(stamp->epoch, pg_atomic_read_u64(&database->epoch));
}

/*
 * We are connected to another server than the one that is noted: one of us has
 * an old connection.  Connect anew, and give the worker a moment to do so, which
 * moves the deadline on; but only once for each server.
 */
static SlateTrust
meet_again(SlateDatabase *database, int64 *deadline, SlateWait wait)
{
	static uint64 awaited = 0;
	int64		start;

	slate_service_reconfigure();
	(void) slate_script_prepare(*deadline, wait);
	if (slate_redis_identity() == 0 || slate_redis_identity() == awaited)
		return pg_atomic_read_u32(&database->trust);
	awaited = slate_redis_identity();
	doubt(database, SLATE_LOOK_SERVER);
	start = slate_link_now();
	while (slate_link_now() < start + AWAIT_EMPTYING_MS &&
		   !holds(database))
		nap(wait);
	*deadline += slate_link_now() - start;
	return pg_atomic_read_u32(&database->trust);
}

/* Is our url one that the worker will have, too, as soon as it gets to it? */
static bool
may_expect_worker(SlateDatabase *database)
{
	return slate_service_is_servers && !ConfigReloadPending &&
		!nobody_looks(database);
}

void
slate_trust_await_url(SlateWait wait)
{
	static uint64 awaited = 0;
	SlateDatabase *database = slate_database_mine();
	int64		end;

	if (database == NULL || slate_database_has_our_redis(database) ||
		slate_service_key() == awaited || !may_expect_worker(database))
		return;
	end = slate_link_now() + AWAIT_MS;
	slate_database_wake(database);
	while (slate_link_now() < end && !slate_database_has_our_redis(database))
		nap(wait);
	awaited = slate_database_has_our_redis(database) ? 0 : slate_service_key();
}

/* By the clock of the server that we have met now, as of when it was made. */
static void
set_deadline(SlateStamp *stamp)
{
	int64		clock = slate_redis_server_clock();

	slate_stamp_set_deadline(stamp, clock == 0 ? 0
							 : clock - (slate_link_now() - stamp->made_at));
}

void
slate_trust_stamp(SlateStamp *stamp, int64 *deadline)
{
	SlateDatabase *database = vouching();
	SlateTrust	trust;

	if (database == NULL)
		return;
	trust = await(database, deadline, LINK_WAIT_UNINTERRUPTED);
	if (is_unguarded(database, trust))
		return;
	stamp->epoch_key = slate_epoch_key();
	if (trust == TRUST_HELD && !holds(database))
	{
		(void) meet_again(database, deadline, LINK_WAIT_UNINTERRUPTED);
		set_deadline(stamp);
	}
	if (holds(database))
		note_epoch(database, stamp, deadline);
	else
	{
		strlcpy(stamp->epoch, "-", sizeof(stamp->epoch));
		doubt(database, SLATE_LOOK_SERVER);
	}
}

SlateDatabase *
slate_trust_stamp_for_worker(SlateStamp *stamp, int64 since)
{
	SlateDatabase *database = vouching();
	int64		clock;

	/* who sends what is left to the worker knows of one node */
	if (database == NULL || slate_service_is_cluster() ||
		slate_redis_topology() != 0)
		return NULL;
	clock = (int64) pg_atomic_read_u64(&database->clock);
	slate_stamp_set_deadline(stamp, clock == 0 ? 0
							 : clock + since);
	stamp->epoch_key = slate_epoch_key();
	strlcpy(stamp->epoch, "-", sizeof(stamp->epoch));
	if (pg_atomic_read_u32(&database->trust) == TRUST_HELD)
		slate_epoch_write(stamp->epoch, pg_atomic_read_u64(&database->epoch));
	return database;
}

bool
slate_trust_meet(SlateStamp *stamp, int64 deadline)
{
	SlateDatabase *database = vouching();
	SlateTrust	trust;

	if (database == NULL)
		return false;
	trust = await(database, &deadline, LINK_WAIT_INTERRUPTIBLE);
	if (trust == TRUST_HELD && !holds(database))
		trust = meet_again(database, &deadline, LINK_WAIT_INTERRUPTIBLE);
	stamp->epoch_key = slate_epoch_key();
	slate_epoch_write(stamp->epoch, pg_atomic_read_u64(&database->epoch));
	if (trust == TRUST_HELD || trust == TRUST_EMPTYING)
		return true;
	doubt(database, SLATE_LOOK_SERVER);
	return false;
}

bool
slate_trust_is_marked(bool strange)
{
	SlateDatabase *database = slate_database_find(MyDatabaseId);

	if (database && !strange)
		note_confirmed(database);
	pg_memory_barrier();
	return database &&
		pg_atomic_read_u64(&database->identity) == slate_redis_identity();
}

bool
slate_trust_is_delivered(const SlateStamp *stamp, bool strange)
{
	SlateDatabase *database;

	if (stamp->epoch_key[0] == '\0')
		return true;
	database = slate_database_find(MyDatabaseId);
	if (database == NULL)
		return false;
	if (strange)
		doubt(database, SLATE_LOOK_EPOCH);
	else
		note_confirmed(database);
	pg_memory_barrier();
	return pg_atomic_read_u64(&database->identity) == slate_redis_identity();
}

/* What a fence is; lives as long as the process. */
static SlateBatch fence;

void
slate_trust_prepare_fence(void)
{
	MemoryContext old;

	if (fence.ncommands > 0)
		return;
	old = MemoryContextSwitchTo(TopMemoryContext);
	slate_direct_make_fence(&fence, slate_epoch_key());
	MemoryContextSwitchTo(old);
}

bool
slate_trust_fence(int64 deadline, SlateWait wait)
{
	bool		done;

	/* nobody has pushed directly */
	if (slate_redis_topology() != 0)
		return true;
	(void) slate_direct_fence(&fence, &done, deadline, wait);
	return done;
}

/* The epoch that leases were asked for with last; 0: none. */
static uint64 leased_epoch = 0;

void
slate_trust_add_leases(SlateBatch *batch, const SlateSlice *keys, int nkeys)
{
	SlateDatabase *database = vouching();
	SlateStamp	stamp = {.epoch_key = ""};

	SlateTrust	trust = database ? pg_atomic_read_u32(&database->trust)
		: TRUST_UNKNOWN;

	leased_epoch = 0;

	/* what is being emptied may be lost in the middle of it, unnoticed */
	if (database)
	{
		stamp.epoch_key = slate_epoch_key();
		strlcpy(stamp.epoch, "-", sizeof(stamp.epoch));
		if (trust == TRUST_HELD)
		{
			leased_epoch = pg_atomic_read_u64(&database->epoch);
			slate_epoch_write(stamp.epoch, leased_epoch);
		}
	}
	slate_script_add_leases(batch, &stamp, keys, nkeys);
}

bool
slate_trust_should_lease_again(void)
{
	SlateDatabase *database = vouching();
	int64		deadline = slate_link_now() + slate_redis_timeout;

	if (database == NULL || leased_epoch == 0)
		return false;
	if (pg_atomic_read_u64(&database->epoch) == leased_epoch)
		await_other_epoch(database, leased_epoch, &deadline,
						  LINK_WAIT_INTERRUPTIBLE);
	return pg_atomic_read_u64(&database->epoch) != leased_epoch &&
		pg_atomic_read_u32(&database->trust) == TRUST_HELD;
}

bool
slate_trust_is_elsewhere(void)
{
	SlateDatabase *database = slate_database_mine();

	slate_trust_await_url(LINK_WAIT_INTERRUPTIBLE);
	if (database == NULL || slate_database_has_our_redis(database))
		return false;

	/* see whether by another url it is the same */
	(void) slate_script_prepare(slate_link_now() + slate_redis_timeout,
								LINK_WAIT_INTERRUPTIBLE);
	return slate_database_is_elsewhere(database);
}

bool
slate_trust_reads(int64 *deadline)
{
	SlateDatabase *database = vouching();
	SlateTrust	trust;

	if (database == NULL)
		return true;
	trust = await(database, deadline, LINK_WAIT_INTERRUPTIBLE);
	if (holds(database))
		return true;
	if (is_unguarded(database, trust))
		return false;
	if (trust == TRUST_HELD)
		(void) meet_again(database, deadline, LINK_WAIT_INTERRUPTIBLE);
	if (holds(database))
		return true;
	doubt(database, SLATE_LOOK_SERVER);
	return false;
}
