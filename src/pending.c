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
 *	  holds; makes sure that there is a connection; renders the images as JSON;
 *	  encodes everything that will be sent.  May throw, and then the transaction
 *	  aborts and nothing is sent; but it avoids to: no connection means that the
 *	  push is lost, not that the commit fails, and rows that cannot be rendered
 *	  are dropped.  A transaction that pushes commits synchronously: Redis must
 *	  not know what a crash can take back.
 *
 * 4. Publish.  When the commit is visible and its locks are released, in the
 *	  resource owners' last phase: sends the bytes of step 3 and reads the
 *	  replies, within what is left of slate_cache.timeout.  From here on an
 *	  ERROR would be a PANIC.  Nothing is allocated with palloc, nothing is
 *	  logged, no signal is answered, no connection is made.
 *	  Writers who get their locks in the meantime may push before us; the
 *	  versions put that right.
 *
 * 5. Sweep.  If globs were among it, keys that no index knows are looked for
 *	  with what is left of the time.
 *
 * Abort forgets everything.  PREPARE TRANSACTION is refused: nobody would
 * remember the changes when the transaction is committed by another session.
 *
 * A push that fails is lost: it is counted, and logged now and then.  There is
 * no journal yet that would repeat it.
 *
 * MEMORY
 *
 * A transaction holds slate_cache.max_pending bytes here at most, give or take
 * an operation.  Past that it first gives up its values: every PUT becomes a
 * DROP, which needs the key only.  If the keys alone are too many, it gives up
 * the keys: each rule that was touched drops all its keys by a glob.  All of it
 * is below TopTransactionContext, so every way out of a transaction frees it.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/heaptoast.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "pause.h"
#include "pending.h"
#include "stats.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

struct SlateImage
{
	SlateRelation *relation;	/* valid until the end of the transaction */
	HeapTuple	tuple;			/* without external values */
	SlateImage *moved;			/* where a merge has put it */
	char	   *row_json;		/* rendered by PRE_COMMIT, whole row; or NULL */
	int			row_json_len;
};

typedef enum OpKind
{
	OP_DROP,
	OP_PUT_ROW,					/* image */
	OP_PUT_VALUE				/* value */
} OpKind;

typedef struct PendingOp
{
	char	   *key;
	int			keylen;
	uint32		hash;
	OpKind		kind;
	SlateOrder	order;
	uint64		sequence;		/* later operations have higher ones */
	int64		ttl;
	SlateImage *image;
	AttrNumber	value_attnum;
	char	   *value;
	int			valuelen;
	const char *wildcard;		/* the rule's, or NULL; see give_up_keys() */
} PendingOp;

typedef struct PendingGlob
{
	char	   *glob;
	int			len;
	uint32		hash;
	uint64		sequence;		/* of its last use */
	const char *wildcard;
} PendingGlob;

/* An index over ops or globs: position by hash. */
typedef struct PositionEntry
{
	SlateSlice	text;			/* hash key */
	uint32		hash;
	uint32		position;
	char		status;
} PositionEntry;

static inline bool
slices_equal(SlateSlice a, SlateSlice b)
{
	return a.len == b.len && memcmp(a.start, b.start, a.len) == 0;
}

#define SH_PREFIX		position
#define SH_ELEMENT_TYPE PositionEntry
#define SH_KEY_TYPE		SlateSlice
#define SH_KEY			text
#define SH_HASH_KEY(tb, key)	hash_bytes((const unsigned char *) (key).start, (key).len)
#define SH_EQUAL(tb, a, b)		slices_equal(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)		(a)->hash
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* With fewer entries than this a list is searched, not a hash table. */
#define MIN_HASHED 16

typedef struct PendingLevel
{
	struct PendingLevel *parent;
	int			depth;			/* transaction nesting depth */
	MemoryContext context;		/* holds the level */
	MemoryContext values;		/* images and values; child of context */
	Size		bytes;
	PendingOp  *ops;
	int			nops;
	int			maxops;
	position_hash *op_index;	/* NULL while nops < MIN_HASHED */
	PendingGlob *globs;
	int			nglobs;
	int			maxglobs;
	position_hash *glob_index;
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
	Size		bytes;			/* of all levels */
	uint64		sequence;
	GivenUp		given_up;
} pending;

/* What step 3 leaves to step 4; in TopTransactionContext. */
static struct
{
	bool		ready;
	SlateBatch	batch;
	int			nkeys;
	char		version[SLATE_VERSION_LEN + 1];
	int			nglobs;			/* to sweep for */
	SlateGlobSet *globs;
	SlateSlice *spared;			/* keys that the sweep leaves alone */
	int			nspared;
	int64		budget;			/* ms that the exchange may take */
} publish;

int			slate_pending_max_bytes = 16 * 1024;
int			slate_pending_max_value = 1024;
bool		slate_pending_sweep = true;

static void keep_within_limit(void);

/* ------------------------------------------------------------------------
 * Levels
 * ------------------------------------------------------------------------
 */

static void
charge(PendingLevel *level, Size bytes)
{
	level->bytes += bytes;
	pending.bytes += bytes;
}

static PendingLevel *
push_level(int depth)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext,
												  "slate_cache pending",
												  ALLOCSET_DEFAULT_SIZES);
	PendingLevel *level = MemoryContextAllocZero(context,
												 sizeof(PendingLevel));

	level->context = context;
	level->values = AllocSetContextCreate(context,
										  "slate_cache pending values",
										  ALLOCSET_DEFAULT_SIZES);
	level->depth = depth;
	level->parent = pending.top;
	pending.top = level;
	return level;
}

static void
pop_level(void)
{
	PendingLevel *level = pending.top;

	pending.top = level->parent;
	pending.bytes -= level->bytes;
	MemoryContextDelete(level->context);
}

static PendingOp *
find_op(const PendingLevel *level, SlateSlice key, uint32 hash)
{
	PositionEntry *entry;

	if (level->op_index)
	{
		entry = position_lookup_hash(level->op_index, key, hash);
		return entry ? &level->ops[entry->position] : NULL;
	}
	for (int i = 0; i < level->nops; i++)
	{
		SlateSlice	other = {level->ops[i].key, level->ops[i].keylen};

		if (level->ops[i].hash == hash && slices_equal(other, key))
			return &level->ops[i];
	}
	return NULL;
}

static PendingGlob *
find_glob(const PendingLevel *level, SlateSlice glob, uint32 hash)
{
	PositionEntry *entry;

	if (level->glob_index)
	{
		entry = position_lookup_hash(level->glob_index, glob, hash);
		return entry ? &level->globs[entry->position] : NULL;
	}
	for (int i = 0; i < level->nglobs; i++)
	{
		SlateSlice	other = {level->globs[i].glob, level->globs[i].len};

		if (level->globs[i].hash == hash && slices_equal(other, glob))
			return &level->globs[i];
	}
	return NULL;
}

static void
index_position(position_hash *index, char *text, int len, uint32 hash,
			   uint32 position)
{
	SlateSlice	key = {text, len};
	bool		found;
	PositionEntry *entry = position_insert_hash(index, key, hash, &found);

	entry->position = position;
}

static PendingOp *
append_op(PendingLevel *level, SlateSlice key, uint32 hash)
{
	MemoryContext old = MemoryContextSwitchTo(level->context);
	PendingOp  *op;

	if (level->nops == level->maxops)
	{
		level->maxops = level->maxops ? level->maxops * 2 : MIN_HASHED;
		level->ops = level->ops
			? repalloc_huge(level->ops, level->maxops * sizeof(PendingOp))
			: palloc(level->maxops * sizeof(PendingOp));
	}
	op = &level->ops[level->nops];
	memset(op, 0, sizeof(*op));
	op->key = pnstrdup(key.start, key.len);
	op->keylen = key.len;
	op->hash = hash;
	if (level->nops == MIN_HASHED && level->op_index == NULL)
	{
		level->op_index = position_create(level->context, 4 * MIN_HASHED, NULL);
		for (int i = 0; i < level->nops; i++)
			index_position(level->op_index, level->ops[i].key,
						   level->ops[i].keylen, level->ops[i].hash, i);
	}
	if (level->op_index)
		index_position(level->op_index, op->key, op->keylen, hash,
					   level->nops);
	level->nops++;
	MemoryContextSwitchTo(old);
	charge(level, sizeof(PendingOp) + sizeof(PositionEntry) + key.len + 16);
	return op;
}

static PendingGlob *
append_glob(PendingLevel *level, SlateSlice text, uint32 hash)
{
	MemoryContext old = MemoryContextSwitchTo(level->context);
	PendingGlob *glob;

	if (level->nglobs == level->maxglobs)
	{
		level->maxglobs = level->maxglobs ? level->maxglobs * 2 : 4;
		level->globs = level->globs
			? repalloc_huge(level->globs, level->maxglobs * sizeof(PendingGlob))
			: palloc(level->maxglobs * sizeof(PendingGlob));
	}
	glob = &level->globs[level->nglobs];
	memset(glob, 0, sizeof(*glob));
	glob->glob = pnstrdup(text.start, text.len);
	glob->len = text.len;
	glob->hash = hash;
	if (level->nglobs == MIN_HASHED && level->glob_index == NULL)
	{
		level->glob_index = position_create(level->context, 4 * MIN_HASHED, NULL);
		for (int i = 0; i < level->nglobs; i++)
			index_position(level->glob_index, level->globs[i].glob,
						   level->globs[i].len, level->globs[i].hash, i);
	}
	if (level->glob_index)
		index_position(level->glob_index, glob->glob, glob->len, hash,
					   level->nglobs);
	level->nglobs++;
	MemoryContextSwitchTo(old);
	charge(level, sizeof(PendingGlob) + sizeof(PositionEntry) + text.len + 16);
	return glob;
}

static uint32
hash_slice(SlateSlice text)
{
	return hash_bytes((const unsigned char *) text.start, text.len);
}

/* The key's operation, to be overwritten; its key is there already. */
static PendingOp *
op_for_key(PendingLevel *level, SlateSlice key, uint32 hash)
{
	PendingOp  *op = find_op(level, key, hash);

	return op ? op : append_op(level, key, hash);
}

static PendingGlob *
note_glob(PendingLevel *level, SlateSlice text, uint32 hash, uint64 sequence,
		  const char *wildcard)
{
	PendingGlob *glob = find_glob(level, text, hash);

	if (glob == NULL)
		glob = append_glob(level, text, hash);
	glob->sequence = sequence;
	glob->wildcard = wildcard;
	return glob;
}

static SlateImage *
copy_image(PendingLevel *level, const SlateImage *image)
{
	MemoryContext old = MemoryContextSwitchTo(level->values);
	SlateImage *copy = palloc0_object(SlateImage);

	copy->relation = image->relation;
	copy->tuple = heap_copytuple(image->tuple);
	MemoryContextSwitchTo(old);
	charge(level, sizeof(SlateImage) + HEAPTUPLESIZE + image->tuple->t_len);
	return copy;
}

static char *
copy_value(PendingLevel *level, const char *value, int len)
{
	char	   *copy = MemoryContextAlloc(level->values, (Size) len + 1);

	memcpy(copy, value, len);
	copy[len] = '\0';
	charge(level, len + 16);
	return copy;
}

/* Overwrite what a level has for a key by what its child had. */
static void
merge_op(PendingLevel *level, const PendingOp *from)
{
	SlateSlice	key = {from->key, from->keylen};
	PendingOp  *op = op_for_key(level, key, from->hash);
	char	   *own_key = op->key;

	*op = *from;
	op->key = own_key;
	if (from->image)
	{
		if (from->image->moved == NULL)
			from->image->moved = copy_image(level, from->image);
		op->image = from->image->moved;
	}
	if (from->value)
		op->value = copy_value(level, from->value, from->valuelen);
}

/*
 * Merge the innermost level into its parent.  If that runs out of memory half
 * way, the child is still there, and says the same again.
 */
static void
merge_into_parent(void)
{
	PendingLevel *child = pending.top;
	PendingLevel *level = child->parent;

	for (int i = 0; i < child->nops; i++)
		merge_op(level, &child->ops[i]);
	for (int i = 0; i < child->nglobs; i++)
	{
		SlateSlice	glob = {child->globs[i].glob, child->globs[i].len};

		note_glob(level, glob, child->globs[i].hash,
				  child->globs[i].sequence, child->globs[i].wildcard);
	}
	pop_level();
}

/*
 * The level of the current subtransaction.  Committed subtransactions have
 * left levels of their parent's depth above it; they are merged first.
 */
static PendingLevel *
current_level(void)
{
	int			depth = GetCurrentTransactionNestLevel();

	while (pending.top && pending.top->parent &&
		   pending.top->parent->depth == pending.top->depth)
		merge_into_parent();
	if (pending.top && pending.top->depth == depth)
		return pending.top;
	return push_level(depth);
}

/* ------------------------------------------------------------------------
 * Adding
 * ------------------------------------------------------------------------
 */

SlateImage *
slate_pending_image(SlateRelation *relation, HeapTuple tuple)
{
	PendingLevel *level;
	MemoryContext old;
	SlateImage *image;

	if (pending.given_up != KEEP_ALL || !relation->sets_values)
		return NULL;

	/* a row that cannot become a value of permitted size need not be kept */
	if (tuple->t_len / 2 > (Size) slate_pending_max_value * 1024)
	{
		slate_stats_add(STAT_VALUES_TOO_LARGE, 1);
		return NULL;
	}

	level = current_level();
	old = MemoryContextSwitchTo(level->values);
	image = palloc0_object(SlateImage);
	image->relation = relation;
	image->tuple = HeapTupleHasExternal(tuple)
		? toast_flatten_tuple(tuple, relation->desc)
		: heap_copytuple(tuple);
	MemoryContextSwitchTo(old);
	charge(level, sizeof(SlateImage) + HEAPTUPLESIZE + image->tuple->t_len);
	return image;
}

/* The operation for a key, all of whose fields but the key are to be set. */
static PendingOp *
begin_op(PendingLevel *level, const char *key, int keylen)
{
	SlateSlice	slice = {key, keylen};
	PendingOp  *op = op_for_key(level, slice, hash_slice(slice));

	op->sequence = ++pending.sequence;
	op->kind = OP_DROP;
	op->order = SLATE_SHARED;
	op->image = NULL;
	op->value = NULL;
	op->wildcard = NULL;
	return op;
}

static void
add_glob(const char *text, int len, const char *wildcard)
{
	SlateSlice	slice = {text, len};

	note_glob(current_level(), slice, hash_slice(slice), ++pending.sequence,
			  wildcard);
	keep_within_limit();
}

void
slate_pending_rule_key(SlateRule *rule, const char *key, int keylen,
					   SlateImage *image)
{
	PendingOp  *op;

	if (pending.given_up == GAVE_UP_KEYS)
	{
		add_glob(rule->wildcard, strlen(rule->wildcard), rule->wildcard);
		return;
	}
	op = begin_op(current_level(), key, keylen);
	op->order = rule->order;
	op->wildcard = rule->wildcard;
	if (image && pending.given_up == KEEP_ALL)
	{
		op->kind = OP_PUT_ROW;
		op->image = image;
		op->value_attnum = rule->value_attnum;
		op->ttl = rule->ttl;
	}
	keep_within_limit();
}

void
slate_pending_rule_drop(SlateRule *rule, const char *key, int keylen)
{
	slate_pending_rule_key(rule, key, keylen, NULL);
}

void
slate_pending_rule_glob(SlateRule *rule, const char *glob, int globlen)
{
	if (pending.given_up == GAVE_UP_KEYS)
		add_glob(rule->wildcard, strlen(rule->wildcard), rule->wildcard);
	else
		add_glob(glob, globlen, rule->wildcard);
}

static void
refuse_more(void)
{
	if (pending.given_up == GAVE_UP_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many cache changes in one transaction"),
				 errdetail("The keys of this transaction exceed slate_cache.max_pending (%d kB).",
						   slate_pending_max_bytes),
				 errhint("Raise slate_cache.max_pending, use fewer keys in one transaction, or drop them by a pattern.")));
}

void
slate_pending_put(const char *key, int keylen, const char *value, int valuelen,
				  int64 ttl)
{
	PendingLevel *level;
	PendingOp  *op;

	refuse_more();
	level = current_level();
	op = begin_op(level, key, keylen);
	if (pending.given_up == KEEP_ALL &&
		valuelen > (int64) slate_pending_max_value * 1024)
		slate_stats_add(STAT_VALUES_TOO_LARGE, 1);
	else if (pending.given_up == KEEP_ALL)
	{
		op->value = copy_value(level, value, valuelen);
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
	(void) begin_op(current_level(), key, keylen);
	keep_within_limit();
}

void
slate_pending_glob(const char *glob, int globlen)
{
	refuse_more();
	add_glob(glob, globlen, NULL);
}

void
slate_pending_drop_all(const char *wildcard)
{
	int			len = strlen(wildcard);
	StringInfoData key;

	if (slate_glob_is_pattern(wildcard, len))
	{
		add_glob(wildcard, len, NULL);
		return;
	}
	initStringInfo(&key);
	slate_glob_unescape(&key, wildcard, len);
	(void) begin_op(current_level(), key.data, key.len);
	pfree(key.data);
	keep_within_limit();
}

/* ------------------------------------------------------------------------
 * Giving up
 * ------------------------------------------------------------------------
 */

/* Every PUT of every level becomes a DROP.  Rolling back does not undo that. */
static void
give_up_values(void)
{
	pending.given_up = GAVE_UP_VALUES;
	slate_stats_add(STAT_FALLBACKS, 1);
	pending.bytes = 0;
	for (PendingLevel *level = pending.top; level; level = level->parent)
	{
		level->bytes = 0;
		for (int i = 0; i < level->nops; i++)
		{
			PendingOp  *op = &level->ops[i];

			op->kind = OP_DROP;
			op->image = NULL;
			op->value = NULL;
			charge(level, sizeof(PendingOp) + sizeof(PositionEntry) +
				   op->keylen + 16);
		}
		for (int i = 0; i < level->nglobs; i++)
			charge(level, sizeof(PendingGlob) + sizeof(PositionEntry) +
				   level->globs[i].len + 16);
		MemoryContextReset(level->values);
	}
}

/*
 * The glob that stands for a key when there are too many: its rule's, or for
 * keys named by hand, all that share its text up to the last colon.
 */
static char *
glob_for_key(const PendingOp *op)
{
	StringInfoData glob;
	int			len = op->keylen;

	if (op->wildcard)
		return pstrdup(op->wildcard);
	while (len > 0 && op->key[len - 1] != ':')
		len--;
	initStringInfo(&glob);
	slate_glob_escape(&glob, op->key, len > 0 ? len : op->keylen);
	if (len > 0)
		appendStringInfoChar(&glob, '*');
	return glob.data;
}

/* Replace a level by one that has globs only. */
static PendingLevel *
level_by_globs(PendingLevel *level, PendingLevel *parent)
{
	PendingLevel *into;

	pending.top = parent;
	into = push_level(level->depth);
	for (int i = 0; i < level->nops; i++)
	{
		char	   *glob = glob_for_key(&level->ops[i]);
		SlateSlice	slice = {glob, strlen(glob)};

		note_glob(into, slice, hash_slice(slice), level->ops[i].sequence,
				  level->ops[i].wildcard);
		pfree(glob);
	}
	for (int i = 0; i < level->nglobs; i++)
	{
		PendingGlob *glob = &level->globs[i];
		const char *text = glob->wildcard ? glob->wildcard : glob->glob;
		SlateSlice	slice = {text, strlen(text)};

		note_glob(into, slice, hash_slice(slice), glob->sequence,
				  glob->wildcard);
	}
	return into;
}

static void
replace_levels(PendingLevel *level)
{
	if (level == NULL)
	{
		pending.top = NULL;
		return;
	}
	replace_levels(level->parent);
	level_by_globs(level, pending.top);
	MemoryContextDelete(level->context);
}

static void
give_up_keys(void)
{
	PendingLevel *levels = pending.top;

	pending.given_up = GAVE_UP_KEYS;
	pending.bytes = 0;
	replace_levels(levels);
}

static void
keep_within_limit(void)
{
	Size		limit = (Size) slate_pending_max_bytes * 1024;

	if (pending.bytes > limit && pending.given_up == KEEP_ALL)
		give_up_values();
	if (pending.bytes > limit && pending.given_up == GAVE_UP_VALUES)
		give_up_keys();
}

/* ------------------------------------------------------------------------
 * Looking
 * ------------------------------------------------------------------------
 */

/* Is there a glob, added later than the sequence, that matches the key? */
static bool
glob_since(SlateSlice key, uint64 sequence)
{
	for (PendingLevel *level = pending.top; level; level = level->parent)
	{
		for (int i = 0; i < level->nglobs; i++)
		{
			PendingGlob *glob = &level->globs[i];

			if (glob->sequence > sequence &&
				slate_glob_match(glob->glob, glob->len, key.start, key.len))
				return true;
		}
	}
	return false;
}

SlatePendingAnswer
slate_pending_lookup(const char *key, int keylen, const char **value)
{
	SlateSlice	slice = {key, keylen};
	uint32		hash;

	if (pending.top == NULL)
		return PENDING_NOTHING;
	hash = hash_slice(slice);
	for (PendingLevel *level = pending.top; level; level = level->parent)
	{
		PendingOp  *op = find_op(level, slice, hash);

		if (op == NULL)
			continue;
		if (op->kind != OP_PUT_VALUE || glob_since(slice, op->sequence))
			return PENDING_GONE;
		*value = op->value;
		return PENDING_VALUE;
	}
	return glob_since(slice, 0) ? PENDING_GONE : PENDING_NOTHING;
}

/* ------------------------------------------------------------------------
 * PRE_COMMIT
 * ------------------------------------------------------------------------
 */

/*
 * May this image still be rendered?  If the table has changed since the row
 * was captured, its shape must be the same; else the row is dropped.
 */
static bool
image_fits(SlateRelation *relation)
{
	Relation	now;
	bool		same;

	if (slate_rules_is_current(relation))
		return true;
	now = try_relation_open(relation->relid, AccessShareLock);
	if (now == NULL)
		return false;
	same = equalTupleDescs(relation->desc, RelationGetDescr(now));
	relation_close(now, NoLock);
	return same;
}

static void
drop_instead(PendingOp *op)
{
	op->kind = OP_DROP;
	op->image = NULL;
	op->value = NULL;
}

/* Leaves a DROP where there is no value to be had. */
static void
render_op(PendingOp *op)
{
	SlateImage *image = op->image;
	StringInfoData json;

	if (op->kind != OP_PUT_ROW)
		return;
	if (op->value_attnum == InvalidAttrNumber && image->row_json)
	{
		op->value = image->row_json;
		op->valuelen = image->row_json_len;
		return;
	}
	initStringInfo(&json);
	slate_rules_render_value(image->relation->desc, image->tuple,
							 op->value_attnum, &json);
	op->value = json.data;
	op->valuelen = json.len;
	if (op->value_attnum == InvalidAttrNumber)
	{
		image->row_json = json.data;
		image->row_json_len = json.len;
	}
}

typedef struct SinceState
{
	const PendingLevel *level;
	uint64		sequence;
} SinceState;

static bool
is_since(int position, void *arg)
{
	SinceState *state = arg;

	return state->level->globs[position].sequence > state->sequence;
}

/* Was the key PUT before a glob that takes it away again? */
static bool
is_superseded(const PendingLevel *level, const PendingOp *op)
{
	SinceState	state = {level, op->sequence};

	return slate_globset_match(publish.globs, op->key, op->keylen, is_since,
							   &state);
}

static void
render_ops(PendingLevel *level)
{
	int64		limit = (int64) slate_pending_max_value * 1024;
	bool		given_up = false;
	SlateRelation *checked = NULL;
	bool		fits = false;

	for (int i = 0; i < level->nops; i++)
	{
		PendingOp  *op = &level->ops[i];

		CHECK_FOR_INTERRUPTS();
		if (op->kind == OP_DROP)
			continue;
		if (is_superseded(level, op))
		{
			op->order = SLATE_SHARED;
			drop_instead(op);
			continue;
		}
		if (op->image && op->image->relation != checked)
		{
			checked = op->image->relation;
			fits = image_fits(checked);
		}
		if (given_up || (op->image && !fits))
		{
			drop_instead(op);
			continue;
		}
		render_op(op);
		if (op->valuelen > limit)
		{
			slate_stats_add(STAT_VALUES_TOO_LARGE, 1);
			drop_instead(op);
			continue;
		}
		charge(level, op->valuelen);

		/* JSON may be several times as large as the row */
		given_up = pending.bytes > (Size) slate_pending_max_bytes * 1024 * 4;
	}
}

static bool
has_images(const PendingLevel *level)
{
	for (int i = 0; i < level->nops; i++)
	{
		if (level->ops[i].kind == OP_PUT_ROW)
			return true;
	}
	return false;
}

static bool
needs_settings(const PendingLevel *level)
{
	for (int i = 0; i < level->nops; i++)
	{
		if (level->ops[i].image &&
			level->ops[i].image->relation->needs_settings)
			return true;
	}
	return false;
}

static void
drop_all_images(PendingLevel *level)
{
	for (int i = 0; i < level->nops; i++)
	{
		if (level->ops[i].kind == OP_PUT_ROW)
			drop_instead(&level->ops[i]);
	}
}

/*
 * Rendering calls the output functions of whatever types the columns have.  If
 * one of them fails, the rows are dropped from the cache, and the commit goes
 * on.  A cancelled statement stays cancelled.
 */
static void
render_level(PendingLevel *level)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile int nestlevel = 0;

	if (!has_images(level))
	{
		render_ops(level);
		return;
	}
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		if (needs_settings(level))
			nestlevel = slate_rules_begin_settings();
		render_ops(level);
		if (nestlevel > 0)
			slate_rules_end_settings(nestlevel);
		PopActiveSnapshot();
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			ReThrowError(error);
		drop_all_images(level);
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("changed rows were dropped from the cache instead of being written to it"),
				 errdetail("Rendering a row as JSON failed: %s",
						   error->message)));
		FreeErrorData(error);
	}
	PG_END_TRY();
}

typedef struct RegisterState
{
	SlateBatch *batch;
	const PendingOp *op;
} RegisterState;

static void
register_in_family(const char *family, int familylen, void *arg)
{
	RegisterState *state = arg;

	slate_script_add_register(state->batch, family, familylen,
							  state->op->key, state->op->keylen,
							  state->op->ttl);
}

/* Keys set by hand that no rule enumerates must be findable by their family */
static void
encode_registrations(PendingLevel *level, SlateBatch *batch)
{
	RegisterState state = {.batch = batch};

	for (int i = 0; i < level->nops; i++)
	{
		SlateMatch	match = {0};

		state.op = &level->ops[i];
		if (state.op->kind == OP_PUT_VALUE &&
			!slate_rules_match(state.op->key, state.op->keylen, &match))
			slate_rules_families(state.op->key, state.op->keylen,
								 register_in_family, &state);
	}
}

static void
encode_pushes(PendingLevel *level, SlateBatch *batch)
{
	SlatePush  *pushes;

	if (level->nops == 0)
		return;
	pushes = MemoryContextAllocHuge(CurrentMemoryContext,
									level->nops * sizeof(SlatePush));
	for (int i = 0; i < level->nops; i++)
	{
		PendingOp  *op = &level->ops[i];

		pushes[i].key = op->key;
		pushes[i].keylen = op->keylen;
		pushes[i].value = op->kind == OP_DROP ? NULL : op->value;
		pushes[i].valuelen = op->valuelen;
		pushes[i].ttl = op->ttl;
		pushes[i].order = op->order;
	}
	slate_script_add_pushes(batch, publish.version, pushes, level->nops);
	pfree(pushes);
}

typedef struct GlobState
{
	SlateBatch *batch;
	const PendingGlob *glob;
} GlobState;

static void
drop_from_family(const char *family, int familylen, void *arg)
{
	GlobState  *state = arg;

	slate_script_add_drop_family(state->batch, publish.version,
								 family, familylen,
								 state->glob->glob, state->glob->len);
}

/*
 * Globs go first: a key that was set after a glob in this transaction is to
 * stay, and one that was set before it has become a DROP.
 */
static void
encode_globs(PendingLevel *level, SlateBatch *batch)
{
	GlobState	state = {.batch = batch};

	for (int i = 0; i < level->nglobs; i++)
	{
		state.glob = &level->globs[i];
		slate_rules_glob_families(state.glob->glob, state.glob->len,
								  drop_from_family, &state);
	}
}

/* What the sweep must leave alone: what we have PUT after a glob. */
static void
collect_spared(PendingLevel *level)
{
	publish.spared = palloc_array(SlateSlice, level->nops + 1);
	for (int i = 0; i < level->nops; i++)
	{
		SlateSlice	key = {level->ops[i].key, level->ops[i].keylen};

		if (level->ops[i].kind != OP_DROP &&
			slate_globset_match(publish.globs, key.start, key.len, NULL, NULL))
			publish.spared[publish.nspared++] = key;
	}
	qsort(publish.spared, publish.nspared, sizeof(SlateSlice),
		  slate_slice_compare);
}

static void
collect_sweep(PendingLevel *level)
{
	if (!slate_pending_sweep || level->nglobs == 0)
		return;
	collect_spared(level);
	publish.nglobs = level->nglobs;
	slate_script_sweep_init();
}

static void
make_globset(PendingLevel *level)
{
	SlateSlice *globs;

	if (level->nglobs == 0)
		return;
	globs = palloc_array(SlateSlice, level->nglobs);
	for (int i = 0; i < level->nglobs; i++)
	{
		globs[i].start = level->globs[i].glob;
		globs[i].len = level->globs[i].len;
	}
	publish.globs = slate_globset_make(globs, level->nglobs);
}

static void
encode(PendingLevel *level)
{
	MemoryContext old = MemoryContextSwitchTo(level->context);

	slate_script_version(publish.version);
	make_globset(level);
	render_level(level);
	slate_script_batch_init(&publish.batch);
	encode_globs(level, &publish.batch);
	encode_registrations(level, &publish.batch);
	encode_pushes(level, &publish.batch);
	collect_sweep(level);
	publish.nkeys = level->nops + level->nglobs;
	publish.ready = true;
	MemoryContextSwitchTo(old);
}

static void
settle_levels(void)
{
	while (pending.top->parent)
		merge_into_parent();
}

static void
pre_commit(void)
{
	int64		start = slate_link_now();
	int64		deadline = start + slate_redis_timeout;
	SlateRedisStatus status;

	slate_stats_log_losses();
	if (pending.top == NULL)
		return;
	settle_levels();
	ForceSyncCommit();

	status = slate_script_prepare(deadline, LINK_WAIT_INTERRUPTIBLE);
	if (status != REDIS_DONE)
	{
		slate_stats_lost(pending.top->nops + pending.top->nglobs,
						 slate_redis_error());
		slate_stats_log_losses();
		return;
	}
	publish.budget = Max(deadline - slate_link_now(), 1);
	encode(pending.top);
	slate_pause(PAUSE_BEFORE_COMMIT);
}

static void
pre_prepare(void)
{
	if (pending.top != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has changed cached data"),
				 errdetail("Its changes could not be told to Redis when it is committed by another session."),
				 errhint("Commit without PREPARE TRANSACTION, or detach the table with slate_cache_detach().")));
}

/* ------------------------------------------------------------------------
 * After the commit: nothing below may throw
 * ------------------------------------------------------------------------
 */

static void
count_outcome(const SlateOutcome *outcome)
{
	slate_stats_add(STAT_KEYS_STORED, outcome->stored);
	slate_stats_add(STAT_KEYS_DROPPED, outcome->dropped);
	slate_stats_add(STAT_KEYS_OUTDATED, outcome->outdated);
}

static void
publish_sweep(int64 deadline)
{
	SlateOutcome outcome = {0};
	bool		finished;

	(void) slate_script_sweep(publish.version, publish.globs, publish.spared,
							  publish.nspared, &outcome, &finished, deadline);
	count_outcome(&outcome);
	slate_stats_add(STAT_SWEEPS, 1);
	if (!finished)
	{
		slate_stats_add(STAT_SWEEPS_UNFINISHED, 1);
		slate_stats_lost(publish.nglobs, outcome.refused > 0 ? outcome.error :
						 "no time was left to look for keys by pattern");
	}
}

static void
publish_batch(void)
{
	SlateOutcome outcome = {0};
	SlateRedisStatus status = REDIS_DONE;
	int64		deadline;

	slate_pause(PAUSE_BEFORE_PUBLISH);
	deadline = slate_link_now() + publish.budget;
	if (publish.batch.ncommands > 0)
	{
		status = slate_script_publish(&publish.batch, &outcome, deadline);
		slate_stats_add(STAT_PUSHES, 1);
		count_outcome(&outcome);
	}
	if (status != REDIS_DONE)
		slate_stats_lost(publish.nkeys, slate_redis_error());
	else if (outcome.refused > 0)
		slate_stats_lost(publish.nkeys, outcome.error);
	else if (publish.nglobs > 0)
		publish_sweep(deadline);
}

static void
forget(void)
{
	memset(&pending, 0, sizeof(pending));
	memset(&publish, 0, sizeof(publish));
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
	if (is_commit && publish.ready)
		publish_batch();
	memset(&publish, 0, sizeof(publish));
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
			/* all that publish needs is encoded */
			memset(&pending, 0, sizeof(pending));
			slate_rules_end_of_transaction();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget();
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
			for (PendingLevel *level = pending.top;
				 level && level->depth >= depth; level = level->parent)
				level->depth = depth - 1;
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			while (pending.top && pending.top->depth >= depth)
				pop_level();
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
