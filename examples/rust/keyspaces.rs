#![expect(clippy::print_stdout, reason = "a program that talks, not the library")]

use flatkv::{Store, WriteBatch};

fn main() -> flatkv::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "keyspaces.fkv".into());
    let store = Store::open(path)?;
    let (orders, by_customer) = (store.keyspace("orders")?, store.keyspace("orders by customer")?);
    let mut batch = WriteBatch::new(); // both, or none of them
    batch.put_in(&orders, b"17", b"three apples")?;
    batch.put_in(&by_customer, b"ada/17", b"")?;
    store.write(&batch)?;
    let yesterday = store.snapshot()?;
    orders.clear()?; // at once, however many there are
    store.drop_keyspace("orders by customer")?;
    println!("keyspaces: {:?}", store.keyspace_names()?);
    println!("order 17 now: {:?}", orders.get(b"17")?);
    let then = orders.snapshot_at(&yesterday)?.get(b"17")?;
    println!("order 17 then: {}", String::from_utf8_lossy(&then.unwrap_or_default()));
    drop(yesterday);
    store.close()
}
