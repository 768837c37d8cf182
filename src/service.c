/*-------------------------------------------------------------------------
 *
 * service.c
 *	  Which Redis is asked for: slate_cache.url and slate_cache.password_file.
 *
 * The url is parsed when somebody asks for the first time after it was set, and
 * what comes of that is kept: sessions that never connect ask at each commit.
 * What was taken up (by redis.c, when it connects) stays as it is until
 * the next time, whatever is set meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "service.h"

/* Settings; see service.h. */
char	   *slate_service_url = NULL;
char	   *slate_service_password_file = NULL;
bool		slate_service_is_servers = false;

/* What is set. */
static struct
{
	bool		is_read;
	SlateUrl	url;
	uint64		key;
}			wanted;

/* What was taken up. */
static SlateUrl service;
static bool is_taken_up = false;
static bool is_new = true;		/* something has changed since */

void
slate_service_reconfigure(void)
{
	wanted.is_read = false;
	is_new = true;
}

/* A hash of what a url asks for. */
static uint64
hash_service(const SlateUrl *url)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) url,
										   offsetof(SlateUrl, user), 0);

	return Max(hash, 1);
}

static void
read_wanted(void)
{
	bool		is_valid PG_USED_FOR_ASSERTS_ONLY;
	const char *error;

	if (wanted.is_read)
		return;

	/* the setting's check hook has done the same */
	is_valid = slate_url_parse(slate_service_url, &wanted.url, &error);
	Assert(is_valid);
	wanted.key = hash_service(&wanted.url);
	wanted.is_read = true;
}

bool
slate_service_is_new(void)
{
	return is_new;
}

bool
slate_service_take_up(void)
{
	bool		is_another;

	read_wanted();
	is_another = !is_taken_up ||
		memcmp(&service, &wanted.url, sizeof(service)) != 0;
	memcpy(&service, &wanted.url, sizeof(service));
	is_taken_up = true;
	is_new = false;
	return is_another;
}

const SlateUrl *
slate_service(void)
{
	return &service;
}

uint64
slate_service_key(void)
{
	read_wanted();
	return wanted.key;
}

bool
slate_service_is_cluster(void)
{
	read_wanted();
	return wanted.url.cluster.count > 0;
}

/* ------------------------------------------------------------------------
 * For people
 * ------------------------------------------------------------------------
 */

void
slate_service_write_name(char *name, const SlateAddress *address, int nmasters)
{
	const SlateUrl *url = is_taken_up ? &service : &wanted.url;
	char		where[sizeof(address->host) + 16];

	if (!is_taken_up)
		read_wanted();
	if (address == NULL)
		address = url->cluster.count > 0 ? &url->cluster.address[0]
			: &url->address;
	slate_link_write_address(where, sizeof(where), address);

	if (nmasters > 0)
		snprintf(name, SLATE_SERVICE_NAME_SIZE, "cluster of %d, %s", nmasters,
				 where);
	else if (url->cluster.count > 0)
		snprintf(name, SLATE_SERVICE_NAME_SIZE, "cluster of %s", where);
	else if (url->sentinels.count > 0)
		snprintf(name, SLATE_SERVICE_NAME_SIZE,
				 "sentinel master %s%s%s db %d", url->sentinels.master,
				 where[0] != '\0' ? " at " : "", where, url->database);
	else
		snprintf(name, SLATE_SERVICE_NAME_SIZE, "%s db %d", where,
				 url->database);
}

/* ------------------------------------------------------------------------
 * The password
 * ------------------------------------------------------------------------
 */

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

bool
slate_service_password(char *password, char *reason, size_t reason_size)
{
	const char *path = slate_service_password_file;
	char		line[SLATE_PASSWORD_SIZE + 2];	/* CR and LF */
	ssize_t		got;
	size_t		len;

	if (path == NULL || path[0] == '\0')
	{
		strlcpy(password, service.password, SLATE_PASSWORD_SIZE);
		return true;
	}

	memset(line, 0, sizeof(line));
	got = read_plain_file(path, line, sizeof(line) - 1);
	if (got < 0)
	{
		snprintf(reason, reason_size,
				 "could not read the password file \"%s\": %s", path,
				 (errno == EINVAL) ? "not a regular file" : strerror(errno));
		return false;
	}

	len = strcspn(line, "\n");
	if (memchr(line, '\0', Min(len + 1, (size_t) got)) != NULL)
		snprintf(reason, reason_size,
				 "the first line of the password file \"%s\" holds a null byte",
				 path);
	else
	{
		if (len > 0 && line[len - 1] == '\r')
			len--;
		line[len] = '\0';
		if (len > 0 && len < SLATE_PASSWORD_SIZE)
		{
			strlcpy(password, line, SLATE_PASSWORD_SIZE);
			explicit_bzero(line, sizeof(line));
			return true;
		}
		snprintf(reason, reason_size,
				 "the first line of the password file \"%s\" is %s", path,
				 (len == 0) ? "empty" : "longer than 255 bytes");
	}

	explicit_bzero(line, sizeof(line));
	return false;
}
