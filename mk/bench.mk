# Speed: what FlatKV reaches beside the machine's limits and beside other stores. See docs/performance/README.md.

# What `make bench` takes: KEYS= OPS= VALUE= ROUNDS= FAST=1 DIR=folder-on-a-disk ONLY=limits,memory,growth,file,dram
# BASE=another-libflatkv.so JSON=file CPU_TIME=1
# What `make bench-peers` takes: the same, but ONLY=names of engines, and RATE= SYNC_RATE= calls per second of the open loop,
# TIME_MS= longest time of a phase, PLOTS=folder
# What `make bench-order` takes: KEYS= OPS= VALUE= ROUNDS= FAST=1 CPU_TIME=1 JSON=file
# ONLY=points,scans,growth,dram,snapshots,deleted,keyspaces
# What `make bench-recovery` takes: KEYS=16000000, the number to which the index grows; STEPS=1 prints each step; DIR=
export KEYS OPS VALUE ROUNDS FAST ONLY BASE JSON CPU_TIME RATE SYNC_RATE TIME_MS PLOTS

.PHONY: bench bench-order bench-peers bench-instructions bench-recovery bench-space bench-model

bench: lib ## Limits, idealised log+hash and FlatKV through its C interface, as ratios (KEYS= FAST=1 DIR= BASE=old.so)
	@scripts/bench.sh own

bench-order: lib ## The ordered index beside the hash index and LMDB, snapshots, keyspaces: goals met or not (KEYS= FAST=1 ONLY=points,scans,..)
	@scripts/bench.sh order

bench-peers: lib ## RocksDB, LMDB, LevelDB, SQLite, redb, fjall, sled and FlatKV in one run (KEYS= FAST=1 DIR= ONLY=names)
	@scripts/ensure_tools.sh bench || echo "going on without what is missing: its engines are printed as not run"
	@scripts/bench.sh peers

bench-instructions: lib ## Instructions of put, get and multi-get against the known ones (UPDATE=1 writes them)
	@cargo build --quiet --release -p flatkv-bench
	@scripts/bench_instructions.py $(if $(UPDATE),--update)

bench-recovery: ## DRAM per key while the index grows, recovery of 10 M keys, goals met or not (KEYS=16000000 STEPS=1 DIR=)
	$(if $(KEYS),@cargo bench --quiet --bench recovery -- --keys $(KEYS) --rounds 0 $(if $(STEPS),--steps) $(if $(DIR),--dir "$(DIR)"))
	@cargo bench --quiet --bench recovery -- --keys 10000000 $(if $(DIR),--dir "$(DIR)")

bench-space: ## How full a pool can be kept, write amplification and waits of the cleaner (MIB= DIR= INDEX= ONLY=uniform|throughput|zipf|greed|full|churn|delete|latency|allocators|large)
	@cargo bench --quiet --bench space -- $(if $(MIB),--mib $(MIB)) $(if $(DIR),--dir $(DIR)) $(if $(INDEX),--index $(INDEX)) $(if $(ONLY),--only $(ONLY))

bench-model: ## SIMULATION: who should share a drain, on Optane- and CXL-like media in virtual time, 1 to 16 writers; goal met or not
	@cargo bench --quiet --features virtual-time --bench medium_model
