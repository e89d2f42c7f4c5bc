//! Which keyspace a call is about. Known when the call is compiled, so that calls on the default one are what they would be
//! if there were no others.

use super::super::Engine;
use super::{Keyspace, was_dropped};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::space::Purpose;
use crate::sync::{Arc, RwLock, RwLockReadGuard};
use crate::types::{KeyspaceId, Seq};
use crate::write_batch::{BatchScope, WriteBatch};
use std::any::Any;
use std::ops::Deref;
use std::sync::Weak;

/// Where the keys of a call belong.
pub trait Scope<I: Index>: Copy {
    /// For a read.
    type Looked<'e>: Deref<Target = Keyspace<I>>
    where
        Self: 'e,
        I: 'e;
    /// For a write: nobody drops or clears it meanwhile.
    type Entered<'e>: Deref<Target = Keyspace<I>>
    where
        Self: 'e,
        I: 'e;

    /// Under an epoch guard: what a reader then finds stays where it is.
    ///
    /// # Errors
    /// `Dropped`.
    fn look<'e>(self, engine: &'e Engine<I>) -> Result<Self::Looked<'e>>
    where
        Self: 'e;

    /// Before a write section begins: who drops a keyspace waits for sections.
    ///
    /// # Errors
    /// `Dropped`.
    fn enter<'e>(self, engine: &'e Engine<I>) -> Result<Self::Entered<'e>>
    where
        Self: 'e;

    /// Its gate, if it has one.
    fn named<'e>(self) -> Option<&'e Named<I>>
    where
        Self: 'e,
    {
        None
    }

    /// How deep into the reserve puts may reach.
    fn purpose_of_put(&self) -> Purpose {
        Purpose::Put
    }
}

/// The default keyspace.
#[derive(Clone, Copy, Debug)]
pub struct WholeStore;

impl<I: Index + 'static> Scope<I> for WholeStore {
    type Looked<'e> = &'e Keyspace<I>;
    type Entered<'e> = &'e Keyspace<I>;

    #[inline]
    fn look<'e>(self, engine: &'e Engine<I>) -> Result<&'e Keyspace<I>>
    where
        Self: 'e,
    {
        Ok(&engine.default)
    }

    #[inline]
    fn enter<'e>(self, engine: &'e Engine<I>) -> Result<&'e Keyspace<I>>
    where
        Self: 'e,
    {
        Ok(&engine.default)
    }
}

/// A keyspace that has no name, for a purpose that nobody else has.
pub struct Fixed<'k, I> {
    pub(super) keyspace: &'k Keyspace<I>,
    pub(super) purpose: Purpose,
}

impl<I> Clone for Fixed<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I> Copy for Fixed<'_, I> {}

impl<I: Index + 'static> Scope<I> for Fixed<'_, I> {
    type Looked<'e>
        = &'e Keyspace<I>
    where
        Self: 'e,
        I: 'e;
    type Entered<'e>
        = &'e Keyspace<I>
    where
        Self: 'e,
        I: 'e;

    fn look<'e>(self, _engine: &'e Engine<I>) -> Result<&'e Keyspace<I>>
    where
        Self: 'e,
    {
        Ok(self.keyspace)
    }

    fn enter<'e>(self, _engine: &'e Engine<I>) -> Result<&'e Keyspace<I>>
    where
        Self: 'e,
    {
        Ok(self.keyspace)
    }

    fn purpose_of_put(&self) -> Purpose {
        self.purpose
    }
}

/// What has a name: a keyspace, and after each `clear` another one.
pub struct Named<I> {
    pub(super) name: Box<str>,
    /// Passed by writers; held alone by who drops or clears.
    pub(super) gate: RwLock<()>,
    state: RwLock<State<I>>,
    /// What batches call it.
    in_batch: Arc<InBatch<I>>,
}

/// A keyspace as a batch knows it, which belongs to no store and keeps none open.
struct InBatch<I> {
    named: Weak<Named<I>>,
    store: Arc<()>,
}

struct State<I> {
    /// `None` if it was dropped.
    current: Option<Arc<Keyspace<I>>>,
    /// Those before it that points may still show, the oldest first.
    past: Vec<Weak<Keyspace<I>>>,
}

impl<I: Index + 'static> Named<I> {
    pub(super) fn new(name: &str, keyspace: Arc<Keyspace<I>>, store: &Arc<()>) -> Arc<Self> {
        let state = State { current: Some(keyspace), past: Vec::new() };
        Arc::new_cyclic(|named| Named {
            name: name.into(),
            gate: RwLock::new(()),
            state: RwLock::new(state),
            in_batch: Arc::new(InBatch { named: named.clone(), store: Arc::clone(store) }),
        })
    }

    /// What batches call it.
    pub fn scope(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.in_batch) as _
    }

    /// The keyspace that has the name now.
    ///
    /// # Errors
    /// `Dropped`.
    pub(super) fn current(&self) -> Result<Arc<Keyspace<I>>> {
        self.state.read().current.clone().ok_or_else(was_dropped)
    }

    /// The number that has the name now.
    pub(super) fn id(&self) -> Result<KeyspaceId> {
        self.current().map(|keyspace| keyspace.id())
    }

    /// The keyspace that had the name at a point; `None` if there was none. Waits for who is dropping it now.
    pub fn at(&self, point: Seq) -> Option<Arc<Keyspace<I>>> {
        let _settled = self.gate.read();
        let state = self.state.read();
        let mut then = state.past.iter().filter_map(Weak::upgrade);
        then.find(|keyspace| keyspace.is_visible_at(point)).or_else(|| state.current.clone())
    }

    /// From now on another keyspace has the name, or none.
    pub(super) fn pass_to(&self, next: Option<Arc<Keyspace<I>>>) {
        let mut state = self.state.write();
        state.past.retain(|past| past.strong_count() > 0);
        let before = std::mem::replace(&mut state.current, next);
        state.past.extend(before.as_ref().map(Arc::downgrade));
    }

    /// Passes its gate.
    fn pass(&self) -> Result<Entered<'_, I>> {
        let gate = self.gate.read();
        Ok(Entered { keyspace: self.current()?, _gate: gate })
    }
}

/// A keyspace that nobody drops or clears meanwhile.
pub struct Entered<'n, I> {
    keyspace: Arc<Keyspace<I>>,
    _gate: RwLockReadGuard<'n, ()>,
}

impl<I> Deref for Entered<'_, I> {
    type Target = Keyspace<I>;

    fn deref(&self) -> &Keyspace<I> {
        &self.keyspace
    }
}

impl<I: Index + 'static> Scope<I> for &Named<I> {
    type Looked<'e>
        = Arc<Keyspace<I>>
    where
        Self: 'e,
        I: 'e;
    type Entered<'e>
        = Entered<'e, I>
    where
        Self: 'e,
        I: 'e;

    fn look<'e>(self, _engine: &'e Engine<I>) -> Result<Arc<Keyspace<I>>>
    where
        Self: 'e,
    {
        self.current()
    }

    fn enter<'e>(self, _engine: &'e Engine<I>) -> Result<Entered<'e, I>>
    where
        Self: 'e,
    {
        self.pass()
    }

    fn named<'e>(self) -> Option<&'e Named<I>>
    where
        Self: 'e,
    {
        Some(self)
    }
}

/// No address.
const DEFAULT: usize = 0;

fn address<I>(named: &Named<I>) -> usize {
    std::ptr::from_ref(named).addr()
}

impl<I: Index + 'static> Engine<I> {
    /// What a batch calls the default keyspace.
    pub fn default_scope(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.keyspaces.store) as _
    }

    /// The keyspaces that a batch names; `None` for the default one.
    ///
    /// # Errors
    /// `InvalidArgument` (a keyspace of another store), `Dropped`.
    pub(in crate::engine) fn named_in_batch(&self, batch: &WriteBatch) -> Result<Vec<Option<Arc<Named<I>>>>> {
        batch.scopes().iter().map(|scope| self.named_by(scope)).collect()
    }

    fn named_by(&self, scope: &BatchScope) -> Result<Option<Arc<Named<I>>>> {
        let store = &self.keyspaces.store;
        if std::ptr::addr_eq(Arc::as_ptr(&scope.0), Arc::as_ptr(store)) {
            return Ok(None);
        }
        let another = || Error::InvalidArgument("the batch names a keyspace of another store".into());
        let named = scope.0.downcast_ref::<InBatch<I>>().filter(|named| Arc::ptr_eq(&named.store, store));
        let named = named.ok_or_else(another)?;
        named.named.upgrade().map(Some).ok_or_else(was_dropped)
    }
}

/// The keyspaces of a batch, entered: each gate once, and all batches pass them in one order.
pub struct OfBatch<'e, I: Index + 'static, S: Scope<I> + 'e> {
    default: &'e Keyspace<I>,
    /// What operations belong to that name no keyspace, if it has no gate.
    own: Option<S::Entered<'e>>,
    /// By the addresses of their names.
    passed: Vec<(usize, Entered<'e, I>)>,
    /// The address for each number that operations have, that of their own first; `DEFAULT` for the default one.
    addresses: Vec<usize>,
}

impl<'e, I: Index + 'static, S: Scope<I> + 'e> OfBatch<'e, I, S> {
    /// # Errors
    /// `Dropped`.
    pub(in crate::engine) fn enter(
        engine: &'e Engine<I>,
        scope: S,
        others: &'e [Option<Arc<Named<I>>>],
    ) -> Result<Self> {
        let (mut wanted, mut addresses) = (Vec::new(), Vec::new());
        let own = match scope.named() {
            Some(own) => {
                wanted.push(own);
                addresses.push(address(own));
                None
            }
            None => Some(scope.enter(engine)?),
        };
        if own.is_some() && !others.is_empty() {
            addresses.push(DEFAULT);
        }
        for named in others {
            wanted.extend(named.as_deref());
            addresses.push(named.as_deref().map_or(DEFAULT, address));
        }
        wanted.sort_unstable_by_key(|named| address(*named));
        wanted.dedup_by_key(|named| address(*named));
        let pass = |named: &'e Named<I>| Ok((address(named), named.pass()?));
        let passed = wanted.into_iter().map(pass).collect::<Result<_>>()?;
        Ok(OfBatch { default: &engine.default, own, passed, addresses })
    }

    /// The keyspace of the operations with this number.
    pub(in crate::engine) fn keyspace(&self, number: u32) -> &Keyspace<I> {
        match &self.own {
            Some(own) if number == 0 => own,
            _ => {
                let address = self.addresses[number as usize];
                if address == DEFAULT {
                    return self.default;
                }
                let at = self.passed.binary_search_by_key(&address, |(address, _)| *address);
                &self.passed[at.expect("every keyspace of a batch was entered")].1
            }
        }
    }
}
