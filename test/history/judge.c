/*-------------------------------------------------------------------------
 *
 * judge.c
 *	  Is what a read has found what it may find?
 *
 * The classes of violations, and what each says:
 *
 * - made up: no write ever gave the row this counter and this token; or there
 *	 is no row where there always is one.
 * - before its commit: the COMMIT of its transaction had not been sent when the
 *	 value had already been read.
 * - rolled back: by ROLLBACK, to a savepoint, by an error, by a crash; or
 *	 overwritten by its own transaction, so that it was never committed.
 *	 A read whose write is committing is looked at again when the outcome is
 *	 known, see report.c.
 * - went backwards: the same reader has seen a later one of that row before.
 * - older than acknowledged, older than visible: see history.h.
 * - still wrong after: it was wrong for so long when the read began.  What
 *	 happens to a value while a fault lasts is not held against the time after
 *	 it: the clock starts when the last fault was mended.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "history.h"

/* The highest counter that this process has read of a row. */
typedef struct LastSeen
{
	int64_t		anywhere;
	int64_t		in_table;
} LastSeen;

static LastSeen *last_seen;

void
judge_start(void)
{
	last_seen = calloc(MAX_ROWS, sizeof(LastSeen));
	if (last_seen == NULL)
		exit(2);
}

/* The table may not have what a bad cache has shown too early. */
static int64_t
last_seen_of(const Read *read, int member)
{
	const LastSeen *row = &last_seen[read->entry.members[member]];

	return read->kind == READ_TABLE ? row->in_table : row->anywhere;
}

/*
 * Redis answers GETs one after the other, also those that are sent together.
 * What one slate_cache_mget() returns has no order.
 */
static int64_t
seen_before(const Read *read, int member)
{
	if (read->kind == READ_REDIS)
		return last_seen_of(read, member);
	return read->bounds[member].seen;
}

static void
note_seen(const Read *read, int row, int64_t counter)
{
	if (counter > last_seen[row].anywhere)
		last_seen[row].anywhere = counter;
	if (read->kind == READ_TABLE && counter > last_seen[row].in_table)
		last_seen[row].in_table = counter;
}

const char *
class_name(Class class)
{
	static const char *const names[CLASSES] = {
		"made up", "before its commit", "rolled back", "went backwards",
		"older than acknowledged", "older than visible", "still wrong after 1 s",
		"still wrong after 10 s", "still wrong after 60 s", "wrong at rest"
	};

	return names[class];
}

const char *
kind_name(ReadKind kind)
{
	static const char *const names[READ_KINDS] = {
		"GET", "slate_cache_get", "slate_cache_mget", "slate_cache_fetch", "the table"
	};

	return names[kind];
}

/* Before the question is sent.  kind and entry are set. */
void
read_begin(Read *read)
{
	read->begun = now();
	read->memory_losses = load(&shared->memory_losses);
	read->apart = load(&shared->forgetful) > 0;
	read->is_near = false;
	for (int i = 0; i < read->entry.nmembers; i++)
	{
		Row		   *row = &shared->rows[read->entry.members[i]];

		if (read->begun - load(&row->touched) < NEAR)
			read->is_near = true;
		read->bounds[i].acked = load(&row->acked);
		read->bounds[i].visible = load(&row->visible);
		read->bounds[i].seen = last_seen_of(read, i);
	}
}

/* Redis had no value. */
void
read_missed(Read *read)
{
	tally->misses[read->kind]++;
}

static void
keep_event(const Read *read, Class class, int row, int64_t counter,
		   int64_t token, int64_t bound)
{
	int64_t		number = add(&shared->next_event[class], 1);
	Event	   *event;

	if (number >= MAX_EVENTS)
		return;
	event = &shared->events[class][number];
	event->kind = read->kind;
	event->place = read->entry.place;
	event->process = process_number;
	event->row = row;
	event->begun = read->begun;
	event->ended = read->ended;
	event->counter = counter;
	event->token = token;
	event->bound = bound;
	event->class = class;
}

/* For how long the value had been wrong. */
static int64_t
wrong_for(const Read *read, int64_t wrong_since)
{
	int64_t		mended = load(&shared->mended);

	if (wrong_since == 0 || load(&shared->disturbed) > 0)
		return 0;
	if (wrong_since < mended)
		wrong_since = mended;
	return read->begun - wrong_since;
}

/* Bits of classes. */
static unsigned
classes_by_age(const Read *read, int64_t wrong_since)
{
	int64_t		age = wrong_for(read, wrong_since);

	return (age > SECOND ? 1u << CLASS_WRONG_1S : 0) |
		(age > 10 * SECOND ? 1u << CLASS_WRONG_10S : 0) |
		(age > 60 * SECOND ? 1u << CLASS_WRONG_60S : 0);
}

static unsigned
classes_by_order(const Read *read, int member, int64_t counter)
{
	int64_t		last = seen_before(read, member);

	return (counter < read->bounds[member].acked ? 1u << CLASS_OLDER_ACKED : 0) |
		(counter < read->bounds[member].visible ? 1u << CLASS_OLDER_VISIBLE : 0) |
		(counter < last ? 1u << CLASS_BACKWARDS : 0);
}

/* No row.  That may be any deletion that is not too old. */
static unsigned
judge_absence(const Read *read, int member)
{
	int			row = read->entry.members[member];

	if (!is_mortal(row))
		return 1u << CLASS_MADE_UP;
	return classes_by_order(read, member, load(&shared->rows[row].buried));
}

/*
 * A write that commits itself learns its counter when it is committed: a
 * moment later than readers may.
 */
static void
wait_for_counter(Write *write)
{
	while (load(&write->counter) == 0 && load(&write->state) == WRITE_COMMITTING &&
		   load(&shared->stop_readers) == 0)
		pause_for(MILLISECOND / 10);
}

static unsigned
judge_write(const Read *read, int member, int64_t counter, int64_t token)
{
	int			row = read->entry.members[member];
	Write	   *write;
	WriteState	state;

	if (token <= 0 || token >= load(&shared->next_token))
		return 1u << CLASS_MADE_UP;
	write = &shared->writes[token];
	state = load(&write->state);
	if (write->row != row || (write->deletes && read->kind != READ_TABLE))
		return 1u << CLASS_MADE_UP;
	if (state == WRITE_OPEN)
		return 1u << CLASS_BEFORE_COMMIT;
	wait_for_counter(write);
	if (load(&write->counter) != counter && load(&write->counter) != 0)
		return 1u << CLASS_MADE_UP;

	switch (state)
	{
		case WRITE_VOID:
		case WRITE_OPEN:
			return 1u << CLASS_MADE_UP;
		case WRITE_ROLLED_BACK:
		case WRITE_OVERWRITTEN:
			return 1u << CLASS_ROLLED_BACK |
				classes_by_age(read, load(&write->wrong_since));
		case WRITE_COMMITTING:
		case WRITE_UNKNOWN:
			add(&write->seen, 1);
			break;
		case WRITE_COMMITTED:
			became_visible(write);
			break;
	}
	if (read->kind == READ_TABLE)
		observe(token);
	return classes_by_order(read, member, counter) |
		classes_by_age(read, load(&write->wrong_since));
}

/* What a violation of the class is measured by. */
static int64_t
bound_of(const Read *read, int member, Class class)
{
	switch (class)
	{
		case CLASS_OLDER_ACKED:
			return read->bounds[member].acked;
		case CLASS_OLDER_VISIBLE:
			return read->bounds[member].visible;
		case CLASS_BACKWARDS:
			return seen_before(read, member);
		default:
			return 0;
	}
}

/* The answer is there. */
void
read_found(Read *read, const Found *found)
{
	unsigned	all = 0;

	read->ended = now();
	if (load(&shared->memory_losses) != read->memory_losses)
		read->apart = true;
	for (int i = 0; i < read->entry.nmembers; i++)
	{
		unsigned	classes;
		int			row = read->entry.members[i];
		int64_t		counter = found->is_there[i] ? found->counter[i] : 0;

		if (!found->is_valid)
			classes = 1u << CLASS_MADE_UP;
		else if (found->is_there[i])
			classes = judge_write(read, i, counter, found->token[i]);
		else
			classes = judge_absence(read, i);

		for (int class = 0; class < CLASSES; class++)
			if (classes & ~all & 1u << class && !read->apart)
				keep_event(read, class, row, counter, found->token[i],
						   bound_of(read, i, class));
		all |= classes;
		if (!(classes & (1u << CLASS_MADE_UP | 1u << CLASS_BEFORE_COMMIT |
						 1u << CLASS_ROLLED_BACK)))
			note_seen(read, row, counter);
	}

	for (int class = 0; class < CLASSES; class++)
		if (all & 1u << class)
			(read->apart ? tally->found_apart : tally->found)[read->kind][class]++;
	if (read->apart)
		tally->apart[read->kind]++;
	else
		tally->reads[read->kind]++;
	if (read->is_near && !read->apart)
		tally->near[read->kind]++;
}

void
read_ended(Read *read, const char *value, size_t len)
{
	Found		found;

	find_rows(&read->entry, value, len, &found);
	read_found(read, &found);
}

/*
 * Reading values
 */

/* The number behind "name": in the object that ends at end; -1: none. */
static int64_t
number_field(const char *object, const char *end, const char *name)
{
	const char *field = memmem(object, end - object, name, strlen(name));
	int64_t		number = 0;

	if (field == NULL)
		return -1;
	field += strlen(name);
	while (field < end && *field == ' ')
		field++;
	if (field == end || *field < '0' || *field > '9')
		return -1;
	while (field < end && *field >= '0' && *field <= '9' && number < INT64_C(1) << 50)
		number = number * 10 + (*field++ - '0');
	return number;
}

static bool
find_object(const Entry *entry, const char *object, const char *end, Found *found)
{
	int64_t		id = number_field(object, end, "\"id\":");
	int64_t		counter = number_field(object, end, "\"counter\":");
	int64_t		token = number_field(object, end, "\"token\":");

	if (id < 0 || counter < 0 || token < 0)
		return false;
	for (int i = 0; i < entry->nmembers; i++)
		if (row_id(entry->members[i]) == id && !found->is_there[i])
		{
			found->is_there[i] = true;
			found->counter[i] = counter;
			found->token[i] = token;
			return true;
		}
	return false;				/* not the key's, or there twice */
}

/* An object, an array of them, or null.  Objects are flat. */
void
find_rows(const Entry *entry, const char *value, size_t len, Found *found)
{
	const char *end = value + len;

	memset(found, 0, sizeof(*found));
	found->is_valid = true;
	if (len > 0 && value[0] != '[' && value[0] != '{' && strncmp(value, "null", len) != 0)
		found->is_valid = false;
	while (found->is_valid && (value = memchr(value, '{', end - value)) != NULL)
	{
		const char *close = memchr(value, '}', end - value);

		if (close == NULL || !find_object(entry, value, close, found))
			found->is_valid = false;
		else
			value = close;
	}
}
