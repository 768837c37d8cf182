/*-------------------------------------------------------------------------
 *
 * slate_cache.c
 *	  The module: settings, hooks, shared memory.
 *
 * Everything but the journal works without shared_preload_libraries, for each
 * session by itself; with it, sessions share the breaker and the counters,
 * there are a journal and workers, and a session notices DROP and TRUNCATE
 * even before it has used the extension.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xact.h"
#include "breaker.h"
#include "catalog/pg_extension.h"
#include "cluster.h"
#include "commands/extension.h"
#include "ddl.h"
#include "events.h"
#include "fmgr.h"
#include "journal.h"
#include "launcher.h"
#include "miscadmin.h"
#include "names.h"
#include "near.h"
#include "nodes/parsenodes.h"
#include "parsed.h"
#include "parser/analyze.h"
#include "pause.h"
#include "pending.h"
#include "publish.h"
#include "redis.h"
#include "render.h"
#include "ring.h"
#include "rules.h"
#include "select.h"
#include "sentinel.h"
#include "stamp.h"
#include "stats.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "tcop/utility.h"
#include "tls.h"
#include "traffic.h"
#include "url.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(slate_cache_announce);

void		_PG_init(void);

static object_access_hook_type prev_object_access = NULL;
static shmem_request_hook_type prev_shmem_request = NULL;
static shmem_startup_hook_type prev_shmem_startup = NULL;
static ProcessUtility_hook_type prev_utility = NULL;
static post_parse_analyze_hook_type prev_analyzed = NULL;

/* This transaction creates or drops an extension. */
static SlateDatabase *extension_changes = NULL;
static bool extension_is_new = false;

static const struct config_enum_entry modes[] = {
	{"async", SLATE_MODE_ASYNC, false},
	{"commit", SLATE_MODE_COMMIT, false},
	{"strict", SLATE_MODE_STRICT, false},
	{NULL, 0, false}
};

/* ------------------------------------------------------------------------
 * Settings
 * ------------------------------------------------------------------------
 */

static bool
check_url(char **newval, void **extra, GucSource source)
{
	SlateUrl	url;
	const char *error;

	if (slate_url_parse(*newval, &url, &error))
	{
		/* an assign hook is not told */
		*extra = compat_guc_malloc(sizeof(GucSource));
		if (*extra)
			*(GucSource *) *extra = source;
		return *extra != NULL;
	}
	GUC_check_errdetail("%s", error);
	GUC_check_errhint("A url looks like \"redis://:password@host:6379/0\" or \"unix:///path/to/socket?db=0\".");
	return false;
}

static void
assign_connection(const char *newval pg_attribute_unused(),
				  void *extra pg_attribute_unused())
{
	slate_service_reconfigure();
}

static void
assign_url(const char *newval, void *extra)
{
	const GucSource *source = extra;

	slate_service_is_servers = source && *source < PGC_S_GLOBAL;
	assign_connection(newval, extra);
}

static void
assign_tls(const char *newval, void *extra)
{
	slate_tls_reconfigure();
	assign_connection(newval, extra);
}

/* Less would have no room for a value. */
static bool
check_near_memory(int *newval, void **extra, GucSource source)
{
	if (*newval == 0 || *newval >= 1024)
		return true;
	GUC_check_errdetail("It is either 0 or at least 1 MB.");
	return false;
}

static void
define_connection_settings(void)
{
	DefineCustomStringVariable("slate_cache.url",
							   "Where Redis is.",
							   "redis://[user[:password]@]host[:port][/db], rediss:// likewise for TLS, unix:///path[?db=n], sentinel://host[:port],.../master[/db] or cluster://host[:port],....",
							   &slate_service_url, "redis://localhost:6379/0",
							   PGC_SUSET, GUC_SUPERUSER_ONLY,
							   check_url, assign_url, NULL);
	DefineCustomStringVariable("slate_cache.password_file",
							   "File whose first line is the Redis password.",
							   "It overrides a password in slate_cache.url.",
							   &slate_service_password_file, "",
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
	DefineCustomIntVariable("slate_cache.idle_timeout",
							"A session's connection to Redis that is unused for so long is closed; 0 for never.",
							"The next use connects anew.",
							&slate_redis_idle_timeout, 60, 0, 86400,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
}

static void
define_tls_settings(void)
{
	DefineCustomStringVariable("slate_cache.tls_ca_file",
							   "File of the certificates that a Redis of a rediss:// url is trusted by.",
							   "In PEM. Empty: those that the system trusts.",
							   &slate_tls_ca_file, "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY,
							   NULL, assign_tls, NULL);
	DefineCustomStringVariable("slate_cache.tls_cert_file",
							   "File of the certificate that is shown to Redis.",
							   "In PEM, with those that it was signed with, if there are such. Empty: none is shown.",
							   &slate_tls_cert_file, "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY,
							   NULL, assign_tls, NULL);
	DefineCustomStringVariable("slate_cache.tls_key_file",
							   "File of the key of slate_cache.tls_cert_file.",
							   "In PEM, without a passphrase. Empty: it is in the certificate's file.",
							   &slate_tls_key_file, "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY,
							   NULL, assign_tls, NULL);
	DefineCustomStringVariable("slate_cache.tls_server_name",
							   "Name or address that the certificate of Redis must have.",
							   "Empty: the url's host.",
							   &slate_tls_server_name, "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY,
							   NULL, assign_tls, NULL);
}

static void
define_cache_settings(void)
{
	DefineCustomEnumVariable("slate_cache.mode",
							 "What a commit waits for.",
							 "async: nothing, a worker tells Redis; commit: one exchange with Redis, after the commit; strict: another one before it, which must succeed.",
							 &slate_publish_mode, SLATE_MODE_COMMIT, modes,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("slate_cache.direct",
							 "Push without a script what nobody else is pushing.",
							 "Redis does three times as much when it is asked to look first. In modes commit and async.",
							 &slate_traffic_direct, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("slate_cache.max_pending",
							"Memory that a transaction may hold for the cache before it falls back to dropping.",
							NULL,
							&slate_pending_max, 16 * 1024, 64, 128 * 1024,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("slate_cache.max_value",
							"Largest value that is cached; keys of larger ones are dropped.",
							NULL,
							&slate_render_max_value, 1024, 1, 64 * 1024,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomBoolVariable("slate_cache.near",
							 "Read from the near cache, if there is one.",
							 "Without it Redis is asked. See slate_cache.near_memory.",
							 &slate_near_enabled, true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("slate_cache.parsed_memory",
							"Memory in which a session keeps values that it has parsed, should the same text come again.",
							"0 keeps none.",
							&slate_parsed_memory, 1024, 0, 64 * 1024,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("slate_cache.default_ttl",
							"Lifetime of a value whose rule has none; 0 for no end.",
							NULL,
							&slate_rule_default_ttl, 3600, 0, 10 * 366 * 86400,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("slate_cache.guard_life",
							"How long Redis remembers the version of a key after its last change.",
							"Must be much longer than any push can be on its way.",
							&slate_stamp_guard_life, 60, 10, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomBoolVariable("slate_cache.sweep",
							 "Look through all keys of Redis when a rule drops a pattern.",
							 "Without it, patterns of rules do not drop keys that apps have SET themselves.",
							 &slate_publish_sweep, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("slate_cache.ring_size",
							"Shared memory of a database for pushes in mode async.",
							"It is allocated when a session first uses that mode, and keeps its size; without room for it sessions wait as in mode commit. When it is full, keys are dropped instead of being set.",
							&slate_ring_size, 4096, 64, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomBoolVariable("slate_cache.journal",
							 "Write down in PostgreSQL what Redis must be told.",
							 "Without it, what Redis is not told at once is lost.",
							 &slate_journal_enabled, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("slate_cache.max_journal",
							"Size of a database's journal from which on the namespace is emptied instead of replaying it.",
							"Reached only while Redis is away, or a transaction stays prepared.",
							&slate_journal_max, 256 * 1024, 1024, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
}

/*
 * Shared memory can be had by preload alone.  Without it the setting is known
 * all the same, so that postgresql.conf may keep it.
 */
static void
define_shared_settings(void)
{
	bool		has_effect = process_shared_preload_libraries_in_progress;

	DefineCustomIntVariable("slate_cache.near_memory",
							"Shared memory for values that a hit then finds without asking Redis.",
							has_effect ? "0 for none."
							: "Without effect: slate_cache is not in shared_preload_libraries.",
							&slate_near_memory, 0, 0, INT_MAX / 2 + 1,
							has_effect ? PGC_POSTMASTER : PGC_SIGHUP,
							GUC_UNIT_KB, check_near_memory,
							NULL, NULL);
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

	/* most calls, by far */
	if (access == OAT_FUNCTION_EXECUTE || access == OAT_NAMESPACE_SEARCH)
		return;
	slate_ddl_object_access(access, class_id, object_id, sub_id);

	/* the worker goes when that is committed */
	if (class_id == ExtensionRelationId && access == OAT_DROP &&
		object_id == get_extension_oid("slate_cache", true))
	{
		slate_ddl_before_dropping_extension();
		extension_changes = slate_database_mine();
	}
}

static void
on_analyzed(ParseState *state, Query *query, JumbleState *jumble)
{
	if (prev_analyzed)
		prev_analyzed(state, query, jumble);
	slate_select_check_analyzed(state->p_sourcetext, query);
}

/*
 * The last thing that CREATE EXTENSION does: the worker comes when that is
 * committed.  The one that is still there may be about to go, since the
 * extension was dropped a moment ago, or in the same transaction.
 */
Datum
slate_cache_announce(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	extension_changes = slate_database_mine();
	extension_is_new = true;
	PG_RETURN_VOID();
}

static void
on_transaction(XactEvent event, void *arg pg_attribute_unused())
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		slate_ddl_before_commit();
	if (extension_changes && event == XACT_EVENT_COMMIT)
	{
		if (extension_is_new)
			slate_database_want(extension_changes);
		else
			slate_database_wake(extension_changes);
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
	{
		extension_changes = NULL;
		extension_is_new = false;
	}
}

/*
 * Our worker must not hinder commands that want a database for themselves.  And
 * the ROLLBACK of a transaction that has failed is nobody's callback: who has met
 * one more error in it has no timer any more.
 */
static void
on_utility(PlannedStmt *statement, const char *query, bool read_only_tree,
		   ProcessUtilityContext context, ParamListInfo params,
		   QueryEnvironment *environment, DestReceiver *receiver,
		   QueryCompletion *completion)
{
	bool		is_transaction = IsA(statement->utilityStmt, TransactionStmt);
	Oid			alone = slate_launcher_wanted_alone(statement->utilityStmt);

	if (!OidIsValid(alone))
	{
		prev_utility(statement, query, read_only_tree, context, params,
					 environment, receiver, completion);

		/* the statement may have gone with the transaction */
		if (is_transaction)
			slate_redis_watch_idle();
		return;
	}
	slate_launcher_send_away(alone, true);
	PG_TRY();
	{
		prev_utility(statement, query, read_only_tree, context, params,
					 environment, receiver, completion);
	}
	PG_FINALLY();
	{
		slate_launcher_send_away(alone, false);
	}
	PG_END_TRY();
}

static void
on_shmem_request(void)
{
	if (prev_shmem_request)
		prev_shmem_request();
	RequestAddinShmemSpace(slate_names_shmem_size());
	RequestAddinShmemSpace(slate_breaker_shmem_size());
	RequestAddinShmemSpace(slate_sentinel_shmem_size());
	RequestAddinShmemSpace(slate_cluster_shmem_size());
	RequestAddinShmemSpace(slate_stats_shmem_size());
	RequestAddinShmemSpace(slate_events_shmem_size());
	RequestAddinShmemSpace(slate_doubt_shmem_size());
	RequestAddinShmemSpace(slate_traffic_shmem_size());
	slate_database_shmem_request();
	slate_near_shmem_request();
}

static void
on_shmem_startup(void)
{
	if (prev_shmem_startup)
		prev_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	slate_names_shmem_startup();
	slate_breaker_shmem_startup();
	slate_sentinel_shmem_startup();
	slate_cluster_shmem_startup();
	slate_stats_shmem_startup();
	slate_events_shmem_startup();
	slate_database_shmem_startup();
	slate_doubt_shmem_startup();
	slate_traffic_shmem_startup();
	slate_near_shmem_startup();
	LWLockRelease(AddinShmemInitLock);
}

void
_PG_init(void)
{
	define_connection_settings();
	define_tls_settings();
	define_cache_settings();
	define_shared_settings();
	slate_pause_define_settings();
#ifdef SLATE_CACHE_TESTING
	DefineCustomIntVariable("slate_cache.sweep_at_once",
							"For how long a commit looks for keys by pattern itself.",
							NULL,
							&slate_publish_sweep_at_once, 20, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
#endif
	MarkGUCPrefixReserved("slate_cache");

	slate_rules_init();
	slate_pending_init();

	prev_object_access = object_access_hook;
	object_access_hook = on_object_access;
	prev_analyzed = post_parse_analyze_hook;
	post_parse_analyze_hook = on_analyzed;
	if (process_shared_preload_libraries_in_progress)
	{
		prev_shmem_request = shmem_request_hook;
		shmem_request_hook = on_shmem_request;
		prev_shmem_startup = shmem_startup_hook;
		shmem_startup_hook = on_shmem_startup;
		prev_utility = ProcessUtility_hook ? ProcessUtility_hook
			: standard_ProcessUtility;
		ProcessUtility_hook = on_utility;

		/* the last to register is the first to be called: before pending.c */
		RegisterXactCallback(on_transaction, NULL);
		slate_launcher_register();
	}
}
