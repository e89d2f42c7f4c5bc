#!/bin/sh
# make bench. Usage: scripts/bench.sh own, with KEYS OPS VALUE ROUNDS FAST DIR ONLY BASE JSON from the environment.
set -eu
cd "$(dirname "$0")/.."
command=${1:?usage: scripts/bench.sh own}

cargo build --quiet --release -p flatkv-bench

set -- --json "${JSON:-target/bench/$command.json}" --dir "${DIR:-target/bench}"
[ -z "${KEYS:-}" ] || set -- "$@" --keys "$KEYS"
[ -z "${OPS:-}" ] || set -- "$@" --ops "$OPS"
[ -z "${VALUE:-}" ] || set -- "$@" --value "$VALUE"
[ -z "${ROUNDS:-}" ] || set -- "$@" --rounds "$ROUNDS"
[ -z "${ONLY:-}" ] || set -- "$@" --only "$ONLY"
[ -z "${BASE:-}" ] || set -- "$@" --base "$BASE"
[ -z "${FAST:-}" ] || set -- "$@" --fast
target/release/flatkv-bench "$command" "$@"
# Recovery has a benchmark of its own.
[ -n "${FAST:-}${ONLY:-}" ] || cargo bench --quiet --bench recovery -- --keys "${KEYS:-10000000}"
