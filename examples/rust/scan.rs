#![expect(clippy::print_stdout, reason = "a program that talks, not the library")]

use flatkv::{IndexKind, Options};

fn main() -> flatkv::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "scan.fkv".into());
    let store = Options::new().index(IndexKind::Ordered).open(path)?;
    for (key, value) in [("2026-11-03", "rain"), ("2026-10-31", "fog"), ("2026-11-01", "sun")] {
        store.put(key.as_bytes(), value.as_bytes())?;
    }
    let mut november = store.iter()?; // the store as it is now
    november.set_prefix(b"2026-11-");
    store.put(b"2026-11-02", b"snow")?; // too late to be seen
    while november.move_next()? {
        let key = String::from_utf8_lossy(november.key().unwrap_or_default()).into_owned();
        println!("{key} {}", String::from_utf8_lossy(november.value()?.unwrap_or_default()));
    }
    store.close()
}
