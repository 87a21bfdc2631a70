//! `serve`: the server. What it is made of is decided in [`crate::app`].

use super::exit::{Exit, Failure};
use super::trace;
use crate::config::Loaded;

/// Runs the server until it is asked to stop.
pub(super) fn serve(loaded: Loaded) -> Result<Exit, Failure> {
    // After what was given as a file: that may have been a descriptor.
    bulkhead_sandbox::close_inherited().map_err(|error| Failure::host(&error))?;
    trace::server(&loaded.config.log);
    if let Some(file) = &loaded.file {
        tracing::info!(file = %file.display(), "configuration read");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::host(&error))?;
    runtime.block_on(crate::app::serve(loaded.config)).map_err(|error| Failure::host(&error))?;
    Ok(Exit::Ok)
}
