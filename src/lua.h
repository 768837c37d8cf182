/*-------------------------------------------------------------------------
 *
 * lua.h
 *	  The scripts that run inside Redis, each a step of the cache protocol.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_LUA_H
#define SLATE_LUA_H

#include "common/sha1.h"

typedef struct SlateLua
{
	int			number;			/* from 0 */
	const char *source;			/* with @ for the tag of a node */
} SlateLua;

/* What their keys and arguments are, and their answers: see the sources. */
extern const SlateLua slate_lua_publish;
extern const SlateLua slate_lua_tick;
extern const SlateLua slate_lua_floor;
extern const SlateLua slate_lua_drop_family;
extern const SlateLua slate_lua_drop_swept;
extern const SlateLua slate_lua_register;
extern const SlateLua slate_lua_lease;
extern const SlateLua slate_lua_fill;
extern const SlateLua slate_lua_forget;
extern const SlateLua slate_lua_mark;
extern const SlateLua slate_lua_release;
extern const SlateLua slate_lua_epoch;
extern const SlateLua slate_lua_drop_long;

#define SLATE_LUA_SCRIPTS 13

/*
 * The source of one with the tag of a node, "" without a Cluster, palloc'd; and
 * under which name Redis has that.  ERRORs if that cannot be found out.
 */
#define SLATE_LUA_SHA_SIZE (SHA1_DIGEST_LENGTH * 2 + 1)
extern char *slate_lua_source(int number, const char *tag);
extern void slate_lua_hash(const char *source, char sha[SLATE_LUA_SHA_SIZE]);

/* The order of a push that has none; the owner of a version that is none. */
#define LUA_SHARED "--------"
#define LUA_NOBODY "--------"

/*
 * How much more a quick push answers than its counts: nobody says so by
 * accident.
 */
#define LUA_QUICK_REPLY "5000000000000000"
#define LUA_QUICK_REPLY_NUMBER INT64CONST(5000000000000000)

#endif							/* SLATE_LUA_H */
