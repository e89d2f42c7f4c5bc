#!/bin/sh
# make crash: the crash sweeps on the simulated medium. SEED, HISTORY, POINT and IMAGE, which the tests read from the
# environment, replay what a failed sweep printed.
set -eu
cd "$(dirname "$0")/.."
exec cargo test --release --features sim --test crash -- --nocapture
