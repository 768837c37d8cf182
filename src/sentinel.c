/*-------------------------------------------------------------------------
 *
 * sentinel.c
 *	  Which server is the master now: what Redis Sentinels say.
 *
 * What one process was told all know: shared memory has an entry for each
 * group of sentinels (of the first few; the rest remember for themselves).  A
 * worker asks twice a second, so that backends rarely have to.
 *
 * Sentinels may disagree: one that was stopped, or cut off from the others,
 * goes on naming a master that has been replaced, and that master, stopped
 * with it, may still think that it is one.  Each failover has a number, the
 * configuration epoch, which grows.  So an answer with a smaller epoch than
 * the one that is known is not taken, and the next sentinel is asked.  Only if
 * most of the sentinels say the same their counting has begun anew.
 *
 * A connection to each sentinel is made for each question, and closed.
 *
 * The entries begin as hearsay.c tells, and are written as sequence.h does.
 * There are no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "events.h"
#include "handshake.h"
#include "hearsay.h"
#include "names.h"
#include "sentinel.h"
#include "sequence.h"

/* How many groups are remembered in shared memory. */
#define GROUPS 8

/* Room for the questions in RESP; so long are their own words at most. */
#define QUESTION_WORDS 256
#define QUESTION_ROOM (2 * SLATE_AUTH_ROOM + QUESTION_WORDS + \
					   2 * (int) sizeof(((SlateSentinels *) NULL)->master))

/* What sentinels have said. */
typedef struct Word
{
	SlateAddress master;
	uint64		epoch;			/* of the configuration, the sentinels' */
} Word;

/* What is known of the master of one group. */
typedef struct Knowledge
{
	SlateHearsay hearsay;		/* changes: how often the master was another;
								 * last: the index of a sentinel */
	Word		word;
} Knowledge;

/* What one sentinel says. */
typedef struct Answer
{
	int			skip;			/* replies before those that matter */
	bool		has_master;
	bool		has_epoch;
	bool		wants_password;
	Word		word;
	char		objection[128]; /* why it has no master for us */
} Answer;

static Knowledge own_knowledge;
static SlateHearsayTable table = {"slate_cache sentinel", GROUPS,
sizeof(Knowledge), &own_knowledge.hearsay, NULL};

/* The group in use, and what is known of its master. */
static const SlateSentinels *sentinels = NULL;
static Knowledge *knowledge = NULL;

/* The sentinel that is being asked; see link.h. */
static SlateLink connection;

/* What is sent to it: static, so that a throw leaks nothing. */
static char question[QUESTION_ROOM];

static char error_text[700];

/* ------------------------------------------------------------------------
 * What is known
 * ------------------------------------------------------------------------
 */

Size
slate_sentinel_shmem_size(void)
{
	return slate_hearsay_shmem_size(&table);
}

void
slate_sentinel_shmem_startup(void)
{
	slate_hearsay_shmem_startup(&table);
}

void
slate_sentinel_choose(const SlateSentinels *chosen)
{
	sentinels = chosen;
	knowledge = (Knowledge *) slate_hearsay_choose(&table, chosen,
												   sizeof(*chosen));
}

static void
note_failover(const SlateAddress *from, const SlateAddress *to)
{
	char		was[sizeof(from->host) + 16];
	char		is[sizeof(to->host) + 16];

	slate_link_write_address(was, sizeof(was), from);
	slate_link_write_address(is, sizeof(is), to);
	slate_events_note(EVENT_FAILOVER, InvalidOid,
					  "sentinel master %s: from %s to %s",
					  sentinels->master, was, is);
}

/*
 * If another process is at it, that will do; and so if one has heard of a
 * later failover since we looked, when the epoch was known_epoch.
 */
static void
write_knowledge(const Word *word, uint64 known_epoch)
{
	Word	   *known = &knowledge->word;
	SlateAddress former;
	bool		is_failover = false;

	if (!slate_sequence_begin_write(&knowledge->hearsay.sequence))
		return;
	former = known->master;
	if (known->epoch <= Max(known_epoch, word->epoch))
	{
		if (pg_atomic_read_u64(&knowledge->hearsay.changes) == 0 ||
			!slate_link_same_address(&known->master, &word->master))
		{
			known->master = word->master;
			is_failover = pg_atomic_fetch_add_u64(&knowledge->hearsay.changes, 1) > 0;
		}
		known->epoch = word->epoch;
	}
	slate_sequence_end_write(&knowledge->hearsay.sequence);
	if (is_failover)
		note_failover(&former, &word->master);
}

bool
slate_sentinel_known(SlateMaster *master)
{
	Word		word;

	if (!slate_hearsay_read(&knowledge->hearsay, &word, &knowledge->word,
							sizeof(word), &master->changes))
		return false;
	master->address = word.master;
	return true;
}

uint64
slate_sentinel_changes(void)
{
	return slate_hearsay_changes(&knowledge->hearsay);
}

bool
slate_sentinel_should_ask(int64 distrusted_at, int64 max_age)
{
	return slate_hearsay_should_ask(&knowledge->hearsay, distrusted_at,
									max_age);
}

int64
slate_sentinel_silence(void)
{
	return slate_hearsay_age(&knowledge->hearsay);
}

/* ------------------------------------------------------------------------
 * Asking one sentinel
 * ------------------------------------------------------------------------
 */

/* SENTINEL get-master-addr-by-name: nothing, or host and port. */
static void
take_address(const redisReply *reply, Answer *answer)
{
	const redisReply *host;
	int			port;

	if (reply->type == REDIS_REPLY_NIL)
	{
		strlcpy(answer->objection, "it knows no master of this name",
				sizeof(answer->objection));
		return;
	}
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
		reply->element[0]->type != REDIS_REPLY_STRING ||
		reply->element[1]->type != REDIS_REPLY_STRING)
		return;

	host = reply->element[0];
	port = atoi(reply->element[1]->str);
	if (host->len == 0 || host->len >= sizeof(answer->word.master.host) ||
		strspn(host->str, SLATE_HOST_CHARACTERS) != host->len ||
		port < 1 || port > 65535)
		return;
	strlcpy(answer->word.master.host, host->str,
			sizeof(answer->word.master.host));
	answer->word.master.port = port;
	answer->has_master = true;
}

/* SENTINEL MASTER: names and values in turn. */
static void
take_epoch(const redisReply *reply, Answer *answer)
{
	if (reply->type != REDIS_REPLY_ARRAY)
		return;
	for (size_t i = 0; i + 1 < reply->elements; i += 2)
	{
		const redisReply *name = reply->element[i];
		const redisReply *value = reply->element[i + 1];

		if (name->type != REDIS_REPLY_STRING ||
			value->type != REDIS_REPLY_STRING ||
			strcmp(name->str, "config-epoch") != 0)
			continue;
		answer->word.epoch = strtoull(value->str, NULL, 10);
		answer->has_epoch = true;
	}
}

static void
take_objection(const redisReply *reply, Answer *answer)
{
	if (slate_link_is_error(reply, "NOAUTH"))
		answer->wants_password = true;
	slate_link_words(answer->objection, sizeof(answer->objection), reply, NULL);
}

/* SlateReplyFn; the first objection counts. */
static void
take_answer(int index, const redisReply *reply, void *arg)
{
	Answer	   *answer = arg;

	index -= answer->skip;
	if (index < 0)
		return;
	if (reply->type == REDIS_REPLY_ERROR)
	{
		if (answer->objection[0] == '\0')
			take_objection(reply, answer);
	}
	else if (index == 0)
		take_address(reply, answer);
	else
		take_epoch(reply, answer);
}

/*
 * Ask the sentinel at the other end; with a password, if there is one.  A
 * password without a user is often all that a sentinel has: so both are tried.
 */
static SlateLinkStatus
exchange(const char *user, const char *password, Answer *answer,
		 int64 deadline, SlateWait wait)
{
	SlateLinkStatus status;
	int			len = 0;

	memset(answer, 0, sizeof(*answer));
	if (password[0] != '\0' && user[0] != '\0')
	{
		len += slate_handshake_put_auth(question, user, password);
		answer->skip++;
	}
	if (password[0] != '\0')
	{
		len += slate_handshake_put_auth(question + len, "", password);
		answer->skip++;
	}
	len += snprintf(question + len, sizeof(question) - len,
					"*3\r\n$8\r\nSENTINEL\r\n$23\r\nget-master-addr-by-name\r\n$%zu\r\n%s\r\n"
					"*3\r\n$8\r\nSENTINEL\r\n$6\r\nMASTER\r\n$%zu\r\n%s\r\n",
					strlen(sentinels->master), sentinels->master,
					strlen(sentinels->master), sentinels->master);

	status = slate_link_exchange(&connection, question, len, answer->skip + 2,
								 NULL, take_answer, answer, deadline, wait);
	explicit_bzero(question, sizeof(question));
	return status;
}

static void
note_failure(const SlateAddress *address, const char *reason)
{
	slate_hearsay_note_failure(error_text, sizeof(error_text), address, reason);
}

/* LINK_OK: it has named a master. */
static SlateLinkStatus
ask_one(const SlateAddress *address, const char *user, const char *password,
		Answer *answer, int64 deadline, SlateWait wait)
{
	SlateLinkStatus status;

	status = slate_names_open(&connection, address, deadline, wait);
	if (status == LINK_OK)
		status = exchange("", "", answer, deadline, wait);
	if (status == LINK_OK && answer->wants_password && password[0] != '\0')
		status = exchange(user, password, answer, deadline, wait);
	slate_link_close(&connection);

	if (status != LINK_OK)
		note_failure(address, connection.error);
	else if (!answer->has_master || !answer->has_epoch)
	{
		note_failure(address, answer->objection[0] != '\0' ? answer->objection
					 : "its answer makes no sense");
		status = LINK_PROTOCOL;
	}
	return status;
}

/* ------------------------------------------------------------------------
 * Asking until one knows
 * ------------------------------------------------------------------------
 */

/* The answer is the newest that there is. */
static void
take_word(const Answer *answer, int which, uint64 known_epoch)
{
	write_knowledge(&answer->word, known_epoch);
	slate_hearsay_tell(&knowledge->hearsay, which);
}

/*
 * Each gets an equal share of the time that is left, so that one which does
 * not answer keeps no other from its turn.
 */
SlateLinkStatus
slate_sentinel_ask(const char *user, const char *password, bool another,
				   int64 deadline, SlateWait wait)
{
	int			first = pg_atomic_read_u64(&knowledge->hearsay.last) +
		(another ? 1 : 0);
	SlateLinkStatus failure = LINK_UNREACHABLE;
	Word		known;
	uint64		changes;
	Answer		newest = {0};
	int			newest_from = 0;
	int			nanswers = 0;

	error_text[0] = '\0';
	slate_hearsay_ask(&knowledge->hearsay);
	if (!slate_hearsay_read(&knowledge->hearsay, &known, &knowledge->word,
							sizeof(known), &changes))
		known.epoch = 0;

	for (int i = 0; i < sentinels->count; i++)
	{
		int			which = (first + i) % sentinels->count;
		int64		now = slate_link_now();
		int64		share = Max(deadline - now, 0) / (sentinels->count - i);
		SlateLinkStatus status;
		Answer		answer;

		status = ask_one(&sentinels->address[which], user, password, &answer,
						 now + share, wait);
		if (status == LINK_TIMEOUT)
			failure = LINK_TIMEOUT;
		if (status != LINK_OK)
			continue;
		if (nanswers++ == 0 || answer.word.epoch > newest.word.epoch)
		{
			newest = answer;
			newest_from = which;
		}
		if (newest.word.epoch >= known.epoch)
			break;
		note_failure(&sentinels->address[which], "it has not heard of the last failover");
	}

	if (nanswers == 0 ||
		(newest.word.epoch < known.epoch && nanswers <= sentinels->count / 2))
		return failure;
	take_word(&newest, newest_from, known.epoch);
	return LINK_OK;
}

const char *
slate_sentinel_error(void)
{
	return error_text;
}
