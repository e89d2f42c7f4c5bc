#!/usr/bin/env python3
"""Power cuts and a bad page on a real DAX mount, in a guest that QEMU runs in software emulation.

    tests/guest/run.py prepare    exit 0 if it can run here; else the reason on stdout, exit 77. As root it installs
                                  what is missing from Debian
    tests/guest/run.py run        GUEST_CUTS=6 power cuts, then the bad page; SEED= repeats the moments of the cuts

The guest has 64 MiB of its memory as /dev/pmem0 (memmap=), ext4 on it with -o dax=always. Its memory is a file that
QEMU maps shared: what was stored survives when QEMU is killed, like persistent memory with caches that are flushed on
power failure. Unflushed lines are *not* lost: that is what the simulated medium is for. Shown here is the code path for
DAX: MAP_SYNC, growth, write-back, recovery, and what an unreadable page does.
"""
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/guest"
WORK = ROOT / "target/guest"
LIBRARY = ROOT / "target/release/libflatkv.so.0"
MEMORY_MIB, PM_AT_MIB, PM_MIB = 384, 256, 64
# In the order of their dependencies.
MODULES = """crypto/crc32c_generic lib/crc16 lib/libcrc32c fs/mbcache fs/jbd2/jbd2 fs/ext4/ext4
    drivers/nvdimm/libnvdimm drivers/nvdimm/nd_btt drivers/nvdimm/nd_pmem drivers/nvdimm/nd_e820""".split()
BOOT_TIMEOUT_S = 60
CUTS_DEFAULT = 6
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "cpio": "cpio",
            "mke2fs": "e2fsprogs"}


class NotRun(Exception):
    """Why the guest cannot run here."""


def command(*words, **options):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    return done.returncode, done.stdout


def missing_packages():
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    busybox = shutil.which("busybox")
    if busybox and "busybox-static" not in missing and b"ld-linux" in pathlib.Path(busybox).read_bytes()[:4096]:
        missing.append("busybox-static")
    return missing


def apt(*words):
    """apt-get, once more after an update if the lists are old."""
    code, text = command("apt-get", *words, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, cwd=WORK)
    if code != 0 and os.geteuid() == 0:
        command("apt-get", "update")
        code, text = command("apt-get", *words, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, cwd=WORK)
    return code, text.strip().splitlines()[-1:] or [""]


def kernel():
    """Debian's kernel and modules, unpacked and not installed."""
    found = sorted(WORK.glob("kernel/boot/vmlinuz-*"))
    if found:
        return found[-1]
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise NotRun("there is no apt-get to get a kernel with (only Debian's packages are used)")
    _, depends = command("apt-cache", "depends", "linux-image-amd64")
    name = re.search(r"Depends: (linux-image-\S+)", depends)
    if not name:
        raise NotRun("apt does not know linux-image-amd64")
    code, last = apt("download", "-o", "APT::Sandbox::User=root", name[1])
    packages = sorted(WORK.glob("linux-image-*.deb"))
    if code != 0 or not packages:
        raise NotRun(f"apt-get download {name[1]} failed: {last[0]}")
    unpacked = WORK / "kernel.new"
    shutil.rmtree(unpacked, ignore_errors=True)
    code, text = command("dpkg-deb", "-x", str(packages[-1]), str(unpacked))
    if code != 0:
        raise NotRun(f"dpkg-deb -x {packages[-1].name} failed: {text}")
    unpacked.rename(WORK / "kernel")
    packages[-1].unlink()
    return kernel()


def prepare():
    if os.uname().machine != "x86_64":
        raise NotRun(f"the guest is for x86_64 and this is {os.uname().machine}")
    WORK.mkdir(parents=True, exist_ok=True)
    missing = missing_packages()
    if missing:
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise NotRun(f"{' '.join(missing)} is not installed and only root on Debian can install it here")
        code, last = apt("install", "-y", "--no-install-recommends", *missing)
        if code != 0 or missing_packages():
            raise NotRun(f"apt-get install {' '.join(missing)} failed: {last[0]}")
    kernel()


def copy_into(tree, source, target):
    to = tree / str(target).lstrip("/")
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, to)


def initramfs():
    """busybox, the modules, the library with what it needs, and the test program."""
    tree = WORK / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for folder in "bin proc sys dev pool modules".split():
        (tree / folder).mkdir(parents=True)
    copy_into(tree, shutil.which("busybox"), "/bin/busybox")
    copy_into(tree, HERE / "init.sh", "/init")
    (tree / "init").chmod(0o755)
    modules = next((WORK / "kernel/lib/modules").iterdir()) / "kernel"
    order = []
    for module in MODULES:
        source = modules / f"{module}.ko"
        if source.exists():  # else it is part of this kernel
            order.append(source.name)
            copy_into(tree, source, f"/modules/{source.name}")
    (tree / "modules/order").write_text("\n".join(order) + "\n")
    program = WORK / "guest"
    code, text = command(os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror",
                         f"-I{ROOT}/include", str(HERE / "guest.c"), "-o", str(program), f"-L{LIBRARY.parent}",
                         "-lflatkv", "-pthread", "-Wl,-rpath,/lib")
    if code != 0:
        sys.exit(text)
    copy_into(tree, program, "/guest")
    copy_into(tree, LIBRARY, "/lib/libflatkv.so.0")
    _, needed = command("ldd", str(LIBRARY))
    for path in re.findall(r"(/\S+) \(0x", needed):
        copy_into(tree, os.path.realpath(path), path)
    image = WORK / "initramfs"
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    with open(image, "wb") as out:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), stdout=out, cwd=tree, check=True)
    return image


class Guest:
    """One boot."""

    last = None

    def __init__(self, memory, phase, acked):
        self.log = WORK / "serial.txt"
        self.log.write_bytes(b"")
        self.started = time.monotonic()
        Guest.last = self
        words = f"console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off memmap={PM_MIB}M!{PM_AT_MIB}M " \
                f"GUEST_PHASE={phase} GUEST_ACKED={','.join(map(str, acked))}"
        self.qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", f"{MEMORY_MIB}M",
             "-M", "pc,memory-backend=ram", "-object",
             f"memory-backend-file,id=ram,size={MEMORY_MIB}M,mem-path={memory},share=on", "-kernel", str(kernel()),
             "-initrd", str(WORK / "initramfs"), "-append", words, "-nodefaults", "-display", "none", "-no-reboot",
             "-serial", f"file:{self.log}"], stdin=subprocess.DEVNULL)

    def lines(self):
        # What comes behind the last line end may be half a line.
        return self.log.read_text(errors="replace").replace("\r", "").split("\n")[:-1]

    def wait_for(self, pattern):
        """Waits for a line; false if QEMU ended without it."""
        deadline = self.started + BOOT_TIMEOUT_S
        while True:
            running = self.qemu.poll() is None
            if any(re.match(pattern, line) for line in self.lines()):
                return True
            if not running:
                return False
            if time.monotonic() > deadline:
                self.cut()
                fail(self, f"no line like {pattern} within {BOOT_TIMEOUT_S} s")
            time.sleep(0.02)

    def cut(self):
        self.qemu.kill()
        self.qemu.wait()


def fail(guest, why):
    print(f"FAILED: {why}\nthe end of what the guest printed:")
    print("\n".join(line for line in guest.lines() if not re.match(r"a\d \d+$", line))[-3000:])
    sys.exit(1)


def one(guest, pattern):
    for line in guest.lines():
        found = re.search(pattern, line)
        if found:
            return found
    fail(guest, f"no line like {pattern}")


def check_media(guest):
    for line in ["mounted with dax=always", "statx_attr_dax 1", 'media "dax"']:
        one(guest, re.escape(line))


def check_alive(guest):
    for line in guest.lines():
        if re.match(r"LOST|WRONG|FAILED|guest program ended", line):
            guest.cut()
            fail(guest, line)


def fresh_device(memory):
    """Zeroes behind the guest's memory, and ext4 on them."""
    with open(memory, "r+b") as file:
        file.truncate(PM_AT_MIB << 20)
        file.truncate(MEMORY_MIB << 20)
    code, text = command("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-E",
                         f"offset={PM_AT_MIB << 20}", str(memory), str((PM_MIB << 20) // 4096))
    if code != 0:
        sys.exit(f"mke2fs: {text}")


def power_cuts(memory, cuts, rng):
    """Load, kill, boot, verify: `cuts` times. The last boot verifies and goes on to be cut, too. How far the guest gets
    depends on the host: when the pool is full, the next boot verifies it and the one after that begins a new pool."""
    acked = [0, 0]
    during_recovery = lost_chances = total_acked = 0
    full = False
    for boot in range(cuts + 1):
        guest = Guest(memory, "load", acked)
        if not guest.wait_for(r"opening$"):
            fail(guest, "the guest ended before the pool was opened")
        # One cut in four comes while the pool is being opened and checked, and proves nothing by itself but that the
        # boot after it recovers from a recovery that was cut.
        early = 0 < boot < cuts and rng.random() < 0.25
        if early:
            time.sleep(rng.uniform(0, 0.3))
        elif guest.wait_for(r"(a\d \d+|full|guest program ended.*)$"):
            time.sleep(0 if boot == cuts else rng.uniform(0.2, 3.0))
        check_alive(guest)
        guest.cut()
        lines = guest.lines()
        verified = [re.match(r"verified (\d+) bad (\d+)", line) for line in lines]
        verified = next((found for found in verified if found), None)
        if not verified and not early:
            fail(guest, "nothing was verified")
        check_alive(guest)
        if verified:
            check_media(guest)
            lost_chances += sum(acked)
        during_recovery += not verified
        for line in lines:
            found = re.match(r"a([01]) (\d+)$", line)
            if found:
                acked[int(found[1])] = max(acked[int(found[1])], int(found[2]))
        if boot == 0:
            for name in ["cpu has clwb", "statx_attr_dax", "media ", "media_why"]:
                print("  " + next((line for line in lines if line.startswith(name)), f"no line {name}"))
        recovered = [re.match(r"recovered (\d) (\d+) acked (\d+)", line) for line in lines]
        ahead = [int(found[2]) - int(found[3]) for found in recovered if found]
        entries = next((line for line in lines if line.startswith("recovered_entries")), "not opened")
        kind = "at the end" if boot == cuts else "during open" if not verified else "while loading"
        print(f"  boot {boot + 1}: {entries}, {f'{verified[1]} keys right' if verified else 'not verified'}, ahead of "
              f"the acknowledged {ahead}; killed {kind} after {time.monotonic() - guest.started:.1f} s; "
              f"acknowledged so far {total_acked + sum(acked)}{', pool full' if 'full' in lines else ''}", flush=True)
        if full and verified:
            fresh_device(memory)
            total_acked += sum(acked)
            acked = [0, 0]
            full = False
        else:
            full = full or "full" in lines
    print(f"power cuts {cuts}, of them {during_recovery} during open; acknowledged operations {total_acked + sum(acked)}; "
          f"acknowledgements checked after a cut {lost_chances}; lost 0")


def bad_page(memory):
    guest = Guest(memory, "poison", [0, 0])
    done = guest.wait_for(r"poison done$|guest program ended")
    if not done or "poison done" not in guest.lines():
        guest.cut()
        fail(guest, "the poison phase did not end well")
    guest.cut()
    for line in guest.lines():
        if re.match(r"injector|poisoned|default signal|guard|unreadable_pages", line):
            print("  " + line)
    found = one(guest, r"guard keys (\d+) touching (\d+) io (\d+) corrupted (\d+) served (\d+) wrong 0")
    print(f"bad page: with sigbus=guard {int(found[3]) + int(found[4])} keys of it refused (io {found[3]}, corrupted "
          f"{found[4]}), {found[5]} of {found[1]} served, the process lives; without the option SIGBUS")


def run():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that QEMU and its memory go, too
    if not LIBRARY.exists():
        subprocess.run(["make", "--no-print-directory", "lib"], cwd=ROOT, check=True)
    seed = int(os.environ.get("SEED") or time.time_ns() % 1_000_000)
    cuts = int(os.environ.get("GUEST_CUTS") or CUTS_DEFAULT)
    print(f"seed {seed} (SEED={seed} repeats the moments of the cuts)")
    initramfs()
    shared = pathlib.Path("/dev/shm")
    needed = (MEMORY_MIB + 64) << 20
    place = shared if shared.is_dir() and shutil.disk_usage(shared).free > needed else WORK
    memory = place / f"flatkv-guest-{os.getpid()}"
    try:
        with open(memory, "wb") as file:
            file.truncate(MEMORY_MIB << 20)
        fresh_device(memory)
        power_cuts(memory, cuts, random.Random(seed))
        fresh_device(memory)  # for the page that goes bad
        bad_page(memory)
    finally:
        if Guest.last:
            Guest.last.cut()
        memory.unlink(missing_ok=True)


if sys.argv[1:] == ["prepare"]:
    try:
        prepare()
    except NotRun as reason:
        print(reason)
        sys.exit(77)
elif sys.argv[1:] == ["run"]:
    run()
else:
    sys.exit(__doc__)
