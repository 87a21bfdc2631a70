//! Bodies that come and go in pieces.

use futures::channel::mpsc;
use futures::{SinkExt as _, stream};
use tokio::sync::Notify;

use super::*;

const PIECE: usize = 64 * 1024;
const PIECES: usize = 1024;
/// More than what sockets and libraries hold, and much less than all.
const MUCH: usize = 24 * 1024 * 1024;

#[tokio::test]
async fn a_large_response_waits_for_its_reader() {
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let server = Server::start(move |mut stream| {
        let written = Arc::clone(&counter);
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            for _ in 0..PIECES {
                if stream.write_all(&[b'a'; PIECE]).await.is_err() {
                    return;
                }
                written.fetch_add(PIECE, Ordering::SeqCst);
            }
        }
    })
    .await;
    let egress = egress();
    let mut body = egress.send(server.get("/")).await.expect("a response").body;
    let mut read = body.next().await.expect("a piece").expect("read").len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(written.load(Ordering::SeqCst) < MUCH, "{written:?}");
    while let Some(piece) = body.next().await {
        read += piece.expect("read").len();
    }
    assert_eq!(read, PIECE * PIECES);
}

#[tokio::test]
async fn a_large_request_waits_for_its_reader() {
    let (go, produced) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let wait = Arc::clone(&go);
    let server = Server::start(move |mut stream| {
        let wait = Arc::clone(&wait);
        async move {
            head(&mut stream).await;
            wait.notified().await;
            let mut read = vec![0; PIECE * PIECES];
            stream.read_exact(&mut read).await.expect("read");
            let _ = stream.write_all(OK.as_bytes()).await;
        }
    })
    .await;
    let counter = Arc::clone(&produced);
    let pieces = stream::repeat_with(move || {
        counter.fetch_add(PIECE, Ordering::SeqCst);
        Ok(Bytes::from_static(&[b'a'; PIECE]))
    });
    let request = OutgoingRequest {
        method: "POST".into(),
        header: fields(&[("content-length", &(PIECE * PIECES).to_string())]),
        body: Some(Box::pin(pieces.take(PIECES))),
        ..server.get("/")
    };
    let egress = egress();
    let sent = tokio::spawn(async move { fetch(&egress, request).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = produced.load(Ordering::SeqCst);
    assert!((1..MUCH).contains(&before), "{before}");
    go.notify_one();
    assert_eq!(sent.await.expect("not panicked"), "ok");
    assert_eq!(produced.load(Ordering::SeqCst), PIECE * PIECES);
}

/// A server that answers at once and sends every line back as a chunk.
async fn echo() -> Server {
    Server::start(async |mut stream: TcpStream| {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let mut read = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut read).await {
            let _ = stream.write_all(&read[..length]).await;
        }
    })
    .await
}

fn posting(server: &Server) -> (mpsc::Sender<Result<Bytes, EgressError>>, OutgoingRequest) {
    let (sender, receiver) = mpsc::channel(8);
    let request = OutgoingRequest { method: "POST".into(), body: Some(Box::pin(receiver)), ..server.get("/") };
    (sender, request)
}

#[tokio::test]
async fn both_ways_at_once() {
    let (server, egress) = (echo().await, egress());
    let (mut up, request) = posting(&server);
    let mut down = egress.send(request).await.expect("a response before the request's end").body;
    for (said, heard) in [("one", "3\r\none\r\n"), ("three", "5\r\nthree\r\n")] {
        up.send(Ok(Bytes::from_static(said.as_bytes()))).await.expect("taken");
        let mut all = Vec::new();
        while all.len() < heard.len() {
            all.extend(down.next().await.expect("a piece").expect("read"));
        }
        assert_eq!(all, heard.as_bytes());
    }
}

#[tokio::test]
async fn dropping_the_response_ends_the_request() {
    let (server, egress) = (echo().await, egress());
    let (mut up, request) = posting(&server);
    let response = egress.send(request).await.expect("a response");
    assert!(!up.is_closed());
    drop(response);
    eventually(|| up.try_send(Ok(Bytes::from_static(b"more"))).is_err_and(|error| error.is_disconnected())).await;
}

#[tokio::test]
async fn dropping_the_wait_ends_the_request() {
    let server = Server::start(async |mut stream: TcpStream| {
        head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let egress = egress();
    let (mut up, request) = posting(&server);
    assert!(tokio::time::timeout(Duration::from_millis(100), egress.send(request)).await.is_err());
    eventually(|| up.try_send(Ok(Bytes::from_static(b"more"))).is_err_and(|error| error.is_disconnected())).await;
}

#[tokio::test]
async fn a_request_body_that_fails_ends_the_exchange_with_its_reason() {
    let silent = Server::start(async |mut stream: TcpStream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        assert!(!all.ends_with(b"0\r\n\r\n"), "the body looked complete");
    })
    .await;
    let (server, egress) = (echo().await, egress());
    let (mut up, request) = posting(&silent);
    up.send(Ok(Bytes::from_static(b"one"))).await.expect("taken");
    up.send(Err(EgressError::RequestTooLarge)).await.expect("taken");
    assert_eq!(failure(&egress, request).await, EgressError::RequestTooLarge);
    // The same after the head of the response.
    let (mut up, request) = posting(&server);
    let response = egress.send(request).await.expect("a response");
    up.send(Err(EgressError::Denied)).await.expect("taken");
    assert_eq!(text(response).await, Err(EgressError::Denied));
}

#[tokio::test]
async fn a_slow_but_steady_request_body_is_no_slow_response() {
    let server = Server::start(async |mut stream: TcpStream| {
        head(&mut stream).await;
        let mut read = [0; 5 * 6 + 5];
        stream.read_exact(&mut read).await.expect("five chunks and an end");
        let _ = stream.write_all(OK.as_bytes()).await;
    })
    .await;
    let pieces = stream::iter(0..5).then(async |_| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(Bytes::from_static(b"a"))
    });
    let mut request = OutgoingRequest { method: "POST".into(), body: Some(Box::pin(pieces)), ..server.get("/") };
    request.timeouts.first_byte = Duration::from_millis(300);
    assert_eq!(fetch(&egress(), request).await, "ok");
}
