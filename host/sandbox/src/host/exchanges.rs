//! The exchanges of a call: what its worker may say about them, and the
//! futures that carry them, which end with the call.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_core::ports::sandbox::{GuestRequest, Sink};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS;

use super::exchange::{Asked, Exchange, Line, Plain, Uploaded, carry};
use super::guard::Violation;
use crate::bounds::{self, HTTP_PIECE, MAX_EXCHANGES};
use crate::wire::Request;

/// Carries the exchanges of a call; nothing is allocated for a call without.
#[derive(Default)]
pub(super) struct Exchanges<'a>(Option<FuturesUnordered<BoxFuture<'a, ()>>>);

impl<'a> Exchanges<'a> {
    pub(super) fn begin(&mut self, asked: Asked, sink: &'a dyn Sink, line: Line) {
        self.0.get_or_insert_default().push(Box::pin(carry(asked, sink, line)));
    }

    /// Works on them until one is done; for ever, if there is none.
    pub(super) async fn one_done(&mut self) {
        match &mut self.0 {
            Some(carried) if !carried.is_empty() => drop(carried.next().await),
            _ => std::future::pending().await,
        }
    }
}

/// What a worker has said about exchanges.
#[derive(Default)]
pub(super) struct Said {
    /// The last number.
    last: u32,
    open: Vec<Open>,
}

/// An exchange that its worker has not ended.
struct Open {
    number: u32,
    exchange: Arc<Exchange>,
    /// Where the body goes; gone once it is whole or failed.
    upload: Option<UnboundedSender<Uploaded>>,
    /// What the head says is to come of it.
    left: Option<u64>,
}

impl Said {
    /// A request, which costs its size.
    pub(super) fn asked(&mut self, request: &Request<'_>) -> Result<Asked, Violation> {
        if request.exchange != self.last.wrapping_add(1) {
            return Err(Violation("an exchange whose number is not the next"));
        }
        if self.open.len() >= MAX_EXCHANGES {
            return Err(Violation("too many exchanges at once"));
        }
        let left = check(request)?;
        self.last = request.exchange;
        let exchange = Arc::<Exchange>::default();
        let (upload, body) = request.has_body.then(unbounded_channel).unzip();
        self.open.push(Open { number: request.exchange, exchange: exchange.clone(), upload, left });
        Ok(Asked { number: request.exchange, exchange, request: plain(request), body })
    }

    fn open(&mut self, number: u32) -> Result<&mut Open, Violation> {
        let open = self.open.iter_mut().find(|open| open.number == number);
        open.ok_or(Violation("it spoke of an exchange that is not open"))
    }

    /// A piece of a body, which costs `cost`. False if nobody wants it.
    pub(super) fn uploaded(&mut self, number: u32, data: &[u8], last: bool, cost: usize) -> Result<bool, Violation> {
        let open = self.open(number)?;
        if data.len() > HTTP_PIECE || data.is_empty() != last {
            return Err(Violation("a piece of a body that is too large or empty"));
        }
        if let Some(left) = &mut open.left {
            *left = left.checked_sub(data.len() as u64).ok_or(Violation("a body larger than was said"))?;
            if last && *left > 0 {
                return Err(Violation("a body smaller than was said"));
            }
        }
        let upload = open.upload.take().ok_or(Violation("a piece of a body that there is not"))?;
        let piece = if last { Uploaded::End(cost) } else { Uploaded::Piece(Bytes::copy_from_slice(data), cost) };
        let wanted = upload.send(piece).is_ok();
        open.upload = Some(upload).filter(|_| !last);
        Ok(wanted)
    }

    /// A body that will never be whole.
    pub(super) fn upload_failed(&mut self, number: u32) -> Result<(), Violation> {
        let upload = self.open(number)?.upload.take().ok_or(Violation("a body failed that there is not"))?;
        // Whoever sends the request may be done with it.
        let _ = upload.send(Uploaded::Failed);
        Ok(())
    }

    /// The guest has read a part of a response.
    pub(super) fn taken(&mut self, number: u32, bytes: u32) -> Result<(), Violation> {
        let taken = bytes > 0 && self.open(number)?.exchange.taken(bytes as usize);
        if taken { Ok(()) } else { Err(Violation("it took more of a response than it was given")) }
    }

    /// The guest is done with an exchange.
    pub(super) fn dropped(&mut self, number: u32) -> Result<(), Violation> {
        self.open(number)?.exchange.dropped.cancel();
        self.open.retain(|open| open.number != number);
        Ok(())
    }
}

/// Checks a head; gives the length that it says its body has.
fn check(request: &Request<'_>) -> Result<Option<u64>, Violation> {
    let method = http::Method::from_bytes(request.method.as_bytes());
    let sizes = request.method.len() <= bounds::MAX_HTTP_METHOD
        && (1..=bounds::MAX_HTTP_AUTHORITY).contains(&request.authority.len())
        && request.header.len() <= bounds::MAX_HTTP_FIELDS
        && request.size() <= bounds::MAX_HTTP_HEAD;
    if !sizes || method.ok().is_none_or(|method| method == http::Method::CONNECT) {
        return Err(Violation("a request that is none, or too large"));
    }
    let mut length = None;
    for (name, value) in &request.header {
        let name =
            HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !DEFAULT_FORBIDDEN_HEADERS.contains(name));
        let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) else {
            return Err(Violation("a field that no guest can send"));
        };
        if name == CONTENT_LENGTH && length.replace(number(&value)?).is_some() {
            return Err(Violation("a body of two lengths"));
        }
    }
    match length {
        Some(1..) if !request.has_body => Err(Violation("a body that is said and does not come")),
        length => Ok(length),
    }
}

fn number(value: &HeaderValue) -> Result<u64, Violation> {
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(Violation("a length that is no number"))
}

fn plain(request: &Request<'_>) -> Plain {
    let field = |(name, value): &(&str, &[u8])| ((*name).to_owned(), Bytes::copy_from_slice(value));
    Plain(GuestRequest {
        method: request.method.to_owned(),
        scheme: request.scheme,
        authority: request.authority.to_owned(),
        target: request.target.to_owned(),
        header: request.header.iter().map(field).collect(),
        body: None,
        connect_timeout: request.connect_timeout_ms.map(Duration::from_millis),
        first_byte_timeout: request.first_byte_timeout_ms.map(Duration::from_millis),
        between_bytes_timeout: request.between_bytes_timeout_ms.map(Duration::from_millis),
    })
}

#[cfg(test)]
mod tests {
    use bulkhead_core::ports::egress::Scheme;

    use super::*;

    fn request<'a>(exchange: u32, header: Vec<(&'a str, &'a [u8])>) -> Request<'a> {
        Request {
            exchange,
            method: "POST",
            scheme: Scheme::Https,
            authority: "example.com",
            target: "/",
            header,
            has_body: true,
            connect_timeout_ms: None,
            first_byte_timeout_ms: None,
            between_bytes_timeout_ms: None,
        }
    }

    #[test]
    fn numbers_are_in_turn_and_few_are_open() {
        let mut said = Said::default();
        for number in 1..=16 {
            assert!(said.asked(&request(number, Vec::new())).is_ok());
        }
        assert!(said.asked(&request(17, Vec::new())).is_err());
        assert!(said.dropped(3).is_ok());
        assert!(said.dropped(3).is_err());
        assert!(said.asked(&request(3, Vec::new())).is_err());
        assert!(said.asked(&request(18, Vec::new())).is_err());
        assert!(said.asked(&request(17, Vec::new())).is_ok());
    }

    #[test]
    fn heads_are_what_a_guest_can_send() {
        let long = "a".repeat(bounds::MAX_HTTP_HEAD);
        let bad = [
            request(1, vec![("host", b"other.example".as_slice())]),
            request(1, vec![("a b", b"".as_slice())]),
            request(1, vec![("a", b"b\r\nc: d".as_slice())]),
            request(1, vec![("content-length", b"+1".as_slice())]),
            request(1, vec![("content-length", b"1".as_slice()); 2]),
            request(1, vec![("a", b"".as_slice()); bounds::MAX_HTTP_FIELDS + 1]),
            Request { has_body: false, ..request(1, vec![("content-length", b"1".as_slice())]) },
            Request { method: "CONNECT", ..request(1, Vec::new()) },
            Request { method: "GET /", ..request(1, Vec::new()) },
            Request { authority: "", ..request(1, Vec::new()) },
            Request { target: &long, ..request(1, Vec::new()) },
        ];
        for request in bad {
            assert!(Said::default().asked(&request).is_err(), "{request:?}");
        }
    }

    #[test]
    fn a_body_is_what_its_head_says() {
        let mut said = Said::default();
        let asked = said.asked(&request(1, vec![("content-length", b"3".as_slice())])).expect("a request");
        assert_eq!(said.uploaded(1, b"ab", false, 10), Ok(true));
        assert!(said.uploaded(1, b"", true, 10).is_err());
        let mut said = Said::default();
        let _gone = said.asked(&request(1, vec![("content-length", b"1".as_slice())]));
        assert!(said.uploaded(1, b"ab", false, 10).is_err());
        let mut said = Said::default();
        drop(said.asked(&request(1, Vec::new())));
        assert_eq!(said.uploaded(1, b"ab", false, 10), Ok(false));
        assert_eq!(said.uploaded(1, b"", true, 10), Ok(false));
        assert!(said.uploaded(1, b"ab", false, 10).is_err());
        assert!(said.upload_failed(1).is_err());
        drop(asked);
    }

    #[tokio::test]
    async fn no_more_is_taken_than_was_given() {
        let mut said = Said::default();
        let asked = said.asked(&request(1, Vec::new())).expect("a request");
        assert!(said.taken(1, 0).is_err());
        asked.exchange.until_room(10).await;
        assert!(said.taken(1, 10).is_ok());
        assert!(said.taken(1, 1).is_err());
        assert!(said.taken(2, 1).is_err());
    }
}
