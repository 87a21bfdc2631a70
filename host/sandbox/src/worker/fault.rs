//! Names what went wrong with a guest.

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap};
use wasmtime_wasi::I32Exit;

use super::io::Over;
use super::limiter::Refused;
use crate::wire::Fault;

/// What an error of the engine means.
pub(super) enum Class {
    /// The guest's fault.
    Guest(Fault),
    /// Too much at once was copied out of the guest: as an argument of a host
    /// function, or as its result.
    Copied,
    /// The worker's: no slot.
    Host,
}

/// Classifies an error; `refused` is what the call's limiter has refused.
pub(super) fn classify(error: &wasmtime::Error, refused: Refused) -> Class {
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return Class::Guest(Fault::Exit { code: *code });
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return Class::Host;
    }
    if matches!(error.downcast_ref(), Some(ResourceTableError::Full)) {
        return Class::Guest(Fault::Handles);
    }
    match error.downcast_ref() {
        Some(Over::Streams) => return Class::Guest(Fault::Streams),
        Some(Over::PollList { listed }) => return Class::Guest(Fault::PollList { listed: *listed }),
        None => {}
    }
    if error.downcast_ref() == Some(&Trap::StackOverflow) {
        return Class::Guest(Fault::Stack);
    }
    // These have no type of their own in the engine; tests hold the texts.
    let says = |words: &str| error.chain().any(|cause| cause.to_string().contains(words));
    if says("store handle limit exceeded") {
        return Class::Guest(Fault::Handles);
    }
    if says("fuel allocated for hostcalls has been exhausted") {
        return Class::Copied;
    }
    if let Some(wanted) = error.chain().find_map(|cause| random(&cause.to_string())) {
        return Class::Guest(Fault::Random { wanted });
    }
    Class::Guest(match refused {
        Refused { memory: Some(wanted), .. } => Fault::Memory { wanted },
        Refused { worker_memory: true, .. } => Fault::WorkerMemory,
        Refused { table: Some(wanted), .. } => Fault::Table { wanted },
        _ => Fault::Trap,
    })
}

/// How many random bytes were asked for, if they were too many.
fn random(text: &str) -> Option<u64> {
    let (wanted, _) = text.strip_prefix("requested len ")?.split_once(" exceeds limit ")?;
    wanted.parse().ok()
}

/// The engine's own words, without its advice to programmers.
pub(super) fn message(error: &wasmtime::Error) -> String {
    let mut text = error.root_cause().to_string();
    let first = error.to_string();
    if !first.contains(&text) && !first.starts_with("error while executing") {
        text = format!("{first}: {text}");
    }
    let end = text.char_indices().nth(1000).map_or(text.len(), |(at, _)| at);
    text.truncate(end);
    text
}
