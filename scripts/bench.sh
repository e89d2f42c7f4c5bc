#!/bin/sh
# make bench: the engine's own benchmarks.
set -eu
cd "$(dirname "$0")/.."
if ! ls benches/*.rs >/dev/null 2>&1; then
    echo "not run: benchmarks because there is no benches/*.rs" >&2
    exit 1
fi
exec cargo bench
