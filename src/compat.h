/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Every switch on the version of PostgreSQL or hiredis, and no other file has
 *	  one.
 *
 * Supported: PostgreSQL 15 to 18; hiredis 0.14 and 1.x.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_COMPAT_H
#define SLATE_COMPAT_H

#include "postgres.h"

#include <sys/socket.h>

#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"

#include <hiredis/hiredis.h>

#if PG_VERSION_NUM < 150000
#error "slate_cache needs PostgreSQL 15 or later"
#endif

/* 16: one check of owners, and one of privileges, for all classes */
#if PG_VERSION_NUM < 160000
#define compat_relation_ownercheck(relid, roleid) \
	pg_class_ownercheck(relid, roleid)
#else
#define compat_relation_ownercheck(relid, roleid) \
	object_ownercheck(RelationRelationId, relid, roleid)
#endif

#if PG_VERSION_NUM < 160000
#define compat_extension_ownercheck(extension, roleid) \
	pg_extension_ownercheck(extension, roleid)
#else
#define compat_extension_ownercheck(extension, roleid) \
	object_ownercheck(ExtensionRelationId, extension, roleid)
#endif

#if PG_VERSION_NUM < 160000
#define compat_schema_aclcheck(schema, roleid, mode) \
	pg_namespace_aclcheck(schema, roleid, mode)
#else
#define compat_schema_aclcheck(schema, roleid, mode) \
	object_aclcheck(NamespaceRelationId, schema, roleid, mode)
#endif

/* 16: who is a member may be kept from SET ROLE */
#if PG_VERSION_NUM < 160000
#define compat_may_become(member, role) is_member_of_role(member, role)
#else
#define compat_may_become(member, role) member_can_set_role(member, role)
#endif

/* 16: a new file of a relation has another name */
#if PG_VERSION_NUM < 160000
#define compat_first_file_subid(relation) ((relation)->rd_firstRelfilenodeSubid)
#else
#define compat_first_file_subid(relation) \
	((relation)->rd_firstRelfilelocatorSubid)
#endif

/* 16: what a check hook leaves to its assign hook is the server's to free */
#if PG_VERSION_NUM < 160000
#define compat_guc_malloc(size) malloc(size)
#else
#define compat_guc_malloc(size) guc_malloc(LOG, size)
#endif

/* 17: a superuser may switch event triggers off; without a postmaster none fires */
#if PG_VERSION_NUM < 170000
#define compat_event_triggers_fire() IsUnderPostmaster
#else
#define compat_event_triggers_fire() (IsUnderPostmaster && event_triggers)
#endif

/* datconnlimit of a database whose DROP was interrupted; named in 15.4 */
#define COMPAT_HALF_DROPPED (-2)

/* 18: columns that are computed when they are read */
#if PG_VERSION_NUM < 180000
#define compat_is_virtual(attribute) false
#else
#define compat_is_virtual(attribute) \
	((attribute)->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
#endif

/* 18: in front of the function's declaration */
#if PG_VERSION_NUM < 180000
#define compat_noreturn pg_attribute_noreturn()
#else
#define compat_noreturn pg_noreturn
#endif

/* 17: the number of a process has a name of its own */
#if PG_VERSION_NUM < 170000
#define compat_my_proc_number() (MyProc->pgprocno)
#else
#define compat_my_proc_number() MyProcNumber
#endif

/* 17: a transaction as a whole may be limited; an element of a list */
#if PG_VERSION_NUM < 170000
#define COMPAT_TRANSACTION_TIMEOUT
#else
#define COMPAT_TRANSACTION_TIMEOUT {"transaction_timeout", "0"}
#endif

/*
 * 17: a lexer may be in the caller's memory, and leaves its text alone; what it
 * has allocated has a function that frees it
 */
#if PG_VERSION_NUM < 170000
#define compat_make_json_lexer(text, len, need_escapes) \
	makeJsonLexContextCstringLen(unconstify(char *, text), len, \
								 GetDatabaseEncoding(), need_escapes)
#define compat_free_json_lexer(lex) \
	(pfree((lex)->strval->data), pfree((lex)->strval), pfree(lex))
#else
#define compat_make_json_lexer(text, len, need_escapes) \
	makeJsonLexContextCstringLen(NULL, text, len, GetDatabaseEncoding(), \
								 need_escapes)
#define compat_free_json_lexer(lex) freeJsonLexContext(lex)
#endif

/* Not everywhere; the backend's ignoring SIGPIPE has to do then. */
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

/* hiredis 1.0: replies count their elements in size_t */
#if HIREDIS_MAJOR >= 1
typedef size_t compat_reply_count;
#else
typedef int compat_reply_count;
#endif

/* hiredis 1.0: there are more kinds of replies, and functions to build them */
#if HIREDIS_MAJOR >= 1
#define COMPAT_NEWER_REPLIES(double_fn, bool_fn) \
	.createDouble = double_fn, .createBool = bool_fn,
#else
#define COMPAT_NEWER_REPLIES(double_fn, bool_fn)
#endif

#endif							/* SLATE_COMPAT_H */
