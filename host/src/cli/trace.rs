//! The log: lines on standard error, for people or machines. Never on standard
//! output, which belongs to results.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{Loaded, Log, LogFormat, Origin};

/// Sets up the log of the server.
pub(super) fn server(log: &Log) {
    start(&log.level, log.format);
}

/// Sets up the log of a command: only what is wrong, unless more was asked for.
pub(super) fn command(loaded: &Loaded) {
    let asked = *loaded.origin("log.level") != Origin::Default;
    let log = &loaded.config.log;
    start(if asked { &log.level } else { "warn" }, log.format);
}

fn start(level: &str, format: LogFormat) {
    // The configuration has checked it.
    let filter = EnvFilter::builder().parse_lossy(level);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // A line that can't be written is lost. It would be told on the same standard
        // error, by a macro that panics where that can't be written either: with the log
        // on a full disk, each line would end the call that it is about.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_ansi(colours);
    // A log that is set up already stays.
    let _ = match format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
