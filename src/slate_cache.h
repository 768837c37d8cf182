/*-------------------------------------------------------------------------
 *
 * slate_cache.h
 *	  Nothing below the module needs anything of it; this file holds the facts
 *	  that the SQL level and the C level share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_CACHE_H
#define SLATE_CACHE_H

/*
 * slate_cache.mode: what a commit waits for.  strict and async are names that
 * the setting knows and refuses, until they exist.
 */
typedef enum SlateMode
{
	MODE_ASYNC,
	MODE_COMMIT,
	MODE_STRICT
} SlateMode;

#endif							/* SLATE_CACHE_H */
