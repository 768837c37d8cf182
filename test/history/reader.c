/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  An app that reads Redis with plain GETs, some at a time.
 *
 * Those that are sent together go to one server, which answers one after the
 * other.  In a Cluster some may have to be asked for elsewhere; that is done
 * when the others have been answered, so all that is judged is still in the
 * order in which it was read.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "database.h"
#include "redis.h"

#define MAX_BATCH 48

/* How often another key is chosen until one is the same server's. */
#define CHOICES 20

typedef struct Question
{
	Read		read;
	char		key[40];
	char		redirection[120];	/* empty: none */
} Question;

static Question questions[MAX_BATCH];

/* An error, say LOADING, is no answer. */
static void
take_value(Read *read, const redisReply *reply)
{
	if (reply->type == REDIS_REPLY_STRING)
		read_ended(read, reply->str, reply->len);
	else if (reply->type == REDIS_REPLY_NIL)
		read_missed(read);
}

/* False: the connection has ended. */
static bool
take_reply(Question *question, redisContext *redis, bool *is_down)
{
	redisReply *reply;

	if (redisGetReply(redis, (void **) &reply) != REDIS_OK)
		return false;
	if (redis_is_redirection(reply))
		snprintf(question->redirection, sizeof(question->redirection), "%s", reply->str);
	else
		take_value(&question->read, reply);
	*is_down |= redis_is_down(reply);
	freeReplyObject(reply);
	return true;
}

static void
follow(Question *question)
{
	redisReply *reply = redis_get(question->key, question->redirection);

	if (reply != NULL)
		take_value(&question->read, reply);
	freeReplyObject(reply);
}

static void
choose_key(Question *question)
{
	choose_entry(&question->read.entry);
	entry_name(&question->read.entry, question->key, sizeof(question->key));
}

/* About a key of the server, or of any if that is -1; false: none was found. */
static bool
begin_question(Question *question, int *server)
{
	for (int i = 0; i < CHOICES; i++)
	{
		int			other;

		choose_key(question);
		other = redis_server_of(question->key);
		if (other < 0)
			return false;
		if (*server < 0)
			*server = other;
		if (*server == other)
		{
			question->redirection[0] = '\0';
			question->read.kind = READ_REDIS;
			return true;
		}
	}
	return false;
}

/* False: no server could be asked. */
static bool
read_batch(int most)
{
	int			server = -1;
	int			n = 0;
	bool		is_down = false;
	redisContext *redis;

	while (n < most && begin_question(&questions[n], &server))
		n++;
	if (n == 0)
		return false;
	redis = redis_connection(server);
	if (redis == NULL)
	{
		redis_failed(server);
		return false;
	}
	for (int i = 0; i < n; i++)
	{
		read_begin(&questions[i].read);
		redisAppendCommand(redis, "GET %s", questions[i].key);
	}
	for (int i = 0; i < n; i++)
		if (!take_reply(&questions[i], redis, &is_down))
		{
			redis_failed(server);
			return true;
		}
	for (int i = 0; i < n; i++)
		if (questions[i].redirection[0] != '\0')
			follow(&questions[i]);
	if (is_down)
		redis_failed(server);
	return !is_down;
}

/* Plenty of reads are cheap; those who write come first. */
void
run_reader(void)
{
	judge_start();
	(void) !nice(5);
	while (load(&shared->stop_readers) == 0)
		if (!read_batch(chance(30) ? 1 : 1 + choose(MAX_BATCH)))
			pause_for(10 * MILLISECOND);
	redis_close_all();
}
