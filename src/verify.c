/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  Comparing what Redis has of a table with the table: slate_cache_verify().
 *
 * A value in Redis may differ from the table for a moment without anything
 * being wrong: its writer has committed, and its push is on the way.  And GET
 * and query do not look at the same instant.  So a difference makes a key a
 * suspect, no more; suspects are looked at again until a push that was on its
 * way would have arrived or failed, which is slate_cache.timeout, and some
 * more for what backends leave to the worker.  Only what was seen at each look
 * is a finding: the same value in Redis, the same value in the table, and a
 * guard that nobody has pushed or filled under in between.  (A guard that is
 * gone has expired; a push would have left one.)  A row that changes faster
 * than that is not reported: its next push will set it right, or it comes to
 * rest and is found.
 *
 * The keys come from Redis, by SCAN: only a key that is there can be wrong,
 * and the table does not know the keys of rows that it no longer has.  A
 * sample comes from random rows instead, and so finds no orphans.
 *
 * Repair drops at once, not at commit: the key is as wrong if this transaction
 * is rolled back.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xlog.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "load.h"
#include "near.h"
#include "script.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "value.h"
#include "walk.h"

PG_FUNCTION_INFO_V1(slate_cache_verify);

/* Suspects that are looked at again together. */
#define MAX_SUSPECTS 1000

/* The longest time between two looks, ms. */
#define MAX_INTERVAL 250

/* What the worker may need to begin with what was left to it, ms. */
#define MARGIN_MS 1000

/* ------------------------------------------------------------------------
 * Looking
 * ------------------------------------------------------------------------
 */

/* A key as it was seen. */
typedef struct Sighting
{
	SlateSlice	key;
	bool		there;			/* Redis has something */
	char	   *cached;			/* NULL: nothing, or of another type */
	int			cachedlen;
	uint64		guard;			/* hash; 0: there is none */
	SlateLoad  *load;			/* what the table has; NULL unless there */
} Sighting;

static uint64
hash_bytes_of(const char *bytes, size_t len)
{
	return hash_bytes_extended((const unsigned char *) bytes, len, 0) | 1;
}

/* Two replies a key: the guard's, and the value's. */
static void
on_look_reply(int index, const redisReply *reply, void *arg)
{
	Sighting   *sighting = &((Sighting *) arg)[index / 2];
	bool		is_string = reply->type == REDIS_REPLY_STRING;

	if (index % 2 == 0)
	{
		sighting->guard = is_string ? hash_bytes_of(reply->str, reply->len) : 0;
		return;
	}
	sighting->there = is_string || reply->type == REDIS_REPLY_ERROR;
	sighting->cached = NULL;
	if (is_string)
	{
		sighting->cached = palloc(reply->len + 1);
		memcpy(sighting->cached, reply->str, reply->len + 1);
		sighting->cachedlen = reply->len;
	}
}

/* Then a snapshot, and the table. */
static void
load_sightings(Sighting *sightings, int n)
{
	SlateLoad  *loads = palloc0_array(SlateLoad, n);
	int			nloads = 0;

	for (int i = 0; i < n; i++)
	{
		if (!sightings[i].there)
			continue;
		sightings[i].load = &loads[nloads];
		loads[nloads++].key = sightings[i].key;
	}
	slate_load(loads, nloads);
}

/* Look at keys, in the current memory context; adds to *bytes. */
static Sighting *
look(const SlateSlice *keys, int n, Size *bytes)
{
	Sighting   *sightings = palloc0_array(Sighting, n);
	SlateBatch	batch;

	slate_batch_init(&batch);
	for (int i = 0; i < n; i++)
	{
		sightings[i].key = keys[i];
		slate_script_add_get_guard(&batch, keys[i].start, keys[i].len);
		slate_script_add_get(&batch, keys[i].start, keys[i].len);
	}
	slate_walk_exchange(&batch, on_look_reply, sightings);
	load_sightings(sightings, n);
	for (int i = 0; i < n; i++)
	{
		*bytes += sightings[i].cachedlen;
		*bytes += sightings[i].load ? sightings[i].load->len : 0;
	}
	return sightings;
}

/* ------------------------------------------------------------------------
 * Judging
 * ------------------------------------------------------------------------
 */

static char *
jsonb_text(Jsonb *value)
{
	return JsonbToCString(NULL, &value->root, VARSIZE(value));
}

/* What the table has; NULL for nothing, or for what jsonb cannot hold. */
static Jsonb *
parse_actual(const SlateLoad *load)
{
	return load->json ? slate_value_parse(load->json, load->len) : NULL;
}

static int
compare_texts(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* The texts of an array's elements, sorted. */
static char **
sorted_elements(Jsonb *array, int *n)
{
	char	  **texts;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	item;

	*n = 0;
	texts = palloc_array(char *, JB_ROOT_COUNT(array) + 1);
	iterator = JsonbIteratorInit(&array->root);
	while ((token = JsonbIteratorNext(&iterator, &item, true)) != WJB_DONE)
	{
		if (token == WJB_ELEM)
			texts[(*n)++] = jsonb_text(JsonbValueToJsonb(&item));
	}
	qsort(texts, *n, sizeof(char *), compare_texts);
	return texts;
}

/* A list of a table without a primary key has no order. */
static bool
same_elements(Jsonb *cached, Jsonb *actual)
{
	char	  **a;
	char	  **b;
	int			na;
	int			nb;

	if (!JB_ROOT_IS_ARRAY(cached) || JB_ROOT_IS_SCALAR(cached))
		return false;
	a = sorted_elements(cached, &na);
	b = sorted_elements(actual, &nb);
	for (int i = 0; na == nb && i < na; i++)
	{
		if (strcmp(a[i], b[i]) != 0)
			return false;
	}
	return na == nb;
}

/* Nobody cares for blanks and the order of fields. */
static bool
same_json(Jsonb *cached, const SlateLoad *load)
{
	Jsonb	   *actual = parse_actual(load);

	if (actual == NULL)
		return false;
	return strcmp(jsonb_text(cached), jsonb_text(actual)) == 0 ||
		(load->is_list && same_elements(cached, actual));
}

/* What is wrong with a key, or NULL. */
static const char *
find_problem(const Sighting *sighting)
{
	const SlateLoad *load = sighting->load;
	Jsonb	   *cached;

	if (!sighting->there || !load->possible)
		return NULL;
	if (sighting->cached && load->json &&
		sighting->cachedlen == load->len &&
		memcmp(sighting->cached, load->json, load->len) == 0)
		return NULL;
	cached = sighting->cached
		? slate_value_parse(sighting->cached, sighting->cachedlen) : NULL;
	if (cached == NULL)
		return "unreadable";
	if (load->json == NULL)
		return "orphan";
	return same_json(cached, load) ? NULL : "stale";
}

/* ------------------------------------------------------------------------
 * Suspects
 * ------------------------------------------------------------------------
 */

/* A key that differed, and how it was then. */
typedef struct Suspect
{
	SlateSlice	key;
	uint64		cached;			/* hashes; 0: there was none */
	uint64		actual;
	uint64		guard;
} Suspect;

typedef struct Verify
{
	SlateWalk	walk;			/* first, see verify_batch() */
	bool		repair;
	ReturnSetInfo *result;
	HTAB	   *seen;			/* hashes of suspects' keys, for good: SCAN
								 * may tell a key twice */
	MemoryContext context;		/* holds the suspects' keys */
	int			nsuspects;
	Suspect		suspects[MAX_SUSPECTS];
} Verify;

static Suspect
describe(const Sighting *sighting)
{
	Suspect		suspect = {.key = sighting->key,.guard = sighting->guard};

	if (sighting->cached)
		suspect.cached = hash_bytes_of(sighting->cached, sighting->cachedlen);
	if (sighting->load->json)
		suspect.actual = hash_bytes_of(sighting->load->json,
									   sighting->load->len);
	return suspect;
}

/* Has nothing happened to it since, and does it still differ? */
static bool
is_unchanged(const Suspect *suspect, const Sighting *sighting)
{
	Suspect		now;

	if (find_problem(sighting) == NULL)
		return false;
	now = describe(sighting);
	return now.cached == suspect->cached && now.actual == suspect->actual &&
		(now.guard == suspect->guard || now.guard == 0);
}

static text *
printable_value(const Sighting *sighting)
{
	Jsonb	   *value;

	if (sighting->cached == NULL)
		return NULL;
	value = slate_value_parse(sighting->cached, sighting->cachedlen);
	if (value)
		return cstring_to_text(jsonb_text(value));
	if (pg_verify_mbstr(GetDatabaseEncoding(), sighting->cached,
						sighting->cachedlen, true))
		return cstring_to_text_with_len(sighting->cached, sighting->cachedlen);
	return NULL;
}

static void
report(Verify *verify, const Sighting *sighting)
{
	const SlateLoad *load = sighting->load;
	text	   *cached = printable_value(sighting);
	Jsonb	   *actual = parse_actual(load);
	Datum		row[4] = {
		PointerGetDatum(cstring_to_text_with_len(sighting->key.start,
												 sighting->key.len)),
		CStringGetTextDatum(find_problem(sighting)),
		PointerGetDatum(cached),
		JsonbPGetDatum(actual)
	};
	bool		isnull[4] = {false, false, cached == NULL, actual == NULL};

	tuplestore_putvalues(verify->result->setResult, verify->result->setDesc,
						 row, isnull);
}

/* Look at some suspects again; how many remain, which then come first? */
static int
look_at_suspects(Verify *verify, Suspect *suspects, int n, bool conclude)
{
	SlateSlice *keys = palloc_array(SlateSlice, n);
	Sighting   *sightings;
	SlateBatch	drops;
	Size		bytes = 0;
	int			nleft = 0;

	for (int i = 0; i < n; i++)
		keys[i] = suspects[i].key;
	sightings = look(keys, n, &bytes);
	slate_batch_init(&drops);
	for (int i = 0; i < n; i++)
	{
		if (!is_unchanged(&suspects[i], &sightings[i]))
			continue;
		suspects[nleft++] = suspects[i];
		if (!conclude)
			continue;
		report(verify, &sightings[i]);
		if (verify->repair)
			slate_script_add_drop(&drops, keys[i].start, keys[i].len);
	}
	slate_walk_exchange(&drops, NULL, NULL);
	for (int i = 0; i < n && verify->repair && conclude; i++)
		slate_near_void_key(keys[i]);
	slate_walk_adapt(&verify->walk, bytes);
	return nleft;
}

static void
look_again(Verify *verify, bool conclude)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "slate_cache suspects",
												  ALLOCSET_DEFAULT_SIZES);
	int			nleft = 0;
	int			n;

	for (int start = 0; start < verify->nsuspects; start += n)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		Suspect    *suspects = verify->suspects + start;
		int			nsame;

		CHECK_FOR_INTERRUPTS();
		n = Min(verify->walk.batch_size, verify->nsuspects - start);
		nsame = look_at_suspects(verify, suspects, n, conclude);
		memmove(verify->suspects + nleft, suspects, nsame * sizeof(Suspect));
		nleft += nsame;
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	verify->nsuspects = nleft;
	MemoryContextDelete(context);
}

/*
 * Look at the suspects again: most are cleared soon, the rest must wait until
 * nothing can be on its way any more.
 */
static void
settle_suspects(Verify *verify)
{
	int64		end = slate_link_now() + slate_redis_timeout + MARGIN_MS;
	int64		interval = 10;

	while (verify->nsuspects > 0)
	{
		bool		conclude;

		slate_walk_wait(Min(interval, Max(end - slate_link_now(), 0)));
		conclude = slate_link_now() >= end;
		look_again(verify, conclude);
		if (conclude)
			break;
		interval = Min(2 * interval, MAX_INTERVAL);
	}
	verify->nsuspects = 0;
	MemoryContextReset(verify->context);
}

static void
add_suspect(Verify *verify, const Sighting *sighting)
{
	uint64		hash = hash_bytes_of(sighting->key.start, sighting->key.len);
	MemoryContext old;
	Suspect		suspect;
	bool		found;

	(void) hash_search(verify->seen, &hash, HASH_ENTER, &found);
	if (found)
		return;
	if (verify->nsuspects == MAX_SUSPECTS)
		settle_suspects(verify);
	suspect = describe(sighting);
	old = MemoryContextSwitchTo(verify->context);
	suspect.key.start = pnstrdup(suspect.key.start, suspect.key.len);
	MemoryContextSwitchTo(old);
	verify->suspects[verify->nsuspects++] = suspect;
}

/* ------------------------------------------------------------------------
 * The whole
 * ------------------------------------------------------------------------
 */

static Size
verify_batch(SlateWalk *walk, SlateSlice *keys, int nkeys)
{
	Verify	   *verify = (Verify *) walk;
	Sighting   *sightings;
	Size		bytes = 0;
	int			n = 0;

	for (int i = 0; i < nkeys; i++)
	{
		if (slate_walk_owns(walk, keys[i]))
			keys[n++] = keys[i];
	}
	if (n == 0)
		return 0;
	sightings = look(keys, n, &bytes);
	for (int i = 0; i < n; i++)
	{
		if (find_problem(&sightings[i]))
			add_suspect(verify, &sightings[i]);
	}
	return bytes;
}

static HTAB *
make_seen(void)
{
	HASHCTL		control = {.keysize = sizeof(uint64),
	.entrysize = sizeof(uint64),.hcxt = CurrentMemoryContext};

	return hash_create("slate_cache suspects", 256, &control,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static bool
has_value_rules(const SlateRelation *rules)
{
	for (int i = 0; i < rules->nrules; i++)
	{
		if (slate_walk_has_values(&rules->rules[i]))
			return true;
	}
	return false;
}

static int
sample_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(1))
		return 0;
	if (PG_GETARG_INT32(1) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sample must be at least 1"),
				 errdetail("It is the number of rows whose keys are compared."),
				 errhint("NULL compares all keys.")));
	return PG_GETARG_INT32(1);
}

Datum
slate_cache_verify(PG_FUNCTION_ARGS)
{
	Verify	   *verify = palloc0_object(Verify);
	int			sample = sample_argument(fcinfo);

	verify->repair = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	if (verify->repair)
		PreventCommandDuringRecovery("slate_cache_verify() with repair");
	slate_walk_check_transaction("slate_cache_verify()");
	verify->walk.fn = verify_batch;
	slate_walk_begin(&verify->walk,
					 PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0));
	verify->seen = make_seen();
	verify->context = AllocSetContextCreate(CurrentMemoryContext,
											"slate_cache suspects' keys",
											ALLOCSET_DEFAULT_SIZES);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	verify->result = (ReturnSetInfo *) fcinfo->resultinfo;

	if (!has_value_rules(verify->walk.rules))
		return (Datum) 0;
	if (sample > 0)
		slate_walk_sample(&verify->walk, sample);
	else
		slate_walk_redis(&verify->walk);
	settle_suspects(verify);
	return (Datum) 0;
}
