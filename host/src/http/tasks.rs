//! `/v1/tasks`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use bulkhead_core::access::{Operation, OwnedSession};
use bulkhead_core::id::{SessionId, TaskId};
use bulkhead_core::limits::LimitsPatch;
use bulkhead_core::principal::Principal;
use bulkhead_core::service::tasks::{Fill, NewTask};
use bulkhead_core::task::Lifetimes;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::extract::{Caller, Id, JsonBody, Query};
use super::files::stream_of;
use super::problem::Problem;
use super::sessions::page;
use super::wire::{ArchiveQuery, Items, NewTaskBody, PageQuery, PinnedToolBody, SourceBody, TaskBody};

type Created = (StatusCode, [(header::HeaderName, String); 1], Json<TaskBody>);

async fn session(api: &Api, caller: &Principal, id: Option<&str>) -> Result<Option<OwnedSession>, Problem> {
    let Some(text) = id else { return Ok(None) };
    let missing = || Problem::new("not_found", "there is no such session here").with("field", "session");
    let id: SessionId = text.parse().map_err(|_| missing())?;
    Ok(Some(api.services.access.session(caller, Operation::SessionsJoin, id).await?))
}

fn created(task: &bulkhead_core::task::Task) -> Created {
    let location = format!("/v1/tasks/{}", task.id);
    (StatusCode::CREATED, [(header::LOCATION, location)], Json(TaskBody::from(task)))
}

/// Makes a task with a workspace: empty, or from a git repository. The latter
/// is `initializing` at first; follow its events or read it again.
#[utoipa::path(post, path = "/v1/tasks", tag = "tasks", request_body = NewTaskBody,
    responses((status = 201, body = TaskBody), (status = "4XX", body = Problem)))]
pub async fn create(State(api): State<Arc<Api>>, Caller(caller): Caller, body: JsonBody) -> Result<Created, Problem> {
    let permit = api.services.access.permit(&caller, Operation::TasksCreate).await?;
    let new: NewTaskBody = body.parse()?;
    let fill = match new.source {
        SourceBody::Empty => Fill::Empty,
        SourceBody::Git { url, reference } => Fill::Git { url, reference },
        SourceBody::Archive => {
            let detail = "send the archive as the body of `POST /v1/tasks/archive`";
            return Err(Problem::new("invalid_request", detail).with("field", "source.kind"));
        }
    };
    let session = session(&api, &caller, new.session.as_deref()).await?;
    let new = NewTask {
        session,
        label: new.label,
        fill,
        tools: new.tools,
        limits: new.limits,
        capabilities: new.capabilities,
        lifetimes: new.lifecycle,
    };
    Ok(created(&api.services.tasks.create(&permit, new).await?))
}

/// Makes a task from a tar archive, plain or compressed with gzip: the body.
/// An archive that can't be unpacked makes a task that is `failed`.
#[utoipa::path(post, path = "/v1/tasks/archive", tag = "tasks", params(ArchiveQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 201, body = TaskBody), (status = "4XX", body = Problem)))]
pub async fn create_from_archive(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Query(query): Query<ArchiveQuery>,
    request: Request,
) -> Result<Created, Problem> {
    let permit = api.services.access.permit(&caller, Operation::TasksCreate).await?;
    let session = session(&api, &caller, query.session.as_deref()).await?;
    let tools = query.tools.map(|names| names.split(',').map(str::to_owned).collect());
    let fill = Fill::Archive(stream_of(request));
    let (limits, lifetimes) = (LimitsPatch::default(), Lifetimes::default());
    let new = NewTask { session, label: query.label, fill, tools, limits, capabilities: None, lifetimes };
    Ok(created(&api.services.tasks.create(&permit, new).await?))
}

/// Which tasks.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskQuery {
    /// Only those of this session.
    pub session: Option<String>,
    /// Those that are deleted and can be restored, and no others.
    #[serde(default)]
    pub deleted: bool,
    /// Only those made before the one with this id.
    pub before: Option<String>,
    /// At most this many: 1 to 200, 50 if absent.
    pub limit: Option<u32>,
}

/// Lists own tasks, those deleted left out; or with `deleted=true` those that are
/// deleted and can be restored.
#[utoipa::path(get, path = "/v1/tasks", tag = "tasks", params(TaskQuery),
    responses((status = 200, body = Items<TaskBody>), (status = "4XX", body = Problem)))]
pub async fn list(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Query(query): Query<TaskQuery>,
) -> Result<Json<Items<TaskBody>>, Problem> {
    let permit = api.services.access.permit(&caller, Operation::TasksList).await?;
    let session = query.session.as_deref().map(str::parse::<SessionId>).transpose();
    let session =
        session.map_err(|_| Problem::new("invalid_request", "`session` is not an id").with("field", "session"))?;
    let (page, limit) = page(&PageQuery { before: query.before, limit: query.limit })?;
    let tasks = api.services.tasks.list(&permit, session, query.deleted, page).await?;
    Ok(Json(Items::page(tasks, limit, |task| task.id.to_string())))
}

/// Reads a task.
#[utoipa::path(get, path = "/v1/tasks/{task}", tag = "tasks", params(("task" = String, Path)),
    responses((status = 200, body = TaskBody), (status = "4XX", body = Problem)))]
pub async fn get(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
) -> Result<Json<TaskBody>, Problem> {
    let task = api.services.access.task(&caller, Operation::TasksGet, id).await?;
    Ok(Json(TaskBody::from(task.task())))
}

/// How a task is deleted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// For good: nothing is kept, and what was kept of a deleted one is removed.
    #[serde(default)]
    pub purge: bool,
}

/// Cancels a task's calls and deletes it. For a while it can be restored, and
/// what its workspace takes counts; `purge=true` removes that at once. Its
/// record and events stay until retention.
#[utoipa::path(delete, path = "/v1/tasks/{task}", tag = "tasks", params(("task" = String, Path), DeleteQuery),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn delete(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, Problem> {
    let task = api.services.access.task(&caller, Operation::TasksDelete, id).await?;
    api.services.tasks.delete(&task, query.purge).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Puts a task aside: it takes no calls until it is restored. Calls that go on may
/// end; then its workspace is packed.
#[utoipa::path(post, path = "/v1/tasks/{task}/archive", tag = "tasks", params(("task" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn archive(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
) -> Result<StatusCode, Problem> {
    let task = api.services.access.task(&caller, Operation::TasksArchive, id).await?;
    api.services.tasks.archive(&task).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a task ready again that is archived, or deleted and kept. Answers once its
/// workspace is unpacked.
#[utoipa::path(post, path = "/v1/tasks/{task}/restore", tag = "tasks", params(("task" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn restore(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
) -> Result<StatusCode, Problem> {
    let task = api.services.access.task(&caller, Operation::TasksRestore, id).await?;
    api.services.tasks.restore(&task).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the tools that a task pins.
#[utoipa::path(get, path = "/v1/tasks/{task}/tools", tag = "tasks", params(("task" = String, Path)),
    responses((status = 200, body = Items<PinnedToolBody>), (status = "4XX", body = Problem)))]
pub async fn tools(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
) -> Result<Json<Items<PinnedToolBody>>, Problem> {
    let task = api.services.access.task(&caller, Operation::TasksTools, id).await?;
    let tools = api.services.tasks.tools(&task).await?;
    let items = tools.tools.iter().map(PinnedToolBody::from).collect();
    Ok(Json(Items { items, next_before: None }))
}
