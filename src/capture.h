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
 * has one is truncated, or altered where event triggers do not fire, the cache
 * of its table is dropped at commit.
 */
extern void slate_capture_object_access(ObjectAccessType access,
										Oid class_id, Oid object_id,
										int sub_id);

/*
 * Before a transaction is committed or prepared: logical replication's apply
 * truncates partitions past triggers and hooks.
 */
extern void slate_capture_before_commit(void);

#endif							/* SLATE_CAPTURE_H */
