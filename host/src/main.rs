//! The one executable: server, command line, and the confined children that
//! the server starts of itself.

use std::process::ExitCode;

/// What a call allocates in one thread is mostly freed in another; the C
/// library's allocator makes the threads wait for each other then.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    bulkhead::cli::main()
}
