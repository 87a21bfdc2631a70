//! The host functions of `bulkhead:tool`, each with the limits that its
//! documentation in `wit/tool.wit` promises.

use std::time::Instant;

use bulkhead_core::event::LogLevel;
use bulkhead_core::json::Json;
use wasmtime::component::{HasData, Linker};

use super::bindings::bulkhead::tool::{cancellation, log, output, progress, types};
use super::state::State;
use crate::bounds;
use crate::wire::{FromWorker, Part, StreamLimit};

/// Names the store's data for the linker.
struct Imports;

impl HasData for Imports {
    type Data<'a> = &'a mut State;
}

/// Links the four interfaces.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, Imports>(linker, |state| state)?;
    output::add_to_linker::<State, Imports>(linker, |state| state)?;
    progress::add_to_linker::<State, Imports>(linker, |state| state)?;
    log::add_to_linker::<State, Imports>(linker, |state| state)?;
    cancellation::add_to_linker::<State, Imports>(linker, |state| state)
}

impl types::Host for State {}

/// The part as it goes over the wire.
pub(super) fn part(content: &types::Content) -> Part<'_> {
    match content {
        types::Content::Text(text) => Part::Text(text),
        types::Content::Json(json) => Part::Json(json),
        types::Content::Blob(blob) => Part::Blob { media_type: &blob.media_type, data: &blob.data },
    }
}

/// Why a part can't be what it says it is.
pub(super) fn part_fault(part: &Part<'_>) -> Option<String> {
    match part {
        Part::Text(_) => None,
        Part::Json(json) => Json::check(json).err().map(|error| format!("a `json` part does not parse: {error}")),
        Part::Blob { media_type, .. } => (!valid_media_type(media_type))
            .then(|| format!("`{}` is not a media type", media_type.chars().take(64).collect::<String>())),
    }
}

/// `type/subtype` of RFC 9110 tokens, with parameters after it.
pub(crate) fn valid_media_type(text: &str) -> bool {
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    let token = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let slash = essence.trim_end().split_once('/');
    text.len() <= bounds::MAX_MEDIA_TYPE
        && slash.is_some_and(|(kind, sub)| token(kind) && token(sub))
        && parameters.bytes().all(|b| (b' '..=b'~').contains(&b))
}

impl output::Host for State {
    async fn emit(&mut self, content: types::Content) -> wasmtime::Result<Result<(), output::Refusal>> {
        if self.call.cancelled().is_some() {
            return Ok(Err(output::Refusal::Cancelled));
        }
        let part = part(&content);
        if part_fault(&part).is_some() {
            return Ok(Err(output::Refusal::Invalid));
        }
        // An empty part is an event too.
        let sum = self.emitted.saturating_add((part.size() + bounds::EMISSION_COST) as u64);
        if self.emit_refused || sum > self.call.limits.emit_bytes {
            self.emit_refused = true;
            self.call.truncated(StreamLimit::Emit);
            return Ok(Err(output::Refusal::LimitReached));
        }
        let size = part.size();
        if self.call.emit(size, &FromWorker::Content(part)).await {
            self.emitted = sum;
            Ok(Ok(()))
        } else {
            Ok(Err(output::Refusal::Cancelled))
        }
    }
}

impl progress::Host for State {
    async fn report(&mut self, step: progress::Step) -> wasmtime::Result<Result<(), progress::Refusal>> {
        let progress::Step { done, total, message } = step;
        let known = &self.progress;
        let valid = done >= known.done
            && total.is_none_or(|total| done <= total)
            && (known.total.is_none() || known.total == total)
            && message.as_ref().is_none_or(|message| message.len() <= bounds::MAX_PROGRESS_MESSAGE);
        if !valid {
            return Ok(Err(progress::Refusal::Invalid));
        }
        (self.progress.done, self.progress.total) = (done, total);
        self.progress.held = Some((done, total, message));
        if self.progress.sent_at.is_none_or(|at| at.elapsed() >= bounds::PROGRESS_INTERVAL) {
            self.send_progress().await;
        }
        Ok(Ok(()))
    }
}

impl State {
    /// Sends the last report, if it was held back.
    pub(super) async fn send_progress(&mut self) {
        let Some((done, total, message)) = self.progress.held.take() else { return };
        self.progress.sent_at = Some(Instant::now());
        let message = message.as_deref();
        let size = message.map_or(0, str::len);
        self.call.emit(size, &FromWorker::Progress { done, total, message }).await;
    }
}

impl log::Host for State {
    async fn write(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        let field_bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = (message.len() + field_bytes) as u64;
        let largest = message.len().max(field_bytes);
        if fields.len() > bounds::MAX_LOG_FIELDS {
            self.call.refused(StreamLimit::LogFields, Some(fields.len() as u64));
            return Ok(());
        }
        if largest > bounds::MAX_LOG_LINE {
            self.call.refused(StreamLimit::LogLine, Some(largest as u64));
            return Ok(());
        }
        if self.log_bytes + bytes > self.call.limits.log_bytes {
            self.call.truncated(StreamLimit::LogBytes);
            return Ok(());
        }
        if self.log_lines >= self.call.limits.log_lines {
            self.call.truncated(StreamLimit::LogLines);
            return Ok(());
        }
        self.log_bytes += bytes;
        self.log_lines += 1;
        let level = match level {
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let line = FromWorker::Log { level, message: &message, fields };
        self.call.emit(message.len() + field_bytes, &line).await;
        Ok(())
    }
}

impl cancellation::Host for State {
    fn requested(&mut self) -> wasmtime::Result<bool> {
        self.call.looked();
        Ok(self.call.cancelled().is_some())
    }

    fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        let left = self.call.looked().saturating_duration_since(Instant::now());
        Ok(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_told_from_other_text() {
        for good in ["image/png", "text/plain; charset=utf-8", "application/vnd.a+json"] {
            assert!(valid_media_type(good), "{good}");
        }
        for bad in ["", "png", "/", "a/", "a/b\r\nX: y", "a b/c", &format!("a/{}", "b".repeat(255))] {
            assert!(!valid_media_type(bad), "{bad}");
        }
    }
}
