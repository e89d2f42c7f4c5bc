#!/usr/bin/env bash
# make check, make test: every step with its name and duration. Usage: scripts/test.sh check|all
set -eu
cd "$(dirname "$0")/.."
. scripts/steps.sh
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

docs() { RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --features sim; }

licences() {
    cargo deny --offline check licenses bans sources
    (cd tools/bench && cargo deny --offline check licenses bans sources)
}

# With the other stores and without: `make bench` does not build them.
bench_clippy() {
    cargo clippy -p flatkv-bench --all-targets -- -D warnings
    cargo clippy -p flatkv-bench --all-targets --features peers -- -D warnings
}

scripts_parse() {
    local script
    for script in scripts/*.sh .ci/run; do bash -n "$script"; done
    find . -name target -prune -o -name '*.py' -exec python3 -c '
import ast, sys
for path in sys.argv[1:]:
    ast.parse(open(path, encoding="utf-8").read(), path)' {} +
}

check() {
    step "format" cargo fmt --all --check
    step "clippy, warnings denied" cargo clippy --all-targets --features sim -- -D warnings
    step "clippy of models in virtual time, warnings denied" \
        cargo clippy --features virtual-time --lib --bench medium_model --test virtual_time -- -D warnings
    step "clippy of what is shipped, warnings denied" cargo clippy -- -D warnings
    step "clippy of the benchmark, warnings denied" bench_clippy
    step "documentation, warnings denied" docs
    if [ -e tests/tidy.rs ]; then
        step "floors and house rules" cargo test --quiet --features sim --test tidy
    else
        not_run "floors and house rules" "there is no tests/tidy.rs"
    fi
    if [ -e mk/lib.mk ]; then
        step "header is what the source says" make --no-print-directory header-check
        step "exported symbols are the listed ones" make --no-print-directory symbols-check
    else
        not_run "header and symbols" "there is no mk/lib.mk"
    fi
    step "README matches the repository" python3 scripts/check_readme.py
    step "scripts parse" scripts_parse
    if cargo deny --version >/dev/null 2>&1; then
        step "licences of dependencies" licences
    else
        not_run "licences of dependencies" "cargo-deny is not installed (cargo install --locked cargo-deny, three minutes)"
    fi
}

# Sweeps of many thousand crashes or faults run optimised, each as a step of its own; everything else with debug checks.
sweeps="crash bit_rot faults mutants resurrection"

rust_tests() {
    local file name others=()
    for file in tests/*.rs; do
        name=$(basename "$file" .rs)
        case " $sweeps virtual_time " in
        *" $name "*) ;;
        *) others+=(--test "$name") ;;
        esac
    done
    cargo test --quiet --features sim --lib "${others[@]}"
    cargo test --quiet --features sim --doc
}

# What a sanitizer needs may be missing: then that is said.
sanitizers() {
    local kind reason
    for kind in address thread valgrind; do
        reason=$(scripts/sanitize.sh why-not "$kind")
        if [ -z "$reason" ]; then
            step "sanitize: $kind" scripts/sanitize.sh run "$kind"
        else
            not_run "sanitize: $kind" "$reason"
        fi
    done
}

sweep() { cargo test --quiet --release --features sim --test "$1" -- --nocapture; }

tests() {
    local reason
    step "Rust tests, debug, with the simulated medium" rust_tests
    step "models in virtual time" cargo test --quiet --features virtual-time --test virtual_time
    local name
    for name in $sweeps; do
        if [ -e "tests/$name.rs" ]; then step "sweep of $name, optimised" sweep "$name"; fi
    done
    step "every interleaving of the lock-free pieces" scripts/loom.sh
    step "library and C examples build" make --no-print-directory build
    if [ -x scripts/test_capi.sh ]; then
        step "C tests" scripts/test_capi.sh
    else
        not_run "C tests" "there is no scripts/test_capi.sh"
    fi
    if reason=$(tests/guest/run.py prepare); then
        step "power cuts and a bad page on a DAX mount, in a guest" tests/guest/run.py run
    else
        not_run "power cuts and a bad page on a DAX mount, in a guest" "${reason:-tests/guest/run.py prepare failed}"
    fi
    step "tests of the benchmark" cargo test --quiet -p flatkv-bench
    # No time is judged here: the run shows that the benchmark still fits the library.
    step "a fast run of the benchmark" make --no-print-directory bench FAST=1 KEYS= OPS= ROUNDS= DIR= ONLY= BASE= JSON=
    step "a fast run of the benchmark of order" make --no-print-directory bench-order FAST=1 KEYS= OPS= ROUNDS= DIR= ONLY= JSON=
    reason=$(scripts/bench_instructions.py --why-not)
    if [ -z "$reason" ]; then
        step "instructions of the library's calls" make --no-print-directory bench-instructions UPDATE=
    else
        not_run "instructions of the library's calls" "$reason"
    fi
    step "kill -9 over and over, on the shipped library" make --no-print-directory kill-loop
    step "kill -9 over and over, on full pools" make --no-print-directory kill-loop-full KILLS=200
    step "kill -9 over and over, on full devices" make --no-print-directory kill-loop-device KILLS=200
    if strace -qq -o /dev/null -e inject=getppid:error=EIO true 2>/dev/null; then
        step "faults from outside, on the shipped library" make --no-print-directory faults-outside
    else
        not_run "faults from outside" "strace is not installed or may not trace here"
    fi
    sanitizers
    step "examples run" scripts/run_examples.sh
    step "installed library is found by pkg-config" scripts/test_install.sh
    step "the main job on a small tree" scripts/test_job.sh
}

case ${1-} in
check) check ;;
all)
    check
    tests
    ;;
*)
    echo "usage: scripts/test.sh check|all" >&2
    exit 2
    ;;
esac
steps_summary
