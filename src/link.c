/*-------------------------------------------------------------------------
 *
 * link.c
 *	  One connection to one Redis server: bytes under a deadline.
 *
 * The socket is ours, and hiredis only parses.  Its blocking calls restart
 * their timeout at each signal and cannot be cancelled; its non-blocking ones
 * try one address of a name, leave the socket open across exec(), and copy
 * what they send.  What remains is small: a socket, recv(2) with a timeout of its
 * own, poll(2), and a redisReader; with TLS, tls.c is in front of send(2) and
 * recv(2).
 *
 * Invariants:
 *
 * - A link that is open and not mid_exchange has no byte under way in either
 *	 direction.  So a reply is never taken for the answer to a later request:
 *	 whatever upsets the count (a timeout, a throw, a reply too many that is
 *	 there when the last one is, or when an idle link is looked at) costs the
 *	 connection.  A server that answers more than it was asked, and takes its
 *	 time, can upset it; none does.
 * - All that a link holds hangs on it, so that a throw out of a wait, or out
 *	 of a reply function, leaks nothing: the next use, or close, frees it.
 * - Memory is malloc's, every failure is checked, and what a server can make
 *	 us allocate is bounded, see MAX_REPLY_BYTES and replies.h.
 *
 * Throws: wait_for(), by CHECK_FOR_INTERRUPTS(), where LINK_WAIT_INTERRUPTIBLE
 * was asked for, and thereby slate_link_open() and slate_link_exchange().
 * slate_link_open() also reserves a file descriptor, for which fd.c may close
 * a file of its own.  Nothing else.  No locks.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "link.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "tls.h"

/* Longest poll() of an interruptible wait, and of any wait, in ms. */
#define INTERRUPTIBLE_SLICE 50
#define LONGEST_SLICE 60000

/*
 * How long recv() itself waits for an answer, in ms; the kernel may take its
 * tick for longer, so that it is not done with less than twice that left.
 */
#define FIRST_WAIT 10

/* How long to leave a Unix socket whose queue of connections is full, in ms. */
#define FULL_QUEUE_PAUSE 5

/*
 * Bytes of one reply, as sent, all told.  More is taken for a mistake, or malice,
 * see replies.h.  (Not bounded is the number of replies the caller asks for; they
 * are handed over, and freed, one by one.)
 */
#define MAX_REPLY_BYTES (64 * 1024 * 1024)

/*
 * How much to read at a time.  redisReader moves what is left in its buffer
 * for about each kilobyte it has parsed, so a larger piece makes many small
 * replies slower rather than faster.
 */
#define READ_SIZE 16384

/* A reader that has held a reply larger than this is replaced afterwards. */
#define KEEP_BUFFER_SIZE (64 * 1024)

/* An exchange under way: what is left to send, and what to do with replies. */
typedef struct Exchange
{
	const char *bytes;
	size_t		len;
	int			nreplies;		/* asked for */
	int			received;		/* and handed over so far */
	SlateExpected *expected;	/* or NULL */
	SlateReplyFn reply_fn;
	void	   *arg;
	int64		deadline;
	SlateWait	wait;
} Exchange;

static SlateLinkStatus fail(SlateLink *link, SlateLinkStatus status,
							const char *format,...) pg_attribute_printf(3, 4);

/* Note what went wrong, and pass on the status. */
static SlateLinkStatus
fail(SlateLink *link, SlateLinkStatus status, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(link->error, sizeof(link->error), format, args);
	va_end(args);

	return status;
}

int64
slate_link_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

bool
slate_link_same_address(const SlateAddress *a, const SlateAddress *b)
{
	return a->is_unix == b->is_unix && a->is_tls == b->is_tls &&
		a->port == b->port && strcmp(a->host, b->host) == 0;
}

void
slate_link_write_address(char *words, size_t size, const SlateAddress *address)
{
	const char *scheme = address->is_tls ? "tls:" : "";

	if (address->host[0] == '\0')
		strlcpy(words, "", size);
	else if (address->is_unix)
		snprintf(words, size, "unix:%s", address->host);
	else if (strchr(address->host, ':') != NULL)
		snprintf(words, size, "%s[%s]:%d", scheme, address->host, address->port);
	else
		snprintf(words, size, "%s%s:%d", scheme, address->host, address->port);
}

/*
 * Wait until the socket is ready for one of the events, or in trouble; or, if
 * fd is -1, just until the time is over.  LINK_TIMEOUT and LINK_OK are the
 * only answers, but see SlateWait for throws.
 *
 * A time that is over already is over, even if something could be read: or
 * else a server that never stops sending could hold us for ever.
 */
static SlateLinkStatus
wait_for(int fd, short events, short *ready, int64 until, SlateWait wait)
{
	struct pollfd pfd;
	int			nready = 0;

	pfd.fd = fd;
	pfd.events = events;
	pfd.revents = 0;

	while (nready <= 0)
	{
		int64		left;

		if (wait == LINK_WAIT_INTERRUPTIBLE)
		{
			CHECK_FOR_INTERRUPTS();

			/* a session's client would notice; a worker has none */
			if (MyBackendType == B_BG_WORKER && !PostmasterIsAlive())
				proc_exit(1);
		}

		left = until - slate_link_now();
		if (left <= 0)
			return LINK_TIMEOUT;
		left = Min(left, (wait == LINK_WAIT_INTERRUPTIBLE) ?
				   INTERRUPTIBLE_SLICE : LONGEST_SLICE);

		/*
		 * Failing, poll() was interrupted, or was short of kernel memory; in
		 * both cases to try again until the time is over is right.
		 */
		pgstat_report_wait_start(PG_WAIT_EXTENSION);
		nready = poll(&pfd, 1, (int) left);
		pgstat_report_wait_end();
	}

	*ready = pfd.revents;
	return LINK_OK;
}

/* A parser for this link; NULL if there is no memory. */
static redisReader *
create_reader(SlateLink *link)
{
	redisReader *reader = redisReaderCreate();

	if (reader == NULL)
		return NULL;

	slate_replies_use(reader, &link->replies);

	/*
	 * Left to itself, a 0.14 reader that finds its empty buffer large frees
	 * it and asserts that a small one can be allocated.  We replace the
	 * reader instead, see return_buffer().
	 */
	reader->maxbuf = 0;

	return reader;
}

/*
 * After a large reply, give the buffer that held it back.  If there is no
 * memory for a new reader the old one will do.
 */
static void
return_buffer(SlateLink *link)
{
	redisReader *fresh;

	if (!link->buffer_grown)
		return;

	fresh = create_reader(link);
	if (fresh == NULL)
		return;

	redisReaderFree(link->reader);
	link->reader = fresh;
	link->buffer_grown = false;
}

/* Close the socket, if there is one. */
static void
close_socket(SlateLink *link)
{
	slate_tls_end(link->tls);
	link->tls = NULL;
	if (link->fd < 0)
		return;

	close(link->fd);
	ReleaseExternalFD();
	link->fd = -1;
}

void
slate_link_close(SlateLink *link)
{
	if (link->reader == NULL)
		return;

	close_socket(link);
	redisReaderFree(link->reader);
	slate_replies_free(&link->replies);

	link->reader = NULL;
	link->mid_exchange = false;
	link->ahead_of = NULL;
	link->ahead = 0;
	link->buffer_grown = false;
}

/* Nice to have; a socket that refuses any of it works all the same. */
static void
tune_tcp_socket(int fd)
{
	int			on = 1;

	(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void) setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));

#if defined(TCP_KEEPIDLE) && defined(TCP_KEEPINTVL) && defined(TCP_KEEPCNT)
	{
		int			idle = 60;
		int			interval = 15;
		int			count = 3;

		(void) setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE,
						  &idle, sizeof(idle));
		(void) setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL,
						  &interval, sizeof(interval));
		(void) setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT,
						  &count, sizeof(count));
	}
#endif
}

/* Give the link a socket: non-blocking, close-on-exec, known to fd.c. */
static SlateLinkStatus
open_socket(SlateLink *link, int family)
{
	if (!AcquireExternalFD())
		return fail(link, LINK_UNREACHABLE,
					"could not create a socket: %s", strerror(errno));

	link->fd = socket(family, SOCK_STREAM, 0);
	if (link->fd < 0)
	{
		int			save_errno = errno;

		ReleaseExternalFD();
		return fail(link, LINK_UNREACHABLE,
					"could not create a socket: %s", strerror(save_errno));
	}

	if (fcntl(link->fd, F_SETFD, FD_CLOEXEC) != 0 ||
		!pg_set_noblock(link->fd))
		return fail(link, LINK_UNREACHABLE,
					"could not set up a socket: %s", strerror(errno));

	if (family != AF_UNIX)
		tune_tcp_socket(link->fd);

	return LINK_OK;
}

/* Wait for a connection that is being made, and see how that went. */
static SlateLinkStatus
await_connected(SlateLink *link, int64 deadline, SlateWait wait)
{
	int			error = 0;
	socklen_t	len = sizeof(error);
	short		ready;

	if (wait_for(link->fd, POLLOUT, &ready, deadline, wait) != LINK_OK)
		return fail(link, LINK_TIMEOUT,
					"timed out while connecting");

	if (getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
		error = errno;
	if (error != 0)
		return fail(link, LINK_UNREACHABLE,
					"could not connect: %s", strerror(error));

	return LINK_OK;
}

/* Connect to one address. */
static SlateLinkStatus
connect_to(SlateLink *link, const struct sockaddr *address, socklen_t len,
		   int64 deadline, SlateWait wait)
{
	SlateLinkStatus status = open_socket(link, address->sa_family);

	while (status == LINK_OK && connect(link->fd, address, len) != 0)
	{
		short		ready;
		int64		pause_end;

		if (errno == EINPROGRESS || errno == EINTR)
			return await_connected(link, deadline, wait);

		if (errno != EAGAIN)
			return fail(link, LINK_UNREACHABLE,
						"could not connect: %s", strerror(errno));

		/*
		 * The queue of a Unix socket is full.  The kernel has no event for
		 * its having room again, so knock from time to time.
		 */
		pause_end = Min(deadline, slate_link_now() + FULL_QUEUE_PAUSE);
		(void) wait_for(-1, 0, &ready, pause_end, wait);
		if (slate_link_now() >= deadline)
			return fail(link, LINK_TIMEOUT,
						"timed out while the server's queue of connections was full");
	}

	return status;
}

static SlateLinkStatus
open_unix(SlateLink *link, const char *path, int64 deadline, SlateWait wait)
{
	struct sockaddr_un address;

	memset(&address, 0, sizeof(address));
	address.sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(address.sun_path))
		return fail(link, LINK_UNREACHABLE, "the socket's path is too long");
	strcpy(address.sun_path, path);

	return connect_to(link, (struct sockaddr *) &address, sizeof(address),
					  deadline, wait);
}

/*
 * The list is copied into the caller's memory, for a throw out of a later wait
 * would leak getaddrinfo()'s own.
 */
SlateLinkStatus
slate_link_look_up(const SlateAddress *address, SlateAddressList *found,
				   const char **error)
{
	struct addrinfo hints;
	struct addrinfo *list = NULL;
	struct addrinfo *item;
	char		service[16];
	int			failure;

	memset(&hints, 0, sizeof(hints));
	hints.ai_family = AF_UNSPEC;
	hints.ai_socktype = SOCK_STREAM;
	hints.ai_flags = AI_NUMERICSERV;
	snprintf(service, sizeof(service), "%d", address->port);

	failure = getaddrinfo(address->host, service, &hints, &list);
	*error = "out of memory";
	if (failure == EAI_MEMORY)
		return LINK_NOMEM;
	*error = (failure == EAI_SYSTEM) ? strerror(errno) : gai_strerror(failure);
	if (failure != 0)
		return LINK_UNREACHABLE;

	memset(found, 0, sizeof(*found));
	for (item = list; item != NULL && found->count < SLATE_MAX_ADDRESSES;
		 item = item->ai_next)
	{
		if (item->ai_addrlen > sizeof(found->address[0]))
			continue;
		memcpy(&found->address[found->count], item->ai_addr,
			   item->ai_addrlen);
		found->len[found->count] = item->ai_addrlen;
		found->count++;
	}
	freeaddrinfo(list);

	*error = "the host has no address";
	return found->count > 0 ? LINK_OK : LINK_UNREACHABLE;
}

static SlateLinkStatus
open_tcp(SlateLink *link, const SlateAddress *address,
		 const SlateAddressList *known, int64 deadline, SlateWait wait)
{
	SlateAddressList found;
	SlateLinkStatus status = LINK_OK;
	const char *error;
	bool		timed_out = false;
	int			i;

	if (known)
		found = *known;
	else
		status = slate_link_look_up(address, &found, &error);
	if (status != LINK_OK)
		return fail(link, status, "could not look up the host: %s", error);

	for (i = 0; i < found.count; i++)
	{
		int64		now = slate_link_now();
		int64		share = Max(deadline - now, 0) / (found.count - i);

		status = connect_to(link, (struct sockaddr *) &found.address[i],
							found.len[i], now + share, wait);
		if (status == LINK_OK)
			return LINK_OK;

		close_socket(link);
		if (status == LINK_TIMEOUT)
			timed_out = true;
	}

	/* one that kept us waiting matters more than one that refused at once */
	return timed_out ? LINK_TIMEOUT : status;
}

/* Have the server prove who it is, and agree with it on keys. */
static SlateLinkStatus
secure(SlateLink *link, const char *host, int64 deadline, SlateWait wait)
{
	link->tls = slate_tls_start(link->fd, host);
	if (link->tls == NULL)
		return fail(link, LINK_UNREACHABLE, "%s", slate_tls_error());

	for (;;)
	{
		SlateTlsStatus step = slate_tls_shake_hands(link->tls);
		short		ready;

		if (step == TLS_DONE)
			return LINK_OK;
		if (step == TLS_FAILED)
			return fail(link, LINK_UNREACHABLE, "could not connect by TLS: %s",
						slate_tls_error());
		if (wait_for(link->fd, step == TLS_WANTS_WRITE ? POLLOUT : POLLIN,
					 &ready, deadline, wait) != LINK_OK)
			return fail(link, LINK_TIMEOUT,
						"timed out in the TLS handshake");
	}
}

/*
 * From here on recv(2) waits, for a moment; whoever does not want that says
 * so.  A socket that refuses goes on not to wait, which is as well.
 */
static void
let_recv_wait(int fd)
{
	struct timeval moment = {0, FIRST_WAIT * 1000};

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &moment,
				   sizeof(moment)) == 0)
		(void) pg_set_block(fd);
}

SlateLinkStatus
slate_link_open(SlateLink *link, const SlateAddress *address,
				const SlateAddressList *known, int64 deadline, SlateWait wait)
{
	SlateLinkStatus status;

	slate_link_close(link);

	link->reader = create_reader(link);
	if (link->reader == NULL)
		return fail(link, LINK_NOMEM, "out of memory");
	link->fd = -1;
	link->mid_exchange = true;

	if (address->is_unix)
		status = open_unix(link, address->host, deadline, wait);
	else
		status = open_tcp(link, address, known, deadline, wait);
	if (status == LINK_OK && address->is_tls)
		status = secure(link, address->host, deadline, wait);

	if (status == LINK_OK)
	{
		let_recv_wait(link->fd);
		link->mid_exchange = false;
	}
	else
		slate_link_close(link);

	return status;
}

bool
slate_link_is_open(const SlateLink *link)
{
	return link->reader != NULL && !link->mid_exchange;
}

bool
slate_link_usable(SlateLink *link)
{
	struct pollfd pfd;
	int			nready;

	Assert(slate_link_is_open(link));
	pfd.fd = link->fd;
	pfd.events = POLLIN;
	pfd.revents = 0;
	do
		nready = poll(&pfd, 1, 0);
	while (nready < 0 && errno == EINTR);

	if (nready == 0)
		return true;

	fail(link, LINK_BROKEN, "the server closed the idle connection");
	slate_link_close(link);
	return false;
}

static ssize_t
send_bytes(SlateLink *link, const char *bytes, size_t len)
{
	if (link->tls != NULL)
		return slate_tls_send(link->tls, bytes, len);
	return send(link->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static ssize_t
receive_bytes(SlateLink *link, char *buffer, size_t size, int flags)
{
	if (link->tls != NULL)
		return slate_tls_recv(link->tls, buffer, size, flags);
	return recv(link->fd, buffer, size, flags);
}

/* Why one of these has failed. */
static const char *
io_error(const SlateLink *link)
{
	return link->tls != NULL ? slate_tls_error() : strerror(errno);
}

/* Send what the socket takes right now; by TLS that goes record by record. */
static SlateLinkStatus
send_some(SlateLink *link, Exchange *exchange)
{
	while (exchange->len > 0)
	{
		ssize_t		sent = send_bytes(link, exchange->bytes, exchange->len);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return LINK_OK;
		if (sent < 0)
			return fail(link, LINK_BROKEN,
						"could not send: %s", io_error(link));

		exchange->bytes += sent;
		exchange->len -= sent;
		if (link->tls == NULL || slate_link_now() >= exchange->deadline)
			return LINK_OK;
	}
	return LINK_OK;
}

/* Hand a reply to the caller, and free it. */
static void
hand_over(SlateLink *link, Exchange *exchange, redisReply *reply)
{
	if (exchange->reply_fn != NULL)
		exchange->reply_fn(exchange->received, reply, exchange->arg);
	slate_replies_reset(&link->replies);

	exchange->received++;
	link->reply_bytes = 0;
}

/* Say what the parser stumbled over. */
static SlateLinkStatus
parse_failed(SlateLink *link)
{
	if (link->replies.refused)
		return fail(link, LINK_PROTOCOL,
					"a reply has more than %d elements, or is nested deeper than %d",
					SLATE_REPLY_MAX_ELEMENTS, SLATE_REPLY_MAX_DEPTH);
	if (link->reader->err == REDIS_ERR_OOM)
		return fail(link, LINK_NOMEM, "out of memory");
	return fail(link, LINK_PROTOCOL,
				"the server does not speak the Redis protocol: %s",
				link->reader->errstr);
}

/* Is this all there is to come, and what was expected? */
static bool
is_expected(const SlateLink *link, const Exchange *exchange,
			const char *bytes, size_t len)
{
	return exchange->expected != NULL && exchange->len == 0 &&
		exchange->received == 0 && link->reply_bytes == 0 &&
		len == exchange->expected->len &&
		memcmp(bytes, exchange->expected->bytes, len) == 0;
}

/* Parse what has come, and hand over the replies that are complete. */
static SlateLinkStatus
take_bytes(SlateLink *link, Exchange *exchange, const char *bytes, size_t len)
{
	redisReader *reader = link->reader;

	if (is_expected(link, exchange, bytes, len))
	{
		exchange->expected->met = true;
		exchange->received = exchange->nreplies;
		return LINK_OK;
	}

	link->reply_bytes += len;
	if (link->reply_bytes > KEEP_BUFFER_SIZE)
		link->buffer_grown = true;
	if (link->reply_bytes > MAX_REPLY_BYTES)
		return fail(link, LINK_TOO_LARGE, "a reply is larger than %d bytes",
					MAX_REPLY_BYTES);

	if (redisReaderFeed(reader, bytes, len) != REDIS_OK)
		return parse_failed(link);

	while (exchange->received < exchange->nreplies)
	{
		void	   *reply;

		if (redisReaderGetReply(reader, &reply) != REDIS_OK)
			return parse_failed(link);
		if (reply == NULL)
			return LINK_OK;
		hand_over(link, exchange, reply);
	}

	if (reader->pos < reader->len || exchange->len > 0)
		return fail(link, LINK_PROTOCOL,
					"the server sent more replies than it was asked for");

	return LINK_OK;
}

/* Has everything been sent, and every reply come? */
static bool
is_done(const Exchange *exchange)
{
	return exchange->len == 0 && exchange->received >= exchange->nreplies;
}

/*
 * Read what is there; flags are those of the first recv(2).  A piece that does
 * not fill the buffer was all, except by TLS, where it was a record.  The clock
 * stops a server that sends faster than we read; the next wait then finds that
 * the time is over.
 */
static SlateLinkStatus
receive_some(SlateLink *link, Exchange *exchange, int flags)
{
	char		buffer[READ_SIZE];

	for (;;)
	{
		SlateLinkStatus status;
		ssize_t		got = receive_bytes(link, buffer, sizeof(buffer), flags);

		if (got < 0 && errno == EINTR && flags == 0)
			return LINK_OK;
		if (got < 0 && errno == EINTR)
			continue;
		flags = MSG_DONTWAIT;
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return LINK_OK;
		if (got < 0)
			return fail(link, LINK_BROKEN,
						"could not receive: %s", io_error(link));
		if (got == 0)
			return fail(link, LINK_BROKEN,
						"the server closed the connection");

		status = take_bytes(link, exchange, buffer, got);
		if (status != LINK_OK || is_done(exchange) ||
			(got < READ_SIZE && link->tls == NULL))
			return status;
		if (slate_link_now() >= exchange->deadline)
			return LINK_OK;
	}
}

/*
 * Sending failed: the server hung up.  If it said why before, that is a reply
 * the caller wants to see.
 */
static SlateLinkStatus
hear_last_words(SlateLink *link, Exchange *exchange)
{
	char		send_error[sizeof(link->error)];

	strlcpy(send_error, link->error, sizeof(send_error));
	(void) receive_some(link, exchange, MSG_DONTWAIT);
	return fail(link, LINK_BROKEN, "%s", send_error);
}

/*
 * An answer nearly always comes at once, so that we wait for it in recv(2)
 * itself, which spares a system call.  What has not come by the end of that
 * wait, or when it is interrupted, is waited for as usual.
 */
static SlateLinkStatus
receive_at_once(SlateLink *link, Exchange *exchange)
{
	SlateLinkStatus status;

	if (exchange->len > 0 ||
		exchange->deadline - slate_link_now() < 2 * FIRST_WAIT)
		return LINK_OK;
	if (exchange->wait == LINK_WAIT_INTERRUPTIBLE)
		CHECK_FOR_INTERRUPTS();
	pgstat_report_wait_start(PG_WAIT_EXTENSION);
	status = receive_some(link, exchange, 0);
	pgstat_report_wait_end();
	return status;
}

/*
 * Wait until there is something to be read, or more can be sent; by TLS, to read
 * may need to send.  (It has read all that there was: see receive_some().)
 */
static SlateLinkStatus
wait_for_exchange(SlateLink *link, Exchange *exchange, short *ready)
{
	SlateLinkStatus status;
	bool		sends = exchange->len > 0 ||
		(link->tls != NULL && slate_tls_wants_write(link->tls));

	if (wait_for(link->fd, sends ? POLLIN | POLLOUT : POLLIN, ready,
				 exchange->deadline, exchange->wait) == LINK_OK)
		return LINK_OK;

	/*
	 * It may be us who were kept from running, and the answer is there.  That
	 * is one piece more to read, since the time is over.
	 */
	*ready = 0;
	status = receive_some(link, exchange, MSG_DONTWAIT);
	if (status != LINK_OK || is_done(exchange))
		return status;
	return fail(link, LINK_TIMEOUT,
				"timed out with %d of %d replies received",
				exchange->received, exchange->nreplies);
}

/*
 * Send and receive until both are done.  The first send needs no poll(): the
 * connection is idle, so its buffer has room.
 */
static SlateLinkStatus
run_exchange(SlateLink *link, Exchange *exchange)
{
	SlateLinkStatus status = send_some(link, exchange);

	if (status != LINK_OK)
		return hear_last_words(link, exchange);
	if (!is_done(exchange))
		status = receive_at_once(link, exchange);
	if (status != LINK_OK)
		return status;

	while (!is_done(exchange))
	{
		short		ready;

		status = wait_for_exchange(link, exchange, &ready);
		if (status != LINK_OK)
			return status;

		/* end of file and errors are things to be read */
		if ((ready & ~POLLOUT) || (link->tls != NULL && !is_done(exchange)))
		{
			status = receive_some(link, exchange, MSG_DONTWAIT);
			if (status != LINK_OK)
				return status;
		}
		if (ready & POLLOUT)
		{
			status = send_some(link, exchange);
			if (status != LINK_OK)
				return hear_last_words(link, exchange);
		}
	}

	return LINK_OK;
}

void
slate_link_send_ahead(SlateLink *link, const char *bytes, size_t len)
{
	ssize_t		sent;

	if (!slate_link_is_open(link) || link->tls != NULL)
		return;
	sent = send_bytes(link, bytes, len);
	if (sent <= 0)
		return;					/* the exchange will tell */
	link->ahead_of = bytes;
	link->ahead = sent;
	link->mid_exchange = true;
}

bool
slate_link_is_ahead(const SlateLink *link, const char *bytes, size_t len)
{
	return link->reader != NULL && link->ahead > 0 &&
		link->ahead_of == bytes && link->ahead <= len;
}

SlateLinkStatus
slate_link_exchange(SlateLink *link, const char *bytes, size_t len,
					int nreplies, SlateExpected *expected,
					SlateReplyFn reply_fn, void *arg,
					int64 deadline, SlateWait wait)
{
	SlateLinkStatus status;
	Exchange	exchange;

	/* never an answer to what another exchange has left */
	if (!slate_link_is_open(link) && !slate_link_is_ahead(link, bytes, len))
	{
		slate_link_close(link);
		return fail(link, LINK_BROKEN, "there is no connection");
	}

	exchange.bytes = bytes + link->ahead;
	exchange.len = len - link->ahead;
	link->ahead_of = NULL;
	link->ahead = 0;
	exchange.nreplies = nreplies;
	exchange.received = 0;
	exchange.expected = expected;
	if (expected != NULL)
		expected->met = false;
	exchange.reply_fn = reply_fn;
	exchange.arg = arg;
	exchange.deadline = deadline;
	exchange.wait = wait;

	link->mid_exchange = true;
	link->reply_bytes = 0;
	slate_replies_reset(&link->replies);
	link->replies.refused = false;

	status = run_exchange(link, &exchange);
	if (status != LINK_OK)
	{
		slate_link_close(link);
		return status;
	}

	link->mid_exchange = false;
	return_buffer(link);
	return LINK_OK;
}

bool
slate_link_is_error(const redisReply *reply, const char *code)
{
	return reply->type == REDIS_REPLY_ERROR &&
		strncmp(reply->str, code, strlen(code)) == 0;
}

const char *
slate_link_info_value(const char *line, const char *name, size_t *len)
{
	size_t		name_len = strlen(name);

	while (strncmp(line, name, name_len) != 0 || line[name_len] != ':')
	{
		line = strchr(line, '\n');
		if (line == NULL)
			return NULL;
		line++;
	}
	line += name_len + 1;
	*len = strcspn(line, "\r\n");
	return line;
}

void
slate_link_words(char *words, size_t size, const redisReply *reply,
				 const char *until)
{
	size_t		n = 0;

	while (n < reply->len && n < size - 1)
	{
		char		c = reply->str[n];

		if (c == '\0' || c == '\r' || c == '\n' ||
			(until && strchr(until, c) != NULL))
			break;
		words[n++] = (c >= ' ' && c <= '~') ? c : '?';
	}
	words[n] = '\0';
}
