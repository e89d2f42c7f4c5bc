#!/usr/bin/env python3
"""Makes a small tree with what real trees have: empty files, odd names, long paths, links, one large file.

Usage: small_tree.py FOLDER. The same bytes every time.
"""

import os
import random
import sys

FILES = 300
LARGE_BYTES = 20 << 20  # longer than a segment on either medium
SMALL_BYTES_MAX = 100_000


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def main():
    root = os.fsencode(sys.argv[1])
    draw = random.Random(1)
    for number in range(FILES):
        size = int(SMALL_BYTES_MAX ** draw.random())  # as many of 1-10 bytes as of 10,000-100,000
        write(os.path.join(root, b"files", b"%d" % (number % 7), b"%d.bin" % number), draw.randbytes(size))
    write(os.path.join(root, b"empty"), b"")
    write(os.path.join(root, b"large"), draw.randbytes(LARGE_BYTES))
    write(os.path.join(root, b"a name with blanks"), b"blanks")
    write(os.path.join(root, b"line\nbreak"), b"a key with a line break")
    write(os.path.join(root, b"not utf-8 \xff\xfe"), b"a key that is no text")
    write(os.path.join(root, *[b"deep" * 10] * 20, b"file"), b"a key of 800 bytes")
    os.symlink("empty", os.path.join(root, b"link to a file"))
    os.symlink("files", os.path.join(root, b"link to a folder"))
    os.symlink("nowhere", os.path.join(root, b"dangling link"))
    os.mkfifo(os.path.join(root, b"pipe"))


if __name__ == "__main__":
    main()
