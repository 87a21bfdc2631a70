//! `audit`: whether the log is whole, and where it ends, in the database of this
//! machine or that of `DATABASE_URL`, whether or not a server runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_core::audit::verify::{Whole, removed_in_time};
use bulkhead_core::clock::Clock as _;
use bulkhead_core::ports::store::Store;
use bulkhead_core::service::audit::{Unverified, verify};
use serde_json::{Value, json};

use super::args::Audit;
use super::exit::{Exit, Failure};
use super::output::{Output, table};
use super::{keys, trace};
use crate::audit::heads::{Trusted, read};
use crate::audit::{HeadKey, PublicKey, Signed, export};
use crate::config::{Config, Loaded};
use crate::system::System;

/// Does what was asked.
pub(super) fn audit(loaded: Loaded, command: Audit, output: &Output) -> Result<Exit, Failure> {
    trace::command(&loaded);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::host(&error))?;
    runtime.block_on(async {
        // Before the database: what is wrong with them needs none.
        let trusted = match &command {
            Audit::Verify { heads, keys, kept_hours } => Some(trusted(&loaded.config, heads, keys, *kept_hours)?),
            Audit::Export => None,
        };
        let store = keys::open(&loaded.config, false).await?;
        let done = match trusted {
            Some(trusted) => verified(&*store, trusted, output).await,
            None => exported(&store, &loaded.config, output).await,
        };
        Store::close(&*store).await;
        done
    })
}

/// Prints where every chain ends, signed.
async fn exported(store: &Arc<dyn Store>, config: &Config, output: &Output) -> Result<Exit, Failure> {
    let key = HeadKey::open_or_make(&config.audit_key(), &System).map_err(|error| Failure::host(&error))?;
    let chains = store.audit_chains().await.map_err(|error| Failure::host(&error))?;
    let signed = Signed::new(&key, System.now(), &chains);
    // One line, with or without --json, so that it can be appended to a file of them.
    let line = serde_json::to_string(&signed).map_err(|error| Failure::host(&error))?;
    output.text(&line);
    Ok(Exit::Ok)
}

/// So much earlier than its age says a record may have been removed.
const SLACK_MS: i64 = 5 * 60 * 1_000;

/// What the log is compared with.
struct Against {
    trusted: Trusted,
    files: Vec<PathBuf>,
    /// How long records are kept at least, in milliseconds.
    kept_ms: i64,
}

/// Reads signed heads: those that were named, or those of the configuration.
fn trusted(
    config: &Config,
    heads: &[PathBuf],
    keys: &[PublicKey],
    kept_hours: Option<u64>,
) -> Result<Against, Failure> {
    let kept_hours = kept_hours.unwrap_or(config.keep.audit_hours);
    let files = if heads.is_empty() { files(&config.audit_heads(), false)? } else { named(heads)? };
    let keys = match keys {
        [] => own_key(config, !files.is_empty())?,
        keys => keys.to_vec(),
    };
    let mut trusted = Trusted::new();
    for file in &files {
        read(file, &keys, &mut trusted).map_err(|error| Failure::new(Exit::NoInput, error))?;
    }
    // Retention looks each minute, and clocks of hosts are not the same to the second.
    let kept_ms = i64::try_from(kept_hours.saturating_mul(3_600_000)).unwrap_or(i64::MAX) - SLACK_MS;
    Ok(Against { trusted, files, kept_ms })
}

fn named(heads: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut all = Vec::new();
    for head in heads {
        if head.is_dir() { all.extend(files(head, true)?) } else { all.push(head.clone()) }
    }
    Ok(all)
}

/// The files of a directory; one that nobody named need not be there.
fn files(directory: &Path, named: bool) -> Result<Vec<PathBuf>, Failure> {
    match export::files(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => Ok(Vec::new()),
        Err(error) => {
            let text = format!("the directory of signed heads {} can't be read: {error}", directory.display());
            Err(Failure::new(Exit::NoInput, text))
        }
        Ok(files) if files.is_empty() && named => {
            let text = format!("the directory {} has no file of signed heads (*.jsonl)", directory.display());
            Err(Failure::new(Exit::NoInput, text))
        }
        Ok(files) => Ok(files),
    }
}

fn own_key(config: &Config, needed: bool) -> Result<Vec<PublicKey>, Failure> {
    let path = config.audit_key();
    let key = HeadKey::open(&path).map_err(|error| Failure::host(&error))?;
    if key.is_none() && needed {
        let text = format!("there is no key {}; name the public one by --key", path.display());
        return Err(Failure::new(Exit::NoInput, text));
    }
    Ok(key.iter().map(HeadKey::public).collect())
}

/// Checks every chain, and that none that was signed is missing.
async fn verified(store: &dyn Store, mut against: Against, output: &Output) -> Result<Exit, Failure> {
    let oldest = System.now().plus_millis(-against.kept_ms);
    let chains = store.audit_chains().await.map_err(|error| Failure::host(&error))?;
    let mut report = Report::default();
    for state in &chains {
        let heads = against.trusted.remove(&state.chain).unwrap_or_default();
        let kept_after = state.kept_after.number;
        let places = heads.iter().map(|head| head.place).collect();
        let checked = async {
            removed_in_time(state, &heads, oldest)?;
            verify(store, state, places).await
        };
        match checked.await {
            Ok(whole) => report.whole(&state.chain, kept_after, whole),
            Err(error) => report.broken(&state.chain, &error),
        }
    }
    for (chain, heads) in against.trusted {
        if heads.iter().any(|head| head.place.number > 0) {
            report.missing(&chain);
        }
    }
    let exit = if report.broken { Exit::Failed } else { Exit::Ok };
    let files: Vec<_> = against.files.iter().map(|file| file.display().to_string()).collect();
    let document = json!({"whole": !report.broken, "chains": report.chains, "heads": files});
    output.result(&document, || report.text());
    if files.is_empty() && !output.is_json() {
        output.note("No signed heads: that a chain was cut off or made anew can't be seen. Name some by --head.");
    }
    Ok(exit)
}

/// What was found.
#[derive(Default)]
struct Report {
    chains: Vec<Value>,
    rows: Vec<Vec<String>>,
    broken: bool,
}

impl Report {
    fn whole(&mut self, chain: &str, kept_after: u64, whole: Whole) {
        let Whole { records, heads, trusted, too_old } = whole;
        self.chains.push(json!({
            "chain": chain, "whole": true, "records": records, "removed_by_retention": kept_after,
            "signed_heads": heads, "newest_signed": trusted, "signed_heads_too_old": too_old,
        }));
        let signed = trusted.map_or_else(|| "none".into(), |number| format!("{heads}, newest at {number}"));
        let kept = format!("{records} from {}", kept_after + 1);
        self.rows.push(vec![chain.into(), "whole".into(), kept, signed, String::new()]);
    }

    fn broken(&mut self, chain: &str, error: &Unverified) {
        self.bad(chain, error.to_string());
    }

    fn missing(&mut self, chain: &str) {
        self.bad(chain, "the chain was signed, and is not there".into());
    }

    fn bad(&mut self, chain: &str, reason: String) {
        self.broken = true;
        self.chains.push(json!({"chain": chain, "whole": false, "reason": reason}));
        let row = [chain.into(), "BROKEN".into(), String::new(), String::new(), reason];
        self.rows.push(row.into());
    }

    fn text(&self) -> String {
        let table = table(&["CHAIN", "STATE", "RECORDS", "SIGNED HEADS", "WHAT IS WRONG"], &self.rows);
        match self.broken {
            true => format!(
                "{table}\nThe audit log is NOT whole. Keep the database as it is, and look who could write to it."
            ),
            false => format!("{table}\nThe audit log is whole."),
        }
    }
}
