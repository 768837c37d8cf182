/*-------------------------------------------------------------------------
 *
 * namespace.c
 *	  Which keys of Redis are this database's: those that its rules cover, or
 *	  have covered since the namespace was emptied.
 *
 * A database may forget a rule of which Redis still has keys: it is restored to
 * a time before the table was attached; or the table is detached, and a dump of
 * Redis from before that is brought back, or a Redis that was left before that
 * is used once more.  When the namespace is emptied these keys have to go, too.
 * So Redis has a note of what the rules cover, and that comes and goes with its
 * keys.  Nothing is taken out of the note but by an emptying.
 *
 * The worker writes it, within a second of a change.
 *
 * The note is each pattern's length, a colon, and the pattern.  Each node of a
 * Cluster has one.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "database.h"
#include "deliver.h"
#include "epoch.h"
#include "namespace.h"
#include "rules.h"
#include "script.h"

/* In which Redis the note is right, by its identity, and for which rules. */
static uint64 told_to = 0;
static uint64 told_of = 0;

/* The rules that slate_namespace_globs() has seen, and where; 0: it has failed. */
static uint64 emptied_to = 0;
static uint64 emptied_of = 0;

typedef struct Note
{
	List	   *globs;
	bool		failed;
} Note;

static List *
add_glob(List *globs, const char *glob, int len)
{
	ListCell   *lc;

	foreach(lc, globs)
	{
		if (strncmp(lfirst(lc), glob, len) == 0 &&
			((char *) lfirst(lc))[len] == '\0')
			return globs;
	}
	return lappend(globs, pnstrdup(glob, len));
}

/* What our rules cover, and which rules these are. */
static List *
globs_of_rules(uint64 *generation)
{
	List	   *globs = NIL;
	ListCell   *lc;

	slate_database_begin();
	foreach(lc, slate_rules_all())
	{
		const SlateRelation *relation = lfirst(lc);

		for (int i = 0; i < relation->nrules; i++)
		{
			const char *glob = relation->rules[i].wildcard;

			globs = add_glob(globs, glob, strlen(glob));
		}
	}
	*generation = slate_rules_generation();
	slate_database_commit();
	return globs;
}

/* SlateReplyFn; what is no such note, or behind what is wrong in it, is nothing. */
static void
take_note(int index pg_attribute_unused(), const redisReply *reply, void *arg)
{
	Note	   *note = arg;
	const char *at = reply->str;
	const char *end;

	note->failed |= reply->type == REDIS_REPLY_ERROR &&
		!slate_link_is_error(reply, "WRONGTYPE");
	if (reply->type != REDIS_REPLY_STRING)
		return;
	end = at + reply->len;
	while (at < end)
	{
		char	   *glob;
		long		len = strtol(at, &glob, 10);

		if (*glob != ':' || len <= 0 || len >= end - glob)
			return;
		note->globs = add_glob(note->globs, glob + 1, (int) len);
		at = glob + 1 + len;
	}
}

static bool
run(const SlateBatch *batch, Note *note)
{
	return slate_deliver_ask(batch, take_note, note) && !note->failed;
}

/* Adds to the list. */
static bool
read_note(List **globs)
{
	Note		note = {*globs, false};
	SlateBatch	batch;
	bool		done;

	slate_batch_init(&batch);
	slate_script_add_get_note(&batch, slate_epoch_rules_key());
	done = run(&batch, &note);
	*globs = note.globs;
	return done;
}

static bool
write_note(const List *globs)
{
	Note		note = {NIL, false};
	StringInfoData text;
	SlateBatch	batch;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, globs)
		appendStringInfo(&text, "%zu:%s", strlen(lfirst(lc)),
						 (char *) lfirst(lc));
	slate_batch_init(&batch);
	slate_script_add_note(&batch, slate_epoch_rules_key(), text.data);
	return run(&batch, &note);
}

/* Which rules there are now. */
static uint64
present_generation(void)
{
	uint64		generation;

	slate_database_begin();
	generation = slate_rules_generation();
	slate_database_commit();
	return generation;
}

void
slate_namespace_tell(void)
{
	uint64		identity = slate_redis_identity();
	uint64		generation;
	List	   *globs;
	List	   *known = NIL;
	int			nknown;

	/* once a second: to list them takes the square of how many there are */
	if (told_to == identity && told_of == present_generation())
		return;
	globs = globs_of_rules(&generation);
	if (!read_note(&known))
		return;
	nknown = list_length(known);
	for (int i = 0; i < list_length(globs); i++)
	{
		const char *glob = list_nth(globs, i);

		known = add_glob(known, glob, strlen(glob));
	}
	if (list_length(known) > nknown && !write_note(known))
		return;
	if (slate_redis_identity() != identity)
		return;
	told_to = identity;
	told_of = generation;
}

bool
slate_namespace_globs(List **globs)
{
	emptied_to = slate_redis_identity();
	*globs = globs_of_rules(&emptied_of);
	return read_note(globs);
}

void
slate_namespace_is_empty(void)
{
	uint64		generation;
	List	   *globs = globs_of_rules(&generation);

	told_to = 0;
	if (generation == emptied_of && slate_redis_identity() == emptied_to &&
		write_note(globs))
	{
		told_to = emptied_to;
		told_of = emptied_of;
	}
}
