/*-------------------------------------------------------------------------
 *
 * capture.h
 *	  What the module hooks up of the capture room.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_CAPTURE_H
#define SLATE_CAPTURE_H

#include "catalog/objectaccess.h"

/*
 * For object_access_hook: when a capture trigger is dropped, or a table that
 * has one is truncated, the cache of its table is dropped at commit.
 */
extern void slate_capture_object_access(ObjectAccessType access,
										Oid class_id, Oid object_id);

#endif							/* SLATE_CAPTURE_H */
