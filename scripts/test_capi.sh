#!/bin/sh
# The C tests of the C interface against a fresh build of the library.
set -eu
cd "$(dirname "$0")/.."
exec make --no-print-directory test-capi
