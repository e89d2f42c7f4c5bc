#!/bin/sh
# Compiles the C tests against include/ and a built library, and runs them: run.sh LIBRARY_DIR [TEST...]
# The header must compile alone as C99, C11 and C++17; the tests are C99. CC and CXX name the compilers; FLATKV_RUN
# is put before each program (valgrind). FLATKV_CFLAGS is added when a test is compiled, and FLATKV_LINK is linked instead of the
# shared library (AddressSanitizer).
set -eu
cd "$(dirname "$0")/../.."
library=$1
shift
warnings='-Wall -Wextra -Werror -pedantic'
out=$(mktemp -d "${TMPDIR:-/tmp}/flatkv-capi.XXXXXX")
trap 'rm -rf "$out"' EXIT
export LD_LIBRARY_PATH="$library${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
link=${FLATKV_LINK:-"-L$library -lflatkv"}

echo '#include "flatkv.h"' >"$out/header.c"
for standard in c99 c11; do
    ${CC:-cc} -std=$standard $warnings -Iinclude -fsyntax-only "$out/header.c"
done
${CXX:-c++} -x c++ -std=c++17 $warnings -Iinclude -fsyntax-only "$out/header.c"
echo "header: C99, C11, C++17"

for symbol in $(awk '$2 ~ /^flatkv_/ { print $2 }' tests/fixtures/symbols.txt); do
    if ! grep -q "{ \"$symbol\"," tests/capi/abuse.c; then
        echo "$symbol is exported, and no table of tests/capi/abuse.c has it" >&2
        exit 1
    fi
done

[ $# -gt 0 ] || set -- happy_paths os_writes full iterators keyspaces abuse bad_input threads fork sandbox
for test in "$@"; do
    # shellcheck disable=SC2086 # words on purpose
    ${CC:-cc} -std=c99 $warnings ${FLATKV_CFLAGS-} -O1 -g -Iinclude -pthread -c "tests/capi/$test.c" -o "$out/$test.o"
    # shellcheck disable=SC2086
    ${CC:-cc} "$out/$test.o" -o "$out/$test" -pthread $link
    mkdir "$out/$test.d"
    echo "$test:"
    # The library must write nothing of its own to stderr: whatever appears there is a test's report of its failure.
    # shellcheck disable=SC2086 # words on purpose
    if ! ${FLATKV_RUN-} "$out/$test" "$out/$test.d" 2>"$out/stderr" || [ -s "$out/stderr" ]; then
        cat "$out/stderr" >&2
        echo "tests/capi/$test.c failed" >&2
        exit 1
    fi
done

# What README shows a newcomer is about the libraries that are shipped.
[ -z "${FLATKV_LINK-}" ] || exit 0
${CC:-cc} tests/capi/newcomer.c -Iinclude -L"$library" -lflatkv -o "$out/newcomer"
[ "$("$out/newcomer" "$out/shared.fkv")" = "apple is red" ]
${CC:-cc} tests/capi/newcomer.c -Iinclude "$library/libflatkv.a" -lpthread -ldl -lm -o "$out/newcomer-static"
[ "$("$out/newcomer-static" "$out/static.fkv")" = "apple is red" ]
echo "newcomer: shared and static"
