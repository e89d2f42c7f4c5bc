# FlatKV. `make help` lists the targets. Subjects have files of their own in mk/, long recipes in scripts/.
.DEFAULT_GOAL := help
export PATH := $(PATH):$(HOME)/.cargo/bin

LIB_DIR := target/release

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include

# What `make run` takes: DIR="tree ..." MAX_MIB=400 THREADS=1 POOL_DIR=folder MEDIA="auto emulated-pm" SEED=number
# What `make crash` takes: SEED= HISTORY= POINT= IMAGE=, printed by a failed sweep
export DIR MAX_MIB THREADS POOL_DIR MEDIA SEED HISTORY POINT IMAGE
# What `make install` takes, besides DESTDIR
export PREFIX LIBDIR INCLUDEDIR DESTDIR

-include mk/lib.mk
-include mk/examples.mk
-include mk/crash.mk
-include mk/guest.mk
-include mk/hunt.mk
-include mk/bench.mk

.PHONY: help run build check test crash fixtures install uninstall clean deps

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## The main job: load a real tree, kill it, prove nothing is lost (DIR= MAX_MIB= THREADS= POOL_DIR= MEDIA= SEED=)
	@scripts/ensure_tools.sh run
	@$(MAKE) --no-print-directory $(EXAMPLES_C_DIR)/load_tree
	@scripts/run_job.sh $(EXAMPLES_C_DIR)/load_tree

build: lib examples ## Build the library for C (shared and static) and the examples, optimised

check: ## Format, lints, documentation, floors, header drift, exported symbols, README: no tests
	@scripts/ensure_tools.sh test
	@scripts/test.sh check

test: ## Everything that must hold: check, Rust tests, C tests, examples, a small main job
	@scripts/ensure_tools.sh test
	@scripts/test.sh all

crash: ## Sweep the crash points on the simulated medium; SEED= HISTORY= POINT= IMAGE= replays one
	@scripts/crash.sh

fixtures: ## Write the pools in tests/fixtures of the present format; never replaces one
	cargo test --quiet --features sim --test fixtures -- --ignored write_the_fixtures

install: lib ## Install library, header and flatkv.pc (PREFIX= LIBDIR= INCLUDEDIR= DESTDIR=)
	@scripts/install.sh install $(LIB_DIR)

uninstall: ## Remove what install put there
	@scripts/install.sh uninstall $(LIB_DIR)

deps: ## Check the tools that are needed; as root on Debian or Ubuntu also install them
	@scripts/ensure_tools.sh test

clean: ## Remove everything that was built
	rm -rf target
