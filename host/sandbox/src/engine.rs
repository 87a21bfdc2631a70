//! One configuration for the compiler and the workers: an artefact loads only
//! into an engine whose settings equal those it was compiled with. There are two
//! of them, because what WASI 0.3 needs costs every call of a component that
//! does without; a process has one engine and never both.

use std::hash::Hasher;

use bulkhead_core::digest::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmFeatures};

use bulkhead_core::limits::Limits;
use bulkhead_core::reached::STACK;

use crate::bounds;

/// What an engine is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Flavour {
    /// Components of WASI 0.2: one synchronous call at a time.
    #[default]
    Wasi02,
    /// Components that import WASI 0.3, or are asynchronous in other ways.
    Wasi03,
}

impl Flavour {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Wasi02, Self::Wasi03];

    /// The key of an artefact of this flavour. The last bit says which it is, so
    /// that the flavour goes wherever the artefact goes (into the database, the
    /// name of its file, a call) and neither can be without the other.
    pub(crate) fn key(self, digest: Digest) -> Digest {
        let mut bytes = *digest.as_bytes();
        let last = &mut bytes[bytes.len() - 1];
        *last = *last & !1 | u8::from(self == Self::Wasi03);
        Digest::from_bytes(bytes)
    }

    /// The flavour of an artefact.
    pub(crate) fn of(key: Digest) -> Self {
        if key.as_bytes().last().is_some_and(|last| last & 1 == 1) { Self::Wasi03 } else { Self::Wasi02 }
    }

    /// Stacks that a call may have at once. With tasks a guest that waits on one
    /// is entered on another: when it is given what it waits for.
    const fn stacks(self) -> u32 {
        match self {
            Self::Wasi02 => 1,
            Self::Wasi03 => 4,
        }
    }
}

/// Counted up when a change here must not load artefacts made before.
const SETTINGS_VERSION: u32 = 1;

/// Wasm stack of a guest; the rest of the 1 MiB fibre is for host functions.
const WASM_STACK: usize = STACK.spec.default as usize;
const FIBRE_STACK: usize = 1024 * 1024;

/// Memory of a slot kept mapped between calls, with and without a page map
/// scan that finds what was touched. Without it every byte is cleared blindly.
const KEEP_SCANNED: usize = 512 * 1024;
const KEEP_BLIND: usize = 64 * 1024;

/// Stack of a fibre that is cleared between calls; what lies deeper is given
/// back. Most calls stay within half of it.
const KEEP_STACK: usize = 32 * 1024;

/// The proposals that no component may use: what is off can't have a hole. A
/// macro, because the engine and the validator before it have types of their own.
macro_rules! switched_off {
    ($features:ident) => {
        $features::GC
            | $features::FUNCTION_REFERENCES
            | $features::EXCEPTIONS
            | $features::LEGACY_EXCEPTIONS
            | $features::THREADS
            | $features::SHARED_EVERYTHING_THREADS
            | $features::MEMORY64
            | $features::MULTI_MEMORY
            | $features::CUSTOM_PAGE_SIZES
            | $features::WIDE_ARITHMETIC
            | $features::RELAXED_SIMD
            | $features::STACK_SWITCHING
            | $features::CM_ASYNC_STACKFUL
            | $features::CM_MORE_ASYNC_BUILTINS
            | $features::CM_THREADING
            | $features::CM_ERROR_CONTEXT
    };
}
pub(crate) use switched_off;

/// What both sides must agree on.
fn shared(flavour: Flavour) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // With it come asynchronous functions, streams and futures of components.
        .concurrency_support(flavour == Flavour::Wasi03)
        .max_wasm_stack(WASM_STACK)
        .memory_init_cow(true)
        // Bounds are then checked by the guard pages, also speculatively.
        .memory_reservation(4 << 30)
        .memory_may_move(false)
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_features(switched_off!(WasmFeatures), false);
    config
}

/// The engine that compiles. It makes no instances, so it reserves no pool.
///
/// # Errors
/// If the configuration does not fit this machine.
pub(crate) fn compiler(flavour: Flavour) -> wasmtime::Result<Engine> {
    Engine::new(&shared(flavour))
}

/// How the pool of a worker is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub flavour: Flavour,
    /// Calls at once.
    pub slots: u32,
    /// Whether touched pages are found by a scan of the page map. Never with
    /// swap: a page that was swapped out would keep one call's bytes for the next.
    pub pagemap_scan: bool,
}

impl Pool {
    /// What the pool maps writable without using it, in bytes: stacks, tables.
    pub(crate) fn mapped(&self) -> u64 {
        let table = bounds::MAX_TABLE_ELEMENTS * size_of::<usize>() as u64;
        let stacks = u64::from(self.flavour.stacks()) * FIBRE_STACK as u64;
        u64::from(self.slots) * (stacks + u64::from(bounds::TABLES_PER_SLOT) * table)
    }
}

/// The engine that runs guests.
///
/// # Errors
/// If the pool's addresses can't be reserved.
pub(crate) fn runner(pool: Pool) -> wasmtime::Result<Engine> {
    let slots = pool.slots;
    let mut pooling = PoolingAllocationConfig::new();
    pooling
        .total_component_instances(slots)
        .total_core_instances(slots * bounds::MAX_CORE_INSTANCES)
        .total_memories(slots * bounds::MAX_MEMORIES)
        .total_tables(slots * bounds::TABLES_PER_SLOT)
        .total_stacks(slots * pool.flavour.stacks())
        .max_core_instances_per_component(bounds::MAX_CORE_INSTANCES)
        .max_memories_per_component(bounds::MAX_MEMORIES)
        .max_tables_per_component(bounds::MAX_TABLES)
        .max_memories_per_module(1)
        .max_tables_per_module(bounds::MAX_TABLES)
        .max_memory_size(usize::try_from(Limits::MAX.memory_bytes).unwrap_or(usize::MAX))
        .table_elements(usize::try_from(bounds::MAX_TABLE_ELEMENTS).unwrap_or(usize::MAX))
        .max_unused_warm_slots(slots * bounds::MAX_CORE_INSTANCES)
        .linear_memory_keep_resident(if pool.pagemap_scan { KEEP_SCANNED } else { KEEP_BLIND })
        .table_keep_resident(KEEP_BLIND)
        .async_stack_keep_resident(KEEP_STACK)
        .pagemap_scan(if pool.pagemap_scan { Enabled::Auto } else { Enabled::No });
    let mut config = shared(pool.flavour);
    config
        .async_stack_size(FIBRE_STACK)
        // A fence against reads of what the last guest left on its stack.
        .async_stack_zeroing(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
    Engine::new(&config)
}

/// Names everything an artefact depends on beside its component and its flavour;
/// `adapting` is what becomes of core modules before they are compiled.
///
/// # Errors
/// If the engine can't be made.
pub(crate) fn fingerprint(adapting: &[u8]) -> wasmtime::Result<[u8; 32]> {
    struct Feed(Sha256);
    impl Hasher for Feed {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut feed = Feed(Sha256::new());
    feed.write(env!("CARGO_PKG_VERSION").as_bytes());
    feed.write_u32(SETTINGS_VERSION);
    feed.write(adapting);
    for flavour in Flavour::ALL {
        std::hash::Hash::hash(&compiler(flavour)?.precompile_compatibility_hash(), &mut feed);
    }
    Ok(feed.0.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_adapts_core_modules_is_part_of_the_fingerprint() {
        let of = |adapting: &[u8]| fingerprint(adapting).expect("an engine");
        assert_eq!(of(b"one adapter"), of(b"one adapter"));
        assert_ne!(of(b"one adapter"), of(b"one adapter more"));
    }

    #[test]
    fn the_key_of_an_artefact_says_its_flavour_and_no_key_has_two() {
        for text in [b"one".as_slice(), b"two", b"three", b"four"] {
            let keys = Flavour::ALL.map(|flavour| flavour.key(Digest::of(text)));
            assert_eq!(keys.map(Flavour::of), Flavour::ALL);
            assert_ne!(keys[0], keys[1]);
            assert_eq!(keys[0].as_bytes()[..31], keys[1].as_bytes()[..31]);
        }
    }
}
