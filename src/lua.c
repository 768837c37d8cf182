/*-------------------------------------------------------------------------
 *
 * lua.c
 *	  The cache protocol: what Redis does about a key.
 *
 * THE STORY
 *
 * An app's plain GET must never find an old value that nothing will remove.
 * Two things endanger that.  Pushes may overtake each other between the
 * commits and Redis; and a reader may load a row, be slow, and put what it
 * loaded over the push of a commit that it did not see.  Removing a value is
 * always safe, so both dangers come from setting one, and whoever sets a value
 * must prove to Redis that it is not older than what is known there.
 *
 * What is known about a key K stands beside it for a short while, in its guard
 * G(K), a string of fixed layout:
 *
 *	  bytes 1-30   the highest version that was pushed
 *	  bytes 31-38  the order of that push
 *	  bytes 39-54  a nonce, new with each push
 *	  bytes 55-62  whose version it is: a database of a cluster
 *	  bytes 63-75  when it was taken, or raised to that, by the server's clock,
 *				   in ms
 *	  then, 24 each: the marks of strict writers under way
 *
 * PUT proves its age by its version.  Two pushes of one key that have the same
 * order, say, of the primary key of one table, have versions in the order of
 * their commits: T1 sets name = 'a', T2 waits for the row lock, sets name =
 * 'b', pushes 'b'; T1's push comes late, finds a higher version, and does
 * nothing.
 *
 * Where the writers of a key did not wait for each other (a DROP of a list,
 * slate_cache_del(), a key on columns that nothing makes unique, two tables
 * whose rules give the same key) the versions prove nothing about the order of
 * the commits.  Suppose T1 takes version 5, T2 takes 7 and DROPs the key, a
 * reader leases and loads the row from before T1's commit and fills it; T1
 * commits, and its PUT finds version 7.  "Newer, nothing to do" would leave
 * the reader's old value for good.  So a PUT that finds a newer version does
 * nothing only if both have the same order, and otherwise removes the value.
 * A fill takes the order from a guard: what it has loaded may be another
 * rule's.
 *
 * A version lapses a guard's life after it was taken or raised, however often
 * the guard is used: whatever is older than it is past its deadline by then (see
 * below).  So a version of another cluster, or of a history that PostgreSQL has
 * left (trust.c), is not in the way for ever.
 *
 * FILL proves its age by a lease: the nonce that stood in the guard before the
 * snapshot was taken that loaded the value.  Each push changes the nonce, so a
 * fill whose snapshot may have missed a commit finds another nonce, or no
 * guard at all, and is refused.  A lease on a key without a guard creates one.
 *
 * A guard lives slate_stamp_guard_life seconds from its last use, longer than
 * any push may be on its way: a PUT carries a deadline by the server's clock,
 * half that life after its version was taken, and past it becomes a DROP.
 * So a PUT that a proxy held back for an hour finds no guard, but cannot set.
 *
 * All this relies on the memory of Redis.  If Redis has lost it as a whole
 * (FLUSHALL, a restart, an older dump, another server) it has also lost the
 * epoch, a text that our worker has left there and that each PUT repeats; a
 * PUT that finds another one is a DROP.  See trust.c.  What this cannot do: a
 * single guard that is evicted in the very moment in which two pushes of its
 * key are swapped is not missed by the later one.
 *
 * A family is a set of keys that are dropped together by a glob.  Keys that no
 * rule can enumerate (searches, whatever apps put with slate_cache_set() or
 * slate_cache_fetch()) are entered in their family's index, a sorted set by
 * the time at which they will have expired, before they are leased or put;
 * dropping the family walks the index, in steps if it is large.  Keys that apps
 * SET by themselves are in no index; for those there is the sweep, a SCAN over
 * everything.
 *
 * A glob drops what is there.  What is on its way is not: T1 inserts a row and
 * is slow to push; T2 truncates the table, and finds neither value nor guard
 * of the row's key to take its version; then T1's PUT comes.  So whoever drops
 * a glob first notes its version under the literal text that the glob begins
 * with, the floor, for a guard's life; and a PUT that is older than a floor
 * under its key becomes a DROP.
 *
 * MARKS
 *
 * In mode strict no reader may find a value that lacks a commit which is
 * visible.  So before the commit a writer MARKs its keys: it removes the
 * value, voids the leases, and leaves its mark in the guard.  While a mark
 * stands nobody gets a lease, and a PUT of somebody else is a DROP.  The
 * writer's own PUT counts only if its mark still stands: then nobody has set
 * anything since. What a mark does must not depend on whether its transaction
 * commits, so it has no version.
 *
 * A mark is an owner and an id, the nonce of a transaction.  It stands as long
 * as the owner's hash slate_cache:marks:<owner> has the id as a field; so one
 * HDEL takes away all marks of a transaction, however many keys it has.  Marks
 * that do not stand mean nothing, and go with the next step that writes the
 * guard.  The field's value is the transaction's number: the owner's worker
 * takes away those of transactions that have ended (strict.c).  A mark has no
 * deadline of its own, since a transaction may take any time from its mark to
 * its end (think of synchronous replication); but hash and guard live for two
 * days only, so that an owner who is gone for good is forgotten.
 *
 * A glob's keys may not be there yet.  So a writer also notes the literal text
 * that the glob begins with, behind its mark, in the hash slate_cache:marked,
 * and every key that begins with it is marked.
 *
 * Pushes that failed must not lose their marks: what is older and on its way
 * could still be set.  So each call of a strict writer counts itself beside
 * the id when it has succeeded, and the marks are released only if all have.
 *
 * SPEED
 *
 * What a push costs Redis is above all the number of words that it is told in,
 * and the number of commands that its script calls; a closure costs, too.  A
 * push nearly always finds a guard with an older version, or none, and nothing
 * else of all the above.  So one MGET fetches the guards with all that matters
 * for them, and for a key with nothing to be looked at closely there are but two
 * SETs more.  The guard's new text, when it expires, and the deadline were made
 * by the pusher; the script compares them as texts.
 *
 * It does not ask for the time: the worker leaves a tick once a second, which
 * says until when it can be at most, and goes soon after that.  A push whose
 * deadline is later than that is not late.  There is no tick while beginnings
 * are marked; so whoever finds one need not look for them.
 *
 * Such a guard lives a life from when its version was taken, not pushed.  That
 * is long enough: the push was not late, so it came less than half a life after
 * that; who had taken a lower version by then has a deadline less than another
 * half later.
 *
 * A CLUSTER
 *
 * Each master of a Redis Cluster is a Redis of its own, with all of the above
 * for the keys that it has: an epoch, a tick, floors, marks and indexes.  Their
 * names have a hash tag of a slot that the master has, which is written in place
 * of @ in the scripts; without a Cluster nothing is.  A key and its guard share
 * a slot: the guard of K holds K as its hash tag, or K's own tag in its place;
 * where braces in K allow neither, it is the master's by its tag.  A script may
 * use any key of its master, by commands of one slot each; those that it names
 * to be called by have one slot together (since Redis 7.0 also where they are
 * not named; see "EVAL compatibility mode" and allow-cross-slot-keys in
 * https://redis.io/docs/latest/develop/programmability/lua-api/).
 *
 * If another master takes over a slot, the history of all is unknown; see
 * trust.c and slate_redis_identity().
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "common/cryptohash.h"
#include "lua.h"

/*
 * How long a mark is remembered, in ms: longer than any guard lives otherwise.
 * A guard that has more than a guard's life left is one with marks, or one
 * that Redis refused to write; in any case one that holds no lease.
 */
#define LUA_MARK_LIFE "172800000"

/*
 * Functions that more than one script uses.
 */
#define LUA_GUARD_NAME \
	"local function guard(key)\n" \
	"  local tag = string.find(key, '{', 1, true)\n" \
	"  if tag and string.find(key, '{[^}]+}') == tag then return 'slate_cache:tagged:' .. key end\n" \
	"  if '@' ~= '' and string.find(key, '}', 1, true) then return 'slate_cache:@odd:' .. key end\n" \
	"  return 'slate_cache:guard:{' .. key .. '}'\n" \
	"end\n"

#define LUA_LOOK \
	"local function look(g)\n" \
	"  local known = redis.pcall('GET', g)\n" \
	"  if type(known) == 'string' and #known >= 75 then return known end\n" \
	"  if known then redis.call('UNLINK', g) end\n" \
	"  return nil\n" \
	"end\n"

#define LUA_GUARD \
	LUA_GUARD_NAME \
	LUA_LOOK

/*
 * Does an answer say that the key's slot is another master's by now, or is just
 * being moved to it, and the key is not here (any more)?
 */
#define LUA_IS_AWAY \
	"local function is_away(reply)\n" \
	"  return type(reply) == 'table' and reply.err and string.find(reply.err, 'non local key', 1, true)\n" \
	"end\n"

/*
 * ask() reads a note of this master.  Of another type than it should be it is
 * none of ours.  But one that is away says nobody knows what: that is an error,
 * here and for whoever called.
 */
#define LUA_ASK \
	LUA_IS_AWAY \
	"local function ask(...)\n" \
	"  local reply = redis.pcall(...)\n" \
	"  if '@' ~= '' and is_away(reply) then return redis.call(...) end\n" \
	"  return reply\n" \
	"end\n"

/*
 * others_on() gives the marks on a key that stand, but for mine, and whether
 * mine does.  covered() tells whether another's mark stands on a beginning of
 * the key; which there are is read once a call.
 */
#define LUA_MARKS \
	LUA_ASK \
	"local function marks_of(mark)\n" \
	"  return 'slate_cache:@marks:' .. string.sub(mark, 1, 8)\n" \
	"end\n" \
	"local function stands(mark)\n" \
	"  return ask('HEXISTS', marks_of(mark), string.sub(mark, 9, 24)) == 1\n" \
	"end\n" \
	"local function others_on(known, me)\n" \
	"  local others, mine = '', false\n" \
	"  for at = 76, known and #known or 0, 24 do\n" \
	"    local mark = string.sub(known, at, at + 23)\n" \
	"    if stands(mark) then\n" \
	"      if mark == me then mine = true else others = others .. mark end\n" \
	"    end\n" \
	"  end\n" \
	"  return others, mine\n" \
	"end\n" \
	"local beginnings\n" \
	"local function covered(key, me)\n" \
	"  beginnings = beginnings or ask('HKEYS', 'slate_cache:@marked')\n" \
	"  for _, field in ipairs(beginnings) do\n" \
	"    local mark = string.sub(field, 1, 24)\n" \
	"    if mark ~= me and string.sub(key, 1, #field - 24) == string.sub(field, 25) and stands(mark) then\n" \
	"      return true\n" \
	"    end\n" \
	"  end\n" \
	"  return false\n" \
	"end\n"

/* A strict writer's call has succeeded. */
#define LUA_COUNT \
	"local function count()\n" \
	"  if me ~= '' and stands(me) then redis.call('HINCRBY', marks_of(me), string.sub(me, 9) .. '+', 1) end\n" \
	"end\n"

/*
 * An index that somebody has overwritten with something of another type knows
 * nothing any more.  It is removed, so that the next step finds none.
 */
#define LUA_HEAL \
	"local function heal(reply, index)\n" \
	"  if type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) then\n" \
	"    redis.call('UNLINK', index)\n" \
	"  end\n" \
	"  return reply\n" \
	"end\n"

#define LUA_CLOCK \
	"local clock = redis.call('TIME')\n" \
	"local now = clock[1] * 1000 + math.floor(clock[2] / 1000)\n"

/*
 * newest() tells what a guard is to say after this push: version, order, owner
 * and when it was raised; and whether it knew a newer one.
 *
 * note() writes the guard.  Where Redis refuses that (maxmemory) the value is
 * removed.  The guard that is there may know what others need: a version, a
 * mark. So it stays, and its leases are made void by a life that no lease has,
 * which takes no memory.  The error is remembered, so that the pusher takes
 * the call for undelivered.
 *
 * has_gone() is for who has a key not from a caller, but from an index or a SCAN: in
 * a Cluster its slot may have gone to another master, or be on its way.  It is
 * left out, and the error remembered.
 *
 * They use version, nonce, life, owner, me and now of whoever includes them.
 */
#define LUA_RULES \
	"local failure\n" \
	"local function failed(reply)\n" \
	"  if type(reply) == 'table' and reply.err then\n" \
	"    failure = failure or reply\n" \
	"    return true\n" \
	"  end\n" \
	"end\n" \
	"local function note(key, g, top, order, whose, raised, others)\n" \
	"  if failed(redis.pcall('SET', g, top .. order .. nonce .. whose .. raised .. others,\n" \
	"                        'PX', others == '' and life or " LUA_MARK_LIFE ")) then\n" \
	"    redis.call('UNLINK', key)\n" \
	"    redis.call('PEXPIRE', g, " LUA_MARK_LIFE ")\n" \
	"    return false\n" \
	"  end\n" \
	"  return true\n" \
	"end\n" \
	"local function newest(known, order)\n" \
	"  local raised = known and string.sub(known, 63, 75)\n" \
	"  if known and tonumber(raised) + life >= now and string.sub(known, 1, 30) > version then\n" \
	"    return string.sub(known, 1, 30), string.sub(known, 31, 38), string.sub(known, 55, 62), raised, true\n" \
	"  end\n" \
	"  return version, order, owner, string.format('%013d', now), false\n" \
	"end\n" \
	"local function has_gone(key)\n" \
	"  return '@' ~= '' and failed(redis.pcall('EXISTS', key))\n" \
	"end\n" \
	"local function drop(key, order, keeps_mine)\n" \
	"  local g = guard(key)\n" \
	"  local known = look(g)\n" \
	"  local top, by, whose, raised = newest(known, order)\n" \
	"  local marks, mine = others_on(known, me)\n" \
	"  if keeps_mine and mine then marks = marks .. me end\n" \
	"  redis.call('UNLINK', key)\n" \
	"  note(key, g, top, by, whose, raised, marks)\n" \
	"end\n"

/* The push of globs. */
#define LUA_PUSH \
	LUA_GUARD \
	LUA_MARKS \
	LUA_CLOCK \
	"local version, nonce, life, owner, me = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]\n" \
	LUA_COUNT \
	LUA_RULES

/*
 * ARGV: version, nonce, guard life, owner, own mark or ""; then the literal
 * beginnings of globs.  Each has a key with its version; and one key tells in
 * which lengths there are any: since when, for how long, those of the present
 * period and of the last, "1790000000000:60000:12,13:12".
 */
static const char floor_source[] =
LUA_MARKS
"local version, life, me = ARGV[1], tonumber(ARGV[3]), ARGV[5]\n"
LUA_COUNT
LUA_CLOCK
"local known = redis.pcall('GET', 'slate_cache:@floors')\n"
"local start, long, recent, before = string.match(\n"
"  type(known) == 'string' and known or '', '^(%d+):(%d+):([%d,]*):([%d,]*)$')\n"
"start, long = math.min(tonumber(start) or now, now), math.max(tonumber(long) or life, life)\n"
"recent, before = recent or '', before or ''\n"
"if now - start >= long then\n"
"  start, recent, before = now, '', recent\n"
"end\n"
"for i = 6, #ARGV do\n"
"  local length = ',' .. #ARGV[i]\n"
"  if not string.find(recent .. ',', length .. ',', 1, true) then recent = recent .. length end\n"
"end\n"
"redis.call('SET', 'slate_cache:@floors', string.format('%d:%d:%s:%s', start, long, recent, before), 'PX', 2 * long)\n"
"for i = 6, #ARGV do\n"
"  local name = 'slate_cache:@floor:' .. ARGV[i]\n"
"  local top = redis.pcall('GET', name)\n"
"  if type(top) ~= 'string' or top < version then top = version end\n"
"  redis.call('SET', name, top, 'PX', life)\n"
"end\n"
"count()\n"
"return {0, 0, 0}\n";

/*
 * KEYS: keys.  ARGV: the key of the epoch, or "" (which is not asked for: a user
 * may be held to certain keys); the deadline, when the guards are to expire and
 * their life (13, 13 and 8 digits), and the own mark or nothing, in one; the
 * epoch, or ""; then two a key: the guard as it should be, with the TTL in ms
 * behind it, or "-" for a DROP, and the value.
 *
 * below() tells whether a glob that is newer than this push has passed over a
 * key.
 *
 * What cannot be read in a Cluster, since it is on its way to another master, or
 * not there in a slot that is, makes the push fail.  The value, if it is still
 * here, goes.
 *
 * Nearly always there is nothing to be looked at closely: no guard, or one with
 * an older version and no marks but our own; see "Speed" above.
 * Then the guard becomes what the pusher has written, and the answer is one
 * number, see QUICK_REPLY.  For the other keys there is what follows, and the
 * counts are told one by one.
 */
static const char publish_source[] =
"local head, n, guards, there = ARGV[2], #KEYS, {}, nil\n"
LUA_GUARD_NAME
"for i = 1, n do guards[i] = guard(KEYS[i]) end\n"
"if '@' == '' then\n"
"  there = redis.call('MGET', ARGV[1] ~= '' and ARGV[1] or 'slate_cache:tick', 'slate_cache:tick', 'slate_cache:floors', unpack(guards))\n"
"else\n"
"  there = {}\n"
LUA_IS_AWAY
"  for i, name in ipairs({ARGV[1], 'slate_cache:@tick', 'slate_cache:@floors', unpack(guards)}) do\n"
"    local found = name ~= '' and redis.pcall('GET', name)\n"
"    if is_away(found) then\n"
"      redis.pcall('UNLINK', KEYS[1])\n"
"      return found\n"
"    end\n"
"    there[i] = type(found) == 'string' and found\n"
"  end\n"
"end\n"
"local epoch, tick, floors = there[1], there[2], there[3]\n"
"local lengths\n"
"local function below(key, version)\n"
"  if not lengths then\n"
"    lengths = {}\n"
"    for length in string.gmatch(string.match(floors, '^%d+:%d+(:.*)$') or '', '%d+') do\n"
"      lengths[#lengths + 1] = tonumber(length)\n"
"    end\n"
"  end\n"
"  local names = {}\n"
"  for _, length in ipairs(lengths) do\n"
"    if length <= #key then names[#names + 1] = 'slate_cache:@floor:' .. string.sub(key, 1, length) end\n"
"  end\n"
"  if #names == 0 then return false end\n"
"  for _, top in ipairs(redis.call('MGET', unpack(names))) do\n"
"    if top and top > version then return true end\n"
"  end\n"
"  return false\n"
"end\n"
"local me, marked = string.sub(head, 35), ''\n"
"local quick = tick and tick <= head\n"
"if quick and me ~= '' then\n"
"  local mine = 'slate_cache:@marks:' .. string.sub(me, 1, 8)\n"
"  quick = redis.pcall('HEXISTS', mine, string.sub(me, 9)) == 1\n"
"  marked = me\n"
"end\n"
"local sure = quick and epoch == ARGV[3]\n"
"local stored, dropped, closer = 0, 0, nil\n"
"for i = 1, n do\n"
"  local new, known = ARGV[2 + 2 * i], there[3 + i]\n"
"  local ttl = string.sub(new, 76)\n"
"  local done = false\n"
"  new = string.sub(new, 1, 75)\n"
"  if quick and (known and string.sub(known, 76) == marked and known <= new or not known and marked == '') then\n"
"    if ttl == '-' then\n"
"      redis.call('UNLINK', KEYS[i])\n"
"      done = not redis.pcall('SET', guards[i], new, 'PXAT', string.sub(head, 14, 26)).err\n"
"      if done then dropped = dropped + 1 end\n"
"    elseif sure and not (floors and below(KEYS[i], new)) and\n"
"           not redis.pcall('SET', guards[i], new, 'PXAT', string.sub(head, 14, 26)).err then\n"
"      local value = ARGV[3 + 2 * i]\n"
"      if ttl == '0' then done = not redis.pcall('SET', KEYS[i], value).err\n"
"      else done = not redis.pcall('SET', KEYS[i], value, 'PX', ttl).err end\n"
"      if done then stored = stored + 1 end\n"
"    end\n"
"  end\n"
"  if not done then\n"
"    closer = closer or {}\n"
"    closer[#closer + 1] = i\n"
"  end\n"
"end\n"
"if not closer and me ~= '' then\n"
"  redis.call('HINCRBY', 'slate_cache:@marks:' .. string.sub(me, 1, 8), string.sub(me, 9) .. '+', 1)\n"
"end\n"
"if not closer then return " LUA_QUICK_REPLY " + stored * 4096 + dropped end\n"
LUA_LOOK
LUA_MARKS
LUA_CLOCK
"local version, nonce, owner\n"
"local life = tonumber(string.sub(head, 27, 34))\n"
LUA_COUNT
LUA_RULES
"local strange = ARGV[3] ~= '' and epoch ~= ARGV[3]\n"
"local late = strange or now > tonumber(string.sub(head, 1, 13))\n"
"local outdated = 0\n"
"local function put(key, order, ttl, value)\n"
"  local g = guard(key)\n"
"  local known = look(g)\n"
"  local top, by, whose, raised, older = newest(known, order)\n"
"  local others, mine = others_on(known, me)\n"
"  if older and by == order and order ~= '" LUA_SHARED "' then\n"
"    if redis.call('PTTL', g) > life then note(key, g, top, by, whose, raised, others)\n"
"    else redis.call('PEXPIRE', g, life) end\n"
"    outdated = outdated + 1\n"
"  elseif older or (floors and below(key, version)) or others ~= '' or (me ~= '' and not mine) or covered(key, me) then\n"
"    drop(key, order)\n"
"    dropped = dropped + 1\n"
"  elseif note(key, g, top, by, whose, raised, others) then\n"
"    local reply\n"
"    if ttl == '0' then reply = redis.pcall('SET', key, value)\n"
"    else reply = redis.pcall('SET', key, value, 'PX', ttl) end\n"
"    if failed(reply) then redis.call('UNLINK', key) else stored = stored + 1 end\n"
"  end\n"
"end\n"
"for _, i in ipairs(closer) do\n"
"  local new, key = ARGV[2 + 2 * i], KEYS[i]\n"
"  local order, ttl = string.sub(new, 31, 38), string.sub(new, 76)\n"
"  version, nonce, owner = string.sub(new, 1, 30), string.sub(new, 39, 54), string.sub(new, 55, 62)\n"
"  if ttl ~= '-' and not late then\n"
"    put(key, order, ttl, ARGV[3 + 2 * i])\n"
"  else\n"
"    drop(key, order)\n"
"    dropped = dropped + 1\n"
"  end\n"
"end\n"
"if failure then return failure end\n"
"count()\n"
"return {stored, dropped, outdated, strange and 1 or 0}\n";

/*
 * ARGV: for how long, in ms.  Not while beginnings of keys are marked, which
 * pushes have to look at; whoever marks one takes the tick away.
 */
static const char tick_source[] =
"local life = tonumber(ARGV[1])\n"
"if redis.call('EXISTS', 'slate_cache:@marked') == 0 then\n"
LUA_CLOCK
"  redis.call('SET', 'slate_cache:@tick', string.format('%013d', now + 1.5 * life), 'PX', life)\n"
"end\n"
"return {0, 0, 0}\n";

/*
 * KEYS: the index.  ARGV: version, -, guard life, owner, own mark or "", glob;
 * and what is new with each step: its nonce, the one of what is to stay, where
 * it begins, how many members it is to have (16, 16, 20 and 5 digits), in one.
 * ZSCAN matches as Redis does everywhere else. Members stay: somebody may have
 * registered a key and not leased it yet, and the next DROP must find it, too.
 *
 * A family may have any number of members, and nobody else is served while a
 * script runs.  So one call drops about as many as it is told, and where the
 * glob matches few looks at eight times as many; then it answers where the next
 * step begins, how many it has looked at, how many there are, and last, if
 * Redis has refused something, what.  The steps may be any time apart:
 *
 * - ZSCAN finds what is there from the first step to the last.  Who had a lease
 *	 before the first one had registered the key before, and it stays registered
 *	 for as long as that lease or its value can be there.  When a step comes to it
 *	 the value goes, and the lease is void.
 * - Who registers later leases later, and so loads what was committed before
 *	 the first step; in mode strict there is no lease.
 * - PUTs that are older find the floor; one that is newer than the glob may go
 *	 or stay.
 * - A nonce never comes twice, so ZSCAN may return a key twice: a lease of the
 *	 first step's is void after the second.
 *
 * What the glob's own transaction has put was put after the glob, but
 * before the second step.  It has the transaction's nonce, and stays.
 *
 * A strict writer's own mark stays on what is dropped: one of the keys may be
 * put next, in the same transaction, and must find it.
 *
 * In mode strict the first step counts: the mark's own steps have gone through
 * all of the family before the commit, so that what is left of these is no
 * reason for the marks to stand.
 */
static const char drop_family_source[] =
LUA_PUSH
LUA_HEAL
"local step = ARGV[7]\n"
"local own, cursor = string.sub(step, 17, 32), string.sub(step, 33, 52)\n"
"local most = tonumber(string.sub(step, 53))\n"
"local first, spare = tonumber(cursor) == 0, string.sub(own, 1, 1) ~= '-'\n"
"local members, seen = {}, 0\n"
"nonce = string.sub(step, 1, 16)\n"
"repeat\n"
"  local found = heal(redis.pcall('ZSCAN', KEYS[1], cursor, 'MATCH', ARGV[6], 'COUNT', most), KEYS[1])\n"
"  if found.err then return found end\n"
"  cursor, seen = found[1], seen + most\n"
"  for i = 1, #found[2], 2 do members[#members + 1] = found[2][i] end\n"
"until cursor == '0' or #members >= most or seen >= 8 * most\n"
"local function stays(key)\n"
"  local known = look(guard(key))\n"
"  return known and string.sub(known, 39, 54) == own and redis.call('EXISTS', key) == 1\n"
"end\n"
"for _, key in ipairs(members) do\n"
"  if not has_gone(key) and not (spare and stays(key)) then drop(key, '" LUA_SHARED "', true) end\n"
"end\n"
"if cursor ~= '0' then\n"
"  if first and not failure then count() end\n"
"  local there = redis.call('ZCARD', KEYS[1])\n"
"  return {0, #members, 0, 0, cursor, seen, there, failure}\n"
"end\n"
"if failure then return failure end\n"
"if first then count() end\n"
"return {0, #members, 0}\n";

/*
 * ARGV: where a step of a SCAN begins and its COUNT, a glob, and how long a key
 * of ours may be.  What the step finds that matches and is longer was SET by an
 * app, and nothing of ours: it has no guard, and needs none to be removed.
 */
static const char drop_long_source[] =
"local dropped, longest = 0, tonumber(ARGV[4])\n"
"local found = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[3], 'COUNT', ARGV[2])\n"
"for _, key in ipairs(found[2]) do\n"
"  if #key > longest and string.sub(key, 1, 12) ~= 'slate_cache:' then\n"
"    dropped = dropped + redis.call('UNLINK', key)\n"
"  end\n"
"end\n"
"return {0, dropped, 0}\n";

/*
 * KEYS: keys that globs match; in a Cluster they have different slots, and so
 * are the first ARGV.  ARGV: guard life, a nonce for this step, the
 * owner; then for each key the version and the nonce of the glob, and "="
 * behind them if all globs that match it are of one transaction.  What was put
 * with that very nonce was put by the same transaction, after the glob.  What
 * has a newer version under an order was put since, and holds nothing but its
 * row: whoever drops a glob because rows have another text now holds a lock
 * that their writers wait for.  What is spared is a value: where there is
 * none, a lease may have been given since, for another rule's row.
 *
 * The glob's nonce is not written again: a lease of it, void since by another
 * push, would be good once more.
 */
static const char drop_swept_source[] =
LUA_PUSH
"local keys, n, from = KEYS, #KEYS, 0\n"
"if '@' ~= '' then\n"
"  n = (#ARGV - 3) / 2\n"
"  keys, from = ARGV, n\n"
"end\n"
"life, nonce, owner, me = tonumber(ARGV[from + 1]), ARGV[from + 2], ARGV[from + 3], ''\n"
"local dropped = 0\n"
"for i = 1, n do\n"
"  local key, given = keys[i], ARGV[from + 3 + i]\n"
"  version = string.sub(given, 1, 30)\n"
"  local away = has_gone(key)\n"
"  local known = not away and look(guard(key))\n"
"  local newer = known and string.sub(known, 1, 30) > version and\n"
"    string.sub(known, 31, 38) ~= '" LUA_SHARED "' and string.sub(known, 55, 62) == owner\n"
"  local own = known and #given > 46 and string.sub(known, 39, 54) == string.sub(given, 31, 46)\n"
"  if not away and not ((newer or own) and redis.call('EXISTS', key) == 1) then\n"
"    drop(key, '" LUA_SHARED "')\n"
"    dropped = dropped + 1\n"
"  end\n"
"end\n"
"return failure or {0, dropped, 0}\n";

/*
 * KEYS: the index.  ARGV: own mark or ""; then for each key how long it is to
 * stay, in ms, and itself.  Members whose time is over go on the way, so that
 * an index stays as large as its family.
 */
static const char register_source[] =
LUA_MARKS
LUA_HEAL
"local index, me, members, longest, forever = KEYS[1], ARGV[1], {}, 0, false\n"
LUA_COUNT
"local now = redis.call('TIME')\n"
"now = now[1] * 1000 + math.floor(now[2] / 1000)\n"
"heal(redis.pcall('ZREMRANGEBYSCORE', index, '-inf', '(' .. now), index)\n"
"local left = redis.call('PTTL', index)\n"
"for i = 2, #ARGV, 2 do\n"
"  local ttl = tonumber(ARGV[i])\n"
"  members[i - 1], members[i] = ttl == 0 and '+inf' or now + ttl, ARGV[i + 1]\n"
"  longest, forever = math.max(longest, ttl), forever or ttl == 0\n"
"end\n"
"redis.call('ZADD', index, 'GT', unpack(members))\n"
"if forever then redis.call('PERSIST', index)\n"
"elseif left == -2 or (left >= 0 and left < longest) then redis.call('PEXPIRE', index, longest) end\n"
"count()\n"
"return {0, 0, 0}\n";

/*
 * KEYS: keys.  ARGV: nonce, guard life, the epoch's key and the epoch.  A key
 * of another type than string holds nothing of ours; it is removed, as any
 * other bad value is.  Where a mark stands there is no token, nor (4) in a Redis
 * that has another epoch: the key's registration may be lost.
 */
static const char lease_source[] =
LUA_GUARD
LUA_MARKS
"local nonce, life, answers = ARGV[1], tonumber(ARGV[2]), {}\n"
"local strange = ARGV[3] ~= '' and redis.pcall('GET', ARGV[3]) ~= ARGV[4]\n"
"local function take(g, known)\n"
"  if redis.call('PTTL', g) <= life then\n"
"    redis.call('PEXPIRE', g, life)\n"
"    return string.sub(known, 39, 54)\n"
"  end\n"
"  if others_on(known, '') ~= '' then return nil end\n"
"  redis.call('SET', g, string.sub(known, 1, 38) .. nonce .. string.sub(known, 55, 75), 'PX', life)\n"
"  return nonce\n"
"end\n"
"for i, key in ipairs(KEYS) do\n"
"  local value = redis.pcall('GET', key)\n"
"  if type(value) == 'string' then\n"
"    answers[i] = {1, value}\n"
"  else\n"
"    local found = 0\n"
"    if value then redis.call('UNLINK', key); found = 2 end\n"
"    local g = guard(key)\n"
"    local known = look(g)\n"
"    local token\n"
"    if strange or covered(key, '') then token = nil\n"
"    elseif known then token = take(g, known)\n"
"    else\n"
"      redis.call('SET', g, string.rep('0', 30) .. '" LUA_SHARED "' .. nonce .. '" LUA_NOBODY "' .. string.rep('0', 13), 'PX', life)\n"
"      token = nonce\n"
"    end\n"
"    answers[i] = token and {found, token} or {strange and 4 or 3, ''}\n"
"  end\n"
"end\n"
"return answers\n";

/*
 * KEYS: the key.  ARGV: token, ttl in ms, value, guard life.  The guard's
 * version then no longer says what the value is: a fill may have loaded it by
 * another rule than the push had.  So it has no order from here on.  The guard
 * lives on, too: a walk that has passed the key's name must find the guard's.
 */
static const char fill_source[] =
LUA_GUARD
"local key, token, ttl, value = KEYS[1], ARGV[1], ARGV[2], ARGV[3]\n"
"local g = guard(key)\n"
"local known = look(g)\n"
"if not known or string.sub(known, 39, 54) ~= token or redis.call('PTTL', g) > tonumber(ARGV[4]) then return 0 end\n"
"if string.sub(known, 31, 38) ~= '" LUA_SHARED "' then\n"
"  redis.call('SET', g, string.sub(known, 1, 30) .. '" LUA_SHARED "' .. token .. string.sub(known, 55, 75), 'PX', ARGV[4])\n"
"else redis.call('PEXPIRE', g, ARGV[4]) end\n"
"if ttl == '0' then redis.call('SET', key, value)\n"
"else redis.call('SET', key, value, 'PX', ttl) end\n"
"return 1\n";

/*
 * KEYS: keys of a namespace that is being emptied, or in a Cluster the first
 * ARGV.  ARGV: guard life, a nonce.
 * A DROP without a version: a guard that is there keeps the one it has, and
 * its marks, since pushes of its key may be under way, and leases are void.
 * Without a guard there is no lease.  Where Redis has no memory for that: as
 * note() does.
 */
static const char forget_source[] =
LUA_GUARD
"local failure\n"
"local keys, n, from = KEYS, #KEYS, 0\n"
"if '@' ~= '' then\n"
"  n = #ARGV - 2\n"
"  keys, from = ARGV, n\n"
"end\n"
"for i = 1, n do\n"
"  local key, known = keys[i], nil\n"
"  local g = guard(key)\n"
"  local away = '@' ~= '' and redis.pcall('EXISTS', key)\n"
"  if type(away) == 'table' and away.err then\n"
"    failure = failure or away\n"
"  else\n"
"    known = look(g)\n"
"    redis.call('UNLINK', key)\n"
"  end\n"
"  if known then\n"
"    local reply = redis.pcall('SET', g, string.sub(known, 1, 38) .. ARGV[from + 2] .. string.sub(known, 55),\n"
"                              'PX', #known > 75 and " LUA_MARK_LIFE " or ARGV[from + 1])\n"
"    if reply.err then\n"
"      redis.call('PEXPIRE', g, " LUA_MARK_LIFE ")\n"
"      failure = failure or reply\n"
"    end\n"
"  end\n"
"end\n"
"return failure or {0, n, 0}\n";

/*
 * KEYS: keys.  ARGV: own mark, the transaction's number, a nonce, the epoch's
 * key and the epoch; then beginnings of keys.  Marks again are the same marks,
 * but for the nonce.
 */
static const char mark_source[] =
LUA_GUARD
LUA_MARKS
"local me, nonce = ARGV[1], ARGV[3]\n"
"local strange = redis.pcall('GET', ARGV[4]) ~= ARGV[5]\n"
"redis.call('HSET', marks_of(me), string.sub(me, 9), ARGV[2])\n"
"redis.call('PEXPIRE', marks_of(me), " LUA_MARK_LIFE ")\n"
"for i = 6, #ARGV do\n"
"  redis.call('HSET', 'slate_cache:@marked', me .. ARGV[i], 1)\n"
"  redis.call('PEXPIRE', 'slate_cache:@marked', " LUA_MARK_LIFE ")\n"
"end\n"
"if #ARGV > 5 then redis.call('UNLINK', 'slate_cache:@tick') end\n"
"for i, key in ipairs(KEYS) do\n"
"  local g = guard(key)\n"
"  local known = look(g)\n"
"  local others = others_on(known, me)\n"
"  known = known or string.rep('0', 30) .. '" LUA_SHARED "' .. nonce .. '" LUA_NOBODY "' .. string.rep('0', 13)\n"
"  redis.call('UNLINK', key)\n"
"  redis.call('SET', g, string.sub(known, 1, 38) .. nonce .. string.sub(known, 55, 75) .. others .. me, 'PX', " LUA_MARK_LIFE ")\n"
"end\n"
"return {0, 0, 0, strange and 1 or 0}\n";

/*
 * ARGV: a mark, and how many calls must have succeeded; -1 for the end of a
 * transaction that has sent none, or whose pushes are done with otherwise.
 */
static const char release_source[] =
"local me, calls = ARGV[1], tonumber(ARGV[2])\n"
"local name, id = 'slate_cache:@marks:' .. string.sub(me, 1, 8), string.sub(me, 9)\n"
"local counted = redis.pcall('HGET', name, id .. '+')\n"
"if calls >= 0 and tonumber(type(counted) == 'string' and counted or 0) < calls then return {0, 0, 0} end\n"
"redis.pcall('HDEL', name, id, id .. '+')\n"
"local fields = redis.pcall('HKEYS', 'slate_cache:@marked')\n"
"for _, field in ipairs(fields) do\n"
"  if string.sub(field, 1, 24) == me then redis.call('HDEL', 'slate_cache:@marked', field) end\n"
"end\n"
"return {0, 0, 0}\n";

/*
 * KEYS: the epoch's key, and that of the WAL's position.  ARGV: the epoch that
 * must be there, the new one, the position.
 */
static const char epoch_source[] =
"if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return {0, 0, 0, 1} end\n"
"redis.call('SET', KEYS[2], ARGV[3])\n"
"redis.call('SET', KEYS[1], ARGV[2])\n"
"return {0, 0, 0, 0}\n";

/* With @ for the tag of a node. */
static const char *const sources[SLATE_LUA_SCRIPTS] = {
	[LUA_PUBLISH] = publish_source,
	[LUA_TICK] = tick_source,
	[LUA_FLOOR] = floor_source,
	[LUA_DROP_FAMILY] = drop_family_source,
	[LUA_DROP_SWEPT] = drop_swept_source,
	[LUA_REGISTER] = register_source,
	[LUA_LEASE] = lease_source,
	[LUA_FILL] = fill_source,
	[LUA_FORGET] = forget_source,
	[LUA_MARK] = mark_source,
	[LUA_RELEASE] = release_source,
	[LUA_EPOCH] = epoch_source,
	[LUA_DROP_LONG] = drop_long_source
};

char *
slate_lua_source(SlateLua script, const char *tag)
{
	StringInfoData source;

	initStringInfo(&source);
	for (const char *at = sources[script]; *at; at++)
	{
		if (*at == '@')
			appendStringInfoString(&source, tag);
		else
			appendStringInfoCharMacro(&source, *at);
	}
	return source.data;
}

void
slate_lua_hash(const char *source, char sha[SLATE_LUA_SHA_SIZE])
{
	uint8		digest[SHA1_DIGEST_LENGTH];
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA1);

	if (pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) source,
							 strlen(source)) < 0 ||
		pg_cryptohash_final(context, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute SHA-1 hash: %s",
			 pg_cryptohash_error(context));
	pg_cryptohash_free(context);

	for (int i = 0; i < SHA1_DIGEST_LENGTH; i++)
		snprintf(sha + 2 * i, 3, "%02x", digest[i]);
}
