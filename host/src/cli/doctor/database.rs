//! The checks of the store: which it is, and whether it answers.

use std::time::{Duration, Instant};

use bulkhead_store::{PostgresConfig, PostgresFound, PostgresStore, PostgresUrl};

use super::Check;
use super::Need::{Recommended, Required};
use crate::config::Config;

/// Doctor is asked by a person who waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// The checks. The file of SQLite lies in the data directory, which has a check of its own.
pub(super) fn checks(config: &Config) -> Vec<Check> {
    let Some(url) = &config.database_url else {
        let file = config.database();
        let state = if file.exists() { "" } else { " (will be made)" };
        let found = format!("SQLite, {}{state}; DATABASE_URL names no other", file.display());
        return vec![Check::new("store", Required, true, found, "")];
    };
    let wanted = PostgresConfig { timeout: PATIENCE, connect_timeout: PATIENCE, ..config.postgres(url.clone()) };
    let started = Instant::now();
    let found = look(&wanted);
    let took = started.elapsed().as_millis();
    let store = match &found {
        Ok(PostgresFound { server, schema, .. }) => {
            let schema = schema.map_or_else(|| "no schema yet".into(), |version| format!("schema {version}"));
            let found = format!("PostgreSQL {server}, {url}, answers in {took} ms, {schema}");
            Check::new("store", Required, true, found, "")
        }
        Err(reason) => Check::new(
            "store",
            Required,
            false,
            format!("PostgreSQL: {reason}"),
            "mend what it says, or take DATABASE_URL away for SQLite",
        ),
    };
    let mut checks = vec![store, identity(url)];
    checks.extend(found.ok().map(|found| connections(config, &found)));
    checks
}

fn look(config: &PostgresConfig) -> Result<PostgresFound, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(PostgresStore::look(config)).map_err(|error| error.to_string())
}

fn identity(url: &PostgresUrl) -> Check {
    let (ok, found) = match url.is_verified() {
        true => (true, "the database is on this machine, or must prove who it is"),
        false => (false, "whoever answers at its address is taken for the database, and gets the password"),
    };
    let remedy = "add sslmode=verify-full to DATABASE_URL, and sslrootcert=FILE for an authority of your own";
    Check::new("store identity", Recommended, ok, found, remedy)
}

fn connections(config: &Config, found: &PostgresFound) -> Check {
    // One holds the database, one is for the command line, three are kept for its administrators.
    let (wanted, most) = (config.store.connections + 5, found.connections);
    let ok = i64::try_from(wanted).is_ok_and(|wanted| wanted <= most);
    let found = format!("the server allows {most}, `store.connections` is {}", config.store.connections);
    Check::new("store room", Recommended, ok, found, "raise max_connections there, or lower `store.connections`")
}
