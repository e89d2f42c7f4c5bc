#!/usr/bin/env bash
# Runs every example, twice on one pool: the second time the store is there already.
# load_tree has its own test (scripts/test_job.sh).
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ran=0

# run_twice NAME PROGRAM
run_twice() {
    local turn
    for turn in 1 2; do
        printf '%s, run %s: ' "$1" "$turn"
        "$2" "$work/${1//\//-}.fkv"
    done
    ran=$((ran + 1))
}

# As a newcomer builds it: nothing but the header and the library.
${CC:-cc} examples/c/hello.c -Iinclude -Ltarget/release -lflatkv -o "$work/newcomer"
export LD_LIBRARY_PATH=$PWD/target/release
run_twice c/hello-as-a-newcomer-builds-it "$work/newcomer"
[ "$("$work/newcomer" "$work/c-hello-as-a-newcomer-builds-it.fkv")" = "greeting = hello, durable world" ]
unset LD_LIBRARY_PATH

for source in $(grep -l '^int main\b' examples/c/*.c); do
    name=$(basename "$source" .c)
    [ "$name" = load_tree ] || run_twice "c/$name" "target/examples/c/$name"
done

cargo build --quiet --examples
for source in examples/rust/*.rs; do
    name=$(basename "$source" .rs)
    run_twice "rust/$name" "${CARGO_TARGET_DIR:-target}/debug/examples/$name"
done
echo "$ran examples ran"
