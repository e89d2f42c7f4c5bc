//! One run of a model: so many writers put small values under one policy, on a medium in virtual time.

use flatkv::testing::model::{ModelMedia, Preset, Tally};
use flatkv::testing::{open_on, virtual_time, with_logs};
use flatkv::{CommitPolicy, IndexKind};
use std::sync::{Arc, Mutex};

/// Bytes of the modelled medium: more than any run writes.
const CAPACITY_BYTES: u64 = 256 << 20;
const SEGMENT_BYTES: u64 = 1 << 20;
const KEYS_EACH: u64 = 128;
const WARM_UP: u64 = 64;
/// Writers do not start at the same instant.
const START_APART_NS: u64 = 37;

/// Who shares a drain, and in how many logs.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub name: &'static str,
    pub policy: CommitPolicy,
    /// None: one for each writer.
    pub logs: Option<usize>,
    /// Puts that a writer accepts before it waits for the last; 0: each put waits.
    pub tickets: u64,
}

/// Each writer alone, in a log of its own.
pub const LONE: Way = Way { name: "lone", policy: CommitPolicy::Lone, logs: None, tickets: 0 };

/// All in one log: one group is drained while the next one fills.
pub const GROUPED: Way = Way { name: "grouped, 1 log", policy: CommitPolicy::Grouped, logs: Some(1), ..LONE };

/// Two groups are on their way while two fill.
pub const GROUPED_2: Way = Way { name: "grouped, 2 logs", logs: Some(2), ..GROUPED };
pub const GROUPED_3: Way = Way { name: "grouped, 3 logs", logs: Some(3), ..GROUPED };
pub const GROUPED_4: Way = Way { name: "grouped, 4 logs", logs: Some(4), ..GROUPED };

/// Those that find their log free do not stage.
pub const AUTO_2: Way = Way { name: "auto, 2 logs", policy: CommitPolicy::Auto, ..GROUPED_2 };
pub const AUTO_3: Way = Way { name: "auto, 3 logs", policy: CommitPolicy::Auto, ..GROUPED_3 };

/// Each in a log of its own, four puts on their way from each writer.
pub const TICKETS: Way = Way { name: "4 tickets each", policy: CommitPolicy::Auto, tickets: 4, ..LONE };

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Millions of puts in a virtual second.
    pub rate: f64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub tally: Tally,
    pub puts: u64,
}

impl Figures {
    pub fn per_put(&self, count: u64) -> f64 {
        count as f64 / self.puts as f64
    }
}

/// Each of `writers` makes `puts` puts of 8 + 8 bytes, one after the other.
pub fn run(preset: &Preset, way: &Way, writers: usize, puts: u64) -> Figures {
    let media = Arc::new(ModelMedia::new(preset, CAPACITY_BYTES).expect("memory for the model"));
    let options = with_logs(flatkv::testing::options(), way.logs.unwrap_or(writers));
    let options = options.segment_size_bytes(SEGMENT_BYTES).index(IndexKind::Hash).commit(way.policy);
    let store = open_on(Arc::clone(&media) as _, options).expect("a new pool");
    let latencies = Mutex::new(Vec::new());
    // Keys that are there, so that the index does not grow: who waits for that spins, which time that is virtual cannot see.
    let key = |writer: usize, i: u64| {
        (writer as u64 + i % KEYS_EACH * writers as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
    };
    virtual_time::run(preset.costs, 1, |_| {
        for (writer, i) in (0..writers).flat_map(|writer| (0..KEYS_EACH).map(move |i| (writer, i))) {
            store.put(&key(writer, i), &[0; 8]).expect("room in the model");
        }
    });
    // From the call until it is durable.
    let put = |writer: usize, i: u64| {
        let began_ns = virtual_time::now_ns();
        store.put(&key(writer, i), &i.to_le_bytes()).expect("room in the model");
        [(began_ns, virtual_time::now_ns())]
    };
    let put_some = |writer: usize, first: u64| {
        let accept = |i: u64| {
            let began_ns = virtual_time::now_ns();
            (began_ns, store.put_async(&key(writer, i), &i.to_le_bytes()).expect("room in the model"))
        };
        let accepted: Vec<_> = (first..first + way.tickets).map(accept).collect();
        store.wait(accepted.last().expect("some").1).expect("the model does not fail");
        accepted.into_iter().map(|(began_ns, _)| (began_ns, virtual_time::now_ns())).collect::<Vec<_>>()
    };
    let costs = preset.costs;
    // The first puts of a log take a head for it.
    virtual_time::run(costs, writers, |writer| {
        (0..WARM_UP).for_each(|i| {
            put(writer, i);
        });
    });
    media.take_tally();
    media.restart();
    virtual_time::run(costs, writers, |writer| {
        virtual_time::spend(writer as u64 * START_APART_NS);
        let mut own = Vec::with_capacity(puts as usize);
        for i in (WARM_UP..WARM_UP + puts).step_by(way.tickets.max(1) as usize) {
            match way.tickets {
                0 => own.extend(put(writer, i)),
                _ => own.append(&mut put_some(writer, i)),
            }
        }
        latencies.lock().expect("no writer panics").append(&mut own);
    });
    let end = WARM_UP + puts;
    for (writer, i) in (0..writers).flat_map(|writer| (end - KEYS_EACH..end).map(move |i| (writer, i))) {
        let value = store.get(&key(writer, i)).expect("sound");
        assert_eq!(value.as_deref(), Some(&i.to_le_bytes()[..]), "the newest value of the key");
    }
    let mut spans = latencies.into_inner().expect("no writer panicked");
    let end_ns = spans.iter().map(|(_, end)| *end).max().expect("puts");
    spans.iter_mut().for_each(|(began, end)| *end -= *began);
    let mut taken: Vec<u64> = spans.into_iter().map(|(_, taken)| taken).collect();
    taken.sort_unstable();
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize];
    let puts = taken.len() as u64;
    let rate = puts as f64 / end_ns as f64 * 1e3;
    Figures { rate, p50_ns: at(0.5), p99_ns: at(0.99), tally: media.take_tally(), puts }
}
