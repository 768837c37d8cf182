/*-------------------------------------------------------------------------
 *
 * asker.c
 *	  A session that reads with slate_cache's functions, and the tables.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "database.h"

/* Keys of one slate_cache_mget(), or rows of one look at the table. */
#define MAX_KEYS 10

/* An array of so many keys or ids as text. */
#define ARRAY_SIZE (MAX_KEYS * 24 + 3)

static PGconn *connection;

static const Statement statements[] = {
	{"get", "SELECT slate_cache_get($1)"},
	{"mget", "SELECT key, value FROM slate_cache_mget($1::text[])"},
	{"fetch_item", "SELECT slate_cache_fetch($1,"
	" 'SELECT id, counter, token FROM item WHERE id = $1::int', '1 hour', $2)"},
	{"fetch_panel", "SELECT slate_cache_fetch($1,"
	" 'SELECT id, counter, token FROM panel WHERE id = $1::int', '1 hour', $2)"},
	{"items", "SELECT id, counter, token FROM item WHERE id = ANY ($1::int[])"
	" UNION ALL SELECT id, counter, token FROM grave WHERE id = ANY ($1::int[])"},
	{"panels", "SELECT id, counter, token FROM panel WHERE id = ANY ($1::int[])"},
	{NULL, NULL}
};

/*
 * NULL: no such row, or no row of the list.  (A key set by hand has no rule
 * that could load it: that is a miss.)
 */
static void
take_value(Read *read, PGresult *result, int line, int column)
{
	if (!PQgetisnull(result, line, column))
		read_ended(read, PQgetvalue(result, line, column),
				   PQgetlength(result, line, column));
	else if (read->entry.place == PLACE_HAND)
		read_missed(read);
	else
		read_ended(read, "", 0);
}

static void
ask_get(Read *read)
{
	char		key[40];
	char		id[12];
	const char *params[] = {key, id};
	PGresult   *result;

	entry_name(&read->entry, key, sizeof(key));
	snprintf(id, sizeof(id), "%d", row_id(read->entry.number));
	read->kind = READ_FETCH;
	if (read->entry.place != PLACE_QUERY && read->entry.place != PLACE_PANEL)
		read->kind = READ_GET;
	read_begin(read);
	if (read->kind == READ_GET)
		result = database_execute(connection, "get", 1, params);
	else
		result = database_execute(connection,
								  read->entry.place == PLACE_PANEL ? "fetch_panel" : "fetch_item",
								  2, params);
	if (result != NULL)
		take_value(read, result, 0, 0);
	PQclear(result);
}

static void
ask_mget(void)
{
	static Read reads[MAX_KEYS];
	char		keys[ARRAY_SIZE] = "{";
	const char *params[] = {keys};
	int			n = 1 + choose(MAX_KEYS);
	PGresult   *result;

	for (int i = 0; i < n; i++)
	{
		Read	   *read = &reads[i];
		size_t		len = strlen(keys);

		do
			choose_entry(&read->entry);
		while (read->entry.place == PLACE_QUERY || read->entry.place == PLACE_PANEL);
		read->kind = READ_MGET;
		entry_name(&read->entry, keys + len, sizeof(keys) - len);
		strcat(keys, i < n - 1 ? "," : "}");
		read_begin(read);
	}
	result = database_execute(connection, "mget", 1, params);
	for (int i = 0; result != NULL && i < n && i < PQntuples(result); i++)
		take_value(&reads[i], result, i, 1);
	PQclear(result);
}

/* By the table; graves tell which deletion it was. */
static void
take_row(Read *read, PGresult *result)
{
	Found		found = {.is_valid = true};

	for (int line = 0; line < PQntuples(result); line++)
		if (atoi(PQgetvalue(result, line, 0)) == row_id(read->entry.number))
		{
			found.is_there[0] = true;
			found.counter[0] = strtoll(PQgetvalue(result, line, 1), NULL, 10);
			found.token[0] = strtoll(PQgetvalue(result, line, 2), NULL, 10);
		}
	read_found(read, &found);
}

static void
ask_table(void)
{
	static Read reads[MAX_KEYS];
	char		ids[ARRAY_SIZE] = "{";
	const char *params[] = {ids};
	int			n = 1 + choose(MAX_KEYS);
	bool		panels = chance(10);
	PGresult   *result;

	for (int i = 0; i < n; i++)
	{
		Read	   *read = &reads[i];
		int			row;
		size_t		len = strlen(ids);

		do
			row = choose_row();
		while (is_panel(row) != panels);
		row_entry(&read->entry, panels ? PLACE_PANEL : PLACE_ROW, row);
		read->kind = READ_TABLE;
		snprintf(ids + len, sizeof(ids) - len, "%d%c", row_id(row), i < n - 1 ? ',' : '}');
		read_begin(read);
	}
	result = database_execute(connection, panels ? "panels" : "items", 1, params);
	if (result != NULL)
		for (int i = 0; i < n; i++)
			take_row(&reads[i], result);
	PQclear(result);
}

/*
 * A transaction whose snapshot is old by the time it reads.  What it gets may
 * be as old; but it must not leave it to others.
 */
static void
ask_with_old_snapshot(void)
{
	Entry		entry;
	char		sql[200];
	char		key[40];

	do
		choose_entry(&entry);
	while (entry.place == PLACE_QUERY || entry.place == PLACE_PANEL);
	entry_name(&entry, key, sizeof(key));
	PQclear(database_query(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM panel"));
	pause_for(choose(5) * MILLISECOND);
	snprintf(sql, sizeof(sql), "SELECT slate_cache_get('%s'), slate_cache_fetch('hf:%d',"
			 " 'SELECT id, counter, token FROM item WHERE id = $1::int', '1 hour', '%d')",
			 key, row_id(entry.members[0]), row_id(entry.members[0]));
	PQclear(database_query(connection, sql));
	PQclear(database_query(connection, "ROLLBACK"));
}

void
run_asker(void)
{
	static Read read;

	judge_start();
	while (load(&shared->stop_readers) == 0)
	{
		int			kind = choose(100);

		if (database_is_lost(connection))
			database_connect(&connection, statements);
		else if (kind < 3)
			ask_with_old_snapshot();
		else if (kind < 55)
		{
			choose_entry(&read.entry);
			ask_get(&read);
		}
		else if (kind < 75)
			ask_mget();
		else
			ask_table();
	}
	database_close(&connection);
}
