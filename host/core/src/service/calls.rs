//! Calls: submit, read, list, cancel, wait.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::{Ports, ServiceConfig};
use crate::access::{CallableTask, FrozenTask, OwnedCall, OwnedTask};
use crate::call::{Call, CallState, ListedCall};
use crate::clock::NewId as _;
use crate::dispatch::{Asked, Dispatcher, LoadedTool, Submission, Waiter};
use crate::error::Error;
use crate::id::CallId;
use crate::limits::LimitsPatch;
use crate::policy::{Policies, Subject};
use crate::ports::rates::{Counted, Rates, Taken};
use crate::ports::store::{Idempotency, Page};

/// Largest idempotency key, in bytes.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;

/// A call that a client asks for.
#[derive(Debug)]
pub struct NewCall<'a> {
    /// The tool's name in the task.
    pub tool: &'a str,
    /// The arguments: JSON, as the client sent it.
    pub arguments: &'a RawValue,
    /// Limits to be narrowed for this call.
    pub limits: LimitsPatch,
    /// The client's idempotency key.
    pub idempotency: Option<Idempotency>,
}

/// The use cases of calls.
pub struct Calls {
    ports: Ports,
    dispatcher: Dispatcher,
    policies: Arc<Policies>,
    max_arguments_bytes: u64,
}

impl Calls {
    pub(super) fn new(ports: Ports, dispatcher: Dispatcher, policies: Arc<Policies>, config: &ServiceConfig) -> Self {
        Self { ports, dispatcher, policies, max_arguments_bytes: config.max_arguments_bytes }
    }

    /// Stores a call and starts or queues it.
    ///
    /// # Errors
    /// If the tool is unknown, the arguments don't fit, or a limit is over its
    /// ceiling; the [`Submission`] says what comes after.
    pub async fn submit(&self, task: &CallableTask, new: NewCall<'_>) -> Result<Submission, Error> {
        let pinned = task.tools.get(new.tool).ok_or_else(|| unknown_tool(task, new.tool))?;
        if let Some(idempotency) = &new.idempotency {
            check_key(&idempotency.key)?;
        }
        let tool = self.dispatcher.tool(pinned.id).await?;
        let arguments = self.checked_arguments(&tool, new.arguments)?;
        if let Taken::Refused { standing, retry_after } = self.ports.rates.take(Counted::Calls, task.owner).await {
            return Err(Error::RateLimited { standing, retry_after });
        }
        let own_limits = new.limits != LimitsPatch::default();
        let remedy = "the task's; ask for less, or make a task with more, up to the server's";
        let limits = task.limits.narrowed(&new.limits).map_err(|error| Error::over_ceiling(&error, remedy))?;
        let subject = Subject { owner: task.owner, tool: &pinned.name, digest: pinned.digest };
        let (grants, _) = self.policies.current().grants(&subject, &tool.manifest.capabilities, &task.ceiling);
        let call = Call {
            id: self.ports.ids.call_id(),
            task: task.id,
            owner: task.owner,
            by: task.by().clone(),
            tool_name: pinned.name.clone(),
            tool: pinned.id,
            tool_digest: pinned.digest,
            arguments,
            state: CallState::Queued,
            limits,
            grants,
            attempts: 0,
            created_at: self.ports.ids.now(),
        };
        Ok(self.dispatcher.submit(call, Asked { idempotency: new.idempotency, own_limits }))
    }

    fn checked_arguments(&self, tool: &LoadedTool, arguments: &RawValue) -> Result<Arc<str>, Error> {
        let text = arguments.get();
        if text.len() as u64 > self.max_arguments_bytes {
            return Err(Error::TooLarge {
                what: "`arguments`",
                key: "dispatch.max_arguments_bytes",
                limit: self.max_arguments_bytes,
            });
        }
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| Error::invalid("arguments", error.to_string()))?;
        let name = &tool.manifest.name;
        tool.input.check(&value).map_err(|mismatches| Error::ArgumentsMismatch { tool: name.clone(), mismatches })?;
        Ok(text.into())
    }

    /// Lets a client wait for the end of a call; `None` if it is over already
    /// (or never ran here): then read it again.
    pub fn waiter(&self, call: CallId) -> Option<Waiter> {
        self.dispatcher.waiter(call)
    }

    /// Asks a call to end. One that has ended stays as it ended.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn cancel(&self, call: &OwnedCall) -> Result<(), Error> {
        self.dispatcher.cancel(call.call(), call.asked()).await.map(|_| ())
    }

    /// Calls of a task, newest first, without what is long of them.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self, task: &OwnedTask, page: Page<CallId>) -> Result<Vec<ListedCall>, Error> {
        Ok(self.ports.store.list_calls(task.task().id, page).await?)
    }

    /// How often principals may do what.
    pub fn rates(&self) -> &dyn Rates {
        &*self.ports.rates
    }

    /// How many calls run and how many wait.
    pub fn load(&self) -> (usize, usize) {
        self.dispatcher.load()
    }
}

fn check_key(key: &str) -> Result<(), Error> {
    let allowed = (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if allowed {
        Ok(())
    } else {
        Err(Error::invalid("Idempotency-Key", "must be 1 to 255 printable ASCII characters without spaces"))
    }
}

pub(super) fn unknown_tool(task: &FrozenTask, name: &str) -> Error {
    const SHOWN: usize = 40;
    let names: Vec<_> = task.tools.tools.iter().take(SHOWN).map(|tool| tool.name.as_str()).collect();
    let hint = if names.is_empty() { "; it has no tools".into() } else { format!("; it has: {}", names.join(", ")) };
    // The name is the client's: shown, but not at any length.
    Error::UnknownTool { name: name.chars().take(crate::tool::MAX_NAME).collect(), hint: Some(hint) }
}
