#!/usr/bin/env python3
"""Counts the instructions of the library's calls under callgrind and compares them with those in the repository.

Time is noisy, instructions are not: what differs between two runs is the seed of the hash, by a few percent, so the median
of a few runs counts. Counted is what happens inside the exported function, per key, in a store of a few thousand keys. Another
compiler counts otherwise: the figures are judged only by the one that they were written with.

    scripts/bench_instructions.py           fails if a call takes more than TOLERANCE above its figure
    scripts/bench_instructions.py --update  writes the figures
    scripts/bench_instructions.py --why-not prints why this machine cannot count, if it cannot
"""

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys

TOLERANCE = 0.04
KEYS = 20_000
RUNS = 5
FIGURES = "tools/bench/instructions.json"
BENCH = "target/release/flatkv-bench"
OUT = "target/bench/callgrind.out"
# Kind of call, the function whose instructions are counted. The load before it goes through another one. Not put_async:
# whether the caller or the housekeeper writes a group is a matter of time.
CALLS = {
    "insert": "flatkv_put",
    "overwrite": "flatkv_put",
    "get": "flatkv_get_into",
    "miss": "flatkv_get_into",
    "ordered-get": "flatkv_get_into",
    "multi-get": "flatkv_multi_get_into",
    "batch": "flatkv_write",
}


def compiler():
    found = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout
    return re.match(r"rustc (\d+\.\d+)", found).group(1)


def why_not():
    if platform.machine() != "x86_64":
        return "the figures are those of x86-64"
    if not shutil.which("valgrind"):
        return "valgrind is not installed"
    return ""


def instructions_per_key(kind, function):
    command = [
        "valgrind",
        "-q",
        "--tool=callgrind",
        "--collect-atstart=no",
        f"--toggle-collect={function}",
        f"--callgrind-out-file={OUT}",
        BENCH,
        "calls",
        "--keys",
        str(KEYS),
        "--only",
        kind,
    ]
    subprocess.run(command, check=True)
    with open(OUT, encoding="utf-8") as file:
        total = next(int(line.split()[1]) for line in file if line.startswith("totals:"))
    return total / KEYS


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    if "--why-not" in sys.argv:
        print(why_not())
        return 0
    if why_not():
        print(f"not run: instruction counts because {why_not()}")
        return 0
    os.makedirs(os.path.dirname(OUT), exist_ok=True)
    counted = {
        kind: statistics.median(instructions_per_key(kind, function) for _ in range(RUNS))
        for kind, function in CALLS.items()
    }
    with open(FIGURES, encoding="utf-8") as file:
        known = json.load(file)
    worse = []
    print(f"{'instructions per key':<22}{'was':>8}{'is':>8}{'change':>9}")
    for kind, count in counted.items():
        was = known["instructions_per_key"].get(kind)
        change = count / was - 1 if was else 0
        print(f"{kind:<22}{was or 0:>8}{count:>8.0f}{change:>+9.1%}")
        if was and change > TOLERANCE:
            worse.append(kind)
    if "--update" in sys.argv:
        figures = {kind: round(count) for kind, count in counted.items()}
        with open(FIGURES, "w", encoding="utf-8") as file:
            json.dump({"rustc": compiler(), "instructions_per_key": figures}, file, indent=2)
            file.write("\n")
        return 0
    if known["rustc"] != compiler():
        print(f"not judged: the figures were counted with rustc {known['rustc']}, this is {compiler()}")
        return 0
    if worse:
        print(f"more than {TOLERANCE:.0%} above {FIGURES}: {', '.join(worse)}; "
              "if that has to be, `make bench-instructions UPDATE=1` writes the new figures")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
