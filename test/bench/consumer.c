/*-------------------------------------------------------------------------
 *
 * consumer.c
 *	  The other end of LISTEN/NOTIFY, or of wal2json: SETs in Redis what it hears.
 *
 *	  consumer ADDRESS CHANNEL
 *	  pg_recvlogical ... | consumer ADDRESS
 *
 * A notification holds a key, a space and the value.  wal2json (format 2, without
 * types and transactions) writes a line a row; its key is table:column, with the
 * first column.  All that have arrived go to Redis in one exchange.  PostgreSQL is
 * where libpq's environment says.
 *
 *-------------------------------------------------------------------------
 */
#include <hiredis/hiredis.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A part of a line of wal2json. */
typedef struct Text
{
	const char *start;
	size_t		len;
} Text;

static char lines[1024 * 1024];

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

static void
read_replies(redisContext *redis, int count)
{
	for (int i = 0; i < count; i++)
	{
		redisReply *reply;

		if (redisGetReply(redis, (void **) &reply) != REDIS_OK)
			fail("Redis", redis->errstr);
		freeReplyObject(reply);
	}
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
	read_replies(redis, count);
	return count;
}

static void
listen_for_ever(redisContext *redis, const char *channel)
{
	PGconn	   *postgres = PQconnectdb("");

	if (PQstatus(postgres) != CONNECTION_OK)
		fail("PostgreSQL", PQerrorMessage(postgres));
	listen_to(postgres, channel);
	for (;;)
	{
		struct pollfd socket = {PQsocket(postgres), POLLIN, 0};

		if (!PQconsumeInput(postgres))
			fail("PostgreSQL", PQerrorMessage(postgres));
		if (pass_on(postgres, redis) == 0)
			poll(&socket, 1, -1);
	}
}

static const char *
skip(const char *at, const char *text)
{
	size_t		len = strlen(text);

	if (strncmp(at, text, len) != 0)
		fail("not as wal2json writes it", at);
	return at + len;
}

/* A string with its quotes, or a number, true, false, null. */
static const char *
take_value(const char *at, Text *value)
{
	value->start = at;
	if (*at != '"')
		at += strcspn(at, ",}");
	else
	{
		for (at++; *at != '"' && *at != '\0'; at++)
			if (*at == '\\' && at[1] != '\0')
				at++;
		at = skip(at, "\"");
	}
	value->len = at - value->start;
	return at;
}

/* A line's columns as one object, and its key. */
static void
append_set(redisContext *redis, const char *at)
{
	static char object[sizeof(lines)];
	char	   *end = object;
	Text		table;
	Text		name;
	Text		value;
	Text		id = {NULL, 0};

	at = skip(at, "{\"action\":\"");
	at = skip(at + 1, "\",\"schema\":\"public\",\"table\":");
	at = take_value(at, &table);
	at = skip(at, ",\"columns\":[");
	for (;;)
	{
		at = skip(at, "{\"name\":");
		at = take_value(at, &name);
		at = skip(at, ",\"value\":");
		at = take_value(at, &value);
		at = skip(at, "}");
		*end++ = id.start == NULL ? '{' : ',';
		end = mempcpy(end, name.start, name.len);
		*end++ = ':';
		end = mempcpy(end, value.start, value.len);
		if (id.start == NULL)
			id = value;
		if (*at == ']')
			break;
		at = skip(at, ",");
	}
	*end++ = '}';
	redisAppendCommand(redis, "SET %b:%b %b EX 3600", table.start + 1, table.len - 2,
					   id.start, id.len, object, (size_t) (end - object));
}

static void
follow_input(redisContext *redis)
{
	size_t		there = 0;
	ssize_t		more;

	while ((more = read(STDIN_FILENO, lines + there, sizeof(lines) - 1 - there)) > 0)
	{
		char	   *line = lines;
		char	   *end;
		int			count = 0;

		there += more;
		lines[there] = '\0';
		for (; (end = strchr(line, '\n')) != NULL; line = end + 1)
		{
			*end = '\0';
			append_set(redis, line);
			count++;
		}
		read_replies(redis, count);
		there -= line - lines;
		memmove(lines, line, there);
	}
}

int
main(int argc, char **argv)
{
	redisContext *redis;

	if (argc != 2 && argc != 3)
		fail("usage", "consumer ADDRESS [CHANNEL]");
	redis = connect_to(argv[1]);
	if (argc == 3)
		listen_for_ever(redis, argv[2]);
	follow_input(redis);
	return 0;
}
