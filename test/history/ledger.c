/*-------------------------------------------------------------------------
 *
 * ledger.c
 *	  Every write, and what became of it; see history.h.
 *
 * A write belongs to its writer until its outcome is known.  Readers add to
 * "seen" alone, and set "wrong_since" where it is 0.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <time.h>

#include "history.h"

int64_t
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * SECOND + time.tv_nsec;
}

void
pause_for(int64_t nanoseconds)
{
	struct timespec time = {nanoseconds / SECOND, nanoseconds % SECOND};

	nanosleep(&time, NULL);
}

static void
raise_to(int64_t *place, int64_t value)
{
	int64_t		old = load(place);

	while (old < value &&
		   !__atomic_compare_exchange_n(place, &old, value, false,
										__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		;
}

const char *
write_state_name(WriteState state)
{
	static const char *const names[] = {
		"void", "open", "committing", "committed", "rolled back",
		"overwritten by its own transaction", "unknown"
	};

	return names[state];
}

/* The rows as they were made: each has counter 1, and its number as token. */
void
ledger_start(void)
{
	for (int row = 0; row < total_rows(); row++)
	{
		Write	   *write = &shared->writes[row + 1];

		write->row = row;
		write->counter = 1;
		write->state = WRITE_COMMITTED;
		write->strict = true;
		shared->rows[row].acked = 1;
		shared->rows[row].visible = 1;
	}
	shared->next_token = total_rows() + 1;
}

/* A new token.  The row's statement is sent after this. */
int64_t
write_begin(int row, int writer, bool strict)
{
	int64_t		token = add(&shared->next_token, 1);
	Write	   *write;

	if (token >= MAX_WRITES)
	{
		fprintf(stderr, "history: the ledger is full\n");
		exit(2);
	}
	write = &shared->writes[token];
	write->row = row;
	write->writer = writer;
	write->strict = strict;
	store(&write->state, WRITE_OPEN);
	return token;
}

/* The statement has returned: the row was there. */
void
write_returned(int64_t token, int64_t counter, int64_t before, uint64_t xid)
{
	Write	   *write = &shared->writes[token];

	write->before = before;
	write->xid = xid;
	store(&write->counter, counter);
}

/* Before COMMIT is sent. */
void
write_committing(int64_t token)
{
	Write	   *write = &shared->writes[token];
	Row		   *row = &shared->rows[write->row];

	write->sent = now();
	if (write->deletes)
		raise_to(&row->buried, write->counter);
	store(&row->touched, write->sent);
	store(&write->state, WRITE_COMMITTING);
}

/* Somebody has been shown what is committed. */
void
became_visible(const Write *write)
{
	int64_t	   *visible = &shared->rows[write->row].visible;

	while (options.mode == MODE_MIXED && !write->strict && write->before != 0)
		write = &shared->writes[write->before];
	raise_to(visible, write->counter);
}

/* What was committed before this write is wrong from now on. */
static void
predecessors_are_wrong(const Write *write)
{
	int64_t		when = now();
	int64_t		token = write->before;

	while (token != 0)
	{
		Write	   *before = &shared->writes[token];
		int64_t		never = 0;

		if (!__atomic_compare_exchange_n(&before->wrong_since, &never, when, false,
										 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return;
		token = before->before;
	}
}

/*
 * It is committed.  Promised: COMMIT has returned, and readers may rely on it,
 * see history.h; as opposed to what the server said when it was asked later.
 */
void
write_committed(int64_t token, bool promised)
{
	Write	   *write = &shared->writes[token];
	Row		   *row = &shared->rows[write->row];

	store(&write->ended, now());
	store(&write->state, WRITE_COMMITTED);
	predecessors_are_wrong(write);
	became_visible(write);
	if (promised)
		raise_to(&row->acked, write->counter);
}

void
write_rolled_back(int64_t token)
{
	Write	   *write = &shared->writes[token];
	int64_t		when = now();

	store(&write->ended, when);
	store(&write->wrong_since, when);
	store(&write->state, WRITE_ROLLED_BACK);
}

/* The table has shown it: it is committed, and what was before it is wrong. */
void
observe(int64_t token)
{
	Write	   *write;

	if (token <= 0 || token >= load(&shared->next_token))
		return;
	write = &shared->writes[token];
	if (load(&write->counter) == 0)
		return;					/* the table shows what nobody has written */
	predecessors_are_wrong(write);
	became_visible(write);
}
