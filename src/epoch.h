/*-------------------------------------------------------------------------
 *
 * epoch.h
 *	  What Redis notes of this database: under which names, and how it is written.
 *
 * See trust.c.  Both notes begin with the timeline, so that the order of the texts
 * is that of what they say.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_EPOCH_H
#define SLATE_EPOCH_H

#include "stamp.h"

/* The epoch's key, which stamps point to for as long as they like. */
extern const char *slate_epoch_key(void);

/* The WAL position's; valid until the next call. */
extern const char *slate_epoch_wal_key(void);

/* That of what its rules cover, see namespace.c; likewise. */
extern const char *slate_epoch_rules_key(void);

/* An epoch of our timeline, as a text of SLATE_EPOCH_LEN bytes and a zero. */
extern void slate_epoch_write(char *text, uint64 epoch);

/* A WAL position, as a text of SLATE_VERSION_LEN bytes and a zero. */
extern void slate_epoch_write_wal(char *text, TimeLineID timeline,
								  XLogRecPtr position);

/* The timeline that a note begins with; 0 if it is none. */
extern TimeLineID slate_epoch_timeline(const char *note);

#endif							/* SLATE_EPOCH_H */
