/*-------------------------------------------------------------------------
 *
 * ddl.h
 *	  What happens to tables besides changes of their rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_DDL_H
#define SLATE_DDL_H

#include "catalog/objectaccess.h"

/* Drop all keys of a table's rules at commit.  May throw. */
extern void slate_ddl_drop_all(Oid relid);

/*
 * For object_access_hook: when a capture trigger is dropped, or a table that
 * has one is truncated, or altered where event triggers do not fire, the cache
 * of its table is dropped at commit.
 */
extern void slate_ddl_object_access(ObjectAccessType access,
									Oid class_id, Oid object_id, int sub_id);

/*
 * The extension is about to be dropped: a WARNING, once a statement, if its keys
 * stay behind.  Asks Redis.
 */
extern void slate_ddl_before_dropping_extension(void);

/*
 * Before a transaction is committed or prepared, and before pending.c is told so:
 * logical replication's apply truncates partitions past triggers and hooks.
 * May throw.
 */
extern void slate_ddl_before_commit(void);

#endif							/* SLATE_DDL_H */
