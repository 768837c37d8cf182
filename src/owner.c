/*-------------------------------------------------------------------------
 *
 * owner.c
 *	  Casts to json that somebody has defined for a type, run as him.
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
 * Which function it is, and whose, is looked up for each call, and that one is
 * called.  Nothing that waits comes in between: while one column is rendered,
 * a type's owner may give another column's a cast.
 *
 * It cannot write, either: deferred constraints have been checked by then.  And
 * what it does besides (a cursor left open, SET CONSTRAINTS) is undone, so that
 * nothing of it is left in the transaction of whoever only reads.  A superuser's
 * is trusted, and runs as it would in a query, but for search_path, which whoever
 * reads must not choose for it: what it makes is there for all.  At a commit
 * render.c undoes what that has done, too.
 *
 * The values of a query are its caller's choice, not the table's.  So there a
 * cast runs as its owner only if the caller may act as him anyway, as a superuser
 * may; otherwise it would lend him the owner's rights, and it runs as the caller,
 * as in the query itself.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "attempt.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "owner.h"
#include "utils/guc.h"
#include "utils/syscache.h"

static uint64 ncalls = 0;

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

/* InvalidOid if there is none by a function. */
static Oid
find_cast(Oid type)
{
	HeapTuple	tuple = SearchSysCache2(CASTSOURCETARGET,
										ObjectIdGetDatum(type),
										ObjectIdGetDatum(JSONOID));
	Oid			function = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		function = ((Form_pg_cast) GETSTRUCT(tuple))->castfunc;
		ReleaseSysCache(tuple);
	}
	return function;
}

static void
pin_search_path(void)
{
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
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

	pin_search_path();
	XactReadOnly = true;
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_RESTRICTED_OPERATION);
}

typedef struct CallState
{
	Oid			function;
	Oid			owner;
	Datum		value;
	text	   *json;
} CallState;

static void
call(CallState *state)
{
	ncalls++;
	state->json = DatumGetTextPP(OidFunctionCall1(state->function,
												  state->value));
}

/* SlateAttemptFn */
static bool
call_as_owner(void *arg)
{
	CallState  *state = arg;

	become(state->owner);
	call(state);
	return false;
}

static void
call_as_superuser(CallState *state)
{
	int			nestlevel = NewGUCNestLevel();

	pin_search_path();
	call(state);
	AtEOXact_GUC(true, nestlevel);
}

text *
slate_owner_cast(Oid type, Datum value, bool is_callers)
{
	CallState	state = {.function = find_cast(type),.value = value};
	ErrorData  *error;

	if (OidIsValid(state.function))
		state.owner = owner_of_function(state.function);
	if (!OidIsValid(state.owner))
		return NULL;
	if (superuser_arg(state.owner))
	{
		call_as_superuser(&state);
		return state.json;
	}
	if (is_callers && !compat_may_become(GetUserId(), state.owner))
		state.owner = GetUserId();
	error = slate_attempt(call_as_owner, &state);
	if (error)
		ReThrowError(error);
	return state.json;
}

uint64
slate_owner_calls(void)
{
	return ncalls;
}
