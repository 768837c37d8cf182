/*-------------------------------------------------------------------------
 *
 * read.c
 *	  Reading through the cache: slate_cache_get(), mget(), peek(), fetch().
 *
 * THE WAY OF A READ
 *
 * 1. Which rule may the key belong to?  Whoever may not SELECT from that table
 *	  is refused, whatever the cache holds.
 * 2. GET, one exchange.  A hit is the answer.
 * 3. On a miss, LEASE; only then a snapshot, and the rule's query.
 * 4. FILL with the lease's token.  Redis refuses it if the row may have changed
 *	  since the lease.
 *
 * Steps 2 to 4 are left out, and the table answers alone (a bypass), where
 * the cache's answer is not this transaction's: after it has written anything,
 * in REPEATABLE READ and SERIALIZABLE, for users to whom row-level security
 * shows only some rows, and where others tell another Redis.  Steps 3 and 4 are
 * left out on a standby, which may be behind: it answers hits, and reads its
 * tables without filling.
 *
 * No rule knows the key: then there is no table to read, and what Redis has is
 * the answer, unless this transaction is about to change it.  So it is with a key
 * that a rule's template fits, but none of its rows could have.
 *
 * Redis away is not an error here.  The table answers, after at most
 * slate_cache.timeout; the breaker spares the next reader the wait.  A Redis
 * whose history is unknown (trust.c) is not asked either.
 *
 * Bytes that are not JSON count as a miss; they are dropped, so that they
 * hinder nobody twice.
 *
 * All keys of a call, up to a thousand, go together: one MGET, one LEASE for
 * the misses, one query a rule, one exchange of FILLs.  slate_cache_get() is a
 * call with one.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "exchange.h"
#include "funcapi.h"
#include "keyname.h"
#include "load.h"
#include "near.h"
#include "parsed.h"
#include "pause.h"
#include "pending.h"
#include "query.h"
#include "read.h"
#include "render.h"
#include "rules.h"
#include "script.h"
#include "stats.h"
#include "trust.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "value.h"

PG_FUNCTION_INFO_V1(slate_cache_get);
PG_FUNCTION_INFO_V1(slate_cache_mget);
PG_FUNCTION_INFO_V1(slate_cache_peek);
PG_FUNCTION_INFO_V1(slate_cache_fetch);

/*
 * Keys that one exchange with Redis is about at most.  To lease as many takes
 * Redis some ten milliseconds.
 */
#define KEYS_AT_ONCE 1000

/* What one exchange fills, about. */
#define FILL_BYTES (1024 * 1024)

/* One key on its way. */
typedef struct Lookup
{
	SlateSlice	key;
	bool		covered;		/* a rule may know it */
	bool		by_query;		/* its value is a query's */
	bool		bypass;			/* not from the cache, nor into it ... */
	bool		bypass_rows;	/* ... but only as our rows are not the
								 * cache's: if it is no row's key, it may be */
	bool		done;			/* value is the answer */
	bool		bad_value;		/* Redis has something that is no JSON */
	bool		wrong_type;		/* the lease has removed another type */
	Jsonb	   *value;			/* NULL: none */
	SlateNearLease near;
	int64		ttl;			/* of its rule; ms, 0 for none */
	bool		leased;
	char		token[SLATE_TOKEN_LEN + 1];
} Lookup;

typedef struct LookupSet
{
	int			nlookups;
	Lookup	   *lookups;
	int			nwaiting;		/* of the current exchange */
	Lookup	  **waiting;
	int			nmget;			/* the first of them, in one MGET */
	int64		filled;			/* FILLs that were accepted, or refused */
	int64		refused;
	bool		failed;			/* an error reply where a value should be */
	bool		unregistered;	/* a registration was refused */
	bool		is_strange;		/* Redis has another epoch */
	int			first_lease;	/* the command that asks for leases first */
	Oid			seen;			/* the relation that was looked at last ... */
	bool		sees_all;		/* ... and what the cache has of it is for us */
	bool		is_elsewhere;	/* others tell another Redis than ours */
} LookupSet;

/* ------------------------------------------------------------------------
 * Who may, and from where
 * ------------------------------------------------------------------------
 */

/* The hints are for one that is empty, and for one that is too long. */
static SlateSlice
check_argument(text *argument, const char *what, const char *if_empty,
			   const char *if_long)
{
	SlateSlice	given = {VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument)};

	if (given.len == 0 || given.len > SLATE_KEY_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 given.len == 0 ? errmsg("a cache %s must not be empty", what)
				 : errmsg("cache %s is too long", what),
				 errdetail("A %s has 1 to %d bytes; this one has %d.",
						   what, SLATE_KEY_MAX, given.len),
				 errhint("%s", given.len == 0 ? if_empty : if_long)));
	if (slate_keyname_is_internal(given.start, given.len))
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("cache %s is reserved", what),
				 errdetail("Keys that begin with \"%s\" are the extension's own.",
						   SLATE_INTERNAL_PREFIX),
				 errhint("Choose another prefix.")));
	return given;
}

SlateSlice
slate_read_key_argument(text *argument)
{
	return check_argument(argument, "key",
						  "Name a key, such as 'slate:project:42'.",
						  "Use a shorter key, for instance a hash of a long part.");
}

SlateSlice
slate_read_pattern_argument(text *argument)
{
	return check_argument(argument, "pattern",
						  "Pass a glob, such as 'slate:search:42:*'.",
						  "End it earlier, with '*'.");
}

/*
 * ERROR for those who may not SELECT, as if they had named the table: a schema
 * that is closed to them keeps it from them, too.  Whoever may see only some of
 * the rows gets nothing from the cache, which has all.
 */
static bool
may_see_all(Oid relid)
{
	bool		is_missing = false;
	Oid			schema;
	AclResult	result = pg_class_aclcheck_ext(relid, GetUserId(), ACL_SELECT,
											   &is_missing);

	/* dropped since we have read the rules: what was cached is no more */
	if (is_missing)
		return false;
	schema = get_rel_namespace(relid);
	if (result == ACLCHECK_OK && OidIsValid(schema) &&
		compat_schema_aclcheck(schema, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA,
					   get_namespace_name(schema));
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, get_rel_name(relid));
	return check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED;
}

/* Once a call: most of its keys are of the same relation. */
static void
check_may_see(LookupSet *set, Lookup *lookup, Oid relid)
{
	if (relid != set->seen)
	{
		set->sees_all = may_see_all(relid);
		set->seen = relid;
	}
	if (!set->sees_all)
		lookup->bypass = true;
}

/* Our own changes, or an old snapshot: then the cache is not our truth. */
static bool
transaction_bypasses(void)
{
	return IsolationUsesXactSnapshot() ||
		TransactionIdIsValid(GetTopTransactionIdIfAny());
}

/*
 * Look at the rules that may know the key, and at what this transaction has
 * done to it.
 */
static void
classify(LookupSet *set, Lookup *lookup)
{
	SlateMatch	match = {0};
	const char *value;
	bool		all_ways = true;

	while (slate_rules_match(lookup->key.start, lookup->key.len, &match))
	{
		Oid			relid = match.rule->relation->relid;

		/* loading gives up there, too */
		if (match.nth == SLATE_TEMPLATE_MAX_SPLITS - 1)
			all_ways = false;
		lookup->covered = true;
		lookup->ttl = slate_rule_ttl(match.rule);

		/* nobody keeps it right while the trigger is disabled */
		if (!match.rule->relation->enabled)
			lookup->bypass = true;
		check_may_see(set, lookup, relid);
	}
	if (lookup->covered && !lookup->bypass &&
		(transaction_bypasses() || set->is_elsewhere))
	{
		lookup->bypass = true;
		lookup->bypass_rows = all_ways;
	}

	switch (slate_pending_lookup(lookup->key.start, lookup->key.len, &value))
	{
		case PENDING_VALUE:
			lookup->value = slate_value_parse(value, strlen(value));
			lookup->done = true;
			break;
		case PENDING_GONE:
			lookup->bypass = true;
			lookup->bypass_rows = false;
			break;
		case PENDING_NOTHING:
			break;
	}
	/* of a row's key it will be known when it is loaded */
	if (lookup->bypass && !lookup->bypass_rows && !lookup->done)
		slate_stats_add(STAT_BYPASSES, 1);
}

/* ------------------------------------------------------------------------
 * Exchanges
 * ------------------------------------------------------------------------
 */

static SlateRedisStatus
exchange(const SlateBatch *batch, SlateReplyFn reply_fn, void *arg)
{
	int64		deadline = slate_link_now() + slate_redis_timeout;
	SlateRedisStatus status;

	slate_stats_log_losses();
	status = slate_script_prepare(deadline, LINK_WAIT_INTERRUPTIBLE);
	if (status == REDIS_DONE)
		status = slate_trust_reads(&deadline)
			? slate_exchange_run(batch, reply_fn, arg, deadline,
								 LINK_WAIT_INTERRUPTIBLE) : REDIS_RESTING;
	if (status != REDIS_DONE && status != REDIS_TOO_LARGE)
		slate_stats_add(STAT_READ_FAILURES, 1);
	return status;
}

static void
take_bytes(Lookup *lookup, const redisReply *reply)
{
	lookup->value = NULL;
	lookup->done = false;
	lookup->bad_value = false;
	if (reply->type != REDIS_REPLY_STRING)
		return;
	lookup->value = slate_parsed_get(lookup->key, reply->str, reply->len);
	lookup->done = lookup->value != NULL;
	lookup->bad_value = lookup->value == NULL;
}

static void
take_get_reply(LookupSet *set, Lookup *lookup, const redisReply *reply)
{
	/* to a GET on a list, a hash or the like */
	if (slate_link_is_error(reply, "WRONGTYPE"))
		lookup->bad_value = true;
	else if (reply->type != REDIS_REPLY_ERROR)
		take_bytes(lookup, reply);
	else
		set->failed = true;
}

/* The MGET's reply, if there is one, and then one a GET. */
static void
on_get_reply(int index, const redisReply *reply, void *arg)
{
	LookupSet  *set = arg;

	if (set->nmget == 0)
		take_get_reply(set, set->waiting[index], reply);
	else if (index > 0)
		take_get_reply(set, set->waiting[set->nmget + index - 1], reply);
	else if (reply->type == REDIS_REPLY_ARRAY &&
			 reply->elements == (size_t) set->nmget)
	{
		for (int i = 0; i < set->nmget; i++)
			take_bytes(set->waiting[i], reply->element[i]);
	}
	else
		set->failed = true;
}

static void
add_keys_waiting(SlateBatch *batch, const LookupSet *set, int nkeys,
				 void (*add) (SlateBatch *, const SlateSlice *, int))
{
	SlateSlice *keys = palloc_array(SlateSlice, nkeys + 1);

	for (int i = 0; i < nkeys; i++)
		keys[i] = set->waiting[i]->key;
	add(batch, keys, nkeys);
	pfree(keys);
}

/* Those that the cache may answer: covered ones first. */
static void
collect_waiting(LookupSet *set, int *ncovered)
{
	set->nwaiting = 0;
	for (int covered = 1; covered >= 0; covered--)
	{
		for (int i = 0; i < set->nlookups; i++)
		{
			Lookup	   *lookup = &set->lookups[i];

			if (!lookup->done && !lookup->bypass &&
				lookup->covered == (covered == 1))
				set->waiting[set->nwaiting++] = lookup;
		}
		if (covered == 1)
			*ncovered = set->nwaiting;
	}
}

/*
 * GET those that are waiting, of which the first ones are covered.  MGET does
 * not tell a missing key from one of the wrong type.  For keys that a rule
 * covers the lease will tell; the others are asked for one by one, in the same
 * exchange.
 */
static void
get_waiting(LookupSet *set, int ncovered)
{
	SlateBatch	batch;
	SlateRedisStatus status;

	set->failed = false;
	slate_batch_init(&batch);
	set->nmget = ncovered > 1 && batch.nparts == 0 ? ncovered : 0;
	if (set->nmget > 0)
		add_keys_waiting(&batch, set, set->nmget, slate_script_add_mget);
	for (int i = set->nmget; i < set->nwaiting; i++)
		slate_script_add_get(&batch, set->waiting[i]->key.start,
							 set->waiting[i]->key.len);
	status = exchange(&batch, on_get_reply, set);
	if (status == REDIS_TOO_LARGE && set->nwaiting > 1)
	{
		LookupSet	half = *set;
		int			n = set->nwaiting / 2;

		/* one value may be too large, or all together */
		half.nwaiting = n;
		get_waiting(&half, Min(ncovered, n));
		half.waiting = set->waiting + n;
		half.nwaiting = set->nwaiting - n;
		get_waiting(&half, Max(ncovered - n, 0));
	}
	else if (status == REDIS_TOO_LARGE)
		set->waiting[0]->bad_value = true;
	else if (status != REDIS_DONE || set->failed)
	{
		if (status == REDIS_DONE)
			slate_stats_add(STAT_READ_FAILURES, 1);

		/* not worth asking again for a lease */
		for (int i = 0; i < set->nwaiting; i++)
			set->waiting[i]->bypass = true;
	}
}

/* What may be answered by the cache. */
static void
get_from_cache(LookupSet *set)
{
	int			ncovered;

	collect_waiting(set, &ncovered);
	if (set->nwaiting == 0)
		return;
	get_waiting(set, ncovered);
	for (int i = 0; i < set->nwaiting; i++)
	{
		/* what Redis did not answer is to bypass it */
		if (!set->waiting[i]->bypass)
			slate_stats_add(set->waiting[i]->done ? STAT_HITS : STAT_MISSES, 1);
		if (set->waiting[i]->bad_value)
			slate_stats_add(STAT_BAD_VALUES, 1);
	}
}

static void
take_lease(LookupSet *set, Lookup *lookup, const redisReply *answer)
{
	const redisReply *text;
	SlateLeaseKind kind = slate_script_take_lease(answer, &text);

	set->is_strange |= kind == SLATE_LEASE_STRANGE;
	lookup->wrong_type = kind == SLATE_LEASE_RETYPED;
	lookup->leased = slate_script_is_leased(kind);
	if (kind == SLATE_LEASE_VALUE)
		take_bytes(lookup, text);
	else if (lookup->leased)
		memcpy(lookup->token, text->str, SLATE_TOKEN_LEN + 1);
}

/*
 * DROPs of bad values and registrations come first; then the leases, all in one
 * answer, or each in its own.
 */
static void
on_lease_reply(int index, const redisReply *reply, void *arg)
{
	LookupSet  *set = arg;
	int			first = index - set->first_lease;

	set->unregistered |= reply->type == REDIS_REPLY_ERROR;
	if (first < 0 || reply->type != REDIS_REPLY_ARRAY ||
		reply->elements > (size_t) (set->nwaiting - first))
		return;
	for (size_t i = 0; i < reply->elements; i++)
		take_lease(set, set->waiting[first + i], reply->element[i]);
}

/* Remove what is no JSON from keys that will not be leased. */
static void
drop_bad_values(LookupSet *set)
{
	SlateBatch	batch;

	slate_batch_init(&batch);
	for (int i = 0; i < set->nlookups; i++)
	{
		Lookup	   *lookup = &set->lookups[i];

		if (lookup->bad_value)
			slate_script_add_drop(&batch, lookup->key.start, lookup->key.len);
		lookup->bad_value = false;
	}
	if (batch.ncommands > 0 && !RecoveryInProgress())
		(void) exchange(&batch, NULL, NULL);
}

typedef struct RegisterState
{
	SlateBatch *batch;
	const Lookup *lookup;
	int64		ttl;
} RegisterState;

static void
register_in_family(const char *family, int familylen, void *arg)
{
	RegisterState *state = arg;
	SlateMember member = {{family, familylen}, state->lookup->key, state->ttl};

	slate_script_add_registrations(state->batch, NULL, &member, 1);
}

/* What no rule loads must be in the index of the key's families. */
static void
add_registrations(SlateBatch *batch, const Lookup *lookup, int64 ttl)
{
	RegisterState state = {batch, lookup, ttl};

	if (lookup->by_query)
		slate_rules_families(lookup->key.start, lookup->key.len,
							 register_in_family, &state);
}

static void
ask_for_leases(LookupSet *set, int64 ttl)
{
	SlateBatch	batch;

	slate_batch_init(&batch);
	for (int i = 0; i < set->nwaiting; i++)
	{
		Lookup	   *lookup = set->waiting[i];

		if (lookup->bad_value)
			slate_script_add_drop(&batch, lookup->key.start, lookup->key.len);
		lookup->bad_value = false;
		add_registrations(&batch, lookup, ttl);
	}
	set->first_lease = batch.ncommands;
	set->unregistered = false;
	set->is_strange = false;
	add_keys_waiting(&batch, set, set->nwaiting, slate_trust_add_leases);
	(void) exchange(&batch, on_lease_reply, set);
	for (int i = 0; i < set->nwaiting; i++)
	{
		Lookup	   *lookup = set->waiting[i];

		slate_stats_add(STAT_BAD_VALUES, lookup->wrong_type ? 1 : 0);

		/* of no use then */
		if (set->unregistered)
			lookup->leased = false;
	}
}

/*
 * LEASE the keys that are waiting.  What turns out to have a value after all
 * is done.  ttl is the one that free keys will be filled with.  After a FLUSHALL
 * the worker comes first, and then it is worth asking once more.
 */
static void
lease_waiting(LookupSet *set, int64 ttl)
{
	int			nleft = 0;

	if (set->nwaiting == 0)
		return;
	ask_for_leases(set, ttl);
	if (set->is_strange && slate_trust_should_lease_again())
	{
		for (int i = 0; i < set->nwaiting; i++)
		{
			if (!set->waiting[i]->done)
				set->waiting[nleft++] = set->waiting[i];
		}
		set->nwaiting = nleft;
		if (nleft > 0)
			ask_for_leases(set, ttl);
	}
	slate_pause(PAUSE_AFTER_LEASE);
}

/* Registrations answer with an array. */
static void
on_fill_reply(int index pg_attribute_unused(), const redisReply *reply,
			  void *arg)
{
	LookupSet  *set = arg;

	if (reply->type == REDIS_REPLY_ARRAY)
		return;
	if (reply->type == REDIS_REPLY_INTEGER && reply->integer == 1)
		set->filled++;
	else
		set->refused++;
}

/*
 * Add a FILL, if the key has a lease and the value may be kept.  Its time in the
 * index begins anew, or after a long query the index would forget it first.
 */
static void
add_fill(SlateBatch *batch, const Lookup *lookup, const char *json, int len,
		 int64 ttl)
{
	if (!lookup->leased)
		return;
	if (len > (int64) slate_render_max_value * 1024)
	{
		slate_stats_add(STAT_VALUES_TOO_LARGE, 1);
		return;
	}
	add_registrations(batch, lookup, ttl);
	slate_script_add_fill(batch, lookup->key.start, lookup->key.len,
						  lookup->token, json, len, ttl);
}

static void
run_fills(LookupSet *set, SlateBatch *batch)
{
	if (batch->ncommands == 0)
		return;

	/* a volatile function in the query may have written something */
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	slate_pause(PAUSE_BEFORE_FILL);
	set->filled = set->refused = 0;
	if (exchange(batch, on_fill_reply, set) == REDIS_DONE)
	{
		slate_stats_add(STAT_FILLS, set->filled);
		slate_stats_add(STAT_FILLS_REFUSED, set->refused);
	}
}

/* ------------------------------------------------------------------------
 * get, mget
 * ------------------------------------------------------------------------
 */

/*
 * The near cache has what a rule covers.  Its lease comes before the value is
 * read, from wherever.
 */
static void
look_near(Lookup *lookup)
{
	if (!lookup->covered || lookup->bypass || lookup->done)
		return;
	slate_near_lease(lookup->key, &lookup->near);
	lookup->value = slate_near_get(lookup->key, &lookup->near);
	if (lookup->value == NULL)
		return;
	lookup->done = true;
	slate_stats_add(STAT_HITS, 1);
	slate_stats_add(STAT_NEAR_HITS, 1);
}

/* A query may have written something, and read it. */
static void
keep_near(Lookup *lookup)
{
	if (lookup->near.valid && !lookup->bypass && lookup->value &&
		!transaction_bypasses())
		slate_near_put(lookup->key, &lookup->near, lookup->value, lookup->ttl);
}

/*
 * Whether rows are hidden from us was asked before we may have waited for the
 * table's lock.  What is left of them is no value for all.
 */
static void
keep_hidden(Lookup *lookup)
{
	SlateMatch	match = {0};

	while (slate_rules_match(lookup->key.start, lookup->key.len, &match))
	{
		if (check_enable_rls(match.rule->relation->relid, InvalidOid,
							 true) != RLS_ENABLED)
			continue;
		lookup->leased = false;
		lookup->bypass = true;
	}
}

/* What is not done yet, to be loaded; NULL: all is. */
static SlateLoad *
collect_loads(LookupSet *set, int *nloads)
{
	SlateLoad  *loads = NULL;

	*nloads = 0;
	for (int i = 0; i < set->nlookups; i++)
	{
		Lookup	   *lookup = &set->lookups[i];

		if (lookup->done)
			continue;
		if (loads == NULL)
			loads = palloc0_array(SlateLoad, set->nlookups);
		loads[*nloads].key = lookup->key;
		loads[(*nloads)++].arg = lookup;
	}
	return loads;
}

/* What was loaded is the answer, and is filled where there is a lease. */
static void
take_load(const SlateLoad *load, SlateBatch *fills)
{
	Lookup	   *lookup = load->arg;

	keep_hidden(lookup);

	/* its rule's by its text alone */
	if (!load->possible && lookup->bypass_rows)
	{
		lookup->covered = lookup->bypass = false;
		return;
	}
	slate_stats_add(STAT_BYPASSES, lookup->bypass_rows ? 1 : 0);
	lookup->done = true;
	if (load->json == NULL)
		return;
	lookup->value = slate_value_from_json(load->json);
	lookup->ttl = load->ttl;
	add_fill(fills, lookup, load->json, load->len, load->ttl);
}

static void
load_and_fill(LookupSet *set)
{
	int			nloads;
	SlateLoad  *loads = collect_loads(set, &nloads);
	SlateBatch	fills;

	if (nloads == 0)
		return;
	slate_load(loads, nloads);
	slate_batch_init(&fills);
	for (int i = 0; i < nloads; i++)
	{
		take_load(&loads[i], &fills);
		if (slate_batch_size(&fills) > FILL_BYTES)
		{
			run_fills(set, &fills);
			slate_batch_reset(&fills);
		}
	}
	run_fills(set, &fills);
	for (int i = 0; i < nloads; i++)
		keep_near(loads[i].arg);
}

/*
 * A key that a template fits, but no row ("a:42:lines" by "a:{id}"), is as good
 * as one without a rule: what Redis has is the answer, whatever rows we see.
 * Only loading has told which they are.
 */
static void
get_strangers(LookupSet *set)
{
	get_from_cache(set);
	drop_bad_values(set);
}

static LookupSet *
make_set(int nlookups)
{
	LookupSet  *set = palloc0_object(LookupSet);

	slate_script_find_nodes(LINK_WAIT_INTERRUPTIBLE);
	set->is_elsewhere = slate_trust_is_elsewhere();
	set->nlookups = nlookups;
	set->lookups = palloc0_array(Lookup, nlookups);
	set->waiting = palloc_array(Lookup *, nlookups);
	return set;
}

/* Keys that go together. */
static void
read_portion(LookupSet *set)
{
	for (int i = 0; i < set->nlookups; i++)
	{
		classify(set, &set->lookups[i]);
		look_near(&set->lookups[i]);
	}
	get_from_cache(set);
	for (int i = 0; i < set->nwaiting; i++)
		keep_near(set->waiting[i]);

	set->nwaiting = 0;
	for (int i = 0; i < set->nlookups; i++)
	{
		Lookup	   *lookup = &set->lookups[i];

		lookup->done |= !lookup->covered;
		if (!lookup->done && !lookup->bypass)
			set->waiting[set->nwaiting++] = lookup;
	}
	if (!RecoveryInProgress())
		lease_waiting(set, 0);
	drop_bad_values(set);
	load_and_fill(set);
	get_strangers(set);
}

/*
 * So many keys that others of Redis wait for it, and time runs out, are read in
 * portions.
 */
static void
read_through(LookupSet *set)
{
	for (int done = 0; done < set->nlookups; done += KEYS_AT_ONCE)
	{
		LookupSet	portion = *set;

		CHECK_FOR_INTERRUPTS();
		portion.lookups += done;
		portion.nlookups = Min(set->nlookups - done, KEYS_AT_ONCE);
		portion.nwaiting = 0;
		portion.failed = false;
		read_portion(&portion);
	}
}

Datum
slate_cache_get(PG_FUNCTION_ARGS)
{
	LookupSet  *set = make_set(1);

	set->lookups[0].key = slate_read_key_argument(PG_GETARG_TEXT_PP(0));
	read_through(set);
	if (set->lookups[0].value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(set->lookups[0].value);
}

/* A key of mget's array, and its place there. */
typedef struct ArrayKey
{
	SlateSlice	key;			/* first, for slate_slice_compare() */
	int			position;
} ArrayKey;

/* Lookups for keys without duplicates; where[i] is the ith one's, or -1 */
static LookupSet *
lookups_for_keys(Datum *keys, bool *nulls, int nkeys, int *where)
{
	LookupSet  *set = make_set(nkeys + 1);
	ArrayKey   *sorted = palloc_array(ArrayKey, nkeys + 1);
	int			nsorted = 0;

	for (int i = 0; i < nkeys; i++)
	{
		where[i] = -1;
		if (nulls[i])
			continue;
		sorted[nsorted].key = slate_read_key_argument(DatumGetTextPP(keys[i]));
		sorted[nsorted++].position = i;
	}
	qsort(sorted, nsorted, sizeof(ArrayKey), slate_slice_compare);

	set->nlookups = 0;
	for (int i = 0; i < nsorted; i++)
	{
		if (i == 0 || slate_slice_compare(&sorted[i], &sorted[i - 1]) != 0)
			set->lookups[set->nlookups++].key = sorted[i].key;
		where[sorted[i].position] = set->nlookups - 1;
	}
	return set;
}

Datum
slate_cache_mget(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	LookupSet  *set;
	Datum	   *keys;
	bool	   *nulls;
	int			nkeys;
	int		   *where;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false,
					  TYPALIGN_INT, &keys, &nulls, &nkeys);
	where = palloc_array(int, nkeys + 1);
	set = lookups_for_keys(keys, nulls, nkeys, where);
	read_through(set);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (int i = 0; i < nkeys; i++)
	{
		Jsonb	   *value = where[i] < 0 ? NULL : set->lookups[where[i]].value;
		Datum		row[2] = {keys[i], JsonbPGetDatum(value)};
		bool		isnull[2] = {nulls[i], value == NULL};

		tuplestore_putvalues(result->setResult, result->setDesc, row, isnull);
	}
	return (Datum) 0;
}

Datum
slate_cache_peek(PG_FUNCTION_ARGS)
{
	LookupSet  *set = make_set(1);
	Lookup	   *lookup = &set->lookups[0];
	SlateMatch	match = {0};

	lookup->key = slate_read_key_argument(PG_GETARG_TEXT_PP(0));
	while (slate_rules_match(lookup->key.start, lookup->key.len, &match))
		check_may_see(set, lookup, match.rule->relation->relid);
	get_from_cache(set);
	drop_bad_values(set);
	if (lookup->value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(lookup->value);
}

/* ------------------------------------------------------------------------
 * fetch
 * ------------------------------------------------------------------------
 */

/*
 * A query may read tables whose writers commit asynchronously.  What a crash
 * can take back must not be cached.  (Writers of tables with rules do not.)
 */
static void
flush_what_was_read(const Lookup *lookup)
{
	XLogRecPtr	end;

	if (!lookup->leased || RecoveryInProgress())
		return;

	/* the position may be that of a record that is to come, on a new page */
	end = GetXLogInsertRecPtr();
	if (end % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		end -= SizeOfXLogShortPHD;
	else if (XLogSegmentOffset(end, wal_segment_size) == SizeOfXLogLongPHD)
		end -= SizeOfXLogLongPHD;
	if (XLogNeedsFlush(end))
		XLogFlush(end);
}

/* Of a fetch, whose key is not null; returns the TTL. */
static int64
take_arguments(FunctionCallInfo fcinfo, Lookup *lookup, SlateQuery *query)
{
	int64		ttl;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("query must not be null"),
				 errdetail("On a miss there would be nothing to load."),
				 errhint("slate_cache_get() reads a key without a query.")));
	lookup->key = slate_read_key_argument(PG_GETARG_TEXT_PP(0));
	lookup->by_query = true;
	ttl = slate_read_ttl(lookup->key,
						 PG_ARGISNULL(2) ? NULL : PG_GETARG_INTERVAL_P(2));
	query->text = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!PG_ARGISNULL(3))
		slate_query_set_arguments(query, PG_GETARG_ARRAYTYPE_P(3));
	return ttl;
}

/* A query reads what it likes: so the cache is bypassed without a rule, too. */
static void
classify_query(LookupSet *set, Lookup *lookup)
{
	bool		is_counted;

	classify(set, lookup);
	is_counted = lookup->bypass && !lookup->bypass_rows;
	if (transaction_bypasses() || set->is_elsewhere)
		lookup->bypass = true;
	if (lookup->bypass && !lookup->done && !is_counted)
		slate_stats_add(STAT_BYPASSES, 1);
}

static void
run_query(LookupSet *set, Lookup *lookup, SlateQuery *query, int64 ttl)
{
	SlateBatch	fill;
	int			len = 0;
	char	   *json = slate_query_run(query, &len);

	lookup->value = json ? slate_value_from_json(json) : NULL;
	keep_hidden(lookup);
	flush_what_was_read(lookup);
	slate_batch_init(&fill);

	/* it may have seen what slate_cache_set() has for this transaction */
	if (lookup->value && !slate_pending_has_any())
		add_fill(&fill, lookup, json, len, ttl);
	run_fills(set, &fill);
}

Datum
slate_cache_fetch(PG_FUNCTION_ARGS)
{
	LookupSet  *set = make_set(1);
	Lookup	   *lookup = &set->lookups[0];
	SlateQuery	query = {0};
	int64		ttl;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	ttl = take_arguments(fcinfo, lookup, &query);
	classify_query(set, lookup);
	get_from_cache(set);
	if (!lookup->done && !lookup->bypass && !RecoveryInProgress() &&
		!slate_pending_has_any())
	{
		set->waiting[0] = lookup;
		set->nwaiting = 1;
		lease_waiting(set, ttl);
	}
	if (!lookup->done)
		run_query(set, lookup, &query, ttl);
	if (lookup->value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(lookup->value);
}

int64
slate_read_ttl(SlateSlice key, const Interval *given)
{
	int64		ttl;

	if (given)
		return slate_rule_interval_ttl(given);
	ttl = slate_rules_ttl(key.start, key.len);
	return ttl >= 0 ? ttl : (int64) slate_rule_default_ttl * 1000;
}
