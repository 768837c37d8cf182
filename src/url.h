/*-------------------------------------------------------------------------
 *
 * url.h
 *	  What slate_cache.url says.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_URL_H
#define SLATE_URL_H

#include "cluster.h"
#include "link.h"
#include "sentinel.h"

/* A parsed slate_cache.url: first what is asked for, then by whom. */
typedef struct SlateUrl
{
	SlateAddress address;		/* of the server, if it is the only one named */
	SlateSentinels sentinels;
	SlateSeeds	cluster;
	int			database;
	char		user[128];		/* "" for none */
	char		password[256];	/* "" for none; password_file overrides it */
} SlateUrl;

/*
 * Parse one of
 *
 *		redis://[user[:password]@]host[:port][/db]
 *		rediss://, likewise, for TLS
 *		unix:///path[?db=n]
 *		sentinel://[user[:password]@]host[:port][,host[:port]...]/master[/db]
 *		cluster://[user[:password]@]host[:port][,host[:port]...][/0]
 *
 * Percent escapes are decoded in user, password and path; an IPv6 address stands
 * in brackets.  redis://:password@host gives a password without a user.  On
 * failure return false and set *error to a constant message, worded as an
 * errdetail sentence, which never repeats the url (it may hold a password); *url
 * is then undefined.
 */
extern bool slate_url_parse(const char *text, SlateUrl *url,
							const char **error);

/* Read len decimal digits, and nothing else, as a number up to max. */
extern bool slate_url_parse_number(const char *text, size_t len, int64 max,
								   int64 *number);

#endif							/* SLATE_URL_H */
