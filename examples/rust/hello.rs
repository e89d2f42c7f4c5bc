#![expect(clippy::print_stdout, reason = "a program that talks, not the library")]

use flatkv::Store;

fn main() -> flatkv::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "hello.fkv".into());
    let store = Store::open(path)?;
    store.put(b"greeting", b"hello, durable world")?; // on the medium when it returns
    if let Some(value) = store.get(b"greeting")? {
        println!("greeting = {}", String::from_utf8_lossy(&value));
    }
    store.close()
}
