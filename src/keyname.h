/*-------------------------------------------------------------------------
 *
 * keyname.h
 *	  Names of our own keys in Redis: guards, indexes, notes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_KEYNAME_H
#define SLATE_KEYNAME_H

#include "batch.h"

/* Keys of guards and indexes start so; nobody else's should. */
#define SLATE_INTERNAL_PREFIX "slate_cache:"

extern bool slate_keyname_is_internal(const char *name, int len);

/* The key that a name in Redis is about, a guard's its own; false: of none. */
extern bool slate_keyname_find_key(const char *name, int len, SlateSlice *key);

/*
 * Append a name to a batch for one node: of a key's guard, of a family's index,
 * of what is the node's own ("" stays that).
 */
extern void slate_keyname_append_guard(SlateBatch *batch,
									   const char *key, int keylen);
extern void slate_keyname_append_index(SlateBatch *batch,
									   const char *family, int familylen);
extern void slate_keyname_append_own(SlateBatch *batch, const char *name);

/* What tells this database from others that may use the same Redis. */
extern const char *slate_keyname_owner(void);

/*
 * The family of the keys that no rule knows: this database's own, since who
 * empties his namespace drops it, and others may use the same Redis.  Is a
 * family such a one, whosever?
 */
extern SlateSlice slate_keyname_loose_family(void);
extern bool slate_keyname_is_loose(SlateSlice family);

/*
 * Of a Cluster's master: a glob for the indexes that it has, and what the name of
 * one says: the tag of the node that it belongs to, and the family.
 */
#define SLATE_INDEX_GLOB SLATE_INTERNAL_PREFIX "{*}index:{*"

extern bool slate_keyname_is_index(SlateSlice name, SlateSlice *tag,
								   SlateSlice *family);

#endif							/* SLATE_KEYNAME_H */
