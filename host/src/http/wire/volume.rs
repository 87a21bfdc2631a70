//! Volumes and the hosts that reach them.

use bulkhead_core::ports::cluster::{Member, Volume};
use bulkhead_core::service::volumes::Retired;
use serde::Serialize;
use utoipa::ToSchema;

/// Where workspaces lie: the data directory of one host, or what several share.
#[derive(Debug, Serialize, ToSchema)]
pub struct VolumeBody {
    /// `vol_…` if it is shared, else the id of its host.
    pub id: String,
    /// Whether a host that lives reaches it.
    pub in_use: bool,
    /// Tasks whose workspaces lie there.
    pub tasks: u64,
    /// The hosts that reach it, of those that lived within the last day.
    pub hosts: Vec<MemberBody>,
}

/// A host, as it told the others when it last started.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemberBody {
    /// `host_…`
    pub id: String,
    /// Where other hosts reach it; absent if it did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// Until when it may be believed to live, unless it renews.
    pub lease_until: String,
    /// When it ended, by itself or because it was late; absent while it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
}

/// What came of giving up a volume.
#[derive(Debug, Serialize, ToSchema)]
pub struct RetiredBody {
    /// Tasks whose workspaces were given up.
    pub given_up: u64,
    /// Tasks that still lie there: more than one request takes, or calls are open in them,
    /// which end by themselves.
    pub left: u64,
}

impl From<&Volume> for VolumeBody {
    fn from(volume: &Volume) -> Self {
        Self {
            id: volume.id.clone(),
            in_use: volume.reached_by().is_some(),
            tasks: volume.tasks,
            hosts: volume.hosts.iter().map(MemberBody::from).collect(),
        }
    }
}

impl From<&Member> for MemberBody {
    fn from(member: &Member) -> Self {
        Self {
            id: member.host.clone(),
            address: Some(member.address.clone()).filter(|address| !address.is_empty()),
            started_at: member.started_at.to_string(),
            lease_until: member.lease_until.to_string(),
            ended_at: member.ended_at.map(|at| at.to_string()),
        }
    }
}

impl From<Retired> for RetiredBody {
    fn from(Retired { given_up, left }: Retired) -> Self {
        Self { given_up, left }
    }
}
