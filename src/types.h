/*-------------------------------------------------------------------------
 *
 * types.h
 *	  What the text of a type's values depends on, and what is in a type.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_TYPES_H
#define SLATE_TYPES_H

/* Does its text hold nothing but letters, digits, '.', '+' and '-'? */
extern bool slate_types_has_plain_text(Oid type);

/* Is its text, or JSON, the same in every session, whatever is SET there? */
extern bool slate_types_has_stable_text(Oid type);

/*
 * The type itself, or one in it, whose text depends on lc_monetary or
 * search_path, which cannot be pinned; InvalidOid: there is none.
 */
extern Oid	slate_types_session_text(Oid type);

/* Can values be compared with "="?  May lock row types, ACCESS SHARE. */
extern bool slate_types_has_equality(Oid type);

/* Has a table a column of this type, or of one that holds it? */
extern bool slate_types_column_holds(Oid relid, Oid type);

#endif							/* SLATE_TYPES_H */
