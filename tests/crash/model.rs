//! What a crash may leave: the states between the last acknowledgement and the last begun operation (durable
//! linearizability).
//!
//! Rules, by promise number of the crash model:
//!   - P1 a step acknowledged at `sync` is there, and with it every earlier one of its writer
//!   - P2 a step is there wholly or not at all, whatever the number of its keys
//!   - P3 what is there is a prefix of each writer's steps; `os` steps may be lost only from its end
//!   - P5 a step that failed or did not return may be there or not; once somebody looked, that is settled
//!   - a killed process loses nothing that it acknowledged, at whatever durability

use flatkv::IndexKind;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Number of a value; 0 if the key is not there.
pub type ValueId = u32;
/// The value of each key, by number of the key.
pub type State = Vec<ValueId>;

/// Keys that histories use, and behind them those that only the work after a recovery uses.
pub const HISTORY_KEYS: usize = 16;
pub const WORK_KEYS: usize = 4;
pub const KEYS: usize = HISTORY_KEYS + WORK_KEYS;
/// Puts of the work after a recovery.
pub const WORK_VALUES: usize = 8;

/// The bytes behind the numbers, and what every store is opened with.
#[derive(Clone, Debug)]
pub struct World {
    pub index: IndexKind,
    pub keys: Vec<Vec<u8>>,
    /// `values[0]` stands for "not there".
    values: Vec<Vec<u8>>,
}

impl World {
    pub fn new(index: IndexKind) -> World {
        let keys = (0..KEYS).map(|number| match number % 4 {
            3 => format!("a-key-of-more-than-one-cache-line-{number:0>40}").into_bytes(),
            _ => format!("key-{number:0>4}").into_bytes(),
        });
        let mut world = World { index, keys: keys.collect(), values: vec![Vec::new()] };
        for number in 0..WORK_VALUES {
            world.add_value(8 + 30 * number);
        }
        world
    }

    /// A value for the work after a recovery. They are made once, because there are millions of recoveries.
    pub fn work_value(index: usize) -> ValueId {
        1 + (index % WORK_VALUES) as ValueId
    }

    /// A new value of `len` bytes, at least 8.
    pub fn add_value(&mut self, len: usize) -> ValueId {
        let id = self.values.len() as ValueId;
        let mut bytes = Vec::with_capacity(len.max(8));
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend(
            (4..len.max(8)).map(|index| (index as u32).wrapping_mul(2 * id + 1).wrapping_add(id) as u8 | 1),
        );
        self.values.push(bytes);
        id
    }

    pub fn value(&self, id: ValueId) -> &[u8] {
        &self.values[id as usize]
    }

    /// The number of a value that a store returned, or `None` if nobody ever wrote these bytes.
    pub fn identify(&self, bytes: &[u8]) -> Option<ValueId> {
        let id = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        (id != 0 && self.values.get(id as usize)? == bytes).then_some(id)
    }
}

/// One atomic change that a writer made or tried, or a call that makes earlier ones durable.
#[derive(Clone, Debug)]
pub struct Step {
    pub writer: usize,
    pub changes: Vec<(usize, ValueId)>,
    /// Events before it began.
    pub begin: usize,
    /// Events when it returned success; `None` if it failed, so that nobody knows whether it happened.
    pub ack: Option<usize>,
    /// Its acknowledgement covers itself and the earlier steps of its writer.
    pub is_sync: bool,
    /// Its acknowledgement covers everything that any writer acknowledged before it began.
    pub covers_all: bool,
}

pub fn apply(state: &mut State, step: &Step) {
    for (key, value) in &step.changes {
        state[*key] = *value;
    }
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    PowerCut,
    Kill,
}

/// What may be found after a crash, by how the process ended. A power cut may also follow a kill.
#[derive(Clone, Debug)]
pub struct Allowed {
    pub power_cut: Vec<State>,
    pub kill: Vec<State>,
}

impl Allowed {
    pub fn only(state: State) -> Allowed {
        Allowed { power_cut: vec![state.clone()], kill: vec![state] }
    }

    /// What may be found if the power fails first.
    pub fn after_power_cut(self) -> Allowed {
        Allowed { kill: self.power_cut.clone(), power_cut: self.power_cut }
    }
}

/// The states that may be recovered after a crash behind `point` events, when the steps began at `base`.
pub fn allowed(base: &State, steps: &[Step], point: usize, end: End) -> Vec<State> {
    let acked = |step: &Step| step.ack.is_some_and(|ack| ack <= point);
    // An acknowledged step counts even if it caused no event at all: it should have.
    let begun = steps.iter().rposition(|step| step.begin < point || acked(step)).map_or(0, |last| last + 1);
    // By writer: how many of the steps (of all) must be there, counted as one past the last.
    let mut must = [0; 2];
    for (index, step) in steps[..begun].iter().enumerate().filter(|(_, step)| acked(step)) {
        if step.is_sync || end == End::Kill {
            must[step.writer] = index + 1;
        }
        if step.covers_all {
            let covered = |earlier: &&(usize, &Step)| earlier.1.ack.is_some_and(|ack| ack <= step.begin);
            for (earlier, step) in
                steps[..index].iter().enumerate().collect::<Vec<_>>().iter().filter(covered)
            {
                must[step.writer] = must[step.writer].max(earlier + 1);
            }
        }
    }
    let is_open = |(index, step): (usize, &Step)| index >= must[step.writer] || step.ack.is_none();
    let settled = steps[..begun].iter().enumerate().position(is_open).unwrap_or(begun);
    let mut state = base.clone();
    steps[..settled].iter().for_each(|step| apply(&mut state, step));
    let open = |writer: usize| {
        let own = steps[..begun].iter().enumerate().filter(move |(_, step)| step.writer == writer);
        let ends = own.map(|(index, _)| index + 1).filter(move |end| *end > must[writer]);
        std::iter::once(must[writer]).chain(ends).collect::<Vec<_>>()
    };
    let failed: Vec<_> = (settled..begun).filter(|index| steps[*index].ack.is_none()).collect();
    assert!(failed.len() <= 8, "a history with {} failed steps in doubt", failed.len());
    let mut states = Vec::new();
    for first in open(0) {
        for second in open(1) {
            let cut = [first, second];
            // A failed step may also be missing in the middle, if the store went on after it.
            for chosen in 0..1 << failed.len() {
                let missing = |index| {
                    failed.iter().position(|at| *at == index).is_some_and(|bit| chosen >> bit & 1 == 0)
                };
                let mut state = state.clone();
                for (index, step) in steps[..begun].iter().enumerate().skip(settled) {
                    if index < cut[step.writer] && !missing(index) {
                        apply(&mut state, step);
                    }
                }
                if !states.contains(&state) {
                    states.push(state);
                }
            }
        }
    }
    states
}

/// A number for a set of allowed states: equal images need no second look only where the same is expected of them.
pub fn expectation(states: &[State]) -> u64 {
    let mut hasher = DefaultHasher::new();
    states.hash(&mut hasher);
    hasher.finish()
}

/// In words: why `found` is none of `states`, by the one that it is nearest to.
pub fn difference(found: &State, states: &[State]) -> String {
    let distance = |state: &&State| state.iter().zip(found).filter(|(a, b)| a != b).count();
    let Some(nearest) = states.iter().min_by_key(distance) else { return "no state is allowed".into() };
    let keys = nearest.iter().zip(found).enumerate().filter(|(_, (expected, found))| expected != found);
    let keys: Vec<_> = keys
        .map(|(key, (expected, found))| {
            let name = |value: ValueId| if value == 0 { "nothing".into() } else { format!("value {value}") };
            format!("key {key}: expected {}, found {}", name(*expected), name(*found))
        })
        .collect();
    format!("none of {} allowed states; nearest differs in {}", states.len(), keys.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(writer: usize, key: usize, value: ValueId, begin: usize, ack: usize, is_sync: bool) -> Step {
        let ack = (ack != 0).then_some(ack);
        Step { writer, changes: vec![(key, value)], begin, ack, is_sync, covers_all: false }
    }

    fn firsts(steps: &[Step], point: usize, end: End) -> Vec<ValueId> {
        let mut firsts: Vec<_> =
            allowed(&vec![0; KEYS], steps, point, end).iter().map(|state| state[0]).collect();
        firsts.sort_unstable();
        firsts
    }

    #[test]
    fn a_step_may_be_there_from_its_first_event_and_must_be_from_its_acknowledgement() {
        let steps = [step(0, 0, 1, 0, 3, true), step(0, 0, 2, 3, 0, true)];
        let found: Vec<_> = (0..=4).map(|point| firsts(&steps, point, End::PowerCut)).collect();
        assert_eq!(found, [vec![0], vec![0, 1], vec![0, 1], vec![1], vec![1, 2]]);
    }

    #[test]
    fn a_step_that_is_acknowledged_without_an_event_must_be_there() {
        let steps = [step(0, 0, 1, 5, 5, true)];
        assert_eq!(firsts(&steps, 4, End::PowerCut), [0]);
        assert_eq!(firsts(&steps, 5, End::PowerCut), [1]);
    }

    #[test]
    fn os_steps_are_lost_as_a_suffix_until_a_later_sync_step_and_never_by_a_kill() {
        let mut steps = vec![step(0, 0, 1, 0, 1, false), step(0, 0, 2, 1, 2, false)];
        assert_eq!(firsts(&steps, 2, End::PowerCut), [0, 1, 2]);
        assert_eq!(firsts(&steps, 2, End::Kill), [2]);
        steps.push(step(0, 1, 3, 2, 4, true));
        assert_eq!(firsts(&steps, 4, End::PowerCut), [2]);
    }

    #[test]
    fn a_failed_step_is_there_or_not_whatever_comes_after_it() {
        let steps = [step(0, 0, 1, 0, 0, true), step(0, 1, 2, 1, 3, true)];
        assert_eq!(firsts(&steps, 3, End::PowerCut), [0, 1]);
        assert_eq!(firsts(&steps, 3, End::Kill), [0, 1]);
    }

    #[test]
    fn writers_lose_suffixes_of_their_own_and_sync_covers_what_all_acknowledged() {
        let mut steps =
            vec![step(0, 0, 1, 0, 1, false), step(1, 1, 2, 1, 2, false), step(0, 0, 3, 2, 3, true)];
        let states = allowed(&vec![0; KEYS], &steps, 3, End::PowerCut);
        assert_eq!(states.iter().map(|state| (state[0], state[1])).collect::<Vec<_>>(), [(3, 0), (3, 2)]);
        let sync =
            Step { writer: 0, changes: vec![], begin: 3, ack: Some(5), is_sync: true, covers_all: true };
        steps.push(sync);
        assert_eq!(allowed(&vec![0; KEYS], &steps, 5, End::PowerCut).len(), 1);
    }
}
