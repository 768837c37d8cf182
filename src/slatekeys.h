/*-------------------------------------------------------------------------
 *
 * slatekeys.h
 *	  The keys of SLATE, a web IDE with projects, files and assets.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_SLATEKEYS_H
#define SLATE_SLATEKEYS_H

#include "rule.h"

/* What slate_cache_attach_defaults() gives a table, as far as its columns go. */
typedef struct SlateKeysRule
{
	const char *table;
	SlateRuleKind kind;
	const char *source;
} SlateKeysRule;

typedef struct SlateKeysTable
{
	const char *table;
	int			ttl;			/* seconds */
	int			list_ttl;
} SlateKeysTable;

#define SLATE_KEYS_TABLES 3

extern const SlateKeysRule slate_keys_rules[];
extern const int slate_keys_nrules;
extern const SlateKeysTable slate_keys_tables[SLATE_KEYS_TABLES];

/*
 * What belongs to a project, but for the rows that name it: templates of keys and
 * patterns, of one column, the project's id.
 */
extern const char *const slate_keys_project[];
extern const int slate_keys_nproject;

/* TTL in ms of a key that no table's rule covers; -1 if it is none of SLATE's. */
extern int64 slate_keys_ttl(const char *key, int keylen);

#endif							/* SLATE_SLATEKEYS_H */
