//! What a tool without the standard library must bring itself.

// `memcmp` and its like, which `core` expects from whoever links; `std` would
// bring them.
#[link(name = "c")]
unsafe extern "C" {}

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use dlmalloc::{Allocator, Dlmalloc};

/// Memory that a component begins with, for its heap. A call that needs no more
/// than this never asks the host to let its memory grow.
const FIRST: usize = 128 * 1024;

/// The heap of a tool.
pub struct Heap(UnsafeCell<Dlmalloc<Source>>);

// SAFETY: a component has one thread.
unsafe impl Sync for Heap {}

impl Heap {
    /// An empty one.
    #[expect(clippy::new_without_default, reason = "made once, as a static")]
    pub const fn new() -> Self {
        Self(UnsafeCell::new(Dlmalloc::new_with_allocator(Source { first: AtomicBool::new(true) })))
    }

    /// # Safety
    /// Not while another reference that this gave lives: allocating calls
    /// nothing that allocates.
    #[expect(clippy::mut_from_ref, reason = "there is one thread, and each use ends before the next")]
    unsafe fn of(&self) -> &mut Dlmalloc<Source> {
        // SAFETY: by the promise above nothing else refers to it.
        unsafe { &mut *self.0.get() }
    }
}

// SAFETY: dlmalloc keeps the contract of each of these.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: see `of`.
        unsafe { self.of().malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; see `of`.
        unsafe { self.of().free(memory, layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: see `of`.
        unsafe { self.of().calloc(layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise; see `of`.
        unsafe { self.of().realloc(memory, layout.size(), layout.align(), size) }
    }
}

/// Where the heap's memory comes from: first what the component begins with,
/// then pages that the host adds.
struct Source {
    first: AtomicBool,
}

#[repr(align(16))]
struct Arena(UnsafeCell<[u8; FIRST]>);

// SAFETY: it is given out once, to the heap, and not looked at here.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([0; FIRST]));

// SAFETY: the regions do not overlap and live as long as the component.
unsafe impl Allocator for Source {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        if size <= FIRST && self.first.swap(false, Ordering::Relaxed) {
            return (ARENA.0.get().cast(), FIRST, 0);
        }
        let pages = size.div_ceil(self.page_size());
        match core::arch::wasm32::memory_grow::<0>(pages) {
            usize::MAX => (core::ptr::null_mut(), 0, 0),
            at => ((at * self.page_size()) as *mut u8, pages * self.page_size(), 0),
        }
    }

    fn remap(&self, _memory: *mut u8, _old: usize, _new: usize, _can_move: bool) -> *mut u8 {
        core::ptr::null_mut()
    }

    fn free_part(&self, _memory: *mut u8, _old: usize, _new: usize) -> bool {
        false
    }

    fn free(&self, _memory: *mut u8, _size: usize) -> bool {
        false
    }

    fn can_release_part(&self, _flags: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        64 * 1024
    }
}

/// Says through the log why the tool panicked.
pub fn log_panic(info: &core::panic::PanicInfo) {
    crate::host::log(crate::host::Level::Error, &alloc::format!("{info}"), &[]);
}

/// Where the host puts what it hands over. `std` defines this for WASI 0.2.
///
/// # Safety
/// As for `realloc`: `old` is null and `old_len` 0, or what was given out
/// before with this alignment.
pub unsafe fn realloc(old: *mut u8, old_len: usize, align: usize, new_len: usize) -> *mut u8 {
    // SAFETY: by the canonical ABI `align` is a power of two and the sizes fit
    // in the address space; the rest is the caller's promise.
    let memory = unsafe {
        match (old_len, new_len) {
            (0, 0) => return align as *mut u8,
            (0, _) => alloc::alloc::alloc(Layout::from_size_align_unchecked(new_len, align)),
            _ => alloc::alloc::realloc(old, Layout::from_size_align_unchecked(old_len, align), new_len),
        }
    };
    if memory.is_null() {
        core::arch::wasm32::unreachable()
    }
    memory
}

/// The allocator, the panic handler and the rest of what a `#![no_std]` tool
/// needs. Write it once, beside `export!`, in a crate that begins with
/// `#![cfg_attr(target_arch = "wasm32", no_std)]`.
///
/// A panic ends the call as a trap. `slim!(log_panics)` logs its message first,
/// for one imported function more.
#[macro_export]
macro_rules! slim {
    () => {
        $crate::slim!(@runtime _info {});
    };
    (log_panics) => {
        $crate::slim!(@runtime info { $crate::slim::log_panic(info) });
    };
    (@runtime $info:ident $before:block) => {
        #[global_allocator]
        static ALLOCATOR: $crate::slim::Heap = $crate::slim::Heap::new();
        #[unsafe(no_mangle)]
        unsafe extern "C" fn cabi_realloc(
            old: *mut u8,
            old_len: usize,
            align: usize,
            new_len: usize,
        ) -> *mut u8 {
            // SAFETY: only the host calls this, by the canonical ABI.
            unsafe { $crate::slim::realloc(old, old_len, align, new_len) }
        }
        #[panic_handler]
        fn panicked($info: &core::panic::PanicInfo) -> ! {
            $before
            core::arch::wasm32::unreachable()
        }
    };
}
