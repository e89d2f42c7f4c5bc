//! Rules of what readers are shown, each with a name, so that a suite can leave out one after the other and prove that it
//! would notice. In a library that is shipped they are kept, and asking costs nothing.

/// A rule that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// What the catalogue says was dropped is not there any more when the store was opened again.
    OpenBuriesDropped,
    /// A get at a point is not answered by an entry that is newer.
    GetsHideNewer,
    /// A scan at a point shows no entry that is newer.
    ScansHideNewer,
    /// A scan ends where its limits are.
    ScansEndAtLimits,
}

/// Whether a rule is to be kept.
#[cfg(not(feature = "sim"))]
#[inline(always)]
pub fn keep(_: Rule) -> bool {
    true
}

/// Whether this thread is to keep a rule.
#[cfg(feature = "sim")]
pub fn keep(rule: Rule) -> bool {
    mutants::left_out() != Some(rule)
}

/// Test switches (feature `sim`).
#[cfg(feature = "sim")]
pub mod mutants {
    use super::Rule;
    use std::cell::Cell;

    impl Rule {
        /// All of them.
        pub const ALL: [Rule; 4] =
            [Rule::OpenBuriesDropped, Rule::GetsHideNewer, Rule::ScansHideNewer, Rule::ScansEndAtLimits];
    }

    thread_local! {
        static LEFT_OUT: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// From now on this thread leaves out the rule.
    pub fn leave_out(rule: Option<Rule>) {
        LEFT_OUT.set(rule);
    }

    /// The rule that this thread leaves out.
    pub fn left_out() -> Option<Rule> {
        LEFT_OUT.get()
    }
}
