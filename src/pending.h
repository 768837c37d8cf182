/*-------------------------------------------------------------------------
 *
 * pending.h
 *	  What a transaction will tell Redis when it commits.
 *
 * Everything here may throw and allocates, and belongs before the commit.
 * What a subtransaction adds vanishes when it is rolled back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_PENDING_H
#define SLATE_PENDING_H

#include "ops.h"
#include "rules.h"

/* kB that a transaction may hold before it falls back to dropping */
extern int	slate_pending_max;

/* Registers the transaction callbacks; once a backend. */
extern void slate_pending_init(void);

/*
 * A row to be written through; NULL when values have been given up in this
 * transaction, or the row is too large.
 */
extern SlateImage *slate_pending_image(SlateRelation *relation,
									   HeapTuple tuple);

/*
 * The key of a row that this transaction has changed, and so has locked: PUT
 * of the image, or DROP where there is none.
 */
extern void slate_pending_row_key(SlateRule *rule, const char *key,
								  int keylen, SlateImage *image);

/*
 * A rule's key that is to be dropped for any other reason: nobody waits for
 * us.
 */
extern void slate_pending_rule_drop(SlateRule *rule, const char *key,
									int keylen);

/* A rule's glob. */
extern void slate_pending_rule_glob(SlateRule *rule, const char *glob,
									int globlen);

/*
 * What slate_cache_set(), del() and invalidate() ask for.  ERROR when the
 * transaction already holds more than may be kept.
 */
extern void slate_pending_put(const char *key, int keylen,
							  const char *value, int valuelen, int64 ttl);
extern void slate_pending_drop(const char *key, int keylen);
extern void slate_pending_glob(const char *glob, int globlen);

/*
 * Everything that a rule may have in the cache, by its wildcard.  COMMIT waits
 * for that in mode async, too: the rule may be gone afterwards, and nobody else
 * keeps those from reading the values who may not read the table.
 */
extern void slate_pending_drop_all(const char *wildcard);

typedef enum SlatePendingAnswer
{
	PENDING_NOTHING,			/* this transaction has not touched the key */
	PENDING_VALUE,				/* slate_cache_set() has: *value */
	PENDING_GONE				/* it will be dropped, or holds a changed row */
} SlatePendingAnswer;

/* Has this transaction anything to tell Redis? */
extern bool slate_pending_has_any(void);

/* value points into the pending list; it is NUL-terminated. */
extern SlatePendingAnswer slate_pending_lookup(const char *key, int keylen,
											   const char **value);

#endif							/* SLATE_PENDING_H */
