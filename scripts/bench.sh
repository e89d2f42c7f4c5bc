#!/bin/sh
# make bench, bench-order, bench-peers. Usage: scripts/bench.sh own|order|peers, with KEYS OPS VALUE ROUNDS FAST CPU_TIME DIR ONLY BASE JSON
# RATE SYNC_RATE TIME_MS PLOTS from the environment.
set -eu
cd "$(dirname "$0")/.."
command=${1:?usage: scripts/bench.sh own|order|peers}

# A fast run, and one of a part, do not replace the results in the repository.
results=target/bench
case $command in
own | order) cargo build --quiet --release -p flatkv-bench ;;
peers)
    cargo build --quiet --release -p flatkv-bench --features peers
    [ -n "${FAST:-}${ONLY:-}" ] || results=docs/performance
    ;;
esac
mkdir -p target/bench "$results"

set -- --dir "${DIR:-target/bench}" --json "${JSON:-$results/$command.json}"
[ "$command" != peers ] || set -- "$@" --plots "${PLOTS:-$results}"
[ -z "${KEYS:-}" ] || set -- "$@" --keys "$KEYS"
[ -z "${OPS:-}" ] || set -- "$@" --ops "$OPS"
[ -z "${VALUE:-}" ] || set -- "$@" --value "$VALUE"
[ -z "${ROUNDS:-}" ] || set -- "$@" --rounds "$ROUNDS"
[ -z "${ONLY:-}" ] || set -- "$@" --only "$ONLY"
[ -z "${BASE:-}" ] || set -- "$@" --base "$BASE"
[ -z "${RATE:-}" ] || set -- "$@" --rate "$RATE"
[ -z "${SYNC_RATE:-}" ] || set -- "$@" --sync-rate "$SYNC_RATE"
[ -z "${TIME_MS:-}" ] || set -- "$@" --time-ms "$TIME_MS"
[ -z "${CPU_TIME:-}" ] || set -- "$@" --cpu-time
[ -z "${FAST:-}" ] || set -- "$@" --fast
target/release/flatkv-bench "$command" "$@"
# Recovery has a benchmark of its own.
[ "$command" != own ] || [ -n "${FAST:-}${ONLY:-}" ] || cargo bench --quiet --bench recovery -- --keys "${KEYS:-10000000}"
