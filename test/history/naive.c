/*-------------------------------------------------------------------------
 *
 * naive.c
 *	  Redis for PL/pgSQL: what a cache in an AFTER trigger is made of.
 *
 * It tells Redis at once, whatever becomes of the transaction.  The functions
 * of SQL in SlateWitness.pm make a cache of it, to be caught by history.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <hiredis/hiredis.h>

#include "fmgr.h"
#include "utils/builtins.h"

PG_MODULE_MAGIC;

static redisContext *redis = NULL;

/* $1 is the socket's path. */
static redisReply *
ask(text *path, int argc, const char **argv)
{
	redisReply *reply = NULL;

	if (redis == NULL)
		redis = redisConnectUnix(text_to_cstring(path));
	if (redis != NULL && redis->err == 0)
		reply = redisCommandArgv(redis, argc, argv, NULL);
	if (reply == NULL)
	{
		if (redis != NULL)
			redisFree(redis);
		redis = NULL;
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not ask Redis")));
	}
	return reply;
}

PG_FUNCTION_INFO_V1(naive_get);

Datum
naive_get(PG_FUNCTION_ARGS)
{
	const char *argv[] = {"GET", text_to_cstring(PG_GETARG_TEXT_PP(1))};
	redisReply *reply = ask(PG_GETARG_TEXT_PP(0), 2, argv);
	text	   *value = NULL;

	if (reply->type == REDIS_REPLY_STRING)
		value = cstring_to_text_with_len(reply->str, reply->len);
	freeReplyObject(reply);
	if (value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(value);
}

PG_FUNCTION_INFO_V1(naive_set);

Datum
naive_set(PG_FUNCTION_ARGS)
{
	const char *argv[] = {"SET", text_to_cstring(PG_GETARG_TEXT_PP(1)),
	text_to_cstring(PG_GETARG_TEXT_PP(2))};

	freeReplyObject(ask(PG_GETARG_TEXT_PP(0), 3, argv));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(naive_del);

Datum
naive_del(PG_FUNCTION_ARGS)
{
	const char *argv[] = {"DEL", text_to_cstring(PG_GETARG_TEXT_PP(1))};

	freeReplyObject(ask(PG_GETARG_TEXT_PP(0), 2, argv));
	PG_RETURN_VOID();
}
