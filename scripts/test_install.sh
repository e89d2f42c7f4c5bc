#!/usr/bin/env bash
# Installs into a temporary prefix, builds hello.c with what pkg-config says (shared and static), runs both, uninstalls.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
make --no-print-directory install PREFIX="$prefix" LIBDIR="$prefix/lib" INCLUDEDIR="$prefix/include" DESTDIR=
if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
    pkg-config --modversion flatkv
    flags=$(pkg-config --cflags --libs flatkv)
    private=$(sed -n 's/^Libs.private: //p' "$PKG_CONFIG_PATH/flatkv.pc")
else
    echo "not run: pkg-config on flatkv.pc because pkg-config is not installed"
    flags="-I$prefix/include -L$prefix/lib -lflatkv"
    private=$(sed -n 's/^Libs.private: //p' "$prefix/lib/pkgconfig/flatkv.pc")
fi
# shellcheck disable=SC2086 # the flags are words
${CC:-cc} examples/c/hello.c $flags -o "$work/shared"
LD_LIBRARY_PATH=$prefix/lib "$work/shared" "$work/shared.fkv"
# shellcheck disable=SC2086
${CC:-cc} examples/c/hello.c -I"$prefix/include" "$prefix/lib/libflatkv.a" $private -o "$work/static"
"$work/static" "$work/static.fkv"
make --no-print-directory uninstall PREFIX="$prefix" LIBDIR="$prefix/lib" INCLUDEDIR="$prefix/include" DESTDIR=
left=$(find "$prefix" -not -type d)
[ -z "$left" ] || {
    echo "left behind by uninstall: $left" >&2
    exit 1
}
