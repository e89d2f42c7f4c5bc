//! Every place that flushes or drains, numbered: one number per line of code that does. A crash suite skips each in turn
//! and must notice (`tests/mutants.rs`); a test counts drains per operation. Sites are named by what they make durable.
//! Where bytes are written past the caches there is no flush, and so no site: only the drain.

use crate::types::numbered_sites;

numbered_sites! {
    /// One place in the code that makes bytes durable.
    Site {
        /// The frame of a writer that found its log free.
        FrameDrain,
        /// The frames of a group.
        GroupDrain,
        /// What `os` writes left in caches.
        UndrainedFlush,
        /// The same, and what other threads flushed, for a call of `sync`.
        SyncDrain,
        /// The parts and the commit of a large batch.
        BatchDrain,
        /// Pieces of a large value.
        BlobFlush,
        /// The same.
        BlobDrain,
        /// Header and digest of a new head.
        HeadDrain,
        /// State word of a new head.
        ActiveFlush,
        /// The same.
        ActiveDrain,
        /// What is left of an old head's frames, its filter and its footer: all before the state word that seals it.
        FooterDrain,
        /// State word of an old head.
        SealFlush,
        /// The same.
        SealDrain,
        /// Header of an extent segment.
        OpenHeaderDrain,
        /// Its state word.
        OpenSegmentFlush,
        /// The same.
        OpenSegmentDrain,
        /// Frames of an idle log, before a mark says that they are durable.
        IdleDrain,
        /// That mark.
        MarkDrain,
        /// Frames of a log that is closed.
        CloseDrain,
        /// Its close marks.
        CloseMarkDrain,
        /// A superblock copy.
        SuperblockDrain,
        /// The first superblock copy of a pool but its magic.
        FirstSuperblockDrain,
        /// That magic.
        MagicFlush,
        /// The same.
        MagicDrain,
        /// Whatever recovery adopts and nothing vouches for.
        AdoptFlush,
        /// The same.
        AdoptDrain,
        /// State word of an empty head that recovery gave up.
        FreeFlush,
        /// The same.
        FreeDrain,
        /// State words of slots that no digest lists.
        UnlistedFlush,
        /// The same.
        UnlistedDrain,
        /// What `os` writes left in caches: they may have made entries dead, or be the commits of what is moved.
        VictimFlush,
        /// The same, before a victim's other entries are copied.
        VictimDrain,
        /// The copies, before the index and then a digest forgets the victims.
        SurvivorDrain,
        /// The mark that says that the copies are durable.
        SurvivorMarkDrain,
        /// Pieces of large values that the cleaner moves, before an entry names their new places.
        MovedChunkFlush,
        /// The same.
        MovedChunkDrain,
        /// Such entries, before the index and then the free map forget the old places.
        MovedOwnerDrain,
        /// The holder record of a pool that is being created.
        HolderFlush,
        /// The same.
        HolderDrain,
        /// State words that a creation cut off left behind.
        ClearFlush,
    }
}
