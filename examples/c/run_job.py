#!/usr/bin/env python3
"""The main job: load a real directory tree into a store, kill the loader in the middle, prove that nothing acknowledged
is lost, finish, read everything back, and say what it cost.

The loader is examples/c/load_tree.c, linked against libflatkv.so. It writes one record into a pipe for every file whose
put returned. When a number of records drawn from 30 to 70 % of the files has arrived, it gets SIGKILL. The pipe holds
few records, so the loader cannot run far ahead of what is counted here. A new process then opens the store.

What SIGKILL shows: a process may die at any moment. It does not show a power cut, because the operating system goes on
and keeps its page cache; power cuts are simulated by the crash tests.

Exit status: 0 all as it should be, 1 something is wrong, 2 wrong usage, 3 nothing could be run here.
"""

import argparse
import contextlib
import fcntl
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
FILES_MIN = 10  # fewer: no number of files lies well inside 30 to 70 %
KILL_FRACTION = (0.30, 0.70)
PIPE_PAGE_BYTES = 4096
SILENCE_S_MAX = 300  # the loader is taken for hung when it acknowledges nothing for so long
SPACE_FACTOR = 1.5  # free space wanted, as a multiple of the payload
SPACE_SPARE_BYTES = {"emulated-pm": 32 * MIB}  # beyond that factor: the pool grows by segments
SPACE_SPARE_BYTES_DEFAULT = 128 * MIB
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


class JobFailed(Exception):
    """Something is not as it should be; the text says what."""


class CannotRun(Exception):
    """This machine lacks something that the run needs; the text says what."""


def say(text):
    print(text, flush=True)


# ---- where and what ---------------------------------------------------------------------------------------------


def default_trees():
    """/usr/include and the Rust toolchain's lib folder (values of bytes to more than 100 MiB), where they exist."""
    trees = ["/usr/include"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        asked = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True)
        trees.append(os.path.join(asked.stdout.strip(), "lib"))
    found = [tree for tree in trees if os.path.isdir(tree)]
    if not found:
        raise CannotRun("there is neither " + " nor ".join(trees) + ": choose a tree with DIR=")
    return found


def file_system_of(path):
    """(type, mount point) of the file system that holds path, from /proc/self/mounts."""
    path = os.path.realpath(path)
    best = ("unknown", "/")
    with contextlib.suppress(OSError), open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            _, mount_point, kind = line.split()[:3]
            mount_point = mount_point.encode().decode("unicode_escape")
            inside = path == mount_point or path.startswith(mount_point.rstrip("/") + "/")
            if inside and len(mount_point) >= len(best[1]):
                best = (kind, mount_point)
    return best


def free_bytes(path):
    at = os.statvfs(path)
    return at.f_bavail * at.f_frsize


def available_memory_bytes():
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62


def disk_pool_folder(chosen):
    """A folder for the pool on something that outlives the machine's memory, if there is one."""
    if chosen:
        return chosen
    candidates = [tempfile.gettempdir(), "/var/tmp", os.getcwd()]
    for folder in candidates:
        if os.access(folder, os.W_OK) and file_system_of(folder)[0] not in MEMORY_FILE_SYSTEMS:
            return folder
    return candidates[0]


class Medium:
    """One run of the job: which medium, where, and what it promises."""

    def __init__(self, media, folder, limit_bytes):
        self.media, self.folder, self.limit_bytes = media, folder, limit_bytes
        kind, mount_point = file_system_of(folder)
        self.place = f"{kind} at {mount_point}"
        if media == "emulated-pm":
            self.label, self.promise = "emulated PM", "emulated, does not survive a power cut"
        elif kind in MEMORY_FILE_SYSTEMS:
            self.label, self.promise = media, f"files in memory ({kind}), do not survive a power cut"
        else:
            self.label, self.promise = media, "power-safe"
        self.limit_to_space()

    def limit_to_space(self):
        room = free_bytes(self.folder)
        if file_system_of(self.folder)[0] in MEMORY_FILE_SYSTEMS:
            room = min(room, available_memory_bytes() // 2)
        spare = SPACE_SPARE_BYTES.get(self.media, SPACE_SPARE_BYTES_DEFAULT)
        fits = int(max(0, room - spare) / SPACE_FACTOR)
        if fits < self.limit_bytes:
            say(f"{self.label}: {self.folder} has room for {room // MIB} MiB: taking {fits // MIB} MiB of files "
                f"instead of {self.limit_bytes // MIB} MiB")
            self.limit_bytes = fits
        if self.limit_bytes < MIB:
            raise CannotRun(f"{self.folder} has only {room // MIB} MiB free, {spare // MIB + 2} are needed")


# ---- the loader -------------------------------------------------------------------------------------------------


def parse_report(text):
    """The `name=value` lines of load_tree; the last of equal names counts, the first `stats` is kept as `stats_open`."""
    report = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == "stats":
            with contextlib.suppress(ValueError):
                value = json.loads(value)
            if not isinstance(value, dict):
                value = {}
            report.setdefault("stats_open", value)
        else:
            with contextlib.suppress(ValueError):
                value = float(value) if "." in value else int(value)
        report[name] = value
    return report


class Acks:
    """Acknowledgements as they arrive: kept in memory and written to a file for load_tree."""

    def __init__(self, path):
        self.path, self.count, self.put_ns, self.rest = path, 0, [], b""
        self.first_at = self.last_at = None
        self.file = open(path, "ab")

    def feed(self, data):
        self.file.write(data)
        *whole, self.rest = (self.rest + data).split(b"\0")
        for record in whole:
            self.put_ns.append(int(record.split(b" ", 2)[1]))
        if whole:
            self.count += len(whole)
            self.last_at = time.monotonic()
            self.first_at = self.first_at or self.last_at

    def end_of_process(self):
        """Cuts off a record that its writer did not finish: it was not acknowledged."""
        self.file.flush()
        os.truncate(self.path, os.path.getsize(self.path) - len(self.rest))
        self.rest = b""

    def close(self):
        self.file.close()


def ack_pipe_pages(files):
    """How many acknowledgements the pipe may hold: few, and less than one in a hundred."""
    pages = 1
    while pages < 16 and pages * 2 <= files // 100:
        pages *= 2
    return pages


def ack_pipe(files):
    """A pipe in packet mode: one record per page, so its size bounds how far the loader can be ahead of the count."""
    try:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    except OSError:  # a kernel without packet mode
        reader, writer = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, ack_pipe_pages(files) * PIPE_PAGE_BYTES)
    return reader, writer


class Loader:
    """Runs load_tree against one store."""

    def __init__(self, program, store, trees, files_list, media, threads, seed):
        self.program, self.store, self.trees, self.list = program, store, trees, files_list
        self.common = ["--list", files_list, "--threads", str(threads), "--seed", str(seed), "--option", f"media={media}"]

    def command(self, name, *more):
        return [self.program, name, "--store", self.store, *self.common, *more, *self.trees]

    def run(self, name, *more):
        """Runs a command to its end and returns its report."""
        done = subprocess.run(self.command(name, *more), stdout=subprocess.PIPE, text=True, check=False)
        report = parse_report(done.stdout)
        if done.returncode != 0:
            found = ", ".join(f"{report[key]} {key}" for key in ("missing", "wrong") if report.get(key))
            raise JobFailed(f"load_tree {name} ended with status {done.returncode}" + (f": {found}" if found else ""))
        return report

    def run_writer(self, name, acks, files, kill_at=None):
        """Runs load or resume; with kill_at, sends SIGKILL when so many files are acknowledged. Returns its report."""
        reader, writer = ack_pipe(files)
        with tempfile.TemporaryFile("w+", dir=os.path.dirname(acks.path)) as output:
            child = subprocess.Popen(self.command(name, "--ack-fd", str(writer)), stdout=output, pass_fds=[writer])
            os.close(writer)
            try:
                self.collect(child, reader, acks, kill_at)
                child.wait()
            finally:
                os.close(reader)
                if child.poll() is None:
                    child.kill()
                    child.wait()
                acks.end_of_process()
            output.seek(0)
            self.check_end(name, child.returncode, acks, kill_at)
            return parse_report(output.read())

    @staticmethod
    def collect(child, reader, acks, kill_at):
        killed = False
        while True:
            if not select.select([reader], [], [], SILENCE_S_MAX)[0]:
                raise JobFailed(f"the loader acknowledged nothing for {SILENCE_S_MAX} s")
            data = os.read(reader, 1 << 16)
            if not data:
                return
            acks.feed(data)
            if kill_at is not None and not killed and acks.count >= kill_at:
                child.send_signal(signal.SIGKILL)
                killed = True

    @staticmethod
    def check_end(name, returncode, acks, kill_at):
        if kill_at is None:
            if returncode != 0:
                raise JobFailed(f"load_tree {name} ended with status {returncode} after {acks.count} acknowledgements")
        elif returncode != -signal.SIGKILL:
            raise JobFailed(f"load_tree {name} ended with status {returncode} after {acks.count} acknowledgements, "
                            f"it was to be killed at {kill_at}")


# ---- one run ----------------------------------------------------------------------------------------------------


def disk_bytes(path):
    """What the pool takes on its medium."""
    if os.path.isdir(path):
        return sum(disk_bytes(entry.path) for entry in os.scandir(path))
    return os.stat(path).st_blocks * 512


def check_count(what, stats, least, most):
    """`keys` of the statistics, if they are there, must lie within bounds: nothing lost, nothing made up."""
    keys = stats.get("keys")
    if keys is not None and not least <= keys <= most:
        raise JobFailed(f"{what}: the store counts {keys} keys, expected {least}" + (f" to {most}" if most > least else ""))


def list_trees(program, trees, limit_bytes, path):
    command = [program, "list", "--list", path, "--max-mib", str(limit_bytes // MIB), *trees]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise JobFailed(f"load_tree list ended with status {done.returncode}")
    listed = parse_report(done.stdout)
    skipped = ", ".join(f"{listed['skipped_' + kind]} {kind.replace('_', ' ')}" for kind in
                        ("symlinks", "unreadable", "special", "too_large", "over_limit") if listed["skipped_" + kind])
    say(f"      {listed['files']} files, {listed['bytes'] / MIB:.1f} MiB; passed over: {skipped or 'nothing'}")
    if listed["files"] < FILES_MIN:
        raise CannotRun(f"{' '.join(trees)}: {listed['files']} files; the job needs at least {FILES_MIN} files that fit")
    return listed


def draw_kill_point(draw, files, threads):
    """A number of acknowledgements; what may still arrive between the count and the kill is kept below 70 %, too."""
    low, high = (round(files * fraction) for fraction in KILL_FRACTION)
    return draw.randint(low, max(low, high - ack_pipe_pages(files) - threads))


def run_job(medium, options, seed):
    """The whole job on one medium. Returns what the table shows."""
    work = tempfile.mkdtemp(prefix="flatkv-job-", dir=medium.folder)
    try:
        return run_job_in(work, medium, options, seed)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run_job_in(work, medium, options, seed):
    draw = random.Random(f"{seed} {medium.media}")
    files_list, store = os.path.join(work, "files"), os.path.join(work, "tree.fkv")
    say(f"\n== {medium.label}: {medium.promise}; pool on {medium.place} ==")
    say(f"[1/5] list {' '.join(options.trees)}")
    listed = list_trees(options.program, options.trees, medium.limit_bytes, files_list)
    files = listed["files"]
    loader = Loader(options.program, store, options.trees, files_list, medium.media, options.threads, draw.randrange(1, 1 << 32))

    kill_at = draw_kill_point(draw, files, options.threads)
    say(f"[2/5] load; SIGKILL at acknowledgement {kill_at} of {files} (drawn from 30-70 %, SEED={seed})")
    acks = Acks(os.path.join(work, "acks"))
    with contextlib.closing(acks):
        loader.run_writer("load", acks, files, kill_at)
        killed_at, killed_s = acks.count, acks.last_at - acks.first_at
        if killed_at >= files:
            raise JobFailed(f"all {files} files were acknowledged before the kill arrived: nothing is shown")
        say(f"\n      killed with {killed_at} files acknowledged ({100 * killed_at / files:.0f} %)")

        say(f"[3/5] reopen; every one of the {killed_at} acknowledged files must be there, byte for byte")
        verified = loader.run("verify", "--ack", acks.path)
        if verified["done"] + verified["changed"] + verified["unreadable"] != killed_at:
            raise JobFailed(f"{verified['done']} files verified, {killed_at} were acknowledged")
        check_count("after the kill", verified["stats_open"], killed_at, killed_at + options.threads)

        say("[4/5] resume: put what is not there yet")
        resumed = loader.run_writer("resume", acks, files)
        unreadable = resumed["unreadable"]
        if resumed["done"] + resumed["present"] + unreadable < files:
            raise JobFailed(f"resume handled {resumed['done'] + resumed['present'] + unreadable} of {files} files")

    say("[5/5] reopen, read everything back and compare")
    pool_on_disk = disk_bytes(store)
    read = loader.run("readback", "--ack", acks.path)
    checked = read["done"] + read["changed"] + read["unreadable"]
    if checked != files:
        raise JobFailed(f"{checked} of {files} files read back")
    check_count("after everything was loaded", read["stats"], files - unreadable, files)
    return {"medium": medium, "files": files, "listed": listed, "killed_at": killed_at, "killed_s": killed_s, "acks": acks,
            "verified": verified, "resumed": resumed, "read": read, "pool_on_disk": pool_on_disk, "seed": seed}


# ---- the table --------------------------------------------------------------------------------------------------


def percentile_us(ns, fraction):
    if not ns:
        return "-"
    ns = sorted(ns)
    return f"{ns[min(len(ns) - 1, int(len(ns) * fraction))] / 1000:.1f} us"


def rate(count, seconds):
    return f"{count / seconds:,.0f}" if seconds else "-"


def bytes_per_key(value, keys):
    return "not in stats" if value is None else f"{value / keys:.1f} B/key ({value:,} B)"


def rows_of(run):
    medium, read, resumed, acks = run["medium"], run["read"], run["resumed"], run["acks"]
    after_kill, stats = run["verified"]["stats_open"], read["stats"]
    keys = stats.get("keys") or run["files"]
    payload = read["bytes"]
    pool_bytes = stats.get("pool_bytes", run["pool_on_disk"])
    rss = (read["rss_anon_after_open_kib"] - read["rss_anon_before_open_kib"]) * 1024
    live = stats.get("live_bytes")
    yield "medium", f"{stats.get('media', medium.media)} ({medium.promise})"
    yield "why this medium", stats.get("media_why", "not in stats")
    yield "pool on", medium.place
    yield "files", f"{run['files']:,}"
    yield "bytes", f"{payload:,} ({payload / MIB:.1f} MiB)"
    yield "killed with", f"{run['killed_at']:,} acknowledged ({100 * run['killed_at'] / run['files']:.0f} %), all proved"
    yield "files changed meanwhile", f"{read['changed'] + read['unreadable']:,}"
    yield "puts/s, tree read included", rate(acks.count - 1, run["killed_s"] + resumed["seconds"])
    yield "puts/s inside put, a thread", rate(len(acks.put_ns), sum(acks.put_ns) / 1e9)
    yield "put p50 / p99", f"{percentile_us(acks.put_ns, 0.5)} / {percentile_us(acks.put_ns, 0.99)}"
    yield "gets/s, compare included", rate(run["files"], read["seconds"])
    yield "gets/s inside get, a thread", rate(run["files"], read["op_seconds"])
    yield "get p50 / p99", f"{read['op_p50_ns'] / 1000:.1f} us / {read['op_p99_ns'] / 1000:.1f} us"
    yield "pool / payload", f"{pool_bytes / payload:.3f} ({pool_bytes / MIB:.1f} MiB, {run['pool_on_disk'] / MIB:.1f} on the medium)"
    yield "live / payload", "not in stats" if live is None else f"{live / payload:.3f} ({live / MIB:.1f} MiB)"
    yield "DRAM: index", bytes_per_key(stats.get("index_bytes"), keys)
    yield "DRAM: RssAnon of the open", bytes_per_key(rss, keys)
    yield "open after the kill", f"{run['verified']['open_ns'] / 1e6:.1f} ms (of that recovery: {after_kill.get('open_ms', 'not in stats')} ms)"
    yield "entries recovered", str(after_kill.get("recovered_entries", "not in stats"))
    yield "clean open", f"{read['open_ns'] / 1e6:.1f} ms"


def print_table(runs, not_run):
    say("\n=== summary " + "=" * 68)
    tables = [dict(rows_of(run)) for run in runs]
    for number, table in enumerate(tables):
        if number:
            say("-" * 80)
        for name, value in table.items():
            say(f"{name:<28} {value}")
    for medium, reason in not_run:
        say("-" * 80)
        say(f"not run: {medium} because {reason}")
    say("=" * 80)
    say("Times are of this machine now, with the operating system's cache warm. With few keys RssAnon is mostly fixed cost.")
    return tables


# ---- main -------------------------------------------------------------------------------------------------------


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("program", help="the built load_tree")
    parser.add_argument("trees", nargs="*", metavar="DIR", help="what to load (default: /usr/include and Rust's lib folder)")
    parser.add_argument("--max-mib", type=int, default=400, help="load at most so many MiB, shared by the DIRs (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads that write and read (default %(default)s)")
    parser.add_argument("--seed", type=int, help="repeats order and kill point of an earlier run")
    parser.add_argument("--pool-dir", help="where the pool goes (default: a temporary folder, removed at the end)")
    parser.add_argument("--media", action="append", help="only this medium: auto, file, dax, emulated-pm; may be repeated")
    parser.add_argument("--json", help="also write the table to this file")
    options = parser.parse_intermixed_args()
    if options.max_mib < 1 or not 1 <= options.threads <= 64:
        parser.error("--max-mib takes 1 or more, --threads 1 to 64")
    if not os.access(options.program, os.X_OK):
        parser.error(f"{options.program} is not a program: `make run` builds it")
    return options


def folder_for(media, options):
    if media != "emulated-pm":
        folder = disk_pool_folder(options.pool_dir)
    elif os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK):
        folder = "/dev/shm"
    else:
        raise CannotRun("there is no writable /dev/shm")
    return folder


def run_all(options, seed):
    runs, not_run = [], []
    for media in options.media or ["auto", "emulated-pm"]:
        try:
            medium = Medium(media, folder_for(media, options), options.max_mib * MIB)
            runs.append(run_job(medium, options, seed))
        except CannotRun as reason:
            say(f"not run: {media} because {reason}")
            not_run.append((media, reason))
    return runs, not_run


def stop(number, _frame):
    raise KeyboardInterrupt(signal.Signals(number).name)


def main():
    options = parse_arguments()
    signal.signal(signal.SIGTERM, stop)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    say(f"SEED={seed}")
    try:
        options.trees = [os.path.abspath(tree) for tree in options.trees] or default_trees()
        for folder in options.trees + ([options.pool_dir] if options.pool_dir else []):
            if not os.path.isdir(folder):
                raise CannotRun(f"{folder} is not a directory")
        runs, not_run = run_all(options, seed)
    except CannotRun as reason:
        say(f"not run: {reason}")
        return 3
    except JobFailed as failure:
        say(f"\nFAILED: {failure}\nrepeat with SEED={seed}")
        return 1
    except KeyboardInterrupt:
        say("\nstopped; the pools are removed")
        return 130
    if not runs:
        return 3
    tables = print_table(runs, not_run)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"seed": seed, "runs": tables, "not_run": [[m, str(r)] for m, r in not_run]}, file, indent=1)
    # Emulated PM is an extra; a job that did not run on the medium that was asked for has shown nothing.
    return 3 if any(media != "emulated-pm" for media, _ in not_run) else 0


if __name__ == "__main__":
    sys.exit(main())
