//! Configuration: one tree of plain structs, parsed, validated and complete
//! before a port is bound. Tests write the structs.
//!
//! In rising order: defaults, the file, variables, flags. A key is written in
//! all of them by one table ([`keys`]), and what names no key is an error: a
//! typing error in a limit must not mean no limit.
//!
//! The one secret, which may be in the database's address, is a variable alone and
//! shown without its password. Deliberately absent: other secrets (so `config show`
//! may print everything), includes, and reloading while the server runs.

mod check;
mod choices;
mod database;
pub mod docs;
mod error;
pub mod keys;
mod sections;
mod service;
mod sources;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use bulkhead_core::limits::Limits;
use bulkhead_store::{PostgresUrl, RedisUrl};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use choices::{Always, Auth, Cgroup, Isolation, KernelQuota, LogFormat, OwnUsers, Rule, Synchronous};
pub use error::{ConfigError, Fault, Origin};
pub use sections::{
    Access, AuditHeads, Cluster, Dispatch, EgressLimits, Experimental, FileRules, Http, Import, Keep, Lifecycle, Log,
    PolicyFile, Quota, Rates, Redis, Store, Tokens, Tools, Workers,
};
pub use sources::Flag;

use sources::Setting;

/// The whole configuration of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of everything that lasts.
    pub data: PathBuf,
    /// Address and port of the HTTP server.
    pub listen: SocketAddr,
    /// Whether requests need an API key.
    pub auth: Auth,
    /// The HTTP server.
    pub http: Http,
    /// The ceiling of every task's limits.
    pub limits: Limits,
    /// How many calls run and wait, and how their output is stored.
    pub dispatch: Dispatch,
    /// The worker processes.
    pub workers: Workers,
    /// What may be registered, and what compiling it may cost.
    pub tools: Tools,
    /// Filling new workspaces.
    pub import: Import,
    /// What one user may hold.
    pub quota: Quota,
    /// Files of workspaces, and what is known of them.
    pub files: FileRules,
    /// The life of tasks.
    pub lifecycle: Lifecycle,
    /// How often principals may do what.
    pub rate: Rates,
    /// What the door in front of owned things does.
    pub access: Access,
    /// Tokens of issuers elsewhere.
    pub tokens: Tokens,
    /// What tools may use beyond computing.
    pub policy: PolicyFile,
    /// The network, for tools that are granted HTTP.
    pub egress: EgressLimits,
    /// The database.
    pub store: Store,
    /// Several hosts on one PostgreSQL database.
    pub cluster: Cluster,
    /// Redis between several hosts.
    pub redis: Redis,
    /// How long things are kept.
    pub keep: Keep,
    /// The audit log's heads.
    pub audit: AuditHeads,
    /// The log.
    pub log: Log,
    /// What is not safe to have on unless it is wanted.
    pub experimental: Experimental,
    /// The address of a PostgreSQL database; without one the store is a SQLite file in `data`.
    #[serde(skip)]
    pub database_url: Option<PostgresUrl>,
    /// The address of a Redis server, which several hosts may share.
    #[serde(skip)]
    pub redis_url: Option<RedisUrl>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: sections::default_data(),
            listen: sections::default_listen(),
            auth: Auth::default(),
            http: Http::default(),
            limits: Limits::default(),
            dispatch: Dispatch::default(),
            workers: Workers::default(),
            tools: Tools::default(),
            import: Import::default(),
            quota: Quota::default(),
            files: FileRules::default(),
            lifecycle: Lifecycle::default(),
            rate: Rates::default(),
            access: Access::default(),
            tokens: Tokens::default(),
            policy: PolicyFile::default(),
            egress: EgressLimits::default(),
            store: Store::default(),
            cluster: Cluster::default(),
            redis: Redis::default(),
            keep: Keep::default(),
            audit: AuditHeads::default(),
            log: Log::default(),
            experimental: Experimental::default(),
            database_url: None,
            redis_url: None,
        }
    }
}

/// Where the values of a configuration come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if one was named.
    pub file: Option<PathBuf>,
    /// The environment.
    pub variables: Vec<(OsString, OsString)>,
    /// The command line; a later one wins.
    pub flags: Vec<Flag>,
}

/// A configuration, and where each of its values comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// It.
    pub config: Config,
    /// The file that was read, if one was.
    pub file: Option<PathBuf>,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where the value of the key called `name` comes from.
    pub fn origin(&self, name: &str) -> &Origin {
        self.origins.get(name).unwrap_or(&Origin::Default)
    }
}

/// Reads, layers and checks.
///
/// # Errors
/// Everything that is wrong, each with where it stands and what to do.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut faults = Vec::new();
    let mut collect = |result: Result<Vec<Setting>, Vec<Fault>>| {
        result.unwrap_or_else(|found| {
            faults.extend(found);
            Vec::new()
        })
    };
    let (file, from_file) = match sources::file(sources.file.as_deref()) {
        Ok((file, settings)) => (file, Ok(settings)),
        Err(found) => (None, Err(found)),
    };
    let mut settings = collect(from_file);
    settings.extend(collect(sources::variables(&sources.variables)));
    settings.extend(collect(sources::flags(&sources.flags)));
    let database_url = database::url(&sources.variables).unwrap_or_else(|found| {
        faults.extend(found);
        None
    });
    let redis_url = database::redis_url(&sources.variables).unwrap_or_else(|found| {
        faults.extend(found);
        None
    });

    let mut tree = tree(&Config::default());
    let mut origins = BTreeMap::new();
    for Setting { key, raw, origin } in settings {
        match raw.value(&key) {
            Ok(value) => {
                put(&mut tree, &key, value);
                origins.insert(key.name(), origin);
            }
            Err((problem, remedy)) => {
                faults.push(Fault { origin, key: key.name(), value: Some(raw.shown()), problem, remedy });
            }
        }
    }
    if !faults.is_empty() {
        return Err(ConfigError(faults));
    }
    let config = Config { database_url, redis_url, ..structs(tree)? };
    let loaded = Loaded { config, file, origins };
    check::check(&loaded)?;
    Ok(loaded)
}

/// The structs as a tree of JSON values.
fn tree(config: &Config) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(tree)) => tree,
        // Only a path that is not UTF-8 has no JSON; the defaults have none.
        _ => Map::new(),
    }
}

fn put(tree: &mut Map<String, Value>, key: &keys::Key, value: Value) {
    let table =
        if key.section.is_empty() { Some(tree) } else { tree.get_mut(key.section).and_then(Value::as_object_mut) };
    if let Some(table) = table {
        table.insert(key.field.into(), value);
    }
}

/// Each value was checked by its key, so this fails only if key and field differ.
fn structs(tree: Map<String, Value>) -> Result<Config, ConfigError> {
    serde_json::from_value(Value::Object(tree)).map_err(|error| {
        ConfigError(vec![Fault {
            origin: Origin::Default,
            key: String::new(),
            value: None,
            problem: format!("the configuration does not fit together: {error}"),
            remedy: "please report this as a bug".into(),
        }])
    })
}

impl Config {
    /// Every key with its value as JSON, in the order of the documentation.
    pub fn values(&self) -> Vec<(keys::Key, Value)> {
        let tree = tree(self);
        let value = |key: &keys::Key| {
            let table =
                if key.section.is_empty() { Some(&tree) } else { tree.get(key.section).and_then(Value::as_object) };
            table.and_then(|table| table.get(key.field)).cloned().unwrap_or(Value::Null)
        };
        keys::all().into_iter().map(|key| (key, value(&key))).collect()
    }
}
