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
	const char *source;
	char		sha[SHA1_DIGEST_LENGTH * 2 + 1];	/* once it is hashed */
} SlateLua;

/* What their keys and arguments are, and their answers: see the sources. */
extern SlateLua slate_lua_publish;
extern SlateLua slate_lua_tick;
extern SlateLua slate_lua_floor;
extern SlateLua slate_lua_drop_family;
extern SlateLua slate_lua_drop_swept;
extern SlateLua slate_lua_register;
extern SlateLua slate_lua_lease;
extern SlateLua slate_lua_fill;
extern SlateLua slate_lua_forget;
extern SlateLua slate_lua_mark;
extern SlateLua slate_lua_release;
extern SlateLua slate_lua_epoch;

/* All of them. */
#define SLATE_LUA_SCRIPTS 12
extern SlateLua *const slate_lua_scripts[SLATE_LUA_SCRIPTS];

/* Find out under which names Redis has them.  ERRORs if that cannot be done. */
extern void slate_lua_hash(void);

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
