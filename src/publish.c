/*-------------------------------------------------------------------------
 *
 * publish.c
 *	  Telling Redis: steps 3 to 5 of the way of a change, see pending.c.
 *
 * Before the commit, slate_publish_prepare() writes the journal, and renders
 * and encodes all that will be sent; it may throw.  After it,
 * slate_publish_send() sends it and looks at each reply.  It must not throw,
 * since an ERROR would be a PANIC: it calls nothing that uses palloc or
 * ereport, waits under a deadline, and leaves signals pending.  What was to be
 * pushed directly and has to go by script is encoded once more, into memory that
 * was reserved for it.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xact.h"
#include "direct.h"
#include "exchange.h"
#include "journal.h"
#include "near.h"
#include "pause.h"
#include "publish.h"
#include "render.h"
#include "ring.h"
#include "script.h"
#include "stats.h"
#include "strict.h"
#include "sweep.h"
#include "traffic.h"
#include "trust.h"

/* With more globs than this their beginnings are cut to multiples of it. */
#define PREFIX_STEP 16

/* With more given globs than this the walk alone looks for loose keys. */
#define LOOSE_GLOBS 16

/* No step of a sweep begins with less time left until the deadline. */
#define SWEEP_MARGIN_MS 50

/* What is left to send, from prepare to forget; in TopTransactionContext. */
static struct
{
	bool		ready;
	const char *failure;		/* why nothing can be sent; NULL: it can */
	SlateBatch	batch;
	int			nkeys;
	SlateStamp	stamp;
	bool		may_be_direct;
	bool		is_direct;		/* nobody else is on the way with its keys */
	SlateDirect direct;			/* if it has commands, the batch has none yet */
	SlatePush  *pushes;			/* what that was made of */
	const SlateOpList *list;	/* NULL: there is nothing to leave, or to forget */
	int			nglobs;
	SlateSlice *globs;
	SlateGlobSet *globset;		/* of those */
	const SlateStamp **stamps;	/* all the same */
	bool		sweep;			/* for keys that no index knows */
	bool		thorough;		/* as long as the time allows */
	int64		budget;			/* ms that the exchange may take */
	bool		out_of_memory;	/* Redis is, and so has refused some of it */
	bool		is_elsewhere;	/* our Redis is not the one that others tell */
	bool		async;			/* left to the worker */
	SlateRingEntry entry;		/* then; nothing of its bytes */
} publish;

/* What Redis said, where it must outlive the outcome that it came with. */
static char refusal[192];

int			slate_publish_mode = SLATE_MODE_COMMIT;
bool		slate_publish_sweep = true;

/* Also how long it goes on with a family before it asks if it can get through. */
int			slate_publish_sweep_at_once = 20;

/* ------------------------------------------------------------------------
 * Encoding
 * ------------------------------------------------------------------------
 */

/* What is to be registered, as it is gathered. */
typedef struct MemberState
{
	const SlateOp *op;
	SlateMember *members;
	int			nmembers;
	int			maxmembers;
} MemberState;

static void
gather_member(const char *family, int familylen, void *arg)
{
	MemberState *state = arg;
	SlateSlice	found = {family, familylen};
	SlateMember *member;

	if (state->nmembers == state->maxmembers)
	{
		state->maxmembers *= 2;
		state->members = repalloc_huge(state->members, state->maxmembers *
									   sizeof(SlateMember));
	}
	member = &state->members[state->nmembers++];

	/* most are of the same family as the one before */
	if (state->nmembers > 1 &&
		slate_slice_compare(&found, &member[-1].family) == 0)
		member->family = member[-1].family;
	else
	{
		member->family.start = pnstrdup(family, familylen);
		member->family.len = familylen;
	}
	member->key = (SlateSlice) {state->op->key, state->op->keylen};
	member->ttl = state->op->ttl;
}

/* Keys set by hand must be findable by their families. */
static void
encode_registrations(SlateOpList *list, SlateBatch *batch)
{
	MemberState state = {.maxmembers = 16};

	for (int i = 0; i < list->nops; i++)
	{
		state.op = &list->ops[i];
		if (state.op->kind != OP_PUT_VALUE)
			continue;
		if (state.members == NULL)
			state.members = palloc_array(SlateMember, state.maxmembers);
		slate_rules_families(state.op->key, state.op->keylen, gather_member,
							 &state);
	}
	slate_script_add_registrations(batch, &publish.stamp, state.members,
								   state.nmembers);
}

static SlatePush *
make_pushes(const SlateOpList *list)
{
	SlatePush  *pushes;

	pushes = MemoryContextAllocHuge(CurrentMemoryContext,
									list->nops * sizeof(SlatePush));
	for (int i = 0; i < list->nops; i++)
	{
		SlateOp    *op = &list->ops[i];

		pushes[i].key = op->key;
		pushes[i].keylen = op->keylen;
		pushes[i].value = op->kind == OP_DROP ? NULL : op->value;
		pushes[i].valuelen = op->valuelen;
		pushes[i].ttl = op->ttl;
		pushes[i].order = op->order;
	}
	return pushes;
}

/* May what there is to be pushed go directly, if nobody else is on the way? */
static bool
suits_direct(const SlateOpList *list, const SlateBatch *batch)
{
	int64		bytes = 0;

	if (!publish.may_be_direct || batch->ncommands > 0 ||
		list->nops > SLATE_DIRECT_KEYS)
		return false;
	for (int i = 0; i < list->nops; i++)
		bytes += list->ops[i].keylen + list->ops[i].valuelen;
	return bytes <= SLATE_DIRECT_BYTES;
}

/*
 * What may go directly is encoded for that; should it have to go by script in
 * the end there is room to encode it once more.
 */
static void
encode_pushes(const SlateOpList *list, SlateBatch *batch)
{
	if (list->nops == 0)
		return;
	publish.pushes = make_pushes(list);
	if (suits_direct(list, batch))
	{
		slate_direct_init(&publish.direct);
		slate_direct_begin(&publish.direct);
		slate_direct_add(&publish.direct, &publish.stamp, publish.pushes,
						 list->nops);
		slate_direct_end(&publish.direct, &publish.stamp);
		slate_script_reserve(batch, publish.pushes, list->nops);
	}
	else
		slate_script_add_pushes(batch, &publish.stamp, publish.pushes,
								list->nops);
}

/* By name, rather than by a rule. */
static bool
is_given(const SlateGlobOp *glob)
{
	return glob->thorough && glob->wildcard == NULL;
}

static void
encode_floor(SlateOpList *list, SlateBatch *batch)
{
	SlateSlice *prefixes = palloc_array(SlateSlice, list->nglobs + 1);

	for (int i = 0; i < list->nglobs; i++)
	{
		prefixes[i].start = list->globs[i].glob;
		prefixes[i].len = slate_glob_prefix_len(list->globs[i].glob,
												list->globs[i].len);

		/* every PUT looks under each length that there is */
		if (list->nglobs > PREFIX_STEP)
			prefixes[i].len -= prefixes[i].len % PREFIX_STEP;
	}
	slate_script_add_floor(batch, &publish.stamp, prefixes, list->nglobs);
}

/*
 * A glob that somebody has given, rather than a rule, may stand for keys under
 * no rule.  Their index is gone through much sooner than all of Redis; but for
 * each glob, while one walk does for all.
 */
static void
encode_loose_globs(SlateOpList *list, SlateBatch *batch)
{
	SlateSlice	loose = slate_keyname_loose_family();
	int			nloose = 0;

	for (int i = 0; i < list->nglobs; i++)
		nloose += is_given(&list->globs[i]);
	if (nloose > LOOSE_GLOBS)
		return;
	for (int i = 0; i < list->nglobs; i++)
	{
		const SlateGlobOp *glob = &list->globs[i];

		if (is_given(glob))
			slate_script_add_drop_family(batch, &publish.stamp,
										 loose.start, loose.len,
										 glob->glob, glob->len, false);
	}
}

/*
 * Globs go first: a key that was set after a glob in this transaction is to
 * stay, and one that was set before it has become a DROP.
 */
static void
encode_globs(SlateOpList *list, SlateBatch *batch)
{
	for (int i = 0; i < list->nglobs; i++)
		slate_rules_add_drops(batch, &publish.stamp, list->globs[i].glob,
							  list->globs[i].len, false);
	encode_loose_globs(list, batch);
}

static void
make_globset(SlateOpList *list)
{
	publish.nglobs = list->nglobs;
	if (list->nglobs == 0)
		return;
	publish.globs = palloc_array(SlateSlice, list->nglobs);
	publish.stamps = palloc_array(const SlateStamp *, list->nglobs);
	for (int i = 0; i < list->nglobs; i++)
	{
		publish.globs[i].start = list->globs[i].glob;
		publish.globs[i].len = list->globs[i].len;
		publish.thorough |= list->globs[i].thorough;
		publish.sweep |= list->globs[i].swept;
		publish.stamps[i] = &publish.stamp;
	}
	publish.globset = slate_globset_make(publish.globs, list->nglobs);
	if (publish.sweep)
		slate_sweep_init();
}

static void
encode(SlateOpList *list, Size max_bytes)
{
	MemoryContext old = MemoryContextSwitchTo(list->context);

	make_globset(list);

	/* a value that nobody would remove is not to be there */
	if (publish.is_elsewhere)
		slate_render_as_drops(list);
	slate_render(list, publish.globset, max_bytes);
	slate_batch_init(&publish.batch);
	encode_floor(list, &publish.batch);
	encode_globs(list, &publish.batch);
	encode_registrations(list, &publish.batch);
	encode_pushes(list, &publish.batch);
	if (publish.stamp.mark[0])
		slate_script_add_release(&publish.batch, publish.stamp.mark, false);
	MemoryContextSwitchTo(old);
}

/* Who pushes again and again may come to do so directly. */
static void
watch(int64 deadline)
{
	if (!slate_traffic_direct || publish.stamp.deadline == 0)
		return;
	if (slate_direct_should_watch(&publish.stamp, false))
		(void) slate_direct_watch(&publish.stamp, deadline,
								  LINK_WAIT_UNINTERRUPTED);
	publish.may_be_direct = slate_direct_is_watching(&publish.stamp);
}

/*
 * In mode commit: write the journal, and give the stamp the epoch.  A
 * connection is good to have.  To cancel a wait would be a commit that fails
 * because of Redis.
 */
static void
begin_commit(SlateOpList *list)
{
	SlateDatabase *database = slate_database_mine();
	int64		margin = slate_redis_timeout / 4;
	int64		connected_by;

	slate_trust_await_url(LINK_WAIT_UNINTERRUPTED);
	connected_by = slate_link_now() + slate_redis_timeout - margin;
	if (slate_script_prepare(connected_by, LINK_WAIT_UNINTERRUPTED) != REDIS_DONE)
		publish.failure = slate_redis_error();
	slate_stamp_make(&publish.stamp);
	if (publish.failure == NULL)
	{
		slate_trust_stamp(&publish.stamp, &connected_by);
		watch(connected_by);
		publish.is_elsewhere = database && slate_database_is_elsewhere(database);
	}

	/* what Redis has taken is not there for the push any more */
	publish.budget = Max(connected_by + margin - slate_link_now(), 1);
	(void) slate_journal_append(list, &publish.stamp, false);
	slate_pause(PAUSE_AFTER_JOURNAL);
}

/*
 * In mode async the worker sends what we encode.  False if there is no worker
 * who could.
 */
static bool
begin_async(SlateOpList *list)
{
	SlateDatabase *database;
	int64		since = slate_link_now();

	slate_script_init();
	slate_stamp_make(&publish.stamp);
	database = slate_trust_stamp_for_worker(&publish.stamp, since);
	if (database == NULL || !slate_ring_prepare(database))
		return false;
	publish.async = true;
	(void) slate_journal_append(list, &publish.stamp, false);
	slate_pause(PAUSE_AFTER_JOURNAL);
	return true;
}

/*
 * A large one is sent by its session, as in mode commit; so are patterns where no
 * journal remembers them, since the worker looks for their keys by that.
 */
static void
finish_async(const SlateOpList *list)
{
	bool		is_remembered = slate_doubt_generations() != 0;

	if (slate_ring_takes(&publish.batch) &&
		(list->nglobs == 0 || is_remembered))
	{
		SlateRingEntry *entry = &publish.entry;
		const SlateOp *op = &list->ops[0];

		entry->xid = U64FromFullTransactionId(GetTopFullTransactionId());
		entry->nkeys = publish.nkeys;
		entry->unswept = publish.sweep;
		if (publish.batch.ncommands != 1)
			return;
		entry->call = publish.batch.call;
		entry->version = publish.stamp.position;
		if (list->nops != 1 || op->order == SLATE_SHARED)
			return;
		entry->order = op->order;
		entry->key_hash = op->hash;
		return;
	}
	publish.async = false;
	publish.budget = slate_redis_timeout;
	if (slate_script_prepare(slate_link_now() + slate_redis_timeout,
							 LINK_WAIT_UNINTERRUPTED) != REDIS_DONE)
		publish.failure = slate_redis_error();
}

/* May it go directly? */
static bool
enter_traffic(const SlateOpList *list, const SlateStamp *stamp, bool direct)
{
	slate_traffic_open(direct, true);
	for (int i = 0; i < list->nglobs; i++)
		slate_traffic_add_glob((SlateSlice) {list->globs[i].glob,
											 list->globs[i].len},
							   stamp->position);
	for (int i = 0; i < list->nops; i++)
		direct &= slate_traffic_add_key((SlateSlice) {list->ops[i].key,
													  list->ops[i].keylen},
										stamp->position);
	return slate_traffic_close(direct, stamp->position);
}

/* In mode strict, or when it is prepared: mark, too, or throw. */
static void
begin_strict(SlateOpList *list, SlateStamp *stamp, bool prepared)
{
	slate_trust_await_url(LINK_WAIT_INTERRUPTIBLE);
	slate_strict_connect(slate_link_now() + slate_redis_timeout);
	slate_stamp_make(stamp);
	slate_strict_meet(stamp);
	slate_trust_prepare_fence();
	(void) enter_traffic(list, stamp, false);
	slate_traffic_leave_marks();
	if (!slate_traffic_fence(slate_link_now() + slate_redis_timeout,
							 LINK_WAIT_INTERRUPTIBLE))
		slate_strict_fail(slate_traffic_fence_error());
	slate_stamp_make_mark(stamp);
	if (!slate_journal_append(list, stamp, prepared))
		slate_strict_refuse();
	slate_pause(PAUSE_AFTER_JOURNAL);
	slate_strict_mark(list, stamp);
}

/*
 * Whose pattern it is says whether there is to be a walk for it, whoever makes
 * that.
 */
static void
note_sweeps(SlateOpList *list)
{
	for (int i = 0; i < list->nglobs; i++)
		list->globs[i].swept = slate_publish_sweep || list->globs[i].thorough;
}

void
slate_publish_prepare(SlateOpList *list, Size max_bytes, bool at_once)
{
	publish.list = list;
	slate_redis_hold(true);
	note_sweeps(list);
	publish.nkeys = list->nops + list->nglobs;
	if (slate_publish_mode == SLATE_MODE_STRICT)
	{
		int64		deadline;

		begin_strict(list, &publish.stamp, false);
		deadline = slate_link_now() + slate_redis_timeout;
		slate_trust_stamp(&publish.stamp, &deadline);
		publish.budget = slate_redis_timeout;
	}
	else if (slate_publish_mode != SLATE_MODE_ASYNC || at_once ||
			 !begin_async(list))
		begin_commit(list);
	if (publish.failure == NULL)
		encode(list, max_bytes);
	if (publish.async)
		finish_async(list);
	slate_trust_prepare_fence();
	slate_near_enter(list);
	publish.ready = true;
	slate_pause(PAUSE_BEFORE_COMMIT);
}

bool
slate_publish_hand_over(SlateOpList *list)
{
	SlateStamp	stamp;

	publish.list = list;
	note_sweeps(list);
	if (slate_publish_mode == SLATE_MODE_STRICT)
		begin_strict(list, &stamp, true);
	else
	{
		if (slate_trust_nobody_looks())
			return false;
		slate_trust_await_url(LINK_WAIT_INTERRUPTIBLE);
		slate_stamp_make(&stamp);
		if (!slate_journal_append(list, &stamp, true))
			return false;
	}
	slate_near_enter(list);
	return true;
}

void
slate_publish_prepared(void)
{
	slate_strict_leave();
	slate_database_note_prepared();
}

/* ------------------------------------------------------------------------
 * After the commit: nothing below may throw
 * ------------------------------------------------------------------------
 */

/* True if all is done. */
static bool
sweep_until(int64 stop_at, int64 deadline, SlateSwept *swept)
{
	if (slate_link_now() >= stop_at)
		return false;
	(void) slate_sweep(publish.globset, publish.stamps, swept,
					   stop_at, deadline, LINK_WAIT_UNINTERRUPTED);
	slate_exchange_count_outcome(&swept->outcome);
	slate_stats_add(STAT_SWEEPS, 1);
	slate_journal_note_keyspace(swept->nnames);
	return swept->finished && swept->outcome.refused == 0;
}

/* False, and the failure is noted, if Redis has not taken it. */
static bool
is_taken(SlateRedisStatus status, const SlateOutcome *outcome)
{
	slate_exchange_count_outcome(outcome);
	if (status != REDIS_DONE)
		publish.failure = slate_redis_error();
	else if (outcome->refused > 0)
	{
		strlcpy(refusal, outcome->error, sizeof(refusal));
		publish.failure = refusal;
	}
	return status == REDIS_DONE && outcome->refused == 0;
}

/*
 * Will there not be time enough, at the speed so far?  At first that is a guess:
 * then it takes twice as much.
 */
static bool
is_hopeless(int64 dropped, int64 left, int64 spent, int64 rest)
{
	return left * spent > dropped * rest * (spent < rest ? 2 : 1);
}

/*
 * Drop what the first steps have left of large families.  True if all is done.
 * With a worker who would do it all again it goes on only as long as it is
 * going to get through in time.
 */
static bool
finish_families(int64 deadline)
{
	int64		total = slate_exchange_members_left(&publish.batch);
	int64		end = deadline - SWEEP_MARGIN_MS;
	SlateRedisStatus status = REDIS_DONE;
	SlateOutcome outcome = {0};
	bool		has_worker;
	int64		start;
	int64		left;

	if (total == 0)
		return true;
	has_worker = slate_journal_has_worker();
	start = slate_link_now();
	while ((left = slate_exchange_members_left(&publish.batch)) > 0)
	{
		int64		now = slate_link_now();
		int64		spent = now - start;

		if (now >= end)
			break;
		if (has_worker && spent >= slate_publish_sweep_at_once &&
			is_hopeless(total - left, left, spent, end - now))
			break;
		status = slate_exchange_go_on(&publish.batch, &outcome, deadline,
									LINK_WAIT_UNINTERRUPTED);
		if (status != REDIS_DONE)
			break;
	}
	if (!is_taken(status, &outcome))
		return false;
	if (left > 0)
		publish.failure = "there was not enough time to drop a whole family";
	return left == 0;
}

/*
 * Look for keys that no index knows.  A rule's pattern over keys that apps may
 * have SET: a small keyspace is walked at once, one that is known to be large is
 * the worker's.  Anything else, or without a worker: for as long as there is
 * time; the worker has the rest.
 */
static SlateLeaving
publish_sweep(int64 deadline)
{
	bool		has_worker = slate_journal_has_worker();
	int64		now = slate_link_now();
	int64		end = deadline - SWEEP_MARGIN_MS;
	int64		stop_at = end;
	SlateSwept	swept = {0};

	if (has_worker && !publish.thorough)
		stop_at = slate_journal_keyspace_is_large() ? now
			: Min(end, now + slate_publish_sweep_at_once);
	if (sweep_until(stop_at, deadline, &swept))
		return LEAVE_DELIVERED;
	if (swept.outcome.refused > 0)
		strlcpy(refusal, swept.outcome.error, sizeof(refusal));
	publish.failure = swept.outcome.refused > 0 ? refusal
		: "there was not enough time to look for keys by pattern";
	return LEAVE_UNSWEPT;
}

/* False, and the failure is noted, if Redis may not have heard all of it. */
static bool
exchange_batch(int64 deadline)
{
	SlateOutcome outcome = {0};
	SlateRedisStatus status;

	status = slate_exchange_publish(&publish.batch, &outcome, deadline,
								  slate_redis_timeout,
								  LINK_WAIT_UNINTERRUPTED);
	slate_stats_add(STAT_PUSHES, status == REDIS_DONE ? 1 : 0);
	slate_direct_note_script();
	if (!is_taken(status, &outcome))
		publish.out_of_memory = status == REDIS_DONE &&
			slate_exchange_is_out_of_memory(&outcome);
	else if (!slate_trust_is_delivered(&publish.stamp, outcome.strange))
		publish.failure = SLATE_NOT_KNOWN;
	return publish.failure == NULL;
}

/*
 * Directly.  False if it has to go by script: it is encoded so then.  After a
 * failure, which is noted, there is nothing left to be sent.
 */
static bool
exchange_directly(int64 deadline)
{
	SlateRedisStatus status;
	SlateOutcome outcome;
	bool		done;

	slate_traffic_begin_direct();
	status = slate_direct_push(&publish.direct, &outcome, &done, deadline,
							   LINK_WAIT_UNINTERRUPTED);
	slate_traffic_end_direct(status == REDIS_DONE);
	if (status != REDIS_DONE)
	{
		publish.failure = slate_redis_error();
		return true;
	}
	if (!done)
	{
		if (slate_redis_connection() != 0)
			return false;
		strlcpy(refusal, outcome.error, sizeof(refusal));
		publish.failure = refusal;
		return true;
	}
	slate_stats_add(STAT_PUSHES, 1);
	slate_stats_add(STAT_PUSHES_DIRECT, 1);
	slate_exchange_count_outcome(&outcome);
	if (!slate_trust_is_delivered(&publish.stamp, false))
		publish.failure = SLATE_NOT_KNOWN;
	return true;
}

/* What is older than half a guard's life is to be a DROP. */
static bool
is_late(void)
{
	return slate_link_now() - publish.stamp.made_at >=
		(int64) slate_stamp_guard_life * 1000 / 2;
}

/* What was encoded to go directly goes by script; it fits into the room for it. */
static void
encode_by_script(void)
{
#ifdef SLATE_CACHE_TESTING
	int			room = publish.batch.bytes.maxlen;
#endif

	slate_script_add_pushes(&publish.batch, &publish.stamp, publish.pushes,
							publish.list->nops);
#ifdef SLATE_CACHE_TESTING
	if (publish.batch.bytes.maxlen != room)
		abort();
#endif
}

/* False, and the failure is noted, if Redis may not have heard all of it. */
static bool
exchange(int64 deadline)
{
	if (publish.is_direct && !is_late() && exchange_directly(deadline))
		return publish.failure == NULL;
	if (publish.direct.batch.ncommands > 0)
		encode_by_script();
	if (publish.batch.ncommands == 0)
		return true;
	if (slate_traffic_fence(deadline, LINK_WAIT_UNINTERRUPTED))
		return exchange_batch(deadline);
	publish.failure = slate_traffic_fence_error();
	return false;
}

static SlateLeaving
publish_batch(void)
{
	int64		deadline = slate_link_now() + publish.budget;

	if (!exchange(deadline))
	{
		const char *failure = publish.failure;

		/* what is there can still be removed */
		if (publish.out_of_memory)
			(void) finish_families(deadline);
		if (publish.sweep && publish.out_of_memory)
			(void) publish_sweep(deadline);
		publish.failure = failure;
		return LEAVE_FAILED;
	}

	/* after several exchanges, what follows is one more */
	if (slate_batch_is_long(&publish.batch))
		deadline = slate_link_now() + slate_redis_timeout;
	if (!finish_families(deadline))
		return LEAVE_UNSWEPT;
	return publish.sweep ? publish_sweep(deadline) : LEAVE_DELIVERED;
}

/* To the worker; if its ring is full, all that is left of it is DROPs. */
static SlateLeaving
leave_to_worker(void)
{
	publish.entry.generations = slate_doubt_generations();
	publish.entry.near = *slate_near_entered();
	if ((slate_doubt_entered() == NULL || publish.entry.generations != 0) &&
		slate_ring_push(&publish.batch, &publish.entry))
		return LEAVE_DELIVERED;
	publish.failure = "the worker is behind, and its ring is full";
	return LEAVE_FAILED;
}

/* Acknowledge in the journal, or leave it what is still to be done. */
static void
settle(SlateLeaving kind)
{
	bool		remembered = slate_journal_leave(kind, true);

	if (kind == LEAVE_FAILED && remembered)
		slate_stats_delayed(publish.nkeys, publish.failure);
	else if (kind == LEAVE_FAILED)
		slate_stats_lost(publish.nkeys, publish.failure);
	else if (kind == LEAVE_UNSWEPT && !remembered)
	{
		slate_stats_add(STAT_SWEEPS_UNFINISHED, 1);
		slate_stats_lost(publish.nglobs, publish.failure);
	}
}

void
slate_publish_send(void)
{
	SlateLeaving kind = LEAVE_FAILED;

	if (publish.list == NULL)
		return;
	if (publish.ready)
	{
		slate_pause(PAUSE_BEFORE_PUBLISH);
		if (publish.async)
			kind = leave_to_worker();
		else if (publish.failure == NULL)
		{
			if (!slate_traffic_is_entered())
				publish.is_direct =
					enter_traffic(publish.list, &publish.stamp,
								  publish.direct.batch.ncommands > 0 &&
								  slate_direct_is_watching(&publish.stamp));
			kind = publish_batch();
		}
		slate_pause(PAUSE_BEFORE_ACK);
		settle(kind);
	}
	slate_strict_leave();
	slate_publish_forget();
}

void
slate_publish_forget(void)
{
	if (publish.list == NULL)
		return;
	(void) slate_journal_leave(LEAVE_DELIVERED, false);
	slate_strict_release();
	slate_traffic_leave();
	slate_near_leave();
	slate_redis_hold(false);
	memset(&publish, 0, sizeof(publish));
}
