//! Virtual time, the modelled medium, and what the model says of the commit policies. Time is virtual, so it may be asserted: a run
//! gives the same figures on every machine.

#[path = "../benches/medium_model/run.rs"]
#[allow(dead_code, reason = "the benchmark has more rows")]
mod model;

use flatkv::testing::model::Preset;
use flatkv::testing::virtual_time::{self, Costs};
use model::{AUTO_3, Figures, GROUPED, GROUPED_2, LONE, Way, run};
use std::sync::Mutex;

const PUTS: u64 = 300;

fn costs() -> Costs {
    Preset::OPTANE.costs
}

fn figures(preset: &Preset, way: &Way, writers: usize) -> Figures {
    run(preset, way, writers, PUTS)
}

#[test]
fn actors_run_in_the_order_of_their_clocks() {
    let order = Mutex::new(Vec::new());
    virtual_time::run(costs(), 3, |actor| {
        for step in 0..3 {
            virtual_time::spend([70, 50, 110][actor]);
            virtual_time::turn();
            order.lock().expect("no actor panics").push((virtual_time::now_ns(), actor, step));
        }
    });
    let order = order.into_inner().expect("no actor panicked");
    assert_eq!(order.len(), 9);
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn who_waits_for_a_lock_gets_it_when_it_is_let_go_and_pays_for_the_way() {
    let lock = virtual_time::Mutex::new(());
    let taken = Mutex::new([0; 2]);
    virtual_time::run(costs(), 2, |actor| {
        virtual_time::spend(actor as u64);
        let guard = lock.lock();
        taken.lock().expect("no actor panics")[actor] = virtual_time::now_ns();
        virtual_time::spend(500);
        drop(guard);
    });
    let Costs { own_line_ns, hand_over_ns, .. } = costs();
    let taken = taken.into_inner().expect("no actor panicked");
    assert_eq!(taken, [own_line_ns, 2 * own_line_ns + 500 + hand_over_ns]);
}

#[test]
fn who_waited_long_for_a_lock_was_asleep() {
    let lock = virtual_time::Mutex::new(());
    let taken = Mutex::new(0);
    virtual_time::run(costs(), 2, |actor| {
        virtual_time::spend(actor as u64);
        let _guard = lock.lock();
        *taken.lock().expect("no actor panics") = virtual_time::now_ns();
        virtual_time::spend(10 * costs().spin_ns);
    });
    let Costs { own_line_ns, spin_ns, wake_ns, .. } = costs();
    assert_eq!(taken.into_inner().expect("no actor panicked"), 2 * own_line_ns + 10 * spin_ns + wake_ns);
}

#[test]
#[should_panic(expected = "a scoped thread panicked")]
fn actors_that_all_wait_are_noticed() {
    let lock = virtual_time::Mutex::new(());
    virtual_time::run(costs(), 1, |_| {
        let _first = lock.lock();
        let _never = lock.lock();
    });
}

#[test]
fn a_run_gives_the_same_figures_each_time() {
    for way in [LONE, GROUPED] {
        assert_eq!(figures(&Preset::OPTANE, &way, 8), figures(&Preset::OPTANE, &way, 8), "{way:?}");
    }
}

#[test]
fn a_writer_alone_waits_for_nothing_but_its_own_drain() {
    let alone = figures(&Preset::OPTANE, &LONE, 1);
    assert_eq!(alone.tally.drains, alone.puts);
    assert_eq!(alone.tally.lines, alone.puts);
    let Costs { call_ns, look_ns, entry_ns, frame_ns, frame_line_ns, publish_ns, .. } = costs();
    let work_ns = call_ns + look_ns + entry_ns + frame_ns + frame_line_ns + publish_ns;
    let medium_ns = Preset::OPTANE.model.line_ns + Preset::OPTANE.model.drain_ns;
    let locks_ns = alone.p50_ns - work_ns - medium_ns;
    assert!(locks_ns <= 3 * costs().own_line_ns, "{locks_ns} ns of locks");
}

#[test]
fn eight_writers_alone_have_the_bandwidth_of_the_medium_and_no_more() {
    let model = Preset::OPTANE.model;
    let most = 1e6 / model.unit_ps as f64;
    let eight = figures(&Preset::OPTANE, &LONE, 8);
    assert!((0.95..=1.05).contains(&(eight.rate / most)), "{} of {most} M/s", eight.rate);
    assert_eq!(eight.tally.units, eight.puts, "each line takes a whole unit");
    let combined = figures(&Preset::OPTANE_COMBINING, &LONE, 8);
    assert!(combined.rate > 1.5 * eight.rate, "four lines share a unit: {} M/s", combined.rate);
    assert!(combined.per_put(combined.tally.units) < 0.3);
}

#[test]
fn writers_that_share_drains_take_fewer_units() {
    let grouped = figures(&Preset::OPTANE, &GROUPED, 8);
    assert!(grouped.per_put(grouped.tally.drains) < 0.6);
    assert!(grouped.per_put(grouped.tally.units) < 0.8);
    assert!(grouped.per_put(grouped.tally.lines) < 1.0);
}

#[test]
fn a_follower_looks_before_it_sleeps() {
    let group = figures(&Preset::OPTANE, &GROUPED, 8);
    assert!(
        group.p50_ns < costs().wake_ns,
        "{} ns: a sleeper's way back takes {}",
        group.p50_ns,
        costs().wake_ns
    );
}

#[test]
fn writers_that_share_drains_have_more_than_the_bandwidth_of_lines() {
    for (way, writers, gain) in [(GROUPED_2, 8, 1.1), (AUTO_3, 8, 1.15), (AUTO_3, 16, 1.8)] {
        let alone = figures(&Preset::OPTANE, &LONE, writers);
        let shared = figures(&Preset::OPTANE, &way, writers);
        assert!(shared.rate > gain * alone.rate, "{way:?}: {} against {} M/s", shared.rate, alone.rate);
        assert!(shared.p50_ns < alone.p50_ns, "{way:?}: {} against {} ns", shared.p50_ns, alone.p50_ns);
    }
}

#[test]
fn nothing_is_gained_by_sharing_where_the_medium_has_bandwidth_to_spare() {
    for preset in [Preset::OPTANE_6, Preset::OPTANE_COMBINING, Preset::CXL] {
        let alone = figures(&preset, &LONE, 8);
        assert!(figures(&preset, &GROUPED_2, 8).rate < alone.rate, "{}", preset.name);
    }
}
