/* Entries in the order of their keys, as they were when the iterator was made. */
#include <flatkv.h>
#include <stdio.h>
#include <string.h>

static flatkv_status_t put(flatkv_t *store, const char *key, const char *value)
{
    return flatkv_put(store, key, strlen(key), value, strlen(value));
}

static flatkv_status_t scan(flatkv_t *store)
{
    flatkv_iter_t *november = NULL;
    flatkv_status_t s = put(store, "2026-11-03", "rain");
    if (s == FLATKV_OK) s = put(store, "2026-10-31", "fog");
    if (s == FLATKV_OK) s = put(store, "2026-11-01", "sun");
    if (s == FLATKV_OK) s = flatkv_iter_new(store, NULL, &november);
    if (s == FLATKV_OK) s = flatkv_iter_set_prefix(november, "2026-11-", 8);
    if (s == FLATKV_OK) s = put(store, "2026-11-02", "snow"); /* too late to be seen */
    if (s == FLATKV_OK) {
        for (flatkv_iter_seek_first(november); flatkv_iter_valid(november); flatkv_iter_next(november)) {
            flatkv_slice_t key = flatkv_iter_key(november), value = flatkv_iter_value(november);
            if (value.data == NULL) break; /* it cannot be read; an empty one is not NULL */
            printf("%.*s %.*s\n", (int)key.len, (const char *)key.data, (int)value.len, (const char *)value.data);
        }
        s = flatkv_iter_status(november); /* the end, or what cannot be read */
    }
    flatkv_iter_free(november);
    return s;
}

int main(int argc, char **argv)
{
    flatkv_t *store = NULL;
    flatkv_options_t *options = flatkv_options_new();
    flatkv_status_t s = flatkv_options_set(options, "index", "ordered");
    if (s == FLATKV_OK) s = flatkv_open(argc > 1 ? argv[1] : "scan.fkv", options, &store);
    flatkv_options_free(options);
    if (s == FLATKV_OK) s = scan(store);
    if (s != FLATKV_OK) fprintf(stderr, "%s: %s\n", flatkv_status_str(s), flatkv_last_error());
    flatkv_close(store);
    return s == FLATKV_OK ? 0 : 1;
}
