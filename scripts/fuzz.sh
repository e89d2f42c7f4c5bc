#!/bin/sh
# make fuzz: libFuzzer on the stable toolchain. Usage: scripts/fuzz.sh SECONDS [TARGET...]
# Each target runs for SECONDS on one core; new inputs stay in target/fuzz-corpus, failures in fuzz/artifacts.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- open_image decoders ops capi
host=$(rustc -vV | sed -n 's/^host: //p')

# What cargo-fuzz passes to rustc. A target triple is named so that build scripts are built without it.
coverage='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cforce-frame-pointers=yes'
# shellcheck disable=SC2086 # words on purpose
RUSTFLAGS="$(echo $coverage)" cargo build --quiet --package flatkv-fuzz --profile fuzz --target "$host" --target-dir target/fuzz

mkdir -p fuzz/artifacts
for target in "$@"; do
    grown=target/fuzz-corpus/$target
    mkdir -p "$grown"
    echo "== fuzz $target, $seconds s"
    # What takes 10 s or 2 GiB is a finding, too.
    if ! nice "target/fuzz/$host/fuzz/$target" "$grown" "fuzz/corpus/$target" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=2048 -print_final_stats=1 \
        -artifact_prefix="fuzz/artifacts/$target-" 2>"target/fuzz-$target.log"; then
        tail -n 60 "target/fuzz-$target.log" >&2
        echo "fuzz $target failed: fuzz/artifacts has the input; keep it in fuzz/corpus/$target when it is fixed" >&2
        exit 1
    fi
    grep -E '^(stat::number_of_executed_units|stat::average_exec_per_sec|stat::peak_rss_mb)' "target/fuzz-$target.log"
done
