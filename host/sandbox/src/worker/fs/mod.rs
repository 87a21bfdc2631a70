//! `wasi:filesystem` over the workspace's descriptor: the stock
//! implementation, wrapped where it would block, follow what it should not,
//! or keep what happened to itself.

mod descriptor;
mod journal;
mod paths;
mod stream;

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, Dir, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::{preopens, types};

use std::sync::Arc;

use super::call::Call;
use super::state::State;

pub(super) use journal::Journal;
pub(super) use paths::Paths;

/// The filesystem of one call.
pub(super) struct View<'a> {
    stock: WasiFilesystemCtxView<'a>,
    call: &'a Arc<Call>,
    root: &'a Option<Dir>,
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
        root: &state.root,
        paths: &mut state.paths,
    }
}

/// Puts the wrapper in the place of the stock interfaces.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, Wrapped>(linker, view)?;
    preopens::add_to_linker::<State, Wrapped>(linker, view)
}

impl preopens::Host for View<'_> {
    /// The workspace, at `/`: from its descriptor, without any path of the host.
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let Some(root) = self.root else { return Ok(Vec::new()) };
        let directory = self.stock.table.push(Descriptor::Dir(root.clone()))?;
        self.paths.insert(directory.rep(), Some(String::new()));
        Ok(vec![(directory, "/".into())])
    }
}
