"""Candidates, and the turns they take.

A candidate stays connected all the time.  Between its turns its pgbench (or app) is
stopped (SIGSTOP), so that its sessions idle; a turn is: continue, wait, stop.
What a turn has done is read from the rows, each commit having added one to one
row, so that what connecting and loading libraries costs is in no figure.
"""
import os
import random
import signal
import subprocess
import time

import servers
from servers import STAGE, psql

# Time for what is under way to end, between two turns.
REST = 0.1

running = set()


class Load:
    """A program that works for as long as it is let: stopped at first."""

    def __init__(self, arguments, environment=None, name='load', **streams):
        self.log = open('%s/log/%s' % (STAGE, name), 'w')
        self.process = subprocess.Popen(
            arguments, env={**os.environ, **(environment or {})},
            **{'stdin': subprocess.DEVNULL, 'stdout': self.log, 'stderr': self.log, **streams})
        self.name = name
        running.add(self)

    def send(self, what):
        if self.process.poll() is not None:
            raise RuntimeError('%s has ended: see its log\n%s' % (
                self.name, open(self.log.name).read()[-2000:]))
        self.process.send_signal(what)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()
        running.discard(self)


def end_all():
    for load in list(running):
        load.end()


class Writer:
    """One way to keep a copy of a row, written to by so many clients.

    A companion runs beside it.  A follower makes the copies, later: a turn ends when
    it has made them all, so that it is in nobody else's, but its time is not counted.
    """

    def __init__(self, name, clients, table, options='', companion=None, program=None, follower=None):
        self.name, self.clients, self.table = name, clients, table
        self.companion, self.follower = companion, follower
        self.load = Load(program or self.pgbench(), {'PGOPTIONS': options},
                         'writer.%s.%d' % (table, clients))
        self.load.send(signal.SIGSTOP)

    def pgbench(self):
        script = '%s/tmp/%s.sql' % (STAGE, self.table)
        with open(script, 'w') as file:
            file.write('\\set id random(1, 10000)\n'
                       'UPDATE %s SET n = n + 1 WHERE id = :id;\n' % self.table)
        return ['pgbench', '-n', '-M', 'prepared', '-c', str(self.clients), '-j', '1',
                '-T', '36000', '-f', script]

    def count(self):
        return int(psql('SELECT sum(n) FROM ' + self.table))

    def warm_up(self, at_least=1.0):
        self.turn(at_least)

    def turn(self, seconds):
        """Commits a second in a turn of so many seconds."""
        psql('VACUUM ' + self.table)
        before = self.count()
        if self.follower:
            self.follower.begin()
        beside = self.companion(seconds) if self.companion else None
        begun = time.monotonic()
        self.load.send(signal.SIGCONT)
        time.sleep(seconds)
        self.load.send(signal.SIGSTOP)
        lasted = time.monotonic() - begun
        if self.follower:
            self.follower.catch_up()
        if beside:
            beside.wait()
        time.sleep(REST)
        return (self.count() - before) / lasted

    def end(self):
        self.load.end()


class Reader:
    """A query, asked by so many clients; its pgbench lives for one turn.

    Nothing in the database counts reads.  So pgbench does, and its first second,
    with what connecting costs, is left out.
    """

    def __init__(self, name, clients, script, options=''):
        self.name, self.clients, self.options = name, clients, options
        self.script = '%s/tmp/read.%s.sql' % (STAGE, name.replace(' ', '_').replace('/', '_'))
        with open(self.script, 'w') as file:
            file.write(script)

    def warm_up(self):
        pass

    def turn(self, seconds):
        done = subprocess.run(
            ['pgbench', '-n', '-M', 'prepared', '-c', str(self.clients), '-j', '1',
             '-T', str(1 + max(1, round(seconds))), '-P', '1', '-f', self.script],
            env={**os.environ, 'PGOPTIONS': self.options},
            text=True, capture_output=True, check=True)
        rates = [float(line.split()[3]) for line in done.stderr.splitlines()
                 if line.startswith('progress:')]
        if len(rates) < 2 or ' 0 failed' not in done.stderr:
            raise RuntimeError('pgbench: ' + done.stderr)
        return sum(rates[1:]) / len(rates[1:])

    def end(self):
        pass


class Exchange:
    """Commands to Redis from a C program, without PostgreSQL."""

    def __init__(self, name, address, commands, depth=1, clients=1):
        self.name, self.address, self.depth, self.clients = name, address, depth, clients
        self.file = write_commands(name, commands)

    def warm_up(self):
        self.turn(0.05)

    def turn(self, seconds):
        programs = [exchange(self.address, self.file, seconds, self.depth)
                    for _ in range(self.clients)]
        rate = 0
        for program in programs:
            output, _ = program.communicate()
            if program.returncode != 0:
                raise RuntimeError('exchange failed: ' + self.name)
            done, lasted = output.split()
            rate += int(done) / float(lasted)
        return rate

    def end(self):
        pass


def write_commands(name, commands):
    file = '%s/tmp/commands.%s' % (STAGE, ''.join(c if c.isalnum() else '_' for c in name))
    with open(file, 'wb') as out:
        for command in commands:
            out.write(b'%d %d\n%s' % (len(command), servers.count_commands(command), command))
    return file


def exchange(address, file, seconds, depth, rate=None):
    paced = [] if rate is None else ['%.0f' % rate]
    return subprocess.Popen(
        [STAGE + '/bench/exchange', address, file, str(seconds), str(depth), *paced],
        text=True, stdout=subprocess.PIPE)


def take_turns(candidates, rounds, seconds, after=None):
    """What each candidate reached in each round: name -> list."""
    reached = {candidate.name: [] for candidate in candidates}
    for candidate in candidates:
        candidate.warm_up()
    for _ in range(rounds):
        order = list(candidates)
        random.shuffle(order)
        for candidate in order:
            reached[candidate.name].append(candidate.turn(seconds))
            if after:
                after(candidate.name, reached[candidate.name][-1])
    return reached
