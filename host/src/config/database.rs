//! Which database the store is: the variable `DATABASE_URL` decides. It is no key,
//! because it may have a password in it: it stands neither in a file nor in a flag
//! that every user of the machine sees, and errors do not repeat it.

use std::ffi::OsString;

use bulkhead_store::PostgresUrl;

use super::error::{Fault, Origin};

/// The variable.
pub(super) const VARIABLE: &str = "DATABASE_URL";

/// The address of the PostgreSQL database; nothing for the SQLite file in `data`.
pub(super) fn url(variables: &[(OsString, OsString)]) -> Result<Option<PostgresUrl>, Vec<Fault>> {
    let Some((_, value)) = variables.iter().rfind(|(name, _)| name == VARIABLE) else { return Ok(None) };
    let fault = |problem: &str, remedy: &str| {
        vec![Fault {
            origin: Origin::Variable(VARIABLE.into()),
            key: VARIABLE.into(),
            value: None,
            problem: problem.into(),
            remedy: remedy.into(),
        }]
    };
    let remedy =
        "write postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full, or nothing for SQLite in `data`";
    let Some(text) = value.to_str() else { return Err(fault("is not UTF-8", remedy)) };
    match text.trim() {
        "" | "sqlite" | "sqlite:" | "sqlite://" => Ok(None),
        path if path.starts_with("sqlite:") => {
            let remedy =
                "its file is `bulkhead.sqlite` in `data` (BULKHEAD_DATA): name the directory there, and no file here";
            Err(fault("names a file of SQLite", remedy))
        }
        url => PostgresUrl::parse(url).map(Some).map_err(|error| fault(&error.to_string(), remedy)),
    }
}
