# The guest: power cuts and a bad page on a real DAX mount, in software emulation. See docs/TESTING.md.

export GUEST_CUTS

.PHONY: guest
guest: lib ## Power cuts and a bad page on a DAX mount in a guest (GUEST_CUTS= SEED=)
	@tests/guest/run.py prepare
	@tests/guest/run.py run
