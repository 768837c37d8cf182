/*-------------------------------------------------------------------------
 *
 * judge_test.c
 *	  Each class of violations that the judge knows, one case after the other,
 *	  and beside it what is as near as possible and no violation.
 *
 * Nothing is read, and no time passes: the ledger is told of writes, and what
 * is judged has been made up.  One TAP line a case.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "history.h"

Shared	   *shared;
Options		options = {.mode = MODE_COMMIT, .items = 20, .panels = 0};
Tally	   *tally;
int			process_number = 0;

static int	ncases = 0;
static int	nfailures = 0;

/* Rows: one that is always there; one that may be deleted. */
#define ROW 0
#define MORTAL 3

/* Sets of classes. */
#define NOTHING 0u
#define ONLY(class) (1u << (class))

static void
start_anew(void)
{
	memset(shared->rows, 0, sizeof(shared->rows));
	memset(shared->writes, 0, 1000 * sizeof(Write));
	memset(tally, 0, sizeof(*tally));
	shared->mended = shared->disturbed = shared->forgetful = 0;
	ledger_start();
	judge_start();
}

/* A write of the row that is open; its counter is one more than before. */
static int64_t
begin_write(int row, int64_t before)
{
	int64_t		token = write_begin(row, 0, false);

	write_returned(token, shared->writes[before].counter + 1, before, 0);
	return token;
}

static int64_t
commit_write(int row, int64_t before, bool promised)
{
	int64_t		token = begin_write(row, before);

	write_committing(token);
	write_committed(token, promised);
	return token;
}

/* The token of the row as it was made. */
static int64_t
first_of(int row)
{
	return row + 1;
}

static Read
begin_read(ReadKind kind, int row)
{
	Read		read = {.kind = kind};

	row_entry(&read.entry, PLACE_ROW, row);
	read_begin(&read);
	return read;
}

/* It finds that; token 0: no row.  Which classes are counted? */
static unsigned
find(Read *read, int64_t counter, int64_t token)
{
	Found		found = {.is_valid = true};
	unsigned	classes = 0;
	Tally		before = *tally;

	found.is_there[0] = token != 0;
	found.counter[0] = counter;
	found.token[0] = token;
	read_found(read, &found);
	for (int class = 0; class < CLASSES; class++)
		if (tally->found[read->kind][class] > before.found[read->kind][class])
			classes |= 1u << class;
	return classes;
}

static unsigned
find_write(Read *read, int64_t token)
{
	return find(read, shared->writes[token].counter, token);
}

static unsigned
read_write(ReadKind kind, int row, int64_t token)
{
	Read		read = begin_read(kind, row);

	return find_write(&read, token);
}

static void
conclude(bool ok, const char *name)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++ncases, name);
	if (!ok)
		nfailures++;
}

static void
expect(unsigned expected, unsigned found, const char *name)
{
	conclude(found == expected, name);
	for (int class = 0; class < CLASSES; class++)
		if ((found ^ expected) & 1u << class)
			printf("# %s: %s\n", class_name(class),
				   found & 1u << class ? "found" : "not found");
}

static void
test_made_up(void)
{
	Read		read;

	start_anew();
	expect(NOTHING, read_write(READ_REDIS, ROW, first_of(ROW)), "the row as it was made");
	read = begin_read(READ_REDIS, ROW);
	expect(ONLY(CLASS_MADE_UP), find(&read, 1, 999), "a token that nobody has used");
	read = begin_read(READ_REDIS, ROW);
	expect(ONLY(CLASS_MADE_UP), find(&read, 2, first_of(ROW)), "another counter than the write's");
	read = begin_read(READ_REDIS, ROW);
	expect(ONLY(CLASS_MADE_UP), find(&read, 1, first_of(ROW + 1)), "the write of another row");
	read = begin_read(READ_REDIS, ROW);
	expect(ONLY(CLASS_MADE_UP), find(&read, 0, 0), "no row where there always is one");
	read = begin_read(READ_REDIS, MORTAL);
	shared->rows[MORTAL].buried = 2;
	expect(NOTHING, find(&read, 0, 0), "no row where one may have been deleted");
}

static void
test_uncommitted(void)
{
	int64_t		token;

	start_anew();
	token = begin_write(ROW, first_of(ROW));
	expect(ONLY(CLASS_BEFORE_COMMIT), read_write(READ_GET, ROW, token), "its COMMIT has not been sent");
	write_committing(token);
	expect(NOTHING, read_write(READ_GET, ROW, token), "it has");
	conclude(shared->writes[token].seen == 1, "and the read is noted, for the case that it fails");
	write_rolled_back(token);
	expect(ONLY(CLASS_ROLLED_BACK), read_write(READ_GET, ROW, token), "it has failed");

	start_anew();
	token = begin_write(ROW, first_of(ROW));
	store(&shared->writes[token].state, WRITE_OVERWRITTEN);
	expect(ONLY(CLASS_ROLLED_BACK), read_write(READ_GET, ROW, token), "overwritten by its own transaction");
}

/* Acknowledged and visible bounds, each with the read begun before and after. */
static void
test_older(void)
{
	int64_t		first = first_of(ROW);
	Read		early;

	start_anew();
	early = begin_read(READ_REDIS, ROW);
	(void) commit_write(ROW, first, true);
	expect(NOTHING, find_write(&early, first), "older than a commit that returned after the read began");
	expect(ONLY(CLASS_OLDER_ACKED) | ONLY(CLASS_OLDER_VISIBLE), read_write(READ_REDIS, ROW, first),
		   "older than one that had returned before");

	start_anew();
	(void) commit_write(ROW, first, false);
	expect(ONLY(CLASS_OLDER_VISIBLE), read_write(READ_REDIS, ROW, first),
		   "older than one that had returned while Redis was away");

	start_anew();
	early = begin_read(READ_REDIS, ROW);
	write_committing(begin_write(ROW, first));
	expect(NOTHING, read_write(READ_REDIS, ROW, first), "older than a COMMIT that was sent");
	(void) read_write(READ_TABLE, ROW, shared->next_token - 1);
	judge_start();				/* that was another reader */
	expect(NOTHING, find_write(&early, first), "older than what the table has shown since the read began");
	early = begin_read(READ_REDIS, ROW);
	expect(ONLY(CLASS_OLDER_VISIBLE), find_write(&early, first), "older than what it had shown before");
}

static void
test_backwards(void)
{
	int64_t		first = first_of(ROW);
	int64_t		token;
	Read		read;

	start_anew();
	read = begin_read(READ_REDIS, ROW);
	token = begin_write(ROW, first);
	write_committing(token);
	expect(NOTHING, read_write(READ_REDIS, ROW, token), "a new value");
	expect(ONLY(CLASS_BACKWARDS), find_write(&read, first), "then the one before it, by the same reader");
	judge_start();
	expect(NOTHING, read_write(READ_REDIS, ROW, first), "the same by another reader");
}

/* The write has been wrong for so long when the read begins. */
static unsigned
classes_when_wrong_for(int64_t seconds, int64_t mended_for)
{
	int64_t		first = first_of(ROW);
	Read		read;

	start_anew();
	(void) commit_write(ROW, first, false);
	read = begin_read(READ_REDIS, ROW);
	store(&shared->writes[first].wrong_since, read.begun - seconds * SECOND - 1);
	if (mended_for > 0)
		store(&shared->mended, read.begun - mended_for * SECOND - 1);
	return find_write(&read, first) & ~ONLY(CLASS_OLDER_VISIBLE);
}

static void
test_still_wrong(void)
{
	unsigned	one = ONLY(CLASS_WRONG_1S);
	unsigned	ten = one | ONLY(CLASS_WRONG_10S);
	unsigned	sixty = ten | ONLY(CLASS_WRONG_60S);

	expect(NOTHING, classes_when_wrong_for(0, 0), "wrong for less than a second");
	expect(one, classes_when_wrong_for(1, 0), "wrong for a second");
	expect(one, classes_when_wrong_for(9, 0), "wrong for nine");
	expect(ten, classes_when_wrong_for(10, 0), "wrong for ten");
	expect(ten, classes_when_wrong_for(59, 0), "wrong for 59");
	expect(sixty, classes_when_wrong_for(60, 0), "wrong for sixty");
	expect(one, classes_when_wrong_for(60, 5), "wrong for sixty, and for five since the last fault was mended");
	store(&shared->disturbed, 1);
	expect(NOTHING, read_write(READ_REDIS, ROW, first_of(ROW)) & sixty, "wrong while a fault lasts");
}

static void
test_apart(void)
{
	Read		read;

	start_anew();
	(void) commit_write(ROW, first_of(ROW), true);
	read = begin_read(READ_REDIS, ROW);
	shared->memory_losses++;
	expect(NOTHING, find_write(&read, first_of(ROW)), "Redis has lost its memory since the read began");
	conclude(tally->found_apart[READ_REDIS][CLASS_OLDER_ACKED] == 1 && tally->reads[READ_REDIS] == 0,
		   "it is counted apart");
}

int
main(void)
{
	shared = calloc(1, sizeof(Shared));
	if (shared == NULL)
		return 2;
	tally = &shared->tallies[0];
	test_made_up();
	test_uncommitted();
	test_older();
	test_backwards();
	test_still_wrong();
	test_apart();
	printf("1..%d\n", ncases);
	return nfailures > 0;
}
