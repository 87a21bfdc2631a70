//! Links `wasi:http`, with what the stock implementation leaves out.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};
use wasmtime_wasi_http::p2::bindings::http::types::{
    ErrorCode, Host as _, HostIncomingBody as _, HostOutgoingBody as _, HostOutgoingRequest as _, IncomingBody,
    IoError, Method, OutgoingBody, OutgoingRequest,
};
use wasmtime_wasi_http::{Error, WasiHttpView as _};

use super::super::io::{counted_input, counted_output};
use super::super::state::State;
use super::error;
use crate::bounds::{MAX_HTTP_AUTHORITY, MAX_HTTP_METHOD};

/// The interface as the stock implementation names it.
const TYPES: &str = "wasi:http/types@0.2.12";

/// Links both interfaces; the linker must allow shadowing.
pub(in super::super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    let mut types = linker.instance(TYPES)?;
    types.func_wrap("http-error-code", error_code)?;
    // A request holds on to these, so their size is limited where they are set.
    types.func_wrap("[method]outgoing-request.set-method", set_method)?;
    types.func_wrap("[method]outgoing-request.set-authority", set_authority)?;
    // Streams of bodies count like all others.
    types.func_wrap("[method]incoming-body.stream", body_read)?;
    types.func_wrap("[method]outgoing-body.write", body_written)
}

fn body_read(
    mut store: StoreContextMut<'_, State>,
    (body,): (Resource<IncomingBody>,),
) -> wasmtime::Result<(Result<Resource<DynInputStream>, ()>,)> {
    let held = store.data().call.stream()?;
    let stream = store.data_mut().http().stream(body)?;
    if let Ok(stream) = &stream {
        counted_input(store.data_mut(), stream, held)?;
    }
    Ok((stream,))
}

fn body_written(
    mut store: StoreContextMut<'_, State>,
    (body,): (Resource<OutgoingBody>,),
) -> wasmtime::Result<(Result<Resource<DynOutputStream>, ()>,)> {
    let held = store.data().call.stream()?;
    let stream = store.data_mut().http().write(body)?;
    if let Ok(stream) = &stream {
        counted_output(store.data_mut(), stream, held)?;
    }
    Ok((stream,))
}

fn error_code(
    mut store: StoreContextMut<'_, State>,
    (error,): (Resource<IoError>,),
) -> wasmtime::Result<(Option<ErrorCode>,)> {
    let known = store.data().table.get(&error)?.downcast_ref::<Error>().and_then(error::code);
    match known {
        Some(code) => Ok((Some(code),)),
        None => Ok((store.data_mut().http().http_error_code(error)?,)),
    }
}

fn set_method(
    mut store: StoreContextMut<'_, State>,
    (request, method): (Resource<OutgoingRequest>, Method),
) -> wasmtime::Result<(Result<(), ()>,)> {
    match method {
        Method::Other(method) if method.len() > MAX_HTTP_METHOD => Ok((Err(()),)),
        method => Ok((store.data_mut().http().set_method(request, method)?,)),
    }
}

fn set_authority(
    mut store: StoreContextMut<'_, State>,
    (request, authority): (Resource<OutgoingRequest>, Option<String>),
) -> wasmtime::Result<(Result<(), ()>,)> {
    match authority {
        Some(authority) if authority.len() > MAX_HTTP_AUTHORITY => Ok((Err(()),)),
        authority => Ok((store.data_mut().http().set_authority(request, authority)?,)),
    }
}
