//! The messages. Both enums are closed: an unknown kind does not decode.

use bulkhead_core::event::{ChangeKind, LogLevel, Stream};
use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::limits::Limits;
use bulkhead_core::ports::egress::{EgressError, Scheme};
use bulkhead_core::quota::Extent;
use bulkhead_core::reached;
use serde::{Deserialize, Serialize, Serializer};

use crate::engine::Flavour;
use crate::walls::Walls;

/// Postcard writes `&[u8]` byte by byte unless it is told what it is.
fn as_bytes<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// From the host to a worker.
#[expect(clippy::large_enum_variant, reason = "never kept: a box would cost each call an allocation")]
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker<'a> {
    /// Before the first message: the directory of artefacts, as its descriptor.
    Artifacts,
    /// The first message: what the worker is for. Until then it is one thread.
    Bind(Bind),
    /// Loads the artefact whose descriptor comes with this frame.
    Load { component: u32 },
    /// Drops a component.
    Unload { component: u32 },
    /// Keeps the directory whose descriptor comes with this frame.
    Workspace { task: u32 },
    /// Closes it.
    Forget { task: u32 },
    /// Starts a call.
    #[serde(borrow)]
    Start(Start<'a>),
    /// So many bytes of emissions of the call are stored.
    Credit { bytes: u32 },
    /// The call should end soon.
    Cancel,
    /// The call should end now; nobody waits for it.
    Abort,
    /// The worker should end now.
    Shutdown,
    /// The head of a response.
    HttpHead {
        exchange: u32,
        status: u16,
        #[serde(borrow)]
        header: Vec<(&'a str, &'a [u8])>,
    },
    /// A piece of a response's body.
    HttpBody {
        exchange: u32,
        #[serde(serialize_with = "as_bytes")]
        data: &'a [u8],
        last: bool,
    },
    /// An exchange failed; nothing about it follows.
    HttpFailed { exchange: u32, error: EgressError },
    /// The call's wall time ends at another moment, on the monotonic clock.
    Deadline { deadline_ns: u64 },
    /// A part of the workspace for the call whose `Start` comes next: the
    /// directory whose descriptor comes with this frame.
    Part { path: &'a str, access: WorkspaceAccess },
    /// Before the first message: the worker should leave the server's user.
    Leave,
    /// Before the first message: who it left that user for is settled.
    Settled,
    /// The call may add nothing more to its workspace.
    Withdraw,
    /// The worker ends then, on the monotonic clock, unless it is told a later time: its host
    /// can't say so any more, and others may have its tasks.
    RunUntil { until_ns: u64 },
}

/// What a worker is for. The directory that it may reach, if any, comes with
/// this frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bind {
    /// Whether a directory comes along.
    pub has_domain: bool,
    /// Whether to move into an empty network namespace.
    pub leave_network: bool,
    /// Calls at once.
    pub slots: u32,
    /// Added to the process's niceness.
    pub nice: u8,
    /// Linear memory of all its calls together, in bytes.
    pub memory_bytes: u64,
    /// Whether used pages may be found by a page map scan: only without swap.
    pub pagemap_scan: bool,
    /// What its one engine is made for.
    pub flavour: Flavour,
}

/// What a guest is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// `describe`.
    Describe,
    /// `call`.
    Call,
}

/// A call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start<'a> {
    pub entry: Entry,
    /// Whose it is among the users of this worker: guests of different users
    /// have equal shares of what time there is for those that take long.
    pub user: u32,
    pub component: u32,
    /// The workspace, if one is granted.
    pub task: Option<u32>,
    /// What it may do with the whole of it.
    pub access: WorkspaceAccess,
    pub limits: Limits,
    /// Bytes and entries that it may add to the workspace.
    pub room: (u64, u64),
    /// On the monotonic clock, which both processes read.
    pub deadline_ns: u64,
    #[serde(borrow)]
    pub environment: Vec<(&'a str, &'a str)>,
    pub arguments: &'a str,
}

/// A request of a guest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request<'a> {
    /// Counted from 1 within the call.
    pub exchange: u32,
    pub method: &'a str,
    pub scheme: Scheme,
    pub authority: &'a str,
    pub target: &'a str,
    #[serde(borrow)]
    pub header: Vec<(&'a str, &'a [u8])>,
    pub has_body: bool,
    pub connect_timeout_ms: Option<u64>,
    pub first_byte_timeout_ms: Option<u64>,
    pub between_bytes_timeout_ms: Option<u64>,
}

impl Request<'_> {
    /// Its bytes, for limits and for the window.
    pub(crate) fn size(&self) -> usize {
        let line = self.method.len() + self.authority.len() + self.target.len();
        line + fields_size(self.header.iter().map(|(name, value)| (name.len(), value.len())))
    }
}

/// The bytes of fields as they would stand in a head.
pub(crate) fn fields_size(fields: impl Iterator<Item = (usize, usize)>) -> usize {
    fields.map(|(name, value)| name + value + 4).sum()
}

/// From a worker to the host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromWorker<'a> {
    /// Engine and runtime are up, behind these walls.
    Ready(Walls),
    /// A component can be started.
    Loaded { component: u32 },
    /// A component can't be loaded.
    LoadFailed { component: u32, reason: &'a str },
    /// Standard output or error.
    Output {
        stream: Stream,
        #[serde(serialize_with = "as_bytes")]
        data: &'a [u8],
    },
    /// A part.
    #[serde(borrow)]
    Content(Part<'a>),
    /// Something was dropped for the first time; how much was wanted, of a limit that
    /// one wish alone can be over.
    Truncated { limit: StreamLimit, wanted: Option<u64> },
    /// Progress.
    Progress { done: u64, total: Option<u64>, message: Option<&'a str> },
    /// A log line.
    Log {
        level: LogLevel,
        message: &'a str,
        #[serde(borrow)]
        fields: Vec<(&'a str, &'a str)>,
    },
    /// Changed files.
    Changed {
        #[serde(borrow)]
        changes: Vec<(ChangeKind, &'a str)>,
    },
    /// Changed files that are only counted.
    ChangedUnnamed { created: u64, modified: u64, deleted: u64 },
    /// The call ended. Nothing about it follows.
    #[serde(borrow)]
    Done(Done<'a>),
    /// The guest sends a request.
    #[serde(borrow)]
    HttpRequest(Request<'a>),
    /// A piece of a request's body.
    HttpBody {
        exchange: u32,
        #[serde(serialize_with = "as_bytes")]
        data: &'a [u8],
        last: bool,
    },
    /// The body of a request will never be whole.
    HttpBodyFailed { exchange: u32 },
    /// The guest has read so much of a response, in bytes of its window.
    HttpTaken { exchange: u32, bytes: u32 },
    /// The guest is done with an exchange: the last of every one.
    HttpDropped { exchange: u32 },
    /// It left the server's user, or can't.
    Left(bool),
    /// What the call has added to its workspace by now.
    Took(Taken),
}

/// A stream that can be cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum StreamLimit {
    Stdout,
    Stderr,
    Emit,
    LogBytes,
    LogLines,
    /// Not a stream, but cut off just so: what does not fit is refused, and said once.
    WorkspaceBytes,
    WorkspaceEntries,
    OpenFiles,
    PathBytes,
    PathDepth,
    ListingEntries,
    FileBytes,
    LogLine,
    LogFields,
    HttpOpen,
    HttpHead,
    HttpFields,
}

impl StreamLimit {
    /// The limit's name in the table of limits.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout_bytes",
            Self::Stderr => "stderr_bytes",
            Self::Emit => "emit_bytes",
            Self::LogBytes => "log_bytes",
            Self::LogLines => "log_lines",
            Self::WorkspaceBytes => "workspace_bytes",
            Self::WorkspaceEntries => "workspace_entries",
            Self::OpenFiles => "open_files",
            Self::PathBytes => "path_bytes",
            Self::PathDepth => "path_depth",
            Self::ListingEntries => "listing_entries",
            Self::FileBytes => "file_bytes",
            Self::LogLine => reached::LOG_LINE.spec.name,
            Self::LogFields => reached::LOG_FIELDS.spec.name,
            Self::HttpOpen => reached::HTTP_OPEN.spec.name,
            Self::HttpHead => reached::HTTP_HEAD.spec.name,
            Self::HttpFields => reached::HTTP_FIELDS.spec.name,
        }
    }
}

/// One part of a result.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Part<'a> {
    Text(&'a str),
    Json(&'a str),
    Blob {
        media_type: &'a str,
        #[serde(serialize_with = "as_bytes")]
        data: &'a [u8],
    },
}

impl Part<'_> {
    /// Its bytes, for limits.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Text(text) | Self::Json(text) => text.len(),
            Self::Blob { media_type, data } => media_type.len() + data.len(),
        }
    }
}

/// How a call ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done<'a> {
    #[serde(borrow)]
    pub report: Report<'a>,
    pub measured: Measured,
}

/// What the worker measured.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub cpu_us: u64,
    pub peak_memory_bytes: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub output_bytes: u64,
    pub taken: Taken,
}

/// What a call has added to its workspace, less what it removed of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub bytes: u64,
    pub entries: u64,
}

impl From<Taken> for Extent {
    fn from(Taken { bytes, entries }: Taken) -> Self {
        Self { bytes, entries }
    }
}

/// What the worker says happened; the host decides what that means.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report<'a> {
    /// `call` returned parts.
    #[serde(borrow)]
    Returned(Vec<Part<'a>>),
    /// `call` returned an error.
    ToolError { code: &'a str, message: &'a str, retryable: bool, details: Option<&'a str> },
    /// `describe` returned.
    #[serde(borrow)]
    Described(Description<'a>),
    /// The guest failed.
    Faulted {
        fault: Fault,
        message: &'a str,
        /// The end of its standard error.
        #[serde(serialize_with = "as_bytes")]
        stderr: &'a [u8],
    },
    /// The worker stopped it.
    Stopped(Stop),
    /// The worker could not start it: the host's fault.
    Refused { reason: &'a str },
    /// The worker failed in the middle of it.
    Broke,
}

/// Kinds of a guest's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// A trap with no better name.
    Trap,
    Stack,
    /// After its memory was refused to grow.
    Memory {
        /// What all of its memories would have had together.
        wanted: u64,
    },
    /// After its memory was refused to grow although its own limit had room.
    WorkerMemory,
    /// After a table was refused to grow.
    Table {
        /// What all of its tables would have had together.
        wanted: u64,
    },
    Handles,
    HostMemory,
    Random {
        /// How many it asked for at once.
        wanted: u64,
    },
    Exit {
        code: i32,
    },
    ResultBytes {
        /// How many it has; 0 if it was too large to be looked at.
        bytes: u64,
    },
    InvalidResult,
    Streams,
    PollList {
        /// How long the list was.
        listed: u64,
    },
}

/// Why a worker stopped a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stop {
    Wall,
    Cpu,
    Cancelled,
    Aborted,
}

/// What a tool says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Description<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub description: &'a str,
    pub input_schema: &'a str,
    pub output_schema: Option<&'a str>,
    #[serde(borrow)]
    pub capabilities: Vec<Wanted<'a>>,
    pub idempotent: bool,
}

/// A capability wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Wanted<'a> {
    Workspace(WantedAccess),
    Http(&'a str),
    Environment(&'a str),
    Secret(&'a str),
}

/// How much of the workspace is wanted.
pub(crate) type WantedAccess = WorkspaceAccess;
