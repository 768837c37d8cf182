/*-------------------------------------------------------------------------
 *
 * resettle.c
 *	  What the indexes of a Cluster's masters are about after slots have moved.
 *
 * An index belongs to a master, by the tag in its name, and names keys that this
 * master has.  If the slot of such a key gets another master, the key goes there,
 * and the index still names it; if the slot of the tag does, the index goes, and
 * the keys stay.  Either way the history is unknown from then on (trust.c), and
 * the namespace is emptied, by a walk over all that rules cover.  What the walk
 * does not do is done here, before it:
 *
 * - keys that no rule covers are known by the indexes of the loose family alone, of
 *	 whatever tag.  They are dropped at the master that has them by now, and then
 *	 taken out;
 * - what a master's own index of any other family names, and another master has,
 *	 is taken out.  Otherwise the next drop of the family would ask this one for
 *	 it, and fail.
 *
 * Whoever registers a key meanwhile gets neither a lease nor a value set, since
 * there is no epoch.
 *
 * Throws: out of waits, see link.c.  No locks.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "deliver.h"
#include "keyname.h"
#include "nodes/pg_list.h"
#include "resettle.h"
#include "script.h"

/* A node, and the names of its indexes. */
typedef struct Indexes
{
	int			node;
	List	   *names;			/* of SlateSlice */
	char		cursor[SLATE_CURSOR_SIZE];
	bool		failed;
} Indexes;

/* One of them, in steps over its members. */
typedef struct Members
{
	int			node;
	SlateSlice	index;
	bool		is_loose;
	char		cursor[SLATE_CURSOR_SIZE];
	SlateBatch	drops;
	SlateBatch	removals;		/* at the node */
	bool		failed;
} Members;

static bool
run(const SlateBatch *batch, SlateReplyFn fn, void *arg)
{
	return slate_deliver_connect() && slate_deliver_ask(batch, fn, arg);
}

static SlateSlice *
copy_name(const redisReply *name)
{
	SlateSlice *copy = palloc_object(SlateSlice);

	copy->start = pnstrdup(name->str, name->len);
	copy->len = (int) name->len;
	return copy;
}

static void
on_names(int index pg_attribute_unused(), const redisReply *reply, void *arg)
{
	Indexes    *indexes = arg;
	const redisReply *names = slate_script_take_scan(reply, indexes->cursor);

	indexes->failed = names == NULL;
	for (size_t i = 0; names && i < names->elements; i++)
	{
		if (names->element[i]->type == REDIS_REPLY_STRING)
			indexes->names = lappend(indexes->names,
									 copy_name(names->element[i]));
	}
}

static bool
find_indexes(Indexes *indexes)
{
	strlcpy(indexes->cursor, "0", sizeof(indexes->cursor));
	do
	{
		SlateBatch	batch;

		CHECK_FOR_INTERRUPTS();
		slate_batch_init_for(&batch, indexes->node);
		slate_script_add_scan(&batch, indexes->cursor, SLATE_INDEX_GLOB,
							  strlen(SLATE_INDEX_GLOB));
		if (!run(&batch, on_names, indexes) || indexes->failed)
			return false;
		slate_batch_free(&batch);
	} while (strcmp(indexes->cursor, "0") != 0);
	return true;
}

/* Members and scores in turn. */
static void
on_members(int index pg_attribute_unused(), const redisReply *reply, void *arg)
{
	Members    *members = arg;
	const redisReply *found = slate_script_take_scan(reply, members->cursor);

	members->failed = found == NULL;
	for (size_t i = 0; found && i < found->elements; i += 2)
	{
		const redisReply *name = found->element[i];
		SlateSlice	key = {name->str, (int) name->len};

		if (name->type != REDIS_REPLY_STRING)
			continue;
		if (members->is_loose)
			slate_script_add_drop(&members->drops, key.start, key.len);
		if (members->is_loose ||
			slate_redis_node_of(key.start, key.len) != members->node)
			slate_script_add_remove(&members->removals, members->index, key);
	}
}

static void
on_removed(int index pg_attribute_unused(), const redisReply *reply, void *arg)
{
	Members    *members = arg;

	members->failed |= reply->type != REDIS_REPLY_INTEGER;
}

/* A key is forgotten only when it is dropped. */
static bool
settle_members(SlateDatabase *database, Members *members)
{
	strlcpy(members->cursor, "0", sizeof(members->cursor));
	do
	{
		SlateBatch	batch;

		CHECK_FOR_INTERRUPTS();
		slate_batch_init(&members->drops);
		slate_batch_init_for(&members->removals, members->node);
		slate_batch_init_for(&batch, members->node);
		slate_script_add_members(&batch, members->index, members->cursor);
		if (!run(&batch, on_members, members) || members->failed ||
			!slate_deliver_batch(database, &members->drops, NULL) ||
			!run(&members->removals, on_removed, members) || members->failed)
			return false;
		slate_batch_free(&batch);
		slate_batch_free(&members->drops);
		slate_batch_free(&members->removals);
	} while (strcmp(members->cursor, "0") != 0);
	return true;
}

/* Others than the loose ones are looked at if they are this node's. */
static bool
settle_index(SlateDatabase *database, int node, const SlateSlice *name)
{
	const char *own = slate_redis_tag(node);
	Members		members = {.node = node,.index = *name};
	SlateSlice	loose = slate_keyname_loose_family();
	SlateSlice	tag;
	SlateSlice	family;

	if (!slate_keyname_is_index(*name, &tag, &family))
		return true;
	members.is_loose = slate_slice_compare(&family, &loose) == 0;
	if (!members.is_loose && slate_keyname_is_loose(family))
		return true;			/* another database's, whose worker sees to it */
	if (!members.is_loose && (tag.len != strlen(own) ||
							  memcmp(tag.start, own, tag.len) != 0))
		return true;
	return settle_members(database, &members);
}

bool
slate_resettle(SlateDatabase *database)
{
	if (!slate_deliver_connect() || !slate_deliver_is_known(database))
		return false;
	for (int node = 0; node < slate_redis_nodes(); node++)
	{
		Indexes		indexes = {.node = node};
		ListCell   *lc;

		if (!find_indexes(&indexes))
			return false;
		foreach(lc, indexes.names)
		{
			if (!settle_index(database, node, lfirst(lc)))
				return false;
		}
	}
	return slate_deliver_is_known(database);
}
