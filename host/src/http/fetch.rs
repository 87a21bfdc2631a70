//! Transfers from a task that another host holds: read there, with the client's own
//! credentials, and written here.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bulkhead_core::Error;
use bulkhead_core::access::OwnedTask;
use bulkhead_core::conditions::Conditions;
use bulkhead_core::files::AccessKind;
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::WorkspaceError;
use bulkhead_core::principal::Principal;
use bulkhead_core::quota::Extent;
use bulkhead_core::service::files::{Arrival, NewFile, Transfer};

use super::Api;
use super::files::EDGE;
use super::problem::Problem;
use super::reach::{Below, Described, There, in_both, is_gone};
use super::wire::{EntryBody, TransferredBody};

/// Directories that wait for their turn; each is a path in memory.
const MAX_WAITING: usize = 100_000;

/// Why something did not come: a problem of this host's, or what the other one answered.
enum Failed {
    Here(Problem),
    There(Response),
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Here(problem)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Here(error.into())
    }
}

impl From<WorkspaceError> for Failed {
    fn from(error: WorkspaceError) -> Self {
        Self::Here(error.into())
    }
}

impl From<Response> for Failed {
    fn from(refusal: Response) -> Self {
        Self::There(refusal)
    }
}

/// What came.
struct Fetched {
    extent: Extent,
    created: bool,
    left_out: u64,
    /// The tag of the file that was read.
    tag: Option<HeaderValue>,
}

/// Copies or moves what is `there` into a task that is held here.
pub(super) async fn fetch(
    api: &Api,
    caller: &Principal,
    task: &OwnedTask,
    source: &OwnedTask,
    there: &There<'_>,
    what: Transfer,
) -> Result<Result<Response, Response>, Problem> {
    let Transfer { from: _, to, remove, replace } = what;
    let noting = api.services.files.accesses().begin(caller, task, AccessKind::Write, &to, EDGE).await?;
    let fetched = async {
        let entry = there.describe().await?;
        match &*entry.kind {
            "file" => file(api, task, there, entry, (&to, replace)).await,
            "directory" => directory(api, task, there, &to).await,
            // A link is no content.
            _ => Err(Error::HeldElsewhere(source.task().id).into()),
        }
    }
    .await;
    let (status, bytes) = match &fetched {
        Ok(fetched) => (None, fetched.extent.bytes),
        Err(Failed::There(_)) => (Some("refused_there"), 0),
        Err(Failed::Here(problem)) => (Some(problem.code), 0),
    };
    noting.end(status, bytes);
    let fetched = match fetched {
        Ok(fetched) => fetched,
        Err(Failed::There(refusal)) => return Ok(Err(refusal)),
        Err(Failed::Here(problem)) => return Err(problem),
    };
    if remove
        && let Err(refusal) = there.delete(fetched.tag).await
        && !is_gone(&refusal)
    {
        return Ok(Err(in_both(&refusal)));
    }
    let entry = api.services.files.stat(task, &to).await?;
    let status = if fetched.created { StatusCode::CREATED } else { StatusCode::OK };
    let entry = EntryBody::of(&task.task().id.to_string(), &entry);
    let Extent { bytes, entries } = fetched.extent;
    let body = TransferredBody { entry, bytes, entries, left_out: fetched.left_out };
    Ok(Ok((status, Json(body)).into_response()))
}

async fn file(
    api: &Api,
    task: &OwnedTask,
    there: &There<'_>,
    entry: Described,
    (to, replace): (&WorkspacePath, bool),
) -> Result<Fetched, Failed> {
    let (fields, body) = there.read().await?;
    let tag = fields.get(header::ETAG).cloned();
    let new = NewFile {
        conditions: if replace { Conditions::default() } else { Conditions::absent() },
        executable: Some(entry.executable),
        media_type: entry.media_type(),
        // What arrives is what a client sent there, if that is known.
        digest: super::conditions::digest(&fields)?,
        body,
    };
    let written = match api.services.files.write(task, to, new).await {
        Err(Error::Workspace(WorkspaceError::Precondition(path))) => return Err(WorkspaceError::Exists(path).into()),
        written => written?,
    };
    let extent = Extent { bytes: written.size, entries: 1 };
    Ok(Fetched { extent, created: written.created, left_out: 0, tag })
}

/// A directory comes entry by entry to where nobody sees it, and into its place as a whole.
async fn directory(api: &Api, task: &OwnedTask, there: &There<'_>, to: &WorkspacePath) -> Result<Fetched, Failed> {
    // Before anything of it is sent. Decides nothing: the rename does.
    if api.services.files.stat(task, to).await.is_ok() {
        return Err(WorkspaceError::Exists(to.to_text()).into());
    }
    let mut arrival = api.services.files.arrive(task).await?;
    let (mut waiting, mut left_out) = (vec![WorkspacePath::root()], 0);
    while let Some(path) = waiting.pop() {
        let at = there.at(join(there.path(), path.as_bytes())?);
        let mut after = None;
        loop {
            let (entries, next) = match at.list(after.as_deref()).await {
                // It went meanwhile: what there was of it.
                Err(refusal) if is_gone(&refusal) && !path.is_root() => break,
                listed => listed?,
            };
            let some = !entries.is_empty();
            for below in entries {
                let here = path.join(&below.name)?;
                match take(&mut arrival, &at, below, &here).await? {
                    Taken::Directory => waiting.push(here),
                    Taken::Whole => {}
                    Taken::LeftOut => left_out += 1,
                }
            }
            if waiting.len() > MAX_WAITING {
                let limit = MAX_WAITING as u64;
                return Err(WorkspaceError::OverLimit { what: "the directories of the copy", limit }.into());
            }
            match next {
                // Each page has something, so that the room for entries bounds how many there are.
                Some(next) if some => after = Some(next),
                _ => break,
            }
        }
    }
    let copied = arrival.put(to, left_out).await?;
    Ok(Fetched { extent: copied.extent, created: copied.created, left_out: copied.left_out, tag: None })
}

enum Taken {
    Directory,
    Whole,
    LeftOut,
}

/// Makes one entry of a directory `at` the other host: a directory without what it holds.
async fn take(arrival: &mut Arrival, at: &There<'_>, below: Below, here: &WorkspacePath) -> Result<Taken, Failed> {
    match &*below.kind {
        "directory" => {
            arrival.directory(here).await?;
            return Ok(Taken::Directory);
        }
        "symlink" => arrival.link(here, below.target).await?,
        "file" => {
            let (_, body) = match at.at(join(at.path(), &below.name)?).read().await {
                // It went meanwhile, or became something else.
                Err(refusal) if is_gone(&refusal) || refusal.status() == StatusCode::CONFLICT => {
                    return Ok(Taken::Whole);
                }
                read => read?,
            };
            arrival.file(here, below.executable, body).await?;
        }
        _ => return Ok(Taken::LeftOut),
    }
    Ok(Taken::Whole)
}

fn join(path: &WorkspacePath, below: &[u8]) -> Result<WorkspacePath, WorkspaceError> {
    if below.is_empty() { Ok(path.clone()) } else { path.join(below) }
}
