/*-------------------------------------------------------------------------
 *
 * select.h
 *	  SELECTs on an attached table that we write ourselves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_SELECT_H
#define SLATE_SELECT_H

#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "utils/portal.h"
#include "utils/relcache.h"

/* A column may be called that, but before a dot it is the row. */
#define SLATE_SELECT_ROW "\"slate_cache row\""

/* Append what selects the whole rows of a table, up to its FROM clause. */
extern void slate_select_begin(StringInfo sql, Relation relation);

/*
 * Append "row.column =", by the type's own operator; declared is the column's
 * type.  ERROR (42883) if the type has none.
 */
extern void slate_select_equality(StringInfo sql, const char *column,
								  Oid declared);

/*
 * All of these need SPI, and a first relation that is the one meant: ERROR
 * (55006) if its name has come to mean another.  They may run anybody's code.
 *
 * A plan lasts until it is freed by SPI_freeplan().  The result of its execution
 * is SPI's.  A cursor is pinned, since that code may say CLOSE ALL.
 */
extern SPIPlanPtr slate_select_plan(const char *sql, int nargs, Oid *types,
									Oid relid);
extern void slate_select_execute(SPIPlanPtr plan, Datum *values, Oid relid);
extern Portal slate_select_open(const char *sql, int nargs, Oid *types,
								Datum *values, Oid relid);
extern void slate_select_close(Portal portal);

/* For the module's post_parse_analyze_hook: may the query be what is wanted? */
extern void slate_select_check_analyzed(const char *text, const Query *query);

#endif							/* SLATE_SELECT_H */
