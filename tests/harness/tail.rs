//! What comes of a task's log, whichever way a client has it: as an event stream, or
//! over a WebSocket. That either breaks is no failure of the test.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

use super::Client;
use super::client::Stream;

/// Longer than the server is silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a client follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Stream,
    Socket,
}

impl Way {
    /// Of many clients a third has a WebSocket.
    pub fn of(number: usize) -> Self {
        if number.is_multiple_of(3) { Self::Socket } else { Self::Stream }
    }
}

/// A log that is followed.
pub enum Tail {
    Stream(Stream),
    Socket(Box<WebSocket<TcpStream>>),
}

impl Tail {
    /// A task's events after one, if they can be had.
    pub fn try_open(client: &Client, way: Way, task: &str, after: u64) -> Option<Self> {
        match way {
            Way::Stream => client.try_follow(task, after).map(Self::Stream),
            Way::Socket => socket(client, task, after).map(|socket| Self::Socket(Box::new(socket))),
        }
    }

    /// The next event; none if it has ended or broken.
    pub fn try_next(&mut self) -> Option<Value> {
        let socket = match self {
            Self::Stream(stream) => return stream.try_next(),
            Self::Socket(socket) => socket,
        };
        loop {
            match socket.read().ok()? {
                Message::Text(text) => return Some(serde_json::from_str(&text).unwrap()),
                Message::Close(_) => return None,
                // A ping; it is answered as soon as something is read again.
                _ => {}
            }
        }
    }
}

fn socket(client: &Client, task: &str, after: u64) -> Option<WebSocket<TcpStream>> {
    let address = client.url().strip_prefix("http://").unwrap();
    let path = format!("ws://{address}/v1/tasks/{task}/events/ws?after={after}");
    let mut request = path.into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {}", client.key()).parse().unwrap());
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    Some(tungstenite::client(request, stream).ok()?.0)
}
