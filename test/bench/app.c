/*-------------------------------------------------------------------------
 *
 * app.c
 *	  An app that keeps the cache itself: an UPDATE, then a SET, again and again.
 *
 *	  app ADDRESS TABLE CLIENTS
 *
 * Each client is a thread with a connection to PostgreSQL (where libpq's
 * environment says) and one to Redis.  The UPDATE is prepared, commits by itself,
 * and returns the row as JSON.  It is stale whenever two of them race; that is not
 * what is looked at here.
 *
 *-------------------------------------------------------------------------
 */
#include <hiredis/hiredis.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *address;
static const char *table;

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "app: %s: %s\n", what, why);
	exit(1);
}

static redisContext *
connect_to_redis(void)
{
	const char *colon = strrchr(address, ':');
	char		host[64];
	redisContext *redis;

	if (address[0] == '/')
		redis = redisConnectUnix(address);
	else if (colon != NULL)
	{
		snprintf(host, sizeof(host), "%.*s", (int) (colon - address), address);
		redis = redisConnect(host, atoi(colon + 1));
	}
	else
		redis = NULL;
	if (redis == NULL || redis->err)
		fail(address, redis ? redis->errstr : "cannot connect");
	return redis;
}

static PGconn *
connect_to_postgres(void)
{
	PGconn	   *postgres = PQconnectdb("");
	PGresult   *result;
	char		update[256];

	if (PQstatus(postgres) != CONNECTION_OK)
		fail("PostgreSQL", PQerrorMessage(postgres));
	snprintf(update, sizeof(update),
			 "UPDATE %s t SET n = n + 1 WHERE id = $1 RETURNING row_to_json(t)", table);
	result = PQprepare(postgres, "update", update, 1, NULL);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		fail("PREPARE", PQerrorMessage(postgres));
	PQclear(result);
	return postgres;
}

static void
write_row(PGconn *postgres, redisContext *redis, int id)
{
	char		text[16];
	const char *values[1] = {text};
	PGresult   *result;
	redisReply *reply;

	snprintf(text, sizeof(text), "%d", id);
	result = PQexecPrepared(postgres, "update", 1, values, NULL, NULL, 0);
	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1)
		fail("UPDATE", PQerrorMessage(postgres));
	reply = redisCommand(redis, "SET %s:%d %s EX 3600", table, id,
						 PQgetvalue(result, 0, 0));
	if (reply == NULL || reply->type == REDIS_REPLY_ERROR)
		fail("SET", reply ? reply->str : redis->errstr);
	freeReplyObject(reply);
	PQclear(result);
}

static void *
write_rows(void *arg)
{
	unsigned int seed = *(unsigned int *) arg;
	PGconn	   *postgres = connect_to_postgres();
	redisContext *redis = connect_to_redis();

	for (;;)
		write_row(postgres, redis, 1 + rand_r(&seed) % 10000);
	return NULL;
}

int
main(int argc, char **argv)
{
	int			clients = argc == 4 ? atoi(argv[3]) : 0;
	pthread_t  *threads;
	unsigned int *seeds;

	if (clients < 1)
		fail("usage", "app ADDRESS TABLE CLIENTS");
	address = argv[1];
	table = argv[2];
	threads = calloc(clients, sizeof(*threads));
	seeds = calloc(clients, sizeof(*seeds));
	for (int i = 0; i < clients; i++)
	{
		seeds[i] = i + 1;
		if (pthread_create(&threads[i], NULL, write_rows, &seeds[i]) != 0)
			fail("thread", "cannot begin");
	}
	pthread_join(threads[0], NULL);
	return 0;
}
