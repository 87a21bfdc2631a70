//! `/v1/tasks/{task}/events/ws`: the log over a WebSocket (RFC 6455), with
//! the cursor in the URL and the same events as the stream of `events`.
//!
//! The server sends each event as one text message and pings; the client sends
//! nothing. Why a socket was closed is said by its code:
//!
//! | code | why |
//! |---|---|
//! | 1000 | the task is deleted and everything was read |
//! | 1001 | the host stops; another one, or this one later, goes on after the cursor |
//! | 1003 | the client sent data |
//! | 1013 | the store failed; come again later |
//! | 4401 | it lasted as long as it may: come again, with a key or ticket |
//! | 4403 | the key was revoked, or it or the token has expired |
//! | 4408 | the client took nothing, or answered no ping, for too long |
//! | 4409 | the log ends before the cursor: the reason is JSON with `last`, the newest number |
//! | 4410 | the cursor is older than what is kept: the reason is JSON with `first`, the oldest number that is kept |

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bulkhead_core::Error;
use bulkhead_core::access::Operation;
use bulkhead_core::event::Event;
use bulkhead_core::id::TaskId;
use serde_json::json;

use super::Api;
use super::events::EventsQuery;
use super::extract::{Caller, Id, Query};
use super::problem::Problem;
use super::streams::{Stream, Why};
use super::wire::EventBody;

/// The subprotocol: one event, as JSON, in each message of the server.
pub const PROTOCOL: &str = "bulkhead.events.v1";

/// A client sends control frames alone, which have at most 125 bytes.
const MAX_MESSAGE: usize = 1024;
/// How long the last words may take to leave.
const CLOSING: Duration = Duration::from_secs(2);

mod close {
    pub(super) const OVER: u16 = 1000;
    pub(super) const STOPPING: u16 = 1001;
    pub(super) const DATA: u16 = 1003;
    pub(super) const LATER: u16 = 1013;
    pub(super) const AGE: u16 = 4401;
    pub(super) const UNAUTHENTICATED: u16 = 4403;
    pub(super) const STALLED: u16 = 4408;
    pub(super) const AHEAD: u16 = 4409;
    pub(super) const EXPIRED: u16 = 4410;
}

/// Follows a task's events over a WebSocket: first those after the cursor,
/// then those to come, each a text message. Offer the subprotocol
/// `bulkhead.events.v1`, or none. The server pings; the client sends nothing.
/// Codes of a close: 1000 the task is deleted and everything was read, 1001 the
/// host stops, 1013 come again later, 4401 come again with a key or ticket, 4403 the
/// key was revoked, or it or the token has expired, 4408 nothing was taken for too long, 4409 the log ends before the cursor, 4410 the cursor is older than what is kept.
#[utoipa::path(get, path = "/v1/tasks/{task}/events/ws", tag = "events", operation_id = "socket",
    params(("task" = String, Path), EventsQuery),
    responses((status = 101, description = "A WebSocket; each message is an event", body = EventBody),
              (status = "4XX", body = Problem)))]
pub async fn follow(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Query(query): Query<EventsQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let task = api.services.access.task(&caller, Operation::EventsFollow, id).await?;
    let upgrade = upgrade.map_err(|why| Problem::new("websocket_expected", why.body_text()))?;
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE).protocols([PROTOCOL]);
    let events = api.services.tasks.follow(&task, query.after.unwrap_or(0));
    let stream = api.stream(&caller, events).await?;
    let chosen = upgrade.selected_protocol().is_some();
    let offered = upgrade.requested_protocols().next().is_some();
    if offered && !chosen {
        return Err(Problem::new(
            "websocket_expected",
            format!("of subprotocols this server speaks `{PROTOCOL}` only"),
        ));
    }
    Ok(upgrade.on_upgrade(move |socket| serve(socket, stream)))
}

async fn serve(mut socket: WebSocket, mut stream: Stream) {
    let (why, code, reason) = converse(&mut socket, &mut stream).await;
    stream.end(why);
    let goodbye = async {
        if let Some(code) = code {
            let frame = CloseFrame { code, reason: Utf8Bytes::from(reason) };
            // What can't be said any more is not said.
            let _ = socket.send(Message::Close(Some(frame))).await;
        }
        // The answer to a client's close leaves by this, too (RFC 6455, section 5.5.1): to a
        // browser the stream was cut off otherwise, 1006.
        while let Some(Ok(_)) = socket.recv().await {}
    };
    let _ = tokio::time::timeout(CLOSING, goodbye).await;
}

type End = (Why, Option<u16>, String);

fn closing(why: Why) -> End {
    let code = match why {
        Why::Over => Some(close::OVER),
        Why::Stopping => Some(close::STOPPING),
        Why::Protocol => Some(close::DATA),
        Why::Failed => Some(close::LATER),
        Why::Age => Some(close::AGE),
        Why::Unauthenticated => Some(close::UNAUTHENTICATED),
        Why::Stalled => Some(close::STALLED),
        Why::Ahead => Some(close::AHEAD),
        Why::Expired => Some(close::EXPIRED),
        Why::Client => None,
    };
    (why, code, why.says().to_owned())
}

async fn converse(socket: &mut WebSocket, stream: &mut Stream) -> End {
    let mut heartbeat = tokio::time::interval(stream.options.heartbeat);
    heartbeat.tick().await;
    let mut unanswered = false;
    loop {
        let due = stream.due();
        tokio::select! {
            biased;
            () = stream.stop.cancelled() => {
                return closing(Why::Stopping);
            }
            message = socket.recv() => match message {
                None | Some(Ok(Message::Close(_))) => return (Why::Client, None, String::new()),
                Some(Err(_)) => return (stream.broke(), None, String::new()),
                Some(Ok(Message::Pong(_) | Message::Ping(_))) => unanswered = false,
                Some(Ok(Message::Text(_) | Message::Binary(_))) => {
                    return closing(Why::Protocol);
                }
            },
            () = tokio::time::sleep_until(due) => {
                if let Err(why) = stream.lasts().await {
                    return closing(why);
                }
            }
            _ = heartbeat.tick() => {
                if std::mem::replace(&mut unanswered, true) {
                    return closing(Why::Stalled);
                }
                if let Err(end) = send(socket, stream, Message::Ping(axum::body::Bytes::new())).await {
                    return end;
                }
            }
            next = stream.events.next() => match next {
                Ok(Some(events)) => {
                    for event in events {
                        let Some(text) = encode(&event) else { continue };
                        if let Err(end) = send(socket, stream, Message::Text(text)).await {
                            return end;
                        }
                    }
                }
                Ok(None) => return closing(Why::Over),
                Err(Error::EventsExpired { first, .. }) => {
                    let reason = json!({"code": "events_expired", "first": first}).to_string();
                    return (Why::Expired, Some(close::EXPIRED), reason);
                }
                Err(Error::EventsAhead { last, .. }) => {
                    let reason = json!({"code": "events_ahead", "last": last}).to_string();
                    return (Why::Ahead, Some(close::AHEAD), reason);
                }
                Err(error) => {
                    tracing::warn!(%error, "an event stream ended");
                    return closing(Why::Failed);
                }
            },
        }
    }
}

/// Sends one message, unless the client takes nothing for too long.
async fn send(socket: &mut WebSocket, stream: &mut Stream, message: Message) -> Result<(), End> {
    match tokio::time::timeout(stream.options.stall, socket.send(message)).await {
        Ok(Ok(())) => {
            stream.taken = std::time::Instant::now();
            Ok(())
        }
        // The kernel may be sooner: it cuts off who takes nothing for as long.
        Ok(Err(_)) => Err((stream.broke(), None, String::new())),
        Err(_) => Err(closing(Why::Stalled)),
    }
}

fn encode(event: &Event) -> Option<Utf8Bytes> {
    let text = EventBody::of(event).and_then(|body| serde_json::to_string(&body).ok());
    if text.is_none() {
        // The store would have to hold something that is not JSON.
        tracing::error!(seq = event.seq, "an event could not be encoded");
    }
    text.map(Utf8Bytes::from)
}
