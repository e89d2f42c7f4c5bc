#!/bin/sh
# make crash: the crash sweeps on the simulated medium. SEED, POINT and IMAGE replay what a failed sweep printed.
set -eu
cd "$(dirname "$0")/.."
if [ ! -e tests/crash.rs ] && [ ! -e tests/crash/main.rs ]; then
    echo "not run: crash sweeps because there is neither tests/crash.rs nor tests/crash/main.rs" >&2
    exit 1
fi
[ -z "${SEED-}" ] || export FLATKV_CRASH_SEED="$SEED"
[ -z "${POINT-}" ] || export FLATKV_CRASH_POINT="$POINT"
[ -z "${IMAGE-}" ] || export FLATKV_CRASH_IMAGE="$IMAGE"
exec cargo test --release --features sim --test crash -- --nocapture
