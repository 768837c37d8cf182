/*-------------------------------------------------------------------------
 *
 * slatekeys.c
 *	  The keys of SLATE, a web IDE with projects, files and assets.
 *
 * All that is known of them, and nothing of it elsewhere: which rules its tables
 * get, what belongs to a project, and how long values live.  A new family may have
 * something to add to each of the tables below.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "slatekeys.h"
#include "utils/memutils.h"

const SlateKeysRule slate_keys_rules[] = {
	{"projects", RULE_ROW, "slate:project:{id}"},
	{"projects", RULE_LIST, "slate:projects:user:{user_id}"},
	{"projects", RULE_DELETE_DROP, "slate:files:project:{id}"},
	{"projects", RULE_DELETE_DROP, "slate:assets:project:{id}"},
	{"projects", RULE_DELETE_DROP, "slate:file:{id}:*"},
	{"projects", RULE_DELETE_DROP, "slate:search:{id}:*"},
	{"projects", RULE_DELETE_DROP, "slate:runtime:status:{id}"},
	{"projects", RULE_DELETE_DROP, "slate:build:{id}"},
	{"projects", RULE_DELETE_DROP, "slate:editor:tabs:*:{id}"},

	{"files", RULE_ROW, "slate:file:{id}"},
	{"files", RULE_ROW, "slate:file:{project_id}:{path}"},
	{"files", RULE_LIST, "slate:files:project:{project_id}"},
	{"files", RULE_DROP, "slate:search:{project_id}:*"},

	{"assets", RULE_ROW, "slate:asset:{id}"},
	{"assets", RULE_ROW, "slate:asset:{id}:components -> components"},
	{"assets", RULE_LIST, "slate:assets:project:{project_id}"},
	{"assets", RULE_DROP, "slate:search:{project_id}:*"}
};

const int	slate_keys_nrules = lengthof(slate_keys_rules);

const SlateKeysTable slate_keys_tables[SLATE_KEYS_TABLES] = {
	{"projects", 3600, 1800},
	{"files", 1800, 600},
	{"assets", 3600, 3600}
};

const char *const slate_keys_project[] = {
	"slate:project:{id}",
	"slate:files:project:{id}",
	"slate:assets:project:{id}",
	"slate:file:{id}:*",
	"slate:search:{id}:*",
	"slate:runtime:status:{id}",
	"slate:build:{id}",
	"slate:editor:tabs:*:{id}"
};

const int	slate_keys_nproject = lengthof(slate_keys_project);

/* More specific ones first. */
typedef struct Family
{
	const char *source;
	int			ttl;
	SlateTemplate *template;	/* parsed on first use, for good */
} Family;

static Family families[] = {
	{"slate:projects:user:{user_id}", 1800, NULL},
	{"slate:project:{id}", 3600, NULL},
	{"slate:files:project:{project_id}", 600, NULL},
	{"slate:file:{id}", 1800, NULL},
	{"slate:assets:project:{project_id}", 3600, NULL},
	{"slate:asset:{id}", 3600, NULL},
	{"slate:runtime:{session_id}", 60, NULL},
	{"slate:editor:tabs:{user_id}:{project_id}", 86400, NULL},
	{"slate:session:{user_id}", 86400, NULL},
	{"slate:build:{project_id}", 7200, NULL},
	{"slate:search:{project_id}:{query}", 300, NULL}
};

static SlateTemplate *
family_template(Family *family)
{
	if (family->template == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		const char *error;
		int			position;

		family->template = slate_template_parse(family->source, TEMPLATE_KEY,
												&error, &position);
		Assert(family->template != NULL);
		MemoryContextSwitchTo(old);
	}
	return family->template;
}

int64
slate_keys_ttl(const char *key, int keylen)
{
	SlateSlice	values[SLATE_TEMPLATE_MAX_COLUMNS];

	for (int i = 0; i < lengthof(families); i++)
	{
		if (slate_template_split(family_template(&families[i]), key, keylen, 0,
								 values))
			return (int64) families[i].ttl * 1000;
	}
	return -1;
}
