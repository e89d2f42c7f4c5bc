/* The first program somebody writes. The runner compiles it with nothing but
 *     cc newcomer.c -Iinclude -Ltarget/release -lflatkv */
#include <flatkv.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    flatkv_t *store;
    flatkv_buffer_t value;
    const char *path = argc > 1 ? argv[1] : "fruits.fkv";

    if (flatkv_open(path, NULL, &store) != FLATKV_OK) {
        fprintf(stderr, "%s\n", flatkv_last_error());
        return 1;
    }
    if (flatkv_put(store, "apple", 5, "red", 3) != FLATKV_OK || flatkv_get(store, "apple", 5, &value) != FLATKV_OK) {
        fprintf(stderr, "%s\n", flatkv_last_error());
        return 1;
    }
    printf("apple is %.*s\n", (int)value.len, (const char *)value.data);
    flatkv_buffer_free(&value);
    return flatkv_close(store) == FLATKV_OK ? 0 : 1;
}
