//! What is left of a store from which everything was deleted, once nobody writes.

use super::{Arguments, Pool, key, row, stat};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

const REST_MAX: Duration = Duration::from_secs(60);

pub fn delete_everything(arguments: &Arguments) {
    let mut pool = Pool::open(arguments);
    pool.fill(0.80).expect("room");
    let path = pool._dir.path().join("pool.fkv");
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let file = || {
        let file = std::fs::metadata(&path).expect("the pool is there");
        (file.blocks() * 512, file.len())
    };
    let full = file();
    for i in 0..pool.keys {
        pool.store.delete(&key(i)).unwrap_or_else(|error| panic!("{error}\n{}", pool.store.stats_json()));
    }
    let logs = stat(&pool.store, "logs");
    let used = || {
        let segments = |state: &str| stat(&pool.store, &format!("segments.{state}"));
        segments("sealed") + segments("open") + segments("active") + segments("releasable")
    };
    let began = Instant::now();
    while (used() > 2 * logs || stat(&pool.store, "segments_given_back") == 0) && began.elapsed() < REST_MAX {
        std::thread::sleep(Duration::from_millis(20));
    }
    // And what is on its way.
    std::thread::sleep(Duration::from_secs(2));
    let empty = file();
    row(
        "everything deleted",
        "2 segments per log, file smaller",
        &format!(
            "{} segments of {logs} logs after {:.1} s; on the device {} -> {}, length {} -> {}",
            used(),
            began.elapsed().as_secs_f64() - 2.0,
            mib(full.0),
            mib(empty.0),
            mib(full.1),
            mib(empty.1)
        ),
    );
}
