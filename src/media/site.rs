//! Every place that flushes or drains, numbered. A crash suite skips each in turn and must notice; a test counts drains
//! per operation. Sites are named by what they make durable.

/// One place in the code that makes bytes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
#[allow(missing_docs, reason = "each name says which bytes become durable")]
pub enum Site {
    FrameDrain = 2,
    UndrainedFlush = 3,
    SyncDrain = 4,
    BlobFlush = 5,
    BlobDrain = 6,
    HeadDrain = 8,
    ActiveFlush = 9,
    ActiveDrain = 10,
    SealFlush = 11,
    SealDrain = 12,
    OpenSegmentFlush = 13,
    OpenSegmentDrain = 14,
    MarkDrain = 16,
    SuperblockDrain = 18,
    AdoptFlush = 19,
    AdoptDrain = 20,
    FreeFlush = 21,
    FreeDrain = 22,
    CreateFlush = 23,
    CreateDrain = 24,
    BatchDrain = 27,
}
