/*-------------------------------------------------------------------------
 *
 * slate_cache.c
 *	  The module: settings, hooks, and what an administrator looks at.
 *
 * Everything works without shared_preload_libraries, for each session by
 * itself; with it, sessions share the breaker and the counters, there is a
 * worker, and a session notices DROP and TRUNCATE even before it has used the extension.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "capture.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "names.h"
#include "pause.h"
#include "pending.h"
#include "publish.h"
#include "redis.h"
#include "rules.h"
#include "script.h"
#include "slate_cache.h"
#include "stats.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "worker.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(slate_cache_stats);
PG_FUNCTION_INFO_V1(slate_cache_stats_reset);
PG_FUNCTION_INFO_V1(slate_cache_health);

void		_PG_init(void);

static object_access_hook_type prev_object_access = NULL;
static shmem_request_hook_type prev_shmem_request = NULL;
static shmem_startup_hook_type prev_shmem_startup = NULL;

static int	mode = MODE_COMMIT;

static const struct config_enum_entry modes[] = {
	{"async", MODE_ASYNC, false},
	{"commit", MODE_COMMIT, false},
	{"strict", MODE_STRICT, false},
	{NULL, 0, false}
};

/* ------------------------------------------------------------------------
 * Settings
 * ------------------------------------------------------------------------
 */

static bool
check_url(char **newval, void **extra pg_attribute_unused(),
		  GucSource source pg_attribute_unused())
{
	SlateUrl	url;
	const char *error;

	if (slate_redis_parse_url(*newval, &url, &error))
		return true;
	GUC_check_errdetail("%s", error);
	GUC_check_errhint("A url looks like \"redis://:password@host:6379/0\" or \"unix:///path/to/socket?db=0\".");
	return false;
}

static void
assign_connection(const char *newval pg_attribute_unused(),
				  void *extra pg_attribute_unused())
{
	slate_redis_reconfigure();
}

static bool
check_mode(int *newval, void **extra pg_attribute_unused(),
		   GucSource source pg_attribute_unused())
{
	if (*newval == MODE_COMMIT)
		return true;
	GUC_check_errcode(ERRCODE_FEATURE_NOT_SUPPORTED);
	GUC_check_errdetail("This version of slate_cache has the mode \"commit\" only.");
	GUC_check_errhint("Leave slate_cache.mode at \"commit\".");
	return false;
}

static void
define_connection_settings(void)
{
	DefineCustomStringVariable("slate_cache.url",
							   "Where Redis is.",
							   "redis://[user[:password]@]host[:port][/db] or unix:///path[?db=n].",
							   &slate_redis_url, "redis://localhost:6379/0",
							   PGC_SUSET, GUC_SUPERUSER_ONLY,
							   check_url, assign_connection, NULL);
	DefineCustomStringVariable("slate_cache.password_file",
							   "File whose first line is the Redis password.",
							   "It overrides a password in slate_cache.url.",
							   &slate_redis_password_file, "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY,
							   NULL, assign_connection, NULL);
	DefineCustomIntVariable("slate_cache.timeout",
							"Longest time that one exchange with Redis may take.",
							"This is also the longest that a commit waits for Redis, connecting included; one of thousands of keys takes several exchanges.",
							&slate_redis_timeout, 250, 1, 60000,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("slate_cache.connect_timeout",
							"Longest time that connecting to Redis may take.",
							"In a commit it never exceeds three quarters of slate_cache.timeout.",
							&slate_redis_connect_timeout, 250, 1, 60000,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
}

static void
define_cache_settings(void)
{
	DefineCustomEnumVariable("slate_cache.mode",
							 "What a commit waits for.",
							 "commit: one exchange with Redis, after the commit.",
							 &mode, MODE_COMMIT, modes,
							 PGC_USERSET, 0, check_mode, NULL, NULL);
	DefineCustomIntVariable("slate_cache.max_pending",
							"Memory that a transaction may hold for the cache before it falls back to dropping.",
							NULL,
							&slate_pending_max_bytes, 16 * 1024, 64, 128 * 1024,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("slate_cache.max_value",
							"Largest value that is cached; keys of larger ones are dropped.",
							NULL,
							&slate_publish_max_value, 1024, 1, 64 * 1024,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("slate_cache.default_ttl",
							"Lifetime of a value whose rule has none; 0 for no end.",
							NULL,
							&slate_rules_default_ttl, 3600, 0, 10 * 366 * 86400,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("slate_cache.guard_life",
							"How long Redis remembers the version of a key after its last change.",
							"Must be much longer than any push can be on its way.",
							&slate_script_guard_life, 60, 10, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomBoolVariable("slate_cache.sweep",
							 "Look through all keys of Redis when a rule drops a pattern.",
							 "Without it, patterns of rules do not drop keys that apps have SET themselves.",
							 &slate_publish_sweep, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
}

/* ------------------------------------------------------------------------
 * Hooks
 * ------------------------------------------------------------------------
 */

static void
on_object_access(ObjectAccessType access, Oid class_id, Oid object_id,
				 int sub_id, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
	slate_capture_object_access(access, class_id, object_id);
}

static void
on_shmem_request(void)
{
	if (prev_shmem_request)
		prev_shmem_request();
	RequestAddinShmemSpace(slate_names_shmem_size());
	RequestAddinShmemSpace(slate_redis_shmem_size());
	RequestAddinShmemSpace(slate_stats_shmem_size());
	slate_worker_shmem_request();
}

static void
on_shmem_startup(void)
{
	if (prev_shmem_startup)
		prev_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	slate_names_shmem_startup();
	slate_redis_shmem_startup();
	slate_stats_shmem_startup();
	slate_worker_shmem_startup();
	LWLockRelease(AddinShmemInitLock);
}

void
_PG_init(void)
{
	define_connection_settings();
	define_cache_settings();
	slate_pause_define_settings();
	MarkGUCPrefixReserved("slate_cache");

	slate_rules_init();
	slate_pending_init();

	prev_object_access = object_access_hook;
	object_access_hook = on_object_access;
	if (process_shared_preload_libraries_in_progress)
	{
		prev_shmem_request = shmem_request_hook;
		shmem_request_hook = on_shmem_request;
		prev_shmem_startup = shmem_startup_hook;
		shmem_startup_hook = on_shmem_startup;
		slate_worker_register();
	}
}

/* ------------------------------------------------------------------------
 * Views
 * ------------------------------------------------------------------------
 */

Datum
slate_cache_stats(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		row[1 + STAT_COUNT];
	bool		nulls[1 + STAT_COUNT] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != lengthof(row))
		elog(ERROR, "unexpected result type of slate_cache.read_stats()");
	row[0] = CStringGetTextDatum(slate_stats_shared() ? "server" : "session");
	for (int i = 0; i < STAT_COUNT; i++)
		row[1 + i] = Int64GetDatum((int64) slate_stats_get(i));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  row, nulls)));
}

Datum
slate_cache_stats_reset(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	slate_stats_reset();
	PG_RETURN_VOID();
}

static void
put_check(ReturnSetInfo *result, const char *name, bool ok, const char *detail)
{
	Datum		row[3];
	bool		nulls[3] = {false};

	row[0] = CStringGetTextDatum(name);
	row[1] = BoolGetDatum(ok);
	row[2] = CStringGetTextDatum(detail);
	tuplestore_putvalues(result->setResult, result->setDesc, row, nulls);
}

static void
take_pong(int index pg_attribute_unused(), const redisReply *reply, void *arg)
{
	StringInfo	answer = arg;

	if (reply->type == REDIS_REPLY_STATUS || reply->type == REDIS_REPLY_ERROR)
		appendBinaryStringInfo(answer, reply->str, reply->len);
}

static void
check_redis(ReturnSetInfo *result)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";
	int64		deadline = slate_link_now() + slate_redis_timeout;
	StringInfoData answer;

	initStringInfo(&answer);
	if (slate_script_prepare(deadline, LINK_WAIT_INTERRUPTIBLE) == REDIS_DONE &&
		slate_redis_run(ping, strlen(ping), 1, take_pong, &answer, deadline,
						LINK_WAIT_INTERRUPTIBLE) == REDIS_DONE)
		put_check(result, "redis", strcmp(answer.data, "PONG") == 0,
				  psprintf("%s answers %s", slate_redis_server_name(),
						   answer.data));
	else
		put_check(result, "redis", false, slate_redis_error());
}

static void
check_breaker(ReturnSetInfo *result)
{
	int			failures;
	int64		rests_for;

	slate_redis_breaker(&failures, &rests_for);
	put_check(result, "breaker", failures == 0,
			  failures == 0 ? "closed" :
			  psprintf("%d failures in a row; next try in " INT64_FORMAT " ms",
					   failures, rests_for));
}

Datum
slate_cache_health(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		preloaded = slate_stats_shared();
	uint64		lost = slate_stats_get(STAT_PUSHES_LOST);

	InitMaterializedSRF(fcinfo, 0);
	put_check(result, "preload", preloaded, preloaded
			  ? "loaded by shared_preload_libraries"
			  : "not in shared_preload_libraries: breaker and counters are this session's own");
	put_check(result, "worker", slate_worker_is_there(),
			  slate_worker_is_there() ? "running" : preloaded ?
			  "not running; the server starts it again after 5 s" :
			  "there is none without preload: patterns are looked for within slate_cache.timeout");
	check_redis(result);
	check_breaker(result);
	put_check(result, "pushes", lost == 0, lost == 0 ? "none lost"
			  : psprintf(UINT64_FORMAT " transactions could not be told to Redis; copies of their rows may be stale until they expire",
						 lost));
	return (Datum) 0;
}
