/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  The process that starts a worker for each database that needs one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_LAUNCHER_H
#define SLATE_LAUNCHER_H

/* In _PG_init(), when we are preloaded. */
extern void slate_launcher_register(void);

/*
 * Have the workers of a database leave it, since a command wants it for
 * itself; for ten seconds, or until told otherwise.
 */
extern void slate_launcher_send_away(Oid database, bool leave);

#endif							/* SLATE_LAUNCHER_H */
