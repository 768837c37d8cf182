/*-------------------------------------------------------------------------
 *
 * types.c
 *	  What the text of a type's values depends on, and what is in a type.
 *
 * A key is made of its columns' texts, and must be the same in every session.
 * What a text depends on may be deep inside: an array of rows of regclass has
 * one that search_path changes, and ALTER TYPE of what it holds changes it, too.
 *
 * Types are looked up in the catalog's caches: nothing is locked here, but for
 * slate_types_has_equality().
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "nodes/pg_list.h"
#include "types.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* ------------------------------------------------------------------------
 * Texts
 * ------------------------------------------------------------------------
 */

bool
slate_types_has_plain_text(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case NUMERICOID:
		case UUIDOID:
			return true;
		default:
			return false;
	}
}

/* Types whose text depends on lc_monetary or search_path. */
static bool
has_session_text(Oid type, Oid argument pg_attribute_unused())
{
	switch (type)
	{
		case CASHOID:
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGCOLLATIONOID:
			return true;
		default:
			return false;
	}
}

/* Types whose text, or JSON, is the same in every session. */
bool
slate_types_has_stable_text(Oid type)
{
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case CHAROID:
		case NAMEOID:
		case JSONOID:
		case JSONBOID:
			return true;
		default:
			return slate_types_has_plain_text(type) ||
				get_typtype(type) == TYPTYPE_ENUM;
	}
}

/* ------------------------------------------------------------------------
 * Looking into types
 * ------------------------------------------------------------------------
 */

/* What to look for in a type, and what has been looked into. */
typedef struct TypeSearch
{
	bool		(*wanted) (Oid type, Oid argument);
	bool		(*is_whole) (Oid type); /* not to be looked into; or NULL */
	Oid			argument;
	List	   *seen;			/* OIDs: a type may hold another many times */
} TypeSearch;

static Oid	find_in_columns(Oid relid, TypeSearch *search);

/*
 * The type itself, or the first one in it, that is wanted, or InvalidOid: an
 * array has its elements in it, a domain its base, a range its bounds, a row
 * its columns.
 */
static Oid
find_in_type(Oid type, TypeSearch *search)
{
	check_stack_depth();
	if (!OidIsValid(type) || list_member_oid(search->seen, type))
		return InvalidOid;
	search->seen = lappend_oid(search->seen, type);
	if (search->wanted(type, search->argument))
		return type;
	if (search->is_whole && search->is_whole(type))
		return InvalidOid;
	switch (get_typtype(type))
	{
		case TYPTYPE_DOMAIN:
			return find_in_type(getBaseType(type), search);
		case TYPTYPE_RANGE:
			return find_in_type(get_range_subtype(type), search);
		case TYPTYPE_MULTIRANGE:
			return find_in_type(get_multirange_range(type), search);
		case TYPTYPE_COMPOSITE:
			return find_in_columns(get_typ_typrelid(type), search);
		default:
			return find_in_type(get_element_type(type), search);
	}
}

/* By the catalog alone: a row type's own descriptor would come with a lock. */
static Oid
find_in_columns(Oid relid, TypeSearch *search)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			found = InvalidOid;
	int			natts = 0;

	if (HeapTupleIsValid(tuple))
	{
		natts = ((Form_pg_class) GETSTRUCT(tuple))->relnatts;
		ReleaseSysCache(tuple);
	}
	for (AttrNumber attnum = 1; attnum <= natts && !OidIsValid(found); attnum++)
	{
		/* of a dropped column it is InvalidOid */
		found = find_in_type(get_atttype(relid, attnum), search);
	}
	return found;
}

Oid
slate_types_session_text(Oid type)
{
	TypeSearch	search = {.wanted = has_session_text};
	Oid			found = find_in_type(type, &search);

	list_free(search.seen);
	return found;
}

static bool
has_no_equality(Oid type, Oid argument pg_attribute_unused())
{
	return !OidIsValid(lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr);
}

/* By an operator of its own, not by what is in it. */
static bool
is_compared_as_whole(Oid type)
{
	Oid			operator = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;

	return operator != RECORD_EQ_OP && operator != ARRAY_EQ_OP;
}

/*
 * Looked for in the type, too: what the type cache says of a row or an array may
 * be older than the last change of what it holds.
 */
bool
slate_types_has_equality(Oid type)
{
	TypeSearch	search = {.wanted = has_no_equality,
	.is_whole = is_compared_as_whole};
	bool		found = OidIsValid(find_in_type(type, &search));

	list_free(search.seen);
	return !found;
}

static bool
is_type(Oid type, Oid wanted)
{
	return type == wanted;
}

bool
slate_types_column_holds(Oid relid, Oid type)
{
	TypeSearch	search = {.wanted = is_type,.argument = type};
	bool		found = OidIsValid(find_in_columns(relid, &search));

	list_free(search.seen);
	return found;
}
