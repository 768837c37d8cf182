/*-------------------------------------------------------------------------
 *
 * render.c
 *	  The rows that a transaction has changed, as what Redis is to hold of them.
 *
 * A row is rendered when its transaction commits, once for all keys that it
 * has, and only if it is sent: row.c does it for common types, which cannot
 * fail, and everything else goes through the server's output functions, in a
 * subtransaction.  What cannot be had, or is too large, becomes a DROP, which
 * is always safe; so does what a later glob takes away again.
 *
 * Belongs before the commit: palloc'd, may throw.  No locks but those on tables
 * that have changed since they were captured.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/relation.h"
#include "attempt.h"
#include "owner.h"
#include "render.h"
#include "row.h"
#include "rowjson.h"
#include "stats.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

int			slate_render_max_value = 1024;

/*
 * May this image still be rendered?  If the table has changed since the row
 * was captured, its shape must be the same; else the row is dropped.
 */
static bool
image_fits(const SlateRelation *relation)
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

/*
 * Leaves a DROP where there is no value to be had.  False if the row has to be
 * rendered with care, and that is not what we are about.
 */
static bool
render_op(SlateOp *op, bool with_care, MemoryContext scratch)
{
	SlateImage *image = op->image;
	SlateRelation *relation;
	MemoryContext old;
	StringInfoData json;
	bool		done;

	if (op->kind != OP_PUT_ROW)
		return true;
	if (op->value_attnum == InvalidAttrNumber && image->row_json)
	{
		op->value = image->row_json;
		op->valuelen = image->row_json_len;
		return true;
	}
	relation = image->relation;
	old = MemoryContextSwitchTo(scratch);
	initStringInfo(&json);
	done = op->value_attnum == InvalidAttrNumber && relation->format &&
		slate_row_render(relation->format, relation->desc, image->tuple, &json);
	if (!done && with_care)
		slate_rowjson_render(relation->desc, image->tuple,
							 op->value_attnum, relation->owner, &json);
	MemoryContextSwitchTo(old);
	if (!done && !with_care)
		return false;
	op->value = palloc(json.len + 1);
	memcpy(op->value, json.data, json.len + 1);
	op->valuelen = json.len;
	MemoryContextReset(scratch);
	if (op->value_attnum == InvalidAttrNumber)
	{
		image->row_json = op->value;
		image->row_json_len = op->valuelen;
	}
	return true;
}

typedef struct SinceState
{
	const SlateOpList *list;
	uint64		sequence;
} SinceState;

static bool
is_since(int position, void *arg)
{
	SinceState *state = arg;

	return state->list->globs[position].sequence > state->sequence;
}

/* There may be many globs, of many stars. */
static bool
go_on_unless_canceled(void *arg pg_attribute_unused())
{
	CHECK_FOR_INTERRUPTS();
	return true;
}

/* Was the key PUT before a glob that takes it away again? */
static bool
is_superseded(const SlateOpList *list, const SlateGlobSet *globset,
			  const SlateOp *op)
{
	SinceState	state = {list, op->sequence};
	SlateGlobPatience patience = {.go_on = go_on_unless_canceled};

	return slate_globset_match(globset, op->key, op->keylen, is_since, &state,
							   &patience);
}

/* How far the rendering of a list has come. */
typedef struct RenderState
{
	Size		max_bytes;
	Size		json_bytes;		/* so far */
	SlateRelation *checked;		/* the last one; NULL: none yet ... */
	bool		fits;			/* and whether its images fit */
} RenderState;

/* Does it become a DROP, whatever its value would be? */
static bool
is_to_be_dropped(RenderState *rendering, const SlateOpList *list,
				 const SlateGlobSet *globset, SlateOp *op)
{
	if (is_superseded(list, globset, op))
	{
		op->order = SLATE_SHARED;
		return true;
	}
	if (op->image && op->image->relation != rendering->checked)
	{
		rendering->checked = op->image->relation;
		rendering->fits = image_fits(rendering->checked);
	}
	return rendering->json_bytes > rendering->max_bytes ||
		(op->image && !rendering->fits);
}

/* Keep the value that it has now, if that is not too large. */
static void
keep_value(RenderState *rendering, SlateOp *op)
{
	if (op->valuelen > (int64) slate_render_max_value * 1024)
	{
		slate_stats_add(STAT_VALUES_TOO_LARGE, 1);
		slate_ops_drop_instead(op);
		return;
	}
	rendering->json_bytes += op->valuelen;
	if (rendering->json_bytes > rendering->max_bytes)
		slate_stats_add(STAT_FALLBACKS, 1);
}

/*
 * Leaves the operations with their values, or as DROPs.  False if a row has to
 * be rendered with care: then this may be begun again.
 */
static bool
render_ops(SlateOpList *list, const SlateGlobSet *globset, bool with_care,
		   Size max_bytes)
{
	RenderState rendering = {.max_bytes = max_bytes};
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
												  "slate_cache rendering",
												  ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < list->nops; i++)
	{
		SlateOp    *op = &list->ops[i];

		CHECK_FOR_INTERRUPTS();
		if (op->kind == OP_DROP)
			continue;
		if (is_to_be_dropped(&rendering, list, globset, op))
			slate_ops_drop_instead(op);
		else if (!render_op(op, with_care, scratch))
			return false;
		else
			keep_value(&rendering, op);
	}
	MemoryContextDelete(scratch);
	return true;
}

/* Might anything throw that is not the server's own trouble? */
static bool
needs_care(const SlateOpList *list)
{
	for (int i = 0; i < list->nops; i++)
	{
		const SlateOp *op = &list->ops[i];
		const SlateRelation *relation;

		if (op->kind != OP_PUT_ROW)
			continue;
		relation = op->image->relation;
		if (op->value_attnum != InvalidAttrNumber || !relation->format ||
			!slate_rules_is_current(relation) ||
			(relation->needs_settings && !slate_rowjson_has_settings()))
			return true;
	}
	return false;
}

static bool
needs_settings(const SlateOpList *list)
{
	for (int i = 0; i < list->nops; i++)
	{
		if (list->ops[i].image &&
			list->ops[i].image->relation->needs_settings)
			return true;
	}
	return false;
}

void
slate_render_as_drops(SlateOpList *list)
{
	for (int i = 0; i < list->nops; i++)
	{
		if (list->ops[i].kind == OP_PUT_ROW)
			slate_ops_drop_instead(&list->ops[i]);
	}
}

typedef struct CareState
{
	SlateOpList *list;
	const SlateGlobSet *globset;
	Size		max_bytes;
} CareState;

/*
 * SlateAttemptFn.  Whatever the functions of others have done is undone: deferred
 * constraints have been checked by now, and portals closed, so that a cursor that
 * they leave open would outlive what it stands on.  What was rendered stays.
 */
static bool
render_with_care(void *arg)
{
	CareState  *state = arg;
	uint64		ncalls = slate_owner_calls();
	int			nestlevel = 0;

	PushActiveSnapshot(GetTransactionSnapshot());
	if (needs_settings(state->list))
		nestlevel = slate_rowjson_begin_settings();
	(void) render_ops(state->list, state->globset, true, state->max_bytes);
	if (nestlevel > 0)
		slate_rowjson_end_settings(nestlevel);
	PopActiveSnapshot();
	return slate_owner_calls() == ncalls;
}

/*
 * Was the session told to end what it does?  A cast can say so, too, and who has
 * defined that is not to have the commits of others fail; and what ends a session
 * is no ERROR.
 */
static bool
is_canceled(const ErrorData *error, uint64 ncalls)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		slate_owner_calls() == ncalls;
}

void
slate_render(SlateOpList *list, const SlateGlobSet *globset, Size max_bytes)
{
	CareState	state = {list, globset, max_bytes};
	uint64		ncalls = slate_owner_calls();
	ErrorData  *error;

	if (!needs_care(list) && render_ops(list, globset, false, max_bytes))
		return;
	error = slate_attempt(render_with_care, &state);
	if (error == NULL)
		return;
	if (is_canceled(error, ncalls))
		ReThrowError(error);
	slate_render_as_drops(list);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("changed rows were dropped from the cache instead of being written to it"),
			 errdetail("Rendering a row as JSON failed: %s", error->message)));
	FreeErrorData(error);
}
