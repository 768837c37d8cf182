/*-------------------------------------------------------------------------
 *
 * cluster.c
 *	  Which master of a Redis Cluster has which keys: what its nodes say.
 *
 * What one process was told all know: shared memory has an entry for each
 * group of seeds (of the first few; the rest remember for themselves).  A
 * worker asks twice a second, so that backends rarely have to.
 *
 * Nodes may disagree: one that was stopped, or cut off from the others, goes
 * on naming a master that has been replaced.  The current epoch that a node
 * knows grows with each failover, and with each slot that finds a new master.
 * So an answer with a smaller epoch than the one that is known is not taken,
 * and the next node is asked.  It may be another Cluster by now, whose counting
 * has begun anew.  Then most of those that we know say so, or, where none of
 * them is left, most of the masters that the answer itself names.
 *
 * A node is asked for its epoch first and for the slots then: what it learns
 * in between makes an answer of new slots with an old epoch, which the next
 * one mends, but never old slots that pass for new ones.
 *
 * A connection to each node is made for each question, and closed.
 *
 * The entries begin as hearsay.c tells, and are written as sequence.h does.
 * There are no locks.  A topology is large: all copies of it are static.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "cluster.h"
#include "common/hashfn.h"
#include "events.h"
#include "handshake.h"
#include "hearsay.h"
#include "names.h"
#include "sequence.h"
#include "url.h"

/* How many groups are remembered in shared memory. */
#define GROUPS 4

/* No node gets a smaller share of the time that is left than 1/8. */
#define MAX_SHARES 8

/* Those that are known, the seeds, and those that an old answer names. */
#define MAX_ASKED (2 * SLATE_MAX_NODES + SLATE_MAX_SEEDS)

/* Room for a password and the questions, in RESP. */
#define QUESTION_ROOM (SLATE_AUTH_ROOM + 128)

/* Of a slot, while an answer is read. */
#define NOBODY 0xff

/* Each slot has a number below it, see choose_tags(); the last is 109757. */
#define TAG_NUMBERS 109758

#define NONSENSE "its answer makes no sense"

/* How a node sees the Cluster. */
typedef struct View
{
	SlateTopology topology;
	uint64		epoch;			/* the greatest that it has heard of */
} View;

/* What is known of one Cluster. */
typedef struct Knowledge
{
	SlateHearsay hearsay;		/* changes: how often the topology was
								 * another; last: the hash of a node */
	View		view;
} Knowledge;

/* A master, as it is called in an answer. */
typedef struct Master
{
	char		id[41];
	bool		is_host_guessed;	/* it is that of the node that was asked */
	SlateAddress address;
} Master;

/* What one node says. */
typedef struct Answer
{
	const SlateAddress *from;
	int			skip;			/* replies before those that matter */
	bool		wants_password;
	bool		has_info;
	bool		has_slots;
	bool		is_up;			/* it thinks that the Cluster is */
	int			nmasters;
	Master		master[SLATE_MAX_NODES];	/* in the order of the answer */
	uint8		order[SLATE_MAX_NODES]; /* their indexes, by first slots */
	View		view;
	char		objection[128]; /* why it is of no use to us */
} Answer;

typedef struct Asked
{
	SlateAddress address;
	uint64		said;			/* the hash of a topology; 0: nothing */
} Asked;

static Knowledge own_knowledge;
static SlateHearsayTable table = {"slate_cache cluster", GROUPS,
sizeof(Knowledge), &own_knowledge.hearsay, NULL};

/* The group in use, and what is known of its Cluster. */
static const SlateSeeds *seeds = NULL;
static Knowledge *knowledge = NULL;

/* The node that is being asked; see link.h. */
static SlateLink connection;

/* What is sent to it: static, so that a throw leaks nothing. */
static char question[QUESTION_ROOM];

/* What it says to that. */
static Answer answer;

/* Of one slate_cluster_ask(): what was known, whom it asks, the best answer. */
static View present;
static Asked asked[MAX_ASKED];
static int	nasked;
static View newest;
static int	newest_from;		/* an index of asked[] */

static char error_text[700];

/* ------------------------------------------------------------------------
 * Slots
 * ------------------------------------------------------------------------
 */

/* What each byte does to the bits below it; 0x1021 is the polynomial. */
static uint16 crc_table[256];

static void
build_crc_table(void)
{
	for (int byte = 0; byte < 256; byte++)
	{
		int			crc = byte << 8;

		for (int bit = 0; bit < 8; bit++)
			crc = (crc & 0x8000) ? (crc << 1) ^ 0x1021 : crc << 1;
		crc_table[byte] = (uint16) crc;
	}
}

/* CRC16/XMODEM, which begins with 0. */
static uint16
crc16(const char *bytes, int len)
{
	uint16		crc = 0;

	if (crc_table[1] == 0)
		build_crc_table();
	for (int i = 0; i < len; i++)
		crc = (uint16) ((crc << 8) ^ crc_table[(crc >> 8) ^ (uint8) bytes[i]]);
	return crc;
}

/*
 * See "Key distribution model" and "Hash tags" in the Redis Cluster
 * specification,
 * https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
 * An empty tag is none, whatever follows it.
 */
int
slate_cluster_slot(const char *key, int keylen)
{
	const char *end = key + keylen;
	const char *open = keylen > 0 ? memchr(key, '{', keylen) : NULL;
	const char *close;

	if (open != NULL)
	{
		open++;
		close = open < end ? memchr(open, '}', end - open) : NULL;
		if (close != NULL && close > open)
		{
			key = open;
			keylen = close - open;
		}
	}
	return crc16(key, keylen) % SLATE_NSLOTS;
}

/* The line of the node itself has "[slot-<-from]" for each. */
bool
slate_cluster_may_import(const redisReply *reply, int slot)
{
	char		importing[24];

	snprintf(importing, sizeof(importing), "[%d-<-", slot);
	return reply->type != REDIS_REPLY_STRING ||
		strstr(reply->str, importing) != NULL;
}

/* ------------------------------------------------------------------------
 * What is known
 * ------------------------------------------------------------------------
 */

Size
slate_cluster_shmem_size(void)
{
	return slate_hearsay_shmem_size(&table);
}

void
slate_cluster_shmem_startup(void)
{
	slate_hearsay_shmem_startup(&table);
}

void
slate_cluster_choose(const SlateSeeds *chosen)
{
	seeds = chosen;
	knowledge = (Knowledge *) slate_hearsay_choose(&table, chosen,
												   sizeof(*chosen));
}

/*
 * If another process is at it, that will do; and so if one has heard of changes
 * since we looked: tags are kept from what was there then.
 */
static void
write_knowledge(const View *view)
{
	bool		is_failover = false;

	if (!slate_sequence_begin_write(&knowledge->hearsay.sequence))
		return;
	if (pg_atomic_read_u64(&knowledge->hearsay.changes) == present.topology.changes &&
		knowledge->view.epoch <= Max(present.epoch, view->epoch))
	{
		knowledge->view.epoch = view->epoch;
		if (knowledge->view.topology.hash != view->topology.hash)
		{
			memcpy(&knowledge->view.topology, &view->topology,
				   sizeof(view->topology));
			is_failover = pg_atomic_fetch_add_u64(&knowledge->hearsay.changes, 1) > 0;
		}
	}
	slate_sequence_end_write(&knowledge->hearsay.sequence);
	if (is_failover)
		slate_events_note(EVENT_FAILOVER, InvalidOid,
						  "cluster: its slots are served by others than before (masters: %d)",
						  view->topology.count);
}

bool
slate_cluster_known(SlateTopology *topology)
{
	return slate_hearsay_read(&knowledge->hearsay, topology,
							  &knowledge->view.topology, sizeof(*topology),
							  &topology->changes);
}

uint64
slate_cluster_changes(void)
{
	return slate_hearsay_changes(&knowledge->hearsay);
}

bool
slate_cluster_should_ask(int64 distrusted_at, int64 max_age)
{
	return slate_hearsay_should_ask(&knowledge->hearsay, distrusted_at,
									max_age);
}

/* ------------------------------------------------------------------------
 * What a node says
 *
 * Functions that return a text return NULL, or what is wrong with the answer.
 * ------------------------------------------------------------------------
 */

/* CLUSTER INFO: lines. */
static const char *
take_info(const redisReply *reply)
{
	const char *value;
	size_t		len;
	int64		epoch;

	if (reply->type != REDIS_REPLY_STRING)
		return NONSENSE;
	value = slate_link_info_value(reply->str, "cluster_state", &len);
	if (value == NULL)
		return NONSENSE;
	answer.is_up = len == 2 && memcmp(value, "ok", 2) == 0;

	value = slate_link_info_value(reply->str, "cluster_current_epoch", &len);
	if (value == NULL ||
		!slate_url_parse_number(value, len, PG_INT64_MAX, &epoch))
		return NONSENSE;
	answer.view.epoch = epoch;
	answer.has_info = true;
	return NULL;
}

/* No host, or an empty one, is that of the node that says so. */
static const char *
read_host(const redisReply *host, Master *master)
{
	SlateAddress *address = &master->address;

	if (host->type == REDIS_REPLY_NIL ||
		(host->type == REDIS_REPLY_STRING && host->len == 0))
	{
		master->is_host_guessed = true;
		strlcpy(address->host, answer.from->host, sizeof(address->host));
		return NULL;
	}
	if (host->type != REDIS_REPLY_STRING)
		return NONSENSE;
	if (strcmp(host->str, "?") == 0)
		return "it does not know the host name of a node";
	if (host->len >= sizeof(address->host) ||
		strspn(host->str, SLATE_HOST_CHARACTERS) != host->len)
		return NONSENSE;
	strlcpy(address->host, host->str, sizeof(address->host));
	return NULL;
}

/* Host, port, id, and what is of no interest. */
static const char *
read_master(const redisReply *reply, Master *master)
{
	const redisReply *port;
	const redisReply *id;

	memset(master, 0, sizeof(*master));
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements < 3)
		return NONSENSE;
	port = reply->element[1];
	id = reply->element[2];
	if (port->type != REDIS_REPLY_INTEGER ||
		port->integer < 1 || port->integer > 65535 ||
		id->type != REDIS_REPLY_STRING ||
		id->len == 0 || id->len >= sizeof(master->id) ||
		strlen(id->str) != id->len)
		return NONSENSE;
	strlcpy(master->id, id->str, sizeof(master->id));
	master->address.is_tls = answer.from->is_tls;
	master->address.port = port->integer;
	return read_host(reply->element[0], master);
}

/* Its number, which is a new one if it was not named before. */
static const char *
number_master(const Master *master, int *which)
{
	for (int i = 0; i < answer.nmasters; i++)
	{
		const Master *other = &answer.master[i];
		bool		same_id = strcmp(other->id, master->id) == 0;

		if (slate_link_same_address(&other->address, &master->address) != same_id)
			return NONSENSE;
		*which = i;
		if (same_id)
			return NULL;
	}
	if (answer.nmasters == SLATE_MAX_NODES)
		return "there are more than " CppAsString2(SLATE_MAX_NODES) " masters";
	*which = answer.nmasters++;
	answer.master[*which] = *master;
	return NULL;
}

/* The first slot, the last, their master, and replicas. */
static const char *
take_range(const redisReply *reply)
{
	uint8	   *owner = answer.view.topology.owner;
	const redisReply *first;
	const redisReply *last;
	Master		master;
	int			which;
	const char *objection;

	if (reply->type != REDIS_REPLY_ARRAY || reply->elements < 3)
		return NONSENSE;
	first = reply->element[0];
	last = reply->element[1];
	if (first->type != REDIS_REPLY_INTEGER ||
		last->type != REDIS_REPLY_INTEGER || first->integer < 0 ||
		first->integer > last->integer || last->integer >= SLATE_NSLOTS)
		return NONSENSE;

	objection = read_master(reply->element[2], &master);
	if (objection == NULL)
		objection = number_master(&master, &which);
	if (objection != NULL)
		return objection;
	for (int slot = first->integer; slot <= last->integer; slot++)
	{
		if (owner[slot] != NOBODY)
			return NONSENSE;
		owner[slot] = which;
	}
	return NULL;
}

/* Number the masters anew, in the order of the first slot of each. */
static void
order_masters(SlateTopology *topology)
{
	uint8		number[SLATE_MAX_NODES];

	memset(number, NOBODY, sizeof(number));
	for (int slot = 0; slot < SLATE_NSLOTS; slot++)
	{
		uint8		which = topology->owner[slot];

		if (number[which] == NOBODY)
		{
			int			next = topology->count++;

			number[which] = next;
			answer.order[next] = which;
			topology->node[next].address = answer.master[which].address;
		}
		topology->owner[slot] = number[which];
	}
}

/*
 * Of all that is told of the masters, now that they are in order; never 0.  By
 * which name we have asked is not.
 */
static uint64
hash_masters(const SlateTopology *topology)
{
	uint64		hash = hash_bytes_extended(topology->owner,
										   sizeof(topology->owner), 0);

	for (int i = 0; i < topology->count; i++)
	{
		const Master *master = &answer.master[answer.order[i]];

		/* zeroed before they were filled in */
		hash = hash_bytes_extended((const unsigned char *) master->id,
								   sizeof(master->id), hash);
		if (!master->is_host_guessed)
			hash = hash_bytes_extended((const unsigned char *) master->address.host,
									   sizeof(master->address.host), hash);
		hash = hash_bytes_extended((const unsigned char *) &master->address.port,
								   sizeof(master->address.port), hash);
	}
	return Max(hash, 1);
}

/* All slots are found: see TAG_NUMBERS. */
static void
choose_tags(SlateTopology *topology)
{
	int			missing = topology->count;

	for (int i = 0; missing > 0 && i < TAG_NUMBERS; i++)
	{
		char		digits[SLATE_TAG_SIZE];
		int			len = snprintf(digits, sizeof(digits), "%d", i);
		int			slot = slate_cluster_slot(digits, len);
		char	   *tag = topology->node[topology->owner[slot]].tag;

		if (tag[0] != '\0')
			continue;
		snprintf(tag, SLATE_TAG_SIZE, "{%d}", i);
		missing--;
	}
}

/* CLUSTER SLOTS: ranges of slots. */
static const char *
take_slots(const redisReply *reply)
{
	SlateTopology *topology = &answer.view.topology;

	if (reply->type != REDIS_REPLY_ARRAY)
		return NONSENSE;
	memset(topology->owner, NOBODY, sizeof(topology->owner));
	for (size_t i = 0; i < reply->elements; i++)
	{
		const char *objection = take_range(reply->element[i]);

		if (objection != NULL)
			return objection;
	}
	if (memchr(topology->owner, NOBODY, sizeof(topology->owner)) != NULL)
		return "not all slots are served";

	order_masters(topology);
	topology->hash = hash_masters(topology);
	choose_tags(topology);
	answer.has_slots = true;
	return NULL;
}

/* A user may have rights to ask that nobody in particular has not. */
static void
take_error(const redisReply *reply)
{
	if (slate_link_is_error(reply, "NOAUTH") ||
		slate_link_is_error(reply, "NOPERM"))
		answer.wants_password = true;
	if (answer.objection[0] == '\0')
		slate_link_words(answer.objection, sizeof(answer.objection), reply,
						 NULL);
}

/* SlateReplyFn; the first objection counts. */
static void
take_answer(int index, const redisReply *reply, void *arg)
{
	const char *objection = NULL;

	index -= answer.skip;
	if (reply->type == REDIS_REPLY_ERROR)
		take_error(reply);
	else if (index == 0)
		objection = take_info(reply);
	else if (index == 1)
		objection = take_slots(reply);
	if (objection != NULL && answer.objection[0] == '\0')
		strlcpy(answer.objection, objection, sizeof(answer.objection));
}

/* ------------------------------------------------------------------------
 * Asking one node
 * ------------------------------------------------------------------------
 */

/* Ask the node at the other end; with a password, if there is one. */
static SlateLinkStatus
exchange(const SlateAddress *address, const char *user, const char *password,
		 int64 deadline, SlateWait wait)
{
	SlateLinkStatus status;
	int			len = 0;

	memset(&answer, 0, sizeof(answer));
	answer.from = address;
	answer.skip = password[0] != '\0' ? 1 : 0;
	if (password[0] != '\0')
		len = slate_handshake_put_auth(question, user, password);
	len += snprintf(question + len, sizeof(question) - len,
					"*2\r\n$7\r\nCLUSTER\r\n$4\r\nINFO\r\n"
					"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n");

	status = slate_link_exchange(&connection, question, len, answer.skip + 2,
								 NULL, take_answer, NULL, deadline, wait);
	explicit_bzero(question, sizeof(question));
	return status;
}

static void
note_failure(const SlateAddress *address, const char *reason)
{
	slate_hearsay_note_failure(error_text, sizeof(error_text), address, reason);
}

/* Why the answer is of no use, or NULL. */
static const char *
find_objection(void)
{
	if (answer.objection[0] != '\0')
		return answer.objection;
	if (!answer.has_info || !answer.has_slots)
		return NONSENSE;
	return answer.is_up ? NULL : "it says that the cluster is down";
}

/* LINK_OK: it has told who serves the slots. */
static SlateLinkStatus
ask_one(const SlateAddress *address, const char *user, const char *password,
		int64 deadline, SlateWait wait)
{
	SlateLinkStatus status;
	const char *objection = NULL;

	status = slate_names_open(&connection, address, deadline, wait);
	if (status == LINK_OK)
		status = exchange(address, "", "", deadline, wait);
	if (status == LINK_OK && answer.wants_password && password[0] != '\0')
		status = exchange(address, user, password, deadline, wait);
	slate_link_close(&connection);

	if (status != LINK_OK)
		objection = connection.error;
	else if ((objection = find_objection()) != NULL)
		status = LINK_PROTOCOL;
	if (objection != NULL)
		note_failure(address, objection);
	return status;
}

/* ------------------------------------------------------------------------
 * Asking until one knows
 * ------------------------------------------------------------------------
 */

/* Ask that one, too, unless it is asked anyway. */
static void
add_asked(const SlateAddress *address)
{
	for (int i = 0; i < nasked; i++)
		if (slate_link_same_address(&asked[i].address, address))
			return;
	if (nasked == MAX_ASKED)
		return;
	asked[nasked].address = *address;
	asked[nasked].said = 0;
	nasked++;
}

static void
add_masters(const SlateTopology *topology)
{
	for (int i = 0; i < topology->count; i++)
		add_asked(&topology->node[i].address);
}

/* By which the one that answered last is known: others may be known by now. */
static uint64
hash_address(const SlateAddress *address)
{
	return hash_bytes_extended((const unsigned char *) address->host,
							   strlen(address->host), address->port);
}

/* The index of the one that answered last, or of the first. */
static int
find_last(void)
{
	uint64		last = pg_atomic_read_u64(&knowledge->hearsay.last);

	for (int i = 0; i < nasked; i++)
		if (hash_address(&asked[i].address) == last)
			return i;
	return 0;
}

static bool
is_master_of_newest(const SlateAddress *address)
{
	for (int i = 0; i < newest.topology.count; i++)
		if (slate_link_same_address(&newest.topology.node[i].address, address))
			return true;
	return false;
}

/* Is the newest answer to be taken?  nknown of those asked were known. */
static bool
newest_counts(int nknown)
{
	int			nanswers = 0;
	int			nmasters = 0;

	if (newest.topology.count == 0)
		return false;
	if (newest.epoch >= present.epoch)
		return true;
	for (int i = 0; i < nasked; i++)
	{
		if (i < nknown && asked[i].said != 0)
			nanswers++;
		if (asked[i].said == newest.topology.hash &&
			is_master_of_newest(&asked[i].address))
			nmasters++;
	}
	return nanswers > nknown / 2 || nmasters > newest.topology.count / 2;
}

/*
 * A node that still has the slot of its tag keeps that, though by now it may have
 * one of a smaller number: what it has under another tag is unknown to all who
 * think so, and who does not could still find it.  Where nothing is shared each
 * process chooses for itself, and all must choose the same.
 */
static void
keep_tags(SlateTopology *topology)
{
	if (knowledge == &own_knowledge)
		return;
	for (int i = 0; i < present.topology.count; i++)
	{
		const SlateClusterNode *before = &present.topology.node[i];
		int			slot = slate_cluster_slot(before->tag, strlen(before->tag));
		SlateClusterNode *now = &topology->node[topology->owner[slot]];

		if (slate_link_same_address(&now->address, &before->address))
			strlcpy(now->tag, before->tag, sizeof(now->tag));
	}
}

/* The answer is the newest that there is; mostly it is what is known. */
static void
take_newest(void)
{
	if (newest.epoch != present.epoch ||
		newest.topology.hash != present.topology.hash)
	{
		keep_tags(&newest.topology);
		write_knowledge(&newest);
	}
	slate_hearsay_tell(&knowledge->hearsay,
					   hash_address(&asked[newest_from].address));
}

/* The node has answered.  Is that as new as what is known? */
static bool
take_view(int which)
{
	asked[which].said = answer.view.topology.hash;
	if (newest.topology.count == 0 || answer.view.epoch > newest.epoch)
	{
		memcpy(&newest, &answer.view, sizeof(newest));
		newest_from = which;
	}
	if (answer.view.epoch >= present.epoch)
		return true;
	note_failure(&asked[which].address, "it has not heard of the last changes");
	add_masters(&answer.view.topology);
	return false;
}

/* Each gets its share of the time, so that none keeps another from its turn. */
SlateLinkStatus
slate_cluster_ask(const char *user, const char *password, bool another,
				  int64 deadline, SlateWait wait)
{
	SlateLinkStatus failure = LINK_UNREACHABLE;
	uint64		changes;
	int			nknown;
	int			first;

	error_text[0] = '\0';
	slate_hearsay_ask(&knowledge->hearsay);
	memset(&newest, 0, sizeof(newest));
	if (slate_hearsay_read(&knowledge->hearsay, &present, &knowledge->view,
						   sizeof(present), &changes))
		present.topology.changes = changes;
	else
		memset(&present, 0, sizeof(present));

	nasked = 0;
	add_masters(&present.topology);
	for (int i = 0; i < seeds->count; i++)
		add_asked(&seeds->address[i]);
	nknown = nasked;
	first = find_last() + (another ? 1 : 0);

	for (int i = 0; i < nasked; i++)
	{
		int			which = i < nknown ? (first + i) % nknown : i;
		int64		now = slate_link_now();
		int64		share = Max(deadline - now, 0) / Min(nasked - i, MAX_SHARES);
		SlateLinkStatus status;

		status = ask_one(&asked[which].address, user, password, now + share,
						 wait);
		if (status == LINK_TIMEOUT)
			failure = LINK_TIMEOUT;
		if (status == LINK_OK && take_view(which))
			break;
	}

	if (!newest_counts(nknown))
		return failure;
	take_newest();
	return LINK_OK;
}

const char *
slate_cluster_error(void)
{
	return error_text;
}
