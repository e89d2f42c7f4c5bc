#!/usr/bin/env python3
"""Does the README say what the repository does?

- a code block behind `<!-- same as PATH -->` is that file, word for word (lines `#![...]`, which speak to linters, may
  be missing);
- every `make TARGET` that is mentioned is a target;
- every relative link leads to a file.
"""

import os
import re
import sys

PAGES = ["README.md", "CONTRIBUTING.md", "examples/README.md"]
BLOCK = re.compile(r"<!-- same as (\S+) -->\n```\w*\n(.*?)```\n", re.DOTALL)
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
MENTION = re.compile(r"`make ([a-z][a-z-]*)[^`]*`|^make ([a-z][a-z-]*)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
EXAMPLES_IN_README = {"examples/c/hello.c", "examples/rust/hello.rs"}


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def without_lints(text):
    lines = [line for line in text.splitlines() if not line.startswith("#![")]
    return "\n".join(lines).strip("\n")


def make_targets():
    files = ["Makefile"] + [os.path.join("mk", name) for name in os.listdir("mk") if name.endswith(".mk")]
    return {target for path in files for target in TARGET.findall(read(path))}


def problems_of(page, targets):
    text = read(page)
    for path, block in BLOCK.findall(text):
        if not os.path.exists(path):
            yield f"{page}: a block is said to be the same as {path}, which does not exist"
        elif without_lints(block) != without_lints(read(path)):
            yield f"{page}: the block that is said to be the same as {path} differs from it"
    for first, second in MENTION.findall(text):
        if (first or second) not in targets:
            yield f"{page}: `make {first or second}` is not a target"
    for link in LINK.findall(text):
        if not os.path.exists(os.path.join(os.path.dirname(page), link)):
            yield f"{page}: the link {link} leads nowhere"


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    targets = make_targets()
    problems = [problem for page in PAGES for problem in problems_of(page, targets)]
    shown = {path for path, _ in BLOCK.findall(read("README.md"))}
    problems += [f"README.md: does not show {path}" for path in sorted(EXAMPLES_IN_README - shown)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
