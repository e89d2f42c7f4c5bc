//! The goals of the project's speed, and what a run says about them.

use crate::measure::Figures;
use crate::own::{FILE_THREADS, HOT_THREADS, SIDE_BY_SIDE, name};
use serde_json::{Value, json};

/// A line of the goals table.
pub struct Goal {
    pub figure: String,
    pub goal: String,
    /// What was measured, in the goal's unit.
    pub measured: Option<f64>,
    pub met: Option<bool>,
}

pub fn at_least(figure: impl Into<String>, of: &str, goal: f64, measured: Option<f64>) -> Goal {
    Goal {
        figure: figure.into(),
        goal: format!(">= {goal} {of}").trim_end().into(),
        measured,
        met: measured.map(|ratio| ratio >= goal),
    }
}

pub fn at_most(figure: impl Into<String>, of: &str, goal: f64, measured: Option<f64>) -> Goal {
    Goal {
        figure: figure.into(),
        goal: format!("<= {goal} {of}"),
        measured,
        met: measured.map(|number| number <= goal),
    }
}

/// The goals that `flatkv-bench own` can judge, for one build. Those against other stores are judged by `peers`.
pub fn judge(figures: &Figures, build: &str) -> Vec<Goal> {
    let ours = |phase: &str, threads: usize| name(build, phase, threads);
    let ideal = |phase: &str, threads: usize| name("ideal", phase, threads);
    let against_ideal = |phase: &str| figures.ratio(&ours(phase, 1), &ideal(phase, 1));
    let mut goals = vec![
        at_least("put, insert, 1 thread", "of the ideal", 0.65, against_ideal("insert")),
        at_least(
            "put, overwrite uniform, 1 thread",
            "of the ideal",
            0.50,
            against_ideal("overwrite uniform"),
        ),
        at_least("put, overwrite zipf, 1 thread", "of the ideal", 0.50, against_ideal("overwrite zipf")),
        at_least("get uniform, 1 thread", "of the ideal", 0.75, against_ideal("get uniform")),
        at_least("get zipf, 1 thread", "of the ideal", 0.75, against_ideal("get zipf")),
        at_least(
            "get uniform, 1 thread",
            "of papaya in DRAM",
            1.0,
            figures.ratio(&ours("get uniform", 1), &name("papaya", "get uniform", 1)),
        ),
    ];
    for phase in [SIDE_BY_SIDE, "overwrite uniform", "overwrite zipf", "get uniform", "get zipf"] {
        let measured = figures.ratio(&ours(phase, 2), &ours(phase, 1));
        goals.push(at_least(format!("{phase}, 2 threads against 1"), "", 1.85, measured));
    }
    let single = ours("get uniform", 1);
    goals.push(at_least(
        "multi-get of 64",
        "of single gets",
        3.0,
        figures.ratio(&ours("multi-get of 64", 1), &single),
    ));
    let put = ours("overwrite uniform", 1);
    for phase in ["put_async, overwrite", "write batch of 64, overwrite"] {
        goals.push(at_least(phase, "of synchronous puts", 2.0, figures.ratio(&ours(phase, 1), &put)));
    }

    let hot = |threads: usize| ours("put of one hot key", threads);
    let uniform = ours("overwrite uniform", 2);
    goals.push(at_least("one hot key, 2 threads", "of uniform on 2", 0.3, figures.ratio(&hot(2), &uniform)));
    for threads in HOT_THREADS {
        let measured = figures.ratio(&hot(threads), &hot(1));
        goals.push(at_least(format!("one hot key, {threads} threads"), "of 1 thread on it", 0.9, measured));
    }
    let falling = figures.ratio(&hot(16), &hot(2));
    goals.push(at_least("one hot key, 16 threads against 2 (0.9 for noise)", "", 0.9, falling));

    // A pause that is due to growth comes again in every round; one that is due to the machine does not.
    let slowest = figures.rounds(&ours("slowest put while the index grows", 1));
    let slowest = slowest.iter().copied().reduce(f64::min);
    goals.push(at_most("slowest put while the index grows tenfold, best round", "us", 1000.0, slowest));

    let raw = "64 B preallocated write + fdatasync";
    let pipelined = "O_DIRECT|O_DSYNC 4 KiB, 16 in flight";
    goals.push(at_least(
        "file, sync, 1 thread",
        "of a raw write + fdatasync",
        0.85,
        figures.ratio(&ours("put on a file, sync", 1), raw),
    ));
    let many = ours("put on a file, sync", FILE_THREADS);
    let of_sixteen = figures.combine(&many, raw, |ours, raw| ours / (raw * FILE_THREADS as f64));
    let of_pipelined = figures.ratio(&many, pipelined);
    let easier = of_sixteen.zip(of_pipelined).map(|(a, b)| a.max(b));
    goals.push(at_least("file, sync, 16 threads", "of 16x raw, or of raw pipelined if lower", 0.8, easier));
    goals.push(at_least(
        "file, put_async from 1 thread, durable",
        "of raw fdatasyncs",
        120.0,
        figures.ratio(&ours("put_async on a file, durable", 1), raw),
    ));
    let dram = |what: &str| figures.median(&ours(what, 1));
    goals.push(at_most("DRAM per key, average", "B", 12.0, dram("DRAM per key, average")));
    goals.push(at_most("DRAM per key, worst", "B", 16.0, dram("DRAM per key, worst")));
    goals.push(Goal {
        figure: "grouping under the medium model, virtual time".into(),
        goal: ">= 1.5 of lone writers".into(),
        measured: None,
        met: None,
    });
    goals
}

impl Goal {
    pub fn verdict(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "not run",
        }
    }

    pub fn json(&self) -> Value {
        json!({ "figure": self.figure, "goal": self.goal, "measured": self.measured, "verdict": self.verdict() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_missed_or_said_to_be_not_run() {
        let mut figures = Figures::default();
        figures.add("flatkv: insert", "M/s", 0.7);
        figures.add("ideal: insert", "M/s", 1.0);
        figures.add("flatkv: get uniform", "M/s", 0.5);
        figures.add("ideal: get uniform", "M/s", 1.0);
        let goals = judge(&figures, "flatkv");
        let verdict = |figure: &str| {
            goals.iter().find(|goal| goal.figure == figure).expect("a goal of that name").verdict()
        };
        assert_eq!(verdict("put, insert, 1 thread"), "met");
        assert_eq!(verdict("get uniform, 1 thread"), "NOT MET");
        assert_eq!(verdict("DRAM per key, average"), "not run");
    }
}
