//! While the sizes of values stay the same, room for large ones is made without moving any. Alone in its process: the clock of
//! reclamation is one for all stores of a process, and readers of others would keep what would be free here.

mod common;

use common::{MEDIA, Rng, assert_sound, memory_dir, small, stat};

const SEGMENT_BYTES: u64 = 64 << 10;
const QUOTA: u64 = 8 << 20;
const VALUE_BYTES: usize = 36_000;

fn value(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(VALUE_BYTES / 4)
}

#[test]
fn while_sizes_stay_the_same_no_large_value_is_moved() {
    for media in MEDIA {
        let dir = memory_dir();
        let store = small(media, SEGMENT_BYTES).max_bytes(QUOTA).open(dir.path().join("pool.fkv")).unwrap();
        let keys = (QUOTA / 2 / VALUE_BYTES as u64) as u32;
        let mut rng = Rng(3);
        for round in 0..keys * 20 {
            let number = if round < keys { round } else { rng.below(keys as usize) as u32 };
            store.put(&number.to_le_bytes(), &value(number)).unwrap();
        }
        for number in 0..keys {
            assert!(
                store.get(&number.to_le_bytes()).unwrap() == Some(value(number)),
                "{media:?}: key {number}"
            );
        }
        assert_eq!(stat(&store, "cleaner.blob_bytes_moved"), 0, "{media:?}: {}", store.stats_json());
        assert_sound(&store, "after overwriting");
    }
}
