//! The child process of imports alone, without the server around it: what
//! `bulkhead import` runs. The tests of this package start it.

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_workspace::import::import_main(std::env::args_os().skip(1))
}
