/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  What is done in the background: see worker.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_WORKER_H
#define SLATE_WORKER_H

#include "database.h"

extern void slate_worker_register(void);	/* in _PG_init(), when preloaded */

/*
 * Have the workers of a database leave it, since a command wants it for
 * itself; for ten seconds, or until told otherwise.
 */
extern void slate_worker_leave(Oid database, bool leave);

#endif							/* SLATE_WORKER_H */
