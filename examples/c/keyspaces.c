/* Several sets of keys in one store: written together, and dropped at once. */
#include <flatkv.h>
#include <stdio.h>
#include <string.h>

static flatkv_status_t place_order(flatkv_t *store, flatkv_t *orders, flatkv_t *by_customer)
{
    flatkv_batch_t *batch = flatkv_batch_new();
    flatkv_status_t s = flatkv_batch_put_in(batch, orders, "17", 2, "three apples", 12);
    if (s == FLATKV_OK) s = flatkv_batch_put_in(batch, by_customer, "ada/17", 6, NULL, 0);
    if (s == FLATKV_OK) s = flatkv_write(store, batch); /* both, or none of them */
    flatkv_batch_free(batch);
    return s;
}

static flatkv_status_t show(flatkv_t *store, flatkv_t *orders, const flatkv_snapshot_t *yesterday)
{
    flatkv_buffer_t names, order;
    flatkv_status_t s = flatkv_keyspace_list(store, &names);
    if (s != FLATKV_OK) return s;
    for (size_t at = 0; at < names.len; at += strlen((const char *)names.data + at) + 1)
        printf("keyspace: %s\n", (const char *)names.data + at);
    flatkv_buffer_free(&names);
    printf("order 17 now: %s\n", flatkv_exists(orders, "17", 2) == FLATKV_NOT_FOUND ? "gone" : "still there");
    s = flatkv_snapshot_get_in(yesterday, orders, "17", 2, &order);
    if (s == FLATKV_OK) printf("order 17 then: %.*s\n", (int)order.len, (const char *)order.data);
    flatkv_buffer_free(&order);
    return s;
}

int main(int argc, char **argv)
{
    flatkv_t *store = NULL, *orders = NULL, *by_customer = NULL;
    flatkv_snapshot_t *yesterday = NULL;
    flatkv_status_t s = flatkv_open(argc > 1 ? argv[1] : "keyspaces.fkv", NULL, &store);
    if (s == FLATKV_OK) s = flatkv_keyspace_open(store, "orders", &orders);
    if (s == FLATKV_OK) s = flatkv_keyspace_open(store, "orders by customer", &by_customer);
    if (s == FLATKV_OK) s = place_order(store, orders, by_customer);
    if (s == FLATKV_OK) s = flatkv_snapshot_new(store, &yesterday);
    if (s == FLATKV_OK) s = flatkv_keyspace_clear(orders); /* at once, however many there are */
    if (s == FLATKV_OK) s = flatkv_keyspace_drop(store, "orders by customer");
    if (s == FLATKV_OK) s = show(store, orders, yesterday);
    if (s != FLATKV_OK) fprintf(stderr, "%s: %s\n", flatkv_status_str(s), flatkv_last_error());
    flatkv_snapshot_free(yesterday);
    flatkv_close(orders); /* handles first, then their store */
    flatkv_close(by_customer);
    flatkv_close(store);
    return s == FLATKV_OK ? 0 : 1;
}
