/*-------------------------------------------------------------------------
 *
 * rules.h
 *	  Which keys belong to a table's rows.
 *
 * A table's rules are the arguments of its capture trigger, and nowhere else:
 * so they are dumped, restored, renamed, and dropped with the table, and
 * "\d table" shows them.  This room has them compiled (rule.c), caches the result
 * in each backend, and finds the rule that a key belongs to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_RULES_H
#define SLATE_RULES_H

#include "access/htup.h"
#include "batch.h"
#include "commands/trigger.h"
#include "rule.h"

/* Names that slate_cache_attach() gives to its triggers. */
#define SLATE_ROW_TRIGGER "slate_cache_row"
#define SLATE_TRUNCATE_TRIGGER "slate_cache_truncate"

/* A key taken apart by a rule. */
typedef struct SlateMatch
{
	SlateRule  *rule;			/* NULL before the first, after the last */
	uint64		generation;		/* the next three are private to rules.c */
	int			position;
	int			nth;
	SlateSlice	values[SLATE_TEMPLATE_MAX_COLUMNS];
} SlateMatch;

extern void slate_rules_init(void);

/*
 * The rules of a table, bound; NULL if it has none.  The caller holds a lock
 * on it. ERROR if a rule no longer fits the table (a renamed column).
 */
extern SlateRelation *slate_rules_get(Relation relation);

/*
 * All tables that have rules, not bound; a list of SlateRelation * that stays
 * valid until the end of the transaction.  Locks no table.
 */
extern List *slate_rules_all(void);

/* A number that these have to themselves, in this process; never 0. */
extern uint64 slate_rules_generation(void);

/*
 * Relations that something may have happened to since *since, OIDs: those of
 * which the relcache has told, or if it has told of many, all that have rules.
 * *since begins at 0, and is moved on.
 */
extern List *slate_rules_changed(uint64 *since);

/*
 * Does the trigger fire, and those of all partitions?  So it is with "enabled"
 * of relations that were found by a key, or by slate_rules_all().
 */
extern bool slate_rules_are_kept(const SlateRelation *relation);

/*
 * The bound form of a rule that is not, or NULL if the table's rules have
 * changed.  The caller holds a lock on the table.
 */
extern SlateRule *slate_rules_bind(Relation relation, const SlateRule *rule);

/*
 * The next rule that a key may belong to, rows before lists, after *match
 * (whose rule is NULL at first); not bound.  Syntax alone decides here.  If
 * rules change in between, it begins again.
 */
extern bool slate_rules_match(const char *key, int keylen, SlateMatch *match);

/* TTL in ms of a key's rule or of SLATE's own families; -1 if none knows it. */
extern int64 slate_rules_ttl(const char *key, int keylen);

/*
 * Patterns of all rules that cover a key: their families need its name, unless
 * it holds what a row or list rule loads.  By its text alone such a rule may
 * seem to know any key: "a:{id}" also has "a:42:lines".  A key of no family that
 * no rule seems to know belongs to slate_keyname_loose_family().
 */
typedef void (*SlateFamilyFn) (const char *family, int familylen, void *arg);
extern void slate_rules_families(const char *key, int keylen,
								 SlateFamilyFn fn, void *arg);

/*
 * DROP what the indexes of all families know that a rendered glob may drop from:
 * see slate_script_add_drop_family().
 */
extern void slate_rules_add_drops(SlateBatch *batch, const SlateStamp *stamp,
								  const char *glob, int globlen,
								  bool is_pushed);

/*
 * Append the key, or glob, that a row gives under a bound rule, and tell the texts
 * of its columns, if values is not NULL.  False if there is none: a key column is
 * NULL, the key would be one of ours, or too long (*too_long).
 */
extern bool slate_rules_render(SlateRule *rule, HeapTuple tuple,
							   StringInfo out, SlateSlice *values,
							   bool *too_long);

/*
 * The wildcards of all rules of a table, as a list of C strings in the current
 * memory context, straight from the catalog: works for rules that no longer
 * fit the table, too, and locks nothing.  NIL if it has none.
 */
extern List *slate_rules_wildcards(Oid relid);

/* Is it one session's alone?  False if it is gone.  Locks nothing. */
extern bool slate_rules_is_temporary(Oid relid);

/*
 * ERROR if a rule of the table names a column that it does not have, or one
 * whose type no key can have.  Does not lock the table.
 */
extern void slate_rules_check_columns(Oid relid);

/*
 * Can the rules of this table be bound to it: has it all columns that they
 * name, of types that keys can have?  Locks nothing.
 */
extern bool slate_rules_fits(const SlateRelation *relation);

/*
 * Does a column have this type, or one that holds it: an array, a domain, a
 * range, a row?  Or is it a table of this type?
 */
extern bool slate_rules_use_type(const SlateRelation *relation, Oid type);

/* slate_cache.capture(), or InvalidOid where there is no extension. */
extern Oid	slate_rules_capture_oid(void);

/* The two trigger functions. */
extern void slate_rules_functions(Oid functions[2]);

/* Called at the end of a transaction: frees what became invalid in it. */
extern void slate_rules_end_of_transaction(void);

/*
 * Has this table's definition changed since the compiled form was made?  Only
 * looks at memory.
 */
extern bool slate_rules_is_current(const SlateRelation *relation);

#endif							/* SLATE_RULES_H */
