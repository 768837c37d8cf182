/*-------------------------------------------------------------------------
 *
 * hearsay.h
 *	  What one process was told by servers, for all: entries in shared memory,
 *	  and when to ask again.
 *
 * What sentinel.c and cluster.c have in common.  Each of them has some entries,
 * one for each group of servers that a url names; what such a group has said is
 * theirs, behind what is here.  Nothing here throws, or waits; there are no
 * locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_HEARSAY_H
#define SLATE_HEARSAY_H

#include "link.h"
#include "port/atomics.h"

/* What a name, an IPv4 or an IPv6 address consists of. */
#define SLATE_HOST_CHARACTERS "abcdefghijklmnopqrstuvwxyz" \
	"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:%"

/* An entry begins so. */
typedef struct SlateHearsay
{
	pg_atomic_uint64 group;		/* a hash of whom to ask; 0: free */
	pg_atomic_uint64 asked_at;	/* when somebody last began to ask */
	pg_atomic_uint64 told_at;	/* when one last answered; 0: never */
	pg_atomic_uint64 last;		/* which one that was, as its user counts */
	pg_atomic_uint64 changes;	/* how often it was something else; written
								 * under the sequence */
	pg_atomic_uint32 sequence;	/* of what follows, see sequence.h */
} SlateHearsay;

/* Where they are; the first three are constant. */
typedef struct SlateHearsayTable
{
	const char *name;			/* of the shared memory */
	int			nentries;
	Size		size;			/* of an entry */
	SlateHearsay *own;			/* one for who has no other, zeroed at first */
	void	   *shared;			/* NULL unless we were preloaded */
} SlateHearsayTable;

extern Size slate_hearsay_shmem_size(const SlateHearsayTable *table);

/* Holds AddinShmemInitLock. */
extern void slate_hearsay_shmem_startup(SlateHearsayTable *table);

/*
 * The entry of those servers that so many bytes name, taken if they have none
 * yet; the process' own if there is none left.
 */
extern SlateHearsay *slate_hearsay_choose(SlateHearsayTable *table,
										  const void *whom, Size len);

/* Reading the number is a full memory barrier. */
extern uint64 slate_hearsay_changes(SlateHearsay *entry);

/*
 * Should the caller ask before it relies on what is known?  So it is if nobody
 * has answered since distrusted_at, when the caller has seen something that
 * speaks against it (of slate_link_now(); 0: it has not); and if the last answer
 * is older than max_age ms, but then only for one caller a second.
 */
extern bool slate_hearsay_should_ask(SlateHearsay *entry, int64 distrusted_at,
									 int64 max_age);

/* Somebody asks now; he was answered, by the one of this number. */
extern void slate_hearsay_ask(SlateHearsay *entry);
extern void slate_hearsay_tell(SlateHearsay *entry, uint64 last);

/* How long ago that was, in ms. */
extern int64 slate_hearsay_age(SlateHearsay *entry);

/*
 * A copy, in one piece, of what an entry has at a place, and how often that had
 * changed by then.  False if nothing is known, or a writer was in the way: then
 * there is anything in the copy.
 */
extern bool slate_hearsay_read(SlateHearsay *entry, void *to,
							   const void *place, Size size, uint64 *changes);

/* Append to a text why a server is of no help. */
extern void slate_hearsay_note_failure(char *text, size_t size,
									   const SlateAddress *address,
									   const char *reason);

#endif							/* SLATE_HEARSAY_H */
