/*-------------------------------------------------------------------------
 *
 * rest.c
 *	  When all is at rest: does each key hold what its rows do?
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "database.h"
#include "redis.h"

/* Wrong keys that are shown. */
#define SHOWN 3

/* How often a key is asked for again that is not served at the moment. */
#define TRIES 200

/* What a row is, by the table. */
typedef struct Truth
{
	bool		is_there;
	int64_t		counter;
	int64_t		token;
} Truth;

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "history: could not read %s at rest: %s\n", what, why);
	exit(2);
}

static void
read_table(PGconn *connection, const char *sql, int first, Truth *truth)
{
	PGresult   *result = database_query(connection, sql);

	if (result == NULL)
		die("the tables", PQerrorMessage(connection));
	for (int line = 0; line < PQntuples(result); line++)
	{
		Truth	   *row = &truth[first + atoi(PQgetvalue(result, line, 0)) - 1];

		row->is_there = true;
		row->counter = strtoll(PQgetvalue(result, line, 1), NULL, 10);
		row->token = strtoll(PQgetvalue(result, line, 2), NULL, 10);
	}
	PQclear(result);
}

static bool
is_right(const Entry *entry, const Truth *truth, const char *value, size_t len)
{
	Found		found;

	find_rows(entry, value, len, &found);
	if (!found.is_valid)
		return false;
	for (int i = 0; i < entry->nmembers; i++)
	{
		const Truth *row = &truth[entry->members[i]];

		if (found.is_there[i] != row->is_there ||
			found.counter[i] != row->counter ||
			found.token[i] != row->token)
			return false;
	}
	return true;
}

static void
tell_wrong(const Entry *entry, const Truth *truth, const char *how,
		   const char *value, int64_t *wrong)
{
	char		key[40];

	if (++*wrong > SHOWN)
		return;
	entry_name(entry, key, sizeof(key));
	printf("wrong at rest: %s by %s: %s\n", key, how, value);
	for (int i = 0; i < entry->nmembers; i++)
		printf("    the row %d: counter %lld, token %lld\n", row_id(entry->members[i]),
			   (long long) truth[entry->members[i]].counter,
			   (long long) truth[entry->members[i]].token);
}

/* A Cluster may have a busy moment in which it thinks that it is down. */
static redisReply *
get_at_rest(const char *key)
{
	redisReply *reply = redis_get(key, NULL);

	for (int i = 0; i < TRIES && (reply == NULL || redis_is_down(reply)); i++)
	{
		freeReplyObject(reply);
		pause_for(50 * MILLISECOND);
		reply = redis_get(key, NULL);
	}
	return reply;
}

static int64_t
compare_redis(const Truth *truth, int64_t *wrong)
{
	Entry		entry;
	int64_t		compared = 0;

	for (int i = 0; entry_at(i, &entry); i++)
	{
		char		key[40];
		redisReply *reply;

		entry_name(&entry, key, sizeof(key));
		reply = get_at_rest(key);
		if (reply == NULL || (reply->type != REDIS_REPLY_STRING && reply->type != REDIS_REPLY_NIL))
			die(key, reply != NULL ? reply->str : "no connection");
		if (reply->type == REDIS_REPLY_STRING)
		{
			compared++;
			if (!is_right(&entry, truth, reply->str, reply->len))
				tell_wrong(&entry, truth, "GET", reply->str, wrong);
		}
		freeReplyObject(reply);
	}
	return compared;
}

/* Fills what is not there. */
static int64_t
compare_gets(PGconn *connection, const Truth *truth, int64_t *wrong)
{
	Entry		entry;
	int64_t		compared = 0;

	for (int i = 0; entry_at(i, &entry); i++)
	{
		char		sql[80];
		char		key[40];
		PGresult   *result;

		if (entry.place != PLACE_ROW && entry.place != PLACE_LIST)
			continue;
		entry_name(&entry, key, sizeof(key));
		snprintf(sql, sizeof(sql), "SELECT slate_cache_get('%s')", key);
		result = database_query(connection, sql);
		if (result == NULL)
			die(key, PQerrorMessage(connection));
		compared++;
		if (!is_right(&entry, truth, PQgetvalue(result, 0, 0), PQgetlength(result, 0, 0)))
			tell_wrong(&entry, truth, "slate_cache_get", PQgetvalue(result, 0, 0), wrong);
		PQclear(result);
	}
	return compared;
}

/* How many values were compared, and how many were wrong. */
int64_t
compare_at_rest(int64_t *wrong)
{
	PGconn	   *connection = NULL;
	Truth	   *truth = calloc(MAX_ROWS, sizeof(Truth));
	int64_t		compared;

	if (truth == NULL)
		die("the tables", "out of memory");
	while (!database_connect(&connection, NULL))
		;
	read_table(connection, "SELECT id, counter, token FROM item", 0, truth);
	read_table(connection, "SELECT id, counter, token FROM panel", options.items, truth);
	*wrong = 0;
	compared = compare_redis(truth, wrong);
	compared += compare_gets(connection, truth, wrong);
	compared += compare_redis(truth, wrong);
	database_close(&connection);
	redis_close_all();
	free(truth);
	return compared;
}
