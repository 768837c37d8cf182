/*-------------------------------------------------------------------------
 *
 * namespace.h
 *	  Which keys of Redis are this database's: those that its rules cover, or
 *	  have covered since the namespace was emptied.
 *
 * For the worker, with a connection.  Throws out of waits, see link.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_NAMESPACE_H
#define SLATE_NAMESPACE_H

#include "nodes/pg_list.h"

/*
 * Have Redis note what the rules cover by now, if that is more than it knows.
 * Where it cannot be told it will be tried again.
 */
extern void slate_namespace_tell(void);

/*
 * The patterns, C strings, that all keys match that are to go when the namespace
 * is emptied: those of our rules, and those that Redis has noted.  In the
 * current context.  False if Redis has not answered.
 */
extern bool slate_namespace_globs(List **globs);

/* That has been done: what counts from now on are our rules alone. */
extern void slate_namespace_is_empty(void);

#endif							/* SLATE_NAMESPACE_H */
