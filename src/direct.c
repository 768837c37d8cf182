/*-------------------------------------------------------------------------
 *
 * direct.c
 *	  Pushes without a script, by who knows that he may.
 *
 * What a push by script does, nearly always, is to set two keys, the guard and
 * the value, and all that its script finds out is that it may.  Where that is
 * known already (traffic.c: nobody else is on the way with the key, nor was with
 * a newer version) the two are SET in a MULTI, which costs Redis a third of what
 * Lua does.  What traffic.c cannot know, and a bare SET cannot ask, is whether
 * Redis still is in that state when it gets there.  So the connection WATCHes
 * the epoch (trust.c) all the time: behind each EXEC, whose end that is, it does
 * so again, and reads the epoch, which must be the stamp's for the next to go
 * directly.  Then EXEC does nothing if the epoch has changed since, or if
 * somebody has only touched it.  The latter is a fence: what was sent
 * before and has not been done never will be.
 *
 * A guard is left as by script, so that others find what they look for.
 *
 * Encoders palloc, so they belong before the commit; what sends and reads the
 * answers neither does, nor throws, unless the wait is interruptible.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "call.h"
#include "direct.h"
#include "encode.h"
#include "keyname.h"
#include "script.h"

/*
 * What is WATCHed is touched by giving it an end, and taking that away: this
 * needs no memory, which Redis may have none of, and no script, which it may
 * have forgotten.  Should the second command not arrive the epoch is gone after
 * two days, in ms, and the worker empties the namespace.
 */
#define FENCE_LIFE "172800000"

/*
 * So many pushes on a connection go by script before it WATCHes: that is a
 * round trip more, and sessions that push now and then shall not pay for it.
 */
#define WATCH_AFTER 32

/* What is agreed on with the server, on which connection. */
static struct
{
	uint64		connection;		/* it WATCHes */
	char		epoch[SLATE_EPOCH_LEN + 1]; /* what it has seen since */
	uint64		refused;		/* the connection on which that was refused */
	uint64		used;			/* that on which something was pushed by
								 * script */
	int			count;			/* and how often */
}			watching;

/* What the answers to a direct push, or to a look at the epoch, tell. */
typedef struct DirectReplies
{
	int			npairs;			/* commands in the MULTI, by two */
	bool		done;			/* EXEC has done all of it */
	SlateOutcome *outcome;		/* errors go there, if anywhere */
	bool		refused;		/* MULTI, EXEC or WATCH is unknown there, or
								 * forbidden */
} DirectReplies;

/* ------------------------------------------------------------------------
 * Watching
 * ------------------------------------------------------------------------
 */

void
slate_direct_note_script(void)
{
	uint64		connection = slate_redis_connection();

	if (watching.used != connection)
		watching.count = 0;
	watching.used = connection;
	watching.count = Min(watching.count + 1, WATCH_AFTER);
}

bool
slate_direct_is_watching(const SlateStamp *stamp)
{
	return stamp->epoch[0] != '\0' && watching.connection != 0 &&
		watching.connection == slate_redis_connection() &&
		strcmp(watching.epoch, stamp->epoch) == 0;
}

bool
slate_direct_should_watch(const SlateStamp *stamp, bool at_once)
{
	uint64		connection = slate_redis_connection();

	/* a Cluster's masters have no transaction together */
	return slate_redis_topology() == 0 &&
		stamp->epoch[0] != '\0' && stamp->epoch[0] != '-' &&
		connection != 0 && connection != watching.refused &&
		(at_once || (connection == watching.used &&
					 watching.count >= WATCH_AFTER)) &&
		!slate_direct_is_watching(stamp);
}

static bool
is_ok(const redisReply *reply)
{
	return reply->type == REDIS_REPLY_STATUS && strcmp(reply->str, "OK") == 0;
}

/* EXEC's answer. */
static bool
is_all_done(const redisReply *reply, int ncommands)
{
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != ncommands)
		return false;
	for (int i = 0; i < ncommands; i++)
	{
		if (reply->element[i]->type == REDIS_REPLY_ERROR)
			return false;
	}
	return true;
}

static void
on_direct_reply(int index, const redisReply *reply, void *arg)
{
	DirectReplies *replies = arg;
	int			ncommands = 2 * replies->npairs;

	if (reply->type == REDIS_REPLY_ERROR && replies->outcome != NULL &&
		replies->outcome->refused++ == 0)
		slate_link_words(replies->outcome->error,
						 sizeof(replies->outcome->error), reply, NULL);
	if (index == 0)
		replies->refused |= !is_ok(reply);
	else if (index == ncommands + 1)
	{
		replies->done = is_all_done(reply, ncommands);

		/* of what was WATCHed before nil tells that it has changed */
		replies->refused |= ncommands == 0 &&
			reply->type == REDIS_REPLY_ERROR;
	}
	else if (index == ncommands + 2)
		replies->refused |= !is_ok(reply);
	else if (index == ncommands + 3)
	{
		watching.epoch[0] = '\0';
		if (reply->type == REDIS_REPLY_STRING && reply->len == SLATE_EPOCH_LEN)
			strlcpy(watching.epoch, reply->str, sizeof(watching.epoch));
	}
}

/* Note what the connection WATCHes from now on. */
static void
note_watching(SlateRedisStatus status, const DirectReplies *replies)
{
	watching.connection = 0;
	if (status != REDIS_DONE)
		return;
	if (replies->refused)
		watching.refused = slate_redis_connection();
	else
		watching.connection = slate_redis_connection();
}

static void
append_multi(SlateBatch *batch)
{
	begin_command(batch, 1);
	append_text(batch, "MULTI");
}

static void
append_watch(SlateBatch *batch, const char *epoch_key)
{
	begin_command(batch, 2);
	append_text(batch, "WATCH");
	append_text(batch, epoch_key);
	slate_script_add_get(batch, epoch_key, strlen(epoch_key));
}

static void
append_exec_and_watch(SlateBatch *batch, const char *epoch_key)
{
	begin_command(batch, 1);
	append_text(batch, "EXEC");
	append_watch(batch, epoch_key);
}

SlateRedisStatus
slate_direct_watch(const SlateStamp *stamp, int64 deadline, SlateWait wait)
{
	DirectReplies replies = {0};
	SlateRedisStatus status;
	SlateBatch	batch;

	slate_batch_init_for(&batch, 0);
	append_multi(&batch);
	append_exec_and_watch(&batch, stamp->epoch_key);
	status = slate_redis_run(0, batch.bytes.data, batch.bytes.len,
							 batch.ncommands, NULL, on_direct_reply, &replies,
							 deadline, wait);
	note_watching(status, &replies);
	slate_batch_free(&batch);
	return status;
}

/* ------------------------------------------------------------------------
 * Fences
 * ------------------------------------------------------------------------
 */

void
slate_direct_make_fence(SlateBatch *batch, const char *epoch_key)
{
	slate_batch_init_for(batch, 0);
	begin_command(batch, 3);
	append_text(batch, "PEXPIRE");
	append_text(batch, epoch_key);
	append_text(batch, FENCE_LIFE);
	begin_command(batch, 2);
	append_text(batch, "PERSIST");
	append_text(batch, epoch_key);

	/* our own WATCH has seen it, too */
	begin_command(batch, 1);
	append_text(batch, "UNWATCH");
	append_watch(batch, epoch_key);
}

typedef struct FenceReplies
{
	bool		refused;		/* the fence, or half of it */
	DirectReplies watch;
} FenceReplies;

/*
 * WATCH and GET are one place behind those that they have after MULTI and EXEC.
 * Where UNWATCH is refused the next EXEC will tell.
 */
static void
on_fence_reply(int index, const redisReply *reply, void *arg)
{
	FenceReplies *replies = arg;

	if (index < 2)
		replies->refused |= reply->type != REDIS_REPLY_INTEGER;
	else if (index > 2)
		on_direct_reply(index - 1, reply, &replies->watch);
}

SlateRedisStatus
slate_direct_fence(const SlateBatch *batch, bool *done, int64 deadline,
				   SlateWait wait)
{
	FenceReplies replies = {0};
	SlateRedisStatus status;
	bool		watched = watching.connection != 0;

	status = slate_redis_run(0, batch->bytes.data, batch->bytes.len,
							 batch->ncommands, NULL, on_fence_reply, &replies,
							 deadline, wait);
	if (watched)
		note_watching(status, &replies.watch);
	*done = status == REDIS_DONE && !replies.refused;
	return status;
}

/* ------------------------------------------------------------------------
 * Pushes
 * ------------------------------------------------------------------------
 */

static void
append_set_guard(SlateBatch *batch, SlateSlice key, const char *guard,
				 SlateSlice expiry)
{
	char	   *at = begin_append(&batch->bytes, 16);

	end_append(&batch->bytes, PUT_LITERAL(at, "*5\r\n$3\r\nSET\r\n"));
	slate_keyname_append_guard(batch, key.start, key.len);
	at = begin_append(&batch->bytes, SLATE_GUARD_LEN + expiry.len + 4 * MAX_HEAD);
	at = put_bulk(at, guard, SLATE_GUARD_LEN);
	at = PUT_LITERAL(at, "$4\r\nPXAT\r\n");
	end_append(&batch->bytes, put_bulk(at, expiry.start, expiry.len));
	batch->ncommands++;
}

/* A TTL of 0 is none. */
static void
append_set_value(SlateBatch *batch, SlateSlice key, SlateSlice value,
				 SlateSlice ttl)
{
	bool		expires = ttl.len != 1 || ttl.start[0] != '0';
	char	   *at = begin_append(&batch->bytes, key.len + value.len + ttl.len +
								  6 * MAX_HEAD);

	at = put_head(at, '*', expires ? 5 : 3);
	at = PUT_LITERAL(at, "$3\r\nSET\r\n");
	at = put_bulk(at, key.start, key.len);
	at = put_bulk(at, value.start, value.len);
	if (expires)
	{
		at = PUT_LITERAL(at, "$2\r\nPX\r\n");
		at = put_bulk(at, ttl.start, ttl.len);
	}
	end_append(&batch->bytes, at);
	batch->ncommands++;
}

static void
append_unlink(SlateBatch *batch, SlateSlice key)
{
	begin_command(batch, 2);
	append_text(batch, "UNLINK");
	append_bytes(batch, key.start, key.len);
}

/* UNLINK answers a number, which nobody can foretell. */
static void
foretell(SlateDirect *direct, const char *epoch)
{
	int			n = 2 * (direct->nputs + direct->ndrops);
	char	   *at;

	if (direct->ndrops > 0)
		return;
	at = begin_append(&direct->expected,
					  14 * n + SLATE_EPOCH_LEN + 4 * MAX_HEAD);
	at = PUT_LITERAL(at, "+OK\r\n");
	for (int i = 0; i < n; i++)
		at = PUT_LITERAL(at, "+QUEUED\r\n");
	at = put_head(at, '*', n);
	for (int i = 0; i <= n; i++)
		at = PUT_LITERAL(at, "+OK\r\n");
	at = put_bulk(at, epoch, strlen(epoch));
	end_append(&direct->expected, at);
}

void
slate_direct_init(SlateDirect *direct)
{
	memset(direct, 0, sizeof(*direct));
	slate_batch_init_for(&direct->batch, 0);
	initStringInfo(&direct->expected);
}

void
slate_direct_begin(SlateDirect *direct)
{
	resetStringInfo(&direct->batch.bytes);
	resetStringInfo(&direct->expected);
	direct->batch.ncommands = 0;
	direct->nputs = 0;
	direct->ndrops = 0;
	append_multi(&direct->batch);
}

/* The TTL's text is "-" for a DROP, as it is for the script. */
static void
add_direct(SlateDirect *direct, SlateSlice key, const char *guard,
		   SlateSlice expiry, SlateSlice ttl, SlateSlice value)
{
	append_set_guard(&direct->batch, key, guard, expiry);
	if (ttl.len == 1 && ttl.start[0] == '-')
	{
		append_unlink(&direct->batch, key);
		direct->ndrops++;
		return;
	}
	append_set_value(&direct->batch, key, value, ttl);
	direct->nputs++;
}

void
slate_direct_add(SlateDirect *direct, const SlateStamp *stamp,
				 const SlatePush *pushes, int npushes)
{
	char		expiry[24];
	SlateSlice	expires = {expiry, pg_lltoa(slate_stamp_guard_expiry(stamp), expiry)};

	for (int i = 0; i < npushes; i++)
	{
		const SlatePush *push = &pushes[i];
		char		guard[SLATE_GUARD_LEN];
		char		ttl[24] = "-";
		SlateSlice	lives = {ttl, 1};
		SlateSlice	key = {push->key, push->keylen};
		SlateSlice	value = {push->value, push->valuelen};

		(void) slate_stamp_put_guard(guard, stamp, push);
		if (push->value)
			lives.len = pg_lltoa(push->ttl, ttl);
		add_direct(direct, key, guard, expires, lives, value);
	}
}

void
slate_direct_add_call(SlateDirect *direct, const SlateCall *call,
					  const char *bytes)
{
	SlateCallPush push = {0};

	for (int i = 0; i < call->nkeys; i++)
	{
		slate_call_next_push(call, bytes, &push);
		add_direct(direct, push.key, push.guard, push.expiry, push.ttl,
				   push.value);
	}
}

void
slate_direct_end(SlateDirect *direct, const SlateStamp *stamp)
{
	append_exec_and_watch(&direct->batch, stamp->epoch_key);
	foretell(direct, stamp->epoch);
}

SlateRedisStatus
slate_direct_push(const SlateDirect *direct, SlateOutcome *outcome,
				  bool *done, int64 deadline, SlateWait wait)
{
	DirectReplies replies = {.npairs = direct->nputs + direct->ndrops,
	.outcome = outcome};
	SlateExpected expected = {direct->expected.data, direct->expected.len,
	false};
	SlateRedisStatus status;

	*done = false;
	memset(outcome, 0, sizeof(*outcome));
	status = slate_redis_run(0, direct->batch.bytes.data,
							 direct->batch.bytes.len, direct->batch.ncommands,
							 expected.len > 0 ? &expected : NULL,
							 on_direct_reply, &replies, deadline, wait);
	if (!expected.met)
		note_watching(status, &replies);
	if (status != REDIS_DONE || !(expected.met || replies.done))
		return status;
	*done = true;
	outcome->stored = direct->nputs;
	outcome->dropped = direct->ndrops;
	return status;
}
