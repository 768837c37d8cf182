/*-------------------------------------------------------------------------
 *
 * replies.c
 *	  What Redis has answered, as hiredis' reader builds it.
 *
 * hiredis' own functions call malloc(3) twice for each value, and free(3) as
 * often.  But a reply is looked at once, when it is complete, and then all of it
 * goes.  So its parts are put one behind the other into blocks, and to free it is
 * to begin again.  Nobody but link.c knows: what is handed over is a redisReply as
 * ever.
 *
 * A reply may be built while others wait on other connections, so each reader
 * has blocks of its own.  An ERROR that is thrown over a reply leaves it there,
 * until the link is closed.
 *
 * Here is also the guard before what allocates by a number that the server
 * states.
 *
 * Nothing here throws; NULL is the reader's "out of memory".
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "replies.h"

/* What a block has room for, unless something needs more; that one is kept. */
#define BLOCK_SIZE 8192

typedef struct SlateReplyBlock
{
	struct SlateReplyBlock *next;
	size_t		size;			/* of data */
	size_t		used;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} SlateReplyBlock;

#define BLOCK_HEADER MAXALIGN(offsetof(SlateReplyBlock, data))

/* ------------------------------------------------------------------------
 * Blocks
 * ------------------------------------------------------------------------
 */

static SlateReplyBlock *
add_block(SlateReplies *replies, size_t size)
{
	SlateReplyBlock *block = malloc(BLOCK_HEADER + size);

	if (block == NULL)
		return NULL;
	block->size = size;
	block->used = 0;
	block->next = replies->blocks;
	replies->blocks = block;
	return block;
}

static void *
allocate(SlateReplies *replies, size_t size)
{
	SlateReplyBlock *block = replies->blocks;

	size = MAXALIGN(size);
	if (block == NULL || block->size - block->used < size)
		block = add_block(replies, Max(size, BLOCK_SIZE));
	if (block == NULL)
		return NULL;
	block->used += size;
	return (char *) block + BLOCK_HEADER + block->used - size;
}

/* Free them, but for one, if any, of the usual size. */
static void
free_blocks(SlateReplies *replies, bool keep_one)
{
	SlateReplyBlock *kept = NULL;
	SlateReplyBlock *block;

	while ((block = replies->blocks) != NULL)
	{
		replies->blocks = block->next;
		if (keep_one && kept == NULL && block->size == BLOCK_SIZE)
			kept = block;
		else
			free(block);
	}
	if (kept)
	{
		kept->next = NULL;
		kept->used = 0;
	}
	replies->blocks = kept;
}

void
slate_replies_reset(SlateReplies *replies)
{
	SlateReplyBlock *block = replies->blocks;

	replies->nelements = 0;
	if (block && block->next == NULL && block->size == BLOCK_SIZE)
		block->used = 0;
	else
		free_blocks(replies, true);
}

void
slate_replies_free(SlateReplies *replies)
{
	free_blocks(replies, false);
	replies->nelements = 0;
	replies->refused = false;
}

/* ------------------------------------------------------------------------
 * The reader's functions
 * ------------------------------------------------------------------------
 */

/* With so many bytes behind it. */
static redisReply *
create(const redisReadTask *task, size_t more)
{
	redisReply *reply = allocate(task->privdata, sizeof(redisReply) + more);

	if (reply == NULL)
		return NULL;
	memset(reply, 0, sizeof(redisReply));
	reply->type = task->type;
	if (task->parent)
		((redisReply *) task->parent->obj)->element[task->idx] = reply;
	return reply;
}

static void *
create_string(const redisReadTask *task, char *bytes, size_t len)
{
	redisReply *reply = create(task, len + 1);

	if (reply == NULL)
		return NULL;
	reply->str = (char *) (reply + 1);
	reply->len = len;
	memcpy(reply->str, bytes, len);
	reply->str[len] = '\0';
	return reply;
}

/*
 * Refuse an array whose elements would exceed the limit, before hiredis, or we,
 * allocate by the number that the server says there will be.
 */
static void *
create_array(const redisReadTask *task, compat_reply_count elements)
{
	SlateReplies *replies = task->privdata;
	redisReply *reply;
	int			depth = 1;

	for (const redisReadTask *outer = task->parent; outer; outer = outer->parent)
		depth++;
	if (depth > SLATE_REPLY_MAX_DEPTH ||
		(size_t) elements > SLATE_REPLY_MAX_ELEMENTS - replies->nelements)
	{
		replies->refused = true;
		return NULL;
	}
	replies->nelements += elements;
	reply = create(task, elements * sizeof(redisReply *));
	if (reply == NULL)
		return NULL;
	reply->elements = elements;
	reply->element = (redisReply **) (reply + 1);
	memset(reply->element, 0, elements * sizeof(redisReply *));
	return reply;
}

static void *
create_integer(const redisReadTask *task, long long value)
{
	redisReply *reply = create(task, 0);

	if (reply)
		reply->integer = value;
	return reply;
}

/* It is announced as a string, or an array. */
static void *
create_nil(const redisReadTask *task)
{
	redisReply *reply = create(task, 0);

	if (reply)
		reply->type = REDIS_REPLY_NIL;
	return reply;
}

/* It goes with all others. */
static void
free_object(void *object pg_attribute_unused())
{
}

/* Of the newer protocol, which nobody has asked for; see compat.h. */
static inline void *
create_double(const redisReadTask *task, double value pg_attribute_unused(),
			  char *bytes, size_t len)
{
	return create_string(task, bytes, len);
}

static inline void *
create_bool(const redisReadTask *task, int value)
{
	return create_integer(task, value);
}

void
slate_replies_use(redisReader *reader, SlateReplies *replies)
{
	static redisReplyObjectFunctions functions = {
		.createString = create_string,
		.createArray = create_array,
		.createInteger = create_integer,
		COMPAT_NEWER_REPLIES(create_double, create_bool)
		.createNil = create_nil,
		.freeObject = free_object
	};

	reader->fn = &functions;
	reader->privdata = replies;
}
