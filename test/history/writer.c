/*-------------------------------------------------------------------------
 *
 * writer.c
 *	  Transactions that write, in many ways, and note what became of them.
 *
 * A writer that has lost its connection finds out on the next one what became
 * of its transaction: whether its row has the token that it gave it, or one
 * that was written over that.  So each write has an outcome before its writer
 * begins another one.
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "database.h"

/* Statements of one transaction. */
#define MAX_OWN 24

typedef struct OwnWrite
{
	int64_t		token;
	int			row;
	bool		in_force;		/* not rolled back to a savepoint */
} OwnWrite;

typedef struct Transaction
{
	OwnWrite	writes[MAX_OWN];
	int			nwrites;
	uint64_t	xid;			/* 0: nothing written */
	char		gid[40];		/* "": not to be prepared */
} Transaction;

static PGconn *connection;
static int	number;
static int	serial;
static bool strict;				/* the session's mode */

/*
 * $1 is the row's id, $2 the token.  Each returns the counter, the token that
 * was there before, and the transaction; or no row.
 */
#define RETURNING " RETURNING counter, before, pg_current_xact_id()::text"
static const Statement statements[] = {
	{"update", "UPDATE item SET counter = counter + 1, before = token, token = $2::bigint"
	" WHERE id = $1::int" RETURNING},
	{"delete", "WITH gone AS (DELETE FROM item WHERE id = $1::int RETURNING *)"
	" INSERT INTO grave (id, counter, before, token)"
	" SELECT id, counter + 1, token, $2::bigint FROM gone" RETURNING},
	{"insert", "WITH back AS (DELETE FROM grave WHERE id = $1::int RETURNING *)"
	" INSERT INTO item (id, shelf, counter, before, token)"
	" SELECT id, $3::int, counter + 1, token, $2::bigint FROM back" RETURNING},
	{"panel", "UPDATE panel SET counter = counter + 1, before = token, token = $2::bigint"
	" WHERE id = $1::int" RETURNING},
	{"quick_item", "WITH u AS (UPDATE item SET counter = counter + 1, before = token, token = $2::bigint"
	" WHERE id = $1::int RETURNING counter, before, token)"
	" INSERT INTO quick SELECT token, counter, before FROM u RETURNING counter, before"},
	{"quick_panel", "WITH u AS (UPDATE panel SET counter = counter + 1, before = token, token = $2::bigint"
	" WHERE id = $1::int RETURNING counter, before, token)"
	" INSERT INTO quick SELECT token, counter, before FROM u RETURNING counter, before"},
	{"get", "SELECT slate_cache_get($1), slate_cache_fetch($2,"
	" 'SELECT id, counter, token FROM item WHERE id = $1::int', '1 hour', $3)"},
	{"look", "SELECT counter FROM item WHERE id = $1::int"},
	{"set", "SELECT slate_cache_set($1, $2::jsonb)"},
	{"del", "SELECT slate_cache_del($1)"},
	{NULL, NULL}
};

/* Commands whose result is not looked at. */
static bool
run(const char *sql)
{
	PGresult   *result = database_query(connection, sql);

	PQclear(result);
	return result != NULL;
}

/* The server's mode is strict if anybody's is. */
static void
connect_again(void)
{
	do
		while (!database_connect(&connection, statements))
			;
	while (options.mode == MODE_MIXED && !strict && !run("SET slate_cache.mode = 'commit'"));
}

/*
 * Statements
 */

/*
 * One statement: false, the transaction has failed.  *found says whether there
 * was such a row.
 */
static bool
execute(Transaction *transaction, const char *statement, int row, bool *found)
{
	char		id[12];
	char		token[24];
	char		shelf[12];
	const char *params[] = {id, token, shelf};
	OwnWrite   *own = &transaction->writes[transaction->nwrites];
	Write	   *write;
	PGresult   *result;

	own->row = row;
	own->token = write_begin(row, number, strict);
	own->in_force = true;
	write = &shared->writes[own->token];
	write->deletes = strcmp(statement, "delete") == 0;
	snprintf(id, sizeof(id), "%d", row_id(row));
	snprintf(token, sizeof(token), "%" PRId64, own->token);
	snprintf(shelf, sizeof(shelf), "%d", row % (options.items / SHELF_SIZE));
	result = database_execute(connection, statement,
							  strcmp(statement, "insert") == 0 ? 3 : 2, params);
	*found = result != NULL && PQntuples(result) == 1;
	if (!*found)
		write_rolled_back(own->token);
	else
	{
		transaction->nwrites++;
		transaction->xid = strtoull(PQgetvalue(result, 0, 2), NULL, 10);
		write_returned(own->token, strtoll(PQgetvalue(result, 0, 0), NULL, 10),
					   strtoll(PQgetvalue(result, 0, 1), NULL, 10), transaction->xid);
	}
	PQclear(result);
	return result != NULL;
}

/* What it found under the lock that it has got is committed, or its own. */
static void
observe_before(Transaction *transaction)
{
	int64_t		before = shared->writes[transaction->writes[transaction->nwrites - 1].token].before;

	for (int i = 0; i < transaction->nwrites; i++)
		if (transaction->writes[i].token == before)
			return;
	observe(before);
}

/* The row's key that no rule writes: set it, or take it away. */
static bool
set_by_hand(Transaction *transaction)
{
	OwnWrite   *own = &transaction->writes[transaction->nwrites - 1];
	Entry		entry;
	char		key[40];
	char		value[120];
	const char *params[] = {key, value};
	PGresult   *result;

	row_entry(&entry, PLACE_HAND, own->row);
	entry_name(&entry, key, sizeof(key));
	snprintf(value, sizeof(value), "{\"id\": %d, \"counter\": %" PRId64 ", \"token\": %" PRId64 "}",
			 row_id(own->row), shared->writes[own->token].counter, own->token);
	if (chance(80))
		result = database_execute(connection, "set", 2, params);
	else
		result = database_execute(connection, "del", 1, params);
	PQclear(result);
	return result != NULL;
}

/* It sees its own rows in the cache; nobody else must, then or later. */
static bool
get_own(int row)
{
	Entry		entry;
	char		row_key[40];
	char		query_key[40];
	char		id[12];
	const char *params[] = {row_key, query_key, id};
	PGresult   *result;

	row_entry(&entry, PLACE_ROW, row);
	entry_name(&entry, row_key, sizeof(row_key));
	row_entry(&entry, PLACE_QUERY, row);
	entry_name(&entry, query_key, sizeof(query_key));
	snprintf(id, sizeof(id), "%d", row_id(row));
	result = database_execute(connection, "get", 3, params);
	PQclear(result);
	return result != NULL;
}

/* One change of one row. */
static bool
change(Transaction *transaction, int row)
{
	bool		found;
	const char *statement = "update";

	if (is_panel(row))
		statement = "panel";
	else if (is_mortal(row) && chance(40))
		statement = chance(70) ? "delete" : "insert";
	if (!execute(transaction, statement, row, &found))
		return false;
	if (!found && is_mortal(row))
	{
		statement = strcmp(statement, "insert") == 0 ? "update" : "insert";
		if (!execute(transaction, statement, row, &found))
			return false;
	}
	if (!found)
		return true;			/* somebody else was quicker */
	observe_before(transaction);
	if (!is_panel(row) && chance(8) && !get_own(row))
		return false;
	if (strcmp(statement, "delete") == 0 && chance(40))
		return execute(transaction, "insert", row, &found);
	if (is_set_by_hand(row))
		return set_by_hand(transaction);
	return true;
}

/* A change within a savepoint, which may be rolled back. */
static bool
change_in_savepoint(Transaction *transaction, int row)
{
	int			first = transaction->nwrites;

	if (!run("SAVEPOINT s") || !change(transaction, row))
		return false;
	if (chance(40))
		return run("RELEASE s");
	if (!run("ROLLBACK TO s"))
		return false;
	for (int i = first; i < transaction->nwrites; i++)
	{
		transaction->writes[i].in_force = false;
		write_rolled_back(transaction->writes[i].token);
	}
	return true;
}

/*
 * Endings
 */

static void
each_rolled_back(Transaction *transaction)
{
	for (int i = 0; i < transaction->nwrites; i++)
		if (transaction->writes[i].in_force)
			write_rolled_back(transaction->writes[i].token);
}

/* Just before COMMIT is sent. */
static void
each_committing(Transaction *transaction)
{
	for (int i = 0; i < transaction->nwrites; i++)
	{
		OwnWrite   *own = &transaction->writes[i];
		bool		last = true;

		if (!own->in_force)
			continue;
		for (int j = i + 1; j < transaction->nwrites; j++)
			if (transaction->writes[j].in_force && transaction->writes[j].row == own->row)
				last = false;
		if (last)
			write_committing(own->token);
		else
		{
			own->in_force = false;
			store(&shared->writes[own->token].state, WRITE_OVERWRITTEN);
			store(&shared->writes[own->token].wrong_since, now());
		}
	}
}

static void
each_committed(Transaction *transaction, bool promised)
{
	for (int i = 0; i < transaction->nwrites; i++)
		if (transaction->writes[i].in_force)
			write_committed(transaction->writes[i].token, promised);
}

/*
 * Is the transaction still under way, or prepared?  (A crash may have given its
 * number to another one since, or have made it one that is yet to come.)
 */
static bool
is_open(Transaction *transaction)
{
	char		sql[100];
	int64_t		open;

	snprintf(sql, sizeof(sql), "SELECT (pg_xact_status('%" PRIu64 "') = 'in progress')::int",
			 transaction->xid);
	while ((open = database_number(connection, sql)) < 0)
	{
		if (!database_is_lost(connection))
			return false;
		connect_again();
	}
	return open == 1;
}

/* The token that the row has now, buried or not. */
static int64_t
current_token(int row)
{
	char		sql[160];
	int64_t		token;

	if (is_panel(row))
		snprintf(sql, sizeof(sql), "SELECT token FROM panel WHERE id = %d", row_id(row));
	else
		snprintf(sql, sizeof(sql), "SELECT token FROM item WHERE id = %d"
				 " UNION ALL SELECT token FROM grave WHERE id = %d", row_id(row), row_id(row));
	while ((token = database_number(connection, sql)) < 0)
		connect_again();
	return token;
}

/*
 * What a write has counted up to.  One that commits itself may be seen in the
 * table before its writer, who may have lost his connection, too, knows that.
 */
static int64_t
counter_of(int64_t token)
{
	Write	   *write = &shared->writes[token];

	while (load(&write->counter) == 0 && load(&write->state) != WRITE_ROLLED_BACK)
		pause_for(MILLISECOND);
	return write->counter;
}

/*
 * It is not under way any more: is it committed?  Then what it wrote is there,
 * or something that came after it.
 */
static bool
is_committed(Transaction *transaction)
{
	const OwnWrite *own = NULL;
	int64_t		token;

	while (is_open(transaction))
		pause_for(5 * MILLISECOND);
	for (int i = 0; i < transaction->nwrites; i++)
		if (transaction->writes[i].in_force)
			own = &transaction->writes[i];
	if (own == NULL)
		return false;
	token = current_token(own->row);
	while (counter_of(token) > shared->writes[own->token].counter)
		token = shared->writes[token].before;
	return token == own->token;
}

/* The connection was lost while a COMMIT, or a PREPARE, was on its way. */
static void
settle_unknown(Transaction *transaction)
{
	for (int i = 0; i < transaction->nwrites; i++)
		if (transaction->writes[i].in_force)
			store(&shared->writes[transaction->writes[i].token].state, WRITE_UNKNOWN);
	tally->unknown++;
	connect_again();
	if (!is_committed(transaction))
		each_rolled_back(transaction);
	else
	{
		each_committed(transaction, false);
		tally->unknown_committed++;
	}
}

static void
failed(Transaction *transaction)
{
	each_rolled_back(transaction);
	tally->failures++;
	if (!database_is_lost(connection))
		run("ROLLBACK");
}

static bool
is_tag(PGresult *result, const char *tag)
{
	return result != NULL && strcmp(PQcmdStatus(result), tag) == 0;
}

/*
 * May readers rely on a commit that is acknowledged?  Asked before it is sent,
 * and once more after it.
 */
static int64_t changes_before;
static bool reachable_before;

static void
promise_begin(void)
{
	changes_before = load(&shared->changes);
	reachable_before = load(&shared->unreachable) == 0 && load(&shared->forgetful) == 0;
}

static bool
is_promised(void)
{
	return strict ||
		(reachable_before && load(&shared->changes) == changes_before);
}

static void
commit(Transaction *transaction)
{
	PGresult   *result;

	promise_begin();
	each_committing(transaction);
	result = database_query(connection, "COMMIT");
	if (is_tag(result, "COMMIT"))
	{
		bool		promised = is_promised();

		each_committed(transaction, promised);
		tally->commits++;
		tally->promised += promised;
	}
	else if (database_is_lost(connection) && transaction->xid != 0)
		settle_unknown(transaction);
	else
		failed(transaction);
	PQclear(result);
}

/* Is there a prepared transaction of that name? */
static bool
is_prepared(Transaction *transaction)
{
	char		sql[120];
	int64_t		count;

	snprintf(sql, sizeof(sql), "SELECT count(*) FROM pg_prepared_xacts WHERE gid = '%s'",
			 transaction->gid);
	while ((count = database_number(connection, sql)) < 0)
		connect_again();
	return count == 1;
}

/* Whatever happens, it is resolved in the end. */
static void
finish_prepared(Transaction *transaction)
{
	bool		commits = chance(80);
	bool		interrupted = false;
	char		sql[80];

	snprintf(sql, sizeof(sql), "%s PREPARED '%s'", commits ? "COMMIT" : "ROLLBACK",
			 transaction->gid);
	if (commits)
		each_committing(transaction);
	while (!run(sql))
	{
		interrupted = true;
		if (database_is_lost(connection))
			connect_again();
		if (!is_prepared(transaction))
			break;
		pause_for(5 * MILLISECOND);
	}
	if (interrupted)
		commits = is_committed(transaction);
	if (commits)
	{
		bool		promised = !interrupted && strict;

		each_committed(transaction, promised);
		tally->commits++;
		tally->prepared++;
		tally->promised += promised;
	}
	else
	{
		each_rolled_back(transaction);
		tally->rollbacks++;
	}
}

/* On a new connection: is it prepared, or will it never be? */
static bool
was_prepared(Transaction *transaction)
{
	for (;;)
	{
		bool		open = is_open(transaction);

		if (is_prepared(transaction))
			return true;
		if (!open)
			return false;
		pause_for(5 * MILLISECOND);
	}
}

static void
prepare(Transaction *transaction)
{
	char		sql[80];

	snprintf(transaction->gid, sizeof(transaction->gid), "history-%d-%d", number, ++serial);
	snprintf(sql, sizeof(sql), "PREPARE TRANSACTION '%s'", transaction->gid);
	if (!run(sql))
	{
		bool		lost = database_is_lost(connection);

		if (lost)
			connect_again();
		if (!lost || !was_prepared(transaction))
		{
			failed(transaction);
			return;
		}
	}
	if (chance(50))
		pause_for(choose(chance(80) ? 20 : 200) * MILLISECOND);
	finish_prepared(transaction);
}

/*
 * Transactions
 */

/* What the server keeps of it; or nothing, then it is not committed. */
static bool
ask_quick(int64_t token)
{
	char		sql[80];
	PGresult   *result = NULL;
	bool		found;

	snprintf(sql, sizeof(sql), "SELECT counter, before FROM quick WHERE token = %" PRId64, token);
	while (database_is_lost(connection) || (result = database_query(connection, sql)) == NULL)
		connect_again();
	found = PQntuples(result) == 1;
	if (found)
		write_returned(token, strtoll(PQgetvalue(result, 0, 0), NULL, 10),
					   strtoll(PQgetvalue(result, 0, 1), NULL, 10), 0);
	PQclear(result);
	return found;
}

/*
 * One statement that commits itself.  So its counter is known when it is
 * committed, and its table "quick" tells what became of it.
 */
static void
write_quickly(void)
{
	int			row;
	int64_t		token;
	char		id[12];
	char		text[24];
	const char *params[] = {id, text};
	PGresult   *result;

	do
		row = choose_row();
	while (is_set_by_hand(row));
	token = write_begin(row, number, strict);
	snprintf(id, sizeof(id), "%d", row_id(row));
	snprintf(text, sizeof(text), "%" PRId64, token);
	promise_begin();
	write_committing(token);
	result = database_execute(connection, is_panel(row) ? "quick_panel" : "quick_item", 2, params);
	if (result != NULL && PQntuples(result) == 1)
	{
		bool		promised = is_promised();

		write_returned(token, strtoll(PQgetvalue(result, 0, 0), NULL, 10),
					   strtoll(PQgetvalue(result, 0, 1), NULL, 10), 0);
		observe(shared->writes[token].before);
		write_committed(token, promised);
		tally->commits++;
		tally->promised += promised;
	}
	else if (result == NULL && database_is_lost(connection))
	{
		tally->unknown++;
		if (ask_quick(token))
		{
			write_committed(token, false);
			tally->unknown_committed++;
		}
		else
			write_rolled_back(token);
	}
	else
	{
		write_rolled_back(token);
		tally->failures += result == NULL;
	}
	PQclear(result);
}

/* Statements: false, the transaction has failed. */
static bool
work(Transaction *transaction)
{
	int			nchanges = chance(60) ? 1 : 1 + choose(4);

	for (int i = 0; i < nchanges; i++)
	{
		int			row = choose_row();

		if (!(chance(15) ? change_in_savepoint(transaction, row) : change(transaction, row)))
			return false;
	}
	return true;
}

/* So that two of them may find at their COMMIT that they cannot both be. */
static bool
look_at_another(void)
{
	char		id[12];
	const char *params[] = {id};
	PGresult   *result;

	snprintf(id, sizeof(id), "%d", row_id(choose(HOT_ROWS)));
	result = database_execute(connection, "look", 1, params);
	PQclear(result);
	return result != NULL;
}

static void
write_something(void)
{
	Transaction transaction = {.nwrites = 0};
	bool		serializable = chance(15);
	int			ending = choose(100);

	if (!run(serializable ? "BEGIN ISOLATION LEVEL SERIALIZABLE" : "BEGIN") ||
		(serializable && !look_at_another()) ||
		!work(&transaction) ||
		(ending < 3 && !run("SELECT 1 / 0")))
		failed(&transaction);
	else if (ending < 12)
	{
		each_rolled_back(&transaction);
		tally->rollbacks++;
		run("ROLLBACK");
	}
	else if (ending < 12 + options.prepared && transaction.xid != 0)
		prepare(&transaction);
	else
		commit(&transaction);
}

void
run_writer(int writer)
{
	number = writer;
	strict = options.mode == MODE_STRICT || (options.mode == MODE_MIXED && writer % 2 == 0);
	while (load(&shared->stop_writers) == 0)
	{
		if (database_is_lost(connection))
			connect_again();
		else if (chance(30))
			write_quickly();
		else
			write_something();
		if (chance(30))
			pause_for(choose(4) * MILLISECOND);
	}
	database_close(&connection);
}
