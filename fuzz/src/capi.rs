//! Random calls of the C interface with good handles, closed ones, handles of another kind, and numbers that are none.
//! Checked: no panic reaches the interface, a refused call changes nothing, answers are those of a map.

#![allow(unsafe_code, reason = "calls the C interface")]

use super::input::Input;
use flatkv as _;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Buffer {
    data: *mut u8,
    len: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slice {
    data: *const u8,
    len: usize,
}

/// Every handle is a number here.
type Handle = usize;

unsafe extern "C" {
    fn flatkv_options_new() -> Handle;
    fn flatkv_options_set(options: Handle, name: *const c_char, value: *const c_char) -> c_int;
    fn flatkv_options_free(options: Handle);
    fn flatkv_write_options_new() -> Handle;
    fn flatkv_write_options_set(options: Handle, name: *const c_char, value: *const c_char) -> c_int;
    fn flatkv_write_options_free(options: Handle);
    fn flatkv_open(path: *const c_char, options: Handle, out: *mut Handle) -> c_int;
    fn flatkv_close(store: Handle) -> c_int;
    fn flatkv_put(store: Handle, k: *const c_void, kl: usize, v: *const c_void, vl: usize) -> c_int;
    fn flatkv_put_with(
        s: Handle,
        o: Handle,
        k: *const c_void,
        kl: usize,
        v: *const c_void,
        vl: usize,
    ) -> c_int;
    fn flatkv_delete(store: Handle, k: *const c_void, kl: usize) -> c_int;
    fn flatkv_exists(store: Handle, k: *const c_void, kl: usize) -> c_int;
    fn flatkv_get(store: Handle, k: *const c_void, kl: usize, out: *mut Buffer) -> c_int;
    fn flatkv_get_into(
        s: Handle,
        k: *const c_void,
        kl: usize,
        b: *mut c_void,
        cap: usize,
        out: *mut usize,
    ) -> c_int;
    fn flatkv_multi_get(s: Handle, n: usize, keys: *const Slice, out: *mut Buffer, st: *mut c_int) -> c_int;
    fn flatkv_sync(store: Handle) -> c_int;
    fn flatkv_maintenance_pause(store: Handle) -> c_int;
    fn flatkv_maintenance_resume(store: Handle) -> c_int;
    fn flatkv_health(store: Handle) -> c_int;
    fn flatkv_verify(store: Handle, out: *mut Buffer) -> c_int;
    fn flatkv_stats_json(store: Handle, out: *mut Buffer) -> c_int;
    fn flatkv_buffer_free(buffer: *mut Buffer);
    fn flatkv_batch_new() -> Handle;
    fn flatkv_batch_put(b: Handle, k: *const c_void, kl: usize, v: *const c_void, vl: usize) -> c_int;
    fn flatkv_batch_delete(b: Handle, k: *const c_void, kl: usize) -> c_int;
    fn flatkv_batch_clear(b: Handle);
    fn flatkv_batch_count(b: Handle) -> usize;
    fn flatkv_batch_free(b: Handle);
    fn flatkv_write(store: Handle, batch: Handle) -> c_int;
    fn flatkv_write_with(store: Handle, options: Handle, batch: Handle) -> c_int;
    fn flatkv_put_async(
        s: Handle,
        k: *const c_void,
        kl: usize,
        v: *const c_void,
        vl: usize,
        out: *mut u64,
    ) -> c_int;
    fn flatkv_wait(store: Handle, ticket: u64) -> c_int;
    fn flatkv_durable_ticket(store: Handle) -> u64;
    fn flatkv_get_pinned(s: Handle, k: *const c_void, kl: usize, out: *mut Handle) -> c_int;
    fn flatkv_pin_data(pin: Handle) -> *const u8;
    fn flatkv_pin_len(pin: Handle) -> usize;
    fn flatkv_pin_free(pin: Handle);
    fn flatkv_last_error() -> *const c_char;
    fn flatkv_status_str(status: c_int) -> *const c_char;
}

const OK: c_int = flatkv::status::OK;
const NOT_FOUND: c_int = flatkv::status::NOT_FOUND;

/// What a handle is, by what this test did with it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Store(usize),
    Options,
    WriteOptions,
    Batch,
    Pin(usize),
    Dead,
}

type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Pools, and what each holds.
const POOLS: usize = 2;

struct World {
    dir: PathBuf,
    handles: Vec<(Handle, Kind)>,
    batches: BTreeMap<Handle, Batch>,
    pins: BTreeMap<Handle, Vec<u8>>,
    maps: [BTreeMap<Vec<u8>, Vec<u8>>; POOLS],
    is_open: [bool; POOLS],
}

fn folder() -> PathBuf {
    let name = format!("flatkv-fuzz-capi.{}", std::process::id());
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm.join(name) } else { std::env::temp_dir().join(name) }
}

pub fn run(data: &[u8]) {
    let dir = folder();
    std::fs::create_dir_all(&dir).expect("a folder for the pools");
    let mut world = World {
        dir: dir.clone(),
        handles: Vec::new(),
        batches: BTreeMap::new(),
        pins: BTreeMap::new(),
        maps: Default::default(),
        is_open: [false; POOLS],
    };
    let mut input = Input::new(data);
    // A store to begin with; most of what is interesting needs one.
    world.open(0);
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    world.end();
    std::fs::remove_dir_all(&dir).expect("the pools are closed");
}

fn name(text: &str) -> CString {
    CString::new(text).expect("no NUL inside")
}

fn pointer(bytes: &[u8]) -> *const c_void {
    bytes.as_ptr().cast()
}

/// A status that a call may answer to any misuse.
fn no_panic(status: c_int) -> c_int {
    if status == flatkv::status::E_PANIC {
        // SAFETY: never NULL, text until the next call of this thread.
        let why = unsafe { std::ffi::CStr::from_ptr(flatkv_last_error()) };
        panic!("a panic inside the library: {}", why.to_string_lossy());
    }
    status
}

impl World {
    fn path(&self, pool: usize) -> CString {
        name(self.dir.join(format!("{pool}.fkv")).to_str().expect("UTF-8"))
    }

    fn open(&mut self, pool: usize) {
        // SAFETY: pointers to texts and out-parameters that live until the call returns, here and in all calls below.
        unsafe {
            let options = flatkv_options_new();
            for (option, value) in [
                ("media", "emulated-pm"),
                ("segment_size_bytes", "16KiB"),
                ("head_size_bytes", "8KiB"),
                ("max_bytes", "1MiB"),
            ] {
                assert_eq!(
                    flatkv_options_set(options, name(option).as_ptr(), name(value).as_ptr()),
                    OK,
                    "{option}"
                );
            }
            let mut store = usize::MAX;
            let status = no_panic(flatkv_open(self.path(pool).as_ptr(), options, &mut store));
            assert_eq!(
                status == OK,
                !self.is_open[pool],
                "open twice is refused, open once is not: {status}"
            );
            assert_eq!(status == OK, store != 0, "the handle is NULL on failure");
            if status == OK {
                self.is_open[pool] = true;
                self.handles.push((store, Kind::Store(pool)));
            }
            flatkv_options_free(options);
        }
    }

    /// A handle: mostly a known one, alive or dead, else a number near one, or any.
    fn handle(&self, input: &mut Input<'_>) -> (Handle, Kind) {
        let choice = input.byte();
        if choice < 200 && !self.handles.is_empty() {
            return self.handles[usize::from(choice) % self.handles.len()];
        }
        let near = self.handles.last().map_or(0, |last| last.0);
        let forged = match choice {
            200..216 => 0,
            216..232 => near ^ 1 << (input.byte() % 64),
            _ => input.number() as usize,
        };
        let known = self.handles.iter().rev().find(|(handle, _)| *handle == forged);
        (forged, known.map_or(Kind::Dead, |(_, kind)| *kind))
    }

    /// A handle of the right kind, mostly; a store is asked for by most calls.
    fn store(&self, input: &mut Input<'_>) -> (Handle, Kind) {
        let is_store = |(_, kind): &&(Handle, Kind)| matches!(kind, Kind::Store(_));
        let choice = input.byte();
        let stores: Vec<_> = self.handles.iter().filter(is_store).collect();
        if choice < 220 && !stores.is_empty() {
            return *stores[usize::from(choice) % stores.len()];
        }
        self.handle(input)
    }

    fn of_kind(&self, wanted: Kind, input: &mut Input<'_>) -> (Handle, Kind) {
        let choice = input.byte();
        let found: Vec<_> = self.handles.iter().filter(|(_, kind)| *kind == wanted).collect();
        if choice < 220 && !found.is_empty() {
            return *found[usize::from(choice) % found.len()];
        }
        self.handle(input)
    }

    fn mark_dead(&mut self, handle: Handle) {
        for (known, kind) in &mut self.handles {
            if *known == handle {
                *kind = Kind::Dead;
            }
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 24 {
            0 => self.open(usize::from(input.byte()) % POOLS),
            1 => self.close(input),
            2..=5 => self.put(input),
            6 => self.delete(input),
            7..=9 => self.get(input),
            10 => self.multi_get(input),
            11 => self.other_store_calls(input),
            12 => self.make(input),
            13 => self.free(input),
            14..=16 => self.change_batch(input),
            17 => self.write(input),
            18 => self.asynchronous(input),
            19 => self.pin(input),
            20 => self.read_pin(input),
            21 => self.set_option(input),
            22 => self.open_badly(input),
            _ => self.bad_lengths(input),
        }
    }

    fn pinned(&self, pool: usize) -> bool {
        self.handles.iter().any(|(_, kind)| *kind == Kind::Pin(pool))
    }

    fn close(&mut self, input: &mut Input<'_>) {
        let (store, kind) = self.store(input);
        // SAFETY: a handle is a number; nothing is dereferenced.
        let status = no_panic(unsafe { flatkv_close(store) });
        match kind {
            Kind::Store(pool) if self.pinned(pool) => assert_eq!(status, flatkv::status::E_BUSY),
            Kind::Store(pool) => {
                assert_eq!(status, OK);
                self.is_open[pool] = false;
                self.mark_dead(store);
            }
            _ => assert!(
                store == 0 || (status != OK && status != NOT_FOUND),
                "closed what is no store: {status}"
            ),
        }
    }

    fn put(&mut self, input: &mut Input<'_>) {
        let (store, kind) = self.store(input);
        let (key, value) = (key(input), value(input));
        // SAFETY: the slices live until the call returns.
        let status =
            no_panic(unsafe { flatkv_put(store, pointer(&key), key.len(), pointer(&value), value.len()) });
        match kind {
            Kind::Store(pool) if status == OK => {
                self.maps[pool].insert(key, value);
            }
            Kind::Store(_) => assert_full(status),
            _ => assert_ne!(status, OK),
        }
    }

    fn delete(&mut self, input: &mut Input<'_>) {
        let (store, kind) = self.store(input);
        let key = key(input);
        // SAFETY: as above.
        let status = no_panic(unsafe { flatkv_delete(store, pointer(&key), key.len()) });
        match kind {
            Kind::Store(pool) => {
                let expected = if self.maps[pool].remove(&key).is_some() { OK } else { NOT_FOUND };
                assert_eq!(status, expected);
            }
            _ => assert!(status != OK && status != NOT_FOUND),
        }
    }

    fn get(&mut self, input: &mut Input<'_>) {
        let (store, kind) = self.store(input);
        let key = key(input);
        let mut out = Buffer { data: ptr::without_provenance_mut(8), len: 8 };
        let (mut into, mut len) = ([0_u8; 100], usize::MAX);
        // SAFETY: as above; the buffer was emptied or filled by the library before it is read or freed.
        unsafe {
            let status = no_panic(flatkv_get(store, pointer(&key), key.len(), &mut out));
            let into_status = no_panic(flatkv_get_into(
                store,
                pointer(&key),
                key.len(),
                into.as_mut_ptr().cast(),
                into.len(),
                &mut len,
            ));
            let exists = no_panic(flatkv_exists(store, pointer(&key), key.len()));
            match kind {
                Kind::Store(pool) => {
                    let expected = self.maps[pool].get(&key);
                    assert_eq!((status, exists), expected.map_or((NOT_FOUND, NOT_FOUND), |_| (OK, OK)));
                    if let Some(value) = expected {
                        assert_eq!(std::slice::from_raw_parts(out.data, out.len), &value[..]);
                        assert_eq!(len, value.len());
                        if value.len() <= into.len() {
                            assert_eq!((into_status, &into[..len]), (OK, &value[..]));
                        } else {
                            assert_eq!(into_status, flatkv::status::E_BUFFER_TOO_SMALL);
                        }
                    }
                }
                _ => {
                    assert!(status != OK && into_status == status && exists == status);
                    assert!(out.data.is_null() && out.len == 0 && len == 0);
                }
            }
            flatkv_buffer_free(&mut out);
            flatkv_buffer_free(&mut out);
        }
    }

    fn multi_get(&mut self, input: &mut Input<'_>) {
        let (store, kind) = self.store(input);
        let keys: Vec<Vec<u8>> = (0..input.byte() % 9).map(|_| key(input)).collect();
        let slices: Vec<Slice> =
            keys.iter().map(|key| Slice { data: key.as_ptr(), len: key.len() }).collect();
        let mut out = [Buffer { data: ptr::null_mut(), len: 1 }; 9];
        let mut statuses = [c_int::MAX; 9];
        // SAFETY: as above; nine elements are at least as many as keys.
        unsafe {
            let status = no_panic(flatkv_multi_get(
                store,
                keys.len(),
                slices.as_ptr(),
                out.as_mut_ptr(),
                statuses.as_mut_ptr(),
            ));
            assert_eq!(status == OK, matches!(kind, Kind::Store(_)));
            for (i, key) in keys.iter().enumerate() {
                if let Kind::Store(pool) = kind {
                    let expected = self.maps[pool].get(key);
                    assert_eq!(statuses[i], expected.map_or(NOT_FOUND, |_| OK));
                    if let Some(value) = expected {
                        assert_eq!(std::slice::from_raw_parts(out[i].data, out[i].len), &value[..]);
                    }
                }
                flatkv_buffer_free(&mut out[i]);
            }
        }
    }

    fn other_store_calls(&mut self, input: &mut Input<'_>) {
        let (store, kind) = self.store(input);
        let is_store = matches!(kind, Kind::Store(_));
        let mut json = Buffer { data: ptr::null_mut(), len: 0 };
        // SAFETY: as above.
        unsafe {
            assert_eq!(no_panic(flatkv_sync(store)) == OK, is_store);
            no_panic(flatkv_maintenance_pause(store));
            assert_eq!(no_panic(flatkv_maintenance_resume(store)) == OK, is_store);
            assert_eq!(no_panic(flatkv_health(store)) == OK, is_store);
            assert_eq!(no_panic(flatkv_stats_json(store, &mut json)) == OK, is_store);
            flatkv_buffer_free(&mut json);
            assert_eq!(no_panic(flatkv_verify(store, &mut json)) == OK, is_store);
            flatkv_buffer_free(&mut json);
            flatkv_durable_ticket(store);
            assert!(!flatkv_status_str(input.number() as c_int).is_null());
        }
    }

    fn make(&mut self, input: &mut Input<'_>) {
        // SAFETY: no arguments.
        let (handle, kind) = unsafe {
            match input.byte() % 3 {
                0 => (flatkv_options_new(), Kind::Options),
                1 => (flatkv_write_options_new(), Kind::WriteOptions),
                _ => (flatkv_batch_new(), Kind::Batch),
            }
        };
        assert!(
            handle != 0 && self.handles.iter().all(|(known, _)| *known != handle),
            "a handle is never reused"
        );
        self.handles.push((handle, kind));
        if kind == Kind::Batch {
            self.batches.insert(handle, Batch::new());
        }
    }

    fn free(&mut self, input: &mut Input<'_>) {
        let (handle, kind) = self.handle(input);
        // SAFETY: a handle is a number; nothing is dereferenced.
        let freed = unsafe {
            match input.byte() % 4 {
                0 => {
                    flatkv_options_free(handle);
                    kind == Kind::Options
                }
                1 => {
                    flatkv_write_options_free(handle);
                    kind == Kind::WriteOptions
                }
                2 => {
                    flatkv_batch_free(handle);
                    kind == Kind::Batch
                }
                _ => {
                    flatkv_pin_free(handle);
                    matches!(kind, Kind::Pin(_))
                }
            }
        };
        if freed {
            self.batches.remove(&handle);
            self.pins.remove(&handle);
            self.mark_dead(handle);
        }
    }

    fn change_batch(&mut self, input: &mut Input<'_>) {
        let (batch, kind) = self.of_kind(Kind::Batch, input);
        let (choice, key, value) = (input.byte() % 8, key(input), value(input));
        // SAFETY: as above.
        unsafe {
            if choice == 7 {
                flatkv_batch_clear(batch);
            } else {
                let status = no_panic(if choice < 5 {
                    flatkv_batch_put(batch, pointer(&key), key.len(), pointer(&value), value.len())
                } else {
                    flatkv_batch_delete(batch, pointer(&key), key.len())
                });
                assert_eq!(status == OK, kind == Kind::Batch);
            }
            if let Some(known) = self.batches.get_mut(&batch) {
                match choice {
                    7 => known.clear(),
                    0..5 => known.push((key, Some(value))),
                    _ => known.push((key, None)),
                }
                assert_eq!(flatkv_batch_count(batch), known.len());
            } else {
                assert_eq!(flatkv_batch_count(batch), 0);
            }
        }
    }

    fn write(&mut self, input: &mut Input<'_>) {
        let (store, kind) = self.store(input);
        let (batch, batch_kind) = self.of_kind(Kind::Batch, input);
        let with = input.byte();
        let (options, options_kind) =
            if with & 1 != 0 { self.of_kind(Kind::WriteOptions, input) } else { (0, Kind::WriteOptions) };
        // SAFETY: as above.
        let status = no_panic(unsafe {
            if with & 1 != 0 { flatkv_write_with(store, options, batch) } else { flatkv_write(store, batch) }
        });
        let is_good = batch_kind == Kind::Batch && options_kind == Kind::WriteOptions;
        match kind {
            Kind::Store(pool) if is_good && status == OK => {
                for (key, value) in &self.batches[&batch] {
                    match value {
                        Some(value) => self.maps[pool].insert(key.clone(), value.clone()),
                        None => self.maps[pool].remove(key),
                    };
                }
            }
            Kind::Store(_) if is_good => assert_full(status),
            _ => assert_ne!(status, OK),
        }
    }

    fn asynchronous(&mut self, input: &mut Input<'_>) {
        let (store, kind) = self.store(input);
        let (key, value) = (key(input), value(input));
        let mut ticket = u64::MAX;
        // SAFETY: as above.
        unsafe {
            let status = no_panic(flatkv_put_async(
                store,
                pointer(&key),
                key.len(),
                pointer(&value),
                value.len(),
                &mut ticket,
            ));
            assert_eq!(status == OK, ticket != 0);
            match kind {
                Kind::Store(pool) if status == OK => {
                    assert_eq!(no_panic(flatkv_wait(store, ticket)), OK);
                    assert!(flatkv_durable_ticket(store) >= ticket);
                    self.maps[pool].insert(key, value);
                }
                Kind::Store(_) => assert_full(status),
                _ => assert_ne!(no_panic(flatkv_wait(store, input.number())), OK),
            }
            if matches!(kind, Kind::Store(_)) {
                assert_ne!(no_panic(flatkv_wait(store, u64::MAX - 1)), OK, "a ticket that was never given");
            }
        }
    }

    fn pin(&mut self, input: &mut Input<'_>) {
        let (store, kind) = self.store(input);
        let key = key(input);
        let mut pin = usize::MAX;
        // SAFETY: as above.
        let status = no_panic(unsafe { flatkv_get_pinned(store, pointer(&key), key.len(), &mut pin) });
        assert_eq!(status == OK, pin != 0);
        if status == OK {
            let Kind::Store(pool) = kind else { panic!("a value of no store") };
            self.pins.insert(pin, self.maps[pool][&key].clone());
            self.handles.push((pin, Kind::Pin(pool)));
        }
    }

    fn read_pin(&mut self, input: &mut Input<'_>) {
        let (pin, _) = self.handle(input);
        // SAFETY: data and length belong together while the pin lives.
        unsafe {
            let (data, len) = (flatkv_pin_data(pin), flatkv_pin_len(pin));
            match self.pins.get(&pin) {
                Some(value) => assert_eq!(std::slice::from_raw_parts(data, len), &value[..]),
                None => assert!(data.is_null() && len == 0),
            }
        }
    }

    fn set_option(&mut self, input: &mut Input<'_>) {
        const NAMES: [&str; 6] = ["durability", "max_bytes", "commit", "create", "nonsense", ""];
        const VALUES: [&str; 6] = ["os", "sync", "auto", "1GiB", "18446744073709551615TiB", ""];
        let (handle, kind) = self.handle(input);
        let option = name(NAMES[usize::from(input.byte()) % NAMES.len()]);
        let value = name(VALUES[usize::from(input.byte()) % VALUES.len()]);
        // SAFETY: as above; NULL is refused.
        unsafe {
            let status = no_panic(flatkv_options_set(handle, option.as_ptr(), value.as_ptr()));
            assert!(status != OK || kind == Kind::Options);
            let status = no_panic(flatkv_write_options_set(handle, option.as_ptr(), value.as_ptr()));
            assert!(status != OK || kind == Kind::WriteOptions);
            assert_ne!(no_panic(flatkv_options_set(handle, ptr::null(), value.as_ptr())), OK);
            assert_ne!(no_panic(flatkv_write_options_set(handle, option.as_ptr(), ptr::null())), OK);
        }
    }

    fn open_badly(&mut self, input: &mut Input<'_>) {
        let (options, kind) = self.handle(input);
        if kind == Kind::Options || options == 0 {
            return;
        }
        let mut store = 7;
        let path = self.path(usize::from(input.byte()) % POOLS);
        // SAFETY: as above; NULL is refused.
        unsafe {
            assert_ne!(no_panic(flatkv_open(path.as_ptr(), options, &mut store)), OK);
            assert_eq!(store, 0);
            assert_ne!(no_panic(flatkv_open(ptr::null(), 0, &mut store)), OK);
            assert_ne!(no_panic(flatkv_open(path.as_ptr(), 0, ptr::null_mut())), OK);
        }
    }

    /// NULL with a length, lengths that nothing has, NULL for out-parameters.
    fn bad_lengths(&mut self, input: &mut Input<'_>) {
        let (store, _) = self.store(input);
        let null = ptr::null();
        let len = (input.number() as usize).max(1);
        let long = len.max(65_537);
        let byte = [1_u8];
        // SAFETY: these pointers are refused by NULL or by length before they are used.
        unsafe {
            assert_ne!(no_panic(flatkv_put(store, null, len, pointer(&byte), 1)), OK);
            assert_ne!(no_panic(flatkv_put(store, pointer(&byte), 0, pointer(&byte), 1)), OK);
            assert_ne!(no_panic(flatkv_put(store, pointer(&byte), long, pointer(&byte), 1)), OK);
            assert_ne!(no_panic(flatkv_put(store, pointer(&byte), 1, null, len)), OK);
            assert_ne!(no_panic(flatkv_put_with(store, store | 1, pointer(&byte), 1, null, len)), OK);
            assert_ne!(no_panic(flatkv_get(store, pointer(&byte), 1, ptr::null_mut())), OK);
            assert_ne!(no_panic(flatkv_stats_json(store, ptr::null_mut())), OK);
            let mut ticket = 7;
            assert_ne!(no_panic(flatkv_put_async(store, null, len, null, 0, &mut ticket)), OK);
            assert_eq!(ticket, 0);
            flatkv_buffer_free(ptr::null_mut());
        }
    }

    /// Frees everything, closes everything, opens the pools again and compares.
    fn end(&mut self) {
        for (handle, kind) in std::mem::take(&mut self.handles) {
            // SAFETY: as above.
            unsafe {
                match kind {
                    Kind::Options => flatkv_options_free(handle),
                    Kind::WriteOptions => flatkv_write_options_free(handle),
                    Kind::Batch => flatkv_batch_free(handle),
                    Kind::Pin(_) => flatkv_pin_free(handle),
                    Kind::Store(_) => self.handles.push((handle, kind)),
                    Kind::Dead => {}
                }
            }
        }
        for (store, kind) in std::mem::take(&mut self.handles) {
            let Kind::Store(pool) = kind else { continue };
            self.is_open[pool] = false;
            // SAFETY: as above.
            assert_eq!(no_panic(unsafe { flatkv_close(store) }), OK);
        }
        for pool in 0..POOLS {
            if self.maps[pool].is_empty() {
                continue;
            }
            self.open(pool);
            let (store, _) = self.handles.pop().expect("just opened");
            for (key, value) in &self.maps[pool] {
                let mut out = Buffer { data: ptr::null_mut(), len: 0 };
                // SAFETY: as above.
                unsafe {
                    assert_eq!(no_panic(flatkv_get(store, pointer(key), key.len(), &mut out)), OK);
                    assert_eq!(std::slice::from_raw_parts(out.data, out.len), &value[..]);
                    flatkv_buffer_free(&mut out);
                }
            }
            // SAFETY: as above.
            assert_eq!(no_panic(unsafe { flatkv_close(store) }), OK);
        }
    }
}

fn assert_full(status: c_int) {
    assert!(
        status == flatkv::status::E_NO_SPACE || status == flatkv::status::E_TOO_LARGE,
        "a good call on an open store answered {status}"
    );
}

fn key(input: &mut Input<'_>) -> Vec<u8> {
    let choice = input.byte();
    if choice < 250 { vec![b'k', choice % 10] } else { vec![choice; 300] }
}

fn value(input: &mut Input<'_>) -> Vec<u8> {
    let choice = input.byte();
    let len = match choice {
        0..150 => usize::from(choice),
        150..240 => usize::from(choice) * 20,
        _ => usize::from(choice) * 100,
    };
    vec![input.byte(); len]
}
