/*-------------------------------------------------------------------------
 *
 * database.c
 *	  One connection to PostgreSQL that comes back, and its errors.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "database.h"

/*
 * The connection that has failed by an error which did not come from the
 * server; libpq may think that it still stands.
 */
static PGconn *broken;

bool
database_is_lost(PGconn *connection)
{
	return connection == NULL || connection == broken ||
		PQstatus(connection) != CONNECTION_OK;
}

void
database_close(PGconn **connection)
{
	if (broken == *connection)
		broken = NULL;
	PQfinish(*connection);
	*connection = NULL;
}

/* "There is no transaction in progress": so much the better. */
static void
ignore_notice(void *arg, const char *message)
{
	(void) arg;
	(void) message;
}

/* Once; whoever wants to, tries again. */
bool
database_connect(PGconn **connection, const Statement *statements)
{
	database_close(connection);
	*connection = PQconnectdb(options.connstr);
	if (database_is_lost(*connection))
	{
		database_close(connection);
		pause_for(20 * MILLISECOND);
		return false;
	}
	PQsetNoticeProcessor(*connection, ignore_notice, NULL);
	for (; statements != NULL && statements->name != NULL; statements++)
	{
		PGresult   *result = PQprepare(*connection, statements->name,
									   statements->sql, 0, NULL);
		bool		fine = PQresultStatus(result) == PGRES_COMMAND_OK;

		if (!fine && !database_is_lost(*connection))
		{
			fprintf(stderr, "history: %s", PQresultErrorMessage(result));
			exit(2);
		}
		PQclear(result);
		if (!fine)
		{
			database_close(connection);
			return false;
		}
	}
	tally->reconnections++;
	return true;
}

/* A lost connection is no error. */
static void
count_error(PGconn *connection, const PGresult *result)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	if (sqlstate == NULL)
		broken = connection;
	if (database_is_lost(connection))
		return;
	for (int i = 0; i < MAX_ERRORS; i++)
	{
		ErrorCount *error = &tally->errors[i];

		if (error->count == 0)
		{
			snprintf(error->sqlstate, sizeof(error->sqlstate), "%s", sqlstate);
			snprintf(error->example, sizeof(error->example), "%s",
					 message != NULL ? message : "");
		}
		if (strcmp(error->sqlstate, sqlstate) == 0)
		{
			error->count++;
			return;
		}
	}
}

static PGresult *
unless_error(PGconn *connection, PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK)
		return result;
	count_error(connection, result);
	PQclear(result);
	return NULL;
}

PGresult *
database_query(PGconn *connection, const char *sql)
{
	return unless_error(connection, PQexec(connection, sql));
}

PGresult *
database_execute(PGconn *connection, const char *statement, int nparams,
				 const char *const *params)
{
	return unless_error(connection, PQexecPrepared(connection, statement, nparams,
												   params, NULL, NULL, 0));
}

int64_t
database_number(PGconn *connection, const char *sql)
{
	PGresult   *result;
	int64_t		number = -1;

	if (database_is_lost(connection))
		return -1;
	result = database_query(connection, sql);
	if (result != NULL && PQntuples(result) == 1 && !PQgetisnull(result, 0, 0))
		number = strtoll(PQgetvalue(result, 0, 0), NULL, 10);
	PQclear(result);
	return number;
}
