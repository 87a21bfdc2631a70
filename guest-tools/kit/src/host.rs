//! What a tool may ask of the host while it runs. In native tests these do
//! nothing: output is dropped and nothing is ever cancelled.

use crate::Content;
#[cfg(target_arch = "wasm32")]
use crate::bindings::bulkhead::tool;
pub use crate::bindings::bulkhead::tool::log::Level;
pub use crate::bindings::bulkhead::tool::output::Refusal;

/// Shows the client one part before the call has ended. It is not part of the
/// result. Waits while the client is slow.
pub fn emit(part: &Content) -> Result<(), Refusal> {
    #[cfg(target_arch = "wasm32")]
    return tool::output::emit(part);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = part;
        Ok(())
    }
}

/// Reports progress, as often as the tool likes. A report that goes backwards
/// is refused by the host; nothing a tool could do about it, so not returned.
pub fn progress(done: u64, total: Option<u64>, message: Option<&str>) {
    #[cfg(target_arch = "wasm32")]
    let _ = tool::progress::report(&tool::progress::Step { done, total, message: message.map(Into::into) });
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (done, total, message);
}

/// Writes one line, with fields, to the task's event stream.
pub fn log(level: Level, message: &str, fields: &[(&str, &str)]) {
    #[cfg(target_arch = "wasm32")]
    {
        let fields: alloc::vec::Vec<_> = fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        tool::log::write(level, message, &fields);
    }
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (level, message, fields);
}

/// Whether the call was cancelled. A tool that works for long asks now and
/// then, and ends with [`cancelled`].
pub fn is_cancelled() -> bool {
    #[cfg(target_arch = "wasm32")]
    return tool::cancellation::requested();
    #[cfg(not(target_arch = "wasm32"))]
    false
}

/// Milliseconds until the host stops the call.
pub fn remaining_ms() -> u64 {
    #[cfg(target_arch = "wasm32")]
    return tool::cancellation::remaining_ms();
    #[cfg(not(target_arch = "wasm32"))]
    u64::MAX
}

/// How a tool ends that noticed its cancellation.
pub fn cancelled() -> crate::ToolError {
    crate::ToolError::new("cancelled", "The call was cancelled before it was done.")
}
