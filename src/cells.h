/*-------------------------------------------------------------------------
 *
 * cells.h
 *	  By what keys and globs are put into cells of shared memory.
 *
 * For near.c and traffic.c.  A key has a cell, and one of its beginning, which it
 * shares with the globs that begin so.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_CELLS_H
#define SLATE_CELLS_H

#include "common/hashfn.h"
#include "miscadmin.h"
#include "template.h"

/* Of a key's or a glob's beginning, the bytes that its cell is about. */
#define SLATE_BEGINNING_LEN 12

/* Of this database. */
static inline uint64
slate_cells_hash(const char *bytes, int len)
{
	return hash_bytes_extended((const unsigned char *) bytes, len,
							   MyDatabaseId);
}

static inline uint64
slate_cells_hash_beginning(const char *bytes)
{
	return slate_cells_hash(bytes, SLATE_BEGINNING_LEN);
}

/* Are all keys that it matches in one cell of beginnings? */
static inline bool
slate_cells_has_beginning(SlateSlice glob)
{
	return slate_glob_prefix_len(glob.start, glob.len) >= SLATE_BEGINNING_LEN;
}

#endif							/* SLATE_CELLS_H */
