# Speed: what FlatKV reaches beside the machine's limits and beside other stores. See docs/performance/README.md.

# What `make bench` takes: KEYS= OPS= VALUE= ROUNDS= FAST=1 DIR=folder-on-a-disk ONLY=limits,memory,growth,file,dram
# BASE=another-libflatkv.so JSON=file
export KEYS OPS VALUE ROUNDS FAST ONLY BASE JSON

.PHONY: bench bench-instructions

bench: lib ## Limits, idealised log+hash and FlatKV through its C interface, as ratios (KEYS= FAST=1 DIR= BASE=old.so)
	@scripts/bench.sh own

bench-instructions: lib ## Instructions of put, get and multi-get against the known ones (UPDATE=1 writes them)
	@cargo build --quiet --release -p flatkv-bench
	@scripts/bench_instructions.py $(if $(UPDATE),--update)
