/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  Commands that wait to be sent.
 *
 * A batch lives in the memory context in which it was made.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "batch.h"

/* Keys, and bytes, that one exchange should have at most. */
#define KEYS_PER_EXCHANGE 1024
#define BYTES_PER_EXCHANGE (8 * 1024 * 1024)

/* Commands of a part that there is room for at first. */
#define FIRST_NUMBERS 16

void
slate_batch_init(SlateBatch *batch)
{
	int			nnodes = slate_redis_nodes();

	if (slate_redis_topology() == 0)
	{
		slate_batch_init_for(batch, 0);
		return;
	}
	memset(batch, 0, sizeof(*batch));
	batch->topology = slate_redis_topology();
	batch->parts = palloc_array(SlateBatch, nnodes);
	batch->nparts = nnodes;
	for (int i = 0; i < nnodes; i++)
	{
		SlateBatch *part = &batch->parts[i];

		slate_batch_init_for(part, i);
		part->maxnumbers = FIRST_NUMBERS;
		part->numbers = palloc_array(int, FIRST_NUMBERS);
	}
}

void
slate_batch_init_for(SlateBatch *batch, int node)
{
	memset(batch, 0, sizeof(*batch));
	initStringInfo(&batch->bytes);
	slate_batch_aim(batch, node);
}

void
slate_batch_aim(SlateBatch *batch, int node)
{
	batch->node = node;
	batch->topology = slate_redis_topology();
}

void
slate_batch_reset(SlateBatch *batch)
{
	for (int i = 0; i < batch->nparts; i++)
		slate_batch_reset(&batch->parts[i]);
	if (batch->nparts == 0)
		resetStringInfo(&batch->bytes);
	batch->ncommands = batch->npushes = batch->nkeys = batch->ncuts = 0;
	batch->ndrops = 0;
}

void
slate_batch_free(SlateBatch *batch)
{
	for (int i = 0; i < batch->nparts; i++)
		slate_batch_free(&batch->parts[i]);
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
slate_batch_size(const SlateBatch *batch)
{
	int			size = batch->bytes.len;

	for (int i = 0; i < batch->nparts; i++)
		size += batch->parts[i].bytes.len;
	return size;
}

bool
slate_batch_is_long(const SlateBatch *batch)
{
	for (int i = 0; i < batch->nparts; i++)
	{
		if (batch->parts[i].ncuts > 0)
			return true;
	}
	return batch->ncuts > 0;
}

SlateBatch *
slate_batch_for_node(SlateBatch *batch, int node)
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

SlateBatch *
slate_batch_for_key(SlateBatch *batch, const char *key, int keylen)
{
	if (batch->nparts == 0)
		return batch;
	return slate_batch_for_node(batch, slate_redis_node_of(key, keylen));
}

int
slate_batch_count_nodes(const SlateBatch *batch)
{
	return Max(batch->nparts, 1);
}

void
slate_batch_count_keys(SlateBatch *batch, int nkeys)
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

/* Begin one, at the end of what goes to a node. */
SlateIndexDrop *
slate_batch_add_index_drop(SlateBatch *batch)
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
