//! Values: from the text of a variable or flag, or from the file, to what the
//! kind of the key allows.

use std::net::SocketAddr;

use serde_json::{Map, Value};

use super::keys::{Key, Kind};
use crate::tokens::issuer::{fetchable, issuers};

/// Longest value that is quoted in an error.
const MAX_QUOTED: usize = 80;

/// What a value was written as.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw {
    /// Text of a variable or flag.
    Text(String),
    /// A value of the file.
    Typed(toml::Value),
}

/// Why a value does not fit: the problem, and what to write instead.
pub(super) type Misfit = (String, String);

impl Raw {
    /// As it stands in errors.
    pub(super) fn shown(&self) -> String {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::Typed(value) => value.to_string(),
        };
        if text.chars().count() <= MAX_QUOTED {
            return text;
        }
        text.chars().take(MAX_QUOTED).chain(['…']).collect()
    }

    /// The value, as the structs take it.
    pub(super) fn value(&self, key: &Key) -> Result<Value, Misfit> {
        let value = match self {
            Self::Text(text) => from_text(key.kind, text.trim()),
            Self::Typed(value) if key.kind == Kind::Issuers => with_tables(value),
            Self::Typed(value) => from_toml(value),
        };
        check(key.kind, value)
    }
}

fn from_text(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Number { .. } => text.replace('_', "").parse::<u64>().map_or_else(|_| text.into(), Value::from),
        Kind::Switch => match text {
            "true" | "1" | "yes" | "on" => true.into(),
            "false" | "0" | "no" | "off" => false.into(),
            other => other.into(),
        },
        Kind::List(_) => list(text),
        Kind::Issuers => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        Kind::Path
        | Kind::OptionalPath
        | Kind::Address
        | Kind::Choice(_)
        | Kind::OptionalOrigin
        | Kind::Name
        | Kind::Filter
        | Kind::Always(..)
        | Kind::OptionalUrl => text.into(),
    }
}

/// A list between commas, or as the file has it: that is what errors show.
fn list(text: &str) -> Value {
    if text.starts_with('[')
        && let Ok(table) = format!("list = {text}").parse::<toml::Table>()
        && let Some(list) = table.get("list")
    {
        return from_toml(list);
    }
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
}

/// Dates and floats have no place in any key; as text they are refused by kind.
fn from_toml(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Boolean(switch) => (*switch).into(),
        toml::Value::Array(items) => items.iter().map(from_toml).collect(),
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => Value::Null,
    }
}

/// As [`from_toml`], for the one key whose items are tables.
fn with_tables(value: &toml::Value) -> Value {
    match value {
        toml::Value::Array(items) => items.iter().map(with_tables).collect(),
        toml::Value::Table(table) => {
            table.iter().map(|(name, value)| (name.clone(), with_tables(value))).collect::<Map<_, _>>().into()
        }
        other => from_toml(other),
    }
}

fn check(kind: Kind, value: Value) -> Result<Value, Misfit> {
    if kind == Kind::Issuers {
        let remedy = "see `tokens.issuers` in docs/CONFIGURATION.md".to_owned();
        let issuers = issuers(&value).map_err(|fault| (format!("can't be used: {fault}"), remedy.clone()))?;
        // With every field, as `config show` prints it.
        return serde_json::to_value(issuers).map_err(|error| (format!("can't be used: {error}"), remedy));
    }
    let fits = match (kind, &value) {
        (Kind::Path, Value::String(text)) => !text.is_empty() && !text.contains('\0'),
        (Kind::OptionalPath, Value::String(text)) => !text.contains('\0'),
        (Kind::Address, Value::String(text)) => text.parse::<SocketAddr>().is_ok(),
        (Kind::Choice(words), Value::String(text)) => words.contains(&text.as_str()),
        (Kind::Number { min, max, .. }, Value::Number(number)) => {
            number.as_u64().is_some_and(|number| (min..=max).contains(&number))
        }
        (Kind::Switch, Value::Bool(_)) => true,
        (Kind::List(item), Value::Array(items)) => {
            items.iter().all(|value| value.as_str().is_some_and(|text| item_fits(item, text)))
        }
        (Kind::OptionalOrigin, Value::String(text)) => text.is_empty() || is_origin(text) && text.starts_with("http:"),
        (Kind::Name, Value::String(text)) => {
            (1..=64).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        }
        (Kind::Filter, Value::String(text)) => filter_fits(text),
        (Kind::Always(word, _), Value::String(text)) => text == word,
        (Kind::OptionalUrl, Value::String(text)) => text.is_empty() || fetchable(text).is_some(),
        _ => false,
    };
    if fits { Ok(value) } else { Err(misfit(kind)) }
}

fn item_fits(item: &str, text: &str) -> bool {
    match item {
        "origin" => is_origin(text),
        _ => text.starts_with('/') && !text.contains('\0'),
    }
}

/// Scheme, host and port as a browser sends them: without a path, not even `/`.
fn is_origin(text: &str) -> bool {
    url::Url::parse(text)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text)
}

fn filter_fits(text: &str) -> bool {
    !text.is_empty() && tracing_subscriber::EnvFilter::builder().parse(text).is_ok()
}

fn misfit(kind: Kind) -> Misfit {
    let (what, example): (String, String) = match kind {
        Kind::Path => ("is not a path".into(), "write a path, \"./bulkhead-data\"".into()),
        Kind::OptionalPath => ("is not a path".into(), "write a path, or \"\" for none".into()),
        Kind::Address => {
            ("is not an IP address with a port".into(), "write one, \"127.0.0.1:7300\" or \"[::1]:7300\"".into())
        }
        Kind::Choice(words) => ("is not one of the words for it".into(), format!("write one of {}", words.join(", "))),
        Kind::Number { unit, min, max } => {
            ("is not allowed".into(), format!("write a whole number of {unit} from {min} to {max}, without quotes"))
        }
        Kind::Switch => ("is neither true nor false".into(), "write true or false, without quotes".into()),
        Kind::List("origin") => (
            "is not a list of origins".into(),
            "write [\"https://app.example.com\"], without a path or final slash".into(),
        ),
        Kind::List(item) => (format!("is not a list of texts, each an {item}"), "write [\"/srv/repositories\"]".into()),
        Kind::OptionalOrigin => (
            "is not where a server of plain HTTP is reached".into(),
            "write `http://<host>:<port>`, or \"\" for none".into(),
        ),
        Kind::Name => ("is not a short name".into(), "write 1 to 64 letters, digits, `-` and `_`".into()),
        Kind::Filter => (
            "is not a filter of log lines".into(),
            "write a level, info, or levels per module, info,bulkhead=debug".into(),
        ),
        Kind::Always(word, why) => ("can't be changed".into(), format!("leave it out, or write {word}: {why}")),
        Kind::OptionalUrl => (
            "is not an https URL (http is taken on loopback addresses alone)".into(),
            "write one, \"https://tools.example.com\", or \"\" for none".into(),
        ),
        // Told with what is wrong, before.
        Kind::Issuers => ("can't be used".into(), "see docs/CONFIGURATION.md".into()),
    };
    (what, example)
}
