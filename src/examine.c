/*-------------------------------------------------------------------------
 *
 * examine.c
 *	  The worker's look at Redis: is its history ours?
 *
 * trust.c tells what is compared, and why.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "epoch.h"
#include "events.h"
#include "examine.h"
#include "exchange.h"
#include "history.h"
#include "script.h"
#include "trust.h"

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
	bool		failed;			/* an error reply to what is asked */
	bool		untold;			/* or to what it is told, only */
	int			first_wal;		/* where replies of the latter kind begin */
	int			first_set;		/* those to a SET */
	int			first_tick;		/* and those that do not matter; 0: none */
} Notes;

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

/* Had Redis the epoch of somebody else when we looked last? */
static bool contested = false;

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
	{
		if (notes->first_set > 0 && index >= notes->first_set)
			notes->untold = true;
		else
			notes->failed = true;
	}
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
	slate_epoch_write_wal(wal, GetWALInsertionTimeLine(), position);
	tell = held && position != 0 && strcmp(wal, told) > 0;
	memset(notes, 0, sizeof(*notes));
	slate_batch_init(&batch);
	slate_script_add_get_note(&batch, slate_epoch_key());
	notes->first_wal = batch.ncommands;
	slate_script_add_get_note(&batch, slate_epoch_wal_key());
	notes->first_set = batch.ncommands;
	if (tell)
		slate_script_add_note(&batch, slate_epoch_wal_key(), wal);
	notes->first_tick = batch.ncommands;
	if (held)
		slate_script_add_tick(&batch);
	if (!run(&batch, notes))
		return false;
	pg_atomic_write_u64(&database->clock,
						(uint64) (slate_redis_server_clock() - slate_link_now()));
	notes->went_back = strcmp(notes->lowest_wal, told) < 0;
	if (tell && !notes->untold)
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
	slate_epoch_write_wal(begun, start.timeline, start.lsn);
	return strcmp(begun, notes->wal) < 0;
}

/* Is that what we have tried to establish in this Redis? */
static bool
is_attempted(const char *note)
{
	char		epoch[SLATE_EPOCH_LEN + 1];

	slate_epoch_write(epoch, attempted);
	return attempted != 0 && attempted_at == slate_redis_identity() &&
		strcmp(note, epoch) == 0;
}

/* What is wrong with a Redis that nobody has looked at in this server's life? */
static const char *
compare_history(SlateDatabase *database, const Notes *notes,
				const SlateHistory *history)
{
	char		epoch[SLATE_EPOCH_LEN + 1];

	slate_epoch_write(epoch, history->epoch);
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

bool
slate_examine_is_contested(void)
{
	return contested;
}

/* The same for a Redis that was trusted. */
static const char *
compare_known(SlateDatabase *database, const Notes *notes)
{
	char		epoch[SLATE_EPOCH_LEN + 1];

	slate_epoch_write(epoch, pg_atomic_read_u64(&database->epoch));
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
slate_examine(SlateDatabase *database, const char **reason)
{
	uint64		epoch = pg_atomic_read_u64(&database->epoch);
	SlateTrust	trust = pg_atomic_read_u32(&database->trust);
	SlateHistory history = {0};
	Notes		notes;
	bool		failed;

	*reason = NULL;
	failed = !exchange_notes(database, &notes);
	pg_atomic_write_u32(&database->unseen, failed);
	if (failed)
		return trust == TRUST_UNKNOWN ? set_trust(database, TRUST_WAITING)
			: trust;
	if (slate_epoch_timeline(notes.epoch) > GetWALInsertionTimeLine())
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
		slate_history_read(&history);
		*reason = compare_history(database, &notes, &history);
	}
	if (*reason)
		return lose_trust(database, epoch == 0 && history.number == 0,
						  *reason);
	strlcpy(placeholder, notes.epoch, sizeof(placeholder));
	if (epoch == 0)
		return slate_examine_establish(database) ? TRUST_HELD : trust;
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
	SlateHistory history;

	attempted = 0;
	slate_history_read(&history);
	if (history.number == 0 || history.epoch == 0)
		return;
	history.number++;
	history.epoch = 0;
	slate_history_append(&history);
}

bool
slate_examine_withdraw(SlateDatabase *database)
{
	SlateBatch	batch;
	Notes		notes = {0};
	uint64		random;

	disown_history();
	/* from here on only what this server has heard is delivered */
	(void) set_trust(database, TRUST_EMPTYING);
	pg_write_barrier();
	pg_atomic_write_u64(&database->identity, slate_redis_identity());
	pg_memory_barrier();
	if (!pg_strong_random(&random, sizeof(random)))
		elog(ERROR, "could not generate a random epoch");
	slate_epoch_write(placeholder, random & ~UINT64CONST(1));	/* epochs are odd */
	slate_batch_init(&batch);
	slate_script_add_note(&batch, slate_epoch_key(), placeholder);
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
slate_examine_establish(SlateDatabase *database)
{
	char		text[SLATE_EPOCH_LEN + 1];
	char		wal[SLATE_VERSION_LEN + 1];
	char		wal_key[96];
	SlateHistory history;
	SlateBatch	batch;
	SlateOutcome outcome = {0};
	XLogRecPtr	position = GetXLogInsertRecPtr();

	flush_wal();
	slate_history_read(&history);
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

	slate_epoch_write(text, history.epoch);
	slate_epoch_write_wal(wal, GetWALInsertionTimeLine(), position);
	slate_batch_init(&batch);
	strlcpy(wal_key, slate_epoch_wal_key(), sizeof(wal_key));
	slate_script_add_epoch(&batch, slate_epoch_key(), placeholder, text, wal_key, wal);
	slate_script_add_tick(&batch);
	if (history.identity == 0 ||
		slate_exchange_publish(&batch, &outcome,
							   slate_link_now() + slate_redis_timeout,
							   slate_redis_timeout,
							   LINK_WAIT_INTERRUPTIBLE) != REDIS_DONE ||
		outcome.refused > 0 || outcome.strange ||
		slate_redis_identity() != history.identity)
		return false;
	slate_history_append(&history);
	strlcpy(told, wal, sizeof(told));
	(void) hold(database, history.epoch);
	return true;
}
