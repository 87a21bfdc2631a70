//! The worker process: runs the guests of one tenant. It is one thread until
//! the host has said what it is for, so that walls can be put up between that
//! message and the engine.

mod background;
#[cfg(feature = "bench")]
mod bench;
mod bindings;
mod boot;
mod call;
mod fault;
mod firsts;
mod fs;
mod heavy;
mod http;
pub(crate) mod imports;
mod io;
mod limiter;
mod link;
mod load;
mod meter;
mod output;
mod panics;
mod room;
pub(crate) mod run;
mod serve;
mod state;
mod tally;
mod wasi_03;

#[cfg(feature = "bench")]
pub use bench::ColdCalls;
#[cfg(feature = "probe")]
pub use boot::taken_over_worker_main;
pub use boot::worker_main;
