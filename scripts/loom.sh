#!/bin/sh
# make loom: tests/loom.rs with every interleaving. A target folder of its own, because all crates see the cfg.
set -eu
cd "$(dirname "$0")/.."
RUSTFLAGS="--cfg loom ${RUSTFLAGS-}" exec cargo test --quiet --release --target-dir target/loom --test loom -- "$@"
