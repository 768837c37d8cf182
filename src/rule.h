/*-------------------------------------------------------------------------
 *
 * rule.h
 *	  One rule: what its text says, and what that means for its table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_RULE_H
#define SLATE_RULE_H

#include "access/tupdesc.h"
#include "executor/spi.h"
#include "row.h"
#include "stamp.h"
#include "template.h"
#include "utils/rel.h"

typedef enum SlateRuleKind
{
	RULE_ROW,					/* the row, or one column of it, as JSON */
	RULE_LIST,					/* a JSON array of the rows that share it */
	RULE_DROP,					/* dropped on every change */
	RULE_DELETE_DROP			/* dropped on DELETE and TRUNCATE */
} SlateRuleKind;

typedef struct SlateRelation SlateRelation;

/*
 * One key template of a table.  The first part is what its text says; the
 * second what it means for the table's columns, in rules that are bound.
 */
typedef struct SlateRule
{
	SlateRelation *relation;
	SlateRuleKind kind;
	char	   *source;			/* as given to attach */
	SlateTemplate *template;
	char	   *value_column;	/* RULE_ROW: NULL for the whole row */
	char	   *wildcard;		/* glob of all its keys */
	int64		ttl;			/* ms, 0 for none, -1 for the setting's; rows
								 * and lists: see slate_rule_ttl() */

	AttrNumber *attnums;		/* of the template's columns, in order */
	AttrNumber	value_attnum;	/* InvalidAttrNumber for the whole row */
	SlateOrder	order;			/* SHARED unless a unique index orders writers */
	SPIPlanPtr	plan;			/* loads one key, made on first use */
	SPIPlanPtr	plan_many;		/* loads an array of keys; likewise */
} SlateRule;

/* The rules of one table.  Valid until the end of the transaction at least. */
struct SlateRelation
{
	Oid			relid;
	bool		enabled;		/* the trigger fires; see also
								 * slate_rules_are_kept() */
	bool		incomplete;		/* it has arguments that make no sense */
	int			nrules;
	SlateRule  *rules;

	/* only if bound */
	Oid			owner;			/* of the table */
	TupleDesc	desc;			/* a copy of our own */
	bool		sets_values;	/* has rows whose values may be set; false if
								 * a trigger cannot see all of a row, or the
								 * table does not show the partition any more */
	bool		needs_settings; /* some JSON depends on DateStyle etc. */
	bool		key_needs_settings; /* some key does */
	SlateRowFormat *format;		/* of its rows as JSON; or NULL, see row.h */
	FmgrInfo   *outputs;		/* by attribute, of the key columns */
	MemoryContext context;		/* holds all of it */
};

/* TTL in seconds when no rule says; 0 for none. */
extern int	slate_rule_default_ttl;

extern const char *slate_rule_kind_name(SlateRuleKind kind);

/*
 * The rules that a trigger's arguments hold, not bound.  With quiet, what makes
 * no sense is passed over, for triggers that somebody made by hand; the table's
 * next change will say so.
 */
extern void slate_rule_parse_arguments(SlateRelation *into, int nargs,
									   char **args, bool quiet);

/* How long its values live, in ms: 0 for no end. */
extern int64 slate_rule_ttl(const SlateRule *rule);

/*
 * An interval as a TTL in ms: months have 30 days.  ERROR if it is not
 * positive or longer than 3660 days.
 */
extern int64 slate_rule_interval_ttl(const Interval *interval);

/* May a relation of this relkind have rules? */
extern bool slate_rule_suits(char relkind);

/* Does a trigger that is enabled so fire for those who write here? */
extern bool slate_rule_fires(char tgenabled);

/*
 * The rules of a capture trigger, bound, in a memory context of their own under
 * parent.  ERROR if one does not fit the table.
 */
extern SlateRelation *slate_rule_compile(Relation relation,
										 const Trigger *trigger,
										 MemoryContext parent);

/*
 * Parsing for attach: checks one template against a table; ERRORs.  Returns
 * the key's part of it, without a column that is kept.
 */
extern char *slate_rule_check(Relation relation, SlateRuleKind kind,
							  const char *source);

/*
 * ERROR unless it is good enough for new keys of the table, which need not be
 * open.
 */
extern void slate_rule_check_columns(Oid relid, const SlateRule *rule);

/* Could it be bound without an error?  Locks nothing. */
extern bool slate_rule_fits(const SlateRule *rule);

#endif							/* SLATE_RULE_H */
