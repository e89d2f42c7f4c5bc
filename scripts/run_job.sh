#!/bin/sh
# make run: turns its variables into arguments of examples/c/run_job.py. Usage: scripts/run_job.sh LOAD_TREE
set -eu
cd "$(dirname "$0")/.."
program=$1
set --
[ -z "${MAX_MIB-}" ] || set -- "$@" --max-mib "$MAX_MIB"
[ -z "${THREADS-}" ] || set -- "$@" --threads "$THREADS"
[ -z "${POOL_DIR-}" ] || set -- "$@" --pool-dir "$POOL_DIR"
[ -z "${SEED-}" ] || set -- "$@" --seed "$SEED"
for media in ${MEDIA-}; do set -- "$@" --media "$media"; done
for dir in ${DIR-}; do set -- "$@" "$dir"; done
exec python3 examples/c/run_job.py "$program" "$@"
