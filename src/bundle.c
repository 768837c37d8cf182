/*-------------------------------------------------------------------------
 *
 * bundle.c
 *	  Pushes of several transactions, to be sent in one exchange.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "bundle.h"
#include "common/hashfn.h"
#include "script.h"

static SlateBundleUnit *
begin_unit(SlateBundle *bundle)
{
	SlateBundleUnit *unit = &bundle->units[bundle->nunits++];

	memset(unit, 0, sizeof(*unit));
	unit->first = bundle->batch.ncommands;
	return unit;
}

static void
add_as_it_is(SlateBundle *bundle, SlateBundlePart *part)
{
	part->unit = begin_unit(bundle);
	appendBinaryStringInfo(&bundle->batch.bytes, part->bytes, part->nbytes);
	bundle->batch.ncommands += part->ncommands;
}

/* ------------------------------------------------------------------------
 * Joining
 * ------------------------------------------------------------------------
 */

static void
begin_join(SlateBundleJoin *join)
{
	join->count = 0;
	join->nkeys = 0;
	join->nth++;
}

static void
end_join(SlateBundle *bundle)
{
	SlateBundleJoin *join = &bundle->join;
	const SlateCall *calls[SLATE_KEYS_PER_JOIN];
	const char *bytes[SLATE_KEYS_PER_JOIN];
	SlateBundleUnit *unit;

	if (join->count == 1)
		add_as_it_is(bundle, join->parts[0]);
	else if (join->count > 1)
	{
		unit = begin_unit(bundle);
		for (int i = 0; i < join->count; i++)
		{
			calls[i] = join->parts[i]->call;
			bytes[i] = join->parts[i]->bytes;
			join->parts[i]->unit = unit;
		}
		slate_script_add_joined(&bundle->batch, calls, bytes, join->count);
	}
	begin_join(join);
}

/* False if it is there already. */
static bool
note_key(SlateBundleJoin *join, SlateSlice key)
{
	uint32		place = hash_bytes((const unsigned char *) key.start, key.len);

	for (;; place++)
	{
		place %= lengthof(join->places);
		if (join->places[place].nth != join->nth)
			break;
		if (slate_slice_compare(&join->places[place].key, &key) == 0)
			return false;
	}
	join->places[place].nth = join->nth;
	join->places[place].key = key;
	return true;
}

static bool
note_keys(SlateBundleJoin *join, const SlateBundlePart *part)
{
	int			offset = 0;

	for (int i = 0; i < part->call->nkeys; i++)
	{
		if (!note_key(join, slate_call_next_key(part->call, part->bytes,
												&offset)))
			return false;
	}
	return true;
}

static bool
fits(const SlateBundleJoin *join, const SlateBundlePart *part)
{
	return join->count == 0 ||
		(join->nkeys + part->call->nkeys <= SLATE_KEYS_PER_JOIN &&
		 slate_call_may_join(join->parts[0]->call, join->parts[0]->bytes,
							 part->call, part->bytes));
}

static void
add_joined(SlateBundle *bundle, SlateBundlePart *part)
{
	SlateBundleJoin *join = &bundle->join;

	if (!fits(join, part) || !note_keys(join, part))
	{
		end_join(bundle);
		(void) note_keys(join, part);
	}
	join->parts[join->count++] = part;
	join->nkeys += part->call->nkeys;
}

/* ------------------------------------------------------------------------
 * Bundles
 * ------------------------------------------------------------------------
 */

void
slate_bundle_begin(SlateBundle *bundle)
{
	slate_batch_reset(&bundle->batch);
	slate_batch_aim(&bundle->batch, 0);
	bundle->nunits = 0;
	begin_join(&bundle->join);
}

void
slate_bundle_add(SlateBundle *bundle, SlateBundlePart *part)
{
	if (part->call->nkeys > 0 && part->call->nkeys <= SLATE_KEYS_PER_JOIN)
		add_joined(bundle, part);
	else
		add_as_it_is(bundle, part);
}

void
slate_bundle_end(SlateBundle *bundle)
{
	end_join(bundle);
}

void
slate_bundle_take_reply(SlateBundle *bundle, int index,
						const redisReply *reply)
{
	int			low = 0;
	int			high = bundle->nunits;

	/* the last one that begins there or before */
	while (high - low > 1)
	{
		int			middle = (low + high) / 2;

		if (bundle->units[middle].first <= index)
			low = middle;
		else
			high = middle;
	}
	slate_exchange_take_reply(&bundle->units[low].outcome, reply);
}
