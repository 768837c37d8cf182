/*-------------------------------------------------------------------------
 *
 * exchange.c
 *	  Sending batches, and what comes back.
 *
 * Scripts that Redis has forgotten are loaded again; what it answers to pushes is
 * added up.  After a commit: nothing here throws or pallocs unless the wait is
 * interruptible, see link.h.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "exchange.h"
#include "lua.h"
#include "script.h"
#include "stats.h"

/* ------------------------------------------------------------------------
 * Sending
 * ------------------------------------------------------------------------
 */

/* How often to find that the scripts are gone, if somebody goes on flushing them. */
#define MAX_ATTEMPTS 5

typedef struct RunState
{
	SlateReplyFn reply_fn;
	void	   *arg;
	const int  *numbers;		/* of the commands; NULL: as they are */
	int			first;			/* index of the first reply of this attempt */
	const char *bytes;			/* of its commands */
	int			forgotten;		/* index of the first NOSCRIPT; -1: none */
	bool		remembered;		/* a script that came behind that was done */
} RunState;

static void
hand_on(const RunState *state, int index, const redisReply *reply)
{
	if (state->reply_fn != NULL)
		state->reply_fn(state->numbers ? state->numbers[index] : index, reply,
						state->arg);
}

/* Where the nth command of a batch begins: arrays of bulk strings, all of it. */
static const char *
find_command(const char *at, int n)
{
	for (int i = 0; i < n; i++)
	{
		long		nelements = strtol(at + 1, NULL, 10);

		at = strchr(at, '\n') + 1;
		for (long j = 0; j < nelements; j++)
		{
			long		len = strtol(at + 1, NULL, 10);

			at = strchr(at, '\n') + 1 + len + 2;
		}
	}
	return at;
}

/* Of all commands these alone must not be done twice. */
static bool
is_script(const char *command)
{
	static const char name[] = "$7\r\nEVALSHA\r\n";

	return strncmp(strchr(command, '\n') + 1, name, strlen(name)) == 0;
}

static void
on_run_reply(int index, const redisReply *reply, void *arg)
{
	RunState   *state = arg;
	int			nth = state->first + index;

	if (slate_link_is_error(reply, "NOSCRIPT"))
		state->forgotten = state->forgotten < 0 ? nth : state->forgotten;
	else if (state->forgotten >= 0)
	{
		if (!state->remembered)
			state->remembered = is_script(find_command(state->bytes, index));
	}
	else
		hand_on(state, nth, reply);
}

/*
 * Somebody else has loaded the scripts just in the middle of our commands.
 * Some are done and some not; none is sent again.
 */
static void
answer_forgotten(const RunState *state, int ncommands)
{
	static char text[] = "NOSCRIPT in the middle of an exchange";
	redisReply	reply = {.type = REDIS_REPLY_ERROR,.str = text,
	.len = sizeof(text) - 1};

	for (int i = state->forgotten; i < ncommands; i++)
		hand_on(state, i, &reply);
}

static SlateRedisStatus
load_again(int node, int64 deadline, SlateWait wait)
{
	const SlateBatch *load = slate_script_loading(node);

	return slate_redis_run(node, load->bytes.data, load->bytes.len,
						   load->ncommands, NULL, NULL, NULL, deadline, wait);
}

/* The commands of a batch for one node between two places. */
static SlateRedisStatus
run_commands(const SlateBatch *batch, SlateCut from, SlateCut to,
			 SlateReplyFn reply_fn, void *arg, int64 deadline, SlateWait wait)
{
	RunState	state = {.reply_fn = reply_fn,.arg = arg};
	const char *bytes = batch->bytes.data + from.end;
	const char *end = batch->bytes.data + to.end;
	int			ncommands = to.ncommands - from.ncommands;

	if (batch->numbers)
		state.numbers = batch->numbers + from.ncommands;
	for (int attempt = 1;; attempt++)
	{
		SlateRedisStatus status;

		state.forgotten = -1;
		state.bytes = bytes;
		status = slate_redis_run(batch->node, bytes, end - bytes,
								 ncommands - state.first, NULL, on_run_reply,
								 &state, deadline, wait);
		if (status != REDIS_DONE || state.forgotten < 0)
			return status;
		if (state.remembered || attempt == MAX_ATTEMPTS)
		{
			answer_forgotten(&state, ncommands);
			return status;
		}

		/*
		 * SCRIPT FLUSH, or a server that has never seen them.  What it has done is
		 * not sent again: its nonces would come twice.
		 */
		status = load_again(batch->node, deadline, wait);
		if (status != REDIS_DONE)
			return status;
		bytes = find_command(bytes, state.forgotten - state.first);
		state.first = state.forgotten;
	}
}

/* All commands of a batch for one node. */
static SlateRedisStatus
run_all(const SlateBatch *batch, SlateReplyFn reply_fn, void *arg,
		int64 deadline, SlateWait wait)
{
	SlateCut	from = {0, 0};
	SlateCut	to = {batch->bytes.len, batch->ncommands};

	if (batch->ncommands == 0)
		return REDIS_DONE;
	return run_commands(batch, from, to, reply_fn, arg, deadline, wait);
}

/* Have all nodes at work on the first exchange that each has. */
static void
send_ahead(const SlateBatch *batch, int64 deadline)
{
	for (int i = 0; i < batch->nparts; i++)
	{
		const SlateBatch *part = &batch->parts[i];

		if (part->ncommands > 0)
			slate_redis_send_ahead(part->node, part->bytes.data,
								   part->ncuts > 0 ? part->cuts[0].end
								   : part->bytes.len, deadline);
	}
}

SlateRedisStatus
slate_exchange_run(const SlateBatch *batch, SlateReplyFn reply_fn, void *arg,
				 int64 deadline, SlateWait wait)
{
	SlateRedisStatus status = REDIS_DONE;

	if (!slate_redis_has_topology(batch->topology))
		return REDIS_UNREACHABLE;
	if (batch->nparts == 0)
		return run_all(batch, reply_fn, arg, deadline, wait);
	send_ahead(batch, deadline);
	for (int i = 0; i < batch->nparts && status == REDIS_DONE; i++)
		status = run_all(&batch->parts[i], reply_fn, arg, deadline, wait);
	if (status != REDIS_DONE)
		slate_redis_give_up_ahead();
	return status;
}

/* ------------------------------------------------------------------------
 * What was answered
 * ------------------------------------------------------------------------
 */

static int64
reply_number(const redisReply *reply, size_t element)
{
	if (element >= reply->elements ||
		reply->element[element]->type != REDIS_REPLY_INTEGER)
		return 0;
	return reply->element[element]->integer;
}

/* Values set times 4096, and DROPs, in one number. */
static bool
quick_reply(SlateOutcome *outcome, const redisReply *reply)
{
	int64		counts;

	if (reply->type != REDIS_REPLY_INTEGER ||
		reply->integer <= LUA_QUICK_REPLY_NUMBER)
		return false;
	counts = reply->integer - LUA_QUICK_REPLY_NUMBER;
	outcome->stored += counts / 4096;
	outcome->dropped += counts % 4096;
	return true;
}

/* Is it what a step over an index answers that was not the last one? */
static bool
is_step_reply(const redisReply *reply)
{
	return reply->type == REDIS_REPLY_ARRAY &&
		(reply->elements == 7 || reply->elements == 8) &&
		reply->element[4]->type == REDIS_REPLY_STRING &&
		reply->element[4]->len <= SLATE_STEP_CURSOR_LEN;
}

/*
 * An outcome is what the scripts answer, an array of three or four counts, or
 * two of them in a number, see lua.c; or of such counts, and of where the next
 * step begins, and what was refused in this one.  Whatever else comes back,
 * READONLY, OOM, LOADING, NOAUTH, MOVED or things yet unknown, is a failure to
 * deliver.
 */
void
slate_exchange_take_reply(SlateOutcome *outcome, const redisReply *reply)
{
	bool		is_step = is_step_reply(reply);

	if (quick_reply(outcome, reply))
		return;
	if (is_step || (reply->type == REDIS_REPLY_ARRAY &&
					(reply->elements == 3 || reply->elements == 4)))
	{
		outcome->strange |= reply_number(reply, 3) != 0;
		outcome->stored += reply_number(reply, 0);
		outcome->dropped += reply_number(reply, 1);
		outcome->outdated += reply_number(reply, 2);
		outcome->unfinished += is_step;
		if (!is_step || reply->elements == 7)
			return;
		reply = reply->element[7];
	}
	if (outcome->refused++ > 0)
		return;
	if (reply->type == REDIS_REPLY_ERROR)
		slate_link_words(outcome->error, sizeof(outcome->error), reply, NULL);
	else
		strlcpy(outcome->error, "unexpected reply to a script",
				sizeof(outcome->error));
}

bool
slate_exchange_is_out_of_memory(const SlateOutcome *outcome)
{
	return outcome->refused > 0 && strncmp(outcome->error, "OOM ", 4) == 0;
}

void
slate_exchange_count_outcome(const SlateOutcome *outcome)
{
	slate_stats_add(STAT_KEYS_STORED, outcome->stored);
	slate_stats_add(STAT_KEYS_DROPPED, outcome->dropped);
	slate_stats_add(STAT_KEYS_OUTDATED, outcome->outdated);
}

/* ------------------------------------------------------------------------
 * Pushes
 * ------------------------------------------------------------------------
 */

/* An exchange with pushes that go to one node. */
typedef struct PushState
{
	SlateBatch *batch;
	int			first;			/* of its commands */
	SlateOutcome outcome;
} PushState;

/* Have the next step over an index begin where this one has ended. */
static void
take_step(SlateBatch *batch, int number, const redisReply *reply)
{
	for (int i = 0; i < batch->ndrops; i++)
	{
		SlateIndexDrop *drop = &batch->drops[i];

		if (drop->number != number)
			continue;
		drop->more = is_step_reply(reply);
		if (!drop->more)
			return;
		slate_script_next_step(batch, drop, reply->element[4]->str);
		drop->seen += reply_number(reply, 5);
		drop->members = reply_number(reply, 6);
		return;
	}
}

static void
on_push_reply(int index, const redisReply *reply, void *arg)
{
	PushState  *state = arg;
	SlateBatch *batch = state->batch;

	slate_exchange_take_reply(&state->outcome, reply);
	if (batch->ndrops > 0)
		take_step(batch, batch->numbers ? index : state->first + index, reply);
}

static void
add_outcome(SlateOutcome *sum, const SlateOutcome *outcome)
{
	sum->unfinished += outcome->unfinished;
	sum->stored += outcome->stored;
	sum->dropped += outcome->dropped;
	sum->outdated += outcome->outdated;
	sum->strange |= outcome->strange;
	if (sum->refused == 0)
		memcpy(sum->error, outcome->error, sizeof(sum->error));
	sum->refused += outcome->refused;
}

/* What goes to one node; *deadline is the first exchange's. */
static SlateRedisStatus
publish_part(SlateBatch *batch, SlateOutcome *outcome, int64 *deadline,
			 int timeout, SlateWait wait)
{
	SlateRedisStatus status = REDIS_DONE;
	SlateCut	last = {batch->bytes.len, batch->ncommands};
	SlateCut	from = {0, 0};

	for (int i = 0; i <= batch->ncuts && status == REDIS_DONE; i++)
	{
		SlateCut	to = i < batch->ncuts ? batch->cuts[i] : last;
		PushState	state = {.batch = batch,.first = from.ncommands};

		if (to.ncommands == from.ncommands)
			continue;
		status = run_commands(batch, from, to, on_push_reply, &state,
							  *deadline, wait);
		add_outcome(outcome, &state.outcome);
		from = to;
		if (i < batch->ncuts)
			*deadline = slate_link_now() + timeout;
	}
	return status;
}

SlateRedisStatus
slate_exchange_publish(SlateBatch *batch, SlateOutcome *outcome,
					 int64 deadline, int timeout, SlateWait wait)
{
	SlateRedisStatus status = REDIS_DONE;

	memset(outcome, 0, sizeof(*outcome));
	if (!slate_redis_has_topology(batch->topology))
		return REDIS_UNREACHABLE;
	if (batch->nparts == 0)
		return publish_part(batch, outcome, &deadline, timeout, wait);
	send_ahead(batch, deadline);
	for (int i = 0; i < batch->nparts && status == REDIS_DONE; i++)
		status = publish_part(&batch->parts[i], outcome, &deadline, timeout,
							  wait);
	if (status != REDIS_DONE)
		slate_redis_give_up_ahead();
	return status;
}

/* Where something is left; NULL: nowhere. */
static SlateIndexDrop *
find_unfinished(const SlateBatch *batch)
{
	for (int i = 0; i < batch->ndrops; i++)
	{
		if (batch->drops[i].more)
			return &batch->drops[i];
	}
	return NULL;
}

int64
slate_exchange_members_left(const SlateBatch *batch)
{
	int64		left = 0;

	for (int i = 0; i < batch->nparts; i++)
		left += slate_exchange_members_left(&batch->parts[i]);
	for (int i = 0; i < batch->ndrops; i++)
	{
		const SlateIndexDrop *drop = &batch->drops[i];

		if (drop->more)
			left += Max(drop->members - drop->seen, 1);
	}
	return left;
}

SlateRedisStatus
slate_exchange_go_on(SlateBatch *batch, SlateOutcome *outcome, int64 deadline,
				   SlateWait wait)
{
	SlateIndexDrop *drop = find_unfinished(batch);
	PushState	state = {.batch = batch};
	SlateRedisStatus status;
	SlateCut	from;
	SlateCut	to;

	for (int i = 0; i < batch->nparts; i++)
	{
		if (find_unfinished(&batch->parts[i]) != NULL)
			return slate_exchange_go_on(&batch->parts[i], outcome, deadline,
									  wait);
	}
	if (!slate_redis_has_topology(batch->topology))
		return REDIS_UNREACHABLE;
	if (drop == NULL)
		return REDIS_DONE;
	state.first = drop->nth;
	from = (SlateCut) {drop->start, drop->nth};
	to = (SlateCut) {drop->end, drop->nth + 1};
	status = run_commands(batch, from, to, on_push_reply, &state, deadline,
						  wait);
	add_outcome(outcome, &state.outcome);
	return status;
}
