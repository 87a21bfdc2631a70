//! The one executable: server, command line, and the confined children that
//! the server starts of itself.

use std::process::ExitCode;

/// A call makes some hundreds of small allocations, many of them freed by
/// another thread, and SQLite grows and shrinks the heap with each commit:
/// what the C library's allocator is slowest at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bulkhead::cli::main()
}
