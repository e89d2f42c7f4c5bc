//! Which system call fails, how, and for how long: the hook that the media ask before every call.

use flatkv::testing::{CallFault, CallSite, set_call_fault_hook};
use std::fmt;
use std::sync::{Mutex, MutexGuard};

/// "For ever" for interrupts: those calls are tried again until one is not interrupted.
const INTERRUPTS_MAX: u32 = 1000;
const SITES_MAX: usize = 64;

/// What the system is like, apart from the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terrain {
    /// It does whatever it is asked.
    Plain,
    /// As plain, and the store's own thread runs.
    Background,
    /// A file system without `O_TMPFILE`: pools are created under a temporary name.
    NoUnnamedFiles,
    /// The same, without hard links.
    NoLinks,
    /// A file system without `fallocate`.
    NoAllocate,
    /// A device that is full after the pool has grown a few times, until the last session.
    Full,
}

impl Terrain {
    pub const ALL: [Terrain; 6] = [
        Terrain::Plain,
        Terrain::Background,
        Terrain::NoUnnamedFiles,
        Terrain::NoLinks,
        Terrain::NoAllocate,
        Terrain::Full,
    ];
    /// Growths before a full device is full: those of the creation and some more.
    const GROWTHS: u32 = 5;

    fn answer(self, site: CallSite, nth: u32) -> Option<i32> {
        match (self, site) {
            (Terrain::NoUnnamedFiles | Terrain::NoLinks, CallSite::CreateUnnamed) => Some(libc::EOPNOTSUPP),
            (Terrain::NoLinks, CallSite::PublishLink) => Some(libc::EPERM),
            (Terrain::NoAllocate, CallSite::GrowAllocate) => Some(libc::EOPNOTSUPP),
            (Terrain::Full, CallSite::GrowAllocate) if nth > Terrain::GROWTHS => Some(libc::ENOSPC),
            _ => None,
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub name: &'static str,
    pub fault: CallFault,
}

pub const FAILURES: [Failure; 5] = [
    Failure { name: "EIO", fault: CallFault::Errno(libc::EIO) },
    Failure { name: "ENOSPC", fault: CallFault::Errno(libc::ENOSPC) },
    Failure { name: "EDQUOT", fault: CallFault::Errno(libc::EDQUOT) },
    Failure { name: "EINTR", fault: CallFault::Errno(libc::EINTR) },
    Failure { name: "short", fault: CallFault::Short },
];

/// One fault: a call of a site, or every call from that one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub site: CallSite,
    pub failure: Failure,
    pub for_ever: bool,
    /// The first is 1.
    pub nth: u32,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = if self.for_ever { "ever" } else { "once" };
        write!(f, "{:?}/{}/{duration}/{}", self.site, self.failure.name, self.nth)
    }
}

impl Fault {
    /// What the calls at its site move, or that they move nothing.
    pub fn is_possible(site: CallSite, failure: Failure) -> bool {
        let moves_bytes = matches!(
            site,
            CallSite::Write
                | CallSite::WriteWord
                | CallSite::GrowZero
                | CallSite::Read
                | CallSite::ReadHolder
        );
        failure.fault != CallFault::Short || moves_bytes
    }

    /// True if the medium hides it: interrupts (of all calls but syncs and mappings) and short transfers.
    pub fn is_hidden(&self) -> bool {
        use CallSite::*;
        let not_tried_again = [
            Drain,
            GrowSync,
            GiveBackSync,
            PublishSync,
            PublishSyncDirectory,
            Reserve,
            MapPart,
            SyncProbe,
            HugePageHint,
        ];
        match self.failure.fault {
            CallFault::Short => true,
            CallFault::Errno(errno) => errno == libc::EINTR && !not_tried_again.contains(&self.site),
        }
    }

    /// True if the call only helps: its failure changes nothing that a caller sees.
    pub fn is_of_a_hint(&self) -> bool {
        use CallSite::*;
        [
            HugePageHint,
            Prefault,
            Unlock,
            GrowUndo,
            Punch,
            Shrink,
            FindHole,
            FileSystemStat,
            LockOwner,
            ReadHolder,
            SyncProbe,
        ]
        .contains(&self.site)
    }

    /// True if the call belongs to a growth alone, and is no sync: nothing that counts depends on it.
    pub fn is_of_a_growth(&self) -> bool {
        use CallSite::*;
        [GrowAllocate, GrowZero, GrowUndo, MapPart, Stat, FileSystemStat].contains(&self.site)
    }

    fn strikes(&self, site: CallSite, nth: u32) -> bool {
        let is_interrupt = self.failure.fault == CallFault::Errno(libc::EINTR);
        let last = match self.for_ever {
            false => self.nth,
            true if is_interrupt => self.nth.saturating_add(INTERRUPTS_MAX),
            true => u32::MAX,
        };
        site == self.site && (self.nth..=last).contains(&nth)
    }
}

struct State {
    terrain: Terrain,
    fault: Option<Fault>,
    calls: [u32; SITES_MAX],
    struck: u32,
}

static STATE: Mutex<State> =
    Mutex::new(State { terrain: Terrain::Plain, fault: None, calls: [0; SITES_MAX], struck: 0 });
/// The hook is one for the process: tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn hook(site: CallSite) -> Option<CallFault> {
    let mut state = state();
    state.calls[site as usize] += 1;
    let nth = state.calls[site as usize];
    if let Some(fault) = state.fault.filter(|fault| fault.strikes(site, nth)) {
        state.struck += 1;
        return Some(fault.failure.fault);
    }
    state.terrain.answer(site, nth).map(CallFault::Errno)
}

/// The right to install faults, until it is dropped.
pub struct Turn(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Turn {
    pub fn take() -> Turn {
        Turn(TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// From now on calls are counted, and the fault strikes.
    pub fn arm(&self, terrain: Terrain, fault: Option<Fault>) {
        *state() = State { terrain, fault, calls: [0; SITES_MAX], struck: 0 };
        set_call_fault_hook(Some(hook));
    }

    /// From now on nothing fails any more; calls are counted still.
    pub fn lift(&self) {
        let mut state = state();
        state.fault = None;
        if state.terrain == Terrain::Full {
            state.terrain = Terrain::Plain;
        }
    }

    /// Calls of each site since [`Turn::arm`], and how many of them the fault struck.
    pub fn seen(&self) -> (Vec<(CallSite, u32)>, u32) {
        let state = state();
        let calls = CallSite::ALL.iter().map(|site| (*site, state.calls[*site as usize]));
        (calls.filter(|(_, calls)| *calls > 0).collect(), state.struck)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        set_call_fault_hook(None);
    }
}
