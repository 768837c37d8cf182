/*-------------------------------------------------------------------------
 *
 * warm.c
 *	  Filling a table's keys ahead: slate_cache_warm().
 *
 * A reader like slate_cache_get(), with that one's order of things: the keys
 * of a batch are leased, then a snapshot is taken and their values are loaded,
 * then they are filled, each under its lease.  So writers go on meanwhile, and
 * what they change is not filled over.  The snapshot that the keys themselves
 * come from may be old: a key whose row has gone since then loads nothing.
 *
 * Unlike a reader, it raises an error when Redis is away: there would be
 * nothing left for it to do.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "load.h"
#include "pause.h"
#include "pending.h"
#include "render.h"
#include "script.h"
#include "stats.h"
#include "trust.h"
#include "utils/lsyscache.h"
#include "walk.h"

PG_FUNCTION_INFO_V1(slate_cache_warm);

typedef struct Warm
{
	SlateWalk	walk;			/* first, see warm_batch() */
	int64		filled;
} Warm;

/* A key that has no value yet. */
typedef struct WarmKey
{
	SlateSlice	key;
	bool		leased;
	char		token[SLATE_TOKEN_LEN + 1];
} WarmKey;

static void
on_ttl_reply(int index, const redisReply *reply, void *arg)
{
	bool	   *missing = arg;

	missing[index] = reply->type == REDIS_REPLY_INTEGER &&
		reply->integer == -2;
}

/* Not what this transaction is about to change. */
static bool
may_fill(const SlateWalk *walk, SlateSlice key)
{
	const char *value;

	return slate_walk_owns(walk, key) &&
		slate_pending_lookup(key.start, key.len, &value) == PENDING_NOTHING;
}

/* Those of the keys that may be filled and have no value. */
static int
find_missing(SlateWalk *walk, SlateSlice *keys, int nkeys, WarmKey *found)
{
	bool	   *missing = palloc0_array(bool, nkeys);
	SlateBatch	batch;
	int			nfound = 0;

	slate_batch_init(&batch);
	for (int i = 0; i < nkeys; i++)
		slate_script_add_ttl(&batch, keys[i].start, keys[i].len);
	slate_walk_exchange(&batch, on_ttl_reply, missing);
	for (int i = 0; i < nkeys; i++)
	{
		if (missing[i] && may_fill(walk, keys[i]))
			found[nfound++].key = keys[i];
	}
	return nfound;
}

typedef struct Leases
{
	WarmKey    *keys;
	bool		is_strange;		/* Redis has another epoch */
} Leases;

/* A value that has come meanwhile, or a key of another type: no lease. */
static void
on_lease_reply(int index, const redisReply *reply, void *arg)
{
	Leases	   *leases = arg;
	WarmKey    *key = &leases->keys[index];
	const redisReply *text;
	SlateLeaseKind kind;

	key->leased = false;
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 1)
		return;
	kind = slate_script_take_lease(reply->element[0], &text);
	leases->is_strange |= kind == SLATE_LEASE_STRANGE;
	key->leased = slate_script_is_leased(kind);
	if (key->leased)
		memcpy(key->token, text->str, SLATE_TOKEN_LEN + 1);
}

/* One call each: each reply may be a value.  False if Redis has another epoch. */
static bool
ask_for_leases(WarmKey *keys, int nkeys)
{
	Leases		leases = {keys, false};
	SlateBatch	batch;

	slate_batch_init(&batch);
	for (int i = 0; i < nkeys; i++)
		slate_trust_add_leases(&batch, &keys[i].key, 1);
	slate_walk_exchange(&batch, on_lease_reply, &leases);
	slate_batch_free(&batch);
	return !leases.is_strange;
}

static void
lease(WarmKey *keys, int nkeys)
{
	if (!ask_for_leases(keys, nkeys) && slate_trust_should_lease_again())
		(void) ask_for_leases(keys, nkeys);
	slate_pause(PAUSE_AFTER_LEASE);
}

typedef struct FillCount
{
	int64		filled;
	int64		refused;
} FillCount;

static void
on_fill_reply(int index pg_attribute_unused(), const redisReply *reply,
			  void *arg)
{
	FillCount  *count = arg;

	if (reply->type == REDIS_REPLY_INTEGER && reply->integer == 1)
		count->filled++;
	else
		count->refused++;
}

/* Send what has been added, and empty the batch. */
static void
run_fills(Warm *warm, SlateBatch *batch)
{
	FillCount	count = {0};

	if (batch->ncommands == 0)
		return;

	/* a function in an index or a type may have written something */
	slate_walk_check_transaction("slate_cache_warm()");
	slate_pause(PAUSE_BEFORE_FILL);
	slate_walk_exchange(batch, on_fill_reply, &count);
	slate_stats_add(STAT_FILLS, count.filled);
	slate_stats_add(STAT_FILLS_REFUSED, count.refused);
	warm->filled += count.filled;
	slate_batch_reset(batch);
}

static Size
fill(Warm *warm, const SlateLoad *loads, int nloads)
{
	SlateBatch	batch;
	Size		bytes = 0;

	slate_batch_init(&batch);
	for (int i = 0; i < nloads; i++)
	{
		const WarmKey *key = loads[i].arg;

		if (loads[i].json == NULL)
			continue;			/* the row has gone meanwhile */
		bytes += loads[i].len;
		if (loads[i].len > (int64) slate_render_max_value * 1024)
		{
			slate_stats_add(STAT_VALUES_TOO_LARGE, 1);
			continue;
		}
		slate_script_add_fill(&batch, key->key.start, key->key.len, key->token,
							  loads[i].json, loads[i].len, loads[i].ttl);
		if (slate_batch_size(&batch) > SLATE_WALK_BYTES)
			run_fills(warm, &batch);
	}
	run_fills(warm, &batch);
	return bytes;
}

static Size
warm_batch(SlateWalk *walk, SlateSlice *keys, int nkeys)
{
	WarmKey    *missing = palloc0_array(WarmKey, nkeys);
	int			nmissing = find_missing(walk, keys, nkeys, missing);
	SlateLoad  *loads = palloc0_array(SlateLoad, nkeys);
	int			nloads = 0;

	lease(missing, nmissing);
	for (int i = 0; i < nmissing; i++)
	{
		if (!missing[i].leased)
			continue;
		loads[nloads].key = missing[i].key;
		loads[nloads++].arg = &missing[i];
	}
	slate_load(loads, nloads);
	return fill((Warm *) walk, loads, nloads);
}

static void
check_enabled(const SlateRelation *rules)
{
	if (!slate_rules_are_kept(rules))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the cache trigger of table \"%s\" is disabled",
						get_rel_name(rules->relid)),
				 errdetail("Nobody would keep right what is filled."),
				 errhint("ALTER TABLE ... ENABLE ALWAYS TRIGGER %s, of its partitions, too.",
						 SLATE_ROW_TRIGGER)));
}

Datum
slate_cache_warm(PG_FUNCTION_ARGS)
{
	Warm		warm = {.walk = {.fn = warm_batch,.fills = true}};
	SlateRelation *rules;

	PreventCommandDuringRecovery("slate_cache_warm()");
	slate_walk_check_transaction("slate_cache_warm()");
	slate_walk_begin(&warm.walk,
					 PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0));
	rules = warm.walk.rules;
	check_enabled(rules);
	for (int i = 0; i < rules->nrules; i++)
	{
		if (slate_walk_has_values(&rules->rules[i]))
			slate_walk_rule(&warm.walk, &rules->rules[i]);
	}
	PG_RETURN_INT64(warm.filled);
}
