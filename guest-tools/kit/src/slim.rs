//! What a tool without the standard library must bring itself.

// `memcmp` and its like, which `core` expects from whoever links; `std` would
// bring them.
#[link(name = "c")]
unsafe extern "C" {}

pub use dlmalloc::GlobalDlmalloc;

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
    use core::alloc::Layout;
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
        static ALLOCATOR: $crate::slim::GlobalDlmalloc = $crate::slim::GlobalDlmalloc;
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
