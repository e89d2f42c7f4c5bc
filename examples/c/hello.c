#include <stdio.h>
#include <flatkv.h>
int main(int argc, char **argv) {
    flatkv_t *store = NULL;
    flatkv_buffer_t value = {NULL, 0};
    flatkv_status_t s = flatkv_open(argc > 1 ? argv[1] : "hello.fkv", NULL, &store);
    if (s == FLATKV_OK) s = flatkv_put(store, "greeting", 8, "hello, durable world", 20);
    if (s == FLATKV_OK) s = flatkv_get(store, "greeting", 8, &value);
    if (s == FLATKV_OK) printf("greeting = %.*s\n", (int)value.len, (const char *)value.data);
    else fprintf(stderr, "%s: %s\n", flatkv_status_str(s), flatkv_last_error());
    flatkv_buffer_free(&value);
    flatkv_close(store);
    return s == FLATKV_OK ? 0 : 1;
}
