/*-------------------------------------------------------------------------
 *
 * database.h
 *	  One connection to PostgreSQL that comes back, and its errors.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DATABASE_H
#define DATABASE_H

#include <libpq-fe.h>

#include "history.h"

typedef struct Statement
{
	const char *name;
	const char *sql;
} Statement;

/* What is prepared whenever there is a new connection; ends with NULL. */
extern bool database_connect(PGconn **connection, const Statement *statements);
extern bool database_is_lost(PGconn *connection);
extern void database_close(PGconn **connection);

/*
 * Run it.  NULL: an error, which was counted, or a lost connection.  The
 * second takes parameters as text.
 */
extern PGresult *database_query(PGconn *connection, const char *sql);
extern PGresult *database_execute(PGconn *connection, const char *statement,
								  int nparams, const char *const *params);

/* The same, of what returns one value as a number; otherwise -1. */
extern int64_t database_number(PGconn *connection, const char *sql);

#endif							/* DATABASE_H */
