//! `/v1/volumes`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bulkhead_core::access::Operation;

use super::Api;
use super::extract::{Caller, Id};
use super::problem::Problem;
use super::wire::{Items, RetiredBody, VolumeBody};

/// Lists where workspaces lie, with the hosts that reach them. A server that is alone
/// has no volumes.
#[utoipa::path(get, path = "/v1/volumes", tag = "volumes",
    responses((status = 200, body = Items<VolumeBody>), (status = "4XX", body = Problem)))]
pub async fn list(State(api): State<Arc<Api>>, Caller(caller): Caller) -> Result<Json<Items<VolumeBody>>, Problem> {
    let permit = api.services.access.permit(&caller, Operation::VolumesList).await?;
    let volumes = api.services.volumes.list(&permit).await?;
    Ok(Json(Items::all(volumes.iter().map(VolumeBody::from))))
}

/// Gives up a volume that no host reaches any more, for good: the tasks on it are told
/// that their workspaces are lost, and can be deleted. Each request takes a part of them;
/// send it again while `left` is not 0.
#[utoipa::path(post, path = "/v1/volumes/{volume}/retire", tag = "volumes",
    params(("volume" = String, Path), ("Bulkhead-Reason" = String, Header, description = "Why: it is on record")),
    responses((status = 200, body = RetiredBody), (status = "4XX", body = Problem)))]
pub async fn retire(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<String>,
) -> Result<Json<RetiredBody>, Problem> {
    let permit = api.services.access.permit(&caller, Operation::VolumesRetire).await?;
    Ok(Json(api.services.volumes.retire(&permit, &id).await?.into()))
}
