/*-------------------------------------------------------------------------
 *
 * trigger.c
 *	  The least that a trigger in C can do: it reads one column of the new row.
 *	  What slate_cache's capture costs is compared with it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(read_one_column);

Datum
read_one_column(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	bool		isnull;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("not called by trigger manager")));
	(void) heap_getattr(trigger->tg_newtuple ? trigger->tg_newtuple
						: trigger->tg_trigtuple, 1,
						RelationGetDescr(trigger->tg_relation), &isnull);
	return PointerGetDatum(NULL);
}
