//! The policy's file: read, joined with what it names, checked, and read again
//! when it changes. What it means is `core::policy`'s.

mod error;
#[cfg(feature = "fuzz")]
pub mod fuzzing;
#[cfg(test)]
mod tests;
mod wassette;
mod watch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bulkhead_core::digest::Digest;
use bulkhead_core::policy::Policy;
use bulkhead_core::policy::spec::{PolicySpec, SecretSpec};
use secrecy::SecretString;

pub use error::PolicyError;
pub use wassette::convert;
pub(crate) use watch::install;
pub use watch::{Loader, watch};

/// Largest file of a policy, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Largest file of a secret, in bytes.
const MAX_SECRET_FILE: u64 = 64 << 10;

/// A policy as it was read.
#[derive(Debug)]
pub struct Loaded {
    /// What it means.
    pub policy: Policy,
    /// Its text, with what it names written out, and without values of secrets.
    pub text: String,
    /// Every file that it was made of.
    pub files: Vec<PathBuf>,
    /// What an operator should know, though it is no error.
    pub warnings: Vec<String>,
}

/// Where values of the server's own environment come from.
pub type Variables<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// Reads a policy and everything that it names.
///
/// # Errors
/// Names the file, the key, and what is wrong with it.
pub fn load(path: &Path, variables: Variables<'_>) -> Result<Loaded, PolicyError> {
    let text = read(path, MAX_FILE)?;
    let spec = toml::from_str::<PolicySpec>(&text);
    let mut spec = spec.map_err(|error| PolicyError::Malformed { path: path.into(), error: error.to_string() })?;
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let (mut files, mut warnings) = (vec![path.to_owned()], Vec::new());
    let included = !spec.wassette.is_empty();
    let mut passed = Vec::new();
    for include in std::mem::take(&mut spec.wassette) {
        let file = directory.join(&include.file);
        let converted = wassette::rules(&file, &read(&file, MAX_FILE)?, &include.tools, spec.rules.len())?;
        for name in converted.environment {
            match variables(&name) {
                Some(_) if spec.environment.contains_key(&name) => {}
                Some(value) => {
                    spec.environment.insert(name.clone(), value);
                    passed.push(name);
                }
                None => warnings.push(format!("{}: the server has no variable `{name}`", file.display())),
            }
        }
        warnings.extend(converted.warnings);
        // What has no value can't be granted; the rule would not be valid.
        spec.rules.extend(converted.rules.into_iter().map(|mut rule| {
            rule.environment.retain(|name| name == "*" || spec.environment.contains_key(name));
            rule
        }));
        files.push(file);
    }
    // What grants nothing any longer says nothing.
    spec.rules.retain(|rule| !included || rule.speaks());
    let text = if included { written(&without(&spec, &passed), path)? } else { text };
    let values = secrets(&spec.secrets, directory, variables, &mut files)?;
    let policy = Policy::build(spec, &values, Digest::of(text.as_bytes()))
        .map_err(|faults| PolicyError::Invalid { path: path.into(), faults })?;
    Ok(Loaded { policy, text, files, warnings })
}

/// Without the values that come from the server's own environment: some are secret.
fn without(spec: &PolicySpec, passed: &[String]) -> PolicySpec {
    let mut spec = spec.clone();
    for name in passed {
        spec.environment.insert(name.clone(), String::new());
    }
    spec
}

/// The policy as one text, for records.
fn written(spec: &PolicySpec, path: &Path) -> Result<String, PolicyError> {
    toml::to_string(spec).map_err(|error| PolicyError::Malformed { path: path.into(), error: error.to_string() })
}

fn secrets(
    specs: &BTreeMap<String, SecretSpec>,
    directory: &Path,
    variables: Variables<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<BTreeMap<String, SecretString>, PolicyError> {
    let mut values = BTreeMap::new();
    for (name, spec) in specs {
        let value = match (&spec.file, &spec.variable) {
            (Some(file), None) => {
                let file = directory.join(file);
                let text = read(&file, MAX_SECRET_FILE)?;
                files.push(file);
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
            (None, Some(variable)) => {
                let missing = || PolicyError::NoVariable { secret: name.clone(), variable: variable.clone() };
                variables(variable).ok_or_else(missing)?
            }
            _ => return Err(PolicyError::NoSource { secret: name.clone() }),
        };
        values.insert(name.clone(), SecretString::from(value));
    }
    Ok(values)
}

fn read(path: &Path, most: u64) -> Result<String, PolicyError> {
    let failed = |error| PolicyError::Unreadable { path: path.into(), error };
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(most + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > most {
        return Err(PolicyError::TooLarge { path: path.into(), most });
    }
    Ok(text)
}
