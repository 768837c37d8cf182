/*-------------------------------------------------------------------------
 *
 * breaker.c
 *	  When to stop trying a server for a while.
 *
 * A server that is gone costs each commit a deadline, unless somebody
 * remembers.  What is remembered is in shared memory: next_try, a point of
 * CLOCK_MONOTONIC (one clock for all processes).  Zero is the closed breaker:
 * go ahead.  Otherwise nobody tries before next_try; after it, who moves it
 * ahead by a compare-and-swap has the turn to probe, until the time it was
 * moved to, and the others go on resting.  The probe ends in one of three
 * ways: it succeeds, and next_try becomes zero; it fails, and next_try becomes
 * the end of a longer rest; nothing is heard of it (its transaction failed for
 * another reason, its process died), and after next_try another has the turn.
 *
 * Probing is best done by a process that keeps no client waiting.  Where there
 * is one (a prober), backends leave the turn to it, unless it has let it pass
 * for a second longer than the exchange may take in which it may be already.
 *
 * Databases and roles may have urls of their own, and what is learnt of one
 * says nothing about another (a wrong password, too, is one url's).  So there
 * is a table of breakers: each url takes the first that is free, for good, and
 * those that find none share the last.
 *
 * One outage meets many backends at once.  Only the first of them to report it
 * is counted; to the others the breaker, open by then, says that it is known.
 *
 * How long a rest is depends on what trying costs: a server that refused at
 * once is asked again soon, one that let a deadline pass is not.
 *
 * Locks: none.  The atomics are not changed together.  That is fine: next_try
 * alone decides, failures only makes rests longer.  So a failure can be noted
 * after a commit.  Nothing throws but slate_breaker_shmem_startup().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "breaker.h"
#include "events.h"
#include "link.h"
#include "miscadmin.h"
#include "sequence.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

/* Rests: the first, in ms; each failure doubles it; up to the cap. */
#define REFUSED_REST 50
#define REFUSED_REST_CAP 1000
#define TIMEOUT_REST_FACTOR 4	/* times the timeout that passed */
#define TIMEOUT_REST_CAP 10000

/* The same for a timeout where there is a prober: no commit pays for it. */
#define PROBED_REST_CAP 1000

/* How long a probe may take beyond both timeouts, in ms. */
#define PROBE_GRACE 100

#define BREAKERS 32

/* How long they wait for a prober, in ms. */
#define PROBER_GRACE_MS 1000

/* How often an opening is an event, in ms. */
#define EVENT_INTERVAL_MS 5000

typedef struct Breaker
{
	pg_atomic_uint64 url;		/* a hash; 0: free, or the last of the table */
	pg_atomic_uint64 next_try;	/* ms of CLOCK_MONOTONIC; 0: closed */
	pg_atomic_uint32 failures;	/* in a row */
	pg_atomic_uint32 probers;	/* processes that probe for the others */
	pg_atomic_uint32 is_noted;	/* that it is open is an event */
	pg_atomic_uint64 noted_at;	/* the last such event; 0: none */
	pg_atomic_uint32 sequence;	/* of the reason, see sequence.h */
	char		reason[SLATE_REASON_SIZE];	/* of the last failure that was
											 * counted */
} Breaker;

/*
 * The breaker of the url in use; NULL until there was a valid one.  It is in
 * the shared table if we were preloaded, else it is local_breaker.
 */
static Breaker *breaker = NULL;
static Breaker *shared_breakers = NULL;
static Breaker local_breaker;

/* The value next_try had when it became this backend's turn to probe. */
static uint64 my_turn = 0;

/* Are we a prober, and which breaker counts us as one? */
static bool is_prober = false;
static Breaker *probed = NULL;

static void
init_breaker(Breaker *fresh)
{
	pg_atomic_init_u64(&fresh->url, 0);
	pg_atomic_init_u64(&fresh->next_try, 0);
	pg_atomic_init_u32(&fresh->failures, 0);
	pg_atomic_init_u32(&fresh->probers, 0);
	pg_atomic_init_u32(&fresh->is_noted, 0);
	pg_atomic_init_u64(&fresh->noted_at, 0);
	pg_atomic_init_u32(&fresh->sequence, 0);
	fresh->reason[0] = '\0';
}

Size
slate_breaker_shmem_size(void)
{
	return MAXALIGN(BREAKERS * sizeof(Breaker));
}

void
slate_breaker_shmem_startup(void)
{
	bool		found;

	shared_breakers = ShmemInitStruct("slate_cache breakers",
									  BREAKERS * sizeof(Breaker), &found);
	for (int i = 0; !found && i < BREAKERS; i++)
		init_breaker(&shared_breakers[i]);
}

/* Two of one url always meet: breakers are taken in order, and never freed. */
static Breaker *
find_shared_breaker(uint64 url)
{
	for (int i = 0; i < BREAKERS - 1; i++)
	{
		Breaker    *b = &shared_breakers[i];
		uint64		owner = pg_atomic_read_u64(&b->url);

		if (owner == 0 && pg_atomic_compare_exchange_u64(&b->url, &owner, url))
			return b;
		if (owner == url)
			return b;
	}
	return &shared_breakers[BREAKERS - 1];
}

/* Be counted by the breaker in use, if we are a prober. */
static void
register_prober(void)
{
	if (!is_prober || probed == breaker)
		return;
	if (probed != NULL)
		pg_atomic_fetch_sub_u32(&probed->probers, 1);
	probed = breaker;
	pg_atomic_fetch_add_u32(&probed->probers, 1);
}

void
slate_breaker_choose(uint64 url)
{
	if (shared_breakers != NULL)
		breaker = find_shared_breaker(Max(url, 1));
	else
	{
		init_breaker(&local_breaker);
		breaker = &local_breaker;
	}
	my_turn = 0;
	register_prober();
}

/* The usual case must not touch a cache line that others read. */
bool
slate_breaker_is_open(void)
{
	return pg_atomic_read_u64(&breaker->next_try) != 0;
}

void
slate_breaker_close(const char *server)
{
	uint32		failures;

	failures = pg_atomic_exchange_u32(&breaker->failures, 0);
	pg_atomic_write_u64(&breaker->next_try, 0);
	if (pg_atomic_exchange_u32(&breaker->is_noted, 0) != 0)
		slate_events_note(EVENT_BREAKER_CLOSED, InvalidOid,
						  "%s: failures in a row: %u",
						  server, failures);
}

bool
slate_breaker_take_turn(int64 longest)
{
	uint64		next_try = pg_atomic_read_u64(&breaker->next_try);
	uint64		now = slate_link_now();
	uint64		turn_begins = next_try;
	uint64		turn_ends;

	if (next_try == 0)
		return true;
	if (!is_prober && pg_atomic_read_u32(&breaker->probers) > 0)
		turn_begins += longest + PROBER_GRACE_MS;
	if (now < turn_begins)
		return next_try == my_turn;

	turn_ends = now + longest + PROBE_GRACE;
	if (!pg_atomic_compare_exchange_u64(&breaker->next_try, &next_try,
										turn_ends))
		return next_try == 0;	/* another was faster, or even done */

	my_turn = turn_ends;
	return true;
}

/*
 * How long to rest after so many failures before this one: with a quarter
 * more or less, so that what rests together does not return together.
 */
static int64
choose_rest(uint32 failures, int64 base, int64 cap)
{
	int64		rest = Min(Min(base, cap) << Min(failures, 16), cap);
	uint64		dice = ((uint64) slate_link_now() + MyProcPid) *
	UINT64CONST(0x9E3779B97F4A7C15);

	/* the upper bits are the well mixed ones */
	return rest - rest / 4 + (int64) ((dice >> 33) % (rest / 2 + 1));
}

/* Unless another is at it. */
static void
write_reason(const char *reason)
{
	if (!slate_sequence_begin_write(&breaker->sequence))
		return;
	strlcpy(breaker->reason, reason, SLATE_REASON_SIZE);
	slate_sequence_end_write(&breaker->sequence);
}

void
slate_breaker_reason(char *reason)
{
	if (!slate_sequence_copy(&breaker->sequence, reason, breaker->reason,
							 SLATE_REASON_SIZE))
		reason[0] = '\0';
}

/*
 * That it is open is an event, unless another opening was one a moment ago: a
 * Redis that answers now and then would fill the list.  If it stays open, the
 * next failure comes here, too.
 */
static void
note_opening(const char *server, const char *reason)
{
	uint64		now = slate_link_now();
	uint64		last = pg_atomic_read_u64(&breaker->noted_at);

	if (pg_atomic_read_u32(&breaker->is_noted) != 0 ||
		(last != 0 && now < last + EVENT_INTERVAL_MS) ||
		!pg_atomic_compare_exchange_u64(&breaker->noted_at, &last, now))
		return;
	pg_atomic_write_u32(&breaker->is_noted, 1);
	slate_events_note(EVENT_BREAKER_OPENED, InvalidOid, "%s: %s", server,
					  reason);
}

void
slate_breaker_open(int64 timeout, const char *server, const char *reason)
{
	int64		base = timeout > 0 ? timeout * TIMEOUT_REST_FACTOR : REFUSED_REST;
	int64		cap = timeout > 0 ? TIMEOUT_REST_CAP : REFUSED_REST_CAP;
	uint64		next_try = pg_atomic_read_u64(&breaker->next_try);
	uint64		now = slate_link_now();
	int64		rest;

	if (now < next_try && next_try != my_turn)
		return;

	if (pg_atomic_read_u32(&breaker->probers) > 0)
	{
		base = Min(base, REFUSED_REST);
		cap = Min(cap, PROBED_REST_CAP);
	}
	rest = choose_rest(pg_atomic_read_u32(&breaker->failures), base, cap);
	if (pg_atomic_compare_exchange_u64(&breaker->next_try, &next_try,
									   now + rest))
	{
		pg_atomic_fetch_add_u32(&breaker->failures, 1);
		write_reason(reason);
		note_opening(server, reason);
	}
	my_turn = 0;
}

void
slate_breaker_look(int *failures, int64 *rests_for)
{
	int64		next_try;

	*failures = 0;
	*rests_for = 0;
	if (breaker == NULL)
		return;
	*failures = (int) pg_atomic_read_u32(&breaker->failures);
	next_try = pg_atomic_read_u64(&breaker->next_try);
	if (next_try != 0)
		*rests_for = Max(next_try - slate_link_now(), 0);
}

int64
slate_breaker_next_try(void)
{
	uint64		next_try = pg_atomic_read_u64(&breaker->next_try);

	if (next_try == 0 || next_try == my_turn)
		return 0;
	return Max((int64) next_try - slate_link_now(), 0);
}

/* shmem_exit callback: nobody need wait for us any more. */
static void
retire_prober(int code pg_attribute_unused(), Datum arg pg_attribute_unused())
{
	is_prober = false;
	if (probed != NULL)
		pg_atomic_fetch_sub_u32(&probed->probers, 1);
	probed = NULL;
}

void
slate_breaker_become_prober(void)
{
	Assert(!is_prober && breaker == NULL);
	on_shmem_exit(retire_prober, (Datum) 0);
	is_prober = true;
}
