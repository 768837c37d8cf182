/*-------------------------------------------------------------------------
 *
 * history.c
 *	  Does a cache beside PostgreSQL keep its promises?  See history.h.
 *
 *		history --mode commit --connstr ... --socket ... [option value]...
 *		history --mode commit --connstr ... --cluster host:port,... [option value]...
 *
 * Starts writers and readers, each a process of its own, and does what it is
 * told, a line at a time:
 *
 *		fault none			something happens that Redis does not notice
 *		fault unreachable	PostgreSQL may not reach Redis
 *		fault forgetful		Redis may lose its memory
 *		mended				the last fault has ended
 *		stop				all faults have ended: writers stop, then readers,
 *							everything is compared, the report is printed
 *
 * Each line is answered by "ok", when the processes know of it.  A line
 * "progress READS COMMITS VIOLATIONS" is printed each second.  Windows that a
 * fault has opened close when all faults have ended and the query of --well
 * says that Redis is reached again and nothing is on its way to it; see
 * watch_windows().
 *
 * Exit status: 0, nothing was found that the mode promises not to happen; 1,
 * something was; 2, this program or its surroundings have failed.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <inttypes.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "database.h"

/* How often the delayed pushes are looked at. */
#define TICK_MS 20

/* A window stays open for at least so long after the fault. */
#define WINDOW_REST (300 * MILLISECOND)

/* How long all may take to come to rest. */
#define SETTLE_LIMIT (90 * SECOND)

#define MAX_DELAYS 10000
#define MAX_LINE 100

Shared	   *shared;
Options		options = {
	.mode = MODE_COMMIT, .items = 300, .panels = 20,
	.writers = 5, .readers = 2, .askers = 3, .seed = 1, .prepared = 4
};
Tally	   *tally;
int			process_number;

static PGconn *connection;		/* the main process' own */
static pid_t children[MAX_PROCESSES];
static int	nchildren;
static int64_t started;

static void
die(const char *what)
{
	fprintf(stderr, "history: %s\n", what);
	exit(2);
}

/*
 * Options
 */

static int
count_option(const char *text, int most)
{
	int			count = atoi(text);

	if (count < 0 || count > most)
		die("a number is out of range");
	return count;
}

static Mode
mode_option(const char *text)
{
	if (strcmp(text, "async") == 0)
		return MODE_ASYNC;
	if (strcmp(text, "strict") == 0)
		return MODE_STRICT;
	if (strcmp(text, "mixed") == 0)
		return MODE_MIXED;
	if (strcmp(text, "commit") != 0)
		die("the mode is one of async, commit, strict, mixed");
	return MODE_COMMIT;
}

static void
read_options(int argc, char **argv)
{
	static const struct option known[] = {
		{"mode", required_argument, NULL, 'm'},
		{"connstr", required_argument, NULL, 'c'},
		{"socket", required_argument, NULL, 'r'},
		{"cluster", required_argument, NULL, 'n'},
		{"rows", required_argument, NULL, 'k'},
		{"panels", required_argument, NULL, 'p'},
		{"writers", required_argument, NULL, 'w'},
		{"readers", required_argument, NULL, 'g'},
		{"askers", required_argument, NULL, 'a'},
		{"seed", required_argument, NULL, 's'},
		{"settled", required_argument, NULL, 'e'},
		{"well", required_argument, NULL, 'l'},
		{"delayed", required_argument, NULL, 'd'},
		{"prepared", required_argument, NULL, 't'},
		{NULL, 0, NULL, 0}
	};
	int			option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1)
		switch (option)
		{
			case 'm':
				options.mode = mode_option(optarg);
				break;
			case 'c':
				options.connstr = optarg;
				break;
			case 'r':
				options.socket = optarg;
				break;
			case 'n':
				options.cluster = optarg;
				break;
			case 'k':
				options.items = count_option(optarg, MAX_ROWS - 1000) / SHELF_SIZE * SHELF_SIZE;
				break;
			case 'p':
				options.panels = count_option(optarg, 1000);
				break;
			case 'w':
				options.writers = count_option(optarg, 30);
				break;
			case 'g':
				options.readers = count_option(optarg, 30);
				break;
			case 'a':
				options.askers = count_option(optarg, 30);
				break;
			case 's':
				options.seed = strtoull(optarg, NULL, 10);
				break;
			case 'e':
				options.settled = optarg;
				break;
			case 'l':
				options.well = optarg;
				break;
			case 'd':
				options.delayed = optarg;
				break;
			case 't':
				options.prepared = count_option(optarg, 80);
				break;
			default:
				exit(2);
		}
	if (options.connstr == NULL || (options.socket == NULL && options.cluster == NULL))
		die("--connstr, and --socket or --cluster are needed");
	if (options.items < HOT_ROWS || options.panels < 1)
		die("so few rows are not enough");
}

/*
 * Processes
 */

static void
start_process(void (*run) (int), int argument)
{
	pid_t		parent = getpid();
	pid_t		pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		die("could not fork");
	if (pid > 0)
	{
		children[nchildren++] = pid;
		return;
	}

	/* It does not outlive us, whatever happens. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(2);
	process_number = nchildren + 1;
	tally = &shared->tallies[process_number];
	seed_random(options.seed + 1000 * process_number);
	run(argument);
	exit(0);
}

static void
reader_process(int argument)
{
	(void) argument;
	run_reader();
}

static void
asker_process(int argument)
{
	(void) argument;
	run_asker();
}

/* Writers come first: see wait_for_writers(). */
static void
start_processes(void)
{
	for (int i = 0; i < options.writers; i++)
		start_process(run_writer, i);
	for (int i = 0; i < options.readers; i++)
		start_process(reader_process, i);
	for (int i = 0; i < options.askers; i++)
		start_process(asker_process, i);
}

static void
wait_for_processes(int from, int to)
{
	for (int i = from; i < to; i++)
	{
		int			status;

		if (waitpid(children[i], &status, 0) != children[i] || status != 0)
			die("a process has failed");
		children[i] = 0;
	}
}

/* None ends by itself. */
static void
look_at_processes(void)
{
	for (int i = 0; i < nchildren; i++)
		if (waitpid(children[i], NULL, WNOHANG) != 0)
			die("a process has ended");
}

/*
 * Watching
 */

static Delay delays[MAX_DELAYS];
static int	ndelays;
static int64_t pushes_delayed;

/* Is there a connection?  One attempt. */
static bool
connected(void)
{
	return !database_is_lost(connection) || database_connect(&connection, NULL);
}

/*
 * When pushes were delayed.  The counter begins anew with the server, so what
 * matters is that it has changed, or could not be read.
 */
static void
watch_delays(void)
{
	static int64_t last = 0;
	static int64_t last_look = 0;
	int64_t		count = -1;
	int64_t		look;

	if (options.delayed == NULL)
		return;
	if (last_look == 0)
		last_look = now();
	if (connected())
		count = database_number(connection, options.delayed);
	look = now();
	if (count > last)
	{
		pushes_delayed += count - last;
		if (ndelays < MAX_DELAYS)
		{
			delays[ndelays].from = last_look;
			delays[ndelays++].to = look;
		}
	}
	if (count >= 0)
	{
		last = count;
		last_look = look;
	}
}

/* The query's $1 is a number of seconds. */
static bool
is_true(const char *query, int64_t nanoseconds)
{
	char		seconds[40];
	const char *params[] = {seconds};
	PGresult   *result;
	bool		answer;

	if (!connected())
		return false;
	snprintf(seconds, sizeof(seconds), "%.6f", (double) nanoseconds / SECOND);
	result = PQexecParams(connection, query, 1, NULL, params, NULL, NULL, 0);
	answer = result != NULL && PQntuples(result) == 1 &&
		strcmp(PQgetvalue(result, 0, 0), "t") == 0;
	PQclear(result);
	return answer;
}

static void
fault_begins(const char *kind)
{
	add(&shared->disturbed, 1);
	if (strcmp(kind, "unreachable") == 0)
		store(&shared->unreachable, 1);
	else if (strcmp(kind, "forgetful") == 0)
	{
		store(&shared->forgetful, 1);
		add(&shared->memory_losses, 1);
	}
	else if (strcmp(kind, "none") != 0)
		die("there is no such kind of fault");
	add(&shared->changes, 1);
}

static void
fault_ends(void)
{
	store(&shared->mended, now());
	add(&shared->disturbed, -1);
}

/*
 * Closes windows.  What came after the last fault's end, the query's $1 ago, is
 * none of its business.
 */
static void
watch_windows(void)
{
	int64_t		age = now() - load(&shared->mended);

	if (load(&shared->unreachable) == 0 && load(&shared->forgetful) == 0)
		return;
	if (load(&shared->disturbed) > 0 || age < WINDOW_REST)
		return;
	if (options.well != NULL && !is_true(options.well, age))
		return;
	add(&shared->changes, 1);
	if (load(&shared->forgetful) > 0)
		add(&shared->memory_losses, 1);
	store(&shared->unreachable, 0);
	store(&shared->forgetful, 0);
}

static void
tell_progress(void)
{
	static int64_t last;
	int64_t		reads = 0;
	int64_t		commits = 0;
	int64_t		found = 0;

	if (now() - last < SECOND)
		return;
	last = now();
	for (int i = 0; i <= nchildren; i++)
	{
		for (int kind = 0; kind < READ_TABLE; kind++)
		{
			reads += shared->tallies[i].reads[kind];
			for (int class = 0; class < CLASSES; class++)
				found += shared->tallies[i].found[kind][class];
		}
		commits += shared->tallies[i].commits;
	}
	printf("progress %" PRId64 " %" PRId64 " %" PRId64 "\n", reads, commits, found);
}

/*
 * The run
 */

/* A line from the driver; false: none within a tick. */
static bool
next_line(char line[MAX_LINE])
{
	static char buffer[MAX_LINE];
	static size_t len;
	char	   *end;

	while ((end = memchr(buffer, '\n', len)) == NULL)
	{
		struct pollfd input = {.fd = 0, .events = POLLIN};
		ssize_t		got;

		if (poll(&input, 1, TICK_MS) <= 0)
			return false;
		got = read(0, buffer + len, sizeof(buffer) - len);
		if (got <= 0)
			die("the driver has gone");
		len += got;
	}
	*end = '\0';
	strcpy(line, buffer);
	len -= end + 1 - buffer;
	memmove(buffer, end + 1, len);
	return true;
}

static void
run_until_stopped(void)
{
	char		line[MAX_LINE];

	for (;;)
	{
		if (next_line(line))
		{
			if (strncmp(line, "fault ", 6) == 0)
				fault_begins(line + 6);
			else if (strcmp(line, "mended") == 0)
				fault_ends();
			else if (strcmp(line, "stop") != 0)
				die("there is no such order");
			printf("ok\n");
			if (strcmp(line, "stop") == 0)
				return;
		}
		watch_delays();
		watch_windows();
		look_at_processes();
		tell_progress();
	}
}

/* Readers go on until what was written last has come to rest. */
static bool
settle(void)
{
	int64_t		end = now() + SETTLE_LIMIT;
	bool		settled = options.settled == NULL;

	store(&shared->stop_writers, 1);
	wait_for_processes(0, options.writers);
	while (!settled && now() < end)
	{
		settled = is_true(options.settled, 0);
		watch_delays();
		watch_windows();
		pause_for(TICK_MS * MILLISECOND);
	}
	pause_for(200 * MILLISECOND);
	store(&shared->stop_readers, 1);
	wait_for_processes(options.writers, nchildren);
	return settled;
}

int
main(int argc, char **argv)
{
	int64_t		at_rest;
	int64_t		wrong_at_rest;
	bool		settled;

	read_options(argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (shared == MAP_FAILED)
		die("could not map memory");
	ledger_start();
	tally = &shared->tallies[0];
	started = now();

	start_processes();
	run_until_stopped();
	settled = settle();
	at_rest = compare_at_rest(&wrong_at_rest);
	return report(started, at_rest, wrong_at_rest, settled, delays, ndelays, pushes_delayed);
}
