/*-------------------------------------------------------------------------
 *
 * owner.h
 *	  Code that a table's owner has defined, run as him.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_OWNER_H
#define SLATE_OWNER_H

#include "access/attnum.h"
#include "access/tupdesc.h"

/* Who we were. */
typedef struct SlateOwner
{
	Oid			user;
	int			context;
	int			nestlevel;
	bool		read_only;
} SlateOwner;

/* Whose functions are called; the more dangerous ones last. */
typedef enum SlateOwnerCode
{
	OWNER_NO_CODE,				/* the server's own */
	OWNER_SUPERUSERS_CODE,
	OWNER_ANY_CODE				/* they are to run as the owner */
} SlateOwnerCode;

/* To render a row as JSON, or the one column (InvalidAttrNumber: all). */
extern SlateOwnerCode slate_owner_code(TupleDesc desc, AttrNumber attnum);

/*
 * Become the owner of a table, in a security-restricted operation in which
 * nothing can be written and search_path is "pg_catalog, pg_temp".  An error in
 * between, or the end of the subtransaction, undoes it too.
 */
extern void slate_owner_enter(Oid relid, SlateOwner *saved);
extern void slate_owner_leave(const SlateOwner *saved);

#endif							/* SLATE_OWNER_H */
