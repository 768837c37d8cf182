/*-------------------------------------------------------------------------
 *
 * owner.h
 *	  Code that somebody has defined for a type, run as him.
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
typedef enum SlateCodeKind
{
	CODE_OF_SERVER,
	CODE_OF_SUPERUSER,
	CODE_OF_OWNER				/* it is to run as the functions' owner */
} SlateCodeKind;

typedef struct SlateCode
{
	SlateCodeKind kind;
	Oid			owner;			/* CODE_OF_OWNER: whose */
	bool		several;		/* there are more of them */
} SlateCode;

/* To render a row as JSON, or the one column (InvalidAttrNumber: all). */
extern SlateCode slate_owner_code(TupleDesc desc, AttrNumber attnum);

/*
 * Become the owner of such code, in a security-restricted operation in which
 * nothing can be written and search_path is "pg_catalog, pg_temp".  ERROR
 * (42501) if it is of several.  An error in between, or the end of the
 * subtransaction, undoes it too.
 */
extern void slate_owner_enter(const SlateCode *code, SlateOwner *saved);
extern void slate_owner_leave(const SlateOwner *saved);

#endif							/* SLATE_OWNER_H */
