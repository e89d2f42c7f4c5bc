#!/usr/bin/env bash
# The main job on a small tree of odd files, and the proof that its checks can fail.
set -eu
cd "$(dirname "$0")/.."
program=target/examples/c/load_tree
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 scripts/small_tree.py "$work/tree"

python3 examples/c/run_job.py "$program" --threads 3 "$work/tree"

# must_fail WHAT EXPECTED_TEXT COMMAND...: the command must end with status 1 and say so.
must_fail() {
    local what=$1 expected=$2 status=0
    shift 2
    "$@" >"$work/out" 2>&1 || status=$?
    if [ "$status" -ne 1 ] || ! grep -q "$expected" "$work/out"; then
        cat "$work/out"
        echo "the check is blind: $what gave status $status, expected 1 and \"$expected\"" >&2
        exit 1
    fi
    echo "noticed: $what"
}

"$program" load --store "$work/pool.fkv" --ack "$work/acks" "$work/tree" >"$work/out" 2>&1

cp "$work/acks" "$work/acks-more"
printf '3 0 0000000000000000 files/never-loaded\0' >>"$work/acks-more"
must_fail "an acknowledged file that is not in the store" "although it was acknowledged" \
    "$program" verify --store "$work/pool.fkv" --ack "$work/acks-more" "$work/tree"

cp -r "$work/tree/files" "$work/other"
printf x >>"$work/other/3/3.bin"
mkdir "$work/changed" && mv "$work/other" "$work/changed/files"
must_fail "a file with other bytes than the store" "the store holds other bytes" \
    "$program" readback --store "$work/pool.fkv" "$work/changed"

must_fail "a pool that is not there" "load_tree: open " \
    "$program" verify --store "$work/no-such-pool.fkv" --ack "$work/acks" "$work/tree"
