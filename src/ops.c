/*-------------------------------------------------------------------------
 *
 * ops.c
 *	  A list of operations on keys and globs.
 *
 * Short lists are searched from end to end; longer ones have a hash table that
 * gives an entry's position.  Most transactions touch a handful of keys and
 * never pay for one.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "common/hashfn.h"
#include "ops.h"
#include "utils/memutils.h"

/* What a list takes before it has anything, and how many entries come first. */
#define EMPTY_BYTES 4096
#define FIRST_ENTRIES 4

/* Values and images for which no context is made; part of EMPTY_BYTES. */
#define EARLY_BYTES 2048

/* With fewer entries than this a list is searched, not a hash table. */
#define MIN_HASHED 16

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

struct SlateOpIndex
{
	position_hash *table;
};

static uint32
hash_slice(SlateSlice text)
{
	return hash_bytes((const unsigned char *) text.start, text.len);
}

static SlateOpList *
create(MemoryContext parent, Size first_block)
{
	MemoryContext context = AllocSetContextCreate(parent,
												  "slate_cache pending",
												  ALLOCSET_DEFAULT_MINSIZE,
												  first_block,
												  ALLOCSET_DEFAULT_MAXSIZE);
	SlateOpList *list = MemoryContextAllocZero(context, sizeof(SlateOpList));

	list->context = context;
	list->bytes = EMPTY_BYTES;
	return list;
}

/*
 * Most transactions have one list, of a handful of keys.  All that they need
 * until it is sent fits into a first block of the usual size, which the server
 * keeps for the next context; behind a small one malloc() would have to make
 * others, in each transaction.
 */
SlateOpList *
slate_ops_create(MemoryContext parent)
{
	return create(parent, ALLOCSET_DEFAULT_INITSIZE);
}

SlateOpList *
slate_ops_create_small(MemoryContext parent)
{
	return create(parent, ALLOCSET_SMALL_INITSIZE);
}

void
slate_ops_delete(SlateOpList *list)
{
	MemoryContextDelete(list->context);
}

/* ------------------------------------------------------------------------
 * Entries
 * ------------------------------------------------------------------------
 */

static SlateOp *
find_op(const SlateOpList *list, SlateSlice key, uint32 hash)
{
	PositionEntry *entry;

	if (list->op_index)
	{
		entry = position_lookup_hash(list->op_index->table, key, hash);
		return entry ? &list->ops[entry->position] : NULL;
	}
	for (int i = 0; i < list->nops; i++)
	{
		SlateSlice	other = {list->ops[i].key, list->ops[i].keylen};

		if (list->ops[i].hash == hash && slices_equal(other, key))
			return &list->ops[i];
	}
	return NULL;
}

static SlateGlobOp *
find_glob(const SlateOpList *list, SlateSlice glob, uint32 hash)
{
	PositionEntry *entry;

	if (list->glob_index)
	{
		entry = position_lookup_hash(list->glob_index->table, glob, hash);
		return entry ? &list->globs[entry->position] : NULL;
	}
	for (int i = 0; i < list->nglobs; i++)
	{
		SlateSlice	other = {list->globs[i].glob, list->globs[i].len};

		if (list->globs[i].hash == hash && slices_equal(other, glob))
			return &list->globs[i];
	}
	return NULL;
}

static void
index_position(SlateOpIndex *index, char *text, int len, uint32 hash,
			   uint32 position)
{
	SlateSlice	key = {text, len};
	bool		found;
	PositionEntry *entry = position_insert_hash(index->table, key, hash,
												&found);

	entry->position = position;
}

static SlateOpIndex *
make_index(SlateOpList *list)
{
	SlateOpIndex *index = MemoryContextAlloc(list->context,
											 sizeof(SlateOpIndex));

	index->table = position_create(list->context, 4 * MIN_HASHED, NULL);
	return index;
}

static Size
op_bytes(int keylen)
{
	return sizeof(SlateOp) + sizeof(PositionEntry) + keylen + 16;
}

static Size
glob_bytes(int len)
{
	return sizeof(SlateGlobOp) + sizeof(PositionEntry) + len + 16;
}

static SlateOp *
append_op(SlateOpList *list, SlateSlice key, uint32 hash)
{
	MemoryContext old = MemoryContextSwitchTo(list->context);
	SlateOp    *op;

	if (list->nops == list->maxops)
	{
		int			maxops = list->maxops ? list->maxops * 2 : FIRST_ENTRIES;

		list->ops = list->ops
			? repalloc_huge(list->ops, maxops * sizeof(SlateOp))
			: palloc(maxops * sizeof(SlateOp));
		list->maxops = maxops;
	}
	op = &list->ops[list->nops];
	memset(op, 0, sizeof(*op));
	op->key = pnstrdup(key.start, key.len);
	op->keylen = key.len;
	op->hash = hash;
	if (list->nops == MIN_HASHED && list->op_index == NULL)
	{
		SlateOpIndex *index = make_index(list);

		for (int i = 0; i < list->nops; i++)
			index_position(index, list->ops[i].key, list->ops[i].keylen,
						   list->ops[i].hash, i);
		list->op_index = index;
	}
	if (list->op_index)
		index_position(list->op_index, op->key, op->keylen, hash,
					   list->nops);
	list->nops++;
	MemoryContextSwitchTo(old);
	list->bytes += op_bytes(key.len);
	return op;
}

static SlateGlobOp *
append_glob(SlateOpList *list, SlateSlice text, uint32 hash)
{
	MemoryContext old = MemoryContextSwitchTo(list->context);
	SlateGlobOp *glob;

	if (list->nglobs == list->maxglobs)
	{
		int			maxglobs = list->maxglobs ? list->maxglobs * 2 : FIRST_ENTRIES;

		list->globs = list->globs
			? repalloc_huge(list->globs, maxglobs * sizeof(SlateGlobOp))
			: palloc(maxglobs * sizeof(SlateGlobOp));
		list->maxglobs = maxglobs;
	}
	glob = &list->globs[list->nglobs];
	memset(glob, 0, sizeof(*glob));
	glob->glob = pnstrdup(text.start, text.len);
	glob->len = text.len;
	glob->hash = hash;
	if (list->nglobs == MIN_HASHED && list->glob_index == NULL)
	{
		SlateOpIndex *index = make_index(list);

		for (int i = 0; i < list->nglobs; i++)
			index_position(index, list->globs[i].glob, list->globs[i].len,
						   list->globs[i].hash, i);
		list->glob_index = index;
	}
	if (list->glob_index)
		index_position(list->glob_index, glob->glob, glob->len, hash,
					   list->nglobs);
	list->nglobs++;
	MemoryContextSwitchTo(old);
	list->bytes += glob_bytes(text.len);
	return glob;
}

SlateOp *
slate_ops_find(const SlateOpList *list, SlateSlice key)
{
	return find_op(list, key, hash_slice(key));
}

/* The key's operation, to be overwritten; its key is there already. */
static SlateOp *
op_for_key(SlateOpList *list, SlateSlice key, uint32 hash)
{
	SlateOp    *op = find_op(list, key, hash);

	return op ? op : append_op(list, key, hash);
}

SlateOp *
slate_ops_begin(SlateOpList *list, SlateSlice key, uint64 sequence)
{
	SlateOp    *op = op_for_key(list, key, hash_slice(key));

	op->sequence = sequence;
	op->order = SLATE_SHARED;
	op->wildcard = NULL;
	slate_ops_drop_instead(op);
	return op;
}

void
slate_ops_drop_instead(SlateOp *op)
{
	op->kind = OP_DROP;
	op->image = NULL;
	op->value = NULL;
}

int
slate_ops_note_glob(SlateOpList *list, SlateSlice text, uint64 sequence,
					const char *wildcard, bool thorough)
{
	uint32		hash = hash_slice(text);
	SlateGlobOp *glob = find_glob(list, text, hash);

	if (glob == NULL)
		glob = append_glob(list, text, hash);
	glob->sequence = sequence;
	glob->wildcard = wildcard;
	glob->thorough |= thorough;
	return glob - list->globs;
}

bool
slate_ops_glob_since(const SlateOpList *list, SlateSlice key, uint64 sequence)
{
	for (int i = 0; i < list->nglobs; i++)
	{
		const SlateGlobOp *glob = &list->globs[i];

		CHECK_FOR_INTERRUPTS();
		if (glob->sequence > sequence &&
			slate_glob_match(glob->glob, glob->len, key.start, key.len))
			return true;
	}
	return false;
}

/* ------------------------------------------------------------------------
 * Values
 * ------------------------------------------------------------------------
 */

/* Where a value of so many bytes at most goes. */
static MemoryContext
context_for_value(SlateOpList *list, Size bytes)
{
	if (list->values == NULL && bytes <= EARLY_BYTES - list->early_bytes)
	{
		list->early_bytes += bytes;
		return list->context;
	}
	if (list->values == NULL)
		list->values = AllocSetContextCreate(list->context,
											 "slate_cache pending values",
											 ALLOCSET_START_SMALL_SIZES);
	return list->values;
}

SlateImage *
slate_ops_keep_row(SlateOpList *list, SlateRelation *relation,
				   HeapTuple tuple)
{
	bool		external = HeapTupleHasExternal(tuple);
	Size		bytes = external ? MaxAllocSize
	: sizeof(SlateImage) + HEAPTUPLESIZE + tuple->t_len;
	MemoryContext old = MemoryContextSwitchTo(context_for_value(list, bytes));
	SlateImage *image = palloc0_object(SlateImage);

	image->relation = relation;
	image->tuple = external
		? toast_flatten_tuple(tuple, relation->desc)
		: heap_copytuple(tuple);
	MemoryContextSwitchTo(old);
	list->bytes += sizeof(SlateImage) + HEAPTUPLESIZE + image->tuple->t_len;
	return image;
}

char *
slate_ops_keep_value(SlateOpList *list, const char *value, int len)
{
	char	   *copy = MemoryContextAlloc(context_for_value(list, len),
										  (Size) len + 1);

	memcpy(copy, value, len);
	copy[len] = '\0';
	list->bytes += len + 16;
	return copy;
}

void
slate_ops_give_up_values(SlateOpList *list)
{
	list->bytes = EMPTY_BYTES;
	for (int i = 0; i < list->nops; i++)
	{
		slate_ops_drop_instead(&list->ops[i]);
		list->bytes += op_bytes(list->ops[i].keylen);
	}
	for (int i = 0; i < list->nglobs; i++)
		list->bytes += glob_bytes(list->globs[i].len);
	if (list->values)
		MemoryContextReset(list->values);
}

/* ------------------------------------------------------------------------
 * Lists
 * ------------------------------------------------------------------------
 */

static void
merge_op(SlateOpList *list, const SlateOp *from, bool overwrite)
{
	SlateSlice	key = {from->key, from->keylen};
	SlateOp    *op = find_op(list, key, from->hash);
	char	   *own_key;

	if (op && !overwrite)
		return;
	if (op == NULL)
		op = append_op(list, key, from->hash);
	own_key = op->key;
	*op = *from;
	op->key = own_key;
	slate_ops_drop_instead(op);
	if (from->image)
	{
		/* two keys of a row share its image */
		if (from->image->moved == NULL)
			from->image->moved = slate_ops_keep_row(list,
													from->image->relation,
													from->image->tuple);
		op->image = from->image->moved;
	}
	if (from->value)
		op->value = slate_ops_keep_value(list, from->value, from->valuelen);
	op->kind = from->kind;
}

static void
merge_glob(SlateOpList *list, const SlateGlobOp *from, bool overwrite)
{
	SlateSlice	text = {from->glob, from->len};
	SlateGlobOp *known = find_glob(list, text, from->hash);

	if (known && !overwrite)
		known->thorough |= from->thorough;
	else
		slate_ops_note_glob(list, text, from->sequence, from->wildcard,
							from->thorough);
}

void
slate_ops_merge(SlateOpList *into, const SlateOpList *from, bool overwrite)
{
	for (int i = 0; i < from->nops; i++)
		merge_op(into, &from->ops[i], overwrite);
	for (int i = 0; i < from->nglobs; i++)
		merge_glob(into, &from->globs[i], overwrite);
}

/*
 * The glob that stands for a key when there are too many: its rule's, or for
 * keys named by hand, all that share its text up to the last colon.
 */
static char *
glob_for_key(const SlateOp *op)
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

void
slate_ops_add_covering_globs(SlateOpList *into, const SlateOpList *from)
{
	for (int i = 0; i < from->nops; i++)
	{
		char	   *glob = glob_for_key(&from->ops[i]);
		SlateSlice	slice = {glob, strlen(glob)};

		slate_ops_note_glob(into, slice, from->ops[i].sequence,
							from->ops[i].wildcard, true);
		pfree(glob);
	}
	for (int i = 0; i < from->nglobs; i++)
	{
		const SlateGlobOp *glob = &from->globs[i];
		const char *text = glob->wildcard ? glob->wildcard : glob->glob;
		SlateSlice	slice = {text, strlen(text)};

		/* a wildcard has no family */
		slate_ops_note_glob(into, slice, glob->sequence, glob->wildcard,
							glob->thorough || glob->wildcard != NULL);
	}
}
