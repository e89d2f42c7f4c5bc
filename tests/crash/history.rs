//! The language of histories: what is done to a store before it crashes. A history is a line of words, so that a
//! failure can be given as one.

use flatkv::IndexKind;
use flatkv::testing::sim::SimKind;
use std::fmt;
use std::str::FromStr;

/// One word of a history. What key and value it means depends on what was there before it: see `run.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Puts a key that is not there.
    PutNew,
    /// Overwrites a key with a value of the same length.
    OverwriteSame,
    /// Overwrites a key with a longer value.
    OverwriteLarger,
    /// Deletes a key.
    Delete,
    /// A small write batch: a new key, an overwritten one, a deleted one.
    Batch,
    /// A write batch that no frame and no segment of the test geometry can hold.
    BatchLarge,
    /// Puts a value that is too long for the log.
    PutBlob,
    /// Puts until the log has a new head.
    Roll,
    /// A put that may be lost until something is synced.
    OsPut,
    /// Makes everything before it durable.
    Sync,
    /// Lets the log be idle, so that it marks its newest frames as durable.
    Idle,
    /// A pass of the cleaner.
    Clean,
    /// What the cleaner does in a store that nobody writes to, until nothing is left to do.
    Tidy,
    /// Gives every free slot back to the file system, those of the reserve too.
    GiveBack,
    /// Closes the store and opens it again.
    Reopen,
    /// Kills the process and opens the store again.
    Kill,
    /// A put whose drain fails. The store must refuse every write after it.
    FailDrain,
    /// A put whose write fails after a part of it.
    FailWrite,
}

impl Op {
    /// What short histories are made of. Not of tidying: one word more makes a quarter more of them.
    pub const ALPHABET: [Op; 13] = [
        Op::PutNew,
        Op::OverwriteSame,
        Op::OverwriteLarger,
        Op::Delete,
        Op::Batch,
        Op::BatchLarge,
        Op::PutBlob,
        Op::Roll,
        Op::OsPut,
        Op::Sync,
        Op::Clean,
        Op::Reopen,
        Op::Kill,
    ];

    const WORDS: [(Op, &'static str); 18] = [
        (Op::PutNew, "put"),
        (Op::OverwriteSame, "same"),
        (Op::OverwriteLarger, "larger"),
        (Op::Delete, "delete"),
        (Op::Batch, "batch"),
        (Op::BatchLarge, "bigbatch"),
        (Op::PutBlob, "blob"),
        (Op::Roll, "roll"),
        (Op::OsPut, "os"),
        (Op::Sync, "sync"),
        (Op::Idle, "idle"),
        (Op::Clean, "clean"),
        (Op::Tidy, "tidy"),
        (Op::GiveBack, "giveback"),
        (Op::Reopen, "reopen"),
        (Op::Kill, "kill"),
        (Op::FailDrain, "faildrain"),
        (Op::FailWrite, "failwrite"),
    ];

    fn word(self) -> &'static str {
        Op::WORDS.iter().find(|(op, _)| *op == self).expect("every op has a word").1
    }
}

/// An operation and the writer that does it: 0 is the main thread, 1 another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    pub op: Op,
    pub writer: usize,
}

/// A medium, an index, how the store starts, and what is done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub kind: SimKind,
    /// Of every store that is opened in it, behind its crashes too.
    pub index: IndexKind,
    /// Starts with creating the pool; else with opening one that was closed.
    pub creates: bool,
    /// Where it creates one, the medium is there already, as a device is.
    pub in_place: bool,
    /// Keys are picked by the seed; else the last one written is used.
    pub random_keys: bool,
    pub acts: Vec<Act>,
}

impl History {
    /// The index of the `number`-th of many histories: each kind has half of them, and the other half on the other medium.
    pub fn nth_index(kind: SimKind, number: u64) -> IndexKind {
        let is_even = number.is_multiple_of(2);
        if is_even == (kind == SimKind::Pm) { IndexKind::Ordered } else { IndexKind::Hash }
    }

    /// Every history of exactly `len` operations by one writer.
    pub fn all(kind: SimKind, len: u32) -> impl Iterator<Item = History> {
        let ops = Op::ALPHABET.len();
        (0..ops.pow(len)).map(move |mut number| {
            let index = History::nth_index(kind, number as u64);
            let mut acts = Vec::new();
            for _ in 0..len {
                acts.push(Act { op: Op::ALPHABET[number % ops], writer: 0 });
                number /= ops;
            }
            History { kind, index, creates: false, in_place: false, random_keys: false, acts }
        })
    }

    /// Every single operation of short histories, and tidying.
    pub fn singles(kind: SimKind) -> impl Iterator<Item = History> {
        let acts = vec![Act { op: Op::Tidy, writer: 0 }];
        let index = History::nth_index(kind, Op::ALPHABET.len() as u64);
        let tidying = History { kind, index, creates: false, in_place: false, random_keys: false, acts };
        History::all(kind, 1).chain([tidying])
    }

    /// `len` operations that `seed` picks, by two writers.
    pub fn random(kind: SimKind, len: usize, seed: u64) -> History {
        let mut random = Random::new(seed);
        let mut acts = Vec::new();
        for _ in 0..len {
            let op = match random.below(64) {
                0..13 => Op::PutNew,
                13..14 => Op::Tidy,
                14..22 => Op::OverwriteSame,
                22..28 => Op::OverwriteLarger,
                28..38 => Op::Delete,
                38..44 => Op::Batch,
                44..46 => Op::BatchLarge,
                46..48 => Op::PutBlob,
                48..49 => Op::Roll,
                49..57 => Op::OsPut,
                57..59 => Op::Sync,
                59..60 => Op::Clean,
                60..61 => Op::GiveBack,
                61..62 => Op::Reopen,
                62..63 => Op::Kill,
                _ => Op::FailDrain,
            };
            let writer = usize::from(random.below(4) == 0 && !matches!(op, Op::Reopen | Op::Kill));
            acts.push(Act { op, writer });
        }
        let index = History::nth_index(kind, seed);
        History { kind, index, creates: false, in_place: false, random_keys: true, acts }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            SimKind::Pm => "pm",
            SimKind::File => "file",
        };
        write!(
            f,
            "{kind}{}{}{}{}:",
            if self.index == IndexKind::Hash { "-hash" } else { "" },
            if self.creates { "-new" } else { "" },
            if self.in_place { "-device" } else { "" },
            if self.random_keys { "-random" } else { "" }
        )?;
        for (index, act) in self.acts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}{}", act.op.word(), if act.writer == 1 { "@2" } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for History {
    type Err = String;

    fn from_str(line: &str) -> Result<History, String> {
        let (start, words) =
            line.split_once(':').ok_or("a history is MEDIUM[-hash][-new[-device]][-random]:WORD,WORD...")?;
        let mut flags = start.split('-');
        let kind = match flags.next() {
            Some("pm") => SimKind::Pm,
            Some("file") => SimKind::File,
            other => return Err(format!("unknown medium {other:?}: expected pm or file")),
        };
        let index = IndexKind::Ordered;
        let mut history =
            History { kind, index, creates: false, in_place: false, random_keys: false, acts: Vec::new() };
        for flag in flags {
            match flag {
                "hash" => history.index = IndexKind::Hash,
                "new" => history.creates = true,
                "device" => history.in_place = true,
                "random" => history.random_keys = true,
                other => return Err(format!("unknown flag {other:?}: expected hash, new, device or random")),
            }
        }
        for word in words.split(',').filter(|word| !word.is_empty()) {
            let (name, writer) = word.strip_suffix("@2").map_or((word, 0), |name| (name, 1));
            let known = Op::WORDS.iter().find(|(_, word)| *word == name);
            let op = known
                .ok_or_else(|| format!("unknown word {name:?}: expected {:?}", Op::WORDS.map(|(_, w)| w)))?
                .0;
            history.acts.push(Act { op, writer });
        }
        Ok(history)
    }
}

/// A small generator whose numbers never change (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
