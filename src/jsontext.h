/*-------------------------------------------------------------------------
 *
 * jsontext.h
 *	  JSON, from text to jsonb.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_JSONTEXT_H
#define SLATE_JSONTEXT_H

#include "utils/jsonb.h"

/*
 * What jsonb_in() makes of a text of so many bytes, in the database's encoding
 * and with a zero behind them; the same bytes, and the same ERRORs.
 */
extern Jsonb *slate_jsontext_parse(const char *text, size_t len);

#endif							/* SLATE_JSONTEXT_H */
