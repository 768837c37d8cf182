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
	pg_atomic_uint64 changes;	/* how often it was something else */
	pg_atomic_uint32 sequence;	/* odd while somebody writes the entry */
} SlateHearsay;

/* For a zeroed entry. */
extern void slate_hearsay_init(SlateHearsay *entry);

/*
 * The group's entry among so many of a size, taken if it has none yet; NULL if
 * there are none, or all are taken.
 */
extern SlateHearsay *slate_hearsay_choose(void *entries, int nentries,
										  Size size, uint64 group);

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

/*
 * Write an entry; false if another process is at it, which will do.  Who reads
 * one looks whether its sequence is even, and the same before and after.
 */
extern bool slate_hearsay_begin_write(SlateHearsay *entry);
extern void slate_hearsay_end_write(SlateHearsay *entry);

/* Append to a text why a server is of no help. */
extern void slate_hearsay_note_failure(char *text, size_t size,
									   const SlateAddress *address,
									   const char *reason);

#endif							/* SLATE_HEARSAY_H */
