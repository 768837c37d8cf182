/*-------------------------------------------------------------------------
 *
 * publish.h
 *	  Telling Redis what a transaction has collected.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_PUBLISH_H
#define SLATE_PUBLISH_H

#include "ops.h"

/* slate_cache.mode: what a commit waits for. */
typedef enum SlateMode
{
	SLATE_MODE_ASYNC,			/* nothing; the worker pushes, see ring.h */
	SLATE_MODE_COMMIT,			/* the push, after the commit */
	SLATE_MODE_STRICT			/* marks before it, too; see strict.h */
} SlateMode;

extern int	slate_publish_mode;

/* Setting: walk the keyspace for a glob's keys? */
extern bool slate_publish_sweep;

/* For so long, in ms, if a worker can do it instead; a setting of testing builds. */
extern int	slate_publish_sweep_at_once;

/*
 * At PRE_COMMIT: connect, take the version, write the journal, in mode strict
 * mark, render, encode.  The list stays in use until slate_publish_forget().
 * max_bytes bounds the JSON that is held; what exceeds it is dropped instead
 * of put; at_once leaves nothing to the worker in mode async.  Without a
 * connection nothing will be sent; the worker replays the journal.  In mode
 * strict that is an ERROR.  May throw.
 */
extern void slate_publish_prepare(SlateOpList *list, Size max_bytes,
								  bool at_once);

/*
 * At PRE_PREPARE: leave all of it to the worker; in mode strict it is marked.
 * False if there is no journal.  May throw.
 */
extern bool slate_publish_hand_over(SlateOpList *list);

/* The transaction is prepared: its marks are to stay.  Does not throw. */
extern void slate_publish_prepared(void);

/* After the commit: send what was prepared, if anything.  Never throws. */
extern void slate_publish_send(void);

/* Instead, after an abort.  Takes marks away again.  Never throws. */
extern void slate_publish_forget(void);

#endif							/* SLATE_PUBLISH_H */
