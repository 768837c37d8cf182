/*-------------------------------------------------------------------------
 *
 * drain.h
 *	  The worker's part in mode async: sends what sessions leave in the ring.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_DRAIN_H
#define SLATE_DRAIN_H

#include "database.h"

/*
 * Send what is there, as one exchange.  What does not reach Redis is in doubt
 * afterwards.  False if there is nothing to send.
 */
extern bool slate_drain(SlateDatabase *database);

#endif							/* SLATE_DRAIN_H */
