/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  The process that starts a worker for each database that needs one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_LAUNCHER_H
#define SLATE_LAUNCHER_H

#include "nodes/nodes.h"

/* In _PG_init(), when we are preloaded. */
extern void slate_launcher_register(void);

/*
 * The database that nobody may be connected to for this command; InvalidOid if
 * there is none, or the user may not have it alone.
 */
extern Oid	slate_launcher_wanted_alone(Node *statement);

/* Have its workers leave it: for ten seconds, or until told otherwise. */
extern void slate_launcher_send_away(Oid database, bool leave);

#endif							/* SLATE_LAUNCHER_H */
