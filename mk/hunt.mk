# Looking for bugs that ordinary tests do not meet.

.PHONY: loom

loom: ## Every interleaving of the models of the lock-free pieces
	@scripts/loom.sh
