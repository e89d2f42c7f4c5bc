#!/usr/bin/env bash
# make sanitize: Rust tests under AddressSanitizer and ThreadSanitizer, C tests under AddressSanitizer and valgrind.
# Usage: scripts/sanitize.sh run address|thread|valgrind, or all of them without arguments; scripts/sanitize.sh why-not KIND
# prints why this machine cannot run it, or nothing. Any report is a failure.
# The stable compiler ships the sanitizers' runtimes, and RUSTC_BOOTSTRAP lets it take the flag. std is not instrumented,
# which is why src/sync.rs has locks that are compiled with the program.
set -eu
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
host=$(rustc -vV | sed -n 's/^host: //p')

why_not() {
    local runtime
    case $1 in
    valgrind)
        command -v valgrind >/dev/null 2>&1 || echo "valgrind is not installed"
        return
        ;;
    address) runtime=asan ;;
    thread) runtime=tsan ;;
    *) echo "usage: $0 [run|why-not address|thread|valgrind]" >&2 && exit 2 ;;
    esac
    ls "$(rustc --print sysroot)/lib/rustlib/$host/lib"/librustc-*_rt."$runtime".a >/dev/null 2>&1 ||
        echo "the compiler came without the runtime of the $1 sanitizer"
}

# sanitized KIND CARGO_ARGS...: cargo test with a sanitizer, in a target folder of its own. A named target keeps build
# scripts and procedural macros out of it.
sanitized() {
    local kind=$1
    shift
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=$kind -Cunsafe-allow-abi-mismatch=sanitizer" \
        cargo test --quiet --features sim --profile sanitize --target "$host" --target-dir "target/sanitize-$kind" "$@"
}

# Single-threaded, everything that has unsafe code below it or reads untrusted bytes.
address() {
    export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1 FLATKV_HISTORIES_SHARE=100
    sanitized address --lib --test corpus --test smoke --test linearizability -- \
        --skip media::sim --skip memory_per_key --skip figures
    address_c
}

# The C tests, instrumented by their compiler, with the library, instrumented by rustc, and rustc's runtime for both: the
# two runtimes do not go together. All of the runtime is linked, because it has to see every malloc and free.
address_c() {
    local runtime
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer" \
        cargo build --quiet --lib --profile sanitize --target "$host" --target-dir target/sanitize-address
    runtime=$(ls "$(rustc --print sysroot)/lib/rustlib/$host/lib"/librustc-*_rt.asan.a)
    FLATKV_CFLAGS="-fsanitize=address -fno-omit-frame-pointer" \
        FLATKV_LINK="target/sanitize-address/$host/sanitize/libflatkv.a
            -Wl,--whole-archive $runtime -Wl,--no-whole-archive -Wl,--export-dynamic -ldl -lrt -lm -lresolv -lgcc_s" \
        tests/capi/run.sh "target/sanitize-address/$host/sanitize" happy_paths iterators keyspaces abuse bad_input
}

# Whatever runs on several threads: the races of the index, of handles and of drains, histories on whole stores, and
# writers to keyspaces beside whoever drops them.
# Passed over is what std does without instrumentation, see tests/tsan_std.txt.
thread() {
    export TSAN_OPTIONS=suppressions=$PWD/tests/tsan_std.txt:second_deadlock_stack=1 FLATKV_HISTORIES_SHARE=100
    sanitized thread --lib --test linearizability --test keyspaces -- --test-threads 1 \
        capi:: racing_ every_displaced no_key_is_lost_under for_each_shows media::file engine:: histories_ \
        clearing_and_dropping_beside
}

# What is lost for good, or read or written where nothing is.
valgrind_c() {
    make --no-print-directory lib
    FLATKV_RUN="valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite" \
        tests/capi/run.sh target/release happy_paths iterators keyspaces abuse bad_input
}

case ${1-all} in
why-not) why_not "$2" ;;
run)
    case $2 in
    address | thread) "$2" ;;
    *) valgrind_c ;;
    esac
    ;;
all)
    . scripts/steps.sh
    for kind in address thread valgrind; do
        reason=$(why_not "$kind")
        if [ -z "$reason" ]; then
            step "sanitize: $kind" scripts/sanitize.sh run "$kind"
        else
            not_run "sanitize: $kind" "$reason"
        fi
    done
    steps_summary
    ;;
*) why_not "" ;;
esac
