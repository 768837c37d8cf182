/*-------------------------------------------------------------------------
 *
 * script.c
 *	  The cache protocol: what is said to Redis about a key, and what it answers.
 *
 * lua.c tells the story, and has what Redis does.  Here are the other ends of
 * each step: encoders, which put a call of a script with its keys and arguments
 * into a batch; and runners, which send batches, load the scripts again where
 * Redis has forgotten them, and add up what it answers.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xlog.h"
#include "cluster.h"
#include "common/hashfn.h"
#include "encode.h"
#include "lua.h"
#include "script.h"
#include "stats.h"
#include "utils/memutils.h"

/* Bytes of values that a call handles before another one is begun. */
#define BYTES_PER_CALL (512 * 1024)

/* Keys, and bytes, that one exchange should have at most. */
#define KEYS_PER_EXCHANGE 1024
#define BYTES_PER_EXCHANGE (8 * 1024 * 1024)

/* Keys that Redis looks at in one step of a SCAN. */
#define SCAN_COUNT 500

/*
 * Members of a family that one call drops, about 8 us each; and where several
 * calls go in one exchange, how many of them do so, and the least that others
 * do, so that all of it fits into slate_cache.timeout.
 */
#define MEMBERS_PER_STEP 1000
#define FULL_STEPS 4
#define MIN_MEMBERS_PER_STEP 64

/*
 * Widths of what is written side by side; of a guard without marks; and of what
 * a push begins with, but for its mark.
 */
#define TIMELINE_LEN 10
#define ORDER_LEN 8
#define OWNER_LEN 8
#define CLOCK_LEN 13
#define LIFE_LEN 8
#define HEAD_LEN (2 * CLOCK_LEN + LIFE_LEN)

/* Of what is new with each step over an index; a cursor has 64 bits. */
#define CURSOR_LEN 20
#define COUNT_LEN 5
#define STEP_LEN (2 * SLATE_TOKEN_LEN + CURSOR_LEN + COUNT_LEN)

StaticAssertDecl(SLATE_GUARD_LEN == SLATE_VERSION_LEN + ORDER_LEN +
				 SLATE_TOKEN_LEN + OWNER_LEN + CLOCK_LEN,
				 "a guard's length is the sum of its parts");

int			slate_script_guard_life = 60;

/*
 * The scripts as a node has them: names, and SCRIPT LOAD of all of them.  Lives as
 * long as the backend; of nodes that there is no more, too.
 */
typedef struct Scripts
{
	bool		is_made;
	char		tag[SLATE_TAG_SIZE];	/* of the node */
	char		sha[SLATE_LUA_SCRIPTS][SLATE_LUA_SHA_SIZE];
	SlateBatch	load;
} Scripts;

static Scripts scripts[SLATE_MAX_NODES];

static const char no_version[] = "000000000000000000000000000000";

static bool
starts_with(const char *name, int len, const char *prefix)
{
	int			prefix_len = strlen(prefix);

	return len >= prefix_len && memcmp(name, prefix, prefix_len) == 0;
}

bool
slate_script_is_internal(const char *name, int len)
{
	return starts_with(name, len, SLATE_INTERNAL_PREFIX);
}

/* ------------------------------------------------------------------------
 * Encoding
 * ------------------------------------------------------------------------
 */

char *
slate_script_put_digits(char *to, uint64 number, int width)
{
	for (int i = width - 1; i >= 0; i--)
	{
		to[i] = '0' + number % 10;
		number /= 10;
	}
	return to + width;
}

char *
slate_script_put_hex(char *to, uint64 number, int width)
{
	for (int i = width - 1; i >= 0; i--)
	{
		to[i] = "0123456789abcdef"[number & 15];
		number >>= 4;
	}
	return to + width;
}

/*
 * Where to append the next command: for a node, or for the one that has a key.
 */
static SlateBatch *
command_for(SlateBatch *batch, int node)
{
	SlateBatch *part;

	if (batch->nparts == 0)
		return batch;
	Assert(node < batch->nparts);
	part = &batch->parts[node];
	if (part->ncommands == part->maxnumbers)
	{
		part->maxnumbers *= 2;
		part->numbers = repalloc_array(part->numbers, int, part->maxnumbers);
	}
	part->numbers[part->ncommands] = batch->ncommands++;
	return part;
}

static SlateBatch *
command_about(SlateBatch *batch, const char *key, int keylen)
{
	if (batch->nparts == 0)
		return batch;
	return command_for(batch, slate_redis_node_of(key, keylen));
}

/* For who tells each node: how many there are. */
static int
count_nodes(const SlateBatch *batch)
{
	return Max(batch->nparts, 1);
}

/* How many keys may be named in one call; in a Cluster each has its slot. */
static int
keys_per_call(const SlateBatch *batch)
{
	return batch->nparts > 0 ? 1 : SLATE_KEYS_PER_CALL;
}

/* EVALSHA sha numkeys, with room for nkeys keys and nargs arguments */
static void
append_call(SlateBatch *batch, const SlateLua *script, int nkeys, int nargs)
{
	append_array(batch, 3 + nkeys + nargs);
	append_text(batch, "EVALSHA");
	append_text(batch, scripts[batch->node].sha[script->number]);
	append_number(batch, nkeys);
}

/* A name of our own, or "", as the node has it. */
static void
append_own(SlateBatch *batch, const char *name)
{
	const char *tag = slate_redis_tag(batch->node);
	char		tagged[160];

	if (tag[0] == '\0' || name[0] == '\0')
	{
		append_text(batch, name);
		return;
	}
	snprintf(tagged, sizeof(tagged), SLATE_INTERNAL_PREFIX "%s%s", tag,
			 name + strlen(SLATE_INTERNAL_PREFIX));
	append_text(batch, tagged);
}

/* A stamp with its deadline by the node's clock. */
static const SlateStamp *
stamp_for(const SlateStamp *stamp, int node, SlateStamp *shifted)
{
	if (node == 0 || stamp->deadline == 0)
		return stamp;
	*shifted = *stamp;
	shifted->deadline += slate_redis_clock_ahead(node);
	return shifted;
}

/*
 * A nonce must not come twice in one key's life, not even from two backends
 * or after a restart; so it starts at a random point and counts.
 */
static void
make_nonce(char nonce[SLATE_TOKEN_LEN + 1])
{
	static uint64 counter = 0;

	if (counter == 0 && !pg_strong_random(&counter, sizeof(counter)))
		elog(ERROR, "could not generate a random nonce");
	*slate_script_put_hex(nonce, ++counter, SLATE_TOKEN_LEN) = '\0';
}

static int64
guard_life_ms(void)
{
	return (int64) slate_script_guard_life * 1000;
}

/* The arguments that every push begins with. */
static void
append_push_arguments(SlateBatch *batch, const SlateStamp *stamp)
{
	append_bytes(batch, stamp->version, SLATE_VERSION_LEN);
	append_bytes(batch, stamp->nonce, SLATE_TOKEN_LEN);
	append_number(batch, guard_life_ms());
	append_text(batch, stamp->owner);
	append_text(batch, stamp->mark);
	batch->npushes++;
}

static void
append_index_key(SlateBatch *batch, const char *family, int familylen)
{
	StringInfoData key;

	initStringInfo(&key);
	appendStringInfo(&key, SLATE_INTERNAL_PREFIX "%sindex:{",
					 slate_redis_tag(batch->node));
	appendBinaryStringInfo(&key, family, familylen);
	appendStringInfoChar(&key, '}');
	append_bytes(batch, key.data, key.len);
	pfree(key.data);
}

/* The hash tag of a key, if it has one; see slate_cluster_slot(). */
static bool
has_tag(const char *key, int keylen)
{
	const char *end = key + keylen;
	const char *tag = memchr(key, '{', keylen);
	const char *tag_end = tag ? memchr(tag, '}', end - tag) : NULL;

	return tag_end && tag_end > tag + 1;
}

void
slate_script_add_guard_key(SlateBatch *batch, const char *key, int keylen)
{
	static const char plain[] = SLATE_INTERNAL_PREFIX "guard:{";
	static const char tagged[] = SLATE_INTERNAL_PREFIX "tagged:";
	const char *node_tag = slate_redis_tag(batch->node);
	char		odd[64];
	bool		is_tagged = has_tag(key, keylen);
	bool		is_odd = !is_tagged && node_tag[0] != '\0' &&
		memchr(key, '}', keylen) != NULL;
	bool		is_plain = !is_tagged && !is_odd;
	const char *prefix = is_tagged ? tagged : is_odd ? odd : plain;
	int			prefix_len;
	char	   *at;

	if (is_odd)
		snprintf(odd, sizeof(odd), SLATE_INTERNAL_PREFIX "%sodd:", node_tag);
	prefix_len = strlen(prefix);
	at = begin_append(&batch->bytes, prefix_len + keylen + 2 * MAX_HEAD);
	at = put_head(at, '$', prefix_len + keylen + is_plain);
	at = put_bytes(at, prefix, prefix_len);
	at = put_bytes(at, key, keylen);
	if (is_plain)
		*at++ = '}';
	*at++ = '\r';
	*at++ = '\n';
	end_append(&batch->bytes, at);
}

static void
skip(SlateSlice *slice, int len)
{
	slice->start += len;
	slice->len -= len;
}

/* What a name is about: itself, or the key that it guards. */
bool
slate_script_find_key(const char *name, int len, SlateSlice *key)
{
	static const char plain[] = SLATE_INTERNAL_PREFIX "guard:{";
	static const char tagged[] = SLATE_INTERNAL_PREFIX "tagged:";
	static const char with_tag[] = SLATE_INTERNAL_PREFIX "{";
	const char *tag_end;

	key->start = name;
	key->len = len;
	if (!slate_script_is_internal(name, len))
		return true;
	if (starts_with(name, len, tagged))
	{
		skip(key, strlen(tagged));
		return true;
	}
	if (starts_with(name, len, plain) && name[len - 1] == '}')
	{
		skip(key, strlen(plain));
		key->len--;
		return true;
	}
	if (starts_with(name, len, with_tag) &&
		(tag_end = memchr(name, '}', len)) != NULL)
	{
		skip(key, tag_end + 1 - name);
		if (starts_with(key->start, key->len, "odd:"))
		{
			skip(key, strlen("odd:"));
			return true;
		}
	}
	return false;				/* an index */
}

/* ------------------------------------------------------------------------
 * What can be said
 * ------------------------------------------------------------------------
 */

/*
 * Make those of a node, unless they are there.  Not in _PG_init(): hashing needs
 * a resource owner, which the postmaster does not have.
 */
static void
make_scripts(int node)
{
	Scripts    *made = &scripts[node];
	const char *tag = slate_redis_tag(node);
	MemoryContext old;

	if (made->is_made && strcmp(made->tag, tag) == 0)
		return;
	old = MemoryContextSwitchTo(TopMemoryContext);
	if (made->load.bytes.data == NULL)
		slate_script_batch_init_for(&made->load, node);
	made->is_made = false;
	slate_script_batch_reset(&made->load);
	for (int i = 0; i < SLATE_LUA_SCRIPTS; i++)
	{
		char	   *source = slate_lua_source(i, tag);

		slate_lua_hash(source, made->sha[i]);
		append_array(&made->load, 3);
		append_text(&made->load, "SCRIPT");
		append_text(&made->load, "LOAD");
		append_text(&made->load, source);
		pfree(source);
	}
	strlcpy(made->tag, tag, sizeof(made->tag));
	made->is_made = true;
	MemoryContextSwitchTo(old);
}

/* SlatePreambleFn */
static void
load_scripts(int node, SlatePreamble *preamble)
{
	make_scripts(node);
	preamble->bytes = scripts[node].load.bytes.data;
	preamble->len = scripts[node].load.bytes.len;
	preamble->nreplies = scripts[node].load.ncommands;
}

void
slate_script_init(void)
{
	static bool initialised = false;

	if (initialised)
		return;
	make_scripts(0);
	slate_redis_set_preamble(load_scripts);
	initialised = true;
}

SlateRedisStatus
slate_script_prepare(int64 deadline, SlateWait wait)
{
	slate_script_init();
	return slate_redis_prepare(deadline, wait);
}

void
slate_script_find_nodes(SlateWait wait)
{
	if (slate_redis_topology() == 0 && slate_redis_is_cluster())
		(void) slate_script_prepare(slate_link_now() + slate_redis_timeout,
									wait);
}

void
slate_script_stamp(SlateStamp *stamp)
{
	char	   *at;

	/* the deadline before the version: however long that takes */
	slate_script_set_deadline(stamp, slate_redis_server_clock());
	at = slate_script_put_digits(stamp->version, GetWALInsertionTimeLine(),
								 TIMELINE_LEN);
	stamp->position = GetXLogInsertRecPtr();
	*slate_script_put_digits(at, stamp->position,
							 SLATE_VERSION_LEN - TIMELINE_LEN) = '\0';
	make_nonce(stamp->nonce);
	stamp->epoch_key = "";
	stamp->epoch[0] = '\0';
	stamp->mark[0] = '\0';
	slate_script_own(stamp);
}

void
slate_script_own(SlateStamp *stamp)
{
	uint64		cluster = GetSystemIdentifier();
	uint32		name = hash_combine(hash_combine((uint32) cluster,
												 (uint32) (cluster >> 32)),
									MyDatabaseId);

	*slate_script_put_hex(stamp->owner, name, OWNER_LEN) = '\0';
}

void
slate_script_set_deadline(SlateStamp *stamp, int64 clock)
{
	stamp->deadline = clock == 0 ? 0 : clock + guard_life_ms() / 2;
}

void
slate_script_make_mark(SlateStamp *stamp)
{
	snprintf(stamp->mark, sizeof(stamp->mark), "%s%s", stamp->owner,
			 stamp->nonce);
}

void
slate_script_disown(SlateStamp *stamp)
{
	strlcpy(stamp->version, no_version, sizeof(stamp->version));
	strlcpy(stamp->owner, LUA_NOBODY, sizeof(stamp->owner));
	stamp->mark[0] = '\0';
}

void
slate_script_refresh_nonce(SlateStamp *stamp)
{
	make_nonce(stamp->nonce);
}

#define FIRST_NUMBERS 16

void
slate_script_batch_init(SlateBatch *batch)
{
	int			nnodes = slate_redis_nodes();

	if (slate_redis_topology() == 0)
	{
		slate_script_batch_init_for(batch, 0);
		return;
	}
	memset(batch, 0, sizeof(*batch));
	batch->topology = slate_redis_topology();
	batch->parts = palloc_array(SlateBatch, nnodes);
	batch->nparts = nnodes;
	for (int i = 0; i < nnodes; i++)
	{
		SlateBatch *part = &batch->parts[i];

		slate_script_batch_init_for(part, i);
		part->maxnumbers = FIRST_NUMBERS;
		part->numbers = palloc_array(int, FIRST_NUMBERS);
	}
}

void
slate_script_batch_init_for(SlateBatch *batch, int node)
{
	memset(batch, 0, sizeof(*batch));
	initStringInfo(&batch->bytes);
	slate_script_batch_aim(batch, node);
}

void
slate_script_batch_aim(SlateBatch *batch, int node)
{
	batch->node = node;
	batch->topology = slate_redis_topology();
}

void
slate_script_batch_reset(SlateBatch *batch)
{
	for (int i = 0; i < batch->nparts; i++)
		slate_script_batch_reset(&batch->parts[i]);
	if (batch->nparts == 0)
		resetStringInfo(&batch->bytes);
	batch->ncommands = batch->npushes = batch->nkeys = batch->ncuts = 0;
	batch->ndrops = 0;
}

bool
slate_script_batch_is_long(const SlateBatch *batch)
{
	for (int i = 0; i < batch->nparts; i++)
	{
		if (batch->parts[i].ncuts > 0)
			return true;
	}
	return batch->ncuts > 0;
}

void
slate_script_batch_free(SlateBatch *batch)
{
	for (int i = 0; i < batch->nparts; i++)
		slate_script_batch_free(&batch->parts[i]);
	if (batch->parts)
		pfree(batch->parts);
	if (batch->numbers)
		pfree(batch->numbers);
	if (batch->cuts)
		pfree(batch->cuts);
	if (batch->drops)
		pfree(batch->drops);
	if (batch->bytes.data)
		pfree(batch->bytes.data);
}

int
slate_script_batch_size(const SlateBatch *batch)
{
	int			size = batch->bytes.len;

	for (int i = 0; i < batch->nparts; i++)
		size += batch->parts[i].bytes.len;
	return size;
}

/* A call with so many keys has been added: is the exchange full? */
static void
count_keys(SlateBatch *batch, int nkeys)
{
	int			start = batch->ncuts ? batch->cuts[batch->ncuts - 1].end : 0;

	batch->nkeys += nkeys;
	if (batch->nkeys < KEYS_PER_EXCHANGE &&
		batch->bytes.len - start < BYTES_PER_EXCHANGE)
		return;
	if (batch->ncuts == batch->maxcuts)
	{
		batch->maxcuts = batch->maxcuts ? batch->maxcuts * 2 : 16;
		batch->cuts = batch->cuts
			? repalloc_array(batch->cuts, SlateCut, batch->maxcuts)
			: palloc_array(SlateCut, batch->maxcuts);
	}
	batch->cuts[batch->ncuts].end = batch->bytes.len;
	batch->cuts[batch->ncuts].ncommands = batch->ncommands;
	batch->ncuts++;
	batch->nkeys = 0;
}

/* How many of the pushes go into one call. */
static int
pushes_for_call(const SlateBatch *batch, const SlatePush *pushes, int npushes)
{
	Size		bytes = 0;
	int			n;

	for (n = 0; n < npushes && n < keys_per_call(batch); n++)
	{
		bytes += pushes[n].keylen;
		bytes += pushes[n].value ? pushes[n].valuelen : 0;
		if (n > 0 && bytes > BYTES_PER_CALL)
			break;
	}
	return n;
}

char *
slate_script_put_guard(char *at, const SlateStamp *stamp,
					   const SlatePush *push)
{
	int64		taken = stamp->deadline
		? stamp->deadline - guard_life_ms() / 2 : 0;

	at = put_bytes(at, stamp->version, SLATE_VERSION_LEN);
	if (push->order == SLATE_SHARED)
		at = put_bytes(at, LUA_SHARED, ORDER_LEN);
	else
		at = slate_script_put_hex(at, push->order, ORDER_LEN);
	at = put_bytes(at, stamp->nonce, SLATE_TOKEN_LEN);
	at = put_bytes(at, stamp->owner, OWNER_LEN);
	return slate_script_put_digits(at, taken, CLOCK_LEN);
}

/* The same, and the TTL. */
static void
append_guard(SlateBatch *batch, const SlateStamp *stamp, const SlatePush *push)
{
	char		text[SLATE_GUARD_LEN + 24];
	char	   *at = slate_script_put_guard(text, stamp, push);

	if (push->value)
		at += pg_lltoa(push->ttl, at);
	else
		*at++ = '-';
	append_bytes(batch, text, at - text);
}

int64
slate_script_guard_expiry(const SlateStamp *stamp)
{
	return stamp->deadline ? stamp->deadline + guard_life_ms() / 2 : 0;
}

/* What the publish script has in front. */
static void
append_publish_head(SlateBatch *batch, const SlateStamp *stamp)
{
	char		head[HEAD_LEN + SLATE_MARK_LEN];
	char	   *at = head;
	int			mark_len = strlen(stamp->mark);

	at = slate_script_put_digits(at, stamp->deadline, CLOCK_LEN);
	at = slate_script_put_digits(at, slate_script_guard_expiry(stamp), CLOCK_LEN);
	at = slate_script_put_digits(at, guard_life_ms(), LIFE_LEN);
	at = put_bytes(at, stamp->mark, mark_len);
	append_bytes(batch, head, at - head);
	batch->call.head_at = batch->bytes.len - (at - head) - 2;
	append_text(batch, stamp->epoch);
	batch->npushes++;
}

/* One call. */
static void
append_pushes(SlateBatch *batch, const SlateStamp *given,
			  const SlatePush *pushes, int n)
{
	SlateStamp	shifted;
	const SlateStamp *stamp = stamp_for(given, batch->node, &shifted);

	append_call(batch, &slate_lua_publish, n, 3 + 2 * n);
	batch->call.nkeys = n;
	batch->call.keys_at = batch->bytes.len;
	for (int i = 0; i < n; i++)
		append_bytes(batch, pushes[i].key, pushes[i].keylen);
	batch->call.common_at = batch->bytes.len;
	append_own(batch, stamp->epoch_key);
	append_publish_head(batch, stamp);
	batch->call.pushes_at = batch->bytes.len;
	for (int i = 0; i < n; i++)
	{
		append_guard(batch, stamp, &pushes[i]);
		append_bytes(batch, pushes[i].value ? pushes[i].value : "",
					 pushes[i].value ? pushes[i].valuelen : 0);
	}
	batch->call.end = batch->bytes.len;
	count_keys(batch, n);
}

void
slate_script_add_pushes(SlateBatch *batch, const SlateStamp *stamp,
						const SlatePush *pushes, int npushes)
{
	while (npushes > 0)
	{
		int			n = pushes_for_call(batch, pushes, npushes);

		append_pushes(command_about(batch, pushes->key, pushes->keylen), stamp,
					  pushes, n);
		pushes += n;
		npushes -= n;
	}
}

/*
 * So many bytes a script push needs beyond the texts of its keys and values,
 * as a whole and for each.
 */
#define SCRIPT_PUSH_BYTES 512
#define SCRIPT_PUSH_KEY_BYTES (SLATE_GUARD_LEN + 96)

void
slate_script_reserve(SlateBatch *batch, const SlatePush *pushes, int npushes)
{
	Size		bytes = SCRIPT_PUSH_BYTES;

	for (int i = 0; i < npushes; i++)
	{
		bytes += SCRIPT_PUSH_KEY_BYTES + pushes[i].keylen;
		bytes += pushes[i].value ? pushes[i].valuelen : 0;
	}
	enlargeStringInfo(&batch->bytes, bytes);
}

/* ------------------------------------------------------------------------
 * Joining
 * ------------------------------------------------------------------------
 */

/* Do they differ in nothing but their keys and deadlines? */
bool
slate_script_may_join(const SlateCall *a, const char *a_bytes,
					  const SlateCall *b, const char *b_bytes)
{
	int			len = a->pushes_at - a->common_at;
	int			head = a->head_at - a->common_at;
	int			rest = head + 2 * CLOCK_LEN;

	a_bytes += a->common_at;
	b_bytes += b->common_at;
	return len == b->pushes_at - b->common_at &&
		head == b->head_at - b->common_at &&
		memcmp(a_bytes, b_bytes, head) == 0 &&
		memcmp(a_bytes + rest, b_bytes + rest, len - rest) == 0;
}

/* The least deadline, and the last expiry, are right for all. */
static void
join_clocks(char *head, const char *other)
{
	if (memcmp(other, head, CLOCK_LEN) < 0)
		memcpy(head, other, CLOCK_LEN);
	if (memcmp(other + CLOCK_LEN, head + CLOCK_LEN, CLOCK_LEN) > 0)
		memcpy(head + CLOCK_LEN, other + CLOCK_LEN, CLOCK_LEN);
}

void
slate_script_add_joined(SlateBatch *batch, const SlateCall *const *calls,
						const char *const *bytes, int ncalls)
{
	const SlateCall *first = calls[0];
	int			nkeys = 0;
	int			head;

	for (int i = 0; i < ncalls; i++)
		nkeys += calls[i]->nkeys;
	append_call(batch, &slate_lua_publish, nkeys, 3 + 2 * nkeys);
	for (int i = 0; i < ncalls; i++)
		appendBinaryStringInfo(&batch->bytes, bytes[i] + calls[i]->keys_at,
							   calls[i]->common_at - calls[i]->keys_at);
	head = batch->bytes.len + first->head_at - first->common_at;
	appendBinaryStringInfo(&batch->bytes, bytes[0] + first->common_at,
						   first->pushes_at - first->common_at);
	for (int i = 0; i < ncalls; i++)
	{
		join_clocks(batch->bytes.data + head, bytes[i] + calls[i]->head_at);
		appendBinaryStringInfo(&batch->bytes, bytes[i] + calls[i]->pushes_at,
							   calls[i]->end - calls[i]->pushes_at);
	}
}

/* The bulk string at an offset, which is moved behind it. */
static SlateSlice
next_bulk(const char *bytes, int *offset)
{
	const char *at = bytes + *offset;
	SlateSlice	bulk;

	bulk.len = (int) strtol(at + 1, NULL, 10);
	bulk.start = strchr(at, '\n') + 1;
	*offset = bulk.start + bulk.len + 2 - bytes;
	return bulk;
}

SlateSlice
slate_script_next_key(const SlateCall *call, const char *bytes, int *offset)
{
	*offset = Max(*offset, call->keys_at);
	return next_bulk(bytes, offset);
}

void
slate_script_next_push(const SlateCall *call, const char *bytes,
					   SlateCallPush *push)
{
	SlateSlice	guard;

	push->at = Max(push->at, call->pushes_at);
	push->key = slate_script_next_key(call, bytes, &push->key_at);
	guard = next_bulk(bytes, &push->at);
	push->guard = guard.start;
	push->ttl.start = guard.start + SLATE_GUARD_LEN;
	push->ttl.len = guard.len - SLATE_GUARD_LEN;
	push->value = next_bulk(bytes, &push->at);
	push->expiry.start = bytes + call->head_at + CLOCK_LEN;
	push->expiry.len = CLOCK_LEN;
}

bool
slate_script_is_for_epoch(const SlateCall *call, const char *bytes,
						  const char *epoch)
{
	int			at = call->head_at + HEAD_LEN + 2;
	SlateSlice	noted;

	/* behind a head that has a mark there is something else */
	if (bytes[at] != '$')
		return false;
	noted = next_bulk(bytes, &at);
	return noted.len == strlen(epoch) &&
		memcmp(noted.start, epoch, noted.len) == 0;
}

bool
slate_script_is_in_time(const SlateCall *call, const char *bytes, int64 clock)
{
	char		digits[CLOCK_LEN + 1];

	(void) slate_script_put_digits(digits, clock, CLOCK_LEN);
	return clock > 0 && memcmp(digits, bytes + call->head_at, CLOCK_LEN) < 0;
}

/* ------------------------------------------------------------------------
 * Single steps
 * ------------------------------------------------------------------------
 */

void
slate_script_add_drop(SlateBatch *batch, const char *key, int keylen)
{
	SlatePush	push = {.key = key,.keylen = keylen,.order = SLATE_SHARED};
	SlateStamp	stamp = {.epoch_key = ""};

	slate_script_disown(&stamp);
	make_nonce(stamp.nonce);
	slate_script_add_pushes(batch, &stamp, &push, 1);
}

static bool
is_on_node(const SlateBatch *batch, int node, SlateSlice key)
{
	return batch->nparts == 0 ||
		slate_redis_node_of(key.start, key.len) == node;
}

/* Those of one family that a node has. */
static void
append_members(SlateBatch *batch, int node, const SlateStamp *stamp,
			   const SlateMember *members, int nmembers)
{
	SlateBatch *to;
	int			nkeys = 0;

	for (int i = 0; i < nmembers; i++)
		nkeys += is_on_node(batch, node, members[i].key);
	if (nkeys == 0)
		return;
	to = command_for(batch, node);
	append_call(to, &slate_lua_register, 1, 1 + 2 * nkeys);
	append_index_key(to, members->family.start, members->family.len);
	append_text(to, stamp ? stamp->mark : "");
	for (int i = 0; i < nmembers; i++)
	{
		int64		ttl = members[i].ttl;

		if (!is_on_node(batch, node, members[i].key))
			continue;

		/* the value comes later than this, by a guard's life at most */
		append_number(to, ttl == 0 ? 0 : ttl + guard_life_ms());
		append_bytes(to, members[i].key.start, members[i].key.len);
	}
	to->npushes++;
	count_keys(to, nkeys);
}

void
slate_script_add_registrations(SlateBatch *batch, const SlateStamp *stamp,
							   SlateMember *members, int nmembers)
{
	int			n;

	qsort(members, nmembers, sizeof(SlateMember), slate_slice_compare);
	for (int start = 0; start < nmembers; start += n)
	{
		for (n = 1; n < SLATE_KEYS_PER_CALL && start + n < nmembers; n++)
		{
			if (slate_slice_compare(&members[start], &members[start + n]) != 0)
				break;
		}
		for (int node = 0; node < count_nodes(batch); node++)
			append_members(batch, node, stamp, members + start, n);
	}
}

void
slate_script_add_tick(SlateBatch *batch)
{
	for (int node = 0; node < count_nodes(batch); node++)
	{
		SlateBatch *to = command_for(batch, node);

		append_call(to, &slate_lua_tick, 0, 1);
		append_number(to, guard_life_ms() / 8);
	}
}

static void
append_floors(SlateBatch *batch, const SlateStamp *stamp,
			  const SlateSlice *prefixes, int n)
{
	append_call(batch, &slate_lua_floor, 0, 5 + n);
	append_push_arguments(batch, stamp);
	append_slices(batch, prefixes, n);
	count_keys(batch, n);
}

void
slate_script_add_floor(SlateBatch *batch, const SlateStamp *stamp,
					   const SlateSlice *prefixes, int nprefixes)
{
	for (int start = 0; start < nprefixes; start += SLATE_KEYS_PER_CALL)
	{
		for (int node = 0; node < count_nodes(batch); node++)
			append_floors(command_for(batch, node), stamp, prefixes + start,
						  Min(nprefixes - start, SLATE_KEYS_PER_CALL));
	}
}

/* Begin one, at the end of what goes to a node. */
static SlateIndexDrop *
add_index_drop(SlateBatch *batch)
{
	SlateIndexDrop *drop;

	if (batch->ndrops == batch->maxdrops)
	{
		batch->maxdrops = batch->maxdrops ? batch->maxdrops * 2 : 4;
		batch->drops = batch->drops
			? repalloc_array(batch->drops, SlateIndexDrop, batch->maxdrops)
			: palloc_array(SlateIndexDrop, batch->maxdrops);
	}
	drop = &batch->drops[batch->ndrops++];
	memset(drop, 0, sizeof(*drop));
	drop->nth = batch->ncommands;
	drop->number = batch->numbers ? batch->numbers[drop->nth] : drop->nth;
	drop->start = batch->bytes.len;
	return drop;
}

/*
 * What a step has of its own.  The nonce is new, since the keys of the step
 * before may have been leased with that one's.
 */
static void
put_step(char *at, const char *own, const char *cursor, int count)
{
	char		nonce[SLATE_TOKEN_LEN + 1];
	int			len = strlen(cursor);

	make_nonce(nonce);
	at = put_bytes(at, nonce, SLATE_TOKEN_LEN);
	at = put_bytes(at, own, SLATE_TOKEN_LEN);
	memset(at, '0', CURSOR_LEN - len);
	at = put_bytes(at + CURSOR_LEN - len, cursor, len);
	(void) slate_script_put_digits(at, count, COUNT_LEN);
}

void
slate_script_add_drop_family(SlateBatch *batch, const SlateStamp *stamp,
							 const char *family, int familylen,
							 const char *glob, int globlen, bool is_pushed)
{
	static const char nobody[] = "----------------";

	for (int node = 0; node < count_nodes(batch); node++)
	{
		SlateBatch *to = command_for(batch, node);
		SlateIndexDrop *drop = add_index_drop(to);
		int			share = 1 + (to->ndrops - 1) / FULL_STEPS;
		char		step[STEP_LEN];

		strlcpy(drop->own, stamp->nonce, sizeof(drop->own));
		put_step(step, is_pushed ? drop->own : nobody, "0",
				 Max(MEMBERS_PER_STEP / share, MIN_MEMBERS_PER_STEP));
		append_call(to, &slate_lua_drop_family, 1, 7);
		append_index_key(to, family, familylen);
		append_push_arguments(to, stamp);
		append_bytes(to, glob, globlen);
		append_bytes(to, step, STEP_LEN);
		drop->end = to->bytes.len;
		drop->step_at = drop->end - STEP_LEN - 2;
		count_keys(to, 1);
	}
}

void
slate_script_add_get(SlateBatch *batch, const char *key, int keylen)
{
	SlateBatch *to = command_about(batch, key, keylen);

	append_array(to, 2);
	append_text(to, "GET");
	append_bytes(to, key, keylen);
}

void
slate_script_add_note(SlateBatch *batch, const char *name, const char *value)
{
	for (int node = 0; node < count_nodes(batch); node++)
	{
		SlateBatch *to = command_for(batch, node);

		append_array(to, 3);
		append_text(to, "SET");
		append_own(to, name);
		append_text(to, value);
	}
}

void
slate_script_add_get_note(SlateBatch *batch, const char *name)
{
	for (int node = 0; node < count_nodes(batch); node++)
	{
		SlateBatch *to = command_for(batch, node);

		append_array(to, 2);
		append_text(to, "GET");
		append_own(to, name);
	}
}

void
slate_script_add_epoch(SlateBatch *batch, const char *key, const char *from,
					   const char *to, const char *wal_key, const char *wal)
{
	for (int node = 0; node < count_nodes(batch); node++)
	{
		SlateBatch *part = command_for(batch, node);

		append_call(part, &slate_lua_epoch, 2, 3);
		append_own(part, key);
		append_own(part, wal_key);
		append_text(part, from);
		append_text(part, to);
		append_text(part, wal);
	}
}

void
slate_script_add_mget(SlateBatch *batch, const SlateSlice *keys, int nkeys)
{
	Assert(batch->nparts == 0);
	append_array(batch, 1 + nkeys);
	append_text(batch, "MGET");
	append_slices(batch, keys, nkeys);
}

void
slate_script_add_ttl(SlateBatch *batch, const char *key, int keylen)
{
	SlateBatch *to = command_about(batch, key, keylen);

	append_array(to, 2);
	append_text(to, "PTTL");
	append_bytes(to, key, keylen);
}

void
slate_script_add_get_guard(SlateBatch *batch, const char *key, int keylen)
{
	SlateBatch *to = command_about(batch, key, keylen);

	append_array(to, 2);
	append_text(to, "GET");
	slate_script_add_guard_key(to, key, keylen);
}

void
slate_script_add_scan(SlateBatch *batch, const char *cursor,
					  const char *glob, int globlen)
{
	append_array(batch, 6);
	append_text(batch, "SCAN");
	append_text(batch, cursor);
	append_text(batch, "MATCH");
	append_bytes(batch, glob, globlen);
	append_text(batch, "COUNT");
	append_number(batch, SCAN_COUNT);
}

void
slate_script_add_scan_all(SlateBatch *batch, const char *cursor, int count)
{
	append_array(batch, 4);
	append_text(batch, "SCAN");
	append_text(batch, cursor);
	append_text(batch, "COUNT");
	append_number(batch, count);
}

bool
slate_script_is_index(SlateSlice name, SlateSlice *tag, SlateSlice *family)
{
	static const char middle[] = "index:{";
	const char *end = name.start + name.len;
	const char *tag_end;

	if (!starts_with(name.start, name.len, SLATE_INTERNAL_PREFIX "{"))
		return false;
	tag->start = name.start + strlen(SLATE_INTERNAL_PREFIX);
	tag_end = memchr(tag->start, '}', end - tag->start);
	if (tag_end == NULL)
		return false;
	tag->len = tag_end + 1 - tag->start;
	family->start = tag->start + tag->len;
	family->len = end - family->start;
	if (!starts_with(family->start, family->len, middle) || end[-1] != '}')
		return false;
	skip(family, strlen(middle));
	family->len--;
	return true;
}

void
slate_script_add_members(SlateBatch *batch, SlateSlice index,
						 const char *cursor)
{
	append_array(batch, 5);
	append_text(batch, "ZSCAN");
	append_slices(batch, &index, 1);
	append_text(batch, cursor);
	append_text(batch, "COUNT");
	append_number(batch, SCAN_COUNT);
}

void
slate_script_add_remove(SlateBatch *batch, SlateSlice index, SlateSlice member)
{
	append_array(batch, 3);
	append_text(batch, "ZREM");
	append_slices(batch, &index, 1);
	append_slices(batch, &member, 1);
}

const redisReply *
slate_script_take_scan(const redisReply *reply, char cursor[SLATE_CURSOR_SIZE])
{
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
		reply->element[0]->type != REDIS_REPLY_STRING ||
		reply->element[0]->len >= SLATE_CURSOR_SIZE ||
		reply->element[1]->type != REDIS_REPLY_ARRAY)
		return NULL;
	strlcpy(cursor, reply->element[0]->str, SLATE_CURSOR_SIZE);
	return reply->element[1];
}

/* The keys are bulk strings; of many slots, so in a Cluster they are not KEYS. */
static void
append_swept(SlateBatch *batch, const SlateLua *script, StringInfo keys,
			 int nkeys, int nargs)
{
	char		nonce[SLATE_TOKEN_LEN + 1];
	bool		are_keys = slate_redis_topology() == 0;

	append_call(batch, script, are_keys ? nkeys : 0,
				are_keys ? nargs : nargs + nkeys);
	appendBinaryStringInfo(&batch->bytes, keys->data, keys->len);
	make_nonce(nonce);
	append_number(batch, guard_life_ms());
	append_bytes(batch, nonce, SLATE_TOKEN_LEN);
}

void
slate_script_add_forget(SlateBatch *batch, StringInfo keys, int nkeys)
{
	append_swept(batch, &slate_lua_forget, keys, nkeys, 2);
}

void
slate_script_add_drop_swept(SlateBatch *batch, StringInfo keys, int nkeys,
							StringInfo stamps, const char *owner)
{
	append_swept(batch, &slate_lua_drop_swept, keys, nkeys, 3 + nkeys);
	append_text(batch, owner);
	appendBinaryStringInfo(&batch->bytes, stamps->data, stamps->len);
}

void
slate_script_add_drop_long(SlateBatch *batch, const char *cursor, int count,
						   SlateSlice glob)
{
	append_call(batch, &slate_lua_drop_long, 0, 4);
	append_text(batch, cursor);
	append_number(batch, count);
	append_bytes(batch, glob.start, glob.len);
	append_number(batch, SLATE_KEY_MAX);
}

void
slate_script_append_swept_key(StringInfo keys, SlateSlice key)
{
	append_bulk(keys, key.start, key.len);
}

void
slate_script_append_swept_stamp(StringInfo stamps, const SlateStamp *stamp,
								bool is_only_one)
{
	char		text[SLATE_VERSION_LEN + SLATE_TOKEN_LEN + 2];

	snprintf(text, sizeof(text), "%s%s%s", stamp->version, stamp->nonce,
			 is_only_one ? "=" : "");
	append_bulk(stamps, text, strlen(text));
}

static void
append_leases(SlateBatch *batch, const SlateStamp *stamp,
			  const SlateSlice *keys, int nkeys)
{
	char		nonce[SLATE_TOKEN_LEN + 1];

	make_nonce(nonce);
	append_call(batch, &slate_lua_lease, nkeys, 4);
	append_slices(batch, keys, nkeys);
	append_bytes(batch, nonce, SLATE_TOKEN_LEN);
	append_number(batch, guard_life_ms());
	append_own(batch, stamp->epoch_key);
	append_text(batch, stamp->epoch);
}

void
slate_script_add_leases(SlateBatch *batch, const SlateStamp *stamp,
						const SlateSlice *keys, int nkeys)
{
	int			step = batch->nparts > 0 ? 1 : nkeys;

	for (int i = 0; i < nkeys; i += step)
		append_leases(command_about(batch, keys[i].start, keys[i].len), stamp,
					  keys + i, step);
}

void
slate_script_add_fill(SlateBatch *batch, const char *key, int keylen,
					  const char *token, const char *value, int valuelen,
					  int64 ttl)
{
	SlateBatch *to = command_about(batch, key, keylen);

	append_call(to, &slate_lua_fill, 1, 4);
	append_bytes(to, key, keylen);
	append_bytes(to, token, SLATE_TOKEN_LEN);
	append_number(to, ttl);
	append_bytes(to, value, valuelen);
	append_number(to, guard_life_ms());
}

/* What every MARK begins with: room for nkeys keys, nbeginnings more. */
static void
append_mark_call(SlateBatch *batch, const SlateStamp *stamp, uint64 xid,
				 const SlateSlice *keys, int nkeys, int nbeginnings)
{
	char		nonce[SLATE_TOKEN_LEN + 1];

	/* a push of this transaction has another nonce */
	make_nonce(nonce);
	append_call(batch, &slate_lua_mark, nkeys, 5 + nbeginnings);
	append_slices(batch, keys, nkeys);
	append_text(batch, stamp->mark);
	append_number(batch, (int64) xid);
	append_bytes(batch, nonce, SLATE_TOKEN_LEN);
	append_own(batch, stamp->epoch_key);
	append_text(batch, stamp->epoch);
}

void
slate_script_add_marks(SlateBatch *batch, const SlateStamp *stamp, uint64 xid,
					   const SlateSlice *keys, int nkeys)
{
	int			step = keys_per_call(batch);

	for (int start = 0; start < nkeys; start += step)
	{
		int			n = Min(nkeys - start, step);
		SlateBatch *to = command_about(batch, keys[start].start,
									   keys[start].len);

		append_mark_call(to, stamp, xid, keys + start, n, 0);
		count_keys(to, n);
	}
}

static void
append_mark_beginnings(SlateBatch *batch, const SlateStamp *stamp, uint64 xid,
					   const SlateSlice *beginnings, int n)
{
	append_mark_call(batch, stamp, xid, NULL, 0, n);
	append_slices(batch, beginnings, n);
	count_keys(batch, n);
}

void
slate_script_add_mark_beginnings(SlateBatch *batch, const SlateStamp *stamp,
								 uint64 xid, const SlateSlice *beginnings,
								 int nbeginnings)
{
	for (int start = 0; start < nbeginnings; start += SLATE_KEYS_PER_CALL)
	{
		for (int node = 0; node < count_nodes(batch); node++)
			append_mark_beginnings(command_for(batch, node), stamp, xid,
								   beginnings + start,
								   Min(nbeginnings - start, SLATE_KEYS_PER_CALL));
	}
}

void
slate_script_add_release(SlateBatch *batch, const char *mark, bool in_any_case)
{
	for (int node = 0; node < count_nodes(batch); node++)
	{
		SlateBatch *to = command_for(batch, node);

		append_call(to, &slate_lua_release, 0, 2);
		append_text(to, mark);
		append_number(to, in_any_case ? -1 : to->npushes);
	}
}

void
slate_script_add_get_marks(SlateBatch *batch, const SlateStamp *stamp)
{
	char		name[sizeof(SLATE_INTERNAL_PREFIX "marks:") + 8];

	snprintf(name, sizeof(name), SLATE_INTERNAL_PREFIX "marks:%s",
			 stamp->owner);
	for (int node = 0; node < count_nodes(batch); node++)
	{
		SlateBatch *to = command_for(batch, node);

		append_array(to, 2);
		append_text(to, "HGETALL");
		append_own(to, name);
	}
}

/* ------------------------------------------------------------------------
 * Sending
 * ------------------------------------------------------------------------
 */

typedef struct RunState
{
	SlateReplyFn reply_fn;
	void	   *arg;
	const int  *numbers;		/* of the commands; NULL: as they are */
	int			first;			/* index of the first reply of this exchange */
	int			forgotten;		/* index of the first NOSCRIPT; -1: none */
	bool		remembered;		/* what came behind that was done */
} RunState;

static void
hand_on(const RunState *state, int index, const redisReply *reply)
{
	state->reply_fn(state->numbers ? state->numbers[index] : index, reply,
					state->arg);
}

static void
watch_for_noscript(int index, const redisReply *reply, void *arg)
{
	RunState   *state = arg;

	if (slate_link_is_error(reply, "NOSCRIPT"))
		state->forgotten = state->forgotten < 0 ? index : state->forgotten;
	else if (state->forgotten >= 0)
		state->remembered = true;
	else
		hand_on(state, index, reply);
}

static void
on_later_reply(int index, const redisReply *reply, void *arg)
{
	RunState   *state = arg;

	hand_on(state, state->first + index, reply);
}

/* Where the nth command of a batch begins: arrays of bulk strings, all of it. */
static const char *
find_command(const char *at, int n)
{
	for (int i = 0; i < n; i++)
	{
		long		nelements = strtol(at + 1, NULL, 10);

		at = strchr(at, '\n') + 1;
		for (long j = 0; j < nelements; j++)
		{
			long		len = strtol(at + 1, NULL, 10);

			at = strchr(at, '\n') + 1 + len + 2;
		}
	}
	return at;
}

static void
ignore_reply(int index pg_attribute_unused(),
			 const redisReply *reply pg_attribute_unused(),
			 void *arg pg_attribute_unused())
{
}

/*
 * Somebody else has loaded the scripts just in the middle of our commands.
 * Some are done and some not; none is sent again.
 */
static void
answer_forgotten(const RunState *state, int ncommands)
{
	static char text[] = "NOSCRIPT in the middle of an exchange";
	redisReply	reply = {.type = REDIS_REPLY_ERROR,.str = text,
	.len = sizeof(text) - 1};

	for (int i = state->forgotten; i < ncommands; i++)
		hand_on(state, i, &reply);
}

/* The commands of a batch for one node between two places. */
static SlateRedisStatus
run_commands(const SlateBatch *batch, SlateCut from, SlateCut to,
			 SlateReplyFn reply_fn, void *arg, int64 deadline, SlateWait wait)
{
	const Scripts *here = &scripts[batch->node];
	RunState	state = {.reply_fn = reply_fn,.arg = arg,.forgotten = -1};
	const char *bytes = batch->bytes.data + from.end;
	int			len = to.end - from.end;
	int			ncommands = to.ncommands - from.ncommands;
	SlateRedisStatus status;
	const char *rest;

	if (batch->numbers)
		state.numbers = batch->numbers + from.ncommands;
	status = slate_redis_run(batch->node, bytes, len, ncommands, NULL,
							 watch_for_noscript, &state, deadline, wait);
	if (status != REDIS_DONE || state.forgotten < 0)
		return status;

	if (state.remembered)
	{
		answer_forgotten(&state, ncommands);
		return status;
	}

	/*
	 * SCRIPT FLUSH, or a server that has never seen them.  What it has done is
	 * not sent again: its nonces would come twice.
	 */
	status = slate_redis_run(batch->node, here->load.bytes.data,
							 here->load.bytes.len, here->load.ncommands, NULL,
							 ignore_reply, NULL, deadline, wait);
	if (status != REDIS_DONE)
		return status;
	rest = find_command(bytes, state.forgotten);
	state.first = state.forgotten;
	return slate_redis_run(batch->node, rest, bytes + len - rest,
						   ncommands - state.first, NULL, on_later_reply,
						   &state, deadline, wait);
}

/* All commands of a batch for one node. */
static SlateRedisStatus
run_all(const SlateBatch *batch, SlateReplyFn reply_fn, void *arg,
		int64 deadline, SlateWait wait)
{
	SlateCut	from = {0, 0};
	SlateCut	to = {batch->bytes.len, batch->ncommands};

	if (batch->ncommands == 0)
		return REDIS_DONE;
	return run_commands(batch, from, to, reply_fn, arg, deadline, wait);
}

/* Have all nodes at work on the first exchange that each has. */
static void
send_ahead(const SlateBatch *batch, int64 deadline)
{
	for (int i = 0; i < batch->nparts; i++)
	{
		const SlateBatch *part = &batch->parts[i];

		if (part->ncommands > 0)
			slate_redis_send_ahead(part->node, part->bytes.data,
								   part->ncuts > 0 ? part->cuts[0].end
								   : part->bytes.len, deadline);
	}
}

SlateRedisStatus
slate_script_run(const SlateBatch *batch, SlateReplyFn reply_fn, void *arg,
				 int64 deadline, SlateWait wait)
{
	SlateRedisStatus status = REDIS_DONE;

	if (!slate_redis_has_topology(batch->topology))
		return REDIS_UNREACHABLE;
	if (batch->nparts == 0)
		return run_all(batch, reply_fn, arg, deadline, wait);
	send_ahead(batch, deadline);
	for (int i = 0; i < batch->nparts && status == REDIS_DONE; i++)
		status = run_all(&batch->parts[i], reply_fn, arg, deadline, wait);
	if (status != REDIS_DONE)
		slate_redis_give_up_ahead();
	return status;
}

static int64
reply_number(const redisReply *reply, size_t element)
{
	if (element >= reply->elements ||
		reply->element[element]->type != REDIS_REPLY_INTEGER)
		return 0;
	return reply->element[element]->integer;
}

/* Values set times 4096, and DROPs, in one number. */
static bool
quick_reply(SlateOutcome *outcome, const redisReply *reply)
{
	int64		counts;

	if (reply->type != REDIS_REPLY_INTEGER ||
		reply->integer <= LUA_QUICK_REPLY_NUMBER)
		return false;
	counts = reply->integer - LUA_QUICK_REPLY_NUMBER;
	outcome->stored += counts / 4096;
	outcome->dropped += counts % 4096;
	return true;
}

/* Is it what a step over an index answers that was not the last one? */
static bool
is_step_reply(const redisReply *reply)
{
	return reply->type == REDIS_REPLY_ARRAY &&
		(reply->elements == 7 || reply->elements == 8) &&
		reply->element[4]->type == REDIS_REPLY_STRING &&
		reply->element[4]->len <= CURSOR_LEN;
}

/*
 * An outcome is what the scripts answer, an array of three or four counts, or
 * two of them in a number, see lua.c; or of such counts, and of where the next
 * step begins, and what was refused in this one.  Whatever else comes back,
 * READONLY, OOM, LOADING, NOAUTH, MOVED or things yet unknown, is a failure to
 * deliver.
 */
void
slate_script_take_reply(SlateOutcome *outcome, const redisReply *reply)
{
	bool		is_step = is_step_reply(reply);

	if (quick_reply(outcome, reply))
		return;
	if (is_step || (reply->type == REDIS_REPLY_ARRAY &&
					(reply->elements == 3 || reply->elements == 4)))
	{
		outcome->strange |= reply_number(reply, 3) != 0;
		outcome->stored += reply_number(reply, 0);
		outcome->dropped += reply_number(reply, 1);
		outcome->outdated += reply_number(reply, 2);
		outcome->unfinished += is_step;
		if (!is_step || reply->elements == 7)
			return;
		reply = reply->element[7];
	}
	if (outcome->refused++ > 0)
		return;
	if (reply->type == REDIS_REPLY_ERROR)
		slate_link_words(outcome->error, sizeof(outcome->error), reply, NULL);
	else
		strlcpy(outcome->error, "unexpected reply to a script",
				sizeof(outcome->error));
}

bool
slate_script_is_out_of_memory(const SlateOutcome *outcome)
{
	return outcome->refused > 0 && strncmp(outcome->error, "OOM ", 4) == 0;
}

void
slate_script_count_outcome(const SlateOutcome *outcome)
{
	slate_stats_add(STAT_KEYS_STORED, outcome->stored);
	slate_stats_add(STAT_KEYS_DROPPED, outcome->dropped);
	slate_stats_add(STAT_KEYS_OUTDATED, outcome->outdated);
}

/* An exchange with pushes that go to one node. */
typedef struct PushState
{
	SlateBatch *batch;
	int			first;			/* of its commands */
	SlateOutcome outcome;
} PushState;

/* Have the next step over an index begin where this one has ended. */
static void
take_step(SlateBatch *batch, int number, const redisReply *reply)
{
	for (int i = 0; i < batch->ndrops; i++)
	{
		SlateIndexDrop *drop = &batch->drops[i];

		if (drop->number != number)
			continue;
		drop->more = is_step_reply(reply);
		if (!drop->more)
			return;
		put_step(batch->bytes.data + drop->step_at, drop->own,
				 reply->element[4]->str, MEMBERS_PER_STEP);
		drop->seen += reply_number(reply, 5);
		drop->members = reply_number(reply, 6);
		return;
	}
}

static void
on_push_reply(int index, const redisReply *reply, void *arg)
{
	PushState  *state = arg;
	SlateBatch *batch = state->batch;

	slate_script_take_reply(&state->outcome, reply);
	if (batch->ndrops > 0)
		take_step(batch, batch->numbers ? index : state->first + index, reply);
}

static void
add_outcome(SlateOutcome *sum, const SlateOutcome *outcome)
{
	sum->unfinished += outcome->unfinished;
	sum->stored += outcome->stored;
	sum->dropped += outcome->dropped;
	sum->outdated += outcome->outdated;
	sum->strange |= outcome->strange;
	if (sum->refused == 0)
		memcpy(sum->error, outcome->error, sizeof(sum->error));
	sum->refused += outcome->refused;
}

/* What goes to one node; *deadline is the first exchange's. */
static SlateRedisStatus
publish_part(SlateBatch *batch, SlateOutcome *outcome, int64 *deadline,
			 int timeout, SlateWait wait)
{
	SlateRedisStatus status = REDIS_DONE;
	SlateCut	last = {batch->bytes.len, batch->ncommands};
	SlateCut	from = {0, 0};

	for (int i = 0; i <= batch->ncuts && status == REDIS_DONE; i++)
	{
		SlateCut	to = i < batch->ncuts ? batch->cuts[i] : last;
		PushState	state = {.batch = batch,.first = from.ncommands};

		if (to.ncommands == from.ncommands)
			continue;
		status = run_commands(batch, from, to, on_push_reply, &state,
							  *deadline, wait);
		add_outcome(outcome, &state.outcome);
		from = to;
		if (i < batch->ncuts)
			*deadline = slate_link_now() + timeout;
	}
	return status;
}

SlateRedisStatus
slate_script_publish(SlateBatch *batch, SlateOutcome *outcome,
					 int64 deadline, int timeout, SlateWait wait)
{
	SlateRedisStatus status = REDIS_DONE;

	memset(outcome, 0, sizeof(*outcome));
	if (!slate_redis_has_topology(batch->topology))
		return REDIS_UNREACHABLE;
	if (batch->nparts == 0)
		return publish_part(batch, outcome, &deadline, timeout, wait);
	send_ahead(batch, deadline);
	for (int i = 0; i < batch->nparts && status == REDIS_DONE; i++)
		status = publish_part(&batch->parts[i], outcome, &deadline, timeout,
							  wait);
	if (status != REDIS_DONE)
		slate_redis_give_up_ahead();
	return status;
}

/* Where something is left; NULL: nowhere. */
static SlateIndexDrop *
find_unfinished(const SlateBatch *batch)
{
	for (int i = 0; i < batch->ndrops; i++)
	{
		if (batch->drops[i].more)
			return &batch->drops[i];
	}
	return NULL;
}

int64
slate_script_members_left(const SlateBatch *batch)
{
	int64		left = 0;

	for (int i = 0; i < batch->nparts; i++)
		left += slate_script_members_left(&batch->parts[i]);
	for (int i = 0; i < batch->ndrops; i++)
	{
		const SlateIndexDrop *drop = &batch->drops[i];

		if (drop->more)
			left += Max(drop->members - drop->seen, 1);
	}
	return left;
}

SlateRedisStatus
slate_script_go_on(SlateBatch *batch, SlateOutcome *outcome, int64 deadline,
				   SlateWait wait)
{
	SlateIndexDrop *drop = find_unfinished(batch);
	PushState	state = {.batch = batch};
	SlateRedisStatus status;
	SlateCut	from;
	SlateCut	to;

	for (int i = 0; i < batch->nparts; i++)
	{
		if (find_unfinished(&batch->parts[i]) != NULL)
			return slate_script_go_on(&batch->parts[i], outcome, deadline,
									  wait);
	}
	if (!slate_redis_has_topology(batch->topology))
		return REDIS_UNREACHABLE;
	if (drop == NULL)
		return REDIS_DONE;
	state.first = drop->nth;
	from = (SlateCut) {drop->start, drop->nth};
	to = (SlateCut) {drop->end, drop->nth + 1};
	status = run_commands(batch, from, to, on_push_reply, &state, deadline,
						  wait);
	add_outcome(outcome, &state.outcome);
	return status;
}
