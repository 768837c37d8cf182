/*-------------------------------------------------------------------------
 *
 * keys.c
 *	  Rows, the keys that hold them, and what is chosen at random.
 *
 * Rows 0 to items - 1 are the table item's, with id = row + 1; the others are
 * the table panel's, likewise.  Half of all choices go to a few hot rows.
 *
 * Some items are mortal: they are deleted and come back, and their counter
 * waits in the table grave.  Some have a key that is set by hand, in the
 * transactions that write the row.  The others are always there.
 *
 *-------------------------------------------------------------------------
 */
#include "history.h"

static uint64_t generator;

void
seed_random(uint64_t seed)
{
	generator = seed * UINT64_C(0x2545f4914f6cdd1d);
}

/* Steele and Vigna's splitmix64. */
uint64_t
next_random(void)
{
	uint64_t	z = (generator += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* A number from 0 to below n. */
int
choose(int n)
{
	return next_random() % n;
}

bool
chance(int percent)
{
	return choose(100) < percent;
}

int
total_rows(void)
{
	return options.items + options.panels;
}

bool
is_panel(int row)
{
	return row >= options.items;
}

bool
is_mortal(int row)
{
	return !is_panel(row) && row % 4 == 3;
}

bool
is_set_by_hand(int row)
{
	return !is_panel(row) && row % 4 == 1;
}

int
row_id(int row)
{
	return is_panel(row) ? row - options.items + 1 : row + 1;
}

int
choose_row(void)
{
	if (chance(50))
		return choose(HOT_ROWS + 1) < HOT_ROWS ? choose(HOT_ROWS) : options.items;
	return choose(total_rows());
}

static int
shelves(void)
{
	return options.items / SHELF_SIZE;
}

/* Number: of the row, or of the shelf. */
void
row_entry(Entry *entry, Place place, int number)
{
	entry->place = place;
	entry->number = number;
	entry->variant = 0;
	entry->nmembers = 0;
	if (place != PLACE_LIST)
		entry->members[entry->nmembers++] = number;
	else
		for (int row = number; row < options.items; row += shelves())
			entry->members[entry->nmembers++] = row;
}

void
choose_entry(Entry *entry)
{
	int			row = choose_row();
	int			kind = choose(100);

	if (is_panel(row))
	{
		row_entry(entry, PLACE_PANEL, row);
		entry->variant = choose(PANEL_KEYS);
	}
	else if (kind < 10)
		row_entry(entry, PLACE_LIST, row % shelves());
	else if (kind < 20)
		row_entry(entry, PLACE_QUERY, row);
	else if (kind < 40 && is_set_by_hand(row))
		row_entry(entry, PLACE_HAND, row);
	else
		row_entry(entry, PLACE_ROW, row);
}

/* All entries, one after the other; false: there is none of that number. */
bool
entry_at(int number, Entry *entry)
{
	if (number < options.items)
	{
		row_entry(entry, PLACE_ROW, number);
		return true;
	}
	number -= options.items;
	if (number < options.items)
	{
		row_entry(entry, PLACE_QUERY, number);
		return true;
	}
	number -= options.items;
	if (number < options.items)
	{
		/* Those that nobody sets are never there. */
		row_entry(entry, PLACE_HAND, number);
		return true;
	}
	number -= options.items;
	if (number < shelves())
	{
		row_entry(entry, PLACE_LIST, number);
		return true;
	}
	number -= shelves();
	if (number < options.panels * PANEL_KEYS)
	{
		row_entry(entry, PLACE_PANEL, options.items + number / PANEL_KEYS);
		entry->variant = number % PANEL_KEYS;
		return true;
	}
	return false;
}

void
entry_name(const Entry *entry, char *name, size_t size)
{
	switch (entry->place)
	{
		case PLACE_ROW:
			snprintf(name, size, "h:%d", row_id(entry->number));
			break;
		case PLACE_LIST:
			snprintf(name, size, "hl:%d", entry->number);
			break;
		case PLACE_QUERY:
			snprintf(name, size, "hf:%d", row_id(entry->number));
			break;
		case PLACE_HAND:
			snprintf(name, size, "hs:%d", row_id(entry->number));
			break;
		case PLACE_PANEL:
			snprintf(name, size, "hp:%d:%d", row_id(entry->number), entry->variant);
			break;
	}
}
