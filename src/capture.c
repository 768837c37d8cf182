/*-------------------------------------------------------------------------
 *
 * capture.c
 *	  The triggers that see every change.
 *
 * slate_cache_capture() is the AFTER ROW trigger of a table with rules,
 * slate_cache_capture_truncate() its AFTER TRUNCATE trigger.  Both only add to
 * the pending list; Redis hears of it at commit.  What no trigger of a table sees
 * is in ddl.c.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "ddl.h"
#include "pending.h"
#include "rowjson.h"
#include "rules.h"
#include "stats.h"
#include "utils/datum.h"

PG_FUNCTION_INFO_V1(slate_cache_capture);
PG_FUNCTION_INFO_V1(slate_cache_capture_truncate);

/* A row before and after; NULL where there is none. */
typedef struct Change
{
	HeapTuple	old;
	HeapTuple	new;
	SlateRelation *relation;
	bool		new_is_past;	/* this transaction has changed it again */
	SlateImage *image;			/* of the new row, made when first needed */
	bool		image_made;
} Change;

/* ------------------------------------------------------------------------
 * Rows
 * ------------------------------------------------------------------------
 */

/* As suppress_redundant_updates_trigger() compares, see trigfuncs.c */
static bool
same_row(HeapTuple old, HeapTuple new)
{
	HeapTupleHeader o = old->t_data;
	HeapTupleHeader n = new->t_data;

	return old->t_len == new->t_len &&
		o->t_hoff == n->t_hoff &&
		HeapTupleHeaderGetNatts(o) == HeapTupleHeaderGetNatts(n) &&
		(o->t_infomask & ~HEAP_XACT_MASK) == (n->t_infomask & ~HEAP_XACT_MASK) &&
		memcmp((char *) o + SizeofHeapTupleHeader,
			   (char *) n + SizeofHeapTupleHeader,
			   old->t_len - SizeofHeapTupleHeader) == 0;
}

/*
 * Has this transaction changed or deleted the row since?  When another AFTER
 * trigger, or a foreign key's action, changes the row again, the event of that
 * change comes before ours: what we were given is not the row's last version,
 * and the event that has it was here already, or will be.  A change that was
 * rolled back with its subtransaction does not count.
 */
static bool
is_past(HeapTuple tuple)
{
	HeapTupleHeader header = tuple->t_data;

	return (header->t_infomask & HEAP_XMAX_INVALID) == 0 &&
		!HEAP_XMAX_IS_LOCKED_ONLY(header->t_infomask) &&
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(header));
}

/*
 * Did an UPDATE change nothing?  If the old row is of this transaction, the
 * event that made it may have passed it over, or will: see is_past().
 */
static bool
is_idle(HeapTuple old, HeapTuple new)
{
	return same_row(old, new) &&
		!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(old->t_data));
}

static bool
render_key(SlateRule *rule, HeapTuple tuple, StringInfo key)
{
	bool		too_long;
	bool		rendered;

	if (tuple == NULL)
		return false;
	if (key->data == NULL)
		initStringInfo(key);
	resetStringInfo(key);
	rendered = slate_rules_render(rule, tuple, key, NULL, &too_long);
	if (too_long)
		slate_stats_add(STAT_KEYS_TOO_LONG, 1);
	return rendered;
}

static SlateImage *
new_image(Change *change)
{
	if (!change->image_made)
	{
		change->image = slate_pending_image(change->relation, change->new);
		change->image_made = true;
	}
	return change->image;
}

static bool
same_text(StringInfo a, StringInfo b)
{
	return a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}

/*
 * Does the row have the same key before and after, if it has one?  Columns of
 * the same bytes have the same text; others may.
 */
static bool
keeps_key(SlateRule *rule, Change *change)
{
	TupleDesc	desc = change->relation->desc;

	if (change->old == NULL || change->new == NULL)
		return false;
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		AttrNumber	attnum = rule->attnums[i];
		Form_pg_attribute attribute = TupleDescAttr(desc, attnum - 1);
		bool		old_isnull;
		bool		new_isnull;
		Datum		old = heap_getattr(change->old, attnum, desc, &old_isnull);
		Datum		new = heap_getattr(change->new, attnum, desc, &new_isnull);

		if (old_isnull != new_isnull ||
			(!old_isnull && !datumIsEqual(old, new, attribute->attbyval,
										  attribute->attlen)))
			return false;
	}
	return true;
}

/* The old key goes, the new one is written through. */
static void
capture_row_key(SlateRule *rule, Change *change,
				StringInfo old_key, StringInfo new_key)
{
	bool		has_old = !keeps_key(rule, change) &&
	render_key(rule, change->old, old_key);
	bool		has_new = render_key(rule, change->new, new_key);

	if (has_old && !(has_new && same_text(old_key, new_key)))
		slate_pending_row_key(rule, old_key->data, old_key->len, NULL);
	if (has_new && !change->new_is_past)
		slate_pending_row_key(rule, new_key->data, new_key->len,
							  new_image(change));
}

/* A list, or another key or glob that goes with the row before and after. */
static void
capture_drops(SlateRule *rule, Change *change,
			  StringInfo old_key, StringInfo new_key)
{
	void		(*add) (SlateRule *rule, const char *text, int len);
	bool		has_old = !keeps_key(rule, change) &&
	render_key(rule, change->old, old_key);
	bool		has_new = render_key(rule, change->new, new_key);

	add = rule->template->is_pattern ? slate_pending_rule_glob
		: slate_pending_rule_drop;
	if (has_old)
		add(rule, old_key->data, old_key->len);
	if (has_new && !(has_old && same_text(old_key, new_key)))
		add(rule, new_key->data, new_key->len);
}

static void
capture_change(Change *change)
{
	StringInfoData old_key = {0};
	StringInfoData new_key = {0};

	for (int i = 0; i < change->relation->nrules; i++)
	{
		SlateRule  *rule = &change->relation->rules[i];

		if (rule->kind == RULE_ROW)
			capture_row_key(rule, change, &old_key, &new_key);
		else if (rule->kind != RULE_DELETE_DROP || change->new == NULL)
			capture_drops(rule, change, &old_key, &new_key);
	}
}

/* ERROR unless called as the kind of trigger that attach makes. */
static void
check_called_as_trigger(FunctionCallInfo fcinfo, bool row)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		(row ? !TRIGGER_FIRED_FOR_ROW(trigger->tg_event)
		 : !TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("slate_cache triggers must be fired AFTER, the one FOR EACH ROW and the other on TRUNCATE"),
				 errhint("Let slate_cache_attach() create them.")));
}

Datum
slate_cache_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Change		change = {0};
	int			nestlevel = 0;

	check_called_as_trigger(fcinfo, true);
	change.relation = slate_rules_get(trigger->tg_relation);
	if (change.relation == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no cache rules",
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("Its cache trigger does not run a function slate_cache.capture() of the extension."),
				 errhint("The extension's schema must keep its name, slate_cache.")));

	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		change.new = trigger->tg_trigtuple;
	else
		change.old = trigger->tg_trigtuple;
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		change.new = trigger->tg_newtuple;
		if (is_idle(change.old, change.new))
			return PointerGetDatum(NULL);
	}

	change.new_is_past = change.new && is_past(change.new);

	if (change.relation->key_needs_settings)
		nestlevel = slate_rowjson_begin_settings();
	capture_change(&change);
	if (nestlevel > 0)
		slate_rowjson_end_settings(nestlevel);
	return PointerGetDatum(NULL);
}

/* ------------------------------------------------------------------------
 * Whole tables
 * ------------------------------------------------------------------------
 */

Datum
slate_cache_capture_truncate(PG_FUNCTION_ARGS)
{
	check_called_as_trigger(fcinfo, false);
	slate_ddl_drop_all(RelationGetRelid(((TriggerData *) fcinfo->context)->tg_relation));
	return PointerGetDatum(NULL);
}
