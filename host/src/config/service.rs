//! What the packages take, made of the configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_core::access::rules::{Enforcement, Rules};
use bulkhead_core::dispatch::{DispatchConfig, LaneLimits};
use bulkhead_core::ports::rates::{Counted, Counts, Rate};
use bulkhead_core::quota::{Extent, UserQuota};
use bulkhead_core::service::ServiceConfig;
use bulkhead_core::service::files::FilesConfig;
use bulkhead_core::service::overdue::LifeConfig;
use bulkhead_core::service::sweep::SweepConfig;
use bulkhead_core::service::upkeep;
use bulkhead_core::task::Lifetimes;
use bulkhead_sandbox::{CgroupParent, WasmConfig};
use bulkhead_store::{HostConfig, PostgresConfig, PostgresUrl, RedisConfig, RedisUrl, SharedRate, SqliteConfig};
use bulkhead_workspace::import::{ImportConfig, ImportLimits};

use super::{Cgroup, Config, Isolation, KernelQuota, OwnUsers, Rule, Synchronous};
use crate::egress::EgressConfig;
use crate::rates::RateConfig;
use crate::tokens::TokensConfig;

const HOUR_MS: u64 = 3_600_000;

impl Config {
    /// The network.
    pub fn egress(&self) -> EgressConfig {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let egress = &self.egress;
        EgressConfig {
            ca_file: Some(egress.ca_file.clone()).filter(|path| !path.as_os_str().is_empty()),
            max_connections: size(egress.max_connections),
            max_connections_per_tenant: size(egress.max_connections_per_tenant),
            idle_timeout: Duration::from_millis(egress.idle_ms),
            ..EgressConfig::default()
        }
    }

    /// How often principals may do what.
    pub fn rates(&self) -> RateConfig {
        let rates = &self.rate;
        let rate = |per_minute: u64| {
            let burst = (per_minute * rates.burst_percent / 100).max(1);
            // Within what the table of keys allows, which fits.
            let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            (per_minute > 0).then(|| Rate { per_minute: number(per_minute), burst: number(burst) })
        };
        RateConfig {
            requests_per_user: rate(rates.requests_per_user),
            requests_per_tenant: rate(rates.requests_per_tenant),
            calls_per_user: rate(rates.calls_per_user),
            calls_per_tenant: rate(rates.calls_per_tenant),
        }
    }

    /// The configuration of the use cases.
    pub fn service(&self) -> ServiceConfig {
        ServiceConfig {
            limits: self.limits.clone(),
            dispatch: self.dispatch_config(),
            compiling: size(self.tools.compile_at_once),
            max_component_bytes: self.tools.max_component_bytes,
            files: self.files_config(),
            max_arguments_bytes: self.dispatch.max_arguments_bytes,
            quota: UserQuota {
                workspaces: Extent {
                    bytes: self.quota.workspace_bytes_per_user,
                    entries: self.quota.workspace_entries_per_user,
                },
                tasks: self.quota.tasks_per_user,
                tasks_of_tenant: self.quota.tasks_per_tenant,
            },
            tools_quota: Extent { bytes: self.quota.tool_bytes_per_tenant, entries: self.quota.tools_per_tenant },
            life: self.life_config(),
            sweep: SweepConfig {
                every: (self.lifecycle.sweep_ms > 0).then(|| Duration::from_millis(self.lifecycle.sweep_ms)),
                grace: Duration::from_millis(self.lifecycle.sweep_grace_ms),
            },
            keep: self.keep_config(),
            follow: Duration::from_millis(self.cluster.follow_ms),
            rules: self.rules(),
        }
    }

    fn files_config(&self) -> FilesConfig {
        let files = &self.files;
        let millis = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
        FilesConfig {
            max_file_bytes: self.http.max_upload_bytes,
            keep_deleted_ms: millis(files.keep_deleted_ms),
            upload_ms: millis(files.upload_ms),
            uploads_per_task: u32::try_from(files.uploads_per_task).unwrap_or(u32::MAX),
            history_ms: millis(files.history_hours.saturating_mul(HOUR_MS)),
            history_per_task: files.history_per_task,
            accesses_ms: millis(files.access_hours.saturating_mul(HOUR_MS)),
            // Each request that is answered may have a place until it ends.
            accesses_waiting: size(files.access_queue.saturating_add(self.http.max_concurrent_requests)),
        }
    }

    fn rules(&self) -> Rules {
        let does = |rule| match rule {
            Rule::Enforce => Enforcement::Enforce,
            Rule::Audit => Enforcement::Audit,
        };
        let access = &self.access;
        Rules {
            scopes: does(access.scopes),
            expired_keys: does(access.expired_keys),
            admin_reason: does(access.admin_reason),
        }
    }

    /// Whose tokens are taken; none if there are no issuers.
    pub fn tokens(&self) -> Option<TokensConfig> {
        let tokens = &self.tokens;
        (!tokens.issuers.is_empty()).then(|| TokensConfig {
            issuers: tokens.issuers.clone(),
            refresh: Duration::from_secs(tokens.refresh_s),
            keep: Duration::from_secs(tokens.keep_s),
            again: Duration::from_secs(tokens.again_s),
            timeout: Duration::from_millis(tokens.timeout_ms),
        })
    }

    fn dispatch_config(&self) -> DispatchConfig {
        let dispatch = &self.dispatch;
        DispatchConfig {
            lanes: LaneLimits {
                running: size(dispatch.running),
                running_per_owner: size(dispatch.running_per_owner),
                running_per_tenant: size(dispatch.running_per_tenant),
                queued_per_owner: size(dispatch.queued_per_owner),
                queued_per_task: size(dispatch.queued_per_task),
                queued: size(dispatch.queued),
            },
            coalesce: Duration::from_millis(dispatch.coalesce_ms),
            coalesce_bytes: size(dispatch.coalesce_bytes),
            drain: Duration::from_millis(dispatch.drain_ms),
        }
    }

    fn life_config(&self) -> LifeConfig {
        let life = &self.lifecycle;
        let time = |time: u64| (time > 0).then_some(time);
        LifeConfig {
            lifetimes: Lifetimes {
                archive_idle_ms: time(life.archive_idle_ms),
                delete_archived_ms: time(life.delete_archived_ms),
                max_age_ms: time(life.max_age_ms),
            },
            keep_deleted_ms: i64::try_from(life.keep_deleted_ms).unwrap_or(i64::MAX),
            every: Duration::from_millis(life.every_ms),
        }
    }

    fn keep_config(&self) -> upkeep::Keep {
        let millis = |hours: u64| i64::try_from(hours.saturating_mul(HOUR_MS)).unwrap_or(i64::MAX);
        upkeep::Keep {
            events_ms: millis(self.keep.events_hours),
            events_bytes_per_task: self.keep.events_bytes_per_task,
            deleted_ms: millis(self.keep.deleted_hours),
            audit_ms: millis(self.keep.audit_hours),
            every: Duration::from_secs(self.keep.every_s),
            refusals_every: Duration::from_secs(self.audit.refusals_every_s),
        }
    }

    /// The key that signs the heads of the audit log.
    pub fn audit_key(&self) -> PathBuf {
        self.or_in_data(&self.audit.key_file, "audit.key")
    }

    /// Where they are exported to.
    pub fn audit_heads(&self) -> PathBuf {
        self.or_in_data(&self.audit.export_dir, "audit-heads")
    }

    fn or_in_data(&self, path: &Path, name: &str) -> PathBuf {
        if path.as_os_str().is_empty() { self.data.join(name) } else { path.into() }
    }

    fn synchronous(&self) -> bulkhead_store::Synchronous {
        match self.store.synchronous {
            Synchronous::Full => bulkhead_store::Synchronous::Full,
            Synchronous::Off => bulkhead_store::Synchronous::Off,
        }
    }

    /// The configuration of the store in a PostgreSQL database.
    pub fn postgres(&self, url: PostgresUrl) -> PostgresConfig {
        let (store, millis) = (&self.store, Duration::from_millis);
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        PostgresConfig {
            synchronous: self.synchronous(),
            connections: number(store.connections),
            acquire_timeout: millis(store.acquire_timeout_ms),
            connect_timeout: millis(store.connect_timeout_ms),
            timeout: millis(store.timeout_ms),
            idle: millis(store.idle_ms),
            queue: size(store.queue),
            breaker_failures: number(store.breaker_failures),
            breaker_open: millis(store.breaker_open_ms),
            ..PostgresConfig::new(url)
        }
    }

    /// Where workspaces lie: in `data`, or on the volume of several hosts.
    pub fn workspaces(&self) -> PathBuf {
        match self.cluster.volume.as_os_str().is_empty() {
            true => self.absolute_data(),
            false => std::path::absolute(&self.cluster.volume).unwrap_or_else(|_| self.cluster.volume.clone()),
        }
    }

    /// Whether the kernel bounds workspaces.
    pub fn kernel_quota(&self) -> bulkhead_workspace::KernelQuota {
        match self.quota.kernel {
            KernelQuota::Auto => bulkhead_workspace::KernelQuota::Auto,
            KernelQuota::Off => bulkhead_workspace::KernelQuota::Off,
            KernelQuota::Required => bulkhead_workspace::KernelQuota::Required,
        }
    }

    /// What this host tells the others: `host` is the name of its data directory,
    /// `volume` that of where its workspaces lie, `listens` where it listens.
    pub fn host(&self, host: String, volume: String, listens: SocketAddr) -> HostConfig {
        let cluster = &self.cluster;
        let lease = Duration::from_millis(cluster.lease_ms);
        let address = match cluster.advertise.as_str() {
            "" if listens.ip().is_unspecified() => String::new(),
            "" => format!("http://{listens}"),
            given => given.to_owned(),
        };
        let queued_grace = Duration::from_millis(cluster.queued_grace_ms);
        HostConfig { host, volume, address, lease, margin: lease / 3, queued_grace }
    }

    /// How Redis at `url` is used.
    pub fn redis(&self, url: RedisUrl) -> RedisConfig {
        let redis = &self.redis;
        RedisConfig {
            url,
            prefix: redis.prefix.clone(),
            timeout: Duration::from_millis(redis.timeout_ms),
            tail_events: size(redis.tail_events),
            tail_ttl: Duration::from_secs(redis.tail_ttl_s),
        }
    }

    /// The rates that hosts count together.
    pub fn shared_rates(&self) -> Vec<SharedRate> {
        let RateConfig { requests_per_user, requests_per_tenant, calls_per_user, calls_per_tenant } = self.rates();
        let all = [
            (Counted::Requests, Counts::User, requests_per_user),
            (Counted::Requests, Counts::Tenant, requests_per_tenant),
            (Counted::Calls, Counts::User, calls_per_user),
            (Counted::Calls, Counts::Tenant, calls_per_tenant),
        ];
        all.into_iter().filter_map(|(counted, of, rate)| Some(SharedRate { counted, of, rate: rate? })).collect()
    }

    /// The configuration of the store in a SQLite file.
    pub fn sqlite(&self) -> SqliteConfig {
        SqliteConfig {
            path: self.database(),
            synchronous: self.synchronous(),
            readers: u32::try_from(self.store.readers).unwrap_or(u32::MAX),
            busy_timeout: Duration::from_millis(self.store.busy_timeout_ms),
            queue: size(self.store.queue),
        }
    }

    /// The configuration of the WebAssembly backend, whose children are `exe`.
    pub fn wasm(&self, exe: PathBuf, cache_dir: PathBuf) -> WasmConfig {
        let (workers, tools) = (&self.workers, &self.tools);
        WasmConfig {
            isolation: match workers.isolation {
                Isolation::Strict => bulkhead_sandbox::Isolation::Strict,
                Isolation::Required => bulkhead_sandbox::Isolation::Required,
                Isolation::BestEffort => bulkhead_sandbox::Isolation::BestEffort,
            },
            own_users: workers.own_users == OwnUsers::Auto,
            cgroup: match (workers.cgroup, workers.cgroup_parent.as_os_str().is_empty()) {
                (Cgroup::Off, _) => CgroupParent::Off,
                (Cgroup::Auto, true) => CgroupParent::Auto,
                (Cgroup::Auto, false) => CgroupParent::Named(workers.cgroup_parent.clone()),
            },
            cgroup_cpu: workers.cgroup_cpu,
            workers_per_tenant: self.workers_per_tenant(),
            max_workers: size(workers.max),
            waiting_workers: size(workers.waiting),
            calls_per_worker: u32::try_from(workers.calls_per_worker).unwrap_or(u32::MAX),
            memory_per_worker: workers.memory_per_worker_bytes,
            memory_of_workers: (workers.memory_bytes > 0).then_some(workers.memory_bytes),
            idle_timeout: Duration::from_millis(workers.idle_ms),
            max_age: Duration::from_millis(workers.max_age_ms),
            kill_grace: Duration::from_millis(workers.kill_grace_ms),
            nice: u8::try_from(workers.nice).unwrap_or(u8::MAX),
            compiles: size(tools.compile_at_once),
            compile_cpu: Duration::from_secs(tools.compile_cpu_s),
            compile_memory: tools.compile_memory_bytes,
            wasi_03: self.experimental.wasi_03,
            start_timeout: Duration::from_millis(workers.start_timeout_ms),
            shutdown_grace: Duration::from_millis(workers.shutdown_grace_ms),
            ..WasmConfig::new(exe, cache_dir)
        }
    }

    /// The configuration of imports, whose children are `exe`.
    pub fn importer(&self, exe: PathBuf) -> ImportConfig {
        let import = &self.import;
        ImportConfig {
            limits: ImportLimits {
                max_bytes: import.max_bytes,
                max_entries: import.max_entries,
                ..ImportLimits::default()
            },
            timeout: Duration::from_millis(import.timeout_ms),
            at_once: size(import.at_once),
            local_git_roots: import.git_local_roots.clone(),
            ..ImportConfig::new(exe, self.absolute_data().join("import"))
        }
    }

    /// The configuration of packing workspaces, whose children are `exe`. What may be
    /// in a workspace may be packed.
    pub fn archiver(&self, exe: PathBuf) -> ImportConfig {
        let life = &self.lifecycle;
        ImportConfig {
            limits: ImportLimits {
                max_bytes: self.quota.workspace_bytes_per_user,
                max_entries: self.quota.workspace_entries_per_user,
                ..ImportLimits::default()
            },
            timeout: Duration::from_millis(life.timeout_ms),
            at_once: size(life.at_once),
            ..ImportConfig::new(exe, PathBuf::new())
        }
    }

    /// The data directory by a path that children, which start in `/`, find too.
    pub fn absolute_data(&self) -> PathBuf {
        // Only an empty path has no absolute form, and that is no value of the key.
        std::path::absolute(&self.data).unwrap_or_else(|_| self.data.clone())
    }

    /// SQLite's file.
    pub fn database(&self) -> PathBuf {
        self.data.join("bulkhead.sqlite")
    }

    /// The directory of components, by digest.
    pub fn components(&self) -> PathBuf {
        self.data.join("components")
    }

    /// The directory of compiled artefacts: a cache, may be removed while the host is stopped.
    pub fn artifacts(&self) -> PathBuf {
        self.absolute_data().join("artifacts")
    }

    /// Workers of one tenant, with 0 resolved to this machine's cores.
    pub fn workers_per_tenant(&self) -> usize {
        match self.workers.per_tenant {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            given => size(given),
        }
    }
}

/// A number as a size; no number of the configuration is too large for one.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
