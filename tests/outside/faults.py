#!/usr/bin/env python3
"""Fails, and kills, the shipped library's system calls from outside, one after the other, with strace.

faults.py WRITER [--every N]

For each system call of the list and each errno, the 1st, 2nd, 3rd ... call of a thread fails, until the writer (writer.c,
one thread) comes to its end without having met the fault; the same with SIGKILL in the place of the call. After each run
a new process opens the pool, without strace, and shows every key to the oracle. Calls that fail before the store is being
opened are the loader's and are no fault points. What must hold is said in oracle.py; beyond that, a documented status.
Exit status 1 if anything was lost, 3 if strace cannot trace here.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from oracle import Oracle, Reader, Violation

CALLS = ("pwrite64", "pread64", "fdatasync", "fsync", "fallocate", "ftruncate", "mmap", "madvise", "openat", "fcntl",
         "fstat,newfstatat", "fchmod", "linkat", "lseek")
# Only a growth that fails is undone.
BESIDES = {"ftruncate": ["-e", "trace=ftruncate,fallocate", "-e", "inject=fallocate:error=ENOSPC:when=3+"]}
ERRORS = ("EIO", "ENOSPC", "EINTR")
KILLED_IN = ("pwrite64", "fdatasync", "fsync", "fallocate", "ftruncate", "mmap", "linkat", "fchmod")
OPERATIONS = 40
RUN_S_MAX = 60
NTH_MAX = 2000
# FLATKV_E_IO, FLATKV_E_NO_SPACE, FLATKV_E_POISONED; of open also FLATKV_E_UNSUPPORTED and FLATKV_E_LOCKED
WRITE_STATUSES, OPEN_STATUSES = {3, 4, 11}, {3, 4, 7, 10}


def run(command, oracle):
    """Lets a writer run to its end. Answers its exit status and what it said."""
    reader = Reader(oracle, True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=RUN_S_MAX, check=False)
    lines = done.stdout.decode().split("\n")
    for text in lines[:-1]:
        reader.line(text)
    return done.returncode, reader, done.stderr


def try_point(writer, media, call, action, nth):
    """Answers "missed" (the run was over before), "loader", or "struck"."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    directory = tempfile.mkdtemp(prefix="flatkv-faults.", dir=memory)
    try:
        pool, log, oracle = os.path.join(directory, "pool.fkv"), os.path.join(directory, "log"), Oracle()
        program = [writer, pool, media, "1"]
        # A life without faults first, so that there is something to lose and to recover from.
        if nth % 2 == 0:
            status, _, _ = run([*program, "1", "10"], oracle)
            if status != 0:
                raise Violation(f"status {status} without a fault")
        traced = ["strace", "-f", "-qq", "-o", log, "-e", f"trace={call}", "-e", f"inject={call}:{action}:when={nth}"]
        traced += BESIDES.get(call, [])
        status, reader, _ = run([*traced, *program, "2", str(OPERATIONS)], oracle)
        with open(log, encoding="utf-8", errors="replace") as lines:
            text = lines.read()
        # A call that another thread's came in between of is told of in two lines; what it returned is in the second.
        names = [word for name in call.split(",") for word in (f" {name}(", f"<... {name} resumed>")]
        injected = [line for line in text.split("\n") if "(INJECTED)" in line and any(name in line for name in names)]
        struck = bool(injected) or "killed by SIGKILL" in text
        if not struck:
            if status != 0:
                raise Violation(f"status {status} without a fault, after {reader.last!r}")
            return "missed"
        if reader.last == "":
            return "loader"
        check_status(status, reader, action)
        status, reader, errors = run([*program, "3", "10"], oracle)
        if status != 0 or reader.statuses or reader.close_status != 0:
            raise Violation(f"the next process: status {status}, {reader.open_error}, {reader.statuses}, {errors!r}")
        status, _, _ = run([*program, "4", "0"], oracle)
        if status != 0:
            raise Violation(f"the last process: status {status}")
        return "struck"
    except Violation as violation:
        raise Violation(f"{media}, inject={call}:{action}:when={nth}: {violation}") from None
    finally:
        shutil.rmtree(directory)


def check_status(status, reader, action):
    if action == "signal=SIGKILL":
        return
    if reader.open_error:
        if reader.open_error[0] not in OPEN_STATUSES:
            raise Violation(f"undocumented status of open: {reader.open_error}")
        return
    if status != 0 or reader.close_status not in WRITE_STATUSES | {0}:
        raise Violation(f"status {status}, close {reader.close_status}, after {reader.last!r}")
    if not set(reader.statuses) <= WRITE_STATUSES:
        raise Violation(f"undocumented statuses of writes: {sorted(set(reader.statuses))}")


def sweep(job):
    writer, media, call, action, every = job
    counts = Counter()
    # With a life before it the run has other calls: odd and even numbers are swept apart, each to its own end.
    for first in (1, 2):
        for nth in range(first, NTH_MAX, 2 * every):
            answer = try_point(writer, media, call, action, nth)
            if answer == "missed":
                break
            counts[answer] += 1
    return call, action, counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("writer")
    parser.add_argument("--every", type=int, default=1, help="try only every so many-th call")
    options = parser.parse_args()
    probe = ["strace", "-qq", "-o", "/dev/null", "-e", "inject=getppid:error=EIO", "true"]
    if subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        print("strace cannot trace here (ptrace is not allowed)")
        return 3
    started = time.monotonic()
    jobs = []
    for media in ("file", "emulated-pm"):
        jobs += [(options.writer, media, call, f"error={errno}", options.every) for call in CALLS for errno in ERRORS]
        jobs += [(options.writer, media, call, "signal=SIGKILL", options.every) for call in KILLED_IN]
    points, calls, kills = 0, Counter(), 0
    try:
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            for call, action, counts in workers.map(sweep, jobs):
                points += counts["struck"]
                calls[call] += counts["struck"]
                if action == "signal=SIGKILL":
                    kills += counts["struck"]
    except Violation as violation:
        print(f"LOST: {violation}")
        return 1
    unreached = [call for call in CALLS if calls[call] == 0]
    print("per call: " + ", ".join(f"{call} {calls[call]}" for call in CALLS))
    print(f"faults from outside: {points} fault points, {kills} of them kills, {len(CALLS) - len(unreached)} of {len(CALLS)} "
          f"system calls reached, 0 acknowledgements lost, {time.monotonic() - started:.0f} s")
    if unreached:
        print(f"never reached: {', '.join(unreached)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
