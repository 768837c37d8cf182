/*-------------------------------------------------------------------------
 *
 * events.c
 *	  The last things that happened to the cache: slate_cache.events.
 *
 * What is worth an event is what changes the cache's state, and what somebody
 * who is called at night would ask for: the breaker opens, the namespace was
 * emptied, a worker ended.  What happens with every commit is counted instead,
 * see stats.c.  So whoever notes what may come often notes the change, not
 * each case: see note_opening() in breaker.c, slate_stats_delayed(), conclude()
 * in worker.c.
 *
 * The ring
 *
 * Events are noted after commits, where nothing may wait.  So there is no
 * lock: a writer takes the next number, which is his alone, and with it a
 * slot.  The slot's sequence is odd while he writes, and tells the number
 * before and after; a reader takes what has the number that he expects, before
 * and after he has copied it.  Who was held up for a whole turn of the ring
 * finds a later number, or keeps the slot from whoever comes next: that event
 * is lost, and nobody waits.
 *
 * Without shared memory there is a ring for this session's own events.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "commands/dbcommands.h"
#include "events.h"
#include "fmgr.h"
#include "funcapi.h"
#include "port/atomics.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#define SLOTS 1024

/* The server's name, and a reason. */
#define DETAIL_SIZE 400

typedef struct Event
{
	pg_atomic_uint64 sequence;	/* of number n: 2n + 1 while it is written,
								 * then 2n + 2; 0: none yet */
	TimestampTz at;
	Oid			database;		/* InvalidOid: not of one */
	int			pid;
	SlateEventKind kind;
	char		detail[DETAIL_SIZE];
} Event;

typedef struct EventRing
{
	pg_atomic_uint64 next;		/* number of the next event */
	Event		events[SLOTS];
} EventRing;

/* In the order of SlateEventKind. */
static const char *const kind_names[EVENT_KINDS] = {
	"launcher started",
	"launcher ended",
	"worker started",
	"worker ended",
	"no worker",
	"breaker opened",
	"breaker closed",
	"failover",
	"trust lost",
	"standing back",
	"flush asked",
	"emptied",
	"pushes delayed",
	"pushes lost",
	"journal full",
	"refused",
	"replayed"
};

/* This session's own, until shared memory takes its place. */
static EventRing own_ring;
static EventRing *ring = &own_ring;

PG_FUNCTION_INFO_V1(slate_cache_events);

Size
slate_events_shmem_size(void)
{
	return MAXALIGN(sizeof(EventRing));
}

void
slate_events_shmem_startup(void)
{
	bool		found;

	ring = ShmemInitStruct("slate_cache events", sizeof(EventRing), &found);
	if (found)
		return;
	pg_atomic_init_u64(&ring->next, 0);
	for (int i = 0; i < SLOTS; i++)
		pg_atomic_init_u64(&ring->events[i].sequence, 0);
}

void
slate_events_note(SlateEventKind kind, Oid database, const char *format,...)
{
	uint64		number = pg_atomic_fetch_add_u64(&ring->next, 1);
	Event	   *event = &ring->events[number % SLOTS];
	uint64		sequence = pg_atomic_read_u64(&event->sequence);
	va_list		args;

	if (sequence % 2 != 0 || sequence > 2 * number ||
		!pg_atomic_compare_exchange_u64(&event->sequence, &sequence,
										2 * number + 1))
		return;
	event->at = GetCurrentTimestamp();
	event->database = database;
	event->pid = MyProcPid;
	event->kind = kind;
	va_start(args, format);
	vsnprintf(event->detail, DETAIL_SIZE, format, args);
	va_end(args);
	pg_write_barrier();
	pg_atomic_write_u64(&event->sequence, 2 * number + 2);
}

/* False if it was overwritten, or is not there yet. */
static bool
read_event(uint64 number, Event *event)
{
	Event	   *slot = &ring->events[number % SLOTS];

	if (pg_atomic_read_u64(&slot->sequence) != 2 * number + 2)
		return false;
	pg_read_barrier();
	memcpy(event, slot, sizeof(Event));
	pg_read_barrier();
	return pg_atomic_read_u64(&slot->sequence) == 2 * number + 2;
}

/*
 * Paths and messages of the system come as they are, perhaps from a database
 * with another encoding, and a character may have been cut in two.
 */
static Datum
detail_text(char *detail)
{
	bool		is_valid = pg_verifymbstr(detail, strlen(detail), true);

	for (char *c = detail; *c != '\0'; c++)
	{
		if ((!is_valid && IS_HIGHBIT_SET(*c)) ||
			(unsigned char) *c < ' ' || *c == 0x7f)
			*c = '?';
	}
	return CStringGetTextDatum(detail);
}

static void
put_event(ReturnSetInfo *result, Event *event)
{
	char	   *database = get_database_name(event->database);
	NameData	name;
	Datum		row[5];
	bool		nulls[5] = {false};

	row[0] = TimestampTzGetDatum(event->at);
	if (database)
		namestrcpy(&name, database);
	row[1] = NameGetDatum(&name);
	nulls[1] = database == NULL;
	row[2] = Int32GetDatum(event->pid);
	row[3] = CStringGetTextDatum(kind_names[event->kind]);
	row[4] = detail_text(event->detail);
	nulls[4] = event->detail[0] == '\0';
	tuplestore_putvalues(result->setResult, result->setDesc, row, nulls);
}

/* The newest first. */
Datum
slate_cache_events(PG_FUNCTION_ARGS)
{
	uint64		next = pg_atomic_read_u64(&ring->next);
	uint64		oldest = next > SLOTS ? next - SLOTS : 0;
	Event		event;

	InitMaterializedSRF(fcinfo, 0);
	for (uint64 number = next; number > oldest; number--)
	{
		CHECK_FOR_INTERRUPTS();
		if (read_event(number - 1, &event))
			put_event((ReturnSetInfo *) fcinfo->resultinfo, &event);
	}
	return (Datum) 0;
}
