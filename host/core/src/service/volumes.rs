//! Where workspaces lie, among several hosts, and giving up what is lost for good.
//!
//! A task lies on one volume. If no host that reaches it ever comes back, nobody can
//! delete the task, and it counts in its owner's quotas for ever. Only a person can know
//! that a machine is lost, so an operator says it, with a reason, on record. Then each
//! task is held here, told that its workspace is lost, and counts as lying here, where it
//! can be deleted and its time can end like any other. A step that is left half done is
//! taken up by saying it again: the task lies on the lost volume until all else is done.

use std::sync::Arc;

use super::Ports;
use super::tasks::Tasks;
use crate::access::{Access, Permit};
use crate::audit::{AuditBody, NewAudit};
use crate::error::Error;
use crate::ports::cluster::Volume;
use crate::principal::By;

/// Tasks that are given up in one request.
const AT_ONCE: u32 = 200;

/// What came of giving up a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retired {
    /// Tasks whose workspaces were given up.
    pub given_up: u64,
    /// Tasks that still lie there: more than one request takes, or calls are open in them,
    /// which end by themselves (`cluster.queued_grace_ms`).
    pub left: u64,
}

/// The use cases of volumes.
pub struct Volumes {
    ports: Ports,
    access: Arc<Access>,
    tasks: Tasks,
}

impl Volumes {
    pub(super) fn new(ports: Ports, access: Arc<Access>, tasks: Tasks) -> Self {
        Self { ports, access, tasks }
    }

    /// Every volume that a host told of or a task lies on. A server that is alone has none.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self, _: &Permit) -> Result<Vec<Volume>, Error> {
        Ok(self.ports.cluster.volumes().await?)
    }

    /// Gives up what lies on a volume that no host which lives reaches: some of it in one
    /// request, of which there may have to be more.
    ///
    /// # Errors
    /// If no reason is given, there is no such volume, a host reaches it, or the store fails.
    pub async fn retire(&self, permit: &Permit, id: &str) -> Result<Retired, Error> {
        let (by, who) = (permit.owner(), By::from(permit.principal()));
        let Some(reason) = &permit.principal().reason else {
            return Err(Error::invalid("Bulkhead-Reason", "say in this header why the volume is given up"));
        };
        let Some(volume) = self.find(id).await? else { return Err(self.access.absent(by, "volume", id.into()).await) };
        if let Some(host) = volume.reached_by() {
            return Err(Error::WrongState {
                what: format!("the volume `{id}`"),
                state: "in use".into(),
                remedy: format!("the host `{}` reaches it; stop that first, if it is to be given up", host.host).into(),
            });
        }
        let body = AuditBody::VolumeRetired {
            volume: volume.id.clone(),
            tasks: volume.tasks,
            by_tenant: by.tenant,
            by_user: by.user,
            reason: reason.as_str().into(),
        };
        self.ports.store.append_audit(vec![NewAudit::of_operator(self.ports.ids.now(), &body).by(&who)]).await?;
        tracing::warn!(volume = id, tasks = volume.tasks, by = %by.user, "a volume is given up");
        let lost = self.ports.cluster.hold_lost(id, AT_ONCE).await?;
        for task in &lost {
            self.tasks.give_up(task, id, &who).await?;
        }
        let ids: Vec<_> = lost.iter().map(|task| task.id).collect();
        self.ports.cluster.bring_home(id, &ids).await?;
        let left = self.find(id).await?.map_or(0, |volume| volume.tasks);
        Ok(Retired { given_up: ids.len() as u64, left })
    }

    async fn find(&self, id: &str) -> Result<Option<Volume>, Error> {
        let mut volumes = self.ports.cluster.volumes().await?;
        let found = volumes.iter().position(|volume| volume.id == id);
        Ok(found.map(|found| volumes.swap_remove(found)))
    }
}
