# Library, header and exported symbols. Included by the top Makefile; `## text` is what `make help` shows.

CARGO ?= cargo
CC ?= cc
FLATKV_DIR := target/release
FLATKV_A := $(FLATKV_DIR)/libflatkv.a
FLATKV_SO := $(FLATKV_DIR)/libflatkv.so

# The shared library is linked from the static one, because rustc's own version script for a cdylib replaces ours.
# nodelete: threads and thread-local destructors of the library outlive a dlclose.
# gc-sections: what no exported function reaches (most of the Rust runtime) is dropped.
FLATKV_LINK := -shared -Wl,-soname,libflatkv.so.0 \
	-Wl,--version-script=flatkv.map \
	-Wl,-z,nodelete -Wl,-z,relro -Wl,-z,now -Wl,-z,defs \
	-Wl,--gc-sections -Wl,--as-needed
FLATKV_LIBS := -lpthread -lm -lgcc_s -lc

# Version and name of every symbol that the shared library defines, one per line.
FLATKV_SYMBOLS = objdump -T $(FLATKV_SO).0 | awk '$$4 != "*UND*" && $$3 != "*UND*" && NF >= 6 { print $$(NF-1), $$NF }' \
	| LC_ALL=C sort

.PHONY: lib header header-check symbols symbols-check test-capi FORCE

lib: $(FLATKV_SO) ## Build libflatkv.so.0, libflatkv.so and libflatkv.a in target/release

$(FLATKV_A): FORCE
	$(CARGO) build --release --lib

$(FLATKV_SO).0: $(FLATKV_A) flatkv.map
	$(CC) $(FLATKV_LINK) -o $@ -Wl,--whole-archive $(FLATKV_A) -Wl,--no-whole-archive $(FLATKV_LIBS)

$(FLATKV_SO): $(FLATKV_SO).0
	ln -sf $(notdir $<) $@

header: ## Write include/flatkv.h from src/capi
	$(CARGO) run --quiet -p header -- include/flatkv.h

header-check: ## Fail if include/flatkv.h is not what src/capi says
	@mkdir -p target
	$(CARGO) run --quiet -p header -- target/flatkv.h
	diff -u include/flatkv.h target/flatkv.h

symbols: lib ## Write the list of exported symbols, after a deliberate change of the ABI
	$(FLATKV_SYMBOLS) > tests/fixtures/symbols.txt

symbols-check: lib ## Fail if the shared library exports anything but the listed symbols
	@mkdir -p target
	$(FLATKV_SYMBOLS) > target/symbols.txt
	diff -u tests/fixtures/symbols.txt target/symbols.txt
	@if readelf -d $(FLATKV_SO).0 | grep NEEDED | grep -vE '\[(libc\.so\.6|libm\.so\.6|libgcc_s\.so\.1|libpthread\.so\.0|ld-linux-[a-z0-9_-]+\.so\.[0-9])\]'; \
		then echo 'libflatkv.so.0 needs a library that it should not'; exit 1; fi

test-capi: lib ## Build and run the C tests of the C interface
	CC='$(CC)' tests/capi/run.sh $(FLATKV_DIR)
