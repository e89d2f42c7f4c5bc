#!/usr/bin/env python3
"""Kills a process that writes to a store, over and over, and checks what the next one finds.

kill_loop.py WRITER [--kills N | --seconds N] [--seed N] [--full | --device]

The writer (writer.c, on the shipped library) has 1 to 8 threads. It is killed at a random place: after so many lines, at
a random time after it began to open (creation, recovery) or to close, as soon as the file has grown once more, or wherever
it is when its time is over. The next
process recovers the pool, shows every key, every fifth time verifies the whole pool, and goes on. Pools lie on a disk as
`file` and in memory as `emulated-pm`.
With --full the pools have a quota that is less than what the writer wants to keep: writes are refused for want of space all
the time, and deletes and the cleaner make room. With --device there is no quota, but each pool has a file system of its own
that is as small; it takes a mount, so without the right to one that is said and nothing is run.
What SIGKILL shows: a process may die anywhere. It does not show a power cut: the page cache stays.
Exit status 1 and a line that says what was lost, if anything was, or which phase of a process was never hit though there
were as many kills as by default.
"""

import argparse
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time

from oracle import Oracle, Reader, Violation

POOL_BYTES_MAX = 3 << 20  # then a new pool: its creation is to be killed, too
SILENCE_S_MAX = 60
OPERATIONS_MAX = 400
KILLS = 600
FULL_BYTES = 416 << 10  # a little more than the reserve
# FLATKV_E_NO_SPACE, FLATKV_E_TIMED_OUT
REFUSED_FOR_SPACE = {4, 17}
PHASES = ("before open", "in open", "in recovery's check", "writing", "while it grew", "in close")


def mount_small(directory):
    """A file system of FULL_BYTES on the folder; false if that is not allowed here."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={FULL_BYTES}", "tmpfs", directory]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def unmount(mounted, directories):
    for directory in mounted:
        subprocess.run(["umount", directory], check=False)
    for directory in directories:
        shutil.rmtree(directory)


class Pool:
    def __init__(self, writer, media, directory, is_full, quota):
        self.writer, self.media, self.is_full, self.quota = writer, media, is_full, quota
        self.refused = self.verifications = 0
        self.path = os.path.join(directory, f"{media}.fkv")
        self.oracle = Oracle()

    def renew_if_large(self):
        if not self.is_full and os.path.exists(self.path) and os.path.getsize(self.path) > POOL_BYTES_MAX:
            os.unlink(self.path)
            old, self.oracle = self.oracle, Oracle()
            for name in ("acknowledged", "failed", "looks"):
                setattr(self.oracle, name, getattr(old, name))

    def live(self, session, chance):
        """One life of a writer. Answers the mark of the line after which it was killed, or None if it ended first."""
        threads = chance.choice((1, 1, 2, 3, 4, 8))
        operations = chance.choice((0, 5, 40, OPERATIONS_MAX))
        place = chance.choice(("open", "lines", "lines", "time" if self.is_full else "growth", "close", "time"))
        lines_max = int(chance.expovariate(1 / 300)) if place == "lines" else None
        deadline = None
        if place in ("open", "time"):
            deadline = time.monotonic() + chance.uniform(0, 0.004 if place == "open" else 0.05)
        command = [self.writer, self.path, self.media, str(threads), str(session), str(operations)]
        if self.quota:
            command.append(str(self.quota))
        reader, began = Reader(self.oracle, threads == 1), time.monotonic()
        size = os.path.getsize(self.path) if os.path.exists(self.path) else 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
            killed, grew, buffer, lines = None, False, b"", 0
            while True:
                wait = SILENCE_S_MAX if deadline is None else max(0, deadline - time.monotonic())
                if place == "growth" and killed is None:
                    if self.has_grown(size):
                        process.kill()
                        killed, grew = reader.last or "start", True
                    elif time.monotonic() - began > SILENCE_S_MAX:
                        process.kill()
                        raise Violation(f"neither grew nor ended in {SILENCE_S_MAX} s, last said {reader.last!r}")
                    wait = 0
                ready, _, _ = select.select([process.stdout], [], [], wait if killed is None else SILENCE_S_MAX)
                if not ready and place == "growth" and killed is None:
                    continue
                if not ready:
                    if deadline is None or killed is not None:
                        process.kill()
                        raise Violation(f"silent for {SILENCE_S_MAX} s after {reader.last!r}")
                    process.kill()
                    killed = reader.last or "start"
                    continue
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    break
                *whole, buffer = (buffer + piece).split(b"\n")
                for text in whole:
                    reader.line(text.decode())
                    lines += 1
                    if killed is not None:
                        continue
                    if place == "open" and reader.last == "O":
                        deadline = time.monotonic() + chance.uniform(0, 0.003)
                    if place == "close" and reader.last == "C":
                        deadline = time.monotonic() + chance.uniform(0, 0.002)
                    if lines_max is not None and lines >= lines_max:
                        process.kill()
                        killed = reader.last
            status = process.wait()
        if buffer:
            raise Violation(f"half a line: {buffer!r}")
        if reader.open_error:
            raise Violation(f"open failed: {reader.open_error[1]}")
        self.verifications += reader.verifications
        refusals = [status for status in reader.statuses if self.is_full and status in REFUSED_FOR_SPACE]
        self.refused += len(refusals)
        if len(refusals) < len(reader.statuses):
            raise Violation(f"writes failed with status {sorted(set(reader.statuses))}")
        if status not in (0, -9):
            raise Violation(f"the writer ended with status {status} after {reader.last!r}")
        if status == 0 and reader.close_status != 0:
            raise Violation(f"close gave status {reader.close_status}")
        if status != -9:
            return None
        return "growth" if grew else reader.last or "start"

    def has_grown(self, size):
        try:
            return os.path.getsize(self.path) > size
        except FileNotFoundError:
            return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("writer")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=lambda text: int(text, 0), default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--device", action="store_true")
    options = parser.parse_args()
    is_full = options.full or options.device
    chance = random.Random(options.seed)
    started = time.monotonic()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    directories = [tempfile.mkdtemp(prefix="flatkv-kill."), tempfile.mkdtemp(prefix="flatkv-kill.", dir=memory)]
    mounted = [directory for directory in directories if options.device and mount_small(directory)]
    if options.device and mounted != directories:
        unmount(mounted, directories)
        print("not run: kills on a full device because a tmpfs cannot be mounted here")
        return 0
    quota = FULL_BYTES if options.full else None
    pools = [Pool(options.writer, media, directory, is_full, quota)
             for media, directory in zip(("file", "emulated-pm"), directories)]
    places, session, kills = {}, 0, 0
    phases = {"start": "before open", "O": "in open", "o": "in recovery's check", "S": "in recovery's check",
              "V": "in recovery's check", "v": "writing", "s": "writing", "B": "writing", "K": "writing", "C": "in close", "c": "after close",
              "growth": "while it grew"}

    def goes_on():
        if options.seconds is not None:
            return time.monotonic() - started < options.seconds
        return kills < options.kills

    try:
        while goes_on():
            session += 1
            pool = pools[session % len(pools)]
            pool.renew_if_large()
            mark = pool.live(session, chance)
            if mark is not None:
                kills += 1
                phase = phases.get(mark, "writing")
                places[phase] = places.get(phase, 0) + 1
    except Violation as violation:
        kept = tempfile.mkdtemp(prefix="flatkv-kill-failed.")
        if os.path.exists(pool.path):
            shutil.copy(pool.path, kept)
        print(f"LOST after {kills} kills, seed {options.seed:#x}, {pool.media}, session {session}: {violation}")
        print(f"the pool as it is now: {kept}")
        return 1
    finally:
        unmount(mounted, directories)
    acknowledged = sum(pool.oracle.acknowledged for pool in pools)
    looks = sum(pool.oracle.looks for pool in pools)
    where = ", ".join(f"{count} {phase}" for phase, count in sorted(places.items()))
    print(f"kill -9: {kills} kills ({where}), {acknowledged} writes acknowledged, {looks} times all keys checked, "
          f"{sum(pool.verifications for pool in pools)} times the whole pool verified, "
          f"{sum(pool.refused for pool in pools)} refused for want of space, 0 acknowledgements lost, {time.monotonic() - started:.0f} s, seed {options.seed:#x}")
    if kills >= 100 and any(pool.verifications == 0 for pool in pools):
        print("a pool was never verified")
        return 1
    if is_full and any(pool.refused == 0 for pool in pools):
        print("no write was refused: the pools were not full")
        return 1
    missed = [phase for phase in PHASES if not places.get(phase) and not (is_full and phase == "while it grew")]
    if missed and kills >= KILLS:
        print(f"no kill was {', '.join(missed)}: the loop shows nothing about that")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
