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
 * Run fn as the owner of such code, in a security-restricted operation in which
 * nothing can be written and search_path is "pg_catalog, pg_temp".  It is a
 * subtransaction that is rolled back: of what fn does only that stays which it
 * leaves in memory of its caller's, and what no rollback undoes (a session's
 * advisory locks).  ERROR (42501) if the code is of several; an
 * error of fn's goes on to the caller.
 */
typedef void (*SlateOwnerFn) (void *arg);
extern void slate_owner_run(const SlateCode *code, SlateOwnerFn fn, void *arg);

#endif							/* SLATE_OWNER_H */
