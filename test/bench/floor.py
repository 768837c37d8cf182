"""The floor: what Redis takes for one command, without PostgreSQL."""
import report
import servers
from load import Exchange, take_turns
from servers import command, psql

DEPTH = 100
PING, SET, EMPTY, PUBLISH, DIRECT, LEAST = (
    'PING', 'SET … EX of 300 bytes', 'EVALSHA of an empty script',
    'a push of one row by script', 'a push of one row directly', 'GET of 300 bytes')


def as_sent(mode):
    """The calls that one commit sends, as Redis has seen them, for another time."""
    psql("SET slate_cache.mode = '%s'; UPDATE floor SET n = n + 1 WHERE id = 1" % mode)
    with servers.Monitor() as monitor:
        psql("SET slate_cache.mode = '%s'; UPDATE floor SET n = n + 1 WHERE id = 1" % mode)
        # the worker calls scripts, too
        at = []
        while not at:
            words = monitor.until(b'EVALSHA')
            at = [i for i, word in enumerate(words) if len(word) == 34 and word.isdigit()]
    # The deadline, and when the guard goes, in ms.  Past that Redis would do less.
    head = words[at[0]]
    words[at[0]] = b'%013d%013d%s' % (int(head[:13]) + 86400000, int(head[13:26]) + 86400000, head[26:])
    return command(*words)


def spent(names):
    """Calls of the first of some commands, and microseconds that all took by Redis' own clock."""
    calls, usec = 0, 0
    for line in servers.redis_cli('INFO', 'commandstats').splitlines():
        name, _, rest = line.strip().partition(':')
        if name.replace('cmdstat_', '') in names.split():
            fields = dict(field.split('=') for field in rest.split(','))
            usec += int(fields['usec'])
            if name == 'cmdstat_' + names.split()[0]:
                calls = int(fields['calls'])
    return calls, usec


class Counted(Exchange):
    """As an exchange; and what Redis says that it took."""

    def __init__(self, command_name, *arguments):
        super().__init__(*arguments)
        self.command_name, self.server = command_name, []

    def turn(self, seconds):
        calls, usec = spent(self.command_name)
        rate = super().turn(seconds)
        calls_now, usec_now = spent(self.command_name)
        self.server.append((usec_now - usec) / (calls_now - calls))
        return rate


def run(rounds, seconds, plots, machine):
    unix, tcp = servers.REDIS_SOCKET, '127.0.0.1:%d' % servers.REDIS_PORT
    psql("SELECT make_rows('floor'); "
         "SELECT slate_cache_attach('floor', row_keys => ARRAY['floor:{id}'], ttl => '1 hour')")
    empty = servers.redis_cli('SCRIPT', 'LOAD', 'return 0')
    keys = ['plain:%d' % i for i in range(10000)]
    sets = [command('SET', key, 'x' * 300, 'EX', 3600) for key in keys]
    commands = {PING: ('ping', [command('PING')]),
                LEAST: ('get', [command('GET', key) for key in keys]),
                SET: ('set', sets),
                EMPTY: ('evalsha', [command('EVALSHA', empty, 1, 'plain:1')]),
                PUBLISH: ('evalsha', [as_sent('commit')]),
                # what EXEC takes is with the SETs
                DIRECT: ('exec multi watch get', [servers.pushed_directly('UPDATE floor SET n = n + 1 WHERE id = 1')])}
    candidates = []
    for name, (command_name, texts) in commands.items():
        for where, address in (('unix', unix), ('TCP', tcp)):
            candidates.append(Exchange('%s %s' % (name, where), address, texts))
        candidates.append(Counted(command_name, name + ' pipelined', unix, texts, DEPTH))
    reached = take_turns(candidates, rounds, seconds / 2)

    rows, spreads = [], {}
    for name in commands:
        row = [name]
        for where in ('unix', 'TCP'):
            row.append('%.1f' % report.median([1e6 / rate for rate in reached['%s %s' % (name, where)]]))
        pipelined = reached[name + ' pipelined']
        counted = next(c for c in candidates if c.name == name + ' pipelined')
        # The first turn was the warm-up's.
        row += ['%.2f' % report.median([1e6 / rate for rate in pipelined]),
                '%.2f' % report.median(counted.server[1:]),
                report.ratios([1 / rate for rate in pipelined],
                              [1 / rate for rate in reached[SET + ' pipelined']]).text()]
        spreads[name, ''] = report.ratios([1 / rate for rate in pipelined],
                                          [1 / rate for rate in reached[SET + ' pipelined']])
        row.append('%.2f' % report.median(
            [one / other for one, other in zip(counted.server[1:], next(
                c for c in candidates if c.name == SET + ' pipelined').server[1:])]))
        rows.append(row)
    report.table('The floor: µs of one command', [
        'hiredis, one connection', 'round trip, unix socket', 'round trip, TCP',
        'pipelined by %d' % DEPTH, "by Redis' clock", 'pipelined, to SET', "by Redis' clock, to SET"],
        rows, 'Medians of %d rounds. Pipelined on the unix socket. “Redis\' clock” is commandstats, '
        'without reading, parsing and answering.' % rounds)
    report.plot(plots + '/floor.svg', 'Time of one pipelined command, SET … EX = 1', machine,
                [''], list(commands), spreads)
