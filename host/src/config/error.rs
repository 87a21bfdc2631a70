//! What is wrong with a configuration: where it stands, which key, which
//! value, and what to do. All faults are collected, so that one start tells
//! them all.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the file.
    File(PathBuf, usize),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{origin}: {}{problem}; {remedy}", subject(key, value.as_deref()))]
pub struct Fault {
    /// Where it stands.
    pub origin: Origin,
    /// The key; empty if the fault is that of a whole file.
    pub key: String,
    /// The value, if there is one.
    pub value: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

fn subject(key: &str, value: Option<&str>) -> String {
    match (key, value) {
        ("", _) => String::new(),
        (key, None) => format!("`{key}` "),
        (key, Some(value)) => format!("`{key} = {value}` "),
    }
}

/// Everything that is wrong; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Fault>);

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}
