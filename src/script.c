/*-------------------------------------------------------------------------
 *
 * script.c
 *	  The cache protocol: what is said to Redis about a key.
 *
 * lua.c tells the story, and has what Redis does.  Here are the other ends of
 * each step: encoders, which put a call of a script with its keys and arguments
 * into a batch.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "call.h"
#include "encode.h"
#include "lua.h"
#include "script.h"
#include "utils/memutils.h"

/* Bytes of values that a call handles before another one is begun. */
#define BYTES_PER_CALL (512 * 1024)

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

/* Of what is new with each step over an index. */
#define COUNT_LEN 5
#define STEP_LEN (2 * SLATE_TOKEN_LEN + SLATE_STEP_CURSOR_LEN + COUNT_LEN)

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

/* ------------------------------------------------------------------------
 * Encoding
 * ------------------------------------------------------------------------
 */

/* How many keys may be named in one call; in a Cluster each has its slot. */
static int
keys_per_call(const SlateBatch *batch)
{
	return batch->nparts > 0 ? 1 : SLATE_KEYS_PER_CALL;
}

/* EVALSHA sha numkeys, with room for nkeys keys and nargs arguments */
static void
append_call(SlateBatch *batch, SlateLua script, int nkeys, int nargs)
{
	begin_command(batch, 3 + nkeys + nargs);
	append_text(batch, "EVALSHA");
	append_text(batch, scripts[batch->node].sha[script]);
	append_number(batch, nkeys);
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

/* The arguments that every push begins with. */
static void
append_push_arguments(SlateBatch *batch, const SlateStamp *stamp)
{
	append_bytes(batch, stamp->version, SLATE_VERSION_LEN);
	append_bytes(batch, stamp->nonce, SLATE_TOKEN_LEN);
	append_number(batch, slate_stamp_guard_life_ms());
	append_text(batch, stamp->owner);
	append_text(batch, stamp->mark);
	batch->npushes++;
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
		slate_batch_init_for(&made->load, node);
	made->is_made = false;
	slate_batch_reset(&made->load);
	for (int i = 0; i < SLATE_LUA_SCRIPTS; i++)
	{
		char	   *source = slate_lua_source(i, tag);

		slate_lua_hash(source, made->sha[i]);
		begin_command(&made->load, 3);
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

const SlateBatch *
slate_script_loading(int node)
{
	return &scripts[node].load;
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
	if (slate_redis_topology() == 0 && slate_service_is_cluster())
		(void) slate_script_prepare(slate_link_now() + slate_redis_timeout,
									wait);
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

/* The same, and the TTL. */
static void
append_guard(SlateBatch *batch, const SlateStamp *stamp, const SlatePush *push)
{
	char		text[SLATE_GUARD_LEN + 24];
	char	   *at = slate_stamp_put_guard(text, stamp, push);

	if (push->value)
		at += pg_lltoa(push->ttl, at);
	else
		*at++ = '-';
	append_bytes(batch, text, at - text);
}

/* What the publish script has in front. */
static void
append_publish_head(SlateBatch *batch, const SlateStamp *stamp)
{
	char		head[SLATE_HEAD_LEN + SLATE_MARK_LEN];
	char	   *at = head;
	int			mark_len = strlen(stamp->mark);

	at = slate_stamp_put_digits(at, stamp->deadline, SLATE_CLOCK_LEN);
	at = slate_stamp_put_digits(at, slate_stamp_guard_expiry(stamp), SLATE_CLOCK_LEN);
	at = slate_stamp_put_digits(at, slate_stamp_guard_life_ms(), SLATE_LIFE_LEN);
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

	append_call(batch, LUA_PUBLISH, n, 3 + 2 * n);
	batch->call.nkeys = n;
	batch->call.keys_at = batch->bytes.len;
	for (int i = 0; i < n; i++)
		append_bytes(batch, pushes[i].key, pushes[i].keylen);
	batch->call.common_at = batch->bytes.len;
	slate_keyname_append_own(batch, stamp->epoch_key);
	append_publish_head(batch, stamp);
	batch->call.pushes_at = batch->bytes.len;
	for (int i = 0; i < n; i++)
	{
		append_guard(batch, stamp, &pushes[i]);
		append_bytes(batch, pushes[i].value ? pushes[i].value : "",
					 pushes[i].value ? pushes[i].valuelen : 0);
	}
	batch->call.end = batch->bytes.len;
	slate_batch_count_keys(batch, n);
}

void
slate_script_add_pushes(SlateBatch *batch, const SlateStamp *stamp,
						const SlatePush *pushes, int npushes)
{
	while (npushes > 0)
	{
		int			n = pushes_for_call(batch, pushes, npushes);

		append_pushes(slate_batch_for_key(batch, pushes->key, pushes->keylen), stamp,
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

void
slate_script_add_joined(SlateBatch *batch, const SlateCall *const *calls,
						const char *const *bytes, int ncalls)
{
	const SlateCall *first = calls[0];
	int			nkeys = 0;
	int			head;

	for (int i = 0; i < ncalls; i++)
		nkeys += calls[i]->nkeys;
	append_call(batch, LUA_PUBLISH, nkeys, 3 + 2 * nkeys);
	for (int i = 0; i < ncalls; i++)
		appendBinaryStringInfo(&batch->bytes, bytes[i] + calls[i]->keys_at,
							   calls[i]->common_at - calls[i]->keys_at);
	head = batch->bytes.len + first->head_at - first->common_at;
	appendBinaryStringInfo(&batch->bytes, bytes[0] + first->common_at,
						   first->pushes_at - first->common_at);
	for (int i = 0; i < ncalls; i++)
	{
		slate_call_join_clocks(batch->bytes.data + head, bytes[i] + calls[i]->head_at);
		appendBinaryStringInfo(&batch->bytes, bytes[i] + calls[i]->pushes_at,
							   calls[i]->end - calls[i]->pushes_at);
	}
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

	slate_stamp_disown(&stamp);
	slate_stamp_make_nonce(stamp.nonce);
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
	to = slate_batch_for_node(batch, node);
	append_call(to, LUA_REGISTER, 1, 1 + 2 * nkeys);
	slate_keyname_append_index(to, members->family.start, members->family.len);
	append_text(to, stamp ? stamp->mark : "");
	for (int i = 0; i < nmembers; i++)
	{
		int64		ttl = members[i].ttl;

		if (!is_on_node(batch, node, members[i].key))
			continue;

		/* the value comes later than this, by a guard's life at most */
		append_number(to, ttl == 0 ? 0 : ttl + slate_stamp_guard_life_ms());
		append_bytes(to, members[i].key.start, members[i].key.len);
	}
	to->npushes++;
	slate_batch_count_keys(to, nkeys);
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
		for (int node = 0; node < slate_batch_count_nodes(batch); node++)
			append_members(batch, node, stamp, members + start, n);
	}
}

void
slate_script_add_tick(SlateBatch *batch)
{
	for (int node = 0; node < slate_batch_count_nodes(batch); node++)
	{
		SlateBatch *to = slate_batch_for_node(batch, node);

		append_call(to, LUA_TICK, 0, 1);
		append_number(to, slate_stamp_guard_life_ms() / 8);
	}
}

static void
append_floors(SlateBatch *batch, const SlateStamp *stamp,
			  const SlateSlice *prefixes, int n)
{
	append_call(batch, LUA_FLOOR, 0, 5 + n);
	append_push_arguments(batch, stamp);
	append_slices(batch, prefixes, n);
	slate_batch_count_keys(batch, n);
}

void
slate_script_add_floor(SlateBatch *batch, const SlateStamp *stamp,
					   const SlateSlice *prefixes, int nprefixes)
{
	for (int start = 0; start < nprefixes; start += SLATE_KEYS_PER_CALL)
	{
		for (int node = 0; node < slate_batch_count_nodes(batch); node++)
			append_floors(slate_batch_for_node(batch, node), stamp, prefixes + start,
						  Min(nprefixes - start, SLATE_KEYS_PER_CALL));
	}
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

	slate_stamp_make_nonce(nonce);
	at = put_bytes(at, nonce, SLATE_TOKEN_LEN);
	at = put_bytes(at, own, SLATE_TOKEN_LEN);
	memset(at, '0', SLATE_STEP_CURSOR_LEN - len);
	at = put_bytes(at + SLATE_STEP_CURSOR_LEN - len, cursor, len);
	(void) slate_stamp_put_digits(at, count, COUNT_LEN);
}

void
slate_script_next_step(SlateBatch *batch, const SlateIndexDrop *drop,
					   const char *cursor)
{
	put_step(batch->bytes.data + drop->step_at, drop->own, cursor,
			 MEMBERS_PER_STEP);
}

void
slate_script_add_drop_family(SlateBatch *batch, const SlateStamp *stamp,
							 const char *family, int familylen,
							 const char *glob, int globlen, bool is_pushed)
{
	static const char nobody[] = "----------------";

	for (int node = 0; node < slate_batch_count_nodes(batch); node++)
	{
		SlateBatch *to = slate_batch_for_node(batch, node);
		SlateIndexDrop *drop = slate_batch_add_index_drop(to);
		int			share = 1 + (to->ndrops - 1) / FULL_STEPS;
		char		step[STEP_LEN];

		strlcpy(drop->own, stamp->nonce, sizeof(drop->own));
		put_step(step, is_pushed ? drop->own : nobody, "0",
				 Max(MEMBERS_PER_STEP / share, MIN_MEMBERS_PER_STEP));
		append_call(to, LUA_DROP_FAMILY, 1, 7);
		slate_keyname_append_index(to, family, familylen);
		append_push_arguments(to, stamp);
		append_bytes(to, glob, globlen);
		append_bytes(to, step, STEP_LEN);
		drop->end = to->bytes.len;
		drop->step_at = drop->end - STEP_LEN - 2;
		slate_batch_count_keys(to, 1);
	}
}

void
slate_script_add_get(SlateBatch *batch, const char *key, int keylen)
{
	SlateBatch *to = slate_batch_for_key(batch, key, keylen);

	begin_command(to, 2);
	append_text(to, "GET");
	append_bytes(to, key, keylen);
}

void
slate_script_add_note(SlateBatch *batch, const char *name, const char *value)
{
	for (int node = 0; node < slate_batch_count_nodes(batch); node++)
	{
		SlateBatch *to = slate_batch_for_node(batch, node);

		begin_command(to, 3);
		append_text(to, "SET");
		slate_keyname_append_own(to, name);
		append_text(to, value);
	}
}

void
slate_script_add_get_note(SlateBatch *batch, const char *name)
{
	for (int node = 0; node < slate_batch_count_nodes(batch); node++)
	{
		SlateBatch *to = slate_batch_for_node(batch, node);

		begin_command(to, 2);
		append_text(to, "GET");
		slate_keyname_append_own(to, name);
	}
}

void
slate_script_add_epoch(SlateBatch *batch, const char *key, const char *from,
					   const char *to, const char *wal_key, const char *wal)
{
	for (int node = 0; node < slate_batch_count_nodes(batch); node++)
	{
		SlateBatch *part = slate_batch_for_node(batch, node);

		append_call(part, LUA_EPOCH, 2, 3);
		slate_keyname_append_own(part, key);
		slate_keyname_append_own(part, wal_key);
		append_text(part, from);
		append_text(part, to);
		append_text(part, wal);
	}
}

void
slate_script_add_mget(SlateBatch *batch, const SlateSlice *keys, int nkeys)
{
	Assert(batch->nparts == 0);
	begin_command(batch, 1 + nkeys);
	append_text(batch, "MGET");
	append_slices(batch, keys, nkeys);
}

void
slate_script_add_ttl(SlateBatch *batch, const char *key, int keylen)
{
	SlateBatch *to = slate_batch_for_key(batch, key, keylen);

	begin_command(to, 2);
	append_text(to, "PTTL");
	append_bytes(to, key, keylen);
}

void
slate_script_add_get_guard(SlateBatch *batch, const char *key, int keylen)
{
	SlateBatch *to = slate_batch_for_key(batch, key, keylen);

	begin_command(to, 2);
	append_text(to, "GET");
	slate_keyname_append_guard(to, key, keylen);
}

void
slate_script_add_scan(SlateBatch *batch, const char *cursor,
					  const char *glob, int globlen)
{
	begin_command(batch, 6);
	append_text(batch, "SCAN");
	append_text(batch, cursor);
	append_text(batch, "MATCH");
	append_bytes(batch, glob, globlen);
	append_text(batch, "COUNT");
	append_number(batch, SCAN_COUNT);
}

void
slate_script_add_cluster_nodes(SlateBatch *batch)
{
	begin_command(batch, 2);
	append_text(batch, "CLUSTER");
	append_text(batch, "NODES");
}

void
slate_script_add_scan_all(SlateBatch *batch, const char *cursor, int count)
{
	begin_command(batch, 4);
	append_text(batch, "SCAN");
	append_text(batch, cursor);
	append_text(batch, "COUNT");
	append_number(batch, count);
}

void
slate_script_add_members(SlateBatch *batch, SlateSlice index,
						 const char *cursor)
{
	begin_command(batch, 5);
	append_text(batch, "ZSCAN");
	append_slices(batch, &index, 1);
	append_text(batch, cursor);
	append_text(batch, "COUNT");
	append_number(batch, SCAN_COUNT);
}

void
slate_script_add_remove(SlateBatch *batch, SlateSlice index, SlateSlice member)
{
	begin_command(batch, 3);
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
append_swept(SlateBatch *batch, SlateLua script, StringInfo keys,
			 int nkeys, int nargs)
{
	char		nonce[SLATE_TOKEN_LEN + 1];
	bool		are_keys = slate_redis_topology() == 0;

	append_call(batch, script, are_keys ? nkeys : 0,
				are_keys ? nargs : nargs + nkeys);
	appendBinaryStringInfo(&batch->bytes, keys->data, keys->len);
	slate_stamp_make_nonce(nonce);
	append_number(batch, slate_stamp_guard_life_ms());
	append_bytes(batch, nonce, SLATE_TOKEN_LEN);
}

void
slate_script_add_forget(SlateBatch *batch, StringInfo keys, int nkeys)
{
	append_swept(batch, LUA_FORGET, keys, nkeys, 2);
}

void
slate_script_add_drop_swept(SlateBatch *batch, StringInfo keys, int nkeys,
							StringInfo stamps, const char *owner)
{
	append_swept(batch, LUA_DROP_SWEPT, keys, nkeys, 3 + nkeys);
	append_text(batch, owner);
	appendBinaryStringInfo(&batch->bytes, stamps->data, stamps->len);
}

void
slate_script_add_drop_long(SlateBatch *batch, const char *cursor, int count,
						   SlateSlice glob)
{
	append_call(batch, LUA_DROP_LONG, 0, 4);
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

	slate_stamp_make_nonce(nonce);
	append_call(batch, LUA_LEASE, nkeys, 4);
	append_slices(batch, keys, nkeys);
	append_bytes(batch, nonce, SLATE_TOKEN_LEN);
	append_number(batch, slate_stamp_guard_life_ms());
	slate_keyname_append_own(batch, stamp->epoch_key);
	append_text(batch, stamp->epoch);
}

void
slate_script_add_leases(SlateBatch *batch, const SlateStamp *stamp,
						const SlateSlice *keys, int nkeys)
{
	int			step = batch->nparts > 0 ? 1 : nkeys;

	for (int i = 0; i < nkeys; i += step)
		append_leases(slate_batch_for_key(batch, keys[i].start, keys[i].len), stamp,
					  keys + i, step);
}

SlateLeaseKind
slate_script_take_lease(const redisReply *pair, const redisReply **text)
{
	SlateLeaseKind kind;

	*text = NULL;
	if (pair->type != REDIS_REPLY_ARRAY || pair->elements != 2 ||
		pair->element[0]->type != REDIS_REPLY_INTEGER ||
		pair->element[1]->type != REDIS_REPLY_STRING)
		return SLATE_LEASE_NONE;
	kind = (SlateLeaseKind) pair->element[0]->integer;
	*text = pair->element[1];
	return slate_script_is_leased(kind) && (*text)->len != SLATE_TOKEN_LEN
		? SLATE_LEASE_NONE : kind;
}

void
slate_script_add_fill(SlateBatch *batch, const char *key, int keylen,
					  const char *token, const char *value, int valuelen,
					  int64 ttl)
{
	SlateBatch *to = slate_batch_for_key(batch, key, keylen);

	append_call(to, LUA_FILL, 1, 4);
	append_bytes(to, key, keylen);
	append_bytes(to, token, SLATE_TOKEN_LEN);
	append_number(to, ttl);
	append_bytes(to, value, valuelen);
	append_number(to, slate_stamp_guard_life_ms());
}

/* What every MARK begins with: room for nkeys keys, nbeginnings more. */
static void
append_mark_call(SlateBatch *batch, const SlateStamp *stamp, uint64 xid,
				 const SlateSlice *keys, int nkeys, int nbeginnings)
{
	char		nonce[SLATE_TOKEN_LEN + 1];

	/* a push of this transaction has another nonce */
	slate_stamp_make_nonce(nonce);
	append_call(batch, LUA_MARK, nkeys, 5 + nbeginnings);
	append_slices(batch, keys, nkeys);
	append_text(batch, stamp->mark);
	append_number(batch, (int64) xid);
	append_bytes(batch, nonce, SLATE_TOKEN_LEN);
	slate_keyname_append_own(batch, stamp->epoch_key);
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
		SlateBatch *to = slate_batch_for_key(batch, keys[start].start,
											 keys[start].len);

		append_mark_call(to, stamp, xid, keys + start, n, 0);
		slate_batch_count_keys(to, n);
	}
}

static void
append_mark_beginnings(SlateBatch *batch, const SlateStamp *stamp, uint64 xid,
					   const SlateSlice *beginnings, int n)
{
	append_mark_call(batch, stamp, xid, NULL, 0, n);
	append_slices(batch, beginnings, n);
	slate_batch_count_keys(batch, n);
}

void
slate_script_add_mark_beginnings(SlateBatch *batch, const SlateStamp *stamp,
								 uint64 xid, const SlateSlice *beginnings,
								 int nbeginnings)
{
	for (int start = 0; start < nbeginnings; start += SLATE_KEYS_PER_CALL)
	{
		for (int node = 0; node < slate_batch_count_nodes(batch); node++)
			append_mark_beginnings(slate_batch_for_node(batch, node), stamp, xid,
								   beginnings + start,
								   Min(nbeginnings - start, SLATE_KEYS_PER_CALL));
	}
}

void
slate_script_add_release(SlateBatch *batch, const char *mark, bool in_any_case)
{
	for (int node = 0; node < slate_batch_count_nodes(batch); node++)
	{
		SlateBatch *to = slate_batch_for_node(batch, node);

		append_call(to, LUA_RELEASE, 0, 2);
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
	for (int node = 0; node < slate_batch_count_nodes(batch); node++)
	{
		SlateBatch *to = slate_batch_for_node(batch, node);

		begin_command(to, 2);
		append_text(to, "HGETALL");
		slate_keyname_append_own(to, name);
	}
}
