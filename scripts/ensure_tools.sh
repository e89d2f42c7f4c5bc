#!/bin/sh
# Are the tools there? As root on a system with apt what is missing is installed, otherwise it is asked for.
# Usage: scripts/ensure_tools.sh run|test|bench   (test needs rustfmt and clippy, too; bench the stores to compare with)
set -eu
cd "$(dirname "$0")/.."
what=${1:-test}
rust_wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

have() { command -v "$1" >/dev/null 2>&1; }

# True if version $1 is at least $2; both are numbers with points.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -t. -k1,1n -k2,2n -k3,3n | head -n 1)" = "$2" ]; }

# True if a program that asks the loader for lib$1.so gets it.
has_library() { python3 -c 'import ctypes, sys; ctypes.CDLL(f"lib{sys.argv[1]}.so")' "$1" 2>/dev/null; }

rust_version() { cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p'; }

rust_is_good() {
    version=$(rust_version)
    [ -n "$version" ] && at_least "$version" "$rust_wanted"
}

# The missing ones, as names of Debian packages.
missing_packages() {
    have cc || echo gcc libc6-dev
    have python3 || echo python3
    have objdump && have ld || echo binutils
    rust_is_good || echo rust
    if [ "$what" = bench ]; then
        for store in rocksdb lmdb leveldb sqlite3; do
            has_library "$store" || echo "lib$store-dev"
        done
    fi
    if [ "$what" = test ]; then
        cargo fmt --version >/dev/null 2>&1 || echo rustfmt
        cargo clippy --version >/dev/null 2>&1 || echo clippy
        have strace || [ "$(id -u)" != 0 ] || echo strace
        have valgrind || [ "$(id -u)" != 0 ] || echo valgrind
    fi
}

# Debian's own cargo may be too old: rustup is tried first, and the version is looked at afterwards.
install_rust() {
    if have rustup || apt-get install -y --no-install-recommends rustup; then
        rustup toolchain install stable --profile default && rustup default stable
    else
        apt-get install -y --no-install-recommends cargo rustfmt rust-clippy
    fi
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update || true # an old list may still do
    for package in "$@"; do
        case $package in
        rust) install_rust || true ;;
        rustfmt | clippy) have rustup && rustup component add "$package" || true ;;
        *) apt-get install -y --no-install-recommends "$package" || true ;;
        esac
    done
}

ask_for() {
    echo "missing:" "$@" >&2
    for package in "$@"; do
        case $package in
        rust) echo "  Rust $rust_wanted or newer (found: $(rust_version || true)): https://rustup.rs" >&2 ;;
        rustfmt | clippy) echo "  rustup component add $package" >&2 ;;
        *) echo "  as root: apt-get install $package   (or your system's package of that name)" >&2 ;;
        esac
    done
}

missing=$(missing_packages)
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && have apt-get; then
    echo "installing:" $missing
    install_packages $missing
    missing=$(missing_packages)
fi
# A test without strace is not run and says so.
missing=$(echo "$missing" | grep -vx strace || true)
if [ -n "$missing" ]; then
    ask_for $missing
    exit 1
fi
for tool in valgrind pkg-config strace; do
    [ "$what" != test ] || have "$tool" || echo "optional, not found: $tool (the tests that use it say that they are not run)"
done
