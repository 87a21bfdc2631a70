//! TLS, and HTTP/2 with it.

use std::convert::Infallible;
use std::path::PathBuf;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::super::body::Upload;
use super::super::exchange::Exchange;
use super::*;

/// An authority, and a server's certificate of it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: tempfile::NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), certificate.pem()).expect("written");
        Self { issuer: Issuer::new(params, key), file }
    }

    fn acceptor(&self, name: &str, protocols: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate and its key");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    fn path(&self) -> Option<PathBuf> {
        Some(self.file.path().to_owned())
    }

    fn egress(&self) -> HttpEgress {
        let config = EgressConfig { ca_file: self.path(), ..config() };
        HttpEgress::with_resolver(config, Names::of("a.example", &[&["127.0.0.1"]])).expect("set up")
    }
}

async fn http1(acceptor: TlsAcceptor) -> Server {
    Server::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            while !head(&mut stream).await.is_empty() {
                let name = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await
}

fn https(server: &Server, host: &str) -> OutgoingRequest {
    OutgoingRequest { scheme: Scheme::Https, ..get(host, server.address.port(), "/") }
}

#[tokio::test]
async fn a_certificate_of_a_known_authority_for_the_name_is_accepted() {
    let authority = Authority::new();
    let egress = authority.egress();
    for protocols in [&["http/1.1"][..], &[]] {
        let server = http1(authority.acceptor("a.example", protocols)).await;
        assert_eq!(fetch(&egress, https(&server, "a.example")).await, "a.example");
    }
    let server = http1(authority.acceptor("127.0.0.1", &[])).await;
    assert_eq!(fetch(&egress, https(&server, "127.0.0.1")).await, "none");
}

#[tokio::test]
async fn other_certificates_are_not() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = http1(authority.acceptor("a.example", &[])).await;
    assert_eq!(failure(&other.egress(), https(&server, "a.example")).await, EgressError::Certificate);
    // Nobody is trusted.
    assert_eq!(failure(&egress(), https(&server, "127.0.0.1")).await, EgressError::Certificate);
    for name in ["b.example", "127.0.0.1", "sub.a.example"] {
        let server = http1(authority.acceptor(name, &[])).await;
        assert_eq!(failure(&authority.egress(), https(&server, "a.example")).await, EgressError::Certificate, "{name}");
    }
    assert_eq!(failure(&authority.egress(), https(&server, "127.0.0.1")).await, EgressError::Certificate);
}

#[tokio::test]
async fn what_is_not_tls_is_said_to_be_none() {
    let authority = Authority::new();
    let server = Server::start(async |mut stream: TcpStream| {
        let _ = stream.write_all(OK.as_bytes()).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    assert_eq!(failure(&authority.egress(), https(&server, "a.example")).await, EgressError::Tls);
    let server = Server::start(async |_stream: TcpStream| {}).await;
    assert_eq!(failure(&authority.egress(), https(&server, "a.example")).await, EgressError::ConnectionTerminated);
    let server = http1(authority.acceptor("a.example", &["other"])).await;
    assert_eq!(failure(&authority.egress(), https(&server, "a.example")).await, EgressError::Tls);
}

#[tokio::test]
async fn the_schemes_do_not_share_connections() {
    let authority = Authority::new();
    let egress = authority.egress();
    let server = http1(authority.acceptor("a.example", &[])).await;
    fetch(&egress, https(&server, "a.example")).await;
    let request = get("a.example", server.address.port(), "/");
    assert_eq!(failure(&egress, request).await, EgressError::Protocol);
}

/// A server for HTTP/2 that answers as the path says.
async fn http2(acceptor: TlsAcceptor) -> Server {
    Server::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request)) });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.max_header_list_size(1 << 20);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

/// The body goes back; or a large head, or a body that fails.
fn answer(request: Request<Incoming>) -> Response<Upload> {
    let (exchange, over) = Exchange::begin();
    let (parts, incoming) = request.into_parts();
    let path = parts.uri.path();
    let pieces = futures::stream::unfold((incoming, over), async |(mut incoming, over)| {
        let frame =
            std::future::poll_fn(|context| hyper::body::Body::poll_frame(std::pin::Pin::new(&mut incoming), context));
        let piece = frame.await?.expect("read").into_data().expect("data");
        Some((Ok(piece), (incoming, over)))
    });
    let body: Body = match path {
        "/fails" => Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"a")), Err(EgressError::Denied)])),
        _ => Box::pin(pieces),
    };
    let response = Response::builder().header("x-authority", parts.uri.authority().expect("one").as_str());
    let response = match path {
        "/large" => response.header("x", "a".repeat(100_000)),
        "/huge" => response.header("x", "a".repeat(200_000)),
        "/many" => (0..200).fold(response, |response, _| response.header("a", "b")),
        _ => response,
    };
    response.body(Upload::new(Some(body), None, exchange)).expect("a response")
}

#[tokio::test]
async fn http2_by_alpn() {
    let authority = Authority::new();
    let egress = authority.egress();
    let server = http2(authority.acceptor("a.example", &["h2", "http/1.1"])).await;
    let post = |target: &str, pieces: &[&'static str]| OutgoingRequest {
        method: "POST".into(),
        target: target.into(),
        body: body(pieces),
        ..https(&server, "a.example")
    };
    let response = egress.send(post("/", &["abc", "de"])).await.expect("a response");
    let expected = format!("a.example:{}", server.address.port());
    assert!(response.header.iter().any(|(name, value)| name == "x-authority" && *value == expected));
    assert_eq!(text(response).await.as_deref(), Ok("abcde"));
    // Requests at once share the connection, but not with another tenant.
    let (one, two) = tokio::join!(fetch(&egress, post("/", &["1"])), fetch(&egress, post("/", &["2"])));
    assert_eq!((one.as_str(), two.as_str(), server.accepted()), ("1", "2", 1));
    fetch(&egress, OutgoingRequest { owner: user(2, 1), ..post("/", &["3"]) }).await;
    assert_eq!(server.accepted(), 2);

    assert_eq!(failure(&egress, post("/large", &[])).await, EgressError::ResponseHeadTooLarge);
    assert_eq!(failure(&egress, post("/many", &[])).await, EgressError::ResponseHeadTooLarge);
    assert_eq!(failure(&egress, post("/huge", &[])).await, EgressError::Protocol);
    assert_eq!(failure(&egress, post("/fails", &[])).await, EgressError::ConnectionTerminated);
    let short = OutgoingRequest { header: fields(&[("content-length", "4")]), ..post("/", &["abc"]) };
    assert_eq!(failure(&egress, short).await, EgressError::InvalidRequest);
    let long = OutgoingRequest { header: fields(&[("content-length", "2")]), ..post("/", &["ab", "c"]) };
    assert_eq!(failure(&egress, long).await, EgressError::InvalidRequest);
}
