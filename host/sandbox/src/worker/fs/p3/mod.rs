//! `wasi:filesystem` 0.3: another form of the same files. What a method does
//! and refuses is what the one of 0.2 does (`descriptor`), so that there is one
//! file layer to check; this translates, and gives and takes bytes by streams.

mod convert;
mod descriptor;
mod stream;

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p3::bindings::filesystem::{preopens, types};
use wasmtime_wasi::p3::filesystem::FilesystemError;

use super::super::state::State;
use super::{View, view};

/// Names the view for the linker.
pub(super) struct Files;

impl HasData for Files {
    type Data<'a> = View<'a>;
}

/// Links the two interfaces.
pub(in crate::worker) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, Files>(linker, view)?;
    preopens::add_to_linker::<State, Files>(linker, view)
}

impl types::Host for View<'_> {
    fn convert_error_code(&mut self, error: FilesystemError) -> wasmtime::Result<types::ErrorCode> {
        error.downcast()
    }
}

impl types::HostDescriptor for View<'_> {
    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        wasmtime_wasi::p2::bindings::filesystem::types::HostDescriptor::drop(self, fd)
    }
}

impl preopens::Host for View<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        wasmtime_wasi::p2::bindings::filesystem::preopens::Host::get_directories(self)
    }
}
