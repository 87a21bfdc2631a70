//! Transfers from a task that another host holds: read there, with the client's own
//! credentials, and written here.

use std::time::Duration;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bulkhead_core::Error;
use bulkhead_core::access::OwnedTask;
use bulkhead_core::conditions::Conditions;
use bulkhead_core::files::AccessKind;
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{Copied, WorkspaceError};
use bulkhead_core::principal::Principal;
use bulkhead_core::quota::Extent;
use bulkhead_core::service::files::{Arrival, NewFile, Transfer};

use super::Api;
use super::files::EDGE;
use super::forward::unreachable;
use super::problem::Problem;
use super::reach::{Below, Described, Listed, Refusal, Removed, There, not_understood};
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
    /// How it may be removed there: not if some of it was not there any more.
    remove: Option<Removed>,
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
            "file" => in_time(file(api, task, there, entry, (&to, replace))).await,
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
        Err(Failed::There(refusal)) => return Ok(Err(*refusal)),
        Err(Failed::Here(problem)) => return Err(problem),
    };
    if remove {
        let Some(what) = fetched.remove else {
            let detail = "it was copied as it was found; it was changed meanwhile, so it is in both tasks: look what is \
                          missing, and delete it there";
            return Err(Problem::new("held_elsewhere", detail));
        };
        if let Err(refusal) = there.delete(what).await {
            return Ok(Err(refusal.in_both()));
        }
    }
    let entry = api.services.files.stat(task, &to).await?;
    let status = if fetched.created { StatusCode::CREATED } else { StatusCode::OK };
    let entry = EntryBody::of(&task.task().id.to_string(), &entry);
    let Extent { bytes, entries } = fetched.extent;
    let body = TransferredBody { entry, bytes, entries, left_out: fetched.left_out };
    Ok(Ok((status, Json(body)).into_response()))
}

async fn in_time<T>(what: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let late = || Box::new(unreachable("the host that holds `from_task` takes too long", 60));
    match tokio::time::timeout(LONGEST, what).await {
        Ok(done) => done,
        Err(_) => Err(Failed::There(late())),
    }
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
    let digest = super::conditions::digest(&fields).map_err(|_| not_understood())?;
    let new = NewFile {
        conditions: if replace { Conditions::default() } else { Conditions::absent() },
        executable: Some(entry.executable),
        media_type: entry.media_type(),
        // What arrives is what a client sent there, if that is known.
        digest,
        body,
    };
    let written = match api.services.files.write(task, to, new).await {
        Err(Error::Workspace(WorkspaceError::Precondition(path))) => return Err(WorkspaceError::Exists(path).into()),
        written => written?,
    };
    let extent = Extent { bytes: written.size, entries: 1 };
    Ok(Fetched { extent, created: written.created, left_out: 0, remove: tag.map(Removed::File) })
}

/// A directory comes entry by entry to where nobody sees it, and into its place as a whole.
async fn directory(api: &Api, task: &OwnedTask, there: &There<'_>, to: &WorkspacePath) -> Result<Fetched, Failed> {
    // Before anything of it is sent. Decides nothing: the rename does.
    if api.services.files.stat(task, to).await.is_ok() {
        return Err(WorkspaceError::Exists(to.to_text()).into());
    }
    let walk = Walk { arrival: api.services.files.arrive(task).await?, listed: 0, left_out: 0, gone: 0 };
    let walk = in_time(walk.whole(there)).await?;
    let remove = (walk.gone == 0).then_some(Removed::Directory);
    let Copied { extent, created, left_out, .. } = walk.arrival.put(to, walk.left_out).await?;
    Ok(Fetched { extent, created, left_out, remove })
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
    /// What was named, and was not there or something else when it was asked for.
    gone: u64,
}

impl Walk {
    /// Goes through all of it.
    async fn whole(mut self, there: &There<'_>) -> Result<Self, Failed> {
        let mut at = vec![Frame::new(WorkspacePath::root())];
        while let Some(frame) = at.last_mut() {
            if let Some(below) = frame.waiting.pop() {
                at.push(Frame::new(below));
            } else if frame.more {
                let page = match there.at(join(there.path(), frame.path.as_bytes())?).list(frame.after.as_deref()).await
                {
                    // It went, or was swapped for something else: what there was of it.
                    Err(refusal) if refusal.is_swapped() && !frame.path.is_root() => {
                        self.gone += 1;
                        at.pop();
                        continue;
                    }
                    listed => listed?,
                };
                self.take(there, frame, page).await?;
            } else {
                at.pop();
            }
        }
        // What was not there in the middle may have been all of it: the task was archived, or deleted.
        if there.describe().await?.kind != "directory" {
            return Err(WorkspaceError::NotADirectory(there.path().to_text()).into());
        }
        Ok(self)
    }

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
                Err(refusal) if refusal.is_swapped() => self.gone += 1,
                read => self.arrival.file(&here, below.executable, read?.1).await?,
            },
            // It is none any more.
            ("symlink", None) => self.gone += 1,
            _ => self.left_out += 1,
        }
        Ok(())
    }
}

fn join(path: &WorkspacePath, below: &[u8]) -> Result<WorkspacePath, WorkspaceError> {
    if below.is_empty() { Ok(path.clone()) } else { path.join(below) }
}
