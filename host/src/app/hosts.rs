//! This host among others: its name, and what it shares with them.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use bulkhead_core::clock::NewId as _;
use bulkhead_core::id::{HostId, IdError};
use bulkhead_core::ports::cluster::Cluster;
use bulkhead_store::Redis;

use super::{OpenStore, StartError, private_directory, system};
use crate::config::Config;
use crate::system::System;

/// The host of this data directory.
pub(super) fn of(config: &Config) -> Result<HostId, StartError> {
    let host = name(&config.absolute_data(), "host-id", || System.host_id());
    host.map_err(system("the name of this host, `host-id` in the data directory"))
}

/// Joins the other hosts, as the one of this data directory.
pub(super) async fn join(
    config: &Config,
    host: HostId,
    store: &OpenStore,
    address: SocketAddr,
) -> Result<Arc<dyn Cluster>, StartError> {
    let named = |what| system(what);
    let mut volume = host.to_string();
    if !config.cluster.volume.as_os_str().is_empty() {
        let directory = config.workspaces();
        private_directory(&directory).map_err(named("the directory `cluster.volume`"))?;
        let id = name(&directory, "volume-id", || System.volume_id());
        volume = id.map_err(named("the name of the volume, `volume-id` in `cluster.volume`"))?.to_string();
    }
    Ok(store.join(config.host(host.to_string(), volume, address)).await?)
}

/// Redis, if one is named and there can be other hosts.
pub(super) fn redis(config: &Config, host: HostId, store: &OpenStore) -> Result<Option<Arc<Redis>>, StartError> {
    let Some(url) = &config.redis_url else { return Ok(None) };
    if matches!(store, OpenStore::Sqlite(_)) {
        tracing::warn!("REDIS_URL is of no use with SQLite: there is one host");
        return Ok(None);
    }
    tracing::info!(%url, "Redis is beside the store");
    let name = format!("{host}-{}", std::process::id());
    let redis = Redis::new(config.redis(url.clone()), name);
    redis.map(Some).map_err(|error| StartError::System { what: "Redis", reason: io::Error::other(error) })
}

/// The name of a directory, by which hosts know what lies in it: made when it is new,
/// and never changed.
fn name<T: FromStr<Err = IdError> + Display>(directory: &Path, file: &str, make: impl Fn() -> T) -> io::Result<T> {
    let path = directory.join(file);
    // Of several hosts that find it new at once one makes it.
    let mut new = tempfile::NamedTempFile::new_in(directory)?;
    new.write_all(make().to_string().as_bytes())?;
    new.as_file().sync_all()?;
    match new.persist_noclobber(&path) {
        Ok(_) => File::open(directory)?.sync_all()?,
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.error),
    }
    std::fs::read_to_string(&path)?.trim().parse().map_err(io::Error::other)
}
