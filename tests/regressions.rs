//! Bugs that were found, each by the sequence that showed it.

mod common;

use common::{memory_dir, small};
use flatkv::{MediaChoice, WriteBatch};

/// The commit of a batch that is larger than a frame may be alone in its head. Recovery took such a head for an empty one
/// and gave it back: the batch was there after the first open and gone after the second.
#[test]
fn a_large_batch_whose_commit_is_alone_in_its_head_survives_two_opens() {
    for entries in 20..60_u32 {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let open = || small(MediaChoice::EmulatedPm, 4096).open(&path).unwrap();
        let store = open();
        // As many segments as make the list of them in each head about as long as it may be: then a frame fills a head.
        for i in 0..36_u32 {
            store.put(format!("blob {i}").as_bytes(), &[1; 3000]).unwrap();
        }
        let mut batch = WriteBatch::new();
        for i in 0..entries {
            batch.put(format!("batch {i:02}").as_bytes(), &[7; 80]).unwrap();
        }
        store.write(&batch).unwrap();
        drop(store);
        for opened in 1..=3 {
            let store = open();
            for i in 0..entries {
                let found = store.get(format!("batch {i:02}").as_bytes()).unwrap();
                assert_eq!(found.as_deref(), Some(&[7; 80][..]), "{entries} entries, open {opened}, batch {i}");
            }
        }
    }
}
