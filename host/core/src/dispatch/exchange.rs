//! One exchange: the response on its way to the guest, and the event that says
//! what became of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use memchr::memmem::Finder;
use tokio::time::Instant;

use super::egress::{Broker, Wanted};
use super::sink::CallSink;
use crate::event::EventBody;
use crate::grants::{Destination, Mode};
use crate::policy::{MIN_SECRET, Secret};
use crate::ports::egress::{Body, EgressError, IncomingResponse};
use crate::ports::sandbox::GuestRequest;
use crate::reached::Reached;

/// Longest text of a request in an event, in bytes.
const MAX_SHOWN: usize = 512;

/// What the event of an exchange will say; it is sent once, at the latest when
/// this is dropped.
pub(super) struct Told {
    sink: Arc<CallSink>,
    method: String,
    url: String,
    allowed: bool,
    mode: Mode,
    rule: Option<Arc<str>>,
    status: Option<u16>,
    error: Option<EgressError>,
    pub(super) reached: Option<Reached>,
    pub(super) reason: Option<String>,
    pub(super) silent: bool,
    pub(super) wanted: Wanted,
    received: u64,
    since: Instant,
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

impl Told {
    pub(super) fn new(sink: Arc<CallSink>, request: &GuestRequest) -> Self {
        let path = request.target.split('?').next().unwrap_or_default();
        Self {
            sink,
            method: shown(&request.method),
            url: shown(&format!("{}://{}{path}", request.scheme.as_str(), request.authority)),
            allowed: false,
            mode: Mode::Deny,
            rule: None,
            status: None,
            error: None,
            reached: None,
            reason: None,
            silent: false,
            wanted: Wanted::of(request),
            received: 0,
            since: Instant::now(),
        }
    }

    /// The one spelling that was compared.
    pub(super) fn is_to(&mut self, to: &Destination) {
        self.method.clone_from(&to.method);
        self.url = shown(&to.shown());
    }

    pub(super) fn decided(&mut self, allowed: bool, mode: Mode, rule: Option<Arc<str>>) {
        (self.allowed, self.mode, self.rule) = (allowed, mode, rule);
    }

    /// The method and URL that it is told with.
    pub(super) fn shown(&self) -> (String, String) {
        (self.method.clone(), self.url.clone())
    }

    pub(super) fn failed(&mut self, error: EgressError) {
        self.error = Some(error);
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if self.silent {
            return;
        }
        let body = EventBody::CallHttp {
            method: std::mem::take(&mut self.method),
            url: std::mem::take(&mut self.url),
            allowed: self.allowed,
            mode: self.mode,
            rule: self.rule.take(),
            status: self.status,
            error: self.error,
            reached: self.reached.take(),
            reason: self.reason.take(),
            received_bytes: self.received,
            duration_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.sink.note(body);
    }
}

/// A response's body, watched on its way to the guest.
pub(super) struct Exchange {
    broker: Arc<Broker>,
    told: Told,
    body: Option<Body>,
    watch: Watch,
    ready: VecDeque<Bytes>,
}

/// Looks for secrets in a text that comes in pieces.
struct Watch {
    needles: Vec<Finder<'static>>,
    /// What may be the beginning of a secret waits for what follows it.
    held: Vec<u8>,
}

/// There is a secret in it, or so much of one that it helps to know it.
#[derive(Debug, PartialEq, Eq)]
struct Found;

impl Watch {
    fn new(secrets: &[Secret]) -> Self {
        let needles = secrets.iter().flat_map(Secret::needles);
        Self { needles: needles.map(|needle| Finder::new(&needle).into_owned()).collect(), held: Vec::new() }
    }

    /// Whether there is a secret in this text alone.
    fn is_in(&self, text: &[u8]) -> bool {
        self.needles.iter().any(|needle| needle.find(text).is_some())
    }

    /// Takes a piece; gives what is surely no secret.
    fn take(&mut self, piece: Bytes) -> Result<Bytes, Found> {
        if self.needles.is_empty() {
            return Ok(piece);
        }
        self.held.extend_from_slice(&piece);
        if self.is_in(&self.held) {
            return Err(Found);
        }
        let kept = self.needles.iter().map(|needle| begun(&self.held, needle.needle())).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        Ok(std::mem::replace(&mut self.held, rest).into())
    }

    /// Nothing more comes; gives what waited for it. A server that gives a secret in parts
    /// has the first end like this: withheld from some length on, they don't add up.
    fn end(&mut self) -> Result<Bytes, Found> {
        let held = std::mem::take(&mut self.held);
        let telling = |needle: &[u8]| begun(&held, needle) >= MIN_SECRET.min(needle.len() / 2);
        if self.needles.iter().any(|needle| telling(needle.needle())) { Err(Found) } else { Ok(held.into()) }
    }
}

impl Exchange {
    /// The response for the guest, unless its header has a secret in it.
    pub(super) fn begin(
        broker: &Arc<Broker>,
        mut told: Told,
        response: IncomingResponse,
        secrets: &[Secret],
    ) -> Result<IncomingResponse, EgressError> {
        told.status = Some(response.status);
        let watch = Watch::new(secrets);
        let in_header = response.header.iter().any(|(name, value)| watch.is_in(value) || watch.is_in(name.as_bytes()));
        if in_header {
            told.failed(EgressError::SecretInResponse);
            return Err(EgressError::SecretInResponse);
        }
        let body = Some(response.body);
        let exchange = Self { broker: broker.clone(), told, body, watch, ready: VecDeque::new() };
        Ok(IncomingResponse { body: Box::pin(exchange), ..response })
    }

    /// Takes a piece; what of it is surely no secret is ready.
    fn take(&mut self, piece: Bytes) -> Result<(), EgressError> {
        self.told.received += piece.len() as u64;
        if !self.broker.receive(piece.len()) {
            return Err(EgressError::ResponseTooLarge);
        }
        let sure = self.watch.take(piece);
        self.pass_on(sure)
    }

    fn pass_on(&mut self, sure: Result<Bytes, Found>) -> Result<(), EgressError> {
        let sure = sure.map_err(|Found| EgressError::SecretInResponse)?;
        if !sure.is_empty() {
            self.ready.push_back(sure);
        }
        Ok(())
    }

    fn fail(&mut self, error: EgressError) -> Poll<Option<Result<Bytes, EgressError>>> {
        self.body = None;
        self.ready.clear();
        self.told.reached = self.broker.reached(error, &self.told.wanted);
        self.told.failed(error);
        Poll::Ready(Some(Err(error)))
    }
}

/// How many bytes at the end of `text` are the beginning of `needle`.
fn begun(text: &[u8], needle: &[u8]) -> usize {
    let most = text.len().min(needle.len().saturating_sub(1));
    (1..=most).rev().find(|count| text.ends_with(&needle[..*count])).unwrap_or(0)
}

impl Stream for Exchange {
    type Item = Result<Bytes, EgressError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(piece) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(piece)));
            }
            let Some(body) = &mut this.body else { return Poll::Ready(None) };
            match ready!(body.as_mut().poll_next(context)) {
                Some(Ok(piece)) => {
                    if let Err(error) = this.take(piece) {
                        return this.fail(error);
                    }
                }
                Some(Err(error)) => return this.fail(error),
                None => {
                    this.body = None;
                    let rest = this.watch.end();
                    if let Err(error) = this.pass_on(rest) {
                        return this.fail(error);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_secret_is_seen() {
        assert_eq!(begun(b"xxab", b"abc"), 2);
        assert_eq!(begun(b"abab", b"abac"), 2);
        assert_eq!(begun(b"aab", b"abaab"), 2);
        assert_eq!(begun(b"abc", b"abc"), 0);
        assert_eq!(begun(b"", b"abc"), 0);
    }
    fn watch(secret: &str) -> Watch {
        Watch { needles: vec![Finder::new(secret).into_owned()], held: Vec::new() }
    }

    #[test]
    fn a_secret_is_found_however_it_is_cut() {
        let text = "before sk-live-0123456789 after";
        for at in 0..text.len() {
            let mut watch = watch("sk-live-0123456789");
            let (one, two) = text.split_at(at);
            let first = watch.take(one.into());
            let found = first.is_err() || watch.take(two.into()).is_err();
            assert!(found, "cut at {at}");
            assert!(!String::from_utf8_lossy(&first.unwrap_or_default()).contains("sk"), "cut at {at}");
        }
    }

    #[test]
    fn a_body_does_not_end_with_much_of_a_secret() {
        for (secret, end, fine) in [
            ("sk-live-0123456789", "", true),
            ("sk-live-0123456789", "sk-live", true),
            ("sk-live-0123456789", "sk-live-", false),
            ("sk-live-0123456789", "sk-live-012345678", false),
            ("hunter22", "hun", true),
            ("hunter22", "hunt", false),
        ] {
            let mut watch = watch(secret);
            assert_eq!(watch.take(format!("Bearer {end}").into()), Ok("Bearer ".into()), "{end}");
            assert_eq!(watch.end(), if fine { Ok(end.into()) } else { Err(Found) }, "{end}");
        }
        let mut nothing_to_look_for = Watch { needles: Vec::new(), held: Vec::new() };
        assert_eq!(nothing_to_look_for.take("a".into()), Ok("a".into()));
        assert_eq!(nothing_to_look_for.end(), Ok(Bytes::new()));
    }
}
