/*-------------------------------------------------------------------------
 *
 * epoch.c
 *	  What Redis notes of this database: under which names, and how it is written.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xlog.h"
#include "epoch.h"
#include "keyname.h"

static const char *
owned_key(const char *what)
{
	static char key[96];

	snprintf(key, sizeof(key), SLATE_INTERNAL_PREFIX "%s:%s", what,
			 slate_keyname_owner());
	return key;
}

const char *
slate_epoch_key(void)
{
	static char key[96];

	if (key[0] == '\0')
		strlcpy(key, owned_key("epoch"), sizeof(key));
	return key;
}

const char *
slate_epoch_wal_key(void)
{
	return owned_key("wal");
}

const char *
slate_epoch_rules_key(void)
{
	return owned_key("rules");
}

void
slate_epoch_write(char *text, uint64 epoch)
{
	char	   *at = slate_stamp_put_digits(text, GetWALInsertionTimeLine(),
											SLATE_TIMELINE_LEN);

	at = slate_stamp_put_hex(at, epoch, SLATE_EPOCH_LEN - SLATE_TIMELINE_LEN);
	*at = '\0';
}

void
slate_epoch_write_wal(char *text, TimeLineID timeline, XLogRecPtr position)
{
	slate_stamp_put_version(text, timeline, position);
}

TimeLineID
slate_epoch_timeline(const char *note)
{
	char		digits[SLATE_TIMELINE_LEN + 1];

	strlcpy(digits, note, sizeof(digits));
	return (TimeLineID) strtoul(digits, NULL, 10);
}
