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
 * One outage meets many backends at once.  Only the first of them to report it
 * is counted; to the others the breaker, open by then, says that it is known.
 *
 * How long a rest is depends on what trying costs: a server that refused at
 * once is asked again soon, one that let a deadline pass is not.
 *
 * The two atomics are not changed together.  That is fine: next_try alone
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

#include "libpq/pqcomm.h"
#include "miscadmin.h"
#include "names.h"
#include "port/atomics.h"
#include "redis.h"
#include "storage/shmem.h"

#define DEFAULT_PORT 6379

/* Rests: the first, in ms; each failure doubles it; up to the cap. */
#define REFUSED_REST 50
#define REFUSED_REST_CAP 1000
#define TIMEOUT_REST_FACTOR 4	/* times the timeout that passed */
#define TIMEOUT_REST_CAP 10000

/* How long a probe may take beyond both timeouts, in ms. */
#define PROBE_GRACE 100

/* When to ask for the server's clock again, in us. */
#define CLOCK_MAX_AGE (INT64CONST(600) * 1000000)

/* The handshake but for the preamble fits into this; AUTH is the longest. */
#define HANDSHAKE_ROOM 1024

static const char time_command[] = "*1\r\n$4\r\nTIME\r\n";

/* See "The breaker" above. */
typedef struct RedisBreaker
{
	pg_atomic_uint64 next_try;	/* ms of CLOCK_MONOTONIC; 0: closed */
	pg_atomic_uint32 failures;	/* in a row */
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
	int			time;			/* the last */
	bool		rejected;		/* the reason is in error_text */
	bool		name_refused;	/* likewise, and no matter unless the server
								 * hangs up: then it was about more */
} Handshake;

/* Settings; see redis.h. */
char	   *slate_redis_url = NULL;
char	   *slate_redis_password_file = NULL;
int			slate_redis_timeout = 250;
int			slate_redis_connect_timeout = 500;

/*
 * What became of slate_redis_url; valid while settings_loaded.  settings_stale
 * is set when it must be read again.
 */
static SlateUrl server;
static bool settings_loaded = false;
static bool settings_stale = false;

/* The connection, if any; see link.h. */
static SlateLink connection;

/*
 * The server's clock minus our CLOCK_MONOTONIC, in us, and when we were told,
 * by the latter.  Valid while the connection is open.
 */
static int64 clock_offset;
static int64 clock_told_at;

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

/* In shared memory if we were preloaded, else in local_breaker. */
static RedisBreaker *breaker = NULL;
static RedisBreaker local_breaker;

/* The value next_try had when it became this backend's turn to probe. */
static uint64 my_turn = 0;

/* What slate_redis_error() and slate_redis_server_name() return. */
static char error_text[1024];
static char name_text[320];

static void set_error(const char *format,...) pg_attribute_printf(1, 2);

/* Note the reason of a failure, under the server's name. */
static void
set_error(const char *format,...)
{
	va_list		args;
	size_t		used;

	snprintf(error_text, sizeof(error_text), "%s: ",
			 slate_redis_server_name());
	used = strlen(error_text);

	va_start(args, format);
	vsnprintf(error_text + used, sizeof(error_text) - used, format, args);
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
parse_port(Span span, SlateUrl *url)
{
	int64		number;

	if (!parse_number(span.start, span.len, 65535, &number) || number == 0)
		return "The port must be a number from 1 to 65535.";
	url->address.port = (int) number;
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
parse_bracketed(Span span, SlateUrl *url)
{
	struct in6_addr ignored;

	if (span.len >= INET6_ADDRSTRLEN)
		return "What stands in brackets is not an IPv6 address.";
	memcpy(url->address.host, span.start, span.len);
	url->address.host[span.len] = '\0';
	if (inet_pton(AF_INET6, url->address.host, &ignored) != 1)
		return "What stands in brackets is not an IPv6 address.";
	return NULL;
}

static const char *
parse_host_name(Span span, SlateUrl *url)
{
	size_t		i;

	if (span.len == 0)
		return "The host is missing.";
	if (span.len >= sizeof(url->address.host))
		return "The host name is longer than 255 bytes.";

	for (i = 0; i < span.len; i++)
	{
		char		c = span.start[i];

		if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') &&
			!(c >= '0' && c <= '9') && c != '.' && c != '-' && c != '_')
			return "The host name may hold only letters, digits, dots, hyphens and underscores.";
		url->address.host[i] = c;
	}
	url->address.host[span.len] = '\0';
	return NULL;
}

/* host[:port], where host may be [IPv6 address] */
static const char *
parse_host_and_port(Span host, SlateUrl *url)
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
		error = parse_bracketed(inside, url);
		if (error != NULL)
			return error;

		port = cut_at(&host, bracket);
		if (port.len == 0)
			return NULL;
		if (port.start[0] != ':')
			return "Only a colon and a port may follow the bracketed address.";
		port.start++;
		port.len--;
		return parse_port(port, url);
	}

	colon = find_in(host, ':');
	if (colon == NULL)
		return parse_host_name(host, url);

	port = cut_at(&host, colon);
	if (find_in(port, ':') != NULL)
		return "There is more than one colon after the host; an IPv6 address must stand in brackets.";
	error = parse_host_name(host, url);
	return (error != NULL) ? error : parse_port(port, url);
}

/* What follows redis:// */
static const char *
parse_redis_url(Span host, SlateUrl *url)
{
	Span		database = {"", 0};
	const char *slash;
	const char *at = NULL;
	const char *error = NULL;
	size_t		i;

	if (find_in(host, '?') != NULL)
		return "A redis:// url takes no parameters; a question mark in a password is written %3F.";
	if (find_in(host, '#') != NULL)
		return "A url has no fragment here; a number sign in a password is written %23.";

	slash = find_in(host, '/');
	if (slash != NULL)
		database = cut_at(&host, slash);

	/* the last one: be kind to an @ that is not encoded in a password */
	for (i = 0; i < host.len; i++)
		if (host.start[i] == '@')
			at = host.start + i;
	if (at != NULL)
	{
		Span		credentials = host;

		host = cut_at(&credentials, at);
		error = parse_credentials(credentials, url);
	}

	url->address.port = DEFAULT_PORT;
	if (error == NULL)
		error = parse_host_and_port(host, url);
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
has_scheme(const char *text, const char *scheme, Span *rest)
{
	size_t		len = strlen(scheme);

	if (pg_strncasecmp(text, scheme, len) != 0)
		return false;
	rest->start = text + len;
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
	if (has_scheme(text, "rediss://", &rest))
		return "TLS (rediss://) is not supported by this version.";
	if (has_scheme(text, "sentinel://", &rest))
		return "Sentinel (sentinel://) is not supported by this version.";
	if (has_scheme(text, "cluster://", &rest))
		return "Redis Cluster (cluster://) is not supported by this version.";
	return "The url must begin with redis:// or unix://.";
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
	pg_atomic_init_u64(&fresh->next_try, 0);
	pg_atomic_init_u32(&fresh->failures, 0);
}

Size
slate_redis_shmem_size(void)
{
	return MAXALIGN(sizeof(RedisBreaker));
}

void
slate_redis_shmem_startup(void)
{
	bool		found;

	breaker = ShmemInitStruct("slate_cache redis", slate_redis_shmem_size(),
							  &found);
	if (!found)
		init_breaker(breaker);
}

static RedisBreaker *
get_breaker(void)
{
	if (breaker == NULL)
	{
		init_breaker(&local_breaker);
		breaker = &local_breaker;
	}
	return breaker;
}

static void
close_breaker(void)
{
	RedisBreaker *b = get_breaker();

	/* the usual case must not touch a cache line that others read */
	if (pg_atomic_read_u64(&b->next_try) == 0)
		return;

	pg_atomic_write_u32(&b->failures, 0);
	pg_atomic_write_u64(&b->next_try, 0);
}

/* May this backend try now?  If the rest is over, that takes the turn. */
static bool
take_turn(void)
{
	RedisBreaker *b = get_breaker();
	uint64		next_try = pg_atomic_read_u64(&b->next_try);
	uint64		now = slate_link_now();
	uint64		turn_ends;

	if (next_try == 0)
		return true;
	if (now < next_try)
		return next_try == my_turn;

	turn_ends = now + slate_redis_connect_timeout + slate_redis_timeout +
		PROBE_GRACE;
	if (!pg_atomic_compare_exchange_u64(&b->next_try, &next_try, turn_ends))
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

/* Note a failure: open the breaker, unless that is known already. */
static void
open_breaker(int64 base, int64 cap)
{
	RedisBreaker *b = get_breaker();
	uint64		next_try = pg_atomic_read_u64(&b->next_try);
	uint64		now = slate_link_now();
	int64		rest;

	if (now < next_try && next_try != my_turn)
		return;

	rest = choose_rest(pg_atomic_read_u32(&b->failures), base, cap);
	if (pg_atomic_compare_exchange_u64(&b->next_try, &next_try, now + rest))
		pg_atomic_fetch_add_u32(&b->failures, 1);
	my_turn = 0;
}

void
slate_redis_breaker(int *failures, int64 *rests_for)
{
	RedisBreaker *b = get_breaker();
	int64		next_try = pg_atomic_read_u64(&b->next_try);

	*failures = (int) pg_atomic_read_u32(&b->failures);
	*rests_for = (next_try == 0) ? 0 : Max(next_try - slate_link_now(), 0);
}

/*
 * Say what the link says, and let the breaker know.  timeout is the one that
 * may have passed.
 */
static SlateRedisStatus
link_failed(SlateLinkStatus status, int timeout)
{
	set_error("%s", connection.error);

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

/*
 * Make the settings' present values those in use.  What was learnt of one
 * server says nothing about another: so the breaker closes, but not for a
 * backend that merely read its settings for the first time.
 */
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

	if (settings_loaded && memcmp(&fresh, &server, sizeof(server)) != 0)
		close_breaker();

	memcpy(&server, &fresh, sizeof(server));
	settings_loaded = true;
	settings_stale = false;
	return true;
}

const char *
slate_redis_server_name(void)
{
	SlateUrl	url;
	const char *error;

	if (settings_loaded)
		memcpy(&url, &server, sizeof(url));
	else if (!read_url(&url, &error))
		return "(no valid url)";

	if (url.address.is_unix)
		snprintf(name_text, sizeof(name_text), "unix:%s db %d",
				 url.address.host, url.database);
	else
		snprintf(name_text, sizeof(name_text),
				 strchr(url.address.host, ':') ? "[%s]:%d db %d" : "%s:%d db %d",
				 url.address.host, url.address.port, url.database);
	return name_text;
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
 * or -1 with errno.  Anything but a plain file is refused: opening a pipe, say,
 * could hang.
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

/* Write the whole handshake, noting which reply will be whose. */
static void
compose_handshake(Wire *wire, Handshake *handshake, const char *password)
{
	int			next = 0;

	memset(handshake, 0, sizeof(*handshake));
	handshake->auth = handshake->select = -1;

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

	if (preamble_len > 0)
		wire_put(wire, preamble_bytes, preamble_len);
	next += preamble_replies;

	wire_put(wire, time_command, sizeof(time_command) - 1);
	handshake->time = next;
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
	if (index == handshake->time)
		return "TIME";
	return "a script";
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
	else if (index == handshake->time)
		as_expected = take_time(reply);
	else
		as_expected = true;

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

/* Introduce ourselves on a connection that was just made. */
static SlateRedisStatus
shake_hands(int64 deadline, SlateWait wait)
{
	Handshake	handshake;
	SlateLinkStatus link_status;
	SlateRedisStatus status = prepare_handshake(&handshake);

	if (status != REDIS_DONE)
		return status;

	link_status = slate_link_exchange(&connection, handshake_wire.bytes,
									  handshake_wire.len, handshake.time + 1,
									  take_handshake_reply, &handshake,
									  deadline, wait);
	explicit_bzero(handshake_wire.bytes, handshake_wire.len);

	/* first of all: a server that rejects us may hang up right afterwards */
	if (handshake.rejected ||
		(handshake.name_refused && link_status == LINK_BROKEN))
	{
		open_breaker(REFUSED_REST, REFUSED_REST_CAP);
		return REDIS_REJECTED;
	}
	if (link_status != LINK_OK)
		return link_failed(link_status, slate_redis_connect_timeout);
	return REDIS_DONE;
}

/*
 * Connect and shake hands.  Where the worker has not looked the name up, we
 * must, and that knows no deadline; if it took longer than it should have, it
 * counts as a timeout, whatever came of it.
 */
static SlateRedisStatus
connect_to_server(int64 deadline, SlateWait wait)
{
	SlateAddressList known;
	bool		is_known = slate_names_get(&server.address, &known);
	SlateRedisStatus status;
	SlateLinkStatus link_status;

	link_status = slate_link_open(&connection, &server.address,
								  is_known ? &known : NULL, deadline, wait);
	if (link_status != LINK_OK)
	{
		if (link_status == LINK_UNREACHABLE && slate_link_now() >= deadline)
			link_status = LINK_TIMEOUT;
		return link_failed(link_status, slate_redis_connect_timeout);
	}

	status = shake_hands(deadline, wait);
	if (status != REDIS_DONE)
		slate_link_close(&connection);
	return status;
}

/* ----------
 * What callers do
 * ----------
 */

/* SlateReplyFn: the clock asked for by itself. */
static void
take_time_reply(int index, const redisReply *reply, void *arg)
{
	bool	   *told = arg;

	if (index == 0)
		*told = take_time(reply);
}

/* Ask for the server's clock again, if what we know has become old. */
static SlateRedisStatus
refresh_clock(int64 deadline, SlateWait wait)
{
	bool		told = false;
	SlateRedisStatus status;

	if (monotonic_us() - clock_told_at < CLOCK_MAX_AGE)
		return REDIS_DONE;

	status = slate_redis_run(time_command, sizeof(time_command) - 1, 1,
							 take_time_reply, &told, deadline, wait);
	if (status != REDIS_DONE || told)
		return status;

	set_error("the server's reply to TIME makes no sense");
	slate_link_close(&connection);
	return REDIS_REJECTED;
}

bool
slate_redis_look_up(void)
{
	if (!load_settings() || !slate_names_is_name(&server.address))
		return false;
	slate_names_refresh(&server.address);
	return true;
}

SlateRedisStatus
slate_redis_prepare(int64 deadline, SlateWait wait)
{
	int64		now = slate_link_now();

	if (!load_settings())
		return REDIS_REJECTED;

	if (now >= deadline)
	{
		set_error("there was no time left to ask");
		return REDIS_TIMEOUT;
	}
	deadline = Min(deadline, now + slate_redis_connect_timeout);

	if (!take_turn())
	{
		int			failures;
		int64		rests_for;

		slate_redis_breaker(&failures, &rests_for);
		set_error("not asked for another %d ms, after %d failures in a row",
				  (int) rests_for, failures);
		return REDIS_RESTING;
	}

	if (slate_link_usable(&connection))
		return refresh_clock(deadline, wait);
	return connect_to_server(deadline, wait);
}

SlateRedisStatus
slate_redis_run(const char *bytes, size_t len, int nreplies,
				SlateReplyFn reply_fn, void *arg,
				int64 deadline, SlateWait wait)
{
	SlateLinkStatus status;

	if (!slate_link_is_open(&connection))
	{
		set_error("there is no connection");
		return REDIS_UNREACHABLE;
	}
	if (slate_link_now() >= deadline)
	{
		set_error("there was no time left to ask");
		return REDIS_TIMEOUT;
	}

	status = slate_link_exchange(&connection, bytes, len, nreplies, reply_fn, arg,
								 deadline, wait);
	if (status != LINK_OK)
		return link_failed(status, slate_redis_timeout);

	close_breaker();
	return REDIS_DONE;
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
