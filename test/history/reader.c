/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  An app that reads Redis with plain GETs, some at a time.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <hiredis/hiredis.h>

#include "database.h"

#define MAX_BATCH 48

static redisContext *redis;

/* Waits longer than any fault lasts; then the connection is begun anew. */
static const struct timeval patience = {20, 0};

static bool
connect_to_redis(void)
{
	if (redis != NULL && redis->err == 0)
		return true;
	if (redis != NULL)
		redisFree(redis);
	redis = redisConnectUnixWithTimeout(options.socket, patience);
	if (redis != NULL && redis->err == 0 && redisSetTimeout(redis, patience) == REDIS_OK)
	{
		tally->reconnections++;
		return true;
	}
	pause_for(10 * MILLISECOND);
	return false;
}

/* False: the connection has ended. */
static bool
take_reply(Read *read)
{
	redisReply *reply;

	if (redisGetReply(redis, (void **) &reply) != REDIS_OK)
		return false;
	if (reply->type == REDIS_REPLY_STRING)
		read_ended(read, reply->str, reply->len);
	else if (reply->type == REDIS_REPLY_NIL)
		read_missed(read);
	freeReplyObject(reply);		/* an error, say LOADING, is no answer */
	return true;
}

static void
read_batch(int n)
{
	static Read reads[MAX_BATCH];

	for (int i = 0; i < n; i++)
	{
		char		key[40];

		reads[i].kind = READ_REDIS;
		choose_entry(&reads[i].entry);
		entry_name(&reads[i].entry, key, sizeof(key));
		read_begin(&reads[i]);
		redisAppendCommand(redis, "GET %s", key);
	}
	for (int i = 0; i < n; i++)
		if (!take_reply(&reads[i]))
			return;
}

/* Plenty of reads are cheap; those who write come first. */
void
run_reader(void)
{
	judge_start();
	(void) !nice(5);
	while (load(&shared->stop_readers) == 0)
		if (connect_to_redis())
			read_batch(chance(30) ? 1 : 1 + choose(MAX_BATCH));
	if (redis != NULL)
		redisFree(redis);
}
