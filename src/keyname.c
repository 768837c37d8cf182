/*-------------------------------------------------------------------------
 *
 * keyname.c
 *	  Names of our own keys in Redis: guards, indexes, notes.
 *
 * In a Cluster a guard has the slot of its key, and whatever else is ours a tag
 * of the node that it is for.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include <ctype.h>

#include "access/xlog.h"
#include "encode.h"
#include "keyname.h"
#include "miscadmin.h"

static bool
starts_with(const char *name, int len, const char *prefix)
{
	int			prefix_len = strlen(prefix);

	return len >= prefix_len && memcmp(name, prefix, prefix_len) == 0;
}

bool
slate_keyname_is_internal(const char *name, int len)
{
	return starts_with(name, len, SLATE_INTERNAL_PREFIX);
}

/* A name of our own, or "", as the node has it. */
void
slate_keyname_append_own(SlateBatch *batch, const char *name)
{
	const char *tag = slate_redis_tag(batch->node);
	char		tagged[160];

	if (tag[0] == '\0' || name[0] == '\0')
	{
		append_text(batch, name);
		return;
	}
	snprintf(tagged, sizeof(tagged), SLATE_INTERNAL_PREFIX "%s%s", tag,
			 name + strlen(SLATE_INTERNAL_PREFIX));
	append_text(batch, tagged);
}

void
slate_keyname_append_index(SlateBatch *batch, const char *family, int familylen)
{
	StringInfoData key;

	initStringInfo(&key);
	appendStringInfo(&key, SLATE_INTERNAL_PREFIX "%sindex:{",
					 slate_redis_tag(batch->node));
	appendBinaryStringInfo(&key, family, familylen);
	appendStringInfoChar(&key, '}');
	append_bytes(batch, key.data, key.len);
	pfree(key.data);
}

const char *
slate_keyname_owner(void)
{
	static char owner[32];

	if (owner[0] == '\0')
		snprintf(owner, sizeof(owner), "%016llx-%u",
				 (unsigned long long) GetSystemIdentifier(), MyDatabaseId);
	return owner;
}

SlateSlice
slate_keyname_loose_family(void)
{
	static char family[40];

	if (family[0] == '\0')
		snprintf(family, sizeof(family), "*%s", slate_keyname_owner());
	return (SlateSlice) {family, strlen(family)};
}

bool
slate_keyname_is_loose(SlateSlice family)
{
	int			len = strlen("*0123456789abcdef-");

	if (family.len <= len || family.start[0] != '*' ||
		family.start[len - 1] != '-')
		return false;
	for (int i = 1; i < family.len; i++)
	{
		if (i != len - 1 && !isxdigit((unsigned char) family.start[i]))
			return false;
	}
	return true;
}

/* The hash tag of a key, if it has one; see slate_cluster_slot(). */
static bool
has_tag(const char *key, int keylen)
{
	const char *end = key + keylen;
	const char *tag = memchr(key, '{', keylen);
	const char *tag_end = tag ? memchr(tag, '}', end - tag) : NULL;

	return tag_end && tag_end > tag + 1;
}

void
slate_keyname_append_guard(SlateBatch *batch, const char *key, int keylen)
{
	static const char plain[] = SLATE_INTERNAL_PREFIX "guard:{";
	static const char tagged[] = SLATE_INTERNAL_PREFIX "tagged:";
	const char *node_tag = slate_redis_tag(batch->node);
	char		odd[64];
	bool		is_tagged = has_tag(key, keylen);
	bool		is_odd = !is_tagged && node_tag[0] != '\0' &&
		memchr(key, '}', keylen) != NULL;
	bool		is_plain = !is_tagged && !is_odd;
	const char *prefix = is_tagged ? tagged : is_odd ? odd : plain;
	int			prefix_len;
	char	   *at;

	if (is_odd)
		snprintf(odd, sizeof(odd), SLATE_INTERNAL_PREFIX "%sodd:", node_tag);
	prefix_len = strlen(prefix);
	at = begin_append(&batch->bytes, prefix_len + keylen + 2 * MAX_HEAD);
	at = put_head(at, '$', prefix_len + keylen + is_plain);
	at = put_bytes(at, prefix, prefix_len);
	at = put_bytes(at, key, keylen);
	if (is_plain)
		*at++ = '}';
	*at++ = '\r';
	*at++ = '\n';
	end_append(&batch->bytes, at);
}

static void
skip(SlateSlice *slice, int len)
{
	slice->start += len;
	slice->len -= len;
}

/* What a name is about: itself, or the key that it guards. */
bool
slate_keyname_find_key(const char *name, int len, SlateSlice *key)
{
	static const char plain[] = SLATE_INTERNAL_PREFIX "guard:{";
	static const char tagged[] = SLATE_INTERNAL_PREFIX "tagged:";
	static const char with_tag[] = SLATE_INTERNAL_PREFIX "{";
	const char *tag_end;

	key->start = name;
	key->len = len;
	if (!slate_keyname_is_internal(name, len))
		return true;
	if (starts_with(name, len, tagged))
	{
		skip(key, strlen(tagged));
		return true;
	}
	if (starts_with(name, len, plain) && name[len - 1] == '}')
	{
		skip(key, strlen(plain));
		key->len--;
		return true;
	}
	if (starts_with(name, len, with_tag) &&
		(tag_end = memchr(name, '}', len)) != NULL)
	{
		skip(key, tag_end + 1 - name);
		if (starts_with(key->start, key->len, "odd:"))
		{
			skip(key, strlen("odd:"));
			return true;
		}
	}
	return false;				/* an index, a note, marks */
}

bool
slate_keyname_is_index(SlateSlice name, SlateSlice *tag, SlateSlice *family)
{
	static const char middle[] = "index:{";
	const char *end = name.start + name.len;
	const char *tag_end;

	if (!starts_with(name.start, name.len, SLATE_INTERNAL_PREFIX "{"))
		return false;
	tag->start = name.start + strlen(SLATE_INTERNAL_PREFIX);
	tag_end = memchr(tag->start, '}', end - tag->start);
	if (tag_end == NULL)
		return false;
	tag->len = tag_end + 1 - tag->start;
	family->start = tag->start + tag->len;
	family->len = end - family->start;
	if (!starts_with(family->start, family->len, middle) || end[-1] != '}')
		return false;
	skip(family, strlen(middle));
	family->len--;
	return true;
}
