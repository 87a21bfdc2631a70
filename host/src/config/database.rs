//! Which database the store is: the variable `DATABASE_URL` decides; and which Redis
//! is beside it: `REDIS_URL`. They are no keys, because they may have a password in
//! them: it stands neither in a file nor in a flag that every user of the machine sees,
//! and errors do not repeat it.

use std::ffi::OsString;

use bulkhead_store::{PostgresUrl, RedisUrl};

use super::error::{Fault, Origin};

/// The variable.
pub(super) const VARIABLE: &str = "DATABASE_URL";

/// That of Redis.
const REDIS: &str = "REDIS_URL";

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

/// The address of the Redis server; nothing if there is none.
pub(super) fn redis_url(variables: &[(OsString, OsString)]) -> Result<Option<RedisUrl>, Vec<Fault>> {
    let Some((_, value)) = variables.iter().rfind(|(name, _)| name == REDIS) else { return Ok(None) };
    let fault = |problem: String| {
        vec![Fault {
            origin: Origin::Variable(REDIS.into()),
            key: REDIS.into(),
            value: None,
            problem,
            remedy: "write redis://USER:PASSWORD@HOST:6379/0, with TLS rediss://…, or nothing".into(),
        }]
    };
    match value.to_str().map(str::trim) {
        None => Err(fault("is not UTF-8".into())),
        Some("") => Ok(None),
        Some(text) => RedisUrl::parse(text).map(Some).map_err(|error| fault(error.to_string())),
    }
}
