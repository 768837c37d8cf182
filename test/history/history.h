/*-------------------------------------------------------------------------
 *
 * history.h
 *	  What writers, readers and the judge of history share.
 *
 * THE METHOD
 *
 * Each row has a counter, which every write raises by one, and a token, the
 * number of that write in a ledger in shared memory.  So whoever reads a value
 * from the cache, knows which write made it, and can ask the ledger what
 * became of that: its transaction is open, its COMMIT has been sent, it has
 * been acknowledged, it has been rolled back.  The token of the write before
 * it is in the row, too, so that a commit can say since when the value before
 * it has been wrong.
 *
 * Every read first takes down, for each row that it is about to see,
 *
 * - acked: the highest counter that was committed, and acknowledged (COMMIT
 *	 had returned) while Redis could be reached;
 * - visible: the highest counter that anybody had been shown: a reader by the
 *	 table, a writer by the row that it has locked, or a reader by the cache,
 *	 if it was committed;
 *
 * and when the answer is there, the judge compares.  A value below "acked" is
 * what mode commit promises not to show, one below "visible" what strict
 * promises not to show.  Both bounds are taken before the question is sent and
 * raised after the answer is there; so clocks and delays can only make a
 * violation go unnoticed, never make one up.
 *
 * WHAT IS SET APART
 *
 * The driver throws faults, and says so before and after: see windows.
 * In mode commit an acknowledgement raises "acked" only if no window was open
 * from before COMMIT was sent until it had returned, and it was no COMMIT
 * PREPARED, which the worker tells Redis later.  Besides, the main process
 * looks every few ms how many pushes were delayed; a violation whose bounding
 * commit was under way at the time of such a push is set apart, and counted as
 * such.  In strict mode nothing of this is an excuse.
 *
 * In mode mixed some writers are strict and the others are in mode commit; then
 * "visible" is raised by strict writes alone, and the others' commits raise
 * "acked" as they do in mode commit.
 *
 * While Redis has lost its memory (restart, FLUSHALL), until the worker has
 * seen to it, reads are counted apart in every mode.
 *
 * All shared fields are read and written with load() and store(), which are
 * sequentially consistent; nothing is locked.
 *
 *-------------------------------------------------------------------------
 */
#ifndef HISTORY_H
#define HISTORY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define MAX_ROWS 10000
#define MAX_MEMBERS 8			/* rows that one key may hold */
#define MAX_WRITES 16000000		/* the ledger's, never touched if not used */
#define MAX_PROCESSES 100
#define MAX_EVENTS 400			/* violations of one class that are kept */
#define MAX_ERRORS 12			/* different SQLSTATEs of one process */

#define MILLISECOND INT64_C(1000000)
#define SECOND INT64_C(1000000000)

/* A commit is near if it was sent less than this before a read began. */
#define NEAR (10 * MILLISECOND)

#define load(place) __atomic_load_n(place, __ATOMIC_SEQ_CST)
#define store(place, value) __atomic_store_n(place, value, __ATOMIC_SEQ_CST)
#define add(place, value) __atomic_fetch_add(place, value, __ATOMIC_SEQ_CST)

/*
 * Writes
 */

typedef enum WriteState
{
	WRITE_VOID,					/* found no row, or not made yet */
	WRITE_OPEN,					/* COMMIT has not been sent */
	WRITE_COMMITTING,
	WRITE_COMMITTED,
	WRITE_ROLLED_BACK,
	WRITE_OVERWRITTEN,			/* by its own transaction, so never to be seen */
	WRITE_UNKNOWN				/* the connection was lost */
} WriteState;

typedef struct Write
{
	int32_t		row;
	uint8_t		deletes;		/* it leaves no row */
	uint8_t		state;			/* WriteState */
	uint8_t		writer;
	uint8_t		strict;			/* its session was in mode strict */
	int64_t		counter;		/* 0 until its statement has returned */
	int64_t		before;			/* token of the write that it found */
	uint64_t	xid;
	int64_t		sent;			/* when COMMIT was */
	int64_t		ended;			/* when its outcome was known */
	int64_t		wrong_since;	/* from when on a value with it is wrong */
	int64_t		seen;			/* how many reads found it before that */
} Write;

/*
 * Rows
 */

typedef struct Row
{
	int64_t		acked;			/* promised to all readers */
	int64_t		visible;		/* shown to somebody; in mode mixed, the last
								 * strict write before or at that */
	int64_t		buried;			/* the highest that a COMMITting DELETE has */
	int64_t		touched;		/* when the last COMMIT was sent */
	int64_t		pad[4];
} Row;

/*
 * The keys of a row, and what reads them
 */

typedef enum Place
{
	PLACE_ROW,					/* h:{id}, a row rule */
	PLACE_LIST,					/* hl:{shelf}, a list rule */
	PLACE_QUERY,				/* hf:{id}, by slate_cache_fetch() */
	PLACE_HAND,					/* hs:{id}, by slate_cache_set() and del() */
	PLACE_PANEL					/* hp:{id}:{n}, by fetch, dropped by a glob */
} Place;

typedef struct Entry
{
	Place		place;
	int			number;			/* of the row, or the shelf */
	int			variant;		/* of a panel's keys */
	int			nmembers;
	int			members[MAX_MEMBERS];	/* rows */
} Entry;

typedef enum ReadKind
{
	READ_REDIS,					/* a plain GET */
	READ_GET,					/* slate_cache_get */
	READ_MGET,
	READ_FETCH,
	READ_TABLE,
	READ_KINDS
} ReadKind;

/* What was known of an entry's rows before a read began. */
typedef struct Bound
{
	int64_t		acked;
	int64_t		visible;
	int64_t		seen;			/* by the same reader */
} Bound;

typedef struct Read
{
	ReadKind	kind;
	Entry		entry;
	int64_t		begun;
	int64_t		ended;
	int64_t		memory_losses;	/* Shared's, when it began */
	bool		apart;
	bool		is_near;
	Bound		bounds[MAX_MEMBERS];
} Read;

/*
 * Violations
 */

typedef enum Class
{
	CLASS_MADE_UP,
	CLASS_BEFORE_COMMIT,
	CLASS_ROLLED_BACK,
	CLASS_BACKWARDS,
	CLASS_OLDER_ACKED,
	CLASS_OLDER_VISIBLE,
	CLASS_WRONG_1S,
	CLASS_WRONG_10S,
	CLASS_WRONG_60S,
	CLASS_AT_REST,
	CLASSES
} Class;

typedef struct Event
{
	Class		class;
	ReadKind	kind;
	Place		place;
	int			process;
	int			row;
	int64_t		begun;
	int64_t		ended;
	int64_t		counter;		/* what was read; 0: no row */
	int64_t		token;
	int64_t		bound;			/* what it is less than */
} Event;

typedef struct ErrorCount
{
	char		sqlstate[6];
	char		example[122];
	int64_t		count;
} ErrorCount;

/* What one process has done; only it writes here. */
typedef struct Tally
{
	int64_t		reads[READ_KINDS];
	int64_t		near[READ_KINDS];
	int64_t		misses[READ_KINDS];
	int64_t		apart[READ_KINDS];
	int64_t		found[READ_KINDS][CLASSES];
	int64_t		found_apart[READ_KINDS][CLASSES];
	int64_t		reconnections;
	int64_t		commits;
	int64_t		prepared;		/* among them */
	int64_t		promised;		/* likewise: they raised "acked" */
	int64_t		rollbacks;
	int64_t		failures;		/* an error or a lost connection, no commit */
	int64_t		unknown;		/* a lost connection: the server was asked */
	int64_t		unknown_committed;
	ErrorCount	errors[MAX_ERRORS];
	int64_t		pad[8];
} Tally;

typedef enum Mode
{
	MODE_ASYNC,
	MODE_COMMIT,
	MODE_STRICT,
	MODE_MIXED					/* some writers commit, the others strict */
} Mode;

typedef struct Shared
{
	int64_t		next_token;
	int64_t		next_event[CLASSES];
	int64_t		stop_writers;
	int64_t		stop_readers;

	/*
	 * Windows.  "changes" counts their beginnings and ends, memory_losses
	 * those of the windows in which Redis forgets.
	 */
	int64_t		changes;
	int64_t		unreachable;	/* PostgreSQL may not reach Redis */
	int64_t		memory_losses;
	int64_t		forgetful;		/* Redis has lost its memory */
	int64_t		disturbed;		/* any fault is on */
	int64_t		mended;			/* when the last one ended */

	Row			rows[MAX_ROWS];
	Tally		tallies[MAX_PROCESSES];
	Event		events[CLASSES][MAX_EVENTS];
	Write		writes[MAX_WRITES];
} Shared;

typedef struct Options
{
	Mode		mode;
	const char *connstr;
	const char *socket;			/* of Redis, or: */
	const char *cluster;		/* nodes of a Cluster, "host:port,..." */
	int			items;
	int			panels;
	int			writers;
	int			readers;		/* of Redis */
	int			askers;			/* of PostgreSQL */
	uint64_t	seed;
	int			prepared;		/* transactions in a hundred */
	const char *settled;		/* a query: is nothing on its way to Redis? */
	const char *well;			/* a query: is it reached again? */
	const char *delayed;		/* a query: pushes that were delayed so far */
} Options;

#define SHELF_SIZE 5			/* rows of a list */
#define HOT_ROWS 8				/* that half of all goes to */
#define PANEL_KEYS 2

extern Shared *shared;
extern Options options;
extern Tally *tally;			/* this process' own */
extern int	process_number;

/* ledger.c */
extern int64_t now(void);
extern void pause_for(int64_t nanoseconds);
extern void ledger_start(void);
extern int64_t write_begin(int row, int writer, bool strict);
extern void write_returned(int64_t token, int64_t counter, int64_t before,
						   uint64_t xid);
extern void write_committing(int64_t token);
extern void write_committed(int64_t token, bool promised);
extern void write_rolled_back(int64_t token);
extern void observe(int64_t token);
extern void became_visible(const Write *write);
extern const char *write_state_name(WriteState state);

/* keys.c */
extern uint64_t next_random(void);
extern void seed_random(uint64_t seed);
extern int	choose(int n);
extern bool chance(int percent);
extern int	total_rows(void);
extern bool is_panel(int row);
extern bool is_mortal(int row);
extern bool is_set_by_hand(int row);
extern int	row_id(int row);
extern int	choose_row(void);
extern void choose_entry(Entry *entry);
extern bool entry_at(int number, Entry *entry);
extern void entry_name(const Entry *entry, char *name, size_t size);
extern void row_entry(Entry *entry, Place place, int number);

/* judge.c */
typedef struct Found
{
	bool		is_valid;		/* could be read as rows at all */
	bool		is_there[MAX_MEMBERS];
	int64_t		counter[MAX_MEMBERS];
	int64_t		token[MAX_MEMBERS];
} Found;

extern void judge_start(void);
extern void read_begin(Read *read);
extern void read_missed(Read *read);
extern void read_ended(Read *read, const char *value, size_t len);
extern void read_found(Read *read, const Found *found);
extern void find_rows(const Entry *entry, const char *value, size_t len,
					  Found *found);
extern const char *class_name(Class class);
extern const char *kind_name(ReadKind kind);

/* processes */
extern void run_writer(int number);
extern void run_reader(void);
extern void run_asker(void);

/* rest.c */
extern int64_t compare_at_rest(int64_t *wrong);

/* report.c */
typedef struct Delay
{
	int64_t		from;
	int64_t		to;
} Delay;

extern int	report(int64_t started, int64_t at_rest, int64_t wrong_at_rest,
				   bool settled, const Delay *delays, int ndelays,
				   int64_t pushes_delayed);

#endif							/* HISTORY_H */
