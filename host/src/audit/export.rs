//! Exporting heads: appended to a file, signed, every so often.

use std::collections::HashMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_core::audit::chain::Place;
use bulkhead_core::clock::Clock as _;
use bulkhead_core::service::audit::AuditLog;
use tokio_util::sync::CancellationToken;

use super::{HeadKey, Signed};
use crate::system::System;

/// Exports heads.
#[derive(Debug)]
pub struct Exporter {
    key: HeadKey,
    directory: PathBuf,
    every: Duration,
    /// What was exported last: a chain that has not moved need not be told again.
    told: HashMap<String, Place>,
}

impl Exporter {
    /// Signs with `key` into files of `directory`.
    pub fn new(key: HeadKey, directory: PathBuf, every: Duration) -> Self {
        Self { key, directory, every, told: HashMap::new() }
    }

    /// Exports at once and then every so often, and once more at the stop. A failure is
    /// logged: the log itself goes on, and the next export covers what this one missed.
    pub async fn run(mut self, audit: AuditLog, stop: CancellationToken) {
        loop {
            self.export(&audit).await;
            if stop.run_until_cancelled(tokio::time::sleep(self.every)).await.is_none() {
                break;
            }
        }
        self.export(&audit).await;
    }

    async fn export(&mut self, audit: &AuditLog) {
        let mut moved = match audit.chains().await {
            Ok(chains) => chains,
            Err(error) => {
                tracing::error!(%error, "the heads of the audit log could not be read, so none were exported");
                return;
            }
        };
        moved.retain(|state| self.told.get(&state.chain) != Some(&state.head));
        if moved.is_empty() {
            return;
        }
        let signed = Signed::new(&self.key, System.now(), &moved);
        let directory = self.directory.clone();
        let written = tokio::task::spawn_blocking(move || append(&directory, &signed)).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => self.told.extend(moved.into_iter().map(|state| (state.chain, state.head))),
            Err(error) => {
                let directory = self.directory.display();
                tracing::error!(%directory, %error, "the heads of the audit log could not be exported; see `audit.export_dir`");
            }
        }
    }
}

/// Appends to the file of the month, and waits until it is on the disk.
fn append(directory: &Path, signed: &Signed) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let at = signed.at.to_string();
    let month = at.get(..7).unwrap_or("other");
    let path = directory.join(format!("heads-{month}.jsonl"));
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    // One write: what another process appends is not in the middle of it.
    file.write_all(format!("{}\n", serde_json::to_string(signed)?).as_bytes())?;
    file.sync_data()
}

/// The files of heads in a directory, in the order of their names.
///
/// # Errors
/// If it can't be listed.
pub fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
