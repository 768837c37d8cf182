/*-------------------------------------------------------------------------
 *
 * exchange.c
 *	  Sends Redis commands over one connection, and counts the replies.
 *
 *	  exchange ADDRESS COMMANDS SECONDS DEPTH [RATE]
 *
 * ADDRESS is a socket's path or host:port.  COMMANDS is a file of commands in
 * Redis' protocol, each behind a line with its length and the number of replies
 * that it gets (what is sent for one thing to be done may be several); they are
 * sent one after the other, round and round.  DEPTH of them go out before their replies are
 * read: 1 makes each a round trip.  With RATE there are so many a second, in
 * portions of a millisecond's worth, and DEPTH does not count.
 *
 * Prints how many were answered, and in how many seconds.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_COMMANDS 100000

typedef struct Command
{
	char	   *bytes;
	size_t		len;
	int			nreplies;
} Command;

static Command commands[MAX_COMMANDS];
static int	ncommands = 0;
static int	next_command = 0;

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "exchange: %s: %s\n", what, why);
	exit(1);
}

static double
seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void
read_commands(const char *name)
{
	FILE	   *file = fopen(name, "r");
	size_t		len;
	int			nreplies;

	if (file == NULL)
		fail(name, strerror(errno));
	while (ncommands < MAX_COMMANDS && fscanf(file, "%zu %d", &len, &nreplies) == 2)
	{
		Command    *command = &commands[ncommands++];

		if (fgetc(file) != '\n' || (command->bytes = malloc(len)) == NULL ||
			fread(command->bytes, 1, len, file) != len)
			fail(name, "not a file of commands");
		command->len = len;
		command->nreplies = nreplies;
	}
	fclose(file);
	if (ncommands == 0)
		fail(name, "no commands");
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
exchange(redisContext *redis, int count)
{
	int			nreplies = 0;

	for (int i = 0; i < count; i++)
	{
		Command    *command = &commands[next_command];

		nreplies += command->nreplies;
		redisAppendFormattedCommand(redis, command->bytes, command->len);
		next_command = (next_command + 1) % ncommands;
	}
	for (int i = 0; i < nreplies; i++)
	{
		redisReply *reply;

		if (redisGetReply(redis, (void **) &reply) != REDIS_OK)
			fail("connection", redis->errstr);
		if (reply->type == REDIS_REPLY_ERROR)
			fail("reply", reply->str);
		freeReplyObject(reply);
	}
}

/* At a rate: what is due by now, then a millisecond's rest. */
static long
exchange_paced(redisContext *redis, double begun, double until, double rate)
{
	struct timespec rest = {0, 1000000};
	long		done = 0;
	double		now;

	while ((now = seconds_now()) < until)
	{
		int			due = (now - begun) * rate - done;

		if (due > 0)
			exchange(redis, due);
		done += due > 0 ? due : 0;
		nanosleep(&rest, NULL);
	}
	return done;
}

int
main(int argc, char **argv)
{
	redisContext *redis;
	double		begun;
	double		until;
	int			depth;
	long		done = 0;

	if (argc < 5)
		fail("usage", "exchange ADDRESS COMMANDS SECONDS DEPTH [RATE]");
	read_commands(argv[2]);
	redis = connect_to(argv[1]);
	depth = atoi(argv[4]);
	exchange(redis, depth);
	begun = seconds_now();
	until = begun + atof(argv[3]);
	if (argc > 5)
		done = exchange_paced(redis, begun, until, atof(argv[5]));
	else
		for (; seconds_now() < until; done += depth)
			exchange(redis, depth);
	printf("%ld %.6f\n", done, seconds_now() - begun);
	redisFree(redis);
	return 0;
}
