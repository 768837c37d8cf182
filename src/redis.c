/*-------------------------------------------------------------------------
 *
 * redis.c
 *	  Which server: its address, this backend's connection to it, when to stop
 *	  trying for a while (the breaker), and what a failure was.
 *
 * Each backend has one connection, made when it is first needed and kept.
 * (The postmaster makes none, so there is none to inherit.)  Life with it goes
 * prepare, run, prepare, run, ...: all that can take long or need memory is in
 * slate_redis_prepare(), before a commit; slate_redis_run() only sends,
 * receives and keeps the books.
 *
 * The breaker
 *
 * A server that is gone costs each commit a deadline, unless somebody
 * remembers.  What is remembered is in shared memory: next_try, a point of
 * CLOCK_MONOTONIC (one clock for all processes).  Zero is the closed breaker:
 * go ahead.  Otherwise nobody tries before next_try; after it, who moves it
 * ahead by a compare-and-swap has the turn to probe, until the time it was
 * moved to, and the others go on resting.  The probe ends in one of three
 * ways: it succeeds, and next_try becomes zero; it fails, and next_try becomes
 * the end of a longer rest; nothing is heard of it (its transaction failed for
 * another reason, its process died), and after next_try another has the turn.
 *
 * Probing is best done by a process that keeps no client waiting.  Where there
 * is one (a prober), backends leave the turn to it, unless it has let it pass
 * for a second longer than the exchange may take in which it may be already.
 *
 * Databases and roles may have urls of their own, and what is learnt of one
 * says nothing about another (a wrong password, too, is one url's).  So there
 * is a table of breakers: each url takes the first that is free, for good, and
 * those that find none share the last.
 *
 * One outage meets many backends at once.  Only the first of them to report it
 * is counted; to the others the breaker, open by then, says that it is known.
 *
 * How long a rest is depends on what trying costs: a server that refused at
 * once is asked again soon, one that let a deadline pass is not.
 *
 * The atomics are not changed together.  That is fine: next_try alone
 * decides, failures only makes rests longer.  So there are no locks here, and
 * a failure can be noted after a commit.
 *
 * Throws: nothing, except out of LINK_WAIT_INTERRUPTIBLE waits, see link.c.
 * Such a throw leaves the link to be dropped at its next use, and a probe to
 * run out; nothing leaks.  slate_redis_shmem_startup() may throw, at server
 * start.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "events.h"
#include "libpq/pqcomm.h"
#include "miscadmin.h"
#include "names.h"
#include "port/atomics.h"
#include "redis.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#define DEFAULT_PORT 6379

/* A connection that was used so short a time ago is not looked at, in ms. */
#define RECENT_USE_MS 10

/* Rests: the first, in ms; each failure doubles it; up to the cap. */
#define REFUSED_REST 50
#define REFUSED_REST_CAP 1000
#define TIMEOUT_REST_FACTOR 4	/* times the timeout that passed */
#define TIMEOUT_REST_CAP 10000

/* The same for a timeout where there is a prober: no commit pays for it. */
#define PROBED_REST_CAP 1000

/* How long a probe may take beyond both timeouts, in ms. */
#define PROBE_GRACE 100

/* When to ask for the server's clock, identity and role again, in us. */
#define ANSWERS_MAX_AGE (INT64CONST(60) * 1000000)

/*
 * When to ask a sentinel again: a backend, which relies on workers, and a
 * worker, and for how long the latter does that at most; in ms.
 */
#define MASTER_MAX_AGE 2000
#define MASTER_REFRESH 450
#define REFRESH_TIMEOUT 500

/* The handshake but for the preamble fits into this; AUTH is the longest. */
#define HANDSHAKE_ROOM 1024

/* What we want to know of a server, at first and then every minute. */
static const char questions[] =
"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n"
"*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n"
"*1\r\n$4\r\nROLE\r\n"
"*1\r\n$4\r\nTIME\r\n";

#define NQUESTIONS 4

/* How many breakers there are, and how long they wait for a prober, in ms. */
#define BREAKERS 32
#define REASON_SIZE 256
#define READ_TRIES 10
#define PROBER_GRACE_MS 1000

/* How often an opening is an event, in ms. */
#define EVENT_INTERVAL_MS 5000

/* See "The breaker" above. */
typedef struct RedisBreaker
{
	pg_atomic_uint64 url;		/* a hash; 0: free, or the last of the table */
	pg_atomic_uint64 next_try;	/* ms of CLOCK_MONOTONIC; 0: closed */
	pg_atomic_uint32 failures;	/* in a row */
	pg_atomic_uint32 probers;	/* processes that probe for the others */
	pg_atomic_uint32 is_noted;	/* that it is open is an event */
	pg_atomic_uint64 noted_at;	/* the last such event; 0: none */
	pg_atomic_uint32 sequence;	/* odd while the reason is written */
	char		reason[REASON_SIZE];	/* of the last failure that was
										 * counted */
} RedisBreaker;

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
	uint64		run_id;			/* a hash */
	bool		rejected;		/* the reason is in error_text */
	bool		name_refused;	/* likewise, and no matter unless the server
								 * hangs up: then it was about more */
} Handshake;

/* Settings; see redis.h. */
char	   *slate_redis_url = NULL;
char	   *slate_redis_password_file = NULL;
int			slate_redis_timeout = 250;
int			slate_redis_connect_timeout = 500;
int			slate_redis_idle_timeout = 60;

/*
 * What became of slate_redis_url; valid while settings_loaded.  settings_stale
 * is set when it must be read again.
 */
static SlateUrl server;
static uint64 server_key;
static bool settings_loaded = false;
static bool settings_stale = false;

/* The key of the url as it is, asked for before it was loaded; 0: not yet. */
static uint64 unloaded_key = 0;

/*
 * The connection, if any; see link.h.  If there is none, is what became of the
 * last what error_text tells?
 */
static SlateLink connection;
static bool loss_is_told = false;

/*
 * The server's clock minus our CLOCK_MONOTONIC, in us, and when we were told,
 * by the latter.  Valid while the connection is open.
 */
static int64 clock_offset;
static int64 clock_told_at;

/* See slate_redis_identity(); valid while the connection is open. */
static uint64 identity;

/* How many connections there have been. */
static uint64 connection_number = 0;

/*
 * When the connection was prepared for use last; and whether it was shut down
 * since, because nobody used it.
 */
static volatile int64 used_at;
static volatile sig_atomic_t shut_down_idle = false;

/*
 * Where the connection goes, or last went: the url's address, or what the
 * sentinels said.  Then master_changes is slate_sentinel_changes() as it was,
 * or 0 if they have not yet said anything; and distrusted_at is when something
 * last spoke against it, or 0.
 */
static SlateAddress present;
static uint64 master_changes;
static int64 distrusted_at;

/* What to send on each new connection; the caller's memory. */
static const char *preamble_bytes = NULL;
static size_t preamble_len = 0;
static int	preamble_replies = 0;

/*
 * The handshake's bytes.  They are static so that a throw out of the handshake
 * leaks nothing; otherwise they are wiped when it is over, for the password's
 * sake.
 */
static Wire handshake_wire;

/*
 * The breaker of the url in use; NULL until there was a valid one.  It is in
 * the shared table if we were preloaded, else it is local_breaker.
 */
static RedisBreaker *breaker = NULL;
static RedisBreaker *shared_breakers = NULL;
static RedisBreaker local_breaker;

/* The value next_try had when it became this backend's turn to probe. */
static uint64 my_turn = 0;

/* Are we a prober, and which breaker counts us as one? */
static bool is_prober = false;
static RedisBreaker *probed = NULL;

/* What slate_redis_error() and slate_redis_server_name() return. */
static char error_text[1024];
static size_t error_prefix;		/* so much of it is the server's name */
static char name_text[512];

static void set_error(const char *format,...) pg_attribute_printf(1, 2);

/* Note the reason of a failure, under the server's name. */
static void
set_error(const char *format,...)
{
	va_list		args;

	snprintf(error_text, sizeof(error_text), "%s: ",
			 slate_redis_server_name());
	error_prefix = strlen(error_text);

	va_start(args, format);
	vsnprintf(error_text + error_prefix, sizeof(error_text) - error_prefix,
			  format, args);
	va_end(args);
}

const char *
slate_redis_error(void)
{
	return error_text;
}

/* CLOCK_MONOTONIC in us, for the server's clock. */
static int64
monotonic_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/*
 * Read len decimal digits, and nothing else, as a number up to max.
 */
static bool
parse_number(const char *text, size_t len, int64 max, int64 *number)
{
	int64		value = 0;
	size_t		i;

	if (len == 0)
		return false;

	for (i = 0; i < len; i++)
	{
		int			digit = text[i] - '0';

		if (digit < 0 || digit > 9 || value > (max - digit) / 10)
			return false;
		value = value * 10 + digit;
	}

	*number = value;
	return true;
}

/* ----------
 * The url
 * ----------
 */

/* A part of the url's text. */
typedef struct Span
{
	const char *start;
	size_t		len;
} Span;

/* The value of a hexadecimal digit, or -1. */
static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/*
 * Copy a span with its percent escapes decoded.  Returns NULL, or what is
 * wrong with it; too_long is what to say if it does not fit.
 */
static const char *
decode(Span span, char *out, size_t out_size, const char *too_long)
{
	const char *in = span.start;
	const char *end = span.start + span.len;
	size_t		n = 0;

	while (in < end)
	{
		char		c = *in++;

		if (c == '%')
		{
			if (end - in < 2 || hex_value(in[0]) < 0 || hex_value(in[1]) < 0)
				return "A percent sign must be followed by two hexadecimal digits.";
			c = (char) (hex_value(in[0]) * 16 + hex_value(in[1]));
			in += 2;
			if (c == '\0')
				return "An encoded null byte (%00) is not allowed.";
		}
		if (n + 1 >= out_size)
			return too_long;
		out[n++] = c;
	}

	out[n] = '\0';
	return NULL;
}

/* Where c first stands in the span, or NULL. */
static const char *
find_in(Span span, char c)
{
	return (span.len > 0) ? memchr(span.start, c, span.len) : NULL;
}

/* Cut the span before *at; return what follows *at, up to the old end. */
static Span
cut_at(Span *span, const char *at)
{
	Span		rest;

	rest.start = at + 1;
	rest.len = span->len - (rest.start - span->start);
	span->len = at - span->start;
	return rest;
}

static const char *
parse_database(Span span, SlateUrl *url)
{
	int64		number;

	if (!parse_number(span.start, span.len, PG_INT32_MAX, &number))
		return "The database must be a number from 0 to 2147483647.";
	url->database = (int) number;
	return NULL;
}

static const char *
parse_port(Span span, SlateAddress *address)
{
	int64		number;

	if (!parse_number(span.start, span.len, 65535, &number) || number == 0)
		return "The port must be a number from 1 to 65535.";
	address->port = (int) number;
	return NULL;
}

static const char *
parse_credentials(Span user, SlateUrl *url)
{
	const char *colon = find_in(user, ':');
	const char *error = NULL;

	if (colon != NULL)
		error = decode(cut_at(&user, colon),
					   url->password, sizeof(url->password),
					   "The password is longer than 255 bytes.");
	if (error == NULL)
		error = decode(user, url->user, sizeof(url->user),
					   "The user name is longer than 127 bytes.");
	return error;
}

/* "[address]", without what follows the closing bracket. */
static const char *
parse_bracketed(Span span, SlateAddress *address)
{
	struct in6_addr ignored;

	if (span.len >= INET6_ADDRSTRLEN)
		return "What stands in brackets is not an IPv6 address.";
	memcpy(address->host, span.start, span.len);
	address->host[span.len] = '\0';
	if (inet_pton(AF_INET6, address->host, &ignored) != 1)
		return "What stands in brackets is not an IPv6 address.";
	return NULL;
}

/* May a host or a sentinel's master be called that? */
static bool
is_plain_name(Span span)
{
	for (size_t i = 0; i < span.len; i++)
	{
		char		c = span.start[i];

		if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') &&
			!(c >= '0' && c <= '9') && c != '.' && c != '-' && c != '_')
			return false;
	}
	return true;
}

static const char *
parse_host_name(Span span, SlateAddress *address)
{
	if (span.len == 0)
		return "The host is missing.";
	if (span.len >= sizeof(address->host))
		return "The host name is longer than 255 bytes.";
	if (!is_plain_name(span))
		return "The host name may hold only letters, digits, dots, hyphens and underscores.";

	memcpy(address->host, span.start, span.len);
	address->host[span.len] = '\0';
	return NULL;
}

/* host[:port], where host may be [IPv6 address] */
static const char *
parse_host_and_port(Span host, SlateAddress *address)
{
	const char *error;
	const char *colon;
	Span		port;

	if (host.len > 0 && host.start[0] == '[')
	{
		const char *bracket = find_in(host, ']');
		Span		inside = {host.start + 1, 0};

		if (bracket == NULL)
			return "The closing bracket of the IPv6 address is missing.";
		inside.len = bracket - inside.start;
		error = parse_bracketed(inside, address);
		if (error != NULL)
			return error;

		port = cut_at(&host, bracket);
		if (port.len == 0)
			return NULL;
		if (port.start[0] != ':')
			return "Only a colon and a port may follow the bracketed address.";
		port.start++;
		port.len--;
		return parse_port(port, address);
	}

	colon = find_in(host, ':');
	if (colon == NULL)
		return parse_host_name(host, address);

	port = cut_at(&host, colon);
	if (find_in(port, ':') != NULL)
		return "There is more than one colon after the host; an IPv6 address must stand in brackets.";
	error = parse_host_name(host, address);
	return (error != NULL) ? error : parse_port(port, address);
}

/*
 * Take the credentials, if there are any, off what stands before the first
 * slash.
 */
static const char *
split_credentials(Span *host, SlateUrl *url)
{
	Span		credentials = *host;
	const char *at = NULL;
	size_t		i;

	/* the last one: be kind to an @ that is not encoded in a password */
	for (i = 0; i < host->len; i++)
		if (host->start[i] == '@')
			at = host->start + i;
	if (at == NULL)
		return NULL;
	*host = cut_at(&credentials, at);
	return parse_credentials(credentials, url);
}

/* What follows redis:// */
static const char *
parse_redis_url(Span host, SlateUrl *url)
{
	Span		database = {"", 0};
	const char *slash;
	const char *error;

	if (find_in(host, '?') != NULL)
		return "A redis:// url takes no parameters; a question mark in a password is written %3F.";
	if (find_in(host, '#') != NULL)
		return "A url has no fragment here; a number sign in a password is written %23.";

	slash = find_in(host, '/');
	if (slash != NULL)
		database = cut_at(&host, slash);

	error = split_credentials(&host, url);
	url->address.port = DEFAULT_PORT;
	if (error == NULL)
		error = parse_host_and_port(host, &url->address);
	if (error == NULL && database.len > 0)
		error = parse_database(database, url);
	return error;
}

/* host[:port][,host[:port]...] */
static const char *
parse_sentinels(Span hosts, SlateSentinels *sentinels)
{
	const char *comma;
	const char *error;

	do
	{
		Span		rest = {"", 0};
		SlateAddress *address = &sentinels->address[sentinels->count];

		if (sentinels->count == SLATE_MAX_SENTINELS)
			return "There are more than 8 sentinels.";
		comma = find_in(hosts, ',');
		if (comma != NULL)
			rest = cut_at(&hosts, comma);
		address->port = SLATE_SENTINEL_PORT;
		error = parse_host_and_port(hosts, address);
		if (error != NULL)
			return error;
		sentinels->count++;
		hosts = rest;
	} while (comma != NULL);
	return NULL;
}

static const char *
parse_master(Span name, SlateSentinels *sentinels)
{
	if (name.len == 0)
		return "The name of the master is missing, as in sentinel://host1,host2,host3/mymaster.";
	if (name.len >= sizeof(sentinels->master))
		return "The name of the master is longer than 127 bytes.";
	if (!is_plain_name(name))
		return "The name of the master may hold only letters, digits, dots, hyphens and underscores.";
	memcpy(sentinels->master, name.start, name.len);
	sentinels->master[name.len] = '\0';
	return NULL;
}

/* What follows sentinel:// */
static const char *
parse_sentinel_url(Span hosts, SlateUrl *url)
{
	Span		master = {"", 0};
	Span		database = {"", 0};
	const char *slash;
	const char *error;

	if (find_in(hosts, '?') != NULL)
		return "A sentinel:// url takes no parameters; a question mark in a password is written %3F.";
	if (find_in(hosts, '#') != NULL)
		return "A url has no fragment here; a number sign in a password is written %23.";

	slash = find_in(hosts, '/');
	if (slash != NULL)
		master = cut_at(&hosts, slash);
	slash = find_in(master, '/');
	if (slash != NULL)
		database = cut_at(&master, slash);

	error = split_credentials(&hosts, url);
	if (error == NULL)
		error = parse_sentinels(hosts, &url->sentinels);
	if (error == NULL)
		error = parse_master(master, &url->sentinels);
	if (error == NULL && database.len > 0)
		error = parse_database(database, url);
	return error;
}

/* What follows unix:// */
static const char *
parse_unix_url(Span path, SlateUrl *url)
{
	const char *question;
	const char *error;
	Span		query = {"", 0};

	if (find_in(path, '#') != NULL)
		return "A url has no fragment here; a number sign in a path is written %23.";

	question = find_in(path, '?');
	if (question != NULL)
		query = cut_at(&path, question);

	if (path.len == 0 || path.start[0] != '/')
		return "The socket's path must be absolute, as in unix:///run/redis/redis.sock.";
	if (path.len == 1)
		return "The socket's path is missing.";

	url->address.is_unix = true;
	error = decode(path, url->address.host,
				   Min(sizeof(url->address.host), UNIXSOCK_PATH_BUFLEN),
				   "The socket's path is longer than the system allows.");
	if (error != NULL || question == NULL)
		return error;

	if (query.len < 3 || memcmp(query.start, "db=", 3) != 0)
		return "The only parameter of a unix:// url is db, as in ?db=1.";
	query.start += 3;
	query.len -= 3;
	return parse_database(query, url);
}

/* If the text starts with the scheme, leave what follows it in *rest. */
static bool
has_scheme(const char *url, const char *scheme, Span *rest)
{
	size_t		len = strlen(scheme);

	if (pg_strncasecmp(url, scheme, len) != 0)
		return false;
	rest->start = url + len;
	rest->len = strlen(rest->start);
	return true;
}

static const char *
parse_any_url(const char *text, SlateUrl *url)
{
	const unsigned char *c;
	Span		rest;

	if (text[0] == '\0')
		return "The url is empty.";
	for (c = (const unsigned char *) text; *c != '\0'; c++)
		if (*c <= ' ' || *c == 0x7f)
			return "Spaces and control characters must be percent-encoded.";

	if (has_scheme(text, "redis://", &rest))
		return parse_redis_url(rest, url);
	if (has_scheme(text, "unix://", &rest))
		return parse_unix_url(rest, url);
	if (has_scheme(text, "sentinel://", &rest))
		return parse_sentinel_url(rest, url);
	if (has_scheme(text, "rediss://", &rest))
		return "TLS (rediss://) is not supported by this version.";
	if (has_scheme(text, "cluster://", &rest))
		return "Redis Cluster (cluster://) is not supported by this version.";
	return "The url must begin with redis://, unix:// or sentinel://.";
}

bool
slate_redis_parse_url(const char *text, SlateUrl *url, const char **error)
{
	/* all of it: urls are compared with memcmp(), see load_settings() */
	memset(url, 0, sizeof(*url));
	*error = parse_any_url(text, url);
	return *error == NULL;
}

/* ----------
 * The breaker
 * ----------
 */

static void
init_breaker(RedisBreaker *fresh)
{
	pg_atomic_init_u64(&fresh->url, 0);
	pg_atomic_init_u64(&fresh->next_try, 0);
	pg_atomic_init_u32(&fresh->failures, 0);
	pg_atomic_init_u32(&fresh->probers, 0);
	pg_atomic_init_u32(&fresh->is_noted, 0);
	pg_atomic_init_u64(&fresh->noted_at, 0);
	pg_atomic_init_u32(&fresh->sequence, 0);
	fresh->reason[0] = '\0';
}

Size
slate_redis_shmem_size(void)
{
	return add_size(MAXALIGN(BREAKERS * sizeof(RedisBreaker)),
					slate_sentinel_shmem_size());
}

void
slate_redis_shmem_startup(void)
{
	bool		found;

	slate_sentinel_shmem_startup();
	shared_breakers = ShmemInitStruct("slate_cache redis",
									  BREAKERS * sizeof(RedisBreaker), &found);
	for (int i = 0; !found && i < BREAKERS; i++)
		init_breaker(&shared_breakers[i]);
}

/* Two of one url always meet: breakers are taken in order, and never freed. */
static RedisBreaker *
find_shared_breaker(uint64 url)
{
	for (int i = 0; i < BREAKERS - 1; i++)
	{
		RedisBreaker *b = &shared_breakers[i];
		uint64		owner = pg_atomic_read_u64(&b->url);

		if (owner == 0 && pg_atomic_compare_exchange_u64(&b->url, &owner, url))
			return b;
		if (owner == url)
			return b;
	}
	return &shared_breakers[BREAKERS - 1];
}

/* Be counted by the breaker in use, if we are a prober. */
static void
register_prober(void)
{
	if (!is_prober || probed == breaker)
		return;
	if (probed != NULL)
		pg_atomic_fetch_sub_u32(&probed->probers, 1);
	probed = breaker;
	pg_atomic_fetch_add_u32(&probed->probers, 1);
}

/* The url in use is another than before. */
static void
choose_breaker(void)
{
	uint64		url = hash_bytes_extended((const unsigned char *) &server,
										  sizeof(server), 0);

	if (shared_breakers != NULL)
		breaker = find_shared_breaker(Max(url, 1));
	else
	{
		init_breaker(&local_breaker);
		breaker = &local_breaker;
	}
	my_turn = 0;
	register_prober();
}

static void
close_breaker(void)
{
	uint32		failures;

	/* the usual case must not touch a cache line that others read */
	if (pg_atomic_read_u64(&breaker->next_try) == 0)
		return;

	failures = pg_atomic_exchange_u32(&breaker->failures, 0);
	pg_atomic_write_u64(&breaker->next_try, 0);
	if (pg_atomic_exchange_u32(&breaker->is_noted, 0) != 0)
		slate_events_note(EVENT_BREAKER_CLOSED, InvalidOid,
						  "%s: after %u failures in a row",
						  slate_redis_server_name(), failures);
}

/* May this backend try now?  If the rest is over, that takes the turn. */
static bool
take_turn(void)
{
	uint64		next_try = pg_atomic_read_u64(&breaker->next_try);
	uint64		now = slate_link_now();
	uint64		turn_begins = next_try;
	uint64		turn_ends;

	if (next_try == 0)
		return true;
	if (!is_prober && pg_atomic_read_u32(&breaker->probers) > 0)
		turn_begins += slate_redis_connect_timeout + slate_redis_timeout +
			PROBER_GRACE_MS;
	if (now < turn_begins)
		return next_try == my_turn;

	turn_ends = now + slate_redis_connect_timeout + slate_redis_timeout +
		PROBE_GRACE;
	if (!pg_atomic_compare_exchange_u64(&breaker->next_try, &next_try,
										turn_ends))
		return next_try == 0;	/* another was faster, or even done */

	my_turn = turn_ends;
	return true;
}

/*
 * How long to rest after so many failures before this one: with a quarter
 * more or less, so that what rests together does not return together.
 */
static int64
choose_rest(uint32 failures, int64 base, int64 cap)
{
	int64		rest = Min(Min(base, cap) << Min(failures, 16), cap);
	uint64		dice = ((uint64) monotonic_us() + MyProcPid) *
	UINT64CONST(0x9E3779B97F4A7C15);

	/* the upper bits are the well mixed ones */
	return rest - rest / 4 + (int64) ((dice >> 33) % (rest / 2 + 1));
}

/* Share what set_error() was told last, unless another is at it. */
static void
write_reason(void)
{
	uint32		sequence = pg_atomic_read_u32(&breaker->sequence);

	if (sequence % 2 != 0 ||
		!pg_atomic_compare_exchange_u32(&breaker->sequence, &sequence,
										sequence + 1))
		return;
	strlcpy(breaker->reason, error_text + error_prefix, REASON_SIZE);
	pg_write_barrier();
	pg_atomic_write_u32(&breaker->sequence, sequence + 2);
}

/* "" if writers were in the way. */
static void
read_reason(char *reason)
{
	for (int i = 0; i < READ_TRIES; i++)
	{
		uint32		before = pg_atomic_read_u32(&breaker->sequence);

		if (before % 2 != 0)
			continue;
		pg_read_barrier();
		memcpy(reason, breaker->reason, REASON_SIZE);
		pg_read_barrier();
		if (pg_atomic_read_u32(&breaker->sequence) == before)
			return;
	}
	reason[0] = '\0';
}

/*
 * That it is open is an event, unless another opening was one a moment ago: a
 * Redis that answers now and then would fill the list.  If it stays open, the
 * next failure comes here, too.
 */
static void
note_opening(void)
{
	uint64		now = slate_link_now();
	uint64		last = pg_atomic_read_u64(&breaker->noted_at);

	if (pg_atomic_read_u32(&breaker->is_noted) != 0 ||
		(last != 0 && now < last + EVENT_INTERVAL_MS) ||
		!pg_atomic_compare_exchange_u64(&breaker->noted_at, &last, now))
		return;
	pg_atomic_write_u32(&breaker->is_noted, 1);
	slate_events_note(EVENT_BREAKER_OPENED, InvalidOid, "%s", error_text);
}

/*
 * Note a failure, which set_error() was told: open the breaker, unless that is
 * known already.
 */
static void
open_breaker(int64 base, int64 cap)
{
	uint64		next_try = pg_atomic_read_u64(&breaker->next_try);
	uint64		now = slate_link_now();
	int64		rest;

	if (now < next_try && next_try != my_turn)
		return;

	if (pg_atomic_read_u32(&breaker->probers) > 0)
	{
		base = Min(base, REFUSED_REST);
		cap = Min(cap, PROBED_REST_CAP);
	}
	rest = choose_rest(pg_atomic_read_u32(&breaker->failures), base, cap);
	if (pg_atomic_compare_exchange_u64(&breaker->next_try, &next_try,
									   now + rest))
	{
		pg_atomic_fetch_add_u32(&breaker->failures, 1);
		write_reason();
		note_opening();
	}
	my_turn = 0;
}

void
slate_redis_breaker(int *failures, int64 *rests_for)
{
	int64		next_try;

	*failures = 0;
	*rests_for = 0;
	if (breaker == NULL)
		return;
	*failures = (int) pg_atomic_read_u32(&breaker->failures);
	next_try = pg_atomic_read_u64(&breaker->next_try);
	if (next_try != 0)
		*rests_for = Max(next_try - slate_link_now(), 0);
}

/* Something speaks against the server: perhaps it is no longer the master. */
static void
distrust(void)
{
	distrusted_at = slate_link_now();
}

/*
 * Say what the link says, and let the breaker know.  timeout is the one that
 * may have passed.
 */
static SlateRedisStatus
link_failed(SlateLinkStatus status, int timeout)
{
	set_error("%s", connection.error);
	loss_is_told = true;
	distrust();

	switch (status)
	{
		case LINK_TIMEOUT:
			open_breaker((int64) TIMEOUT_REST_FACTOR * timeout,
						 TIMEOUT_REST_CAP);
			return REDIS_TIMEOUT;

		case LINK_NOMEM:
			/* says nothing about the server */
			return REDIS_UNREACHABLE;

		default:
			open_breaker(REFUSED_REST, REFUSED_REST_CAP);
			return REDIS_UNREACHABLE;
	}
}

/* ----------
 * Settings
 * ----------
 */

void
slate_redis_reconfigure(void)
{
	settings_stale = true;
	unloaded_key = 0;
}

/* Parse the url into *url; if it is not valid, *error says why. */
static bool
read_url(SlateUrl *url, const char **error)
{
	if (slate_redis_url == NULL)
	{
		*error = "It is not set.";
		return false;
	}
	return slate_redis_parse_url(slate_redis_url, url, error);
}

/* A hash of what a url asks for. */
static uint64
hash_service(const SlateUrl *url)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) url,
										   offsetof(SlateUrl, user), 0);

	return Max(hash, 1);
}

/* Make another url the one in use. */
static void
take_url(const SlateUrl *fresh)
{
	memcpy(&server, fresh, sizeof(server));
	server_key = hash_service(&server);
	present = server.address;
	master_changes = 0;
	distrusted_at = 0;
	if (server.sentinels.count > 0)
		slate_sentinel_choose(&server.sentinels);
	choose_breaker();
}

/* Make the settings' present values those in use. */
static bool
load_settings(void)
{
	SlateUrl	fresh;
	const char *error;

	if (settings_loaded && !settings_stale)
		return true;

	slate_link_close(&connection);
	if (!read_url(&fresh, &error))
	{
		snprintf(error_text, sizeof(error_text),
				 "slate_cache.url is not valid: %s", error);
		return false;
	}

	if (!settings_loaded || memcmp(&fresh, &server, sizeof(server)) != 0)
		take_url(&fresh);
	settings_loaded = true;
	settings_stale = false;
	return true;
}

/* "host:port", or "" if it is not known. */
static void
write_address(char *text, size_t size, const SlateAddress *address)
{
	if (address->host[0] == '\0')
		text[		0] = '\0';

	else if (address->is_unix)
		snprintf(text, size, "unix:%s", address->host);
	else
		snprintf(text, size, strchr(address->host, ':') ? "[%s]:%d" : "%s:%d",
				 address->host, address->port);
}

const char *
slate_redis_server_name(void)
{
	char		address[sizeof(present.host) + 16];
	SlateUrl	fresh;
	const SlateUrl *url = settings_loaded ? &server : &fresh;
	const char *error;

	if (!settings_loaded && !read_url(&fresh, &error))
		return "(no valid url)";
	write_address(address, sizeof(address),
				  settings_loaded ? &present : &fresh.address);

	if (url->sentinels.count == 0)
		snprintf(name_text, sizeof(name_text), "%s db %d", address,
				 url->database);
	else
		snprintf(name_text, sizeof(name_text), "sentinel master %s%s%s db %d",
				 url->sentinels.master, address[0] != '\0' ? " at " : "",
				 address, url->database);
	return name_text;
}

uint64
slate_redis_server_key(void)
{
	SlateUrl	url;
	const char *error;

	if (settings_loaded && !settings_stale)
		return server_key;
	if (unloaded_key == 0 && read_url(&url, &error))
		unloaded_key = hash_service(&url);
	return unloaded_key;
}

void
slate_redis_set_preamble(const char *bytes, size_t len, int nreplies)
{
	preamble_bytes = bytes;
	preamble_len = len;
	preamble_replies = nreplies;
}

/*
 * Read what a password file holds into buffer.  Returns the number of bytes,
 * or -1 with errno.  Anything but a plain file is refused: opening a pipe,
 * say, could hang.
 */
static ssize_t
read_plain_file(const char *path, char *buffer, size_t size)
{
	int			fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	struct stat st;
	size_t		used = 0;
	ssize_t		got = -1;
	int			save_errno;

	if (fd < 0)
		return -1;

	errno = EINVAL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
	{
		do
		{
			got = read(fd, buffer + used, size - used);
			if (got > 0)
				used += got;
		} while ((got > 0 && used < size) || (got < 0 && errno == EINTR));
	}

	save_errno = errno;
	close(fd);
	errno = save_errno;
	return (got < 0) ? -1 : (ssize_t) used;
}

/*
 * The password to use: the first line of the file, if there is one, or the
 * url's.  On failure the reason is noted.
 */
static bool
get_password(char *password, size_t size)
{
	const char *path = slate_redis_password_file;
	char		line[sizeof(server.password) + 2];	/* CR and LF */
	ssize_t		got;
	size_t		len;

	if (path == NULL || path[0] == '\0')
	{
		strlcpy(password, server.password, size);
		return true;
	}

	memset(line, 0, sizeof(line));
	got = read_plain_file(path, line, sizeof(line) - 1);
	if (got < 0)
	{
		set_error("could not read the password file \"%s\": %s", path,
				  (errno == EINVAL) ? "not a regular file" : strerror(errno));
		return false;
	}

	len = strcspn(line, "\n");
	if (memchr(line, '\0', Min(len + 1, (size_t) got)) != NULL)
		set_error("the first line of the password file \"%s\" holds a null byte",
				  path);
	else
	{
		if (len > 0 && line[len - 1] == '\r')
			len--;
		line[len] = '\0';
		if (len > 0 && len < size)
		{
			strlcpy(password, line, size);
			explicit_bzero(line, sizeof(line));
			return true;
		}
		set_error("the first line of the password file \"%s\" is %s", path,
				  (len == 0) ? "empty" : "longer than 255 bytes");
	}

	explicit_bzero(line, sizeof(line));
	return false;
}

/* ----------
 * The handshake
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

static void
wire_put_auth(Wire *wire, const char *user, const char *password)
{
	wire_put_header(wire, '*', user[0] != '\0' ? 3 : 2);
	wire_put_argument(wire, "AUTH");
	if (user[0] != '\0')
		wire_put_argument(wire, user);
	wire_put_argument(wire, password);
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
init_handshake(Handshake *handshake)
{
	memset(handshake, 0, sizeof(*handshake));
	handshake->auth = handshake->select = handshake->set_name = -1;
}

/* Write the whole handshake, noting which reply will be whose. */
static void
compose_handshake(Wire *wire, Handshake *handshake, const char *password)
{
	int			next = 0;

	init_handshake(handshake);
	if (server.user[0] != '\0' || password[0] != '\0')
	{
		wire_put_auth(wire, server.user, password);
		handshake->auth = next++;
	}
	if (server.database != 0)
	{
		wire_put_select(wire, server.database);
		handshake->select = next++;
	}
	wire_put_set_name(wire);
	handshake->set_name = next++;
	handshake->first_question = next;
	wire_put(wire, questions, sizeof(questions) - 1);
	next += NQUESTIONS;

	if (preamble_len > 0)
		wire_put(wire, preamble_bytes, preamble_len);
	handshake->nreplies = next + preamble_replies;
}

/* The command that a reply of the handshake answers, in words. */
static const char *
handshake_command(const Handshake *handshake, int index)
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
 * Note what the server has against us.  Its words go to a log: only
 * printable ASCII passes.  Of the answer to AUTH only what stands before the
 * first quotation mark: a server that does not know the command repeats its
 * arguments.
 */
static void
note_objection(const Handshake *handshake, int index, const redisReply *reply)
{
	char		words[200];
	size_t		n = 0;

	while (n < reply->len && n < sizeof(words) - 1)
	{
		char		c = reply->str[n];

		if (index == handshake->auth && strchr("'\"`", c) != NULL)
			break;
		words[n++] = (c >= ' ' && c <= '~') ? c : '?';
	}
	words[n] = '\0';

	set_error("the server rejected %s: %s",
			  handshake_command(handshake, index), words);
}

/* Learn the server's clock from the reply to TIME: seconds, microseconds. */
static bool
take_time(const redisReply *reply)
{
	int64		seconds;
	int64		micros;

	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
		reply->element[0]->type != REDIS_REPLY_STRING ||
		reply->element[1]->type != REDIS_REPLY_STRING ||
		!parse_number(reply->element[0]->str, reply->element[0]->len,
					  PG_INT64_MAX / 1000000 - 1, &seconds) ||
		!parse_number(reply->element[1]->str, reply->element[1]->len,
					  999999, &micros))
		return false;

	/*
	 * The answer was true when it was given; we pair it with the later time
	 * at which it is here.  So the estimate is behind by the way back, and by
	 * the microsecond that may lie between two clocks that are cut off.
	 */
	clock_told_at = monotonic_us();
	clock_offset = seconds * 1000000 + micros - clock_told_at - 1;
	return true;
}

/* The value of a field of INFO, or NULL; it ends before CR or LF. */
static const char *
find_field(const redisReply *reply, const char *field, size_t *len)
{
	const char *value;

	/* hiredis ends each string with a null byte */
	value = (reply->type == REDIS_REPLY_STRING) ? strstr(reply->str, field)
		: NULL;
	if (value == NULL)
		return NULL;
	value += strlen(field);
	*len = strcspn(value, "\r\n");
	return value;
}

/* Learn from INFO server which start of a server this is. */
static bool
take_run_id(const redisReply *reply, Handshake *handshake)
{
	size_t		len = 0;
	const char *run_id = find_field(reply, "\nrun_id:", &len);

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
take_promotion(const redisReply *reply, const Handshake *handshake)
{
	size_t		len = 0;
	const char *offset = find_field(reply, "\nsecond_repl_offset:", &len);

	if (reply->type != REDIS_REPLY_STRING)
		return false;
	identity = handshake->run_id;
	if (len > 0 && strncmp(offset, "-1", len) != 0)
		identity = hash_bytes_extended((const unsigned char *) offset,
									   (int) len, identity);
	identity = Max(identity, 1);
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
		set_error("the server is a replica");
	else if (strcmp(role->str, "sentinel") == 0)
		set_error("the server is a sentinel");
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
			return take_time(reply);
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
take_handshake_reply(int index, const redisReply *reply, void *arg)
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
		set_error("the server's reply to %s makes no sense",
				  handshake_command(handshake, index));
	}
}

/* Write the handshake into handshake_wire.  On failure the reason is noted. */
static SlateRedisStatus
prepare_handshake(Handshake *handshake)
{
	char		password[sizeof(server.password)];

	StaticAssertStmt(sizeof(server.user) + sizeof(server.password) + 256 <=
					 HANDSHAKE_ROOM, "room for the handshake");

	if (!wire_reserve(&handshake_wire, HANDSHAKE_ROOM + preamble_len))
	{
		set_error("out of memory");
		return REDIS_UNREACHABLE;
	}
	if (!get_password(password, sizeof(password)))
	{
		open_breaker(REFUSED_REST, REFUSED_REST_CAP);
		return REDIS_REJECTED;
	}

	compose_handshake(&handshake_wire, handshake, password);
	explicit_bzero(password, sizeof(password));
	return REDIS_DONE;
}

/* Send what was composed, and see what the server makes of it. */
static SlateRedisStatus
run_handshake(Handshake *handshake, const char *bytes, size_t len,
			  int64 deadline, SlateWait wait)
{
	SlateLinkStatus status;

	status = slate_link_exchange(&connection, bytes, len, handshake->nreplies,
								 NULL, take_handshake_reply, handshake,
								 deadline, wait);

	/* first of all: a server that rejects us may hang up right afterwards */
	if (handshake->rejected ||
		(handshake->name_refused && status == LINK_BROKEN))
	{
		slate_link_close(&connection);
		distrust();
		open_breaker(REFUSED_REST, REFUSED_REST_CAP);
		return REDIS_REJECTED;
	}
	if (status != LINK_OK)
		return link_failed(status, slate_redis_connect_timeout);
	return REDIS_DONE;
}

/* Introduce ourselves on a connection that was just made. */
static SlateRedisStatus
shake_hands(int64 deadline, SlateWait wait)
{
	Handshake	handshake;
	SlateRedisStatus status = prepare_handshake(&handshake);

	if (status == REDIS_DONE)
	{
		status = run_handshake(&handshake, handshake_wire.bytes,
							   handshake_wire.len, deadline, wait);
		explicit_bzero(handshake_wire.bytes, handshake_wire.len);
	}
	if (status != REDIS_DONE)
		slate_link_close(&connection);
	connection_number++;
	loss_is_told = (status != REDIS_DONE);
	return status;
}

/* Ask the questions again, if what we know has become old. */
static SlateRedisStatus
refresh_answers(int64 deadline, SlateWait wait)
{
	Handshake	handshake;

	if (monotonic_us() - clock_told_at < ANSWERS_MAX_AGE)
		return REDIS_DONE;

	init_handshake(&handshake);
	handshake.nreplies = NQUESTIONS;
	return run_handshake(&handshake, questions, sizeof(questions) - 1,
						 deadline, wait);
}

/*
 * Connect and shake hands.  Where no worker has looked the name up, we must,
 * and that knows no deadline; if it took longer than it should have, it counts
 * as a timeout, whatever came of it.
 */
static SlateRedisStatus
connect_to_server(int64 deadline, SlateWait wait)
{
	SlateAddressList known;
	bool		is_known = slate_names_get(&present, &known);
	SlateLinkStatus status;

	status = slate_link_open(&connection, &present, is_known ? &known : NULL,
							 deadline, wait);
	if (status == LINK_UNREACHABLE && slate_link_now() >= deadline)
		status = LINK_TIMEOUT;
	if (status != LINK_OK)
		return link_failed(status, slate_redis_connect_timeout);
	return shake_hands(deadline, wait);
}

/* ----------
 * The master
 * ----------
 */

/* On failure the reason is noted, but no failure of the server. */
static SlateLinkStatus
ask_sentinels(bool another, int64 deadline, SlateWait wait)
{
	static char password[sizeof(server.password)];	/* a throw leaks nothing */
	SlateLinkStatus status;

	if (!get_password(password, sizeof(password)))
		return LINK_UNREACHABLE;
	status = slate_sentinel_ask(server.user, password, another, deadline,
								wait);
	explicit_bzero(password, sizeof(password));
	if (status != LINK_OK)
		set_error("no sentinel could be asked: %s", slate_sentinel_error());
	return status;
}

/* It is the sentinels that did not answer. */
static SlateRedisStatus
master_is_unknown(SlateLinkStatus status)
{
	if (status == LINK_TIMEOUT)
	{
		open_breaker((int64) TIMEOUT_REST_FACTOR * slate_redis_connect_timeout,
					 TIMEOUT_REST_CAP);
		return REDIS_TIMEOUT;
	}
	if (status == LINK_OK)
		set_error("what the sentinels have said could not be read");
	open_breaker(REFUSED_REST, REFUSED_REST_CAP);
	return REDIS_UNREACHABLE;
}

/*
 * Make present the master's address, and drop a connection to another.  What
 * is known will do where the sentinels do not answer: they may be down, and
 * the master not.
 */
static SlateRedisStatus
find_master(int64 deadline, SlateWait wait)
{
	SlateLinkStatus status = LINK_OK;
	int64		now = slate_link_now();
	SlateMaster master;

	if (slate_sentinel_should_ask(distrusted_at, MASTER_MAX_AGE))
		status = ask_sentinels(distrusted_at != 0, now + (deadline - now) / 2,
							   wait);
	distrusted_at = 0;

	if (!slate_sentinel_known(&master))
		return master_changes != 0 ? REDIS_DONE : master_is_unknown(status);

	if (master.changes != master_changes)
	{
		slate_link_close(&connection);
		present = master.address;
		master_changes = master.changes;
	}
	return REDIS_DONE;
}

/* Has anybody heard of another master than the one we are connected to? */
static bool
master_has_changed(void)
{
	return server.sentinels.count > 0 &&
		slate_sentinel_changes() != master_changes;
}

void
slate_redis_refresh(void)
{
	static uint64 seen = 0;

	if (!load_settings() || server.sentinels.count == 0)
		return;
	if (slate_sentinel_should_ask(0, MASTER_REFRESH))
		(void) ask_sentinels(true, slate_link_now() +
							 Min(slate_redis_connect_timeout, REFRESH_TIMEOUT),
							 LINK_WAIT_INTERRUPTIBLE);

	/* what was learnt of one server says nothing about another */
	if (slate_sentinel_changes() != seen)
		close_breaker();
	seen = slate_sentinel_changes();
}

/* ----------
 * What callers do
 * ----------
 */

/* shmem_exit callback: nobody need wait for us any more. */
static void
retire_prober(int code, Datum arg)
{
	is_prober = false;
	if (probed != NULL)
		pg_atomic_fetch_sub_u32(&probed->probers, 1);
	probed = NULL;
}

void
slate_redis_become_prober(void)
{
	if (is_prober)
		return;
	on_shmem_exit(retire_prober, (Datum) 0);
	is_prober = true;
	if (load_settings())
		register_prober();
}

int64
slate_redis_next_try(void)
{
	uint64		next_try;

	if (!load_settings())
		return 0;
	next_try = pg_atomic_read_u64(&breaker->next_try);
	if (next_try == 0 || next_try == my_turn)
		return 0;
	return Max((int64) next_try - slate_link_now(), 0);
}

/* Say that we did not try, and what has happened to who did. */
static SlateRedisStatus
resting(void)
{
	char		reason[REASON_SIZE];
	int			failures;
	int64		rests_for;

	read_reason(reason);
	slate_redis_breaker(&failures, &rests_for);
	if (rests_for > 0)
		set_error("not asked for another %d ms, after %d failures in a row; the last: %s",
				  (int) rests_for, failures, reason);
	else
		set_error("not asked until the worker has tried, after %d failures in a row; the last: %s",
				  failures, reason);
	return REDIS_RESTING;
}

static bool
look_up(const SlateAddress *address)
{
	if (!slate_names_is_name(address))
		return false;
	slate_names_refresh(address);
	return true;
}

bool
slate_redis_look_up(void)
{
	bool		has_names = false;
	SlateMaster master;

	if (!load_settings())
		return false;
	if (server.sentinels.count == 0)
		return look_up(&server.address);
	for (int i = 0; i < server.sentinels.count; i++)
		has_names |= look_up(&server.sentinels.address[i]);
	if (slate_sentinel_known(&master))
		has_names |= look_up(&master.address);
	return has_names;
}

/* ----------
 * The idle connection
 *
 * Hundreds of sessions that are connected and do nothing should not cost Redis
 * a client each.  PostgreSQL calls nobody in an idle session; but a timer goes
 * off there.  Its handler may run at any point of the program, so all that it
 * does is to shut the socket down, and only if nobody has prepared to use it
 * for so long that nobody can be about to.  Whoever comes next finds it so, and
 * connects anew.
 *
 * The timer repeats itself; an ERROR ends it, as it ends all.
 * ----------
 */

/* In a signal handler. */
static void
shut_down_if_idle(void)
{
	if (slate_redis_idle_timeout == 0 || shut_down_idle ||
		!slate_link_is_open(&connection) ||
		slate_link_now() - used_at < (int64) slate_redis_idle_timeout * 1000)
		return;
	(void) shutdown(connection.fd, SHUT_RDWR);
	shut_down_idle = true;
}

void
slate_redis_watch_idle(void)
{
	static TimeoutId timer = MAX_TIMEOUTS;
	int			period = Max(slate_redis_idle_timeout * 1000 / 4, 250);

	/* workers work, or end */
	if (MyBackendType != B_BACKEND || proc_exit_inprogress ||
		slate_redis_idle_timeout == 0 ||
		!slate_link_is_open(&connection))
		return;
	if (timer == MAX_TIMEOUTS)
		timer = RegisterTimeout(USER_TIMEOUT, shut_down_if_idle);
	if (!get_timeout_active(timer))
		enable_timeout_every(timer,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 period),
							 period);
}

/* Is it there, and nothing wrong with it in sight? */
static void
look_at_connection(int64 now)
{
	bool		is_recent = now - used_at < RECENT_USE_MS;

	used_at = now;
	if (shut_down_idle)
		slate_link_close(&connection);
	shut_down_idle = false;

	/* who closes an idle connection may not be the master for much longer */
	if (!is_recent && slate_link_is_open(&connection) &&
		!slate_link_usable(&connection))
		distrust();
}

SlateRedisStatus
slate_redis_prepare(int64 deadline, SlateWait wait)
{
	int64		now = slate_link_now();
	SlateRedisStatus status;

	if (!load_settings())
		return REDIS_REJECTED;

	if (now >= deadline)
	{
		set_error("there was no time left to ask");
		return REDIS_TIMEOUT;
	}
	deadline = Min(deadline, now + slate_redis_connect_timeout);

	if (!take_turn())
		return resting();

	look_at_connection(now);
	if (server.sentinels.count > 0)
	{
		status = find_master(deadline, wait);
		if (status != REDIS_DONE)
			return status;
	}
	if (slate_link_is_open(&connection))
		status = refresh_answers(deadline, wait);
	else
		status = connect_to_server(deadline, wait);
	slate_redis_watch_idle();
	return status;
}

/* What slate_redis_run() puts between the replies and the caller. */
typedef struct Watch
{
	SlateReplyFn reply_fn;
	void	   *arg;
	bool		read_only;		/* a reply was READONLY */
} Watch;

static bool
is_read_only(const redisReply *reply)
{
	if (reply->type == REDIS_REPLY_ERROR)
		return strncmp(reply->str, "READONLY", 8) == 0;
	if (reply->type == REDIS_REPLY_ARRAY)
		for (size_t i = 0; i < reply->elements; i++)
			if (is_read_only(reply->element[i]))
				return true;
	return false;
}

/* SlateReplyFn */
static void
watch_reply(int index, const redisReply *reply, void *arg)
{
	Watch	   *watch = arg;

	if (is_read_only(reply))
		watch->read_only = true;
	if (watch->reply_fn != NULL)
		watch->reply_fn(index, reply, watch->arg);
}

/*
 * The last look at the master is what makes REDIS_DONE worth something: who
 * empties a new master before trusting it has told of the change before, so
 * that what came too late for that does not count as delivered.
 */
SlateRedisStatus
slate_redis_run(const char *bytes, size_t len, int nreplies,
				SlateExpected *expected, SlateReplyFn reply_fn, void *arg,
				int64 deadline, SlateWait wait)
{
	Watch		watch = {reply_fn, arg, false};
	SlateLinkStatus status;

	if (!slate_link_is_open(&connection))
	{
		if (!loss_is_told)
			set_error("there is no connection");
		return REDIS_UNREACHABLE;
	}
	if (slate_link_now() >= deadline)
	{
		set_error("there was no time left to ask");
		return REDIS_TIMEOUT;
	}

	status = slate_link_exchange(&connection, bytes, len, nreplies,
								 expected, watch_reply, &watch, deadline,
								 wait);
	if (status != LINK_OK)
		return link_failed(status, slate_redis_timeout);

	if (master_has_changed())
	{
		slate_link_close(&connection);
		set_error("another server has become the master");
		loss_is_told = true;
		return REDIS_UNREACHABLE;
	}
	if (watch.read_only)
	{
		slate_link_close(&connection);
		set_error("the server is read-only");
		loss_is_told = true;
		distrust();
		return REDIS_DONE;
	}
	close_breaker();
	return REDIS_DONE;
}

uint64
slate_redis_connection(void)
{
	return slate_link_is_open(&connection) ? connection_number : 0;
}

uint64
slate_redis_identity(void)
{
	return slate_link_is_open(&connection) ? identity : 0;
}

int64
slate_redis_server_clock(void)
{
	int64		now;

	if (!slate_link_is_open(&connection))
		return 0;

	/* clocks drift apart; see redis.h for the allowance */
	now = monotonic_us();
	return (now + clock_offset - (now - clock_told_at) / 1000) / 1000;
}
