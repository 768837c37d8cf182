/*-------------------------------------------------------------------------
 *
 * owner.c
 *	  Code that somebody has defined for a type, run as him.
 *
 * Rendering a row as JSON calls the casts to json of its columns' types, and a
 * cast may be anybody's: of whoever has defined the type, and he may define the
 * cast when others use it already.  In a query by hand a type like an enum runs
 * nothing of its owner's; but here rows are rendered for whoever changes or reads
 * them.  When the transaction commits, moreover, it may have been somebody else
 * who changed them, under whom the server ran what the table's owner had defined,
 * in ANALYZE say, and meanwhile it is a superuser again.  (PostgreSQL allows no
 * deferred triggers there, for the same reason; see CVE-2020-25695.)  So such a
 * cast runs as its function's owner, whoever has the table, with the same
 * restrictions as an index's functions in ANALYZE.
 *
 * It cannot write, either: deferred constraints have been checked by then.  And
 * what it does besides (a cursor left open, SET CONSTRAINTS) is undone, so that
 * nothing of it is left in the transaction of whoever only reads.  A superuser's
 * is trusted, and runs as it would in a query; but at a commit render.c undoes
 * what that has done, too.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "attempt.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "owner.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* InvalidOid if it is gone; so is the cast then. */
static Oid
owner_of_function(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

static void
note_owner(SlateCode *code, Oid owner)
{
	code->several |= code->kind == CODE_OF_OWNER && code->owner != owner;
	code->kind = CODE_OF_OWNER;
	code->owner = owner;
}

static void
note_function(SlateCode *code, Oid function)
{
	Oid			owner = owner_of_function(function);

	if (!OidIsValid(owner))
		return;
	if (superuser_arg(owner))
		code->kind = Max(code->kind, CODE_OF_SUPERUSER);
	else
		note_owner(code, owner);
}

static void
note_row_type(SlateCode *code, Oid type)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(type, -1);
	SlateCode	inner = slate_owner_code(desc, InvalidAttrNumber);

	FreeTupleDesc(desc);
	if (inner.kind == CODE_OF_OWNER)
		note_owner(code, inner.owner);
	code->several |= inner.several;
	code->kind = Max(code->kind, inner.kind);
}

static void
note_cast(SlateCode *code, Oid type)
{
	HeapTuple	cast = SearchSysCache2(CASTSOURCETARGET,
									   ObjectIdGetDatum(type),
									   ObjectIdGetDatum(JSONOID));
	Oid			function;

	if (!HeapTupleIsValid(cast))
		return;
	function = ((Form_pg_cast) GETSTRUCT(cast))->castfunc;
	ReleaseSysCache(cast);
	if (OidIsValid(function))
		note_function(code, function);
}

/*
 * What may be called for a column's type, as json_categorize_type() looks for it:
 * domains have no casts of their own.
 */
static void
note_type(SlateCode *code, Oid declared)
{
	Oid			type;
	Oid			element;

	if (declared < FirstNormalObjectId)
		return;
	type = getBaseType(declared);
	element = get_element_type(type);
	if (OidIsValid(element))
		note_type(code, element);
	else if (type >= FirstNormalObjectId && type_is_rowtype(type))
		note_row_type(code, type);
	else if (type >= FirstNormalObjectId)
		note_cast(code, type);
}

SlateCode
slate_owner_code(TupleDesc desc, AttrNumber attnum)
{
	SlateCode	code = {CODE_OF_SERVER};

	check_stack_depth();
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if ((attnum == InvalidAttrNumber || attnum == i + 1) &&
			!attribute->attisdropped)
			note_type(&code, attribute->atttypid);
	}
	return code;
}

compat_noreturn static void
refuse_several(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("casts to json of several roles would take part"),
			 errdetail("None of them is a superuser, and none may run as another."),
			 errhint("Have one role own the functions of all.")));
}

/*
 * Until the end of the subtransaction, which takes it all back.  XactReadOnly is
 * set by hand, since from 16 on a function cannot set the parameter.
 */
static void
become(Oid owner)
{
	Oid			user;
	int			context;

	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	XactReadOnly = true;
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_RESTRICTED_OPERATION);
}

typedef struct RunState
{
	Oid			owner;
	SlateOwnerFn fn;
	void	   *arg;
} RunState;

/* SlateAttemptFn */
static bool
run_as_owner(void *arg)
{
	RunState   *state = arg;

	become(state->owner);
	state->fn(state->arg);
	return false;
}

void
slate_owner_run(const SlateCode *code, SlateOwnerFn fn, void *arg)
{
	RunState	state = {code->owner, fn, arg};
	ErrorData  *error;

	if (code->several)
		refuse_several();
	error = slate_attempt(run_as_owner, &state);
	if (error)
		ReThrowError(error);
}
