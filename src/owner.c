/*-------------------------------------------------------------------------
 *
 * owner.c
 *	  Code that a table's owner has defined, run as him.
 *
 * Rendering a row as JSON calls the casts to json of its columns' types, and a
 * cast may be anybody's.  That is done when the transaction commits: whoever
 * changed the row may have been somebody else, under whom the server ran what
 * the owner had defined, in ANALYZE say, and meanwhile it is a superuser again.
 * (PostgreSQL allows no deferred triggers there, for the same reason; see
 * CVE-2020-25695.)  So such a cast runs as the table's owner does, with the
 * same restrictions as an index's functions in ANALYZE.
 *
 * It cannot write, either: deferred constraints have been checked by then.  A
 * superuser's is not kept from that; but whatever a cast does at a commit, render.c
 * undoes.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "owner.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static bool
is_superusers_function(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	bool		result = false;

	if (HeapTupleIsValid(tuple))
	{
		result = superuser_arg(((Form_pg_proc) GETSTRUCT(tuple))->proowner);
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * What may be called for a column's type, as json_categorize_type() looks for it:
 * domains have no casts of their own.
 */
static SlateOwnerCode
code_of_type(Oid declared)
{
	Oid			type = getBaseType(declared);
	Oid			element = get_element_type(type);
	HeapTuple	cast;
	SlateOwnerCode code = OWNER_NO_CODE;

	if (OidIsValid(element))
		return code_of_type(element);
	if (type < FirstNormalObjectId)
		return OWNER_NO_CODE;
	if (type_is_rowtype(type))
		return OWNER_ANY_CODE;
	cast = SearchSysCache2(CASTSOURCETARGET, ObjectIdGetDatum(type),
						   ObjectIdGetDatum(JSONOID));
	if (HeapTupleIsValid(cast))
	{
		Oid			function = ((Form_pg_cast) GETSTRUCT(cast))->castfunc;

		if (OidIsValid(function))
			code = is_superusers_function(function) ? OWNER_SUPERUSERS_CODE
				: OWNER_ANY_CODE;
		ReleaseSysCache(cast);
	}
	return code;
}

SlateOwnerCode
slate_owner_code(TupleDesc desc, AttrNumber attnum)
{
	SlateOwnerCode code = OWNER_NO_CODE;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if ((attnum == InvalidAttrNumber || attnum == i + 1) &&
			!attribute->attisdropped)
			code = Max(code, code_of_type(attribute->atttypid));
	}
	return code;
}

static Oid
owner_of(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * XactReadOnly is set by hand, since from 16 on a function cannot set the
 * parameter; the end of a subtransaction puts it back as it does the user.
 */
void
slate_owner_enter(Oid relid, SlateOwner *saved)
{
	Oid			owner = owner_of(relid);

	GetUserIdAndSecContext(&saved->user, &saved->context);
	saved->nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	saved->read_only = XactReadOnly;
	XactReadOnly = true;
	SetUserIdAndSecContext(owner,
						   saved->context | SECURITY_RESTRICTED_OPERATION);
}

/* Takes back what the owner's code has set, too. */
void
slate_owner_leave(const SlateOwner *saved)
{
	XactReadOnly = saved->read_only;
	AtEOXact_GUC(false, saved->nestlevel);
	SetUserIdAndSecContext(saved->user, saved->context);
}
