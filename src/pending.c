/*-------------------------------------------------------------------------
 *
 * pending.c
 *	  What a transaction will tell Redis when it commits.
 *
 * THE WAY OF A CHANGE
 *
 * 1. Capture.  A trigger renders the keys of the old and the new row and adds
 *	  an operation for each: PUT with an image of the row, or DROP; or a glob.
 *	  The SQL write functions do the same with values of their own.  The last
 *	  operation on a key wins.  May throw.
 *
 * 2. Subtransactions.  There is a stack of levels, as in async.c; each level
 *	  holds what its subtransaction added, in a memory context of its own.
 *	  Rolling back deletes the level.  Committing must not throw, so it only
 *	  renumbers the level to its parent's depth; levels of one depth are merged
 *	  when the next operation is added, where memory may run out safely.
 *
 * 3. PRE_COMMIT.  Takes the version, under all locks that the transaction
 *	  holds; makes sure that there is a connection; writes the names of keys and
 *	  patterns to the journal; renders the images as JSON; encodes everything
 *	  that will be sent.  May throw, and then the transaction aborts and nothing
 *	  is sent; but it avoids to: no connection means that the push comes later,
 *	  not that the commit fails, and rows that cannot be rendered are dropped.
 *	  A transaction that pushes commits synchronously: Redis must not know what
 *	  a crash can take back, nor may readers fill it in.  In mode strict the keys
 *	  are marked in Redis, and if that cannot be done the transaction fails, see
 *	  strict.c.
 *
 * 4. Publish.  When the commit is visible and its locks are released, in the
 *	  resource owners' last phase: sends the bytes of step 3 and reads the
 *	  replies, within what is left of slate_cache.timeout (a transaction of
 *	  thousands of keys: in several exchanges, until one fails).  From here on an
 *	  ERROR would be a PANIC.  Nothing is allocated with palloc, nothing is
 *	  logged, no signal is answered, no connection is made.
 *	  Writers who get their locks in the meantime may push before us; the
 *	  versions put that right.  In mode async the bytes are left to the worker,
 *	  see ring.c and drain.c.
 *
 * 5. Sweep.  If globs were among it, keys that no index knows are looked for
 *	  with what is left of the time; the worker does the rest, see replay.c.
 *
 * 6. Acknowledge.  A transaction that has told all lets go of its place in the
 *	  journal; of others the worker replays the row, as DROPs.
 *
 * Abort forgets everything, and takes marks away.  PREPARE TRANSACTION writes
 * the journal and leaves the rest to the worker, which looks what becomes of
 * the transaction.
 *
 * Without a journal (the library is not preloaded, or slate_cache.journal is
 * off) a push that fails is lost: it is counted, and logged now and then.
 *
 * MEMORY
 *
 * A transaction holds slate_cache.max_pending bytes here at most, give or take
 * an operation.  Past that it first gives up its values: every PUT becomes a
 * DROP, which needs the key only.  If the keys alone are too many, it gives up
 * the keys: each rule that was touched drops all its keys by a glob; as it
 * does with its own globs when there are more than MAX_GLOBS.  All of it is
 * below TopTransactionContext, so every way out of a transaction frees it.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "pending.h"
#include "publish.h"
#include "redis.h"
#include "render.h"
#include "stats.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/*
 * With more globs than this in a list, a rule's keys are dropped by its
 * wildcard. Each glob costs Redis a call, and the worker room in its queue.
 */
#define MAX_GLOBS 256

/*
 * What one subtransaction has added.  It belongs to the transaction nesting
 * depth that is the least of its own and of those above it: a commit renumbers
 * the top alone.
 */
typedef struct PendingLevel
{
	struct PendingLevel *parent;
	int			depth;
	Size		bytes_below;	/* what the levels below hold */
	SlateOpList *list;			/* holds the level, too */
} PendingLevel;

typedef enum GivenUp
{
	KEEP_ALL,
	GAVE_UP_VALUES,
	GAVE_UP_KEYS
} GivenUp;

/* This transaction's; reset at its end. */
static struct
{
	PendingLevel *top;			/* innermost level; NULL: nothing pending */
	uint64		sequence;
	GivenUp		given_up;
	bool		closed;			/* being told to Redis; nothing more goes in */
	bool		at_once;		/* rules are going: see slate_pending_drop_all() */
} pending;

int			slate_pending_max = 16 * 1024;

static void keep_within_limit(void);

/* ------------------------------------------------------------------------
 * Levels
 * ------------------------------------------------------------------------
 */

/* What it and those below it take. */
static Size
bytes_of(const PendingLevel *level)
{
	return level ? level->bytes_below + level->list->bytes : 0;
}

static Size
pending_bytes(void)
{
	return bytes_of(pending.top);
}

/* To be put over others, or as the first of all. */
static PendingLevel *
make_level(bool is_first, int depth)
{
	SlateOpList *list = is_first ? slate_ops_create(TopTransactionContext)
		: slate_ops_create_small(TopTransactionContext);
	PendingLevel *level = MemoryContextAllocZero(list->context,
												 sizeof(PendingLevel));

	level->list = list;
	level->depth = depth;
	return level;
}

static PendingLevel *
push_level(int depth)
{
	PendingLevel *level = make_level(pending.top == NULL, depth);

	level->bytes_below = pending_bytes();
	level->parent = pending.top;
	return pending.top = level;
}

static void
pop_level(void)
{
	SlateOpList *list = pending.top->list;

	pending.top = pending.top->parent;
	slate_ops_delete(list);
}

/*
 * Merge the two innermost levels, the smaller into the larger, so that
 * thousands of nested savepoints do not copy the same operations again and
 * again.  If that runs out of memory half way, both are still there and say
 * the same.
 */
static void
merge_top(void)
{
	PendingLevel *child = pending.top;
	PendingLevel *parent = child->parent;

	if (child->list->nops + child->list->nglobs <=
		parent->list->nops + parent->list->nglobs)
	{
		slate_ops_merge(parent->list, child->list, true);
		parent->depth = Min(child->depth, parent->depth);
		pop_level();
		return;
	}
	slate_ops_merge(child->list, parent->list, false);
	child->parent = parent->parent;
	child->bytes_below = parent->bytes_below;
	child->depth = Min(child->depth, parent->depth);
	slate_ops_delete(parent->list);
}

/*
 * The list of the current subtransaction.  Committed subtransactions have
 * left levels of their parent's depth above it; they are merged first.
 */
static SlateOpList *
current_list(void)
{
	int			depth = GetCurrentTransactionNestLevel();

	/* a parallel worker's list would be lost at its end */
	PreventCommandIfParallelMode("a change of cached data");
	if (pending.closed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change cached data while the transaction is being committed"),
				 errhint("Casts to json must not change tables. A library that does so when a transaction commits must come after slate_cache in shared_preload_libraries.")));
	while (pending.top && pending.top->parent &&
		   pending.top->parent->depth >= pending.top->depth)
		merge_top();
	Assert(pending.top == NULL || pending.top->depth <= depth);
	if (pending.top && pending.top->depth == depth)
		return pending.top->list;
	return push_level(depth)->list;
}

/* ------------------------------------------------------------------------
 * Adding
 * ------------------------------------------------------------------------
 */

/* What it takes with all that is out of line. */
static Size
size_of_row(HeapTuple tuple, TupleDesc desc)
{
	Size		size = tuple->t_len;

	if (!HeapTupleHasExternal(tuple))
		return size;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		struct varatt_external pointer;
		Datum		value;
		bool		isnull;

		if (attribute->attlen != -1)
			continue;
		value = heap_getattr(tuple, i + 1, desc, &isnull);
		if (isnull || !VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(value)))
			continue;
		VARATT_EXTERNAL_GET_POINTER(pointer, DatumGetPointer(value));
		size += VARATT_EXTERNAL_GET_EXTSIZE(pointer);
	}
	return size;
}

SlateImage *
slate_pending_image(SlateRelation *relation, HeapTuple tuple)
{
	if (pending.given_up != KEEP_ALL || !relation->sets_values)
		return NULL;

	/* a row that cannot become a value of permitted size need not be kept */
	if (size_of_row(tuple, relation->desc) / 2 >
		(Size) slate_render_max_value * 1024)
	{
		slate_stats_add(STAT_VALUES_TOO_LARGE, 1);
		return NULL;
	}
	return slate_ops_keep_row(current_list(), relation, tuple);
}

/* A new operation on a key: a DROP, until it is made something else. */
static SlateOp *
begin_op(const char *key, int keylen)
{
	SlateSlice	slice = {key, keylen};

	return slate_ops_begin(current_list(), slice, ++pending.sequence);
}

static void
add_glob(const char *text, int len, const char *wildcard, bool thorough)
{
	SlateSlice	slice = {text, len};

	slate_ops_note_glob(current_list(), slice, ++pending.sequence, wildcard,
						thorough);
	keep_within_limit();
}

/* A rule's keys are too many to be named, and in too many families. */
static void
add_wildcard(SlateRule *rule)
{
	add_glob(rule->wildcard, strlen(rule->wildcard), rule->wildcard, true);
}

static void
add_rule_key(SlateRule *rule, const char *key, int keylen, SlateOrder order,
			 SlateImage *image)
{
	SlateOp    *op;

	if (pending.given_up == GAVE_UP_KEYS)
	{
		add_wildcard(rule);
		return;
	}
	op = begin_op(key, keylen);
	op->order = order;
	op->wildcard = rule->wildcard;
	if (image && pending.given_up == KEEP_ALL)
	{
		op->kind = OP_PUT_ROW;
		op->image = image;
		op->value_attnum = rule->value_attnum;
		op->ttl = slate_rule_ttl(rule);
	}
	keep_within_limit();
}

void
slate_pending_row_key(SlateRule *rule, const char *key, int keylen,
					  SlateImage *image)
{
	add_rule_key(rule, key, keylen, rule->order, image);
}

void
slate_pending_rule_drop(SlateRule *rule, const char *key, int keylen)
{
	add_rule_key(rule, key, keylen, SLATE_SHARED, NULL);
}

void
slate_pending_rule_glob(SlateRule *rule, const char *glob, int globlen)
{
	if (pending.given_up == GAVE_UP_KEYS)
		add_wildcard(rule);
	else if (current_list()->nglobs < MAX_GLOBS)
		add_glob(glob, globlen, rule->wildcard, false);
	else
		add_wildcard(rule);
}

static void
refuse_more(void)
{
	if (pending.given_up == GAVE_UP_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many cache changes in one transaction"),
				 errdetail("The keys of this transaction exceed slate_cache.max_pending (%d kB).",
						   slate_pending_max),
				 errhint("Raise slate_cache.max_pending, use fewer keys in one transaction, or drop them by a pattern.")));
}

void
slate_pending_put(const char *key, int keylen, const char *value, int valuelen,
				  int64 ttl)
{
	SlateOp    *op;

	refuse_more();
	op = begin_op(key, keylen);
	if (valuelen > (int64) slate_render_max_value * 1024)
	{
		slate_stats_add(STAT_VALUES_TOO_LARGE, 1);
		ereport(WARNING,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("value is too large to be cached"),
				 errdetail("The value of \"%.*s\" has %d bytes, more than slate_cache.max_value (%d kB); the key is dropped instead.",
						   keylen, key, valuelen, slate_render_max_value),
				 errhint("Raise slate_cache.max_value, or keep less under one key.")));
	}
	else if (pending.given_up == KEEP_ALL)
	{
		op->value = slate_ops_keep_value(current_list(), value, valuelen);
		op->valuelen = valuelen;
		op->ttl = ttl;
		op->kind = OP_PUT_VALUE;
	}
	keep_within_limit();
}

void
slate_pending_drop(const char *key, int keylen)
{
	refuse_more();
	(void) begin_op(key, keylen);
	keep_within_limit();
}

/* A glob without wildcards is one key. */
static void
add_glob_or_key(const char *glob, int len)
{
	StringInfoData key;

	if (slate_glob_is_pattern(glob, len))
	{
		add_glob(glob, len, NULL, true);
		return;
	}
	initStringInfo(&key);
	slate_glob_unescape(&key, glob, len);
	(void) begin_op(key.data, key.len);
	pfree(key.data);
	keep_within_limit();
}

void
slate_pending_glob(const char *glob, int globlen)
{
	refuse_more();
	add_glob_or_key(glob, globlen);
}

void
slate_pending_drop_all(const char *wildcard)
{
	pending.at_once = true;
	add_glob_or_key(wildcard, strlen(wildcard));
}

/* ------------------------------------------------------------------------
 * Giving up
 * ------------------------------------------------------------------------
 */

/* Count again what each level holds, from the outermost. */
static void
recount(PendingLevel *level)
{
	Size		bytes = 0;

	for (PendingLevel *each = level; each; each = each->parent)
		bytes += each->list->bytes;
	for (; level; level = level->parent)
	{
		bytes -= level->list->bytes;
		level->bytes_below = bytes;
	}
}

/*
 * Every PUT of every level becomes a DROP.  Rolling back does not undo that,
 * unless nothing is left.
 */
static void
give_up_values(void)
{
	pending.given_up = GAVE_UP_VALUES;
	slate_stats_add(STAT_FALLBACKS, 1);
	for (PendingLevel *level = pending.top; level; level = level->parent)
		slate_ops_give_up_values(level->list);
	recount(pending.top);
}

/* The same levels, with globs only. */
static PendingLevel *
levels_of_globs(const PendingLevel *level)
{
	PendingLevel *top = NULL;
	PendingLevel **into = &top;

	for (; level; level = level->parent)
	{
		*into = make_level(level->parent == NULL, level->depth);
		slate_ops_add_covering_globs((*into)->list, level->list);
		into = &(*into)->parent;
	}
	recount(top);
	return top;
}

/* If that runs out of memory half way, all is as it was. */
static void
give_up_keys(void)
{
	PendingLevel *old = pending.top;

	pending.top = levels_of_globs(old);
	pending.given_up = GAVE_UP_KEYS;
	while (old)
	{
		SlateOpList *list = old->list;

		old = old->parent;
		slate_ops_delete(list);
	}
}

static void
keep_within_limit(void)
{
	Size		limit = (Size) slate_pending_max * 1024;

	if (pending_bytes() > limit && pending.given_up == KEEP_ALL)
		give_up_values();
	if (pending_bytes() > limit && pending.given_up == GAVE_UP_VALUES)
		give_up_keys();
}

/* ------------------------------------------------------------------------
 * Looking
 * ------------------------------------------------------------------------
 */

static bool
glob_since(SlateSlice key, uint64 sequence)
{
	for (PendingLevel *level = pending.top; level; level = level->parent)
	{
		if (slate_ops_glob_since(level->list, key, sequence))
			return true;
	}
	return false;
}

SlatePendingAnswer
slate_pending_lookup(const char *key, int keylen, const char **value)
{
	SlateSlice	slice = {key, keylen};

	for (PendingLevel *level = pending.top; level; level = level->parent)
	{
		SlateOp    *op = slate_ops_find(level->list, slice);

		if (op == NULL)
			continue;
		if (op->kind != OP_PUT_VALUE || glob_since(slice, op->sequence))
			return PENDING_GONE;
		*value = op->value;
		return PENDING_VALUE;
	}
	return glob_since(slice, 0) ? PENDING_GONE : PENDING_NOTHING;
}

bool
slate_pending_has_any(void)
{
	return pending.top != NULL;
}

/* ------------------------------------------------------------------------
 * Ends of transactions
 * ------------------------------------------------------------------------
 */

/* All levels become one, and no more goes in. */
static void
close_list(void)
{
	while (pending.top && pending.top->parent)
	{
		CHECK_FOR_INTERRUPTS();
		merge_top();
	}
	pending.closed = true;
}

static void
pre_commit(void)
{
	slate_stats_log_losses();
	close_list();
	if (pending.top == NULL)
		return;
	if (pending.top->list->nops + pending.top->list->nglobs == 0)
		return;
	ForceSyncCommit();
	slate_publish_prepare(pending.top->list,
						  (Size) slate_pending_max * 1024 * 4,
						  pending.at_once);
}

static void
pre_prepare(void)
{
	close_list();
	if (pending.top == NULL)
		return;
	if (pending.top->list->nops + pending.top->list->nglobs == 0)
		return;
	if (!slate_publish_hand_over(pending.top->list))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has changed cached data without a journal and a worker"),
				 errdetail("Nobody would remember to tell Redis of its changes when another session commits it."),
				 errhint("Add slate_cache to shared_preload_libraries, switch slate_cache.journal on, use the slate_cache.url of the database's worker, and see in slate_cache.health whether there is one; or commit without PREPARE TRANSACTION.")));
}

/* The lists themselves go with TopTransactionContext. */
static void
forget(void)
{
	memset(&pending, 0, sizeof(pending));
	slate_rules_end_of_transaction();
}

/*
 * Called for each resource owner and phase.  The last phase of the top-level
 * transaction's is the first moment after the locks are gone, and the memory
 * of the transaction is still there.
 */
static void
on_resource_release(ResourceReleasePhase phase, bool is_commit,
					bool is_top_level, void *arg pg_attribute_unused())
{
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	if (is_commit)
		slate_publish_send();
	else
		slate_publish_forget();
}

static void
on_transaction(XactEvent event, void *arg pg_attribute_unused())
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			pre_commit();
			break;
		case XACT_EVENT_PRE_PREPARE:
			pre_prepare();
			break;
		case XACT_EVENT_COMMIT:
			/* what publishing still needs it has, in the same context */
			forget();
			break;
		case XACT_EVENT_PREPARE:
			slate_publish_prepared();
			forget();
			break;
		case XACT_EVENT_ABORT:
			forget();
			slate_redis_watch_idle();
			break;
		default:				/* parallel workers never have anything */
			break;
	}
}

static void
on_subtransaction(SubXactEvent event,
				  SubTransactionId subid pg_attribute_unused(),
				  SubTransactionId parent pg_attribute_unused(),
				  void *arg pg_attribute_unused())
{
	int			depth = GetCurrentTransactionNestLevel();

	switch (event)
	{
		case SUBXACT_EVENT_COMMIT_SUB:
			/* those below are no deeper than the one above them */
			if (pending.top && pending.top->depth >= depth)
				pending.top->depth = depth - 1;
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			while (pending.top && pending.top->depth >= depth)
				pop_level();
			if (pending.top == NULL)
				pending.given_up = KEEP_ALL;
			break;
		default:
			break;
	}
}

void
slate_pending_init(void)
{
	RegisterXactCallback(on_transaction, NULL);
	RegisterSubXactCallback(on_subtransaction, NULL);
	RegisterResourceReleaseCallback(on_resource_release, NULL);
}
