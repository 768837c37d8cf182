/*-------------------------------------------------------------------------
 *
 * report.c
 *	  What was found, and whether the mode promises better.
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <string.h>

#include "history.h"

/* Violations of a class that are shown. */
#define SHOWN 2

/* Is a class promised not to happen? */
static bool
is_promised(Class class)
{
	switch (class)
	{
		case CLASS_OLDER_ACKED:
			return options.mode != MODE_ASYNC;
		case CLASS_OLDER_VISIBLE:
			return options.mode == MODE_STRICT || options.mode == MODE_MIXED;
		case CLASS_BACKWARDS:
		case CLASS_WRONG_1S:
			return options.mode == MODE_STRICT;
		default:
			return true;
	}
}

/* Errors that transactions and faults bring with them. */
static bool
is_expected(const char *sqlstate)
{
	static const char *const expected[] = {
		"40001", "40P01",		/* serialization, deadlock */
		"22012",				/* the writers' own 1 / 0 */
		"57P01", "57P02", "57P03", "57014", "53300",	/* faults */
		"55000",				/* a prepared transaction is busy; strict and
								 * no worker yet */
		"22023"					/* the xid of a transaction that a crash undid */
	};

	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
		if (strcmp(sqlstate, expected[i]) == 0)
			return true;
	return options.mode >= MODE_STRICT && strcmp(sqlstate, "08006") == 0;
}

/*
 * Sums
 */

static Tally total;

static void
add_error(const ErrorCount *error)
{
	for (int i = 0; i < MAX_ERRORS; i++)
	{
		ErrorCount *sum = &total.errors[i];

		if (sum->count == 0)
		{
			*sum = *error;
			return;
		}
		if (strcmp(sum->sqlstate, error->sqlstate) == 0)
		{
			sum->count += error->count;
			return;
		}
	}
}

static void
sum_up(void)
{
	memset(&total, 0, sizeof(total));
	for (int process = 0; process < MAX_PROCESSES; process++)
	{
		const Tally *one = &shared->tallies[process];

		for (int kind = 0; kind < READ_KINDS; kind++)
		{
			total.reads[kind] += one->reads[kind];
			total.near[kind] += one->near[kind];
			total.misses[kind] += one->misses[kind];
			total.apart[kind] += one->apart[kind];
			for (int class = 0; class < CLASSES; class++)
			{
				total.found[kind][class] += one->found[kind][class];
				total.found_apart[kind][class] += one->found_apart[kind][class];
			}
		}
		total.commits += one->commits;
		total.prepared += one->prepared;
		total.promised += one->promised;
		total.rollbacks += one->rollbacks;
		total.failures += one->failures;
		total.unknown += one->unknown;
		total.unknown_committed += one->unknown_committed;
		for (int i = 0; i < MAX_ERRORS && one->errors[i].count > 0; i++)
			add_error(&one->errors[i]);
	}
}

static int64_t
cache_sum(int64_t per_kind[READ_KINDS])
{
	int64_t		sum = 0;

	for (int kind = 0; kind < READ_KINDS; kind++)
		if (kind != READ_TABLE)
			sum += per_kind[kind];
	return sum;
}

static int64_t
cache_found(int64_t found[READ_KINDS][CLASSES], Class class)
{
	int64_t		sum = 0;

	for (int kind = 0; kind < READ_KINDS; kind++)
		if (kind != READ_TABLE)
			sum += found[kind][class];
	return sum;
}

/* Reads that saw a write whose COMMIT was sent, but did not succeed. */
static int64_t
count_seen(void)
{
	int64_t		sum = 0;
	int64_t		last = load(&shared->next_token);

	for (int64_t token = 1; token < last; token++)
	{
		const Write *write = &shared->writes[token];

		if (write->state == WRITE_ROLLED_BACK)
			sum += write->seen;
	}
	return sum;
}

/*
 * Delayed pushes
 */

/* The write that an acknowledged bound comes from. */
static const Write *
bounding_write(const Event *event)
{
	int64_t		last = load(&shared->next_token);

	for (int64_t token = 1; token < last; token++)
	{
		const Write *write = &shared->writes[token];

		if (write->row == event->row && write->counter == event->bound &&
			write->state == WRITE_COMMITTED)
			return write;
	}
	return NULL;
}

static bool
is_excused(const Event *event, const Delay *delays, int ndelays)
{
	const Write *write = bounding_write(event);

	if (write == NULL || write->strict)
		return false;
	for (int i = 0; i < ndelays; i++)
		if (write->sent <= delays[i].to && write->ended >= delays[i].from)
			return true;
	return false;
}

static int64_t
count_excused(const Delay *delays, int ndelays)
{
	int64_t		events = load(&shared->next_event[CLASS_OLDER_ACKED]);
	int64_t		excused = 0;

	for (int64_t i = 0; i < events && i < MAX_EVENTS; i++)
		if (is_excused(&shared->events[CLASS_OLDER_ACKED][i], delays, ndelays))
			excused++;
	return excused;
}

/*
 * Showing what happened
 */

static int64_t origin;

static double
seconds(int64_t time)
{
	return (double) (time - origin) / SECOND;
}

static void
show_writes(const Event *event)
{
	int64_t		last = load(&shared->next_token);
	int64_t		high = event->bound > event->counter ? event->bound : event->counter;
	int			shown = 0;

	for (int64_t token = 1; token < last && shown < 16; token++)
	{
		const Write *write = &shared->writes[token];

		if (write->row != event->row || write->counter == 0 ||
			write->counter < event->counter - 2 || write->counter > high + 2)
			continue;
		shown++;
		printf("      counter %" PRId64 " token %" PRId64 " before %" PRId64 " xid %" PRIu64
			   ", writer %d%s%s: ", write->counter, token, write->before, write->xid,
			   write->writer, write->deletes ? ", deletes" : "",
			   write->strict ? ", strict" : "");
		if (write->sent != 0)
			printf("COMMIT sent %.6f, ", seconds(write->sent));
		printf("%s", write_state_name(write->state));
		if (write->ended != 0)
			printf(" %.6f", seconds(write->ended));
		printf("\n");
	}
}

static void
show_event(const Event *event)
{
	static const char *const places[] = {"row", "list", "fetch", "hand", "panel"};

	printf("  %s: %s of the %s key, process %d, row %d (%s), from %.6f to %.6f: "
		   "counter %" PRId64 ", token %" PRId64, class_name(event->class),
		   kind_name(event->kind), places[event->place], event->process,
		   row_id(event->row), is_panel(event->row) ? "panel" : "item",
		   seconds(event->begun), seconds(event->ended), event->counter, event->token);
	if (event->bound > 0)
		printf(" instead of %" PRId64, event->bound);
	printf("\n");
	show_writes(event);
}

/* Some of those by the table, or by the cache; different ones. */
static void
show_events(Class class, bool by_table)
{
	int64_t		events = load(&shared->next_event[class]);
	const Event *last = NULL;
	int			shown = 0;

	for (int64_t i = 0; i < events && i < MAX_EVENTS && shown < SHOWN; i++)
	{
		const Event *event = &shared->events[class][i];

		if ((event->kind == READ_TABLE) != by_table ||
			(last != NULL && last->row == event->row))
			continue;
		show_event(event);
		last = event;
		shown++;
	}
}

/*
 * The table
 */

static void
print_traffic(double duration)
{
	printf("%.1f s; %d writers, %d readers of Redis, %d of PostgreSQL; %d rows, %d of them hot; seed %"
		   PRIu64 "\n", duration, options.writers, options.readers, options.askers,
		   total_rows(), HOT_ROWS, options.seed);
	printf("%" PRId64 " commits (%" PRId64 " of prepared transactions, %" PRId64
		   " acknowledged while Redis could be reached), %" PRId64 " rolled back, %" PRId64 " failed, %" PRId64 " lost their connection at the end (%" PRId64
		   " had committed)\n", total.commits, total.prepared, total.promised, total.rollbacks, total.failures,
		   total.unknown, total.unknown_committed);
	printf("errors:");
	for (int i = 0; i < MAX_ERRORS && total.errors[i].count > 0; i++)
		printf("%s %" PRId64 " of %s", i > 0 ? "," : "", total.errors[i].count,
			   total.errors[i].sqlstate);
	printf("\n\n%-20s %12s %20s %12s %22s\n", "reads by", "checked", "10 ms from a commit",
		   "misses", "apart: memory was lost");
	for (int kind = 0; kind < READ_KINDS; kind++)
		printf("%-20s %12" PRId64 " %20" PRId64 " %12" PRId64 " %22" PRId64 "\n",
			   kind_name(kind), total.reads[kind], total.near[kind], total.misses[kind],
			   total.apart[kind]);
	printf("\n");
}

/* What no event tells: the outcome came later than the read. */
static void
show_seen(void)
{
	int64_t		last = load(&shared->next_token);
	int			shown = 0;

	for (int64_t token = 1; token < last && shown < SHOWN; token++)
	{
		const Write *write = &shared->writes[token];

		if (write->state != WRITE_ROLLED_BACK || write->seen == 0)
			continue;
		shown++;
		printf("  rolled back: %" PRId64 " reads saw row %d (%s), counter %" PRId64
			   ", token %" PRId64 ", whose COMMIT was sent %.6f and had failed %.6f\n",
			   write->seen, row_id(write->row), is_panel(write->row) ? "panel" : "item",
			   write->counter, token, seconds(write->sent), seconds(write->ended));
	}
}

/* False: it is promised, and does not hold. */
static bool
print_class(Class class, int64_t found, int64_t checked, double duration)
{
	static const double least[CLASSES] = {
		[CLASS_WRONG_1S] = 1, [CLASS_WRONG_10S] = 10, [CLASS_WRONG_60S] = 60
	};
	bool		promised = is_promised(class);

	printf("%-28s %10s", class_name(class), promised ? "promised" : "measured");
	if (duration <= least[class])
		printf("   the run was too short\n");
	else if (checked == 0)
		printf("   nothing was checked\n");
	else if (found == 0)
		printf(" %12d of %-12" PRId64 " at most 1 in %.0f\n", 0, checked, checked / 3.0);
	else
		printf(" %12" PRId64 " of %-12" PRId64 " %s\n", found, checked,
			   promised ? "VIOLATED" : "");
	return found == 0 || !promised;
}

/* For programs: one line. */
static void
print_summary(const int64_t found[CLASSES], int64_t checked, int64_t excused, bool settled)
{
	printf("\nsummary: commits=%" PRId64 " checked=%" PRId64 " excused=%" PRId64 " settled=%d",
		   total.commits, checked, excused, settled);
	for (int class = 0; class < CLASSES; class++)
	{
		printf(" ");
		for (const char *c = class_name(class); *c != '\0'; c++)
			putchar(*c == ' ' ? '_' : *c);
		printf("=%" PRId64, found[class]);
	}
	printf("\n");
}

/* The exit status: 1, a promise was broken; 2, this program is wrong. */
int
report(int64_t started, int64_t at_rest, int64_t wrong_at_rest, bool settled,
	   const Delay *delays, int ndelays, int64_t pushes_delayed)
{
	static const char *const modes[] = {"async", "commit", "strict", "mixed"};
	double		duration = (double) (now() - started) / SECOND;
	int64_t		found[CLASSES];
	int64_t		excused;
	int64_t		checked;
	int64_t		apart = 0;
	bool		kept = true;
	bool		sane = true;

	origin = started;
	sum_up();
	checked = cache_sum(total.reads);
	excused = count_excused(delays, ndelays);

	printf("\nmode %s, ", modes[options.mode]);
	print_traffic(duration);
	printf("%-28s %10s %12s    %-12s with 95 %% confidence\n", "values that are", "", "found",
		   "checked");
	for (int class = 0; class < CLASSES; class++)
	{
		found[class] = cache_found(total.found, class);
		if (is_promised(class))
			apart += cache_found(total.found_apart, class);
		if (class == CLASS_ROLLED_BACK)
			found[class] += count_seen();
		if (class == CLASS_OLDER_ACKED)
			found[class] -= excused;
		if (class == CLASS_AT_REST)
			found[class] = wrong_at_rest;
		if (!print_class(class, found[class], class == CLASS_AT_REST ? at_rest : checked, duration))
			kept = false;
	}
	printf("\n");
	if (options.delayed != NULL)
		printf("pushes that were delayed: %" PRId64 "; older than acknowledged because of that, outside of faults: %"
			   PRId64 "\n", pushes_delayed, excused);
	printf("promises broken while Redis had lost its memory: %" PRId64 "\n", apart);

	for (int class = 0; class < CLASSES; class++)
	{
		if (found[class] > 0 && is_promised(class))
			show_events(class, false);
		if (total.found[READ_TABLE][class] > 0)
		{
			printf("THE TABLE is %s: this program is wrong\n", class_name(class));
			show_events(class, true);
			sane = false;
		}
	}
	show_seen();
	for (int i = 0; i < MAX_ERRORS && total.errors[i].count > 0; i++)
		if (!is_expected(total.errors[i].sqlstate))
		{
			printf("unexpected: %s %s\n", total.errors[i].sqlstate, total.errors[i].example);
			kept = false;
		}
	if (!settled)
	{
		printf("NOT AT REST: something is still on its way to Redis\n");
		kept = false;
	}
	print_summary(found, checked, excused, settled);
	return !sane ? 2 : kept ? 0 : 1;
}
