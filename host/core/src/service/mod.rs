//! Use cases: what the edges call. HTTP and command line call the same ones,
//! each with a principal or a proof from [`crate::access`].

pub mod audit;
pub mod calls;
pub mod files;
pub mod grants;
pub mod hosts;
pub mod keys;
mod lifecycle;
pub mod overdue;
pub mod sessions;
mod steady;
pub mod sweep;
pub mod tasks;
pub mod tickets;
pub mod tools;
mod turns;
pub mod upkeep;
pub mod volumes;

use std::sync::Arc;
use std::time::Duration;

use crate::access::Access;
use crate::access::rules::{Rules, Softened};
use crate::activity::Activity;
use crate::audit::refusals::Refusals;
use crate::clock::Ids;
use crate::dispatch::{DispatchConfig, DispatchParts, Dispatcher};
use crate::hub::Hub;
use crate::limits::Limits;
use crate::policy::Policies;
use crate::ports::archive::Archives;
use crate::ports::cluster::Cluster;
use crate::ports::components::Components;
use crate::ports::egress::Egress;
use crate::ports::import::Importer;
use crate::ports::live::Live;
use crate::ports::meter::Meter;
use crate::ports::rates::Rates;
use crate::ports::sandbox::Sandbox;
use crate::ports::store::Store;
use crate::ports::workspace::Workspaces;
use crate::quota::{Extent, Quotas, UserQuota};

/// The adapters that the composition root chose.
#[derive(Clone)]
pub struct Ports {
    /// Durable storage.
    pub store: Arc<dyn Store>,
    /// The other hosts on it.
    pub cluster: Arc<dyn Cluster>,
    /// Who tells them of events at once, if anybody does.
    pub live: Option<Arc<dyn Live>>,
    /// What runs calls.
    pub sandbox: Arc<dyn Sandbox>,
    /// The file layer.
    pub workspaces: Arc<dyn Workspaces>,
    /// What packs those of archived tasks.
    pub archives: Arc<dyn Archives>,
    /// What fills new workspaces.
    pub importer: Arc<dyn Importer>,
    /// The bytes of components.
    pub components: Arc<dyn Components>,
    /// Time and ids.
    pub ids: Arc<dyn Ids>,
    /// Metrics.
    pub meter: Arc<dyn Meter>,
    /// The network, for guests.
    pub egress: Arc<dyn Egress>,
    /// How often principals may do what.
    pub rates: Arc<dyn Rates>,
}

/// How the use cases behave.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// The ceiling of every task's limits.
    pub limits: Limits,
    /// Dispatch.
    pub dispatch: DispatchConfig,
    /// Components compiled at once; each takes a core and up to 2 GiB.
    pub compiling: usize,
    /// Largest component, in bytes.
    pub max_component_bytes: u64,
    /// How files are treated.
    pub files: files::FilesConfig,
    /// Largest text of a call's arguments, in bytes.
    pub max_arguments_bytes: u64,
    /// What the tasks of one user may hold together.
    pub quota: UserQuota,
    /// Tools that a tenant may have, and bytes of their components together.
    pub tools_quota: Extent,
    /// How long tasks live.
    pub life: overdue::LifeConfig,
    /// How what belongs to nobody is swept.
    pub sweep: sweep::SweepConfig,
    /// How long things are kept.
    pub keep: upkeep::Keep,
    /// Between two looks whether other hosts wrote to a task that is watched here.
    pub follow: Duration,
    /// Which rules of the door refuse, and which only watch.
    pub rules: Rules,
}

/// All use cases.
pub struct Services {
    /// The door to owned things.
    pub access: Arc<Access>,
    /// The audit log.
    pub audit: audit::AuditLog,
    /// Calls.
    pub calls: calls::Calls,
    /// Files of workspaces.
    pub files: files::Files,
    /// Grants, and the policy: until one is installed, the one without rules.
    pub grants: grants::Grants,
    /// The other hosts.
    pub hosts: hosts::Hosts,
    /// Where workspaces lie.
    pub volumes: volumes::Volumes,
    /// API keys.
    pub keys: keys::Keys,
    /// Sessions.
    pub sessions: sessions::Sessions,
    /// Tasks and their events.
    pub tasks: tasks::Tasks,
    /// Tickets for streams.
    pub tickets: tickets::Tickets,
    /// Tools.
    pub tools: tools::Tools,
    /// Recovery, retention, shutdown.
    pub upkeep: upkeep::Upkeep,
}

impl Services {
    /// Builds the use cases upon the adapters.
    pub fn new(ports: Ports, config: ServiceConfig) -> Self {
        let softened = Softened::new(ports.store.clone(), ports.ids.clone(), ports.meter.clone(), config.rules);
        let softened = Arc::new(softened);
        let refusals = Arc::new(Refusals::default());
        let audit = audit::AuditLog::new(ports.clone(), refusals.clone());
        let access = Arc::new(Access::new(ports.store.clone(), softened.clone(), refusals.clone()));
        let hub = Arc::new(Hub::new(ports.live.clone()));
        let policies = Arc::new(Policies::default());
        let quotas = Arc::new(Quotas::new(
            ports.workspaces.clone(),
            ports.store.clone(),
            config.quota,
            ports.cluster.is_shared(),
        ));
        let parts = DispatchParts {
            quotas: quotas.clone(),
            store: ports.store.clone(),
            cluster: ports.cluster.clone(),
            sandbox: ports.sandbox.clone(),
            workspaces: ports.workspaces.clone(),
            components: ports.components.clone(),
            hub: hub.clone(),
            ids: ports.ids.clone(),
            meter: ports.meter.clone(),
            egress: ports.egress.clone(),
            policies: policies.clone(),
            access: access.clone(),
        };
        let dispatcher = Dispatcher::new(parts, config.dispatch);
        let tools = tools::Tools::new(ports.clone(), &config, access.clone());
        let activity = Arc::new(Activity::default());
        let parts = tasks::TaskParts {
            filling: tasks::Filling::default(),
            ports: ports.clone(),
            access: access.clone(),
            hub: hub.clone(),
            dispatcher: dispatcher.clone(),
            quotas: quotas.clone(),
            tools: tools.clone(),
            ceiling: config.limits.clone(),
            activity: activity.clone(),
            turns: Arc::default(),
            lifetimes: config.life.lifetimes,
            keep_deleted_ms: config.life.keep_deleted_ms,
        };
        let tasks = tasks::Tasks::new(parts);
        let files = files::Files::new(ports.clone(), hub.clone(), (quotas, activity), config.files);
        Self {
            calls: calls::Calls::new(ports.clone(), dispatcher.clone(), policies.clone(), &config),
            files: files.clone(),
            grants: grants::Grants::new(ports.clone(), dispatcher.clone(), policies),
            hosts: hosts::Hosts::new(ports.clone(), access.clone()),
            volumes: volumes::Volumes::new(ports.clone(), access.clone(), tasks.clone()),
            keys: keys::Keys::new(ports.store.clone(), ports.ids.clone()).for_service(softened, refusals),
            sessions: sessions::Sessions::new(ports.clone()),
            tickets: tickets::Tickets::new(ports.store.clone(), ports.ids.clone()),
            upkeep: upkeep::Upkeep::new(ports, dispatcher, tools.clone(), tasks.clone(), (hub, audit.clone()), &config)
                .with_files(files),
            access,
            audit,
            tasks,
            tools,
        }
    }
}
