# The C examples. A program is every examples/c/NAME.c with a main(); its helpers are examples/c/NAME_*.c.

EXAMPLES_C_DIR := target/examples/c
EXAMPLES_C := $(patsubst examples/c/%.c,$(EXAMPLES_C_DIR)/%,$(shell grep -l '^int main\b' examples/c/*.c))
EXAMPLES_CFLAGS ?= -O2 -g

.PHONY: examples
examples: $(EXAMPLES_C) ## Build the C examples into target/examples/c

.SECONDEXPANSION:
$(EXAMPLES_C): $(EXAMPLES_C_DIR)/%: examples/c/%.c $$(wildcard examples/c/$$*_*.[ch]) $(wildcard include/flatkv.h) mk/examples.mk | lib
	@mkdir -p $(@D)
	$(CC) -std=c99 -Wall -Wextra -Werror $(EXAMPLES_CFLAGS) -Iinclude $(filter %.c,$^) -o $@ \
	    -L$(LIB_DIR) -lflatkv -pthread -Wl,-rpath,'$$ORIGIN/../../release'
