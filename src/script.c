/*-------------------------------------------------------------------------
 *
 * script.c
 *	  The cache protocol: what is said to Redis about a key.
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
 * below).
 * So a version of another cluster, or of a history that PostgreSQL has left
 * (trust.c), is not in the way for ever.
 *
 * FILL proves its age by a lease: the nonce that stood in the guard before the
 * snapshot was taken that loaded the value.  Each push changes the nonce, so a
 * fill whose snapshot may have missed a commit finds another nonce, or no
 * guard at all, and is refused.  A lease on a key without a guard creates one.
 *
 * A guard lives slate_script_guard_life seconds from its last use, longer than
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
 * dropping the family walks the index.  Keys that apps SET by themselves are
 * in no index; for those there is the sweep, a SCAN over everything.
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
 * A key and its guard share a Cluster hash slot: the guard of K holds K as its
 * hash tag, or K's own tag in its place.  Indexes, floors and the tick do not,
 * and will have to be kept on each node.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xlog.h"
#include "common/cryptohash.h"
#include "common/hashfn.h"
#include "common/sha1.h"
#include "encode.h"
#include "script.h"
#include "stats.h"
#include "utils/memutils.h"

/* Keys a call handles, and bytes of values, before another call is begun. */
#define KEYS_PER_CALL 128
#define BYTES_PER_CALL (512 * 1024)

/* Keys, and bytes, that one exchange should have at most. */
#define KEYS_PER_EXCHANGE 1024
#define BYTES_PER_EXCHANGE (8 * 1024 * 1024)

/* Keys that Redis looks at in one step of a sweep. */
#define SWEEP_COUNT 500

/*
 * Widths of what is written side by side; of a guard without marks; and of what
 * a push begins with, but for its mark.
 */
#define TIMELINE_LEN 10
#define ORDER_LEN 8
#define OWNER_LEN 8
#define CLOCK_LEN 13
#define LIFE_LEN 8
#define HEAD_LEN (2 * CLOCK_LEN + LIFE_LEN)

/* Room for the names that one step of a sweep finds. */
#define SWEEP_BYTES (256 * 1024)

StaticAssertDecl(SLATE_GUARD_LEN == SLATE_VERSION_LEN + ORDER_LEN +
				 SLATE_TOKEN_LEN + OWNER_LEN + CLOCK_LEN,
				 "a guard's length is the sum of its parts");

int			slate_script_guard_life = 60;

/* The order of a push that has none; the owner of a version that is none. */
#define SHARED "--------"
#define NOBODY "--------"

/*
 * How long a mark is remembered, in ms: longer than any guard lives otherwise.
 * A guard that has more than a guard's life left is one with marks, or one
 * that Redis refused to write; in any case one that holds no lease.
 */
#define MARK_LIFE "172800000"

/*
 * How much more a quick push answers than its counts: nobody says so by
 * accident.
 */
#define QUICK_REPLY "5000000000000000"
#define QUICK_REPLY_NUMBER INT64CONST(5000000000000000)

/*
 * Functions that more than one script uses.
 */
#define LUA_GUARD_NAME \
	"local function guard(key)\n" \
	"  local tag = string.find(key, '{', 1, true)\n" \
	"  if tag and string.find(key, '{[^}]+}') == tag then return 'slate_cache:tagged:' .. key end\n" \
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
 * others_on() gives the marks on a key that stand, but for mine, and whether
 * mine does.  covered() tells whether another's mark stands on a beginning of
 * the key; which there are is read once a call.
 */
#define LUA_MARKS \
	"local function marks_of(mark)\n" \
	"  return 'slate_cache:marks:' .. string.sub(mark, 1, 8)\n" \
	"end\n" \
	"local function stands(mark)\n" \
	"  return redis.pcall('HEXISTS', marks_of(mark), string.sub(mark, 9, 24)) == 1\n" \
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
	"  beginnings = beginnings or redis.pcall('HKEYS', 'slate_cache:marked')\n" \
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
	"                        'PX', others == '' and life or " MARK_LIFE ")) then\n" \
	"    redis.call('UNLINK', key)\n" \
	"    redis.call('PEXPIRE', g, " MARK_LIFE ")\n" \
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
	"local function drop(key, order)\n" \
	"  local g = guard(key)\n" \
	"  local known = look(g)\n" \
	"  local top, by, whose, raised = newest(known, order)\n" \
	"  local others = others_on(known, me)\n" \
	"  redis.call('UNLINK', key)\n" \
	"  note(key, g, top, by, whose, raised, others)\n" \
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
"local known = redis.pcall('GET', 'slate_cache:floors')\n"
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
"redis.call('SET', 'slate_cache:floors', string.format('%d:%d:%s:%s', start, long, recent, before), 'PX', 2 * long)\n"
"for i = 6, #ARGV do\n"
"  local name = 'slate_cache:floor:' .. ARGV[i]\n"
"  local top = redis.pcall('GET', name)\n"
"  if type(top) ~= 'string' or top < version then top = version end\n"
"  redis.call('SET', name, top, 'PX', life)\n"
"end\n"
"count()\n"
"return {0, 0, 0}\n";

/*
 * KEYS: keys, and at the end that of the epoch.  ARGV: the deadline, when the
 * guards are to expire and their life (13, 13 and 8 digits), and the own mark
 * or nothing, in one; the epoch, or ""; then two a key: the guard as it should
 * be, with the TTL in ms behind it, or "-" for a DROP, and the value.
 *
 * below() tells whether a glob that is newer than this push has passed over a
 * key.
 *
 * Nearly always there is nothing to be looked at closely: no guard, or one with
 * an older version and no marks but our own; see "Speed" above.
 * Then the guard becomes what the pusher has written, and the answer is one
 * number, see quick_reply().  For the other keys there is what follows, and the
 * counts are told one by one.
 */
static const char publish_source[] =
"local head, n, guards = ARGV[1], #KEYS - 1, {}\n"
LUA_GUARD_NAME
"for i = 1, n do guards[i] = guard(KEYS[i]) end\n"
"local there = redis.call('MGET', KEYS[n + 1], 'slate_cache:tick', 'slate_cache:floors', unpack(guards))\n"
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
"    if length <= #key then names[#names + 1] = 'slate_cache:floor:' .. string.sub(key, 1, length) end\n"
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
"  local mine = 'slate_cache:marks:' .. string.sub(me, 1, 8)\n"
"  quick = redis.pcall('HEXISTS', mine, string.sub(me, 9)) == 1\n"
"  marked = me\n"
"end\n"
"local sure = quick and epoch == ARGV[2]\n"
"local stored, dropped, closer = 0, 0, nil\n"
"for i = 1, n do\n"
"  local new, known = ARGV[1 + 2 * i], there[3 + i]\n"
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
"      local value = ARGV[2 + 2 * i]\n"
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
"  redis.call('HINCRBY', 'slate_cache:marks:' .. string.sub(me, 1, 8), string.sub(me, 9) .. '+', 1)\n"
"end\n"
"if not closer then return " QUICK_REPLY " + stored * 4096 + dropped end\n"
LUA_LOOK
LUA_MARKS
LUA_CLOCK
"local version, nonce, owner\n"
"local life = tonumber(string.sub(head, 27, 34))\n"
LUA_COUNT
LUA_RULES
"local strange = ARGV[2] ~= '' and epoch ~= ARGV[2]\n"
"local late = strange or now > tonumber(string.sub(head, 1, 13))\n"
"local outdated = 0\n"
"local function put(key, order, ttl, value)\n"
"  local g = guard(key)\n"
"  local known = look(g)\n"
"  local top, by, whose, raised, older = newest(known, order)\n"
"  local others, mine = others_on(known, me)\n"
"  if older and by == order and order ~= '" SHARED "' then\n"
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
"  local new, key = ARGV[1 + 2 * i], KEYS[i]\n"
"  local order, ttl = string.sub(new, 31, 38), string.sub(new, 76)\n"
"  version, nonce, owner = string.sub(new, 1, 30), string.sub(new, 39, 54), string.sub(new, 55, 62)\n"
"  if ttl ~= '-' and not late then\n"
"    put(key, order, ttl, ARGV[2 + 2 * i])\n"
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
"if redis.call('EXISTS', 'slate_cache:marked') == 0 then\n"
LUA_CLOCK
"  redis.call('SET', 'slate_cache:tick', string.format('%013d', now + 1.5 * life), 'PX', life)\n"
"end\n"
"return {0, 0, 0}\n";

/*
 * KEYS: the index.  ARGV: version, nonce, guard life, owner, own mark or "",
 * glob.  ZSCAN matches as Redis does everywhere else, and nothing changes the
 * index meanwhile. Members stay: somebody may have registered a key and not
 * leased it yet, and the next DROP must find it, too.
 */
static const char drop_family_source[] =
LUA_PUSH
"local members, cursor = {}, '0'\n"
"repeat\n"
"  local step = redis.call('ZSCAN', KEYS[1], cursor, 'MATCH', ARGV[6], 'COUNT', 1000)\n"
"  cursor = step[1]\n"
"  for i = 1, #step[2], 2 do members[#members + 1] = step[2][i] end\n"
"until cursor == '0'\n"
"for _, key in ipairs(members) do\n"
"  drop(key, '" SHARED "')\n"
"end\n"
"if failure then return failure end\n"
"count()\n"
"return {0, #members, 0}\n";

/*
 * KEYS: keys that globs match.  ARGV: guard life, a nonce for this step, the
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
"life, nonce, owner, me = tonumber(ARGV[1]), ARGV[2], ARGV[3], ''\n"
"local dropped = 0\n"
"for i, key in ipairs(KEYS) do\n"
"  local given = ARGV[3 + i]\n"
"  version = string.sub(given, 1, 30)\n"
"  local known = look(guard(key))\n"
"  local newer = known and string.sub(known, 1, 30) > version and\n"
"    string.sub(known, 31, 38) ~= '" SHARED "' and string.sub(known, 55, 62) == owner\n"
"  local own = known and #given > 46 and string.sub(known, 39, 54) == string.sub(given, 31, 46)\n"
"  if not ((newer or own) and redis.call('EXISTS', key) == 1) then\n"
"    drop(key, '" SHARED "')\n"
"    dropped = dropped + 1\n"
"  end\n"
"end\n"
"return failure or {0, dropped, 0}\n";

/*
 * KEYS: the index.  ARGV: key, ttl in ms, own mark or "".  Members whose time
 * is over go on the way, so that an index stays as large as its family.
 */
static const char register_source[] =
LUA_MARKS
"local index, key, ttl, me = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]\n"
LUA_COUNT
"local now = redis.call('TIME')\n"
"now = now[1] * 1000 + math.floor(now[2] / 1000)\n"
"redis.call('ZREMRANGEBYSCORE', index, '-inf', '(' .. now)\n"
"if ttl == 0 then\n"
"  redis.call('ZADD', index, '+inf', key)\n"
"  redis.call('PERSIST', index)\n"
"else\n"
"  local left = redis.call('PTTL', index)\n"
"  redis.call('ZADD', index, 'GT', now + ttl, key)\n"
"  if left == -2 or (left >= 0 and left < ttl) then redis.call('PEXPIRE', index, ttl) end\n"
"end\n"
"count()\n"
"return {0, 0, 0}\n";

/*
 * KEYS: keys.  ARGV: nonce, guard life, the epoch's key and the epoch.  A key
 * of another type than string holds nothing of ours; it is removed, as any
 * other bad value is.  Where a mark stands there is no token, nor in a Redis
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
"      redis.call('SET', g, string.rep('0', 30) .. '" SHARED "' .. nonce .. '" NOBODY "' .. string.rep('0', 13), 'PX', life)\n"
"      token = nonce\n"
"    end\n"
"    answers[i] = token and {found, token} or {3, ''}\n"
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
"if string.sub(known, 31, 38) ~= '" SHARED "' then\n"
"  redis.call('SET', g, string.sub(known, 1, 30) .. '" SHARED "' .. token .. string.sub(known, 55, 75), 'PX', ARGV[4])\n"
"else redis.call('PEXPIRE', g, ARGV[4]) end\n"
"if ttl == '0' then redis.call('SET', key, value)\n"
"else redis.call('SET', key, value, 'PX', ttl) end\n"
"return 1\n";

/*
 * KEYS: keys of a namespace that is being emptied.  ARGV: guard life, a nonce.
 * A DROP without a version: a guard that is there keeps the one it has, and
 * its marks, since pushes of its key may be under way, and leases are void.
 * Without a guard there is no lease.
 */
static const char forget_source[] =
LUA_GUARD
"for i, key in ipairs(KEYS) do\n"
"  local g = guard(key)\n"
"  local known = look(g)\n"
"  redis.call('UNLINK', key)\n"
"  if known then\n"
"    redis.call('SET', g, string.sub(known, 1, 38) .. ARGV[2] .. string.sub(known, 55),\n"
"               'PX', #known > 75 and " MARK_LIFE " or ARGV[1])\n"
"  end\n"
"end\n"
"return {0, #KEYS, 0}\n";

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
"redis.call('PEXPIRE', marks_of(me), " MARK_LIFE ")\n"
"for i = 6, #ARGV do\n"
"  redis.call('HSET', 'slate_cache:marked', me .. ARGV[i], 1)\n"
"  redis.call('PEXPIRE', 'slate_cache:marked', " MARK_LIFE ")\n"
"end\n"
"if #ARGV > 5 then redis.call('UNLINK', 'slate_cache:tick') end\n"
"for i, key in ipairs(KEYS) do\n"
"  local g = guard(key)\n"
"  local known = look(g)\n"
"  local others = others_on(known, me)\n"
"  known = known or string.rep('0', 30) .. '" SHARED "' .. nonce .. '" NOBODY "' .. string.rep('0', 13)\n"
"  redis.call('UNLINK', key)\n"
"  redis.call('SET', g, string.sub(known, 1, 38) .. nonce .. string.sub(known, 55, 75) .. others .. me, 'PX', " MARK_LIFE ")\n"
"end\n"
"return {0, 0, 0, strange and 1 or 0}\n";

/*
 * ARGV: a mark, and how many calls must have succeeded; -1 for the end of a
 * transaction that has sent none, or whose pushes are done with otherwise.
 */
static const char release_source[] =
"local me, calls = ARGV[1], tonumber(ARGV[2])\n"
"local name, id = 'slate_cache:marks:' .. string.sub(me, 1, 8), string.sub(me, 9)\n"
"local counted = redis.pcall('HGET', name, id .. '+')\n"
"if calls >= 0 and tonumber(type(counted) == 'string' and counted or 0) < calls then return {0, 0, 0} end\n"
"redis.pcall('HDEL', name, id, id .. '+')\n"
"local fields = redis.pcall('HKEYS', 'slate_cache:marked')\n"
"for _, field in ipairs(fields) do\n"
"  if string.sub(field, 1, 24) == me then redis.call('HDEL', 'slate_cache:marked', field) end\n"
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

/*
 * KEYS: the epoch's key.  Writes what is there, for those who WATCH it, see
 * direct.c.  Where nothing is they have been told when it went.
 */
static const char fence_source[] =
"local epoch = redis.pcall('GET', KEYS[1])\n"
"if type(epoch) == 'string' then redis.call('SET', KEYS[1], epoch) end\n"
"return {0, 0, 0}\n";

typedef struct Script
{
	const char *source;
	char		sha[SHA1_DIGEST_LENGTH * 2 + 1];	/* set by init */
} Script;

static Script publish_script = {publish_source, ""};
static Script tick_script = {tick_source, ""};
static Script floor_script = {floor_source, ""};
static Script drop_family_script = {drop_family_source, ""};
static Script drop_swept_script = {drop_swept_source, ""};
static Script register_script = {register_source, ""};
static Script lease_script = {lease_source, ""};
static Script fill_script = {fill_source, ""};
static Script forget_script = {forget_source, ""};
static Script mark_script = {mark_source, ""};
static Script release_script = {release_source, ""};
static Script epoch_script = {epoch_source, ""};
static Script fence_script = {fence_source, ""};

static Script *const scripts[] = {
	&publish_script, &tick_script, &floor_script, &drop_family_script, &drop_swept_script,
	&register_script, &lease_script, &fill_script, &forget_script,
	&mark_script, &release_script, &epoch_script, &fence_script
};

/* SCRIPT LOAD of all of them; lives as long as the backend. */
static SlateBatch load_all;

static const char no_version[] = "000000000000000000000000000000";

static bool
starts_with(const char *name, int len, const char *prefix)
{
	int			prefix_len = strlen(prefix);

	return len >= prefix_len && memcmp(name, prefix, prefix_len) == 0;
}

bool
slate_script_is_internal(const char *name, int len)
{
	return starts_with(name, len, SLATE_INTERNAL_PREFIX);
}

/* ------------------------------------------------------------------------
 * Encoding
 * ------------------------------------------------------------------------
 */

char *
slate_script_put_digits(char *to, uint64 number, int width)
{
	for (int i = width - 1; i >= 0; i--)
	{
		to[i] = '0' + number % 10;
		number /= 10;
	}
	return to + width;
}

char *
slate_script_put_hex(char *to, uint64 number, int width)
{
	for (int i = width - 1; i >= 0; i--)
	{
		to[i] = "0123456789abcdef"[number & 15];
		number >>= 4;
	}
	return to + width;
}

/* EVALSHA sha numkeys, with room for nkeys keys and nargs arguments */
static void
append_call(SlateBatch *batch, const Script *script, int nkeys, int nargs)
{
	append_array(batch, 3 + nkeys + nargs);
	append_text(batch, "EVALSHA");
	append_text(batch, script->sha);
	append_number(batch, nkeys);
}

/*
 * A nonce must not come twice in one key's life, not even from two backends
 * or after a restart; so it starts at a random point and counts.
 */
static void
make_nonce(char nonce[SLATE_TOKEN_LEN + 1])
{
	static uint64 counter = 0;

	if (counter == 0 && !pg_strong_random(&counter, sizeof(counter)))
		elog(ERROR, "could not generate a random nonce");
	*slate_script_put_hex(nonce, ++counter, SLATE_TOKEN_LEN) = '\0';
}

static int64
guard_life_ms(void)
{
	return (int64) slate_script_guard_life * 1000;
}

/* The arguments that every push begins with. */
static void
append_push_arguments(SlateBatch *batch, const SlateStamp *stamp)
{
	append_bytes(batch, stamp->version, SLATE_VERSION_LEN);
	append_bytes(batch, stamp->nonce, SLATE_TOKEN_LEN);
	append_number(batch, guard_life_ms());
	append_text(batch, stamp->owner);
	append_text(batch, stamp->mark);
	batch->npushes++;
}

static void
append_index_key(SlateBatch *batch, const char *family, int familylen)
{
	StringInfoData key;

	initStringInfo(&key);
	appendStringInfoString(&key, SLATE_INTERNAL_PREFIX "index:{");
	appendBinaryStringInfo(&key, family, familylen);
	appendStringInfoChar(&key, '}');
	append_bytes(batch, key.data, key.len);
	pfree(key.data);
}

void
slate_script_add_guard_key(SlateBatch *batch, const char *key, int keylen)
{
	static const char plain[] = SLATE_INTERNAL_PREFIX "guard:{";
	static const char tagged[] = SLATE_INTERNAL_PREFIX "tagged:";
	const char *end = key + keylen;
	const char *tag = memchr(key, '{', keylen);
	const char *tag_end = tag ? memchr(tag, '}', end - tag) : NULL;
	bool		is_tagged = tag_end && tag_end > tag + 1;
	const char *prefix = is_tagged ? tagged : plain;

	int			prefix_len = strlen(prefix);
	char	   *at = begin_append(&batch->bytes,
								  prefix_len + keylen + 2 * MAX_HEAD);

	at = put_head(at, '$', prefix_len + keylen + !is_tagged);
	at = put_bytes(at, prefix, prefix_len);
	at = put_bytes(at, key, keylen);
	if (!is_tagged)
		*at++ = '}';
	*at++ = '\r';
	*at++ = '\n';
	end_append(&batch->bytes, at);
}

/* ------------------------------------------------------------------------
 * What can be said
 * ------------------------------------------------------------------------
 */

static void
hash_script(Script *script)
{
	uint8		digest[SHA1_DIGEST_LENGTH];
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA1);

	if (pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) script->source,
							 strlen(script->source)) < 0 ||
		pg_cryptohash_final(context, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute SHA-1 hash: %s",
			 pg_cryptohash_error(context));
	pg_cryptohash_free(context);

	for (int i = 0; i < SHA1_DIGEST_LENGTH; i++)
		snprintf(script->sha + 2 * i, 3, "%02x", digest[i]);
}

/*
 * Not in _PG_init(): hashing needs a resource owner, which the postmaster does
 * not have.
 */
static void
load_scripts(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	slate_script_batch_init(&load_all);
	for (int i = 0; i < lengthof(scripts); i++)
	{
		hash_script(scripts[i]);
		append_array(&load_all, 3);
		append_text(&load_all, "SCRIPT");
		append_text(&load_all, "LOAD");
		append_text(&load_all, scripts[i]->source);
	}
	MemoryContextSwitchTo(old);
	slate_redis_set_preamble(load_all.bytes.data, load_all.bytes.len,
							 load_all.ncommands);
}

void
slate_script_init(void)
{
	static bool loaded = false;

	if (!loaded)
		load_scripts();
	loaded = true;
}

SlateRedisStatus
slate_script_prepare(int64 deadline, SlateWait wait)
{
	slate_script_init();
	return slate_redis_prepare(deadline, wait);
}

void
slate_script_stamp(SlateStamp *stamp)
{
	char	   *at;

	/* the deadline before the version: however long that takes */
	slate_script_set_deadline(stamp, slate_redis_server_clock());
	at = slate_script_put_digits(stamp->version, GetWALInsertionTimeLine(),
								 TIMELINE_LEN);
	stamp->position = GetXLogInsertRecPtr();
	*slate_script_put_digits(at, stamp->position,
							 SLATE_VERSION_LEN - TIMELINE_LEN) = '\0';
	make_nonce(stamp->nonce);
	stamp->epoch_key = "";
	stamp->epoch[0] = '\0';
	stamp->mark[0] = '\0';
	slate_script_own(stamp);
}

void
slate_script_own(SlateStamp *stamp)
{
	uint64		cluster = GetSystemIdentifier();
	uint32		name = hash_combine(hash_combine((uint32) cluster,
												 (uint32) (cluster >> 32)),
									MyDatabaseId);

	*slate_script_put_hex(stamp->owner, name, OWNER_LEN) = '\0';
}

void
slate_script_set_deadline(SlateStamp *stamp, int64 clock)
{
	stamp->deadline = clock == 0 ? 0 : clock + guard_life_ms() / 2;
}

void
slate_script_make_mark(SlateStamp *stamp)
{
	snprintf(stamp->mark, sizeof(stamp->mark), "%s%s", stamp->owner,
			 stamp->nonce);
}

void
slate_script_disown(SlateStamp *stamp)
{
	strlcpy(stamp->version, no_version, sizeof(stamp->version));
	strlcpy(stamp->owner, NOBODY, sizeof(stamp->owner));
	stamp->mark[0] = '\0';
}

void
slate_script_refresh_nonce(SlateStamp *stamp)
{
	make_nonce(stamp->nonce);
}

void
slate_script_batch_init(SlateBatch *batch)
{
	memset(batch, 0, sizeof(*batch));
	initStringInfo(&batch->bytes);
}

/* A call with so many keys has been added: is the exchange full? */
static void
count_keys(SlateBatch *batch, int nkeys)
{
	int			start = batch->ncuts ? batch->cuts[batch->ncuts - 1].end : 0;

	batch->nkeys += nkeys;
	if (batch->nkeys < KEYS_PER_EXCHANGE &&
		batch->bytes.len - start < BYTES_PER_EXCHANGE)
		return;
	if (batch->ncuts == batch->maxcuts)
	{
		batch->maxcuts = batch->maxcuts ? batch->maxcuts * 2 : 16;
		batch->cuts = batch->cuts
			? repalloc_array(batch->cuts, SlateCut, batch->maxcuts)
			: palloc_array(SlateCut, batch->maxcuts);
	}
	batch->cuts[batch->ncuts].end = batch->bytes.len;
	batch->cuts[batch->ncuts].ncommands = batch->ncommands;
	batch->ncuts++;
	batch->nkeys = 0;
}

/* How many of the pushes go into one call. */
static int
pushes_for_call(const SlatePush *pushes, int npushes)
{
	Size		bytes = 0;
	int			n;

	for (n = 0; n < npushes && n < KEYS_PER_CALL; n++)
	{
		bytes += pushes[n].keylen;
		bytes += pushes[n].value ? pushes[n].valuelen : 0;
		if (n > 0 && bytes > BYTES_PER_CALL)
			break;
	}
	return n;
}

char *
slate_script_put_guard(char *at, const SlateStamp *stamp,
					   const SlatePush *push)
{
	int64		taken = stamp->deadline
		? stamp->deadline - guard_life_ms() / 2 : 0;

	at = put_bytes(at, stamp->version, SLATE_VERSION_LEN);
	if (push->order == SLATE_SHARED)
		at = put_bytes(at, SHARED, ORDER_LEN);
	else
		at = slate_script_put_hex(at, push->order, ORDER_LEN);
	at = put_bytes(at, stamp->nonce, SLATE_TOKEN_LEN);
	at = put_bytes(at, stamp->owner, OWNER_LEN);
	return slate_script_put_digits(at, taken, CLOCK_LEN);
}

/* The same, and the TTL. */
static void
append_guard(SlateBatch *batch, const SlateStamp *stamp, const SlatePush *push)
{
	char		text[SLATE_GUARD_LEN + 24];
	char	   *at = slate_script_put_guard(text, stamp, push);

	if (push->value)
		at += pg_lltoa(push->ttl, at);
	else
		*at++ = '-';
	append_bytes(batch, text, at - text);
}

int64
slate_script_guard_expiry(const SlateStamp *stamp)
{
	return stamp->deadline ? stamp->deadline + guard_life_ms() / 2 : 0;
}

/* What the publish script has in front. */
static void
append_publish_head(SlateBatch *batch, const SlateStamp *stamp)
{
	char		head[HEAD_LEN + SLATE_MARK_LEN];
	char	   *at = head;
	int			mark_len = strlen(stamp->mark);

	at = slate_script_put_digits(at, stamp->deadline, CLOCK_LEN);
	at = slate_script_put_digits(at, slate_script_guard_expiry(stamp), CLOCK_LEN);
	at = slate_script_put_digits(at, guard_life_ms(), LIFE_LEN);
	at = put_bytes(at, stamp->mark, mark_len);
	append_bytes(batch, head, at - head);
	batch->call.head_at = batch->bytes.len - (at - head) - 2;
	append_text(batch, stamp->epoch);
	batch->npushes++;
}

void
slate_script_add_pushes(SlateBatch *batch, const SlateStamp *stamp,
						const SlatePush *pushes, int npushes)
{
	while (npushes > 0)
	{
		int			n = pushes_for_call(pushes, npushes);

		append_call(batch, &publish_script, n + 1, 2 + 2 * n);
		batch->call.nkeys = n;
		batch->call.keys_at = batch->bytes.len;
		for (int i = 0; i < n; i++)
			append_bytes(batch, pushes[i].key, pushes[i].keylen);
		batch->call.common_at = batch->bytes.len;
		append_text(batch, stamp->epoch_key);
		append_publish_head(batch, stamp);
		batch->call.pushes_at = batch->bytes.len;
		for (int i = 0; i < n; i++)
		{
			append_guard(batch, stamp, &pushes[i]);
			append_bytes(batch, pushes[i].value ? pushes[i].value : "",
						 pushes[i].value ? pushes[i].valuelen : 0);
		}
		batch->call.end = batch->bytes.len;
		count_keys(batch, n);
		pushes += n;
		npushes -= n;
	}
}

/*
 * So many bytes a script push needs beyond the texts of its keys and values,
 * as a whole and for each.
 */
#define SCRIPT_PUSH_BYTES 512
#define SCRIPT_PUSH_KEY_BYTES (SLATE_GUARD_LEN + 96)

void
slate_script_reserve(SlateBatch *batch, const SlatePush *pushes, int npushes)
{
	Size		bytes = SCRIPT_PUSH_BYTES;

	for (int i = 0; i < npushes; i++)
	{
		bytes += SCRIPT_PUSH_KEY_BYTES + pushes[i].keylen;
		bytes += pushes[i].value ? pushes[i].valuelen : 0;
	}
	enlargeStringInfo(&batch->bytes, bytes);
}

/* ------------------------------------------------------------------------
 * Joining
 * ------------------------------------------------------------------------
 */

/* Do they differ in nothing but their keys and deadlines? */
bool
slate_script_may_join(const SlateCall *a, const char *a_bytes,
					  const SlateCall *b, const char *b_bytes)
{
	int			len = a->pushes_at - a->common_at;
	int			head = a->head_at - a->common_at;
	int			rest = head + 2 * CLOCK_LEN;

	a_bytes += a->common_at;
	b_bytes += b->common_at;
	return len == b->pushes_at - b->common_at &&
		head == b->head_at - b->common_at &&
		memcmp(a_bytes, b_bytes, head) == 0 &&
		memcmp(a_bytes + rest, b_bytes + rest, len - rest) == 0;
}

/* The least deadline, and the last expiry, are right for all. */
static void
join_clocks(char *head, const char *other)
{
	if (memcmp(other, head, CLOCK_LEN) < 0)
		memcpy(head, other, CLOCK_LEN);
	if (memcmp(other + CLOCK_LEN, head + CLOCK_LEN, CLOCK_LEN) > 0)
		memcpy(head + CLOCK_LEN, other + CLOCK_LEN, CLOCK_LEN);
}

void
slate_script_add_joined(SlateBatch *batch, const SlateCall *const *calls,
						const char *const *bytes, int ncalls)
{
	const SlateCall *first = calls[0];
	int			nkeys = 0;
	int			head;

	for (int i = 0; i < ncalls; i++)
		nkeys += calls[i]->nkeys;
	append_call(batch, &publish_script, nkeys + 1, 2 + 2 * nkeys);
	for (int i = 0; i < ncalls; i++)
		appendBinaryStringInfo(&batch->bytes, bytes[i] + calls[i]->keys_at,
							   calls[i]->common_at - calls[i]->keys_at);
	head = batch->bytes.len + first->head_at - first->common_at;
	appendBinaryStringInfo(&batch->bytes, bytes[0] + first->common_at,
						   first->pushes_at - first->common_at);
	for (int i = 0; i < ncalls; i++)
	{
		join_clocks(batch->bytes.data + head, bytes[i] + calls[i]->head_at);
		appendBinaryStringInfo(&batch->bytes, bytes[i] + calls[i]->pushes_at,
							   calls[i]->end - calls[i]->pushes_at);
	}
}

/* The bulk string at an offset, which is moved behind it. */
static SlateSlice
next_bulk(const char *bytes, int *offset)
{
	const char *at = bytes + *offset;
	SlateSlice	bulk;

	bulk.len = (int) strtol(at + 1, NULL, 10);
	bulk.start = strchr(at, '\n') + 1;
	*offset = bulk.start + bulk.len + 2 - bytes;
	return bulk;
}

SlateSlice
slate_script_next_key(const SlateCall *call, const char *bytes, int *offset)
{
	*offset = Max(*offset, call->keys_at);
	return next_bulk(bytes, offset);
}

void
slate_script_next_push(const SlateCall *call, const char *bytes,
					   SlateCallPush *push)
{
	SlateSlice	guard;

	push->at = Max(push->at, call->pushes_at);
	push->key = slate_script_next_key(call, bytes, &push->key_at);
	guard = next_bulk(bytes, &push->at);
	push->guard = guard.start;
	push->ttl.start = guard.start + SLATE_GUARD_LEN;
	push->ttl.len = guard.len - SLATE_GUARD_LEN;
	push->value = next_bulk(bytes, &push->at);
	push->expiry.start = bytes + call->head_at + CLOCK_LEN;
	push->expiry.len = CLOCK_LEN;
}

bool
slate_script_is_for_epoch(const SlateCall *call, const char *bytes,
						  const char *epoch)
{
	int			at = call->head_at + HEAD_LEN + 2;
	SlateSlice	noted;

	/* behind a head that has a mark there is something else */
	if (bytes[at] != '$')
		return false;
	noted = next_bulk(bytes, &at);
	return noted.len == strlen(epoch) &&
		memcmp(noted.start, epoch, noted.len) == 0;
}

bool
slate_script_is_in_time(const SlateCall *call, const char *bytes, int64 clock)
{
	char		digits[CLOCK_LEN + 1];

	(void) slate_script_put_digits(digits, clock, CLOCK_LEN);
	return clock > 0 && memcmp(digits, bytes + call->head_at, CLOCK_LEN) < 0;
}

/* ------------------------------------------------------------------------
 * Single steps
 * ------------------------------------------------------------------------
 */

void
slate_script_add_drop(SlateBatch *batch, const char *key, int keylen)
{
	SlatePush	push = {.key = key,.keylen = keylen,.order = SLATE_SHARED};
	SlateStamp	stamp = {.epoch_key = ""};

	slate_script_disown(&stamp);
	make_nonce(stamp.nonce);
	slate_script_add_pushes(batch, &stamp, &push, 1);
}

void
slate_script_add_fence(SlateBatch *batch, const char *epoch_key)
{
	append_call(batch, &fence_script, 1, 0);
	append_text(batch, epoch_key);
}

void
slate_script_add_register(SlateBatch *batch, const SlateStamp *stamp,
						  const char *family, int familylen,
						  const char *key, int keylen, int64 ttl)
{
	append_call(batch, &register_script, 1, 3);
	append_index_key(batch, family, familylen);
	append_bytes(batch, key, keylen);

	/* the value comes later than this, by a guard's life at most */
	append_number(batch, ttl == 0 ? 0 : ttl + guard_life_ms());
	append_text(batch, stamp ? stamp->mark : "");
	batch->npushes++;
}

void
slate_script_add_tick(SlateBatch *batch)
{
	append_call(batch, &tick_script, 0, 1);
	append_number(batch, guard_life_ms() / 8);
}

void
slate_script_add_floor(SlateBatch *batch, const SlateStamp *stamp,
					   const SlateSlice *prefixes, int nprefixes)
{
	for (int start = 0; start < nprefixes; start += KEYS_PER_CALL)
	{
		int			n = Min(nprefixes - start, KEYS_PER_CALL);

		append_call(batch, &floor_script, 0, 5 + n);
		append_push_arguments(batch, stamp);
		append_slices(batch, prefixes + start, n);
		count_keys(batch, n);
	}
}

void
slate_script_add_drop_family(SlateBatch *batch, const SlateStamp *stamp,
							 const char *family, int familylen,
							 const char *glob, int globlen)
{
	SlateStamp	own = *stamp;

	/* a PUT of the same transaction, of the same key, has another nonce */
	make_nonce(own.nonce);
	append_call(batch, &drop_family_script, 1, 6);
	append_index_key(batch, family, familylen);
	append_push_arguments(batch, &own);
	append_bytes(batch, glob, globlen);
	count_keys(batch, 1);
}

void
slate_script_add_get(SlateBatch *batch, const char *key, int keylen)
{
	append_array(batch, 2);
	append_text(batch, "GET");
	append_bytes(batch, key, keylen);
}

void
slate_script_add_note(SlateBatch *batch, const char *key, const char *value)
{
	append_array(batch, 3);
	append_text(batch, "SET");
	append_text(batch, key);
	append_text(batch, value);
}

void
slate_script_add_epoch(SlateBatch *batch, const char *key, const char *from,
					   const char *to, const char *wal_key, const char *wal)
{
	append_call(batch, &epoch_script, 2, 3);
	append_text(batch, key);
	append_text(batch, wal_key);
	append_text(batch, from);
	append_text(batch, to);
	append_text(batch, wal);
}

void
slate_script_add_mget(SlateBatch *batch, const SlateSlice *keys, int nkeys)
{
	append_array(batch, 1 + nkeys);
	append_text(batch, "MGET");
	append_slices(batch, keys, nkeys);
}

void
slate_script_add_ttl(SlateBatch *batch, const char *key, int keylen)
{
	append_array(batch, 2);
	append_text(batch, "PTTL");
	append_bytes(batch, key, keylen);
}

void
slate_script_add_get_guard(SlateBatch *batch, const char *key, int keylen)
{
	append_array(batch, 2);
	append_text(batch, "GET");
	slate_script_add_guard_key(batch, key, keylen);
}

void
slate_script_add_scan(SlateBatch *batch, const char *cursor,
					  const char *glob, int globlen)
{
	append_array(batch, 6);
	append_text(batch, "SCAN");
	append_text(batch, cursor);
	append_text(batch, "MATCH");
	append_bytes(batch, glob, globlen);
	append_text(batch, "COUNT");
	append_number(batch, SWEEP_COUNT);
}

void
slate_script_add_leases(SlateBatch *batch, const SlateStamp *stamp,
						const SlateSlice *keys, int nkeys)
{
	char		nonce[SLATE_TOKEN_LEN + 1];

	make_nonce(nonce);
	append_call(batch, &lease_script, nkeys, 4);
	append_slices(batch, keys, nkeys);
	append_bytes(batch, nonce, SLATE_TOKEN_LEN);
	append_number(batch, guard_life_ms());
	append_text(batch, stamp->epoch_key);
	append_text(batch, stamp->epoch);
}

void
slate_script_add_fill(SlateBatch *batch, const char *key, int keylen,
					  const char *token, const char *value, int valuelen,
					  int64 ttl)
{
	append_call(batch, &fill_script, 1, 4);
	append_bytes(batch, key, keylen);
	append_bytes(batch, token, SLATE_TOKEN_LEN);
	append_number(batch, ttl);
	append_bytes(batch, value, valuelen);
	append_number(batch, guard_life_ms());
}

/* What every MARK begins with: room for nkeys keys, nbeginnings more. */
static void
append_mark_call(SlateBatch *batch, const SlateStamp *stamp, uint64 xid,
				 const SlateSlice *keys, int nkeys, int nbeginnings)
{
	char		nonce[SLATE_TOKEN_LEN + 1];

	/* a push of this transaction has another nonce */
	make_nonce(nonce);
	append_call(batch, &mark_script, nkeys, 5 + nbeginnings);
	append_slices(batch, keys, nkeys);
	append_text(batch, stamp->mark);
	append_number(batch, (int64) xid);
	append_bytes(batch, nonce, SLATE_TOKEN_LEN);
	append_text(batch, stamp->epoch_key);
	append_text(batch, stamp->epoch);
}

void
slate_script_add_marks(SlateBatch *batch, const SlateStamp *stamp, uint64 xid,
					   const SlateSlice *keys, int nkeys)
{
	for (int start = 0; start < nkeys; start += KEYS_PER_CALL)
	{
		int			n = Min(nkeys - start, KEYS_PER_CALL);

		append_mark_call(batch, stamp, xid, keys + start, n, 0);
		count_keys(batch, n);
	}
}

void
slate_script_add_mark_beginnings(SlateBatch *batch, const SlateStamp *stamp,
								 uint64 xid, const SlateSlice *beginnings,
								 int nbeginnings)
{
	for (int start = 0; start < nbeginnings; start += KEYS_PER_CALL)
	{
		int			n = Min(nbeginnings - start, KEYS_PER_CALL);

		append_mark_call(batch, stamp, xid, NULL, 0, n);
		append_slices(batch, beginnings + start, n);
		count_keys(batch, n);
	}
}

void
slate_script_add_release(SlateBatch *batch, const char *mark, int after_calls)
{
	append_call(batch, &release_script, 0, 2);
	append_text(batch, mark);
	append_number(batch, after_calls);
}

void
slate_script_add_get_marks(SlateBatch *batch, const SlateStamp *stamp)
{
	char		name[sizeof(SLATE_INTERNAL_PREFIX "marks:") + 8];

	snprintf(name, sizeof(name), SLATE_INTERNAL_PREFIX "marks:%s",
			 stamp->owner);
	append_array(batch, 2);
	append_text(batch, "HGETALL");
	append_text(batch, name);
}

/* ------------------------------------------------------------------------
 * Sending
 * ------------------------------------------------------------------------
 */

typedef struct RunState
{
	SlateReplyFn reply_fn;
	void	   *arg;
	int			first;			/* index of the first reply of this exchange */
	int			forgotten;		/* index of the first NOSCRIPT; -1: none */
	bool		remembered;		/* what came behind that was done */
} RunState;

static bool
is_error(const redisReply *reply, const char *code)
{
	return reply->type == REDIS_REPLY_ERROR &&
		strncmp(reply->str, code, strlen(code)) == 0;
}

static void
watch_for_noscript(int index, const redisReply *reply, void *arg)
{
	RunState   *state = arg;

	if (is_error(reply, "NOSCRIPT"))
		state->forgotten = state->forgotten < 0 ? index : state->forgotten;
	else if (state->forgotten >= 0)
		state->remembered = true;
	else
		state->reply_fn(index, reply, state->arg);
}

static void
on_later_reply(int index, const redisReply *reply, void *arg)
{
	RunState   *state = arg;

	state->reply_fn(state->first + index, reply, state->arg);
}

/* Where the nth command of a batch begins: arrays of bulk strings, all of it. */
static const char *
find_command(const char *at, int n)
{
	for (int i = 0; i < n; i++)
	{
		long		nelements = strtol(at + 1, NULL, 10);

		at = strchr(at, '\n') + 1;
		for (long j = 0; j < nelements; j++)
		{
			long		len = strtol(at + 1, NULL, 10);

			at = strchr(at, '\n') + 1 + len + 2;
		}
	}
	return at;
}

static void
ignore_reply(int index pg_attribute_unused(),
			 const redisReply *reply pg_attribute_unused(),
			 void *arg pg_attribute_unused())
{
}

/*
 * Somebody else has loaded the scripts just in the middle of our commands.
 * Some are done and some not; none is sent again.
 */
static void
answer_forgotten(const RunState *state, int ncommands)
{
	static char text[] = "NOSCRIPT in the middle of an exchange";
	redisReply	reply = {.type = REDIS_REPLY_ERROR,.str = text,
	.len = sizeof(text) - 1};

	for (int i = state->forgotten; i < ncommands; i++)
		state->reply_fn(i, &reply, state->arg);
}

static SlateRedisStatus
run_bytes(const char *bytes, int len, int ncommands, SlateReplyFn reply_fn,
		  void *arg, int64 deadline, SlateWait wait)
{
	RunState	state = {reply_fn, arg, 0, -1, false};
	SlateRedisStatus status;
	const char *rest;

	status = slate_redis_run(bytes, len, ncommands, NULL, watch_for_noscript,
							 &state, deadline, wait);
	if (status != REDIS_DONE || state.forgotten < 0)
		return status;

	if (state.remembered)
	{
		answer_forgotten(&state, ncommands);
		return status;
	}

	/*
	 * SCRIPT FLUSH, or a server that has never seen them.  What it has done is
	 * not sent again: its nonces would come twice.
	 */
	status = slate_redis_run(load_all.bytes.data, load_all.bytes.len,
							 load_all.ncommands, NULL, ignore_reply, NULL,
							 deadline, wait);
	if (status != REDIS_DONE)
		return status;
	rest = find_command(bytes, state.forgotten);
	state.first = state.forgotten;
	return slate_redis_run(rest, bytes + len - rest, ncommands - state.first,
						   NULL, on_later_reply, &state, deadline, wait);
}

SlateRedisStatus
slate_script_run(const SlateBatch *batch, SlateReplyFn reply_fn, void *arg,
				 int64 deadline, SlateWait wait)
{
	return run_bytes(batch->bytes.data, batch->bytes.len, batch->ncommands,
					 reply_fn, arg, deadline, wait);
}

static int64
reply_number(const redisReply *reply, size_t element)
{
	if (element >= reply->elements ||
		reply->element[element]->type != REDIS_REPLY_INTEGER)
		return 0;
	return reply->element[element]->integer;
}

/* Values set times 4096, and DROPs, in one number. */
static bool
quick_reply(SlateOutcome *outcome, const redisReply *reply)
{
	int64		counts;

	if (reply->type != REDIS_REPLY_INTEGER ||
		reply->integer <= QUICK_REPLY_NUMBER)
		return false;
	counts = reply->integer - QUICK_REPLY_NUMBER;
	outcome->stored += counts / 4096;
	outcome->dropped += counts % 4096;
	return true;
}

/*
 * An outcome is what the scripts answer, an array of three or four counts, or
 * two of them in a number, see publish_source.  Whatever else comes back, READONLY, OOM, LOADING, NOAUTH, MOVED or things yet
 * unknown, is a failure to deliver.
 */
static void
count_push_reply(SlateOutcome *outcome, const redisReply *reply)
{
	if (quick_reply(outcome, reply))
		return;
	if (reply->type == REDIS_REPLY_ARRAY &&
		(reply->elements == 3 || reply->elements == 4))
	{
		outcome->strange |= reply_number(reply, 3) != 0;
		outcome->stored += reply_number(reply, 0);
		outcome->dropped += reply_number(reply, 1);
		outcome->outdated += reply_number(reply, 2);
		return;
	}
	if (outcome->refused++ == 0)
		strlcpy(outcome->error,
				reply->type == REDIS_REPLY_ERROR ? reply->str
				: "unexpected reply to a script",
				sizeof(outcome->error));
}

void
slate_script_count_outcome(const SlateOutcome *outcome)
{
	slate_stats_add(STAT_KEYS_STORED, outcome->stored);
	slate_stats_add(STAT_KEYS_DROPPED, outcome->dropped);
	slate_stats_add(STAT_KEYS_OUTDATED, outcome->outdated);
}

void
slate_script_take_reply(SlateOutcome *outcome, const redisReply *reply)
{
	count_push_reply(outcome, reply);
}

static void
on_push_reply(int index, const redisReply *reply, void *arg)
{
	SlateOutcome *outcome = arg;

	if (index == 0)
		memset(outcome, 0, sizeof(*outcome));
	count_push_reply(outcome, reply);
}

static void
add_outcome(SlateOutcome *sum, const SlateOutcome *outcome)
{
	sum->stored += outcome->stored;
	sum->dropped += outcome->dropped;
	sum->outdated += outcome->outdated;
	sum->strange |= outcome->strange;
	if (sum->refused == 0)
		memcpy(sum->error, outcome->error, sizeof(sum->error));
	sum->refused += outcome->refused;
}

SlateRedisStatus
slate_script_publish(const SlateBatch *batch, SlateOutcome *outcome,
					 int64 deadline, int timeout, SlateWait wait)
{
	SlateRedisStatus status = REDIS_DONE;
	SlateCut	last = {batch->bytes.len, batch->ncommands};
	SlateCut	from = {0, 0};

	memset(outcome, 0, sizeof(*outcome));
	for (int i = 0; i <= batch->ncuts && status == REDIS_DONE; i++)
	{
		SlateCut	to = i < batch->ncuts ? batch->cuts[i] : last;
		SlateOutcome part = {0};

		if (to.ncommands == from.ncommands)
			continue;
		status = run_bytes(batch->bytes.data + from.end, to.end - from.end,
						   to.ncommands - from.ncommands, on_push_reply, &part,
						   deadline, wait);
		add_outcome(outcome, &part);
		from = to;
		deadline = slate_link_now() + timeout;
	}
	return status;
}

/* ------------------------------------------------------------------------
 * Sweeping
 *
 * One exchange a step: the DROPs for what the step before found, and the next
 * SCAN.  SCAN returns whatever is there from its beginning to its end, so it
 * sees each value and each guard that is older than the commit; what comes
 * later was leased later, and so loaded with a newer snapshot.
 *
 * This runs after a commit, so both buffers are as large as they will ever be
 * before it begins.  A step whose names do not fit is taken again in half the
 * size.
 * ------------------------------------------------------------------------
 */

typedef struct Sweep
{
	const SlateGlobSet *globs;
	const SlateStamp *const *stamps;	/* of the globs, by position; NULL:
										 * forget what matches */
	SlateOutcome *outcome;
	SlateOutcome before;		/* the outcome when the step began */
	char		cursor[24];		/* where the next SCAN begins */
	int			count;			/* its COUNT */
	int			scan_reply;		/* which reply of the exchange is SCAN's */
	int			nfound;			/* names in sweep_names */
	bool		overflow;		/* not all names fitted */
	bool		failed;			/* SCAN got something that is not its answer */
} Sweep;

/* The stamps of the globs that match one name. */
typedef struct MatchedStamps
{
	const Sweep *sweep;
	bool		any;			/* one matches */
	const SlateStamp *highest;	/* NULL: none matches, or there are none */
	bool		differ;			/* they are of several transactions */
} MatchedStamps;

/*
 * Names found in this step, and the stamps to drop them with, both encoded;
 * and what is sent.  Sized for good by slate_script_sweep_init().
 */
static StringInfoData sweep_names;
static StringInfoData sweep_stamps;
static SlateBatch sweep_send;

/* Where to count them; NULL: nowhere. */
static pg_atomic_uint64 *names_swept = NULL;

void
slate_script_sweep_init(void)
{
	MemoryContext old;

	if (sweep_names.data)
		return;
	old = MemoryContextSwitchTo(TopMemoryContext);
	slate_script_batch_init(&sweep_send);
	enlargeStringInfo(&sweep_send.bytes, 2 * SWEEP_BYTES + 1024);
	initStringInfo(&sweep_stamps);
	enlargeStringInfo(&sweep_stamps, SWEEP_BYTES);
	initStringInfo(&sweep_names);
	enlargeStringInfo(&sweep_names, SWEEP_BYTES);
	MemoryContextSwitchTo(old);
}

void
slate_script_sweep_count(pg_atomic_uint64 *names)
{
	names_swept = names;
}

/* What a name is about: itself, or the key that it guards. */
static bool
swept_key(const redisReply *name, SlateSlice *key)
{
	static const char plain[] = SLATE_INTERNAL_PREFIX "guard:{";
	static const char tagged[] = SLATE_INTERNAL_PREFIX "tagged:";
	int			len = (int) name->len;

	key->start = name->str;
	key->len = len;
	if (!slate_script_is_internal(name->str, len))
		return true;
	if (starts_with(name->str, len, tagged))
	{
		key->start += strlen(tagged);
		key->len -= strlen(tagged);
		return true;
	}
	if (starts_with(name->str, len, plain) && name->str[len - 1] == '}')
	{
		key->start += strlen(plain);
		key->len -= strlen(plain) + 1;
		return true;
	}
	return false;				/* an index */
}

/* Takes none, so that it gets to see all. */
static bool
note_stamp(int position, void *arg)
{
	MatchedStamps *matched = arg;
	const SlateStamp *stamp;

	matched->any = true;
	if (matched->sweep->stamps == NULL)
		return true;
	stamp = matched->sweep->stamps[position];
	if (matched->highest && strcmp(stamp->nonce, matched->highest->nonce) != 0)
		matched->differ = true;
	if (matched->highest == NULL ||
		strcmp(stamp->version, matched->highest->version) > 0)
		matched->highest = stamp;
	return false;
}

static void
sweep_remember(Sweep *sweep, const SlateSlice *key,
			   const MatchedStamps *matched)
{
	char		stamp[SLATE_VERSION_LEN + SLATE_TOKEN_LEN + 2];

	/* "$", a length, two line ends: 24 bytes are enough */
	if (sweep_names.len + key->len + 24 > SWEEP_BYTES ||
		sweep_stamps.len + (int) sizeof(stamp) + 24 > SWEEP_BYTES)
	{
		sweep->overflow = true;
		return;
	}
	append_bulk(&sweep_names, key->start, key->len);
	sweep->nfound++;
	if (matched->highest == NULL)
		return;
	snprintf(stamp, sizeof(stamp), "%s%s%s", matched->highest->version,
			 matched->highest->nonce, matched->differ ? "" : "=");
	append_bulk(&sweep_stamps, stamp, strlen(stamp));
}

static void
sweep_look(Sweep *sweep, const redisReply *name)
{
	MatchedStamps matched = {.sweep = sweep};
	SlateSlice	key;

	if (name->type != REDIS_REPLY_STRING || !swept_key(name, &key))
		return;
	(void) slate_globset_match(sweep->globs, key.start, key.len,
							   note_stamp, &matched);
	if (matched.any)
		sweep_remember(sweep, &key, &matched);
}

static bool
is_scan_reply(const redisReply *reply)
{
	return reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
		reply->element[0]->type == REDIS_REPLY_STRING &&
		reply->element[0]->len < sizeof(((Sweep *) NULL)->cursor) &&
		reply->element[1]->type == REDIS_REPLY_ARRAY;
}

static void
on_scan_reply(Sweep *sweep, const redisReply *reply)
{
	const redisReply *names;

	if (!is_scan_reply(reply))
	{
		sweep->failed = true;
		count_push_reply(sweep->outcome, reply);
		return;
	}
	names = reply->element[1];
	for (size_t i = 0; i < names->elements && !sweep->overflow; i++)
		sweep_look(sweep, names->element[i]);
	if (sweep->overflow)
		return;
	strlcpy(sweep->cursor, reply->element[0]->str, sizeof(sweep->cursor));
	if (names_swept)
		pg_atomic_fetch_add_u64(names_swept, names->elements);
}

static void
on_sweep_reply(int index, const redisReply *reply, void *arg)
{
	Sweep	   *sweep = arg;

	if (index == 0)
	{
		resetStringInfo(&sweep_names);
		resetStringInfo(&sweep_stamps);
		sweep->nfound = 0;
		sweep->overflow = false;
		*sweep->outcome = sweep->before;
	}
	if (index == sweep->scan_reply)
		on_scan_reply(sweep, reply);
	else
		count_push_reply(sweep->outcome, reply);
}

/* DROP of what was found, then the next SCAN, unless that is all. */
static void
sweep_encode(Sweep *sweep, bool scan)
{
	char		nonce[SLATE_TOKEN_LEN + 1];

	resetStringInfo(&sweep_send.bytes);
	sweep_send.ncommands = 0;
	sweep->scan_reply = -1;
	if (sweep->nfound > 0 && sweep->stamps == NULL)
	{
		append_call(&sweep_send, &forget_script, sweep->nfound, 2);
		appendBinaryStringInfo(&sweep_send.bytes, sweep_names.data,
							   sweep_names.len);
		make_nonce(nonce);
		append_number(&sweep_send, guard_life_ms());
		append_bytes(&sweep_send, nonce, SLATE_TOKEN_LEN);
	}
	else if (sweep->nfound > 0)
	{
		append_call(&sweep_send, &drop_swept_script, sweep->nfound,
					3 + sweep->nfound);
		appendBinaryStringInfo(&sweep_send.bytes, sweep_names.data,
							   sweep_names.len);
		make_nonce(nonce);
		append_number(&sweep_send, guard_life_ms());
		append_bytes(&sweep_send, nonce, SLATE_TOKEN_LEN);
		append_text(&sweep_send, sweep->stamps[0]->owner);
		appendBinaryStringInfo(&sweep_send.bytes, sweep_stamps.data,
							   sweep_stamps.len);
	}
	if (scan)
	{
		sweep->scan_reply = sweep_send.ncommands;
		append_array(&sweep_send, 4);
		append_text(&sweep_send, "SCAN");
		append_text(&sweep_send, sweep->cursor);
		append_text(&sweep_send, "COUNT");
		append_number(&sweep_send, sweep->count);
	}
}

SlateRedisStatus
slate_script_sweep(const SlateGlobSet *globs,
				   const SlateStamp *const *stamps,
				   SlateOutcome *outcome, bool *finished,
				   int64 stop_at, int64 deadline, SlateWait wait)
{
	Sweep		sweep = {.globs = globs,.stamps = stamps,
	.outcome = outcome,.cursor = "0",.count = SWEEP_COUNT};
	bool		scan = true;

	*finished = false;
	while (scan || sweep.nfound > 0)
	{
		int64		now = slate_link_now();
		SlateRedisStatus status;

		if (wait == LINK_WAIT_INTERRUPTIBLE)
			CHECK_FOR_INTERRUPTS();

		/* what was found is still dropped */
		if (now >= stop_at && sweep.nfound == 0)
			return REDIS_DONE;
		sweep_encode(&sweep, scan && now < stop_at);
		sweep.before = *outcome;
		status = slate_script_run(&sweep_send, on_sweep_reply, &sweep,
								  Min(deadline, now + slate_redis_timeout), wait);
		if (status != REDIS_DONE)
			return status;
		if (sweep.failed || outcome->refused > sweep.before.refused ||
			(sweep.overflow && sweep.count == 1))
			return REDIS_DONE;
		if (sweep.overflow)
		{
			/* what did fit is dropped now; the step is taken again */
			sweep.count = Max(sweep.count / 2, 1);
			continue;
		}
		if (sweep.scan_reply >= 0)
			scan = strcmp(sweep.cursor, "0") != 0;
	}
	*finished = true;
	return REDIS_DONE;
}
