//! The adapter against servers of this machine that do as they are told.

mod addresses;
mod hostile;
mod kept;
mod requests;
mod streams;
mod tls;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bulkhead_core::id::{TenantId, UserId};
use bulkhead_core::ports::egress::{
    Body, Egress as _, EgressError, IncomingResponse, OutgoingRequest, Scheme, Sharers, Timeouts,
};
use bulkhead_core::principal::Owner;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{EgressConfig, HttpEgress, Resolve};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const LOOPBACK: &[&str] = &["127.0.0.0/8"];

/// A server that gives each connection to a function.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start<F>(work: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(work(stream));
            }
        });
        Self { address, accepted, task }
    }

    /// One that answers every request, without a body, with the same bytes.
    async fn answering(answer: impl Into<String>) -> Self {
        let answer: Arc<str> = answer.into().into();
        Self::start(move |mut stream| {
            let answer = Arc::clone(&answer);
            async move {
                while !head(&mut stream).await.is_empty() {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        })
        .await
    }

    /// One that answers once and ends the connection.
    async fn answering_once(answer: impl Into<String>) -> Self {
        let answer: Arc<str> = answer.into().into();
        Self::start(move |mut stream| {
            let answer = Arc::clone(&answer);
            async move {
                head(&mut stream).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        })
        .await
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn get(&self, target: &str) -> OutgoingRequest {
        get("127.0.0.1", self.address.port(), target)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The head of a request; empty if the connection ends before it does.
async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return String::new(),
        }
    }
    String::from_utf8(head).expect("text")
}

/// A resolver that gives the next answer each time; the last one again and again.
#[derive(Default)]
struct Names {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    asked: AtomicUsize,
}

impl Names {
    fn of(name: &str, answers: &[&[&str]]) -> Arc<Self> {
        let mut parsed: Vec<Vec<IpAddr>> = Vec::new();
        for answer in answers.iter().rev() {
            parsed.push(answer.iter().map(|address| address.parse().expect("an address")).collect());
        }
        let names = Self::default();
        names.answers.lock().expect("unpoisoned").insert(name.to_owned(), parsed);
        Arc::new(names)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().expect("unpoisoned");
        let answers = answers.get_mut(name).ok_or_else(|| io::Error::other("no such name"))?;
        let next = if answers.len() > 1 { answers.pop() } else { answers.last().cloned() };
        Ok(next.unwrap_or_default())
    }
}

/// A resolver that does not answer.
struct Never;

#[async_trait]
impl Resolve for Never {
    async fn resolve(&self, _name: &str) -> io::Result<Vec<IpAddr>> {
        std::future::pending().await
    }
}

fn config() -> EgressConfig {
    EgressConfig { native_roots: false, ..EgressConfig::default() }
}

fn egress() -> HttpEgress {
    HttpEgress::new(config()).expect("set up")
}

/// The user so called of the tenant so called.
fn user(tenant: u128, user: u128) -> Owner {
    Owner { tenant: TenantId::from_parts(0, tenant), user: UserId::from_parts(0, user) }
}

fn private(nets: &[&str]) -> Arc<[ipnet::IpNet]> {
    nets.iter().map(|net| net.parse().expect("a network")).collect()
}

fn get(host: &str, port: u16, target: &str) -> OutgoingRequest {
    OutgoingRequest {
        owner: user(1, 1),
        method: "GET".into(),
        scheme: Scheme::Http,
        host: host.into(),
        port,
        target: target.into(),
        header: Vec::new(),
        body: None,
        private: private(LOOPBACK),
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(5),
            between_bytes: Duration::from_secs(5),
        },
    }
}

fn fields(fields: &[(&str, &str)]) -> Vec<(String, Bytes)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), Bytes::copy_from_slice(value.as_bytes()))).collect()
}

fn body(pieces: &[&'static str]) -> Option<Body> {
    let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
    Some(Box::pin(futures::stream::iter(pieces)))
}

async fn text(response: IncomingResponse) -> Result<String, EgressError> {
    let bytes = response.body.map_ok(|piece| piece.to_vec()).try_concat().await?;
    Ok(String::from_utf8(bytes).expect("text"))
}

/// The failure of a request, or of the body that came.
async fn failure(egress: &HttpEgress, request: OutgoingRequest) -> EgressError {
    match egress.send(request).await {
        Err(error) => error,
        Ok(response) => text(response).await.expect_err("fails"),
    }
}

/// Sends, reads all, and gives the connection back.
async fn fetch(egress: &HttpEgress, request: OutgoingRequest) -> String {
    let text = text(egress.send(request).await.expect("a response")).await.expect("a body");
    // The task of the connection has to see the end too.
    tokio::time::sleep(Duration::from_millis(20)).await;
    text
}

/// Waits until `condition` holds.
async fn eventually(mut condition: impl FnMut() -> bool) {
    for _ in 0..250 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("did not come to hold in five seconds");
}
