//! The bounds of the sandbox that are not limits of a call: sizes of frames,
//! windows and caches. Each is a constant with its reason, so that both sides
//! of the socket agree without negotiating.

use std::time::Duration;

use bulkhead_core::reached::{FixedLimit, HTTP_FIELDS, HTTP_HEAD, HTTP_OPEN, LOG_FIELDS, LOG_LINE};

/// One that calls are told of, which has its words with the limits.
#[expect(clippy::cast_possible_truncation, reason = "each is small")]
const fn fixed(limit: &FixedLimit) -> usize {
    limit.spec.default as usize
}

/// Emission bytes that a call may have on their way to the store. A guest that
/// is faster than the store waits once they are out.
pub(crate) const WINDOW: usize = 256 * 1024;

/// What one emission, or piece of a body, costs beside its bytes: its frame and
/// its event, or its allocation.
pub(crate) const EMISSION_COST: usize = 64;

/// Largest frame from the host: arguments (1 MiB) with room for their envelope.
pub(crate) const MAX_TO_WORKER: usize = 2 * 1024 * 1024;

/// Bytes that may wait at the host for a worker to read them: for each call that it runs,
/// and once more for what is about none. A start with its arguments, and all that windows
/// of responses let through; credit for its own window is small beside the room that a
/// start leaves. A worker that reads never has more.
pub(crate) const MAX_WAITING: usize = MAX_TO_WORKER + MAX_EXCHANGES * (HTTP_WINDOW + MAX_HTTP_HEAD);

/// Largest frame from a worker that is not about a call.
pub(crate) const MAX_CONTROL: usize = 64 * 1024;

/// Room that a frame about a call may take beside its payload.
pub(crate) const FRAME_SLACK: usize = 64 * 1024;

/// Most arguments, in bytes (`wit/tool.wit`).
pub(crate) const MAX_ARGUMENTS: usize = 1024 * 1024;

/// Most parts of a result: each costs the host a JSON value and an allocation.
pub(crate) const MAX_RESULT_PARTS: usize = 1024;

/// Largest media type, in bytes (`wit/tool.wit`).
pub(crate) const MAX_MEDIA_TYPE: usize = 255;

/// Largest progress message, in bytes (`wit/tool.wit`).
pub(crate) const MAX_PROGRESS_MESSAGE: usize = 1024;

/// Largest log message, in bytes, and as much for all fields of the line (`wit/tool.wit`).
pub(crate) const MAX_LOG_LINE: usize = fixed(&LOG_LINE);

/// Most fields of a log line (`wit/tool.wit`).
pub(crate) const MAX_LOG_FIELDS: usize = fixed(&LOG_FIELDS);

/// Largest message of a tool's error, in bytes (`wit/tool.wit`).
pub(crate) const MAX_ERROR_MESSAGE: usize = 64 * 1024;

/// Largest code of a tool's error, in bytes (`wit/tool.wit`).
pub(crate) const MAX_ERROR_CODE: usize = 64;

/// Largest details of a tool's error, in bytes (`wit/tool.wit`).
pub(crate) const MAX_ERROR_DETAILS: usize = 64 * 1024;

/// How much of a guest's standard error is quoted when it traps: a panic
/// message, so that a model reads why.
pub(crate) const STDERR_TAIL: usize = 2 * 1024;

/// Shortest time between two progress reports that are passed on.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// How long a cancelled call may go on by itself whose guest has looked whether it is
/// (`wit/tool.wit`). One that has not is stopped at once.
pub(crate) const CANCEL_GRACE: Duration = Duration::from_secs(2);

/// The processor time that it may use of that: enough to put things in order, and next to
/// nothing for one that works on.
pub(crate) const CANCEL_WORK: Duration = Duration::from_millis(20);

/// How long a worker may take to drop a call that nobody waits for any more.
pub(crate) const ABORT_GRACE: Duration = Duration::from_secs(1);

/// Workspaces that a worker holds open: one descriptor each.
pub(crate) const MAX_WORKSPACES: usize = 256;

/// Components that a worker holds loaded: code and copy-on-write images.
pub(crate) const MAX_COMPONENTS: usize = 128;

/// Exchanges that a call has open at once: each holds a window of its response
/// on both sides, and a connection of the host.
pub(crate) const MAX_EXCHANGES: usize = fixed(&HTTP_OPEN);

/// Bytes of a response that are on their way to a guest which has not read
/// them, each piece with [`EMISSION_COST`] more, so that tiny ones don't come by
/// the thousand. A server that is faster than the guest waits once they are out.
pub(crate) const HTTP_WINDOW: usize = 128 * 1024;

/// Largest piece of a body in one frame.
pub(crate) const HTTP_PIECE: usize = 32 * 1024;

/// What requests and their bodies may take of the emission window: a server
/// that does not read must not hold up the guest's output too.
pub(crate) const UPLOAD_WINDOW: usize = WINDOW / 2;

/// Largest head of a request or response, in bytes: servers seldom take more.
pub(crate) const MAX_HTTP_HEAD: usize = fixed(&HTTP_HEAD);

/// Most fields of a head: each costs allocations on both sides.
pub(crate) const MAX_HTTP_FIELDS: usize = fixed(&HTTP_FIELDS);

/// Longest method, in bytes; the longest one registered has 17.
pub(crate) const MAX_HTTP_METHOD: usize = 32;

/// Longest authority, in bytes: a name of 253 with its port, and some room for
/// what will be refused by name.
pub(crate) const MAX_HTTP_AUTHORITY: usize = 512;

/// Most environment of a call, names and values together, in bytes.
pub(crate) const MAX_ENVIRONMENT: usize = 64 * 1024;

/// The epoch's tick: how long a guest runs before others get their turn, and
/// how exact processor time is limited.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// The same while no guest is found running: a first turn may take as long.
pub(crate) const REST: Duration = Duration::from_millis(4);

/// Changed paths that are sent as one frame.
pub(crate) const CHANGES_PER_FRAME: usize = 64;

/// Largest component, in bytes.
pub(crate) const MAX_COMPONENT: usize = 32 * 1024 * 1024;

/// Added to the niceness of a compiler: that of workers, so that guests which take long
/// keep it from nothing, nor it the server.
pub(crate) const COMPILER_NICE: i32 = 10;

/// Largest compiled artefact, in bytes.
pub(crate) const MAX_ARTIFACT: u64 = 512 * 1024 * 1024;

/// Core instances of one component; the pool reserves as many per slot.
pub(crate) const MAX_CORE_INSTANCES: u32 = 16;

/// Memories of one component; each reserves 4 GiB of addresses per slot.
pub(crate) const MAX_MEMORIES: u32 = 4;

/// Tables of one component.
pub(crate) const MAX_TABLES: u32 = 16;

/// Tables that the pool holds per slot: as many as a component may have, or a few that
/// have all they may would leave none to the others.
pub(crate) const TABLES_PER_SLOT: u32 = MAX_TABLES;

/// Elements of the largest table: what a call may be given at most. The pool maps every
/// table at this size, and a kernel that does not overcommit refuses a pool larger than
/// its memory.
pub(crate) const MAX_TABLE_ELEMENTS: u64 = bulkhead_core::limits::Limits::MAX.table_elements;

/// Functions of one component: 200,000 tiny ones took 1.1 GB to compile.
pub(crate) const MAX_FUNCTIONS: u32 = 50_000;

/// Largest body of one function, in bytes: 4.8 MB of straight code took 1 GB.
pub(crate) const MAX_FUNCTION_BODY: u32 = 1_000_000;

/// Depth of blocks within each other in one function: the compiler's work grows
/// with its square. 10,000 take 0.2 seconds, 100,000 took 15. A `switch` can be
/// as deep as it has cases; the deepest function of the built-in tools has 103.
pub(crate) const MAX_BLOCKS: u32 = 10_000;

/// Depth of loops within each other in one function: 10,000 took 7.5 seconds,
/// 1,000 a tenth of one. People seldom write ten.
pub(crate) const MAX_LOOPS: u32 = 256;

/// Imports and exports of one component, each.
pub(crate) const MAX_EXTERNS: u32 = 1_000;

/// Longest name of an import or export, in bytes: all of them are reported.
pub(crate) const MAX_EXTERN_NAME: usize = 256;

/// Largest description of a core module's world, in bytes: the one of `wit/`
/// takes 3,000, and what it takes to read one grows faster than its size.
pub(crate) const MAX_WORLD: u32 = 64 * 1024;

/// Depth of components and modules within each other.
pub(crate) const MAX_NESTING: u32 = 16;

/// Largest file that a guest can make, in bytes: a sparse one costs nothing to
/// make and everything to copy.
pub(crate) const MAX_FILE_SIZE: u64 = 1 << 30;

/// How much of a directory is read at once while a guest lists it, in bytes:
/// each open listing may hold so much.
pub(crate) const LISTING_BATCH: usize = 4 * 1024;
