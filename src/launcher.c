/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  Starts a worker in each database that has the extension.
 *
 * There is one launcher a server, started with it.  It is connected to no
 * database, and so hinders none from being dropped.  Which databases have the
 * extension can only be seen from inside: so it sends a worker into each that
 * it does not know, and the worker leaves if there is nothing for it.  After
 * that a database asks for its worker itself, by its entry in shared memory:
 * CREATE EXTENSION does, a worker that ends does, and a commit that finds
 * none.  It goes on asking until a worker has come, which may fail to connect.
 *
 * It also looks up host names, see names.h: those of the server's own
 * slate_cache.url ahead of need, others when somebody has asked for them.
 *
 * Locks: none but the registry's, when the entry of a dropped database goes.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include <signal.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "doubt.h"
#include "events.h"
#include "launcher.h"
#include "names.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "redis.h"
#include "stats.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* How often to look for new databases. */
#define LOOK_MS 5000

/*
 * How soon to start a worker again that has ended; one that does not live long
 * must wait longer each time.
 */
#define RESTART_MS 200
#define MAX_RESTART_MS 10000
#define SHORT_LIFE_MS 5000

/* How long a command may want a database for itself. */
#define SENT_AWAY_MS 10000

/* Workers on their first visit, at a time. */
#define MAX_VISITS 2

/* A database that the launcher has seen. */
typedef struct Known
{
	Oid			oid;
	bool		present;		/* in the present look */
	bool		closed;			/* nobody can connect, for a while or for good */
	bool		visited;		/* a worker was sent there */
	int64		started;		/* when; slate_link_now() */
	int64		delay;			/* from then to the next start, at least */
	BackgroundWorkerHandle *handle; /* NULL: none is there */
} Known;

/* All of them; in TopMemoryContext */
static Known *known = NULL;
static int	nknown = 0;
static int	maxknown = 0;

PGDLLEXPORT void slate_launcher_main(Datum arg);

/* ------------------------------------------------------------------------
 * Databases
 * ------------------------------------------------------------------------
 */

static Known *
find_known(Oid oid)
{
	for (int i = 0; i < nknown; i++)
	{
		if (known[i].oid == oid)
			return &known[i];
	}
	return NULL;
}

static Known *
add_known(Oid oid)
{
	if (nknown == maxknown)
	{
		maxknown = maxknown ? maxknown * 2 : 16;
		known = known ? repalloc(known, maxknown * sizeof(Known))
			: MemoryContextAlloc(TopMemoryContext, maxknown * sizeof(Known));
	}
	memset(&known[nknown], 0, sizeof(Known));
	known[nknown].oid = oid;
	return &known[nknown++];
}

static void
see_database(Form_pg_database form)
{
	Known	   *database;

	if (!OidIsValid(form->oid))
		return;
	database = find_known(form->oid);
	if (database == NULL)
		database = add_known(form->oid);
	database->present = true;
	database->closed = !form->datallowconn ||
		form->datconnlimit == COMPAT_HALF_DROPPED;

	/* the last worker may have found the door closed */
	database->visited &= !database->closed;
}

/* Databases that have an entry, before we look which ones there are. */
static Oid	entries[SLATE_MAX_DATABASES];

static void
list_entries(void)
{
	for (int i = 0; i < SLATE_MAX_DATABASES; i++)
	{
		SlateDatabase *entry = slate_database_at(i);

		entries[i] = entry ? pg_atomic_read_u32(&entry->oid) : InvalidOid;
	}
}

/*
 * Dropped databases.  One that only takes no connections for a while will have
 * its worker again, and what is in doubt there stays in doubt; and one that was
 * created meanwhile is not gone.
 */
static void
forget_absent(void)
{
	int			kept = 0;

	for (int i = 0; i < nknown; i++)
	{
		if (known[i].present)
			known[kept++] = known[i];
		else if (known[i].handle)
			pfree(known[i].handle);
	}
	nknown = kept;
	for (int i = 0; i < SLATE_MAX_DATABASES; i++)
	{
		SlateDatabase *entry = slate_database_at(i);

		if (entry == NULL || !OidIsValid(entries[i]) ||
			pg_atomic_read_u32(&entry->oid) != entries[i] ||
			find_known(entries[i]) != NULL ||
			pg_atomic_read_u32(&entry->worker) != 0)
			continue;
		slate_doubt_forget_database(entries[i]);
		slate_database_release(entry);
	}
}

static void
look_at_databases(void)
{
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;

	for (int i = 0; i < nknown; i++)
		known[i].present = false;
	list_entries();

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		see_database((Form_pg_database) GETSTRUCT(tuple));
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	PopActiveSnapshot();
	CommitTransactionCommand();
	forget_absent();
}

/* ------------------------------------------------------------------------
 * Workers
 * ------------------------------------------------------------------------
 */

/* Is a worker there, or on its way? */
static bool
is_running(Known *database)
{
	pid_t		pid;

	if (database->handle == NULL)
		return false;
	switch (GetBackgroundWorkerPid(database->handle, &pid))
	{
		case BGWH_STARTED:
		case BGWH_NOT_YET_STARTED:
			return true;
		default:
			pfree(database->handle);
			database->handle = NULL;
			return false;
	}
}

static bool
start_worker(Known *database)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_main_arg = ObjectIdGetDatum(database->oid),
		.bgw_notify_pid = MyProcPid
	};
	bool		started;

	snprintf(worker.bgw_name, BGW_MAXLEN, "slate_cache worker for database %u",
			 database->oid);
	strlcpy(worker.bgw_type, "slate_cache worker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "slate_cache", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "slate_worker_main", BGW_MAXLEN);
	started = RegisterDynamicBackgroundWorker(&worker, &database->handle);
	MemoryContextSwitchTo(old);
	return started;
}

/* That there is no room is an event once, not each time that it is tried. */
static void
note_start(SlateDatabase *entry, Oid oid, bool started)
{
	uint32		was_missing = pg_atomic_exchange_u32(&entry->unavailable,
													 !started);

	if (started)
		return;
	pg_atomic_write_u32(&entry->wanted, 1);
	if (!was_missing)
		slate_events_note(EVENT_NO_WORKER, oid,
						  "no room: max_worker_processes is %d",
						  max_worker_processes);
}

/* Or has it been dropped since we looked at all of them? */
static bool
is_there(Oid database)
{
	bool		found;

	StartTransactionCommand();
	found = SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database));
	CommitTransactionCommand();
	return found;
}

/* Start it if it is time; false if there is no room for one more worker. */
static bool
tend(Known *database, int *nvisits)
{
	SlateDatabase *entry = slate_database_find(database->oid);
	int64		now = slate_link_now();
	bool		started;

	if (is_running(database))
	{
		*nvisits += entry == NULL;
		return true;
	}
	if (database->closed)
		return true;
	if (database->visited && (entry == NULL ||
							  pg_atomic_read_u32(&entry->wanted) == 0))
		return true;
	if (!database->visited && entry == NULL && *nvisits >= MAX_VISITS)
		return true;
	if (now < database->started + database->delay ||
		(entry && now < (int64) pg_atomic_read_u64(&entry->leave_until)))
		return true;
	if (!is_there(database->oid))
		return true;
	started = start_worker(database);
	database->visited |= started;

	/* one that ends at once must not keep us busy; a visit does not count */
	if (entry == NULL)
		database->delay = 0;
	else if (now - database->started < SHORT_LIFE_MS)
		database->delay = Min(Max(2 * database->delay, RESTART_MS),
							  MAX_RESTART_MS);
	else
		database->delay = RESTART_MS;
	database->started = now;
	*nvisits += started && entry == NULL;
	if (entry)
		note_start(entry, database->oid, started);
	return started;
}

static void
tend_all(void)
{
	static bool was_room = true;
	bool		is_room = true;
	int			nvisits = 0;

	for (int i = 0; i < nknown; i++)
		is_room &= tend(&known[i], &nvisits);
	if (was_room && !is_room)
		ereport(LOG,
				(errmsg("slate_cache could not start a worker in each database"),
				 errhint("Raise max_worker_processes; slate_cache needs one for itself and one for each database that has the extension.")));
	was_room = is_room;
}

/* Does an entry ask that the launcher does not know yet? */
static bool
is_asked_by_stranger(void)
{
	for (int i = 0; i < SLATE_MAX_DATABASES; i++)
	{
		SlateDatabase *entry = slate_database_at(i);

		if (entry && pg_atomic_read_u32(&entry->wanted) != 0 &&
			find_known(pg_atomic_read_u32(&entry->oid)) == NULL)
			return true;
	}
	return false;
}

/* How long can it rest?  Workers are started one after the other. */
static long
rest(void)
{
	for (int i = 0; i < nknown; i++)
	{
		SlateDatabase *entry = slate_database_find(known[i].oid);

		/* when a worker begins or ends we hear of it */
		if (known[i].closed || known[i].handle)
			continue;
		if (!known[i].visited ||
			(entry && pg_atomic_read_u32(&entry->wanted) != 0))
			return RESTART_MS / 4;
	}
	return LOOK_MS;
}

/* ------------------------------------------------------------------------
 * The launcher
 * ------------------------------------------------------------------------
 */

static void
forget_launcher(int code pg_attribute_unused(), Datum arg pg_attribute_unused())
{
	slate_names_look_here(NULL);
	slate_database_set_launcher(NULL);
	slate_events_note(EVENT_LAUNCHER_ENDED, InvalidOid, "%s", "");
}

void
slate_launcher_main(Datum arg pg_attribute_unused())
{
	int64		next_look = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	slate_database_use_plain_transactions();
	before_shmem_exit(forget_launcher, (Datum) 0);
	slate_database_set_launcher(MyLatch);
	slate_names_look_here(MyLatch);
	slate_events_note(EVENT_LAUNCHER_STARTED, InvalidOid, "%s", "");

	for (;;)
	{
		bool		in_recovery = RecoveryInProgress();
		bool		is_reloaded;

		/* first of all: what comes from here on sets it again */
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		is_reloaded = ConfigReloadPending;
		if (is_reloaded)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (!in_recovery)
		{
			SlateStart	start;

			slate_database_start(&start);
			if (slate_link_now() >= next_look || is_asked_by_stranger())
			{
				look_at_databases();
				next_look = slate_link_now() + LOOK_MS;
			}
			tend_all();
		}
		slate_redis_want_names();
		slate_names_look_up(is_reloaded);
		slate_stats_log_losses();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 in_recovery ? RESTART_MS : rest(), PG_WAIT_EXTENSION);
	}
}

void
slate_launcher_register(void)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_ConsistentState,
		.bgw_restart_time = 5
	};

	/* pg_upgrade's servers are nobody's truth yet */
	if (IsBinaryUpgrade)
		return;
	strlcpy(worker.bgw_name, "slate_cache launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "slate_cache launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "slate_cache", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "slate_launcher_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* ------------------------------------------------------------------------
 * Commands that want a database for themselves
 * ------------------------------------------------------------------------
 */

/* The database that nobody may be connected to for this command, or NULL. */
static const char *
database_wanted_alone(Node *statement)
{
	List	   *options = NIL;
	const char *option = NULL;
	const char *name = NULL;
	ListCell   *lc;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			return ((DropdbStmt *) statement)->dbname;
		case T_RenameStmt:
			return ((RenameStmt *) statement)->renameType == OBJECT_DATABASE
				? ((RenameStmt *) statement)->subname : NULL;
		case T_CreatedbStmt:
			options = ((CreatedbStmt *) statement)->options;
			option = "template";
			name = "template1";
			break;
		case T_AlterDatabaseStmt:
			options = ((AlterDatabaseStmt *) statement)->options;
			option = "tablespace";
			break;
		default:
			return NULL;
	}
	foreach(lc, options)
	{
		DefElem    *element = lfirst(lc);

		if (strcmp(element->defname, option) == 0 && element->arg)
			name = IsA(statement, CreatedbStmt) ? defGetString(element)
				: ((AlterDatabaseStmt *) statement)->dbname;
	}
	return name;
}

static bool
may_create_databases(void)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID,
										ObjectIdGetDatum(GetUserId()));
	bool		may = false;

	if (HeapTupleIsValid(tuple))
	{
		may = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return may;
}

/* Or he will be refused, and the worker had better stayed. */
static bool
may_have_alone(Node *statement, Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID,
										ObjectIdGetDatum(database));
	bool		may = false;

	if (HeapTupleIsValid(tuple))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		may = has_privs_of_role(GetUserId(), form->datdba) ||
			(IsA(statement, CreatedbStmt) && form->datistemplate &&
			 may_create_databases());
		ReleaseSysCache(tuple);
	}
	return may;
}

Oid
slate_launcher_wanted_alone(Node *statement)
{
	const char *name = database_wanted_alone(statement);
	Oid			oid = name ? get_database_oid(name, true) : InvalidOid;

	if (!OidIsValid(oid) || !may_have_alone(statement, oid))
		return InvalidOid;
	return oid;
}

void
slate_launcher_send_away(Oid database, bool leave)
{
	SlateDatabase *entry = slate_database_find(database);
	pid_t		worker;

	if (entry == NULL)
		return;
	pg_atomic_write_u64(&entry->leave_until,
						leave ? slate_link_now() + SENT_AWAY_MS : 0);
	slate_database_wake(entry);

	/* it may be waiting for Redis, and does not look at its latch then */
	worker = pg_atomic_read_u32(&entry->worker);
	if (leave && worker != 0)
		(void) kill(worker, SIGTERM);
}
