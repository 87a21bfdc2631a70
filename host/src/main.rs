//! The one executable: server, command line, and the confined children that
//! the server starts of itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead::cli::main()
}
