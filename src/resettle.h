/*-------------------------------------------------------------------------
 *
 * resettle.h
 *	  What the indexes of a Cluster's masters are about after slots have moved.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_RESETTLE_H
#define SLATE_RESETTLE_H

#include "database.h"

/*
 * For the worker that empties the namespace of a Cluster: drop the keys that no
 * rule covers, wherever they are, and have no index name keys of others.  False
 * if Redis has not done it.
 */
extern bool slate_resettle(SlateDatabase *database);

#endif							/* SLATE_RESETTLE_H */
