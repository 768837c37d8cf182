/*-------------------------------------------------------------------------
 *
 * handshake.c
 *	  What is said to a Redis first, and what it tells of itself.
 *
 * All of it goes out in one exchange: AUTH and SELECT where they are needed, our
 * name, questions, and what the caller wants to have loaded.  Whoever asks the
 * questions again, later, asks those alone.
 *
 * Throws: nothing, except out of LINK_WAIT_INTERRUPTIBLE waits, see link.c.  No
 * palloc: what is sent is in memory of malloc().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "common/hashfn.h"
#include "handshake.h"

/* The handshake but for the preamble fits into this. */
#define HANDSHAKE_ROOM (SLATE_AUTH_ROOM + 256)

StaticAssertDecl(sizeof(((SlateUrl *) NULL)->user) +
				 sizeof(((SlateUrl *) NULL)->password) + 64 <= SLATE_AUTH_ROOM,
				 "there is room for user and password");

/* What we want to know of a server, at first and then every minute. */
static const char questions[] =
"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n"
"*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n"
"*1\r\n$4\r\nROLE\r\n"
"*1\r\n$4\r\nTIME\r\n";

#define NQUESTIONS 4

/* Bytes to send, in RESP; malloc'ed. */
typedef struct Wire
{
	char	   *bytes;
	size_t		len;
	size_t		capacity;
} Wire;

/*
 * A handshake under way: which reply answers what, and what was found in them.
 * Commands that were not sent have the index -1.
 */
typedef struct Handshake
{
	int			auth;
	int			select;
	int			set_name;
	int			first_question; /* in the order of questions[] */
	int			nreplies;
	SlateServerInfo *info;
	uint64		run_id;			/* a hash */
	char	   *objection;		/* SLATE_OBJECTION_SIZE bytes */
	bool		rejected;		/* the reason is there */
	bool		name_refused;	/* likewise, and no matter unless the server
								 * hangs up: then it was about more */
} Handshake;

/*
 * The handshake's bytes.  They are static so that a throw out of the handshake
 * leaks nothing; otherwise they are wiped when it is over, for the password's
 * sake.
 */
static Wire sent;

static void object(Handshake *handshake, const char *format,...) pg_attribute_printf(2, 3);

/* Say what is wrong with the server. */
static void
object(Handshake *handshake, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(handshake->objection, SLATE_OBJECTION_SIZE, format, args);
	va_end(args);
}

int64
slate_handshake_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* ----------
 * The exchange
 * ----------
 */

/* Empty the wire and make room; false if there is no memory. */
static bool
wire_reserve(Wire *wire, size_t capacity)
{
	wire->len = 0;
	if (wire->capacity < capacity)
	{
		char	   *bytes = realloc(wire->bytes, capacity);

		if (bytes == NULL)
			return false;
		wire->bytes = bytes;
		wire->capacity = capacity;
	}
	return true;
}

static void
wire_put(Wire *wire, const char *bytes, size_t len)
{
	Assert(wire->len + len <= wire->capacity);
	memcpy(wire->bytes + wire->len, bytes, len);
	wire->len += len;
}

/* A RESP header: '*' and the number of arguments, '$' and their length. */
static void
wire_put_header(Wire *wire, char type, size_t number)
{
	char		header[32];

	snprintf(header, sizeof(header), "%c%zu\r\n", type, number);
	wire_put(wire, header, strlen(header));
}

static void
wire_put_argument(Wire *wire, const char *argument)
{
	wire_put_header(wire, '$', strlen(argument));
	wire_put(wire, argument, strlen(argument));
	wire_put(wire, "\r\n", 2);
}

int
slate_handshake_put_auth(char *to, const char *user, const char *password)
{
	if (user[0] != '\0')
		return snprintf(to, SLATE_AUTH_ROOM,
						"*3\r\n$4\r\nAUTH\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n",
						strlen(user), user, strlen(password), password);
	return snprintf(to, SLATE_AUTH_ROOM,
					"*2\r\n$4\r\nAUTH\r\n$%zu\r\n%s\r\n",
					strlen(password), password);
}

static void
wire_put_select(Wire *wire, int database)
{
	char		number[16];

	snprintf(number, sizeof(number), "%d", database);
	wire_put_header(wire, '*', 2);
	wire_put_argument(wire, "SELECT");
	wire_put_argument(wire, number);
}

static void
wire_put_set_name(Wire *wire)
{
	wire_put_header(wire, '*', 3);
	wire_put_argument(wire, "CLIENT");
	wire_put_argument(wire, "SETNAME");
	wire_put_argument(wire, "slate_cache");
}

/* For no commands. */
static void
init(Handshake *handshake)
{
	memset(handshake, 0, sizeof(*handshake));
	handshake->auth = handshake->select = handshake->set_name = -1;
}

/* Write the whole handshake, noting which reply will be whose. */
static void
compose(Wire *wire, Handshake *handshake, const SlateUrl *url,
		const char *password, const SlatePreamble *preamble)
{
	int			next = 0;

	init(handshake);
	if (url->user[0] != '\0' || password[0] != '\0')
	{
		Assert(wire->len + SLATE_AUTH_ROOM <= wire->capacity);
		wire->len += slate_handshake_put_auth(wire->bytes + wire->len, url->user,
											  password);
		handshake->auth = next++;
	}
	if (url->database != 0)
	{
		wire_put_select(wire, url->database);
		handshake->select = next++;
	}
	wire_put_set_name(wire);
	handshake->set_name = next++;
	handshake->first_question = next;
	wire_put(wire, questions, sizeof(questions) - 1);
	next += NQUESTIONS;

	if (preamble->len > 0)
		wire_put(wire, preamble->bytes, preamble->len);
	handshake->nreplies = next + preamble->nreplies;
}

/* The command that a reply of the handshake answers, in words. */
static const char *
command_name(const Handshake *handshake, int index)
{
	if (index == handshake->auth)
		return "AUTH";
	if (index == handshake->select)
		return "SELECT";
	if (index == handshake->set_name)
		return "CLIENT SETNAME";
	switch (index - handshake->first_question)
	{
		case 0:
		case 1:
			return "INFO";
		case 2:
			return "ROLE";
		case 3:
			return "TIME";
		default:
			return "a script";
	}
}

/*
 * Note what the server has against us.  Of the answer to AUTH only what stands
 * before the first quotation mark: a server that does not know the command
 * repeats its arguments.
 */
static void
note_objection(Handshake *handshake, int index, const redisReply *reply)
{
	char		words[200];

	slate_link_words(words, sizeof(words), reply,
					 index == handshake->auth ? "'\"`" : NULL);
	object(handshake, "the server rejected %s: %s",
		   command_name(handshake, index), words);
}

/* Learn the server's clock from the reply to TIME: seconds, microseconds. */
static bool
take_time(const redisReply *reply, Handshake *handshake)
{
	SlateServerInfo *info = handshake->info;
	int64		seconds;
	int64		micros;

	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
		reply->element[0]->type != REDIS_REPLY_STRING ||
		reply->element[1]->type != REDIS_REPLY_STRING ||
		!slate_url_parse_number(reply->element[0]->str, reply->element[0]->len,
								PG_INT64_MAX / 1000000 - 1, &seconds) ||
		!slate_url_parse_number(reply->element[1]->str, reply->element[1]->len,
								999999, &micros))
		return false;

	/*
	 * The answer was true when it was given; we pair it with the later time
	 * at which it is here.  So the estimate is behind by the way back, and by
	 * the microsecond that may lie between two clocks that are cut off.
	 */
	info->clock_told_at = slate_handshake_clock();
	info->clock_offset = seconds * 1000000 + micros - info->clock_told_at - 1;
	return true;
}

/* The value of a field of INFO; NULL if there is none, or it is no INFO. */
static const char *
find_field(const redisReply *reply, const char *field, size_t *len)
{
	/* hiredis ends each string with a null byte */
	return reply->type == REDIS_REPLY_STRING
		? slate_link_info_value(reply->str, field, len) : NULL;
}

/* Learn from INFO server which start of a server this is. */
static bool
take_run_id(const redisReply *reply, Handshake *handshake)
{
	size_t		len = 0;
	const char *run_id = find_field(reply, "run_id", &len);

	if (len == 0)
		return false;
	handshake->run_id = hash_bytes_extended((const unsigned char *) run_id,
											(int) len, 0);
	return true;
}

/*
 * Learn from INFO replication whether it was promoted since, from being a
 * replica that took over another's data.  (The replication id would tell as
 * well, but changes also when the first replica comes, and after the last has
 * gone.)
 */
static bool
take_promotion(const redisReply *reply, Handshake *handshake)
{
	size_t		len = 0;
	const char *offset = find_field(reply, "second_repl_offset", &len);
	uint64		identity;

	if (reply->type != REDIS_REPLY_STRING)
		return false;
	identity = handshake->run_id;
	if (len > 0 && strncmp(offset, "-1", len) != 0)
		identity = hash_bytes_extended((const unsigned char *) offset,
									   (int) len, identity);
	handshake->info->identity = Max(identity, 1);
	return true;
}

/* Only a master will do: a replica loses what is written to it. */
static bool
take_role(const redisReply *reply, Handshake *handshake)
{
	const redisReply *role;

	if (reply->type != REDIS_REPLY_ARRAY || reply->elements < 1)
		return false;
	role = reply->element[0];
	if (role->type != REDIS_REPLY_STRING)
		return false;
	if (strcmp(role->str, "master") == 0)
		return true;

	if (strcmp(role->str, "slave") == 0)
		object(handshake, "the server is a replica");
	else if (strcmp(role->str, "sentinel") == 0)
		object(handshake, "the server is a sentinel");
	else
		return false;
	handshake->rejected = true;
	return true;
}

/* Look at the answer to one of the questions; false if it makes no sense. */
static bool
take_answer(int which, const redisReply *reply, Handshake *handshake)
{
	switch (which)
	{
		case 0:
			return take_run_id(reply, handshake);
		case 1:
			return take_promotion(reply, handshake);
		case 2:
			return take_role(reply, handshake);
		case 3:
			return take_time(reply, handshake);
		default:
			return true;
	}
}

/*
 * SlateReplyFn: look at one reply of the handshake.  The first error counts,
 * but for the name's, which is only for those who look at CLIENT LIST.  Even
 * that is kept in mind: a server that has too many clients says so in answer
 * to whatever comes first, and hangs up.
 */
static void
take_reply(int index, const redisReply *reply, void *arg)
{
	Handshake  *handshake = arg;
	bool		as_expected;

	if (handshake->rejected)
		return;

	if (reply->type == REDIS_REPLY_ERROR)
	{
		note_objection(handshake, index, reply);
		if (index == handshake->set_name)
			handshake->name_refused = true;
		else
			handshake->rejected = true;
		return;
	}

	if (index == handshake->auth || index == handshake->select)
		as_expected = (reply->type == REDIS_REPLY_STATUS);
	else
		as_expected = take_answer(index - handshake->first_question, reply,
								  handshake);

	if (!as_expected)
	{
		handshake->rejected = true;
		object(handshake, "the server's reply to %s makes no sense",
			   command_name(handshake, index));
	}
}

/*
 * Send what was composed, and see what the server makes of it.  A server that
 * rejects us may hang up right afterwards: then it is what it has said that
 * counts.
 */
static SlateLinkStatus
run(SlateLink *link, Handshake *handshake, const char *bytes, size_t len,
	int64 deadline, SlateWait wait)
{
	SlateLinkStatus status;

	handshake->objection[0] = '\0';
	status = slate_link_exchange(link, bytes, len, handshake->nreplies, NULL,
								 take_reply, handshake, deadline, wait);
	if (!handshake->rejected &&
		!(handshake->name_refused && status == LINK_BROKEN))
		handshake->objection[0] = '\0';
	return status;
}

SlateLinkStatus
slate_handshake(SlateLink *link, const SlateUrl *url, const char *password,
				const SlatePreamble *preamble, SlateServerInfo *info,
				char *objection, int64 deadline, SlateWait wait)
{
	SlateLinkStatus status;
	Handshake	handshake;

	objection[0] = '\0';
	if (!wire_reserve(&sent, HANDSHAKE_ROOM + preamble->len))
		return LINK_NOMEM;
	compose(&sent, &handshake, url, password, preamble);
	handshake.info = info;
	handshake.objection = objection;
	status = run(link, &handshake, sent.bytes, sent.len, deadline, wait);
	explicit_bzero(sent.bytes, sent.len);
	return status;
}

SlateLinkStatus
slate_handshake_ask(SlateLink *link, SlateServerInfo *info, char *objection,
					int64 deadline, SlateWait wait)
{
	Handshake	handshake;

	init(&handshake);
	handshake.nreplies = NQUESTIONS;
	handshake.info = info;
	handshake.objection = objection;
	return run(link, &handshake, questions, sizeof(questions) - 1, deadline,
			   wait);
}
