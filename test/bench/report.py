"""Tables and plots of what was measured: medians, and ratios within a round."""
from xml.sax.saxutils import escape


def quantile(values, q):
    values = sorted(values)
    place = q * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def median(values):
    return quantile(values, 0.5)


class Spread:
    """Median, and where the middle half of the rounds lies."""

    def __init__(self, values):
        self.low, self.middle, self.high = (quantile(values, q) for q in (0.25, 0.5, 0.75))

    def text(self, digits=2):
        return '%.*f (%.*f–%.*f)' % (digits, self.middle, digits, self.low, digits, self.high)


def ratios(values, base):
    """Round by round, so that what slows down the machine slows down both."""
    return Spread([value / other for value, other in zip(values, base)])


def table(title, head, rows, note=''):
    """Prints a table that Markdown knows, too."""
    width = [max(len(str(row[i])) for row in [head] + rows) for i in range(len(head))]

    def line(cells):
        return '| ' + ' | '.join(
            str(cell).ljust(width[i]) if i == 0 else str(cell).rjust(width[i])
            for i, cell in enumerate(cells)) + ' |'

    print('\n### %s\n' % title)
    if note:
        print(note + '\n')
    print(line(head))
    print('| ' + ' | '.join('-' * w if i == 0 else '-' * (w - 1) + ':'
                            for i, w in enumerate(width)) + ' |')
    for row in rows:
        print(line(row))
    print(flush=True)


# One colour a group, dark on light and light on dark.
COLOURS = ('#3b6ea5', '#6aa56a', '#c58a3a', '#9a5fa5')


def plot(file, title, note, groups, names, spreads):
    """Bars, one group a name, one colour a series; whiskers are the middle half.

    spreads[(name, group)] is a Spread, or missing.
    """
    bar, gap, left, width = 14, 12, 230, 460
    series = len(groups)
    top = 64 + 18 * (series > 1)
    height = top + len(names) * (series * bar + gap) + 30
    most = max(spread.high for spread in spreads.values()) * 1.12
    scale = width / most
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
           'font-family="sans-serif" font-size="12">' % (left + width + 70, height),
           '<rect width="100%" height="100%" fill="#ffffff"/>',
           '<text x="12" y="24" font-size="15" font-weight="bold">%s</text>' % escape(title),
           '<text x="12" y="44" fill="#555555">%s</text>' % escape(note)]
    if series > 1:
        for i, group in enumerate(groups):
            out.append('<rect x="%d" y="56" width="10" height="10" fill="%s"/>'
                       '<text x="%d" y="66">%s</text>' % (
                           left + 100 * i, COLOURS[i], left + 100 * i + 16, escape(group)))
    step = 0.25 if most < 2.5 else 10 ** len(str(int(most))) / 10
    while most / step > 8:
        step *= 2
    mark = 0
    while mark <= most:
        x = left + mark * scale
        out.append('<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s"/>'
                   '<text x="%.1f" y="%d" text-anchor="middle" fill="#555555">%g</text>' % (
                       x, top - 6, x, height - 26, '#999999' if mark == 1 else '#e4e4e4',
                       x, height - 10, mark))
        mark += step
    y = top
    for name in names:
        out.append('<text x="%d" y="%.1f" text-anchor="end">%s</text>' % (
            left - 10, y + series * bar / 2 + 4, escape(name)))
        for i, group in enumerate(groups):
            spread = spreads.get((name, group))
            if spread:
                middle = y + bar / 2 - 1
                out.append(
                    '<rect x="%d" y="%.1f" width="%.1f" height="%d" fill="%s"/>'
                    '<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#222222"/>'
                    '<text x="%.1f" y="%.1f" font-size="10">%.2f</text>' % (
                        left, y, spread.middle * scale, bar - 2, COLOURS[i % 4],
                        left + spread.low * scale, middle, left + spread.high * scale, middle,
                        left + spread.high * scale + 5, middle + 4, spread.middle))
            y += bar
        y += gap
    out.append('</svg>\n')
    with open(file, 'w') as svg:
        svg.write('\n'.join(out))
