/*-------------------------------------------------------------------------
 *
 * triggers.h
 *	  The capture triggers of a database, as pg_trigger has them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_TRIGGERS_H
#define SLATE_TRIGGERS_H

#include "access/htup.h"
#include "catalog/pg_trigger.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"

/*
 * Is it one that carries rules: AFTER, FOR EACH ROW?  Others fail when they fire;
 * a view's may be INSTEAD OF.
 */
#define slate_triggers_counts(tgtype) \
	(TRIGGER_FOR_ROW(tgtype) && TRIGGER_FOR_AFTER(tgtype))

typedef struct SlateTrigger
{
	Oid			relid;			/* its table */
	Oid			oid;
	Oid			parent;			/* of a partition's clone, else InvalidOid */
	bool		fires;			/* whatever session_replication_role is */

	/* Where its row is, and whose: as long as both are the same, so is it. */
	TransactionId xmin;
	ItemPointerData tid;

	HeapTuple	tuple;			/* a copy */
} SlateTrigger;

/*
 * All that run the function "capture", by table; a list of SlateTrigger *, in
 * the current memory context.  Locks no table.
 */
extern List *slate_triggers_all(Oid capture);

/* Those of one table, whether or not it is still there. */
extern List *slate_triggers_of(Oid relid, Oid capture);

/* A trigger, whatever it fires for; or NULL if it does not run that function. */
extern SlateTrigger *slate_triggers_find(Oid trigger, Oid function);

/* Its arguments, with a NULL after the last, in the current memory context. */
extern char **slate_triggers_arguments(const SlateTrigger *trigger, int *nargs);

/* Is the other list the same triggers, none of them changed meanwhile? */
extern bool slate_triggers_are_same(List *triggers, List *others);

#endif							/* SLATE_TRIGGERS_H */
