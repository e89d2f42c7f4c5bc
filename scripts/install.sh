#!/bin/sh
# make install, make uninstall. Usage: scripts/install.sh install|uninstall BUILT_LIBRARY_FOLDER
# PREFIX, LIBDIR and INCLUDEDIR say where the files belong, DESTDIR is put before all of them.
set -eu
cd "$(dirname "$0")/.."
action=$1
built=$2
: "${PREFIX:=/usr/local}"
: "${LIBDIR:=$PREFIX/lib}"
: "${INCLUDEDIR:=$PREFIX/include}"
: "${DESTDIR:=}"
lib=$DESTDIR$LIBDIR
include=$DESTDIR$INCLUDEDIR

# What a program has to add when it links the static library: what this toolchain says an empty one needs.
private_libs() {
    empty=$(mktemp -d)
    echo 'pub fn nothing() {}' >"$empty/empty.rs"
    rustc --crate-type staticlib --print native-static-libs -o "$empty/libempty.a" "$empty/empty.rs" 2>&1 |
        sed -n 's/^note: native-static-libs: //p'
    rm -rf "$empty"
}

write_pc() {
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    private=$(private_libs)
    [ -n "$private" ] || private="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc"
    sed -e "s|@PREFIX@|$PREFIX|" -e "s|@LIBDIR@|$LIBDIR|" -e "s|@INCLUDEDIR@|$INCLUDEDIR|" \
        -e "s|@VERSION@|$version|" -e "s|@LIBS_PRIVATE@|$private|" bindings/cpp/flatkv.pc.in
}

do_install() {
    install -d "$lib/pkgconfig" "$include"
    install -m 755 "$built/libflatkv.so.0" "$lib/libflatkv.so.0"
    ln -sf libflatkv.so.0 "$lib/libflatkv.so"
    install -m 644 "$built/libflatkv.a" "$lib/libflatkv.a"
    install -m 644 include/flatkv.h "$include/flatkv.h"
    [ ! -e include/flatkv.hpp ] || install -m 644 include/flatkv.hpp "$include/flatkv.hpp"
    write_pc >"$lib/pkgconfig/flatkv.pc"
    echo "installed into $lib and $include"
    [ -n "$DESTDIR" ] || echo "if the library is not found at run time: ldconfig, or LD_LIBRARY_PATH=$LIBDIR"
}

do_uninstall() {
    rm -f "$lib/libflatkv.so.0" "$lib/libflatkv.so" "$lib/libflatkv.a" "$lib/pkgconfig/flatkv.pc" \
        "$include/flatkv.h" "$include/flatkv.hpp"
    echo "removed from $lib and $include"
}

case $action in
install) do_install ;;
uninstall) do_uninstall ;;
*)
    echo "usage: scripts/install.sh install|uninstall BUILT_LIBRARY_FOLDER" >&2
    exit 2
    ;;
esac
