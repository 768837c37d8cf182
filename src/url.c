/*-------------------------------------------------------------------------
 *
 * url.c
 *	  What slate_cache.url says.
 *
 * Texts come from whoever may set it, so nothing is taken for granted.  What is
 * wrong is told in words that never repeat the url, which may hold a password.
 * Nothing here throws, or allocates.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>

#include "libpq/pqcomm.h"
#include "url.h"

#define DEFAULT_PORT 6379

bool
slate_url_parse_number(const char *text, size_t len, int64 max, int64 *number)
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

	if (!slate_url_parse_number(span.start, span.len, PG_INT32_MAX, &number))
		return "The database must be a number from 0 to 2147483647.";
	url->database = (int) number;
	return NULL;
}

static const char *
parse_port(Span span, SlateAddress *address)
{
	int64		number;

	if (!slate_url_parse_number(span.start, span.len, 65535, &number) || number == 0)
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

/* What follows redis:// or rediss:// */
static const char *
parse_redis_url(Span host, SlateUrl *url)
{
	Span		database = {"", 0};
	const char *slash;
	const char *error;

	if (find_in(host, '?') != NULL)
		return "A redis:// or rediss:// url takes no parameters; a question mark in a password is written %3F.";
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

/*
 * host[:port][,host[:port]...]; too_many is what to say if there are more than
 * max of them.
 */
static const char *
parse_hosts(Span hosts, SlateAddress *addresses, int max, int default_port,
			const char *too_many, int *count)
{
	const char *comma;
	const char *error;

	do
	{
		Span		rest = {"", 0};

		if (*count == max)
			return too_many;
		comma = find_in(hosts, ',');
		if (comma != NULL)
			rest = cut_at(&hosts, comma);
		addresses[*count].port = default_port;
		error = parse_host_and_port(hosts, &addresses[*count]);
		if (error != NULL)
			return error;
		(*count)++;
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
		error = parse_hosts(hosts, url->sentinels.address,
							SLATE_MAX_SENTINELS, SLATE_SENTINEL_PORT,
							"There are more than 8 sentinels.",
							&url->sentinels.count);
	if (error == NULL)
		error = parse_master(master, &url->sentinels);
	if (error == NULL && database.len > 0)
		error = parse_database(database, url);
	return error;
}

/* What follows cluster:// */
static const char *
parse_cluster_url(Span hosts, SlateUrl *url)
{
	Span		database = {"", 0};
	const char *slash;
	const char *error;

	if (find_in(hosts, '?') != NULL)
		return "A cluster:// url takes no parameters; a question mark in a password is written %3F.";
	if (find_in(hosts, '#') != NULL)
		return "A url has no fragment here; a number sign in a password is written %23.";

	slash = find_in(hosts, '/');
	if (slash != NULL)
		database = cut_at(&hosts, slash);

	error = split_credentials(&hosts, url);
	if (error == NULL)
		error = parse_hosts(hosts, url->cluster.address,
							SLATE_MAX_SEEDS, DEFAULT_PORT,
							"There are more than 8 nodes.",
							&url->cluster.count);
	if (error == NULL && database.len > 0 &&
		(parse_database(database, url) != NULL || url->database != 0))
		error = "A Redis Cluster has database 0 alone.";
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
	if (has_scheme(text, "cluster://", &rest))
		return parse_cluster_url(rest, url);
	if (has_scheme(text, "rediss://", &rest))
	{
		url->address.is_tls = true;
		return parse_redis_url(rest, url);
	}
	return "The url must begin with redis://, rediss://, unix://, sentinel:// or cluster://.";
}

bool
slate_url_parse(const char *text, SlateUrl *url, const char **error)
{
	/* all of it: urls are compared with memcmp(), see service.c */
	memset(url, 0, sizeof(*url));
	*error = parse_any_url(text, url);
	return *error == NULL;
}
