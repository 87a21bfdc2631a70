//! `wasi:filesystem` over the workspace's descriptor: the stock
//! implementation, wrapped where it would block, follow what it should not,
//! or keep what happened to itself.

mod checks;
mod descriptor;
mod journal;
mod links;
mod listing;
pub(super) mod p3;
mod paths;
mod stream;
mod syncs;

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::{preopens, types};

use std::sync::Arc;

use super::call::Call;
use super::state::{Mount, State};

pub(super) use journal::Journal;
pub(super) use paths::Paths;
use paths::{Known, depths};
pub(super) use syncs::{Syncs, UserSyncs};

/// The filesystem of one call.
pub(super) struct View<'a> {
    stock: WasiFilesystemCtxView<'a>,
    call: &'a Arc<Call>,
    mounts: &'a [Mount],
    paths: &'a mut Paths,
}

/// Names the view for the linker.
struct Wrapped;

impl HasData for Wrapped {
    type Data<'a> = View<'a>;
}

fn view(state: &mut State) -> View<'_> {
    View {
        stock: WasiFilesystemCtxView { ctx: state.wasi.filesystem(), table: &mut state.table },
        call: &state.call,
        mounts: &state.mounts,
        paths: &mut state.paths,
    }
}

/// Puts the wrapper in the place of the stock interfaces.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, Wrapped>(linker, view)?;
    preopens::add_to_linker::<State, Wrapped>(linker, view)?;
    listing::link(linker)
}

impl preopens::Host for View<'_> {
    /// The workspace, at `/`, and parts of it, each at its own path: from
    /// descriptors, without any path of the host. A path below a part's name is
    /// the part's, in every C library: the longest name that fits is taken.
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let mut directories = Vec::with_capacity(self.mounts.len());
        for Mount { path, dir } in self.mounts {
            let directory = self.stock.table.push(Descriptor::Dir(dir.clone()))?;
            let depth = depths(0, path.as_str()).1;
            let known = Known { path: Some(path.as_str().to_owned()), depth, file: None };
            self.paths.insert(directory.rep(), known);
            directories.push((directory, path.as_guest()));
        }
        Ok(directories)
    }
}
