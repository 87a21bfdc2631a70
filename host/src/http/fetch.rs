//! Transfers from a task that another host holds: read there, with the client's own
//! credentials, and written here.

use std::time::Duration;

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
use super::forward::unreachable;
use super::problem::Problem;
use super::reach::{Below, Described, Listed, Refusal, There};
use super::wire::{EntryBody, TransferredBody};

/// What a host may list beside what there is room for: pages, and what went meanwhile.
const LISTED_BESIDE: u64 = 10_000;

/// How long all of it may take. A host that sends a byte now and then sends no file.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Why something did not come: a problem of this host's, or what the other one answered.
enum Failed {
    Here(Problem),
    There(Box<Response>),
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

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::There(Box::new(refusal.into_response()))
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
    let Transfer { from, to, remove, replace } = what;
    if from.is_root() {
        return Err(WorkspaceError::BadPath { path: String::new(), reason: "it is the workspace itself" }.into());
    }
    let noting = api.services.files.accesses().begin(caller, task, AccessKind::Write, &to, EDGE).await?;
    let fetched = async {
        let entry = there.describe().await?;
        match &*entry.kind {
            "file" => file(api, task, there, entry, (&to, replace)).await,
            "directory" => directory(api, task, there, &to).await,
            // A link is no content.
            _ => Err(Error::HeldElsewhere(source.task().id).into()),
        }
    };
    let fetched = match tokio::time::timeout(LONGEST, fetched).await {
        Ok(fetched) => fetched,
        Err(_) => {
            let refusal = unreachable("the host that holds `from_task` takes too long", 60);
            Err(Failed::There(Box::new(refusal)))
        }
    };
    let (status, bytes) = match &fetched {
        Ok(fetched) => (None, fetched.extent.bytes),
        Err(Failed::There(_)) => (Some("refused_there"), 0),
        Err(Failed::Here(problem)) => (Some(problem.code), 0),
    };
    noting.end(status, bytes);
    let fetched = match fetched {
        Ok(fetched) => fetched,
        Err(Failed::There(refusal)) => return Ok(Err(*refusal)),
        Err(Failed::Here(problem)) => return Err(problem),
    };
    if remove && let Err(refusal) = there.delete(fetched.tag).await {
        return Ok(Err(refusal.in_both()));
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
    let mut walk = Walk { arrival: api.services.files.arrive(task).await?, listed: 0, left_out: 0 };
    let mut at = vec![Frame::new(WorkspacePath::root())];
    while let Some(frame) = at.last_mut() {
        if let Some(below) = frame.waiting.pop() {
            at.push(Frame::new(below));
        } else if frame.more {
            let page = match there.at(join(there.path(), frame.path.as_bytes())?).list(frame.after.as_deref()).await {
                // It went, or was swapped for something else: what there was of it.
                Err(refusal) if refusal.is_swapped() && !frame.path.is_root() => {
                    at.pop();
                    continue;
                }
                listed => listed?,
            };
            walk.take(there, frame, page).await?;
        } else {
            at.pop();
        }
    }
    // What was not there in the middle may have been all of it: the task was archived, or deleted.
    if there.describe().await?.kind != "directory" {
        return Err(WorkspaceError::NotADirectory(there.path().to_text()).into());
    }
    let copied = walk.arrival.put(to, walk.left_out).await?;
    Ok(Fetched { extent: copied.extent, created: copied.created, left_out: copied.left_out, tag: None })
}

/// A directory that is gone through. So many as a path may have names are at once.
struct Frame {
    /// Below the one that is copied.
    path: WorkspacePath,
    /// Directories of the page that was read last.
    waiting: Vec<WorkspacePath>,
    after: Option<Vec<u8>>,
    more: bool,
}

impl Frame {
    fn new(path: WorkspacePath) -> Self {
        Self { path, waiting: Vec::new(), after: None, more: true }
    }
}

struct Walk {
    arrival: Arrival,
    /// Pages, and what they named: not all of it counts as copied.
    listed: u64,
    left_out: u64,
}

impl Walk {
    /// Makes what a page of a directory names; of directories only themselves.
    async fn take(&mut self, there: &There<'_>, frame: &mut Frame, page: Listed) -> Result<(), Failed> {
        self.listed = self.listed.saturating_add(1 + page.entries.len() as u64);
        let most = self.arrival.room().entries.saturating_mul(2).saturating_add(LISTED_BESIDE);
        if self.listed > most {
            return Err(WorkspaceError::OverLimit { what: "what is looked at for the copy", limit: most }.into());
        }
        if page.unnamed > 0 {
            let reason = "something in it has a path that is too long or too deep to be named";
            let path = join(there.path(), frame.path.as_bytes())?.to_text();
            return Err(WorkspaceError::BadPath { path, reason }.into());
        }
        for below in page.entries {
            self.take_one(there, frame, below).await?;
        }
        frame.waiting.reverse();
        frame.more = page.next.is_some();
        frame.after = page.next;
        Ok(())
    }

    async fn take_one(&mut self, there: &There<'_>, frame: &mut Frame, below: Below) -> Result<(), Failed> {
        let here = frame.path.join(&below.name)?;
        match (&*below.kind, below.target) {
            ("directory", _) => {
                self.arrival.directory(&here).await?;
                frame.waiting.push(here);
            }
            ("symlink", Some(target)) => self.arrival.link(&here, target).await?,
            ("file", _) => match there.at(join(there.path(), here.as_bytes())?).read().await {
                Err(refusal) if refusal.is_swapped() => {}
                read => self.arrival.file(&here, below.executable, read?.1).await?,
            },
            // It is none any more.
            ("symlink", None) => {}
            _ => self.left_out += 1,
        }
        Ok(())
    }
}

fn join(path: &WorkspacePath, below: &[u8]) -> Result<WorkspacePath, WorkspaceError> {
    if below.is_empty() { Ok(path.clone()) } else { path.join(below) }
}
