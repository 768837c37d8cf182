/*-------------------------------------------------------------------------
 *
 * rules.c
 *	  Which keys belong to a table's rows.
 *
 * A table's rules, compiled, live in a hash table of this backend, one memory
 * context a table.  A relcache callback marks an entry stale; the next
 * lookup compiles anew.  A stale entry is freed at the end of the transaction
 * only, since somebody up the stack may be using it: an output function called
 * while rendering a key can run any code, and invalidate anything.
 *
 * The set of all tables' rules serves the readers, who come with a key and
 * look for its table.  Any relcache message may announce a trigger, and in a
 * busy database there are many, of temporary tables say.  So they are noted as
 * they come; whoever needs the set looks whether the tables they name have to
 * do with it, and makes it anew only if its triggers are not the same any more.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "keyname.h"
#include "rules.h"
#include "script.h"
#include "slatekeys.h"
#include "triggers.h"
#include "types.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

typedef struct RelationEntry
{
	Oid			relid;			/* hash key */
	bool		current;		/* relation agrees with the catalog; the only
								 * field that the relcache callback touches */
	SlateRelation *relation;	/* NULL if the table has no rules */
} RelationEntry;

/* All of it since slate_rules_init(), for the life of the backend. */
static HTAB *relations = NULL;
static MemoryContext rules_context = NULL;

/* To be freed at the end of the transaction. */
static List *retired = NIL;		/* memory contexts of sets */
static List *retired_relations = NIL;

/* The rules of all tables together. */
typedef struct RuleSet
{
	MemoryContext context;		/* holds it */
	uint64		generation;		/* tells it from those before */
	uint64		nchanges;		/* how many of the changes it has seen */
	List	   *triggers;		/* of SlateTrigger *, clones among them */
	List	   *relations;		/* of SlateRelation * */
	int			nvalues;
	SlateRule **values;			/* of rows, then of lists */
	int			npatterns;
	SlateRule **patterns;
} RuleSet;

/* NULL at first.  Agrees with the catalog if it has seen all the changes. */
static RuleSet *all_rules = NULL;

/*
 * How often the relcache has told of a change, and the tables of the last such
 * messages; InvalidOid stands for all tables.
 */
static uint64 nchanges = 0;
static Oid	changed[16];

/* slate_cache.capture(), or InvalidOid when not looked up yet, and its hash. */
static Oid	capture_oid = InvalidOid;
static uint32 capture_hash = 0;

/*
 * How many tables may have rules that are no longer current before those whose
 * tables nobody asks for again, since they were dropped, are looked for.
 */
#define MAX_OUTDATED 16

static int	noutdated = 0;

/* ------------------------------------------------------------------------
 * Staying current
 * ------------------------------------------------------------------------
 */

static void
note_change(Oid relid)
{
	changed[nchanges++ % lengthof(changed)] = relid;
}

/* The tables of the changes since then; false if not each is known. */
static bool
tables_changed(uint64 since, List **relids)
{
	*relids = NIL;
	if (nchanges - since > lengthof(changed))
		return false;

	/* a command often has several messages of one table */
	for (; since != nchanges; since++)
		*relids = list_append_unique_oid(*relids,
										 changed[since % lengthof(changed)]);
	return !list_member_oid(*relids, InvalidOid);
}

static void
outdate(RelationEntry *entry)
{
	if (entry->current && entry->relation)
		noutdated++;
	entry->current = false;
}

/* InvalidOid stands for all relations */
static void
on_relcache_change(Datum arg pg_attribute_unused(), Oid relid)
{
	HASH_SEQ_STATUS scan;
	RelationEntry *entry;

	note_change(relid);
	if (OidIsValid(relid))
	{
		entry = hash_search(relations, &relid, HASH_FIND, NULL);
		if (entry)
			outdate(entry);
		return;
	}
	hash_seq_init(&scan, relations);
	while ((entry = hash_seq_search(&scan)) != NULL)
		outdate(entry);
}

/* A hash of 0 stands for all functions; until ours is known, any may be it. */
static void
on_function_change(Datum arg pg_attribute_unused(),
				   int cacheid pg_attribute_unused(), uint32 hashvalue)
{
	if (OidIsValid(capture_oid) && hashvalue != 0 && hashvalue != capture_hash)
		return;
	capture_oid = InvalidOid;
	note_change(InvalidOid);
}

/* Plans hold the names of schemas; a new name sends no word to the tables. */
static void
on_schema_change(Datum arg, int cacheid pg_attribute_unused(),
				 uint32 hashvalue pg_attribute_unused())
{
	on_relcache_change(arg, InvalidOid);
}

void
slate_rules_init(void)
{
	HASHCTL		control = {.keysize = sizeof(Oid),
	.entrysize = sizeof(RelationEntry)};

	rules_context = AllocSetContextCreate(TopMemoryContext,
										  "slate_cache rules",
										  ALLOCSET_SMALL_SIZES);
	control.hcxt = rules_context;
	relations = hash_create("slate_cache relations", 16, &control,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(on_relcache_change, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, on_function_change, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, on_schema_change, (Datum) 0);
}

/* Somebody up the stack may still be using it. */
static void
retire(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(rules_context);

	retired = lappend(retired, context);
	MemoryContextSwitchTo(old);
}

/* Its plans go with it: whoever still uses it may come to make one. */
static void
retire_relation(SlateRelation *relation)
{
	MemoryContext old = MemoryContextSwitchTo(rules_context);

	retired_relations = lappend(retired_relations, relation);
	MemoryContextSwitchTo(old);
}

static void
free_relation(SlateRelation *relation)
{
	for (int i = 0; i < relation->nrules; i++)
	{
		if (relation->rules[i].plan)
			SPI_freeplan(relation->rules[i].plan);
		if (relation->rules[i].plan_many)
			SPI_freeplan(relation->rules[i].plan_many);
	}
	MemoryContextDelete(relation->context);
}

/* Nobody is using it, and nobody may ask for its table again. */
static void
free_outdated(void)
{
	HASH_SEQ_STATUS scan;
	RelationEntry *entry;

	noutdated = 0;
	hash_seq_init(&scan, relations);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		SlateRelation *relation = entry->relation;

		if (entry->current || relation == NULL)
			continue;
		entry->relation = NULL;
		free_relation(relation);
	}
}

/* After a commit, too: frees, and neither allocates nor throws. */
void
slate_rules_end_of_transaction(void)
{
	if (noutdated > MAX_OUTDATED)
		free_outdated();
	while (retired_relations != NIL)
	{
		free_relation(llast(retired_relations));
		retired_relations = list_delete_last(retired_relations);
	}
	while (retired != NIL)
	{
		MemoryContextDelete(llast(retired));
		retired = list_delete_last(retired);
	}
}

/* NULL if there is none yet.  Entries stay, and stay where they are. */
static RelationEntry *
find_entry(Oid relid)
{
	static RelationEntry *last = NULL;
	RelationEntry *entry = last;

	/* most often it is the same table again */
	if (entry && entry->relid == relid)
		return entry;
	entry = hash_search(relations, &relid, HASH_FIND, NULL);
	if (entry)
		last = entry;
	return entry;
}

bool
slate_rules_is_current(const SlateRelation *relation)
{
	RelationEntry *entry = find_entry(relation->relid);

	return entry && entry->current && entry->relation == relation;
}

/* Whoever changes a row needs no privilege on the schema to be noticed. */
static Oid
function_oid(const char *name)
{
	Oid			schema = get_namespace_oid("slate_cache", true);
	oidvector  *no_arguments = buildoidvector(NULL, 0);

	if (!OidIsValid(schema))
		return InvalidOid;
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum(name),
						   PointerGetDatum(no_arguments),
						   ObjectIdGetDatum(schema));
}

Oid
slate_rules_capture_oid(void)
{
	uint64		since = nchanges;
	Oid			found;

	if (OidIsValid(capture_oid))
		return capture_oid;
	found = function_oid("capture");

	/* where the extension is not, anybody may call something so */
	if (OidIsValid(found) &&
		!OidIsValid(getExtensionOfObject(ProcedureRelationId, found)))
		found = InvalidOid;
	capture_hash = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(found));

	/* a message that has come meanwhile may be about it */
	if (nchanges == since)
		capture_oid = found;
	return found;
}

void
slate_rules_functions(Oid functions[2])
{
	functions[0] = slate_rules_capture_oid();
	functions[1] = function_oid("capture_truncate");
}

static Trigger *
capture_trigger(Relation relation)
{
	/* looking it up may rebuild the table's entry, so it comes first */
	Oid			capture = slate_rules_capture_oid();
	TriggerDesc *triggers = relation->trigdesc;

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (trigger->tgfoid == capture && OidIsValid(capture) &&
			slate_triggers_counts(trigger->tgtype))
			return trigger;
	}
	return NULL;
}

SlateRelation *
slate_rules_get(Relation relation)
{
	Oid			relid = RelationGetRelid(relation);
	RelationEntry *entry;
	SlateRelation *outdated;
	bool		found;

	entry = find_entry(relid);
	if (entry && entry->current)
		return entry->relation;

	/* out of memory half way it is a leak; twice it would be worse */
	entry = hash_search(relations, &relid, HASH_ENTER, &found);
	outdated = found ? entry->relation : NULL;
	entry->relation = NULL;
	entry->current = false;
	if (outdated)
		retire_relation(outdated);

	/*
	 * Compiling reads catalogs, and that may process invalidations; whatever
	 * comes in from here on counts.  It may also wait, and be canceled.
	 */
	entry->current = true;
	PG_TRY();
	{
		Trigger    *trigger = capture_trigger(relation);

		if (trigger)
			entry->relation = slate_rule_compile(relation, trigger,
												 rules_context);
	}
	PG_CATCH();
	{
		entry->current = false;
		PG_RE_THROW();
	}
	PG_END_TRY();

	/* what came in meanwhile had nothing to count yet */
	if (!entry->current && entry->relation)
		noutdated++;
	return entry->relation;
}

/* ------------------------------------------------------------------------
 * Finding
 * ------------------------------------------------------------------------
 */

/* get_rel_persistence() would throw where others have just dropped the table. */
bool
slate_rules_is_temporary(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		result = false;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_class) GETSTRUCT(tuple))->relpersistence == RELPERSISTENCE_TEMP;
		ReleaseSysCache(tuple);
	}
	return result;
}

static SlateRelation *
relation_from_trigger(const SlateTrigger *trigger)
{
	SlateRelation *relation = palloc0_object(SlateRelation);
	int			nargs;
	char	  **args = slate_triggers_arguments(trigger, &nargs);

	relation->relid = trigger->relid;
	relation->enabled = trigger->fires;
	slate_rule_parse_arguments(relation, nargs, args, true);
	relation->incomplete |= slate_rules_is_temporary(relation->relid);
	return relation;
}

List *
slate_rules_wildcards(Oid relid)
{
	Oid			capture = slate_rules_capture_oid();
	List	   *wildcards = NIL;
	ListCell   *lc;

	if (!OidIsValid(capture))
		return NIL;
	foreach(lc, slate_triggers_of(relid, capture))
	{
		SlateRelation *relation = relation_from_trigger(lfirst(lc));

		for (int i = 0; i < relation->nrules; i++)
			wildcards = lappend(wildcards, relation->rules[i].wildcard);
	}
	return wildcards;
}

List *
slate_rules_changed(uint64 *since)
{
	List	   *relids;
	bool		known = tables_changed(*since, &relids);
	Oid			capture;
	ListCell   *lc;

	*since = nchanges;
	if (known)
		return relids;

	/* clones among them */
	relids = NIL;
	capture = slate_rules_capture_oid();
	if (OidIsValid(capture))
	{
		foreach(lc, slate_triggers_all(capture))
			relids = list_append_unique_oid(relids,
											((SlateTrigger *) lfirst(lc))->relid);
	}
	return relids;
}

/* One partition whose changes nobody sees, and the table's keys are not kept. */
static void
disable_parent(RuleSet *set, const SlateTrigger *clone)
{
	Oid			parent = clone->parent;
	Oid			relid = InvalidOid;
	ListCell   *lc;

	while (OidIsValid(parent))
	{
		Oid			child = parent;

		parent = InvalidOid;
		foreach(lc, set->triggers)
		{
			SlateTrigger *trigger = lfirst(lc);

			if (trigger->oid != child)
				continue;
			parent = trigger->parent;
			relid = trigger->relid;
			break;
		}
	}
	foreach(lc, set->relations)
	{
		SlateRelation *relation = lfirst(lc);

		if (relation->relid == relid)
			relation->enabled = false;
	}
}

static void
make_relations(RuleSet *set)
{
	ListCell   *lc;

	foreach(lc, set->triggers)
	{
		SlateTrigger *trigger = lfirst(lc);

		if (!OidIsValid(trigger->parent))
			set->relations = lappend(set->relations,
									 relation_from_trigger(trigger));
	}
	foreach(lc, set->triggers)
	{
		SlateTrigger *trigger = lfirst(lc);

		if (OidIsValid(trigger->parent) && !trigger->fires)
			disable_parent(set, trigger);
	}
}

/* Rows before lists: a key that may be either is looked for as a row first. */
static void
sort_rules(RuleSet *set)
{
	const SlateRuleKind order[] = {RULE_ROW, RULE_LIST};
	int			total = 0;
	ListCell   *lc;

	foreach(lc, set->relations)
		total += ((SlateRelation *) lfirst(lc))->nrules;
	set->values = palloc_array(SlateRule *, total + 1);
	set->patterns = palloc_array(SlateRule *, total + 1);

	for (int k = 0; k < lengthof(order); k++)
	{
		foreach(lc, set->relations)
		{
			SlateRelation *relation = lfirst(lc);

			for (int i = 0; i < relation->nrules; i++)
			{
				/* nobody can load by rules that are not sound */
				if (relation->rules[i].kind == order[k] &&
					!relation->incomplete)
					set->values[set->nvalues++] = &relation->rules[i];
				if (k == 0 && relation->rules[i].template->is_pattern)
					set->patterns[set->npatterns++] = &relation->rules[i];
			}
		}
	}
}

static bool
has_trigger(const RuleSet *set, Oid relid)
{
	ListCell   *lc;

	foreach(lc, set->triggers)
	{
		if (((SlateTrigger *) lfirst(lc))->relid == relid)
			return true;
	}
	return false;
}

/*
 * May triggers of ours have come, gone or changed since?  Looking into the
 * catalog may process messages, so the notes are copied first.
 */
static bool
is_concerned(const RuleSet *set)
{
	Oid			capture = slate_rules_capture_oid();
	List	   *relids;
	ListCell   *lc;

	if (!tables_changed(set->nchanges, &relids))
		return true;
	foreach(lc, relids)
	{
		if (has_trigger(set, lfirst_oid(lc)) ||
			(OidIsValid(capture) &&
			 slate_triggers_of(lfirst_oid(lc), capture) != NIL))
			return true;
	}
	list_free(relids);
	return false;
}

/* NULL if the set that is there is right. */
static RuleSet *
make_rules(void)
{
	static uint64 generation = 0;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "slate_cache rule set",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RuleSet    *set = palloc0_object(RuleSet);
	Oid			capture = slate_rules_capture_oid();

	set->context = context;
	if (OidIsValid(capture))
		set->triggers = slate_triggers_all(capture);
	if (all_rules && slate_triggers_are_same(set->triggers,
											 all_rules->triggers))
		set = NULL;
	else
	{
		make_relations(set);
		sort_rules(set);
		set->generation = ++generation;
	}
	MemoryContextSwitchTo(old);
	if (set)
		MemoryContextSetParent(context, rules_context);
	else
		MemoryContextDelete(context);
	return set;
}

/*
 * The rules of all tables, made anew if they may have changed.  What was
 * handed out before stays valid until the end of the transaction.
 *
 * Messages that come in meanwhile count as not seen, and so do all if there is
 * an error.
 */
static RuleSet *
current_rules(void)
{
	uint64		seen;

	/* between the statements of a transaction nobody else asks for them */
	AcceptInvalidationMessages();
	if (all_rules && all_rules->nchanges == nchanges)
		return all_rules;

	seen = nchanges;
	if (all_rules == NULL || is_concerned(all_rules))
	{
		RuleSet    *set = make_rules();

		if (set && all_rules)
			retire(all_rules->context);
		if (set)
			all_rules = set;
	}
	all_rules->nchanges = seen;
	return all_rules;
}

bool
slate_rules_are_kept(const SlateRelation *relation)
{
	ListCell   *lc;

	foreach(lc, current_rules()->relations)
	{
		const SlateRelation *attached = lfirst(lc);

		if (attached->relid == relation->relid)
			return attached->enabled;
	}
	return relation->enabled;
}

SlateRule *
slate_rules_bind(Relation relation, const SlateRule *rule)
{
	SlateRelation *bound = slate_rules_get(relation);
	int			position = rule - rule->relation->rules;

	if (bound == NULL || position >= bound->nrules ||
		bound->rules[position].kind != rule->kind ||
		strcmp(bound->rules[position].source, rule->source) != 0)
		return NULL;
	return &bound->rules[position];
}

bool
slate_rules_fits(const SlateRelation *relation)
{
	if (relation->incomplete)
		return false;
	for (int i = 0; i < relation->nrules; i++)
	{
		if (!slate_rule_fits(&relation->rules[i]))
			return false;
	}
	return true;
}

void
slate_rules_check_columns(Oid relid)
{
	ListCell   *lc;

	foreach(lc, slate_rules_all())
	{
		SlateRelation *relation = lfirst(lc);

		for (int i = 0; relation->relid == relid && i < relation->nrules; i++)
			slate_rule_check_columns(relid, &relation->rules[i]);
	}
}

bool
slate_rules_use_type(const SlateRelation *relation, Oid type)
{
	HeapTuple	tuple = SearchSysCache1(RELOID,
										ObjectIdGetDatum(relation->relid));
	Oid			table_type = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		table_type = ((Form_pg_class) GETSTRUCT(tuple))->reloftype;
		ReleaseSysCache(tuple);
	}
	return table_type == type ||
		slate_types_column_holds(relation->relid, type);
}

List *
slate_rules_all(void)
{
	return current_rules()->relations;
}

uint64
slate_rules_generation(void)
{
	return current_rules()->generation;
}

bool
slate_rules_match(const char *key, int keylen, SlateMatch *match)
{
	RuleSet    *set = current_rules();

	if (match->rule == NULL || match->generation != set->generation)
	{
		/* the first call; or the rules have changed, and all begins again */
		match->generation = set->generation;
		match->position = 0;
		match->nth = 0;
	}
	else
		match->nth++;

	for (; match->position < set->nvalues; match->position++, match->nth = 0)
	{
		match->rule = set->values[match->position];
		if (slate_template_split(match->rule->template, key, keylen,
								 match->nth, match->values))
			return true;
	}
	match->rule = NULL;
	return false;
}

int64
slate_rules_ttl(const char *key, int keylen)
{
	SlateMatch	match = {0};

	if (slate_rules_match(key, keylen, &match))
		return slate_rule_ttl(match.rule);
	return slate_keys_ttl(key, keylen);
}

/* Call fn for each pattern's family of a text: of a key, or of a glob. */
static int
visit_families(const char *text, int len, bool is_glob,
			   SlateFamilyFn fn, void *arg)
{
	RuleSet    *set = current_rules();
	StringInfoData family;
	int			nfamilies = 0;

	initStringInfo(&family);
	for (int i = 0; i < set->npatterns; i++)
	{
		SlateTemplate *template = set->patterns[i]->template;

		/* there may be many, of many stars, for each of many keys */
		CHECK_FOR_INTERRUPTS();
		resetStringInfo(&family);
		if ((is_glob || slate_template_covers(template, text, len)) &&
			slate_template_family(template, text, len, is_glob, &family))
		{
			fn(family.data, family.len, arg);
			nfamilies++;
		}
	}
	pfree(family.data);
	return nfamilies;
}

void
slate_rules_families(const char *key, int keylen, SlateFamilyFn fn, void *arg)
{
	SlateMatch	match = {0};

	if (visit_families(key, keylen, false, fn, arg) == 0 &&
		!slate_rules_match(key, keylen, &match))
	{
		SlateSlice	loose = slate_keyname_loose_family();

		fn(loose.start, loose.len, arg);
	}
}

typedef struct DropState
{
	SlateBatch *batch;
	const SlateStamp *stamp;
	SlateSlice	glob;
	bool		is_pushed;
} DropState;

static void
drop_from_family(const char *family, int familylen, void *arg)
{
	DropState  *state = arg;

	slate_script_add_drop_family(state->batch, state->stamp, family,
								 familylen, state->glob.start, state->glob.len,
								 state->is_pushed);
}

void
slate_rules_add_drops(SlateBatch *batch, const SlateStamp *stamp,
					  const char *glob, int globlen, bool is_pushed)
{
	DropState	state = {batch, stamp, {glob, globlen}, is_pushed};

	(void) visit_families(glob, globlen, true, drop_from_family, &state);
}

/* ------------------------------------------------------------------------
 * Rendering
 * ------------------------------------------------------------------------
 */

bool
slate_rules_render(SlateRule *rule, HeapTuple tuple, StringInfo out,
				   SlateSlice *values, bool *too_long)
{
	SlateRelation *relation = rule->relation;
	SlateSlice	own[SLATE_TEMPLATE_MAX_COLUMNS];

	values = values ? values : own;
	*too_long = false;
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		AttrNumber	attnum = rule->attnums[i];
		bool		isnull;
		Datum		value = heap_getattr(tuple, attnum, relation->desc, &isnull);
		char	   *text;

		if (isnull)
			return false;
		text = OutputFunctionCall(&relation->outputs[attnum - 1], value);
		values[i].start = text;
		values[i].len = strlen(text);
	}
	*too_long = !slate_template_render(rule->template, values, out);

	/* a template may begin with a column, and its text be anything */
	return !*too_long && !slate_keyname_is_internal(out->data, out->len);
}
