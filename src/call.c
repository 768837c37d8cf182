/*-------------------------------------------------------------------------
 *
 * call.c
 *	  A call that pushes, looked at again by who sends it for others.
 *
 * The worker sends what sessions have encoded: it may push that without the script,
 * or join several calls into one.  All of it is made by slate_script_add_pushes().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "call.h"
#include "stamp.h"

/* Do they differ in nothing but their keys and deadlines? */
bool
slate_call_may_join(const SlateCall *a, const char *a_bytes,
					const SlateCall *b, const char *b_bytes)
{
	int			len = a->pushes_at - a->common_at;
	int			head = a->head_at - a->common_at;
	int			rest = head + 2 * SLATE_CLOCK_LEN;

	a_bytes += a->common_at;
	b_bytes += b->common_at;
	return len == b->pushes_at - b->common_at &&
		head == b->head_at - b->common_at &&
		memcmp(a_bytes, b_bytes, head) == 0 &&
		memcmp(a_bytes + rest, b_bytes + rest, len - rest) == 0;
}

/* The least deadline, and the last expiry, are right for all. */
void
slate_call_join_clocks(char *head, const char *other)
{
	if (memcmp(other, head, SLATE_CLOCK_LEN) < 0)
		memcpy(head, other, SLATE_CLOCK_LEN);
	if (memcmp(other + SLATE_CLOCK_LEN, head + SLATE_CLOCK_LEN, SLATE_CLOCK_LEN) > 0)
		memcpy(head + SLATE_CLOCK_LEN, other + SLATE_CLOCK_LEN, SLATE_CLOCK_LEN);
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
slate_call_next_key(const SlateCall *call, const char *bytes, int *offset)
{
	*offset = Max(*offset, call->keys_at);
	return next_bulk(bytes, offset);
}

void
slate_call_next_push(const SlateCall *call, const char *bytes,
					 SlateCallPush *push)
{
	SlateSlice	guard;

	push->at = Max(push->at, call->pushes_at);
	push->key = slate_call_next_key(call, bytes, &push->key_at);
	guard = next_bulk(bytes, &push->at);
	push->guard = guard.start;
	push->ttl.start = guard.start + SLATE_GUARD_LEN;
	push->ttl.len = guard.len - SLATE_GUARD_LEN;
	push->value = next_bulk(bytes, &push->at);
	push->expiry.start = bytes + call->head_at + SLATE_CLOCK_LEN;
	push->expiry.len = SLATE_CLOCK_LEN;
}

bool
slate_call_is_for_epoch(const SlateCall *call, const char *bytes,
						const char *epoch)
{
	int			at = call->head_at + SLATE_HEAD_LEN + 2;
	SlateSlice	noted;

	/* behind a head that has a mark there is something else */
	if (bytes[at] != '$')
		return false;
	noted = next_bulk(bytes, &at);
	return noted.len == strlen(epoch) &&
		memcmp(noted.start, epoch, noted.len) == 0;
}

bool
slate_call_is_in_time(const SlateCall *call, const char *bytes, int64 clock)
{
	char		digits[SLATE_CLOCK_LEN + 1];

	(void) slate_stamp_put_digits(digits, clock, SLATE_CLOCK_LEN);
	return clock > 0 && memcmp(digits, bytes + call->head_at, SLATE_CLOCK_LEN) < 0;
}
