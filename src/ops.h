/*-------------------------------------------------------------------------
 *
 * ops.h
 *	  A list of operations on keys and globs, as a transaction or one of its
 *	  subtransactions collects them.
 *
 * A list has one operation a key: the last one.  It lives in a memory context
 * of its own; values and row images, but for the first few, in a child of it,
 * so that they can be given up alone.  Everything here may throw for want of
 * memory, and then the list is as it was, or has the new operation.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_OPS_H
#define SLATE_OPS_H

#include "rules.h"
#include "stamp.h"

/* A row as it was after a change, kept to be rendered at PRE_COMMIT. */
typedef struct SlateImage
{
	SlateRelation *relation;	/* valid until the end of the transaction */
	HeapTuple	tuple;			/* without external values */
	struct SlateImage *moved;	/* where a merge has put it */
	char	   *row_json;		/* whole row, once rendered; or NULL */
	int			row_json_len;
} SlateImage;

typedef enum SlateOpKind
{
	OP_DROP,
	OP_PUT_ROW,					/* image */
	OP_PUT_VALUE				/* value */
} SlateOpKind;

typedef struct SlateOp
{
	char	   *key;
	int			keylen;
	uint32		hash;
	SlateOpKind kind;
	SlateOrder	order;
	uint64		sequence;		/* later operations have higher ones */
	int64		ttl;
	SlateImage *image;
	AttrNumber	value_attnum;
	char	   *value;
	int			valuelen;
	const char *wildcard;		/* the rule's, or NULL; see
								 * slate_ops_add_covering_globs() */
} SlateOp;

typedef struct SlateGlobOp
{
	char	   *glob;
	int			len;
	uint32		hash;
	uint64		sequence;		/* of its last use */
	const char *wildcard;
	bool		thorough;		/* stands for keys that some rule enumerates,
								 * or was asked for by name: all of them go
								 * before COMMIT returns, if time allows */
	bool		swept;			/* all keys are looked through for it, now or
								 * by the worker */
} SlateGlobOp;

typedef struct SlateOpIndex SlateOpIndex;	/* a hash table, private to ops.c */

typedef struct SlateOpList
{
	MemoryContext context;		/* holds the list */
	MemoryContext values;		/* child of context, for images and values; or
								 * NULL while these are few */
	Size		early_bytes;	/* of those in context itself */
	Size		bytes;			/* what all of it takes, about */
	SlateOp    *ops;
	int			nops;
	int			maxops;
	SlateOpIndex *op_index;		/* NULL while the list is short */
	SlateGlobOp *globs;
	int			nglobs;
	int			maxglobs;
	SlateOpIndex *glob_index;
} SlateOpList;

/*
 * Make an empty list in a context below parent; a small one, if there may be
 * thousands of them.
 */
extern SlateOpList *slate_ops_create(MemoryContext parent);
extern SlateOpList *slate_ops_create_small(MemoryContext parent);
extern void slate_ops_delete(SlateOpList *list);

/* The key's operation, or NULL. */
extern SlateOp *slate_ops_find(const SlateOpList *list, SlateSlice key);

/*
 * The key's operation, made or overwritten: a DROP, SHARED, without value.
 * The pointer is good until the next call.
 */
extern SlateOp *slate_ops_begin(SlateOpList *list, SlateSlice key,
								uint64 sequence);

/* Note a glob, or that it was used again; returns its position. */
extern int	slate_ops_note_glob(SlateOpList *list, SlateSlice glob,
								uint64 sequence, const char *wildcard,
								bool thorough);

/* Keep a row, or a value; the copy is NUL-terminated. */
extern SlateImage *slate_ops_keep_row(SlateOpList *list,
									  SlateRelation *relation,
									  HeapTuple tuple);
extern char *slate_ops_keep_value(SlateOpList *list,
								  const char *value, int len);

/*
 * Add what another list says; where both have an operation, it overwrites, or
 * gives way.  from stays as it is.
 */
extern void slate_ops_merge(SlateOpList *into, const SlateOpList *from,
							bool overwrite);

/* Turn every PUT into a DROP, and free the values. */
extern void slate_ops_give_up_values(SlateOpList *list);

/* Add to a list, for each operation of another, the glob that covers it. */
extern void slate_ops_add_covering_globs(SlateOpList *into,
										 const SlateOpList *from);

/* Is there a glob noted later than the sequence that matches the key? */
extern bool slate_ops_glob_since(const SlateOpList *list, SlateSlice key,
								 uint64 sequence);

/* Turn one operation into a DROP. */
extern void slate_ops_drop_instead(SlateOp *op);

#endif							/* SLATE_OPS_H */
