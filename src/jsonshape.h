/*-------------------------------------------------------------------------
 *
 * jsonshape.h
 *	  Objects that have the same names in the same order as one before.
 *
 * A shape has a number; 0 is none.  Who parses a text calls begin, then for each
 * object that is not empty expect, follow in front of each name, and end; and
 * when all of the text has been seen, for objects without a shape, is_wanted and
 * learn.  What end has returned is good until the next begin.
 *
 * None of this throws or allocates.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLATE_JSONSHAPE_H
#define SLATE_JSONSHAPE_H

#include "template.h"
#include "utils/jsonb.h"

/* Members that an object with a shape has at most, and bytes of their names. */
#define SLATE_SHAPE_MEMBERS 64
#define SLATE_SHAPE_BYTES 1024

/* Around a name in the text: quotes, and a colon right behind. */
#define SLATE_SHAPE_MARKS 3

#define SLATE_SHAPE_BLOCK (sizeof(uint32) + \
						   2 * SLATE_SHAPE_MEMBERS * sizeof(JEntry) + \
						   SLATE_SHAPE_BYTES)

typedef struct SlateShape
{
	int			nmembers;		/* 0: not in use */
	uint64		used_by;		/* the last text that has had it */
	uint32		total;			/* bytes of all names */
	uint32		ends[SLATE_SHAPE_MEMBERS];	/* in names, of each */
	uint8		order[SLATE_SHAPE_MEMBERS]; /* jsonb's: which one of the text */
	char		names[SLATE_SHAPE_BYTES +
					  SLATE_SHAPE_MARKS * SLATE_SHAPE_MEMBERS];	/* with marks */
	uint32		blocklen;
	char		block[SLATE_SHAPE_BLOCK];	/* header, JEntries, names */
} SlateShape;

extern void slate_shape_begin(void);

/* Which one is likely, this deep in the text. */
extern uint32 slate_shape_expect(int depth);

/*
 * Of an object with so many names so far, all of them the shape's, the text goes
 * on there; it has left so many bytes.  Is the next name, too?  Or is it that of
 * another shape that begins likewise?  *len is what it takes, marks included.
 */
extern uint32 slate_shape_follow(uint32 shape, int nth, const char *at,
								 size_t left, uint32 *len);

/* The object has so many names, all of them the shape's: are these all? */
extern uint32 slate_shape_end(uint32 shape, int nmembers, int depth);

extern const SlateShape *slate_shape_at(uint32 shape);

/*
 * Of an object without a shape, with so many names of so many bytes in all:
 * shall it be learned?  Only the second one of a kind is, and one of a text.
 */
extern bool slate_shape_is_wanted(int nmembers, uint32 total);

/*
 * Then its names as they are in the text, and by jsonb's order which one of them
 * that is; and the block as it was written.
 */
extern void slate_shape_learn(const SlateSlice *names, const uint8 *order,
							  int nmembers, uint32 total, const char *block,
							  uint32 blocklen);

#endif							/* SLATE_JSONSHAPE_H */
