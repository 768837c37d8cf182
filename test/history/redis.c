/*-------------------------------------------------------------------------
 *
 * redis.c
 *	  Redis as an app sees it: one, or the masters of a Cluster.
 *
 * In a Cluster this does what an app's client does.  It asks some node for the
 * slots (CLUSTER SLOTS), sends each GET to the master that has the slot of its
 * key, and goes where MOVED and ASK tell it.  MOVED is remembered.  A node that
 * fails, or says that the Cluster is down, loses what we thought that it has;
 * then others are asked.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "redis.h"

/* Nodes that we have ever heard of. */
#define MAX_SERVERS 64

/* How often a GET is sent on. */
#define MAX_REDIRECTIONS 8

typedef struct Server
{
	char		host[64];		/* empty: a socket */
	int			port;
	redisContext *connection;
} Server;

static Server servers[MAX_SERVERS];
static int	nservers;
static int8_t owner[NSLOTS];	/* an index of servers[]; -1: not known */
static int	next_asked;

/*
 * Longer than any fault lasts; then the connection is begun anew.  In a Cluster
 * others may have taken over by then.
 */
static const struct timeval patience = {20, 0};
static const struct timeval cluster_patience = {2, 0};

/*
 * Slots
 */

/* CRC16/XMODEM. */
static uint16_t
crc16(const char *bytes, size_t len)
{
	uint16_t	crc = 0;

	for (size_t i = 0; i < len; i++)
	{
		crc ^= (uint16_t) ((uint8_t) bytes[i] << 8);
		for (int bit = 0; bit < 8; bit++)
			crc = (uint16_t) (crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1);
	}
	return crc;
}

int
redis_slot(const char *key)
{
	const char *open = strchr(key, '{');
	const char *close = open != NULL ? strchr(open, '}') : NULL;

	if (close != NULL && close > open + 1)
		return crc16(open + 1, close - open - 1) % NSLOTS;
	return crc16(key, strlen(key)) % NSLOTS;
}

/*
 * Servers
 */

static int
find_server(const char *host, size_t len, int port)
{
	Server	   *server;

	for (int i = 0; i < nservers; i++)
		if (servers[i].port == port && strlen(servers[i].host) == len &&
			memcmp(servers[i].host, host, len) == 0)
			return i;
	if (nservers == MAX_SERVERS || len >= sizeof(servers[0].host))
		return -1;
	server = &servers[nservers];
	memcpy(server->host, host, len);
	server->port = port;
	return nservers++;
}

/* "host:port"; -1: it is none. */
static int
find_address(const char *address, size_t len)
{
	const char *colon = memrchr(address, ':', len);
	int			port = colon != NULL ? atoi(colon + 1) : 0;

	if (colon == NULL || colon == address || port <= 0)
		return -1;
	return find_server(address, colon - address, port);
}

static void
start(void)
{
	memset(owner, options.cluster != NULL ? -1 : 0, sizeof(owner));
	if (options.cluster == NULL)
	{
		nservers = 1;
		return;
	}
	for (const char *seed = options.cluster; *seed != '\0';)
	{
		size_t		len = strcspn(seed, ",");

		(void) find_address(seed, len);
		seed += len + (seed[len] == ',');
	}
	if (nservers == 0)
	{
		fprintf(stderr, "history: --cluster names no nodes\n");
		exit(2);
	}
	next_asked = choose(nservers);
}

redisContext *
redis_connection(int number)
{
	Server	   *server = &servers[number];
	struct timeval timeout = options.cluster != NULL ? cluster_patience : patience;
	redisContext *fresh;

	if (server->connection != NULL && server->connection->err == 0)
		return server->connection;
	if (server->connection != NULL)
		redisFree(server->connection);
	server->connection = NULL;
	fresh = options.cluster == NULL
		? redisConnectUnixWithTimeout(options.socket, timeout)
		: redisConnectWithTimeout(server->host, server->port, timeout);
	if (fresh != NULL && fresh->err == 0 && redisSetTimeout(fresh, timeout) == REDIS_OK)
	{
		tally->reconnections++;
		return server->connection = fresh;
	}
	if (fresh != NULL)
		redisFree(fresh);
	return NULL;
}

void
redis_failed(int number)
{
	Server	   *server = &servers[number];

	if (server->connection != NULL)
		redisFree(server->connection);
	server->connection = NULL;
	if (options.cluster != NULL)
		for (int slot = 0; slot < NSLOTS; slot++)
			if (owner[slot] == number)
				owner[slot] = -1;
}

void
redis_close_all(void)
{
	for (int i = 0; i < nservers; i++)
	{
		if (servers[i].connection != NULL)
			redisFree(servers[i].connection);
		servers[i].connection = NULL;
	}
}

/*
 * Who has which slots
 */

/*
 * The first slot, the last, and their master: host and port.  No host is that
 * of the node which says so.
 */
static void
take_range(const redisReply *range, const Server *from)
{
	const redisReply *master;
	const char *host = from->host;
	int			number;

	if (range->type != REDIS_REPLY_ARRAY || range->elements < 3)
		return;
	master = range->element[2];
	if (master->type != REDIS_REPLY_ARRAY || master->elements < 2)
		return;
	if (master->element[0]->type == REDIS_REPLY_STRING && master->element[0]->len > 0)
		host = master->element[0]->str;
	number = find_server(host, strlen(host), (int) master->element[1]->integer);
	for (long long slot = range->element[0]->integer;
		 slot >= 0 && slot < NSLOTS && slot <= range->element[1]->integer; slot++)
		owner[slot] = (int8_t) number;
}

static bool
ask_for_slots(int number)
{
	redisContext *connection = redis_connection(number);
	redisReply *reply;
	bool		is_answer;

	if (connection == NULL)
		return false;
	reply = redisCommand(connection, "CLUSTER SLOTS");
	if (reply == NULL)
	{
		redis_failed(number);
		return false;
	}
	is_answer = reply->type == REDIS_REPLY_ARRAY;
	for (size_t i = 0; is_answer && i < reply->elements; i++)
		take_range(reply->element[i], &servers[number]);
	freeReplyObject(reply);
	return is_answer;
}

/* The next node, until one answers. */
int
redis_server_of(const char *key)
{
	int			slot;

	if (nservers == 0)
		start();
	if (options.cluster == NULL)
		return 0;
	slot = redis_slot(key);
	for (int i = 0; i < nservers && owner[slot] < 0; i++)
		if (ask_for_slots(next_asked++ % nservers))
			break;
	return owner[slot];
}

/*
 * Redirections
 */

static bool
begins_with(const redisReply *reply, const char *text)
{
	return reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, text, strlen(text)) == 0;
}

bool
redis_is_redirection(const redisReply *reply)
{
	return begins_with(reply, "MOVED ") || begins_with(reply, "ASK ");
}

bool
redis_is_down(const redisReply *reply)
{
	return begins_with(reply, "CLUSTERDOWN");
}

/* "MOVED 3999 127.0.0.1:6381"; where to, or -1. */
static int
take_redirection(const char *text, bool *asking)
{
	const char *slot = strchr(text, ' ');
	const char *address = slot != NULL ? strchr(slot + 1, ' ') : NULL;
	int			number;

	*asking = strncmp(text, "ASK ", 4) == 0;
	number = address != NULL ? find_address(address + 1, strlen(address + 1)) : -1;
	if (number >= 0 && !*asking)
		owner[atoi(slot + 1) & (NSLOTS - 1)] = (int8_t) number;
	return number;
}

static redisReply *
get_at(int number, bool asking, const char *key)
{
	redisContext *connection = redis_connection(number);
	redisReply *reply;

	if (connection != NULL && asking)
	{
		reply = redisCommand(connection, "ASKING");
		if (reply == NULL)
			connection = NULL;
		freeReplyObject(reply);
	}
	reply = connection != NULL ? redisCommand(connection, "GET %s", key) : NULL;
	if (reply == NULL || redis_is_down(reply))
		redis_failed(number);
	return reply;
}

redisReply *
redis_get(const char *key, const char *redirection)
{
	bool		asking = false;
	int			server;
	redisReply *reply;

	if (redirection != NULL)
		server = take_redirection(redirection, &asking);
	else
		server = redis_server_of(key);
	for (int i = 0; i < MAX_REDIRECTIONS && server >= 0; i++)
	{
		reply = get_at(server, asking, key);
		if (reply == NULL || !redis_is_redirection(reply))
			return reply;
		server = take_redirection(reply->str, &asking);
		freeReplyObject(reply);
	}
	return NULL;
}
