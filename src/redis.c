/*-------------------------------------------------------------------------
 *
 * redis.c
 *	  Which server: its address, this backend's connection to it, and what a
 *	  failure was.
 *
 * Each backend has one connection, with a Cluster one to each of its masters,
 * made when it is first needed and kept.  (The postmaster makes none, so there is
 * none to inherit.)  Life with it goes prepare, run, prepare, run, ...: all that
 * can take long or need memory is in slate_redis_prepare(), before a commit;
 * slate_redis_run() only sends, receives and keeps the books.
 *
 * Throws: nothing, except out of LINK_WAIT_INTERRUPTIBLE waits, see link.c.
 * Such a throw leaves the link to be dropped at its next use, and a probe to
 * run out (see breaker.c); nothing leaks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "breaker.h"
#include "cluster.h"
#include "common/hashfn.h"
#include "handshake.h"
#include "miscadmin.h"
#include "names.h"
#include "redis.h"
#include "sentinel.h"
#include "storage/ipc.h"
#include "url.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

/* A connection that was used so short a time ago is not looked at, in ms. */
#define RECENT_USE_MS 10

/*
 * When to ask for the server's clock, identity and role again, in us: a backend,
 * and a worker, each time it looks around.
 */
#define ANSWERS_MAX_AGE (INT64CONST(60) * 1000000)
#define WATCH_MAX_AGE (INT64CONST(900) * 1000)

/*
 * When to ask a sentinel again: a backend, which relies on workers, and a
 * worker, and for how long the latter does that at most; in ms.
 */
#define MASTER_MAX_AGE 2000
#define MASTER_REFRESH 450
#define REFRESH_TIMEOUT 500

/* Settings; see redis.h. */
char	   *slate_redis_url = NULL;
char	   *slate_redis_password_file = NULL;
int			slate_redis_timeout = 250;
int			slate_redis_connect_timeout = 250;
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
 * A server that we talk to: the url's address, what the sentinels said, or a
 * master of the Cluster.
 */
typedef struct Peer
{
	SlateAddress address;		/* where the connection goes, or last went */
	SlateLink	link;			/* the connection, if any; see link.h */
	bool		loss_is_told;	/* if there is none: is what became of the
								 * last what error_text tells? */
	bool		has_failed;		/* since it was last found to be well */

	SlateServerInfo info;		/* while the connection is open */
} Peer;

/* Without a Cluster there is one.  node is the one that we are busy with. */
static Peer nodes[SLATE_MAX_NODES];
static int	nnodes = 1;
static Peer *node = nodes;

/* How many connections there have been. */
static uint64 connection_number = 0;

/*
 * When the connections were prepared for use last; and whether they were shut
 * down since, because nobody used them.
 */
static volatile int64 used_at;
static volatile sig_atomic_t shut_down_idle = false;

/* A commit will want the connection; an exchange has until then. */
static volatile sig_atomic_t is_held = false;
static volatile int64 busy_until;

/*
 * With sentinels, slate_sentinel_changes() as it was when they told us of the
 * master, or 0 if they have not yet; with a Cluster, what we know of it.
 * distrusted_at is when something last spoke against that, or 0.
 */
static uint64 master_changes;
static SlateTopology topology;
static uint64 topology_number;	/* see slate_redis_topology() */
static int64 distrusted_at;

/* WATCH_MAX_AGE in a worker. */
static int64 answers_max_age = ANSWERS_MAX_AGE;

/* What to send on each new connection. */
static SlatePreambleFn preamble_fn = NULL;

/* What slate_redis_error() and slate_redis_server_name() return. */
static char error_text[1024];
static size_t error_prefix;		/* so much of it is the server's name */
static char name_text[512];

/* What slate_redis_refusal() returns. */
static char refusal_text[SLATE_REASON_SIZE];

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

/*
 * Let the breaker know of the failure that set_error() was told.  timeout: which
 * one has passed, in ms; 0: none.
 */
static void
note_failure(int timeout)
{
	node->has_failed = true;
	slate_breaker_open(timeout, slate_redis_server_name(),
					   error_text + error_prefix);
}

static void
note_success(void)
{
	if (slate_breaker_is_open())
		slate_breaker_close(slate_redis_server_name());
}

/* The node is well.  The breaker is for all: are the others? */
static void
note_node_success(void)
{
	node->has_failed = false;
	for (int i = 0; i < nnodes; i++)
	{
		if (nodes[i].has_failed)
			return;
	}
	note_success();
}

const char *
slate_redis_error(void)
{
	return error_text;
}

const char *
slate_redis_refusal(void)
{
	return refusal_text;
}

void
slate_redis_forget_refusal(void)
{
	refusal_text[0] = '\0';
}

static void
note_refusal(const redisReply *reply)
{
	if (reply->type != REDIS_REPLY_ERROR ||
		slate_link_is_error(reply, "NOSCRIPT"))
		return;
	slate_link_words(refusal_text, sizeof(refusal_text), reply, NULL);
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
	set_error("%s", node->link.error);
	node->loss_is_told = true;
	if (status == LINK_TOO_LARGE)
		return REDIS_TOO_LARGE; /* it is well: we have asked for too much */
	distrust();

	switch (status)
	{
		case LINK_TIMEOUT:
			note_failure(timeout);
			return REDIS_TIMEOUT;

		case LINK_NOMEM:
			/* says nothing about the server */
			return REDIS_UNREACHABLE;

		default:
			note_failure(0);
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
	return slate_url_parse(slate_redis_url, url, error);
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
close_all(void)
{
	for (int i = 0; i < nnodes; i++)
		slate_link_close(&nodes[i].link);
}

/* Back to one node, of which nothing is known. */
static void
forget_nodes(void)
{
	nnodes = 1;
	node = nodes;
	node->has_failed = false;
	memset(&topology, 0, sizeof(topology));
	topology_number++;
}

/* Make another url the one in use. */
static void
take_url(const SlateUrl *fresh)
{
	memcpy(&server, fresh, sizeof(server));
	server_key = hash_service(&server);
	forget_nodes();
	nodes[0].address = server.address;
	master_changes = 0;
	distrusted_at = 0;
	if (server.sentinels.count > 0)
		slate_sentinel_choose(&server.sentinels);
	if (server.cluster.count > 0)
		slate_cluster_choose(&server.cluster);
	slate_breaker_choose(hash_bytes_extended((const unsigned char *) &server,
											 sizeof(server), 0));
}

/* Make the settings' present values those in use. */
static bool
load_settings(void)
{
	SlateUrl	fresh;
	const char *error;

	if (settings_loaded && !settings_stale)
		return true;

	close_all();
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

/* The node that we are busy with, or the first seed. */
static void
write_cluster_name(const SlateUrl *url)
{
	char		address[sizeof(node->address.host) + 16];

	slate_link_write_address(address, sizeof(address),
							 topology.count > 0 ? &node->address
							 : &url->cluster.address[0]);
	if (topology.count > 0)
		snprintf(name_text, sizeof(name_text), "cluster of %d, %s",
				 topology.count, address);
	else
		snprintf(name_text, sizeof(name_text), "cluster of %s", address);
}

const char *
slate_redis_server_name(void)
{
	char		address[sizeof(node->address.host) + 16];
	SlateUrl	fresh;
	const SlateUrl *url = settings_loaded ? &server : &fresh;
	const char *error;

	if (!settings_loaded && !read_url(&fresh, &error))
		return "(no valid url)";
	slate_link_write_address(address, sizeof(address),
							 settings_loaded ? &node->address : &fresh.address);

	if (url->cluster.count > 0)
		write_cluster_name(url);
	else if (url->sentinels.count == 0)
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
slate_redis_set_preamble(SlatePreambleFn fn)
{
	preamble_fn = fn;
}

/* ----------
 * Connecting
 * ----------
 */

/* On failure the reason is noted. */
static bool
get_password(char *password, size_t size)
{
	char		reason[512];

	if (slate_handshake_password(&server, slate_redis_password_file, password,
								 size, reason, sizeof(reason)))
		return true;
	set_error("%s", reason);
	return false;
}

/* What has come of a handshake? */
static SlateRedisStatus
settle_handshake(SlateLinkStatus status, const char *objection)
{
	/* first of all: a server that rejects us may hang up right afterwards */
	if (objection[0] != '\0')
	{
		slate_link_close(&node->link);
		distrust();
		set_error("%s", objection);
		note_failure(0);
		return REDIS_REJECTED;
	}
	if (status == LINK_NOMEM)
	{
		set_error("out of memory");
		return REDIS_UNREACHABLE;
	}
	if (status != LINK_OK)
		return link_failed(status, slate_redis_connect_timeout);
	node->has_failed = false;
	return REDIS_DONE;
}

/* Introduce ourselves on a connection that was just made. */
static SlateRedisStatus
introduce(const SlatePreamble *preamble, int64 deadline, SlateWait wait)
{
	static char password[sizeof(server.password)];	/* a throw leaks nothing */
	char		objection[SLATE_OBJECTION_SIZE];
	SlateLinkStatus status;

	if (!get_password(password, sizeof(password)))
	{
		note_failure(0);
		return REDIS_REJECTED;
	}
	status = slate_handshake(&node->link, &server, password, preamble,
							 &node->info, objection, deadline, wait);
	explicit_bzero(password, sizeof(password));
	return settle_handshake(status, objection);
}

static SlateRedisStatus
shake_hands(const SlatePreamble *preamble, int64 deadline, SlateWait wait)
{
	SlateRedisStatus status = introduce(preamble, deadline, wait);

	if (status != REDIS_DONE)
		slate_link_close(&node->link);
	connection_number++;
	node->loss_is_told = (status != REDIS_DONE);
	return status;
}

/* Ask again what a server has told, if that has become old. */
static SlateRedisStatus
refresh_answers(int64 deadline, SlateWait wait)
{
	char		objection[SLATE_OBJECTION_SIZE];
	SlateLinkStatus status;

	if (slate_handshake_clock() - node->info.clock_told_at < answers_max_age)
		return REDIS_DONE;
	status = slate_handshake_ask(&node->link, &node->info, objection, deadline,
								 wait);
	return settle_handshake(status, objection);
}

/*
 * Connect and shake hands.  Without a launcher who looks the name up we must,
 * and that knows no deadline; if it took longer than it should have, it counts
 * as a timeout, whatever came of it.
 */
static SlateRedisStatus
connect_to_server(int64 deadline, SlateWait wait)
{
	SlatePreamble preamble = {0};
	SlateLinkStatus status;

	/* may throw, and an open link would be taken for one with a handshake */
	if (preamble_fn)
		preamble_fn(node - nodes, &preamble);
	status = slate_names_open(&node->link, &node->address, deadline, wait);
	if (status == LINK_UNREACHABLE && slate_link_now() >= deadline)
		status = LINK_TIMEOUT;
	if (status != LINK_OK)
		return link_failed(status, slate_redis_connect_timeout);
	return shake_hands(&preamble, deadline, wait);
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
		note_failure(slate_redis_connect_timeout);
		return REDIS_TIMEOUT;
	}
	if (status == LINK_OK)
		set_error("what the sentinels have said could not be read");
	note_failure(0);
	return REDIS_UNREACHABLE;
}

/*
 * Take the master's address for the node's, and drop a connection to another.
 * What is known will do where the sentinels do not answer: they may be down, and
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
		slate_link_close(&node->link);
		node->address = master.address;
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

/* ----------
 * The Cluster
 * ----------
 */

/* On failure the reason is noted, but no failure of a server. */
static SlateLinkStatus
ask_cluster(bool another, int64 deadline, SlateWait wait)
{
	static char password[sizeof(server.password)];	/* a throw leaks nothing */
	SlateLinkStatus status;

	if (!get_password(password, sizeof(password)))
		return LINK_UNREACHABLE;
	status = slate_cluster_ask(server.user, password, another, deadline, wait);
	explicit_bzero(password, sizeof(password));
	if (status != LINK_OK)
		set_error("no node could be asked: %s", slate_cluster_error());
	return status;
}

/* It is the nodes that did not answer. */
static SlateRedisStatus
cluster_is_unknown(SlateLinkStatus status)
{
	note_failure(status == LINK_TIMEOUT ? slate_redis_connect_timeout : 0);
	return status == LINK_TIMEOUT ? REDIS_TIMEOUT : REDIS_UNREACHABLE;
}

/* Talk to other nodes from now on. */
static void
take_topology(void)
{
	close_all();
	nnodes = topology.count;
	node = nodes;
	topology_number++;
	for (int i = 0; i < nnodes; i++)
	{
		nodes[i].address = topology.node[i].address;
		nodes[i].has_failed = false;
	}
}

/*
 * Learn which masters there are, and drop the connections to others.  What is
 * known will do where nobody answers.
 */
static SlateRedisStatus
find_topology(int64 deadline, SlateWait wait)
{
	SlateLinkStatus status = LINK_OK;
	int64		now = slate_link_now();

	if (slate_cluster_should_ask(distrusted_at, MASTER_MAX_AGE))
		status = ask_cluster(distrusted_at != 0, now + (deadline - now) / 2,
							 wait);
	distrusted_at = 0;
	if (topology.count > 0 && topology.changes == slate_cluster_changes())
		return REDIS_DONE;
	if (slate_cluster_known(&topology))
	{
		take_topology();
		return REDIS_DONE;
	}
	close_all();
	forget_nodes();
	if (status == LINK_OK)
		set_error("what the nodes have said could not be read");
	return cluster_is_unknown(status);
}

/* Has anybody heard that other masters serve the slots? */
static bool
topology_has_changed(void)
{
	return server.cluster.count > 0 &&
		slate_cluster_changes() != topology.changes;
}

bool
slate_redis_is_cluster(void)
{
	SlateUrl	url;
	const char *error;

	if (settings_loaded && !settings_stale)
		return server.cluster.count > 0;
	return read_url(&url, &error) && url.cluster.count > 0;
}

int
slate_redis_nodes(void)
{
	return nnodes;
}

int
slate_redis_node_of(const char *key, int keylen)
{
	return nnodes == 1 ? 0 : topology.owner[slate_cluster_slot(key, keylen)];
}

const char *
slate_redis_tag(int which)
{
	return topology.count > 0 ? topology.node[which].tag : "";
}

void
slate_redis_send_ahead(int which, const char *bytes, size_t len,
					   int64 deadline)
{
	if (slate_link_now() < deadline)
		slate_link_send_ahead(&nodes[which].link, bytes, len);
}

void
slate_redis_give_up_ahead(void)
{
	for (int i = 0; i < nnodes; i++)
	{
		if (nodes[i].link.ahead > 0)
			slate_link_close(&nodes[i].link);
	}
}

uint64
slate_redis_topology(void)
{
	return topology.count > 0 ? topology_number : 0;
}

bool
slate_redis_has_topology(uint64 number)
{
	if (number == slate_redis_topology())
		return true;
	set_error("other masters serve the slots");
	return false;
}

/* ----------
 * For workers
 * ----------
 */

static void
refresh_sentinels(int64 deadline)
{
	static uint64 seen = 0;

	if (slate_sentinel_should_ask(0, MASTER_REFRESH))
		(void) ask_sentinels(true, deadline, LINK_WAIT_INTERRUPTIBLE);

	/* what was learnt of one server says nothing about another */
	if (slate_sentinel_changes() != seen)
		note_success();
	seen = slate_sentinel_changes();
}

static void
refresh_cluster(int64 deadline)
{
	static uint64 seen = 0;

	if (slate_cluster_should_ask(0, MASTER_REFRESH))
		(void) ask_cluster(true, deadline, LINK_WAIT_INTERRUPTIBLE);
	if (slate_cluster_changes() != seen)
		note_success();
	seen = slate_cluster_changes();
}

void
slate_redis_refresh(void)
{
	int64		deadline = slate_link_now() +
		Min(slate_redis_connect_timeout, REFRESH_TIMEOUT);

	if (!load_settings())
		return;
	if (server.sentinels.count > 0)
		refresh_sentinels(deadline);
	if (server.cluster.count > 0)
		refresh_cluster(deadline);
}

/* ----------
 * What callers do
 * ----------
 */

void
slate_redis_become_prober(void)
{
	answers_max_age = WATCH_MAX_AGE;
	slate_breaker_become_prober();
	(void) load_settings();
}

int64
slate_redis_next_try(void)
{
	return load_settings() ? slate_breaker_next_try() : 0;
}

/* Say that we did not try, and what has happened to who did. */
static SlateRedisStatus
resting(void)
{
	char		reason[SLATE_REASON_SIZE];
	int			failures;
	int64		rests_for;

	slate_breaker_reason(reason);
	slate_breaker_look(&failures, &rests_for);
	if (rests_for > 0)
		set_error("not asked for another %d ms, failures in a row: %d; the last: %s",
				  (int) rests_for, failures, reason);
	else
		set_error("not asked until the worker has tried, failures in a row: %d; the last: %s",
				  failures, reason);
	return REDIS_RESTING;
}

void
slate_redis_want_names(void)
{
	SlateMaster master;

	if (!load_settings())
		return;
	for (int i = 0; i < server.cluster.count; i++)
		slate_names_want(&server.cluster.address[i]);
	for (int i = 0; i < topology.count; i++)
		slate_names_want(&topology.node[i].address);
	for (int i = 0; i < server.sentinels.count; i++)
		slate_names_want(&server.sentinels.address[i]);
	if (server.sentinels.count > 0 && slate_sentinel_known(&master))
		slate_names_want(&master.address);
	if (server.cluster.count == 0 && server.sentinels.count == 0)
		slate_names_want(&server.address);
}

/* ----------
 * The idle connection
 *
 * Hundreds of sessions that are connected and do nothing should not cost Redis
 * a client each.  PostgreSQL calls nobody in an idle session; but a timer goes
 * off there.  Its handler may run at any point of the program, so all that it
 * does is to shut the socket down, and only if nobody has prepared to use it
 * for so long that nobody can be about to, but for a commit, which may have to
 * wait for a standby before it sends: that holds it.  Whoever comes next finds
 * it so, and connects anew.
 *
 * The timer repeats itself; an ERROR ends it, as it ends all.  So the end of each
 * transaction sets it again.
 * ----------
 */

/* In a signal handler. */
static void
shut_down_if_idle(void)
{
	int64		now = slate_link_now();

	if (slate_redis_idle_timeout == 0 || shut_down_idle || is_held ||
		now < busy_until ||
		now - used_at < (int64) slate_redis_idle_timeout * 1000)
		return;
	for (int i = 0; i < nnodes; i++)
	{
		if (!slate_link_is_open(&nodes[i].link))
			continue;
		(void) shutdown(nodes[i].link.fd, SHUT_RDWR);
		shut_down_idle = true;
	}
}

static bool
any_is_open(void)
{
	for (int i = 0; i < nnodes; i++)
	{
		if (slate_link_is_open(&nodes[i].link))
			return true;
	}
	return false;
}

void
slate_redis_hold(bool hold)
{
	is_held = hold;
}

void
slate_redis_watch_idle(void)
{
	static TimeoutId timer = MAX_TIMEOUTS;
	int			period = Max(slate_redis_idle_timeout * 1000 / 4, 250);

	/* workers work, or end */
	if (MyBackendType != B_BACKEND || proc_exit_inprogress ||
		slate_redis_idle_timeout == 0 || !any_is_open())
		return;
	if (timer == MAX_TIMEOUTS)
		timer = RegisterTimeout(USER_TIMEOUT, shut_down_if_idle);
	if (!get_timeout_active(timer))
		enable_timeout_every(timer,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 period),
							 period);
}

/* Are they there, and nothing wrong with them in sight? */
static void
look_at_connections(int64 now)
{
	bool		is_recent = now - used_at < RECENT_USE_MS;

	used_at = now;
	if (shut_down_idle)
		close_all();
	shut_down_idle = false;
	if (is_recent)
		return;

	/* who closes an idle connection may not be the master for much longer */
	for (int i = 0; i < nnodes; i++)
	{
		if (slate_link_is_open(&nodes[i].link) &&
			!slate_link_usable(&nodes[i].link))
			distrust();
	}
}

/* Where is it that we should connect to? */
static SlateRedisStatus
find_servers(int64 deadline, SlateWait wait)
{
	if (server.sentinels.count > 0)
		return find_master(deadline, wait);
	if (server.cluster.count > 0)
		return find_topology(deadline, wait);
	return REDIS_DONE;
}

/* A Cluster is one: all of its masters must be there. */
static SlateRedisStatus
connect_all(int64 deadline, SlateWait wait)
{
	SlateRedisStatus status = REDIS_DONE;

	for (int i = 0; i < nnodes && status == REDIS_DONE; i++)
	{
		node = &nodes[i];
		if (slate_link_is_open(&node->link))
			status = refresh_answers(deadline, wait);
		else
			status = connect_to_server(deadline, wait);
	}
	if (status == REDIS_DONE)
		node = nodes;
	return status;
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

	if (!slate_breaker_take_turn(slate_redis_connect_timeout +
								 slate_redis_timeout))
		return resting();

	busy_until = deadline;
	look_at_connections(now);
	status = find_servers(deadline, wait);
	if (status != REDIS_DONE)
		return status;
	status = connect_all(deadline, wait);
	slate_redis_watch_idle();
	return status;
}

/* What slate_redis_run() puts between the replies and the caller. */
typedef struct Watch
{
	SlateReplyFn reply_fn;
	void	   *arg;
	bool		read_only;		/* a reply was READONLY */
	bool		moved;			/* a reply told that the slot is another's */
} Watch;

static bool
is_read_only(const redisReply *reply)
{
	if (reply->type == REDIS_REPLY_ARRAY)
		for (size_t i = 0; i < reply->elements; i++)
			if (is_read_only(reply->element[i]))
				return true;
	return slate_link_is_error(reply, "READONLY");
}

/*
 * Does a node of the Cluster say that it does not have, or no longer serves, what
 * we think it has?  A slot that is just being moved is still its own: ASK,
 * TRYAGAIN, and what scripts get then, "non local key".
 */
static bool
is_moved(const redisReply *reply)
{
	return slate_link_is_error(reply, "MOVED ") ||
		slate_link_is_error(reply, "CLUSTERDOWN");
}

/* SlateReplyFn */
static void
watch_reply(int index, const redisReply *reply, void *arg)
{
	Watch	   *watch = arg;

	note_refusal(reply);
	if (is_read_only(reply))
		watch->read_only = true;
	if (topology.count > 0 && is_moved(reply))
		watch->moved = true;
	if (watch->reply_fn != NULL)
		watch->reply_fn(index, reply, watch->arg);
}

/* Drop the connections, for the reason that was set. */
static void
lose_all(void)
{
	close_all();
	for (int i = 0; i < nnodes; i++)
		nodes[i].loss_is_told = true;
}

/*
 * The last look at the master is what makes REDIS_DONE worth something: who
 * empties a new master before trusting it has told of the change before, so
 * that what came too late for that does not count as delivered.
 */
SlateRedisStatus
slate_redis_run(int which, const char *bytes, size_t len, int nreplies,
				SlateExpected *expected, SlateReplyFn reply_fn, void *arg,
				int64 deadline, SlateWait wait)
{
	Watch		watch = {.reply_fn = reply_fn,.arg = arg};
	SlateLinkStatus status;

	node = &nodes[which];
	if (!slate_link_is_open(&node->link) &&
		!slate_link_is_ahead(&node->link, bytes, len))
	{
		if (!node->loss_is_told)
			set_error("there is no connection");
		return REDIS_UNREACHABLE;
	}
	if (slate_link_now() >= deadline)
	{
		set_error("there was no time left to ask");
		return REDIS_TIMEOUT;
	}

	busy_until = deadline;
	status = slate_link_exchange(&node->link, bytes, len, nreplies,
								 expected, watch_reply, &watch, deadline,
								 wait);
	if (status != LINK_OK)
		return link_failed(status, slate_redis_timeout);

	if (master_has_changed())
	{
		set_error("another server has become the master");
		lose_all();
		return REDIS_UNREACHABLE;
	}
	if (topology_has_changed() || watch.moved)
	{
		set_error("other masters serve the slots");
		lose_all();
		distrust();
		return watch.moved ? REDIS_DONE : REDIS_UNREACHABLE;
	}
	if (watch.read_only)
	{
		set_error("the server is read-only");
		lose_all();
		distrust();
		return REDIS_DONE;
	}
	note_node_success();
	node = nodes;
	return REDIS_DONE;
}

static bool
all_are_open(void)
{
	for (int i = 0; i < nnodes; i++)
	{
		if (!slate_link_is_open(&nodes[i].link))
			return false;
	}
	return true;
}

uint64
slate_redis_connection(void)
{
	return all_are_open() ? connection_number : 0;
}

uint64
slate_redis_identity(void)
{
	uint64		whole = topology.hash;

	if (!all_are_open())
		return 0;
	if (topology.count == 0 && server.database == 0)
		return nodes[0].info.identity;
	if (topology.count == 0)
		whole = (uint64) server.database;
	for (int i = 0; i < nnodes; i++)
		whole = hash_combine64(whole, nodes[i].info.identity);
	return Max(whole, 1);
}

/* Of an open connection, in ms. */
static int64
clock_of(const Peer *one)
{
	int64		now = slate_handshake_clock();

	/* clocks drift apart; see redis.h for the allowance */
	return (now + one->info.clock_offset - (now - one->info.clock_told_at) / 1000) / 1000;
}

int64
slate_redis_server_clock(void)
{
	return slate_link_is_open(&nodes[0].link) ? clock_of(&nodes[0]) : 0;
}

int64
slate_redis_clock_ahead(int which)
{
	if (which == 0 || !slate_link_is_open(&nodes[0].link) ||
		!slate_link_is_open(&nodes[which].link))
		return 0;
	return clock_of(&nodes[which]) - clock_of(&nodes[0]);
}
