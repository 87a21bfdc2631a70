//! Calls: one invocation of a tool in a task. A call reaches exactly one
//! terminal state; [`CallState::next`] is the only place that decides which
//! step is allowed, and the store compares and sets the same step.

use std::sync::Arc;

use thiserror::Error;

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::grants::Grants;
use crate::id::{CallId, TaskId, ToolId};
use crate::limits::Limits;
use crate::outcome::Outcome;
use crate::principal::{By, Owner};

/// Most attempts of a call: starts of its guest. The second is made only if its host
/// failed during the first and its tool is declared idempotent.
pub const MAX_ATTEMPTS: u32 = 2;

/// Where a call is in its life, with what is known there.
#[derive(Clone, Debug, PartialEq)]
pub enum CallState {
    /// Stored; waits for a slot.
    Queued,
    /// Its guest runs, since then.
    Running {
        /// When `running` was stored.
        since: Timestamp,
    },
    /// Its guest waits for a client's answer.
    Waiting {
        /// When `running` was stored.
        since: Timestamp,
    },
    /// Terminal.
    Ended {
        /// When `running` was stored, if it ever was.
        since: Option<Timestamp>,
        /// When it ended.
        at: Timestamp,
        /// How.
        outcome: Arc<Outcome>,
    },
}

/// One step of a call's life.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A slot is free: the guest may start once this is stored.
    Start,
    /// The guest asks a client.
    Pause,
    /// The client answered.
    Resume,
    /// Its host failed, and its guest may start again.
    Requeue,
    /// The call is over, in this way.
    End(Arc<Outcome>),
}

/// A step that the call's state does not allow: somebody else was first.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a call that is {from} can't be {step}")]
pub struct StepRefused {
    from: &'static str,
    step: &'static str,
}

impl Step {
    /// The names of the states from which this step is allowed.
    pub fn allowed_from(&self) -> &'static [&'static str] {
        match self {
            Self::Start => &["queued"],
            Self::Pause => &["running"],
            Self::Resume => &["waiting"],
            Self::Requeue => &["running", "waiting"],
            Self::End(_) => &["queued", "running", "waiting"],
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Requeue => "queued again",
            Self::End(_) => "ended",
        }
    }
}

impl CallState {
    /// The name of the state, as stored and sent.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running { .. } => "running",
            Self::Waiting { .. } => "waiting",
            Self::Ended { outcome, .. } => outcome.ending.state(),
        }
    }

    /// Whether the call is over.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }

    /// When `running` was stored, if it ever was.
    pub fn since(&self) -> Option<Timestamp> {
        match self {
            Self::Queued => None,
            Self::Running { since } | Self::Waiting { since } => Some(*since),
            Self::Ended { since, .. } => *since,
        }
    }

    /// The state as lists show it, with [`Outcome::listed`].
    #[must_use]
    pub fn listed(&self) -> Self {
        match self {
            Self::Ended { since, at, outcome } => Self::Ended { since: *since, at: *at, outcome: outcome.listed() },
            open => open.clone(),
        }
    }

    /// The state after `step`, taken at `at`.
    ///
    /// # Errors
    /// If the step is not allowed from here.
    pub fn next(&self, step: &Step, at: Timestamp) -> Result<CallState, StepRefused> {
        if !step.allowed_from().contains(&self.name()) {
            return Err(StepRefused { from: self.name(), step: step.name() });
        }
        Ok(match step {
            Step::Start => Self::Running { since: at },
            Step::Requeue => Self::Queued,
            Step::Pause => Self::Waiting { since: self.since().unwrap_or(at) },
            Step::Resume => Self::Running { since: self.since().unwrap_or(at) },
            Step::End(outcome) => Self::Ended { since: self.since(), at, outcome: outcome.clone() },
        })
    }
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Its id.
    pub id: CallId,
    /// The task it runs in.
    pub task: TaskId,
    /// Whose it is.
    pub owner: Owner,
    /// By what its owner was recognised who asked for it.
    pub by: By,
    /// The name of the tool.
    pub tool_name: String,
    /// The tool.
    pub tool: ToolId,
    /// Digest of the tool's component.
    pub tool_digest: Digest,
    /// The arguments: a JSON object, as text.
    pub arguments: Arc<str>,
    /// Where it is in its life.
    pub state: CallState,
    /// What it may use.
    pub limits: Limits,
    /// What it was granted.
    pub grants: Grants,
    /// How often its guest was started: at most [`MAX_ATTEMPTS`].
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: Timestamp,
}

/// A call as lists show it: without its arguments, and without what is long of its
/// outcome ([`Outcome::listed`]), so that a page of calls is bounded in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedCall {
    /// Its id.
    pub id: CallId,
    /// The task it runs in.
    pub task: TaskId,
    /// Whose it is.
    pub owner: Owner,
    /// The name of the tool.
    pub tool_name: String,
    /// The tool.
    pub tool: ToolId,
    /// Digest of the tool's component.
    pub tool_digest: Digest,
    /// Where it is in its life.
    pub state: CallState,
    /// What it may use.
    pub limits: Limits,
    /// What it was granted.
    pub grants: Grants,
    /// How often its guest was started.
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: Timestamp,
}

impl From<&Call> for ListedCall {
    fn from(call: &Call) -> Self {
        Self {
            id: call.id,
            task: call.task,
            owner: call.owner,
            tool_name: call.tool_name.clone(),
            tool: call.tool,
            tool_digest: call.tool_digest,
            state: call.state.listed(),
            limits: call.limits.clone(),
            grants: call.grants.clone(),
            attempts: call.attempts,
            created_at: call.created_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Ending, Fault, code};

    fn ended() -> Step {
        Step::End(Arc::new(Outcome::without_use(Ending::Cancelled {
            fault: Fault::new(code::CANCELLED, "by a client"),
        })))
    }

    #[test]
    fn a_terminal_state_is_terminal() {
        let at = Timestamp::from_millis(1);
        let over = CallState::Queued.next(&ended(), at).expect("a queued call can be cancelled");
        assert_eq!(over.name(), "cancelled");
        for step in [Step::Start, Step::Pause, Step::Resume, Step::Requeue, ended()] {
            assert!(over.next(&step, at).is_err(), "{step:?}");
        }
    }

    #[test]
    fn a_call_that_runs_starts_only_after_it_was_queued_again() {
        let at = Timestamp::from_millis(1);
        let running = CallState::Queued.next(&Step::Start, at).expect("starts");
        assert!(running.next(&Step::Start, at).is_err());
        let requeue = Step::Requeue;
        assert_eq!(running.next(&requeue, at), Ok(CallState::Queued));
        assert!(CallState::Queued.next(&requeue, at).is_err());
        let waiting = running.next(&Step::Pause, at).expect("asks");
        assert_eq!(waiting.next(&Step::Resume, Timestamp::from_millis(9)), Ok(running));
    }
}
