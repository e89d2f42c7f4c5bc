//! A crash, and then lines of the medium that cannot be read any more, before the next process opens the pool or when it
//! has. With `sigbus=guard` nothing is loaded from the mapping: opening may fail with the error of the read, and an open
//! store serves every key that it can read as the crash left it.

use crate::crash::history::{History, Random};
use crate::crash::model::World;
use crate::crash::run;
use crate::crash::subject;
use flatkv::testing::sim::{Level, SimMedia};
use flatkv::testing::{self, MediaRange};
use flatkv::{Error, IndexKind, SigbusPolicy, Store};
use std::sync::Arc;

const LINE_BYTES: u64 = 64;
/// Lines that are made unreadable in each image, one after the other.
const LINES: u64 = 6;
const POINTS_STEP: usize = 3;

#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub opens: u64,
    pub refused: u64,
    pub served: u64,
    pub failed: u64,
}

fn open(media: &Arc<SimMedia>, index: IndexKind) -> Result<Store, Error> {
    testing::open_on(media.clone(), subject::options(media, index).sigbus(SigbusPolicy::Guard))
}

/// Lines of the image that hold anything.
fn lines(media: &SimMedia) -> Vec<u64> {
    let bytes = media.view();
    let used =
        bytes.chunks(LINE_BYTES as usize).zip(0_u64..).filter(|(line, _)| line.iter().any(|b| *b != 0));
    used.map(|(_, number)| number * LINE_BYTES).collect()
}

pub fn sweep(history: &History, seed: u64, tally: &mut Tally) -> Result<(), String> {
    let mut world = World::new(history.index);
    let sessions = run::run::<Store>(&mut world, history, seed)?;
    let mut random = Random::new(seed);
    for session in &sessions {
        let mut replay = session.recording.replay();
        for point in session.recording.points().step_by(POINTS_STEP) {
            replay.advance_to(point);
            let images = replay.images(Level::C, 64, seed);
            let number = random.below(images.possible().min(64));
            let allowed = session.allowed(point).power_cut;
            let image = images.nth_image(number);
            let whole = SimMedia::from_crash(&image);
            let lines = lines(&whole);
            drop(whole);
            for number_of_line in 0..LINES.min(lines.len() as u64) {
                let bad = lines[random.below(lines.len() as u64) as usize];
                let media = Arc::new(SimMedia::from_crash(&image));
                let is_late = number_of_line % 2 == 1;
                let break_it = || media.make_unreadable(MediaRange::new(bad, LINE_BYTES));
                if !is_late {
                    break_it();
                }
                tally.opens += 1;
                let place =
                    format!("{history} SEED={seed:#x} POINT={point} IMAGE=C.64.{number}, line {bad:#x}");
                match open(&media, history.index) {
                    Ok(store) => {
                        if is_late {
                            break_it();
                        }
                        read(&store, &world, &allowed, tally).map_err(|what| format!("{place}: {what}"))?;
                    }
                    Err(Error::Io { .. } | Error::Corrupted { .. } | Error::Incomplete(_)) if !is_late => {
                        tally.refused += 1
                    }
                    Err(error) => return Err(format!("{place}: open failed: {error}")),
                }
                media.power_off();
            }
        }
    }
    Ok(())
}

fn read(store: &Store, world: &World, allowed: &[Vec<u32>], tally: &mut Tally) -> Result<(), String> {
    for (number, key) in world.keys.iter().enumerate() {
        let shown = match store.get(key) {
            Ok(None) => 0,
            Ok(Some(bytes)) => {
                world.identify(&bytes).ok_or(format!("key {number} has bytes that nobody wrote"))?
            }
            Err(Error::Io { .. } | Error::Corrupted { .. }) => {
                tally.failed += 1;
                continue;
            }
            Err(error) => return Err(format!("get of key {number}: {error}")),
        };
        if !allowed.iter().any(|state| state[number] == shown) {
            let expected: Vec<_> = allowed.iter().map(|state| state[number]).collect();
            return Err(format!("key {number} shows value {shown}, not one of {expected:?}"));
        }
        tally.served += 1;
    }
    Ok(())
}
