//! Making a connection: a place for it, the name's addresses, TCP to one of
//! those that were checked, and TLS to the name.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bulkhead_core::ports::egress::{EgressError, Scheme, Sharers};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::connections::{Connections, Place};
use super::error;
use super::host::Host;
use super::pool::{Destination, Pools};
use super::resolve::{self, Resolve};
use super::tasks::Tasks;
use super::tls::H2;

/// How long an address has before the next one is tried beside it (RFC 8305).
const HEAD_START: Duration = Duration::from_millis(250);
/// How long to wait for a place after idle connections were ended for it.
const PATIENCE: Duration = Duration::from_millis(250);

/// What every connection is made with.
pub(super) struct Network {
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) tls: TlsConnector,
    pub(super) connections: Arc<Connections>,
    pub(super) connect_timeout: Duration,
    pub(super) tasks: Tasks,
}

/// Makes the connections to one destination, whatever URI it is asked for.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) network: Arc<Network>,
    pub(super) destination: Arc<Destination>,
    pub(super) pools: Weak<Pools>,
}

impl tower::Service<Uri> for Dial {
    type Response = TokioIo<Link>;
    type Error = EgressError;
    type Future = BoxFuture<'static, Result<TokioIo<Link>, EgressError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), EgressError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move {
            let limit = dial.network.connect_timeout;
            match tokio::time::timeout(limit, dial.connect()).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(EgressError::ConnectionTimeout),
            }
        })
    }
}

impl Dial {
    async fn connect(&self) -> Result<Link, EgressError> {
        let place = self.place().await?;
        let (place, addresses) = self.resolve(place).await?;
        let port = self.destination.port;
        let addresses: Vec<_> = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        let (stream, address) = race(&addresses).await.map_err(|error| error::of_connecting(&error))?;
        // Small pieces of a stream are sent when they are there.
        let _ = stream.set_nodelay(true);
        let stream = match self.destination.scheme {
            Scheme::Http => Either::Left(stream),
            Scheme::Https => Either::Right(Box::new(self.secure(stream).await?)),
        };
        Ok(Link { stream, address, _place: place })
    }

    async fn place(&self) -> Result<Place, EgressError> {
        let owner = self.destination.owner;
        let full = match self.network.connections.take(owner) {
            Ok(place) => return Ok(place),
            Err(full) => full,
        };
        if let Some(pools) = self.pools.upgrade() {
            pools.forget(|other| {
                *other != *self.destination && (full.between == Sharers::Tenants || other.owner.tenant == owner.tenant)
            });
        }
        Ok(self.network.connections.take_within(owner, PATIENCE).await?)
    }

    /// Resolves in a task that keeps the place until the answer is there, even
    /// if nobody waits any more: a slow resolver holds threads that somebody
    /// must count.
    async fn resolve(&self, place: Place) -> Result<(Place, Vec<IpAddr>), EgressError> {
        let (network, destination) = (Arc::clone(&self.network), Arc::clone(&self.destination));
        let (sender, receiver) = oneshot::channel();
        self.network.tasks.spawn(async move {
            let found = resolve::addresses(&*network.resolver, &destination.host, &destination.private).await;
            let _ = sender.send(found.map(|found| (place, found)));
        });
        receiver.await.unwrap_or(Err(EgressError::Internal))
    }

    async fn secure(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, EgressError> {
        let name = match &self.destination.host {
            Host::Address(address) => ServerName::from(*address),
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| EgressError::InvalidRequest)?,
        };
        self.network.tls.connect(name, stream).await.map_err(|error| error::of_handshake(&error))
    }
}

/// The first of the addresses that answers, each tried a little after the one
/// before, or at once if that failed.
async fn race(addresses: &[SocketAddr]) -> io::Result<(TcpStream, IpAddr)> {
    let mut waiting = addresses.iter();
    let mut racing = FuturesUnordered::new();
    let mut failure = io::Error::from(io::ErrorKind::HostUnreachable);
    loop {
        if let Some(&address) = waiting.next() {
            racing.push(async move { TcpStream::connect(address).await.map(|stream| (stream, address.ip())) });
        }
        tokio::select! {
            first = racing.next() => match first {
                Some(Ok(connected)) => return Ok(connected),
                Some(Err(error)) => failure = error,
                None => return Err(failure),
            },
            () = tokio::time::sleep(HEAD_START), if !waiting.as_slice().is_empty() => {}
        }
    }
}

/// The address that a connection goes to, as responses carry it.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// A connection.
pub(super) struct Link {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    address: IpAddr,
    _place: Place,
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(Peer(self.address));
        match &self.stream {
            Either::Right(stream) if stream.get_ref().1.alpn_protocol() == Some(H2) => connected.negotiated_h2(),
            _ => connected,
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
