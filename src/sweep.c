/*-------------------------------------------------------------------------
 *
 * sweep.c
 *	  A walk over everything that Redis has, for keys that no index knows.
 *
 * One exchange a step: the DROPs for what the step before found, and the next
 * SCAN.  SCAN returns whatever is there from its beginning to its end, so it
 * sees each value and each guard that is older than the commit; what comes
 * later was leased later, and so loaded with a newer snapshot.
 *
 * But who was given a lease before may FILL a value behind the walk's back, and
 * the guard may expire before the walk comes to its name, if that takes longer
 * than a guard's life.  Then all is walked over once more: that value is there
 * from the beginning, and a guard that was there all the time has been seen.
 *
 * A name that is too long for a key of ours (it may have 512 MB) is only
 * removed: nobody can have a lease on it.  It is not copied, but sought again
 * by a script, in the same step; then that step is taken again.
 *
 * A Redis without memory takes what a walk drops: its scripts remove first, and
 * what writes already may go on.
 *
 * This runs after a commit, so all buffers are as large as they will ever be
 * before it begins, and nothing is palloc'ed.  A step whose names do not fit is
 * taken again in half the size.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "cluster.h"
#include "keyname.h"
#include "script.h"
#include "sweep.h"
#include "utils/memutils.h"

/* Names that Redis looks at in one step. */
#define STEP_COUNT 500

/* Room for those that one step finds. */
#define STEP_BYTES (256 * 1024)

/* Room for the rest of what is sent: heads, and a glob. */
#define HEAD_BYTES (2 * SLATE_KEY_MAX + 4096)

/* Slots that a node of a Cluster has keys of, though they are others'. */
#define MAX_STRAY_SLOTS 64

/*
 * When an exchange of a walk that may be interrupted has timed out, the next
 * such walk has more patience (ms), until one has got through: a huge name
 * takes its time.
 */
#define PATIENCE_MS 10000
static bool is_patient = false;

typedef struct Sweep
{
	const SlateGlobSet *globs;
	const SlateStamp *const *stamps;	/* of the globs, by position; NULL:
										 * forget what matches */
	SlateSwept *swept;
	SlateOutcome before;		/* the outcome when the step began */
	char		cursor[SLATE_CURSOR_SIZE];	/* where the next SCAN begins */
	int			count;			/* its COUNT */
	int			scan_reply;		/* which reply of the exchange is SCAN's */
	int			long_reply;		/* which is that to a search for long ones */
	int			long_glob;		/* what one that was found matches; -1: none */
	bool		pass_over_long; /* those are not to be had */
	int			node;			/* whose keys are walked over */
	int			nstray;			/* of which slots of others it has some that
								 * match */
	int			stray[MAX_STRAY_SLOTS];
	int			nfound;			/* names in names_found */
	bool		overflow;		/* not all names fitted, or could be looked at */
	SlateGlobPatience patience;
	int64		stop_at;		/* no step begins, nor goes on, after that */
	SlateWait	wait;
	bool		failed;			/* SCAN got something that is not its answer */
} Sweep;

/* The stamps of the globs that match one name. */
typedef struct MatchedStamps
{
	const Sweep *sweep;
	bool		any;			/* one matches */
	int			position;		/* the last of those */
	const SlateStamp *highest;	/* NULL: none matches, or there are none */
	bool		differ;			/* they are of several transactions */
} MatchedStamps;

/*
 * Names found in this step, and the stamps to drop them with, both encoded;
 * and what is sent.  Sized for good by slate_sweep_init().
 */
static StringInfoData names_found;
static StringInfoData stamps_found;
static SlateBatch to_send;

/* Where to count them; NULL: nowhere. */
static pg_atomic_uint64 *names_swept = NULL;

void
slate_sweep_init(void)
{
	static bool is_ready = false;
	MemoryContext old;

	if (is_ready)
		return;
	old = MemoryContextSwitchTo(TopMemoryContext);
	slate_batch_init_for(&to_send, 0);
	enlargeStringInfo(&to_send.bytes, 2 * STEP_BYTES + HEAD_BYTES);
	initStringInfo(&stamps_found);
	enlargeStringInfo(&stamps_found, STEP_BYTES);
	initStringInfo(&names_found);
	enlargeStringInfo(&names_found, STEP_BYTES);
	MemoryContextSwitchTo(old);
	is_ready = true;			/* all of it: what throws comes again */
}

void
slate_sweep_count(pg_atomic_uint64 *names)
{
	names_swept = names;
}

/*
 * Patterns with many stars, and long names that nearly match: each is soon looked
 * at, but all together may take minutes.
 */
static bool
has_time(void *arg)
{
	const Sweep *sweep = arg;

	if (sweep->wait == LINK_WAIT_INTERRUPTIBLE && INTERRUPTS_PENDING_CONDITION())
		return false;
	return slate_link_now() < sweep->stop_at;
}

/* Takes none, so that it gets to see all. */
static bool
note_stamp(int position, void *arg)
{
	MatchedStamps *matched = arg;
	const SlateStamp *stamp;

	matched->any = true;
	matched->position = position;
	if (matched->sweep->stamps == NULL)
		return true;
	stamp = matched->sweep->stamps[position];
	if (matched->highest && strcmp(stamp->nonce, matched->highest->nonce) != 0)
		matched->differ = true;
	if (matched->highest == NULL ||
		strcmp(stamp->version, matched->highest->version) > 0)
		matched->highest = stamp;
	return false;
}

static void
remember(Sweep *sweep, const SlateSlice *key, const MatchedStamps *matched)
{
	if (names_found.len + key->len + 24 > STEP_BYTES ||
		stamps_found.len + SLATE_SWEPT_STAMP_LEN + 24 > STEP_BYTES)
	{
		sweep->overflow = true;
		return;
	}
	slate_script_append_swept_key(&names_found, *key);
	sweep->nfound++;
	if (matched->highest)
		slate_script_append_swept_stamp(&stamps_found, matched->highest,
										!matched->differ);
}

static bool
is_at_home(const Sweep *sweep, const SlateSlice *key)
{
	return slate_redis_node_of(key->start, key->len) == sweep->node;
}

static void
note_stray(Sweep *sweep, const SlateSlice *key)
{
	int			slot = slate_cluster_slot(key->start, key->len);

	for (int i = 0; i < Min(sweep->nstray, MAX_STRAY_SLOTS); i++)
	{
		if (sweep->stray[i] == slot)
			return;
	}
	if (sweep->nstray < MAX_STRAY_SLOTS)
		sweep->stray[sweep->nstray] = slot;
	sweep->nstray++;
}

static void
look_at(Sweep *sweep, const redisReply *name)
{
	MatchedStamps matched = {.sweep = sweep};
	SlateSlice	key;

	if (name->type != REDIS_REPLY_STRING ||
		!slate_keyname_find_key(name->str, (int) name->len, &key))
		return;

	/* a guard of such a one holds no lease, and expires */
	if (key.len > SLATE_KEY_MAX && key.start != name->str)
		return;
	(void) slate_globset_match(sweep->globs, key.start, key.len,
							   note_stamp, &matched, &sweep->patience);
	if (sweep->patience.given_up)
	{
		/* what else matches is not known */
		sweep->overflow = true;
		return;
	}
	if (!matched.any)
		return;
	if (key.len > SLATE_KEY_MAX)
	{
		if (!sweep->pass_over_long)
			sweep->long_glob = matched.position;
	}
	else if (is_at_home(sweep, &key))
		remember(sweep, &key, &matched);
	else
		note_stray(sweep, &key);
}

static void
on_scan_reply(Sweep *sweep, const redisReply *reply)
{
	char		next[SLATE_CURSOR_SIZE];
	const redisReply *names = slate_script_take_scan(reply, next);

	if (names == NULL)
	{
		sweep->failed = true;
		slate_exchange_take_reply(&sweep->swept->outcome, reply);
		return;
	}
	for (size_t i = 0; i < names->elements && !sweep->overflow; i++)
		look_at(sweep, names->element[i]);
	if (sweep->overflow || sweep->long_glob >= 0)
		return;
	sweep->pass_over_long = false;
	strlcpy(sweep->cursor, next, sizeof(sweep->cursor));
	sweep->swept->nnames += names->elements;
	if (names_swept)
		pg_atomic_fetch_add_u64(names_swept, names->elements);
}

static void
on_sweep_reply(int index, const redisReply *reply, void *arg)
{
	Sweep	   *sweep = arg;

	if (index == 0)
	{
		resetStringInfo(&names_found);
		resetStringInfo(&stamps_found);
		sweep->nfound = 0;
		sweep->overflow = false;
		sweep->patience.given_up = false;
		sweep->long_glob = -1;
		sweep->swept->outcome = sweep->before;
	}
	if (index == sweep->scan_reply)
		on_scan_reply(sweep, reply);
	else
	{
		int64		dropped = sweep->swept->outcome.dropped;

		slate_exchange_take_reply(&sweep->swept->outcome, reply);
		if (index == sweep->long_reply)
			sweep->pass_over_long = sweep->swept->outcome.dropped == dropped;
	}
}

/* DROP of what was found, then the next SCAN, unless that is all. */
static void
encode_step(Sweep *sweep, bool scan)
{
	slate_batch_reset(&to_send);
	slate_batch_aim(&to_send, sweep->node);
	sweep->scan_reply = sweep->long_reply = -1;
	if (sweep->nfound > 0 && sweep->stamps == NULL)
		slate_script_add_forget(&to_send, &names_found, sweep->nfound);
	else if (sweep->nfound > 0)
		slate_script_add_drop_swept(&to_send, &names_found, sweep->nfound,
									&stamps_found, sweep->stamps[0]->owner);
	if (scan && sweep->long_glob >= 0)
	{
		sweep->long_reply = to_send.ncommands;
		slate_script_add_drop_long(&to_send, sweep->cursor, sweep->count,
								   slate_globset_glob(sweep->globs,
													  sweep->long_glob));
	}
	if (scan)
	{
		sweep->scan_reply = to_send.ncommands;
		slate_script_add_scan_all(&to_send, sweep->cursor, sweep->count);
	}
}

/* How long (ms) a step may take. */
static int64
patience(SlateWait wait)
{
	return wait == LINK_WAIT_INTERRUPTIBLE && is_patient
		? Max(slate_redis_timeout, PATIENCE_MS) : slate_redis_timeout;
}

static bool
outlives_guards(int64 since)
{
	return slate_link_now() - since > (int64) slate_stamp_guard_life * 1000;
}

static void
on_nodes_reply(int index pg_attribute_unused(), const redisReply *reply,
			   void *arg)
{
	Sweep	   *sweep = arg;
	SlateOutcome *outcome = &sweep->swept->outcome;
	bool		on_its_way = sweep->nstray > MAX_STRAY_SLOTS;

	for (int i = 0; i < Min(sweep->nstray, MAX_STRAY_SLOTS); i++)
		on_its_way |= slate_cluster_may_import(reply, sweep->stray[i]);
	if (on_its_way && outcome->refused++ == 0)
		strlcpy(outcome->error, "a slot with such keys is on its way to another node",
				sizeof(outcome->error));
}

/*
 * In a Cluster a node may have keys of slots that are others'.  If such a slot is
 * on its way there, clients find the key, and it cannot be removed before the
 * slot has arrived.  If not, the move was given up: then nobody reads the key,
 * nor can anybody remove it, and it is passed over.  Should the slot become the
 * node's in the end, the namespace is emptied.
 */
static SlateRedisStatus
ask_about_strays(Sweep *sweep, int64 deadline, SlateWait wait)
{
	slate_batch_reset(&to_send);
	slate_batch_aim(&to_send, sweep->node);
	slate_script_add_cluster_nodes(&to_send);
	return slate_exchange_run(&to_send, on_nodes_reply, sweep,
							  Min(deadline, slate_link_now() + patience(wait)),
							  wait);
}

/*
 * One node, from its beginning to its end; *finished: it has got through.  What a
 * Cluster's node refuses is of a slot that is on its way, and the others' turn
 * comes nevertheless.
 */
static SlateRedisStatus
sweep_node(Sweep *sweep, int64 deadline, bool *finished)
{
	SlateSwept *swept = sweep->swept;
	SlateWait	wait = sweep->wait;
	bool		scan = true;
	bool		again = false;
	int64		start = slate_link_now();

	*finished = false;
	while (scan || sweep->nfound > 0)
	{
		int64		now = slate_link_now();
		SlateRedisStatus status;

		if (wait == LINK_WAIT_INTERRUPTIBLE)
			CHECK_FOR_INTERRUPTS();

		/* what was found is still dropped */
		if (now >= sweep->stop_at && sweep->nfound == 0)
			return REDIS_DONE;
		encode_step(sweep, scan && now < sweep->stop_at);
		sweep->before = swept->outcome;
		status = slate_exchange_run(&to_send, on_sweep_reply, sweep,
									Min(deadline, now + patience(wait)), wait);
		if (status != REDIS_DONE)
			return status;
		if (sweep->failed || (sweep->overflow && sweep->count == 1) ||
			(swept->outcome.refused > 0 && slate_redis_topology() == 0))
			return REDIS_DONE;
		if (sweep->overflow)
		{
			/* what did fit is dropped now; the step is taken again */
			sweep->count = Max(sweep->count / 2, 1);
			continue;
		}
		if (sweep->long_glob >= 0)
			continue;
		if (sweep->scan_reply >= 0)
			scan = strcmp(sweep->cursor, "0") != 0;
		if (!scan && !again && outlives_guards(start))
			scan = again = true;
	}
	if (sweep->nstray > 0)
	{
		SlateRedisStatus status = ask_about_strays(sweep, deadline, wait);

		if (status != REDIS_DONE)
			return status;
	}
	*finished = true;
	return REDIS_DONE;
}

SlateRedisStatus
slate_sweep(const SlateGlobSet *globs, const SlateStamp *const *stamps,
			SlateSwept *swept, int64 stop_at, int64 deadline, SlateWait wait)
{
	SlateRedisStatus status = REDIS_DONE;
	bool		finished = true;
	uint64		topology = slate_redis_topology();
	int			nnodes = slate_redis_nodes();

	memset(swept, 0, sizeof(*swept));
	for (int node = 0; node < nnodes && finished; node++)
	{
		Sweep		sweep = {.globs = globs,.stamps = stamps,
		.swept = swept,.node = node,.cursor = "0",.count = STEP_COUNT,
		.long_glob = -1,.stop_at = stop_at,.wait = wait};

		sweep.patience.go_on = has_time;
		sweep.patience.arg = &sweep;
		status = sweep_node(&sweep, deadline, &finished);
	}
	swept->finished = finished && slate_redis_has_topology(topology);
	if (wait == LINK_WAIT_INTERRUPTIBLE)
		is_patient = status == REDIS_TIMEOUT || (is_patient && !finished);
	return status;
}
