# Kills and faults from outside, on the shipped library, and campaigns that run for hours.

OUTSIDE_DIR := target/outside
OUTSIDE_WRITER := $(OUTSIDE_DIR)/writer

# What `make kill-loop` takes: KILLS=600 SEED=number. What `make crash-campaign` takes: HOURS=1 SEED=number
export KILLS HOURS

.PHONY: kill-loop kill-loop-full kill-loop-device faults-outside crash-campaign

$(OUTSIDE_WRITER): tests/outside/writer.c include/flatkv.h mk/crash.mk | lib
	@mkdir -p $(@D)
	$(CC) -std=c99 -Wall -Wextra -Werror -pedantic -O1 -g -Iinclude -pthread $< -o $@ \
	    -L$(FLATKV_DIR) -lflatkv -Wl,-rpath,'$$ORIGIN/../release'

kill-loop: $(OUTSIDE_WRITER) ## Kill a writer over and over and check every acknowledged write (KILLS= SEED=)
	@python3 tests/outside/oracle.py
	@python3 tests/outside/kill_loop.py $(OUTSIDE_WRITER) --kills $(or $(KILLS),600) $(if $(SEED),--seed $(SEED))

kill-loop-full: $(OUTSIDE_WRITER) ## The same on pools that are full (KILLS= SEED=)
	@python3 tests/outside/kill_loop.py $(OUTSIDE_WRITER) --full --kills $(or $(KILLS),200) $(if $(SEED),--seed $(SEED))

kill-loop-device: $(OUTSIDE_WRITER) ## The same on a file system that is full, which takes a mount (KILLS= SEED=)
	@python3 tests/outside/kill_loop.py $(OUTSIDE_WRITER) --device --kills $(or $(KILLS),200) $(if $(SEED),--seed $(SEED))

faults-outside: $(OUTSIDE_WRITER) ## Fail and kill the shipped library's system calls one by one, with strace
	@python3 tests/outside/faults.py $(OUTSIDE_WRITER)

crash-campaign: $(OUTSIDE_WRITER) ## For HOURS: kills, long random crash histories, faults; each prints its seed
	@scripts/crash_campaign.sh $(OUTSIDE_WRITER)
