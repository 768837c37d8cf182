"""make bench: runs the tables that are wanted.  See run."""
import os
import random
import signal
import sys
import time

import floor
import load
import reads
import servers
import writes

TABLES = ('floor', 'writes', 'tcp', 'reads', 'mget')


def setting(name, default):
    return os.environ.get('SLATE_BENCH' + name) or default


def machine():
    """Processor, number of processors, memory."""
    model, memory = 'unknown processor', 0
    with open('/proc/cpuinfo') as lines:
        for line in lines:
            if line.startswith('model name'):
                model = line.split(':', 1)[1].strip()
                break
    with open('/proc/meminfo') as lines:
        memory = int(lines.readline().split()[1]) / 1024 ** 2
    return '%d × %s, %.0f GB' % (len(os.sched_getaffinity(0)), model, memory)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wanted = setting('', ','.join(TABLES)).split(',')
    for name in wanted:
        if name not in TABLES:
            sys.exit('BENCH is of %s; not "%s"' % (', '.join(TABLES), name))
    rounds, seconds = int(setting('_ROUNDS', 7)), float(setting('_SECONDS', 0.5))
    # Turns of readers cannot be shorter than two seconds: see load.Reader.
    fewer = max(1, rounds * 5 // 7)
    clients = [int(n) for n in setting('_CLIENTS', '1,8,32').split(',')]
    # names may have commas
    names = setting('_CANDIDATES', '')
    candidates = [name.strip() for name in names.split(';' if ';' in names else ',') if name.strip()]
    seed = setting('_SEED', str(random.randrange(10 ** 6)))
    random.seed(seed)
    plots, here = servers.STAGE + '/plots', os.path.dirname(__file__)

    servers.psql('CREATE EXTENSION slate_cache')
    with open(here + '/schema.sql') as schema:
        servers.psql(schema.read())
    servers.wait_for('the worker', servers.slate_is_well)
    hardware = machine()
    versions = '%s; Redis %s; fsync %s' % (
        servers.psql('SELECT substring(version() FROM $$PostgreSQL [0-9.]+$$)'),
        [line.split(':')[1].strip() for line in servers.redis_cli('INFO', 'server').splitlines()
         if line.startswith('redis_version')][0],
        servers.psql('SHOW fsync'))
    print('%s; %s\nload at the beginning: %s; %d rounds of %g s; SEED=%s' % (
        hardware, versions, ' '.join('%.1f' % x for x in os.getloadavg()), rounds, seconds, seed), flush=True)
    begun = time.monotonic()
    try:
        if 'floor' in wanted:
            floor.run(rounds, seconds, plots, hardware)
        for kind, name in (('unix', 'writes'), ('tcp', 'tcp')):
            if name in wanted:
                writes.run(kind, clients, rounds, seconds, plots, candidates, hardware)
        if 'reads' in wanted:
            reads.run([n for n in clients if n <= 8], fewer, seconds, plots, hardware)
        if 'mget' in wanted:
            reads.run_mget(fewer, seconds, plots, hardware)
    finally:
        load.end_all()
        servers.end_all()
    print('load at the end: %s; took %.0f s' % (
        ' '.join('%.1f' % x for x in os.getloadavg()), time.monotonic() - begun))


if __name__ == '__main__':
    main()
