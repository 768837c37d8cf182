/*-------------------------------------------------------------------------
 *
 * redis.c
 *	  This backend's connections: to the server, the master, or each master.
 *
 * Each backend has one connection, with a Cluster one to each of its masters,
 * made when it is first needed and kept.  (The postmaster makes none, so there is
 * none to inherit.)  Life with it goes prepare, run, prepare, run, ...: all that
 * can take long or need memory is in slate_redis_prepare(), before a commit;
 * slate_redis_run() only sends, receives and keeps the books.
 *
 * Throws: nothing, except out of LINK_WAIT_INTERRUPTIBLE waits, see link.c, and
 * what makes a preamble.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "breaker.h"
#include "cluster.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "names.h"
#include "redis.h"
#include "sentinel.h"
#include "storage/ipc.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

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
int			slate_redis_timeout = 250;
int			slate_redis_connect_timeout = 250;
int			slate_redis_idle_timeout = 60;

/* Without a Cluster there is one. */
static SlatePeer nodes[SLATE_MAX_NODES];
static int	nnodes = 1;

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

/* What slate_redis_refusal() returns. */
static char refusal_text[SLATE_REASON_SIZE];

static void
close_breaker(void)
{
	if (slate_breaker_is_open())
		slate_breaker_close(slate_redis_server_name());
}

/* A node is well.  The breaker is for all: are the others? */
static void
note_success(void)
{
	for (int i = 0; i < nnodes; i++)
	{
		if (nodes[i].has_failed)
			return;
	}
	close_breaker();
}

const char *
slate_redis_error(void)
{
	return slate_peer_error();
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

/* The same, if that is what has come of trying. */
static SlateRedisStatus
judge(const SlatePeer *node, SlateRedisStatus status)
{
	if (status != REDIS_DONE && status != REDIS_TOO_LARGE && node->has_failed)
		distrust();
	return status;
}

/* ----------
 * Settings
 * ----------
 */

static void
close_all(void)
{
	for (int i = 0; i < nnodes; i++)
		slate_link_close(&nodes[i].link);
}

/* Back to one node, of which no more is known than the url tells. */
static void
forget_nodes(void)
{
	const SlateUrl *url = slate_service();
	bool		is_there = url->sentinels.count == 0 && url->cluster.count == 0;

	close_all();
	nnodes = 1;
	slate_peer_move(&nodes[0], is_there ? &url->address : NULL, 0);
	memset(&topology, 0, sizeof(topology));
	topology_number++;
}

/* Begin with another url. */
static void
begin_anew(void)
{
	const SlateUrl *url = slate_service();

	forget_nodes();
	master_changes = 0;
	distrusted_at = 0;
	if (url->sentinels.count > 0)
		slate_sentinel_choose(&url->sentinels);
	if (url->cluster.count > 0)
		slate_cluster_choose(&url->cluster);
	slate_breaker_choose(hash_bytes_extended((const unsigned char *) url,
											 sizeof(*url), 0));
}

/* Make the settings' present values those in use. */
static void
load_settings(void)
{
	if (!slate_service_is_new())
		return;
	close_all();
	if (slate_service_take_up())
		begin_anew();
}

const char *
slate_redis_server_name(void)
{
	static char to_come[SLATE_SERVICE_NAME_SIZE];

	if (nodes[0].name[0] != '\0')
		return nodes[0].name;
	slate_service_write_name(to_come, NULL, 0);
	return to_come;
}

void
slate_redis_set_preamble(SlatePreambleFn fn)
{
	preamble_fn = fn;
}

static SlateRedisStatus
connect_to(int which, int64 deadline, SlateWait wait)
{
	SlatePreamble preamble = {0};

	/* may throw, and an open link would be taken for one with a handshake */
	if (preamble_fn)
		preamble_fn(which, &preamble);
	connection_number++;
	return slate_peer_connect(&nodes[which], &preamble,
							  slate_redis_connect_timeout, deadline, wait);
}

/* ----------
 * Who knows the servers
 * ----------
 */

typedef struct Informants
{
	const char *name;			/* of one */
	SlateLinkStatus (*ask) (const char *user, const char *password,
							bool another, int64 deadline, SlateWait wait);
	const char *(*error) (void);
} Informants;

static const Informants sentinels = {
	"sentinel", slate_sentinel_ask, slate_sentinel_error
};
static const Informants masters = {
	"node", slate_cluster_ask, slate_cluster_error
};

/* On failure the reason is noted, but no failure of a server. */
static SlateLinkStatus
ask(const Informants *whom, bool another, int64 deadline, SlateWait wait)
{
	static char password[SLATE_PASSWORD_SIZE];	/* a throw leaks nothing */
	SlateLinkStatus status;

	if (!slate_peer_password(&nodes[0], password))
		return LINK_UNREACHABLE;
	status = whom->ask(slate_service()->user, password, another, deadline,
					   wait);
	explicit_bzero(password, sizeof(password));
	if (status != LINK_OK)
		slate_peer_set_error(&nodes[0], "no %s could be asked: %s",
							 whom->name, whom->error());
	return status;
}

/* They have been asked, with that status, and nothing is known. */
static SlateRedisStatus
nobody_knows(const Informants *whom, SlateLinkStatus status)
{
	bool		is_timeout = status == LINK_TIMEOUT;

	if (status == LINK_OK)
		slate_peer_set_error(&nodes[0],
							 "what the %ss have said could not be read",
							 whom->name);
	slate_peer_fail(&nodes[0], is_timeout ? slate_redis_connect_timeout : 0);
	return is_timeout ? REDIS_TIMEOUT : REDIS_UNREACHABLE;
}

/* ----------
 * The master
 * ----------
 */

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
		status = ask(&sentinels, distrusted_at != 0,
					 now + (deadline - now) / 2, wait);
	distrusted_at = 0;

	if (!slate_sentinel_known(&master))
		return master_changes != 0 ? REDIS_DONE
			: nobody_knows(&sentinels, status);

	if (master.changes != master_changes)
	{
		slate_peer_move(&nodes[0], &master.address, 0);
		master_changes = master.changes;
	}
	return REDIS_DONE;
}

/* Has anybody heard of another master than the one we are connected to? */
static bool
master_has_changed(void)
{
	return slate_service()->sentinels.count > 0 &&
		slate_sentinel_changes() != master_changes;
}

int64
slate_redis_sentinels_silence(void)
{
	return slate_service()->sentinels.count > 0 ? slate_sentinel_silence() : 0;
}

/* ----------
 * The Cluster
 * ----------
 */

/* Talk to other nodes from now on. */
static void
take_topology(void)
{
	close_all();
	nnodes = topology.count;
	topology_number++;
	for (int i = 0; i < nnodes; i++)
		slate_peer_move(&nodes[i], &topology.node[i].address, nnodes);
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
		status = ask(&masters, distrusted_at != 0,
					 now + (deadline - now) / 2, wait);
	distrusted_at = 0;
	if (topology.count > 0 && topology.changes == slate_cluster_changes())
		return REDIS_DONE;
	if (slate_cluster_known(&topology))
	{
		take_topology();
		return REDIS_DONE;
	}
	forget_nodes();
	return nobody_knows(&masters, status);
}

/* Has anybody heard that other masters serve the slots? */
static bool
topology_has_changed(void)
{
	return slate_service()->cluster.count > 0 &&
		slate_cluster_changes() != topology.changes;
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
	slate_peer_set_error(&nodes[0], "other masters serve the slots");
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
		(void) ask(&sentinels, true, deadline, LINK_WAIT_INTERRUPTIBLE);

	/* what was learnt of one server says nothing about another */
	if (slate_sentinel_changes() != seen)
		close_breaker();
	seen = slate_sentinel_changes();
}

static void
refresh_cluster(int64 deadline)
{
	static uint64 seen = 0;

	if (slate_cluster_should_ask(0, MASTER_REFRESH))
		(void) ask(&masters, true, deadline, LINK_WAIT_INTERRUPTIBLE);
	if (slate_cluster_changes() != seen)
		close_breaker();
	seen = slate_cluster_changes();
}

void
slate_redis_refresh(void)
{
	int64		deadline = slate_link_now() +
		Min(slate_redis_connect_timeout, REFRESH_TIMEOUT);

	load_settings();
	if (slate_service()->sentinels.count > 0)
		refresh_sentinels(deadline);
	if (slate_service()->cluster.count > 0)
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
	load_settings();
}

int64
slate_redis_next_try(void)
{
	load_settings();
	return slate_breaker_next_try();
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
		slate_peer_set_error(&nodes[0], "not asked for another %d ms, failures in a row: %d; the last: %s",
							 (int) rests_for, failures, reason);
	else
		slate_peer_set_error(&nodes[0], "not asked until the worker has tried, failures in a row: %d; the last: %s",
							 failures, reason);
	return REDIS_RESTING;
}

void
slate_redis_want_names(void)
{
	static SlateTopology served;	/* large; we have no connections to it */
	const SlateUrl *url = slate_service();
	SlateMaster master;

	load_settings();
	for (int i = 0; i < url->cluster.count; i++)
		slate_names_want(&url->cluster.address[i]);
	if (url->cluster.count > 0 && slate_cluster_known(&served))
	{
		for (int i = 0; i < served.count; i++)
			slate_names_want(&served.node[i].address);
	}
	for (int i = 0; i < url->sentinels.count; i++)
		slate_names_want(&url->sentinels.address[i]);
	if (url->sentinels.count > 0 && slate_sentinel_known(&master))
		slate_names_want(&master.address);
	if (url->cluster.count == 0 && url->sentinels.count == 0)
		slate_names_want(&url->address);
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
	used_at = now;
	if (shut_down_idle)
		close_all();
	shut_down_idle = false;

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
	if (slate_service()->sentinels.count > 0)
		return find_master(deadline, wait);
	if (slate_service()->cluster.count > 0)
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
		if (slate_link_is_open(&nodes[i].link))
			status = slate_peer_refresh(&nodes[i], answers_max_age,
										slate_redis_connect_timeout,
										deadline, wait);
		else
			status = connect_to(i, deadline, wait);
		(void) judge(&nodes[i], status);
	}
	return status;
}

SlateRedisStatus
slate_redis_prepare(int64 deadline, SlateWait wait)
{
	int64		now = slate_link_now();
	SlateRedisStatus status;

	load_settings();

	if (now >= deadline)
	{
		slate_peer_set_error(&nodes[0], "there was no time left to ask");
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

/* Drop the connections, for a reason that was met at a node. */
static void
lose_all(const SlatePeer *node, const char *reason)
{
	slate_peer_set_error(node, "%s", reason);
	for (int i = 0; i < nnodes; i++)
		slate_peer_lose(&nodes[i]);
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
	SlatePeer  *node = &nodes[which];
	Watch		watch = {.reply_fn = reply_fn,.arg = arg};
	SlateRedisStatus status;

	busy_until = deadline;
	status = slate_peer_exchange(node, bytes, len, nreplies, expected,
								 watch_reply, &watch, slate_redis_timeout,
								 deadline, wait);
	if (status != REDIS_DONE)
		return judge(node, status);

	if (master_has_changed())
	{
		lose_all(node, "another server has become the master");
		return REDIS_UNREACHABLE;
	}
	if (topology_has_changed() || watch.moved)
	{
		lose_all(node, "other masters serve the slots");
		distrust();
		return watch.moved ? REDIS_DONE : REDIS_UNREACHABLE;
	}
	if (watch.read_only)
	{
		lose_all(node, "the server is read-only");
		distrust();
		return REDIS_DONE;
	}
	note_success();
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
	if (topology.count == 0 && slate_service()->database == 0)
		return nodes[0].info.identity;
	if (topology.count == 0)
		whole = (uint64) slate_service()->database;
	for (int i = 0; i < nnodes; i++)
		whole = hash_combine64(whole, nodes[i].info.identity);
	return Max(whole, 1);
}

/* Of an open connection, in ms. */
static int64
clock_of(const SlatePeer *node)
{
	int64		now = slate_handshake_clock();

	/* clocks drift apart; see redis.h for the allowance */
	return (now + node->info.clock_offset - (now - node->info.clock_told_at) / 1000) / 1000;
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
