//! Requests that are being answered: so many at once in all, and of one user no more
//! than are left, so that who asks much, sends slowly or takes slowly shuts nobody out.
//! Those whose key or ticket must be looked up first have half of them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{StatusCode, header};
use axum::response::Response;
use bulkhead_core::principal::Owner;
use bulkhead_core::reached::words;

use super::problem::Problem;

/// The places of requests.
pub struct Presence {
    places: usize,
    key: Option<&'static str>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    strangers: usize,
    users: HashMap<Owner, usize>,
}

/// The place of a request, given back when dropped.
pub struct Present {
    presence: Arc<Presence>,
    stranger: bool,
    owner: Option<Owner>,
}

impl Presence {
    /// So many places, by this key of the configuration, if there is one for them.
    pub fn new(places: usize, key: Option<&'static str>) -> Self {
        Self { places, key, taken: Mutex::default() }
    }

    /// Takes a place for whoever asks.
    ///
    /// # Errors
    /// If there is none.
    pub fn enter(self: &Arc<Self>) -> Result<Present, Problem> {
        let mut taken = self.taken();
        if taken.all >= self.places {
            return Err(self.overloaded(taken.all, "requests are being answered"));
        }
        taken.all += 1;
        Ok(Present { presence: self.clone(), stranger: false, owner: None })
    }

    /// There are too many: so many of these, of which the operator may allow more.
    fn overloaded(&self, count: usize, what: &str) -> Problem {
        let raised = match self.key {
            Some(key) => format!(", or have the operator raise `{key}` ({}) in bulkhead.toml", self.places),
            None => String::new(),
        };
        Problem::new("overloaded", format!("{count} {what}; try again{raised}")).retry_after(1)
    }

    /// No code panics while it holds the lock.
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    /// Says that nobody knows yet whose it is, and that it takes a look into the store to
    /// know: those who make keys up leave half of the places to all others.
    ///
    /// # Errors
    /// If that half is taken.
    pub fn is_strange(&mut self) -> Result<(), Problem> {
        let mut taken = self.presence.taken();
        if taken.strangers >= (self.presence.places / 2).max(1) {
            return Err(self.presence.overloaded(taken.strangers, "unknown keys and tickets are being looked up"));
        }
        taken.strangers += 1;
        self.stranger = true;
        Ok(())
    }

    /// Says whose it is. A user may have as many as are left, and one in any case: half of
    /// all if nobody else is there (a dynamic threshold, as of a worker's memory).
    ///
    /// # Errors
    /// If that would be more.
    pub fn is_of(&mut self, owner: Owner) -> Result<(), Problem> {
        let mut taken = self.presence.taken();
        taken.strangers -= usize::from(std::mem::take(&mut self.stranger));
        let left = self.presence.places - taken.all;
        let own = taken.users.get(&owner).map_or(1, |own| own + 1);
        if own > left.max(1) {
            let detail = match self.presence.key {
                Some(key) => words(key, self.presence.places as u64, own - 1),
                None => format!("{} requests of this user are being answered; try again when one has ended", own - 1),
            };
            return Err(Problem::new("too_many_requests", detail).with("limit", own - 1).retry_after(1));
        }
        taken.users.insert(owner, own);
        self.owner = Some(owner);
        Ok(())
    }

    /// Keeps the place until the answer was sent, if that is made as the client takes it.
    /// Not for a stream of events, which has a place of its own (`http.streams_per_user`).
    pub fn until_sent(self, response: Response) -> Response {
        let whole = HttpBody::size_hint(response.body()).exact().is_some();
        let kind = response.headers().get(header::CONTENT_TYPE);
        let events = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if whole || events || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        response.map(|body| Body::new(Held { body, _present: self }))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut taken = self.presence.taken();
        taken.all -= 1;
        taken.strangers -= usize::from(self.stranger);
        let Some(owner) = self.owner else { return };
        if let Some(own) = taken.users.get_mut(&owner) {
            *own -= 1;
            if *own == 0 {
                taken.users.remove(&owner);
            }
        }
    }
}

/// A body whose request has a place until it ends.
struct Held {
    body: Body,
    _present: Present,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        HttpBody::size_hint(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_core::id::{TenantId, UserId};

    use super::*;

    fn owner(user: u128) -> Owner {
        Owner { tenant: TenantId::from_parts(1, 0), user: UserId::from_parts(1, user) }
    }

    /// As many as a user gets.
    fn all_of(presence: &Arc<Presence>, user: u128) -> Vec<Present> {
        std::iter::from_fn(|| {
            let mut present = presence.enter().ok()?;
            present.is_of(owner(user)).ok()?;
            Some(present)
        })
        .collect()
    }

    #[test]
    fn one_user_s_requests_leave_places_to_others() {
        let presence = Arc::new(Presence::new(64, None));
        let first = all_of(&presence, 1);
        let second = all_of(&presence, 2);
        assert_eq!((first.len(), second.len()), (32, 16));
        assert_eq!(
            presence.enter().and_then(|mut one| one.is_of(owner(1))).expect_err("full").code,
            "too_many_requests"
        );
        drop(first);
        assert_eq!(all_of(&presence, 3).len(), 24);
        drop(second);
        assert_eq!(presence.taken().all, 0);
        assert!(presence.taken().users.is_empty());
        // However few there are, one is for whoever comes first.
        let only = Arc::new(Presence::new(1, None));
        let one = all_of(&only, 1);
        assert_eq!((one.len(), only.enter().err().map(|problem| problem.code)), (1, Some("overloaded")));
    }

    #[test]
    fn strangers_leave_half_of_the_places() {
        let presence = Arc::new(Presence::new(8, None));
        let strangers = || {
            std::iter::from_fn(|| {
                let mut present = presence.enter().ok()?;
                present.is_strange().ok()?;
                Some(present)
            })
        };
        let mut waiting: Vec<Present> = strangers().collect();
        assert_eq!(waiting.len(), 4);
        assert_eq!(all_of(&presence, 1).len(), 2);
        // Who turns out to be somebody is no stranger any more.
        let mut known = waiting.pop().expect("one of four");
        known.is_of(owner(2)).expect("room");
        assert_eq!(strangers().collect::<Vec<_>>().len(), 1);
        drop((waiting, known));
        assert_eq!(presence.taken().all, 0);
        assert_eq!(presence.taken().strangers, 0);
        let only = Arc::new(Presence::new(1, None));
        only.enter().and_then(|mut present| present.is_strange()).expect("one in any case");
    }

    #[test]
    fn what_is_sent_bit_by_bit_keeps_its_place() {
        let presence = Arc::new(Presence::new(4, None));
        let enter = || presence.enter().expect("room");
        drop(enter().until_sent(Response::new(Body::from("whole"))));
        let chunks = || Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let slow = enter().until_sent(Response::new(chunks()));
        assert_eq!(presence.taken().all, 1);
        let mut events = Response::new(chunks());
        events.headers_mut().insert(header::CONTENT_TYPE, "text/event-stream".parse().expect("a value"));
        let _events = enter().until_sent(events);
        assert_eq!(presence.taken().all, 1);
        drop(slow);
        assert_eq!(presence.taken().all, 0);
    }
}
