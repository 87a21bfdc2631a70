//! Questions to the owner of a call: asked while the call waits, answered once.
//! The call is `waiting` meanwhile and its wall time stands still.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::drive::{RETRIES, RETRY};
use super::{Inner, lock};
use crate::audit::{AuditBody, NewAudit};
use crate::call::{Call, CallState, Step};
use crate::clock::{NewId as _, Timestamp};
use crate::event::{EventBody, NewEvent};
use crate::grants::Capability;
use crate::id::{CallId, GrantId, QuestionId};
use crate::pause::Pauses;
use crate::ports::store::StoreError;
use crate::principal::By;

/// A question that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its id.
    pub id: QuestionId,
    /// What the call would get.
    pub capability: Capability,
    /// The rule that wants it asked; none for the policy's default.
    pub rule: Option<Arc<str>>,
    /// When the answer will be taken for a no.
    pub until: Timestamp,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Yes or no.
    pub allowed: bool,
    /// The grant that was given with it.
    pub grant: Option<GrantId>,
    /// What is given, if it is less than what was asked for.
    pub part: Option<Capability>,
    /// False if nobody said so, and it is taken for a no.
    pub answered: bool,
    /// Who.
    pub by: By,
}

impl Answer {
    /// What nobody's answer is taken for.
    const NOBODY: Self = Self { allowed: false, grant: None, part: None, answered: false, by: By::HOST };
}

/// Questions that are open.
#[derive(Default)]
pub(super) struct Questions {
    open: Mutex<HashMap<CallId, Open>>,
}

struct Open {
    question: Question,
    reply: oneshot::Sender<Answer>,
}

/// Takes an open question away, whatever becomes of who asked.
struct Asking<'a>(&'a Questions, CallId, QuestionId);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut open = lock(&self.0.open);
        if open.get(&self.1).is_some_and(|open| open.question.id == self.2) {
            open.remove(&self.1);
        }
    }
}

impl Questions {
    /// The open question of a call.
    pub(super) fn of(&self, call: CallId) -> Option<Question> {
        lock(&self.open).get(&call).map(|open| open.question.clone())
    }

    /// Answers a question. False if it is not open: it was answered, or its time is up.
    pub(super) fn answer(&self, call: CallId, id: QuestionId, answer: Answer) -> bool {
        let mut open = lock(&self.open);
        if open.get(&call).is_none_or(|open| open.question.id != id) {
            return false;
        }
        open.remove(&call).is_some_and(|open| open.reply.send(answer).is_ok())
    }
}

impl Inner {
    /// Asks the owner, and waits. Nobody's answer is a no. One question of a
    /// call at a time: who asks holds `turn`.
    ///
    /// # Errors
    /// If it can't be stored; then the answer is a no too.
    pub(super) async fn ask(
        &self,
        call: &Call,
        what: (Capability, Option<Arc<str>>),
        pauses: &Pauses,
        cancel: &CancellationToken,
    ) -> Result<Answer, StoreError> {
        let (capability, rule) = what;
        let most = Duration::from_millis(call.limits.answer_ms);
        let now = self.parts.ids.now();
        let until = now.plus_millis(i64::try_from(call.limits.answer_ms).unwrap_or(i64::MAX / 2));
        let question = Question { id: self.parts.ids.question_id(), capability, rule, until };
        self.record(call, asked(call, &question)).await?;
        // Open before it is told, so that a client that is told can answer.
        let (reply, answer) = oneshot::channel();
        lock(&self.questions.open).insert(call.id, Open { question: question.clone(), reply });
        let _asking = Asking(&self.questions, call.id, question.id);
        let waiting = EventBody::CallWaiting {
            question: question.id,
            capability: question.capability.clone(),
            rule: question.rule.clone(),
            until: until.to_string(),
        };
        if !self.step(call, Step::Pause, &waiting).await? {
            return Ok(Answer::NOBODY);
        }
        self.tell(call.id, Some(CallState::Waiting { since: call.state.since().unwrap_or(now) }));
        let pause = pauses.begin(most);
        let answer = tokio::select! {
            biased;
            // The call is over, or who asked is gone.
            () = cancel.cancelled() => None,
            answer = answer => answer.ok(),
            () = tokio::time::sleep(most) => None,
        };
        drop(pause);
        self.tell(call.id, None);
        let (allowed, answered) = (answer.as_ref().is_some_and(|answer| answer.allowed), answer.is_some());
        let body = AuditBody::QuestionAnswered { question: question.id, allowed, answered };
        let by = answer.as_ref().map_or(&By::HOST, |answer| &answer.by);
        let recorded = self.recorded(call, body, by).await;
        let late = !answered && !cancel.is_cancelled();
        let reached = late.then(|| call.limits.reached("answer_ms", Some(call.limits.answer_ms)));
        // Whatever else fails: the call goes on, and its state says so.
        let event = EventBody::CallAnswered { question: question.id, allowed, answered, reached };
        let resumed = self.resume(call, &event).await;
        recorded.and(resumed)?;
        let answer = answer.unwrap_or(Answer::NOBODY);
        if let Some(grant) = answer.grant {
            // What was asked for is the first use of it.
            self.parts.store.use_grant(grant, self.parts.ids.now()).await?;
        }
        Ok(answer)
    }

    /// Moves the call on, trying again while the store refuses.
    async fn resume(&self, call: &Call, event: &EventBody) -> Result<(), StoreError> {
        let mut attempt = 0;
        loop {
            match self.step(call, Step::Resume, event).await {
                Ok(_) => return Ok(()),
                Err(error) if attempt >= RETRIES || self.stop_now.is_cancelled() => return Err(error),
                Err(_) => attempt += 1,
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Tells who waits for the call that it waits, or goes on.
    fn tell(&self, call: CallId, waiting: Option<CallState>) {
        if let Some(active) = lock(&self.active).get(&call) {
            let told = waiting.map(|state| Arc::new(Call { state, ..(*active.call).clone() }));
            active.done.send_replace(told);
        }
    }

    /// Stores a step of a call with its event. False if the call is in another state.
    async fn step(&self, call: &Call, step: Step, body: &EventBody) -> Result<bool, StoreError> {
        let events = vec![NewEvent::new(self.parts.ids.now(), Some(call.id), body)];
        let stepped = self.parts.store.step_call(call.task, call.id, call.attempts, step, events.clone()).await?;
        if let Some(appended) = stepped {
            self.parts.meter.events_appended(1);
            self.parts.hub.publish(call.owner.tenant, call.task, appended, events);
        }
        Ok(stepped.is_some())
    }

    /// Writes down what was decided about what a call wants: for whoever asked for the call.
    pub(super) async fn record(&self, call: &Call, body: AuditBody) -> Result<(), StoreError> {
        self.recorded(call, body, &call.by).await
    }

    /// The same, for somebody else.
    pub(super) async fn recorded(&self, call: &Call, body: AuditBody, by: &By) -> Result<(), StoreError> {
        let record = NewAudit::new(self.parts.ids.now(), call.owner, call.task, Some(call.id), &body).by(by);
        self.parts.store.append_audit(vec![record]).await
    }
}

fn asked(call: &Call, question: &Question) -> AuditBody {
    AuditBody::QuestionAsked {
        question: question.id,
        tool: call.tool_name.clone(),
        capability: question.capability.clone(),
        rule: question.rule.clone(),
    }
}
