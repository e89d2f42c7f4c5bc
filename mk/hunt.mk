# Looking for bugs that ordinary tests do not meet: fuzzing, sanitizers, every interleaving. Steps of `make test` run
# small versions of each.

SECONDS ?= 60
TARGETS ?= open_image decoders ops capi

.PHONY: fuzz sanitize loom

fuzz: ## Fuzz each target with libFuzzer (SECONDS=60 TARGETS="open_image decoders ops capi")
	@scripts/fuzz.sh $(SECONDS) $(TARGETS)

sanitize: ## Tests under AddressSanitizer and ThreadSanitizer, C tests under AddressSanitizer and valgrind
	@scripts/sanitize.sh

loom: ## Every interleaving of the models of the lock-free pieces
	@scripts/loom.sh
