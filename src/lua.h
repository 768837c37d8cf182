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

/* What their keys and arguments are, and their answers: see the sources. */
typedef enum SlateLua
{
	LUA_PUBLISH,
	LUA_TICK,
	LUA_FLOOR,
	LUA_DROP_FAMILY,
	LUA_DROP_SWEPT,
	LUA_REGISTER,
	LUA_LEASE,
	LUA_FILL,
	LUA_FORGET,
	LUA_MARK,
	LUA_RELEASE,
	LUA_EPOCH,
	LUA_DROP_LONG,
	SLATE_LUA_SCRIPTS			/* how many there are */
} SlateLua;

/*
 * The source of one with the tag of a node, "" without a Cluster, palloc'd; and
 * under which name Redis has that.  ERRORs if that cannot be found out.
 */
#define SLATE_LUA_SHA_SIZE (SHA1_DIGEST_LENGTH * 2 + 1)
extern char *slate_lua_source(SlateLua script, const char *tag);
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
