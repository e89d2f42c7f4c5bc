# Looking for bugs that ordinary tests do not meet: fuzzing, every interleaving.

SECONDS ?= 60
TARGETS ?= open_image decoders ops capi

.PHONY: fuzz loom

fuzz: ## Fuzz each target with libFuzzer (SECONDS=60 TARGETS="open_image decoders ops capi")
	@scripts/fuzz.sh $(SECONDS) $(TARGETS)

loom: ## Every interleaving of the models of the lock-free pieces
	@scripts/loom.sh
