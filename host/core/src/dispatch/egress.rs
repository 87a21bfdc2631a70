//! The broker of a call's HTTP requests: decides each, writes it down before
//! anything is sent, puts secrets in, counts, and watches that no secret comes
//! back. The guest sees none of that; the adapter behind the port neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::exchange::{Exchange, Told};
use super::sink::CallSink;
use crate::audit::{AuditBody, Decision};
use crate::call::Call;
use crate::grants::{Capability, Destination, Grants, HttpGrant, HttpPattern, Mode};
use crate::id::GrantId;
use crate::pause::Pauses;
use crate::policy::{Policy, Secret};
use crate::ports::egress::{Body, EgressError, IncomingResponse, OutgoingRequest, Sharers, Timeouts};
use crate::ports::sandbox::GuestRequest;
use crate::ports::store::StoreError;
use crate::reached::{Bound, FixedLimit, HTTP_ANSWER, HTTP_ANSWER_HEAD, HTTP_CONNECT, Reached};

/// How long the steps of an exchange may take if the guest does not say, and
/// at most.
const CONNECT: Duration = Duration::from_millis(HTTP_CONNECT.spec.default);
const ANSWER: Duration = Duration::from_millis(HTTP_ANSWER.spec.default);
/// Answers that a call remembers, so that a loop asks once.
const MAX_ANSWERS: usize = 64;

/// Whether a field has the server answer with what can't be looked at for secrets: it is
/// compressed, or a part that the guest chose, which may be half of one.
fn hides_secrets(name: &str) -> bool {
    ["accept-encoding", "range", "if-range"].iter().any(|hiding| name.eq_ignore_ascii_case(hiding))
}

/// The broker of one call.
pub(super) struct Broker {
    inner: Arc<Inner>,
    call: Arc<Call>,
    grants: Grants,
    policy: Arc<Policy>,
    pauses: Pauses,
    cancel: CancellationToken,
    requests: AtomicU64,
    pub(super) sent: Arc<AtomicU64>,
    pub(super) received: Arc<AtomicU64>,
    /// What the owner said, and whose turn it is to ask.
    answers: Arc<tokio::sync::Mutex<Answers>>,
}

/// How long a guest wants to wait, if it says so.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    connect: Option<Duration>,
    first_byte: Option<Duration>,
    between_bytes: Option<Duration>,
}

impl Wanted {
    pub(super) fn of(request: &GuestRequest) -> Self {
        let GuestRequest { connect_timeout, first_byte_timeout, between_bytes_timeout, .. } = request;
        Self { connect: *connect_timeout, first_byte: *first_byte_timeout, between_bytes: *between_bytes_timeout }
    }

    /// The limit of every call that an exchange ended by; none if the guest may not have wanted
    /// to wait as long.
    fn passed(self, error: EgressError) -> Option<&'static FixedLimit> {
        let waits = |wanted: Option<Duration>, most| wanted.is_none_or(|wanted| wanted >= most);
        match error {
            EgressError::ConnectionTimeout => waits(self.connect, CONNECT).then_some(&HTTP_CONNECT),
            EgressError::ResponseTimeout => {
                (waits(self.first_byte, ANSWER) && waits(self.between_bytes, ANSWER)).then_some(&HTTP_ANSWER)
            }
            EgressError::ResponseHeadTooLarge => Some(&HTTP_ANSWER_HEAD),
            _ => None,
        }
    }
}

/// What a call remembers of what its owner said.
#[derive(Default)]
struct Answers {
    known: Vec<(HttpPattern, bool)>,
    /// Nobody answered: nobody will be asked again, or a guest could wait for
    /// as long as it finds something to ask.
    nobody: bool,
}

/// A request that was decided.
struct Decided {
    allowed: bool,
    mode: Mode,
    rule: Option<Arc<str>>,
    grant: Option<GrantId>,
    private: Arc<[ipnet::IpNet]>,
}

impl Broker {
    pub(super) fn new(
        inner: Arc<Inner>,
        call: Arc<Call>,
        granted: (Grants, Arc<Policy>),
        pauses: Pauses,
        cancel: CancellationToken,
    ) -> Self {
        let (grants, policy) = granted;
        Self {
            inner,
            call,
            grants,
            policy,
            pauses,
            cancel,
            requests: AtomicU64::new(0),
            sent: Arc::default(),
            received: Arc::default(),
            answers: Arc::default(),
        }
    }

    /// What the sandbox needs of it: variables, the pauses of the clock, and
    /// the token that ends the call.
    pub(super) fn for_run(&self) -> (Arc<[(String, String)]>, Pauses, CancellationToken) {
        let value = |name: &String| Some((name.clone(), self.policy.variable(name)?.to_owned()));
        let environment = self.grants.environment.iter().filter_map(value).collect();
        (environment, self.pauses.clone(), self.cancel.clone())
    }

    /// Decides about a request and sends it, if it may be sent.
    pub(super) async fn send(
        self: &Arc<Self>,
        sink: &Arc<CallSink>,
        request: GuestRequest,
    ) -> Result<IncomingResponse, EgressError> {
        let mut told = Told::new(sink.clone(), &request);
        let sent = self.try_send(&mut told, request).await;
        match sent {
            Ok((response, secrets)) => Exchange::begin(self, told, response, &secrets),
            Err(error) => {
                told.reached = told.reached.take().or_else(|| self.reached(error, &told.wanted));
                let error = match error {
                    EgressError::NoConnection { .. } => EgressError::LimitReached,
                    error => error,
                };
                told.failed(error);
                Err(error)
            }
        }
    }

    /// The limit that an exchange ended by, if it did.
    pub(super) fn reached(&self, error: EgressError, wanted: &Wanted) -> Option<Reached> {
        if let EgressError::NoConnection { between, most, used } = error {
            let name = match between {
                Sharers::Users => "egress.max_connections_per_tenant",
                Sharers::Tenants => "egress.max_connections",
            };
            return Some(Reached::of(Bound { name, value: most.into(), used: Some(used.into()) }));
        }
        if let Some(limit) = wanted.passed(error) {
            // Of a head nobody reads how large it is; of a time all of it is used.
            let used = (limit.spec.unit == HTTP_ANSWER.spec.unit).then_some(limit.spec.default);
            return Some(self.call.limits.reached(limit.spec.name, used));
        }
        let (limit, used) = match error {
            EgressError::RequestTooLarge => ("http_request_bytes", &self.sent),
            EgressError::ResponseTooLarge => ("http_response_bytes", &self.received),
            _ => return None,
        };
        Some(self.call.limits.reached(limit, Some(used.load(Relaxed))))
    }

    async fn try_send(
        self: &Arc<Self>,
        told: &mut Told,
        request: GuestRequest,
    ) -> Result<(IncomingResponse, Vec<Secret>), EgressError> {
        let before = self.requests.fetch_add(1, Relaxed);
        if before >= self.call.limits.http_requests {
            let reached = self.call.limits.reached("http_requests", Some(before));
            // Said once: a guest that goes on asking must not fill the log.
            told.silent = before > self.call.limits.http_requests;
            if !told.silent {
                self.refused(told, &reached.message).await?;
            }
            told.reached = Some(reached);
            return Err(EgressError::LimitReached);
        }
        let to = Destination::parse(&request.method, request.scheme, &request.authority, &request.target);
        let mut to = match to {
            Ok(to) => to,
            Err(error) => {
                self.refused(told, &error.0).await?;
                told.reason = Some(error.0);
                return Err(EgressError::InvalidRequest);
            }
        };
        told.is_to(&to);
        let decided = self.decide(&to).await?;
        told.decided(decided.allowed, decided.mode, decided.rule.clone());
        let secrets = self.secrets();
        let put = secrets.iter().filter(|(_, secret)| decided.allowed && secret.goes_to(&to));
        let put: Vec<_> = put.cloned().collect();
        self.record(&to, &decided, &put).await?;
        if !decided.allowed || self.cancel.is_cancelled() {
            return Err(EgressError::Denied);
        }
        let mut header = request.header;
        for (_, secret) in &put {
            secret.put_into(&mut to, &mut header);
        }
        if !secrets.is_empty() {
            header.retain(|(name, _)| !hides_secrets(name));
        }
        let within = |asked: Option<Duration>, most: Duration| asked.unwrap_or(most).min(most);
        let query = to.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let outgoing = OutgoingRequest {
            owner: self.call.owner,
            target: format!("{}{query}", to.path),
            method: to.method,
            scheme: to.scheme,
            host: to.host,
            port: to.port,
            header,
            body: request.body.map(|body| self.counted(body)),
            private: decided.private,
            timeouts: Timeouts {
                connect: within(request.connect_timeout, CONNECT),
                first_byte: within(request.first_byte_timeout, ANSWER),
                between_bytes: within(request.between_bytes_timeout, ANSWER),
            },
        };
        let response = self.inner.parts.egress.send(outgoing).await?;
        Ok((response, secrets.into_iter().map(|(_, secret)| secret).collect()))
    }

    /// The first entry of the call's grants that means the request decides.
    async fn decide(self: &Arc<Self>, to: &Destination) -> Result<Decided, EgressError> {
        let Some(HttpGrant { mode, rule, private, .. }) =
            self.grants.http.iter().find(|grant| grant.decides(to)).cloned()
        else {
            return Ok(Decided { allowed: false, mode: Mode::Deny, rule: None, grant: None, private: [].into() });
        };
        let (allowed, grant) = match mode {
            Mode::Deny => (false, None),
            Mode::Allow | Mode::Audit => (true, None),
            Mode::Ask => self.permitted(to, rule.clone()).await?,
        };
        Ok(Decided { allowed, mode, rule, grant, private: private.into() })
    }

    /// By a grant of the owner's, by what the owner said before, or by asking.
    async fn permitted(
        self: &Arc<Self>,
        to: &Destination,
        rule: Option<Arc<str>>,
    ) -> Result<(bool, Option<GrantId>), EgressError> {
        let store = |error: StoreError| {
            tracing::error!(call = %self.call.id, %error, "a request could not be decided");
            EgressError::Internal
        };
        let fits = |capability: &Capability| match capability {
            Capability::Http(text) => text.parse::<HttpPattern>().is_ok_and(|pattern| pattern.matches(to)),
            _ => false,
        };
        if let Some(grant) = self.inner.take_grant(&self.call, fits).await.map_err(store)? {
            return Ok((true, Some(grant)));
        }
        // What servers may take for something else can't be asked precisely.
        if to.is_ambiguous() {
            return Ok((false, None));
        }
        let (broker, to) = (self.clone(), to.clone());
        // On its own: a guest that gives up must not leave the call waiting.
        let gone = self.cancel.child_token();
        let _asker = gone.clone().drop_guard();
        let asking = self.inner.tracker.spawn(async move { broker.ask_in_turn(&to, rule, &gone).await });
        asking.await.map_err(|_| EgressError::Internal)?.map_err(store)
    }

    /// One question of a call at a time: what is asked now may be answered for
    /// the next.
    async fn ask_in_turn(
        &self,
        to: &Destination,
        rule: Option<Arc<str>>,
        gone: &CancellationToken,
    ) -> Result<(bool, Option<GrantId>), StoreError> {
        let mut answers = self.answers.lock().await;
        let fits = |capability: &Capability| match capability {
            Capability::Http(text) => text.parse::<HttpPattern>().is_ok_and(|pattern| pattern.matches(to)),
            _ => false,
        };
        if let Some(grant) = self.inner.take_grant(&self.call, fits).await? {
            return Ok((true, Some(grant)));
        }
        if let Some((_, allowed)) = answers.known.iter().find(|(pattern, _)| pattern.matches(to)) {
            return Ok((*allowed, None));
        }
        if answers.nobody || gone.is_cancelled() {
            return Ok((false, None));
        }
        let pattern = HttpPattern::exactly(to);
        let what = (Capability::Http(pattern.to_string()), rule);
        let answer = self.inner.ask(&self.call, what, &self.pauses, gone).await?;
        answers.nobody = !answer.answered && !gone.is_cancelled();
        // A grant has uses and an end of its own: it is looked at each time.
        if answer.answered && answer.grant.is_none() && answers.known.len() < MAX_ANSWERS {
            answers.known.push((pattern, answer.allowed));
        }
        Ok((answer.allowed, answer.grant))
    }

    /// The granted secrets, by name. In a response they are looked for wherever they go: a
    /// server may keep one that it was sent, and give it to the request after that.
    fn secrets(&self) -> Vec<(String, Secret)> {
        // Those of now: one that was changed, or goes elsewhere, is not used as it was.
        let policy = self.inner.parts.policies.current();
        self.grants.secrets.iter().filter_map(|name| Some((name.clone(), policy.secret(name)?.clone()))).collect()
    }

    /// What can't be written down is not sent.
    async fn record(
        &self,
        to: &Destination,
        decided: &Decided,
        secrets: &[(String, Secret)],
    ) -> Result<(), EgressError> {
        let body = AuditBody::HttpDecided {
            tool: self.call.tool_name.clone(),
            method: to.method.clone(),
            url: to.shown(),
            decision: Decision {
                allowed: decided.allowed,
                mode: decided.mode,
                rule: decided.rule.clone(),
                policy: self.grants.policy.clone(),
                grant: decided.grant,
            },
            private: decided.private.to_vec(),
            secrets: secrets.iter().map(|(name, _)| name.clone()).collect(),
        };
        self.written(body).await
    }

    /// The same of one about which nothing is to be decided.
    async fn refused(&self, told: &Told, reason: &str) -> Result<(), EgressError> {
        let (method, url) = told.shown();
        let tool = self.call.tool_name.clone();
        self.written(AuditBody::HttpRefused { tool, method, url, reason: reason.to_owned() }).await
    }

    async fn written(&self, body: AuditBody) -> Result<(), EgressError> {
        self.inner.record(&self.call, body).await.map_err(|error| {
            tracing::error!(call = %self.call.id, %error, "a request could not be written down, so it is refused");
            EgressError::Internal
        })
    }

    /// The request's body, within what the call may send.
    fn counted(&self, body: Body) -> Body {
        let (sent, most) = (self.sent.clone(), self.call.limits.http_request_bytes);
        Box::pin(body.map(move |piece| {
            let piece: Bytes = piece?;
            let sum = sent.fetch_add(piece.len() as u64, Relaxed) + piece.len() as u64;
            if sum > most { Err(EgressError::RequestTooLarge) } else { Ok(piece) }
        }))
    }

    /// Counts bytes of responses. False if the call has had all it may.
    pub(super) fn receive(&self, bytes: usize) -> bool {
        let sum = self.received.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        sum <= self.call.limits.http_response_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_is_asked_of_what_may_have_a_secret_in_it() {
        for name in ["Range", "range", "If-Range", "Accept-Encoding"] {
            assert!(hides_secrets(name), "{name}");
        }
        for name in ["accept", "if-match", "accept-ranges", "x-range"] {
            assert!(!hides_secrets(name), "{name}");
        }
    }
    #[test]
    fn a_limit_is_told_unless_the_guest_wanted_less() {
        let second = Some(Duration::from_secs(1));
        let none = Wanted { connect: None, first_byte: None, between_bytes: None };
        let passed = |wanted: Wanted, error| wanted.passed(error).map(|limit| limit.spec.name);
        let (late, unanswered) = (EgressError::ConnectionTimeout, EgressError::ResponseTimeout);
        assert_eq!((passed(none, late), passed(none, unanswered)), (Some("http_connect_ms"), Some("http_answer_ms")));
        assert_eq!(passed(Wanted { connect: second, ..none }, late), None);
        assert_eq!(passed(Wanted { first_byte: second, ..none }, unanswered), None);
        assert_eq!(passed(Wanted { between_bytes: second, ..none }, unanswered), None);
        let long = Wanted { connect: Some(CONNECT * 2), ..none };
        assert_eq!((passed(long, late), passed(long, EgressError::Denied)), (Some("http_connect_ms"), None));
    }
}
