//! What a guest's store holds.

use std::sync::Arc;
use std::time::Instant;

use bulkhead_core::grants::{SubPath, WorkspaceAccess};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::Dir;
use wasmtime_wasi::{FsPerms, OpenMode, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::call::Call;
use super::fs::Paths;
use super::http::{self, Hooks};
use super::limiter::{Limiter, Share};

/// The data of one call's store.
pub(super) struct State {
    pub(super) wasi: WasiCtx,
    pub(super) table: ResourceTable,
    http: WasiHttpCtx,
    hooks: Hooks,
    pub(super) limiter: Limiter,
    pub(super) call: Arc<Call>,
    /// The workspace, or parts of it, as granted.
    pub(super) mounts: Vec<Mount>,
    pub(super) paths: Paths,
    pub(super) progress: Progress,
    pub(super) emitted: u64,
    pub(super) emit_refused: bool,
    pub(super) log_bytes: u64,
    pub(super) log_lines: u64,
}

/// How far the guest says it has come.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) done: u64,
    pub(super) total: Option<u64>,
    pub(super) sent_at: Option<Instant>,
    /// The last report, not sent yet.
    pub(super) held: Option<(u64, Option<u64>, Option<String>)>,
}

impl State {
    pub(super) fn new(call: Arc<Call>, mounts: Vec<Mount>, environment: &[(String, String)], share: Share) -> Self {
        let limits = &call.limits;
        let wasi = WasiCtx::builder()
            .envs(environment)
            // Nothing of the process: no environment, arguments, directories,
            // network. Standard streams are linked by `io`. Files are local; a hop to another thread costs twenty
            // times the call itself.
            .allow_blocking_current_thread(true)
            .max_random_size(limits.random_bytes)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(usize::try_from(limits.handles).unwrap_or(usize::MAX));
        let limiter = Limiter::new(limits.memory_bytes, limits.table_elements, share, call.peak.clone());
        Self {
            wasi,
            table,
            http: http::context(),
            hooks: Hooks::new(call.clone()),
            limiter,
            call,
            mounts,
            paths: Paths::default(),
            progress: Progress::default(),
            emitted: 0,
            emit_refused: false,
            log_bytes: 0,
            log_lines: 0,
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// A directory as a call sees it.
pub(super) struct Mount {
    /// Where: a path in the workspace, without `/` at either end; empty for the whole.
    pub(super) path: SubPath,
    pub(super) dir: Dir,
}

impl Mount {
    /// A part of a workspace with this access; nothing with none.
    pub(super) fn new(path: SubPath, directory: std::fs::File, access: WorkspaceAccess) -> Option<Self> {
        Workspace::new(directory).with(access).map(|mount| Self { path, ..mount })
    }

    pub(super) fn is_writable(&self) -> bool {
        !self.dir.perms.write_not_permitted()
    }
}

/// A task's directory, opened once and given to each of its calls.
pub(super) struct Workspace(Dir);

impl Workspace {
    pub(super) fn new(directory: std::fs::File) -> Self {
        Self(Dir::new(directory, FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE, true))
    }

    /// The directory as a call with this access sees it.
    pub(super) fn with(&self, access: WorkspaceAccess) -> Option<Mount> {
        let mut dir = self.0.clone();
        match access {
            WorkspaceAccess::None => return None,
            WorkspaceAccess::Read => (dir.perms, dir.open_mode) = (FsPerms::ReadOnly, OpenMode::READ),
            WorkspaceAccess::ReadWrite => {}
        }
        Some(Mount { path: SubPath::whole(), dir })
    }
}
