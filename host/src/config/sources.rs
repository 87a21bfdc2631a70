//! Where values come from: the file, the environment, the command line. Each
//! becomes a list of settings; what names no key is a fault.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::{Fault, Origin};
use super::keys::{self, Key, PREFIX};
use super::value::Raw;

/// A value for a key, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) key: Key,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// Variables that are not keys: of the client commands, of the command line
/// itself, and of the build.
const NOT_KEYS: [&str; 4] = ["BULKHEAD_URL", "BULKHEAD_KEY", "BULKHEAD_CONFIG", "BULKHEAD_WITHOUT_GUESTS"];

/// Short for `BULKHEAD_LOG__LEVEL`, which wins over it.
const LOG: &str = "BULKHEAD_LOG";

/// The file that is read if no other is named.
pub(super) const DEFAULT_FILE: &str = "bulkhead.toml";
/// No sensible file is larger; a wrong path may name anything.
const MAX_FILE: u64 = 1024 * 1024;

/// The settings of the file. Without a name the default one is read, if it is there.
pub(super) fn file(named: Option<&Path>) -> Result<(Option<PathBuf>, Vec<Setting>), Vec<Fault>> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match read(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok((None, Vec::new())),
        Err(error) => {
            let remedy = "name a file that this user can read by --config or BULKHEAD_CONFIG";
            return Err(vec![whole(path, 0, format!("can't be read: {error}"), remedy.into())]);
        }
    };
    toml_settings(path, &text).map(|settings| (Some(path.to_path_buf()), settings))
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

fn whole(path: &Path, line: usize, problem: String, remedy: String) -> Fault {
    Fault { origin: Origin::File(path.into(), line), key: String::new(), value: None, problem, remedy }
}

pub(super) fn toml_settings(path: &Path, text: &str) -> Result<Vec<Setting>, Vec<Fault>> {
    let line = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let broken = |error: toml::de::Error| {
        let at = line(error.span().map_or(0, |span| span.start));
        let problem = format!("is not valid TOML: {}", error.message().replace('\n', " "));
        vec![whole(path, at, problem, "mend this line (https://toml.io)".into())]
    };
    let table: toml::Table = toml::from_str(text).map_err(broken)?;
    let spans = toml::de::DeTable::parse(text).map_err(broken)?;
    let (mut settings, mut faults) = (Vec::new(), Vec::new());
    let mut take = |name: String, value: &toml::Value, at: usize| {
        let origin = Origin::File(path.into(), line(at));
        match keys::find(&name) {
            Some(key) => settings.push(Setting { key, raw: Raw::Typed(value.clone()), origin }),
            None => faults.push(unknown(origin, &name, |key| format!("`{}`", key.name()))),
        }
    };
    for (name, span) in spans.get_ref() {
        let Some(value) = table.get(name.get_ref().as_ref()) else { continue };
        let (Some(inner), Some(values)) = (span.get_ref().as_table(), value.as_table()) else {
            take(name.get_ref().to_string(), value, name.span().start);
            continue;
        };
        for (field, _) in inner {
            let Some(value) = values.get(field.get_ref().as_ref()) else { continue };
            take(format!("{}.{}", name.get_ref(), field.get_ref()), value, field.span().start);
        }
    }
    // The table is sorted by name; a person reads from the top.
    faults.sort_by_key(|fault| match &fault.origin {
        Origin::File(_, line) => *line,
        _ => 0,
    });
    if faults.is_empty() { Ok(settings) } else { Err(faults) }
}

fn unknown(origin: Origin, name: &str, shown: impl Fn(&Key) -> String) -> Fault {
    let remedy = match keys::nearest(name) {
        Some(key) => format!("did you mean {}? `bulkhead config show` lists all keys", shown(&key)),
        None => "`bulkhead config show` lists all keys".into(),
    };
    Fault { origin, key: name.into(), value: None, problem: "is not a key of the configuration".into(), remedy }
}

/// The settings of the environment.
pub(super) fn variables(variables: &[(OsString, OsString)]) -> Result<Vec<Setting>, Vec<Fault>> {
    let (mut settings, mut faults) = (Vec::new(), Vec::new());
    let mut variables: Vec<_> = variables.iter().collect();
    variables.sort();
    for (name, value) in variables {
        let (Some(name), value) = (name.to_str(), value.to_string_lossy()) else { continue };
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if NOT_KEYS.contains(&name) || of_kubernetes(rest, &value) {
            continue;
        }
        let origin = Origin::Variable(name.into());
        let key = if name == LOG { "log.level".into() } else { rest.to_lowercase().replace("__", ".") };
        match keys::find(&key).filter(|key| name == LOG || key.variable() == name) {
            Some(key) => settings.push(Setting { key, raw: Raw::Text(value.into_owned()), origin }),
            None => faults.push(unknown(origin, &key, |key| format!("`{}`", key.variable()))),
        }
    }
    if faults.is_empty() { Ok(settings) } else { Err(faults) }
}

/// Kubernetes sets such variables for a service that is called `bulkhead`; a
/// server must not fail to start because of its own name.
fn of_kubernetes(rest: &str, value: &str) -> bool {
    let address = value.starts_with("tcp://") || value.starts_with("udp://");
    rest == "SERVICE_HOST"
        || rest.starts_with("SERVICE_PORT")
        || rest.starts_with("PORT_")
        || (rest == "PORT" && address)
}

/// A value that the command line gives: the flag, the key, the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag, for messages.
    pub flag: &'static str,
    /// The key.
    pub key: String,
    /// The value, as text.
    pub value: String,
}

/// The settings of the command line.
pub(super) fn flags(flags: &[Flag]) -> Result<Vec<Setting>, Vec<Fault>> {
    let (mut settings, mut faults) = (Vec::new(), Vec::new());
    for Flag { flag, key: name, value } in flags {
        let origin = Origin::Flag(flag);
        match keys::find(name) {
            Some(key) => settings.push(Setting { key, raw: Raw::Text(value.clone()), origin }),
            None => faults.push(unknown(origin, name, |key| format!("`{}`", key.name()))),
        }
    }
    if faults.is_empty() { Ok(settings) } else { Err(faults) }
}
