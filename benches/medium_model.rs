//! `make bench-model`: who should share a drain, on media that are not here. A **simulation**: the real code of puts under locks
//! and a medium in virtual time. The same figures in each run. See `docs/decisions/0024-medium-model.md`.

#[path = "medium_model/run.rs"]
mod model;

use flatkv::testing::model::Preset;
use model::{AUTO_2, AUTO_3, Figures, GROUPED, GROUPED_2, GROUPED_3, GROUPED_4, LONE, TICKETS, Way, run};

const PUTS: u64 = 1500;
const WRITERS: [usize; 5] = [1, 2, 4, 8, 16];
const WAYS: [Way; 8] = [LONE, AUTO_2, AUTO_3, GROUPED, GROUPED_2, GROUPED_3, GROUPED_4, TICKETS];

#[allow(clippy::print_stdout, reason = "a table for people")]
fn main() {
    println!("SIMULATION in virtual time: puts of 8 + 8 bytes, no medium and no core of it is here");
    for preset in Preset::ALL {
        println!("\n{}", preset.name);
        println!(
            "{:<20} {:>7} {:>8} {:>8} {:>8} {:>9} {:>9} {:>10}",
            "policy", "writers", "M puts/s", "p50 ns", "p99 ns", "lines/put", "units/put", "drains/put"
        );
        for way in WAYS {
            for writers in WRITERS {
                print_row(way.name, writers, &run(&preset, &way, writers, PUTS));
            }
        }
    }
    print_goal();
}

/// Eight writers on the Optane-like medium: who shares drains against each alone.
#[allow(clippy::print_stdout, reason = "a table for people")]
fn print_goal() {
    let alone = run(&Preset::OPTANE, &LONE, 8, PUTS);
    println!("\ngoal: 8 writers, {}, at least 1.5 x lone and p50 not worse", Preset::OPTANE.name);
    for way in &WAYS[1..] {
        let shared = run(&Preset::OPTANE, way, 8, PUTS);
        let ratio = shared.rate / alone.rate;
        let is_met = ratio >= 1.5 && shared.p50_ns <= alone.p50_ns;
        let p50 = format!("p50 {} against {} ns", shared.p50_ns, alone.p50_ns);
        println!("  {:<20} {ratio:.2} x, {p50}: {}", way.name, if is_met { "met" } else { "not met" });
    }
}

#[allow(clippy::print_stdout, reason = "a table for people")]
fn print_row(way: &str, writers: usize, figures: &Figures) {
    let Figures { rate, p50_ns, p99_ns, tally, .. } = figures;
    println!(
        "{way:<20} {writers:>7} {rate:>8.2} {p50_ns:>8} {p99_ns:>8} {:>9.2} {:>9.2} {:>10.2}",
        figures.per_put(tally.lines),
        figures.per_put(tally.units),
        figures.per_put(tally.drains),
    );
}
