/*-------------------------------------------------------------------------
 *
 * walk.c
 *	  All keys of a table, batch by batch.
 *
 * A batch has as many keys as about SLATE_WALK_BYTES of values allow, going by
 * the batch before: so memory is bounded however large the table is, and no
 * exchange with Redis is large, but for a single large value.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "exchange.h"
#include "executor/spi.h"
#include "keyname.h"
#include "rowjson.h"
#include "script.h"
#include "select.h"
#include "storage/latch.h"
#include "trust.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"
#include "walk.h"

#define MAX_BATCH_KEYS 500
#define FIRST_BATCH_KEYS 16

/* An exchange may take so long (ms): no commit waits for it. */
#define MIN_PATIENCE 5000

/* Wait so long (ms) for a Redis that has just come back; try so often. */
#define RETRY_TIME 2000
#define RETRY_INTERVAL 50

/* ------------------------------------------------------------------------
 * Who may, and when
 * ------------------------------------------------------------------------
 */

void
slate_walk_check_transaction(const char *function)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot be used in a REPEATABLE READ or SERIALIZABLE transaction",
						function),
				 errdetail("Such a transaction sees the tables as they were at its beginning; Redis holds what is there now."),
				 errhint("Call it in READ COMMITTED.")));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot be used in a transaction that has changed something",
						function),
				 errdetail("It would take changes for committed that others do not see."),
				 errhint("Commit first.")));
}

static void
check_may_see(Oid relid)
{
	bool		is_missing = false;
	AclResult	result = pg_class_aclcheck_ext(relid, GetUserId(), ACL_SELECT,
											   &is_missing);

	if (is_missing || !OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table with OID %u does not exist", relid),
				 errdetail("It may have been dropped a moment ago."),
				 errhint("Name the table, as in 'invoices'.")));
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, get_rel_name(relid));
	if (check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row-level security hides rows of table \"%s\" from role \"%s\"",
						get_rel_name(relid),
						GetUserNameFromId(GetUserId(), false)),
				 errdetail("The cache holds rows of all users."),
				 errhint("Call it as a role that bypasses row-level security.")));
}

/* A partition's trigger is its parent's, and so are its keys. */
static bool
has_rules_of_its_own(Oid relid)
{
	ListCell   *lc;

	foreach(lc, slate_rules_all())
	{
		if (((SlateRelation *) lfirst(lc))->relid == relid)
			return true;
	}
	return false;
}

static SlateRelation *
rules_of_table(Relation relation)
{
	const char *name = RelationGetRelationName(relation);
	SlateRelation *rules = slate_rules_get(relation);

	if (rules == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no cache rules", name),
				 errdetail("Nothing of it is cached."),
				 errhint("Give it rules with slate_cache_attach().")));
	if (!has_rules_of_its_own(rules->relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has the cache rules of the table that it is a partition of",
						name),
				 errdetail("A partition has the rules of its parent."),
				 errhint("Name the partitioned table.")));
	return rules;
}

/* " FROM ONLY name"; a partitioned table's rows are its partitions' */
static char *
from_clause(Relation relation)
{
	bool		only = relation->rd_rel->relkind == RELKIND_RELATION;
	Oid			namespace = RelationGetNamespace(relation);

	return psprintf(" FROM %s%s.%s", only ? "ONLY " : "",
					quote_identifier(get_namespace_name(namespace)),
					quote_identifier(RelationGetRelationName(relation)));
}

/*
 * What others push must get to ours.  One that cannot be reached is another
 * error's, when it is asked for something.
 */
static void
check_redis(void)
{
	if (slate_trust_is_elsewhere() && slate_redis_connection() != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this session uses another Redis than the database's worker"),
				 errdetail("What others change is not told to the Redis that slate_cache.url names here."),
				 errhint("Connect anew: a session keeps the settings of its database and role that it began with.")));
}

void
slate_walk_begin(SlateWalk *walk, Oid relid)
{
	Relation	relation;

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("table must not be null"),
				 errdetail("The first argument is the table, as a regclass."),
				 errhint("For instance 'invoices'.")));
	check_may_see(relid);
	relation = try_relation_open(relid, AccessShareLock);
	check_may_see(relid);		/* or has it gone meanwhile? */
	Assert(relation != NULL);
	walk->rules = rules_of_table(relation);

	walk->from = from_clause(relation);
	relation_close(relation, NoLock);
	slate_script_find_nodes(LINK_WAIT_INTERRUPTIBLE);
	check_redis();

	walk->batch_size = FIRST_BATCH_KEYS;
	walk->batch = AllocSetContextCreate(CurrentMemoryContext,
										"slate_cache batch",
										ALLOCSET_DEFAULT_SIZES);
	walk->queue = AllocSetContextCreate(CurrentMemoryContext,
										"slate_cache keys",
										ALLOCSET_DEFAULT_SIZES);
	walk->maxkeys = 2 * MAX_BATCH_KEYS;
	walk->keys = palloc_array(SlateSlice, walk->maxkeys);
}

static bool
is_key_text(SlateSlice key)
{
	return key.len > 0 && key.len <= SLATE_KEY_MAX &&
		!slate_keyname_is_internal(key.start, key.len) &&
		pg_verify_mbstr(GetDatabaseEncoding(), key.start, key.len, true);
}

/* What Redis has under a key may be another table's that has it, too. */
static bool
may_see_other(Oid relid)
{
	Oid			schema = get_rel_namespace(relid);
	bool		is_missing = false;

	/* gone meanwhile: then it is nobody's */
	return OidIsValid(schema) &&
		pg_class_aclcheck_ext(relid, GetUserId(), ACL_SELECT,
							  &is_missing) == ACLCHECK_OK &&
		compat_schema_aclcheck(schema, GetUserId(), ACL_USAGE) == ACLCHECK_OK &&
		check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED;
}

bool
slate_walk_owns(const SlateWalk *walk, SlateSlice key)
{
	SlateMatch	match = {0};
	bool		found = false;

	if (!is_key_text(key))
		return false;
	while (slate_rules_match(key.start, key.len, &match))
	{
		const SlateRelation *relation = match.rule->relation;

		if (relation->relid == walk->rules->relid)
			found = true;
		else if (!may_see_other(relation->relid))
			return false;

		/* nobody would keep it right */
		if (walk->fills && !relation->enabled)
			return false;
	}
	return found;
}

/* ------------------------------------------------------------------------
 * Exchanges
 * ------------------------------------------------------------------------
 */

typedef struct Exchange
{
	SlateReplyFn reply_fn;
	void	   *arg;
	char		error[192];		/* the first error reply, or "" */
} Exchange;

static void
on_reply(int index, const redisReply *reply, void *arg)
{
	Exchange   *state = arg;

	if (reply->type == REDIS_REPLY_ERROR &&
		!slate_link_is_error(reply, "WRONGTYPE"))
	{
		if (state->error[0] == '\0')
			slate_link_words(state->error, sizeof(state->error), reply, NULL);
	}
	else if (state->reply_fn != NULL)
		state->reply_fn(index, reply, state->arg);
}

void
slate_walk_wait(int64 ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 (long) ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
check_status(SlateRedisStatus status)
{
	if (status != REDIS_DONE)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not reach Redis"),
				 errdetail("%s", slate_redis_error()),
				 errhint("See slate_cache.health, then call the function again.")));
}

static int64
exchange_deadline(void)
{
	return slate_link_now() + Max(slate_redis_timeout, MIN_PATIENCE);
}

/*
 * A Redis that was away a moment ago is tried again, and one that has been
 * restarted is examined by the worker, soon enough to wait for it.
 */
static void
prepare_connection(void)
{
	int64		end = slate_link_now() + RETRY_TIME;

	for (;;)
	{
		int64		deadline = exchange_deadline();
		SlateRedisStatus status = slate_script_prepare(deadline,
													   LINK_WAIT_INTERRUPTIBLE);
		bool		last = slate_link_now() >= end;

		if (status == REDIS_DONE && slate_trust_reads(&deadline))
			return;
		if (last || status != REDIS_RESTING)
			check_status(status);
		if (last)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the history of Redis is unknown"),
					 errdetail("Its keys are removed before it is trusted again."),
					 errhint("See slate_cache.health, then call the function again.")));
		slate_walk_wait(RETRY_INTERVAL);
	}
}

void
slate_walk_exchange(const SlateBatch *batch, SlateReplyFn reply_fn, void *arg)
{
	Exchange	state = {reply_fn, arg, ""};

	if (batch->ncommands == 0)
		return;
	prepare_connection();
	check_status(slate_exchange_run(batch, on_reply, &state,
									exchange_deadline(),
									LINK_WAIT_INTERRUPTIBLE));
	if (state.error[0])
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("Redis refused a command"),
				 errdetail("%s", state.error),
				 errhint("See slate_cache.health, then call the function again.")));
}

/* ------------------------------------------------------------------------
 * Batches
 * ------------------------------------------------------------------------
 */

static void
add_key(SlateWalk *walk, const char *key, int keylen)
{
	char	   *copy = MemoryContextAlloc(walk->queue, keylen + 1);

	memcpy(copy, key, keylen);
	if (walk->nkeys == walk->maxkeys)
	{
		walk->maxkeys *= 2;
		walk->keys = repalloc_array(walk->keys, SlateSlice, walk->maxkeys);
	}
	walk->keys[walk->nkeys].start = copy;
	walk->keys[walk->nkeys++].len = keylen;
}

/* Sort keys; how many are different ones, which then come first? */
static int
unique_keys(SlateSlice *keys, int nkeys)
{
	int			n = 0;

	qsort(keys, nkeys, sizeof(SlateSlice), slate_slice_compare);
	for (int i = 0; i < nkeys; i++)
	{
		if (n == 0 || slate_slice_compare(&keys[i], &keys[n - 1]) != 0)
			keys[n++] = keys[i];
	}
	return n;
}

/* The next batch is larger while values are small, and the other way round. */
void
slate_walk_adapt(SlateWalk *walk, Size bytes)
{
	if (bytes > SLATE_WALK_BYTES)
		walk->batch_size = Max(walk->batch_size / 2, 1);
	else if (bytes < SLATE_WALK_BYTES / 4)
		walk->batch_size = Min(walk->batch_size * 2, MAX_BATCH_KEYS);
}

static void
work_off(SlateWalk *walk)
{
	int			nkeys = unique_keys(walk->keys, walk->nkeys);
	int			n;

	for (int start = 0; start < nkeys; start += n)
	{
		MemoryContext old = MemoryContextSwitchTo(walk->batch);
		Size		bytes;

		CHECK_FOR_INTERRUPTS();
		n = Min(walk->batch_size, nkeys - start);
		bytes = walk->fn(walk, walk->keys + start, n);
		MemoryContextSwitchTo(old);
		MemoryContextReset(walk->batch);
		slate_walk_adapt(walk, bytes);
	}
	MemoryContextReset(walk->queue);
	walk->nkeys = 0;
}

/* ------------------------------------------------------------------------
 * Keys of the table's rows
 * ------------------------------------------------------------------------
 */

bool
slate_walk_has_values(const SlateRule *rule)
{
	return rule->kind == RULE_ROW || rule->kind == RULE_LIST;
}

static Bitmapset *
add_columns(Bitmapset *columns, const SlateRule *rule)
{
	for (int i = 0; i < rule->template->ncolumns; i++)
		columns = bms_add_member(columns, rule->attnums[i]);
	return columns;
}

static void
append_columns(StringInfo sql, const SlateRelation *rules, Bitmapset *columns)
{
	int			column = -1;
	const char *separator = "";

	while ((column = bms_next_member(columns, column)) >= 0)
	{
		Form_pg_attribute attribute = TupleDescAttr(rules->desc, column - 1);

		appendStringInfo(sql, "%s%s", separator,
						 quote_identifier(NameStr(attribute->attname)));
		separator = ", ";
	}
}

/* A row of the table with these columns and no others, for its keys. */
static HeapTuple
row_of_columns(const SlateRelation *rules, Bitmapset *columns,
			   SPITupleTable *table, uint64 row)
{
	int			natts = rules->desc->natts;
	Datum	   *values = palloc0_array(Datum, natts);
	bool	   *nulls = palloc_array(bool, natts);
	int			column = -1;
	int			n = 0;

	memset(nulls, true, natts * sizeof(bool));
	while ((column = bms_next_member(columns, column)) >= 0)
		values[column - 1] = SPI_getbinval(table->vals[row], table->tupdesc,
										   ++n, &nulls[column - 1]);
	return heap_form_tuple(rules->desc, values, nulls);
}

static void
add_keys_of_row(SlateWalk *walk, HeapTuple tuple, SlateRule *only)
{
	SlateRelation *rules = walk->rules;
	StringInfoData key;
	bool		too_long;

	initStringInfo(&key);
	for (int i = 0; i < rules->nrules; i++)
	{
		SlateRule  *rule = &rules->rules[i];

		resetStringInfo(&key);
		if ((only == NULL || rule == only) && slate_walk_has_values(rule) &&
			slate_rules_render(rule, tuple, &key, NULL, &too_long))
			add_key(walk, key.data, key.len);
	}
	pfree(key.data);
}

/* The keys of what a cursor has fetched. */
static void
add_keys_of_rows(SlateWalk *walk, SPITupleTable *table, uint64 nrows,
				 Bitmapset *columns, SlateRule *only)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "slate_cache rows",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			nestlevel = 0;

	if (walk->rules->key_needs_settings)
		nestlevel = slate_rowjson_begin_settings();
	for (uint64 i = 0; i < nrows; i++)
		add_keys_of_row(walk, row_of_columns(walk->rules, columns, table, i),
						only);
	if (nestlevel > 0)
		slate_rowjson_end_settings(nestlevel);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* Take the keys of a query's rows: of one rule, or of all. */
static void
walk_query(SlateWalk *walk, const char *sql, Bitmapset *columns,
		   SlateRule *only)
{
	Portal		portal;

	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	portal = slate_select_open(sql, 0, NULL, NULL, walk->rules->relid);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, walk->batch_size);
		if (SPI_processed == 0)
			break;
		add_keys_of_rows(walk, SPI_tuptable, SPI_processed, columns, only);
		SPI_freetuptable(SPI_tuptable);
		if (walk->nkeys >= walk->batch_size)
			work_off(walk);
	}
	work_off(walk);
	slate_select_close(portal);
	PopActiveSnapshot();
	SPI_finish();
}

/*
 * All keys of a rule.  Many rows share a list, and it should be loaded once.
 * Values that are equal may have different texts (1.0 and 1.00), and so make
 * different keys; so the texts are compared, too.
 */
void
slate_walk_rule(SlateWalk *walk, SlateRule *rule)
{
	Bitmapset  *columns = add_columns(NULL, rule);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, rule->kind == RULE_LIST ? "SELECT DISTINCT "
						   : "SELECT ");
	append_columns(&sql, walk->rules, columns);
	if (rule->kind == RULE_LIST)
	{
		appendStringInfoString(&sql, ", ROW(");
		append_columns(&sql, walk->rules, columns);
		appendStringInfoString(&sql, ")::pg_catalog.text"
							   " COLLATE pg_catalog.\"C\"");
	}
	appendStringInfoString(&sql, walk->from);
	walk_query(walk, sql.data, columns, rule);
}

/* All keys of so many rows, chosen at random. */
void
slate_walk_sample(SlateWalk *walk, int nrows)
{
	Bitmapset  *columns = NULL;
	StringInfoData sql;

	for (int i = 0; i < walk->rules->nrules; i++)
	{
		if (slate_walk_has_values(&walk->rules->rules[i]))
			columns = add_columns(columns, &walk->rules->rules[i]);
	}
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	append_columns(&sql, walk->rules, columns);
	appendStringInfo(&sql, "%s ORDER BY pg_catalog.random() LIMIT %d",
					 walk->from, nrows);
	walk_query(walk, sql.data, columns, NULL);
}

/* ------------------------------------------------------------------------
 * Keys in Redis
 * ------------------------------------------------------------------------
 */

typedef struct ScanStep
{
	SlateWalk  *walk;
	char		cursor[SLATE_CURSOR_SIZE];
} ScanStep;

static void
on_scan_reply(int index pg_attribute_unused(), const redisReply *reply,
			  void *arg)
{
	ScanStep   *step = arg;
	const redisReply *names = slate_script_take_scan(reply, step->cursor);

	if (names == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected reply of Redis to SCAN")));
	for (size_t i = 0; i < names->elements; i++)
	{
		if (names->element[i]->type == REDIS_REPLY_STRING)
			add_key(step->walk, names->element[i]->str,
					names->element[i]->len);
	}
}

/* What one node has. */
static void
walk_node(SlateWalk *walk, int node, const StringInfo glob)
{
	ScanStep	step = {walk, "0"};

	do
	{
		SlateBatch	batch;

		slate_batch_init_for(&batch, node);
		slate_script_add_scan(&batch, step.cursor, glob->data, glob->len);
		slate_walk_exchange(&batch, on_scan_reply, &step);
		slate_batch_free(&batch);
		if (walk->nkeys >= walk->batch_size)
			work_off(walk);
	} while (strcmp(step.cursor, "0") != 0);
	work_off(walk);
}

/* A glob that all keys of the table match: the text that they begin with. */
static void
append_common_glob(const SlateRelation *rules, StringInfo glob)
{
	const char *prefix = NULL;
	int			len = 0;

	for (int i = 0; i < rules->nrules; i++)
	{
		const SlateTemplatePart *part = &rules->rules[i].template->parts[0];
		int			common = 0;

		if (!slate_walk_has_values(&rules->rules[i]))
			continue;
		while (prefix && common < len && common < part->literal_len &&
			   part->literal[common] == prefix[common])
			common++;
		len = prefix ? common : part->literal_len;
		prefix = part->literal;
	}
	slate_glob_escape(glob, prefix, len);
	appendStringInfoChar(glob, '*');
}

void
slate_walk_redis(SlateWalk *walk)
{
	StringInfoData glob;

	initStringInfo(&glob);
	append_common_glob(walk->rules, &glob);
	for (int node = 0; node < slate_redis_nodes(); node++)
		walk_node(walk, node, &glob);
}
