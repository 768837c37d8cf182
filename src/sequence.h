/*-------------------------------------------------------------------------
 *
 * sequence.h
 *	  Notes in shared memory that are read and written without a lock.
 *
 * Beside such a note there is a number, which is odd while somebody writes.
 * Who finds another at it does not write: that one is not older news.  Who
 * reads makes a copy, which counts if the number was even before and is the
 * same afterwards.  So nobody waits for a process that was stopped while it
 * wrote, and after a commit nothing can be left locked: a reader gives up, and a
 * writer that has died leaves a note that nobody can read until a restart of the
 * server, which a crash is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_SEQUENCE_H
#define SLATE_SEQUENCE_H

#include "port/atomics.h"

/* A writer is done within microseconds, unless it was stopped. */
#define SLATE_SEQUENCE_TRIES 1000

/* False if another is at it. */
static inline bool
slate_sequence_begin_write(pg_atomic_uint32 *sequence)
{
	uint32		now = pg_atomic_read_u32(sequence);

	return now % 2 == 0 &&
		pg_atomic_compare_exchange_u32(sequence, &now, now + 1);
}

static inline void
slate_sequence_end_write(pg_atomic_uint32 *sequence)
{
	pg_write_barrier();
	pg_atomic_fetch_add_u32(sequence, 1);
}

/* Both are to be tried some times. */
static inline bool
slate_sequence_begin_read(pg_atomic_uint32 *sequence, uint32 *before)
{
	*before = pg_atomic_read_u32(sequence);
	if (*before % 2 != 0)
	{
		pg_spin_delay();
		return false;
	}
	pg_read_barrier();
	return true;
}

static inline bool
slate_sequence_end_read(pg_atomic_uint32 *sequence, uint32 before)
{
	pg_read_barrier();
	return pg_atomic_read_u32(sequence) == before;
}

/* A copy of a note in one piece; false if a writer was in the way. */
static inline bool
slate_sequence_copy(pg_atomic_uint32 *sequence, void *to, const void *note,
					Size size)
{
	uint32		before;

	for (int i = 0; i < SLATE_SEQUENCE_TRIES; i++)
	{
		if (!slate_sequence_begin_read(sequence, &before))
			continue;
		memcpy(to, note, size);
		if (slate_sequence_end_read(sequence, before))
			return true;
	}
	return false;
}

#endif							/* SLATE_SEQUENCE_H */
