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

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/storage.h"
#include "direct.h"
#include "events.h"
#include "exchange.h"
#include "keyname.h"
#include "rules.h"
#include "script.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "trust.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
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

/* The table of epochs is cut when it has more blocks than this. */
#define HISTORY_BLOCKS 4

/* Ten digits of timeline, in the epoch and in the WAL's position. */
#define TIMELINE_LEN 10

/* Columns of slate_cache.history. */
enum
{
	HISTORY_NUMBER,
	HISTORY_EPOCH,
	HISTORY_IDENTITY,
	HISTORY_TIMELINE,
	HISTORY_NCOLUMNS
};

typedef struct History
{
	int64		number;			/* 0: there is none */
	uint64		epoch;
	uint64		identity;
	TimeLineID	timeline;
} History;

/*
 * What Redis says of us; empty texts for nothing.  In a Cluster each node has
 * such notes; then these are the highest, and the lowest.
 */
typedef struct Notes
{
	char		epoch[SLATE_EPOCH_LEN + 1];
	char		lowest_epoch[SLATE_EPOCH_LEN + 1];
	char		wal[SLATE_VERSION_LEN + 1];
	char		lowest_wal[SLATE_VERSION_LEN + 1];
	int			nepochs;		/* that have been told, "nothing" included */
	int			nwals;
	bool		went_back;		/* it has told us more before */
	bool		failed;			/* an error reply */
	int			first_wal;		/* where replies of the latter kind begin */
	int			first_set;		/* those to a SET */
	int			first_tick;		/* and those that do not matter; 0: none */
} Notes;

/* ------------------------------------------------------------------------
 * Names
 * ------------------------------------------------------------------------
 */

static const char *
owned_key(const char *what)
{
	static char key[96];

	snprintf(key, sizeof(key), SLATE_INTERNAL_PREFIX "%s:%016llx-%u", what,
			 (unsigned long long) GetSystemIdentifier(), MyDatabaseId);
	return key;
}

/* The key of the epoch, which stamps point to for as long as they like. */
static const char *
epoch_key(void)
{
	static char key[96];

	if (key[0] == '\0')
		strlcpy(key, owned_key("epoch"), sizeof(key));
	return key;
}

static void
write_epoch(char *text, uint64 epoch)
{
	text = slate_stamp_put_digits(text, GetWALInsertionTimeLine(),
								  TIMELINE_LEN);
	text = slate_stamp_put_hex(text, epoch, SLATE_EPOCH_LEN - TIMELINE_LEN);
	*text = '\0';
}

/* The timeline that a note begins with; 0 if it is none. */
static TimeLineID
noted_timeline(const char *note)
{
	char		digits[TIMELINE_LEN + 1];

	strlcpy(digits, note, sizeof(digits));
	return (TimeLineID) strtoul(digits, NULL, 10);
}

/* ------------------------------------------------------------------------
 * Backends
 * ------------------------------------------------------------------------
 */

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

static bool
nobody_looks(SlateDatabase *database)
{
	return pg_atomic_read_u32(&database->worker) == 0 &&
		(pg_atomic_read_u32(&database->unavailable) != 0 ||
		 !slate_database_has_launcher());
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
 * Wait for the worker's first look after a start of the server, and move the
 * deadline on by that: it is Redis' alone, and would count as its failure.  Who
 * has waited for nothing saves the others from doing so.
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

/* Has nobody ever looked, nor will look? */
static bool
is_unguarded(SlateDatabase *database, SlateTrust trust)
{
	return (trust == TRUST_UNKNOWN || trust == TRUST_WAITING) &&
		nobody_looks(database);
}

static bool
holds(SlateDatabase *database, SlateTrust trust)
{
	return trust == TRUST_HELD &&
		pg_atomic_read_u64(&database->identity) == slate_redis_identity();
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

/* Has Redis this epoch?  Yes, if it cannot be asked: the push will tell. */
static bool
confirm(SlateDatabase *database, const char *epoch, int64 deadline)
{
	Confirmation confirmation = {epoch, false};
	SlateBatch	batch;

	if (is_confirmed(database))
		return true;
	/* locks are held meanwhile */
	deadline = Min(deadline, slate_link_now() + slate_redis_timeout / 2);
	slate_batch_init(&batch);
	slate_script_add_get_note(&batch, epoch_key());
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
 * only once for each epoch: it may not be there to do so.
 */
static void
await_other_epoch(SlateDatabase *database, uint64 epoch, int64 deadline)
{
	static uint64 awaited = 0;
	int64		end = Min(slate_link_now() + AWAIT_EMPTYING_MS, deadline);

	doubt(database, SLATE_LOOK_EPOCH);
	if (epoch == awaited)
		return;
	awaited = epoch;
	while (slate_link_now() < end &&
		   (pg_atomic_read_u64(&database->epoch) == epoch ||
			pg_atomic_read_u32(&database->trust) != TRUST_HELD))
		nap(LINK_WAIT_UNINTERRUPTED);
}

/*
 * The epoch that is noted, after a look whether Redis has it, too.  Who WATCHes
 * it finds out when he pushes, and is spared the round trip.
 */
static void
note_epoch(SlateDatabase *database, SlateStamp *stamp, int64 deadline)
{
	uint64		epoch = pg_atomic_read_u64(&database->epoch);

	write_epoch(stamp->epoch, epoch);
	if (slate_direct_is_watching(stamp) ||
		confirm(database, stamp->epoch, deadline))
		return;
	await_other_epoch(database, epoch, deadline);
	write_epoch(stamp->epoch, pg_atomic_read_u64(&database->epoch));
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

	slate_redis_reconfigure();
	(void) slate_script_prepare(*deadline, wait);
	if (slate_redis_identity() == 0 || slate_redis_identity() == awaited)
		return pg_atomic_read_u32(&database->trust);
	awaited = slate_redis_identity();
	doubt(database, SLATE_LOOK_SERVER);
	start = slate_link_now();
	while (slate_link_now() < start + AWAIT_EMPTYING_MS &&
		   !holds(database, pg_atomic_read_u32(&database->trust)))
		nap(wait);
	*deadline += slate_link_now() - start;
	return pg_atomic_read_u32(&database->trust);
}

/* By the clock of the server that we have met now; since we had the version. */
static void
set_deadline(SlateStamp *stamp, int64 since)
{
	int64		clock = slate_redis_server_clock();

	slate_stamp_set_deadline(stamp, clock == 0 ? 0
							  : clock - (slate_link_now() - since));
}

void
slate_trust_stamp(SlateStamp *stamp, int64 *deadline)
{
	SlateDatabase *database = vouching();
	int64		since = slate_link_now();
	SlateTrust	trust;

	if (database == NULL)
		return;
	trust = await(database, deadline, LINK_WAIT_UNINTERRUPTED);
	if (is_unguarded(database, trust))
		return;
	stamp->epoch_key = epoch_key();
	if (trust == TRUST_HELD && !holds(database, trust))
	{
		trust = meet_again(database, deadline, LINK_WAIT_UNINTERRUPTED);
		set_deadline(stamp, since);
	}
	if (holds(database, trust))
		note_epoch(database, stamp, *deadline);
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
	if (database == NULL || slate_redis_is_cluster() ||
		slate_redis_topology() != 0)
		return NULL;
	clock = (int64) pg_atomic_read_u64(&database->clock);
	slate_stamp_set_deadline(stamp, clock == 0 ? 0
							  : clock + since);
	stamp->epoch_key = epoch_key();
	strlcpy(stamp->epoch, "-", sizeof(stamp->epoch));
	if (pg_atomic_read_u32(&database->trust) == TRUST_HELD)
		write_epoch(stamp->epoch, pg_atomic_read_u64(&database->epoch));
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
	if (trust == TRUST_HELD && !holds(database, trust))
		trust = meet_again(database, &deadline, LINK_WAIT_INTERRUPTIBLE);
	stamp->epoch_key = epoch_key();
	write_epoch(stamp->epoch, pg_atomic_read_u64(&database->epoch));
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
	slate_direct_make_fence(&fence, epoch_key());
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

void
slate_trust_add_leases(SlateBatch *batch, const SlateSlice *keys, int nkeys)
{
	SlateDatabase *database = vouching();
	SlateStamp	stamp = {.epoch_key = ""};

	SlateTrust	trust = database ? pg_atomic_read_u32(&database->trust)
		: TRUST_UNKNOWN;

	/* what is being emptied may be lost in the middle of it, unnoticed */
	if (database && !is_unguarded(database, trust))
	{
		stamp.epoch_key = epoch_key();
		strlcpy(stamp.epoch, "-", sizeof(stamp.epoch));
		if (trust == TRUST_HELD)
			write_epoch(stamp.epoch, pg_atomic_read_u64(&database->epoch));
	}
	slate_script_add_leases(batch, &stamp, keys, nkeys);
}

bool
slate_trust_is_elsewhere(void)
{
	SlateDatabase *database = slate_database_mine();

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
	if (is_unguarded(database, trust) || holds(database, trust))
		return true;
	if (trust == TRUST_HELD)
		slate_redis_reconfigure();	/* the next read connects anew */
	doubt(database, SLATE_LOOK_SERVER);
	return false;
}

/* ------------------------------------------------------------------------
 * The table
 * ------------------------------------------------------------------------
 */

/* NULL if there is none, or something else of that name. */
static Relation
open_history(LOCKMODE lockmode)
{
	Oid			schema = get_namespace_oid("slate_cache", true);
	Oid			relid = OidIsValid(schema)
		? get_relname_relid("history", schema) : InvalidOid;
	Relation	relation = OidIsValid(relid)
		? try_relation_open(relid, lockmode) : NULL;

	if (relation == NULL)
		return NULL;
	if (relation->rd_rel->relkind == RELKIND_RELATION &&
		RelationGetNumberOfAttributes(relation) == HISTORY_NCOLUMNS)
		return relation;
	relation_close(relation, lockmode);
	return NULL;
}

static void
find_last(Relation relation, History *last)
{
	TableScanDesc scan = table_beginscan(relation, GetActiveSnapshot(), 0,
										 NULL);
	HeapTuple	tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Datum		values[HISTORY_NCOLUMNS];
		bool		nulls[HISTORY_NCOLUMNS];

		heap_deform_tuple(tuple, RelationGetDescr(relation), values, nulls);
		if (DatumGetInt64(values[HISTORY_NUMBER]) <= last->number)
			continue;
		last->number = DatumGetInt64(values[HISTORY_NUMBER]);
		last->epoch = (uint64) DatumGetInt64(values[HISTORY_EPOCH]);
		last->identity = (uint64) DatumGetInt64(values[HISTORY_IDENTITY]);
		last->timeline = (TimeLineID) DatumGetInt32(values[HISTORY_TIMELINE]);
	}
	table_endscan(scan);
}

static void
read_history(History *last)
{
	Relation	relation;

	memset(last, 0, sizeof(*last));
	slate_database_begin();
	relation = open_history(AccessShareLock);
	if (relation)
	{
		find_last(relation, last);
		table_close(relation, AccessShareLock);
	}
	slate_database_commit();
}

/* Only the last row counts, and losing it only costs a warm cache. */
static void
cut_history(Relation relation)
{
	if (RelationGetNumberOfBlocks(relation) > HISTORY_BLOCKS &&
		ConditionalLockRelation(relation, AccessExclusiveLock))
		RelationTruncate(relation, 0);
}

/* As the journal: not for logical decoding. */
static void
append_history(const History *history)
{
	Datum		values[HISTORY_NCOLUMNS];
	bool		nulls[HISTORY_NCOLUMNS] = {false};
	Relation	relation;

	slate_database_begin();
	relation = open_history(RowExclusiveLock);
	if (relation)
	{
		cut_history(relation);
		values[HISTORY_NUMBER] = Int64GetDatum(history->number);
		values[HISTORY_EPOCH] = Int64GetDatum((int64) history->epoch);
		values[HISTORY_IDENTITY] = Int64GetDatum((int64) history->identity);
		values[HISTORY_TIMELINE] = Int32GetDatum((int32) history->timeline);
		heap_insert(relation,
					heap_form_tuple(RelationGetDescr(relation), values, nulls),
					GetCurrentCommandId(true), TABLE_INSERT_NO_LOGICAL, NULL);
		table_close(relation, NoLock);
	}
	ForceSyncCommit();
	slate_database_commit();
}

/* ------------------------------------------------------------------------
 * The worker
 * ------------------------------------------------------------------------
 */

/* Of another type: none of ours. */
static const char *
note_text(const redisReply *reply)
{
	return reply->type == REDIS_REPLY_STRING ? reply->str : "";
}

/* Keep the highest and the lowest of what the nodes say. */
static void
keep_note(const char *note, int nbefore, char *highest, char *lowest,
		  size_t size)
{
	if (nbefore == 0 || strcmp(note, highest) > 0)
		strlcpy(highest, note, size);
	if (nbefore == 0 || strcmp(note, lowest) < 0)
		strlcpy(lowest, note, size);
}

static void
take_note(int index, const redisReply *reply, void *arg)
{
	Notes	   *notes = arg;

	if (notes->first_tick > 0 && index >= notes->first_tick)
		return;
	if (reply->type == REDIS_REPLY_ERROR &&
		!slate_link_is_error(reply, "WRONGTYPE"))
		notes->failed = true;
	else if (index < notes->first_wal)
		keep_note(note_text(reply), notes->nepochs++, notes->epoch,
				  notes->lowest_epoch, sizeof(notes->epoch));
	else if (index < notes->first_set)
		keep_note(note_text(reply), notes->nwals++, notes->wal,
				  notes->lowest_wal, sizeof(notes->wal));
}

static bool
run(SlateBatch *batch, Notes *notes)
{
	return slate_exchange_run(batch, take_note, notes,
							  slate_link_now() + slate_redis_timeout,
							  LINK_WAIT_INTERRUPTIBLE) == REDIS_DONE &&
		!notes->failed;
}

static void
write_wal(char *text, XLogRecPtr position)
{
	snprintf(text, SLATE_VERSION_LEN + 1, "%010u%020llu",
			 GetWALInsertionTimeLine(), (unsigned long long) position);
}

/*
 * How far our WAL is flushed, to a record's end: that alone survives a crash.
 * What is flushed may end inside of a record; so it is a place where one ended
 * when we looked before.  0 if there is none yet.
 */
static XLogRecPtr
flushed_record_end(void)
{
	static XLogRecPtr flushed = 0;
	static XLogRecPtr next = 0;

	if (next != 0 && GetFlushRecPtr(NULL) >= next)
	{
		flushed = next;
		next = 0;
	}
	if (next == 0)
		next = GetXLogInsertRecPtr();
	return flushed;
}

/*
 * What Redis has in place of an epoch: the one that went before, as long as it
 * is there; or a text that is none, while the namespace is emptied.  It tells
 * whether Redis has lost its memory since.
 */
static char placeholder[SLATE_EPOCH_LEN + 1];

/*
 * The epoch that we have tried to establish last, and where; 0 if there is
 * none, or what has been told since would not be known there.  Its answer may
 * have been lost.
 */
static uint64 attempted;
static uint64 attempted_at;

/* The WAL position that we have noted last; "" at first. */
static char told[SLATE_VERSION_LEN + 1];

/* What has Redis noted of us?  Notes how far we are, if that is ours to say. */
static bool
exchange_notes(SlateDatabase *database, Notes *notes)
{
	char		wal[SLATE_VERSION_LEN + 1];
	XLogRecPtr	position;
	bool		held = pg_atomic_read_u32(&database->trust) == TRUST_HELD;
	bool		tell;
	SlateBatch	batch;

	position = flushed_record_end();
	write_wal(wal, position);
	tell = held && position != 0 && strcmp(wal, told) > 0;
	memset(notes, 0, sizeof(*notes));
	slate_batch_init(&batch);
	slate_script_add_get_note(&batch, epoch_key());
	notes->first_wal = batch.ncommands;
	slate_script_add_get_note(&batch, owned_key("wal"));
	notes->first_set = batch.ncommands;
	if (tell)
		slate_script_add_note(&batch, owned_key("wal"), wal);
	notes->first_tick = batch.ncommands;
	if (held)
		slate_script_add_tick(&batch);
	if (!run(&batch, notes))
		return false;
	pg_atomic_write_u64(&database->clock,
						(uint64) (slate_redis_server_clock() - slate_link_now()));
	notes->went_back = strcmp(notes->lowest_wal, told) < 0;
	if (tell)
		strlcpy(told, wal, sizeof(told));
	return true;
}

/*
 * Have we begun before what Redis knows of us?  Not if that is of this life:
 * then it is the same Redis under another name.
 */
static bool
has_gone_back(SlateDatabase *database, const Notes *notes)
{
	SlateStart	start;
	char		begun[SLATE_VERSION_LEN + 1];

	if (pg_atomic_read_u32(&database->begun) != 0)
		return false;
	slate_database_start(&start);
	snprintf(begun, sizeof(begun), "%010u%020llu", start.timeline,
			 (unsigned long long) start.lsn);
	return strcmp(begun, notes->wal) < 0;
}

/* Is that what we have tried to establish in this Redis? */
static bool
is_attempted(const char *note)
{
	char		epoch[SLATE_EPOCH_LEN + 1];

	write_epoch(epoch, attempted);
	return attempted != 0 && attempted_at == slate_redis_identity() &&
		strcmp(note, epoch) == 0;
}

/* What is wrong with a Redis that nobody has looked at in this server's life? */
static const char *
compare_history(SlateDatabase *database, const Notes *notes,
				const History *history)
{
	char		epoch[SLATE_EPOCH_LEN + 1];

	write_epoch(epoch, history->epoch);
	if (notes->lowest_epoch[0] == '\0')
		return "Redis has no epoch of this database: it is new, or has lost its data";
	if (is_attempted(notes->epoch) && is_attempted(notes->lowest_epoch))
		return NULL;
	if (history->number == 0)
		return "this database has not used this Redis before";
	if (history->timeline != GetWALInsertionTimeLine())
		return "PostgreSQL has a new timeline: it was promoted or restored";
	if (strcmp(epoch, notes->epoch) != 0 ||
		strcmp(epoch, notes->lowest_epoch) != 0)
		return "Redis and PostgreSQL do not have the same history";
	if (history->identity != slate_redis_identity())
		return "Redis was restarted or replaced";
	if (has_gone_back(database, notes))
		return "PostgreSQL has gone back in time: it was restored";
	return NULL;
}

/* Had Redis the epoch of somebody else when we looked last? */
static bool contested = false;

bool
slate_trust_is_contested(void)
{
	return contested;
}

/* The same for a Redis that was trusted. */
static const char *
compare_known(SlateDatabase *database, const Notes *notes)
{
	char		epoch[SLATE_EPOCH_LEN + 1];

	write_epoch(epoch, pg_atomic_read_u64(&database->epoch));
	contested = notes->epoch[0] != '\0' && strcmp(epoch, notes->epoch) != 0;
	if (notes->lowest_epoch[0] == '\0')
		return "Redis has lost its data";
	contested |= strcmp(epoch, notes->lowest_epoch) != 0;
	if (contested)
		return "Redis has another history";
	if (pg_atomic_read_u64(&database->identity) != slate_redis_identity())
		return "Redis was restarted or replaced";
	if (notes->went_back)
		return "Redis has gone back to older data";
	return NULL;
}

static SlateTrust
set_trust(SlateDatabase *database, SlateTrust trust)
{
	if (pg_atomic_read_u32(&database->trust) != trust)
		pg_atomic_write_u64(&database->trust_since, slate_link_now());
	pg_atomic_write_u32(&database->trust, trust);
	return trust;
}

static SlateTrust
hold(SlateDatabase *database, uint64 epoch)
{
	pg_atomic_write_u64(&database->epoch, epoch);
	pg_atomic_write_u64(&database->identity, slate_redis_identity());
	pg_atomic_write_u32(&database->begun, 1);
	pg_write_barrier();
	return set_trust(database, TRUST_HELD);
}

/* The first time that a database uses a Redis it has no trust to lose. */
static SlateTrust
lose_trust(SlateDatabase *database, bool is_first, const char *reason)
{
	if (!is_first)
		slate_events_note(EVENT_TRUST_LOST, MyDatabaseId, "%s: %s",
						  slate_redis_server_name(), reason);
	return set_trust(database, TRUST_EMPTYING);
}

static SlateTrust
stand_back(SlateDatabase *database, const char *reason)
{
	if (pg_atomic_read_u32(&database->trust) != TRUST_STANDING_BACK)
		slate_events_note(EVENT_STANDING_BACK, MyDatabaseId, "%s: %s",
						  slate_redis_server_name(), reason);
	return set_trust(database, TRUST_STANDING_BACK);
}

SlateTrust
slate_trust_examine(SlateDatabase *database, const char **reason)
{
	uint64		epoch = pg_atomic_read_u64(&database->epoch);
	SlateTrust	trust = pg_atomic_read_u32(&database->trust);
	History		history = {0};
	Notes		notes;

	*reason = NULL;
	if (!exchange_notes(database, &notes))
		return trust == TRUST_UNKNOWN ? set_trust(database, TRUST_WAITING)
			: trust;
	if (noted_timeline(notes.epoch) > GetWALInsertionTimeLine())
	{
		*reason = "a server with a later timeline of the same cluster uses this Redis";
		return stand_back(database, *reason);
	}
	if (trust == TRUST_EMPTYING)
	{
		*reason = "emptying was interrupted";
		return trust;
	}
	if (epoch != 0)
		*reason = compare_known(database, &notes);
	else
	{
		read_history(&history);
		*reason = compare_history(database, &notes, &history);
	}
	if (*reason)
		return lose_trust(database, epoch == 0 && history.number == 0,
						  *reason);
	strlcpy(placeholder, notes.epoch, sizeof(placeholder));
	if (epoch == 0)
		return slate_trust_establish(database) ? TRUST_HELD : trust;
	return hold(database, epoch);
}

/*
 * No Redis has our history from now on.  One that is left before it is emptied
 * has been told what the one before has not, so that one's epoch, if we meet
 * it again, must not be the last that we know.
 */
static void
disown_history(void)
{
	History		history;

	attempted = 0;
	read_history(&history);
	if (history.number == 0 || history.epoch == 0)
		return;
	history.number++;
	history.epoch = 0;
	append_history(&history);
}

bool
slate_trust_withdraw(SlateDatabase *database)
{
	SlateBatch	batch;
	Notes		notes = {0};
	uint64		random;

	disown_history();
	/* from here on only what this server has heard is delivered */
	(void) set_trust(database, TRUST_EMPTYING);
	pg_atomic_write_u64(&database->identity, slate_redis_identity());
	pg_memory_barrier();
	if (!pg_strong_random(&random, sizeof(random)))
		elog(ERROR, "could not generate a random epoch");
	write_epoch(placeholder, random & ~UINT64CONST(1)); /* epochs are odd */
	slate_batch_init(&batch);
	slate_script_add_note(&batch, epoch_key(), placeholder);
	return run(&batch, &notes);
}

/* Have all WAL up to now flushed: it ends before this commit's record. */
static void
flush_wal(void)
{
	slate_database_begin();
	(void) GetTopTransactionId();
	ForceSyncCommit();
	slate_database_commit();
}

/*
 * Redis is told first.  A row that it has not taken would be the last one, and
 * other than what it has, when somebody compares them again; so an epoch that
 * it refuses leaves no row.  One whose answer is lost is told again, and not
 * another one, which Redis might not take.  Who dies between the two leaves a
 * Redis with another history than ours, which is emptied.
 */
bool
slate_trust_establish(SlateDatabase *database)
{
	char		text[SLATE_EPOCH_LEN + 1];
	char		wal[SLATE_VERSION_LEN + 1];
	char		wal_key[96];
	History		history;
	SlateBatch	batch;
	SlateOutcome outcome = {0};
	XLogRecPtr	position = GetXLogInsertRecPtr();

	flush_wal();
	read_history(&history);
	history.number++;
	history.identity = slate_redis_identity();
	history.timeline = GetWALInsertionTimeLine();
	if (!is_attempted(placeholder))
	{
		if (!pg_strong_random(&attempted, sizeof(attempted)))
			elog(ERROR, "could not generate a random epoch");
		attempted |= 1;			/* never 0, and no placeholder */
		attempted_at = history.identity;
	}
	history.epoch = attempted;

	write_epoch(text, history.epoch);
	write_wal(wal, position);
	slate_batch_init(&batch);
	strlcpy(wal_key, owned_key("wal"), sizeof(wal_key));
	slate_script_add_epoch(&batch, epoch_key(), placeholder, text, wal_key, wal);
	slate_script_add_tick(&batch);
	if (history.identity == 0 ||
		slate_exchange_publish(&batch, &outcome,
							   slate_link_now() + slate_redis_timeout,
							   slate_redis_timeout,
							   LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE ||
		outcome.refused > 0 || outcome.strange ||
		slate_redis_identity() != history.identity)
		return false;
	append_history(&history);
	strlcpy(told, wal, sizeof(told));
	(void) hold(database, history.epoch);
	return true;
}
