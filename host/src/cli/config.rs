//! `config`: every value with where it comes from, and the reference of keys.

use serde_json::{Value, json};

use super::args::{Config, Global};
use super::exit::{Exit, Failure};
use super::output::{Output, table};
use crate::config::{Loaded, Origin, docs};

/// Does what was asked.
pub(super) fn config(global: &Global, command: Config, output: &Output) -> Result<Exit, Failure> {
    match command {
        Config::Show => show(&global.load()?, output),
        Config::Docs => output.result(&json!({"markdown": docs::render()}), docs::render),
    }
    Ok(Exit::Ok)
}

fn show(loaded: &Loaded, output: &Output) {
    let values = loaded.config.values();
    let entry = |(key, value): &(crate::config::keys::Key, Value)| {
        let origin = loaded.origin(&key.name());
        json!({
            "key": key.name(),
            "value": value,
            "source": source(origin),
            "where": origin.to_string(),
            "variable": key.variable(),
        })
    };
    let document = json!({
        "file": loaded.file,
        "database": database(&loaded.config),
        "values": values.iter().map(entry).collect::<Vec<_>>(),
    });
    output.result(&document, || {
        let row = |(key, value): &(crate::config::keys::Key, Value)| {
            vec![key.name(), value.to_string(), loaded.origin(&key.name()).to_string()]
        };
        let keys = table(&["KEY", "VALUE", "SOURCE"], &values.iter().map(row).collect::<Vec<_>>());
        format!("{keys}\n\nThe store is {}.", database(&loaded.config))
    });
}

/// Which database it is, without a password.
fn database(config: &crate::config::Config) -> String {
    match &config.database_url {
        Some(url) => url.to_string(),
        None => config.database().display().to_string(),
    }
}

fn source(origin: &Origin) -> &'static str {
    match origin {
        Origin::Default => "default",
        Origin::File(..) => "file",
        Origin::Variable(_) => "variable",
        Origin::Flag(_) => "flag",
    }
}
