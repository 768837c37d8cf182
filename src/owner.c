/*-------------------------------------------------------------------------
 *
 * owner.c
 *	  Code that somebody has defined for a type, run as him or not at all.
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
 * To run as its owner lends his rights to whoever chooses its values: to the
 * owner of the table that they are in, or the caller of a query that makes them.
 * So it is called only if he may act as the owner anyway, as a superuser may, or
 * if its owner has declared it SECURITY DEFINER.  For others the type is as if it
 * had no cast: its text is a string.
 *
 * Texts that become values, to look for a key's rows by, run what others have
 * defined, too: the checks of domains that are in arrays and rows.  There it is
 * who asks for the key that lends his rights; so if he may act as the table's
 * owner, they run as him.
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

typedef struct Code
{
	Oid			owner;
	bool		lends;			/* his rights, to whoever calls it */
} Code;

/* False if it is gone; so is the cast then. */
static bool
look_at_code(Oid function, Code *code)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));

	if (!HeapTupleIsValid(tuple))
		return false;
	code->owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	code->lends = ((Form_pg_proc) GETSTRUCT(tuple))->prosecdef;
	ReleaseSysCache(tuple);
	return true;
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

typedef struct RunState
{
	Oid			role;
	SlateAttemptFn fn;
	void	   *arg;
} RunState;

/* SlateAttemptFn */
static bool
run_as(void *arg)
{
	RunState   *state = arg;

	become(state->role);
	(void) state->fn(state->arg);
	return false;
}

ErrorData *
slate_owner_attempt(Oid owner, SlateAttemptFn fn, void *arg)
{
	RunState	state = {owner, fn, arg};

	if (!compat_may_become(GetUserId(), owner))
		state.role = GetUserId();
	return slate_attempt(run_as, &state);
}

typedef struct CallState
{
	Oid			function;
	Datum		value;
	text	   *json;
} CallState;

/* SlateAttemptFn */
static bool
call(void *arg)
{
	CallState  *state = arg;

	ncalls++;
	state->json = DatumGetTextPP(OidFunctionCall1(state->function,
												  state->value));
	return true;
}

static void
call_as_superuser(CallState *state)
{
	int			nestlevel = NewGUCNestLevel();

	pin_search_path();
	(void) call(state);
	AtEOXact_GUC(true, nestlevel);
}

static void
call_as_owner(CallState *state, Oid owner)
{
	RunState	run = {owner, call, state};
	ErrorData  *error = slate_attempt(run_as, &run);

	if (error)
		ReThrowError(error);
}

text *
slate_owner_cast(Oid type, Datum value, Oid beneficiary)
{
	CallState	state = {.function = find_cast(type),.value = value};
	Code		code = {0};

	if (!OidIsValid(state.function) || !look_at_code(state.function, &code))
		return NULL;
	if (superuser_arg(code.owner))
		call_as_superuser(&state);
	else if (code.lends || compat_may_become(beneficiary, code.owner))
		call_as_owner(&state, code.owner);
	return state.json;
}

uint64
slate_owner_calls(void)
{
	return ncalls;
}
