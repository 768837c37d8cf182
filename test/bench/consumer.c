/*-------------------------------------------------------------------------
 *
 * consumer.c
 *	  The other end of LISTEN/NOTIFY: SETs in Redis what it hears.
 *
 *	  consumer ADDRESS CHANNEL
 *
 * A notification holds a key, a space and the value.  All that have arrived go to
 * Redis in one exchange.  PostgreSQL is where libpq's environment says.
 *
 *-------------------------------------------------------------------------
 */
#include <hiredis/hiredis.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "consumer: %s: %s\n", what, why);
	exit(1);
}

static redisContext *
connect_to(const char *address)
{
	char	   *colon = strrchr(address, ':');
	redisContext *redis;

	if (address[0] == '/')
		redis = redisConnectUnix(address);
	else if (colon != NULL)
	{
		*colon = '\0';
		redis = redisConnect(address, atoi(colon + 1));
	}
	else
		redis = NULL;
	if (redis == NULL || redis->err)
		fail(address, redis ? redis->errstr : "cannot connect");
	return redis;
}

static void
listen_to(PGconn *postgres, const char *channel)
{
	char	   *name = PQescapeIdentifier(postgres, channel, strlen(channel));
	char		command[128];
	PGresult   *result;

	snprintf(command, sizeof(command), "LISTEN %s", name);
	result = PQexec(postgres, command);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		fail("LISTEN", PQerrorMessage(postgres));
	PQclear(result);
	PQfreemem(name);
}

/* SETs all that is there; returns how many. */
static int
pass_on(PGconn *postgres, redisContext *redis)
{
	PGnotify   *heard;
	int			count = 0;

	while ((heard = PQnotifies(postgres)) != NULL)
	{
		char	   *space = strchr(heard->extra, ' ');

		if (space == NULL)
			fail("notification", heard->extra);
		redisAppendCommand(redis, "SET %b %s EX 3600", heard->extra,
						   (size_t) (space - heard->extra), space + 1);
		count++;
		PQfreemem(heard);
	}
	for (int i = 0; i < count; i++)
	{
		redisReply *reply;

		if (redisGetReply(redis, (void **) &reply) != REDIS_OK)
			fail("Redis", redis->errstr);
		freeReplyObject(reply);
	}
	return count;
}

int
main(int argc, char **argv)
{
	redisContext *redis;
	PGconn	   *postgres;

	if (argc != 3)
		fail("usage", "consumer ADDRESS CHANNEL");
	redis = connect_to(argv[1]);
	postgres = PQconnectdb("");
	if (PQstatus(postgres) != CONNECTION_OK)
		fail("PostgreSQL", PQerrorMessage(postgres));
	listen_to(postgres, argv[2]);
	for (;;)
	{
		struct pollfd socket = {PQsocket(postgres), POLLIN, 0};

		if (!PQconsumeInput(postgres))
			fail("PostgreSQL", PQerrorMessage(postgres));
		if (pass_on(postgres, redis) == 0)
			poll(&socket, 1, -1);
	}
}
